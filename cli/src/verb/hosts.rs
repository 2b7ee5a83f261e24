//! `capsule hosts`

use std::time::SystemTime;

use admin_api::{
    Request, Timestamp,
    result::{HostState, HostView, HostsResult, LinkState, RemoveHostResult},
};
use clap::{Args, Subcommand};

use crate::{
    amounts,
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, or_dash, plain},
    terminal::{Stream, Tone},
};

/// List the hosts of the mesh and the links to them
///
/// STATE: ready hosts were heard of within their lease; "here" is the one that answers. LINK is
/// the connection from here: up, down (wanted and not there) or idle (made when it is needed).
/// CERT is the time until the host's certificate ends.
#[derive(Args, Debug)]
pub(crate) struct Hosts {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// End a host's place in the mesh
    ///
    /// Its certificate is accepted no more, and its capsules are lost until capsule recover. A host
    /// that is heard of is removed only with --force: it freezes what it runs, and keeps it.
    Remove {
        /// The host
        name: String,

        /// Also when it is heard of
        #[arg(short, long)]
        force: bool,
    },
}

impl Hosts {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        if let Some(What::Remove { name, force }) = self.what {
            let answer: RemoveHostResult = sidecar::ask(context, Request::RemoveHost { name, force }).await?;
            context.answer(&answer, |answer, stream| stream.clean(&removed(answer)) + "\n")?;
            return Ok(0);
        }
        let answer: HostsResult = sidecar::ask(context, Request::Hosts).await?;
        context.answer(&answer, |answer, stream| table(answer, *stream))?;
        Ok(0)
    }
}

fn removed(answer: &RemoveHostResult) -> String {
    let host = &answer.host;
    match answer.capsules.as_slice() {
        [] => format!("host {host} removed"),
        capsules => format!("host {host} removed; lost until capsule recover: {}", capsules.join(", ")),
    }
}

fn table(answer: &HostsResult, stream: Stream) -> String {
    let now = Timestamp::from(SystemTime::now());
    let mut table = Table::new(
        stream,
        &["HOST", "STATE", "ADDRESS", ">CAPSULES", "LINK", ">RTT", ">LOSS", ">MTU", ">CERT", "VERSION"],
    );
    for host in &answer.hosts {
        let link = host.link.as_ref();
        let certificate = host.certificate_expires_at.map(|end| amounts::age(now.until(end)));
        table.row(vec![
            plain(&host.name),
            state(host),
            or_dash(host.addresses.first().map(String::as_str)),
            plain(host.capsules.to_string()),
            link_state(host),
            or_dash(link.and_then(|link| link.rtt_ms).map(amounts::milliseconds)),
            or_dash(link.and_then(|link| link.loss_percent).map(|percent| format!("{percent:.1} %"))),
            or_dash(link.and_then(|link| link.mtu_bytes).map(|bytes| bytes.to_string())),
            or_dash(certificate),
            or_dash(host.version.as_deref()),
        ]);
    }
    let table = table.render();
    match answer.awaited.as_deref() {
        Some(awaited) => format!("{table}{}\n", stream.clean(&waiting(awaited))),
        None => table,
    }
}

/// What a directory that was restored waits for.
fn waiting(awaited: &[String]) -> String {
    let who = if awaited.is_empty() { "any host".to_owned() } else { awaited.join(", ") };
    format!(
        "The directory was restored from a backup and waits for {who} to say what they hold; until then nothing \
         moves, starts or ends. If one is gone: capsule hosts remove HOST"
    )
}

fn state(host: &HostView) -> (String, Tone) {
    let word = host.state.as_str();
    match host.state {
        HostState::Ready if host.here => (format!("{word}, here"), Tone::Good),
        HostState::Ready => (word.to_owned(), Tone::Good),
        HostState::Silent => {
            let since = host.silent_s.map(amounts::age_s).unwrap_or_default();
            (format!("{word} {since}").trim_end().to_owned(), Tone::Bad)
        }
        HostState::Unknown => plain(word),
    }
}

fn link_state(host: &HostView) -> (String, Tone) {
    let Some(link) = &host.link else {
        return plain("-");
    };
    let since = link.state_s.map(amounts::age_s).unwrap_or_default();
    let text = format!("{} {since}", link.state).trim_end().to_owned();
    match link.state {
        LinkState::Up => (text, Tone::Good),
        LinkState::Down => (text, Tone::Bad),
        LinkState::Idle | LinkState::Unknown => plain(text),
    }
}
