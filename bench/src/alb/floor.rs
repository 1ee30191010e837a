//! A bare hyper proxy: the floor. It forwards and adds the headers, and does nothing that makes it safe.
//!
//! One current-thread runtime, hyper's connections on both sides with a task of their own for each to the target, and a
//! local stack of idle ones.

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc};

use anyhow::Result;
use http::{HeaderName, HeaderValue, Request, Response, header::CONNECTION};
use http_body_util::{Either, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{self as client, SendRequest},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

type Idle = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// Serves for ever.
pub(super) fn serve(address: SocketAddr, target: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        let idle = Idle::default();
        let mut count: u64 = 0;
        loop {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let idle = idle.clone();
            count += 1;
            let client = HeaderValue::from_str(&peer.ip().to_string())?;
            let trace = HeaderValue::from_str(&format!("Root=1-00000000-{count:024x}"))?;
            let service = service_fn(move |request| {
                forward(request, target, idle.clone(), client.clone(), trace.clone())
            });
            spawn_local(async move {
                // Whoever closes ends it.
                let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

async fn forward(
    mut request: Request<Incoming>,
    target: SocketAddr,
    idle: Idle,
    client: HeaderValue,
    trace: HeaderValue,
) -> Result<Response<Either<Incoming, Empty<Bytes>>>, Infallible> {
    let headers = request.headers_mut();
    headers.remove(CONNECTION);
    headers.insert(HeaderName::from_static("x-forwarded-for"), client);
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("http"));
    headers.insert(HeaderName::from_static("x-forwarded-port"), HeaderValue::from_static("80"));
    headers.insert(HeaderName::from_static("x-amzn-trace-id"), trace);
    let answer = async {
        let known = idle.borrow_mut().pop();
        let mut sender = match known {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(target).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = client::handshake(TokioIo::new(stream)).await?;
                spawn_local(async move {
                    // Whoever closes ends it.
                    let _ = connection.await;
                });
                sender
            }
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        idle.borrow_mut().push(sender);
        anyhow::Ok(response)
    };
    Ok(match answer.await {
        Ok(response) => response.map(Either::Left),
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            response
        }
    })
}
