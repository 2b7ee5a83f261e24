//! From `run` to `rm`: what happens to a capsule that stays on its host.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use admin_api::ErrorView;
use admin_api::request::Run;
use admin_api::result::{RmResult, RunResult, StopResult};
use anyhow::Context;
use directory_api::{ApiError, CapsuleState, ClientError};
use kernel::netns::Netns;
use overlay_proto::{CapsuleName, Owner};

use super::file::CapsuleFile;
use super::network::{ICMP_QUEUE, Identity, Namespace, Network};
use super::resolver::{self, Upstreams};
use super::{Capsule, Stage, engine};
use crate::assertion::Decided;
use crate::datagram;
use crate::intercept::connect::{Connector, Inherited};
use crate::intercept::door::Door;
use crate::moving::journal::Entry;
use crate::session::Records;
use crate::sidecar::Sidecar;

/// Creates a capsule and starts its program.
///
/// # Errors
/// Nothing was created.
pub async fn run(sidecar: &Arc<Sidecar>, run: Run) -> Result<RunResult, ErrorView> {
    let (name, owner) = check(sidecar, &run)?;
    // A capsule that the directory knows and this host does not would be said to be nowhere.
    let deciding = sidecar.assertions.deciding().await;
    let record = sidecar
        .places
        .directory()
        .register(name.clone(), owner)
        .await
        .map_err(|error| not_registered(&name, &error))?;
    sidecar.places.take(record.clone());
    let made = Capsule::created(sidecar, CapsuleFile::new(&record, run));
    drop(deciding);
    let created = match made {
        Ok(capsule) => {
            let launched = launch(sidecar, &capsule, true).await;
            if launched.is_err() {
                discard(sidecar, &capsule).await;
                sidecar.capsules.remove(&capsule.id());
            }
            launched.map(|position| (capsule, position))
        }
        Err(error) => Err(error),
    };
    match created {
        Ok((capsule, position)) => Ok(started(sidecar, &capsule, position)),
        Err(error) => {
            if let Err(error) = sidecar.places.directory().remove(record.id, record.generation).await {
                tracing::warn!(%name, %error, "a capsule that could not start stays registered");
            }
            Err(ErrorView::new(
                "run/not-started",
                format!("{name} was not created: its program could not start"),
            )
            .why(format!("{error:#}"))
            .next("check the command, and the root it runs on"))
        }
    }
}

fn not_registered(name: &CapsuleName, error: &ClientError) -> ErrorView {
    let (code, next) = match error {
        ClientError::Refused(ApiError::NameTaken { .. }) => {
            ("capsule/name-taken", "choose another name, or remove that capsule: capsule ps shows it")
        }
        ClientError::Away { .. } => ("directory/away", "is the directory running, and its port open?"),
        _ => ("directory/refused", "the reason says what to change"),
    };
    ErrorView::new(code, format!("{name} was not created")).why(error).next(next)
}

/// Looks at what can be looked at before anything is made.
fn check(sidecar: &Sidecar, run: &Run) -> Result<(CapsuleName, Owner), ErrorView> {
    let bad = |what: String| ErrorView::new("run/arguments", what).on(run.name.clone());
    let name: CapsuleName =
        run.name.parse().map_err(|error| bad(format!("{:?} is no capsule name", run.name)).why(error))?;
    let owner = run.owner.as_deref().unwrap_or(&sidecar.config.owner);
    let owner: Owner = owner.parse().map_err(|error| bad(format!("{owner:?} is no owner")).why(error))?;
    if directory_api::outside::is_reserved(&owner) {
        let what = "is that of what stands for a host itself";
        return Err(bad(format!("the owner {owner} {what}")).next("choose another --owner"));
    }
    if run.argv.is_empty() {
        return Err(bad("no command was given".into()).next(format!("capsule run {name} -- COMMAND")));
    }
    if run.image.is_some() {
        return Err(bad("this version runs no OCI images".into())
            .next("unpack it, and give the directory as --rootfs"));
    }
    if run.terminal {
        return Err(bad("this version gives no terminal to a capsule".into()).next("leave -t out"));
    }
    if let Some(rootfs) = &run.rootfs {
        let path = Path::new(rootfs);
        if !path.is_absolute() || !path.is_dir() {
            return Err(bad(format!("--rootfs {rootfs} is no directory of host {}", sidecar.me))
                .next("give the absolute path of one, or leave --rootfs out to use the host's own files"));
        }
    }
    for volume in &run.volumes {
        if !Path::new(&volume.source).exists() {
            return Err(bad(format!(
                "--volume {}: there is no such path on host {}",
                volume.source, sidecar.me
            ))
            .next("make it there, or correct the path"));
        }
    }
    Ok((name, owner))
}

fn started(sidecar: &Sidecar, capsule: &Capsule, position: u64) -> RunResult {
    let file = capsule.file();
    RunResult {
        capsule: file.name.to_string(),
        id: file.id.to_string(),
        host: sidecar.me.to_string(),
        generation: file.generation.number(),
        locators: vec![file.locators.v4.into(), file.locators.v6.into()],
        position,
        already: false,
    }
}

/// Starts the program of a capsule in a fresh network; returns where its output begins in the log.
async fn launch(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>, fresh: bool) -> anyhow::Result<u64> {
    let network = open_network(sidecar, capsule, false).await?;
    let (base, of) = (sidecar.config.base.clone(), capsule.clone());
    let position = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        if fresh {
            engine::furnish(&of, &base)?;
        }
        engine::mount(&of, &base)?;
        let position = engine::log_bytes(&of);
        engine::run(&of)?;
        Ok(position)
    })
    .await??;
    capsule.change_file(|file| file.started_at = Some(SystemTime::now()))?;
    capsule.set_stage(Stage::Running);
    let generation = network.generation();
    let told = sidecar.places.directory().set_state(capsule.id(), generation, CapsuleState::Running).await;
    match told {
        Ok(record) => sidecar.places.take(record),
        Err(error) => {
            tracing::warn!(capsule = %capsule.name(), %error, "the directory was not told that it runs")
        }
    }
    // After that: of a program that ends at once the end is what the directory hears last.
    watch_exit(sidecar, capsule);
    Ok(position)
}

/// Starts the capsule's shim, whose network namespace becomes the capsule's, and intercepts there.
pub(crate) async fn open_network(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    arriving: bool,
) -> anyhow::Result<Arc<Network>> {
    let state = if arriving { Namespace::FreshAndLocked } else { Namespace::Fresh };
    serve_network(sidecar, capsule, state, engine::start_shim).await
}

/// The network of a capsule that an earlier sidecar left, what its shim holds, and what is on record of it. Nothing is
/// served there yet.
pub(crate) async fn find_network(
    capsule: &Arc<Capsule>,
) -> anyhow::Result<(Arc<Network>, HashMap<String, OwnedFd>, Records)> {
    let of = capsule.clone();
    let held = tokio::task::spawn_blocking(move || engine::held(&of)).await??;
    let (network, records) = make_network(capsule, Namespace::SetUp, true, engine::netns_of).await?;
    Ok((network, held, records))
}

async fn serve_network(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    state: Namespace,
    find: impl FnOnce(&Capsule) -> anyhow::Result<Netns> + Send + 'static,
) -> anyhow::Result<Arc<Network>> {
    let (network, _) = make_network(capsule, state, sidecar.config.hold_connects, find).await?;
    intercept(sidecar, &network, Inherited::default()).await?;
    Ok(network)
}

async fn make_network(
    capsule: &Arc<Capsule>,
    state: Namespace,
    hold: bool,
    find: impl FnOnce(&Capsule) -> anyhow::Result<Netns> + Send + 'static,
) -> anyhow::Result<(Arc<Network>, Records)> {
    let of = capsule.clone();
    tokio::task::spawn_blocking(move || {
        let netns = find(&of)?;
        let file = of.file();
        let who =
            Identity { id: file.id, name: file.name, locators: file.locators, generation: file.generation };
        Network::set_up(&who, &netns, &engine::shim_socket(&of), state, hold)
    })
    .await?
}

/// Serves connects, datagrams and lookups of a capsule.
pub(crate) async fn intercept(
    sidecar: &Arc<Sidecar>,
    network: &Arc<Network>,
    mut inherited: Inherited,
) -> anyhow::Result<()> {
    sidecar.networks.add(network.clone());
    let (resolver, datagrams) = (inherited.resolver.take(), inherited.datagrams.take());
    let (opened, around) = (network.clone(), sidecar.around.clone());
    let (zone, directories) = (sidecar.zone.clone(), sidecar.dns.clone());
    let upstreams = Upstreams::new(zone, directories, sidecar.host_resolver.clone(), sidecar.places.clone());
    let serving = sidecar.data_plane.spawn(async move {
        let forwarder = around.datagrams.clone();
        let icmp = opened.holds().then_some(ICMP_QUEUE);
        let intercepted = datagram::intercept(opened.clone(), forwarder, datagrams, icmp);
        intercepted.await.context("intercepting datagrams")?;
        let door = Door::of_programs(&opened);
        let connector = Connector::open(opened.clone(), around, door, inherited);
        tokio::spawn(connector.await.context("intercepting connections")?.run());
        resolver::start(&opened, upstreams, resolver).await
    });
    serving.await?
}

/// Notes the end of a capsule's program when it comes.
pub(crate) fn watch_exit(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>) {
    let (sidecar, capsule) = (sidecar.clone(), capsule.clone());
    let watched = capsule.clone();
    let wait = std::thread::Builder::new().name("exit".into());
    let (ended, code) = tokio::sync::oneshot::channel();
    let spawned = wait.spawn(move || {
        let _ = ended.send(engine::wait_exit(&watched));
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "the end of a program will not be noticed");
    }
    tokio::spawn(async move {
        // A shim that was told to quit ends the wait without a code.
        let Ok(Some(code)) = code.await else { return };
        // Not what a move makes of it: one whose program ended meanwhile fails, and it is here as before.
        let settled =
            capsule.stages().wait_for(|stage| *stage != Stage::Moving).await.map(|stage| stage.clone());
        if !matches!(settled, Ok(Stage::Running | Stage::Starting)) {
            return;
        }
        tracing::info!(capsule = %capsule.name(), code, "the program ended");
        capsule.set_stage(Stage::Stopped(Some(code)));
        let generation = capsule.file().generation;
        if let Err(error) =
            sidecar.places.directory().set_state(capsule.id(), generation, CapsuleState::Stopped).await
        {
            tracing::warn!(capsule = %capsule.name(), %error, "the directory was not told that it stopped");
        }
    });
}

fn take_busy(capsule: &Capsule) -> Result<tokio::sync::OwnedMutexGuard<()>, ErrorView> {
    capsule.busy().try_lock_owned().map_err(|_| {
        ErrorView::new(
            "capsule/busy",
            format!("{} is being moved, started or stopped already", capsule.name()),
        )
        .next("wait for that to end; capsule ps shows it")
    })
}

/// Starts a stopped capsule again.
///
/// # Errors
/// It stays stopped.
pub async fn start(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>) -> Result<RunResult, ErrorView> {
    let _busy = take_busy(capsule)?;
    if capsule.stage() == Stage::Running {
        return Ok(RunResult { already: true, ..started(sidecar, capsule, engine::log_bytes(capsule)) });
    }
    close(sidecar, capsule).await;
    match launch(sidecar, capsule, false).await {
        Ok(position) => Ok(started(sidecar, capsule, position)),
        Err(error) => {
            close(sidecar, capsule).await;
            capsule.set_stage(Stage::Stopped(None));
            Err(ErrorView::new(
                "start/not-started",
                format!("{} stays stopped: its program could not start", capsule.name()),
            )
            .why(format!("{error:#}")))
        }
    }
}

/// Asks the program to end, and ends it after `timeout_s`.
///
/// # Errors
/// It can't be ended.
pub async fn stop(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    timeout_s: u64,
) -> Result<StopResult, ErrorView> {
    let _busy = take_busy(capsule)?;
    let result = StopResult { capsule: capsule.name().to_string(), ..StopResult::default() };
    if let Stage::Stopped(exit_code) = capsule.stage() {
        return Ok(StopResult { exit_code, already: true, ..result });
    }
    let failed = |error: anyhow::Error| {
        ErrorView::new("stop/failed", format!("{} could not be stopped", capsule.name()))
            .why(format!("{error:#}"))
    };
    signal(capsule, 15).await.map_err(failed)?;
    let mut killed = false;
    let mut code = stopped(capsule, Duration::from_secs(timeout_s)).await;
    if code.is_none() {
        killed = true;
        signal(capsule, 9).await.map_err(failed)?;
        code = stopped(capsule, Duration::from_secs(10)).await;
    }
    let _ = sidecar;
    match code {
        Some(exit_code) => Ok(StopResult { exit_code, killed, ..result }),
        None => Err(failed(anyhow::anyhow!("its processes did not end after SIGKILL"))),
    }
}

async fn signal(capsule: &Arc<Capsule>, number: i32) -> anyhow::Result<()> {
    let of = capsule.clone();
    tokio::task::spawn_blocking(move || engine::signal(&of, number)).await?
}

/// Waits for the program's end.
async fn stopped(capsule: &Capsule, limit: Duration) -> Option<Option<i32>> {
    let mut stages = capsule.stages();
    let ended = stages.wait_for(|stage| matches!(stage, Stage::Stopped(_)));
    match tokio::time::timeout(limit, ended).await {
        Ok(Ok(stage)) => match *stage {
            Stage::Stopped(code) => Some(code),
            _ => None,
        },
        _ => None,
    }
}

/// Removes a capsule for good; its sessions end.
///
/// # Errors
/// It runs and `force` was not given, or the directory refuses; it stays as it is.
pub async fn remove(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    force: bool,
) -> Result<RmResult, ErrorView> {
    let _busy = take_busy(capsule)?;
    if capsule.stage() == Stage::Running && !force {
        return Err(ErrorView::new("rm/running", format!("{} runs, so it was not removed", capsule.name()))
            .next(format!("capsule stop {0}, or capsule rm --force {0}", capsule.name())));
    }
    let generation = capsule.file().generation;
    let deciding = sidecar.assertions.deciding().await;
    let removed = sidecar.places.directory().remove(capsule.id(), generation).await;
    if removed.is_ok() {
        capsule.decide(Decided::Gone);
    }
    drop(deciding);
    if let Err(error) = removed {
        return Err(ErrorView::new("rm/directory", format!("{} was not removed", capsule.name()))
            .why(error)
            .next("try again when the directory answers"));
    }
    if let Err(error) = capsule.journal(&Entry::Removing) {
        tracing::warn!(capsule = %capsule.name(), error = format!("{error:#}"), "its removal is not in its journal");
    }
    let sessions_ended = sidecar.table.of_capsule(capsule.id()).len() as u64;
    capsule.set_stage(Stage::Removed);
    discard(sidecar, capsule).await;
    sidecar.capsules.remove(&capsule.id());
    Ok(RmResult { capsule: capsule.name().to_string(), id: Some(capsule.id().to_string()), sessions_ended })
}

/// Ends everything of a capsule on this host but its files. Goes on past failures.
pub(crate) async fn close(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>) {
    for half in sidecar.table.park(capsule.id()).await {
        sidecar.table.forget((half.half.id(), half.half.role()));
    }
    if let Some(network) = sidecar.networks.remove(&capsule.id()) {
        sidecar.around.datagrams.close(&network);
    }
    let of = capsule.clone();
    let failures = tokio::task::spawn_blocking(move || engine::teardown(&of)).await.unwrap_or_default();
    for error in failures {
        tracing::warn!(capsule = %capsule.name(), error = format!("{error:#}"), "teardown");
    }
}

/// Ends everything of a capsule on this host and removes its files. Goes on past failures.
pub(crate) async fn discard(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>) {
    close(sidecar, capsule).await;
    let of = capsule.clone();
    let removed = tokio::task::spawn_blocking(move || engine::remove_files(&of)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(capsule = %capsule.name(), error = format!("{error:#}"), "files of a capsule were left behind");
    }
    if capsule.stage() == Stage::Arriving {
        sidecar.capsules.remove(&capsule.id());
    }
}
