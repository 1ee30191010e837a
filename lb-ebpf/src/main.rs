//! The kernel's entry points. They only translate: the context to a window, the verdict to XDP's.
#![no_std]
#![no_main]

/// The maps, by the names and sizes of the contract.
mod maps;
/// The tables that decide, over the maps.
mod tables;

use aya_ebpf::{bindings::xdp_action, helpers::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len}, macros::xdp, programs::XdpContext};
use lb_common::packet::{Verdict, steer};
use lb_common::wire::Window;

/// The network load balancer: attached to its interfaces.
#[xdp]
pub fn gatehouse(context: XdpContext) -> u32 {
    // SAFETY: the kernel gives these bounds for this call, and nothing else refers to the packet meanwhile.
    let window = unsafe { Window::from_bounds(context.data(), context.data_end()) };
    let ingress = context.ingress_ifindex() as u32;
    let verdict = steer(&window, ingress, &tables::Maps);
    #[cfg(feature = "trace")]
    trace(&context, verdict);
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit => transmit(ingress),
        Verdict::TransmitFirst(length) => {
            // SAFETY: the context is this call's; no view of the packet is used after this. The length is asked for,
            // because the verifier forbids to compute with the packet's end.
            match unsafe {
                let had = bpf_xdp_get_buff_len(context.ctx) as i32;
                bpf_xdp_adjust_tail(context.ctx, i32::from(length) - had)
            } {
                0 => transmit(ingress),
                _ => xdp_action::XDP_DROP,
            }
        }
    }
}

/// Out by the interface it came in by. As a redirect and not as XDP_TX: after XDP_TX veth wakes its peer only if that has
/// an XDP program as well (`veth_xdp_flush`), and the frame lies in the ring until something else wakes it.
#[inline(always)]
fn transmit(ifindex: u32) -> u32 {
    // SAFETY: takes two numbers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

#[cfg(feature = "trace")]
fn trace(context: &XdpContext, verdict: Verdict) {
    let (word, detail) = match verdict {
        Verdict::Pass => ("pass", ""),
        Verdict::Drop(reason) => ("drop", reason.name()),
        Verdict::Transmit => ("transmit", ""),
        Verdict::TransmitFirst(_) => ("reset", ""),
    };
    aya_log_ebpf::info!(context, "{} {}", word, detail);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
