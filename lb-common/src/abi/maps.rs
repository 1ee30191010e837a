//! Names and sizes of the maps. A name is also the file name of the map's pin.

/// [`super::FlowKey`] → [`super::Flow`].
pub const FLOWS: &str = "FLOWS";
/// [`super::Ipv4Be`] → interface index: the load balancers' own addresses.
pub const ADDRESSES: &str = "ADDRESSES";
/// [`super::ListenerKey`] → index of the listener.
pub const LISTENERS: &str = "LISTENERS";
/// Index → [`super::Listener`].
pub const LISTENER_STATE: &str = "LISTENER_STATE";
/// [`super::SourceKey`] by longest prefix → anything: admitted.
pub const SOURCES: &str = "SOURCES";
/// Index → [`super::Ring`].
pub const RINGS: &str = "RINGS";
/// Index → [`super::Target`].
pub const TARGETS: &str = "TARGETS";
/// One [`super::Pulse`].
pub const PULSE: &str = "PULSE";
/// One [`super::SynBudget`] per CPU.
pub const SYN_BUDGET: &str = "SYN_BUDGET";
/// One [`super::PortCursor`] per CPU.
pub const PORTS: &str = "PORTS";
/// Index of the listener → [`super::ListenerCounters`] per CPU.
pub const LISTENER_COUNTERS: &str = "LISTENER_COUNTERS";
/// Index of the target → [`super::TargetCounters`] per CPU.
pub const TARGET_COUNTERS: &str = "TARGET_COUNTERS";
/// [`super::DropReason`] → packets per CPU.
pub const DROPS: &str = "DROPS";

/// Every map.
pub const MAP_NAMES: [&str; 13] = [
    FLOWS,
    ADDRESSES,
    LISTENERS,
    LISTENER_STATE,
    SOURCES,
    RINGS,
    TARGETS,
    PULSE,
    SYN_BUDGET,
    PORTS,
    LISTENER_COUNTERS,
    TARGET_COUNTERS,
    DROPS,
];

/// Entries of the flow table, two a flow: 131,072 flows in about 30 MiB.
pub const MAX_FLOW_ENTRIES: usize = 1 << 18;
/// Addresses: 50 network load balancers a region (AWS quota) in five zones.
pub const MAX_ADDRESSES: usize = 256;
/// Listeners, counted once per address: 50 a load balancer (AWS quota), not on all of them at once.
pub const MAX_LISTENERS: usize = 1024;
/// Source ranges of all listeners: 60 rules a group, five groups (AWS quotas), on some fifty listeners.
pub const MAX_SOURCES: usize = 16_384;
/// Rings, two for each set of targets: 128 KiB each.
pub const MAX_RINGS: usize = 128;
/// Targets, counted once per address that reaches them: 500 per zone and load balancer (AWS quota).
pub const MAX_TARGETS: usize = 4096;

/// Last source port of NAT. Above begins IANA's dynamic range (RFC 6335, §6), which the node's own sockets use: packets
/// to it that belong to no flow are the kernel's.
pub const LAST_NAT_PORT: u16 = 49_151;
/// First source port of NAT: below are the ports that only privileged processes bind.
pub const FIRST_NAT_PORT: u16 = 1024;

/// Seconds after which a flow whose handshake was not finished makes room.
pub const EMBRYONIC_TICKS: u32 = 10;
