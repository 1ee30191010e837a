//! Packets as they came, for whoever looks: attached in the place of the first program while somebody does. It keeps
//! a packet's first bytes, calls the packet path as it is, and gives away what it kept if the packet was asked for.
//!
//! So a capture that is not there costs nothing: no instruction of the packet path knows of it.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_ktime_get_ns, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::abi::{
    CaptureFilter, CaptureState, DropReason, NO_REASON, SNAP_MAX, Sample, SampleHead, capture_verdict,
};
use lb_common::packet::Tables;
use lb_common::packet::capture::{concerns, is_over, takes};

use crate::{maps, tables, window};

/// Attached while packets are captured.
#[xdp(frags)]
pub fn capture(context: XdpContext) -> u32 {
    let (Some(filter), Some(state), Some(sample)) =
        (maps::CAPTURE_FILTER.get(0), maps::CAPTURE_STATE.get_ptr_mut(0), maps::SAMPLE.get_ptr_mut(0))
    else {
        return onward(context.ctx);
    };
    // SAFETY: this CPU's own elements, valid while the program runs; the packet path does not know them.
    let (state, sample) = unsafe { (&mut *state, &mut *sample) };
    let tick = tables::Maps { context: context.ctx }.pulse().tick;
    if is_over(filter, state, tick) || is_asked_for(context.ctx, filter) == 0 {
        return onward(context.ctx);
    }
    // SAFETY: takes a context.
    let length = unsafe { bpf_xdp_get_buff_len(context.ctx) } as u32;
    let kept = keep(context.ctx, length, filter, sample);
    note_drops(state);
    let action = onward(context.ctx);
    let (verdict, reason) = match action {
        xdp_action::XDP_DROP => (capture_verdict::DROP, reason_since(state)),
        xdp_action::XDP_PASS => (capture_verdict::PASS, NO_REASON),
        _ => (capture_verdict::TRANSMIT, NO_REASON),
    };
    if takes(filter, state, tick, verdict, reason) {
        // SAFETY: takes nothing.
        let at_ns = unsafe { bpf_ktime_get_ns() };
        let ifindex = context.ingress_ifindex() as u32;
        sample.head = SampleHead { at_ns, length, kept, ifindex, verdict, reason, pad: 0 };
        if !give(sample, kept) {
            state.lost += 1;
        }
    }
    action
}

/// The packet path, as it is without a capture, and what it answers: a tail call ends this function and not its caller.
#[inline(never)]
fn onward(context: *mut xdp_md) -> u32 {
    // SAFETY: the first program expects a packet and nothing else.
    unsafe { maps::ENTRANCE.tail_call(&XdpContext::new(context), 0) };
    // From memory: the compiler and the verifier would otherwise know what this function always answers.
    match maps::CAPTURE_STATE.get_ptr(0) {
        // SAFETY: this CPU's own element.
        Some(state) => unsafe { (*state).fallback },
        None => xdp_action::XDP_PASS,
    }
}

/// Apart, because its keys would leave too little stack for the packet path.
#[inline(never)]
fn is_asked_for(context: *mut xdp_md, filter: &CaptureFilter) -> u32 {
    let context = XdpContext::new(context);
    u32::from(concerns(&window(&context), filter, &tables::Maps { context: context.ctx }))
}

/// Keeps a packet's first bytes; how many.
#[inline(always)]
fn keep(context: *mut xdp_md, length: u32, filter: &CaptureFilter, sample: &mut Sample) -> u32 {
    // The black box keeps the compiler from proving the comparison away that the verifier wants to see.
    let kept = core::hint::black_box(length.min(filter.snap));
    if kept == 0 || kept > SNAP_MAX as u32 {
        return 0;
    }
    // SAFETY: as many bytes as there is room for, by the comparison.
    match unsafe { bpf_xdp_load_bytes(context, 0, sample.bytes.as_mut_ptr().cast(), kept) } {
        0 => kept,
        _ => 0,
    }
}

#[inline(always)]
fn give(sample: &mut Sample, kept: u32) -> bool {
    let kept = core::hint::black_box(kept);
    if kept > SNAP_MAX as u32 {
        return false;
    }
    let start = core::ptr::from_mut(sample).cast::<u8>();
    // SAFETY: the head, and as many bytes as follow it.
    let said = unsafe { core::slice::from_raw_parts(start, size_of::<SampleHead>() + kept as usize) };
    maps::SAMPLES.output_untyped::<[u8]>(said, 0).is_ok()
}

#[inline(always)]
fn note_drops(state: &mut CaptureState) {
    for reason in 0..DropReason::ALL.len() {
        state.drops[reason] = drops(reason);
    }
}

/// Why the packet was dropped: what was counted since.
#[inline(always)]
fn reason_since(state: &CaptureState) -> u8 {
    for reason in 0..DropReason::ALL.len() {
        if state.drops[reason] != drops(reason) {
            return reason as u8;
        }
    }
    NO_REASON
}

#[inline(always)]
fn drops(reason: usize) -> u64 {
    match maps::DROPS.get_ptr(reason as u32) {
        // SAFETY: this CPU's own element.
        Some(count) => unsafe { *count },
        None => 0,
    }
}
