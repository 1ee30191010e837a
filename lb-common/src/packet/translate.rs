//! Errors about packets that changed their family (RFC 7915, §4.2 and §5.2): for who sent them, in terms of what was sent.
//! After `icmp`.

use super::cross;
use super::family::{Family, V4};
use super::forward::of_flow;
use super::frame::Other;
use super::message::{self, Said};
use super::rewrite::NextHop;
use super::tables::{Arrival, FamilyTables, Tables};
use super::verdict::Step;
use crate::abi::{DropReason, direction, target_state};
use crate::wire::{Icmp, Ports, icmp4, icmp6};

/// Sends an error about the flow that is drafted, which goes where its packets go, as one of the other family.
#[inline(never)]
pub(super) fn carry<F, O, X, T>(packet: &Other<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let untranslatable = Step::drop(DropReason::Untranslatable);
    let header = packet.body + size_of::<Icmp>();
    let body = header + size_of::<F::Header>();
    let (Some(draft), Some(error), Some(quoted), Some(ports)) = (
        at.own.draft(),
        packet.window.view::<Icmp>(packet.body),
        packet.window.view::<F::Header>(header),
        packet.window.view::<Ports>(body),
    ) else {
        return untranslatable;
    };
    if F::hops(packet.ip) <= 1 {
        return Step::drop(DropReason::TtlExpired);
    }
    let own = Said { kind: error.kind.get(), code: error.code.get(), rest: error.rest.number() };
    let (Some(said), Some(protocol)) = (translate::<F>(own), F::carried(quoted)) else {
        return untranslatable;
    };
    let flow = draft.flow.get();
    let hop = if flow.direction == direction::TO_TARGET {
        let ready = of_flow(&draft.flow, at.tables).filter(|target| target.state == target_state::READY);
        let Some(target) = ready else { return Step::drop(DropReason::Unresolved) };
        NextHop::to_target(target)
    } else {
        NextHop::to_client(&flow)
    };
    let (from, to) = match cross::ends::<F, T>(&draft.flow, at.tables) {
        Ok(ends) => ends,
        Err(reason) => return Step::drop(reason),
    };
    // What the quoted packet was when it was sent: the other way round of what the flow makes of answers.
    ports.source.set(flow.destination_port.0);
    ports.destination.set(flow.source_port.0);
    let (class, hops) = (F::class(quoted), F::hops(quoted));
    let length = F::total(quoted).wrapping_sub(size_of::<F::Header>() as u16);
    let place = message::quoted::<F::Other>() + size_of::<<F::Other as Family>::Header>();
    let Some(window) = at.tables.regrow(packet.window, place as i32 - body as i32) else {
        return Step::drop(DropReason::TooBig);
    };
    let Some(quoted) = window.view::<<F::Other as Family>::Header>(message::quoted::<F::Other>()) else {
        return untranslatable;
    };
    let narrow = <F::Other as Family>::narrow;
    let (from, to) = (narrow(from), narrow(to));
    <F::Other as Family>::write(quoted, to, from, protocol, class, hops, length);
    message::tell::<F::Other>(&window, hop, from, to, said)
}

/// What an error says in terms of the other family; none if it has no word for it.
#[inline(always)]
fn translate<F: Family>(own: Said) -> Option<Said> {
    if F::VERSION == V4::VERSION { to_v6(own) } else { to_v4(own) }
}

//= https://www.rfc-editor.org/rfc/rfc7915#section-4.2
//# Translate the Code field and the Type field
fn to_v6(own: Said) -> Option<Said> {
    let unreachable = |code| Some(Said { kind: icmp6::UNREACHABLE, code, rest: 0 });
    match (own.kind, own.code) {
        (icmp4::UNREACHABLE, 2) => Some(Said { kind: icmp6::PARAMETER_PROBLEM, code: 1, rest: 6 }),
        (icmp4::UNREACHABLE, 3) => unreachable(4),
        (icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED) => {
            // Routers before RFC 1191 say nothing: the least that IPv6 has.
            let mtu = (own.rest & 0xffff) + GROWTH;
            Some(Said { kind: icmp6::TOO_BIG, code: 0, rest: if mtu < LEAST_MTU { LEAST_MTU } else { mtu } })
        }
        (icmp4::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => unreachable(0),
        (icmp4::UNREACHABLE, 9 | 10 | 13 | 15) => unreachable(1),
        (icmp4::TIME_EXCEEDED, code) => Some(Said { kind: icmp6::TIME_EXCEEDED, code, rest: 0 }),
        (icmp4::PARAMETER_PROBLEM, 0 | 2) => {
            let rest = match own.rest >> 24 {
                at @ (0 | 1) => at,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            Some(Said { kind: icmp6::PARAMETER_PROBLEM, code: 0, rest })
        }
        _ => None,
    }
}

//= https://www.rfc-editor.org/rfc/rfc7915#section-5.2
//# Translate the Code field and the Type field
fn to_v4(own: Said) -> Option<Said> {
    let unreachable = |code| Some(Said { kind: icmp4::UNREACHABLE, code, rest: 0 });
    match (own.kind, own.code) {
        (icmp6::UNREACHABLE, 0 | 2 | 3) => unreachable(icmp4::HOST_UNREACHABLE),
        (icmp6::UNREACHABLE, 1) => unreachable(10),
        (icmp6::UNREACHABLE, 4) => unreachable(3),
        (icmp6::TOO_BIG, _) => {
            // No more than the 16 bits that IPv4 has for it.
            let mtu = own.rest.saturating_sub(GROWTH);
            let rest = if mtu > 0xffff { 0xffff } else { mtu };
            Some(Said { kind: icmp4::UNREACHABLE, code: icmp4::FRAGMENTATION_NEEDED, rest })
        }
        (icmp6::TIME_EXCEEDED, code) => Some(Said { kind: icmp4::TIME_EXCEEDED, code, rest: 0 }),
        (icmp6::PARAMETER_PROBLEM, 0) => {
            let at = match own.rest {
                at @ (0 | 1) => at,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            Some(Said { kind: icmp4::PARAMETER_PROBLEM, code: 0, rest: at << 24 })
        }
        (icmp6::PARAMETER_PROBLEM, 1) => unreachable(2),
        _ => None,
    }
}

/// What a packet grows by when it becomes IPv6.
const GROWTH: u32 = 20;
/// Of IPv6 (RFC 8200, §5).
const LEAST_MTU: u32 = 1_280;
