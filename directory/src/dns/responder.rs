//! From a request to its answer: the long way by hickory's messages, the short way by answers that are kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::limits::DNS_UDP_BYTES;
use crate::metrics::DnsMetrics;
use crate::published::Published;
use crate::zone::{Answer, Entry, Kind, Outcome, View, Zones};

use super::cache::{Basis, Cache};
use super::cookies::{Baker, OPTION_BYTES, Shown};
use super::question::{PLAIN_UDP_BYTES, Question};
use super::records::{kind, name, record};
use super::signing::{Round, Signer};
use super::tsig::{Check, Key, check};
use super::update::Updates;

/// Answers every query from the published facts.
pub(super) struct Responder {
    pub(super) zones: Arc<Zones>,
    pub(super) published: Arc<Published>,
    pub(super) signer: Arc<Signer>,
    pub(super) metrics: Arc<DnsMetrics>,
    pub(super) cache: Cache,
    pub(super) baker: Baker,
    /// Of secondaries and owners.
    pub(super) keys: Vec<Key>,
    pub(super) updates: Updates,
    pub(super) transfers: Arc<Semaphore>,
    /// The signer's round, where the short way reads it without a lock.
    pub(super) round: AtomicU64,
}

/// An answer in hickory's terms.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
    basis: Option<Basis>,
}

impl Responder {
    /// Answers a packet into `answer`; says whether there is an answer. `limit` is the most bytes that the way back
    /// takes whatever the asker says: over UDP [`DNS_UDP_BYTES`].
    pub(super) fn respond(
        &self,
        query: &[u8],
        source: std::net::SocketAddr,
        protocol: Protocol,
        answer: &mut Vec<u8>,
    ) -> bool {
        let begin = Instant::now();
        let question = Question::read(query);
        let cookie = question.as_ref().and_then(|question| question.cookie);
        // What a cookie will take is kept free.
        let reserved = if cookie.is_some() { OPTION_BYTES } else { 0 };
        let limit = |asked: u16| match protocol {
            Protocol::Udp => asked.min(DNS_UDP_BYTES) - reserved,
            _ => u16::MAX - reserved,
        };
        if let Some(question) = &question {
            let is_good = |basis: &Basis| self.is_good(basis);
            if self.cache.find(question, is_good, answer)
                && answer.len() <= usize::from(limit(question.limit))
            {
                question.make_own(answer);
                self.add_cookie(cookie, source.ip(), answer);
                self.metrics.answered(question.kind, answer[3] & 0xf, true);
                self.metrics.took(begin.elapsed(), true);
                return true;
            }
        }
        let mut packet = query.to_vec();
        if let Some(question) = &question {
            question.write_in_lower_case(&mut packet);
        }
        let Ok(request) = Request::from_bytes(packet, source, protocol) else {
            return self.refuse_unreadable(query, answer);
        };
        if request.metadata.message_type == MessageType::Response {
            return false;
        }
        let checked = check(&self.keys, query, &request, SystemTime::now());
        let mut reply = match &checked {
            _ if question.is_none() && has_broken_cookie(&request) => Reply::refusal(ResponseCode::FormErr),
            Check::Unsigned | Check::Good(..) => self.reply(&request),
            Check::Bad(_) => Reply::refusal(ResponseCode::NotAuth),
        };
        let asked = request.edns.as_ref().map_or(PLAIN_UDP_BYTES, Edns::max_payload).max(PLAIN_UDP_BYTES);
        if !encode(&request, &mut reply, limit(asked), answer) {
            return false;
        }
        let truncated = answer.get(2).is_some_and(|flags| flags & 2 != 0);
        if let (Some(question), Some(basis), false) = (&question, reply.basis, truncated) {
            self.cache.keep(question, basis, answer);
        }
        if let Some(question) = &question {
            question.make_own(answer);
            self.add_cookie(cookie, source.ip(), answer);
        }
        let signed = match checked {
            Check::Unsigned => Some(()),
            Check::Good(_, mut chain) => chain.sign(answer, SystemTime::now()),
            Check::Bad(fault) => fault.explain(answer),
        };
        if signed.is_none() {
            return false;
        }
        let kind = question.as_ref().map_or(0, |question| question.kind);
        self.metrics.answered(kind, reply.code.low(), false);
        self.metrics.took(begin.elapsed(), false);
        true
    }

    /// Whether a query shows a cookie that its sender has from us, so that its address is true.
    pub(super) fn knows(&self, query: &[u8], source: IpAddr) -> bool {
        let cookie = Question::read(query).and_then(|question| question.cookie);
        cookie.is_some_and(|cookie| self.baker.is_ours(&cookie, source, SystemTime::now()))
    }

    /// Puts a cookie into the OPT record that ends an answer, without options.
    fn add_cookie(&self, cookie: Option<Shown<'_>>, source: IpAddr, answer: &mut Vec<u8>) {
        let (Some(cookie), Some(length)) = (cookie, answer.last_chunk_mut::<2>()) else { return };
        *length = OPTION_BYTES.to_be_bytes();
        answer.extend_from_slice(&self.baker.option(&cookie.client, source, SystemTime::now()));
    }

    fn is_good(&self, basis: &Basis) -> bool {
        basis.round == self.round.load(Ordering::Acquire)
            && self.published.is_current(&basis.depends, basis.revision)
    }

    /// What can't be read gets FORMERR, if it was a query at all.
    fn refuse_unreadable(&self, packet: &[u8], answer: &mut Vec<u8>) -> bool {
        let Some(header) = packet.first_chunk::<12>() else { return false };
        if header[2] & 0x80 != 0 {
            return false;
        }
        answer.clear();
        answer.extend_from_slice(&[header[0], header[1], 0x80 | header[2] & 0x79, 1]);
        answer.extend_from_slice(&[0; 8]);
        self.metrics.answered(0, 1, false);
        true
    }

    fn reply(&self, request: &Request) -> Reply {
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Reply::refusal(ResponseCode::BADVERS);
        }
        match request.metadata.op_code {
            OpCode::Query => {}
            // Those that may be are taken before this, see `update`.
            OpCode::Update => return Reply::refusal(ResponseCode::Refused),
            _ => return Reply::refusal(ResponseCode::NotImp),
        }
        let Ok(info) = request.request_info() else { return Reply::refusal(ResponseCode::FormErr) };
        if !matches!(info.query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Reply::refusal(ResponseCode::Refused);
        }
        let kind = match info.query.query_type() {
            RecordType::AXFR | RecordType::IXFR => return Reply::refusal(ResponseCode::Refused),
            record_type => kind(record_type),
        };
        let lower: Vec<Vec<u8>> =
            Name::from(info.query.name()).iter().map(|label| label.to_ascii_lowercase()).collect();
        let labels: Vec<&[u8]> = lower.iter().map(Vec::as_slice).collect();
        let signed = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        self.answer(&labels, kind, signed)
    }

    fn answer(&self, labels: &[&[u8]], kind: Kind, signed: bool) -> Reply {
        let round = self.signer.round();
        let (answer, revision, unsure) = self.published.read(|registry| {
            let view = View { zones: &self.zones, registry, keys: round.public() };
            (view.answer(labels, kind), registry.revision, registry.asserting.is_some())
        });
        let basis = Basis { depends: answer.depends, revision, round: round.number() };
        // Not kept: there is no end of names outside, and they would take the place of ours.
        let Some(origin) = answer.origin else { return Reply::refusal(ResponseCode::Refused) };
        if unsure && answer.outcome == Outcome::NoSuchName {
            // It may have been made after the backup: a resolver is not to remember that there is none.
            return Reply::refusal(ResponseCode::ServFail);
        }
        let reply = || {
            let zone = name(self.zones.name(origin))?;
            let mut reply = Reply::new(&answer, signed)?;
            if signed {
                reply.sign(&self.signer, &round, &zone)?;
            }
            Some(Reply { basis: Some(basis), ..reply })
        };
        reply().unwrap_or_else(|| {
            warn!("a name in the zone is too long for DNS, or a record could not be signed");
            Reply::refusal(ResponseCode::ServFail)
        })
    }
}

/// The way of the transports that hickory serves.
pub(super) struct Handler(pub(super) Arc<Responder>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responses: R,
    ) -> ResponseInfo {
        let begin = Instant::now();
        let reply = self.0.reply(request);
        let edns = response_edns(request, reply.code);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: &[Record] = &[];
        let metadata = reply.metadata(request);
        let response = builder.build(metadata, &reply.answers, &reply.authority, none, &reply.additional);
        let kind = request.request_info().map_or(0, |info| info.query.query_type().into());
        self.0.metrics.answered(kind, reply.code.low(), false);
        self.0.metrics.took(begin.elapsed(), false);
        match responses.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, client = %request.src(), "cannot send a DNS answer");
                let mut metadata = Metadata::response_from_request(&request.metadata);
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}

impl Reply {
    fn new(answer: &Answer, with_proof: bool) -> Option<Self> {
        let code = match answer.outcome {
            Outcome::Found => ResponseCode::NoError,
            Outcome::NoSuchName => ResponseCode::NXDomain,
            Outcome::Refused => ResponseCode::Refused,
        };
        let records = |entries: &[Entry]| entries.iter().map(record).collect::<Option<Vec<_>>>();
        let mut authority = records(&answer.authority)?;
        if with_proof {
            authority.extend(records(&answer.denial)?);
        }
        let (answers, additional) = (records(&answer.answers)?, records(&answer.additional)?);
        Some(Self { code, authoritative: true, answers, authority, additional, basis: None })
    }

    fn refusal(code: ResponseCode) -> Self {
        let (answers, authority, additional) = (vec![], vec![], vec![]);
        Self { code, authoritative: false, answers, authority, additional, basis: None }
    }

    fn sign(&mut self, signer: &Signer, round: &Round, zone: &Name) -> Option<()> {
        for section in [&mut self.answers, &mut self.authority, &mut self.additional] {
            // What stands beside is of the capsule zone even in an answer of a reverse zone, whose key is no proof of it.
            let inside = section.iter().all(|record| zone.zone_of(&record.name));
            if inside {
                *section = signer.sign(round, zone, std::mem::take(section))?;
            }
        }
        Some(())
    }

    fn metadata(&self, request: &Request) -> Metadata {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = self.code;
        metadata.authoritative = self.authoritative;
        metadata
    }
}

/// RFC 7873, section 5.2.2.
fn has_broken_cookie(request: &Request) -> bool {
    let edns = request.edns.as_ref();
    let option = edns.and_then(|edns| edns.option(EdnsCode::Cookie));
    option.is_some_and(|option| Vec::<u8>::try_from(option).is_ok_and(|bytes| Shown::read(&bytes).is_none()))
}

fn response_edns(request: &Request, code: ResponseCode) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(DNS_UDP_BYTES);
    edns.set_version(0);
    edns.set_rcode_high(code.high());
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    Some(edns)
}

/// Encodes an answer. What stands beside it is left out when it does not fit; what was asked for and does not fit leaves a
/// message marked as truncated.
fn encode(request: &Request, reply: &mut Reply, limit: u16, answer: &mut Vec<u8>) -> bool {
    let mut message = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    message.metadata = reply.metadata(request);
    message.queries = request.queries.queries().iter().map(|query| query.original().clone()).collect();
    message.answers = std::mem::take(&mut reply.answers);
    message.authorities = std::mem::take(&mut reply.authority);
    message.additionals = std::mem::take(&mut reply.additional);
    message.edns = response_edns(request, reply.code);
    loop {
        answer.clear();
        let mut encoder = BinEncoder::new(answer);
        encoder.set_max_size(u16::MAX);
        if let Err(error) = message.emit(&mut encoder) {
            debug!(%error, "cannot encode a DNS answer");
            return false;
        }
        if answer.len() <= usize::from(limit) {
            return true;
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
        } else if !message.metadata.truncation {
            message.metadata.truncation = true;
            message.answers.clear();
            message.authorities.clear();
        } else {
            return false;
        }
    }
}
