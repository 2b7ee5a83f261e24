//! Whom a query goes to, and what it gets if nobody answers.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

use super::asking::Asking;
use super::exchange::Transport;
use super::host::HostResolver;
use crate::finder::Servers;
use crate::limits::{DNS_HEAD_START, DNS_PATIENCE, DNS_SILENCE, UPSTREAM_TIMEOUT};
use crate::places::Places;

/// Seconds for which an answer that the directory did not give itself may be kept.
const KNOWN_TTL_S: u32 = 5;

/// Locators of a capsule by its name, as this host knows them.
type Known = Box<dyn Fn(&str) -> Option<[IpAddr; 2]> + Send + Sync>;

/// Where queries go.
pub struct Upstreams {
    /// The zone of the mesh, without the final dot.
    pub zone: String,
    /// The directories.
    pub zone_servers: Servers,
    /// The host's resolver.
    pub others: Arc<HostResolver>,
    /// What is known without the directory.
    pub known: Known,
    /// The directory did not answer: until then it is not waited for if the answer is known.
    pub silent_until: Mutex<Option<Instant>>,
}

impl Upstreams {
    /// For a capsule of the mesh.
    pub fn new(zone: String, zone_servers: Servers, others: Arc<HostResolver>, places: Places) -> Self {
        let known: Known = Box::new(move |name| {
            let locators = places.named(&name.parse().ok()?)?.locators;
            Some([locators.v4.into(), locators.v6.into()])
        });
        Self { zone, zone_servers, others, known, silent_until: Mutex::default() }
    }

    /// What a name is called in the zone, if it is there; the zone itself is called nothing.
    fn in_zone(&self, name: &str) -> Option<String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let rest = name.strip_suffix(&self.zone)?;
        if rest.is_empty() { Some(String::new()) } else { rest.strip_suffix('.').map(str::to_owned) }
    }

    /// The answer to a query about the zone that needs no directory.
    pub(super) fn known(&self, name: &str, query: &Query) -> Option<Vec<Record>> {
        let wanted = query.query_type();
        if !matches!(wanted, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let data = (self.known)(name)?.map(|address| match address {
            IpAddr::V4(v4) => RData::A(v4.into()),
            IpAddr::V6(v6) => RData::AAAA(v6.into()),
        });
        let data = data.into_iter().filter(|data| data.record_type() == wanted);
        Some(data.map(|data| Record::from_rdata(query.name().clone(), KNOWN_TTL_S, data)).collect())
    }

    fn is_silent(&self) -> bool {
        let until = *self.silent_until.lock().expect("no panics under this lock");
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Keeps in mind whether the directory answered.
    fn heard(&self, answered: bool) {
        let until = (!answered).then(|| Instant::now() + DNS_SILENCE);
        *self.silent_until.lock().expect("no panics under this lock") = until;
    }
}

/// The answer of the first upstream that gives one, else what is known, else SERVFAIL; none to what is no query.
pub(super) async fn answer(upstreams: &Upstreams, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let question = message.queries.first()?;
    let inside = upstreams.in_zone(&question.name().to_ascii());
    let known = inside.as_deref().and_then(|name| upstreams.known(name, question));
    let answered = match inside {
        Some(_) if known.is_some() && upstreams.is_silent() => None,
        Some(_) => {
            let limit = if known.is_some() { DNS_PATIENCE } else { UPSTREAM_TIMEOUT };
            // The directories have the same answers, so whoever is quicker may give them.
            let asking = Asking { limit, head_start: DNS_HEAD_START, transport };
            let answered = asking.first(&upstreams.zone_servers.all(), query).await;
            upstreams.heard(answered.is_some());
            answered.map(|(server, answer)| {
                upstreams.zone_servers.prefer(server);
                answer
            })
        }
        None => upstreams.others.answer(&message, query, transport).await,
    };
    if answered.is_some() {
        return answered;
    }
    let code = if known.is_some() { ResponseCode::NoError } else { ResponseCode::ServFail };
    let mut answer = Message::error_msg(message.metadata.id, message.metadata.op_code, code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(message.queries);
    answer.add_answers(known.unwrap_or_default());
    answer.to_vec().ok()
}
