//! Puts a running directory together: first everything is opened and bound, then served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use directory_api::identity::{TransportSettings, directory_server, restartable_endpoint, udp_socket};
use directory_api::{ApiError, Zone};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use crate::api::{self, Answers};
use crate::authority::{Authority, Follower};
use crate::backup::socket;
use crate::config::Config;
use crate::data::{Data, Listening};
use crate::dns::signing::Signer;
use crate::dns::{self, Dns};
use crate::engine::{Command, Engine, Now, Rules};
use crate::http::{self, Pages};
use crate::limits::{KEYS_TICK, LEASE_TICK, STOP_TIME, STORE_RETRY};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::shared;
use crate::store::{Advertised, Store as _};
use crate::supervisor::{self, Pulse};
use crate::writer::{Started, Writer};
use crate::zone::Zones;

/// UDP buffers of the API's socket, bytes: requests are short, but all hosts renew at once after an outage.
const API_BUFFER_BYTES: usize = 4 << 20;

/// The sockets, bound before anything is served.
struct Sockets {
    api: std::net::UdpSocket,
    dns: dns::Sockets,
    http: TcpListener,
    listening: Listening,
}

/// Serves until SIGTERM or SIGINT, or until the store is lost.
pub async fn serve(data: Data, config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let data = Arc::new(data);
    let (ca_files, ca) = data.ca()?;
    let token_key = data.token_key()?;
    let signer = Arc::new(Signer::new(&data.zone_keys()?, SystemTime::now())?);
    let secrets = config.secrets()?;
    let shared::Opened { mut store, directories, _held } =
        shared::open(&data, &config.store, &config.store_access().absolute()?)?;
    data.withdraw()?;
    let sockets = Sockets::bind(&config).await?;
    let backups = socket::bind(data.path()).context("cannot open the socket for backups")?;

    let metrics = Arc::new(Metrics::default());
    let rules = Rules { pools: data.pools, owner_capsules_max: config.owner_capsules_max };
    let (contents, lease) = (store.load()?, config.lease());
    let engine = match store.shared() {
        Some(_) => {
            shared::check_settled(&contents, &config.store)?;
            Engine::beside(rules, contents, lease, now())
        }
        None => Engine::new(rules, contents, lease, now()),
    };
    let Started { writer, published, mut ended } =
        Writer::start(engine, store, data.audit()?, metrics.clone())?;

    let authority = Arc::new(Authority::new(ca, SystemTime::now())?);
    let server = directory_server(authority.identity(), &TransportSettings::directory())?;
    let api_endpoint = restartable_endpoint(sockets.api, Some(server), &data.reset_key()?)?;
    let dns_addresses = advertised(&config.advertise_dns, sockets.listening.dns);
    let servers =
        dns_addresses.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()).collect();
    let sources = dns::Sources {
        zones: Arc::new(Zones::new(data.zone.clone(), &data.pools, servers)),
        published: published.clone(),
        signer: signer.clone(),
        metrics: metrics.dns.clone(),
        identity: authority.identity().clone(),
        secondaries: secrets.secondaries,
        updaters: secrets.updaters,
        writer: writer.clone(),
        answers_per_second: config.dns_answers_per_second,
    };
    let dns = Dns::start(sockets.dns, sources)?;
    let here =
        Advertised { api: advertised(&config.advertise_api, sockets.listening.api), dns: dns_addresses };
    let answers = Arc::new(Answers {
        authority: authority.clone(),
        token_key,
        certificate_life: config.certificate_life(),
        here: here.clone(),
        directories: directories.as_ref().map(shared::Registered::directories),
        writer: writer.clone(),
        published: published.clone(),
        metrics: metrics.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(api::serve(api_endpoint.clone(), answers));
    let follower = Follower {
        data: data.clone(),
        authority,
        published: published.clone(),
        passphrase_file: config.ca_passphrase_file.clone(),
        files: ca_files,
    };
    tasks.spawn(follower.run());
    metrics.health.writer_answered(Instant::now());
    let pages = Pages { published: published.clone(), metrics: metrics.clone(), signer: signer.clone() };
    tasks.spawn(http::serve(sockets.http, Arc::new(pages)));
    tasks.spawn(tick(writer.clone(), metrics.clone(), data.zone.clone(), published.clone()));
    tasks.spawn(socket::serve(backups, writer.clone()));
    if let Some(registered) = &directories {
        let id = data.directory_id()?;
        registered.begin(&id, &here)?;
        let registered = registered.clone();
        tasks.spawn(async move { registered.stay(&id, &here).await });
    }
    data.announce(&sockets.listening)?;
    report(&data, &sockets.listening, &published);
    supervisor::ready();

    let mut lost = None;
    tokio::select! {
        () = follow_keys(&data, &signer, &dns, &writer) => {}
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
        result = &mut ended => lost = Some(result),
    }
    supervisor::stopping();
    metrics.health.stop();
    api::stop(api_endpoint).await;
    dns.stop().await;
    drop(writer);
    // Drops the last handles on the writer, whose thread then finishes what it has and ends.
    tasks.shutdown().await;
    let result = match lost {
        Some(result) => result,
        None => timeout(STOP_TIME, ended).await.context("the writer does not end")?,
    };
    result.context("the writer broke; see above")?.context("the store is lost")?;
    data.withdraw()?;
    socket::remove(data.path()).context("cannot remove the socket for backups")?;
    info!("stopped");
    Ok(())
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self> {
        let refused = |what: &str, address: SocketAddr| format!("cannot listen for {what} at {address}");
        let api =
            udp_socket(config.api, API_BUFFER_BYTES).with_context(|| refused("requests", config.api))?;
        let dns = dns::Sockets::bind(config.dns, config.dns_threads(), config.dot, config.doq).await?;
        let http = TcpListener::bind(config.http).await.with_context(|| refused("HTTP", config.http))?;
        let listening = Listening {
            api: api.local_addr()?,
            dns: dns.address()?,
            http: http.local_addr()?,
            dot: dns.tls.as_ref().map(TcpListener::local_addr).transpose()?,
            doq: dns.quic.as_ref().map(tokio::net::UdpSocket::local_addr).transpose()?,
        };
        Ok(Self { api, dns, http, listening })
    }
}

/// Looks at the leases, again and again, and tries a store that failed; the supervisor hears that the writer answers.
async fn tick(writer: Writer, metrics: Arc<Metrics>, zone: Zone, published: Arc<Published>) {
    let mut retry = Instant::now();
    let mut pulse = Pulse::new();
    let mut ticks = interval(pulse.every().map_or(LEASE_TICK, |every| every.min(LEASE_TICK)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut result = writer.run(Command::Expire).await;
        if metrics.health.is_store_failed() && retry.elapsed() > STORE_RETRY {
            result = writer.run(Command::TryStore).await;
            retry = Instant::now();
        }
        if !matches!(result, Err(ApiError::Stopping)) {
            metrics.health.writer_answered(Instant::now());
        }
        if result.is_err() {
            // The writer has said why; if the store is lost, the process is about to end.
            tokio::time::sleep(LEASE_TICK).await;
        }
        pulse.beat(&zone, &published);
    }
}

/// Takes up what became of the key file, and makes all signatures anew when their time has come.
async fn follow_keys(data: &Data, signer: &Signer, dns: &Dns, writer: &Writer) {
    let mut ticks = interval(KEYS_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let renewed = data.zone_keys().and_then(|keys| Ok(signer.renew(&keys, SystemTime::now())?));
        match renewed {
            Ok(false) => {}
            Ok(true) => {
                dns.take_round();
                info!("the zones are signed anew");
                // A writer that is lost ends the process by itself.
                let _ = writer.run(Command::Resign).await;
            }
            Err(error) => error!(
                error = format!("{error:#}"),
                "cannot take up the keys of the zones; the old ones stay"
            ),
        }
    }
}

fn advertised(configured: &[SocketAddr], bound: SocketAddr) -> Vec<SocketAddr> {
    if configured.is_empty() { vec![bound] } else { configured.to_vec() }
}

fn report(data: &Data, listening: &Listening, published: &Published) {
    let Listening { api, dns, http, .. } = listening;
    let (capsules, hosts) = published.read(|all| (all.states_shown().count(), all.hosts().count()));
    info!(zone = %data.zone, %api, %dns, %http, capsules, hosts, "serving");
    if let Some(missing) = published.awaited() {
        warn!("{}", ApiError::Asserting { missing });
    }
}

fn now() -> Now {
    Now { wall: SystemTime::now(), clock: Instant::now() }
}
