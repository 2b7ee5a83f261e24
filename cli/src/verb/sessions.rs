//! `capsule sessions`

use admin_api::{
    Request,
    result::{CapsuleState, PolicyCounts, SessionState, SessionView, SessionsResult},
};
use clap::Args;

use crate::{
    amounts,
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, or_dash, plain},
    terminal::{Stream, Tone},
};

/// Characters of a session's id that tell it apart for people.
const ID_SHOWN: usize = 8;

/// List the sessions of a capsule, or of every capsule on this host
///
/// STATE: open (data flows), held (the other side is away), parked (the program reads slowly),
/// closing (an end was said, not everything is delivered). IN and OUT are seen from the capsule.
/// AT is the host of the other half; a session that is anchored leaves the mesh there without a
/// gateway, and is bound to that host. LIMIT is the memory that what the capsule sent may take until the peer has it. A UDP flow is listed
/// until no datagram came for five minutes.
#[derive(Args, Debug)]
pub(crate) struct Sessions {
    /// The capsule, wherever it is; without it every capsule on this host
    name: Option<String>,
}

impl Sessions {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let request = Request::Sessions { name: self.name.clone() };
        let answer: SessionsResult = sidecar::ask(context, request).await?;
        context.answer(&answer, |answer, stream| table(answer, *stream, self.name.is_none()))?;
        Ok(0)
    }
}

fn table(answer: &SessionsResult, stream: Stream, with_capsule: bool) -> String {
    let mut headings = vec!["SESSION"];
    if with_capsule {
        headings.push("CAPSULE");
    }
    headings.extend([
        "KIND",
        "DIR",
        "LOCAL",
        "PEER",
        "AT",
        "STATE",
        ">IN",
        ">OUT",
        ">BUFFERED",
        ">LIMIT",
        ">AGE",
    ]);
    let mut table = Table::new(stream, &headings);
    for session in &answer.sessions {
        let mut cells = vec![plain(session.id.get(..ID_SHOWN).unwrap_or(&session.id))];
        if with_capsule {
            cells.push(plain(&session.capsule));
        }
        cells.extend([
            plain(session.kind.as_str()),
            plain(session.direction.as_str()),
            plain(local(session)),
            plain(peer(session)),
            at(session),
            state(session),
            plain(amounts::bytes(session.bytes_in)),
            plain(amounts::bytes(session.bytes_out)),
            plain(amounts::bytes(session.buffered_bytes)),
            plain(amounts::bytes(session.buffer_limit_bytes)),
            plain(amounts::age_s(session.age_s)),
        ]);
        table.row(cells);
    }
    table.render() + &denied(&answer.policy)
}

/// One line when there are connects that got no session.
fn denied(policy: &PolicyCounts) -> String {
    let (incoming, outgoing) = (policy.denied_in, policy.denied_out);
    if incoming + outgoing == 0 {
        return String::new();
    }
    format!("! the policy denied {incoming} connects in and {outgoing} out; see: capsule policy show\n")
}

fn local(session: &SessionView) -> String {
    match session.outside {
        Some(outside) => format!("{outside} as {}", session.local),
        None => session.local.to_string(),
    }
}

fn at(session: &SessionView) -> (String, Tone) {
    match &session.anchored {
        Some(host) => (format!("{host} (anchored)"), Tone::Warn),
        None => or_dash(session.peer_host.as_deref()),
    }
}

fn peer(session: &SessionView) -> String {
    match &session.peer_capsule {
        Some(capsule) => format!("{capsule} {}", session.remote),
        None => session.remote.to_string(),
    }
}

fn state(session: &SessionView) -> (String, Tone) {
    let word = session.state.as_str();
    match session.state {
        SessionState::Open => (word.to_owned(), Tone::Good),
        SessionState::Held => {
            let since = session.state_s.map(amounts::age_s).unwrap_or_default();
            let peer = match session.peer_state {
                Some(CapsuleState::Suspended) => "(suspended)",
                _ => "",
            };
            let words = [word, &since, peer].into_iter().filter(|word| !word.is_empty());
            (words.collect::<Vec<_>>().join(" "), Tone::Warn)
        }
        SessionState::Parked | SessionState::Closing | SessionState::Unknown => plain(word),
    }
}
