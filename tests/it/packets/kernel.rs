//! The tables as the maps of the loaded program, run by BPF_PROG_TEST_RUN.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use lb_common::abi::{
    self, DropReason, Flow, FlowKey, Ipv4Be, Listener, ListenerCounters, ListenerKey, PortCursor, Pulse,
    RING_SIZE, Ring, SourceKey, SynBudget, Target, TargetCounters,
};

use super::given::{CAPACITY, Given, Outcome, Runner, Seen, listener_key};
use super::segment::BALANCER;

/// The object as built, not pinned and attached to nothing.
pub(super) struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    pub(super) fn load(name: &str) -> Self {
        let built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf").join(name);
        let object = std::fs::read(built).expect("the kernel program; `cargo xtask build` compiles it");
        let mut loader = aya::EbpfLoader::new();
        loader.map_max_entries(abi::FLOWS, u32::try_from(CAPACITY).unwrap());
        let mut ebpf = loader.load(&object).unwrap();
        program(&mut ebpf).load().unwrap();
        Self { ebpf }
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

impl Runner for Kernel {
    fn begin(&mut self, given: &Given) {
        {
            let mut flows: HashMap<&mut MapData, FlowKey, Flow> = self.map(abi::FLOWS);
            let old: Vec<FlowKey> = flows.keys().map(Result::unwrap).collect();
            for key in old {
                flows.remove(&key).unwrap();
            }
            for (key, flow) in &given.flows {
                flows.insert(key, flow, 0).unwrap();
            }
        }
        let mut addresses: HashMap<&mut MapData, Ipv4Be, u32> = self.map(abi::ADDRESSES);
        addresses.insert(Ipv4Be::from(BALANCER), given.ifindex, 0).unwrap();
        for (index, (port, state)) in (0_u32..).zip(&given.listeners) {
            let mut listeners: HashMap<&mut MapData, ListenerKey, u32> = self.map(abi::LISTENERS);
            listeners.insert(listener_key(*port), index, 0).unwrap();
            let mut states: Array<&mut MapData, Listener> = self.map(abi::LISTENER_STATE);
            states.set(index, state, 0).unwrap();
            self.set_per_cpu(abi::LISTENER_COUNTERS, index, ListenerCounters::default());
        }
        for (length, source) in &given.sources {
            let mut sources: LpmTrie<&mut MapData, SourceKey, u32> = self.map(abi::SOURCES);
            sources.insert(&Key::new(32 + length, *source), 1, 0).unwrap();
        }
        for (index, slot) in (0_u32..).zip(&given.rings) {
            let mut rings: Array<&mut MapData, Ring> = self.map(abi::RINGS);
            let ring: Box<Ring> = vec![*slot; RING_SIZE].try_into().unwrap();
            rings.set(index, ring.as_ref(), 0).unwrap();
        }
        for index in 0..=u32::try_from(given.targets.len()).unwrap() {
            self.set_per_cpu(abi::TARGET_COUNTERS, index, TargetCounters::default());
        }
        for reason in DropReason::ALL {
            self.set_per_cpu(abi::DROPS, reason.index(), 0_u64);
        }
        self.set_per_cpu(abi::SYN_BUDGET, 0, SynBudget { tick: 0, used: 0 });
        self.set_per_cpu::<PortCursor>(abi::PORTS, 0, given.ports);
        self.change(given);
    }

    fn change(&mut self, given: &Given) {
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
        let result = program(&mut self.ebpf).test_run(options).unwrap();
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
        for index in 0..8 {
            let cpus: Vec<ListenerCounters> = self.per_cpu(abi::LISTENER_COUNTERS, index);
            let sum = cpus.iter().fold(ListenerCounters::default(), |sum, cpu| ListenerCounters {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
                new_flows: sum.new_flows + cpu.new_flows,
                rejected: sum.rejected + cpu.rejected,
                resets: sum.resets + cpu.resets,
                blocked: sum.blocked + cpu.blocked,
            });
            if sum != ListenerCounters::default() {
                outcome.listeners.insert(index, sum);
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
        let flows: HashMap<&mut MapData, FlowKey, Flow> = self.map(abi::FLOWS);
        let flows: BTreeMap<String, (FlowKey, Flow)> =
            flows.iter().map(Result::unwrap).map(|(key, flow)| (format!("{key:?}"), (key, flow))).collect();
        for (key, flow) in flows.values() {
            outcome.flow(key, flow);
        }
        outcome
    }
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut("gatehouse").unwrap().try_into().unwrap()
}

/// linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
