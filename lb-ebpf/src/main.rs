//! The kernel's entry points. They only translate: the context to a window, the verdict to XDP's.
#![no_std]
#![no_main]
// The target has no atomic operations for Rust yet.
#![feature(asm_experimental_arch)]

/// The end of a tunnel at a target.
mod decap;
/// Sockets of clients on the node itself.
mod dial;
/// The maps, by the names and sizes of the contract.
mod maps;
/// The tables that decide, over the maps.
mod tables;
/// Packets as they came, for whoever looks.
mod capture;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::packet::{Outcome, V4, V6, Verdict, admit, begin, cookie, hasten, ponder, stray};
use lb_common::wire::Window;

/// The network load balancer: attached to its interfaces. What is not of an established flow goes on to the programs
/// below.
#[xdp(frags)]
pub fn gatehouse(context: XdpContext) -> u32 {
    carry_out(&context, hasten(&window(&context), ingress(&context), &maps(&context)))
}

/// Programs of the later stages, each named like its stage.
macro_rules! stages {
    ($($name:ident: $context:ident => $outcome:expr;)+) => {
        $(
            #[xdp(frags)]
            pub fn $name($context: XdpContext) -> u32 {
                carry_out(&$context, $outcome)
            }
        )+
    };
}

stages! {
    ponder4: context => ponder::<V4, _>(&window(&context), ingress(&context), &maps(&context));
    ponder6: context => ponder::<V6, _>(&window(&context), ingress(&context), &maps(&context));
    stray4: context => stray::<V4, _>(&window(&context), ingress(&context), &maps(&context));
    stray6: context => stray::<V6, _>(&window(&context), ingress(&context), &maps(&context));
    admit4: context => admit::<V4, _>(&window(&context), ingress(&context), &maps(&context));
    admit6: context => admit::<V6, _>(&window(&context), ingress(&context), &maps(&context));
    cookie4: context => cookie::<V4, _>(&window(&context), ingress(&context), &maps(&context));
    cookie6: context => cookie::<V6, _>(&window(&context), ingress(&context), &maps(&context));
    begin4: context => begin::<V4, _>(&window(&context), ingress(&context), &maps(&context));
    begin6: context => begin::<V6, _>(&window(&context), ingress(&context), &maps(&context));
}

#[inline(always)]
fn maps(context: &XdpContext) -> tables::Maps {
    tables::Maps { context: context.ctx }
}

#[inline(always)]
fn ingress(context: &XdpContext) -> u32 {
    context.ingress_ifindex() as u32
}

#[inline(always)]
fn window(context: &XdpContext) -> Window<'_> {
    // SAFETY: the kernel gives these bounds for this call, and nothing else refers to the packet meanwhile.
    unsafe { Window::from_bounds(context.data(), context.data_end()) }
}

#[inline(always)]
fn carry_out(context: &XdpContext, outcome: Outcome) -> u32 {
    let verdict = match outcome {
        Outcome::Done(verdict) => verdict,
        Outcome::Next(stage) => {
            // SAFETY: the stages' programs expect a packet and nothing else.
            unsafe { maps::PROGRAMS.tail_call(context, stage as u32) };
            // There is no such program: the kernel answers, or nobody does.
            Verdict::Pass
        }
    };
    #[cfg(feature = "trace")]
    trace(context, verdict);
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit(egress) => transmit(egress),
        Verdict::TransmitFirst { length, egress } => {
            // SAFETY: the context is this call's; no view of the packet is used after this. The length is asked for,
            // because the verifier forbids to compute with the packet's end.
            match unsafe {
                let had = bpf_xdp_get_buff_len(context.ctx) as i32;
                bpf_xdp_adjust_tail(context.ctx, i32::from(length) - had)
            } {
                0 => transmit(egress),
                _ => xdp_action::XDP_DROP,
            }
        }
    }
}

/// Takes packets out of the tunnels that they came to a target in: attached to the target's own interface.
#[xdp(frags)]
pub fn gatehouse_decap(context: XdpContext) -> u32 {
    decap::open(&context)
}

/// Out by an interface. As a redirect and not as XDP_TX: after XDP_TX veth wakes its peer only if that has an XDP program
/// as well (`veth_xdp_flush`), and the frame lies in the ring until something else wakes it.
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
        Verdict::Transmit(_) => ("transmit", ""),
        Verdict::TransmitFirst { .. } => ("answer", ""),
    };
    aya_log_ebpf::info!(context, "{} {}", word, detail);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
