//! `capsule inspect`

use admin_api::{
    Request,
    result::{DatagramCounts, InspectResult, PolicyCounts},
};
use clap::Args;

use super::ps;
use crate::{
    amounts,
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, plain},
    terminal::Stream,
};

/// Tell all about one capsule
#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// The capsule
    name: String,
}

impl Inspect {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let answer: InspectResult = sidecar::ask(context, Request::Inspect { name: self.name }).await?;
        context.answer(&answer, |answer, stream| read(answer, *stream))?;
        Ok(0)
    }
}

fn read(answer: &InspectResult, stream: Stream) -> String {
    let capsule = &answer.capsule;
    let mut table = Table::new(stream, &["name", &capsule.name]);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            table.row(vec![plain(name), plain(value)]);
        }
    };
    let locators: Vec<_> = capsule.locators.iter().map(ToString::to_string).collect();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let size = |value: Option<u64>| value.map(amounts::bytes).unwrap_or_default();
    line("id", capsule.id.clone());
    line("state", ps::state(capsule, &stream).0);
    line("host", text(&capsule.host));
    line("locators", locators.join("  "));
    line("dns name", text(&answer.dns_name));
    for record in answer.records.iter().flatten() {
        line("dns record", format!("{} {} {} {}", record.name, record.ttl_s, record.kind, record.data));
    }
    line("owner", capsule.owner.clone());
    line("generation", capsule.generation.to_string());
    line("created", capsule.created_at.to_string());
    line("started", answer.started_at.map(|time| time.to_string()).unwrap_or_default());
    line("command", answer.argv.join(" "));
    line("directory", text(&answer.workdir));
    line("user", text(&answer.user));
    line("environment", answer.env.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    line("rootfs", text(&answer.rootfs));
    line("image", text(&answer.image));
    for volume in &answer.volumes {
        let kind = if volume.shared { "shared" } else { "copied" };
        line("volume", format!("{} at {} ({kind})", volume.source, volume.destination));
    }
    if let (Some(sessions), Some(held)) = (capsule.sessions, capsule.sessions_held) {
        line("sessions", format!("{sessions}, {held} held"));
    }
    for one in &answer.anchored {
        line("anchored", format!("{} to {} at host {}", one.local, one.remote, one.host));
    }
    line("memory", size(capsule.memory_bytes));
    line("private files", size(answer.private_bytes));
    if let (Some(bytes), Some(granted), Some(limit)) =
        (answer.buffer_bytes, answer.buffer_granted_bytes, answer.buffer_limit_bytes)
    {
        let [bytes, granted, limit] = [bytes, granted, limit].map(amounts::bytes);
        line("buffers", format!("{bytes} wait; {granted} granted of {limit}"));
    }
    line("datagrams", answer.datagrams.as_ref().map(datagrams).unwrap_or_default());
    line("log", size(answer.log_bytes));
    line("processes", number(answer.processes));
    line("pid on host", number(answer.pid.map(u64::from)));
    line("shim pid", number(answer.shim_pid.map(u64::from)));
    line("policy", policed(&answer.policy));
    if let Some(last) = &answer.last_move {
        let paused = amounts::milliseconds(last.blackout_ms);
        line("last move", format!("{} {} {}, paused {paused}", last.from, stream.arrow(), last.to));
    }
    table.render()
}

/// What became of datagrams; nothing when there were none.
fn datagrams(counts: &DatagramCounts) -> String {
    let lost = [
        (counts.lost_no_room, "without room"),
        (counts.lost_too_late, "too late"),
        (counts.lost_nowhere, "to nobody"),
        (counts.lost_denied, "denied"),
        (counts.lost_misplaced, "misplaced"),
    ];
    if counts.sent + counts.received + lost.iter().map(|(count, _)| count).sum::<u64>() == 0 {
        return String::new();
    }
    let mut words = vec![format!("{} sent, {} received", counts.sent, counts.received)];
    words.extend(
        lost.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} lost {why}")),
    );
    words.join(", ")
}

/// What the policy did; nothing when it did nothing.
fn policed(counts: &PolicyCounts) -> String {
    let mut words = Vec::new();
    for (count, what) in [
        (counts.denied_in, "connects to it denied"),
        (counts.denied_out, "of its connects denied"),
        (counts.ended_sessions, "sessions ended"),
    ] {
        if count > 0 {
            words.push(format!("{count} {what}"));
        }
    }
    if let Some(last) = &counts.last_denied {
        words.push(format!("last {} to {} at port {}, {}", last.from, last.to, last.port, last.because));
    }
    words.join("; ")
}
