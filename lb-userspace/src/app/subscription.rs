//! A role's way to its slice, and its reports' way back.
//!
//! The last good slice is on disk: a role starts from it and keeps running on it while control is down. What the role
//! has to say is kept by subject and said again on each connection, because control may have died before it heard.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::config::Config;
use crate::snapshot::{
    envelope::{self, Held, MAX_FRAME, Received, RoleId, ToControl, Update, VerifyError},
    report::Report,
};

/// Reports that wait to be sent; more makes the role's own tasks wait.
const REPORT_QUEUE: usize = 1_024;
/// Facts that are repeated on reconnect; past this the oldest subjects are forgotten and a line is logged.
const MAX_FACTS: usize = 200_000;
/// Pause between attempts to reach control: a restart of control is felt for no longer than this.
const RECONNECT: Duration = Duration::from_millis(100);

/// What a role holds of its subscription.
pub struct Subscription<T> {
    /// The newest slice; `None` until the first.
    pub slices: watch::Receiver<Option<Arc<Received<T>>>>,
    /// Where reports go.
    pub reports: mpsc::Sender<Report>,
}

/// Starts from the slice on disk, if control signed it, and follows control from then on. Needs a runtime.
pub fn subscribe<T>(config: &Config, role: RoleId) -> Subscription<T>
where
    T: DeserializeOwned + Send + Sync + 'static,
{
    let (reports, outbox) = mpsc::channel(REPORT_QUEUE);
    let (slices_sender, slices) = watch::channel(None);
    let mut client = Client {
        file: config.role_dir(&role).join("slice.json"),
        socket: config.control_socket(),
        key_file: config.slice_key_file(),
        role,
        held: None,
        facts: BTreeMap::new(),
        outbox,
        slices: slices_sender,
    };
    client.start_from_disk();
    tokio::spawn(client.run());
    Subscription { slices, reports }
}

struct Client<T> {
    role: RoleId,
    file: PathBuf,
    socket: PathBuf,
    key_file: PathBuf,
    held: Option<Held>,
    facts: BTreeMap<String, Report>,
    outbox: mpsc::Receiver<Report>,
    slices: watch::Sender<Option<Arc<Received<T>>>>,
}

type Frames = Framed<UnixStream, LengthDelimitedCodec>;

impl<T: DeserializeOwned> Client<T> {
    fn start_from_disk(&mut self) {
        let Ok(key) = std::fs::read(&self.key_file) else { return };
        let held = match read_held(&self.file) {
            Ok(Some(held)) => held,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "slice on disk is not readable");
                return;
            }
        };
        match held.verify(&key, &self.role) {
            Ok(()) => self.hand_over(held),
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "slice on disk is not believed")
            }
        }
    }

    /// Runs until the role drops its subscription.
    async fn run(mut self) {
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => {
                    let codec = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec();
                    if self.follow(Framed::new(stream, codec)).await.is_break() {
                        return;
                    }
                    tracing::info!(role = %self.role, "control went away; going on with the slice at hand");
                }
                Err(error) => tracing::debug!(role = %self.role, %error, "control is not there"),
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT) => {}
                () = self.slices.closed() => return,
            }
        }
    }

    /// One connection; breaks when the role itself is done.
    async fn follow(&mut self, mut frames: Frames) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let has = self.held.as_ref().map(|held| held.statement.version.clone());
        if !say(&mut frames, &ToControl::Hello { role: self.role.clone(), has }).await {
            return Continue(());
        }
        for fact in self.facts.values() {
            if !say(&mut frames, &ToControl::Report(fact.clone())).await {
                return Continue(());
            }
        }
        loop {
            tokio::select! {
                report = self.outbox.recv() => {
                    let Some(report) = report else { return Break(()) };
                    let sent = say(&mut frames, &ToControl::Report(report.clone())).await;
                    self.remember(report);
                    if !sent {
                        return Continue(());
                    }
                }
                frame = frames.next() => {
                    let Some(Ok(frame)) = frame else { return Continue(()) };
                    match self.receive(&frame) {
                        Ok(()) => {}
                        Err(VerifyError::DoesNotFit) => {
                            if !say(&mut frames, &ToControl::Whole).await {
                                return Continue(());
                            }
                        }
                        Err(error) => {
                            tracing::error!(role = %self.role, %error, "an update was not believed");
                            let generation = 0;
                            let report = Report::Refused { generation, reason: error.to_string() };
                            if !say(&mut frames, &ToControl::Report(report)).await {
                                return Continue(());
                            }
                        }
                    }
                }
                () = self.slices.closed() => return Break(()),
            }
        }
    }

    fn receive(&mut self, frame: &[u8]) -> Result<(), VerifyError> {
        let update: Update = serde_json::from_slice(frame).map_err(|_| VerifyError::DoesNotFit)?;
        let key = std::fs::read(&self.key_file).map_err(|_| VerifyError::Signature)?;
        let held = envelope::accept(&key, &self.role, self.held.as_ref(), update)?;
        if let Err(error) = write_held(&self.file, &held) {
            tracing::warn!(file = %self.file.display(), %error, "slice could not be kept on disk");
        }
        self.hand_over(held);
        Ok(())
    }

    fn hand_over(&mut self, held: Held) {
        let generation = held.statement.version.generation;
        match held.decode() {
            Ok(slice) => {
                self.slices.send_replace(Some(Arc::new(Received { generation, slice })));
                self.held = Some(held);
            }
            Err(error) => {
                tracing::error!(role = %self.role, generation, %error, "slice has another version's shape")
            }
        }
    }

    fn remember(&mut self, report: Report) {
        let Some(subject) = report.subject() else { return };
        if self.facts.len() >= MAX_FACTS && !self.facts.contains_key(&subject) {
            tracing::warn!(role = %self.role, limit = MAX_FACTS, "too many facts to repeat; the first is forgotten");
            self.facts.pop_first();
        }
        self.facts.insert(subject, report);
    }
}

async fn say(frames: &mut Frames, message: &ToControl) -> bool {
    match serde_json::to_vec(message) {
        Ok(frame) => frames.send(Bytes::from(frame)).await.is_ok(),
        Err(error) => {
            tracing::error!(%error, "a message has no JSON form");
            true
        }
    }
}

fn read_held(file: &Path) -> std::io::Result<Option<Held>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the file as a whole, so that a crash leaves the old one or the new one.
fn write_held(file: &Path, held: &Held) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut draft, held)?;
    draft.persist(file)?;
    Ok(())
}
