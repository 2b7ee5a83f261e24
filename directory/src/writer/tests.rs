use std::time::Duration;

use directory_api::{LookupKey, Token};
use overlay_proto::CapsuleId;

use super::*;
use crate::audit;
use crate::engine::{Registration, Rules};
use crate::locators::Pools;
use crate::store::{Memory, Write};
use crate::testing::Scratch;

/// Fails when told to, and counts commits.
struct Told {
    memory: Memory,
    fail: Arc<std::sync::atomic::AtomicBool>,
    commits: Arc<std::sync::atomic::AtomicUsize>,
    pause: Duration,
}

impl Store for Told {
    fn load(&mut self) -> Result<Contents, StoreError> {
        self.memory.load()
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        use std::sync::atomic::Ordering::SeqCst;
        std::thread::sleep(self.pause);
        self.commits.fetch_add(1, SeqCst);
        self.memory.fails = self.fail.swap(false, SeqCst);
        self.memory.commit(writes)
    }
}

struct Bench {
    started: Started,
    fail: Arc<std::sync::atomic::AtomicBool>,
    commits: Arc<std::sync::atomic::AtomicUsize>,
    scratch: Scratch,
}

async fn bench(pause: Duration) -> Bench {
    let (fail, commits) = (Arc::default(), Arc::default());
    let store =
        Told { memory: Memory::default(), fail: Arc::clone(&fail), commits: Arc::clone(&commits), pause };
    let pools = Pools { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
    let now = Now { wall: SystemTime::now(), clock: Instant::now() };
    let rules = Rules { pools, owner_capsules_max: 1000 };
    let engine = Engine::new(rules, Contents::default(), Duration::from_secs(10), now);
    let scratch = Scratch::new("writer");
    let audit = Log::open(scratch.path()).unwrap();
    let started = Writer::start(engine, store, audit, Arc::default()).unwrap();
    let token = Token {
        zone: "capsule.internal".parse().unwrap(),
        host: "a".parse().unwrap(),
        operator: true,
        owners: vec![],
        expires_at: now.wall + Duration::from_secs(60),
        nonce: [1; 16],
        ca_hash: [0; 32],
    };
    started.writer.run(Command::Spend { token, key_hash: [0; 32] }).await.unwrap();
    Bench { started, fail, commits, scratch }
}

fn register(number: u8) -> Command {
    let registration = Registration {
        id: CapsuleId::from_bytes([number; 16]),
        name: format!("c{number}").parse().unwrap(),
        owner: "me".parse().unwrap(),
        nonce: [number; 16],
    };
    Command::Register { caller: "a".parse().unwrap(), registration }
}

#[tokio::test]
async fn a_failed_commit_changes_nothing() {
    let bench = bench(Duration::ZERO).await;
    let before = bench.started.published.read(|all| all.revision);
    bench.fail.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(bench.started.writer.run(register(1)).await, Err(ApiError::StoreFailed));
    let named = LookupKey::Name("c1".parse().unwrap());
    assert!(bench.started.published.read(|all| all.lookup(&named)).is_err());
    assert_eq!(bench.started.published.read(|all| all.revision), before);
    let Response::Capsule(record) = bench.started.writer.run(register(1)).await.unwrap() else {
        panic!("no record")
    };
    assert_eq!(record.locators.v4.to_string(), "10.88.0.1", "the address was not used up");
    assert_eq!(bench.started.published.read(|all| all.lookup(&named)).unwrap(), *record);
    // Both are on record, and that the first came to nothing.
    let audited = audit::read(bench.scratch.path(), 10).unwrap();
    let told: Vec<_> = audited.iter().map(|entry| (entry.by.as_str(), entry.verb.as_str())).collect();
    let (by_a, undone) = (("host a", "register"), ("directory", "undo"));
    assert_eq!(told, [("joining a", "join"), by_a, undone, by_a]);
    assert!(audited[2].text.contains("not committed"), "{audited:?}");
}

#[tokio::test]
async fn every_change_is_on_record_and_nothing_else() {
    let bench = bench(Duration::ZERO).await;
    let Response::Capsule(record) = bench.started.writer.run(register(1)).await.unwrap() else {
        panic!("no record")
    };
    let remove = |caller: &str| Command::Remove {
        caller: caller.parse().unwrap(),
        capsule: record.id,
        generation: record.generation,
    };
    // Repeated, and refused: no changes.
    bench.started.writer.run(register(1)).await.unwrap();
    bench.started.writer.run(remove("b")).await.unwrap_err();
    bench.started.writer.run(Command::Expire).await.unwrap();
    bench.started.writer.run(remove("a")).await.unwrap();
    let audited = audit::read(bench.scratch.path(), 10).unwrap();
    let told: Vec<_> = audited.iter().map(|entry| (entry.verb.as_str(), entry.name.as_str())).collect();
    assert_eq!(told, [("join", "a"), ("register", "c1"), ("remove", "c1")]);
    let revision = bench.started.published.read(|all| all.revision);
    assert_eq!(audited[2].revision, Some(revision));
    assert!(audited[1].text.contains("stopped at a, generation 1; owner me"), "{}", audited[1].text);
}

#[tokio::test]
async fn commands_that_wait_share_a_commit() {
    let bench = bench(Duration::from_millis(50)).await;
    let before = bench.commits.load(std::sync::atomic::Ordering::SeqCst);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..100 {
        let writer = bench.started.writer.clone();
        calls.spawn(async move { writer.run(register(number)).await });
    }
    while let Some(result) = calls.join_next().await {
        result.unwrap().unwrap();
    }
    let commits = bench.commits.load(std::sync::atomic::Ordering::SeqCst) - before;
    assert!(commits <= 3, "{commits} commits for 100 commands");
    assert_eq!(bench.started.published.read(|all| all.capsules_shown().len()), 100);
}

#[tokio::test]
async fn the_thread_ends_with_its_last_handle() {
    let bench = bench(Duration::ZERO).await;
    let Started { writer, ended, .. } = bench.started;
    drop(writer);
    ended.await.unwrap().unwrap();
}
