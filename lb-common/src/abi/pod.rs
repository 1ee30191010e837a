//! Permission for aya to copy these types in and out of maps byte by byte.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use super::{
    Flow, FlowKey, Ipv4Be, Listener, ListenerCounters, ListenerKey, PortCursor, Pulse, SourceKey, SynBudget,
    Target, TargetCounters,
};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` or transparent, no padding (sizes are asserted), every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pod!(
    Flow,
    FlowKey,
    Ipv4Be,
    Listener,
    ListenerCounters,
    ListenerKey,
    PortCursor,
    Pulse,
    SourceKey,
    SynBudget,
    Target,
    TargetCounters,
);
