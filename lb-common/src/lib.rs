//! What the kernel programs and userspace must agree on: map layouts, header views and the packet core.
//! `no_std` and allocation-free, because the same code is compiled for BPF and for the host.
#![no_std]
