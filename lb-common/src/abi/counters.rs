//! What is counted, per CPU, and why packets are dropped.

/// Of one listener on one interface.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ListenerCounters {
    /// Packets forwarded, both ways.
    pub packets: u64,
    /// Bytes forwarded, both ways, with IP and TCP headers.
    pub bytes: u64,
    /// Flows that were established.
    pub new_flows: u64,
    /// New flows that were refused.
    pub rejected: u64,
    /// RST segments that the load balancer itself sent.
    pub resets: u64,
    /// New flows that security groups refused; not among `rejected`.
    pub blocked: u64,
}
const _: () = assert!(size_of::<ListenerCounters>() == 48);

/// Of one target.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TargetCounters {
    /// Packets forwarded, both ways.
    pub packets: u64,
    /// Bytes forwarded, both ways, with IP and TCP headers.
    pub bytes: u64,
    /// Flows that were established.
    pub new_flows: u64,
    /// RST segments that it sent.
    pub resets: u64,
}
const _: () = assert!(size_of::<TargetCounters>() == 32);

/// Why a packet for one of our addresses was not forwarded.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DropReason {
    /// It ends inside a header, or before its own length.
    Truncated,
    /// Version, header length or total length contradict each other.
    BadHeader,
    /// It is a fragment.
    Fragment,
    /// Its time to live is over.
    TtlExpired,
    /// Neither TCP nor what the kernel answers.
    Protocol,
    /// ICMP other than echo, unreachable and time exceeded.
    Icmp,
    /// No listener has this port.
    NoListener,
    /// The load balancer's security groups do not admit the source.
    SecurityGroup,
    /// It resets a flow that we do not know.
    StrayReset,
    /// The target's next hop is not known yet.
    Unresolved,
    /// More new flows than this CPU may begin in a second.
    SynFlood,
    /// The flow table is full.
    FlowTableFull,
    /// Every source port that was tried towards this target is in use.
    PortsExhausted,
    /// Another CPU began the same flow at the same moment.
    FlowRace,
}

impl DropReason {
    /// All, in order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Truncated,
        Self::BadHeader,
        Self::Fragment,
        Self::TtlExpired,
        Self::Protocol,
        Self::Icmp,
        Self::NoListener,
        Self::SecurityGroup,
        Self::StrayReset,
        Self::Unresolved,
        Self::SynFlood,
        Self::FlowTableFull,
        Self::PortsExhausted,
        Self::FlowRace,
    ];

    /// The word in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadHeader => "bad_header",
            Self::Fragment => "fragment",
            Self::TtlExpired => "ttl_expired",
            Self::Protocol => "protocol",
            Self::Icmp => "icmp",
            Self::NoListener => "no_listener",
            Self::SecurityGroup => "security_group",
            Self::StrayReset => "stray_reset",
            Self::Unresolved => "unresolved",
            Self::SynFlood => "syn_flood",
            Self::FlowTableFull => "flow_table_full",
            Self::PortsExhausted => "ports_exhausted",
            Self::FlowRace => "flow_race",
        }
    }

    /// Its place in the map of drop counters.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}
