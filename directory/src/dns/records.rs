//! The zones' records in hickory's terms.

use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC};
use hickory_proto::dnssec::{Algorithm, PublicKeyBuf};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::zone::{Data, Entry, Kind, ZoneKey};

/// How long a secondary waits before it asks for a new serial when no NOTIFY came, before it asks again after a failure,
/// and how long it goes on answering without us, seconds.
const SECONDARY_REFRESH_S: i32 = 60;
const SECONDARY_RETRY_S: i32 = 10;
const SECONDARY_EXPIRE_S: i32 = 86_400;

/// Zone key and secure entry point: the key signs zone and keys (RFC 4034, section 2.1.1).
const DNSKEY_FLAGS: u16 = 257;

/// A record; `None` when one of its names is too long for DNS.
pub(super) fn record(entry: &Entry) -> Option<Record> {
    let data = match &entry.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, name(target)?))
        }
        Data::Txt(strings) => RData::TXT(TXT::from_bytes(strings.iter().map(Vec::as_slice).collect())),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Ns(target) => RData::NS(NS(name(target)?)),
        Data::Soa { server, mailbox, serial, negative_ttl } => RData::SOA(SOA::new(
            name(server)?,
            name(mailbox)?,
            *serial,
            SECONDARY_REFRESH_S,
            SECONDARY_RETRY_S,
            SECONDARY_EXPIRE_S,
            *negative_ttl,
        )),
        Data::Dnskey(key) => RData::DNSSEC(DNSSECRData::DNSKEY(dnskey(key))),
        Data::Nsec { next, kinds } => {
            let types = kinds.iter().filter_map(|kind| record_type(*kind));
            RData::DNSSEC(DNSSECRData::NSEC(NSEC::new_cover_self(name(next)?, types)))
        }
    };
    Some(Record::from_rdata(name(&entry.name)?, entry.ttl, data))
}

/// A zone's key as a record shows it.
pub(super) fn dnskey(key: &ZoneKey) -> DNSKEY {
    DNSKEY::with_flags(DNSKEY_FLAGS, PublicKeyBuf::new(key.0.to_vec(), Algorithm::ED25519))
}

/// A name given without its final dot.
pub(super) fn name(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

/// What a type asked for means to the zones.
pub(super) fn kind(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::TXT => Kind::Txt,
        RecordType::PTR => Kind::Ptr,
        RecordType::NS => Kind::Ns,
        RecordType::SOA => Kind::Soa,
        RecordType::DNSKEY => Kind::Dnskey,
        RecordType::NSEC => Kind::Nsec,
        // Signatures have no question of their own here: they come with what they sign.
        RecordType::ANY | RecordType::RRSIG => Kind::Any,
        _ => Kind::Other,
    }
}

fn record_type(kind: Kind) -> Option<RecordType> {
    match kind {
        Kind::A => Some(RecordType::A),
        Kind::Aaaa => Some(RecordType::AAAA),
        Kind::Srv => Some(RecordType::SRV),
        Kind::Txt => Some(RecordType::TXT),
        Kind::Ptr => Some(RecordType::PTR),
        Kind::Ns => Some(RecordType::NS),
        Kind::Soa => Some(RecordType::SOA),
        Kind::Dnskey => Some(RecordType::DNSKEY),
        Kind::Nsec => Some(RecordType::NSEC),
        Kind::Any | Kind::Other => None,
    }
}
