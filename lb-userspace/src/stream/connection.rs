//! A connection from its admission to its end: the handshake with its client, a target, bytes both ways.

use std::{cell::Cell, error::Error, io, net::SocketAddr, rc::Rc, sync::Arc};

use rustls::server::Acceptor;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    counters::Counters,
    dial::{Ends, dial},
    end::{End, reset},
    flow::{Flow, Listed},
    relay::{Ended, Side, relay},
    view::{Listener, ListenerEnd},
    worker::Shared,
};
use crate::identity::listener_tls::ListenerTls;

/// Serves one connection.
pub(super) async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    listener: Arc<Listener>,
    end: ListenerEnd,
    listed: Listed,
    shared: Rc<Shared>,
) {
    let flow = &listed.flow;
    let counters = &*end.counters;
    let _active = counters.begin();
    // In boxes that are gone afterwards: handshakes take far more room than what follows them.
    let client_end = match &listener.tls {
        None => Some(End::Plain(stream)),
        Some(tls) => tokio::select! {
            biased;
            // A client whose handshake breaks off cannot take that for an answer.
            () = flow.over() => return,
            end = Box::pin(shake(stream, client, tls, &listener, counters, &shared)) => end,
        },
    };
    let Some(mut client_end) = client_end else { return };
    let target_end = tokio::select! {
        biased;
        () = flow.over() => {
            counters.resets.inc();
            None
        }
        end = Box::pin(reach(&client_end, client, &listener, &end, flow, &shared)) => end,
    };
    let Some(mut target_end) = target_end else { return client_end.reset() };
    let idle = listener.idle_timeout;
    let load_balancer = &listener.load_balancer;
    let moved = |count| {
        counters.moved(count);
        if let Some(target) = flow.target() {
            target.bytes.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
    };
    match relay(&mut client_end, &mut target_end, flow, moved, idle, &shared.scratch).await {
        Ended::Finished => return,
        Ended::Broken(side, error) => {
            tracing::debug!(load_balancer, %client, ?side, %error, "a connection broke");
            match (side, flow.target()) {
                (Side::Client, _) if is_reset(&error) => _ = counters.client_resets.inc(),
                (Side::Target, Some(target)) if is_reset(&error) => _ = target.resets.inc(),
                _ => {}
            }
        }
        ended @ (Ended::Idle | Ended::Over) => {
            tracing::debug!(load_balancer, %client, ?ended, "a connection was ended");
            counters.resets.inc();
        }
    }
    // What one side got must not look like all that the other had to say.
    client_end.reset();
    target_end.reset();
}

/// A target's end, ready for bytes; `None` when there is none.
async fn reach(
    client_end: &End,
    client: SocketAddr,
    listener: &Listener,
    end: &ListenerEnd,
    flow: &Flow,
    shared: &Shared,
) -> Option<End> {
    let ends = Ends { client, listener: flow.listener, alpn: client_end.alpn() };
    match dial(shared, listener, end, flow, ends).await {
        Ok(target_end) => {
            flow.touch();
            Some(target_end)
        }
        Err(error) => {
            let load_balancer = &listener.load_balancer;
            tracing::debug!(load_balancer, %client, error = &error as &dyn Error, "a connection found no target");
            end.counters.reject();
            end.counters.resets.inc();
            None
        }
    }
}

/// The handshake with the client, within its time and among so many others.
async fn shake(
    stream: TcpStream,
    client: SocketAddr,
    tls: &ListenerTls,
    listener: &Listener,
    counters: &Counters,
    shared: &Shared,
) -> Option<End> {
    let Some(_turn) = Turn::take(&shared.handshakes, shared.limits.handshakes) else {
        counters.handshakes_rejected.inc();
        counters.reject();
        reset(&stream);
        return None;
    };
    let shaken = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = tls.config(&start.client_hello());
        start.into_stream(config).await
    };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    match timeout(shared.limits.handshake, shaken).await.map_err(late).flatten() {
        Ok(stream) => Some(End::Tls(Box::new(stream.into()))),
        Err(error) => {
            let load_balancer = &listener.load_balancer;
            tracing::debug!(load_balancer, %client, %error, "the TLS handshake with a client failed");
            counters.client_tls_errors.inc();
            None
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

/// One of the handshakes that may be under way.
struct Turn<'a>(&'a Cell<usize>);

impl<'a> Turn<'a> {
    fn take(taken: &'a Cell<usize>, most: usize) -> Option<Self> {
        if taken.get() >= most {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
