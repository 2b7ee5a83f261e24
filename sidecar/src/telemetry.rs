//! What the sidecar tells about itself: logs, metrics and health, and its lease at the directory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use directory_api::{ApiError, DirectoryAddresses, HeldCapsule, LeaseRequest, Membership};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::assertion;
use crate::capsule::network::SYN_QUEUE;
use crate::config::LogFormat;
use crate::datagram::Lost;
use crate::limits::RESTORE_LOOK;
use crate::link::Counters;
use crate::moving::superseded;
use crate::sidecar::Sidecar;

/// Pause before a host that got other certificates says that it has them.
const CREDENTIALS_SAID: Duration = Duration::from_secs(1);

/// Starts logging to standard error; `CAPSULE_LOG` chooses what.
pub fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CAPSULE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Binds the address of metrics and health.
///
/// # Errors
/// The address is taken or not this host's.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("binding {address} for metrics and health"))
}

/// Serves metrics and health for the life of the sidecar.
///
/// # Errors
/// The listener failed.
pub async fn serve(sidecar: Arc<Sidecar>, listener: TcpListener) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(sidecar);
    axum::serve(listener, routes).await.context("serving metrics and health")
}

async fn ready(State(sidecar): State<Arc<Sidecar>>) -> (StatusCode, &'static str) {
    match sidecar.places.host(&sidecar.me) {
        Some(host) if host.alive => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the directory does not show this host as alive\n"),
    }
}

async fn metrics(State(sidecar): State<Arc<Sidecar>>) -> String {
    use std::fmt::Write;
    let sessions = sidecar.table.describe(None).await;
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: f64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    };
    gauge("capsule_capsules", "Capsules on this host.", sidecar.capsules.all().len() as f64);
    gauge("capsule_links", "Links to other hosts that are up.", sidecar.links.all().len() as f64);
    let buffered: u64 = sessions.iter().map(|session| session.buffered_bytes).sum();
    gauge("capsule_buffer_bytes", "Bytes that wait in the sessions of this host.", buffered as f64);
    let budget = sidecar.around.routes.budget();
    let (granted, limit) = (budget.granted() as f64, budget.limits().host_bytes as f64);
    gauge("capsule_buffer_granted_bytes", "Memory that the sessions' receive buffers may take.", granted);
    gauge("capsule_buffer_limit_bytes", "The budget of the sessions' receive buffers.", limit);
    if let Some(gateway) = sidecar.gateway.get() {
        let help = "Connections that machines outside have by this gateway.";
        gauge("capsule_gateway_connections", help, gateway.connections() as f64);
        let name = "capsule_gateway_refused_total";
        let help = "Connections of machines outside that had as many as they may.";
        let refused = gateway.refused();
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {refused}");
    }
    policy_metrics(&sidecar, &mut text);
    let _ = writeln!(
        text,
        "# HELP capsule_sessions Halves of sessions on this host, by state.\n# TYPE capsule_sessions gauge"
    );
    for state in ["open", "held", "parked", "closing"] {
        let count = sessions.iter().filter(|session| session.state == state).count();
        let _ = writeln!(text, "capsule_sessions{{state=\"{state}\"}} {count}");
    }
    connect_metrics(&sidecar, &mut text).await;
    datagram_metrics(&sidecar, &mut text);
    link_metrics(&sidecar, &mut text);
    text
}

/// Connects that were not held.
async fn connect_metrics(sidecar: &Sidecar, text: &mut String) {
    use std::fmt::Write;
    let holding = &sidecar.around.holding;
    for (name, help, value) in [
        (
            "capsule_connects_accepted_first_total",
            "Connections that were accepted before the far program was asked.",
            holding.accepted_first(),
        ),
        ("capsule_connects_reset_total", "Those of them that had no good answer.", holding.reset()),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
    }
    let name = "capsule_connects_dropped_total";
    let help = "SYNs that found the queue of their capsule full, and come again.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for network in sidecar.networks.all().into_iter().filter(|network| network.holds()) {
        if let Ok(dropped) = network.in_netns(|| kernel::syn::dropped(SYN_QUEUE)).await {
            let _ = writeln!(text, "{name}{{capsule=\"{}\"}} {dropped}", network.name());
        }
    }
}

/// What became of datagrams and pings of the capsules of this host.
fn datagram_metrics(sidecar: &Sidecar, text: &mut String) {
    use std::fmt::Write;
    let networks = sidecar.networks.all();
    let flows: usize = networks.iter().map(|network| network.datagrams().flows().len()).sum();
    let waiting: u64 = networks.iter().map(|network| network.datagrams().waiting_bytes()).sum();
    for (name, help, value) in [
        ("capsule_datagram_flows", "UDP flows of the capsules here.", flows as u64),
        ("capsule_datagram_waiting_bytes", "Datagrams that wait to be sent or delivered.", waiting),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let counts = sidecar.around.datagrams.counts();
    let name = "capsule_datagrams_total";
    let _ = writeln!(text, "# HELP {name} Datagrams and pings that were carried.\n# TYPE {name} counter");
    for (direction, count) in [("in", counts.received()), ("out", counts.sent())] {
        let _ = writeln!(text, "{name}{{direction=\"{direction}\"}} {count}");
    }
    let name = "capsule_datagrams_lost_total";
    let _ = writeln!(text, "# HELP {name} Datagrams and pings that were lost.\n# TYPE {name} counter");
    for lost in Lost::ALL {
        let _ = writeln!(text, "{name}{{reason=\"{}\"}} {}", lost.word(), counts.lost_for(lost));
    }
    let name = "capsule_datagrams_unread_bytes_total";
    let help = "Memory of datagrams that programs had not read when they left by a move or suspend.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", counts.unread_bytes());
}

/// What the policy did on this host.
fn policy_metrics(sidecar: &Sidecar, text: &mut String) {
    use std::fmt::Write;
    let policy = sidecar.places.policy();
    let counted = policy.totals().counted();
    let denied = "capsule_policy_denied_connects_total";
    let _ = writeln!(text, "# HELP {denied} Connects that the policy denied.\n# TYPE {denied} counter");
    for (direction, count) in [("in", counted.denied_in), ("out", counted.denied_out)] {
        let _ = writeln!(text, "{denied}{{direction=\"{direction}\"}} {count}");
    }
    let ended = "capsule_policy_ended_sessions_total";
    let _ =
        writeln!(text, "# HELP {ended} Sessions that a change of the policy ended.\n# TYPE {ended} counter");
    let _ = writeln!(text, "{ended} {}", counted.ended);
    if let Some(rules) = policy.rules() {
        let name = "capsule_policy_rules";
        let _ = writeln!(text, "# HELP {name} Rules known to this host.\n# TYPE {name} gauge");
        let _ = writeln!(text, "{name} {}", rules.len());
    }
}

/// The counters of each link, which begin at zero with every new link to a host.
fn link_metrics(sidecar: &Sidecar, text: &mut String) {
    use std::fmt::Write;
    let links = sidecar.links.all();
    let mut write = |name: &str, kind: &str, help: &str, of: fn(&Counters) -> f64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (host, counters) in links.iter().filter_map(|link| Some((&link.host, link.counters()?))) {
            let _ = writeln!(text, "{name}{{host=\"{host}\"}} {}", of(&counters));
        }
    };
    write("capsule_link_rtt_seconds", "gauge", "Round-trip time.", |it| it.rtt.as_secs_f64());
    write("capsule_link_silent_seconds", "gauge", "Since the last packet of the other host.", |it| {
        it.silent.as_secs_f64()
    });
    write("capsule_link_sent_packets_total", "counter", "Packets sent.", |it| it.sent_packets as f64);
    write("capsule_link_lost_packets_total", "counter", "Packets sent that were lost.", |it| {
        it.lost_packets as f64
    });
    write("capsule_link_sent_bytes_total", "counter", "UDP payload sent.", |it| it.sent_bytes as f64);
    write("capsule_link_received_bytes_total", "counter", "UDP payload received.", |it| {
        it.received_bytes as f64
    });
    write(
        "capsule_link_path_changes_total",
        "counter",
        "Times that the other host's address changed.",
        |it| it.path_changes as f64,
    );
    write("capsule_link_rebinds_total", "counter", "Times that the way from here was tried anew.", |it| {
        it.rebinds as f64
    });
    write(
        "capsule_link_path_checks_total",
        "counter",
        "Times that the other host checked the way here.",
        |it| it.path_checks as f64,
    );
}

/// Renews the lease and, when it is due, the certificate, for the life of the sidecar.
pub async fn renew(sidecar: Arc<Sidecar>, mut membership: Membership) {
    let mut pause = Duration::ZERO;
    let mut roused = sidecar.links.roused();
    loop {
        // At once when this host may be at another address, or slept through its lease.
        let _ = tokio::time::timeout(pause, roused.changed()).await;
        let lease = LeaseRequest {
            port: sidecar.config.listen.port(),
            advertise: sidecar.config.advertise,
            capsules: held(&sidecar),
        };
        let mut wanted = None;
        pause = match sidecar.places.directory().renew_lease(lease).await {
            Ok(lease) => {
                wanted = lease.credentials.filter(|held| *held != membership.identity.credentials());
                let restoring = lease.restoring;
                sidecar.assertions.heard(restoring.clone());
                if let Some(restoring) = restoring.as_ref().filter(|restoring| restoring.asks) {
                    assertion::assert(&sidecar, restoring.id).await;
                }
                for stale in lease.stale {
                    if stale.placed.is_none()
                        && sidecar.gateway.get().is_some_and(|gateway| gateway.id() == stale.id)
                    {
                        tracing::error!(
                            "the directory does not know this gateway, as after the removal of this host: it is made anew when the sidecar starts again"
                        );
                    }
                    tracing::debug!(capsule = %stale.id, placed = ?stale.placed, "held here, but the directory has another view");
                    superseded::heard_of(&sidecar, &stale.id).await;
                }
                if let Err(error) = learn_directories(&sidecar, &mut membership, &lease.directories) {
                    tracing::warn!(error = format!("{error:#}"), "the directories are not noted");
                }
                if let Err(error) = learn_locators(&sidecar, &mut membership, lease.locators) {
                    tracing::warn!(error = format!("{error:#}"), "the addresses of capsules are not noted");
                }
                if restoring.is_some() { RESTORE_LOOK } else { lease.duration / 3 }
            }
            Err(error) => {
                if let Some(ApiError::NotAMember { .. }) = error.refusal() {
                    superseded::removed_from_mesh(&sidecar).await;
                }
                tracing::warn!(%error, "the lease was not renewed");
                Duration::from_secs(1)
            }
        };
        // Also when the directory signs by other keys, or is about to.
        if wanted.is_none() && !membership.identity.is_due(SystemTime::now()) {
            continue;
        }
        match renew_certificate(&sidecar, &membership).await {
            Ok(()) if wanted == Some(membership.identity.credentials()) => {
                tracing::info!("this host has the certificates that the CA gives out at present");
                // The directory waits for every host to say so.
                pause = CREDENTIALS_SAID;
            }
            Ok(()) => {}
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the certificate was not renewed; it is tried again"
            ),
        }
    }
}

/// What this host holds: capsules, its own gateway, and its outlet.
fn held(sidecar: &Sidecar) -> Vec<HeldCapsule> {
    let mut held = sidecar.capsules.held();
    held.extend(sidecar.gateway.get().map(|gateway| gateway.held()));
    held.extend(sidecar.around.outward.outlet.held());
    held
}

/// Notes where the directories of the mesh are, on disk too: the next sidecar begins with them.
fn learn_directories(
    sidecar: &Sidecar,
    membership: &mut Membership,
    told: &DirectoryAddresses,
) -> anyhow::Result<()> {
    let are_others = |known: &[SocketAddr], told: &[SocketAddr]| {
        !told.is_empty() && (known.len() != told.len() || told.iter().any(|address| !known.contains(address)))
    };
    let (api, dns) = (are_others(&membership.api, &told.api), are_others(&membership.dns, &told.dns));
    if dns {
        sidecar.places.learn_dns(&told.dns)?;
        membership.dns = sidecar.dns.all();
    }
    if api {
        membership.api = sidecar.places.directory().addresses();
    }
    if api || dns {
        tracing::info!(api = ?membership.api, dns = ?membership.dns, "the directories of the mesh");
        membership.save_addresses(&sidecar.data.join("identity"))?;
    }
    Ok(())
}

/// Notes what addresses capsules have, on disk too: no other address is one of the mesh.
fn learn_locators(sidecar: &Sidecar, membership: &mut Membership, told: Vec<IpNet>) -> anyhow::Result<()> {
    if !told.is_empty() && told != membership.locators {
        sidecar.places.learn_locators(told.clone());
        membership.locators = told;
        membership.save_addresses(&sidecar.data.join("identity"))?;
    }
    Ok(())
}

async fn renew_certificate(sidecar: &Sidecar, membership: &Membership) -> anyhow::Result<()> {
    sidecar.places.directory().renew_certificate().await?;
    membership.save_credentials(&sidecar.data.join("identity"))?;
    Ok(())
}
