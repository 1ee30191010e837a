//! `gatehouse flows` and `gatehouse explain`: questions to the nodes of this host, by their admin sockets.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::admin::{Answer, Question};
use super::cli::say;
use crate::config::Config;
use crate::packet::{End, Explanation, FlowFilter, FlowListener, FlowState, PacketQuestion, Protocol};

/// `gatehouse flows`.
#[derive(clap::Args)]
pub struct FlowArguments {
    #[command(flatten)]
    which: Which,
    /// Clients: an address, a range, either with a port, or a port such as `:443`
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    client: Option<End>,
    /// Targets, in the same form
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    target: Option<End>,
    /// Listeners, in the same form, or one by its ARN
    #[arg(long, value_name = "ARN|ADDRESS[:PORT]")]
    listener: Option<FlowListener>,
    /// Those through the load balancer's address in this Availability zone
    #[arg(long)]
    zone: Option<String>,
    /// tcp or udp
    #[arg(long)]
    protocol: Option<Protocol>,
    /// embryonic, established, closing, finished or reset
    #[arg(long)]
    state: Option<FlowState>,
    /// How many at most, of each node
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// `gatehouse explain`.
#[derive(clap::Subcommand)]
pub enum Explain {
    /// What the packet path would do with a packet, and why
    Packet(PacketArguments),
}

/// `gatehouse explain packet`.
#[derive(clap::Args)]
pub struct PacketArguments {
    #[command(flatten)]
    which: Which,
    /// Where it comes from
    #[arg(long, value_name = "ADDRESS:PORT")]
    src: SocketAddr,
    /// Where it goes
    #[arg(long, value_name = "ADDRESS:PORT")]
    dst: SocketAddr,
    /// tcp or udp
    #[arg(long, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// TCP flags: syn, ack, fin, rst and psh, with commas between them
    #[arg(long, default_value = "syn")]
    flags: String,
    /// The device it comes in by, otherwise the one that has the destination's address
    #[arg(long)]
    device: Option<String>,
}

/// Which nodes are asked.
#[derive(clap::Args)]
pub(super) struct Nodes {
    /// The boot configuration, TOML
    #[arg(short, long, env = "GATEHOUSE_CONFIG", default_value = "/etc/gatehouse/gatehouse.toml")]
    config: PathBuf,
    /// The node of this VPC alone
    #[arg(long)]
    vpc: Option<String>,
}

/// Which nodes are asked, and how their answers are shown.
#[derive(clap::Args)]
struct Which {
    #[command(flatten)]
    nodes: Nodes,
    /// JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is nobody to ask.
    #[error("no node of a VPC runs on this host, or none that this user may ask: {path} has no admin socket")]
    NoNode {
        /// Where sockets are.
        path: PathBuf,
    },
    /// A node cannot tell.
    #[error("{0}")]
    Failed(String),
    /// It said something else than an answer.
    #[error("the node ended the conversation before it had answered")]
    Unfinished,
}

/// Lists flows.
///
/// # Errors
/// When no node can be asked, or one cannot tell.
pub async fn flows(arguments: FlowArguments) -> Result<(), Box<dyn Error>> {
    let FlowArguments { which, client, target, listener, zone, protocol, state, limit } = arguments;
    let filter = FlowFilter { client, target, listener, zone, protocol, state };
    let question = Question::Flows { filter, limit };
    let mut is_cut = false;
    for socket in which.nodes.sockets()? {
        for answer in ask(&socket, &question).await? {
            match answer {
                Answer::Flow(line) if which.json => say(&serde_json::to_string(&line)?),
                Answer::Flow(line) => say(&line.to_string()),
                Answer::Done { is_cut: own } => is_cut |= own,
                Answer::Failed(error) => return Err(AskError::Failed(error).into()),
                _ => return Err(AskError::Unfinished.into()),
            }
        }
    }
    if is_cut && !which.json {
        say("there are more: --limit shows them");
    }
    Ok(())
}

/// Explains a packet: by the node that has its destination's address.
///
/// # Errors
/// When no node can be asked, or none can tell.
pub async fn explain(Explain::Packet(arguments): Explain) -> Result<(), Box<dyn Error>> {
    let PacketArguments { which, src, dst, protocol, flags, device } = arguments;
    let question =
        Question::Explain(PacketQuestion { source: src, destination: dst, protocol, flags, device });
    let mut failed = AskError::Unfinished;
    for socket in which.nodes.sockets()? {
        for answer in ask(&socket, &question).await? {
            match answer {
                Answer::Explanation(explanation) if which.json => {
                    say(&serde_json::to_string(&explanation)?);
                    return Ok(());
                }
                Answer::Explanation(explanation) => {
                    tell(&explanation);
                    return Ok(());
                }
                Answer::Failed(error) => failed = AskError::Failed(error),
                _ => {}
            }
        }
    }
    Err(failed.into())
}

fn tell(explanation: &Explanation) {
    say(&format!("in by {}", explanation.device));
    for step in &explanation.steps {
        say(&format!("  {step}"));
    }
    say(&explanation.verdict);
    if let Some(becomes) = &explanation.becomes {
        say(&format!("  as {becomes}"));
    }
}

impl Nodes {
    pub(super) fn sockets(&self) -> Result<Vec<PathBuf>, Box<dyn Error>> {
        let config = Config::read(&self.config)?;
        let nodes = config.node_admin_sockets(self.vpc.as_deref());
        if nodes.is_empty() {
            return Err(AskError::NoNode { path: config.run_dir }.into());
        }
        Ok(nodes)
    }
}

/// One question and its whole answer.
async fn ask(socket: &PathBuf, question: &Question) -> Result<Vec<Answer>, Box<dyn Error>> {
    let mut conversation = Conversation::begin(socket, question).await?;
    let mut answers = Vec::new();
    loop {
        let answer = conversation.next().await?;
        let is_last = matches!(answer, Answer::Done { .. } | Answer::Failed(_));
        answers.push(answer);
        if is_last {
            return Ok(answers);
        }
    }
}

/// A question that is being answered.
pub(super) struct Conversation {
    lines: Lines<BufReader<OwnedReadHalf>>,
    // Closed, it says that nothing more is wanted.
    question: OwnedWriteHalf,
}

impl Conversation {
    /// Asks a node.
    pub(super) async fn begin(socket: &PathBuf, question: &Question) -> Result<Self, Box<dyn Error>> {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error) => {
                return Err(AskError::Failed(format!("connecting to {}: {error}", socket.display())).into());
            }
        };
        let (read, mut write) = stream.into_split();
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        write.write_all(&line).await?;
        Ok(Self { lines: BufReader::new(read).lines(), question: write })
    }

    /// The next line of the answer. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Answer, Box<dyn Error>> {
        let line = self.lines.next_line().await?.ok_or(AskError::Unfinished)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Says that nothing more is wanted; the node tells what it has, and ends.
    pub(super) async fn enough(&mut self) -> std::io::Result<()> {
        self.question.shutdown().await
    }
}
