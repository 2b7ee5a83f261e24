//! Updates of the zone (RFC 2136), signed with an owner's key: read from the packet here, decided by
//! [`crate::zone::update`] in the one thread that changes facts. Over UDP, TCP and TLS; over QUIC they are refused, for
//! the library that serves it hands no signatures on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use directory_api::ApiError;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use overlay_proto::Owner;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use crate::engine::{Command, Verdict};
use crate::extras::ExtraData;
use crate::limits::{DNS_UDP_BYTES, DNS_UPDATE_RECORDS_MAX, DNS_UPDATES_MAX};
use crate::writer::Writer;
use crate::zone::update::{Prerequisite, RecordChange, UpdateRefusal, ZoneUpdate};
use crate::zone::{Data, Kind, Path};

use super::question::end_of_question;
use super::records::kind;
use super::responder::Responder;
use super::tsig::{Check, Role, check};

/// The operation, in its place in the third byte, with the bit that tells answers (RFC 2136, section 2.2).
const OPERATION: u8 = 5 << 3;
const OPERATION_MASK: u8 = 0b1111_1000;
const HEADER: usize = 12;

/// Types of questions, which no record has (RFC 2136, section 3.4.1.2).
const MAILB: u16 = 253;
const MAILA: u16 = 254;

/// Makes the changes.
pub(super) struct Updates {
    writer: Writer,
    under_way: Arc<Semaphore>,
}

impl Updates {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, under_way: Arc::new(Semaphore::new(DNS_UPDATES_MAX)) }
    }

    /// Leave to carry out one; `None` when there are too many under way.
    pub(super) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.under_way.clone().try_acquire_owned().ok()
    }
}

/// Whether a packet is an update.
pub(super) fn is_update(packet: &[u8]) -> bool {
    packet.len() >= HEADER && packet[2] & OPERATION_MASK == OPERATION
}

/// Carries out an update and gives the answer to it; `None` when there is none to be had.
pub(super) async fn answer(
    responder: &Responder,
    packet: &[u8],
    source: SocketAddr,
    protocol: Protocol,
) -> Option<Vec<u8>> {
    let Ok(request) = Request::from_bytes(packet.to_vec(), source, protocol) else {
        responder.metrics.updated(ResponseCode::FormErr.low());
        return head(packet, ResponseCode::FormErr, false);
    };
    let begin = |code: ResponseCode| {
        responder.metrics.updated(code.low());
        head(packet, code, request.edns.is_some())
    };
    match check(&responder.keys, packet, &request, SystemTime::now()) {
        Check::Unsigned => {
            debug!(client = %source, "an update is refused: it is not signed");
            begin(ResponseCode::Refused)
        }
        Check::Bad(fault) => {
            debug!(client = %source, "an update is refused: its signature is wrong");
            let mut answer = begin(ResponseCode::NotAuth)?;
            fault.explain(&mut answer)?;
            Some(answer)
        }
        Check::Good(key, mut chain) => {
            let name = key.secret.name();
            let code = match &key.role {
                Role::Updater(owner) => carry_out(responder, &request, &name, owner).await,
                Role::Secondary => ResponseCode::Refused,
            };
            debug!(client = %source, key = name, %code, "an update");
            let mut answer = begin(code)?;
            chain.sign(&mut answer, SystemTime::now())?;
            Some(answer)
        }
    }
}

async fn carry_out(responder: &Responder, request: &Request, key: &str, owner: &Owner) -> ResponseCode {
    let update = match read(responder, request, owner) {
        Ok(update) => Box::new(update),
        Err(code) => return code,
    };
    let verdict = Verdict::default();
    let command = Command::UpdateZone { key: key.to_owned(), update, verdict: verdict.clone() };
    match responder.updates.writer.run(command).await {
        Ok(_) => ResponseCode::NoError,
        Err(ApiError::Denied { reason }) => {
            info!(key, %owner, reason, "an update does not hold");
            verdict.take().map_or(ResponseCode::Refused, code_of)
        }
        Err(error) => {
            warn!(key, %owner, %error, "an update failed");
            ResponseCode::ServFail
        }
    }
}

fn code_of(refusal: UpdateRefusal) -> ResponseCode {
    match refusal {
        UpdateRefusal::NameAbsent(_) => ResponseCode::NXDomain,
        UpdateRefusal::NameInUse(_) => ResponseCode::YXDomain,
        UpdateRefusal::SetAbsent(_) => ResponseCode::NXRRSet,
        UpdateRefusal::SetExists(_) => ResponseCode::YXRRSet,
        UpdateRefusal::Denied { .. } => ResponseCode::Refused,
    }
}

/// Header and zone section of the answer.
fn head(packet: &[u8], code: ResponseCode, with_edns: bool) -> Option<Vec<u8>> {
    let zone = end_of_question(packet).map_or(&[][..], |end| &packet[HEADER..end]);
    let mut answer = Vec::with_capacity(512);
    answer.extend_from_slice(&[packet[0], packet[1], 0x80 | OPERATION, code.low()]);
    answer.extend_from_slice(&[0, u8::from(!zone.is_empty()), 0, 0, 0, 0, 0, u8::from(with_edns)]);
    answer.extend_from_slice(zone);
    if with_edns {
        let [high, low] = DNS_UDP_BYTES.to_be_bytes();
        answer.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
    }
    Some(answer)
}

/// Reads the sections in the order of RFC 2136, section 3.
fn read(responder: &Responder, request: &Request, owner: &Owner) -> Result<ZoneUpdate, ResponseCode> {
    let [zone] = request.queries.queries() else { return Err(ResponseCode::FormErr) };
    if zone.query_type() != RecordType::SOA {
        return Err(ResponseCode::FormErr);
    }
    if zone.query_class() != DNSClass::IN {
        return Err(ResponseCode::NotAuth);
    }
    let find = |name: &Name| {
        let lower: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
        let labels: Vec<&[u8]> = lower.iter().map(Vec::as_slice).collect();
        responder.zones.find(&labels)
    };
    let origin = match find(&Name::from(zone.name())) {
        Some((origin, path)) if path.is_empty() => origin,
        _ => return Err(ResponseCode::NotAuth),
    };
    if request.answers.len() + request.authorities.len() > DNS_UPDATE_RECORDS_MAX {
        return Err(ResponseCode::Refused);
    }
    let path = |record: &Record| match find(&record.name) {
        Some((found, path)) if found == origin => Ok(path),
        _ => Err(ResponseCode::NotZone),
    };
    let mut prerequisites = vec![];
    for record in &request.answers {
        add_prerequisite(&mut prerequisites, path(record)?, record)?;
    }
    let change = |record: &Record| change(path(record)?, record);
    let changes = request.authorities.iter().map(change).collect::<Result<_, _>>()?;
    Ok(ZoneUpdate {
        zones: responder.zones.clone(),
        keys: responder.signer.round().public().to_vec(),
        origin,
        owner: owner.clone(),
        prerequisites,
        changes,
    })
}

/// RFC 2136, section 3.2.5. Records of class IN that are about one set are one prerequisite.
fn add_prerequisite(all: &mut Vec<Prerequisite>, path: Path, record: &Record) -> Result<(), ResponseCode> {
    let (is_empty, of_any) = (is_empty(record), record.record_type() == RecordType::ANY);
    if record.ttl != 0 || (is_question_type(record.record_type()) && !of_any) {
        return Err(ResponseCode::FormErr);
    }
    let kind = stored_kind(record.record_type());
    let prerequisite = match (record.dns_class, is_empty) {
        (DNSClass::ANY, true) if of_any => Prerequisite::NameInUse(path),
        (DNSClass::ANY, true) => Prerequisite::SetExists(path, kind),
        (DNSClass::NONE, true) if of_any => Prerequisite::NameNotInUse(path),
        (DNSClass::NONE, true) => Prerequisite::SetAbsent(path, kind),
        (DNSClass::IN, false) if !of_any => {
            let same = |prerequisite: &&mut Prerequisite| matches!(prerequisite, Prerequisite::SetEquals(other, of, _) if *other == path && *of == kind);
            if let Some(Prerequisite::SetEquals(_, _, records)) = all.iter_mut().find(same) {
                records.push(data(&record.data));
                return Ok(());
            }
            Prerequisite::SetEquals(path, kind, vec![data(&record.data)])
        }
        _ => return Err(ResponseCode::FormErr),
    };
    all.push(prerequisite);
    Ok(())
}

/// RFC 2136, sections 3.4.1.2 and 3.4.2.
fn change(path: Path, record: &Record) -> Result<RecordChange, ResponseCode> {
    let (is_empty, record_type) = (is_empty(record), record.record_type());
    let of_any = record_type == RecordType::ANY;
    if is_question_type(record_type) && !(of_any && record.dns_class == DNSClass::ANY) {
        return Err(ResponseCode::FormErr);
    }
    match (record.dns_class, is_empty) {
        (DNSClass::IN, false) => Ok(match added(&record.data) {
            // RFC 2181, section 8: a TTL with its first bit set is none.
            Some(data) => RecordChange::Add(path, i32::try_from(record.ttl).map_or(0, |_| record.ttl), data),
            None => RecordChange::Forbidden(path),
        }),
        (DNSClass::NONE, false) if record.ttl == 0 => Ok(match added(&record.data) {
            Some(data) => RecordChange::Remove(path, data),
            None => RecordChange::Forbidden(path),
        }),
        (DNSClass::ANY, true) if record.ttl == 0 => Ok(match record_type {
            RecordType::ANY => RecordChange::RemoveName(path),
            RecordType::TXT => RecordChange::RemoveSet(path, Kind::Txt),
            RecordType::SRV => RecordChange::RemoveSet(path, Kind::Srv),
            _ => RecordChange::Forbidden(path),
        }),
        _ => Err(ResponseCode::FormErr),
    }
}

fn is_empty(record: &Record) -> bool {
    matches!(record.data, RData::Update0(_))
}

/// Types that no record has, and those that only stand in the additional section.
fn is_question_type(record_type: RecordType) -> bool {
    matches!(
        record_type,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG
    ) || [MAILA, MAILB].contains(&record_type.into())
}

/// As [`kind`], but that signatures are no set of their own here.
fn stored_kind(record_type: RecordType) -> Kind {
    match kind(record_type) {
        Kind::Any => Kind::Other,
        kind => kind,
    }
}

/// A record that may be added.
fn added(data: &RData) -> Option<ExtraData> {
    match data {
        RData::TXT(txt) => Some(ExtraData::Txt(txt.txt_data.iter().map(|string| string.to_vec()).collect())),
        RData::SRV(srv) => {
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            Some(ExtraData::Srv { priority, weight, port, target: text(&srv.target) })
        }
        _ => None,
    }
}

/// A record as the zones know it; `None` for what they never have.
fn data(data: &RData) -> Option<Data> {
    match data {
        RData::A(address) => Some(Data::A(address.0)),
        RData::AAAA(address) => Some(Data::Aaaa(address.0)),
        RData::PTR(target) => Some(Data::Ptr(text(&target.0))),
        RData::NS(target) => Some(Data::Ns(text(&target.0))),
        RData::SOA(soa) => Some(Data::Soa {
            server: text(&soa.mname),
            mailbox: text(&soa.rname),
            serial: soa.serial,
            negative_ttl: soa.minimum,
        }),
        other => added(other).as_ref().map(Data::from),
    }
}

/// A name in lower case, without its final dot.
fn text(name: &Name) -> String {
    name.to_ascii().to_ascii_lowercase().trim_end_matches('.').to_owned()
}
