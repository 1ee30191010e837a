//! Errors about packets that we sent to targets inside others (RFC 2003, §4; RFC 2473, §8): for the client, by the inner
//! header, as if the load balancer had not got its packet through. What a path takes is remembered by target. After `icmp`.

use super::family::{Family, V4, V6};
use super::forward::of_flow;
use super::frame::Other;
use super::message::{self, Said};
use super::rewrite::NextHop;
use super::tables::{Arrival, FamilyTables, Tables};
use super::tunnel;
use super::verdict::Step;
use crate::abi::{DropReason, FlowKey, PortBe, target_mode};
use crate::wire::{Icmp, Ports, Udp, icmp4, icmp6, protocol};

/// Which family the packet inside the quoted one is of, and where it begins.
#[inline(always)]
pub(super) fn inner<F: Family>(packet: &Other<'_, F>) -> Option<(usize, u16)> {
    let header = packet.body + size_of::<Icmp>();
    let quoted = packet.window.view::<F::Header>(header)?;
    let body = header + size_of::<F::Header>();
    match F::carried(quoted)? {
        protocol::IPV4 => Some((body, V4::VERSION)),
        protocol::IPV6 => Some((body, V6::VERSION)),
        protocol::UDP => {
            let inner = body + size_of::<Udp>();
            // The version is where GUE's own header would have its variant.
            let first = packet.window.view::<crate::wire::Raw16>(inner)?;
            Some((inner, first.number() >> 12))
        }
        _ => None,
    }
}

/// Remembers what the path to a target takes, if that is what the error says of a packet of ours.
#[inline(always)]
pub(super) fn learn<F, O, X, T>(packet: &Other<'_, F>, at: &Arrival<'_, O, X, T>)
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let header = packet.body + size_of::<Icmp>();
    let (Some(error), Some(quoted)) =
        (packet.window.view::<Icmp>(packet.body), packet.window.view::<F::Header>(header))
    else {
        return;
    };
    if let Heard::TooBig(mtu) = heard::<F>(error)
        && at.own.address(F::source(quoted)) == Some(at.ingress)
    {
        at.own.learn_mtu(F::destination(quoted), mtu, at.tables.pulse().tick);
    }
}

/// Tells the client whose packet of family `G` is inside the quoted one; [`Step::NO_FLOW`] if too little of it is quoted.
#[inline(never)]
pub(super) fn relay<F, G, P, O, X, T>(
    packet: &Other<'_, F>,
    inner: usize,
    own: &P,
    at: &Arrival<'_, O, X, T>,
) -> Step
where
    F: Family,
    G: Family,
    P: FamilyTables<G>,
    T: Tables,
{
    let header = packet.body + size_of::<Icmp>();
    let (Some(draft), Some(error), Some(outer), Some(quoted), Some(ports)) = (
        own.draft(),
        packet.window.view::<Icmp>(packet.body),
        packet.window.view::<F::Header>(header),
        packet.window.view::<G::Header>(inner),
        packet.window.view::<Ports>(inner + size_of::<G::Header>()),
    ) else {
        return Step::NO_FLOW;
    };
    let Some(carried) = G::carried(quoted) else { return Step::NO_FLOW };
    draft.key.set(FlowKey {
        source: G::source(quoted),
        destination: G::destination(quoted),
        source_port: PortBe(ports.source.get()),
        destination_port: PortBe(ports.destination.get()),
        protocol: u32::from(carried),
    });
    if own.find_draft().is_none() {
        return Step::NO_FLOW;
    }
    let flow = draft.flow.get();
    let Some(target) = of_flow(&draft.flow, at.tables) else { return Step::NO_FLOW };
    // Who tells of a tunnel must know its ends.
    let is_ours = matches!(flow.mode, target_mode::IPIP | target_mode::GUE)
        && F::narrow(target.address) == F::destination(outer)
        && F::narrow(target.via) == F::source(outer)
        && target.family == F::VERSION;
    if !is_ours {
        return Step::NO_FLOW;
    }
    let said = match heard::<F>(error) {
        Heard::TooBig(mtu) => {
            let room = mtu.saturating_sub(u32::from(tunnel::overhead(target)));
            // IPv6 knows of nothing smaller.
            let is_least = G::VERSION == V6::VERSION && room < least_mtu::<V6>();
            Said::too_big::<G>(if is_least { least_mtu::<V6>() } else { room })
        }
        Heard::Unreachable => Said::unreachable::<G>(),
        Heard::Nothing => return Step::drop(DropReason::Icmp),
    };
    let hop = NextHop { egress: flow.ifindex, ..NextHop::to_client(&flow) };
    let (own, client) = (draft.key.get().destination, draft.key.get().source);
    let grow = message::quoted::<G>() as i32 - inner as i32;
    let Some(window) = at.tables.regrow(packet.window, grow) else { return Step::drop(DropReason::Icmp) };
    message::tell::<G>(&window, hop, own, client, said)
}

/// What an error about a packet of ours means for who is inside.
enum Heard {
    TooBig(u32),
    Unreachable,
    Nothing,
}

//= https://www.rfc-editor.org/rfc/rfc2003#section-4
//# the encapsulator may receive ICMP messages from routers within the tunnel
#[inline(always)]
fn heard<F: Family>(error: &Icmp) -> Heard {
    let (kind, code, rest) = (error.kind.get(), error.code.get(), error.rest.number());
    if F::VERSION == V4::VERSION {
        match (kind, code) {
            (icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED) => Heard::TooBig(at_least::<F>(rest & 0xffff)),
            // A source route is nobody's but ours.
            (icmp4::UNREACHABLE, 5) => Heard::Nothing,
            // Nobody inside knows of a protocol or port of the tunnel's, nor of its hops.
            (icmp4::UNREACHABLE | icmp4::TIME_EXCEEDED, _) => Heard::Unreachable,
            _ => Heard::Nothing,
        }
    } else {
        match (kind, code) {
            (icmp6::TOO_BIG, _) => Heard::TooBig(at_least::<F>(rest)),
            (icmp6::UNREACHABLE | icmp6::TIME_EXCEEDED, _) | (icmp6::PARAMETER_PROBLEM, 1) => {
                Heard::Unreachable
            }
            _ => Heard::Nothing,
        }
    }
}

#[inline(always)]
fn at_least<F: Family>(mtu: u32) -> u32 {
    let least = least_mtu::<F>();
    if mtu < least { least } else { mtu }
}

/// What every path takes: less is not believed. Of IPv4 what Linux believes (`min_pmtu`), of IPv6 RFC 8200, §5.
#[inline(always)]
const fn least_mtu<F: Family>() -> u32 {
    if F::VERSION == V4::VERSION { 552 } else { 1_280 }
}
