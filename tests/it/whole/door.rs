//! The front door from the client's machine: TLS connections that stay open, and requests on them.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use gatehouse_tests::lab::{Lab, client::host_of, internet::GATEWAY};
use lb_userspace::{identity::tls, network::namespace::within};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// Where the client's connections come from, and whom they trust.
#[derive(Clone)]
pub(super) struct Door {
    namespace: String,
    tls: Arc<ClientConfig>,
}

impl Door {
    pub(super) fn of(lab: &Lab) -> Self {
        let roots = tls::roots(&std::fs::read_to_string(&lab.control().ca_file).unwrap()).unwrap();
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        Self { namespace: lab.internet().client().name().to_owned(), tls: Arc::new(tls) }
    }

    /// Connects to the API of a URL.
    pub(super) fn open(&self, url: &str) -> io::Result<Connection<Tls>> {
        let host = host_of(url).unwrap();
        let address = SocketAddr::from((GATEWAY, 443));
        let tcp = connect(&self.namespace, address, PATIENCE)?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).map_err(io::Error::other)?;
        Ok(Connection { host: host.to_owned(), stream: StreamOwned::new(tls, tcp), held: Vec::new() })
    }
}

pub(super) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects from a namespace.
pub(super) fn connect(namespace: &str, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = within(namespace, || TcpStream::connect_timeout(&to, limit)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// HTTP/1.1 on one connection, a request after the other.
pub(super) struct Connection<S> {
    host: String,
    stream: S,
    held: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: String,
    closes: bool,
}

impl Reply {
    /// The process that answered, if it was a task.
    pub(super) fn process(&self) -> Option<i32> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        i32::try_from(body["who"]["pid"].as_i64()?).ok()
    }

    /// Whether the connection is good for another request.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }
}

impl Connection<TcpStream> {
    /// Over plain TCP.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { host: "plain".to_owned(), stream, held: Vec::new() }
    }
}

impl<S: io::Read + io::Write> Connection<S> {
    pub(super) fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        let host = &self.host;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n{body}");
        self.send(request.as_bytes())?;
        self.receive()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next answer, with a body that has a length.
    pub(super) fn receive(&mut self) -> io::Result<Reply> {
        let end = loop {
            if let Some(end) = self.held.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more()?;
        };
        let head = String::from_utf8_lossy(&self.held[..end]).to_ascii_lowercase();
        let value = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(own, _)| *own == name).map(|(_, value)| value.to_owned())
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no answer: {head}")))?;
        let length: usize = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.held.len() < end + length {
            self.read_more()?;
        }
        let rest = self.held.split_off(end + length);
        let body = String::from_utf8_lossy(&self.held[end..]).into_owned();
        self.held = rest;
        Ok(Reply { status, body, closes: value("connection").is_some_and(|value| value == "close") })
    }

    /// Whether the other side has nothing more to say and says so.
    pub(super) fn is_closed(&mut self) -> bool {
        self.held.is_empty() && self.read_more().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.held.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }
}

/// Longer than any integration's own limit.
const PATIENCE: Duration = Duration::from_secs(35);
