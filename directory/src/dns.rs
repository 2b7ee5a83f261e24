//! The DNS server: the only place that knows hickory. Turns messages into questions for [`crate::zone`] and its answers
//! into messages, signs them, and keeps them encoded.
//!
//! ```text
//!  udp (threads) ─┐             ┌─ question ─► cache ── found and good ──────────────► answer
//!  tcp, DoT ──────┼─► responder ┤                 ▲
//!                 │             └─ else: hickory ─┴─ reply ◄─ records, signing ◄─ zone ◄─ published
//!  DoQ (hickory) ─┘
//!  udp, tcp, DoT ── update ─► writer
//!  tcp, DoT ── transfer (a copy of the facts, to secondaries)          notify ── tells secondaries
//! ```

mod cache;
mod cookies;
mod notify;
mod question;
mod rate;
mod records;
mod responder;
pub mod signing;
mod tcp;
mod transfer;
pub mod tsig;
mod udp;
mod update;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use directory_api::Identity;
use directory_api::identity::dns_server;
use hickory_server::server::Server;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use crate::data::random;
use crate::limits::{DNS_QUIC_IDLE, STOP_TIME, TRANSFERS_MAX};
use crate::metrics::DnsMetrics;
use crate::published::Published;
use crate::writer::Writer;
use crate::zone::Zones;

use cache::Cache;
use cookies::Baker;
use rate::Rate;
use responder::{Handler, Responder};
use signing::Signer;
use tsig::{Key, Role, Secret};
use update::Updates;

/// How many ports are tried when any will do.
const FREE_PORT_ATTEMPTS: usize = 16;

/// Where DNS is served, bound.
pub struct Sockets {
    /// UDP, one for each thread.
    pub udp: Vec<UdpSocket>,
    /// TCP, at the same address.
    pub tcp: TcpListener,
    /// DNS over TLS.
    pub tls: Option<TcpListener>,
    /// DNS over QUIC.
    pub quic: Option<tokio::net::UdpSocket>,
}

/// What DNS is served from.
pub struct Sources {
    /// The zones.
    pub zones: Arc<Zones>,
    /// The facts.
    pub published: Arc<Published>,
    /// Signs.
    pub signer: Arc<Signer>,
    /// Counts.
    pub metrics: Arc<DnsMetrics>,
    /// What DNS over TLS and QUIC shows.
    pub identity: Identity,
    /// Secondaries: who is told of changes, and the secret by which it may have the zones.
    pub secondaries: Vec<(SocketAddr, Secret)>,
    /// Keys of owners, by which they may change records of their capsules.
    pub updaters: Vec<Key>,
    /// Makes the changes.
    pub writer: Writer,
    /// Answers over UDP that one network gets in a second; 0 for no limit.
    pub answers_per_second: u32,
}

/// A DNS server that is running.
pub struct Dns {
    responder: Arc<Responder>,
    workers: udp::Workers,
    streams: JoinSet<()>,
    quic: Option<Server<Handler>>,
}

impl Sockets {
    /// Binds all of them.
    ///
    /// # Errors
    /// Says which address can't be had.
    pub async fn bind(
        address: SocketAddr,
        threads: usize,
        tls: Option<SocketAddr>,
        quic: Option<SocketAddr>,
    ) -> Result<Self> {
        let refused = |what: &str, address: SocketAddr| format!("cannot listen for {what} at {address}");
        let (udp, tcp) = Self::bind_both(address, threads).await?;
        let mut sockets = Self { udp, tcp, tls: None, quic: None };
        if let Some(tls) = tls {
            let bound = TcpListener::bind(tls).await.with_context(|| refused("DNS over TLS", tls))?;
            sockets.tls = Some(bound);
        }
        if let Some(quic) = quic {
            let bound = tokio::net::UdpSocket::bind(quic).await;
            sockets.quic = Some(bound.with_context(|| refused("DNS over QUIC", quic))?);
        }
        Ok(sockets)
    }

    /// UDP and TCP at one address. With port 0, TCP takes the port that UDP got, or both take another when somebody has
    /// that one.
    async fn bind_both(address: SocketAddr, threads: usize) -> Result<(Vec<UdpSocket>, TcpListener)> {
        let attempts = if address.port() == 0 { FREE_PORT_ATTEMPTS } else { 1 };
        let mut taken = None;
        for _ in 0..attempts {
            let udp =
                udp::bind(address, threads).with_context(|| format!("cannot listen for DNS at {address}"))?;
            let bound = Self::address_of(&udp)?;
            match TcpListener::bind(bound).await {
                Ok(tcp) => return Ok((udp, tcp)),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    taken = Some(error.context(format!("cannot listen for DNS over TCP at {bound}")));
                }
            }
        }
        Err(taken.context("no DNS address")?)
    }

    /// Where UDP and TCP are.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Self::address_of(&self.udp)
    }

    fn address_of(udp: &[UdpSocket]) -> Result<SocketAddr> {
        Ok(udp.first().context("no DNS socket")?.local_addr()?)
    }
}

impl Dns {
    /// Serves the zones on all sockets.
    ///
    /// # Errors
    /// When there are no threads to be had, or TLS refuses the identity.
    pub fn start(sockets: Sockets, sources: Sources) -> Result<Self> {
        let Sources { zones, published, signer, metrics, identity, secondaries, updaters, .. } = sources;
        let (answers_per_second, updates) = (sources.answers_per_second, Updates::new(sources.writer));
        let round = AtomicU64::new(signer.round().number());
        let cache = Cache::new();
        let of_secondary = |(_, secret): &(_, Secret)| Key { secret: secret.clone(), role: Role::Secondary };
        let keys = secondaries.iter().map(of_secondary).chain(updaters).collect();
        let transfers = Arc::new(Semaphore::new(TRANSFERS_MAX));
        let baker = Baker::new(random()?);
        let responder =
            Responder { zones, published, signer, metrics, cache, baker, keys, updates, transfers, round };
        let responder = Arc::new(responder);
        let rate = Rate::new(answers_per_second, Instant::now());
        let workers =
            udp::Workers::start(sockets.udp, &responder, rate).context("cannot start the DNS threads")?;
        let mut streams = JoinSet::new();
        streams.spawn(tcp::serve(sockets.tcp, None, responder.clone()));
        for (address, secret) in secondaries {
            let (zones, published) = (responder.zones.clone(), responder.published.clone());
            streams.spawn(notify::tell(address, secret, zones, published));
        }
        if let Some(listener) = sockets.tls {
            let config = dns_server(&identity, b"dot")?;
            streams.spawn(tcp::serve(listener, Some(Arc::new(config).into()), responder.clone()));
        }
        let quic = sockets.quic.map(|socket| -> Result<_> {
            let mut server = Server::new(Handler(responder.clone()));
            let config = dns_server(&identity, b"doq")?;
            server.register_quic_listener_and_tls_config(socket, DNS_QUIC_IDLE, Arc::new(config))?;
            Ok(server)
        });
        Ok(Self { responder, workers, streams, quic: quic.transpose()? })
    }

    /// Answers from the signer's new round from here on.
    pub fn take_round(&self) {
        self.responder.round.store(self.responder.signer.round().number(), Ordering::Release);
    }

    /// Stops taking queries and answers the open ones.
    pub async fn stop(mut self) {
        self.streams.shutdown().await;
        if let Some(quic) = &mut self.quic {
            match timeout(STOP_TIME, quic.shutdown_gracefully()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "DNS over QUIC did not stop cleanly"),
                Err(_) => warn!("DNS over QUIC did not stop in time"),
            }
        }
        let workers = self.workers;
        if tokio::task::spawn_blocking(|| workers.stop()).await.is_err() {
            warn!("the DNS threads did not stop cleanly");
        }
    }
}
