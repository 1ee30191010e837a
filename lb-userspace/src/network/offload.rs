//! Offloads of a device, set by the ethtool ioctl: netlink's way needs a family resolved by name for the same two bits.
//!
//! XDP is why they matter. A frame redirected to a veth whose peer has no receive polling is lost without a word, and
//! receive polling comes with GRO; a packet whose checksum was left for the device to finish is rewritten unfinished.
#![expect(unsafe_code, reason = "the ethtool ioctl takes a pointer inside a pointer")]

use std::{io, os::fd::AsRawFd as _};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Turns generic receive offload on: the device's receive side polls, and takes redirected frames.
pub(super) fn receive_by_polling(device: &str) -> io::Result<()> {
    set(device, ETHTOOL_SGRO, 1)
}

/// Turns transmit checksum offload off: packets leave with their checksums finished.
pub(super) fn finish_checksums(device: &str) -> io::Result<()> {
    set(device, ETHTOOL_STXCSUM, 0)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn set(device: &str, command: u32, data: u32) -> io::Result<()> {
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command, data };
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // The last byte stays NUL.
    if device.len() >= name.len() || !device.is_ascii() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (slot, byte) in name.iter_mut().zip(device.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: SIOCETHTOOL reads a `struct ifreq` whose name is NUL-terminated and whose data points to a command that
    // is followed by one u32. Both outlive the call, and these commands write nothing beyond that u32.
    let answer = unsafe { libc::ioctl(control.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
/// linux/ethtool.h.
const ETHTOOL_SGRO: u32 = 0x2c;
