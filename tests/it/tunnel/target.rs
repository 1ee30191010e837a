//! Real HTTP targets that say who they are and what they received, and can be killed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// A target on a runtime of its own: dropped, all its sockets close at once, as those of a killed process.
pub(crate) struct Target {
    runtime: Option<Runtime>,
    connections: Arc<AtomicUsize>,
}

impl Target {
    /// Listens at `address` and answers as `name`.
    pub(crate) fn start(address: &str, name: &'static str) -> Self {
        Self::serving(address, move |stream| async move {
            let service = service_fn(move |request| answer(name, request));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        })
    }

    /// Listens at `address`, says `words` to the first bytes of each connection, whatever they are, and closes.
    pub(crate) fn saying(address: &str, words: &'static [u8]) -> Self {
        Self::serving(address, move |mut stream| async move {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                drop(stream.write_all(words).await);
            }
        })
    }

    fn serving<F>(address: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address: SocketAddr = address.parse().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        Self { runtime: Some(runtime), connections }
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `…?sleep_ms=…` answers late, `…?bytes=…` answers that many bytes.
async fn answer(name: &'static str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let received = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let number = |key: &str| {
        let query = parts.uri.query()?;
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    if let Some(pause) = number("sleep_ms") {
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    if let Some(size) = number("bytes") {
        return Ok(Response::new(Full::new(Bytes::from(vec![b'x'; usize::try_from(size).unwrap()]))));
    }
    let headers: BTreeMap<String, Vec<String>> = parts
        .headers
        .keys()
        .map(|key| {
            let values = parts.headers.get_all(key).iter().map(|value| value.to_str().unwrap().to_owned());
            (key.to_string(), values.collect())
        })
        .collect();
    let said = json!({
        "name": name,
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": headers,
        "received": received,
    });
    Ok(Response::new(Full::new(Bytes::from(said.to_string()))))
}
