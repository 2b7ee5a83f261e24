//! Which links there are: dials on demand, accepts, and keeps one link per pair of hosts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::bail;
use bytes::BytesMut;
use directory_api::{Zone, identity};
use overlay_proto::{Frame, HostName};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Carrier, Link, Upcalls, control};
use crate::limits::{DIAL_RACE, DIAL_RACE_WAIT, DIAL_TIMEOUT, LINK_FRAMES};

/// Version of the wire that this sidecar speaks.
const VERSION: u32 = 1;

/// Why a host can't be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("host {host} at {address} can't be reached: {why}")]
pub struct LinkError {
    /// The host.
    pub host: HostName,
    /// The address tried.
    pub address: SocketAddr,
    /// What happened.
    pub why: String,
}

/// The links of this host.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    me: HostName,
    zone: Zone,
    endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
    upcalls: Arc<dyn Upcalls>,
    local: Arc<Link>,
    serial: AtomicU64,
    up: Mutex<HashMap<HostName, Arc<Link>>>,
    dialling: Mutex<HashMap<HostName, Arc<tokio::sync::Mutex<()>>>>,
    /// The data plane's runtime: all tasks of links and sessions run there.
    runtime: tokio::runtime::Handle,
}

impl Links {
    /// Serves links at `endpoint`; must be called on the data plane's runtime.
    pub fn start(
        me: HostName,
        zone: Zone,
        endpoint: quinn::Endpoint,
        client: quinn::ClientConfig,
        upcalls: Arc<dyn Upcalls>,
    ) -> Self {
        let (frames, queued) = mpsc::channel(LINK_FRAMES);
        let local = Arc::new(Link {
            host: me.clone(),
            serial: 0,
            carrier: Carrier::Local(upcalls.clone()),
            frames,
            down: CancellationToken::new(),
            since: Instant::now(),
            dialler: me.clone(),
        });
        tokio::spawn(pass_locally(local.clone(), queued, upcalls.clone()));
        let links = Self(Arc::new(Inner {
            me,
            zone,
            endpoint,
            client,
            upcalls,
            local,
            serial: AtomicU64::new(1),
            up: Mutex::default(),
            dialling: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        }));
        tokio::spawn(links.clone().accept());
        links
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

    /// The link to `host`, dialled at `address` if it is not up.
    ///
    /// # Errors
    /// The host did not answer in time, or is not who it should be.
    pub async fn to(&self, host: &HostName, address: SocketAddr) -> Result<Arc<Link>, LinkError> {
        if let Some(link) = self.existing(host) {
            return Ok(link);
        }
        let turn = {
            let mut dialling = self.0.dialling.lock().expect("no panics under this lock");
            dialling.entry(host.clone()).or_default().clone()
        };
        let _turn = turn.lock().await;
        if let Some(link) = self.existing(host) {
            return Ok(link);
        }
        let (links, to) = (self.clone(), host.clone());
        // On the data plane's runtime, because quinn spawns the connection's driver where it is dialled.
        let dial = async move { tokio::time::timeout(DIAL_TIMEOUT, links.dial(to, address)).await };
        let fail = |why: String| LinkError { host: host.clone(), address, why };
        let dialled = self.0.runtime.spawn(dial).await;
        if !matches!(dialled, Ok(Ok(Ok(_)))) {
            // Both hosts dialled at once, and the other's link is the one that stays.
            if let Some(link) = self.accepted(host).await {
                return Ok(link);
            }
        }
        match dialled {
            Ok(Ok(Ok(link))) => Ok(link),
            Ok(Ok(Err(error))) => Err(fail(format!("{error:#}"))),
            Ok(Err(_)) => Err(fail(format!("no answer on UDP within {} s", DIAL_TIMEOUT.as_secs()))),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// The link that `host` dialled, if it comes up within [`DIAL_RACE_WAIT`].
    async fn accepted(&self, host: &HostName) -> Option<Arc<Link>> {
        let deadline = Instant::now() + DIAL_RACE_WAIT;
        loop {
            if let Some(link) = self.existing(host) {
                return Some(link);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(DIAL_RACE_WAIT / 20).await;
        }
    }

    /// Ends all links.
    pub fn close(&self) {
        for link in self.all() {
            link.close("the sidecar ends");
        }
        self.0.endpoint.close(quinn::VarInt::from_u32(0), b"the sidecar ends");
    }

    async fn dial(self, host: HostName, address: SocketAddr) -> anyhow::Result<Arc<Link>> {
        let name = self.0.zone.host(&host);
        let connection = self.0.endpoint.connect_with(self.0.client.clone(), address, &name)?.await?;
        let found = identity::peer_host(&connection)?;
        if found != host {
            bail!("{address} is host {found}");
        }
        let (mut send, mut receive) = connection.open_bi().await?;
        self.greet(&mut send).await?;
        let mut buffer = BytesMut::new();
        check_hello(&control::read_hello(&mut receive, &mut buffer).await?)?;
        let dialler = self.0.me.clone();
        self.establish(host, dialler, connection, send, receive, buffer)
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
        let (mut send, mut receive) = tokio::time::timeout(DIAL_TIMEOUT, connection.accept_bi()).await??;
        let mut buffer = BytesMut::new();
        check_hello(
            &tokio::time::timeout(DIAL_TIMEOUT, control::read_hello(&mut receive, &mut buffer)).await??,
        )?;
        self.greet(&mut send).await?;
        self.establish(host.clone(), host, connection, send, receive, buffer)?;
        Ok(())
    }

    async fn greet(&self, send: &mut quinn::SendStream) -> anyhow::Result<()> {
        let mut hello = BytesMut::new();
        overlay_proto::frame::encode(
            &Frame::Hello { version_min: VERSION, version_max: VERSION },
            &mut hello,
        );
        send.write_chunk(hello.freeze()).await?;
        Ok(())
    }

    /// Makes a connection the link of its host pair, or closes it when another is to stay.
    fn establish(
        &self,
        host: HostName,
        dialler: HostName,
        connection: quinn::Connection,
        send: quinn::SendStream,
        receive: quinn::RecvStream,
        buffer: BytesMut,
    ) -> anyhow::Result<Arc<Link>> {
        let (frames, queued) = mpsc::channel(LINK_FRAMES);
        let link = Arc::new(Link {
            host: host.clone(),
            serial: self.0.serial.fetch_add(1, Ordering::Relaxed),
            carrier: Carrier::Quic(connection.clone()),
            frames,
            down: CancellationToken::new(),
            since: Instant::now(),
            dialler,
        });
        {
            let mut up = self.0.up.lock().expect("no panics under this lock");
            if let Some(other) = up.get(&host).filter(|other| !other.is_down()) {
                if stays(other, &link) {
                    connection.close(quinn::VarInt::from_u32(0), b"dialled twice");
                    return Ok(other.clone());
                }
                other.close("dialled twice");
            }
            up.insert(host.clone(), link.clone());
        }
        tracing::info!(%host, serial = link.serial, address = %connection.remote_address(), "link up");
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

/// Decides between two links of one pair: see [`DIAL_RACE`].
fn stays(old: &Link, new: &Link) -> bool {
    let race = new.since.duration_since(old.since) < DIAL_RACE && old.dialler != new.dialler;
    race && old.dialler < new.dialler
}

fn check_hello(frame: &Frame) -> anyhow::Result<()> {
    match frame {
        Frame::Hello { version_min, version_max } if (*version_min..=*version_max).contains(&VERSION) => {
            Ok(())
        }
        Frame::Hello { version_min, version_max } => {
            bail!("it speaks versions {version_min} to {version_max} of the wire, this host {VERSION}")
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
