//! What an update by DNS (RFC 2136) makes of the records that owners added. Only those can be changed, text and services,
//! by the owner of the capsule at whose name or below they stand; the directory's own stay as they are. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay_proto::{CapsuleId, Owner};

use crate::extras::{ExtraData, ExtraRecord, may_be_target, may_stand_below, within_limits};
use crate::limits::EXTRA_TTL_MAX_S;
use crate::registry::Registry;

use super::capsules::PLACE;
use super::{Data, Kind, Origin, Path, View, ZoneKey, Zones};

/// What the directory's own text of a capsule begins with: nobody else's may be taken for it.
const OWN_TEXTS: [&[u8]; 3] = [b"gen=", b"state=", b"host="];

/// An update of one zone.
#[derive(Debug, Clone)]
pub struct ZoneUpdate {
    /// What never changes.
    pub zones: Arc<Zones>,
    /// The keys that the zones show.
    pub keys: Vec<ZoneKey>,
    /// Which zone.
    pub origin: Origin,
    /// Whose capsules may be changed.
    pub owner: Owner,
    /// What must be so.
    pub prerequisites: Vec<Prerequisite>,
    /// What becomes of the records, in this order; all of it or nothing.
    pub changes: Vec<RecordChange>,
}

/// What must be so before anything is changed (RFC 2136, section 2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prerequisite {
    /// The name has records.
    NameInUse(Path),
    /// The name has none.
    NameNotInUse(Path),
    /// The name has records of this type.
    SetExists(Path, Kind),
    /// The name has none of this type.
    SetAbsent(Path, Kind),
    /// The name has these of this type and no others; `None` stands for one that no name here has.
    SetEquals(Path, Kind, Vec<Option<Data>>),
}

/// One change (RFC 2136, section 2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordChange {
    /// A record is to be there, and all of its type at its name are to be kept that long.
    Add(Path, u32, ExtraData),
    /// A record is to be gone.
    Remove(Path, ExtraData),
    /// All of a name's records of a type are to be gone.
    RemoveSet(Path, Kind),
    /// All of a name's records are to be gone.
    RemoveName(Path),
    /// Something about a type that only the directory writes.
    Forbidden(Path),
}

/// Why an update changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateRefusal {
    /// A name that should have records has none.
    #[error("{0} has no records")]
    NameAbsent(String),
    /// A name that should have none has some.
    #[error("{0} has records")]
    NameInUse(String),
    /// A set that should be there is not, or is another one.
    #[error("{0} does not have these records")]
    SetAbsent(String),
    /// A set that should not be there is.
    #[error("{0} has such records")]
    SetExists(String),
    /// It is not for this owner to do.
    #[error("{name}: {reason}")]
    Denied {
        /// What was to be changed.
        name: String,
        /// Why it is not.
        reason: &'static str,
    },
}

/// The capsules whose added records change, and what these become.
pub type Changed = BTreeMap<CapsuleId, Vec<ExtraRecord>>;

impl ZoneUpdate {
    /// What it makes of the facts.
    ///
    /// # Errors
    /// Says what stands against it; nothing is to be changed then.
    pub fn evaluate(&self, registry: &Registry) -> Result<Changed, UpdateRefusal> {
        let view = View { zones: &self.zones, registry, keys: &self.keys };
        self.prerequisites.iter().try_for_each(|prerequisite| self.check(&view, prerequisite))?;
        let mut changed = Changed::new();
        for change in &self.changes {
            self.apply(registry, change, &mut changed)?;
        }
        changed.retain(|id, records| registry.extras(*id) != records.as_slice());
        for (id, records) in &changed {
            if !within_limits(records) {
                let name = registry.capsule(*id).map(|record| record.name.to_string()).unwrap_or_default();
                return Err(UpdateRefusal::Denied { name, reason: "it would have too many added records" });
            }
        }
        Ok(changed)
    }

    fn check(&self, view: &View<'_>, prerequisite: &Prerequisite) -> Result<(), UpdateRefusal> {
        let all = |path: &Path| view.entries(self.origin, path).unwrap_or_default();
        let of = |path: &Path, kind: Kind| {
            all(path).into_iter().map(|entry| entry.data).filter(move |data| data.kind() == kind)
        };
        let name = |path: &Path| self.zones.full_name(self.origin, path);
        match prerequisite {
            Prerequisite::NameInUse(path) if all(path).is_empty() => {
                Err(UpdateRefusal::NameAbsent(name(path)))
            }
            Prerequisite::NameNotInUse(path) if !all(path).is_empty() => {
                Err(UpdateRefusal::NameInUse(name(path)))
            }
            Prerequisite::SetExists(path, kind) if of(path, *kind).next().is_none() => {
                Err(UpdateRefusal::SetAbsent(name(path)))
            }
            Prerequisite::SetAbsent(path, kind) if of(path, *kind).next().is_some() => {
                Err(UpdateRefusal::SetExists(name(path)))
            }
            Prerequisite::SetEquals(path, kind, wanted) => {
                let found: Vec<_> = of(path, *kind).map(Some).collect();
                let equal = wanted.iter().all(|data| found.contains(data))
                    && found.iter().all(|data| wanted.contains(data));
                if equal { Ok(()) } else { Err(UpdateRefusal::SetAbsent(name(path))) }
            }
            Prerequisite::NameInUse(_)
            | Prerequisite::NameNotInUse(_)
            | Prerequisite::SetExists(..)
            | Prerequisite::SetAbsent(..) => Ok(()),
        }
    }

    fn apply(
        &self,
        registry: &Registry,
        change: &RecordChange,
        changed: &mut Changed,
    ) -> Result<(), UpdateRefusal> {
        let (RecordChange::Add(path, ..)
        | RecordChange::Remove(path, _)
        | RecordChange::RemoveSet(path, _)
        | RecordChange::RemoveName(path)
        | RecordChange::Forbidden(path)) = change;
        let denied = |reason| UpdateRefusal::Denied { name: self.zones.full_name(self.origin, path), reason };
        let (id, below) = self.capsule(registry, path).map_err(denied)?;
        let records = changed.entry(id).or_insert_with(|| registry.extras(id).to_vec());
        match change {
            RecordChange::Add(_, ttl, data) => {
                check_data(below, data).map_err(denied)?;
                let ttl = (*ttl).min(EXTRA_TTL_MAX_S);
                let new = ExtraRecord { below: below.to_vec(), ttl, data: data.clone() };
                records.retain(|record| record.below != below || record.data != *data);
                records.push(new);
                let kind = Data::from(data).kind();
                let same = |record: &&mut ExtraRecord| is_of(record, below, kind);
                records.iter_mut().filter(same).for_each(|record| record.ttl = ttl);
            }
            RecordChange::Remove(_, data) => {
                check_data(below, data).map_err(denied)?;
                records.retain(|record| record.below != below || record.data != *data);
            }
            RecordChange::RemoveSet(_, kind) => records.retain(|record| !is_of(record, below, *kind)),
            RecordChange::RemoveName(_) if below.is_empty() => {
                return Err(denied("only its text can be removed, and its services"));
            }
            RecordChange::RemoveName(_) => records.retain(|record| record.below != below),
            RecordChange::Forbidden(_) => return Err(denied("only TXT and SRV records can be changed")),
        }
        Ok(())
    }

    /// The capsule that a name belongs to, and the labels below it, if this owner may change records there.
    fn capsule<'p>(
        &self,
        registry: &Registry,
        path: &'p [String],
    ) -> Result<(CapsuleId, &'p [String]), &'static str> {
        let (top, below) = path.split_first().ok_or("the zone's own records can't be changed")?;
        let named = top.parse().ok().and_then(|name| registry.capsule_named(&name));
        let ours = named.filter(|record| self.origin == Origin::Capsules && record.owner == self.owner);
        let record = ours.ok_or("no capsule of this key's owner has it")?;
        if below.iter().map(String::as_str).zip(PLACE).filter(|(label, place)| label == place).count() == 2 {
            return Err("where a capsule is, only the directory says");
        }
        if !may_stand_below(below) || self.zones.full_name(self.origin, path).len() > 253 {
            return Err("the name is too long, or has other than letters, digits, - and _");
        }
        Ok((record.id, below))
    }
}

fn is_of(record: &ExtraRecord, below: &[String], kind: Kind) -> bool {
    record.below == below && Data::from(&record.data).kind() == kind
}

fn check_data(below: &[String], data: &ExtraData) -> Result<(), &'static str> {
    match data {
        ExtraData::Txt(strings) => {
            let is_own = |string: &Vec<u8>| OWN_TEXTS.iter().any(|begin| string.starts_with(begin));
            match below.is_empty() && strings.iter().any(is_own) {
                true => Err("text that begins with gen=, state= or host= is the directory's own"),
                false => Ok(()),
            }
        }
        ExtraData::Srv { target, .. } if may_be_target(target) => Ok(()),
        ExtraData::Srv { .. } => Err("the target has other than letters, digits, - and _"),
    }
}

#[cfg(test)]
mod tests;
