//! What the kernel programs and userspace must agree on: map layouts, header views and the packet core.
//! `no_std` and allocation-free, because the same code is compiled for BPF and for the host.
#![no_std]

#[cfg(any(feature = "userspace", test))]
extern crate alloc;

/// Map names, sizes, keys and values: the contract between the kernel programs and userspace.
pub mod abi;
/// Checked views of packet headers, and checksums.
pub mod wire;
/// The flow table: where an entry lies, and how entries come and go while others read.
pub mod table;
/// `steer`: one packet and the tables in, the rewritten packet and a verdict out.
pub mod packet;
