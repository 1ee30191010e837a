//! A proxy with one load balancer, and a slice that can be changed.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lb_userspace::{
    model::{
        id::{Arn, VpcId},
        load_balancer::{Action, Condition, LoadBalancerKind, WeightedTargetGroup},
        target_group::{HealthCheck, TargetHealth, TargetHealthState, TargetKey},
    },
    proxy::Proxy,
    snapshot::{
        node::{
            ListenerView, LoadBalancerView, NodeInterface, NodeSlice, RuleView, TargetGroupView, TargetView,
        },
        permit::{Permit, SecurityGroupView},
        report::Report,
        verdict::{Verdict, Verdicts},
    },
    telemetry::Metrics,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};

/// The proxy, its slice and what comes out of it.
pub(super) struct Stage {
    runtime: Runtime,
    proxy: Option<Proxy>,
    pub(super) slice: NodeSlice,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) metrics: Arc<Metrics>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    net: u32,
}

/// The listener's port.
pub(super) const PORT: u16 = 8080;
const LISTENER: &str = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener/app/demo/1/1";
/// The name of everything of a network load balancer in front.
const FRONT: &str = "front";
const BALANCER: &str = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:loadbalancer/app/demo/1";

impl Stage {
    /// One load balancer that admits everybody, one listener, one group `main` without targets that it forwards to.
    pub(super) fn new() -> Self {
        Self::with_workers(2)
    }

    /// With so many workers.
    pub(super) fn with_workers(workers: usize) -> Self {
        // A /24 of loopback for each test, apart from those of other runs.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let net = (std::process::id() * 64 + NEXT.fetch_add(1, Ordering::SeqCst)) % (1 << 16);
        let runtime = Runtime::new().unwrap();
        let (reported, reports) = mpsc::channel(64);
        let (verdicts, table) = watch::channel(Arc::new(Verdicts::default()));
        let metrics = Arc::new(Metrics::new());
        let proxy = Proxy::start(workers, table, reported, metrics.clone()).unwrap();
        let mut stage =
            Self { runtime, proxy: Some(proxy), slice: slice(ip(net, 1)), reports, metrics, verdicts, net };
        stage.group("main", &[]);
        stage.default_action(forward("main"));
        stage.apply();
        stage
    }

    /// The load balancer's listener.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((ip(self.net, 1), PORT))
    }

    /// An address of a target: `number` from 2.
    pub(super) fn target_ip(&self, number: u8) -> Ipv4Addr {
        ip(self.net, number)
    }

    /// Sets a group's targets.
    pub(super) fn group(&mut self, name: &str, targets: &[SocketAddr]) {
        let targets = targets.iter().map(|address| {
            let view = target_view(*address);
            (view.key.to_string(), view)
        });
        let view = TargetGroupView {
            name: name.to_owned(),
            protocol: "HTTP".to_owned(),
            in_use: true,
            health_check: health_check("HTTP"),
            attributes: BTreeMap::new(),
            targets: targets.collect(),
        };
        self.slice.target_groups.insert(Arn::from(name), view);
    }

    /// Sets the default action.
    pub(super) fn default_action(&mut self, action: Action) {
        self.listener().default_actions = vec![action];
    }

    /// Adds a rule.
    pub(super) fn rule(&mut self, priority: u32, conditions: Vec<Condition>, action: Action) {
        let rule = RuleView {
            arn: Arn::from(format!("rule-{priority}")),
            priority,
            conditions,
            actions: vec![action],
        };
        self.listener().rules.push(rule);
    }

    /// Sets an attribute of the load balancer.
    pub(super) fn attribute(&mut self, key: &str, value: &str) {
        let view = self.slice.load_balancers.get_mut(&Arn::from(BALANCER)).unwrap();
        view.attributes.insert(key.to_owned(), value.to_owned());
    }

    /// A network load balancer in front that listens at `port` and has this one as its target; answers where.
    pub(super) fn put_in_front(&mut self, port: u16) -> SocketAddr {
        let mut view = self.slice.load_balancers[&Arn::from(BALANCER)].clone();
        let address = ip(self.net, 100);
        view.kind = LoadBalancerKind::Network;
        view.security_groups.clear();
        for interface in view.interfaces.values_mut() {
            interface.address = address;
        }
        let mut listener = self.listener().clone();
        listener.load_balancer = Arn::from(FRONT);
        listener.protocol = "TCP".to_owned();
        listener.port = port;
        listener.default_actions = vec![forward(FRONT)];
        let mut target = target_view(self.address());
        target.key = TargetKey { id: BALANCER.to_owned(), port: PORT };
        self.group(FRONT, &[]);
        let group = self.slice.target_groups.get_mut(&Arn::from(FRONT)).unwrap();
        group.protocol = "TCP".to_owned();
        group.targets.insert(target.key.to_string(), target);
        self.slice.load_balancers.insert(Arn::from(FRONT), view);
        self.slice.listeners.insert(Arn::from(FRONT), listener);
        SocketAddr::from((address, port))
    }

    /// Takes that away again.
    pub(super) fn remove_front(&mut self) {
        self.slice.target_groups.get_mut(&Arn::from(FRONT)).unwrap().targets.clear();
    }

    /// Who is admitted.
    pub(super) fn admit(&mut self, range: &str) {
        let group = self.slice.security_groups.values_mut().next().unwrap();
        group.ingress[0].peers = vec![range.parse().unwrap()];
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

    /// Applies the slice as it is now.
    pub(super) fn apply(&mut self) {
        let slice = Arc::new(self.slice.clone());
        let proxy = self.proxy.as_mut().unwrap();
        self.runtime.block_on(proxy.apply(&slice)).unwrap();
    }

    /// The next report, if one comes soon.
    pub(super) fn report(&mut self) -> Option<Report> {
        let next = self.reports.recv();
        self.runtime.block_on(async { tokio::time::timeout(SOON, next).await.ok().flatten() })
    }

    /// The value of a series in the exposition, by the start of its line; 0 without one.
    pub(super) fn metric(&self, start: &str) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
    }

    /// Stops gently.
    pub(super) fn stop(&mut self, grace: Duration) {
        if let Some(proxy) = self.proxy.take() {
            self.runtime.block_on(proxy.stop(grace));
        }
    }

    fn listener(&mut self) -> &mut ListenerView {
        self.slice.listeners.get_mut(&Arn::from(LISTENER)).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// A forward action to one group.
pub(super) fn forward(group: &str) -> Action {
    Action::Forward(vec![WeightedTargetGroup { target_group_arn: Arn::from(group), weight: 1 }])
}

/// A check as a new group has it.
pub(super) fn health_check(protocol: &str) -> HealthCheck {
    HealthCheck {
        enabled: true,
        protocol: protocol.to_owned(),
        port: "traffic-port".to_owned(),
        path: "/".to_owned(),
        interval_s: 5,
        timeout_s: 2,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".to_owned(),
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

fn slice(address: Ipv4Addr) -> NodeSlice {
    let interface = NodeInterface {
        device: "lo".to_owned(),
        address,
        prefix_len: 24,
        router: Ipv4Addr::LOCALHOST,
        zone: "eu-central-1a".to_owned(),
        ipv6: None,
        secondary: Vec::new(),
    };
    let load_balancer = LoadBalancerView {
        kind: LoadBalancerKind::Application,
        name: "demo".to_owned(),
        interfaces: BTreeMap::from([("eni-1".into(), interface)]),
        security_groups: vec!["sg-1".into()],
        attributes: BTreeMap::new(),
    };
    let listener = ListenerView {
        load_balancer: Arn::from(BALANCER),
        protocol: "HTTP".to_owned(),
        port: PORT,
        rules: Vec::new(),
        default_actions: Vec::new(),
        attributes: BTreeMap::new(),
        tls: None,
    };
    let permit = Permit {
        protocol: None,
        first_port: 0,
        last_port: u16::MAX,
        peers: vec!["0.0.0.0/0".parse().unwrap()],
    };
    NodeSlice {
        vpc_id: VpcId::from("vpc-1"),
        namespace: String::new(),
        load_balancers: BTreeMap::from([(Arn::from(BALANCER), load_balancer)]),
        listeners: BTreeMap::from([(Arn::from(LISTENER), listener)]),
        target_groups: BTreeMap::new(),
        security_groups: BTreeMap::from([(
            "sg-1".into(),
            SecurityGroupView { ingress: vec![permit], egress: Vec::new() },
        )]),
        resolver: None,
        certificates: BTreeMap::new(),
        links: BTreeMap::new(),
    }
}

/// Longer than anything that should come takes to come.
pub(super) const SOON: Duration = Duration::from_secs(5);
