//! The first packet of a flow: a target is chosen for it, then the flow begins. Last of the path; `nat` makes the entries.

use core::cell::Cell;

use super::cross;
use super::family::Family;
use super::fragment;
use super::frame::Frame;
use super::nat;
use super::quic;
use super::rewrite::{NextHop, rewrite};
use super::select::{entropy, listener_hash};
use super::tables::{Arrival, Budget, FamilyTables, InsertError, Note, Tables};
use super::tunnel;
use super::verdict::Step;
use crate::abi::{
    DropReason, Flow, Listener, NO_RING, NO_TARGET, PortBe, direction, listener_flags, state, target_mode,
    target_state,
};

/// Chooses a target for the first packet of a flow, and says so in the note: the next stage begins the flow.
#[inline(always)]
pub(super) fn prepare<F, O, X, T>(
    frame: &Frame<'_, F>,
    index: u32,
    listener: &Listener,
    at: &Arrival<'_, O, X, T>,
) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let tables = at.tables;
    if F::hops(frame.ip) <= 1 {
        return Step::drop(DropReason::TtlExpired);
    }
    let refuse = |reason| {
        tables.count_rejected(index);
        Step::drop(reason)
    };
    let pulse = tables.pulse();
    let chosen = match choose(frame, index, listener, pulse.tick, at) {
        Ok(chosen) => chosen,
        Err(reason) => return refuse(reason),
    };
    let Some((Choice { slot, is_torn }, target)) =
        chosen.and_then(|choice| Some((choice, tables.target(choice.slot)?)))
    else {
        tables.count_rejected(index);
        if frame.is_udp() {
            return Step::drop(DropReason::NoTarget);
        }
        tables.count_reset(index);
        return Step::RESET;
    };
    if target.state != target_state::READY {
        return refuse(DropReason::Unresolved);
    }
    // A SYN to a target that answers past us needs no entry: what comes next finds the same slot of the ring. Unless the
    // ring has just changed, and what comes next would be taken for what the ring before spread.
    let is_stateless = target_mode::is_direct(target.mode) && frame.opens() && !is_torn;
    if !is_stateless {
        // From the narrowest to the widest: what one source or one listener is refused is taken from nobody else.
        if pulse.source_limit != 0
            && at.own.spend_source(F::source(frame.ip), pulse.tick) > pulse.source_limit
        {
            return refuse(DropReason::SourceLimit);
        }
        if tables.spend_syn(Budget::Listener(index), pulse.tick) > listener.syn_limit
            || tables.spend_syn(Budget::All, pulse.tick) > pulse.syn_limit
        {
            return refuse(DropReason::SynFlood);
        }
    }
    let Some(note) = tables.note() else { return refuse(DropReason::NoTarget) };
    note.set(Note { listener: index, target: slot, is_stateless: u16::from(is_stateless) });
    Step::NO_FLOW
}

/// Begins the flow that the note says, embryonic until more is heard of it, and sends its first packet on.
#[inline(always)]
pub(super) fn begin<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    X: FamilyTables<F::Other>,
    T: Tables,
{
    match insert(frame, at) {
        Ok(()) => send(frame, at),
        Err(reason) => Step::drop(reason),
    }
}

/// Makes the entries.
#[inline(never)]
fn insert<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Result<(), DropReason>
where
    F: Family,
    O: FamilyTables<F>,
    X: FamilyTables<F::Other>,
    T: Tables,
{
    let tables = at.tables;
    let Some(Note { listener: index, target: slot, is_stateless }) = tables.note().map(Cell::get) else {
        return Err(DropReason::NoTarget);
    };
    let (Some(listener), Some(target)) = (tables.listener_state(index), tables.target(slot)) else {
        return Err(DropReason::NoTarget);
    };
    let tick = tables.pulse().tick;
    fragment::note(frame, at, tick);
    let place = nat::Place { index, listener, slot, target, tick };
    let is_direct = target_mode::is_direct(target.mode);
    let inserted = if is_stateless != 0 {
        return Ok(());
    } else if is_direct {
        insert_direct(frame, &place, at)
    } else if target.family == F::VERSION {
        nat::insert::<F, F, _, _, _>(frame, &place, at, at.own)
    } else {
        nat::insert::<F, F::Other, _, _, _>(frame, &place, at, at.other)
    };
    match inserted {
        // A flow of TCP is counted when its handshake is over.
        Ok(()) if frame.is_udp() || is_direct && !frame.opens() => tables.count_new_flow(index, slot),
        Ok(()) => {}
        Err(reason) => {
            if reason == DropReason::PortsExhausted {
                tables.count_port_error(index);
            }
            tables.count_rejected(index);
        }
    }
    inserted
}

/// Sends the packet the way of the flow that was just drafted.
#[inline(never)]
fn send<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let tables = at.tables;
    let (Some(note), Some(draft)) = (tables.note().map(Cell::get), at.own.draft()) else {
        return Step::drop(DropReason::NoTarget);
    };
    let Some(target) = tables.target(note.target) else { return Step::drop(DropReason::NoTarget) };
    let bytes = frame.bytes();
    let hop = NextHop::to_target(target);
    let step = if note.is_stateless != 0 && !tunnel::fits::<F>(frame.ip, target) {
        // No flow is drafted that would say how large it may be.
        Step::drop(DropReason::TooBig)
    } else if target_mode::is_direct(target.mode) {
        let entropy = entropy::<F>(&frame.key());
        tunnel::send_if_fits::<F, _>(frame.eth, frame.ip, frame.window, target, entropy, at.tables)
    } else if target.family == F::VERSION {
        rewrite(frame, &draft.flow.get(), hop).unwrap_or(Step::drop(DropReason::TtlExpired))
    } else {
        cross::send(frame, &draft.flow, hop, at)
    };
    if step.forwards() {
        tables.count_forwarded(note.listener, note.target, bytes);
    }
    step
}

/// A target, and how it was found.
#[derive(Clone, Copy)]
struct Choice {
    slot: u16,
    /// Whether the ring changed a moment ago, and had another target here.
    is_torn: bool,
}

/// The target of a new flow: the one that a connection id names, or one of the ring.
#[inline(always)]
fn choose<F, O, X, T>(
    frame: &Frame<'_, F>,
    index: u32,
    listener: &Listener,
    tick: u32,
    at: &Arrival<'_, O, X, T>,
) -> Result<Option<Choice>, DropReason>
where
    F: Family,
    T: Tables,
{
    let tables = at.tables;
    if listener.flags & listener_flags::QUIC != 0 {
        match quic::named(frame, index, listener, tables) {
            quic::Named::Nobody => {}
            quic::Named::Target(slot) => return Ok(Some(Choice { slot, is_torn: false })),
            quic::Named::Unknown => return Err(DropReason::UnknownServerId),
        }
    }
    if listener.ring == NO_RING {
        return Ok(None);
    }
    let hash = listener_hash::<F>(listener, &frame.key());
    let Some(slot) = tables.ring_slot(listener.ring, hash).filter(|slot| *slot != NO_TARGET) else {
        return Ok(None);
    };
    let is_changing = listener.flags & listener_flags::DIRECT != 0
        && listener.previous_ring != NO_RING
        && (listener.previous_until.wrapping_sub(tick) as i32) > 0;
    if is_changing
        && let Some(before) = tables.ring_slot(listener.previous_ring, hash)
        && before != slot
    {
        let was_begun =
            !frame.opens() && tables.target(before).is_some_and(|target| target.state == target_state::READY);
        return Ok(Some(Choice { slot: if was_begun { before } else { slot }, is_torn: true }));
    }
    Ok(Some(Choice { slot, is_torn: false }))
}

/// The one entry of a flow whose target answers past us.
#[inline(never)]
fn insert_direct<F, O, X, T>(
    frame: &Frame<'_, F>,
    place: &nat::Place<'_>,
    at: &Arrival<'_, O, X, T>,
) -> Result<(), DropReason>
where
    F: Family,
    O: FamilyTables<F>,
{
    let key = frame.key();
    let Some(draft) = at.own.draft() else { return Err(DropReason::FlowTableFull) };
    draft.key.set(key);
    draft.flow.set(Flow {
        source: key.source,
        destination: key.destination,
        source_port: PortBe(key.source_port.0),
        destination_port: PortBe(key.destination_port.0),
        ip_delta: 0,
        l4_delta: 0,
        // Its target answers past us, and errors about the tunnel are told by us.
        mac_head: frame.eth.source_head.get(),
        mac_tail: frame.eth.source_tail.get(),
        direction: direction::TO_TARGET,
        // Its target's answers are not seen: what is not a SYN is all there is to hear.
        state: if frame.opens() || frame.is_udp() { 0 } else { state::CONFIRMED },
        own_mac_head: frame.eth.destination_head.get(),
        own_mac_tail: frame.eth.destination_tail.get(),
        mode: place.target.mode,
        listener: place.index,
        target: place.slot,
        generation: place.target.generation,
        ifindex: at.ingress,
        egress: 0,
        seen: place.tick,
        began: place.tick,
        beyond: 0,
    });
    at.own.insert_draft().map_err(|error| match error {
        InsertError::Exists => DropReason::FlowRace,
        InsertError::Full => DropReason::FlowTableFull,
    })
}
