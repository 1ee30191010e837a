//! Publishes the committed state: a slice for each role, whole on connect, then what changed, signed.
//!
//! Before: `writer` committed. After: a role applies its slice and acknowledges it. Changes that come close together
//! are published as one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::writer::{Committed, WriterHandle};
use crate::snapshot::{
    compile::{Slices, compile},
    delta,
    envelope::{Body, MAX_FRAME, RoleId, Signer, Statement, ToControl, Update, Version},
    report::Report,
};

/// Changes within this time of each other go out together (at most 5 ms by design).
const COALESCE: Duration = Duration::from_millis(2);
/// Roles that may be connected: one node and one link process per VPC and link, with room for restarts.
const MAX_CONNECTIONS: usize = 4_096;
/// A role says who it is within this time of connecting.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Turns a committed state into slices: `compile` with what does not come from the state.
pub type Compiler = Box<dyn Fn(&Committed) -> Slices + Send + Sync>;

/// Whether the process with this user id may be that role.
pub type Admit = Box<dyn Fn(u32, &RoleId) -> bool + Send + Sync>;

/// One role's newest slice.
struct Published {
    statement: Statement,
    value: Value,
}

type PublishedSet = Arc<BTreeMap<RoleId, Arc<Published>>>;

/// Publishes to the roles that connect to its socket.
pub struct Publisher {
    signer: Signer,
    compiler: Compiler,
    admit: Admit,
    writer: WriterHandle,
    acknowledgements: Acknowledgements,
}

impl Publisher {
    /// The newest generation that all connected data planes have applied is told through `acknowledged`; with none
    /// connected, the highest number there is.
    pub fn new(
        signer: Signer,
        compiler: Compiler,
        admit: Admit,
        writer: WriterHandle,
        acknowledged: watch::Sender<u64>,
    ) -> Self {
        let acknowledgements = Acknowledgements { connections: Mutex::default(), lowest: acknowledged };
        Self { signer, compiler, admit, writer, acknowledgements }
    }

    /// Listens at `path` and publishes until the writer is gone.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn run(self, path: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Whoever may connect is decided by the peer's user id, so the socket itself is open to all users.
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let publisher = Arc::new(self);
        let (newest, published) = watch::channel((0, PublishedSet::default()));
        let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accept = async {
            for connection in 0_u64.. {
                let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
                let (stream, _) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a role's connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (publisher, published) = (Arc::clone(&publisher), published.clone());
                tokio::spawn(async move {
                    publisher.serve(connection, stream, published).await;
                    publisher.acknowledgements.forget(connection);
                    drop(permit);
                });
            }
        };
        tokio::select! {
            () = publisher.compile_changes(&newest) => {}
            () = accept => {}
        }
        Ok(())
    }

    async fn compile_changes(&self, newest: &watch::Sender<(u64, PublishedSet)>) {
        let mut committed = self.writer.committed();
        committed.mark_changed();
        while committed.changed().await.is_ok() {
            tokio::time::sleep(COALESCE).await;
            let state = committed.borrow_and_update().clone();
            let before = Arc::clone(&newest.borrow().1);
            let set = tokio::task::block_in_place(|| self.publish(&state, &before));
            newest.send_replace((state.generation, set));
        }
    }

    fn publish(&self, committed: &Committed, before: &PublishedSet) -> PublishedSet {
        let slices = (self.compiler)(committed);
        let mut values = Vec::new();
        let mut add = |role: RoleId, value: Result<Value, serde_json::Error>| match value {
            Ok(value) => values.push((role, value)),
            Err(error) => tracing::error!(%role, %error, "a slice has no JSON form"),
        };
        add(RoleId::Gateway, delta::to_value(&slices.gateway));
        add(RoleId::Host, delta::to_value(&slices.host));
        add(RoleId::Supervisor, delta::to_value(&slices.supervisor));
        for (vpc, slice) in &slices.nodes {
            add(RoleId::Node(vpc.clone()), delta::to_value(slice));
        }
        for (link, slice) in &slices.links {
            add(RoleId::Link(link.clone()), delta::to_value(slice));
        }
        let publish = |(role, value): (RoleId, Value)| {
            let fingerprint = delta::fingerprint(&value);
            let same = before.get(&role).filter(|old| old.statement.version.fingerprint == fingerprint);
            let published = match same {
                Some(old) => Arc::clone(old),
                None => {
                    let version = Version { generation: committed.generation, fingerprint };
                    Arc::new(Published { statement: self.signer.state(&role, version), value })
                }
            };
            (role, published)
        };
        Arc::new(values.into_iter().map(publish).collect())
    }

    /// One role's connection: its first message says who it is; then updates go out and reports come in.
    async fn serve(
        &self,
        connection: u64,
        stream: UnixStream,
        mut newest: watch::Receiver<(u64, PublishedSet)>,
    ) {
        let uid = stream.peer_cred().map(|peer| peer.uid());
        let mut frames = Framed::new(stream, codec());
        let hello = tokio::time::timeout(HELLO_TIMEOUT, receive(&mut frames)).await;
        let Ok(Some(ToControl::Hello { role, has })) = hello else {
            tracing::warn!(connection, "a connection said no hello");
            return;
        };
        if !uid.as_ref().is_ok_and(|uid| (self.admit)(*uid, &role)) {
            tracing::warn!(connection, %role, ?uid, "refused: this user may not be that role");
            return;
        }
        tracing::info!(connection, %role, "role connected");
        // The role keeps what it has if that is what is published now; an older version is replaced whole.
        let mut sent: Option<Arc<Published>> = None;
        let mut has = has;
        newest.mark_changed();
        loop {
            tokio::select! {
                changed = newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let (generation, published) = {
                        let newest = newest.borrow_and_update();
                        (newest.0, newest.1.get(&role).cloned())
                    };
                    let Some(published) = published else {
                        self.acknowledgements.seen(connection, &role, generation, None);
                        continue;
                    };
                    let update = match (&sent, has.take()) {
                        (Some(old), _) if Arc::ptr_eq(old, &published) => None,
                        (None, Some(has)) if has == published.statement.version => {
                            self.acknowledgements.applied(connection, has.generation);
                            None
                        }
                        (Some(old), _) => delta::diff(&old.value, &published.value).map(|patch| Update {
                            statement: published.statement.clone(),
                            body: Body::Patch { base: old.statement.version.clone(), patch },
                        }),
                        (None, _) => Some(whole(&published)),
                    };
                    self.acknowledgements.seen(connection, &role, generation, Some(published.statement.version.generation));
                    sent = Some(published);
                    if let Some(update) = update && !send(&mut frames, &update).await {
                        break;
                    }
                }
                message = receive(&mut frames) => match message {
                    Some(ToControl::Report(Report::Applied { generation })) => {
                        self.acknowledgements.applied(connection, generation);
                    }
                    Some(ToControl::Report(report)) => {
                        if let Report::Refused { generation, reason } = &report {
                            tracing::error!(%role, generation, reason, "a role refused its slice");
                        }
                        self.writer.report(role.clone(), report).await;
                    }
                    Some(ToControl::Whole) => {
                        if let Some(published) = &sent && !send(&mut frames, &whole(published)).await {
                            break;
                        }
                    }
                    Some(ToControl::Hello { .. }) | None => break,
                },
            }
        }
        tracing::info!(connection, %role, "role disconnected");
    }
}

fn whole(published: &Published) -> Update {
    Update { statement: published.statement.clone(), body: Body::Whole(published.value.clone()) }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec()
}

type Frames = Framed<UnixStream, LengthDelimitedCodec>;

/// The next message; `None` when the connection ended or sent something else.
async fn receive(frames: &mut Frames) -> Option<ToControl> {
    let frame = frames.next().await?.ok()?;
    serde_json::from_slice(&frame)
        .inspect_err(|error| tracing::warn!(%error, "a role sent no message of ours"))
        .ok()
}

/// Sends one update; false when the connection ended.
async fn send(frames: &mut Frames, update: &Update) -> bool {
    match serde_json::to_vec(update) {
        Ok(frame) => frames.send(Bytes::from(frame)).await.is_ok(),
        Err(error) => {
            tracing::error!(%error, "an update has no JSON form");
            false
        }
    }
}

/// Which connection has applied what, and the lowest of all.
struct Acknowledgements {
    connections: Mutex<HashMap<u64, Applied>>,
    lowest: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Applied {
    /// The newest generation whose slice for this role was sent, or was the same as before.
    seen: u64,
    /// Generation of the newest slice that was sent.
    sent: u64,
    /// Generation of the newest slice that was applied.
    applied: u64,
}

impl Applied {
    fn generation(self) -> u64 {
        if self.applied >= self.sent { self.seen } else { self.applied }
    }
}

impl Acknowledgements {
    fn seen(&self, connection: u64, role: &RoleId, generation: u64, sent: Option<u64>) {
        // Only data planes carry traffic that a change must not lose.
        if !matches!(role, RoleId::Gateway | RoleId::Link(_) | RoleId::Node(_)) {
            return;
        }
        self.change(|connections| {
            let entry = connections.entry(connection).or_default();
            entry.seen = generation;
            entry.sent = sent.unwrap_or(entry.sent);
        });
    }

    fn applied(&self, connection: u64, generation: u64) {
        self.change(|connections| {
            if let Some(entry) = connections.get_mut(&connection) {
                entry.applied = generation;
            }
        });
    }

    fn forget(&self, connection: u64) {
        self.change(|connections| {
            connections.remove(&connection);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<u64, Applied>)) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut connections);
        let lowest = connections.values().map(|applied| applied.generation()).min().unwrap_or(u64::MAX);
        self.lowest.send_if_modified(|now| std::mem::replace(now, lowest) != lowest);
    }
}

/// The compiler over fixed settings.
pub fn compiler(settings: crate::snapshot::compile::Settings) -> Compiler {
    Box::new(move |committed| compile(&committed.state, &settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ops::Caller, store::EmbeddedStore, writer::Writer};
    use crate::model::{Draft, api::Api};
    use crate::snapshot::{compile::Settings, envelope::Held, envelope::accept, gateway::GatewaySlice};
    use serde_json::json;

    fn create_api(
        draft: &mut Draft,
        _: &Caller,
        input: Value,
    ) -> Result<Value, crate::control::ops::ApiError> {
        draft.put(Api {
            id: input.as_str().unwrap_or_default().into(),
            name: "test".to_owned(),
            description: None,
            region: "eu-central-1".to_owned(),
            disable_execute_api_endpoint: false,
            route_selection_expression: String::new(),
            version: None,
            created_at: 0,
            tags: BTreeMap::new(),
        });
        Ok(input)
    }

    fn caller() -> Caller {
        Caller {
            account: String::new(),
            region: String::new(),
            access_key_id: String::new(),
            principal: String::new(),
        }
    }

    struct Control {
        _directory: tempfile::TempDir,
        socket: std::path::PathBuf,
        key: Vec<u8>,
        writer: WriterHandle,
        acknowledged: watch::Receiver<u64>,
    }

    async fn control() -> Control {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let store = EmbeddedStore::open(&directory.path().join("state.redb")).unwrap();
        let (lowest, acknowledged) = watch::channel(u64::MAX);
        let (writer, handle) =
            Writer::open(Box::new(store), acknowledged.clone(), Vec::new(), Vec::new()).unwrap();
        tokio::spawn(writer.run());
        let (signer, _) = Signer::generate().unwrap();
        let key = signer.public_key();
        let settings = Settings {
            appliance: "test".to_owned(),
            domain_suffix: "amazonaws.com".to_owned(),
            gateways: BTreeMap::new(),
            identity_root_pem: String::new(),
            resolvers: true,
            unseal: Box::new(|_| None),
        };
        let admit: Admit = Box::new(|_, role| *role == RoleId::Gateway);
        let publisher = Publisher::new(signer, compiler(settings), admit, handle.clone(), lowest);
        let path = socket.clone();
        tokio::spawn(async move { publisher.run(&path).await });
        Control { _directory: directory, socket, key, writer: handle, acknowledged }
    }

    async fn connect(control: &Control, role: RoleId, has: Option<Version>) -> Frames {
        let stream = loop {
            match UnixStream::connect(&control.socket).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut frames = Framed::new(stream, codec());
        tell(&mut frames, &ToControl::Hello { role, has }).await;
        frames
    }

    async fn tell(frames: &mut Frames, message: &ToControl) {
        frames.send(Bytes::from(serde_json::to_vec(message).unwrap())).await.unwrap();
    }

    async fn next(frames: &mut Frames) -> Option<Update> {
        let frame = tokio::time::timeout(Duration::from_secs(10), frames.next()).await.unwrap()?.unwrap();
        Some(serde_json::from_slice(&frame).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_role_gets_the_whole_then_what_changed_and_its_acknowledgement_counts() {
        let mut control = control().await;
        control.writer.execute(create_api, caller(), json!("api-1")).await.unwrap();
        let mut frames = connect(&control, RoleId::Gateway, None).await;
        let first = next(&mut frames).await.unwrap();
        assert!(matches!(first.body, Body::Whole(_)));
        let mut held: Held = accept(&control.key, &RoleId::Gateway, None, first).unwrap();
        while held.decode::<GatewaySlice>().unwrap().apis.is_empty() {
            let update = next(&mut frames).await.unwrap();
            held = accept(&control.key, &RoleId::Gateway, Some(&held), update).unwrap();
        }
        control.writer.execute(create_api, caller(), json!("api-2")).await.unwrap();
        let second = next(&mut frames).await.unwrap();
        assert!(matches!(second.body, Body::Patch { .. }));
        held = accept(&control.key, &RoleId::Gateway, Some(&held), second).unwrap();
        assert_eq!(held.decode::<GatewaySlice>().unwrap().apis.len(), 2);
        let generation = held.statement.version.generation;
        assert!(*control.acknowledged.borrow() < generation);
        tell(&mut frames, &ToControl::Report(Report::Applied { generation })).await;
        let told = control.acknowledged.wait_for(|lowest| *lowest >= generation);
        tokio::time::timeout(Duration::from_secs(10), told).await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_user_that_may_not_be_the_role_gets_nothing() {
        let control = control().await;
        let mut frames = connect(&control, RoleId::Host, None).await;
        assert!(next(&mut frames).await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_no_message_ends_only_its_own_connection() {
        let control = control().await;
        let mut hostile = connect(&control, RoleId::Gateway, None).await;
        next(&mut hostile).await.unwrap();
        hostile.send(Bytes::from_static(b"{\"hello\":")).await.unwrap();
        while next(&mut hostile).await.is_some() {}
        let mut frames = connect(&control, RoleId::Gateway, None).await;
        assert!(next(&mut frames).await.is_some());
    }
}
