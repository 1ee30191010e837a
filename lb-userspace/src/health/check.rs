//! One check: a connection, for HTTPS a handshake, for HTTP and HTTPS a request, an outcome.
//!
//! As AWS's health checkers ask: a new connection each time, Host is the target's address and port, and no certificate of
//! a target is verified.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{machine::Outcome, matcher::Matcher};
use crate::{
    http::listen::connect_from, model::target_group::HealthCheck, network::proxy_protocol::ProxyHeader,
};

/// What is asked of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Where.
    pub target: SocketAddr,
    /// From which of the load balancer's addresses.
    pub source: Option<IpAddr>,
    /// Whether the load balancer's security groups do not let it ask. Then nothing is sent, and nothing comes back.
    pub is_barred: bool,
    /// Whether a PROXY protocol header goes first: "the proxy protocol header is also included in health check
    /// connections", without a client.
    pub has_header: bool,
    /// What, how often, how long.
    pub settings: HealthCheck,
}

impl Check {
    /// Asks once; `tls` is for HTTPS.
    pub async fn run(&self, tls: &Arc<ClientConfig>) -> Outcome {
        if self.is_barred {
            return Outcome::TimedOut;
        }
        let limit = Duration::from_secs(u64::from(self.settings.timeout_s));
        match timeout(limit, self.ask(tls)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Outcome::TimedOut,
            Ok(Err(_)) => Outcome::Failed,
            Err(_) => Outcome::TimedOut,
        }
    }

    async fn ask(&self, tls: &Arc<ClientConfig>) -> io::Result<Outcome> {
        let mut stream = connect_from(self.source, self.target).await?;
        if self.has_header {
            stream.write_all(&ProxyHeader::Local.encode()).await?;
        }
        match self.settings.protocol.as_str() {
            "TCP" => Ok(Outcome::Passed),
            "HTTPS" => {
                let name = ServerName::IpAddress(self.target.ip().into());
                self.request(TlsConnector::from(tls.clone()).connect(name, stream).await?).await
            }
            _ => self.request(stream).await,
        }
    }

    async fn request(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Outcome> {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nUser-Agent: {USER_AGENT}\r\n\
             Accept-Encoding: gzip, compressed\r\n\r\n",
            self.settings.path, self.target
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let code = read_code(&mut stream).await?;
        Ok(match code {
            Some(code) if Matcher::parse(&self.settings.matcher).admits(code) => Outcome::Passed,
            Some(code) => Outcome::Code(code),
            None => Outcome::Failed,
        })
    }
}

/// The response's status, after its head is whole and its body, if short, is read: closing on unread bytes would reset
/// the target's connection.
async fn read_code(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u16>> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    let code = loop {
        let count = stream.read(&mut chunk).await?;
        head.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(_)) => break response.code,
            Ok(httparse::Status::Partial) if count > 0 && head.len() <= LONGEST => {}
            _ => return Ok(None),
        }
    };
    let mut left = LONGEST;
    while left > 0 {
        match timeout(TAIL, stream.read(&mut chunk)).await {
            Ok(Ok(count)) if count > 0 => left = left.saturating_sub(count),
            _ => break,
        }
    }
    Ok(code)
}

const USER_AGENT: &str = "ELB-HealthChecker/2.0";
/// A health check's answer is small; more is not read.
const LONGEST: usize = 64 << 10;
/// More headers than this is no answer to a health check.
const HEADERS: usize = 100;
/// The verdict stands; only good manners wait for the rest.
const TAIL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::identity::listener_tls::to_targets;

    fn tls() -> Arc<ClientConfig> {
        to_targets(None).unwrap()
    }

    /// What a target does over a connection: reads a request, answers, closes.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
        let mut received = Vec::new();
        let mut chunk = vec![0; 4096];
        // A check over TCP sends nothing, or a header alone.
        while !received.ends_with(b"\r\n\r\n") {
            match stream.read(&mut chunk).await.unwrap() {
                0 => break,
                count => received.extend_from_slice(&chunk[..count]),
            }
        }
        stream.write_all(answer).await.unwrap();
        stream.flush().await.unwrap();
        String::from_utf8_lossy(&received).into_owned()
    }

    /// What a check says of a target that answers with `answer` and closes; and what the target received.
    async fn ask(protocol: &str, matcher: &str, answer: &'static [u8]) -> (Outcome, String) {
        ask_with(false, protocol, matcher, answer).await
    }

    async fn ask_with(
        has_header: bool,
        protocol: &str,
        matcher: &str,
        answer: &'static [u8],
    ) -> (Outcome, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, answer).await
        });
        let source = Some(std::net::Ipv4Addr::LOCALHOST.into());
        let settings = settings(protocol, matcher);
        let outcome = Check { target, source, is_barred: false, has_header, settings }.run(&tls()).await;
        (outcome, served.await.unwrap())
    }

    fn settings(protocol: &str, matcher: &str) -> HealthCheck {
        HealthCheck {
            enabled: true,
            protocol: protocol.to_owned(),
            port: "traffic-port".to_owned(),
            path: "/health".to_owned(),
            interval_s: 30,
            timeout_s: 2,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: matcher.to_owned(),
        }
    }

    #[tokio::test]
    async fn the_request_is_a_health_checkers() {
        let (outcome, request) = ask("HTTP", "200", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(outcome, Outcome::Passed);
        assert!(request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.contains("User-Agent: ELB-HealthChecker/2.0\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_header_without_a_client_goes_first_where_targets_expect_one() {
        for protocol in ["HTTP", "TCP"] {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let (outcome, received) = ask_with(true, protocol, "200", answer).await;
            assert_eq!(outcome, Outcome::Passed);
            assert!(received.starts_with("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), "{received:?}");
            assert_eq!(received.contains("GET /health"), protocol == "HTTP", "{received:?}");
        }
    }

    #[tokio::test]
    async fn other_codes_and_other_protocols_fail() {
        assert_eq!(ask("HTTP", "200-299", b"HTTP/1.1 404 No\r\n\r\n").await.0, Outcome::Code(404));
        assert_eq!(ask("HTTP", "200", b"SSH-2.0-x\r\n").await.0, Outcome::Failed);
        assert_eq!(ask("HTTP", "200", b"").await.0, Outcome::Failed);
        assert_eq!(ask("TCP", "", b"").await.0, Outcome::Passed);
    }

    #[tokio::test]
    async fn a_refused_connection_fails_at_once() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let check = Check {
            target,
            source: None,
            is_barred: false,
            has_header: false,
            settings: settings("TCP", ""),
        };
        assert_eq!(check.run(&tls()).await, Outcome::Failed);
    }

    #[tokio::test]
    async fn nothing_is_sent_where_security_groups_let_nothing_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let settings = settings("TCP", "");
        let check = Check { target, source: None, is_barred: true, has_header: false, settings };
        assert_eq!(check.run(&tls()).await, Outcome::TimedOut);
        listener.into_std().unwrap().accept().unwrap_err();
    }

    #[tokio::test]
    async fn https_is_asked_in_tls_whatever_certificate_the_target_shows() {
        let issued = rcgen::generate_simple_self_signed(["elsewhere.test".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            // Closed without close_notify, as many servers do.
            serve(acceptor.accept(stream).await.unwrap(), b"HTTP/1.1 302 Found\r\n\r\n").await
        });
        let settings = settings("HTTPS", "200-399");
        let check = Check { target, source: None, is_barred: false, has_header: false, settings };
        assert_eq!(check.run(&tls()).await, Outcome::Passed);
        assert!(served.await.unwrap().starts_with("GET /health HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn a_target_without_tls_fails_a_check_over_https() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hello = stream.read(&mut [0; 4096]).await.unwrap();
            assert!(hello > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        });
        let check = Check {
            target,
            source: None,
            is_barred: false,
            has_header: false,
            settings: settings("HTTPS", "200"),
        };
        assert_eq!(check.run(&tls()).await, Outcome::Failed);
    }
}
