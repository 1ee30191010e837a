//! Both entries of a new flow, and its source port. Last of the path: the SYN goes on to the target it chose.

use super::frame::Frame;
use super::rewrite::{NextHop, deltas, rewrite};
use super::select::flow_hash;
use super::tables::{InsertError, Tables};
use super::verdict::{Step, Verdict};
use crate::abi::{
    DropReason, FIRST_NAT_PORT, Flow, FlowKey, LAST_NAT_PORT, Listener, NO_RING, NO_TARGET, PortBe, Target,
    direction, target_state,
};
use crate::wire::checksum::{delta16, fold};

/// Chooses a target for a SYN and begins an embryonic flow.
#[inline(always)]
pub(super) fn begin<T: Tables>(
    frame: &Frame<'_>,
    ingress: u32,
    index: u32,
    listener: Listener,
    tables: &T,
) -> Step {
    if frame.ip.ttl.get() <= 1 {
        return Step::Done(Verdict::Drop(DropReason::TtlExpired));
    }
    let key = frame.key();
    let chosen =
        if listener.ring == NO_RING { None } else { tables.ring_slot(listener.ring, flow_hash(&key)) };
    let Some(slot) = chosen.filter(|slot| *slot != NO_TARGET) else {
        tables.count_rejected(index);
        tables.count_reset(index);
        return Step::Reset;
    };
    let target_index = u32::from(slot);
    let Some(target) = tables.target(target_index).filter(|target| target.state == target_state::READY)
    else {
        tables.count_rejected(index);
        return Step::Done(Verdict::Drop(DropReason::Unresolved));
    };
    let pulse = tables.pulse();
    if tables.spend_syn(pulse.tick).used > pulse.syn_limit {
        tables.count_rejected(index);
        return Step::Done(Verdict::Drop(DropReason::SynFlood));
    }
    let flow = match insert(frame, &key, ingress, index, target_index, &target, pulse.tick, tables) {
        Ok(flow) => flow,
        Err(reason) => {
            tables.count_rejected(index);
            return Step::Done(Verdict::Drop(reason));
        }
    };
    let next_hop = NextHop { head: target.mac_head, tail: target.mac_tail };
    let Some(verdict) = rewrite(frame, &flow, next_hop) else {
        return Step::Done(Verdict::Drop(DropReason::TtlExpired));
    };
    tables.count_forwarded(index, target_index, frame.bytes());
    Step::Done(verdict)
}

/// Inserts the target's direction first: its key decides whether a source port is free.
#[expect(
    clippy::too_many_arguments,
    reason = "all are scalars or borrowed once; a struct would be built per SYN"
)]
#[inline(always)]
fn insert<T: Tables>(
    frame: &Frame<'_>,
    key: &FlowKey,
    ingress: u32,
    listener: u32,
    target_index: u32,
    target: &Target,
    tick: u32,
    tables: &T,
) -> Result<Flow, DropReason> {
    let kept = (FIRST_NAT_PORT..=LAST_NAT_PORT).contains(&key.source_port.number());
    let first = if kept { Some(key.source_port) } else { tables.next_port() };
    let Some(mut port) = first else { return Err(DropReason::PortsExhausted) };
    let mut reply_key = FlowKey {
        source: target.address,
        destination: key.destination,
        source_port: target.port,
        destination_port: port,
        protocol: key.protocol,
    };
    let mut reply = reply(frame, key, &reply_key, ingress, listener, target_index, target, tick);
    let mut tries = 0;
    while let Err(error) = tables.insert_flow(&reply_key, &reply) {
        if error == InsertError::Full {
            return Err(DropReason::FlowTableFull);
        }
        tries += 1;
        let next = if tries < PORT_TRIES { tables.next_port() } else { None };
        let Some(next) = next else { return Err(DropReason::PortsExhausted) };
        reply.tcp_delta = fold(u32::from(reply.tcp_delta) + delta16(next.0, port.0));
        reply_key.destination_port = next;
        port = next;
    }
    let flow = request(key, port, ingress, listener, target_index, target, tick);
    tables.insert_flow(key, &flow).map_err(|error| {
        tables.remove_flow(&reply_key);
        match error {
            InsertError::Exists => DropReason::FlowRace,
            InsertError::Full => DropReason::FlowTableFull,
        }
    })?;
    Ok(flow)
}

/// From the client to the target, from our address and the port we chose.
#[inline(always)]
fn request(
    key: &FlowKey,
    port: PortBe,
    ingress: u32,
    listener: u32,
    target_index: u32,
    target: &Target,
    tick: u32,
) -> Flow {
    let deltas = deltas(key, key.destination, target.address, port, target.port);
    Flow {
        source: key.destination,
        destination: target.address,
        source_port: port,
        destination_port: target.port,
        ip_delta: deltas.ip,
        tcp_delta: deltas.tcp,
        mac_head: 0,
        mac_tail: 0,
        direction: direction::TO_TARGET,
        state: 0,
        listener,
        target: target_index,
        generation: target.generation,
        ifindex: ingress,
        seen: tick,
        began: tick,
    }
}

/// From the target back to the client, from the address and port it connected to, to the MAC it came from.
#[expect(clippy::too_many_arguments, reason = "see `insert`")]
#[inline(always)]
fn reply(
    frame: &Frame<'_>,
    key: &FlowKey,
    reply_key: &FlowKey,
    ingress: u32,
    listener: u32,
    target_index: u32,
    target: &Target,
    tick: u32,
) -> Flow {
    let deltas = deltas(reply_key, key.destination, key.source, key.destination_port, key.source_port);
    Flow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ip_delta: deltas.ip,
        tcp_delta: deltas.tcp,
        mac_head: frame.eth.source_head.get(),
        mac_tail: frame.eth.source_tail.get(),
        direction: direction::TO_CLIENT,
        state: 0,
        listener,
        target: target_index,
        generation: target.generation,
        ifindex: ingress,
        seen: tick,
        began: tick,
    }
}

/// Source ports that are tried for one SYN. The client's SYN is repeated, and the cursor has moved on by then.
const PORT_TRIES: u32 = 8;
