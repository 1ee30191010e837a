//! Both entries of a new flow, and its source port.

use super::family::Family;
use super::frame::Frame;
use super::tables::{Arrival, Draft, FamilyTables, InsertError, Tables};
use crate::abi::{
    DropReason, FIRST_NAT_PORT, Flow, FlowKey, LAST_NAT_PORT, Listener, PortBe, Target, direction,
    target_mode,
};
use crate::wire::checksum::{delta16, fold};

/// What both entries say beside addresses.
#[derive(Clone, Copy)]
pub(super) struct Place<'tables> {
    pub(super) index: u32,
    pub(super) listener: &'tables Listener,
    pub(super) slot: u16,
    pub(super) target: &'tables Target,
    pub(super) tick: u32,
}

/// Inserts the entries of a flow from a client of family `F` to a target of family `G`, whose tables are `answers`: the
/// target's direction first, because its key decides whether a source port is free. The client's entry stays drafted.
#[inline(always)]
pub(super) fn insert<F, G, O, P, T>(
    frame: &Frame<'_, F>,
    place: &Place<'_>,
    at: &Arrival<'_, O, impl Sized, T>,
    answers: &P,
) -> Result<(), DropReason>
where
    F: Family,
    G: Family,
    O: FamilyTables<F>,
    P: FamilyTables<G>,
    T: Tables,
{
    let target = place.target;
    let preserves = target.mode == target_mode::PRESERVE && F::VERSION == G::VERSION;
    let own_port = PortBe(frame.ports.source.get());
    let is_kept = preserves || (FIRST_NAT_PORT..=LAST_NAT_PORT).contains(&own_port.number());
    let first = if is_kept { Some(own_port) } else { at.tables.next_port() };
    let (Some(mut port), Some(draft)) = (first, answers.draft()) else {
        return Err(DropReason::PortsExhausted);
    };
    draft_reply::<F, G>(frame, place, port, at.ingress, draft);
    let mut tries = 0;
    while let Err(error) = answers.insert_draft() {
        if error == InsertError::Full {
            return Err(DropReason::FlowTableFull);
        }
        tries += 1;
        if tries > 1 || !is_kept {
            at.tables.skip_ports();
        }
        let next = if !preserves && tries < PORT_TRIES { at.tables.next_port() } else { None };
        let Some(next) = next else { return Err(DropReason::PortsExhausted) };
        draft_reply::<F, G>(frame, place, next, at.ingress, draft);
        port = next;
    }
    let Some(draft) = at.own.draft() else { return Err(DropReason::FlowTableFull) };
    draft_request::<F, G>(frame, place, port, at.ingress, draft);
    let Err(error) = at.own.insert_draft() else { return Ok(()) };
    if let Some(draft) = answers.draft() {
        draft_reply::<F, G>(frame, place, port, at.ingress, draft);
        answers.remove_flow(&draft.key.get());
    }
    Err(match error {
        InsertError::Exists => DropReason::FlowRace,
        InsertError::Full => DropReason::FlowTableFull,
    })
}

/// What the target takes for the client.
#[inline(always)]
fn face<F: Family, G: Family>(frame: &Frame<'_, F>, target: &Target) -> G::Address {
    if target.mode == target_mode::PRESERVE && F::VERSION == G::VERSION {
        G::narrow(F::widen(F::source(frame.ip)))
    } else {
        G::narrow(target.via)
    }
}

/// What turning a packet of the client's into one for the target adds to a checksum by its addresses; the other way round
/// it is the complement.
#[inline(never)]
fn address_delta<F: Family, G: Family>(frame: &Frame<'_, F>, target: &Target) -> u16 {
    let old = F::complement(F::source(frame.ip)) + F::complement(F::destination(frame.ip));
    fold(old + G::sum(face::<F, G>(frame, target)) + G::sum(G::narrow(target.address)))
}

/// The other way round. Of zero's two forms the one that a sum of words has.
#[inline(always)]
const fn opposite(delta: u16) -> u16 {
    match !delta {
        0 => u16::MAX,
        opposite => opposite,
    }
}

/// From the client to the target.
#[inline(never)]
fn draft_request<F: Family, G: Family>(
    frame: &Frame<'_, F>,
    place: &Place<'_>,
    port: PortBe,
    ingress: u32,
    draft: &Draft<F::Address>,
) {
    let target = place.target;
    let key = frame.key();
    let source = face::<F, G>(frame, target);
    let ip_delta = address_delta::<F, G>(frame, target);
    let ports = delta16(key.source_port.0, port.0) + delta16(key.destination_port.0, target.port.0);
    draft.key.set(key);
    draft.flow.set(Flow {
        source: F::narrow(G::widen(source)),
        destination: F::narrow(target.address),
        source_port: port,
        destination_port: target.port,
        ip_delta,
        l4_delta: fold(u32::from(ip_delta) + ports),
        mac_head: 0,
        mac_tail: 0,
        direction: direction::TO_TARGET,
        state: 0,
        own_mac_head: 0,
        own_mac_tail: 0,
        mode: if F::VERSION == G::VERSION { target.mode } else { target_mode::CROSS },
        listener: place.index,
        target: place.slot,
        generation: target.generation,
        ifindex: ingress,
        egress: 0,
        seen: place.tick,
        began: place.tick,
        beyond: 0,
    });
}

/// From the target back to the client, from the address and port it connected to, to the MAC it came from.
#[inline(never)]
fn draft_reply<F: Family, G: Family>(
    frame: &Frame<'_, F>,
    place: &Place<'_>,
    port: PortBe,
    ingress: u32,
    draft: &Draft<G::Address>,
) {
    let target = place.target;
    let key = frame.key();
    let reply_key = FlowKey {
        source: G::narrow(target.address),
        destination: face::<F, G>(frame, target),
        source_port: target.port,
        destination_port: port,
        protocol: key.protocol,
    };
    let ip_delta = opposite(address_delta::<F, G>(frame, target));
    let ports = delta16(target.port.0, key.destination_port.0) + delta16(port.0, key.source_port.0);
    let client = F::widen(key.source);
    let (source, destination, beyond, mode) = if F::VERSION == G::VERSION {
        (G::narrow(F::widen(key.destination)), G::narrow(client), 0, target.mode)
    } else {
        let (source, destination, beyond) = G::keep(place.listener.address, client);
        (source, destination, beyond, target_mode::CROSS)
    };
    draft.key.set(reply_key);
    draft.flow.set(Flow {
        source,
        destination,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ip_delta,
        l4_delta: fold(u32::from(ip_delta) + ports),
        mac_head: frame.eth.source_head.get(),
        mac_tail: frame.eth.source_tail.get(),
        direction: direction::TO_CLIENT,
        state: 0,
        own_mac_head: frame.eth.destination_head.get(),
        own_mac_tail: frame.eth.destination_tail.get(),
        mode,
        listener: place.index,
        target: place.slot,
        generation: target.generation,
        ifindex: target.egress,
        egress: ingress,
        seen: place.tick,
        began: place.tick,
        beyond,
    });
}

/// Source ports that are tried for one packet. It is repeated, and the cursor has moved on by then.
const PORT_TRIES: u32 = 8;
