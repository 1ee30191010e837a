//! What machines say to each other: datagrams and their echoes, and streams long enough to fill any window.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use gatehouse_tests::lab::{netns::command_in, wait::Wait};
use lb_userspace::network::namespace::within;

use super::world::World;

/// A machine that answers each datagram on a port with its address, a line's end, and what it was sent.
pub(super) fn echo_datagrams(world: &World, address: impl Into<IpAddr>, port: u16) {
    let address = address.into();
    echo_datagrams_within(&world.machine(address), SocketAddr::new(address, port));
}

/// The same in a namespace.
pub(crate) fn echo_datagrams_within(namespace: &str, at: SocketAddr) {
    let socket = within(namespace, || UdpSocket::bind(at)).unwrap().unwrap();
    let mut answer = format!("{}\n", at.ip()).into_bytes();
    let head = answer.len();
    thread::spawn(move || {
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            answer.truncate(head);
            answer.extend_from_slice(&buffer[..length]);
            // Who asked may be gone.
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// A machine's socket that speaks to one address.
pub(crate) struct Talker(pub(crate) UdpSocket);

impl Talker {
    pub(super) fn new(world: &World, from: Ipv4Addr, to: impl Into<IpAddr>, port: u16) -> Self {
        Self::within(&world.machine(from), SocketAddr::new(to.into(), port))
    }

    pub(crate) fn within(namespace: &str, to: SocketAddr) -> Self {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0_u16; 8].into() };
        let socket = within(namespace, || UdpSocket::bind((any, 0))).unwrap().unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Who answers a datagram; what it answers must be what it was sent.
    pub(crate) fn ask(&self, payload: &[u8]) -> io::Result<IpAddr> {
        self.0.send(payload)?;
        self.heard(payload)
    }

    /// Who answered what was sent already.
    pub(crate) fn heard(&self, payload: &[u8]) -> io::Result<IpAddr> {
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        let length = self.0.recv(&mut buffer)?;
        let end = buffer.iter().position(|byte| *byte == b'\n').unwrap();
        assert_eq!(&buffer[end + 1..length], payload, "an echo that is none");
        Ok(std::str::from_utf8(&buffer[..end]).unwrap().parse().unwrap())
    }
}

/// A machine that sends back what it is sent, connection by connection.
pub(super) fn echo_streams(world: &World, address: impl Into<IpAddr>, port: u16) {
    let address = address.into();
    echo_streams_within(&world.machine(address), SocketAddr::new(address, port));
}

/// The same in a namespace.
pub(crate) fn echo_streams_within(namespace: &str, at: SocketAddr) {
    let listener = within(namespace, || TcpListener::bind(at)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A connection to what sends back.
pub(super) fn dial(world: &World, from: Ipv4Addr, to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    dial_within(&world.machine(from), SocketAddr::new(to.into(), port))
}

/// The same from a namespace.
pub(crate) fn dial_within(namespace: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = within(namespace, || TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(BULK_PATIENCE))?;
    stream.set_write_timeout(Some(BULK_PATIENCE))?;
    Ok(stream)
}

/// Sends so many bytes and reads them back, both at once; each must be where it was.
pub(crate) fn pour(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    let sent = |at: usize| u8::try_from(at * 31 % 251).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut stream = stream;
            for begin in (0..bytes).step_by(CHUNK) {
                let chunk: Vec<u8> = (begin..bytes.min(begin + CHUNK)).map(sent).collect();
                stream.write_all(&chunk)?;
            }
            Ok(())
        });
        let mut stream = stream;
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < bytes {
            let room = CHUNK.min(bytes - at);
            let length = stream.read(&mut buffer[..room])?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let wrong = buffer[..length].iter().enumerate().find(|(i, byte)| **byte != sent(at + i));
            assert_eq!(wrong, None, "behind {at} bytes");
            at += length;
        }
        writer.join().unwrap()
    })
}

/// `ip` in a namespace.
pub(crate) fn ip(namespace: &str, words: &str) {
    let output = command_in(namespace, "ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
}

#[track_caller]
pub(crate) fn until(what: &str, mut question: impl FnMut() -> bool) {
    let asked = || Ok(question().then_some(()));
    Wait::default().until(what, Duration::from_secs(20), asked).unwrap_or_else(|error| panic!("{error:?}"));
}

const CHUNK: usize = 64 << 10;
/// UDP's own limit.
const LONGEST_DATAGRAM: usize = 1 << 16;
/// Longer than one lost SYN takes to be repeated.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// Longer than a few lost segments take to be repeated.
const BULK_PATIENCE: Duration = Duration::from_secs(15);
