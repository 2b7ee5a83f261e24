//! `/healthz`, `/readyz` and `/metrics`: three fixed pages, so there is no HTTP library.

use std::sync::Arc;
use std::time::Instant;

use directory_api::ApiError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::dns::signing::Signer;
use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_TIME};
use crate::metrics::Metrics;
use crate::published::Published;

/// What the pages show.
pub struct Pages {
    /// The facts.
    pub published: Arc<Published>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Signs.
    pub signer: Arc<Signer>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let connections = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot take an HTTP connection");
                sleep(HTTP_TIME).await;
                continue;
            }
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
        let pages = pages.clone();
        tokio::spawn(async move {
            // Whoever is slow or leaves gets no page; there is nobody to tell.
            let _ = timeout(HTTP_TIME, exchange(stream, &pages)).await;
            drop(permit);
        });
    }
}

async fn exchange(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 || head.len() + read > HTTP_HEAD_BYTES_MAX {
            return Ok(());
        }
        head.extend_from_slice(&chunk[..read]);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, kind, body) = pages.page(&String::from_utf8_lossy(line));
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

impl Pages {
    /// What a restored directory waits for, as a line.
    fn awaited(&self) -> Option<String> {
        let missing = self.published.awaited()?;
        Some(format!("{}\n", ApiError::Asserting { missing }))
    }

    fn page(&self, request_line: &str) -> (&'static str, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
        let told = |checked: Result<(), String>, well: &str| match checked {
            Ok(()) => ("200 OK", TEXT, format!("{well}\n")),
            Err(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        };
        let mut words = request_line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if method != "GET" {
            return ("405 Method Not Allowed", TEXT, "only GET\n".into());
        }
        match target.split('?').next().unwrap_or_default() {
            "/healthz" => told(self.metrics.health.check_alive(Instant::now()), "ok"),
            "/readyz" if self.awaited().is_some() => {
                ("503 Service Unavailable", TEXT, self.awaited().unwrap_or_default())
            }
            "/readyz" => told(self.metrics.health.check_ready(Instant::now()), "ready"),
            "/metrics" => {
                let signing = self.signer.figures();
                ("200 OK", METRICS, self.published.read(|registry| self.metrics.render(registry, &signing)))
            }
            _ => ("404 Not Found", TEXT, "there are /healthz, /readyz and /metrics\n".into()),
        }
    }
}
