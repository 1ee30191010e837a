//! Messages received and answered over UDP and TCP.
//!
//! Before it: sockets at the resolver's address. All of it runs on one thread; what no zone holds is waited for in tasks
//! of their own, so that a slow server elsewhere delays nobody's question for a private name.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::rand;
use ipnet::Ipv4Net;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::spawn_local,
    time::timeout,
};

use super::{
    consider::{Considered, Errand, consider},
    counters::Counters,
    forward::Forwarder,
    reply::{Reply, Transport},
    zone::Zones,
};
use crate::http::listen;

/// A resolver at its address.
pub(super) struct Service {
    /// Where it answers.
    pub(super) address: Ipv4Addr,
    /// Who may ask.
    pub(super) clients: Ipv4Net,
    /// What it knows; `None` once it is to say nothing more.
    pub(super) zones: RefCell<Option<Arc<Zones>>>,
    /// Whom it asks.
    pub(super) forwarder: Rc<Forwarder>,
    /// What it counts.
    pub(super) counters: Rc<Counters>,
}

impl Service {
    /// What becomes of a message; `Ignore` for everything once the resolver is closed.
    fn consider(&self, bytes: &[u8], transport: Transport) -> Considered {
        let Some(zones) = self.zones.borrow().clone() else { return Considered::Ignore };
        let mut seed = [0; 8];
        // Without chance the answers are right all the same.
        let _ = rand::fill(&mut seed);
        let recursive = self.forwarder.has_servers();
        let considered = consider(&zones, bytes, transport, recursive, u64::from_ne_bytes(seed));
        if considered == Considered::Ignore {
            self.counters.noise.inc();
        }
        considered
    }

    /// Asks another server, unless too much is asked already: the future it then gives must be waited for.
    fn run(&self, errand: Errand) -> Result<impl Future<Output = Reply> + use<>, Reply> {
        let Some(turn) = self.forwarder.turn() else {
            self.counters.busy.inc();
            return Err(errand.conclude(None));
        };
        let (forwarder, counters) = (Rc::clone(&self.forwarder), Rc::clone(&self.counters));
        let source = self.address;
        Ok(async move {
            let answer = forwarder.ask(&errand, source, turn).await;
            let counter = if answer.is_some() { &counters.forwarded } else { &counters.unanswered };
            counter.inc();
            errand.conclude(answer)
        })
    }

    fn admits(&self, peer: SocketAddr) -> bool {
        let admitted = matches!(peer.ip(), IpAddr::V4(address) if self.clients.contains(&address));
        if !admitted {
            self.counters.outside.inc();
        }
        admitted
    }
}

/// Binds the datagram socket. The address may be missing from the interface still. Must be called on the runtime.
pub(super) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_freebind_v4(true)?;
    socket.set_nonblocking(true)?;
    // The kernel's default holds some 250 queries of one moment; it gives less than asked for if that is its limit.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Answers datagrams for ever.
pub(super) async fn serve_udp(service: Rc<Service>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    let mut buffer = vec![0; QUERY_MAX + 1];
    loop {
        let (count, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving a query failed");
                tokio::time::sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        if !service.admits(peer) {
            continue;
        }
        let Some(bytes) = buffer.get(..count).filter(|bytes| bytes.len() <= QUERY_MAX) else {
            service.counters.oversized.inc();
            continue;
        };
        match service.consider(bytes, Transport::Udp) {
            Considered::Ignore => {}
            Considered::Reply(reply) => send(&service, &socket, &reply, peer),
            Considered::Ask(errand) => match service.run(errand) {
                Err(reply) => send(&service, &socket, &reply, peer),
                Ok(pending) => {
                    let (service, socket) = (Rc::clone(&service), Rc::clone(&socket));
                    spawn_local(async move { send(&service, &socket, &pending.await, peer) });
                }
            },
        }
    }
}

/// Sends a datagram now or never: a client that gets none asks again.
fn send(service: &Service, socket: &UdpSocket, reply: &Reply, peer: SocketAddr) {
    match socket.try_send_to(&reply.bytes, peer) {
        Ok(_) => service.counters.answered(reply),
        Err(error) => {
            service.counters.unsent.inc();
            tracing::debug!(%peer, %error, "an answer was not sent");
        }
    }
}

/// Accepts and answers connections for ever.
pub(super) async fn serve_tcp(service: Rc<Service>, listener: TcpListener) {
    listen::accept(&listener, |stream, peer| {
        if !service.admits(peer) {
            return;
        }
        if service.counters.connections.get() >= CONNECTIONS_MAX {
            service.counters.rejected.inc();
            return;
        }
        service.counters.connections.inc();
        let service = Rc::clone(&service);
        spawn_local(async move {
            if let Err(error) = converse(&service, stream).await {
                tracing::debug!(%peer, %error, "a connection ended early");
            }
            service.counters.connections.dec();
        });
    })
    .await;
}

/// Answers a connection's queries one after the other, until the client has no more or is silent for too long.
async fn converse(service: &Service, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let message = match timeout(IDLE, read_message(&mut stream, QUERY_MAX)).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    service.counters.oversized.inc();
                }
                return Err(error);
            }
            Err(_) => return Ok(()),
        };
        let reply = match service.consider(&message, Transport::Tcp) {
            // Who sends no queries has no business here.
            Considered::Ignore => return Ok(()),
            Considered::Reply(reply) => reply,
            Considered::Ask(errand) => match service.run(errand) {
                Err(reply) => reply,
                Ok(pending) => pending.await,
            },
        };
        timeout(IDLE, write_message(&mut stream, &reply.bytes)).await??;
        service.counters.answered(&reply);
    }
}

/// Reads one message after its length (RFC 1035, 4.2.2); `InvalidData` if that is more than `most`.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is longer than any query"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message after its length, in one piece.
pub(super) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut piece = Vec::with_capacity(2 + message.len());
    piece.extend(length.to_be_bytes());
    piece.extend(message);
    stream.write_all(&piece).await
}

/// The longest query: a name has 255 bytes, and EDNS options hold cookies, not documents. A longer one is dropped and
/// counted; its connection is closed.
const QUERY_MAX: usize = 4_096;

/// Bytes of datagrams that wait to be read; the kernel counts each as a kilobyte or so.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Connections at once; one more is closed and counted.
const CONNECTIONS_MAX: i64 = 256;

/// How long a connection may be silent, or not take an answer. RFC 7766, 6.2.3, has seconds in mind.
const IDLE: Duration = Duration::from_secs(10);

/// Before the next try when receiving fails.
const RECEIVE_PAUSE: Duration = Duration::from_millis(20);
