//! Targets that behave, and targets that do not: a thread for each connection, blocking sockets, nothing hidden.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

use super::{client::find, stage::SOON};

/// A listening target.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) seen: Arc<Mutex<Vec<Received>>>,
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    stopped: Arc<AtomicBool>,
}

/// A request as the target received it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) peer: SocketAddr,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// One accepted connection, as a behaviour sees it.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// From 0, over the target's life.
    pub(super) number: usize,
    buffer: Vec<u8>,
    seen: Arc<Mutex<Vec<Received>>>,
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    is_reset: bool,
}

impl Target {
    /// Answers every request with 200 and `name`, keeping connections.
    pub(super) fn named(ip: Ipv4Addr, name: &str) -> Self {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        Self::start(ip, move |connection| {
            while connection.request().is_some() {
                connection.send(answer.as_bytes());
            }
        })
    }

    /// Does with each connection what `behave` says, then closes it.
    pub(super) fn start(ip: Ipv4Addr, behave: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let target = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            seen: Arc::default(),
            open: Arc::default(),
            stopped: Arc::default(),
        };
        let behave = Arc::new(behave);
        let (connections, seen) = (target.connections.clone(), target.seen.clone());
        let (open, stopped) = (target.open.clone(), target.stopped.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = connections.fetch_add(1, Ordering::SeqCst);
                open.lock().unwrap().insert(number, stream.try_clone().unwrap());
                let mut connection = Connection {
                    stream,
                    number,
                    buffer: Vec::new(),
                    seen: seen.clone(),
                    open: open.clone(),
                    is_reset: false,
                };
                let behave = behave.clone();
                thread::spawn(move || {
                    behave(&mut connection);
                    // The clone above keeps the socket open; the peer must see the end.
                    if !connection.is_reset {
                        connection.close();
                    }
                });
            }
        });
        target
    }

    /// As a killed process: closed listener, closed connections.
    pub(super) fn kill(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread in accept, which then closes the listener.
        drop(TcpStream::connect_timeout(&self.address, SOON));
        for (_, stream) in self.open.lock().unwrap().drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Ends all connections, and goes on listening.
    pub(super) fn close_connections(&self) {
        for (_, stream) in self.open.lock().unwrap().drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Requests received so far.
    pub(super) fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// How many connections were accepted.
    pub(super) fn accepted(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The last request received.
    pub(super) fn last(&self) -> Received {
        self.seen.lock().unwrap().last().cloned().expect("the target has received a request")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Connection {
    /// The next request, body and all; `None` at the end.
    pub(super) fn request(&mut self) -> Option<Received> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (own, value) = line.split_once(':')?;
                own.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let body = if header("transfer-encoding").is_some() {
            while find(&self.buffer, b"0\r\n\r\n").is_none() {
                self.fill()?;
            }
            let end = find(&self.buffer, b"0\r\n\r\n").unwrap() + 5;
            self.buffer.drain(..end).collect()
        } else {
            let length = header("content-length").map_or(0, |length| length.parse().unwrap());
            while self.buffer.len() < length {
                self.fill()?;
            }
            self.buffer.drain(..length).collect()
        };
        let received = Received { peer: self.stream.peer_addr().unwrap(), head, body };
        self.seen.lock().unwrap().push(received.clone());
        Some(received)
    }

    /// Waits for the first byte of a request, and leaves it.
    pub(super) fn first_byte(&mut self) {
        let _ = self.stream.peek(&mut [0]);
    }

    /// Sends bytes; a client that is gone is not an error.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Ends the connection with a reset when the behaviour returns.
    pub(super) fn reset(&mut self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        // A second descriptor would keep the socket from being closed.
        self.open.lock().unwrap().remove(&self.number);
        self.is_reset = true;
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(count) if count > 0 => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Some(())
            }
            _ => None,
        }
    }
}
