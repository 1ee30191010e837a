//! Names and sizes of the maps. A name is also the file name of the map's pin.

/// The flow table ([`crate::table`]), IPv4.
pub const FLOWS: &str = "FLOWS";
/// The same, IPv6.
pub const FLOWS6: &str = "FLOWS6";
/// Index of a slot of IPv4 → [`crate::table::Crossing`].
pub const CROSSINGS: &str = "CROSSINGS";
/// One [`super::TableShape`].
pub const TABLE_SHAPE: &str = "TABLE_SHAPE";
/// [`super::Ipv4Be`] → interface index: the load balancers' own addresses.
pub const ADDRESSES: &str = "ADDRESSES";
/// [`super::Ipv6Be`] → interface index.
pub const ADDRESSES6: &str = "ADDRESSES6";
/// [`super::ListenerKey`] → index of the listener, IPv4.
pub const LISTENERS: &str = "LISTENERS";
/// The same, IPv6.
pub const LISTENERS6: &str = "LISTENERS6";
/// Index → [`super::Listener`].
pub const LISTENER_STATE: &str = "LISTENER_STATE";
/// [`super::SourceKey`] by longest prefix → anything: admitted, IPv4.
pub const SOURCES: &str = "SOURCES";
/// The same, IPv6.
pub const SOURCES6: &str = "SOURCES6";
/// Index → [`super::Ring`].
pub const RINGS: &str = "RINGS";
/// Index → [`super::Target`].
pub const TARGETS: &str = "TARGETS";
/// [`super::ServerIdKey`] → index of the target.
pub const SERVER_IDS: &str = "SERVER_IDS";
/// [`super::FragmentKey`] → [`super::FragmentPorts`], IPv4.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// The same, IPv6.
pub const FRAGMENTS6: &str = "FRAGMENTS6";
/// [`crate::packet::Stage`] → the program of that stage; each is named like its stage, in lower case.
pub const PROGRAMS: &str = "PROGRAMS";
/// One [`super::Pulse`].
pub const PULSE: &str = "PULSE";
/// One [`super::SynBudget`] per CPU for each listener, and behind them one for all.
pub const SYN_BUDGET: &str = "SYN_BUDGET";
/// Source address → [`super::SynBudget`], IPv4.
pub const SOURCE_BUDGET: &str = "SOURCE_BUDGET";
/// The same, IPv6.
pub const SOURCE_BUDGET6: &str = "SOURCE_BUDGET6";
/// One [`super::PortCursor`] per CPU.
pub const PORTS: &str = "PORTS";
/// Index of the listener → [`super::ListenerCounters`] per CPU.
pub const LISTENER_COUNTERS: &str = "LISTENER_COUNTERS";
/// Index of the target → [`super::TargetCounters`] per CPU.
pub const TARGET_COUNTERS: &str = "TARGET_COUNTERS";
/// Index of the listener → [`super::CookieCounters`] per CPU.
pub const COOKIE_COUNTERS: &str = "COOKIE_COUNTERS";
/// Index of the listener → tick in which it last sent a SYN cookie; 0 is never.
pub const COOKIE_TICKS: &str = "COOKIE_TICKS";
/// A target's address → [`super::PathMtu`], IPv4.
pub const PATH_MTUS: &str = "PATH_MTUS";
/// The same, IPv6.
pub const PATH_MTUS6: &str = "PATH_MTUS6";
/// [`super::DropReason`] → packets per CPU.
pub const DROPS: &str = "DROPS";

/// The program that is attached in the place of the first while packets are captured.
pub const CAPTURE_PROGRAM: &str = "capture";
/// One [`super::CaptureFilter`], of a capture.
pub const CAPTURE_FILTER: &str = "CAPTURE_FILTER";
/// One [`super::CaptureState`] per CPU, of a capture.
pub const CAPTURE_STATE: &str = "CAPTURE_STATE";
/// [`super::Sample`]s, of a capture.
pub const SAMPLES: &str = "SAMPLES";
/// The packet path's first program, for [`CAPTURE_PROGRAM`].
pub const ENTRANCE: &str = "ENTRANCE";

/// Every map that flows and what is decided about them need.
pub const MAP_NAMES: [&str; 29] = [
    FLOWS,
    FLOWS6,
    CROSSINGS,
    TABLE_SHAPE,
    ADDRESSES,
    ADDRESSES6,
    LISTENERS,
    LISTENERS6,
    LISTENER_STATE,
    SOURCES,
    SOURCES6,
    RINGS,
    TARGETS,
    SERVER_IDS,
    FRAGMENTS,
    FRAGMENTS6,
    PROGRAMS,
    PULSE,
    SYN_BUDGET,
    SOURCE_BUDGET,
    SOURCE_BUDGET6,
    PORTS,
    LISTENER_COUNTERS,
    TARGET_COUNTERS,
    COOKIE_COUNTERS,
    COOKIE_TICKS,
    PATH_MTUS,
    PATH_MTUS6,
    DROPS,
];

/// Entries of a family's flow table, two a flow at most: 131,072 flows in 32 MiB (IPv4) and 64 MiB (IPv6).
pub const MAX_FLOW_ENTRIES: usize = 1 << 18;
/// Slots of a family's flow table: twice the entries, so that keys lie near their homes.
pub const MAX_FLOW_SLOTS: usize = MAX_FLOW_ENTRIES * 2;
/// Addresses: 50 network load balancers a region (AWS quota) in five zones.
pub const MAX_ADDRESSES: usize = 256;
/// Listeners, counted once per address: 50 a load balancer (AWS quota), not on all of them at once.
pub const MAX_LISTENERS: usize = 1024;
/// Source ranges of all listeners: 60 rules a group, five groups (AWS quotas), on some fifty listeners.
pub const MAX_SOURCES: usize = 16_384;
/// Rings, two for each set of targets: 128 KiB each.
pub const MAX_RINGS: usize = 128;
/// QUIC server ids of all listeners.
pub const MAX_SERVER_IDS: usize = 16_384;
/// Datagrams in fragments whose ports are remembered; the oldest makes room.
pub const MAX_FRAGMENTS: usize = 8_192;
/// Source addresses whose new flows are counted; the one that was quiet longest makes room.
pub const MAX_BUDGETED_SOURCES: usize = 65_536;
/// Targets, counted once per address that reaches them: 500 per zone and load balancer (AWS quota).
pub const MAX_TARGETS: usize = 4096;

/// Targets' addresses whose paths were said to take less than our interfaces; the oldest makes room.
pub const MAX_PATH_MTUS: usize = 1024;
/// Seconds for which that is believed (RFC 1191, §6.3).
pub const PATH_MTU_TICKS: u32 = 600;

/// Last source port of NAT. Above begins IANA's dynamic range (RFC 6335, §6), which the node's own sockets use: packets
/// to it that belong to no flow are the kernel's.
pub const LAST_NAT_PORT: u16 = 49_151;
/// First source port of NAT: below are the ports that only privileged processes bind.
pub const FIRST_NAT_PORT: u16 = 1024;

/// Seconds that followers of a first fragment are known for: what a host waits for them (RFC 791's 15 s and more, RFC
/// 8200's 60 s) is longer than any that comes in time takes.
pub const FRAGMENT_TICKS: u32 = 15;

/// Seconds after which a flow whose handshake was not finished makes room.
pub const EMBRYONIC_TICKS: u32 = 10;

/// Seconds for which a SYN cookie is good (Linux: TCP_SYNCOOKIE_VALID).
pub const COOKIE_VALID_TICKS: u32 = 120;
