//! The endpoint under test: TLS on loopback, operations over a state in memory.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{SystemTime, UNIX_EPOCH},
};

use gatehouse_tests::lab::aws::{Aws, AwsOptions};
use lb_userspace::{
    control::{
        api::{Credentials, Endpoint, EndpointSettings, Executor, metrics::EndpointMetrics},
        ops::{ApiError, Caller, Handler},
    },
    identity::seal::Seal,
    model::state::{Draft, State},
    sigv4::{AccessKey, SecretKey},
};
use serde_json::Value;
use tokio::sync::oneshot;

pub(crate) const ACCESS_KEY_ID: &str = "AKIAGATEHOUSETEST001";
pub(crate) const SECRET: &str = "a secret/with+odd=characters";
pub(crate) const ACCOUNT: &str = "000000000000";
pub(crate) const REGION: &str = "eu-central-1";

/// A served endpoint; stops when dropped.
pub(crate) struct Served {
    pub(crate) aws: Aws,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) metrics: EndpointMetrics,
    state: Memory,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

/// Commits to memory; counts what was committed.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<(State, u64)>>);

impl Memory {
    pub(crate) fn run(&self, handler: Handler, caller: &Caller, input: Value) -> Result<Value, ApiError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&held.1.to_le_bytes());
        let mut draft = Draft::new(held.0.clone(), 1000 * now_s(), seed);
        let output = handler(&mut draft, caller, input)?;
        held.1 += 1;
        held.0 = draft.finish().0;
        Ok(output)
    }

    /// Every row but those with secrets, to see that nothing has changed.
    pub(crate) fn dump(&self) -> String {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &held.0;
        format!(
            "{:?}",
            (
                (&state.vpcs, &state.subnets, &state.security_groups, &state.interfaces, &state.instances),
                (&state.load_balancers, &state.listeners, &state.rules, &state.target_groups, &state.targets),
                (&state.apis, &state.routes, &state.integrations, &state.stages, &state.deployments),
                (&state.vpc_links, &state.clusters, &state.services, &state.tasks, &state.stacks),
                (&state.namespaces, &state.discovery_services, &state.discovery_instances),
                &state.elastic_ips,
            )
        )
    }

    /// Changes the state as a reconciler or a report does.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Draft) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&held.1.to_le_bytes());
        let mut draft = Draft::new(held.0.clone(), 1000 * now_s(), seed);
        let answer = change(&mut draft);
        held.1 += 1;
        held.0 = draft.finish().0;
        answer
    }

    /// The rows of the tables that operations of ec2 and acm write.
    pub(crate) fn rows(&self) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &held.0;
        state.vpcs.len()
            + state.subnets.len()
            + state.security_groups.len()
            + state.instances.len()
            + state.elastic_ips.len()
            + state.certificates.len()
    }
}

impl Executor for Memory {
    async fn execute(&self, handler: Handler, caller: Caller, input: Value) -> Result<Value, ApiError> {
        self.run(handler, &caller, input)
    }
}

/// One access key; the seal's key file is made in `folder`.
pub(crate) fn settings(folder: &Path) -> EndpointSettings {
    let mut credentials = Credentials::default();
    let secret = SecretKey(SECRET.to_owned());
    credentials.insert(AccessKey { id: ACCESS_KEY_ID.to_owned(), secret }, ACCOUNT);
    let seal = Arc::new(Seal::open(&folder.join("seal.key")).unwrap());
    EndpointSettings { region: REGION.to_owned(), credentials, seal, clock: now_s }
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Served {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, issued.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();

        let (state, metrics) = (Memory::default(), EndpointMetrics::default());
        let endpoint = Endpoint::new(settings(folder.path()), state.clone(), metrics.clone()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                Arc::new(endpoint).serve(listener, Arc::new(tls), stopped).await.unwrap();
            });
        });
        let aws = Aws::start(&AwsOptions {
            endpoint: format!("https://{address}"),
            ca_file,
            region: REGION.to_owned(),
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: SECRET.to_owned(),
            wrapper: Vec::new(),
        })
        .unwrap();
        Self { aws, address, metrics, state, stop: Some(stop), server: Some(server), _folder: folder }
    }

    pub(crate) fn rows(&self) -> usize {
        self.state.rows()
    }

    /// What is committed.
    pub(crate) fn state(&self) -> &Memory {
        &self.state
    }

    /// Calls an operation that must succeed.
    #[track_caller]
    pub(crate) fn must(&self, service: &str, operation: &str, params: Value) -> Value {
        let said = params.to_string();
        self.aws
            .call(service, operation, params)
            .unwrap_or_else(|error| panic!("{service} {operation} {said}: {error}"))
    }

    /// Calls an operation that must be refused with this code and change nothing; answers the message.
    #[track_caller]
    pub(crate) fn refuse(&self, service: &str, operation: &str, params: Value, code: &str) -> String {
        let before = self.state.dump();
        let said = params.to_string();
        let error = self.aws.call(service, operation, params).expect_err(operation);
        assert_eq!(error.code, code, "{service} {operation} {said}: {error}");
        assert!((400..500).contains(&error.status), "{service} {operation} {said}: {error}");
        assert!(self.state.dump() == before, "{service} {operation} {said} changed something");
        error.message
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            let ended = server.join();
            if !thread::panicking() {
                ended.unwrap();
            }
        }
    }
}
