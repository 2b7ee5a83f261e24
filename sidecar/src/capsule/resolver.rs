//! The resolver inside a capsule, at one fixed loopback address everywhere: names of the zone are asked at the
//! directory, others at the host's own resolver. Queries are passed on as they are. While the directory does not
//! answer, addresses of capsules that this host knows are answered from what it last said.

mod asking;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use runtime::root::RESOLVER;

use super::keeper::{RESOLVER_TCP, RESOLVER_UDP};
use super::network::Network;
use crate::finder::Servers;
use crate::limits::{DNS_HEAD_START, DNS_PATIENCE, DNS_SILENCE};
use crate::places::Places;
use asking::Asking;

/// Port of DNS.
const PORT: u16 = 53;

/// Time that an upstream may take.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that wait to be taken: what the standard library asks for.
const BACKLOG: i32 = 128;

/// Queries of one capsule that may be under way.
const QUERIES: usize = 256;

/// Largest DNS message over UDP with EDNS that is passed on.
const DATAGRAM_BYTES: usize = 4096;

/// Seconds for which an answer that the directory did not give itself may be kept.
const KNOWN_TTL_S: u32 = 5;

/// Locators of a capsule by its name, as this host knows them.
type Known = Box<dyn Fn(&str) -> Option<[IpAddr; 2]> + Send + Sync>;

/// Where queries go.
pub struct Upstreams {
    /// The zone of the mesh, without the final dot.
    pub zone: String,
    /// The directories.
    pub zone_servers: Servers,
    /// The host's resolver.
    pub others: Vec<SocketAddr>,
    /// What is known without the directory.
    pub known: Known,
    /// The directory did not answer: until then it is not waited for if the answer is known.
    pub silent_until: Mutex<Option<Instant>>,
}

impl Upstreams {
    /// With the host's resolver as `/etc/resolv.conf` names it.
    pub fn of_host(zone: String, zone_servers: Servers, places: Places) -> Self {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        let addresses = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
        let others = addresses.map(|address| SocketAddr::new(address, PORT)).collect();
        let known: Known = Box::new(move |name| {
            let locators = places.named(&name.parse().ok()?)?.locators;
            Some([locators.v4.into(), locators.v6.into()])
        });
        Self { zone, zone_servers, others, known, silent_until: Mutex::default() }
    }

    /// What a name is called in the zone, if it is there; the zone itself is called nothing.
    fn in_zone(&self, name: &str) -> Option<String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let rest = name.strip_suffix(&self.zone)?;
        if rest.is_empty() { Some(String::new()) } else { rest.strip_suffix('.').map(str::to_owned) }
    }

    /// The answer to a query about the zone that needs no directory.
    fn known(&self, name: &str, query: &Query) -> Option<Vec<Record>> {
        let wanted = query.query_type();
        if !matches!(wanted, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let data = (self.known)(name)?.map(|address| match address {
            IpAddr::V4(v4) => RData::A(v4.into()),
            IpAddr::V6(v6) => RData::AAAA(v6.into()),
        });
        let data = data.into_iter().filter(|data| data.record_type() == wanted);
        Some(data.map(|data| Record::from_rdata(query.name().clone(), KNOWN_TTL_S, data)).collect())
    }

    fn is_silent(&self) -> bool {
        let until = *self.silent_until.lock().expect("no panics under this lock");
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Keeps in mind whether the directory answered.
    fn heard(&self, answered: bool) {
        let until = (!answered).then(|| Instant::now() + DNS_SILENCE);
        *self.silent_until.lock().expect("no panics under this lock") = until;
    }
}

/// Binds the resolver's sockets in the capsule's network, or takes those that an earlier sidecar left, and serves them
/// until the network closes; must be called on the data plane's runtime. The shim holds them: what is asked while no
/// sidecar serves waits in them.
///
/// # Errors
/// A socket can't be bound.
pub async fn start(
    network: &Arc<Network>,
    upstreams: Upstreams,
    left: Option<[OwnedFd; 2]>,
) -> anyhow::Result<()> {
    let (udp, tcp) = match left {
        Some([udp, tcp]) => (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp)),
        None => {
            let (udp, tcp) = network.worker().run(bind).context("binding the capsule's resolver")?;
            network.keeper().hold(RESOLVER_UDP, udp.as_fd()).await?;
            network.keeper().hold(RESOLVER_TCP, tcp.as_fd()).await?;
            (udp, tcp)
        }
    };
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

/// Binds the resolver's sockets so that a DNS server of the capsule can have the same port on all addresses. The kernel
/// allows that where both say that they share it, which such servers do (SO_REUSEPORT, or for datagrams SO_REUSEADDR).
fn bind() -> std::io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let open = |kind| -> std::io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &SocketAddr::new(RESOLVER.into(), PORT))?;
        Ok(socket)
    };
    let (udp, tcp) = (open(SocketType::DGRAM)?, open(SocketType::STREAM)?);
    listen(&tcp, BACKLOG)?;
    Ok((udp.into(), tcp.into()))
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

/// The answer of the first upstream that gives one, else what is known, else SERVFAIL; none to what is no query.
async fn answer<A, F>(upstreams: &Upstreams, query: &[u8], ask: A) -> Option<Vec<u8>>
where
    A: Fn(SocketAddr, Vec<u8>) -> F,
    F: Future<Output = anyhow::Result<Vec<u8>>>,
{
    let message = Message::from_vec(query).ok()?;
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let question = message.queries.first()?;
    let inside = upstreams.in_zone(&question.name().to_ascii());
    let known = inside.as_deref().and_then(|name| upstreams.known(name, question));
    let limit = if known.is_some() { DNS_PATIENCE } else { UPSTREAM_TIMEOUT };
    if known.is_none() || !upstreams.is_silent() {
        let answered = match inside {
            // The directories have the same answers, so whoever is quicker may give them.
            Some(_) => Asking { limit, head_start: DNS_HEAD_START, ask: &ask }
                .first(&upstreams.zone_servers.all(), query)
                .await
                .inspect(|(server, _)| upstreams.zone_servers.prefer(*server)),
            None => Asking { limit, head_start: limit, ask: &ask }.first(&upstreams.others, query).await,
        };
        if inside.is_some() {
            upstreams.heard(answered.is_some());
        }
        if let Some((_, answer)) = answered {
            return Some(answer);
        }
    }
    let code = if known.is_some() { ResponseCode::NoError } else { ResponseCode::ServFail };
    let mut answer = Message::error_msg(message.metadata.id, message.metadata.op_code, code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(message.queries);
    answer.add_answers(known.unwrap_or_default());
    answer.to_vec().ok()
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
