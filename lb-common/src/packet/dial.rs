//! Clients on the node itself, when they connect or send: whom their sockets get in the place of a load balancer. The
//! same listener, security groups and ring as of a packet, and no packet to rewrite.

use super::family::Family;
use super::select::listener_hash;
use super::tables::{FamilyTables, Tables};
use crate::abi::{FlowKey, ListenerKey, NO_RING, NO_TARGET, SourceKey, Target, listener_flags, target_state};

/// What becomes of a connection or a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Dial<'tables> {
    /// It goes where it was addressed to: no listener is there, or one whose flows cannot do without the node.
    Leave,
    /// The load balancer's security groups refuse it.
    Block {
        /// Index of the listener.
        listener: u32,
    },
    /// The listener has no target for it.
    Reject {
        /// Index of the listener.
        listener: u32,
    },
    /// It goes to a target.
    Reach {
        /// Index of the listener.
        listener: u32,
        /// Index of the target.
        index: u16,
        /// The target.
        target: &'tables Target,
    },
}

/// Decides about a flow that a socket of the node itself begins. `before` is the target, with its generation, that the
/// same socket's datagrams to this address went to: it stays, as a flow's target does, until it is gone.
#[inline(always)]
pub fn dial<'tables, F, O, T>(
    key: &FlowKey<F::Address>,
    before: Option<(u16, u16)>,
    own: &O,
    tables: &'tables T,
) -> Dial<'tables>
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let protocol = key.protocol as u8;
    let name = ListenerKey { address: key.destination, port: key.destination_port, protocol, pad: 0 };
    let Some(index) = own.listener(&name) else { return Dial::Leave };
    let Some(listener) = tables.listener_state(index) else { return Dial::Leave };
    let has = |flag| listener.flags & flag != 0;
    if has(listener_flags::GUARDED) && !own.admits(&SourceKey { listener: index, source: key.source }) {
        return Dial::Block { listener: index };
    }
    // What ends in a socket of the node's is there already; and a target that answers as the load balancer takes
    // nothing that is addressed to itself.
    if has(listener_flags::LOCAL) || has(listener_flags::DIRECT) {
        return Dial::Leave;
    }
    let alive = |slot: u16| tables.target(slot).filter(|target| target.state != target_state::GONE);
    if let Some((slot, generation)) = before
        && let Some(target) = alive(slot)
        && target.generation == generation
    {
        return Dial::Reach { listener: index, index: slot, target };
    }
    if listener.ring != NO_RING
        && let Some(slot) = tables.ring_slot(listener.ring, listener_hash::<F>(listener, key))
        && slot != NO_TARGET
        && let Some(target) = alive(slot)
    {
        // Whether its next hop is known is not asked: the kernel finds out by itself.
        return Dial::Reach { listener: index, index: slot, target };
    }
    Dial::Reject { listener: index }
}
