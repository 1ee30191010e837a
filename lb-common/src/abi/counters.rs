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
    /// RST segments that clients sent.
    pub client_resets: u64,
    /// New flows for which no source port was free; among `rejected` too.
    pub port_errors: u64,
}
const _: () = assert!(size_of::<ListenerCounters>() == 64);

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

/// Of the SYN cookies of one listener.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CookieCounters {
    /// SYNs that were answered with one.
    pub sent: u64,
    /// Segments of no connection that acknowledged one.
    pub valid: u64,
    /// Segments of no connection that acknowledged none, while cookies could have been.
    pub invalid: u64,
}
const _: () = assert!(size_of::<CookieCounters>() == 24);

/// Why a packet for one of our addresses was not forwarded.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DropReason {
    /// It ends inside a header, or before its own length.
    Truncated,
    /// Version, header length or total length contradict each other.
    BadHeader,
    /// It is a fragment whose first fragment was not seen, or one that this kind of flow cannot carry.
    Fragment,
    /// It has IPv6 extension headers other than the fragment header.
    ExtensionHeader,
    /// Its time to live is over.
    TtlExpired,
    /// Neither TCP nor UDP nor what the kernel answers.
    Protocol,
    /// ICMP that is neither the kernel's nor about a flow.
    Icmp,
    /// No listener has this port.
    NoListener,
    /// The load balancer's security groups do not admit the source.
    SecurityGroup,
    /// It resets a flow that we do not know.
    StrayReset,
    /// The listener has no target, and its protocol no way to say so.
    NoTarget,
    /// The target's next hop is not known yet.
    Unresolved,
    /// More new flows than this CPU may begin in a second, or begin for this listener.
    SynFlood,
    /// More new flows than one source may begin in a second.
    SourceLimit,
    /// The flow table is full.
    FlowTableFull,
    /// Every source port that was tried towards this target is in use.
    PortsExhausted,
    /// Another CPU began the same flow at the same moment.
    FlowRace,
    /// It does not fit into a tunnel's packet, or not into the other family's, and its sender was told so.
    TooBig,
    /// It has no form in the other family: IP options, fragments, or no UDP checksum, which IPv6 demands.
    Untranslatable,
    /// Its QUIC connection id names no target.
    UnknownServerId,
    /// A packet in a tunnel that was not made for this target.
    Tunnel,
}

impl DropReason {
    /// All, in order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::Truncated,
        Self::BadHeader,
        Self::Fragment,
        Self::ExtensionHeader,
        Self::TtlExpired,
        Self::Protocol,
        Self::Icmp,
        Self::NoListener,
        Self::SecurityGroup,
        Self::StrayReset,
        Self::NoTarget,
        Self::Unresolved,
        Self::SynFlood,
        Self::SourceLimit,
        Self::FlowTableFull,
        Self::PortsExhausted,
        Self::FlowRace,
        Self::TooBig,
        Self::Untranslatable,
        Self::UnknownServerId,
        Self::Tunnel,
    ];

    /// The reason with this number; the last one for numbers that none has.
    #[inline(always)]
    pub const fn of_index(index: u8) -> Self {
        match index {
            0 => Self::Truncated,
            1 => Self::BadHeader,
            2 => Self::Fragment,
            3 => Self::ExtensionHeader,
            4 => Self::TtlExpired,
            5 => Self::Protocol,
            6 => Self::Icmp,
            7 => Self::NoListener,
            8 => Self::SecurityGroup,
            9 => Self::StrayReset,
            10 => Self::NoTarget,
            11 => Self::Unresolved,
            12 => Self::SynFlood,
            13 => Self::SourceLimit,
            14 => Self::FlowTableFull,
            15 => Self::PortsExhausted,
            16 => Self::FlowRace,
            17 => Self::TooBig,
            18 => Self::Untranslatable,
            19 => Self::UnknownServerId,
            _ => Self::Tunnel,
        }
    }

    /// The word in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadHeader => "bad_header",
            Self::Fragment => "fragment",
            Self::ExtensionHeader => "extension_header",
            Self::TtlExpired => "ttl_expired",
            Self::Protocol => "protocol",
            Self::Icmp => "icmp",
            Self::NoListener => "no_listener",
            Self::SecurityGroup => "security_group",
            Self::StrayReset => "stray_reset",
            Self::NoTarget => "no_target",
            Self::Unresolved => "unresolved",
            Self::SynFlood => "syn_flood",
            Self::SourceLimit => "source_limit",
            Self::FlowTableFull => "flow_table_full",
            Self::PortsExhausted => "ports_exhausted",
            Self::FlowRace => "flow_race",
            Self::TooBig => "too_big",
            Self::Untranslatable => "untranslatable",
            Self::UnknownServerId => "unknown_server_id",
            Self::Tunnel => "tunnel",
        }
    }

    /// Its place in the map of drop counters.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}
