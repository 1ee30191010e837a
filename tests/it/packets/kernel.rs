//! The tables as the maps of the loaded program, run by BPF_PROG_TEST_RUN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, ProgramArray, RingBuf,
};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use gatehouse_tests::lab::{name::Name, netns::Netns};
use lb_common::abi::{
    self, CaptureFilter, CaptureState, CookieCounters, DropReason, Flow, FlowKey, FragmentKey, FragmentPorts,
    Ipv4Be, Ipv6Be, Listener, ListenerCounters, ListenerKey, MAX_LISTENERS, PathMtu, PortCursor, Pulse,
    RING_SIZE, Ring, SampleHead, ServerIdKey, SlotWords, SourceKey, SynBudget, TableShape, Target,
    TargetCounters,
};
use lb_common::packet::Stage;
use lb_common::table::{self, Crossing, Packed, Shelf};
use lb_userspace::network::namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use super::given::{CAPACITY, Given, INGRESS, LOCAL, Outcome, Runner, SHAPE, Seen, listener_key};
use super::segment::{BALANCER, BALANCER6};

/// The object as built, not pinned and attached to nothing.
pub(super) struct Kernel {
    ebpf: Ebpf,
    /// The kernel forgets its programs when nobody holds the map.
    _stages: ProgramArray<MapData>,
    /// The program that packets are given to.
    entry: &'static str,
    /// Where it puts what it captures, if it does.
    samples: Option<(RingBuf<MapData>, ProgramArray<MapData>)>,
    /// Where it runs: there are sockets, whose TCP answers each SYN with a cookie.
    home: Netns,
    _sockets: Vec<TcpListener>,
}

impl Kernel {
    pub(super) fn load(name: &str) -> Self {
        let built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf").join(name);
        let object = std::fs::read(built).expect("the kernel program; `cargo xtask build` compiles it");
        let mut loader = aya::EbpfLoader::new();
        for flows in [abi::FLOWS, abi::FLOWS6, abi::CROSSINGS] {
            loader.map_max_entries(flows, u32::try_from(CAPACITY).unwrap());
        }
        let mut ebpf = loader.load(&object).unwrap();
        program(&mut ebpf, "gatehouse").load().unwrap();
        let mut stages = ProgramArray::try_from(ebpf.take_map(abi::PROGRAMS).unwrap()).unwrap();
        for (stage, name) in Stage::PROGRAMS {
            let program = program(&mut ebpf, name);
            program.load().unwrap();
            stages.set(stage as u32, program.fd().unwrap(), 0).unwrap();
        }
        let home = Netns::new(&Name::fresh(), "kernel").unwrap();
        home.set("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
        home.set("net/ipv4/tcp_syncookies", "2").unwrap();
        let listen = || [BALANCER.into(), BALANCER6.into()].map(|address| listen(address, LOCAL)).into();
        let sockets = namespace::within(home.name(), listen).unwrap();
        let mut kernel =
            Self { ebpf, _stages: stages, entry: "gatehouse", samples: None, home, _sockets: sockets };
        let mut shape: Array<&mut MapData, TableShape> = kernel.map(abi::TABLE_SHAPE);
        shape.set(0, SHAPE, 0).unwrap();
        kernel
    }

    /// The same behind the program that captures.
    pub(super) fn capturing(filter: &CaptureFilter) -> Self {
        let mut kernel = Self::load("gatehouse.o");
        program(&mut kernel.ebpf, abi::CAPTURE_PROGRAM).load().unwrap();
        let mut entrance = ProgramArray::try_from(kernel.ebpf.take_map(abi::ENTRANCE).unwrap()).unwrap();
        entrance.set(0, program(&mut kernel.ebpf, "gatehouse").fd().unwrap(), 0).unwrap();
        let ring = RingBuf::try_from(kernel.ebpf.take_map(abi::SAMPLES).unwrap()).unwrap();
        kernel.samples = Some((ring, entrance));
        kernel.entry = abi::CAPTURE_PROGRAM;
        kernel.ask(filter);
        kernel
    }

    /// Begins to capture anew.
    pub(super) fn ask(&mut self, filter: &CaptureFilter) {
        let mut filters: Array<&mut MapData, CaptureFilter> = self.map(abi::CAPTURE_FILTER);
        filters.set(0, filter, 0).unwrap();
        self.set_per_cpu(abi::CAPTURE_STATE, 0, CaptureState::default());
    }

    /// What was captured since this was asked last: verdict, drop reason, bytes that came, those that were kept.
    pub(super) fn samples(&mut self) -> Vec<(u8, u8, usize, Vec<u8>)> {
        let Some((ring, _)) = &mut self.samples else { return Vec::new() };
        let mut samples = Vec::new();
        while let Some(item) = ring.next() {
            let word = |at: usize| u32::from_ne_bytes(item[at..at + 4].try_into().unwrap());
            assert_eq!(word(16), INGRESS);
            let kept = usize::try_from(word(12)).unwrap();
            assert_eq!(item.len(), size_of::<SampleHead>() + kept);
            let length = usize::try_from(word(8)).unwrap();
            samples.push((item[20], item[21], length, item[size_of::<SampleHead>()..].to_vec()));
        }
        samples
    }

    /// What was counted of the capture, all CPUs together: asked for, held back, lost, sampled.
    pub(super) fn tally(&mut self) -> (u64, u64, u64, u32) {
        self.per_cpu::<CaptureState>(abi::CAPTURE_STATE, 0).iter().fold((0, 0, 0, 0), |sum, cpu| {
            (sum.0 + cpu.matched, sum.1 + cpu.limited, sum.2 + cpu.lost, sum.3 + cpu.taken)
        })
    }

    fn map<'map, T: TryFrom<&'map mut Map, Error = MapError>>(&'map mut self, name: &str) -> T {
        T::try_from(self.ebpf.map_mut(name).unwrap()).unwrap()
    }

    fn set_per_cpu<T: aya::Pod>(&mut self, name: &str, index: u32, value: T) {
        let mut map: PerCpuArray<&mut MapData, T> = self.map(name);
        let values = PerCpuValues::try_from(vec![value; nr_cpus().unwrap()]).unwrap();
        map.set(index, values, 0).unwrap();
    }

    fn per_cpu<T: aya::Pod>(&mut self, name: &str, index: u32) -> Vec<T> {
        let map: PerCpuArray<&mut MapData, T> = self.map(name);
        map.get(&index, 0).unwrap().iter().copied().collect()
    }
}

/// A socket that listens at an address that nobody has.
fn listen(address: IpAddr, port: u16) -> TcpListener {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv4() {
        socket.set_freebind_v4(true).unwrap();
    } else {
        socket.set_freebind_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(1).unwrap();
    socket.into()
}

/// Replaces a flow table's content.
fn refill_table<A: Packed, const WORDS: usize>(
    mut map: Array<&mut MapData, SlotWords<WORDS>>,
    flows: &[(FlowKey<A>, Flow<A>)],
) where
    SlotWords<WORDS>: aya::Pod,
{
    let words: Vec<AtomicU64> = (0..CAPACITY * WORDS).map(|_| AtomicU64::new(0)).collect();
    // No story begins with a flow that changes its family.
    let table = Shelf::new(&words, &[], SHAPE);
    for (key, flow) in flows {
        table::insert(&table, key, flow).unwrap();
    }
    for (index, words) in (0_u32..).zip(words.chunks(WORDS)) {
        map.set(index, SlotWords(std::array::from_fn(|at| words[at].load(Ordering::Relaxed))), 0).unwrap();
    }
}

/// A flow table's content.
fn read_table<A: Packed, const WORDS: usize>(
    map: &Array<&mut MapData, SlotWords<WORDS>>,
    crossings: &[AtomicU64],
) -> Vec<(FlowKey<A>, Flow<A>)>
where
    SlotWords<WORDS>: aya::Pod,
{
    let words: Vec<AtomicU64> = map.iter().flat_map(|slot| slot.unwrap().0).map(AtomicU64::new).collect();
    Shelf::new(&words, crossings, SHAPE).walk(0, SHAPE.mask + 1).0
}

/// Replaces a hash map's content.
fn refill<K: aya::Pod, V: aya::Pod>(mut map: HashMap<&mut MapData, K, V>, entries: &[(K, V)]) {
    let old: Vec<K> = map.keys().map(Result::unwrap).collect();
    for key in old {
        map.remove(&key).unwrap();
    }
    for (key, value) in entries {
        map.insert(key, value, 0).unwrap();
    }
}

impl Runner for Kernel {
    fn begin(&mut self, given: &Given) {
        refill_table::<Ipv4Be, { Ipv4Be::WORDS }>(self.map(abi::FLOWS), &given.flows);
        refill_table::<Ipv6Be, { Ipv6Be::WORDS }>(self.map(abi::FLOWS6), &given.flows6);
        refill::<FragmentKey<Ipv4Be>, FragmentPorts>(self.map(abi::FRAGMENTS), &[]);
        refill::<FragmentKey<Ipv6Be>, FragmentPorts>(self.map(abi::FRAGMENTS6), &[]);
        refill::<Ipv4Be, PathMtu>(self.map(abi::PATH_MTUS), &[]);
        refill::<Ipv6Be, PathMtu>(self.map(abi::PATH_MTUS6), &[]);
        refill::<Ipv4Be, u32>(self.map(abi::ADDRESSES), &[(BALANCER.into(), given.ifindex)]);
        refill::<Ipv6Be, u32>(self.map(abi::ADDRESSES6), &[(BALANCER6.into(), given.ifindex)]);
        let ids: Vec<(ServerIdKey, u32)> =
            given.server_ids.iter().map(|(key, index)| (*key, u32::from(*index))).collect();
        refill(self.map(abi::SERVER_IDS), &ids);
        let (mut keys, mut keys6) = (Vec::new(), Vec::new());
        for (index, (address, port, protocol, _)) in (0_u32..).zip(&given.listeners) {
            match address {
                IpAddr::V4(own) => keys.push((listener_key(Ipv4Be::from(*own), *port, *protocol), index)),
                IpAddr::V6(own) => keys6.push((listener_key(Ipv6Be::from(*own), *port, *protocol), index)),
            }
            self.set_per_cpu(abi::LISTENER_COUNTERS, index, ListenerCounters::default());
            self.set_per_cpu(abi::SYN_BUDGET, index, SynBudget { tick: 0, used: 0 });
            self.set_per_cpu(abi::COOKIE_COUNTERS, index, CookieCounters::default());
            self.map::<Array<&mut MapData, u32>>(abi::COOKIE_TICKS).set(index, 0, 0).unwrap();
        }
        refill::<ListenerKey<Ipv4Be>, u32>(self.map(abi::LISTENERS), &keys);
        refill::<ListenerKey<Ipv6Be>, u32>(self.map(abi::LISTENERS6), &keys6);
        for (length, source) in &given.sources {
            let mut sources: LpmTrie<&mut MapData, SourceKey<Ipv4Be>, u32> = self.map(abi::SOURCES);
            sources.insert(&Key::new(32 + length, *source), 1, 0).unwrap();
        }
        for (length, source) in &given.sources6 {
            let mut sources: LpmTrie<&mut MapData, SourceKey<Ipv6Be>, u32> = self.map(abi::SOURCES6);
            sources.insert(&Key::new(32 + length, *source), 1, 0).unwrap();
        }
        for (index, slot) in (0_u32..).zip(&given.rings) {
            let mut rings: Array<&mut MapData, Ring> = self.map(abi::RINGS);
            if rings.get(&index, 0).unwrap()[0] != *slot || *slot == 0 {
                let ring: Box<Ring> = vec![*slot; RING_SIZE].try_into().unwrap();
                rings.set(index, ring.as_ref(), 0).unwrap();
            }
        }
        for index in 0..=u32::try_from(given.targets.len()).unwrap() {
            self.set_per_cpu(abi::TARGET_COUNTERS, index, TargetCounters::default());
        }
        for reason in DropReason::ALL {
            self.set_per_cpu(abi::DROPS, reason.index(), 0_u64);
        }
        let all = u32::try_from(MAX_LISTENERS).unwrap();
        self.set_per_cpu(abi::SYN_BUDGET, all, SynBudget { tick: 0, used: 0 });
        self.set_per_cpu::<PortCursor>(abi::PORTS, 0, given.ports);
        self.change(given);
    }

    fn change(&mut self, given: &Given) {
        for (index, (_, _, _, state)) in (0_u32..).zip(&given.listeners) {
            let mut states: Array<&mut MapData, Listener> = self.map(abi::LISTENER_STATE);
            states.set(index, state, 0).unwrap();
        }
        for (index, target) in (0_u32..).zip(&given.targets) {
            let mut targets: Array<&mut MapData, Target> = self.map(abi::TARGETS);
            targets.set(index, target, 0).unwrap();
        }
        let mut pulse: Array<&mut MapData, Pulse> = self.map(abi::PULSE);
        pulse.set(0, given.pulse, 0).unwrap();
    }

    fn run(&mut self, packet: &[u8]) -> Seen {
        let mut out = vec![0; packet.len() + 64];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::new() };
        let entry = program(&mut self.ebpf, self.entry);
        let run = namespace::within(self.home.name(), || {
            // Limits are counted by each CPU on its own.
            let mut first = CpuSet::new();
            first.set(0).unwrap();
            sched_setaffinity(Pid::from_raw(0), &first).unwrap();
            entry.test_run(options)
        });
        let result = run.unwrap().unwrap();
        let length = usize::try_from(result.data_size_out).unwrap();
        out.truncate(length);
        match result.return_value {
            XDP_DROP => Seen::Drop,
            XDP_PASS => Seen::Pass,
            XDP_REDIRECT => Seen::Transmit(out),
            other => panic!("the program answered {other}"),
        }
    }

    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for index in 0..32 {
            let cpus: Vec<ListenerCounters> = self.per_cpu(abi::LISTENER_COUNTERS, index);
            let sum = cpus.iter().fold(ListenerCounters::default(), |sum, cpu| ListenerCounters {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
                new_flows: sum.new_flows + cpu.new_flows,
                rejected: sum.rejected + cpu.rejected,
                resets: sum.resets + cpu.resets,
                blocked: sum.blocked + cpu.blocked,
                client_resets: sum.client_resets + cpu.client_resets,
                port_errors: sum.port_errors + cpu.port_errors,
            });
            if sum != ListenerCounters::default() {
                outcome.listeners.insert(index, sum);
            }
            let cpus: Vec<CookieCounters> = self.per_cpu(abi::COOKIE_COUNTERS, index);
            let sum = cpus.iter().fold(CookieCounters::default(), |sum, cpu| CookieCounters {
                sent: sum.sent + cpu.sent,
                valid: sum.valid + cpu.valid,
                invalid: sum.invalid + cpu.invalid,
            });
            if sum != CookieCounters::default() {
                outcome.cookies.insert(index, sum);
            }
            let cpus: Vec<TargetCounters> = self.per_cpu(abi::TARGET_COUNTERS, index);
            let sum = cpus.iter().fold(TargetCounters::default(), |sum, cpu| TargetCounters {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
                new_flows: sum.new_flows + cpu.new_flows,
                resets: sum.resets + cpu.resets,
            });
            if sum != TargetCounters::default() {
                outcome.targets.insert(index, sum);
            }
        }
        for reason in DropReason::ALL {
            let packets = self.per_cpu::<u64>(abi::DROPS, reason.index()).iter().sum();
            outcome.drop_count(reason, packets);
        }
        let paths: HashMap<&mut MapData, Ipv4Be, PathMtu> = self.map(abi::PATH_MTUS);
        for (address, said) in paths.iter().map(Result::unwrap) {
            outcome.path_mtus.insert(Ipv4Addr::from(address).into(), said.mtu);
        }
        let paths: HashMap<&mut MapData, Ipv6Be, PathMtu> = self.map(abi::PATH_MTUS6);
        for (address, said) in paths.iter().map(Result::unwrap) {
            outcome.path_mtus.insert(Ipv6Addr::from(address).into(), said.mtu);
        }
        let crossings: Array<&mut MapData, Crossing> = self.map(abi::CROSSINGS);
        let crossings = crossings.iter().map(Result::unwrap).flat_map(Crossing::words);
        let crossings: Vec<AtomicU64> = crossings.map(AtomicU64::new).collect();
        for (key, flow) in read_table::<Ipv4Be, { Ipv4Be::WORDS }>(&self.map(abi::FLOWS), &crossings) {
            outcome.flow(&key, &flow);
        }
        for (key, flow) in read_table::<Ipv6Be, { Ipv6Be::WORDS }>(&self.map(abi::FLOWS6), &crossings) {
            outcome.flow(&key, &flow);
        }
        outcome
    }
}

fn program<'object>(ebpf: &'object mut Ebpf, name: &str) -> &'object mut Xdp {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
