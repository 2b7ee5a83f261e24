//! Records that a capsule's owner adds to the zone: text and services, at the capsule's name and below it. They belong to
//! the capsule's id, so they stay with it when it moves and go when it is removed. Pure.

use std::fmt;

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

impl fmt::Display for ExtraRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.below[..] {
            [] => f.write_str("@")?,
            below => f.write_str(&below.iter().rev().map(String::as_str).collect::<Vec<_>>().join("."))?,
        }
        write!(f, " {} ", self.ttl)?;
        match &self.data {
            ExtraData::Txt(strings) => {
                f.write_str("TXT")?;
                strings.iter().try_for_each(|string| write!(f, " \"{}\"", string.escape_ascii()))
            }
            ExtraData::Srv { priority, weight, port, target } => {
                write!(f, "SRV {priority} {weight} {port} {target}.")
            }
        }
    }
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
