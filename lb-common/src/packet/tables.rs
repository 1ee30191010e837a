//! The tables that decide, over maps in the kernel and over `HashMap`s on the host.
//!
//! Flows are returned as copies, because others write to them; what only userspace writes, and word by word, is not
//! copied: the kernel's stack is small.

use core::cell::Cell;

use super::family::{Family, V4, V6};
use crate::abi::{
    DropReason, Flow, FlowKey, FragmentKey, FragmentPorts, Listener, ListenerKey, PortBe, Pulse, ServerIdKey,
    SourceKey, Target,
};
pub use crate::table::InsertError;
use crate::wire::{Tcp, Window};

/// A flow entry at hand or in the making. Not on the stack, of which the kernel has 512 bytes.
#[repr(C)]
#[derive(Default)]
pub struct Draft<A: Copy> {
    /// Its key.
    pub key: Cell<FlowKey<A>>,
    /// What it says.
    pub flow: Cell<Flow<A>>,
}

/// What was decided about a packet of no flow, for the stage that begins one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Note {
    /// Index of the listener.
    pub listener: u32,
    /// Index of the target.
    pub target: u16,
    /// Whether the packet is sent on without an entry: 1 if so.
    pub is_stateless: u16,
}

/// A segment as the node's own TCP is asked about it.
pub struct Handshake<'packet, F: Family> {
    /// Its IP header.
    pub ip: &'packet F::Header,
    /// Its TCP header.
    pub tcp: &'packet Tcp,
    /// Where that begins.
    pub at: usize,
    /// Bytes of it with its options, 20 to 60.
    pub length: usize,
}

/// What the node's own TCP says of a segment that acknowledges something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// It belongs to a connection, or there is no socket at all.
    Other,
    /// A SYN cookie: the segment begins a connection.
    Cookie,
    /// Nothing that was ever sent.
    Nothing,
}

/// Tables that IPv4 and IPv6 have each of their own.
pub trait FamilyTables<F: Family> {
    /// Where a flow entry is, to write to it without looking it up again.
    type Slot: Copy;

    /// The flow with this key.
    fn flow(&self, key: &FlowKey<F::Address>) -> Option<(Flow<F::Address>, Self::Slot)>;
    /// Notes what was seen of a flow.
    fn touch(&self, slot: Self::Slot, seen: u32, state: u8);
    /// Where an entry is looked at or made; none only if the tables are broken.
    fn draft(&self) -> Option<&Draft<F::Address>>;
    /// Looks the drafted key up; what its flow says is drafted then.
    fn find_draft(&self) -> Option<Self::Slot>;
    /// Adds what was drafted to the flows; never overwrites an entry.
    fn insert_draft(&self) -> Result<(), InsertError>;
    /// Removes a flow entry.
    fn remove_flow(&self, key: &FlowKey<F::Address>);
    /// The interface of one of our addresses.
    fn address(&self, address: F::Address) -> Option<u32>;
    /// The index of a listener.
    fn listener(&self, key: &ListenerKey<F::Address>) -> Option<u32>;
    /// Whether a range of the listener has this source in it.
    fn admits(&self, source: &SourceKey<F::Address>) -> bool;
    /// The ports of a datagram whose first fragment was seen.
    fn fragment(&self, key: &FragmentKey<F::Address>) -> Option<FragmentPorts>;
    /// Remembers them.
    fn remember_fragment(&self, key: &FragmentKey<F::Address>, ports: &FragmentPorts);
    /// Remembers in `tick` what the path to a target's address takes.
    fn learn_mtu(&self, address: F::Address, mtu: u32, tick: u32);
    /// A SYN cookie of the node's own TCP for this SYN; none if it has no socket for it, or one whose half-open connections
    /// do not fill its queue. With a cookie, the socket expects acknowledgements of cookies.
    fn cookie(&self, key: &FlowKey<F::Address>, syn: &Handshake<'_, F>) -> Option<u32>;
    /// What the node's own TCP says of this acknowledgement.
    fn acknowledged(&self, key: &FlowKey<F::Address>, segment: &Handshake<'_, F>) -> Acknowledged;
    /// Counts one new flow of this source on this CPU in `tick`; how many there were in the tick, this one included.
    fn spend_source(&self, source: F::Address, tick: u32) -> u32;
}

/// Everything `steer` reads and writes besides the packet.
pub trait Tables: FamilyTables<V4> + FamilyTables<V6> {
    /// Bytes of the whole packet where they are more than the window shows.
    fn packet_length(&self) -> Option<usize>;
    /// The packet with `grow` bytes more at its start, or less; none if there is no room. Views of it end here.
    fn regrow<'packet>(&self, window: &Window<'packet>, grow: i32) -> Option<Window<'packet>>;
    /// What one stage tells the next.
    fn note(&self) -> Option<&Cell<Note>>;
    /// The clock and the flood limits.
    fn pulse(&self) -> Pulse;
    /// What the listener with this index does.
    fn listener_state(&self, index: u32) -> Option<&Listener>;
    /// The target in a ring's slot that `hash` falls on.
    fn ring_slot(&self, ring: u32, hash: u32) -> Option<u16>;
    /// A target's entry.
    fn target(&self, index: u16) -> Option<&Target>;
    /// The target that a QUIC server id names.
    fn server_id(&self, key: &ServerIdKey) -> Option<u16>;
    /// The next source port of this CPU's range.
    fn next_port(&self) -> Option<PortBe>;
    /// Has the next port be one far from the last.
    fn skip_ports(&self);
    /// Counts one new flow of this CPU in `tick`, for a listener or for all; how many there were in the tick, this one
    /// included.
    fn spend_syn(&self, whose: Budget, tick: u32) -> u32;
    /// Gives back what a flow spent: it was established in the same tick.
    fn refund_syn(&self, whose: Budget, tick: u32);
    /// Counts a forwarded packet.
    fn count_forwarded(&self, listener: u32, target: u16, bytes: u64);
    /// Counts an established flow.
    fn count_new_flow(&self, listener: u32, target: u16);
    /// Counts a new flow that was refused.
    fn count_rejected(&self, listener: u32);
    /// Counts a new flow for which no source port was free.
    fn count_port_error(&self, listener: u32);
    /// Counts a new flow that security groups refused.
    fn count_blocked(&self, listener: u32);
    /// Counts a RST that the load balancer sent.
    fn count_reset(&self, listener: u32);
    /// Counts a RST that a client sent.
    fn count_client_reset(&self, listener: u32);
    /// Counts a RST that a target sent.
    fn count_target_reset(&self, target: u16);
    /// Milliseconds of the clock that the node's own TCP stamps segments by.
    fn stamp_ms(&self) -> u32;
    /// Tick in which a listener last sent a SYN cookie; 0 is never.
    fn cookie_tick(&self, listener: u32) -> u32;
    /// Counts a SYN cookie that was sent in `tick`.
    fn count_cookie(&self, listener: u32, tick: u32);
    /// Counts an acknowledgement of no connection, and whether it was of a SYN cookie.
    fn count_acknowledged(&self, listener: u32, is_cookie: bool);
    /// Counts a packet that ended here.
    fn count_drop(&self, reason: DropReason);
}

/// Whose new flows are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Budget {
    /// Of all listeners.
    All,
    /// Of the listener with this index.
    Listener(u32),
}

/// Where a packet came in, and the tables that decide about it: its own family's, the other's, and the common ones. In
/// the kernel all three are the same value without size.
pub(super) struct Arrival<'tables, O, X, T> {
    pub(super) ingress: u32,
    pub(super) own: &'tables O,
    pub(super) other: &'tables X,
    pub(super) tables: &'tables T,
}
