//! Answers of the upstream resolver, for as long as they say that they hold.
//!
//! An answer is given again only to a query that would have got the same one: the same question, flags and protocol. Its
//! times to live count down. Names of the mesh's zone are never in here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::exchange::Transport;
use crate::limits::{ANSWER_TTL_MAX, ANSWERS_BYTES, NO_ANSWER_TTL_MAX};

/// Bytes that an answer takes beside its records: key, list and headers.
const OVERHEAD_BYTES: u32 = 256;

/// Longest answer to a query without EDNS (RFC 1035, 4.2.1).
const PLAIN_BYTES: u16 = 512;

/// What is said of the largest datagram in answers from here: what fits everywhere (DNS flag day 2020).
const EDNS_BYTES: u16 = 1232;

/// Options of a query that do not change what the answer says: cookies (RFC 7873), keepalive (RFC 7828), padding
/// (RFC 7830).
const HARMLESS: [u16; 3] = [10, 11, 12];

/// The answers, bounded by their size.
pub(super) struct Answers(moka::sync::Cache<Asked, Arc<Kept>>);

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    question: Query,
    transport: Transport,
    recursion_desired: bool,
    checking_disabled: bool,
    authentic_data: bool,
    /// Whether the query has EDNS, and its DO flag.
    edns: Option<bool>,
}

struct Kept {
    message: Message,
    bytes: u32,
    since: Instant,
    lifetime: Duration,
}

impl Asked {
    /// What the answer to a query depends on; `None` if that can't be told.
    pub(super) fn of(query: &Message, transport: Transport) -> Option<Self> {
        let [question] = query.queries.as_slice() else { return None };
        let harmless = |code: &EdnsCode| HARMLESS.contains(&u16::from(*code));
        let edns_known = query.edns.as_ref().is_none_or(|edns| {
            edns.version() == 0 && edns.options().as_ref().iter().all(|(code, _)| harmless(code))
        });
        let whole = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR | RecordType::ANY);
        let plain = query.metadata.op_code == OpCode::Query
            && query.answers.is_empty()
            && query.authorities.is_empty()
            && query.additionals.is_empty()
            && query.signature.is_none();
        if !edns_known || whole || !plain || question.query_class() != DNSClass::IN {
            return None;
        }
        Some(Self {
            question: question.clone(),
            transport,
            recursion_desired: query.metadata.recursion_desired,
            checking_disabled: query.metadata.checking_disabled,
            authentic_data: query.metadata.authentic_data,
            edns: query.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        })
    }
}

impl Answers {
    /// Without any.
    pub(super) fn new() -> Self {
        let cache = moka::sync::Cache::builder()
            .max_capacity(ANSWERS_BYTES)
            .weigher(|_: &Asked, kept: &Arc<Kept>| kept.bytes + OVERHEAD_BYTES);
        Self(cache.build())
    }

    /// Forgets all of them.
    pub(super) fn forget_all(&self) {
        self.0.invalidate_all();
    }

    /// Keeps what an upstream said, if it may be kept.
    pub(super) fn keep(&self, asked: Asked, answer: &[u8], now: Instant) {
        let Ok(mut message) = Message::from_vec(answer) else { return };
        let Some(lifetime) = lifetime(&message, asked.question.query_type()) else { return };
        message.edns = None;
        let bytes = u32::try_from(answer.len()).unwrap_or(u32::MAX - OVERHEAD_BYTES);
        self.0.insert(asked, Arc::new(Kept { message, bytes, since: now, lifetime }));
    }

    /// The answer to a query, if it is known and holds.
    pub(super) fn find(&self, asked: &Asked, query: &Message, now: Instant) -> Option<Vec<u8>> {
        let kept = self.0.get(asked)?;
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.lifetime {
            self.0.invalidate(asked);
            return None;
        }
        let mut answer = kept.message.clone();
        answer.metadata.id = query.metadata.id;
        // It is nobody's own word any more.
        answer.metadata.authoritative = false;
        // As it was written this time, capitals and all.
        answer.queries.clone_from(&query.queries);
        let age_s = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in sections_mut(&mut answer) {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        answer.edns = query.edns.as_ref().map(|edns| {
            let mut own = Edns::new();
            own.set_max_payload(EDNS_BYTES).set_dnssec_ok(edns.flags().dnssec_ok);
            own
        });
        let room = match asked.transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => query.edns.as_ref().map_or(PLAIN_BYTES, Edns::max_payload).max(PLAIN_BYTES),
        };
        // What does not fit the upstream shortens as it likes.
        answer.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(room))
    }
}

/// How long an answer holds: as long as its shortest record, and one that there is nothing as the SOA record says that
/// comes with it (RFC 2308, 5); `None` if it is not to be kept.
fn lifetime(answer: &Message, wanted: RecordType) -> Option<Duration> {
    if answer.metadata.truncation {
        return None;
    }
    let shortest = || sections(answer).map(|record| record.ttl).min();
    let found = answer.answers.iter().any(|record| record.record_type() == wanted);
    let (seconds, most) = match answer.metadata.response_code {
        ResponseCode::NoError if found => (shortest()?, ANSWER_TTL_MAX),
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let minimum = answer.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum),
                _ => None,
            })?;
            (shortest()?.min(minimum), NO_ANSWER_TTL_MAX)
        }
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(most))
}

fn sections(message: &Message) -> impl Iterator<Item = &Record> {
    message.answers.iter().chain(&message.authorities).chain(&message.additionals)
}

fn sections_mut(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals)
}

#[cfg(test)]
mod tests;
