//! A zone to a secondary, in as many messages as it takes (AXFR, RFC 5936), signed by zone key and by shared secret. What
//! is sent is one revision: a copy of the facts is made at the beginning, and goes when the transfer ends.

use std::sync::Arc;
use std::time::SystemTime;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::sync::OwnedSemaphorePermit;

use crate::limits::TRANSFER_MESSAGE_RECORDS;
use crate::registry::Registry;
use crate::zone::{Entry, Origin, Path, View, Zones};

use super::question::question_type;
use super::records::{name, record};
use super::responder::Responder;
use super::signing::{Round, Signer};
use super::tsig::{Chain, Check, Key, Role, check};

/// A transfer under way.
pub(super) struct Transfer {
    zones: Arc<Zones>,
    registry: Registry,
    signer: Arc<Signer>,
    round: Arc<Round>,
    origin: Origin,
    zone: Name,
    id: u16,
    query: Query,
    chain: Chain,
    next: Next,
    _permit: OwnedSemaphorePermit,
}

/// What is sent next.
enum Next {
    /// This name.
    Name(Path),
    /// The SOA once more, which says that it is all there.
    End,
    /// Nothing.
    Done,
}

/// Whether a packet asks for a transfer. A full one is a right answer to the question for what changed (RFC 1995,
/// section 4).
pub(super) fn is_transfer(packet: &[u8]) -> bool {
    let asked = question_type(packet).map(RecordType::from);
    matches!(asked, Some(RecordType::AXFR | RecordType::IXFR))
}

impl Transfer {
    /// Begins with a packet that asks for one ([`is_transfer`]), when it comes from whom it may, is of a zone of ours, and
    /// not too many are under way. Whoever may not is answered as any other query is.
    pub(super) fn begin(responder: &Responder, packet: &[u8], source: std::net::SocketAddr) -> Option<Self> {
        let request = Request::from_bytes(packet.to_vec(), source, Protocol::Tcp).ok()?;
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return None;
        }
        let Check::Good(Key { role: Role::Secondary, .. }, chain) =
            check(&responder.keys, packet, &request, SystemTime::now())
        else {
            return None;
        };
        let query = request.request_info().ok()?.query.original().clone();
        let lower: Vec<Vec<u8>> = query.name().iter().map(<[u8]>::to_ascii_lowercase).collect();
        let labels: Vec<&[u8]> = lower.iter().map(Vec::as_slice).collect();
        let (origin, path) = responder.zones.find(&labels)?;
        // What a secondary has is newer than the backup.
        responder.published.awaited().is_none().then_some(())?;
        let permit = responder.transfers.clone().try_acquire_owned().ok()?;
        path.is_empty().then_some(())?;
        Some(Self {
            zones: responder.zones.clone(),
            registry: responder.published.read(Registry::clone),
            signer: responder.signer.clone(),
            round: responder.signer.round(),
            origin,
            zone: name(responder.zones.name(origin))?,
            id: request.metadata.id,
            query,
            chain,
            next: Next::Name(path),
            _permit: permit,
        })
    }

    /// The next message; `None` behind the last, or when one can't be made, which the secondary notices by the missing
    /// SOA.
    pub(super) fn next_message(&mut self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        message.metadata.response_code = ResponseCode::NoError;
        message.add_query(self.query.clone());
        while message.answers.len() < TRANSFER_MESSAGE_RECORDS {
            let view = View { zones: &self.zones, registry: &self.registry, keys: self.round.public() };
            match std::mem::replace(&mut self.next, Next::Done) {
                Next::Name(path) => {
                    let records = records(&view.owner(self.origin, &path))?;
                    message.answers.extend(self.signer.sign(&self.round, &self.zone, records)?);
                    self.next = view.after(self.origin, &path).map_or(Next::End, Next::Name);
                }
                Next::End => message.answers.push(record(&view.soa(self.origin))?),
                Next::Done => break,
            }
        }
        if message.answers.is_empty() {
            return None;
        }
        let mut bytes = Vec::new();
        message.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
        self.chain.sign(&mut bytes, SystemTime::now())?;
        Some(bytes)
    }
}

fn records(entries: &[Entry]) -> Option<Vec<Record>> {
    entries.iter().map(record).collect()
}
