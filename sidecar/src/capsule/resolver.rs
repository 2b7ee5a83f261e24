//! The resolver inside a capsule, at one fixed loopback address everywhere: names of the zone are asked at the
//! directory, others at the host's own resolver. Queries are passed on as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use runtime::root::RESOLVER;

use super::network::Network;

/// Port of DNS.
const PORT: u16 = 53;

/// Time that an upstream may take.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// Queries of one capsule that may be under way.
const QUERIES: usize = 256;

/// Largest DNS message over UDP with EDNS that is passed on.
const DATAGRAM_BYTES: usize = 4096;

/// Where queries go.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// The zone of the mesh, without the final dot.
    pub zone: String,
    /// The directory.
    pub zone_servers: Vec<SocketAddr>,
    /// The host's resolver.
    pub others: Vec<SocketAddr>,
}

impl Upstreams {
    /// With the host's resolver as `/etc/resolv.conf` names it.
    pub fn of_host(zone: String, zone_servers: Vec<SocketAddr>) -> Self {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        let addresses = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
        let others = addresses.map(|address| SocketAddr::new(address, PORT)).collect();
        Self { zone, zone_servers, others }
    }

    /// The servers for a name.
    fn servers(&self, name: &str) -> &[SocketAddr] {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let in_zone =
            name == self.zone || name.strip_suffix(&self.zone).is_some_and(|rest| rest.ends_with('.'));
        if in_zone { &self.zone_servers } else { &self.others }
    }
}

/// Binds the resolver's sockets in the capsule's network and serves them until the network closes; must be called
/// on the data plane's runtime.
///
/// # Errors
/// A socket can't be bound.
pub fn start(network: &Arc<Network>, upstreams: Upstreams) -> anyhow::Result<()> {
    let (udp, tcp) = network
        .worker()
        .run(|| -> std::io::Result<_> {
            let address = SocketAddr::new(RESOLVER.into(), PORT);
            Ok((std::net::UdpSocket::bind(address)?, std::net::TcpListener::bind(address)?))
        })
        .context("binding the capsule's resolver")?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
    let upstreams = Arc::new(upstreams);
    // Each has its own: idle connections take nothing from those who ask by datagram.
    let (datagrams, connections) = (Arc::new(Semaphore::new(QUERIES)), Arc::new(Semaphore::new(QUERIES)));
    let closed = network.closed();
    tokio::spawn(closed.clone().run_until_cancelled_owned(serve_udp(udp, upstreams.clone(), datagrams)));
    tokio::spawn(closed.run_until_cancelled_owned(serve_tcp(tcp, upstreams, connections)));
    Ok(())
}

async fn serve_udp(socket: Arc<UdpSocket>, upstreams: Arc<Upstreams>, slots: Arc<Semaphore>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (socket, upstreams, query) = (socket.clone(), upstreams.clone(), buffer[..count].to_vec());
        tokio::spawn(async move {
            if let Some(answer) = answer(&upstreams, &query, ask_udp).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(slot);
        });
    }
}

async fn serve_tcp(listener: TcpListener, upstreams: Arc<Upstreams>, slots: Arc<Semaphore>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let upstreams = upstreams.clone();
        tokio::spawn(async move {
            let idle = Duration::from_secs(10);
            while let Ok(Ok(query)) = tokio::time::timeout(idle, read_message(&mut stream)).await {
                let Some(answer) = answer(&upstreams, &query, ask_tcp).await else { break };
                if write_message(&mut stream, &answer).await.is_err() {
                    break;
                }
            }
            drop(slot);
        });
    }
}

/// The answer of the first upstream that gives one, else SERVFAIL; none to what is no query.
async fn answer<A, F>(upstreams: &Upstreams, query: &[u8], ask: A) -> Option<Vec<u8>>
where
    A: Fn(SocketAddr, Vec<u8>) -> F,
    F: Future<Output = anyhow::Result<Vec<u8>>>,
{
    let message = Message::from_vec(query).ok()?;
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let name = message.queries.first()?.name().to_ascii();
    for server in upstreams.servers(&name) {
        match tokio::time::timeout(UPSTREAM_TIMEOUT, ask(*server, query.to_vec())).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, error = format!("{error:#}"), "no answer by DNS"),
            Err(_) => tracing::debug!(%server, "no answer by DNS in time"),
        }
    }
    let mut failed =
        Message::error_msg(message.metadata.id, message.metadata.op_code, ResponseCode::ServFail);
    failed.add_queries(message.queries);
    failed.to_vec().ok()
}

async fn ask_udp(server: SocketAddr, query: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    // One repeat, since a datagram may be lost.
    for _ in 0..2 {
        socket.send(&query).await?;
        if let Ok(count) = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await {
            buffer.truncate(count?);
            if buffer.get(..2) == query.get(..2) {
                return Ok(buffer);
            }
            buffer.resize(DATAGRAM_BYTES, 0);
        }
    }
    bail!("no answer")
}

async fn ask_tcp(server: SocketAddr, query: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, &query).await?;
    read_message(&mut stream).await
}

async fn read_message(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> anyhow::Result<()> {
    stream.write_u16(u16::try_from(message.len())?).await?;
    stream.write_all(message).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
