//! Answering a scraper: every request gets the metrics, and its connection is closed.
//!
//! Far less than an HTTP server, on purpose: it listens on loopback, for one reader that asks every few seconds.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::Metrics;

/// Answers for ever. One scraper at a time: a second waits in the listener's queue.
pub async fn expose(listener: TcpListener, metrics: Arc<Metrics>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match timeout(PATIENCE, answer(stream, &metrics)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a scraper went away"),
                Err(_) => tracing::debug!("a scraper was too slow"),
            },
            Err(error) => {
                tracing::warn!(%error, "accepting a scraper failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut chunk).await?;
        request.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if count == 0 || request.len() > LONGEST {
            return Ok(());
        }
    }
    let body = metrics.text();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {TYPE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A scraper's request is a few hundred bytes.
const LONGEST: usize = 8 << 10;
/// Scrapers give up after 10 s by default.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the next try when accepting fails.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scraper_gets_the_metrics() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new());
        metrics.counter(crate::telemetry::name::REPORTS_LOST, &vec![("From", "prober".to_owned())]).inc();
        let server = tokio::spawn(expose(listener, metrics));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("gatehouse_own_ReportLostCount_total{From=\"prober\"} 1"), "{answer}");
        server.abort();
    }
}
