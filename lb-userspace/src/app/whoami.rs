//! `gatehouse whoami`: a small HTTP/1.1 server that says who it is and what it received, as JSON: what tasks run in the
//! lab, in examples and in tests.
//!
//! It ends as a good server does: SIGTERM closes the listener, lets requests in flight finish, closes idle connections,
//! and exits with 0.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

const USAGE: &str = "\
GET /health            200 as long as it serves
GET /slow?ms=500       answers after that many milliseconds, 60000 at most
GET /bytes?n=1000      answers with that many bytes, 100000000 at most
anything else          who answers, and what it received, as JSON";

/// `gatehouse whoami`.
#[derive(clap::Args)]
#[command(after_help = USAGE)]
pub struct Arguments {
    /// TCP port to listen on; 0 takes any
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn serve(arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, arguments.port)).await?;
    let who = Arc::new(who(listener.local_addr()?.port()));
    let (closing, closes) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(connection(TokioIo::new(stream), peer, Arc::clone(&who), closes.clone()));
                }
                // Out of descriptors: one is free again soon.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop((listener, closes));
    closing.send_replace(true);
    // Each connection holds a receiver until it has ended.
    closing.closed().await;
    Ok(())
}

/// One connection until it ends, or is idle while the server closes.
async fn connection(
    io: TokioIo<tokio::net::TcpStream>,
    peer: SocketAddr,
    who: Arc<Value>,
    mut closes: watch::Receiver<bool>,
) {
    let answer = service_fn(|request| answer(request, peer, Arc::clone(&who)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut connection = std::pin::pin!(builder.serve_connection(io, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = closes.wait_for(|closes| *closes) => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        // A peer that went away has nobody left to be told.
        let _ = connection.await;
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    who: Arc<Value>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let number = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    match request.uri().path() {
        "/health" => return Ok(respond("text/plain", "ok\n")),
        "/bytes" => {
            let count = usize::try_from(number("n").unwrap_or(0).min(BYTES_MAX)).unwrap_or(0);
            return Ok(respond("application/octet-stream", vec![b'x'; count]));
        }
        "/slow" => sleep(Duration::from_millis(number("ms").unwrap_or(0).min(SLOW_MAX_MS))).await,
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.to_string()).or_default().push(value);
    }
    let Ok((length, sha256)) = digested(body).await else {
        let mut refused = respond("text/plain", "the body ended early\n");
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(refused);
    };
    let received = json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "query": parts.uri.query(),
        "headers": headers,
        "peer": peer.to_string(),
        "body": {"length": length, "sha256": sha256},
    });
    let text = json!({"who": *who, "received": received}).to_string();
    Ok(respond("application/json", text))
}

/// A body's length and SHA-256, without keeping it.
async fn digested(mut body: Incoming) -> Result<(u64, String), hyper::Error> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut length = 0;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            length += data.len() as u64;
            context.update(&data);
        }
    }
    Ok((length, context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn respond(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Who answers: what the driver told it, and the process itself.
fn who(port: u16) -> Value {
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let variable = |name: &str| env::var(name).ok();
    json!({
        "hostname": hostname.unwrap_or_default(),
        "pid": std::process::id(),
        "port": port,
        "name": variable("NAME"),
        "task": variable("ECS_TASK_ARN"),
        "cluster": variable("ECS_CLUSTER"),
        "task_definition": variable("ECS_TASK_DEFINITION"),
        "container": variable("ECS_CONTAINER_NAME"),
        "region": variable("AWS_REGION"),
    })
}

/// A client that opened a connection and sends no request is closed after this time, longer than any load balancer's
/// idle timeout by default.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// Longer than any timeout on the way here.
const SLOW_MAX_MS: u64 = 60_000;

/// Enough to fill any buffer on the way.
const BYTES_MAX: u64 = 100_000_000;
