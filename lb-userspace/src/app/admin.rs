//! The node role's admin socket: what an operator may ask of the packet path while it works.
//!
//! A Unix socket of mode 0600, root's: a line of JSON asks, lines of JSON answer, the last one says that it is the last.
//! The role's own loop answers, a bounded part at a time, so that nobody's question keeps it from its work.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::packet::{
    Balancer, CaptureQuestion, CapturedPacket, Explanation, FlowFilter, FlowLine, PacketQuestion, Place,
    Tally, Tap,
};

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Flows.
    Flows {
        /// Which.
        filter: FlowFilter,
        /// How many at most.
        limit: usize,
    },
    /// What would happen to a packet.
    Explain(PacketQuestion),
    /// Packets as they come; until all that was asked for were there, or the asker says nothing more is wanted by closing
    /// its side.
    Capture(CaptureQuestion),
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A flow.
    Flow(FlowLine),
    /// What would happen.
    Explanation(Explanation),
    /// Packets are looked at from now on.
    Capturing,
    /// A packet.
    Packet(CapturedPacket),
    /// What a capture did, behind its last packet.
    Captured(Tally),
    /// The last line: all was said, or all that was asked for at most.
    Done {
        /// Whether there may be more.
        is_cut: bool,
    },
    /// The last line: nothing can be said.
    Failed(String),
}

/// Something that the role's loop is to find out.
pub enum Order {
    /// A part of the flows.
    Flows(FlowFilter, Place, oneshot::Sender<Result<FlowPage, String>>),
    /// What would happen to a packet.
    Explain(PacketQuestion, oneshot::Sender<Result<Explanation, String>>),
    /// Packets as they come.
    Capture(CaptureQuestion, oneshot::Sender<Result<Tap, String>>),
}

/// A part of the flows, and where the rest is.
pub type FlowPage = (Vec<FlowLine>, Option<Place>);

impl Order {
    /// Finds it out. Who does not wait for the answer any more gets none.
    pub fn carry_out(self, balancer: &mut Balancer) {
        match self {
            Self::Flows(filter, place, answer) => {
                let _ = answer.send(balancer.flows(&filter, place).map_err(|error| error.to_string()));
            }
            Self::Explain(question, answer) => {
                let _ = answer.send(balancer.explain(&question).map_err(|error| error.to_string()));
            }
            Self::Capture(question, answer) => {
                let tap = balancer.capture(&question, Instant::now());
                let _ = answer.send(tap.map_err(|error| said_whole(&error)));
            }
        }
    }
}

/// Binds the socket, in place of one that an earlier process left. Must run as root, before the process starts threads.
///
/// # Errors
/// When the directory is not there or the path is too long for a socket.
pub fn bind(path: &Path) -> io::Result<StdListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody may connect between the binding and a change of its mode.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = StdListener::bind(path);
    umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers on the socket until nobody takes orders any more. Needs a runtime.
///
/// # Errors
/// When the runtime does not take the socket.
pub fn serve(listener: StdListener, orders: mpsc::Sender<Order>) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "accepting on the admin socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let orders = orders.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &orders).await {
                    tracing::debug!(%error, "a conversation on the admin socket ended early");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

async fn converse(stream: UnixStream, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_QUESTION));
    timeout(PATIENCE, read.read_line(&mut line)).await??;
    let mut say = Say(BufWriter::new(write));
    match serde_json::from_str(&line) {
        Ok(Question::Capture(question)) => {
            let asker = read.into_inner().into_inner();
            let patience = Duration::from_secs(question.seconds.into()) + PATIENCE;
            timeout(patience, capture(question, orders, asker, &mut say)).await?
        }
        Ok(question) => timeout(PATIENCE, answer(question, orders, &mut say)).await?,
        Err(error) => say.line(&Answer::Failed(format!("not a question: {error}"))).await,
    }?;
    say.0.flush().await
}

async fn answer(question: Question, orders: &mpsc::Sender<Order>, say: &mut Say) -> io::Result<()> {
    match question {
        Question::Flows { filter, limit } => list(&filter, limit, orders, say).await,
        Question::Explain(question) => {
            let (answer, answered) = oneshot::channel();
            let last = match ask(orders, Order::Explain(question, answer), answered).await {
                Ok(explanation) => {
                    say.line(&Answer::Explanation(explanation)).await?;
                    Answer::Done { is_cut: false }
                }
                Err(error) => Answer::Failed(error),
            };
            say.line(&last).await
        }
        Question::Capture(_) => Ok(()),
    }
}

/// Tells packets until there were enough, the time is over, or the asker has closed its side: then nobody looks any more.
async fn capture(
    question: CaptureQuestion,
    orders: &mpsc::Sender<Order>,
    mut asker: OwnedReadHalf,
    say: &mut Say,
) -> io::Result<()> {
    let (answer, answered) = oneshot::channel();
    let time = Duration::from_secs(question.seconds.into());
    let mut tap = match ask(orders, Order::Capture(question, answer), answered).await {
        Ok(tap) => tap,
        Err(error) => return say.line(&Answer::Failed(error)).await,
    };
    say.line(&Answer::Capturing).await?;
    let over = tokio::time::sleep(time);
    tokio::pin!(over);
    loop {
        say.0.flush().await?;
        let packets = tokio::select! {
            packets = tap.samples() => packets?,
            _ = asker.read_u8() => break,
            () = &mut over => break,
        };
        if packets.is_empty() {
            break;
        }
        for packet in packets {
            say.line(&Answer::Packet(packet)).await?;
        }
    }
    // What was sampled already is told.
    loop {
        let packets = tap.rest();
        if packets.is_empty() {
            break;
        }
        for packet in packets {
            say.line(&Answer::Packet(packet)).await?;
        }
    }
    let last = match tap.tally() {
        Ok(tally) => {
            say.line(&Answer::Captured(tally)).await?;
            Answer::Done { is_cut: false }
        }
        Err(error) => Answer::Failed(said_whole(&error)),
    };
    say.line(&last).await
}

async fn list(
    filter: &FlowFilter,
    limit: usize,
    orders: &mpsc::Sender<Order>,
    say: &mut Say,
) -> io::Result<()> {
    let mut left = limit;
    let mut place = Some(Place::default());
    while let Some(at) = place {
        let (answer, answered) = oneshot::channel();
        let (lines, next) = match ask(orders, Order::Flows(filter.clone(), at, answer), answered).await {
            Ok(page) => page,
            Err(error) => return say.line(&Answer::Failed(error)).await,
        };
        for line in lines {
            if left == 0 {
                return say.line(&Answer::Done { is_cut: true }).await;
            }
            left -= 1;
            say.line(&Answer::Flow(line)).await?;
        }
        place = next;
    }
    say.line(&Answer::Done { is_cut: false }).await
}

async fn ask<T>(
    orders: &mpsc::Sender<Order>,
    order: Order,
    answered: oneshot::Receiver<Result<T, String>>,
) -> Result<T, String> {
    let stops = |()| "the node is stopping".to_owned();
    orders.send(order).await.map_err(|_| stops(()))?;
    answered.await.map_err(|_| stops(()))?
}

/// An error with its causes.
fn said_whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The asking side's ear.
struct Say(BufWriter<OwnedWriteHalf>);

impl Say {
    async fn line(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }
}

/// Questions that wait for the role's loop; more make their askers wait.
pub const ORDER_QUEUE: usize = 16;
/// Conversations at a time; the next one waits.
const MAX_CONNECTIONS: usize = 8;
/// Bytes of a question.
const MAX_QUESTION: u64 = 64 * 1024;
/// How long a conversation may take, besides the time that a capture goes on for.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
