//! The end of a tunnel at a target. What is not in a tunnel of ours, or not from who may send, is the kernel's as it is.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use lb_common::abi::{DecapCounters, SenderKey};
use lb_common::packet::decapsulate;
use lb_common::wire::{Eth, Window};

use crate::maps::{DECAP_COUNTERS, DECAP_SENDERS};
use crate::window;

/// Takes one packet out of its tunnel, and gives it to the kernel.
#[inline(always)]
pub fn open(context: &XdpContext) -> u32 {
    let window = window(context);
    let Some(tunneled) = decapsulate(&window) else { return xdp_action::XDP_PASS };
    if DECAP_SENDERS.get(&Key::new((size_of::<SenderKey>() * 8) as u32, tunneled.sender)).is_none() {
        count(|counters| counters.refused += 1);
        return xdp_action::XDP_PASS;
    }
    let Some(eth) = window.view::<Eth>(0) else { return xdp_action::XDP_PASS };
    let macs = (
        eth.destination_head.get(),
        eth.destination_tail.get(),
        eth.source_head.get(),
        eth.source_tail.get(),
    );
    // SAFETY: the context is this call's; the views end here.
    let (bytes, window) = unsafe {
        let bytes = bpf_xdp_get_buff_len(context.ctx);
        if bpf_xdp_adjust_head(context.ctx, (tunneled.inner - size_of::<Eth>()) as i32) != 0 {
            return xdp_action::XDP_DROP;
        }
        (bytes, Window::from_bounds(context.data(), context.data_end()))
    };
    let Some(eth) = window.view::<Eth>(0) else { return xdp_action::XDP_DROP };
    eth.destination_head.set(macs.0);
    eth.destination_tail.set(macs.1);
    eth.source_head.set(macs.2);
    eth.source_tail.set(macs.3);
    eth.ethertype.set(tunneled.ethertype);
    count(|counters| {
        counters.bytes += bytes;
        if tunneled.is_gue {
            counters.gue += 1;
        } else {
            counters.ipip += 1;
        }
    });
    xdp_action::XDP_PASS
}

#[inline(always)]
fn count(add: impl FnOnce(&mut DecapCounters)) {
    if let Some(counters) = DECAP_COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        add(unsafe { &mut *counters });
    }
}
