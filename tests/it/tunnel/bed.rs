//! A gateway, an agent, targets and clients in one network namespace that only this test's threads are in.
//!
//! The namespace has no name and ends with its last thread, so a killed test leaves nothing behind. All addresses are on
//! its loopback device, because a link never opens 127.0.0.0/8.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_userspace::{
    gateway::{GatewayConfig, run},
    identity::{
        authority::{Authorities, FrontDoorNames},
        name::RoleName,
    },
    model::id::{ApiId, Arn, VpcLinkId},
    snapshot::{
        envelope::Received,
        gateway::{
            ApiView, Destination, GatewayCredentials, GatewaySlice, IntegrationView, LinkView, RouteView,
            ServiceInstanceView, ServiceView, StageView,
        },
        link::{LaneTarget, LinkCredentials, LinkSlice, LinkTargetView},
        report::Report,
    },
    telemetry::Metrics,
    tunnel::agent,
};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::client::Client;

/// Where link agents reach the gateway.
pub(crate) const LANES: &str = "10.77.0.1:8443";
/// The service whose instances are added with [`Bed::instance`].
const SERVICE: &str = "arn:aws:servicediscovery:eu-central-1:000000000000:service/srv-web";

/// Runs a test in a network of its own, with its addresses on the loopback device.
pub(crate) fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("network tests run as root");
        for words in [
            "link set lo up",
            "addr add 10.77.0.1/32 dev lo",
            "addr add 10.77.1.9/32 dev lo",
            "addr add 10.77.1.10/32 dev lo",
            "addr add 10.77.1.11/32 dev lo",
            "addr add 10.77.1.20/32 dev lo",
            "addr add 10.77.1.21/32 dev lo",
            "addr add 169.254.169.254/32 dev lo",
        ] {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
        }
        runtime().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The gateway and the link, and what control would tell them.
pub(crate) struct Bed {
    /// Clients of the front door.
    pub(crate) client: Client,
    /// The gateway's slice; takes effect with [`Bed::publish`].
    pub(crate) gateway: GatewaySlice,
    /// The link's slice.
    pub(crate) link: LinkSlice,
    /// Both CAs.
    pub(crate) authorities: Authorities,
    generation: u64,
    gateway_slices: watch::Sender<Option<Arc<Received<GatewaySlice>>>>,
    link_slices: watch::Sender<Option<Arc<Received<LinkSlice>>>>,
    running_gateway: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    gateway_reports: mpsc::Receiver<Report>,
    running_agent: Option<Runtime>,
    link_reports: mpsc::Receiver<Report>,
    _directory: TempDir,
}

impl Bed {
    /// A gateway and an attached link, without targets.
    pub(crate) async fn new() -> Self {
        let mut bed = Self::unattached().await;
        bed.start_agent().await;
        bed
    }

    /// A gateway without a link's agent.
    pub(crate) async fn unattached() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = FrontDoorNames { domain_suffix: "amazonaws.com".to_owned(), ..Default::default() };
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let authorities = Authorities::open(directory.path(), &names, now).unwrap();
        let root: PathBuf = directory.path().join("front-door-ca.pem");
        let client = Client::new(&root, authorities.front_door.root_pem());
        let hosts = ["*.execute-api.eu-central-1.amazonaws.com".to_owned()].into();
        let identity_root_pem = authorities.identity.root_pem().to_owned();
        let link_id = VpcLinkId::from("link01");
        let gateway = GatewaySlice {
            domain_suffix: "amazonaws.com".to_owned(),
            apis: BTreeMap::from([(ApiId::from("api0000001"), api())]),
            services: BTreeMap::from([(Arn::from(SERVICE), service())]),
            links: BTreeMap::from([(link_id.clone(), LinkView { name: "link".to_owned(), deleting: false })]),
            credentials: Some(GatewayCredentials {
                front_door: authorities.front_door.issue_server(&hosts, &[], now).unwrap(),
                identity: authorities.identity.issue_role(&RoleName::gateway("lab", "gw"), now).unwrap(),
                identity_root_pem: identity_root_pem.clone(),
            }),
        };
        let link = LinkSlice {
            link_id: link_id.clone(),
            namespace: String::new(),
            addresses: vec!["10.77.1.9".parse().unwrap()],
            gateways: BTreeMap::from([("gw".to_owned(), LANES.parse().unwrap())]),
            targets: BTreeMap::new(),
            deleting: false,
            credentials: Some(LinkCredentials {
                identity: authorities.identity.issue_role(&RoleName::vpc_link("lab", &link_id), now).unwrap(),
                identity_root_pem,
            }),
        };
        let mut bed = Self {
            client,
            gateway,
            link,
            authorities,
            generation: 0,
            gateway_slices: watch::channel(None).0,
            link_slices: watch::channel(None).0,
            running_gateway: None,
            gateway_reports: mpsc::channel(1).1,
            running_agent: None,
            link_reports: mpsc::channel(1).1,
            _directory: directory,
        };
        bed.start_gateway().await;
        bed
    }

    /// Starts the gateway and waits until it serves its slice.
    pub(crate) async fn start_gateway(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (reports, received) = mpsc::channel(1_000);
        let config = GatewayConfig {
            public: vec![TcpListener::bind(super::client::FRONT_DOOR).unwrap()],
            lanes: TcpListener::bind(LANES).unwrap(),
            workers: 2,
        };
        let slices = self.gateway_slices.subscribe();
        let task = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            run::run(config, slices, reports, Arc::new(Metrics::new()), stopped).await.unwrap();
        });
        self.running_gateway = Some((stop, task));
        self.gateway_reports = received;
        self.publish().await;
    }

    /// Stops the gateway; its sockets are closed then.
    pub(crate) async fn stop_gateway(&mut self) {
        let (stop, task) = self.running_gateway.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }

    /// Starts the link's agent and waits until it is attached.
    pub(crate) async fn start_agent(&mut self) {
        let agent = runtime();
        let (reports, received) = mpsc::channel(1_000);
        let slices = self.link_slices.subscribe();
        agent.spawn(async move { agent::run(slices, reports, Arc::default(), std::future::pending()).await });
        self.running_agent = Some(agent);
        self.link_reports = received;
        self.attached(1).await;
    }

    /// Ends the agent as a kill would: its sockets close, it says nothing.
    pub(crate) fn kill_agent(&mut self) {
        self.running_agent.take().unwrap().shutdown_background();
    }

    /// Waits for the agent's report that it has lanes to so many gateways.
    pub(crate) async fn attached(&mut self, wanted: u32) {
        let reports = &mut self.link_reports;
        let reported = async {
            loop {
                match reports.recv().await.expect("the agent runs") {
                    Report::LinkAttached { gateways, .. } if gateways == wanted => return,
                    _ => {}
                }
            }
        };
        timeout(DEADLINE, reported).await.expect("the link reports in time");
    }

    /// Hands both slices out as they are now, and waits until the gateway has applied its own.
    pub(crate) async fn publish(&mut self) {
        self.generation += 1;
        let generation = self.generation;
        self.link_slices.send_replace(Some(Arc::new(Received { generation, slice: self.link.clone() })));
        self.gateway_slices
            .send_replace(Some(Arc::new(Received { generation, slice: self.gateway.clone() })));
        let reports = &mut self.gateway_reports;
        let applied = async {
            while reports.recv().await.expect("the gateway runs") != (Report::Applied { generation }) {}
        };
        timeout(DEADLINE, applied).await.expect("the slice is applied in time");
    }

    /// Lets the link open `address` for a lane target.
    pub(crate) fn allow(&mut self, target: LaneTarget, address: &str) -> &mut LinkTargetView {
        let view = LinkTargetView {
            address: address.parse().unwrap(),
            name: address.to_owned(),
            draining: false,
            refused: None,
        };
        self.link.targets.insert(target, view);
        self.link.targets.get_mut(&target).unwrap()
    }

    /// Registers an instance of the service, known to the gateway and the link.
    pub(crate) fn instance(&mut self, id: &str, address: &str, stage: &str) -> LaneTarget {
        let target = LaneTarget::of_instance(SERVICE, id);
        self.allow(target, address);
        let view = ServiceInstanceView {
            target,
            attributes: BTreeMap::from([("stage".to_owned(), stage.to_owned())]),
            healthy: true,
        };
        self.service().instances.insert(id.to_owned(), view);
        target
    }

    /// The service.
    pub(crate) fn service(&mut self) -> &mut ServiceView {
        self.gateway.services.get_mut(&Arn::from(SERVICE)).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A runtime must not be waited for on another's thread.
        if let Some(agent) = self.running_agent.take() {
            agent.shutdown_background();
        }
    }
}

/// The lane target of a listener in a zone.
pub(crate) fn listener(name: &str, zone: &str) -> LaneTarget {
    LaneTarget::of_listener(name, zone)
}

/// Routes to each kind of destination, in `$default` and in a stage `test`.
fn api() -> ApiView {
    let link = || VpcLinkId::from("link01");
    let integration = |destination| IntegrationView { method: None, timeout_ms: 30_000, destination };
    let destination = |name: &str, is_application| Destination::Listener {
        link: link(),
        targets: vec![listener(name, "a"), listener(name, "b")],
        is_application,
    };
    let service = |query| Destination::Service { link: link(), service: Arn::from(SERVICE), query };
    let prod = BTreeMap::from([("stage".to_owned(), "prod".to_owned())]);
    let broken = Destination::Broken { reason: "its listener is gone".to_owned() };
    let mut late = integration(service(BTreeMap::new()));
    late.timeout_ms = 300;
    let mut put = integration(destination("alb", true));
    put.method = Some("PUT".to_owned());
    let integrations = BTreeMap::from([
        ("alb".to_owned(), integration(destination("alb", true))),
        ("nlb".to_owned(), integration(destination("nlb", false))),
        ("service".to_owned(), integration(service(BTreeMap::new()))),
        ("prod".to_owned(), integration(service(prod))),
        ("broken".to_owned(), integration(broken)),
        ("late".to_owned(), late),
        ("put".to_owned(), put),
    ]);
    let routes = integrations
        .keys()
        .flat_map(|name| [format!("ANY /{name}"), format!("ANY /{name}/{{rest+}}")].map(|key| (key, name)))
        .map(|(key, name)| (key, RouteView { id: name.clone(), integration_id: name.clone() }))
        .chain([(
            "GET /only-get".to_owned(),
            RouteView { id: "get".to_owned(), integration_id: "alb".to_owned() },
        )])
        .collect();
    let stage =
        StageView { deployment_id: "d1".to_owned(), variables: BTreeMap::new(), routes, integrations };
    ApiView {
        name: "demo".to_owned(),
        region: "eu-central-1".to_owned(),
        disable_execute_api_endpoint: false,
        stages: BTreeMap::from([("$default".to_owned(), stage.clone()), ("test".to_owned(), stage)]),
    }
}

fn service() -> ServiceView {
    ServiceView { name: "web.shop".to_owned(), revision: 1, instances: BTreeMap::new() }
}

/// For anything that takes milliseconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
