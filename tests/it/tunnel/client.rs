//! Clients of the front door: curl for whole exchanges, a raw TLS stream for unlawful ones, and a keep-alive client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use lb_userspace::identity::tls;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The address clients reach the gateway at.
pub(crate) const FRONT_DOOR: &str = "10.77.0.1:443";
/// The API's default host name.
pub(crate) const HOST: &str = "api0000001.execute-api.eu-central-1.amazonaws.com";

/// Reaches the front door and trusts its CA.
#[derive(Clone)]
pub(crate) struct Client {
    root_file: PathBuf,
    tls: Arc<ClientConfig>,
}

/// What curl saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The status.
    pub(crate) status: u16,
    /// `HTTP/2` or `HTTP/1.1`.
    pub(crate) version: String,
    /// Header lines, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

impl Seen {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header that stands once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} stands twice: {self:?}");
        value
    }
}

impl Client {
    /// Trusts the CA in `root_file`.
    pub(crate) fn new(root_file: &Path, root_pem: &str) -> Self {
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(tls::roots(root_pem).unwrap())
                .with_no_client_auth();
        Self { root_file: root_file.to_owned(), tls: Arc::new(tls) }
    }

    /// curl with `arguments` and a path.
    pub(crate) fn curl(&self, path: &str, arguments: &[&str]) -> Seen {
        self.curl_host(HOST, path, arguments)
    }

    /// curl to another host name at the front door.
    pub(crate) fn curl_host(&self, host: &str, path: &str, arguments: &[&str]) -> Seen {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", "20", "--path-as-is"])
            .args(["--resolve", &format!("{host}:443:10.77.0.1")])
            .arg("--cacert")
            .arg(&self.root_file)
            .args(arguments)
            .arg(format!("https://{host}{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?} {path} {}{text}",
            String::from_utf8_lossy(&output.stderr)
        );
        read(&text)
    }

    /// A TLS stream to the front door.
    pub(crate) async fn stream(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(FRONT_DOOR).await.unwrap();
        stream.set_nodelay(true).unwrap();
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(ServerName::try_from(HOST).unwrap(), stream)
            .await
            .unwrap()
    }

    /// Sends raw bytes on a connection of its own; answers all that came until the gateway closed it.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Seen {
        let mut stream = self.stream().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        // How the connection closes is not the question.
        let closed = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        drop(closed.expect("the gateway closes"));
        read(&String::from_utf8_lossy(&answer))
    }

    /// A keep-alive connection.
    pub(crate) async fn keep_alive(&self) -> KeepAlive {
        let (sender, connection) = http1::handshake(TokioIo::new(self.stream().await)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        KeepAlive { sender }
    }
}

/// One keep-alive connection to the front door.
pub(crate) struct KeepAlive {
    sender: SendRequest<Full<Bytes>>,
}

impl KeepAlive {
    /// One exchange; `None` when the connection failed.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Option<(StatusCode, Bytes)> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }

    /// Sends a request and answers the response unread.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Option<Response<hyper::body::Incoming>> {
        self.sender.ready().await.ok()?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", HOST)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        self.sender.send_request(request).await.ok()
    }
}

/// Reads an HTTP/1 or curl's spelling of an HTTP/2 response; the last one if there were several.
fn read(text: &str) -> Seen {
    let mut rest = text;
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response in {text:?}"));
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap().split(' ');
        let version = words.next().unwrap().to_owned();
        let status = words.next().unwrap().parse().unwrap();
        if status == 100 {
            rest = body;
            continue;
        }
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        return Seen { status, version, headers, body: body.to_owned() };
    }
}
