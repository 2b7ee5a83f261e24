//! `kill -9` in the middle of writes, again and again: what was acknowledged is there, and nothing is half there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use capsule_directory::placement::{self, NewOffer, NewSuspension};
use directory_api::{CapsuleRecord, CapsuleState, Client, ClientError, SuspensionRecord};
use overlay_proto::{CapsuleId, ClaimKey, Generation, OfferId};
use tokio::task::JoinSet;

use super::process::{Directory, Host};

/// How often the directory is killed.
const KILLS: u32 = 200;

/// Clients that write at the same time.
const WRITERS: usize = 4;

/// Capsules of one writer, at most: few, so that each changes hands often.
const CAPSULES: usize = 8;

/// Longest time from the first write to the kill, microseconds.
const LIFE_US: u64 = 40_000;

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn bytes<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        std::array::from_fn(|_| u8::try_from(self.below(256)).unwrap())
    }
}

/// What one writer knows.
#[derive(Default)]
struct Known {
    /// What was acknowledged last.
    acknowledged: BTreeMap<CapsuleId, CapsuleRecord>,
    /// Keys of open offers and of suspensions.
    keys: BTreeMap<CapsuleId, ClaimKey>,
    /// What was asked and not answered.
    asked: Option<Asked>,
    answers: u64,
}

/// A request whose outcome is not known.
enum Asked {
    Register(String),
    Change(CapsuleId, Option<Box<CapsuleRecord>>),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_hundreds_of_times_it_loses_no_acknowledged_write() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("SEED={seed}");
    let mut random = Random(seed);
    // No lease may end: it would be shown, and is not asked for.
    let mut directory = Directory::start_with("lease_seconds = 3600\n");
    let mut hosts = vec![];
    for (name, port) in [("a", 1), ("b", 2), ("c", 3)] {
        hosts.push(directory.host(name, port).await);
    }
    let hosts = Arc::new(hosts);
    let writers: Vec<_> = (0..WRITERS).map(|_| Arc::new(Mutex::new(Known::default()))).collect();
    let (began, mut revision) = (Instant::now(), 0);
    for kill in 0..KILLS {
        let mut tasks = JoinSet::new();
        for (number, known) in writers.iter().enumerate() {
            let (hosts, known, random) = (hosts.clone(), known.clone(), Random(random.below(u64::MAX) | 1));
            tasks.spawn(write(hosts, known, random, format!("w{number}-{kill}")));
        }
        tokio::time::sleep(Duration::from_micros(random.below(LIFE_US))).await;
        directory.kill();
        tasks.shutdown().await;
        directory.serve();
        revision = check(&hosts[0].client, &writers, revision).await;
    }
    let answers: u64 = writers.iter().map(|known| known.lock().unwrap().answers).sum();
    println!("{KILLS} kills, {answers} acknowledged writes, {:.1} s", began.elapsed().as_secs_f64());
    assert!(answers > u64::from(KILLS), "it was killed before it wrote anything");
}

/// Writes until the directory is gone.
async fn write(hosts: Arc<Vec<Host>>, known: Arc<Mutex<Known>>, mut random: Random, prefix: String) {
    for number in 0.. {
        if step(&hosts, &known, &mut random, format!("{prefix}-{number}")).await.is_err() {
            return;
        }
    }
}

async fn step(
    hosts: &[Host],
    known: &Mutex<Known>,
    random: &mut Random,
    name: String,
) -> Result<(), ClientError> {
    let all: Vec<_> = known.lock().unwrap().acknowledged.values().cloned().collect();
    if all.is_empty() || all.len() < CAPSULES && random.below(3) == 0 {
        let host = random.pick(hosts);
        known.lock().unwrap().asked = Some(Asked::Register(name.clone()));
        let made = host.client.register(name.parse().unwrap(), "me".parse().unwrap()).await?;
        let mut known = known.lock().unwrap();
        known.acknowledged.insert(made.id, made);
        (known.asked, known.answers) = (None, known.answers + 1);
        return Ok(());
    }
    let record = random.pick(&all);
    change(hosts, known, random, record).await
}

/// One change of one capsule: what it will be is known before it is asked for.
async fn change(
    hosts: &[Host],
    known: &Mutex<Known>,
    random: &mut Random,
    record: &CapsuleRecord,
) -> Result<(), ClientError> {
    let at = |name: &overlay_proto::HostName| hosts.iter().find(|host| host.name == *name).unwrap();
    let (id, generation, placed) = (record.id, record.generation, at(&record.host));
    let asked = |after: Option<CapsuleRecord>| {
        known.lock().unwrap().asked = Some(Asked::Change(id, after.map(Box::new)))
    };
    let key = known.lock().unwrap().keys.get(&id).copied();
    let fresh = (OfferId::from_bytes(random.bytes()), ClaimKey::from_bytes(random.bytes()));
    let after = match (&record.offer, &record.suspension, key) {
        (Some(offer), _, Some(key)) if random.below(2) == 0 => {
            asked(Some(placement::claim(record, &offer.target, offer.id, &key).unwrap()));
            Some(at(&offer.target).client.claim(id, offer.id, key).await?)
        }
        (Some(offer), _, _) => {
            asked(Some(placement::revoke(record, &record.host, offer.id).unwrap()));
            Some(placed.client.revoke(id, offer.id).await?)
        }
        (None, Some(made), Some(key)) => {
            let host = random.pick(hosts);
            let resumed = placement::suspension::resume(record, &host.name, generation, made.id, &key);
            asked(Some(resumed.unwrap()));
            Some(host.client.resume(id, generation, made.id, key).await?)
        }
        (None, None, _) if random.below(4) == 0 => {
            let (suspension, key) = fresh;
            known.lock().unwrap().keys.insert(id, key);
            let new = NewSuspension { generation, id: suspension, key_hash: key.hash() };
            let at = std::time::SystemTime::UNIX_EPOCH;
            asked(Some(placement::suspension::suspend(record, &record.host, &new, at).unwrap()));
            Some(placed.client.suspend(id, generation, suspension, key.hash()).await?)
        }
        (None, None, _) if random.below(2) == 0 => {
            let (offer, key) = fresh;
            let target = &random.pick(hosts).name;
            if *target == record.host {
                return Ok(());
            }
            known.lock().unwrap().keys.insert(id, key);
            let new = NewOffer { generation, id: offer, target: target.clone(), claim_key_hash: key.hash() };
            asked(Some(placement::offer(record, &record.host, &new).unwrap()));
            Some(placed.client.offer(id, generation, offer, target.clone(), key.hash()).await?)
        }
        (None, None, _) if random.below(3) > 0 => {
            let state = *random.pick(&[CapsuleState::Running, CapsuleState::Stopped]);
            asked(Some(placement::set_state(record, &record.host, generation, state).unwrap()));
            Some(placed.client.set_state(id, generation, state).await?)
        }
        (None, ..) => {
            asked(None);
            placed.client.remove(id, generation).await?;
            None
        }
    };
    let mut known = known.lock().unwrap();
    match after {
        Some(after) => drop(known.acknowledged.insert(id, after)),
        None => drop(known.acknowledged.remove(&id)),
    }
    (known.asked, known.answers) = (None, known.answers + 1);
    Ok(())
}

/// Looks whether everything that was acknowledged is there, and of what was asked all or nothing; gives the revision.
async fn check(client: &Client, writers: &[Arc<Mutex<Known>>], revision_before: u64) -> u64 {
    let mut there: BTreeMap<_, _> =
        client.list().await.unwrap().into_iter().map(|record| (record.id, record)).collect();
    let mut addresses: Vec<_> = there.values().map(|record| record.locators.v4).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), there.len(), "no address twice");
    for known in writers {
        let mut known = known.lock().unwrap();
        match known.asked.take() {
            Some(Asked::Register(name)) => {
                if let Some(made) = there.values().find(|record| record.name.as_str() == name).cloned() {
                    assert_eq!((made.generation, made.state), (Generation::new(1), CapsuleState::Stopped));
                    known.acknowledged.insert(made.id, made);
                }
            }
            Some(Asked::Change(id, after)) => {
                let after = after.map(|after| *after);
                let (found, before) = (there.get(&id).cloned(), known.acknowledged.get(&id).cloned());
                let timeless = |record: &Option<CapsuleRecord>| record.clone().map(timeless);
                let whole = [timeless(&before), timeless(&after)];
                assert!(whole.contains(&timeless(&found)), "{found:?} is neither of {whole:?}");
                match found {
                    Some(found) => drop(known.acknowledged.insert(id, found)),
                    None => drop(known.acknowledged.remove(&id)),
                }
            }
            None => {}
        }
        for (id, record) in &known.acknowledged {
            assert_eq!(there.remove(id).as_ref(), Some(record), "what was acknowledged is there");
        }
    }
    assert!(there.is_empty(), "nobody asked for {there:?}");
    let revision = client.rules().await.unwrap().revision;
    assert!(revision > revision_before, "the revision went from {revision_before} to {revision}");
    revision
}

/// The time of a suspend is the directory's.
fn timeless(record: CapsuleRecord) -> CapsuleRecord {
    let at = std::time::SystemTime::UNIX_EPOCH;
    let suspension = record.suspension.map(|made| SuspensionRecord { at, ..made });
    CapsuleRecord { suspension, ..record }
}
