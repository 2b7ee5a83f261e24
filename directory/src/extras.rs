//! Records that a capsule's owner adds to the zone: text and services, at the capsule's name and below it. They belong to
//! the capsule's id, so they stay with it when it moves and go when it is removed. Pure.

use std::fmt;

use directory_api::AddedRecord;
use prost::Message as _;

use crate::limits::{EXTRA_BYTES_MAX, EXTRA_LABELS_MAX, EXTRA_RECORDS_MAX};

/// One record that was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraRecord {
    /// The labels from the capsule's name downwards, lower case; none for the capsule's name itself.
    pub below: Vec<String>,
    /// How long it may be kept, seconds; the same for all of one name and type.
    pub ttl: u32,
    /// What it says.
    pub data: ExtraData,
}

/// What a record says that was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtraData {
    /// Text: strings of up to 255 bytes.
    Txt(Vec<Vec<u8>>),
    /// A service (RFC 2782).
    Srv {
        /// Lower ones are tried first.
        priority: u16,
        /// Share of the load among those of one priority.
        weight: u16,
        /// Where it listens.
        port: u16,
        /// The name of the machine, lower case, without the final dot; empty where the service is not to be had.
        target: String,
    },
}

impl ExtraData {
    /// Bytes, roughly as in a packet.
    fn len(&self) -> usize {
        match self {
            Self::Txt(strings) => strings.iter().map(|string| string.len() + 1).sum(),
            Self::Srv { target, .. } => 6 + target.len() + 2,
        }
    }
}

/// Whether labels may stand below a capsule's name: there are few of them, and each has only what names of hosts and
/// services have.
pub fn may_stand_below(labels: &[String]) -> bool {
    labels.len() <= EXTRA_LABELS_MAX && labels.iter().all(|label| is_label(label))
}

/// Whether a name may be a service's target.
pub fn may_be_target(name: &str) -> bool {
    name.is_empty() || (name.len() <= 253 && name.split('.').all(is_label))
}

fn is_label(label: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=63).contains(&label.len()) && label.bytes().all(ordinary)
}

/// Whether one capsule may have these.
pub fn within_limits(records: &[ExtraRecord]) -> bool {
    let bytes = |record: &ExtraRecord| {
        record.data.len() + record.below.iter().map(|label| label.len() + 1).sum::<usize>()
    };
    records.len() <= EXTRA_RECORDS_MAX && records.iter().map(bytes).sum::<usize>() <= EXTRA_BYTES_MAX
}

impl ExtraRecord {
    /// The record as hosts are told of it.
    pub fn shown(&self) -> AddedRecord {
        AddedRecord {
            below: self.below.iter().rev().map(String::as_str).collect::<Vec<_>>().join("."),
            ttl_seconds: self.ttl,
            kind: self.data.kind().into(),
            data: self.data.to_string(),
        }
    }
}

impl ExtraData {
    fn kind(&self) -> &'static str {
        match self {
            Self::Txt(_) => "TXT",
            Self::Srv { .. } => "SRV",
        }
    }
}

impl fmt::Display for ExtraRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AddedRecord { below, ttl_seconds, kind, data } = self.shown();
        let name = if below.is_empty() { "@" } else { &below };
        write!(f, "{name} {ttl_seconds} {kind} {data}")
    }
}

impl fmt::Display for ExtraData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Txt(strings) => {
                let quoted: Vec<_> = strings.iter().map(|string| quoted(string)).collect();
                f.write_str(&quoted.join(" "))
            }
            Self::Srv { priority, weight, port, target } => write!(f, "{priority} {weight} {port} {target}."),
        }
    }
}

/// A string as zone files have it: what is not printable is `\DDD` (RFC 1035, section 5.1).
fn quoted(string: &[u8]) -> String {
    let escaped = |&byte: &u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        other => format!("\\{other:03}"),
    };
    format!("\"{}\"", string.iter().map(escaped).collect::<String>())
}

#[derive(Clone, PartialEq, prost::Message)]
struct Rows {
    #[prost(message, repeated, tag = "1")]
    records: Vec<Row>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(string, repeated, tag = "1")]
    below: Vec<String>,
    #[prost(uint32, tag = "2")]
    ttl: u32,
    #[prost(oneof = "RowData", tags = "3, 4")]
    data: Option<RowData>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RowData {
    #[prost(message, tag = "3")]
    Txt(TxtRow),
    #[prost(message, tag = "4")]
    Srv(SrvRow),
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxtRow {
    #[prost(bytes = "vec", repeated, tag = "1")]
    strings: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SrvRow {
    #[prost(uint32, tag = "1")]
    priority: u32,
    #[prost(uint32, tag = "2")]
    weight: u32,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(string, tag = "4")]
    target: String,
}

/// The records of one capsule as a store keeps them.
pub fn encode(records: &[ExtraRecord]) -> Vec<u8> {
    let row = |record: &ExtraRecord| {
        let data = match &record.data {
            ExtraData::Txt(strings) => RowData::Txt(TxtRow { strings: strings.clone() }),
            ExtraData::Srv { priority, weight, port, target } => RowData::Srv(SrvRow {
                priority: (*priority).into(),
                weight: (*weight).into(),
                port: (*port).into(),
                target: target.clone(),
            }),
        };
        Row { below: record.below.clone(), ttl: record.ttl, data: Some(data) }
    };
    Rows { records: records.iter().map(row).collect() }.encode_to_vec()
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<Vec<ExtraRecord>> {
    let record = |row: Row| {
        let data = match row.data? {
            RowData::Txt(txt) => ExtraData::Txt(txt.strings),
            RowData::Srv(srv) => ExtraData::Srv {
                priority: srv.priority.try_into().ok()?,
                weight: srv.weight.try_into().ok()?,
                port: srv.port.try_into().ok()?,
                target: srv.target,
            },
        };
        Some(ExtraRecord { below: row.below, ttl: row.ttl, data })
    };
    Rows::decode(bytes).ok()?.records.into_iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(below: &[&str], bytes: usize) -> ExtraRecord {
        let below = below.iter().map(|label| (*label).to_owned()).collect();
        ExtraRecord { below, ttl: 60, data: ExtraData::Txt(vec![vec![b'x'; bytes]]) }
    }

    #[test]
    fn what_is_kept_is_what_was_given() {
        let srv = ExtraData::Srv { priority: 1, weight: 2, port: 65_535, target: "db.example".into() };
        let srv = ExtraRecord { below: vec!["_tcp".into(), "_db".into()], ttl: 5, data: srv };
        let records = [srv, text(&[], 255), text(&["x"], 0)];
        assert_eq!(decode(&encode(&records)).unwrap(), records);
        assert_eq!(records[0].to_string(), "_db._tcp 5 SRV 1 2 65535 db.example.");
        let odd = ExtraData::Txt(vec![b"a \"b\" \\ \xc3\xa9\n".to_vec(), vec![]]);
        assert_eq!(odd.to_string(), r#""a \"b\" \\ \195\169\010" """#);
        assert_eq!(decode(&[]).unwrap(), []);
        assert_eq!(decode(b"\x0a\x02\x10\x05"), None, "a record that says nothing");
    }

    #[test]
    fn there_are_not_many_of_them_and_they_are_small() {
        assert!(within_limits(&vec![text(&[], 10); EXTRA_RECORDS_MAX]));
        assert!(!within_limits(&vec![text(&[], 10); EXTRA_RECORDS_MAX + 1]));
        assert!(!within_limits(&vec![text(&["a"], 255); EXTRA_BYTES_MAX / 256]));
    }

    #[test]
    fn names_are_ordinary() {
        let may = |labels: &[&str]| {
            may_stand_below(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>())
        };
        assert!(may(&[]) && may(&["_tcp", "_x-1"]));
        assert!(!may(&["*"]) && !may(&["A"]) && !may(&[""]) && !may(&["a.b"]) && !may(&["\u{7f}"]));
        assert!(!may(&["a"; EXTRA_LABELS_MAX + 1]));
        assert!(may_be_target("") && may_be_target("a.b_c"));
        assert!(!may_be_target("a..b") && !may_be_target(".") && !may_be_target("a b"));
    }
}
