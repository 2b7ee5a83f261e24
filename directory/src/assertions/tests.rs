use std::time::UNIX_EPOCH;

use directory_api::{AssertedOffer, RestoreId};
use overlay_proto::{ClaimKey, Locators, OfferId};
use proptest::prelude::*;

use super::*;
use crate::placement::{self, NewOffer, NewSuspension};

const HOSTS: [&str; 3] = ["a", "b", "c"];

fn host(number: u8) -> HostName {
    HOSTS[usize::from(number % 3)].parse().unwrap()
}

fn id(number: u8) -> OfferId {
    OfferId::from_bytes([number; 16])
}

fn key(number: u8) -> ClaimKey {
    ClaimKey::from_bytes([number; 32])
}

fn capsule(number: u8) -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([number; 16]),
        name: format!("c{number}").parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: locators(number),
        host: host(0),
        generation: Generation::new(3),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: UNIX_EPOCH,
        registration: [number; 16],
    }
}

fn locators(number: u8) -> Locators {
    Locators { v4: [10, 88, 0, number].into(), v6: [0xfd88, 0, 0, 0, 0, 0, 0, number.into()].into() }
}

/// A host's word for a capsule as this record has it.
fn word(record: &CapsuleRecord) -> AssertedCapsule {
    AssertedCapsule {
        id: record.id,
        name: record.name.clone(),
        owner: record.owner.clone(),
        locators: record.locators,
        generation: record.generation,
        state: record.state,
        offer: None,
        given_by: None,
    }
}

fn offer_to(number: u8, target: u8) -> AssertedOffer {
    AssertedOffer { id: id(number), target: host(target), claim_key_hash: key(number).hash() }
}

fn assertions(words: impl IntoIterator<Item = (u8, AssertedCapsule)>) -> BTreeMap<HostName, Assertion> {
    let silent =
        Assertion { restore: RestoreId::from_bytes([1; 16]), revision: 0, hosts: vec![], capsules: vec![] };
    let mut all: BTreeMap<_, _> = (0..3).map(|number| (host(number), silent.clone())).collect();
    for (number, word) in words {
        all.get_mut(&host(number)).unwrap().capsules.push(word);
    }
    all
}

fn resolved(backup: &[CapsuleRecord], words: Vec<(u8, AssertedCapsule)>) -> Resolution {
    resolve(backup.iter(), &assertions(words), 1000, UNIX_EPOCH)
}

/// All records after a resolution.
fn after(backup: &[CapsuleRecord], resolution: Resolution) -> BTreeMap<CapsuleId, CapsuleRecord> {
    let mut records: BTreeMap<_, _> = backup.iter().map(|record| (record.id, record.clone())).collect();
    for (id, _) in resolution.removed {
        records.remove(&id);
    }
    records.extend(resolution.put.into_iter().map(|record| (record.id, record)));
    records
}

#[test]
fn what_is_held_as_in_the_backup_changes_nothing() {
    let db = capsule(1);
    assert_eq!(resolved(std::slice::from_ref(&db), vec![(0, word(&db))]), Resolution::default());
}

#[test]
fn the_highest_generation_wins() {
    let db = capsule(1);
    let moved = AssertedCapsule { generation: Generation::new(5), ..word(&db) };
    let older = AssertedCapsule { generation: Generation::new(4), ..word(&db) };
    let put = resolved(std::slice::from_ref(&db), vec![(0, word(&db)), (2, moved), (1, older)]).put;
    assert_eq!((&put[0].host, put[0].generation), (&host(2), Generation::new(5)));
    // A host that holds less than the backup knows has it no more.
    let stale = AssertedCapsule { generation: Generation::new(2), ..word(&db) };
    let put = resolved(std::slice::from_ref(&db), vec![(1, stale)]).put;
    assert_eq!(
        (&put[0].host, put[0].state, put[0].generation.number()),
        (&host(0), CapsuleState::Lost, 1003)
    );
}

#[test]
fn what_lies_in_a_file_stays_there_unless_somebody_took_it_out() {
    let new = NewSuspension { generation: Generation::new(3), id: id(1), key_hash: key(1).hash() };
    let lying = placement::suspension::suspend(&capsule(1), &host(0), &new, UNIX_EPOCH).unwrap();
    // Not at its old generation: it may have been resumed, and its host be gone, and others have seen that.
    let stays = CapsuleRecord { generation: Generation::new(1004), ..lying.clone() };
    assert_eq!(resolved(std::slice::from_ref(&lying), vec![]).put, std::slice::from_ref(&stays));
    assert!(placement::suspension::resume(&stays, &host(1), stays.generation, id(1), &key(1)).is_ok());
    // The host that suspended it and has not heard of that does not hold it.
    assert_eq!(resolved(std::slice::from_ref(&lying), vec![(0, word(&capsule(1)))]).put, [stays]);
    let resumed = placement::suspension::resume(&lying, &host(1), lying.generation, id(1), &key(1)).unwrap();
    let held = AssertedCapsule { given_by: Some(id(1)), ..word(&resumed) };
    assert_eq!(resolved(std::slice::from_ref(&lying), vec![(1, held)]).put, [resumed]);
}

#[test]
fn an_offer_whose_key_was_sent_is_open_again() {
    let db = capsule(1);
    let leaving = AssertedCapsule { offer: Some(offer_to(1, 1)), ..word(&db) };
    // The target's word for the same offer says that it does not hold the capsule.
    let keyed = AssertedCapsule { state: CapsuleState::Moving, ..leaving.clone() };
    let put = resolved(std::slice::from_ref(&db), vec![(0, leaving.clone()), (1, keyed.clone())]).put;
    let claimed = placement::claim(&put[0], &host(1), id(1), &key(1)).unwrap();
    assert_eq!((&claimed.host, claimed.generation), (&host(1), Generation::new(4)));
    assert!(placement::revoke(&put[0], &host(0), id(1)).is_ok());
    // Its source is gone: the target may have it, at a generation that nobody was given.
    let put = resolved(std::slice::from_ref(&db), vec![(1, keyed.clone())]).put;
    assert_eq!(placement::claim(&put[0], &host(1), id(1), &key(1)).unwrap().generation.number(), 1004);
    assert_eq!(
        placement::claim(&resolved(&[], vec![(1, keyed)]).put[0], &host(1), id(1), &key(1)).unwrap().host,
        host(1)
    );
    // It had been claimed, and the source has not heard of it.
    let there = AssertedCapsule { generation: Generation::new(4), given_by: Some(id(1)), ..word(&db) };
    let put = resolved(std::slice::from_ref(&db), vec![(0, leaving), (1, there)]).put;
    assert_eq!((&put[0].host, &put[0].offer), (&host(1), &None));
    let late = placement::revoke(&put[0], &host(0), id(1));
    assert!(matches!(late, Err(directory_api::ApiError::OfferEnded { .. })), "{late:?}");
}

#[test]
fn a_name_or_an_address_that_another_has_by_now_is_not_given_twice() {
    let (old, new) = (capsule(1), CapsuleRecord { name: capsule(1).name, ..capsule(2) });
    let resolution = resolved(std::slice::from_ref(&old), vec![(1, word(&new))]);
    assert_eq!(resolution.removed, [(old.id, old.name.clone())]);
    assert_eq!((&resolution.put[0].id, &resolution.put[0].host), (&new.id, &host(1)));
    // Also when a host still has the old one.
    let resolution = resolved(std::slice::from_ref(&old), vec![(0, word(&old)), (1, word(&new))]);
    assert_eq!(resolution.removed.len(), 1);
    let same_address = CapsuleRecord { locators: old.locators, ..capsule(3) };
    assert_eq!(resolved(std::slice::from_ref(&old), vec![(1, word(&same_address))]).removed.len(), 1);
}

#[derive(Debug, Clone)]
enum Action {
    Register { name: u8, host: u8 },
    Offer { capsule: usize, target: u8 },
    Claim { capsule: usize },
    Revoke { capsule: usize },
    Suspend { capsule: usize },
    Resume { capsule: usize, host: u8 },
    Remove { capsule: usize },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => (0..6u8, 0..3u8).prop_map(|(name, host)| Action::Register { name, host }),
        4 => (0..8usize, 0..3u8).prop_map(|(capsule, target)| Action::Offer { capsule, target }),
        4 => (0..8usize).prop_map(|capsule| Action::Claim { capsule }),
        1 => (0..8usize).prop_map(|capsule| Action::Revoke { capsule }),
        1 => (0..8usize).prop_map(|capsule| Action::Suspend { capsule }),
        1 => (0..8usize, 0..3u8).prop_map(|(capsule, host)| Action::Resume { capsule, host }),
        1 => (0..8usize).prop_map(|capsule| Action::Remove { capsule }),
    ];
    proptest::collection::vec(action, 1..60)
}

/// A mesh, as it is and as its hosts have it.
#[derive(Debug, Clone, Default)]
struct Mesh {
    records: BTreeMap<CapsuleId, CapsuleRecord>,
    /// Sources that have not heard of the claim.
    unheard: Vec<(HostName, AssertedCapsule)>,
    /// The highest generation that each capsule ever had.
    highest: HashMap<CapsuleId, Generation>,
    made: u8,
    revision: u64,
}

impl Mesh {
    fn act(&mut self, action: &Action) {
        let nth = |capsule: usize| self.records.values().nth(capsule % self.records.len().max(1)).cloned();
        let new = self.revision as u8;
        let after = match action {
            Action::Register { name, host: at } => {
                let name: CapsuleName = format!("n{name}").parse().unwrap();
                if self.records.values().any(|record| record.name == name) {
                    return;
                }
                self.made += 1;
                let host = host(*at);
                let generation = Generation::new(1);
                Some(CapsuleRecord { name, host, generation, ..capsule(self.made) })
            }
            Action::Offer { capsule, target } => nth(*capsule).and_then(|record| {
                let claim_key_hash = key(new).hash();
                let (generation, target) = (record.generation, host(*target));
                let offer = NewOffer { generation, id: id(new), target, claim_key_hash };
                placement::offer(&record, &record.host, &offer).ok()
            }),
            Action::Claim { capsule } => nth(*capsule).and_then(|record| {
                let offer = record.offer.clone()?;
                let key = key(offer.id.as_bytes()[0]);
                let claimed = placement::claim(&record, &offer.target, offer.id, &key).unwrap();
                self.unheard.push((record.host.clone(), held_word(&record)));
                let state = CapsuleState::Running;
                Some(CapsuleRecord { state, ..claimed })
            }),
            Action::Revoke { capsule } => nth(*capsule)
                .and_then(|record| placement::revoke(&record, &record.host, record.offer.as_ref()?.id).ok()),
            Action::Suspend { capsule } => nth(*capsule).and_then(|record| {
                let suspension =
                    NewSuspension { generation: record.generation, id: id(new), key_hash: key(new).hash() };
                placement::suspension::suspend(&record, &record.host, &suspension, UNIX_EPOCH).ok()
            }),
            Action::Resume { capsule, host: at } => nth(*capsule).and_then(|record| {
                let made = record.suspension.clone()?.id;
                let (at, key) = (host(*at), key(made.as_bytes()[0]));
                placement::suspension::resume(&record, &at, record.generation, made, &key).ok()
            }),
            Action::Remove { capsule } => {
                let free = nth(*capsule).filter(|record| record.offer.is_none());
                self.revision += u64::from(free.is_some());
                free.map(|record| self.records.remove(&record.id));
                return;
            }
        };
        if let Some(record) = after {
            self.revision += 1;
            self.highest.insert(record.id, record.generation);
            self.records.insert(record.id, record);
        }
    }

    /// What all hosts say.
    fn words(&self) -> Vec<(u8, AssertedCapsule)> {
        let number = |host: &HostName| HOSTS.iter().position(|name| *name == host.as_str()).unwrap() as u8;
        let held = self.records.values().filter(|record| record.suspension.is_none());
        let mut words: Vec<_> = held.map(|record| (number(&record.host), held_word(record))).collect();
        // The last one only: to offer it again it must have heard.
        for (host, word) in &self.unheard {
            if self.records.get(&word.id).is_some_and(|record| record.generation == word.generation.next()) {
                words.push((number(host), word.clone()));
            }
        }
        words
    }
}

fn held_word(record: &CapsuleRecord) -> AssertedCapsule {
    let offer = record.offer.as_ref().map(|offer| AssertedOffer {
        id: offer.id,
        target: offer.target.clone(),
        claim_key_hash: offer.claim_key_hash,
    });
    AssertedCapsule { offer, ..word(record) }
}

proptest! {
    #[test]
    fn whatever_happened_since_what_hosts_hold_is_where_it_is(actions in actions(), at in 0..60usize) {
        let (mut mesh, mut backup) = (Mesh::default(), Mesh::default());
        for (number, action) in actions.iter().enumerate() {
            if number == at % actions.len() {
                backup = mesh.clone();
            }
            mesh.act(action);
        }
        let before: Vec<_> = backup.records.values().cloned().collect();
        let ahead = mesh.revision - backup.revision + 1;
        let resolution = resolve(before.iter(), &assertions(mesh.words()), ahead, UNIX_EPOCH);
        let found = after(&before, resolution);
        for record in mesh.records.values().filter(|record| record.suspension.is_none()) {
            let found = &found[&record.id];
            prop_assert_eq!(
                (&found.host, found.generation, &found.name, found.locators),
                (&record.host, record.generation, &record.name, record.locators)
            );
            prop_assert_eq!(
                found.offer.as_ref().map(|offer| (offer.id, &offer.target)),
                record.offer.as_ref().map(|offer| (offer.id, &offer.target))
            );
        }
        for record in found.values() {
            let truth = mesh.records.get(&record.id);
            match truth.filter(|truth| truth.suspension.is_none()) {
                Some(_) => {}
                None if record.suspension.is_some() => prop_assert!(backup.records.contains_key(&record.id)),
                None => {
                    prop_assert_eq!(record.state, CapsuleState::Lost);
                    prop_assert!(record.generation > mesh.highest[&record.id], "it was given out before");
                }
            }
        }
        let names: HashSet<_> = found.values().map(|record| &record.name).collect();
        let addresses: HashSet<_> = found.values().map(|record| record.locators.v4).collect();
        prop_assert_eq!((names.len(), addresses.len()), (found.len(), found.len()));
    }
}
