//! The control role: opens keys and state, joins the writer, the reconcilers, the publisher and the AWS endpoint.
//!
//! It runs as its own user with no capabilities: everything it needs lies in its own directory.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{notify, privilege};
use crate::config::Config;
use crate::control::{
    api::{Credentials, Endpoint, EndpointSettings, Executor, metrics::EndpointMetrics},
    ops::{ApiError, Caller, Handler, instances, targets, underlay, vpc_links},
    publish::{Publisher, compiler},
    stacks::Engine,
    store::EmbeddedStore,
    writer::{Reconciler, ReportHandler, Writer, WriterHandle},
};
use crate::identity::{
    self,
    authority::{Authorities, FrontDoorNames},
    seal::Seal,
};
use crate::model::id::TimestampMs;
use crate::sigv4::{AccessKey, SecretKey};
use crate::snapshot::{
    compile::Settings,
    envelope::{RoleId, Signer},
    report::Report,
};
use crate::tasks::scheduler;
use crate::telemetry::{Metrics, expose::expose};

/// Threads of the runtime: one compiles and commits while another answers.
const THREADS: usize = 2;
/// The name of this host's gateway in the links' list of gateways and in its certificate.
pub const GATEWAY_NAME: &str = "gateway";

/// Runs the role until SIGTERM.
///
/// # Errors
/// When keys, state, sockets or privileges are not as they must be.
pub fn run(config: Config) -> Result<(), Box<dyn Error>> {
    privilege::become_user(config.control_uid(), &[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    let directory = config.control_dir();
    let listen = config.control.listen;
    let mut host_names = vec!["localhost".to_owned(), "data-localhost".to_owned()];
    host_names
        .extend(config.control.host_names.iter().flat_map(|name| [name.clone(), format!("data-{name}")]));
    let names = FrontDoorNames {
        domain_suffix: config.gateway.domain_suffix.clone(),
        regions: vec![config.region.clone()],
        control_names: host_names.clone(),
        control_addresses: vec![listen.ip()],
    };
    let authorities = Arc::new(Authorities::open(&directory, &names, now_ms())?);
    let seal = Arc::new(Seal::open(&directory.join("seal.key"))?);
    let signer = open_signer(&config)?;
    let credentials = open_credentials(&config)?;
    identity::file::write_text(&config.ca_file(), authorities.front_door.root_pem())?;

    let (acknowledged_sender, acknowledged) = watch::channel(u64::MAX);
    let store = Box::new(EmbeddedStore::open(&directory.join("state.redb"))?);
    let reconcilers = reconcilers(&config, &authorities, &seal, Engine::new()?);
    let (writer, handle) = Writer::open(store, acknowledged, reconcilers, report_handlers())?;
    let writer = tokio::spawn(writer.run());

    let settings = settings(&config, &authorities, Arc::clone(&seal));
    let publisher =
        Publisher::new(signer, compiler(settings), admit(&config), handle.clone(), acknowledged_sender);
    let socket = config.control_socket();
    let publisher = tokio::spawn(async move { publisher.run(&socket).await });

    let leaf =
        authorities.front_door.issue_server(&host_names.into_iter().collect(), &[listen.ip()], now_ms())?;
    let tls = identity::tls::front_door(&leaf)?;
    let settings = EndpointSettings { region: config.region.clone(), credentials, seal, clock: now_s };
    let counters = EndpointMetrics::default();
    if let Some(address) = config.control.metrics {
        let metrics = Arc::new(Metrics::new());
        metrics.register(|registry| counters.register(registry));
        tokio::spawn(expose(TcpListener::bind(address).await?, metrics));
    }
    let endpoint = Arc::new(Endpoint::new(settings, Operations(handle), counters)?);
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(%listen, "control serves");
    notify::ready();
    let mut terminate = signal(SignalKind::terminate())?;
    let served = endpoint.serve(listener, tls, async move {
        terminate.recv().await;
    });
    tokio::select! {
        served = served => served?,
        ended = publisher => ended??,
        ended = writer => ended?,
    }
    Ok(())
}

/// The endpoint's operations, run by the writer.
struct Operations(WriterHandle);

impl Executor for Operations {
    async fn execute(&self, handler: Handler, caller: Caller, input: Value) -> Result<Value, ApiError> {
        self.0.execute(handler, caller, input).await
    }
}

fn reconcilers(
    config: &Config,
    authorities: &Arc<Authorities>,
    seal: &Arc<Seal>,
    engine: Engine,
) -> Vec<Reconciler> {
    let names = identity::issue::Names {
        appliance: config.name.clone(),
        domain_suffix: config.gateway.domain_suffix.clone(),
        gateway: GATEWAY_NAME.to_owned(),
    };
    let (authorities, seal) = (Arc::clone(authorities), Arc::clone(seal));
    let issue: Reconciler =
        Box::new(move |draft, _| match identity::issue::reconcile(draft, &authorities, &seal, &names) {
            Ok(next) => Some(next),
            Err(error) => {
                tracing::error!(%error, "certificates could not be issued");
                Some(draft.now() + 60_000)
            }
        });
    let listed = config.network.interfaces().map(<[String]>::to_vec);
    vec![
        Box::new(move |draft, _| {
            underlay::follow_configuration(draft, listed.as_deref());
            underlay::forget_holders(draft)
        }),
        issue,
        Box::new(|draft, _| instances::reconcile(draft)),
        Box::new(|draft, _| targets::expire_draining(draft)),
        Box::new(|draft, _| vpc_links::expire_deleting(draft)),
        Box::new(|draft, progress| scheduler::reconcile(draft, progress.acknowledged, progress.generation)),
        Box::new(move |draft, _| engine.step(draft)),
    ]
}

fn report_handlers() -> Vec<ReportHandler> {
    vec![
        Box::new(|draft, role, report| match report {
            Report::HostInterfaces { interfaces } if *role == RoleId::Host => {
                underlay::apply_interfaces(draft, interfaces);
            }
            Report::Address { interface, address, outcome } if *role == RoleId::Host => {
                underlay::apply_address(draft, interface, *address, outcome);
            }
            Report::TargetHealth { target_group, target, registered_at, health } => {
                targets::apply_health(draft, target_group, target, *registered_at, health.clone());
            }
            Report::TargetDrained { target_group, target } => {
                targets::apply_drained(draft, target_group, target);
            }
            Report::LinkAttached { link, gateways } => {
                vpc_links::apply_attached(draft, link, *gateways);
            }
            _ => {}
        }),
        Box::new(|draft, _, report| scheduler::apply_report(draft, report)),
    ]
}

fn settings(config: &Config, authorities: &Authorities, seal: Arc<Seal>) -> Settings {
    Settings {
        appliance: config.name.clone(),
        domain_suffix: config.gateway.domain_suffix.clone(),
        gateways: BTreeMap::from([(GATEWAY_NAME.to_owned(), config.gateway.lanes)]),
        identity_root_pem: authorities.identity.root_pem().to_owned(),
        resolvers: config.network.has_resolvers(),
        unseal: Box::new(move |sealed| seal.unseal_text(sealed)),
    }
}

/// A process may be the role whose user it runs under.
fn admit(config: &Config) -> crate::control::publish::Admit {
    let config = config.clone();
    Box::new(move |uid, role: &RoleId| config.uid_of(role) == uid)
}

fn open_signer(config: &Config) -> Result<Signer, Box<dyn Error>> {
    let path = config.control_dir().join("slice.key");
    let signer = match identity::file::read_secret(&path)? {
        Some(document) => Signer::from_pkcs8(&document)?,
        None => {
            let (signer, document) = Signer::generate()?;
            identity::file::write_secret(&path, &document)?;
            signer
        }
    };
    std::fs::write(config.slice_key_file(), signer.public_key())?;
    Ok(signer)
}

/// The access key of the account, made at the first start.
fn open_credentials(config: &Config) -> Result<Credentials, Box<dyn Error>> {
    let path = config.credentials_file();
    let text = match identity::file::read_secret(&path)? {
        Some(bytes) => String::from_utf8(bytes)?,
        None => {
            let mut random = [0; 40];
            aws_lc_rs::rand::fill(&mut random)?;
            let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            let (id, secret) = hex.split_at(16);
            let id = id.to_uppercase();
            let text = format!("[default]\naws_access_key_id = AKIA{id}\naws_secret_access_key = {secret}\n");
            identity::file::write_secret(&path, text.as_bytes())?;
            text
        }
    };
    let mut credentials = Credentials::default();
    let mut id = None;
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match (key.trim(), &id) {
            ("aws_access_key_id", _) => id = Some(value.trim().to_owned()),
            ("aws_secret_access_key", Some(id)) => {
                let key = AccessKey { id: id.clone(), secret: SecretKey(value.trim().to_owned()) };
                credentials.insert(key, &config.account);
            }
            _ => {}
        }
    }
    if credentials.is_empty() {
        return Err(format!("{} holds no access key", path.display()).into());
    }
    Ok(credentials)
}

fn now_ms() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs::try_from(since.as_millis()).unwrap_or(TimestampMs::MAX)
}

fn now_s() -> u64 {
    now_ms() / 1_000
}
