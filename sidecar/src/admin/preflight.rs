//! `preflight`: what this host can do, and what a move would meet.

use std::sync::Arc;

use admin_api::ErrorView;
use admin_api::result::{CheckView, Level, PreflightResult};

use super::local;
use kernel::rules::Missing;

use crate::capsule::engine;
use crate::moving::{self, examine::check};
use crate::sidecar::Sidecar;

/// Checks this host, and with a capsule and a target what a move would meet.
pub(super) async fn check_all(
    sidecar: &Arc<Sidecar>,
    name: Option<&str>,
    to: Option<&str>,
    keep_anchored: bool,
) -> Result<PreflightResult, ErrorView> {
    let mut result = PreflightResult { from: Some(sidecar.me.to_string()), ..PreflightResult::default() };
    let target = to.map(|to| moving::source::target_named(sidecar, to)).transpose()?;
    let mut checks = host(sidecar).await;
    checks.push(directory(sidecar).await);
    if let Some(target) = &target {
        result.to = Some(target.to_string());
        checks.push(link(sidecar, target).await);
    }
    if let Some(name) = name {
        let capsule = local(sidecar, name)?;
        result.capsule = Some(name.to_owned());
        if let Some(target) = target.filter(|target| *target != sidecar.me) {
            let asked = moving::preflight(sidecar, &capsule, &target, keep_anchored).await?;
            result.memory_bytes = asked.memory_bytes;
            result.files_bytes = asked.files_bytes;
            result.anchored = asked.anchored;
            checks.extend(asked.checks);
        }
    }
    result.checks = checks;
    Ok(result)
}

async fn host(sidecar: &Arc<Sidecar>) -> Vec<CheckView> {
    let group = format!("host {}", sidecar.me);
    let probed = tokio::task::spawn_blocking(|| (kernel::rules::probe(), engine::tools())).await;
    let Ok((missing, tools)) = probed else { return Vec::new() };
    let holds = missing.iter().all(Missing::is_vital);
    let mut checks: Vec<_> = missing
        .into_iter()
        .map(|missing| {
            let level = if missing.is_vital() { Level::Fail } else { Level::Warn };
            check(&group, "host/kernel", level, missing.to_string(), "make setup says what is needed")
        })
        .collect();
    if !holds || !sidecar.config.hold_connects {
        checks.push(check(
            &group,
            "host/connects-not-held",
            Level::Warn,
            "connects of capsules are accepted first, and reset when the far program refuses; pings are not carried"
                .into(),
            if holds { "hold_connects = true" } else { "a kernel with queues" },
        ));
    } else if checks.is_empty() {
        checks.push(check(
            &group,
            "host/kernel",
            Level::Ok,
            "the kernel has everything that is needed".into(),
            "",
        ));
    }
    for (tool, version) in tools {
        checks.push(match version {
            Some(version) => check(&group, "host/tool", Level::Ok, format!("{tool} {version}"), ""),
            None => check(
                &group,
                "host/tool",
                Level::Fail,
                format!("{tool} is missing or does not work"),
                "make setup installs it",
            ),
        });
    }
    checks
}

async fn directory(sidecar: &Arc<Sidecar>) -> CheckView {
    match sidecar.places.directory().hosts().await {
        Ok(hosts) => check(
            "directory",
            "directory/answers",
            Level::Ok,
            format!("the directory answers, {} hosts", hosts.len()),
            "",
        ),
        Err(error) => {
            check("directory", "directory/away", Level::Fail, error.to_string(), "start it, or open its port")
        }
    }
}

async fn link(sidecar: &Arc<Sidecar>, target: &overlay_proto::HostName) -> CheckView {
    let group = format!("link {}→{target}", sidecar.me);
    if *target == sidecar.me {
        return check(&group, "link/here", Level::Ok, "that is this host".into(), "");
    }
    let linked = async {
        let address = sidecar.places.address_of(target, None).await?;
        anyhow::Ok(sidecar.links.to(target, address).await?)
    };
    match linked.await {
        Ok(link) => {
            let rtt = link.connection().map_or(0.0, |connection| connection.rtt().as_secs_f64() * 1e3);
            check(&group, "link/up", Level::Ok, format!("UDP both ways, round trip {rtt:.1} ms"), "")
        }
        Err(error) => check(
            &group,
            "link/udp-blocked",
            Level::Fail,
            format!("{error:#}"),
            "is its sidecar running, and its UDP port open?",
        ),
    }
}
