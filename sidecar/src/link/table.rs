//! Which links there are: accepts them, and keeps one link per pair of hosts.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::BytesMut;
use directory_api::{Zone, identity};
use overlay_proto::{Frame, HostName, limits::VERSION_MAX, limits::VERSION_MIN, negotiate};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::dialling::{Dialling, closed_for_another};
use super::health::Health;
use super::tie::{Dial, decides, stays};
use super::{Carrier, Link, Upcalls, control, datagram};
use crate::limits::{
    DIAL_TIMEOUT, LARGE_DATAGRAMS, LARGE_DATAGRAMS_TAKEN, LINK_FRAMES, LINK_SILENCE_MARGIN, LINK_TURNS,
};

/// What a host is told that is not, or no longer, one of the mesh.
const NOT_A_MEMBER: &str = "not a host of this mesh";

/// Says of a connection that the two hosts have another one.
pub(super) const DIALLED_TWICE: &str = "dialled twice";

/// The links of this host.
#[derive(Clone)]
pub struct Links(pub(super) Arc<Inner>);

/// What links need of this host.
pub struct Parts {
    /// Its name.
    pub me: HostName,
    /// The mesh.
    pub zone: Zone,
    /// Where it takes links, and from where it dials.
    pub socket: UdpSocket,
    /// Its TLS and transport, towards those who dial.
    pub server: quinn::ServerConfig,
    /// The same, towards those whom it dials.
    pub client: quinn::ClientConfig,
    /// By which peers learn of its restart.
    pub secret: [u8; 32],
    /// How often a quiet link says that it lives.
    pub keep_alive: Duration,
}

/// A connection over which both hosts have greeted each other.
pub(super) struct Greeted {
    /// The other host.
    pub(super) host: HostName,
    pub(super) dial: Dial,
    pub(super) connection: quinn::Connection,
    pub(super) send: quinn::SendStream,
    pub(super) receive: quinn::RecvStream,
    /// What came behind the greeting.
    pub(super) buffer: BytesMut,
}

pub(super) struct Inner {
    pub(super) me: HostName,
    pub(super) zone: Zone,
    pub(super) endpoint: quinn::Endpoint,
    /// The endpoint's socket, for telling the endpoint that it leads elsewhere.
    pub(super) socket: Mutex<UdpSocket>,
    pub(super) client: quinn::ClientConfig,
    upcalls: Arc<dyn Upcalls>,
    local: Arc<Link>,
    /// Drawn at the start, so that peers tell this sidecar from one before it.
    sidecar: u64,
    /// The newest link to each host, up or not: what a dial knows.
    newest: Mutex<HashMap<HostName, u64>>,
    serial: AtomicU64,
    up: Mutex<HashMap<HostName, Arc<Link>>>,
    pub(super) dialling: Dialling,
    pub(super) silent_after: Duration,
    /// Counts what may have changed the way to other hosts.
    pub(super) roused: watch::Sender<u64>,
    /// The data plane's runtime: all tasks of links and sessions run there.
    pub(super) runtime: tokio::runtime::Handle,
}

impl Links {
    /// Serves links; must be called on the data plane's runtime.
    ///
    /// # Errors
    /// The socket can't be used.
    pub fn start(parts: Parts, upcalls: Arc<dyn Upcalls>) -> io::Result<Self> {
        let Parts { me, zone, socket, server, client, secret, keep_alive } = parts;
        let endpoint = identity::restartable_endpoint(socket.try_clone()?, Some(server), &secret)?;
        let (frames, queued) = mpsc::channel(LINK_FRAMES);
        let local = Arc::new(Link {
            host: me.clone(),
            serial: 0,
            carrier: Carrier::Local(upcalls.clone()),
            frames,
            down: CancellationToken::new(),
            since: Instant::now(),
            dial: Dial { dialler: me.clone(), id: 0, known: 0, far: 0, since: Instant::now() },
            order: 0,
            pings: super::ping::Pings::default(),
            health: Mutex::default(),
            turns: Arc::new(Semaphore::new(LINK_TURNS)),
            large_out: Arc::new(Semaphore::new(LARGE_DATAGRAMS)),
            large_in: Semaphore::new(LARGE_DATAGRAMS_TAKEN),
        });
        tokio::spawn(pass_locally(local.clone(), queued, upcalls.clone()));
        let links = Self(Arc::new(Inner {
            me,
            zone,
            endpoint,
            socket: Mutex::new(socket),
            client,
            upcalls,
            local,
            sidecar: drawn(),
            newest: Mutex::default(),
            serial: AtomicU64::new(1),
            up: Mutex::default(),
            dialling: Dialling::default(),
            silent_after: keep_alive + LINK_SILENCE_MARGIN,
            roused: watch::Sender::new(0),
            runtime: tokio::runtime::Handle::current(),
        }));
        Ok(links)
    }

    /// Lets other hosts in. Until then their links wait: what they say of sessions must find those that an earlier
    /// sidecar left.
    pub fn admit(&self) {
        self.0.runtime.spawn(self.clone().accept());
    }

    /// Where links are taken.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// The link of this host to itself.
    pub fn local(&self) -> Arc<Link> {
        self.0.local.clone()
    }

    /// The link to `host` if it is up.
    pub fn existing(&self, host: &HostName) -> Option<Arc<Link>> {
        if *host == self.0.me {
            return Some(self.local());
        }
        let up = self.0.up.lock().expect("no panics under this lock");
        up.get(host).filter(|link| !link.is_down()).cloned()
    }

    /// All links that are up, without the local one.
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.0.up.lock().expect("no panics under this lock").values().cloned().collect()
    }

    /// Ends all links.
    pub fn close(&self) {
        for link in self.all() {
            link.close("the sidecar ends");
        }
        self.0.endpoint.close(quinn::VarInt::from_u32(0), b"the sidecar ends");
    }

    async fn accept(self) {
        while let Some(incoming) = self.0.endpoint.accept().await {
            let links = self.clone();
            tokio::spawn(async move {
                let from = incoming.remote_address();
                if let Err(error) = links.accept_one(incoming).await {
                    tracing::warn!(%from, error = format!("{error:#}"), "a link was not accepted");
                }
            });
        }
    }

    async fn accept_one(self, incoming: quinn::Incoming) -> anyhow::Result<()> {
        let connection = incoming.await?;
        let host = identity::peer_host(&connection)?;
        self.check_member(&host, &connection).await?;
        match tokio::time::timeout(DIAL_TIMEOUT, self.meet(host, &connection)).await? {
            Ok(link) => self.check_still_member(&link).await,
            Err(_) if closed_for_another(&connection) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Greets a host that dialled.
    async fn meet(&self, host: HostName, connection: &quinn::Connection) -> anyhow::Result<Arc<Link>> {
        let (mut send, mut receive) = connection.accept_bi().await?;
        let mut buffer = BytesMut::new();
        let greeting = control::read_first(&mut receive, &mut buffer).await?;
        check_hello(&greeting)?;
        let dial = Dial::accepted(host.clone(), &greeting);
        let mut unsettled = self.unsettled(&host, dial.id);
        self.greet(&mut send, 0, 0).await?;
        let connection = connection.clone();
        let link = self.settle(Greeted { host, dial, connection, send, receive, buffer }).await?;
        unsettled.settle();
        Ok(link)
    }

    /// From here on the other host may take the connection for the link, whatever becomes of it here.
    pub(super) fn unsettled(&self, host: &HostName, dial: u64) -> Unsettled {
        Unsettled { links: self.clone(), host: host.clone(), dial: Some(dial) }
    }

    /// Refuses a host that is not one of the mesh, or is no longer.
    pub(super) async fn check_member(
        &self,
        host: &HostName,
        connection: &quinn::Connection,
    ) -> anyhow::Result<()> {
        if self.0.upcalls.admits(host).await {
            return Ok(());
        }
        connection.close(quinn::VarInt::from_u32(0), NOT_A_MEMBER.as_bytes());
        bail!("host {host} is not one of the mesh: it was removed, or the directory can't be asked")
    }

    /// It may have been removed while the link came up, when there was none to end.
    pub(super) async fn check_still_member(&self, link: &Link) -> anyhow::Result<()> {
        if self.0.upcalls.admits(&link.host).await {
            return Ok(());
        }
        link.close(NOT_A_MEMBER);
        bail!("host {} was removed from the mesh", link.host)
    }

    /// Ends the link to a host that was removed from the mesh.
    pub fn expel(&self, host: &HostName) {
        if let Some(link) = self.existing(host).filter(|link| !link.is_local()) {
            tracing::warn!(%host, serial = link.serial, "the host was removed from the mesh; its link is ended");
            link.close(NOT_A_MEMBER);
        }
    }

    /// The id of the newest link to a host.
    pub(super) fn newest(&self, host: &HostName) -> u64 {
        self.0.newest.lock().expect("no panics under this lock").get(host).copied().unwrap_or_default()
    }

    pub(super) async fn greet(
        &self,
        send: &mut quinn::SendStream,
        dial: u64,
        known: u64,
    ) -> anyhow::Result<()> {
        let mut hello = BytesMut::new();
        let sidecar = self.0.sidecar;
        overlay_proto::frame::encode(
            &Frame::Hello { version_min: VERSION_MIN, version_max: VERSION_MAX, sidecar, dial, known },
            &mut hello,
        );
        send.write_chunk(hello.freeze()).await?;
        Ok(())
    }

    /// Makes a connection the link of its host pair, or closes it when another is to stay: what one of the two hosts
    /// decides, and the other one hears. A link that is up for either of them is never closed for a dial that crossed it.
    pub(super) async fn settle(&self, mut greeted: Greeted) -> anyhow::Result<Arc<Link>> {
        if decides(&self.0.me, &greeted.host) {
            return self.establish(greeted, None);
        }
        match control::read_first(&mut greeted.receive, &mut greeted.buffer).await? {
            Frame::Settled { order } => self.establish(greeted, Some(order)),
            other => bail!("{other:?} came before the link was settled"),
        }
    }

    /// `order`: the other host's, if it has decided.
    fn establish(&self, greeted: Greeted, order: Option<u64>) -> anyhow::Result<Arc<Link>> {
        let Greeted { host, dial, connection, send, receive, buffer } = greeted;
        let (frames, queued) = mpsc::channel(LINK_FRAMES);
        let link = {
            let mut up = self.0.up.lock().expect("no panics under this lock");
            // What was said before it ended can still be read.
            if let Some(why) = connection.close_reason() {
                return Err(why.into());
            }
            // Under the lock: in the order of the decisions.
            let serial = self.0.serial.fetch_add(1, Ordering::Relaxed);
            let link = Arc::new(Link {
                host: host.clone(),
                serial,
                carrier: Carrier::Quic(connection.clone()),
                frames,
                down: CancellationToken::new(),
                since: Instant::now(),
                dial,
                order: order.unwrap_or(serial),
                pings: super::ping::Pings::default(),
                health: Mutex::new(Health::new(Instant::now(), connection.remote_address())),
                turns: Arc::new(Semaphore::new(LINK_TURNS)),
                large_out: Arc::new(Semaphore::new(LARGE_DATAGRAMS)),
                large_in: Semaphore::new(LARGE_DATAGRAMS_TAKEN),
            });
            if let Some(other) = up.get(&host).filter(|other| !other.is_down()) {
                let older = match order {
                    None => !other.is_silent() && stays(&other.dial, &link.dial),
                    // The decisions came over two connections, the later one first.
                    Some(order) => other.dial.far == link.dial.far && other.order > order,
                };
                if older {
                    connection.close(quinn::VarInt::from_u32(0), DIALLED_TWICE.as_bytes());
                    return Ok(other.clone());
                }
                other.close("another one took its place");
            }
            if order.is_none() {
                link.transmit(Frame::Settled { order: serial });
            }
            up.insert(host.clone(), link.clone());
            self.0.newest.lock().expect("no panics under this lock").insert(host.clone(), link.dial.id);
            link
        };
        let (address, dialler) = (connection.remote_address(), &link.dial.dialler);
        tracing::info!(%host, serial = link.serial, %address, %dialler, "link up");
        self.0.upcalls.up(&link);
        tokio::spawn(self.clone().drive(link.clone(), connection, send, queued, receive, buffer));
        Ok(link)
    }

    /// Runs the link's tasks until one of them ends, then tells everyone that it is down.
    async fn drive(
        self,
        link: Arc<Link>,
        connection: quinn::Connection,
        send: quinn::SendStream,
        queued: mpsc::Receiver<Frame>,
        receive: quinn::RecvStream,
        buffer: BytesMut,
    ) {
        let upcalls = &self.0.upcalls;
        let ended = tokio::select! {
            ended = control::write_frames(&link, send, queued) => ended,
            ended = control::read_frames(&link, receive, buffer, upcalls.as_ref()) => ended,
            ended = control::accept_data(&link, &connection, upcalls) => ended,
            ended = datagram::read_datagrams(&link, &connection, upcalls.as_ref()) => ended,
            ended = control::accept_requests(&link, &connection, upcalls.as_ref()) => ended,
            error = connection.closed() => Err(error.into()),
        };
        let why = ended.err().map_or_else(|| "closed here".to_owned(), |error| format!("{error:#}"));
        link.close(&why);
        {
            let mut up = self.0.up.lock().expect("no panics under this lock");
            if up.get(&link.host).is_some_and(|current| current.serial == link.serial) {
                up.remove(&link.host);
            }
        }
        tracing::info!(host = %link.host, serial = link.serial, %why, "link down");
        upcalls.down(&link);
    }
}

/// A connection whose greeting went out, until it is settled. If it never is here, it may be the link for the other host
/// all the same: the next dial says that it knew it, and so that it is dead.
pub(super) struct Unsettled {
    links: Links,
    host: HostName,
    dial: Option<u64>,
}

impl Unsettled {
    /// It came to an end that both hosts know.
    pub(super) fn settle(&mut self) {
        self.dial = None;
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let Some(dial) = self.dial else { return };
        let up = self.links.0.up.lock().expect("no panics under this lock");
        if up.get(&self.host).is_none_or(|link| link.is_down()) {
            self.links.0.newest.lock().expect("no panics under this lock").insert(self.host.clone(), dial);
        }
    }
}

/// A number that nobody else has, and that is not zero.
pub(super) fn drawn() -> u64 {
    u64::from_ne_bytes(crate::random::bytes()).max(1)
}

pub(super) fn check_hello(frame: &Frame) -> anyhow::Result<()> {
    match frame {
        Frame::Hello { version_min, version_max, .. } if negotiate(*version_min, *version_max).is_some() => {
            Ok(())
        }
        Frame::Hello { version_min, version_max, .. } => {
            bail!(
                "it speaks versions {version_min} to {version_max} of the wire, this host {VERSION_MIN} to {VERSION_MAX}"
            )
        }
        _ => bail!("the control stream did not begin with a greeting"),
    }
}

async fn pass_locally(link: Arc<Link>, mut frames: mpsc::Receiver<Frame>, upcalls: Arc<dyn Upcalls>) {
    while let Some(frame) = frames.recv().await {
        upcalls.frame(&link, frame);
    }
}

#[cfg(test)]
mod tests;
