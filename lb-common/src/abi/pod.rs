//! Permission for aya to copy these types in and out of maps byte by byte.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use super::{
    CaptureFilter, CaptureState, CookieCounters, DecapCounters, DialKey, Dialled, Flow, FlowKey, FragmentKey,
    FragmentPorts, Ipv4Be, Ipv6Be, Listener, ListenerCounters, ListenerKey, PathMtu, PortCursor, Pulse,
    SenderKey, ServerIdKey, SlotWords, SourceKey, SynBudget, TableShape, Target, TargetCounters,
};
use crate::table::{Crossing, Packed};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` or transparent, no padding (sizes are asserted), every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod!(
    DecapCounters,
    CaptureFilter,
    CaptureState,
    DialKey,
    Dialled,
    CookieCounters,
    Crossing,
    Flow<Ipv4Be>,
    Flow<Ipv6Be>,
    FlowKey<Ipv4Be>,
    FlowKey<Ipv6Be>,
    FragmentKey<Ipv4Be>,
    FragmentKey<Ipv6Be>,
    FragmentPorts,
    Ipv4Be,
    Ipv6Be,
    Listener,
    ListenerCounters,
    ListenerKey<Ipv4Be>,
    ListenerKey<Ipv6Be>,
    PathMtu,
    PortCursor,
    Pulse,
    SenderKey,
    ServerIdKey,
    SlotWords<{ Ipv4Be::WORDS }>,
    SlotWords<{ Ipv6Be::WORDS }>,
    SourceKey<Ipv4Be>,
    SourceKey<Ipv6Be>,
    SynBudget,
    TableShape,
    Target,
    TargetCounters,
);
