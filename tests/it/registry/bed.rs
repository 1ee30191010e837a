//! A resolver on loopback, and DNS servers that it may ask.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use gatehouse_tests::lab::wait::Wait;
use hickory_proto::{
    op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use lb_userspace::{
    registry::{ApplyError, Resolver},
    snapshot::zone::{RecordKind, ResolverView, Routing, ZoneInstanceView, ZoneServiceView, ZoneView},
    telemetry::Metrics,
};
use tokio::runtime::Runtime;

use super::dig::{Said, dig};

/// The resolver, what it is given, and what it counts.
pub(super) struct Bed {
    runtime: Runtime,
    resolver: Option<Resolver>,
    pub(super) view: ResolverView,
    metrics: Arc<Metrics>,
    net: u32,
}

impl Bed {
    /// A resolver without servers to ask, which answers loopback's addresses of its own; its zone `demo.local` is empty.
    pub(super) fn new() -> Self {
        Self::asking(|_| Vec::new())
    }

    /// A resolver that asks the servers that `servers` makes, on addresses of loopback that it gets by number.
    pub(super) fn asking(servers: impl FnOnce(&dyn Fn(u8) -> SocketAddrV4) -> Vec<SocketAddrV4>) -> Self {
        // A /24 of loopback for each test, apart from those of other runs.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let net = (std::process::id() * 64 + NEXT.fetch_add(1, Ordering::SeqCst)) % (1 << 16);
        let servers = servers(&|number| SocketAddrV4::new(ip(net, number), PORT));
        let runtime = Runtime::new().unwrap();
        let metrics = Arc::new(Metrics::new());
        let resolver = Resolver::start(servers, &metrics).unwrap();
        let zone = ZoneView { soa_ttl_s: 15, services: BTreeMap::new() };
        let view = ResolverView {
            address: ip(net, 2),
            clients: "127.0.0.0/8".parse().unwrap(),
            zones: BTreeMap::from([("demo.local".to_owned(), zone)]),
        };
        let mut bed = Self { runtime, resolver: Some(resolver), view, metrics, net };
        bed.apply();
        bed
    }

    /// Makes a service of `demo.local` with one type of record and these instances.
    pub(super) fn service(&mut self, name: &str, kind: RecordKind, instances: &[&str]) {
        let instance = |id: &&str| {
            let at = ZoneInstanceView {
                ipv4: Some("10.0.1.6".parse().unwrap()),
                ipv6: None,
                port: Some(80),
                cname: None,
                healthy: true,
            };
            ((*id).to_owned(), at)
        };
        let service = ZoneServiceView {
            routing: Routing::Multivalue,
            records: BTreeMap::from([(kind, 60)]),
            instances: instances.iter().map(instance).collect(),
        };
        self.view.zones.get_mut("demo.local").unwrap().services.insert(name.to_owned(), service);
        self.apply();
    }

    pub(super) fn apply(&mut self) {
        self.follow(Some(self.view.clone())).unwrap();
    }

    /// Has the resolver follow a view.
    pub(super) fn follow(&mut self, view: Option<ResolverView>) -> Result<(), ApplyError> {
        let resolver = self.resolver.as_mut().unwrap();
        self.runtime.block_on(resolver.apply(view.as_ref()))
    }

    /// Where it answers.
    pub(super) fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.view.address, PORT)
    }

    /// An address of loopback that is this test's.
    pub(super) fn ip(&self, number: u8) -> Ipv4Addr {
        ip(self.net, number)
    }

    pub(super) fn dig(&self, words: &str) -> Said {
        dig(Command::new("dig"), &format!("@{} {words}", self.view.address))
    }

    /// A client's socket on an address of loopback.
    pub(super) fn client(&self, from: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(self.address()).unwrap();
        socket
    }

    /// Waits until a series has counted so many.
    pub(super) fn counted(&self, series: &str, count: u64) {
        let line = format!("gatehouse_dns_{series} {count}");
        let found = || Ok(self.metrics.text().lines().any(|found| found == line).then_some(()));
        let waited = Wait::default().until(&line, SOON, found);
        waited.unwrap_or_else(|error| panic!("{error}:\n{}", self.metrics.text()));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(resolver) = self.resolver.take() {
            self.runtime.block_on(resolver.stop());
        }
    }
}

/// A query for an address, as bytes.
pub(super) fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.metadata.recursion_desired = true;
    message.to_vec().unwrap()
}

/// The next answer on a socket.
pub(super) fn receive(socket: &UdpSocket) -> io::Result<Message> {
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer)?;
    Ok(Message::from_vec(&buffer[..count]).unwrap())
}

/// What a server outside says of every name: this address, or this code.
#[derive(Clone, Copy)]
pub(super) enum Says {
    Address(Ipv4Addr),
    Code(ResponseCode),
    /// That there is more, over UDP; over TCP an address.
    More(Ipv4Addr),
    /// First what is no answer to the question, then an address.
    ForgedThen(Ipv4Addr),
    Nothing,
}

/// Serves at this address, over UDP and TCP, until the process ends.
pub(super) fn serve(address: SocketAddrV4, says: Says) {
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            for answer in answers(&buffer[..count], says, false) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        use io::{Read as _, Write as _};
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut question).is_err() {
                continue;
            }
            for answer in answers(&question, says, true) {
                let length = u16::try_from(answer.len()).unwrap();
                let _ = stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat());
            }
        }
    });
}

fn answers(question: &[u8], says: Says, by_tcp: bool) -> Vec<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata = Metadata::response_from_request(&question.metadata);
    answer.queries = question.queries.clone();
    let record =
        |address: Ipv4Addr| Record::from_rdata(question.queries[0].name.clone(), 5, RData::A(A(address)));
    let mut forged = Vec::new();
    match says {
        Says::Nothing => return Vec::new(),
        Says::Code(code) => answer.metadata.response_code = code,
        Says::More(_) if !by_tcp => answer.metadata.truncation = true,
        Says::Address(address) | Says::More(address) => answer.answers.push(record(address)),
        Says::ForgedThen(address) => {
            let wrong = record(Ipv4Addr::new(192, 0, 2, 66));
            let mut other_id = answer.clone();
            other_id.metadata.id ^= 1;
            other_id.answers.push(wrong.clone());
            let mut other_question = answer.clone();
            other_question.queries[0].name = Name::from_ascii("forged.example.").unwrap();
            other_question.answers.push(wrong);
            forged = vec![other_id.to_vec().unwrap(), other_question.to_vec().unwrap(), vec![1, 2, 3]];
            answer.answers.push(record(address));
        }
    }
    forged.push(answer.to_vec().unwrap());
    forged
}

fn ip(net: u32, number: u8) -> Ipv4Addr {
    let [_, _, high, low] = net.to_be_bytes();
    Ipv4Addr::new(127, high, low, number)
}

const PORT: u16 = 53;
/// Longer than anything that should come takes to come.
pub(super) const SOON: Duration = Duration::from_secs(6);
