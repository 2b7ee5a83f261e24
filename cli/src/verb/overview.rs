//! `capsule` alone: how things are, and what to do next.

use admin_api::{
    Request,
    result::{CapsuleView, HostView, HostsResult, PsResult},
};
use serde::Serialize;

use super::ps;
use crate::{amounts, context::Context, failure::Failure, sidecar, terminal::Stream};

/// Capsules shown here; `ps` shows all.
const SHOWN: usize = 5;

#[derive(Serialize)]
struct Document {
    capsules: Vec<CapsuleView>,
    hosts: Vec<HostView>,
}

pub(crate) async fn run(context: &Context) -> Result<i32, Failure> {
    let HostsResult { hosts, .. } = sidecar::ask(context, Request::Hosts).await?;
    let PsResult { capsules } = sidecar::ask(context, Request::Ps { local: true }).await?;
    context.answer(&Document { capsules, hosts }, |document, stream| read(document, *stream))?;
    Ok(0)
}

fn read(document: &Document, stream: Stream) -> String {
    let here = document.hosts.iter().find(|host| host.here).map_or("?", |host| host.name.as_str());
    let others: Vec<_> = document
        .hosts
        .iter()
        .filter(|host| !host.here)
        .map(|host| format!("{} {}", host.name, host.state))
        .collect();
    let count = document.capsules.len();
    let mut text = format!("host {here}: {}", amounts::count(count as u64, "capsule"));
    if !others.is_empty() {
        text = text + "; other hosts: " + &others.join(", ");
    }
    text = stream.clean(&text) + "\n";
    if count > 0 {
        let capsules = document.capsules.iter().take(SHOWN).cloned().collect();
        text += &ps::table(&PsResult { capsules }, stream);
    }
    if count > SHOWN {
        text += &format!("and {} more: capsule ps --local\n", count - SHOWN);
    }
    text += "\n  capsule run NAME -- CMD        start a program as a capsule\n";
    text += "  capsule ps                     all capsules, on every host\n";
    text += "  capsule move NAME --to HOST    move one, connections and all\n";
    text += "capsule --help lists all verbs\n";
    text
}
