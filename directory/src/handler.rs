//! The only file that knows hickory: turns DNS messages into questions for [`crate::zone`] and its answers into messages.

use std::net::IpAddr;
use std::sync::Arc;

use directory_api::Zone;
use hickory_proto::op::{Edns, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tracing::{debug, warn};

use crate::limits::{DNS_TCP_IDLE, DNS_TCP_RESPONSES, DNS_UDP_BYTES};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::zone::{Answer, Data, Entry, Kind, Outcome, View};

/// A DNS server that is running.
pub struct Dns {
    server: Server<Handler>,
}

/// Answers every query from the published facts.
struct Handler {
    zone: Zone,
    servers: Vec<IpAddr>,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
}

impl Dns {
    /// Serves the zone on both sockets.
    pub fn start(
        sockets: (UdpSocket, TcpListener),
        zone: Zone,
        servers: Vec<IpAddr>,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut server = Server::new(Handler { zone, servers, published, metrics });
        server.register_socket(sockets.0);
        server.register_listener(sockets.1, DNS_TCP_IDLE, DNS_TCP_RESPONSES);
        Self { server }
    }

    /// Stops taking queries and answers the open ones.
    pub async fn stop(mut self) {
        if let Err(error) = self.server.shutdown_gracefully().await {
            warn!(%error, "DNS did not stop cleanly");
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responses: R,
    ) -> ResponseInfo {
        self.metrics.dns_answered();
        let reply = self.reply(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        let edns = request.edns.as_ref().map(|asked| response_edns(asked, reply.code));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: &[Record] = &[];
        let response = builder.build(metadata, &reply.answers, &reply.authority, none, &reply.additional);
        match responses.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, client = %request.src(), "cannot send a DNS answer");
                failed(request)
            }
        }
    }
}

/// An answer in hickory's terms.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl Handler {
    fn reply(&self, request: &Request) -> Reply {
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Reply::refusal(ResponseCode::BADVERS);
        }
        match (request.metadata.message_type, request.metadata.op_code) {
            (MessageType::Query, OpCode::Query) => {}
            (MessageType::Query | MessageType::Response, _) => return Reply::refusal(ResponseCode::NotImp),
        }
        let Ok(info) = request.request_info() else { return Reply::refusal(ResponseCode::FormErr) };
        if !matches!(info.query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Reply::refusal(ResponseCode::Refused);
        }
        let kind = match info.query.query_type() {
            RecordType::AXFR | RecordType::IXFR => return Reply::refusal(ResponseCode::Refused),
            RecordType::A => Kind::A,
            RecordType::AAAA => Kind::Aaaa,
            RecordType::SRV => Kind::Srv,
            RecordType::TXT => Kind::Txt,
            RecordType::NS => Kind::Ns,
            RecordType::SOA => Kind::Soa,
            RecordType::ANY => Kind::Any,
            _ => Kind::Other,
        };
        // A label that is no text cannot be one of ours; the question mark is in no name here.
        let labels: Vec<String> = Name::from(info.query.name())
            .iter()
            .map(|label| std::str::from_utf8(label).unwrap_or("?").to_ascii_lowercase())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let (zone, servers) = (&self.zone, self.servers.as_slice());
        let answer = self.published.read(|registry| View { zone, registry, servers }.answer(&labels, kind));
        Reply::new(&answer)
    }
}

impl Reply {
    fn new(answer: &Answer) -> Self {
        let code = match answer.outcome {
            Outcome::Found => ResponseCode::NoError,
            Outcome::NoSuchName => ResponseCode::NXDomain,
            Outcome::Refused => return Self::refusal(ResponseCode::Refused),
        };
        let records = |entries: &[Entry]| entries.iter().map(record).collect::<Option<Vec<_>>>();
        let sections = (records(&answer.answers), records(&answer.authority), records(&answer.additional));
        let (Some(answers), Some(authority), Some(additional)) = sections else {
            warn!("a name in the zone is too long for DNS");
            return Self::refusal(ResponseCode::ServFail);
        };
        Self { code, authoritative: true, answers, authority, additional }
    }

    fn refusal(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: vec![], authority: vec![], additional: vec![] }
    }
}

fn record(entry: &Entry) -> Option<Record> {
    let data = match &entry.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 0, *port, name(target)?)),
        Data::Txt(strings) => RData::TXT(TXT::new(strings.clone())),
        Data::Ns(target) => RData::NS(NS(name(target)?)),
        // Refresh, retry and expiry are for secondaries, of which there are none.
        Data::Soa { server, mailbox, serial, negative_ttl } => {
            RData::SOA(SOA::new(name(server)?, name(mailbox)?, *serial, 60, 10, 86_400, *negative_ttl))
        }
    };
    Some(Record::from_rdata(name(&entry.name)?, entry.ttl, data))
}

fn name(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

fn response_edns(asked: &Edns, code: ResponseCode) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload().clamp(512, DNS_UDP_BYTES));
    edns.set_version(0);
    edns.set_rcode_high(code.high());
    edns
}

fn failed(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = ResponseCode::ServFail;
    hickory_proto::op::Header { metadata, counts: Default::default() }.into()
}
