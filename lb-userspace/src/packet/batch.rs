//! Many entries of a map in one system call. aya iterates with two calls an entry, which a sweep over a flow table of
//! a hundred thousand would feel.
#![expect(unsafe_code, reason = "bpf(BPF_MAP_LOOKUP_BATCH) has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

/// `union bpf_attr` as BPF_MAP_*_BATCH reads it (linux/bpf.h).
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}
const _: () = assert!(size_of::<BatchAttr>() == 56);

/// Where a walk over a map is: opaque to userspace, four bytes for hash maps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor(Option<u32>);

/// Entries, and where the walk goes on.
pub(super) type Batch<K, V> = (Vec<(K, V)>, Option<Cursor>);

/// Up to `limit` entries behind `cursor`, and the cursor behind those; none when the map is through.
///
/// Every entry that stays during the whole walk is seen. A bucket with more than `limit` entries is an error
/// (`ENOSPC`); `limit` is far above what a hash map sized like ours puts in one.
pub(super) fn lookup<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: Cursor,
    limit: usize,
) -> io::Result<Batch<K, V>> {
    let mut keys: Vec<K> = Vec::with_capacity(limit);
    let mut values: Vec<V> = Vec::with_capacity(limit);
    let input = cursor.0.unwrap_or_default();
    let mut output = 0_u32;
    let mut attr = BatchAttr {
        in_batch: cursor.0.map_or(0, |_| address(&raw const input)),
        out_batch: address(&raw mut output),
        keys: address(keys.as_mut_ptr()),
        values: address(values.as_mut_ptr()),
        count: u32::try_from(limit).unwrap_or(u32::MAX),
        map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attribute names buffers that live until the call returns: `limit` keys and values of the map's sizes,
    // which the caller's types have (checked when the map was opened), and one cursor of four bytes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    let error = (result < 0).then(io::Error::last_os_error);
    let through = match &error {
        None => false,
        Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
    };
    let count = usize::try_from(attr.count).unwrap_or(0).min(limit);
    // SAFETY: the kernel wrote `count` keys and values, and any bytes are values of `Pod` types.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    let entries = keys.into_iter().zip(values).collect();
    Ok((entries, (!through).then_some(Cursor(Some(output)))))
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
