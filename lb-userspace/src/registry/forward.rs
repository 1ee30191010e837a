//! Other DNS servers, asked for what no zone holds.
//!
//! Before it: `consider` found no zone. After it: the answer goes to the client with the client's own identity. The
//! servers are asked one after the other, by the client's own transport, from the resolver's address: only that may
//! leave the VPC. Each question has a socket, a port and an id of its own, so that nobody can answer it who did not see
//! it (RFC 5452).

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::rand;
use hickory_proto::{
    ProtoError,
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
};
use thiserror::Error;
use tokio::{
    net::{TcpSocket, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    consider::Errand,
    reply::{PAYLOAD, Transport},
    serve::{read_message, write_message},
    zone::Answer,
};

/// The servers that are asked.
pub(super) struct Forwarder {
    servers: Vec<SocketAddrV4>,
    turns: Arc<Semaphore>,
}

/// Why a server was of no use.
#[derive(Debug, Error)]
enum AskError {
    /// The question could not be written.
    #[error("writing the question")]
    Write(#[from] ProtoError),
    /// It could not be reached.
    #[error("reaching the server")]
    Reach(#[from] io::Error),
    /// It did not answer in time.
    #[error("no answer within {}ms", TRY.as_millis())]
    Silent,
    /// What it answered is no answer to the question.
    #[error("no answer to the question")]
    Foreign,
    /// It could not or would not answer.
    #[error("the server said {0}")]
    Unable(ResponseCode),
}

impl Forwarder {
    /// Asks these servers, in this order.
    pub(super) fn new(servers: Vec<SocketAddrV4>) -> Self {
        Self { servers, turns: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }

    /// Whether there is anybody to ask.
    pub(super) fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// A turn to ask; `None` while as many questions as may be are under way.
    pub(super) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).try_acquire_owned().ok()
    }

    /// The first answer that a server gives; `None` if none does.
    pub(super) async fn ask(
        &self,
        errand: &Errand,
        source: Ipv4Addr,
        _turn: OwnedSemaphorePermit,
    ) -> Option<Answer> {
        for server in &self.servers {
            let asked = timeout(TRY, ask_one(errand, source, *server)).await;
            match asked.unwrap_or(Err(AskError::Silent)) {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    tracing::debug!(%server, error = &error as &dyn std::error::Error, "a DNS server was of no use");
                }
            }
        }
        None
    }
}

async fn ask_one(errand: &Errand, source: Ipv4Addr, server: SocketAddrV4) -> Result<Answer, AskError> {
    let question = question(errand)?;
    let bytes = question.to_vec()?;
    let message = match errand.transport {
        Transport::Udp => by_udp(&question, &bytes, source, server).await?,
        Transport::Tcp => by_tcp(&question, &bytes, source, server).await?,
    };
    match message.metadata.response_code {
        code @ (ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::FormErr) => {
            Err(AskError::Unable(code))
        }
        code => Ok(Answer {
            code,
            authoritative: false,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }),
    }
}

/// The client's question as our own: what else its message held stays here.
fn question(errand: &Errand) -> Result<Message, ProtoError> {
    let mut id = [0; 2];
    rand::fill(&mut id).map_err(|_| ProtoError::from("no random number"))?;
    let mut message = Message::new(u16::from_be_bytes(id), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = errand.echo.metadata.checking_disabled;
    message.add_query(errand.query.clone());
    if let Some(client) = errand.echo.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(client.payload.min(PAYLOAD)).set_dnssec_ok(client.dnssec_ok);
        message.set_edns(edns);
    }
    Ok(message)
}

async fn by_udp(
    question: &Message,
    bytes: &[u8],
    source: Ipv4Addr,
    server: SocketAddrV4,
) -> Result<Message, AskError> {
    let socket = UdpSocket::bind((source, 0)).await?;
    // From here on the kernel takes nothing from anybody else.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; PAYLOAD as usize];
    loop {
        let count = socket.recv(&mut buffer).await?;
        // A late answer to another question, or a forged one: the true one may still come.
        if let Some(message) = buffer.get(..count).and_then(|bytes| accept(question, bytes)) {
            return Ok(message);
        }
    }
}

async fn by_tcp(
    question: &Message,
    bytes: &[u8],
    source: Ipv4Addr,
    server: SocketAddrV4,
) -> Result<Message, AskError> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddrV4::new(source, 0).into())?;
    let mut stream = socket.connect(server.into()).await?;
    stream.set_nodelay(true)?;
    write_message(&mut stream, bytes).await?;
    let answer = read_message(&mut stream, usize::from(u16::MAX)).await?;
    accept(question, &answer).ok_or(AskError::Foreign)
}

/// The message, if it is an answer to the question.
fn accept(question: &Message, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let is_answer = message.metadata.id == question.metadata.id
        && message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && message.queries == question.queries;
    is_answer.then_some(message)
}

/// Questions under way at once. Each has a socket; one more is answered SERVFAIL at once and counted.
const UNDER_WAY_MAX: usize = 256;

/// How long one server may take. Three of them take less than the 5 s after which a client asks again (resolv.conf).
const TRY: Duration = Duration::from_millis(1_500);
