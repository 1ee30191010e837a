//! `steer`: one packet and the tables in, the rewritten packet and a verdict out.
//!
//! The path through the files is the path of a packet. Established packets find their flow before anything else is
//! asked; what belongs to no flow is looked at by `admit`, and may begin one.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "parts of words are taken on purpose, and a checked conversion is a branch that no packet needs"
)]

/// What a packet becomes.
mod verdict;
/// The tables that decide, over maps in the kernel and over `HashMap`s on the host.
mod tables;
/// What IPv4 and IPv6 have in common.
mod family;
/// Headers to a checked frame.
mod frame;
/// Packets of a known flow.
mod forward;
/// Packets of no flow: whose they are, and whether one may begin.
mod admit;
/// SYN floods of listeners that end in userspace.
mod cookie;
/// The first packet of a flow.
mod begin;
/// Hash and ring: which target gets a new flow.
mod select;
/// Clients on the node itself: whom their sockets get.
mod dial;
/// QUIC's connection ids: which target has a flow already.
mod quic;
/// Both entries of a new flow, and its source port.
mod nat;
/// New addresses, ports, MACs and checksums in place.
mod rewrite;
/// A packet of the other family.
mod cross;
/// Packets as they are, to targets that answer past us.
mod tunnel;
/// At such a target: out of what they were sent in.
mod decap;
/// Later fragments.
mod fragment;
/// Errors about packets of flows.
mod icmp;
/// Errors about packets that changed their family.
mod translate;
/// Errors about packets inside others.
mod unwrap;
/// Errors that we write.
mod message;
/// A RST from a packet's own numbers.
mod reset;
/// Which packets a capture samples.
pub mod capture;

pub use decap::{Tunneled, decapsulate};
pub use dial::{Dial, dial};
pub use family::{Family, V4, V6};
pub use select::{flow_hash, source_hash};
pub use tables::{Acknowledged, Budget, Draft, FamilyTables, Handshake, InsertError, Note, Tables};
pub use verdict::Verdict;

use crate::abi::DropReason;
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Window};
use frame::{Parse, Parsed};
use tables::Arrival;
use verdict::Step;

/// Decides about one packet that came in by the interface `ingress`, rewrites it if it is forwarded, and counts it.
pub fn steer<T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Verdict {
    let mut outcome = hasten(window, ingress, tables);
    loop {
        outcome = match outcome {
            Outcome::Done(verdict) => return verdict,
            Outcome::Next(Stage::Ponder4) => ponder::<V4, T>(window, ingress, tables),
            Outcome::Next(Stage::Ponder6) => ponder::<V6, T>(window, ingress, tables),
            Outcome::Next(Stage::Stray4) => stray::<V4, T>(window, ingress, tables),
            Outcome::Next(Stage::Stray6) => stray::<V6, T>(window, ingress, tables),
            Outcome::Next(Stage::Admit4) => admit::<V4, T>(window, ingress, tables),
            Outcome::Next(Stage::Admit6) => admit::<V6, T>(window, ingress, tables),
            Outcome::Next(Stage::Cookie4) => cookie::<V4, T>(window, ingress, tables),
            Outcome::Next(Stage::Cookie6) => cookie::<V6, T>(window, ingress, tables),
            Outcome::Next(Stage::Begin4) => begin::<V4, T>(window, ingress, tables),
            Outcome::Next(Stage::Begin6) => begin::<V6, T>(window, ingress, tables),
        }
    }
}

/// What a stage says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All is done and counted.
    Done(Verdict),
    /// The packet is untouched, and another stage decides.
    Next(Stage),
}

/// The stages behind the first. Each is a program of its own in the kernel, which gives every program 512 bytes of stack;
/// and what is apart costs established packets nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Stage {
    /// [`ponder`], IPv4.
    Ponder4,
    /// [`ponder`], IPv6.
    Ponder6,
    /// [`stray`], IPv4.
    Stray4,
    /// [`stray`], IPv6.
    Stray6,
    /// [`admit`], IPv4.
    Admit4,
    /// [`admit`], IPv6.
    Admit6,
    /// [`cookie`], IPv4.
    Cookie4,
    /// [`cookie`], IPv6.
    Cookie6,
    /// [`begin`], IPv4.
    Begin4,
    /// [`begin`], IPv6.
    Begin6,
}

impl Stage {
    /// All, by their numbers, with the names of their programs.
    pub const PROGRAMS: [(Self, &'static str); 10] = [
        (Self::Ponder4, "ponder4"),
        (Self::Ponder6, "ponder6"),
        (Self::Stray4, "stray4"),
        (Self::Stray6, "stray6"),
        (Self::Admit4, "admit4"),
        (Self::Admit6, "admit6"),
        (Self::Cookie4, "cookie4"),
        (Self::Cookie6, "cookie6"),
        (Self::Begin4, "begin4"),
        (Self::Begin6, "begin6"),
    ];
}

/// A family that all stages can work on, over tables of both families.
#[expect(
    private_bounds,
    private_interfaces,
    reason = "the families are sealed, and only this module arrives"
)]
pub trait Staged<T>: Parse {
    /// The tables as this family's.
    type Own: FamilyTables<Self>;
    /// The tables as the other family's.
    type Across: FamilyTables<Self::Other>;
    /// The stage that admits its packets.
    const ADMIT: Stage;
    /// The stage that answers its SYN floods.
    const COOKIE: Stage;
    /// The stage that begins its flows.
    const BEGIN: Stage;
    /// The tables, thrice.
    fn arrival(tables: &T, ingress: u32) -> Arrival<'_, Self::Own, Self::Across, T>;
}

#[expect(private_interfaces, reason = "see the trait")]
impl<T: Tables> Staged<T> for V4 {
    type Own = T;
    type Across = T;
    const ADMIT: Stage = Stage::Admit4;
    const COOKIE: Stage = Stage::Cookie4;
    const BEGIN: Stage = Stage::Begin4;

    #[inline(always)]
    fn arrival(tables: &T, ingress: u32) -> Arrival<'_, T, T, T> {
        Arrival { ingress, own: tables, other: tables, tables }
    }
}

#[expect(private_interfaces, reason = "see the trait")]
impl<T: Tables> Staged<T> for V6 {
    type Own = T;
    type Across = T;
    const ADMIT: Stage = Stage::Admit6;
    const COOKIE: Stage = Stage::Cookie6;
    const BEGIN: Stage = Stage::Begin6;

    #[inline(always)]
    fn arrival(tables: &T, ingress: u32) -> Arrival<'_, T, T, T> {
        Arrival { ingress, own: tables, other: tables, tables }
    }
}

/// The first stage: packets of established flows.
#[inline(always)]
pub fn hasten<T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Outcome {
    let Some(eth) = window.view::<Eth>(0) else {
        return done(Step::drop(DropReason::Truncated), tables);
    };
    let hastened = |step: Option<Step>, stage| match step {
        Some(step) => Outcome::Done(step.verdict()),
        None => Outcome::Next(stage),
    };
    match eth.ethertype.get() {
        ETHERTYPE_IPV4 => match V4::parse(window, eth, tables) {
            Parsed::Whole(frame) => {
                hastened(forward::hasten(&frame, &V4::arrival(tables, ingress)), Stage::Ponder4)
            }
            _ => Outcome::Next(Stage::Stray4),
        },
        ETHERTYPE_IPV6 => match V6::parse(window, eth, tables) {
            Parsed::Whole(frame) => {
                hastened(forward::hasten(&frame, &V6::arrival(tables, ingress)), Stage::Ponder6)
            }
            _ => Outcome::Next(Stage::Stray6),
        },
        // ARP, and frames with tags: they are for interfaces above this one.
        _ => Outcome::Done(Verdict::Pass),
    }
}

/// The second stage of TCP and UDP: flows whose packets take more than rewriting.
#[inline(always)]
pub fn ponder<F: Staged<T>, T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Outcome {
    let Some(frame) = frame::<F, T>(window, tables) else { return Outcome::Done(Verdict::Pass) };
    match forward::forward(&frame, &F::arrival(tables, ingress)) {
        Step::NO_FLOW => Outcome::Next(F::ADMIT),
        Step::RESET => done(reset::answer(&frame, ingress), tables),
        Step::TOO_BIG => done(tunnel::answer::<F, _, _, _>(window, &F::arrival(tables, ingress)), tables),
        step => done(step, tables),
    }
}

/// The second stage of everything else: later fragments, errors about flows, what is not what it says, and what is not
/// TCP or UDP.
#[inline(always)]
pub fn stray<F: Staged<T>, T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Outcome {
    let at = F::arrival(tables, ingress);
    let Some(eth) = window.view::<Eth>(0) else { return Outcome::Done(Verdict::Pass) };
    let step = match F::parse(window, eth, tables) {
        Parsed::Whole(_) => Step::PASS,
        Parsed::Follower(packet) => match fragment::follow(&packet, window, &at) {
            Step::TOO_BIG => tunnel::answer::<F, _, _, _>(window, &at),
            step => step,
        },
        Parsed::Other(packet) => match admit::other(&packet, &at) {
            Step::TRANSLATE => translate::carry(&packet, &at),
            Step::UNWRAP => {
                unwrap::learn(&packet, &at);
                let told = match unwrap::inner(&packet) {
                    Some((inner, V4::VERSION)) => {
                        unwrap::relay::<F, V4, _, _, _, _>(&packet, inner, tables, &at)
                    }
                    Some((inner, V6::VERSION)) => {
                        unwrap::relay::<F, V6, _, _, _, _>(&packet, inner, tables, &at)
                    }
                    _ => Step::NO_FLOW,
                };
                if told == Step::NO_FLOW { Step::PASS } else { told }
            }
            step => step,
        },
        Parsed::Bad(header, reason) => admit::bad::<F, _>(header, reason, at.own),
    };
    done(step, tables)
}

/// The third stage: packets of no flow.
#[inline(always)]
pub fn admit<F: Staged<T>, T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Outcome {
    let Some(frame) = frame::<F, T>(window, tables) else { return Outcome::Done(Verdict::Pass) };
    match admit::admit(&frame, &F::arrival(tables, ingress)) {
        Step::NO_FLOW => Outcome::Next(F::BEGIN),
        Step::COOKIE => Outcome::Next(F::COOKIE),
        Step::RESET => done(reset::answer(&frame, ingress), tables),
        step => done(step, tables),
    }
}

/// The stage of floods of listeners that end in userspace.
#[inline(always)]
pub fn cookie<F: Staged<T>, T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Outcome {
    let Some(frame) = frame::<F, T>(window, tables) else { return Outcome::Done(Verdict::Pass) };
    match cookie::judge(&frame, &F::arrival(tables, ingress)) {
        Step::RESET => done(reset::answer(&frame, ingress), tables),
        step => done(step, tables),
    }
}

/// The last stage: a flow begins.
#[inline(always)]
pub fn begin<F: Staged<T>, T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Outcome {
    let Some(frame) = frame::<F, T>(window, tables) else { return Outcome::Done(Verdict::Pass) };
    let at = F::arrival(tables, ingress);
    match begin::begin(&frame, &at) {
        Step::TOO_BIG => done(tunnel::answer::<F, _, _, _>(window, &at), tables),
        step => done(step, tables),
    }
}

/// The packet as an earlier stage found it.
#[inline(always)]
fn frame<'packet, F: Staged<T>, T: Tables>(
    window: &'packet Window<'packet>,
    tables: &T,
) -> Option<frame::Frame<'packet, F>> {
    match F::parse(window, window.view::<Eth>(0)?, tables) {
        Parsed::Whole(frame) => Some(frame),
        _ => None,
    }
}

#[inline(always)]
fn done<T: Tables>(step: Step, tables: &T) -> Outcome {
    if let Some(reason) = step.dropped() {
        tables.count_drop(reason);
    }
    Outcome::Done(step.verdict())
}
