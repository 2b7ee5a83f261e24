//! Wiring: what is made in which order, and the two runtimes.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use directory_api::identity::{self, TransportSettings};
use directory_api::{Client, Membership, Token};
use tokio::signal::unix::{SignalKind, signal};

use crate::assertion::Assertions;
use crate::capsule::Capsules;
use crate::capsule::network::{Networks, Reach};
use crate::command::{Command, Join, Serve, Verb};
use crate::config::Config;
use crate::datagram::{Forwarder, Outside};
use crate::finder::Finder;
use crate::gateway::{Outlet, Outward};
use crate::intercept::accepted::Holding;
use crate::intercept::opens::Opens;
use crate::intercept::surroundings::Surroundings;
use crate::link::{Links, Parts};
use crate::places::{self, Places};
use crate::requests::Taker;
use crate::session::{Patience, Routes, Table};
use crate::sidecar::{Acting, Sidecar};
use crate::switchboard::Switchboard;
use crate::{admin, capsule, gateway, moving, roaming, supervisor, telemetry, upgrade};

/// The whole program.
pub fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut complaint = std::io::stderr().lock();
            let _ = writeln!(complaint, "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the command line says.
///
/// # Errors
/// What a person reads on standard error.
fn run(command: Command) -> anyhow::Result<()> {
    match command.verb {
        Verb::Join(join) => joined(&join),
        Verb::Serve(serve) => served(serve),
        Verb::Upgrade(upgraded) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(upgrade::command(&upgraded.data, upgraded.shims))
        }
        Verb::Connect { socket, .. } => Ok(runtime::files::private::connect_stdio(&socket)?),
    }
}

fn joined(join: &Join) -> anyhow::Result<()> {
    let mut token = join.token.clone();
    if token == "-" {
        token.clear();
        std::io::stdin().read_to_string(&mut token).context("reading the token from standard input")?;
    }
    let directory = join.data.join("identity");
    if let (Ok(already), Ok(token)) = (Membership::load(&directory), Token::read(token.trim()))
        && already.host != token.host
    {
        bail!(
            "{} belongs to host {}, and the token is for {}: choose another --data, or a token for {}",
            join.data.display(),
            already.host,
            token.host,
            already.host
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses: Vec<_> = join.directory.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    let membership = match runtime.block_on(directory_api::join_any(&join.directory, token.trim())) {
        Ok(membership) => membership,
        Err(error) if format!("{error}").contains("UnknownIssuer") => bail!(
            "the directory at {addresses} has another CA than the one that the token names: make a token there with \
             `capsule-directory token --host NAME`"
        ),
        Err(error) => {
            return Err(error).with_context(|| format!("joining by the directory at {addresses}"));
        }
    };
    membership.save(&directory)?;
    eprintln!(
        "joined {} as host {}; start it with: capsule-sidecar serve --data {}",
        membership.zone,
        membership.host,
        join.data.display()
    );
    Ok(())
}

fn served(serve: Serve) -> anyhow::Result<()> {
    let config = Config::load(&serve);
    if serve.check_config {
        return checked(&serve.data, config);
    }
    let config = config?;
    telemetry::log(config.log);
    let membership = Membership::load(&serve.data.join("identity"))?;
    let data = std::fs::canonicalize(&serve.data)?;
    // Links and sessions have a thread of their own: no verb, however slow, delays a byte.
    let data_plane = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = data_plane.handle().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("data".into()).spawn(move || {
        data_plane.block_on(async {
            let _ = stopped.await;
        });
        data_plane.shutdown_timeout(Duration::from_millis(200));
    })?;
    handle.spawn(supervisor::pulse());
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = control.block_on(serve_until_told(config, membership, data, handle));
    control.shutdown_timeout(Duration::from_millis(500));
    let _ = stop.send(());
    let _ = thread.join();
    served
}

/// Says all that `serve` would refuse of settings and data; reserves nothing.
fn checked(data: &std::path::Path, config: anyhow::Result<Config>) -> anyhow::Result<()> {
    let joined = Membership::load(&data.join("identity"));
    let faults =
        [config.err().map(|error| format!("{error:#}")), joined.err().map(|error| error.to_string())];
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    eprintln!("the settings and {} are good", data.display());
    Ok(())
}

async fn serve_until_told(
    config: Config,
    membership: Membership,
    data: std::path::PathBuf,
    data_plane: tokio::runtime::Handle,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut upgraded = signal(SignalKind::user_defined2())?;
    let mut lock = upgrade::Lock::take(&data, &config.admin)?;
    // Bind everything before serving anything.
    let socket = admin::listen(&config.admin).await?;
    let http = telemetry::bind(config.http).await?;
    let sidecar = assemble(config, membership, data, data_plane).await?;
    tracing::info!(host = %sidecar.me, zone = %sidecar.zone, listen = %sidecar.config.listen, "serving");
    lock.serving()?;
    supervisor::ready();
    tokio::spawn(supervisor::status(sidecar.clone()));
    let upgrades = async {
        while upgraded.recv().await.is_some() {
            lock.replace(&sidecar).await;
        }
    };
    let ended = tokio::select! {
        ended = admin::accept(sidecar.clone(), socket) => ended,
        ended = telemetry::serve(sidecar.clone(), http) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = upgrades => Ok(()),
    };
    supervisor::stopping();
    tracing::info!("ending; the capsules of this host go on, their sessions wait for the next sidecar");
    sidecar.links.close();
    let _ = std::fs::remove_file(&sidecar.config.admin);
    tokio::time::sleep(Duration::from_millis(50)).await;
    ended
}

async fn assemble(
    config: Config,
    membership: Membership,
    data: std::path::PathBuf,
    data_plane: tokio::runtime::Handle,
) -> anyhow::Result<Arc<Sidecar>> {
    let programs = std::env::current_exe()?.parent().context("this program lies nowhere")?.to_owned();
    let zone = membership.zone.to_string();
    let directory = Client::connect(membership.api.clone(), membership.identity.clone())?;
    let finder = Finder::new(zone.clone(), &membership.dns)?;
    let dns = finder.servers().clone();
    let places = Places::new(directory, finder);
    places.learn_locators(membership.locators.clone());
    let networks = Networks::default();
    let routes = Routes::new(places.clone(), networks.clone());
    let table = Table::new(routes.clone(), data_plane.clone());
    let switchboard = Switchboard::new(networks.clone());
    let links = {
        let (config, membership, upcalls) = (config.clone(), membership.clone(), switchboard.clone());
        let secret = restart_secret(&data.join("identity").join("restart.key"))?;
        data_plane.spawn(async move { start_links(&config, &membership, upcalls, &secret) }).await??
    };
    routes.complete(links.clone(), table.clone());
    routes.set_patience(Patience {
        hold_max: (config.hold_max_s > 0).then(|| Duration::from_secs(config.hold_max_s)),
        suspended_connects: config.suspended_connects,
    });
    routes.set_budget(config.buffer_limits(memory_bytes()?));
    let opens = Opens::default();
    let outlet = Outlet::new(Reach::new(config.outside_reach.clone()).of_this_host(), places.clone());
    let routed = if config.gateway { config.gateway_routed.clone() } else { Vec::new() };
    let outward = Outward { via: config.outside_via.clone(), outlet, places: places.clone() };
    let outside = Outside { routed, outward: outward.clone() };
    let (me, wait) = (membership.host.clone(), Duration::from_millis(config.datagram_wait_ms));
    let datagrams = Forwarder::new(me, outside, wait, places.clone(), routes.clone(), networks.clone());
    let holding = Arc::new(Holding::new(&config));
    let around = Surroundings {
        places: places.clone(),
        routes,
        table: table.clone(),
        opens,
        datagrams,
        outward,
        holding,
    };
    let sidecar = Arc::new_cyclic(|own| Sidecar {
        me: membership.host.clone(),
        zone,
        dns,
        host_resolver: Arc::new(capsule::resolver::HostResolver::new(&config.upstream_dns)),
        config,
        data,
        programs,
        places: places.clone(),
        links,
        table: table.clone(),
        around: around.clone(),
        networks,
        gateway: std::sync::OnceLock::new(),
        capsules: Capsules::default(),
        assertions: Assertions::default(),
        acting: Acting::default(),
        arrivals: moving::Arrivals::default(),
        data_plane,
        own: own.clone(),
    });
    around.outward.outlet.complete(Arc::downgrade(&sidecar), tokio::runtime::Handle::current());
    let own = Arc::downgrade(&sidecar);
    around.routes.set_processes(Box::new(move |id| {
        let capsule = own.upgrade().and_then(|sidecar| sidecar.capsules.get(id));
        capsule.map(|capsule| capsule::engine::pids(&capsule)).unwrap_or_default()
    }));
    let taker = Taker(Arc::downgrade(&sidecar), tokio::runtime::Handle::current());
    switchboard.complete(around, Arc::new(taker));
    let (judged, nudged) = (table.clone(), Arc::downgrade(&sidecar));
    places.policy().on_change(move || {
        judged.policy_changed();
        // Connects that wait for a suspended capsule look again.
        if let Some(sidecar) = nudged.upgrade() {
            sidecar.places.nudge();
        }
    });
    let expelling = sidecar.links.clone();
    places.on_host_removed(move |host| expelling.expel(host));
    places.on_change(move |id| table.place_changed(id));
    tokio::spawn(places::follow(places));
    moving::clear(&sidecar.data);
    let renew_shims = upgrade::renew_shims(&sidecar.data);
    let left = capsule::adopt::recognize_all(&sidecar, renew_shims).await;
    let gateway = gateway::recognize(&sidecar, renew_shims).await.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "the gateway of an earlier sidecar was not recognized");
        None
    });
    let outlet = gateway::recognize_outlet(&sidecar, renew_shims).await.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "the outlet of an earlier sidecar was not recognized");
        None
    });
    sidecar.links.admit();
    look_at_kernel().await;
    // Before the capsules: of one that has left some connections may have to end.
    if let Some(outlet) = outlet {
        sidecar.around.outward.outlet.take_up(&sidecar, outlet).await;
    }
    if sidecar.config.gateway {
        tokio::spawn(gateway::establish(sidecar.clone(), gateway));
    }
    capsule::adopt::take_up_all(&sidecar, left).await;
    sidecar.data_plane.spawn(roaming::follow(sidecar.clone()));
    tokio::spawn(moving::superseded::follow(sidecar.clone()));
    tokio::spawn(telemetry::renew(sidecar.clone(), membership));
    Ok(sidecar)
}

/// All memory of this host.
fn memory_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading how much memory there is")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 =
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).context("no MemTotal")?;
    Ok(kib << 10)
}

/// What CRIU finds out about the kernel is kept, so that it need not look again while a capsule stands still.
async fn look_at_kernel() {
    match tokio::task::spawn_blocking(runtime::criu::look_at_kernel).await {
        // One that was killed in the middle of a move may have left the kernel's switch on.
        Ok(Ok(())) => drop(runtime::expedite::Expedite::begin()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "no capsule can move from or to this host; capsule preflight says more")
        }
        Err(error) => tracing::warn!(%error, "looking at the kernel"),
    }
}

/// The secret by which other hosts are told at their first packet that this sidecar was restarted.
fn restart_secret(path: &std::path::Path) -> anyhow::Result<[u8; 32]> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Ok(Ok(secret)) = std::fs::read(path).map(<[u8; 32]>::try_from) {
        return Ok(secret);
    }
    let secret = crate::random::bytes();
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, &secret));
    written.with_context(|| format!("writing {}", path.display()))?;
    Ok(secret)
}

fn start_links(
    config: &Config,
    membership: &Membership,
    upcalls: Arc<Switchboard>,
    secret: &[u8; 32],
) -> anyhow::Result<Links> {
    let settings = TransportSettings {
        mtu_initial: config.mtu_initial_bytes,
        idle_timeout: Duration::from_secs(config.link_idle_s),
        keep_alive: Duration::from_secs((config.link_idle_s / 4).clamp(1, 5)),
        ..TransportSettings::link()
    };
    let server = identity::link_server(&membership.identity, &settings)?;
    let client = identity::link_client(&membership.identity, &settings)?;
    let socket = identity::udp_socket(config.listen, directory_api::limits::SOCKET_BUFFER_BYTES)
        .with_context(|| format!("binding UDP {} for links", config.listen))?;
    let parts = Parts {
        me: membership.host.clone(),
        zone: membership.zone.clone(),
        socket,
        server,
        client,
        secret: *secret,
        keep_alive: settings.keep_alive,
    };
    Ok(Links::start(parts, upcalls)?)
}
