//! The tables that decide, over maps in the kernel and over `HashMap`s on the host.
//!
//! Methods return copies, so an implementation needs no lifetimes; the compiler removes the copying.

use crate::abi::{
    DropReason, Flow, FlowKey, Ipv4Be, Listener, ListenerKey, PortBe, Pulse, SourceKey, SynBudget, Target,
};

/// Why an entry could not be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// The table is full.
    Full,
}

/// Everything `steer` reads and writes besides the packet.
pub trait Tables {
    /// Where a flow entry is, to write to it without looking it up again.
    type Slot: Copy;

    /// The clock and the flood limit.
    fn pulse(&self) -> Pulse;
    /// The flow with this key.
    fn flow(&self, key: &FlowKey) -> Option<(Flow, Self::Slot)>;
    /// Notes what was seen of a flow.
    fn touch(&self, slot: Self::Slot, seen: u32, state: u8);
    /// Adds a flow entry; never overwrites one.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError>;
    /// Removes a flow entry.
    fn remove_flow(&self, key: &FlowKey);
    /// The interface of one of our addresses.
    fn address(&self, address: Ipv4Be) -> Option<u32>;
    /// The index of a listener.
    fn listener(&self, key: &ListenerKey) -> Option<u32>;
    /// What the listener with this index does.
    fn listener_state(&self, index: u32) -> Option<Listener>;
    /// Whether a range of the listener has this source in it.
    fn admits(&self, source: &SourceKey) -> bool;
    /// The target in a ring's slot that `hash` falls on.
    fn ring_slot(&self, ring: u32, hash: u32) -> Option<u16>;
    /// A target's entry.
    fn target(&self, index: u32) -> Option<Target>;
    /// The next source port of this CPU's range.
    fn next_port(&self) -> Option<PortBe>;
    /// Counts one new flow of this CPU in `tick`; what was spent of the tick, this one included.
    fn spend_syn(&self, tick: u32) -> SynBudget;
    /// Gives back what a flow spent: it was established in the same tick.
    fn refund_syn(&self, tick: u32);
    /// Counts a forwarded packet.
    fn count_forwarded(&self, listener: u32, target: u32, bytes: u64);
    /// Counts an established flow.
    fn count_new_flow(&self, listener: u32, target: u32);
    /// Counts a new flow that was refused.
    fn count_rejected(&self, listener: u32);
    /// Counts a new flow that security groups refused.
    fn count_blocked(&self, listener: u32);
    /// Counts a RST that the load balancer sent.
    fn count_reset(&self, listener: u32);
    /// Counts a RST that a target sent.
    fn count_target_reset(&self, target: u32);
    /// Counts a packet that ended here.
    fn count_drop(&self, reason: DropReason);
}
