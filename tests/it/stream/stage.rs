//! Streams with one load balancer on loopback, and a slice that can be changed.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_userspace::{
    model::{
        id::{Arn, VpcId},
        load_balancer::{Action, LoadBalancerKind, WeightedTargetGroup},
        target_group::{HealthCheck, TargetHealth, TargetHealthState, TargetKey},
    },
    snapshot::{
        gateway::RoleCertificate,
        node::{
            ListenerView, LoadBalancerView, NodeInterface, NodeInterface6, NodeSlice, TargetGroupView,
            TargetView, TlsView,
        },
        permit::{Permit, SecurityGroupView},
        verdict::{Verdict, Verdicts},
    },
    stream::{ApplyError, Limits, Streams},
    telemetry::Metrics,
};
use tokio::{runtime::Runtime, sync::watch};

/// The streams, their slice and what comes out of them.
pub(super) struct Stage {
    runtime: Runtime,
    streams: RefCell<Option<Streams>>,
    pub(super) slice: NodeSlice,
    metrics: Arc<Metrics>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    net: u32,
}

/// The listener's port.
pub(super) const PORT: u16 = 8443;
const ZONE: &str = "eu-central-1a";
const LISTENER: &str = "listener";
const BALANCER: &str = "balancer";

impl Stage {
    /// A TLS listener with these certificates that forwards to the group `main`, which is empty.
    pub(super) fn tls(certificates: &[&RoleCertificate]) -> Self {
        Self::with(LIMITS, 2, certificates)
    }

    /// A TCP listener that forwards to the group `main`, which is empty and wants a header.
    pub(super) fn header() -> Self {
        let mut stage = Self::with(LIMITS, 2, &[]);
        stage.attribute("main", "proxy_protocol_v2.enabled", "true");
        stage.apply();
        stage
    }

    /// With these limits, so many workers, and TLS if there are certificates.
    pub(super) fn with(limits: Limits, workers: usize, certificates: &[&RoleCertificate]) -> Self {
        // A /24 of loopback for each test, apart from those of other runs.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let net = (std::process::id() * 64 + NEXT.fetch_add(1, Ordering::SeqCst)) % (1 << 16);
        let runtime = Runtime::new().unwrap();
        let (verdicts, table) = watch::channel(Arc::new(Verdicts::default()));
        let metrics = Arc::new(Metrics::new());
        let streams = Streams::start(workers, table, metrics.clone(), limits).unwrap();
        let slice = slice(ip(net, 1), !certificates.is_empty());
        let mut stage = Self { runtime, streams: RefCell::new(Some(streams)), slice, metrics, verdicts, net };
        stage.group("main", "TCP", &[]);
        stage.forward(&[("main", 1)]);
        stage.certificates(certificates);
        stage.apply();
        stage
    }

    /// The listener.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((ip(self.net, 1), PORT))
    }

    /// An address of a target: `number` from 2.
    pub(super) fn ip(&self, number: u8) -> Ipv4Addr {
        ip(self.net, number)
    }

    /// What the listener shows, the default first.
    pub(super) fn certificates(&mut self, certificates: &[&RoleCertificate]) {
        let named = certificates.iter().enumerate();
        self.slice.certificates = named
            .map(|(number, certificate)| (Arn(format!("certificate-{number}")), (*certificate).clone()))
            .collect();
        let arns = self.slice.certificates.keys().cloned().collect();
        if let Some(tls) = &mut self.listener().tls {
            tls.certificates = arns;
        }
    }

    /// The listener's ALPN policy.
    pub(super) fn alpn(&mut self, policy: &str) {
        if let Some(tls) = &mut self.listener().tls {
            tls.alpn = Some(policy.to_owned());
        }
    }

    /// Sets a group's targets; attributes stay.
    pub(super) fn group(&mut self, name: &str, protocol: &str, targets: &[SocketAddr]) {
        let targets =
            targets.iter().map(|address| (target_view(*address).key.to_string(), target_view(*address)));
        let attributes = self.slice.target_groups.get(&Arn::from(name)).map(|group| group.attributes.clone());
        let view = TargetGroupView {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            in_use: true,
            health_check: health_check(),
            attributes: attributes.unwrap_or_default(),
            targets: targets.collect(),
        };
        self.slice.target_groups.insert(Arn::from(name), view);
    }

    /// Sets an attribute of a group.
    pub(super) fn attribute(&mut self, group: &str, key: &str, value: &str) {
        let group = self.slice.target_groups.get_mut(&Arn::from(group)).unwrap();
        group.attributes.insert(key.to_owned(), value.to_owned());
    }

    /// Where the listener forwards to.
    pub(super) fn forward(&mut self, groups: &[(&str, u16)]) {
        let groups = groups.iter().map(|(name, weight)| WeightedTargetGroup {
            target_group_arn: Arn::from(*name),
            weight: *weight,
        });
        self.listener().default_actions = vec![Action::Forward(groups.collect())];
    }

    /// Who is admitted.
    pub(super) fn admit(&mut self, range: &str) {
        let group = self.slice.security_groups.values_mut().next().unwrap();
        group.ingress[0].peers = vec![range.parse().unwrap()];
    }

    /// The load balancer has another address, in another zone; answers with it.
    pub(super) fn another_zone(&mut self, zone: &str) -> SocketAddr {
        let address = ip(self.net, 200);
        let view = self.slice.load_balancers.get_mut(&Arn::from(BALANCER)).unwrap();
        let first = view.interfaces.values().next().unwrap().clone();
        let interface = NodeInterface { address, zone: zone.to_owned(), ..first };
        view.interfaces.insert("eni-2".into(), interface);
        SocketAddr::from((address, PORT))
    }

    /// The load balancer is dual-stack.
    pub(super) fn dual_stack(&mut self, address: Ipv6Addr) {
        let view = self.slice.load_balancers.get_mut(&Arn::from(BALANCER)).unwrap();
        let interface = view.interfaces.values_mut().next().unwrap();
        interface.ipv6 = Some(NodeInterface6 { address, prefix_len: 128, router: address });
    }

    /// Says which zone a target is in.
    pub(super) fn zone(&mut self, group: &str, address: SocketAddr, zone: &str) {
        let group = self.slice.target_groups.get_mut(&Arn::from(group)).unwrap();
        group.targets.get_mut(&target_view(address).key.to_string()).unwrap().zone = Some(zone.to_owned());
    }

    /// Sets an attribute of the listener.
    pub(super) fn listener_attribute(&mut self, key: &str, value: &str) {
        self.listener().attributes.insert(key.to_owned(), value.to_owned());
    }

    /// Marks a target as draining.
    pub(super) fn drain(&mut self, group: &str, address: SocketAddr) {
        let group = self.slice.target_groups.get_mut(&Arn::from(group)).unwrap();
        group.targets.get_mut(&target_view(address).key.to_string()).unwrap().draining_until = Some(u64::MAX);
    }

    /// Says which targets of a group are healthy; all others are unhealthy.
    pub(super) fn healthy(&self, group: &str, healthy: &[SocketAddr]) {
        let view = &self.slice.target_groups[&Arn::from(group)];
        let verdicts = view.targets.values().map(|target| {
            let passing = healthy.iter().any(|address| target_view(*address).key == target.key);
            let state = if passing { TargetHealthState::Healthy } else { TargetHealthState::Unhealthy };
            let health = TargetHealth { state, reason: None, description: None };
            (target.key.clone(), Verdict { registered_at: target.registered_at, health })
        });
        let groups = BTreeMap::from([(Arn::from(group), Arc::new(verdicts.collect()))]);
        self.verdicts.send_replace(Arc::new(Verdicts { groups }));
    }

    /// Applies the slice as it is now, as a node does.
    pub(super) fn apply(&mut self) {
        self.try_apply().unwrap();
    }

    /// As [`Self::apply`]; what could not be applied is the answer.
    pub(super) fn try_apply(&mut self) -> Result<(), ApplyError> {
        let mut streams = self.streams.borrow_mut();
        let streams = streams.as_mut().unwrap();
        self.runtime.block_on(async {
            let applied = streams.apply(&self.slice).await;
            streams.retire().await?;
            applied
        })
    }

    /// Flows of the listener now.
    pub(super) fn active_flows(&self) -> u64 {
        self.streams.borrow().as_ref().unwrap().active_flows(self.address())
    }

    /// Connections that a target still has.
    pub(super) fn connections_of(&self, group: &str, address: SocketAddr) -> usize {
        let key = target_view(address).key;
        self.streams.borrow().as_ref().unwrap().connections_of(&Arn::from(group), &key)
    }

    /// The sum of a metric's series.
    pub(super) fn metric(&self, name: &str) -> i64 {
        // As a node does once a second.
        self.streams.borrow_mut().as_mut().unwrap().tell();
        let text = self.metrics.text();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()).sum()
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub(super) fn metric_becomes(&self, name: &str, value: i64) {
        eventually(&format!("{name} of {value}"), || self.metric(name) == value);
    }

    fn listener(&mut self) -> &mut ListenerView {
        self.slice.listeners.get_mut(&Arn::from(LISTENER)).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(streams) = self.streams.take() {
            self.runtime.block_on(streams.stop(Duration::ZERO));
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "no {what} in time");
        thread::yield_now();
    }
}

fn health_check() -> HealthCheck {
    HealthCheck {
        enabled: true,
        protocol: "TCP".to_owned(),
        port: "traffic-port".to_owned(),
        path: "/".to_owned(),
        interval_s: 30,
        timeout_s: 10,
        healthy_threshold: 5,
        unhealthy_threshold: 2,
        matcher: String::new(),
    }
}

fn target_view(address: SocketAddr) -> TargetView {
    TargetView {
        key: TargetKey { id: address.ip().to_string(), port: address.port() },
        address: address.ip(),
        zone: None,
        server_id: None,
        registered_at: 1,
        draining_until: None,
    }
}

fn ip(net: u32, host: u8) -> Ipv4Addr {
    let [_, _, high, low] = net.to_be_bytes();
    Ipv4Addr::new(127, high, low, host)
}

fn slice(address: Ipv4Addr, is_tls: bool) -> NodeSlice {
    let interface = NodeInterface {
        device: "lo".to_owned(),
        address,
        prefix_len: 24,
        router: Ipv4Addr::LOCALHOST,
        zone: ZONE.to_owned(),
        ipv6: None,
        secondary: Vec::new(),
    };
    let load_balancer = LoadBalancerView {
        kind: LoadBalancerKind::Network,
        name: "demo".to_owned(),
        interfaces: BTreeMap::from([("eni-1".into(), interface)]),
        security_groups: vec!["sg-1".into()],
        attributes: BTreeMap::new(),
    };
    let tls = TlsView {
        policy: "ELBSecurityPolicy-TLS13-1-2-Res-2021-06".to_owned(),
        certificates: Vec::new(),
        alpn: None,
    };
    let listener = ListenerView {
        load_balancer: Arn::from(BALANCER),
        protocol: if is_tls { "TLS" } else { "TCP" }.to_owned(),
        port: PORT,
        rules: Vec::new(),
        default_actions: Vec::new(),
        attributes: BTreeMap::new(),
        tls: is_tls.then_some(tls),
    };
    let permit = Permit {
        protocol: None,
        first_port: 0,
        last_port: u16::MAX,
        peers: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
    };
    NodeSlice {
        vpc_id: VpcId::from("vpc-1"),
        namespace: "node".to_owned(),
        load_balancers: BTreeMap::from([(Arn::from(BALANCER), load_balancer)]),
        listeners: BTreeMap::from([(Arn::from(LISTENER), listener)]),
        target_groups: BTreeMap::new(),
        security_groups: BTreeMap::from([(
            "sg-1".into(),
            SecurityGroupView { ingress: vec![permit.clone()], egress: vec![permit] },
        )]),
        resolver: None,
        certificates: BTreeMap::new(),
        links: BTreeMap::new(),
    }
}

/// As an appliance's, but for patience that no test should wait for.
pub(super) const LIMITS: Limits = Limits {
    connections: 16_384,
    handshakes: 1_024,
    handshake: Duration::from_secs(5),
    connect: Duration::from_secs(2),
    idle_timeout: Duration::from_secs(30),
};
/// Longer than anything that should come takes to come.
pub(super) const SOON: Duration = Duration::from_secs(10);
