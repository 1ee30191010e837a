//! Packets captured as they came: every fixture behind the program that captures, and real packets through namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatehouse_tests::lab::wait::Wait;
use lb_common::abi::{
    CaptureFilter, DropReason, Ipv6Be, MAX_LISTENERS, NO_REASON, SNAP_MAX, capture_verdict,
};
use lb_userspace::packet::pcapng::{self, Packet};
use lb_userspace::packet::{Became, CaptureError, CaptureQuestion, CapturedPacket, Tally, Verdict};

use super::fixtures::{Came, all};
use super::given::{GUARDED, Given, HTTP, HTTP6, Runner, Seen};
use super::kernel::Kernel;
use super::segment::{ACK, SYN, client, client6, target};
use super::world::{
    BALANCER, CLIENT, FAR_CLIENT, NEAR, Node, PORT, World, plan, plan_of, target as target_plan, target_name,
};

/// All packets, whole.
fn everything() -> CaptureFilter {
    CaptureFilter {
        reasons: u64::MAX,
        listeners: [0; MAX_LISTENERS / 64],
        is_of_listeners: 0,
        verdicts: 7,
        family: 0,
        every: 1,
        per_tick: u32::MAX,
        count: u32::MAX,
        began: 0,
        ticks: u32::MAX,
        snap: u32::try_from(SNAP_MAX).unwrap(),
        pad: 0,
        source: Ipv6Be::default(),
        source_mask: Ipv6Be::default(),
    }
}

#[test]
fn every_fixture_is_captured_as_it_came_and_decided_as_without_a_capture() {
    let mut kernel = Kernel::capturing(&everything());
    for fixture in all().into_iter().filter(|fixture| !fixture.is_secret()) {
        let (seen, outcome) = fixture.play(&mut kernel);
        fixture.check(&seen, &outcome);
        let samples = kernel.samples();
        let came = fixture.packets();
        assert_eq!(samples.len(), came.len(), "{}", fixture.name());
        for ((packet, became), (verdict, reason, length, bytes)) in came.into_iter().zip(samples) {
            let wanted = match became {
                Came::Pass => (capture_verdict::PASS, NO_REASON),
                Came::Transmit => (capture_verdict::TRANSMIT, NO_REASON),
                Came::Drop(reason) => (capture_verdict::DROP, u8::try_from(reason.index()).unwrap()),
            };
            assert_eq!((verdict, reason), wanted, "{}", fixture.name());
            assert_eq!(length, packet.len(), "{}", fixture.name());
            assert_eq!(bytes, packet[..packet.len().min(SNAP_MAX)], "{}", fixture.name());
        }
    }
}

/// How many of these packets are captured by a filter, by the first bytes of their sources' addresses or whole.
fn captured(change: impl FnOnce(&mut CaptureFilter), packets: &[Vec<u8>]) -> (Vec<u8>, (u64, u64, u64, u32)) {
    let mut filter = everything();
    change(&mut filter);
    let mut kernel = Kernel::capturing(&filter);
    kernel.begin(&Given::default());
    let mut which = Vec::new();
    for (number, packet) in (0..).zip(packets) {
        kernel.run(packet);
        which.extend(kernel.samples().iter().map(|_| number));
    }
    (which, kernel.tally())
}

#[test]
fn the_kernel_samples_what_is_asked_for_and_nothing_else() {
    let stranger = |port| client(port, SYN).with(|s| s.from.0 = Ipv4Addr::new(10, 9, 9, 9).into());
    let syn = client(HTTP, SYN);
    let packets = [
        syn.bytes(),
        // The target's answer names no listener: its flow does.
        target(super::segment::CLIENT_PORT, SYN | ACK).bytes(),
        client(8, SYN).bytes(),
        stranger(GUARDED).bytes(),
        client6(HTTP, SYN).bytes(),
        client(50_000, SYN | ACK).bytes(),
        vec![0; 20],
    ];
    let which = |change: fn(&mut CaptureFilter)| captured(change, &packets).0;
    assert_eq!(which(|_| {}), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(which(|f| f.verdicts = capture_verdict::DROP.into()), [2, 3]);
    assert_eq!(which(|f| f.verdicts = capture_verdict::PASS.into()), [5, 6]);
    assert_eq!(which(|f| f.verdicts = capture_verdict::TRANSMIT.into()), [0, 1, 4]);
    let reason = |f: &mut CaptureFilter, reason: DropReason| {
        (f.verdicts, f.reasons) = (capture_verdict::DROP.into(), 1 << reason.index());
    };
    assert_eq!(captured(|f| reason(f, DropReason::NoListener), &packets).0, [2]);
    assert_eq!(captured(|f| reason(f, DropReason::SecurityGroup), &packets).0, [3]);
    let listener = |f: &mut CaptureFilter, index: u32| {
        f.is_of_listeners = 1;
        f.listeners[usize::try_from(index / 64).unwrap()] |= 1 << (index % 64);
    };
    assert_eq!(captured(|f| listener(f, 0), &packets).0, [0, 1]);
    assert_eq!(captured(|f| listener(f, HTTP6), &packets).0, [4]);
    let source = |f: &mut CaptureFilter, address: IpAddr, mask: IpAddr| {
        let wide = |address| match address {
            IpAddr::V4(address) => Ipv6Be::of_v4(address.into()),
            IpAddr::V6(address) => address.into(),
        };
        f.family = if address.is_ipv4() { 4 } else { 6 };
        (f.source, f.source_mask) = (wide(address), wide(mask));
    };
    let from = |address: &str, mask: &str| {
        let (address, mask) = (address.parse().unwrap(), mask.parse().unwrap());
        captured(|f| source(f, address, mask), &packets).0
    };
    assert_eq!(from("10.9.0.0", "255.255.0.0"), [3]);
    assert_eq!(from("0.0.0.0", "0.0.0.0"), [0, 1, 2, 3, 5]);
    assert_eq!(from("fd00:1::", "ffff:ffff::"), [4]);
    assert_eq!(from("fd00:2::", "ffff:ffff::"), [0; 0]);
}

#[test]
fn a_capture_is_bounded_in_count_rate_share_and_time() {
    let packets = vec![client(8, SYN).bytes(); 10];
    // Test runs may go to any CPU, and each counts for itself.
    let cpus = u8::try_from(aya::util::nr_cpus().unwrap()).unwrap();
    let count = |change: fn(&mut CaptureFilter)| {
        let (which, tally) = captured(change, &packets);
        (u8::try_from(which.len()).unwrap(), tally)
    };
    assert_eq!(count(|_| {}), (10, (10, 0, 0, 10)));
    let (taken, tally) = count(|f| f.count = 2);
    assert!((2..=2 * cpus).contains(&taken), "{taken}: {tally:?}");
    let (taken, tally) = count(|f| f.per_tick = 2);
    assert!((2..=2 * cpus).contains(&taken), "{taken}: {tally:?}");
    assert_eq!((tally.0, tally.1), (10, 10 - u64::from(taken)), "what is held back is counted");
    let (taken, tally) = count(|f| f.every = 5);
    assert!((2..2 + cpus).contains(&taken), "{taken}: {tally:?}");
    // The clock of the fixtures says 100.
    assert_eq!(count(|f| (f.began, f.ticks) = (90, 10)), (0, (0, 0, 0, 0)));
    assert_eq!(count(|f| (f.began, f.ticks) = (90, 11)).0, 10);
    let (which, tally) = captured(|f| f.snap = 16, &packets[..1]);
    assert_eq!((which.len(), tally), (1, (1, 0, 0, 1)));
}

#[test]
fn samples_that_nobody_fetches_are_counted_as_lost() {
    let mut kernel = Kernel::capturing(&everything());
    kernel.begin(&Given::default());
    let long = client(8, SYN).with(|s| s.payload = vec![7; SNAP_MAX - 54]).bytes();
    for _ in 0..600 {
        assert_eq!(kernel.run(&long), Seen::Drop);
    }
    let (matched, _, lost, taken) = kernel.tally();
    let fetched = u64::try_from(kernel.samples().len()).unwrap();
    assert_eq!((matched, taken), (600, 600));
    assert!(lost > 0 && fetched + lost == 600, "{fetched} fetched, {lost} lost");
}

/// What the node is asked for in the tests below.
fn question() -> CaptureQuestion {
    CaptureQuestion {
        drop_reasons: Vec::new(),
        verdicts: Vec::new(),
        listener: None,
        source: None,
        every: 1,
        count: 10_000,
        seconds: 60,
        per_second: 10_000,
        snap: 256,
    }
}

/// A capture on a node: its packets so far, and in the end its tally.
struct Running {
    packets: mpsc::Receiver<CapturedPacket>,
    stop: tokio::sync::oneshot::Sender<()>,
    tally: mpsc::Receiver<Tally>,
}

fn begin(node: &Node, question: CaptureQuestion) -> Result<Running, CaptureError> {
    let (say, packets) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (tell, tally) = mpsc::channel();
    node.with(move |balancer| {
        let mut tap = balancer.capture(&question, Instant::now())?;
        tokio::spawn(async move {
            tokio::pin!(stopped);
            loop {
                tokio::select! {
                    packets = tap.samples() => {
                        let packets = packets.unwrap();
                        if packets.is_empty() {
                            break;
                        }
                        packets.into_iter().for_each(|packet| drop(say.send(packet)));
                    }
                    _ = &mut stopped => break,
                }
            }
            tap.rest().into_iter().for_each(|packet| drop(say.send(packet)));
            let _ = tell.send(tap.tally().unwrap());
        });
        Ok::<(), CaptureError>(())
    })?;
    Ok(Running { packets, stop, tally })
}

impl Running {
    /// Ends it: all packets, and what was counted.
    fn end(self) -> (Vec<CapturedPacket>, Tally) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        let tally = self.tally.recv_timeout(Duration::from_secs(5)).unwrap();
        (self.packets.try_iter().collect(), tally)
    }
}

/// The packet path's program on the load balancer's device, by its name.
fn program(world: &World) -> String {
    let output = Command::new("ip")
        .args(["-netns", &world.node(), "-details", "link", "show", "dev", &World::device()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let name = text.split("prog/xdp id ").nth(1).and_then(|rest| rest.split("name ").nth(1));
    name.and_then(|rest| rest.split_whitespace().next()).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn until_program_is(world: &World, name: &str) {
    let is_there = || Ok((program(world) == name).then_some(()));
    Wait::default().until("the program on the device", Duration::from_secs(5), is_there).unwrap();
}

fn file_of(packets: &[CapturedPacket]) -> Vec<u8> {
    let mut file = [pcapng::section(), pcapng::interface(&World::device(), 256)].concat();
    for packet in packets {
        assert_eq!(packet.device, World::device());
        let block = Packet {
            interface: 0,
            at_ns: packet.at_ns,
            length: packet.length,
            bytes: &STANDARD.decode(&packet.data).unwrap(),
            verdict: packet.verdict,
            reason: packet.reason.as_deref(),
        };
        file.extend(block.block());
    }
    file
}

/// Columns of a file as tshark reads it; none where there is no tshark.
fn read_by_tshark(path: &Path, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-T", "fields"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

#[test]
fn packets_dropped_for_two_reasons_and_one_that_is_forwarded_are_in_the_file() {
    let world = World::new();
    world.serve(NEAR);
    let node = world.start_node();
    let targets = [(target_name(NEAR), target_plan(NEAR, Verdict::Healthy))];
    node.apply(plan_of(targets.into(), Some("10.0.1.30/32")));
    assert_eq!(program(&world), "gatehouse");
    let running = begin(&node, question()).unwrap();
    assert_eq!(program(&world), "capture");
    assert!(matches!(begin(&node, question()), Err(CaptureError::Busy)));

    assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), NEAR);
    world.connect(FAR_CLIENT, BALANCER, PORT).unwrap_err();
    world.connect(CLIENT, BALANCER, 81).unwrap_err();

    let (packets, tally) = running.end();
    assert_eq!((tally.lost, tally.limited), (0, 0));
    assert!(tally.matched >= u64::try_from(packets.len()).unwrap());
    until_program_is(&world, "gatehouse");
    let of = |became: Became, reason: Option<&str>| {
        packets.iter().filter(|p| p.verdict == became && p.reason.as_deref() == reason).count()
    };
    assert!(of(Became::Drop, Some("security_group")) > 0, "{packets:#?}");
    assert!(of(Became::Drop, Some("no_listener")) > 0);
    assert!(of(Became::Transmit, None) >= 6, "a handshake, a request and an answer");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packets.pcapng");
    std::fs::write(&path, file_of(&packets)).unwrap();
    let fields =
        ["frame.comment", "ip.src", "ip.dst", "tcp.dstport", "frame.verdict.ebpf_xdp", "frame.time_epoch"];
    let Some(rows) = read_by_tshark(&path, &fields) else { return };
    assert_eq!(rows.len(), packets.len());
    let has = |comment: &str, from: Ipv4Addr, to: Ipv4Addr, port: u16| {
        rows.iter().any(|row| {
            row[0] == comment
                && row[1] == from.to_string()
                && row[2] == to.to_string()
                && row[3] == port.to_string()
        })
    };
    // As they came: to the load balancer, and from a target to it; not as they left.
    assert!(has("drop: security_group", FAR_CLIENT, BALANCER, PORT), "{rows:#?}");
    assert!(has("drop: no_listener", CLIENT, BALANCER, 81), "{rows:#?}");
    assert!(has("transmit", CLIENT, BALANCER, PORT), "{rows:#?}");
    assert!(!rows.iter().any(|row| row[0] == "transmit" && row[2] == NEAR.to_string()), "{rows:#?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for row in &rows {
        assert!((row[5].parse::<f64>().unwrap() - now).abs() < 60.0, "{row:?}");
    }
}

#[test]
fn a_capture_ends_by_itself_when_it_has_enough_or_its_time_is_over() {
    let world = World::new();
    let node = world.start_node();
    node.apply(plan(&[]));
    let enough = CaptureQuestion {
        count: 2,
        listener: Some(format!("{BALANCER}:{PORT}").parse().unwrap()),
        ..question()
    };
    let running = begin(&node, enough).unwrap();
    for _ in 0..4 {
        world.connect(CLIENT, BALANCER, PORT).unwrap_err();
    }
    let packets: Vec<_> =
        (0..2).map(|_| running.packets.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
    assert!(packets.iter().all(|packet| packet.verdict == Became::Transmit), "refused: {packets:?}");
    until_program_is(&world, "gatehouse");
    assert_eq!(running.packets.iter().count(), 0, "two were asked for");

    let short = begin(&node, CaptureQuestion { seconds: 1, ..question() }).unwrap();
    assert_eq!(program(&world), "capture");
    until_program_is(&world, "gatehouse");
    short.end();
    let unknown = CaptureQuestion { listener: Some("10.0.1.4:99".parse().unwrap()), ..question() };
    assert!(matches!(begin(&node, unknown), Err(CaptureError::NoListener(_))));
    assert_eq!(program(&world), "gatehouse");
}

#[test]
fn flows_survive_a_node_that_is_killed_while_it_captures() {
    let world = World::new();
    world.serve(NEAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let mut old = world.connect(CLIENT, BALANCER, PORT).unwrap();
    let _running = begin(&node, question()).unwrap();
    assert_eq!(old.ask().unwrap(), NEAR);
    node.kill();
    // Its program stays, and gives packets to nobody.
    assert_eq!(program(&world), "capture");
    assert_eq!(old.ask().unwrap(), NEAR);
    assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), NEAR);
    let pin = world.bpffs.path.join("capture");
    assert!(pin.exists());

    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    assert_eq!(program(&world), "gatehouse");
    assert!(!pin.exists());
    assert_eq!(old.ask().unwrap(), NEAR);
    let running = begin(&node, question()).unwrap();
    assert_eq!(old.ask().unwrap(), NEAR);
    let (packets, _) = running.end();
    assert!(!packets.is_empty());
}
