//! A directory full of capsules, and questions about them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Result, anyhow};
use capsule_directory::data::Data;
use capsule_directory::locators::Pools;
use capsule_directory::store::{Store as _, StoredHost, Write};
use directory_api::{CapsuleRecord, CapsuleState};
use overlay_proto::{CapsuleId, Generation, Locators};

/// What the directory is measured with.
pub(crate) const CAPSULES: u32 = 100_000;
pub(crate) const HOSTS: u32 = 5_000;
pub(crate) const ZONE: &str = "capsule.internal";

/// Records in one commit, entries: what a batch of the writer's is not, but all in one would be one large transaction.
const COMMIT: usize = 10_000;
/// Questions in the file, entries; dnsperf goes through it again and again.
const QUESTIONS: u32 = 200_000;

/// A capsule's name and addresses.
pub(crate) fn capsule(number: u32) -> (String, Locators) {
    let v4 = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + number);
    let v6 = Ipv6Addr::from_bits((0xfd88_u128 << 112) + 1 + u128::from(number));
    (format!("capsule-{number:06}"), Locators { v4, v6 })
}

/// Makes the directory and the file of questions.
pub(crate) fn write(data: &Path, queries: &Path) -> Result<()> {
    let pools = Pools { v4: "10.0.0.0/8".parse()?, v6: "fd88::/64".parse()? };
    let mut store = Data::init(data, ZONE.parse()?, pools, None)?.store()?;
    let host = |number: u32| {
        let (name, address) = (format!("host-{number:04}").parse()?, "192.0.2.1:4433".parse()?);
        Ok::<_, anyhow::Error>(Write::Host(StoredHost {
            name,
            operator: true,
            address: Some(address),
            alive: true,
        }))
    };
    let mut writes = (0..HOSTS).map(host).collect::<Result<Vec<_>>>()?;
    for number in 0..CAPSULES {
        writes.push(Write::Capsule(Box::new(record(number)?)));
    }
    writes.push(Write::LocatorNext(u64::from(CAPSULES) + 2));
    writes.push(Write::Revision(u64::from(CAPSULES)));
    for batch in writes.chunks(COMMIT) {
        store.commit(batch)?;
    }
    let mut text = String::new();
    let mut state = 0x5eed_u32;
    for _ in 0..QUESTIONS {
        // Numerical Recipes' generator: the same questions in every run.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (name, _) = capsule((state >> 8) % CAPSULES);
        writeln!(text, "{name}.{ZONE} A")?;
    }
    Ok(std::fs::write(queries, text)?)
}

fn record(number: u32) -> Result<CapsuleRecord> {
    let (name, locators) = capsule(number);
    let mut id = [0; 16];
    id.first_chunk_mut::<4>()
        .ok_or_else(|| anyhow!("an id has 16 bytes"))?
        .copy_from_slice(&number.to_be_bytes());
    Ok(CapsuleRecord {
        id: CapsuleId::from_bytes(id),
        name: name.parse()?,
        owner: format!("owner-{:03}", number % 200).parse()?,
        locators,
        host: format!("host-{:04}", number % HOSTS).parse()?,
        generation: Generation::new(1),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: UNIX_EPOCH,
        registration: [0; 16],
    })
}
