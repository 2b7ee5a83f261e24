//! The directory: its real rules, a store that keeps what it answered, and times at which it is away.

use std::time::SystemTime;

use capsule_directory::placement::suspension::{self, NewSuspension};
use capsule_directory::placement::{self, NewOffer};
use directory_api::{ApiError, CapsuleRecord, CapsuleState};
use overlay_proto::{CapsuleId, ClaimKey, Generation, HostName, Locators, OfferId};

/// An offer or suspension, with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub id: OfferId,
    pub key: ClaimKey,
    pub generation: Generation,
}

pub struct Directory {
    pub records: Vec<CapsuleRecord>,
    tickets: u64,
}

pub fn host_name(host: usize) -> HostName {
    ["a", "b", "c", "d", "e"][host].parse().unwrap()
}

impl Directory {
    pub fn new(places: &[usize]) -> Directory {
        let record = |(number, host): (usize, &usize)| CapsuleRecord {
            id: CapsuleId::from_bytes([number as u8; 16]),
            name: format!("capsule-{number}").parse().unwrap(),
            owner: "owner".parse().unwrap(),
            locators: Locators { v4: [10, 88, 0, number as u8].into(), v6: std::net::Ipv6Addr::LOCALHOST },
            host: host_name(*host),
            generation: Generation::new(1),
            state: CapsuleState::Running,
            offer: None,
            last_outcome: None,
            suspension: None,
            created_at: SystemTime::UNIX_EPOCH,
            registration: [0; 16],
        };
        Directory { records: places.iter().enumerate().map(record).collect(), tickets: 0 }
    }

    pub fn ticket(&mut self, capsule: usize) -> Ticket {
        self.tickets += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.tickets.to_be_bytes());
        let mut key = [1; 32];
        key[..8].copy_from_slice(&self.tickets.to_be_bytes());
        let generation = self.records[capsule].generation;
        Ticket { id: OfferId::from_bytes(id), key: ClaimKey::from_bytes(key), generation }
    }

    fn put(&mut self, capsule: usize, after: Result<CapsuleRecord, ApiError>) -> bool {
        let Ok(after) = after else { return false };
        assert!(after.generation >= self.records[capsule].generation, "a generation goes back");
        self.records[capsule] = after;
        true
    }

    pub fn offer(&mut self, capsule: usize, from: usize, to: usize, ticket: Ticket) -> bool {
        let new = NewOffer {
            generation: ticket.generation,
            id: ticket.id,
            target: host_name(to),
            claim_key_hash: ticket.key.hash(),
        };
        let after = placement::offer(&self.records[capsule], &host_name(from), &new);
        self.put(capsule, after)
    }

    pub fn claim(&mut self, capsule: usize, by: usize, ticket: Ticket) -> bool {
        let after = placement::claim(&self.records[capsule], &host_name(by), ticket.id, &ticket.key);
        self.put(capsule, after)
    }

    pub fn revoke(&mut self, capsule: usize, by: usize, ticket: Ticket) -> bool {
        let after = placement::revoke(&self.records[capsule], &host_name(by), ticket.id);
        self.put(capsule, after)
    }

    pub fn report(&mut self, capsule: usize, by: usize) {
        let generation = self.records[capsule].generation;
        let after =
            placement::set_state(&self.records[capsule], &host_name(by), generation, CapsuleState::Running);
        assert!(self.put(capsule, after), "the host that has it reports in vain");
    }

    pub fn suspend(&mut self, capsule: usize, by: usize, ticket: Ticket) -> bool {
        let new = NewSuspension { generation: ticket.generation, id: ticket.id, key_hash: ticket.key.hash() };
        let after = suspension::suspend(&self.records[capsule], &host_name(by), &new, SystemTime::UNIX_EPOCH);
        self.put(capsule, after)
    }

    pub fn resume(&mut self, capsule: usize, by: usize, ticket: Ticket) -> bool {
        let generation = ticket.generation.next();
        let after =
            suspension::resume(&self.records[capsule], &host_name(by), generation, ticket.id, &ticket.key);
        self.put(capsule, after)
    }
}
