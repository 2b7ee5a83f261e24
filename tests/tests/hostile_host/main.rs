//! A host that joined the mesh and then lies: it may speak for what is placed on it, and for nothing else (D8).

mod arrivals;
mod datagrams;
mod evil;
mod garbage;
mod sessions;
mod verbs;

use std::net::SocketAddr;
use std::time::Duration;

use admin_api::request::{Exec, Memory, Run};
use admin_api::{AskError, Request};
use bytes::BytesMut;
use directory_api::CapsuleRecord;
use evil::{ADMIN, Evil, FILES, MOVE, Wire, fresh_session, is_well, log_of};
use overlay_proto::frame::{Attach, Attached, Held, Hold, Position};
use overlay_proto::{
    AttachKey, CapsuleId, EndKind, Frame, Generation, Open, OpenOutcome, Role, SessionId, StreamHeader,
};
use serde_json::{Value, json};
use testkit::{Host, Mesh, pattern, wait_for, wait_until};
use tests::{
    SOON, Talk, capsule_id, end, exec, locators, nothing_left_of, on_disk, place, places, redis_clients,
    start, start_redis,
};

/// A connected pair of programs as the sidecars see it.
#[derive(Clone, Copy)]
struct Session {
    id: SessionId,
    /// Generations of opener and acceptor.
    generations: (u64, u64),
}

impl Session {
    /// The one session of capsule `acceptor`, opened by capsule `opener`.
    #[track_caller]
    fn of(host: &Host, opener: &str, acceptor: &str) -> Session {
        let id = wait_for(SOON, "the session", || {
            let listed = host.capsule(["--json", "sessions", acceptor]).ok().json();
            let sessions = listed["sessions"].as_array().cloned().unwrap_or_default();
            let found = sessions.iter().find(|session| session["peer_capsule"] == opener);
            found.map(|session| session["id"].as_str().expect("an id").to_owned())
        });
        let generations = (place(host, opener).generation, place(host, acceptor).generation);
        Session { id: id.parse().expect("an id"), generations }
    }

    fn key(self, attempt: u64) -> AttachKey {
        key((self.generations.0, self.generations.1, attempt))
    }

    /// Keys that are the present one, older, newer, and made up.
    fn keys(self) -> Vec<AttachKey> {
        let (opener, acceptor) = self.generations;
        let attempts = (0..4).map(|attempt| (opener, acceptor, attempt));
        let made_up = [(opener + 1, acceptor, 0), (opener, acceptor + 1, 9), (u64::MAX, u64::MAX, u64::MAX)];
        attempts.chain([(opener, acceptor, u64::MAX), (0, 0, 0)]).chain(made_up).map(key).collect()
    }
}

fn key((opener, acceptor, attempt): (u64, u64, u64)) -> AttachKey {
    AttachKey {
        opener_generation: Generation::new(opener),
        acceptor_generation: Generation::new(acceptor),
        attempt,
    }
}

/// Connections that Redis has taken in its life, but for those by which it is asked.
#[track_caller]
fn connections_taken(host: &Host, asked: &mut u64) -> u64 {
    *asked += 1;
    let text = exec(host, "redis", &["redis-cli", "info", "stats"]).ok().stdout;
    let line = text.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.and_then(|count| count.trim().parse::<u64>().ok()).expect("Redis counts them") - *asked
}

/// What became of an OPEN.
#[track_caller]
fn outcome(evil: &Evil, wire: &mut Wire, open: Open) -> OpenOutcome {
    let session = open.session;
    evil.tell(wire, &Frame::Open(open));
    loop {
        match evil.hear(wire).expect("the link stays up") {
            Frame::Answer(answer) if answer.session == session => return answer.outcome,
            _ => {}
        }
    }
}
