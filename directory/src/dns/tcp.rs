//! DNS over TCP, plain or in TLS: messages with their lengths, one after another.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::limits::{DNS_TCP_CONNECTIONS_MAX, DNS_TCP_IDLE};

use super::responder::Responder;
use super::transfer::{Transfer, is_transfer};
use super::update;

/// Serves connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, responder: Arc<Responder>) {
    let permits = Arc::new(Semaphore::new(DNS_TCP_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Behind the last permit, connections wait in the kernel's queue.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot take a DNS connection");
                sleep(DNS_TCP_IDLE / 10).await;
                continue;
            }
        };
        let (tls, responder) = (tls.clone(), responder.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, client, tls, &responder).await {
                debug!(%error, %client, "a DNS connection ended");
            }
            drop(permit);
        });
    }
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    tls: Option<TlsAcceptor>,
    responder: &Responder,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => exchange(stream, client, Protocol::Tcp, responder).await,
        Some(tls) => {
            let stream = timeout(DNS_TCP_IDLE, tls.accept(stream)).await??;
            exchange(stream, client, Protocol::Tls, responder).await
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    client: SocketAddr,
    protocol: Protocol,
    responder: &Responder,
) -> std::io::Result<()> {
    let (mut query, mut answer) = (Vec::new(), Vec::new());
    while let Some(length) = timeout(DNS_TCP_IDLE, next_length(&mut stream)).await?? {
        query.resize(length, 0);
        timeout(DNS_TCP_IDLE, stream.read_exact(&mut query)).await??;
        // The copy of the facts takes its time, and so does signing what was never asked for; other tasks go on on other
        // threads.
        let transfer = match is_transfer(&query) {
            true => block_in_place(|| Transfer::begin(responder, &query, client)),
            false => None,
        };
        if let Some(mut transfer) = transfer {
            info!(%client, "a zone is transferred");
            while let Some(message) = block_in_place(|| transfer.next_message()) {
                timeout(DNS_TCP_IDLE, send(&mut stream, &message)).await??;
            }
            continue;
        }
        if update::is_update(&query) {
            if let Some(answer) = update::answer(responder, &query, client, protocol).await {
                timeout(DNS_TCP_IDLE, send(&mut stream, &answer)).await??;
            }
            continue;
        }
        if responder.respond(&query, client, protocol, &mut answer) {
            timeout(DNS_TCP_IDLE, send(&mut stream, &answer)).await??;
        }
    }
    Ok(())
}

/// The length of the next message; `None` when the client has no more.
async fn next_length(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<usize>> {
    match stream.read_u16().await {
        Ok(length) => Ok(Some(length.into())),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    // Messages are at most 65,535 bytes: the encoder stops there.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    // In one write, so that they go in one packet.
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await?;
    stream.flush().await
}
