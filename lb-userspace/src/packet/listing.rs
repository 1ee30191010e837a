//! Flows for people: one line each, by what is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use aya::Pod;
use ipnet::IpNet;
use lb_common::abi::{Flow, FlowKey, Ipv6Be, ListenerKey, SourceKey, Target, state, target_mode};
use serde::{Deserialize, Serialize};

use super::flows;
use super::maps::{Address, FamilyMaps, Maps};
use super::plan::Protocol;
use super::sweep::{BATCH_SLOTS, Half, Place};
use crate::model::id::Arn;

/// Which flows are asked for; what is not said is all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    /// Whose.
    pub client: Option<End>,
    /// At which target.
    pub target: Option<End>,
    /// Of which listener.
    pub listener: Option<FlowListener>,
    /// Through the load balancer's address in this Availability zone.
    pub zone: Option<String>,
    /// TCP or UDP.
    pub protocol: Option<Protocol>,
    /// In which state.
    pub state: Option<FlowState>,
}

/// Addresses and ports: `10.0.0.0/8`, `10.0.1.4`, `10.0.1.4:80`, `[fd00::4]:80` or `:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct End {
    /// The addresses; all if none is said.
    pub range: Option<IpNet>,
    /// The port.
    pub port: Option<u16>,
}

/// A listener by its addresses and ports, or by its ARN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FlowListener {
    /// By what clients connect to.
    End(End),
    /// By its ARN.
    Arn(Arn),
}

/// Not an address, a range, or either with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address, a range such as 10.0.0.0/8, an address with a port, or a port such as :80")]
pub struct EndError(String);

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// Its handshake is not over, or its one UDP packet has no answer.
    Embryonic,
    /// It goes on.
    Established,
    /// One side has finished.
    Closing,
    /// Both have.
    Finished,
    /// One side reset it, or its target is gone.
    Reset,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLine {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// What it connected to.
    pub listener: SocketAddr,
    /// The listener's ARN; none of one that is gone.
    pub listener_arn: Option<Arn>,
    /// The Availability zone of the address that it connected to.
    pub zone: Option<String>,
    /// What the target takes for the client.
    pub source: SocketAddr,
    /// The target.
    pub target: SocketAddr,
    /// How packets come to it: `nat`, `preserve`, `l2`, `ipip`, `gue` or `cross`.
    pub mode: String,
    /// How far it is.
    pub state: FlowState,
    /// Seconds since its last packet.
    pub idle_s: u32,
    /// Seconds since its first.
    pub age_s: u32,
}

/// What entries of flows leave to be known from elsewhere, by index.
pub(super) struct Directory {
    /// Targets.
    pub targets: BTreeMap<u16, Target>,
    /// Listeners: their ARNs, and the zones of their addresses.
    pub listeners: BTreeMap<u32, (Arn, String)>,
    /// The kernel's clock.
    pub tick: u32,
}

impl FlowFilter {
    /// Whether a flow is asked for.
    pub fn matches(&self, line: &FlowLine) -> bool {
        self.client.is_none_or(|end| end.has(line.client))
            && self.target.is_none_or(|end| end.has(line.target))
            && match &self.listener {
                None => true,
                Some(FlowListener::End(end)) => end.has(line.listener),
                Some(FlowListener::Arn(arn)) => line.listener_arn.as_ref() == Some(arn),
            }
            && (self.zone.is_none() || self.zone == line.zone)
            && self.protocol.is_none_or(|protocol| protocol == line.protocol)
            && self.state.is_none_or(|state| state == line.state)
    }
}

impl Directory {
    /// The line of a client's entry, with the entry of its answers if that is in the same table.
    pub(super) fn line<A: Address>(
        &self,
        key: &FlowKey<A>,
        flow: &Flow<A>,
        other: Option<&Flow<A>>,
    ) -> Option<FlowLine> {
        let protocol = Protocol::from_number(u8::try_from(key.protocol).ok()?)?;
        let client = SocketAddr::new(key.source.ip(), key.source_port.number());
        let listener = SocketAddr::new(key.destination.ip(), key.destination_port.number());
        // What leaves in another packet or family has its target's address in the target's entry alone.
        let entry = self.targets.get(&flow.target).filter(|entry| entry.generation == flow.generation);
        let crosses = flow.mode == target_mode::CROSS;
        let is_direct = target_mode::is_direct(flow.mode);
        let (source, target) = match entry {
            Some(entry) if crosses => (
                SocketAddr::new(address(entry, entry.via), flow.source_port.number()),
                SocketAddr::new(address(entry, entry.address), flow.destination_port.number()),
            ),
            Some(entry) if is_direct => {
                (client, SocketAddr::new(address(entry, entry.address), listener.port()))
            }
            _ => (
                SocketAddr::new(flow.source.ip(), flow.source_port.number()),
                SocketAddr::new(flow.destination.ip(), flow.destination_port.number()),
            ),
        };
        let (listener_arn, zone) = self.listeners.get(&flow.listener).cloned().unzip();
        let silence = |flow: &Flow<A>| self.tick.wrapping_sub(flow.seen);
        Some(FlowLine {
            protocol,
            client,
            listener,
            listener_arn,
            zone,
            source,
            target,
            mode: mode_name(flow.mode).to_owned(),
            state: state_of(protocol, flow, other, entry.is_none()),
            idle_s: other.map_or(silence(flow), |other| silence(flow).min(silence(other))),
            age_s: self.tick.wrapping_sub(flow.began),
        })
    }
}

/// The flows of one batch of a walk over both tables that are asked for, and where the walk goes on.
pub(super) fn page(
    maps: &Maps,
    place: Place,
    filter: &FlowFilter,
    directory: &Directory,
) -> (Vec<FlowLine>, Option<Place>) {
    let (lines, next) = match place.0 {
        Half::V4(from) => page_of(&maps.v4, from, filter, directory),
        Half::V6(from) => page_of(&maps.v6, from, filter, directory),
    };
    (lines, place.behind(next))
}

fn page_of<A: Address>(
    maps: &FamilyMaps<A>,
    from: u32,
    filter: &FlowFilter,
    directory: &Directory,
) -> (Vec<FlowLine>, Option<u32>)
where
    ListenerKey<A>: Pod,
    SourceKey<A>: Pod,
{
    let (entries, next) = maps.some_flows(from, BATCH_SLOTS);
    let mut lines = Vec::new();
    // What is said of the state needs both halves.
    let stateless = FlowFilter { state: None, ..filter.clone() };
    for (key, flow) in entries.iter().filter(|(_, flow)| flows::is_request(flow)) {
        if !directory.line(key, flow, None).is_some_and(|line| stateless.matches(&line)) {
            continue;
        }
        let other = flows::has_other_half(flow).then(|| maps.flow(&flow.reverse_key(key.protocol))).flatten();
        lines.extend(directory.line(key, flow, other.as_ref()).filter(|line| filter.matches(line)));
    }
    (lines, next)
}

/// An address of a target's entry.
pub(super) fn address(entry: &Target, wide: Ipv6Be) -> IpAddr {
    if entry.family == 4 { wide.as_v4().ip() } else { wide.ip() }
}

/// The word for one of [`target_mode`].
pub(super) const fn mode_name(mode: u16) -> &'static str {
    match mode {
        target_mode::NAT => "nat",
        target_mode::PRESERVE => "preserve",
        target_mode::L2 => "l2",
        target_mode::IPIP => "ipip",
        target_mode::GUE => "gue",
        target_mode::CROSS => "cross",
        _ => "unknown",
    }
}

fn state_of<A>(protocol: Protocol, flow: &Flow<A>, other: Option<&Flow<A>>, is_dead: bool) -> FlowState {
    let bits = other.map_or(0, |other| other.state);
    let (either, both) = (flow.state | bits, flow.state & bits);
    let confirmed = if protocol == Protocol::Udp { either } else { flow.state };
    if is_dead || either & state::RESET != 0 {
        FlowState::Reset
    } else if both & state::FINISHED != 0 {
        FlowState::Finished
    } else if either & state::FINISHED != 0 {
        FlowState::Closing
    } else if confirmed & state::CONFIRMED != 0 {
        FlowState::Established
    } else {
        FlowState::Embryonic
    }
}

impl End {
    fn has(&self, address: SocketAddr) -> bool {
        self.range.is_none_or(|range| range.contains(&address.ip()))
            && self.port.is_none_or(|port| port == address.port())
    }
}

impl FromStr for End {
    type Err = EndError;

    fn from_str(text: &str) -> Result<Self, EndError> {
        let port = |text: &str| text.parse().map(Some).map_err(|_| EndError(text.to_owned()));
        if let Some(digits) = text.strip_prefix(':').filter(|digits| !digits.starts_with(':')) {
            return Ok(Self { range: None, port: port(digits)? });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { range: Some(address.ip().into()), port: Some(address.port()) });
        }
        let range = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        range.map(|range| Self { range: Some(range), port: None }).map_err(|_| EndError(text.to_owned()))
    }
}

impl FromStr for FlowListener {
    type Err = EndError;

    fn from_str(text: &str) -> Result<Self, EndError> {
        match text.starts_with("arn:") {
            true => Ok(Self::Arn(Arn::from(text.to_owned()))),
            false => text.parse().map(Self::End),
        }
    }
}

impl TryFrom<String> for FlowListener {
    type Error = EndError;

    fn try_from(text: String) -> Result<Self, EndError> {
        text.parse()
    }
}

impl From<FlowListener> for String {
    fn from(listener: FlowListener) -> Self {
        match listener {
            FlowListener::End(end) => end.to_string(),
            FlowListener::Arn(arn) => arn.to_string(),
        }
    }
}

impl TryFrom<String> for End {
    type Error = EndError;

    fn try_from(text: String) -> Result<Self, EndError> {
        text.parse()
    }
}

impl From<End> for String {
    fn from(end: End) -> Self {
        end.to_string()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.range, self.port) {
            (Some(range), Some(port)) => write!(f, "{}", SocketAddr::new(range.addr(), port)),
            (Some(range), None) => write!(f, "{range}"),
            (None, Some(port)) => write!(f, ":{port}"),
            (None, None) => f.write_str("0.0.0.0/0"),
        }
    }
}

impl FromStr for FlowState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "embryonic" => Ok(Self::Embryonic),
            "established" => Ok(Self::Established),
            "closing" => Ok(Self::Closing),
            "finished" => Ok(Self::Finished),
            "reset" => Ok(Self::Reset),
            _ => Err(format!("'{text}' is not embryonic, established, closing, finished or reset")),
        }
    }
}

impl fmt::Display for FlowLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, client, listener, source, target, mode, idle_s, age_s, .. } = self;
        let state = format!("{:?}", self.state).to_lowercase();
        write!(
            f,
            "{protocol} {client} > {listener} | {source} > {target} {mode} {state} idle {idle_s}s age {age_s}s"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> End {
        text.parse().unwrap()
    }

    #[test]
    fn ends_are_addresses_ranges_and_ports() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(end("10.0.0.0/8").has(at("10.1.2.3:4")));
        assert!(!end("10.0.0.0/8").has(at("11.1.2.3:4")));
        assert!(end("10.1.2.3").has(at("10.1.2.3:4")));
        assert!(end("10.1.2.3:4").has(at("10.1.2.3:4")));
        assert!(!end("10.1.2.3:5").has(at("10.1.2.3:4")));
        assert!(end(":4").has(at("[fd00::1]:4")));
        assert!(end("[fd00::1]:4").has(at("[fd00::1]:4")));
        assert!(end("fd00::/16").has(at("[fd00::1]:4")));
        assert!(end("::1").has(at("[::1]:4")), "not a port");
        for text in ["", "x", "10.0.0.1:x", ":99999", "10.0.0.0/33"] {
            assert!(text.parse::<End>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_is_an_end_or_an_arn() {
        for text in ["arn:aws:elasticloadbalancing:r:1:listener/net/a/1/1", "10.1.2.3:4", ":4"] {
            let listener: FlowListener = text.parse().unwrap();
            assert_eq!(matches!(listener, FlowListener::Arn(_)), text.starts_with("arn:"));
            assert_eq!(String::from(listener), text);
        }
        "nobody".parse::<FlowListener>().unwrap_err();
    }

    #[test]
    fn ends_read_as_they_are_written() {
        for text in ["10.0.0.0/8", "10.1.2.3:4", "[fd00::1]:4", ":4", "fd00::/16"] {
            let json = serde_json::to_string(&end(text)).unwrap();
            assert_eq!(serde_json::from_str::<End>(&json).unwrap(), end(text), "{json}");
        }
    }
}
