//! Puts a running directory together: first everything is opened and bound, then served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use directory_api::identity::{TransportSettings, directory_server, restartable_endpoint, udp_socket};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::info;

use crate::api::{self, Answers};
use crate::config::Config;
use crate::data::{Data, Listening};
use crate::engine::{Command, Engine, Now, Rules};
use crate::handler::Dns;
use crate::http::{self, Pages};
use crate::limits::{LEASE_TICK, STOP_TIME};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::store::Store as _;
use crate::writer::{Started, Writer};

/// UDP buffers of the API's socket, bytes: requests are short, but all hosts renew at once after an outage.
const API_BUFFER_BYTES: usize = 4 << 20;

/// The sockets, bound before anything is served.
struct Sockets {
    api: std::net::UdpSocket,
    dns: (UdpSocket, TcpListener),
    http: TcpListener,
    listening: Listening,
}

/// Serves until SIGTERM or SIGINT, or until the store is lost.
pub async fn serve(data: Data, config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ca = data.ca()?;
    let token_key = data.token_key()?;
    let store = data.store()?;
    data.withdraw()?;
    let sockets = Sockets::bind(&config).await?;

    let metrics = Arc::new(Metrics::default());
    let rules = Rules { pools: data.pools, owner_capsules_max: config.owner_capsules_max };
    let engine = Engine::new(rules, store.load()?, config.lease(), now());
    let Started { writer, published, mut ended } =
        Writer::start(engine, store, data.audit()?, metrics.clone())?;

    let identity = ca.own_identity(SystemTime::now())?;
    let server = directory_server(&identity, &TransportSettings::directory())?;
    let api_endpoint = restartable_endpoint(sockets.api, Some(server), &token_key)?;
    let dns_addresses = advertised(&config.advertise_dns, sockets.listening.dns);
    let servers =
        dns_addresses.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()).collect();
    let dns = Dns::start(sockets.dns, data.zone.clone(), servers, published.clone(), metrics.clone());
    let answers = Arc::new(Answers {
        ca,
        identity,
        token_key,
        certificate_life: config.certificate_life(),
        api: advertised(&config.advertise_api, sockets.listening.api),
        dns: dns_addresses,
        writer: writer.clone(),
        published: published.clone(),
        metrics: metrics.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(api::serve(api_endpoint.clone(), answers.clone()));
    tasks.spawn(api::keep_certified(answers));
    tasks.spawn(http::serve(sockets.http, Arc::new(Pages { published: published.clone(), metrics })));
    tasks.spawn(tick(writer));
    data.announce(&sockets.listening)?;
    report(&data, &sockets.listening, &published);

    let mut lost = None;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
        result = &mut ended => lost = Some(result),
    }
    api::stop(api_endpoint).await;
    dns.stop().await;
    // Drops the last handles on the writer, whose thread then finishes what it has and ends.
    tasks.shutdown().await;
    let result = match lost {
        Some(result) => result,
        None => timeout(STOP_TIME, ended).await.context("the writer does not end")?,
    };
    result.context("the writer broke; see above")?.context("the store is lost")?;
    data.withdraw()?;
    info!("stopped");
    Ok(())
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self> {
        let refused = |what: &str, address: SocketAddr| format!("cannot listen for {what} at {address}");
        let api =
            udp_socket(config.api, API_BUFFER_BYTES).with_context(|| refused("requests", config.api))?;
        let dns_udp = UdpSocket::bind(config.dns).await.with_context(|| refused("DNS", config.dns))?;
        // With port 0, TCP takes the port that UDP got.
        let dns_address = dns_udp.local_addr()?;
        let dns_tcp =
            TcpListener::bind(dns_address).await.with_context(|| refused("DNS over TCP", dns_address))?;
        let http = TcpListener::bind(config.http).await.with_context(|| refused("HTTP", config.http))?;
        let listening = Listening { api: api.local_addr()?, dns: dns_address, http: http.local_addr()? };
        Ok(Self { api, dns: (dns_udp, dns_tcp), http, listening })
    }
}

/// Looks at the leases, again and again.
async fn tick(writer: Writer) {
    let mut ticks = interval(LEASE_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if writer.run(Command::Expire).await.is_err() {
            // The writer has said why; if the store is lost, the process is about to end.
            tokio::time::sleep(LEASE_TICK).await;
        }
    }
}

fn advertised(configured: &[SocketAddr], bound: SocketAddr) -> Vec<SocketAddr> {
    if configured.is_empty() { vec![bound] } else { configured.to_vec() }
}

fn report(data: &Data, listening: &Listening, published: &Published) {
    let Listening { api, dns, http } = listening;
    let (capsules, hosts) = published.read(|all| (all.capsules_shown().len(), all.hosts().count()));
    info!(zone = %data.zone, %api, %dns, %http, capsules, hosts, "serving");
}

fn now() -> Now {
    Now { wall: SystemTime::now(), clock: Instant::now() }
}
