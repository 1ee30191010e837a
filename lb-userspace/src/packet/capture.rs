//! Packets as they came, for whoever asks: what may be asked, and the program that looks.
//!
//! A capture is a second load of the object over the pinned maps, with a filter, a ring and counters of its own, put on
//! the interfaces in the place of the first program. When it ends, the first program is put back and the rest is gone:
//! without a capture nothing of it is in a packet's way or in memory.
#![expect(unsafe_code, reason = "waiting for a descriptor has no safe wrapper")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues, ProgramArray, RingBuf};
use aya::programs::{ProgramError, Xdp};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use lb_common::abi::{
    self, CaptureFilter, CaptureState, DropReason, Ipv6Be, MAX_LISTENERS, SNAP_MAX, SampleHead,
    capture_verdict,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use super::load::{self, LoadError};
use super::maps::{MapsError, cpus};
use super::plan::ListenerName;
use crate::model::id::Arn;

/// Which packets are asked for; what is not said is all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureQuestion {
    /// Words of [`DropReason`]; packets that are not dropped have none.
    pub drop_reasons: Vec<String>,
    /// What became of them.
    pub verdicts: Vec<Became>,
    /// Of which listener, both ways.
    pub listener: Option<WhichListener>,
    /// From which addresses.
    pub source: Option<IpNet>,
    /// One in so many packets of a CPU.
    pub every: u32,
    /// How many at most.
    pub count: u32,
    /// How long at most.
    pub seconds: u32,
    /// How many at most a second of a CPU.
    pub per_second: u32,
    /// Bytes of each at most.
    pub snap: u32,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Became {
    /// The kernel got it.
    Pass,
    /// It ended.
    Drop,
    /// It, or an answer to it, was sent.
    Transmit,
}

/// A listener by its ARN, or by one of its addresses with the port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WhichListener {
    /// An address and a port.
    At(SocketAddr),
    /// An ARN.
    Arn(Arn),
}

/// A packet of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// The device that it came in by.
    pub device: String,
    /// What became of it.
    pub verdict: Became,
    /// Why it was dropped.
    pub reason: Option<String>,
    /// Bytes that came.
    pub length: u32,
    /// The first of them, base64.
    pub data: String,
}

/// What a capture did in the end, all CPUs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Packets that were asked for.
    pub matched: u64,
    /// Of those, samples that were taken.
    pub sampled: u64,
    /// Of those, packets that were more than a second may have.
    pub limited: u64,
    /// Samples that were lost because nobody fetched them in time.
    pub lost: u64,
}

/// Why packets are not captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// One capture at a time.
    #[error("another capture is under way on this node")]
    Busy,
    /// Something that is asked for is out of its bounds.
    #[error("{0}")]
    Question(String),
    /// There is no such listener on this node.
    #[error("no listener of a network load balancer on this node is {0}")]
    NoListener(String),
    /// The program that looks.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program that looks, or the one it calls.
    #[error("loading the program that captures")]
    Program(#[from] ProgramError),
    /// Its maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// Its ring.
    #[error("listening to the ring of samples")]
    Ring(#[source] io::Error),
}

/// A capture under way, as its node holds it.
pub(super) struct Capture {
    ebpf: Ebpf,
    // Kept in the file system: the kernel empties such a map when its last holder ends, and packets go through it.
    pin: PathBuf,
    until: Instant,
    tap: Weak<()>,
}

/// Where its asker gets the samples. The capture ends soon after this is dropped.
pub struct Tap {
    ring: AsyncFd<RingBuf<MapData>>,
    state: PerCpuArray<MapData, CaptureState>,
    devices: BTreeMap<u32, String>,
    /// What the monotonic clock was behind the other when the capture began.
    clock: Duration,
    left: u32,
    _held: Arc<()>,
}

impl CaptureQuestion {
    /// Whether everything is in its bounds.
    ///
    /// # Errors
    /// Names what is not.
    pub fn check(&self) -> Result<(), CaptureError> {
        let within = |name: &str, value: u32, most: u32| match value {
            0 => Err(CaptureError::Question(format!("{name} must be at least 1"))),
            _ if value > most => Err(CaptureError::Question(format!("{name} must be at most {most}"))),
            _ => Ok(()),
        };
        within("sample", self.every, u32::MAX)?;
        within("count", self.count, MAX_COUNT)?;
        within("seconds", self.seconds, MAX_SECONDS)?;
        within("rate", self.per_second, MAX_PER_SECOND)?;
        within("snap", self.snap, u32::try_from(SNAP_MAX).unwrap_or(u32::MAX))?;
        self.reasons().map(drop)
    }

    /// The same for the kernel.
    pub(super) fn filter(
        &self,
        listeners: impl IntoIterator<Item = (ListenerName, Arn, u32)>,
        tick: u32,
    ) -> Result<CaptureFilter, CaptureError> {
        let reasons = self.reasons()?;
        // Who names a reason wants what was dropped for it.
        let dropped: &[Became] = &[Became::Drop];
        let wanted = match self.verdicts.as_slice() {
            [] if !self.drop_reasons.is_empty() => dropped,
            [] => &[Became::Pass, Became::Drop, Became::Transmit],
            some => some,
        };
        let (family, source, source_mask) = range(self.source);
        Ok(CaptureFilter {
            reasons,
            listeners: self.indices(listeners)?,
            is_of_listeners: u32::from(self.listener.is_some()),
            verdicts: wanted.iter().fold(0, |bits, became| bits | u32::from(became.bit())),
            family,
            every: self.every,
            per_tick: self.per_second,
            count: self.count,
            began: tick,
            // The second under way is one of them.
            ticks: self.seconds.saturating_add(1),
            snap: self.snap,
            pad: 0,
            source,
            source_mask,
        })
    }

    fn indices(
        &self,
        listeners: impl IntoIterator<Item = (ListenerName, Arn, u32)>,
    ) -> Result<[u64; MAX_LISTENERS / 64], CaptureError> {
        let mut bits = [0_u64; MAX_LISTENERS / 64];
        let Some(which) = &self.listener else { return Ok(bits) };
        for (name, arn, index) in listeners {
            let is_wanted = match which {
                WhichListener::At(at) => at.ip() == name.address && at.port() == name.port,
                WhichListener::Arn(wanted) => *wanted == arn,
            };
            if let Some(word) = bits.get_mut(index as usize / 64).filter(|_| is_wanted) {
                *word |= 1 << (index % 64);
            }
        }
        match bits.iter().any(|word| *word != 0) {
            true => Ok(bits),
            false => Err(CaptureError::NoListener(which.to_string())),
        }
    }

    fn reasons(&self) -> Result<u64, CaptureError> {
        if self.drop_reasons.is_empty() {
            return Ok(u64::MAX);
        }
        self.drop_reasons.iter().try_fold(0, |bits, word| {
            let reason = DropReason::ALL.into_iter().find(|reason| reason.name() == word);
            let reason = reason.ok_or_else(|| {
                let all = DropReason::ALL.map(DropReason::name).join(", ");
                CaptureError::Question(format!("'{word}' is no drop reason; there are {all}"))
            })?;
            Ok(bits | 1 << reason.index())
        })
    }
}

impl Capture {
    /// Loads the program that looks over the maps that are pinned in `directory`, to call `path`.
    pub(super) fn begin(
        directory: &Path,
        object: &[u8],
        path: &Xdp,
        filter: &CaptureFilter,
        devices: BTreeMap<u32, String>,
        until: Instant,
    ) -> Result<(Self, Tap), CaptureError> {
        let pin = directory.join(PIN);
        // Of a process that ended while it captured.
        let _ = fs::remove_file(&pin);
        let mut ebpf = load::load_capture(directory, object, &pin)?;
        // Programs are loaded with the maps' descriptors, so those are taken after that.
        load::named(&mut ebpf, abi::CAPTURE_PROGRAM)?.load()?;
        let held = Arc::new(());
        let capture = |ebpf| Self { ebpf, pin, until, tap: Arc::downgrade(&held) };
        let mut filters: Array<MapData, CaptureFilter> = take(&mut ebpf, abi::CAPTURE_FILTER)?;
        filters.set(0, filter, 0).map_err(MapsError::from)?;
        let mut state: PerCpuArray<MapData, CaptureState> = take(&mut ebpf, abi::CAPTURE_STATE)?;
        let fresh = PerCpuValues::try_from(vec![CaptureState::default(); cpus()?]).map_err(MapError::from);
        state.set(0, fresh.map_err(MapsError::from)?, 0).map_err(MapsError::from)?;
        let mut entrance: ProgramArray<MapData> = take(&mut ebpf, abi::ENTRANCE)?;
        entrance.set(0, path.fd()?, 0).map_err(MapsError::from)?;
        let ring: RingBuf<MapData> = take(&mut ebpf, abi::SAMPLES)?;
        let ring = watch(ring).map_err(CaptureError::Ring)?;
        let left = filter.count;
        let tap = Tap { ring, state, devices, clock: clock(), left, _held: Arc::clone(&held) };
        Ok((capture(ebpf), tap))
    }

    /// The program that is attached while this goes on.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, LoadError> {
        load::named(&mut self.ebpf, abi::CAPTURE_PROGRAM)
    }

    /// Whether its time is over, or nobody asks any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until || self.tap.strong_count() == 0
    }

    /// What is removed once no interface has its program.
    pub(super) fn remove(self) {
        remove_pin(&self.pin);
    }
}

/// What a process left that ended while it captured, once no interface has that program.
pub(super) fn remove_remains(directory: &Path) {
    remove_pin(&directory.join(PIN));
}

fn remove_pin(pin: &Path) {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %pin.display(), %error, "cannot remove what a capture pinned");
        }
        _ => {}
    }
}

impl Tap {
    /// Waits for samples; none when all that were asked for were there. Cancel safe.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub async fn samples(&mut self) -> io::Result<Vec<CapturedPacket>> {
        loop {
            // What came before the ring was waited for wakes nobody.
            let packets = self.rest();
            if !packets.is_empty() || self.left == 0 {
                return Ok(packets);
            }
            self.ring.readable_mut().await?.clear_ready();
        }
    }

    /// Samples that are there already, a bounded number of them.
    pub fn rest(&mut self) -> Vec<CapturedPacket> {
        let mut packets = Vec::new();
        while packets.len() < BATCH && self.left > 0 {
            let Some(item) = self.ring.get_mut().next() else { break };
            if let Some(packet) = packet(&item, &self.devices, self.clock) {
                packets.push(packet);
                self.left -= 1;
            }
        }
        packets
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn tally(&self) -> Result<Tally, MapsError> {
        let cpus = self.state.get(&0, 0)?;
        Ok(cpus.iter().fold(Tally::default(), |sum, cpu| Tally {
            matched: sum.matched + cpu.matched,
            sampled: sum.sampled + u64::from(cpu.taken),
            limited: sum.limited + cpu.limited,
            lost: sum.lost + cpu.lost,
        }))
    }
}

fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: a `RingBuf` keeps its map's descriptor open and the same until it is dropped, which `AsyncFd` does last.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// A sample as the ring has it: a head, and the bytes that it says.
fn packet(item: &[u8], devices: &BTreeMap<u32, String>, clock: Duration) -> Option<CapturedPacket> {
    let (head, bytes) = item.split_at_checked(size_of::<SampleHead>())?;
    let word = |at: usize| Some(u32::from_ne_bytes(*head.get(at..)?.first_chunk()?));
    let at_ns = Duration::from_nanos(u64::from_ne_bytes(*head.first_chunk()?)) + clock;
    let (length, kept, ifindex) = (word(8)?, word(12)?, word(16)?);
    let (verdict, reason) = (Became::of_bit(*head.get(20)?)?, *head.get(21)?);
    let reason = DropReason::ALL.get(usize::from(reason)).filter(|_| verdict == Became::Drop);
    Some(CapturedPacket {
        at_ns: u64::try_from(at_ns.as_nanos()).unwrap_or(u64::MAX),
        device: devices.get(&ifindex).cloned().unwrap_or_else(|| ifindex.to_string()),
        verdict,
        reason: reason.map(|reason| reason.name().to_owned()),
        length,
        data: STANDARD.encode(bytes.get(..usize::try_from(kept).ok()?)?),
    })
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing { name })?;
    Ok(T::try_from(map)?)
}

/// Family, first address and mask of a range; zeros for all.
fn range(range: Option<IpNet>) -> (u32, Ipv6Be, Ipv6Be) {
    let wide = |address| match address {
        IpAddr::V4(address) => Ipv6Be::of_v4(address.into()),
        IpAddr::V6(address) => address.into(),
    };
    match range {
        None => (0, Ipv6Be::default(), Ipv6Be::default()),
        Some(range) => {
            let family = if range.network().is_ipv4() { 4 } else { 6 };
            (family, wide(range.network()), wide(range.netmask()))
        }
    }
}

/// What the monotonic clock is behind the time since 1970.
fn clock() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.saturating_sub(monotonic)
}

impl Became {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Transmit => "transmit",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Pass => capture_verdict::PASS,
            Self::Drop => capture_verdict::DROP,
            Self::Transmit => capture_verdict::TRANSMIT,
        }
    }

    const fn of_bit(bit: u8) -> Option<Self> {
        match bit {
            capture_verdict::PASS => Some(Self::Pass),
            capture_verdict::DROP => Some(Self::Drop),
            capture_verdict::TRANSMIT => Some(Self::Transmit),
            _ => None,
        }
    }
}

impl FromStr for Became {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Pass, Self::Drop, Self::Transmit];
        let found = all.into_iter().find(|became| became.name() == text);
        found.ok_or_else(|| format!("'{text}' is not pass, drop or transmit"))
    }
}

impl FromStr for WhichListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        match text.starts_with("arn:") {
            true => Ok(Self::Arn(Arn::from(text.to_owned()))),
            false => Err(format!("'{text}' is neither an ARN nor an address with a port")),
        }
    }
}

impl std::fmt::Display for WhichListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(at) => std::fmt::Display::fmt(at, f),
            Self::Arn(arn) => std::fmt::Display::fmt(arn, f),
        }
    }
}

/// Samples of one capture.
const MAX_COUNT: u32 = 1_000_000;
/// An hour.
const MAX_SECONDS: u32 = 3_600;
/// Samples a second of one CPU; more would cost a busy CPU more than a tenth.
const MAX_PER_SECOND: u32 = 100_000;
/// Samples that are fetched at once.
const BATCH: usize = 256;
/// File name of the entrance's pin, in the node's directory of pins.
const PIN: &str = "capture";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    fn question() -> CaptureQuestion {
        CaptureQuestion {
            drop_reasons: Vec::new(),
            verdicts: Vec::new(),
            listener: None,
            source: None,
            every: 1,
            count: 10,
            seconds: 10,
            per_second: 10,
            snap: 256,
        }
    }

    fn listeners() -> Vec<(ListenerName, Arn, u32)> {
        let name = |address: &str, port, protocol| ListenerName {
            address: address.parse().unwrap(),
            port,
            protocol,
        };
        let arn = |text: &str| Arn::from(text.to_owned());
        vec![
            (name("10.0.1.4", 80, Protocol::Tcp), arn("arn:a"), 3),
            (name("fd00::4", 80, Protocol::Tcp), arn("arn:a"), 70),
            (name("10.0.1.4", 53, Protocol::Udp), arn("arn:b"), 4),
        ]
    }

    #[test]
    fn a_question_that_says_nothing_asks_for_everything() {
        let filter = question().filter(listeners(), 7).unwrap();
        assert_eq!((filter.reasons, filter.verdicts, filter.family), (u64::MAX, 7, 0));
        assert_eq!((filter.is_of_listeners, filter.began, filter.ticks), (0, 7, 11));
    }

    #[test]
    fn a_drop_reason_asks_for_drops_alone() {
        let asked = CaptureQuestion { drop_reasons: vec!["no_listener".to_owned()], ..question() };
        let filter = asked.filter(listeners(), 7).unwrap();
        assert_eq!(filter.reasons, 1 << DropReason::NoListener.index());
        assert_eq!(filter.verdicts, u32::from(capture_verdict::DROP));
    }

    #[test]
    fn an_arn_names_all_of_its_addresses_and_an_address_one() {
        let of = |text: &str| {
            let asked = CaptureQuestion { listener: Some(text.parse().unwrap()), ..question() };
            asked.filter(listeners(), 7).map(|filter| (filter.listeners[0], filter.listeners[1]))
        };
        assert_eq!(of("arn:a").unwrap(), (1 << 3, 1 << 6));
        assert_eq!(of("[fd00::4]:80").unwrap(), (0, 1 << 6));
        assert!(matches!(of("10.0.1.4:81"), Err(CaptureError::NoListener(_))));
        "10.0.1.4".parse::<WhichListener>().unwrap_err();
    }

    #[test]
    fn a_range_is_an_address_and_a_mask() {
        let asked = CaptureQuestion { source: Some("10.1.2.3/8".parse().unwrap()), ..question() };
        let filter = asked.filter(listeners(), 7).unwrap();
        assert_eq!(filter.family, 4);
        assert_eq!(filter.source, Ipv6Be::of_v4(std::net::Ipv4Addr::new(10, 0, 0, 0).into()));
        assert_eq!(filter.source_mask, Ipv6Be::of_v4(std::net::Ipv4Addr::new(255, 0, 0, 0).into()));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let said = |question: CaptureQuestion| question.check().unwrap_err().to_string();
        assert!(said(CaptureQuestion { count: 0, ..question() }).contains("count"));
        assert!(said(CaptureQuestion { seconds: 3_601, ..question() }).contains("seconds"));
        assert!(said(CaptureQuestion { snap: 2_049, ..question() }).contains("snap"));
        assert!(said(CaptureQuestion { per_second: 0, ..question() }).contains("rate"));
        let unknown = CaptureQuestion { drop_reasons: vec!["bored".to_owned()], ..question() };
        assert!(said(unknown).contains("no_listener"), "the words are told");
    }

    #[test]
    fn a_sample_is_a_head_and_the_bytes_it_says() {
        let mut item = Vec::new();
        item.extend(1_000_000_000_u64.to_ne_bytes());
        for word in [60_u32, 4, 2] {
            item.extend(word.to_ne_bytes());
        }
        item.extend([capture_verdict::DROP, 7, 0, 0]);
        item.extend([1, 2, 3, 4]);
        let devices = BTreeMap::from([(2, "eth1".to_owned())]);
        let said = packet(&item, &devices, Duration::from_secs(1)).unwrap();
        assert_eq!((said.at_ns, said.length, said.device.as_str()), (2_000_000_000, 60, "eth1"));
        assert_eq!((said.verdict, said.reason.as_deref()), (Became::Drop, Some("no_listener")));
        assert_eq!(STANDARD.decode(said.data).unwrap(), [1, 2, 3, 4]);
        assert_eq!(packet(&item[..26], &devices, Duration::ZERO), None, "less than it says");
    }
}
