//! What a capsule needs of a host, and whether a host has it: asked before anything is frozen, by `move` and by
//! `preflight` alike.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admin_api::result::{CheckView, Level};
use anyhow::Context;
use overlay_proto::{CapsuleName, HostName};
use runtime::files::base::{self, BaseFile, Difference, DifferenceKind};
use runtime::files::space::{disk_needed, free_space};

use super::conversation::{Needs, Prepare};
use crate::capsule::{Capsule, Stage, engine};
use crate::limits::UNANSWERED_AFTER;
use crate::sidecar::Sidecar;

/// Free disk that a host keeps for itself.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// A TCP_USER_TIMEOUT from which on it is put aside in time: [`UNANSWERED_AFTER`], and the rest for the look.
const USER_TIMEOUT_SAFE: Duration = UNANSWERED_AFTER.saturating_add(Duration::from_millis(750));

/// A check that passed, warned or failed.
pub(crate) fn check(group: &str, code: &str, level: Level, evidence: String, remedy: &str) -> CheckView {
    CheckView { group: group.into(), code: code.into(), level, evidence, remedy: remedy.into() }
}

/// Looks at a running capsule: what is in the way of a move at all, what it needs, what it has open of the base.
pub(crate) fn what_it_needs(
    capsule: &Capsule,
    base: &Path,
    cpuinfo: &Path,
) -> anyhow::Result<(Vec<CheckView>, Needs, Vec<BaseFile>)> {
    let group = capsule.name().as_str();
    let run = capsule.file().run;
    let root = run.rootfs.as_deref().map_or(base, Path::new);
    let pids = engine::pids(capsule);
    let open = base::open_base_files(&pids, root, &capsule.upper())?;
    let mut checks = Vec::new();
    for file in &open.immovable {
        let evidence = format!("process {} has {} open: {}", file.pid, file.path.display(), file.reason);
        checks.push(check(group, "move/base-file", Level::Fail, evidence, "restart the capsule"));
    }
    for (pid, what) in engine::immovable(&pids) {
        let evidence = format!("process {pid} uses {what}, which can't be captured");
        checks.push(check(group, "move/not-capturable", Level::Fail, evidence, "start it without"));
    }
    checks.extend(impatience(capsule, &pids));
    let space = disk_needed(&capsule.upper())?;
    let shared = run.volumes.iter().filter(|volume| volume.shared);
    let needs = Needs {
        files_bytes: space.bytes,
        files_inodes: space.inodes,
        memory_bytes: capsule.memory_bytes().unwrap_or(0),
        cpu: cpu_features(cpuinfo)?,
        machine: std::env::consts::ARCH.into(),
        shared: shared.map(|volume| PathBuf::from(&volume.source)).collect(),
    };
    Ok((checks, needs, open.files))
}

/// What a TCP_USER_TIMEOUT is not safe from. That of a session is put aside while its other side is away, and moves along.
fn impatience(capsule: &Capsule, pids: &[u32]) -> Option<CheckView> {
    let group = capsule.name().as_str();
    let locators = capsule.file().locators;
    let all = engine::impatient(pids);
    let inside = all.iter().find(|one| one.peer.ip().is_loopback() || locators.contains(one.peer.ip()));
    if let Some(one) = inside {
        let evidence = format!(
            "process {} set TCP_USER_TIMEOUT in a connection that stays inside the capsule: a move clears it",
            one.pid
        );
        return Some(check(group, "move/user-timeout", Level::Warn, evidence, "let it do without there"));
    }
    let short = all.iter().min_by_key(|one| one.timeout_ms)?;
    (u128::from(short.timeout_ms) < USER_TIMEOUT_SAFE.as_millis()).then(|| {
        let evidence = format!(
            "process {} has connections that end when bytes wait for {} ms (TCP_USER_TIMEOUT): too short to be put aside \
             in time when a peer is away",
            short.pid, short.timeout_ms
        );
        let remedy = format!("let it set {} ms or more, or none", USER_TIMEOUT_SAFE.as_millis());
        check(group, "move/user-timeout", Level::Warn, evidence, &remedy)
    })
}

/// Warns of datagrams that would be lost if the capsule moved at once.
pub(crate) fn unread_datagrams(name: &CapsuleName, memory_bytes: u64) -> Option<CheckView> {
    (memory_bytes > 0).then(|| {
        let evidence = format!(
            "datagrams that take {} KiB lie unread in its UDP sockets: what is still there at the pause is lost",
            memory_bytes.div_ceil(1024)
        );
        let remedy = "move it when its programs have read them, or do without them";
        check(name.as_str(), "move/unread-datagrams", Level::Warn, evidence, remedy)
    })
}

/// What becomes of a copy on this host whose processes are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remains {
    /// It is in the way.
    Keep,
    /// A takeover from a file clears it away.
    Clear,
}

/// Looks at this host: can it take the capsule that `prepare` describes?
pub(crate) async fn can_take(
    sidecar: &Arc<Sidecar>,
    prepare: &Prepare,
    remains: Remains,
) -> anyhow::Result<(Vec<CheckView>, Vec<Difference>)> {
    let group = format!("host {}", sidecar.me);
    let stage = sidecar.capsules.get(&prepare.capsule.id).map(|capsule| capsule.stage());
    let mut checks = vec![here_already(stage, &sidecar.me, &prepare.capsule.name, remains)];
    checks.extend(room(sidecar, &prepare.needs, &group)?);
    checks.push(cpu(&prepare.needs, &group)?);
    for path in &prepare.needs.shared {
        checks.push(match path.exists() {
            true => check(&group, "move/volume", Level::Ok, format!("{} is here", path.display()), ""),
            false => check(
                &group,
                "move/volume-missing",
                Level::Fail,
                format!("the shared volume {} is not on {}", path.display(), sidecar.me),
                "mount it there, or run the capsule with a private volume",
            ),
        });
    }
    let root = match &prepare.capsule.run.rootfs {
        Some(rootfs) if !Path::new(rootfs).is_dir() => {
            let evidence = format!("the root {rootfs} is not on {}", sidecar.me);
            checks.push(check(&group, "move/rootfs-missing", Level::Fail, evidence, "copy it there"));
            return Ok((checks, Vec::new()));
        }
        Some(rootfs) => PathBuf::from(rootfs),
        None => sidecar.config.base.clone(),
    };
    let files = prepare.base.clone();
    let differences = tokio::task::spawn_blocking(move || base::compare(&root, &files)).await??;
    checks.extend(base_files(&differences, &group));
    Ok((checks, differences))
}

fn here_already(here: Option<Stage>, me: &HostName, name: &CapsuleName, remains: Remains) -> CheckView {
    let group = format!("host {me}");
    match (here, remains) {
        (None | Some(Stage::Left { .. } | Stage::Removed | Stage::Suspended), _) => {
            check(&group, "move/place", Level::Ok, format!("{me} has no copy of it"), "")
        }
        (Some(Stage::Died), Remains::Clear) => {
            let evidence = format!("{me} has only what is left of one that is gone");
            check(&group, "move/place", Level::Ok, evidence, "")
        }
        (Some(Stage::Died), Remains::Keep) => {
            let evidence = format!("{me} still has what is left of {name}, which ended there");
            let remedy = format!(
                "try again in a few seconds; if it says so still, on {me}: capsule rm --local {name}"
            );
            check(&group, "move/copy-there", Level::Fail, evidence, &remedy)
        }
        (Some(Stage::Superseded { .. }), _) => {
            let evidence = format!("{me} keeps a superseded copy of {name}");
            let remedy = format!("on {me}: capsule rm --local {name}");
            check(&group, "move/copy-there", Level::Fail, evidence, &remedy)
        }
        (Some(stage), _) => {
            let doing =
                if stage == Stage::Arriving { "is still taking an earlier move of" } else { "already has" };
            let evidence = format!("{me} {doing} {name}");
            check(&group, "move/copy-there", Level::Fail, evidence, "wait for the other move to end")
        }
    }
}

fn room(sidecar: &Sidecar, needs: &Needs, group: &str) -> anyhow::Result<Vec<CheckView>> {
    let free = free_space(&sidecar.data)?;
    let wanted = needs.files_bytes.saturating_add(DISK_RESERVE_BYTES);
    let evidence = format!(
        "{} MiB free in {}, {} MiB needed for private files",
        free.bytes >> 20,
        sidecar.data.display(),
        wanted >> 20
    );
    let enough = free.bytes >= wanted && free.inodes >= needs.files_inodes;
    let level = if enough { Level::Ok } else { Level::Fail };
    let disk = check(
        group,
        "move/disk",
        level,
        evidence,
        if enough { "" } else { "free some, or move it elsewhere" },
    );
    // The image lies in memory beside the restored processes.
    let available = available_memory().context("reading /proc/meminfo")?;
    let wanted = needs.memory_bytes.saturating_mul(2);
    let evidence =
        format!("{} MiB memory available, {} MiB needed to restore", available >> 20, wanted >> 20);
    let enough = available >= wanted;
    let level = if enough { Level::Ok } else { Level::Fail };
    let memory =
        check(group, "move/memory", level, evidence, if enough { "" } else { "move it to a larger host" });
    Ok(vec![disk, memory])
}

fn available_memory() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 =
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).context("no MemAvailable")?;
    Ok(kib << 10)
}

fn cpu(needs: &Needs, group: &str) -> anyhow::Result<CheckView> {
    if needs.machine != std::env::consts::ARCH {
        let evidence = format!("it runs on {}, this host is {}", needs.machine, std::env::consts::ARCH);
        return Ok(check(group, "move/cpu", Level::Fail, evidence, "move it to a host of its kind"));
    }
    let here: BTreeSet<String> = cpu_features(Path::new("/proc/cpuinfo"))?.into_iter().collect();
    let missing: Vec<&str> =
        needs.cpu.iter().filter(|feature| !here.contains(*feature)).map(String::as_str).collect();
    Ok(match missing.is_empty() {
        true => check(
            group,
            "move/cpu",
            Level::Ok,
            "the CPU has every feature that its programs may use".into(),
            "",
        ),
        false => check(
            group,
            "move/cpu",
            Level::Fail,
            format!("the CPU lacks {}, which its programs may use", missing.join(", ")),
            "move it to a host with such a CPU",
        ),
    })
}

/// Features that programs can see and use; those that only the kernel uses are not of their concern.
fn cpu_features(cpuinfo: &Path) -> anyhow::Result<Vec<String>> {
    const KERNEL_ONLY: [&str; 12] = [
        "hypervisor",
        "tsc_known_freq",
        "rep_good",
        "nopl",
        "cpuid",
        "arat",
        "tsc_reliable",
        "constant_tsc",
        "nonstop_tsc",
        "md_clear",
        "arch_capabilities",
        "flush_l1d",
    ];
    let text = std::fs::read_to_string(cpuinfo).with_context(|| format!("reading {}", cpuinfo.display()))?;
    let line = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let features = line.and_then(|line| line.split_once(':')).map_or("", |(_, features)| features);
    Ok(features.split_whitespace().filter(|name| !KERNEL_ONLY.contains(name)).map(str::to_owned).collect())
}

fn base_files(differences: &[Difference], group: &str) -> Vec<CheckView> {
    let mut shipped = 0;
    let mut checks = Vec::new();
    for difference in differences {
        match &difference.kind {
            DifferenceKind::Blocked(reason) => {
                let evidence =
                    format!("{} differs and can't be shipped: {reason}", difference.path.display());
                checks.push(check(
                    group,
                    "move/base-differs",
                    Level::Fail,
                    evidence,
                    "make the hosts' files alike there",
                ));
            }
            DifferenceKind::Missing | DifferenceKind::Differs => shipped += 1,
        }
    }
    let evidence = match shipped {
        0 => "every base file that it has open is the same here".to_owned(),
        count => format!("{count} base files that it has open differ and go along"),
    };
    checks.push(check(group, "move/base", Level::Ok, evidence, ""));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_died_is_in_the_way_of_a_move_and_not_of_a_takeover_from_a_file() {
        let (me, name) = ("b".parse().unwrap(), "db".parse().unwrap());
        let level = |stage, remains| here_already(stage, &me, &name, remains).level;
        assert_eq!(level(Some(Stage::Died), Remains::Keep), Level::Fail);
        assert_eq!(level(Some(Stage::Died), Remains::Clear), Level::Ok);
        for remains in [Remains::Keep, Remains::Clear] {
            assert_eq!(level(None, remains), Level::Ok);
            assert_eq!(level(Some(Stage::Suspended), remains), Level::Ok);
            assert_eq!(level(Some(Stage::Running), remains), Level::Fail);
            assert_eq!(level(Some(Stage::Superseded { by: None }), remains), Level::Fail);
        }
    }
}
