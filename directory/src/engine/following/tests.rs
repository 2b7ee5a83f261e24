use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use directory_api::policy::{Effect, Terms};
use directory_api::{CapsuleState, Response, RuleId, Token};
use overlay_proto::{CapsuleId, ClaimKey, OfferId};

use super::*;
use crate::engine::{Command, Registration, Rules, Verdict};
use crate::extras::ExtraData;
use crate::locators::Pools;
use crate::placement::NewOffer;
use crate::store::Contents;
use crate::zone::update::{RecordChange, ZoneUpdate};
use crate::zone::{Kind, Origin, Zones};

const LEASE: Duration = Duration::from_secs(15);

/// Two directories: one carries out, the other follows. Whatever the first does is undone once before it counts.
struct Two {
    one: Engine,
    other: Engine,
    now: Now,
}

fn pools() -> Pools {
    Pools { v4: "10.88.0.0/29".parse().unwrap(), v6: "fd88::/64".parse().unwrap() }
}

fn engine(now: Now) -> Engine {
    Engine::beside(Rules { pools: pools(), owner_capsules_max: 100 }, Contents::default(), LEASE, now)
}

/// All that is known, but for when hosts were seen.
fn known(engine: &Engine) -> impl PartialEq + std::fmt::Debug + use<> {
    let all = engine.registry();
    let hosts: Vec<_> = all
        .hosts()
        .map(|host| (host.name.clone(), host.alive, host.address, host.operator, all.host_owners(&host.name)))
        .map(|(name, alive, address, operator, owners)| {
            (name, alive, address, operator, owners.map(<[_]>::to_vec))
        })
        .collect();
    let mut spent: Vec<_> = engine.spent.values().cloned().collect();
    spent.sort_by_key(|token| token.nonce);
    let capsules = all.capsules_shown();
    let extras: Vec<_> = capsules.iter().map(|record| all.extras(record.id).to_vec()).collect();
    (all.revision, capsules, extras, hosts, all.policy.rules().to_vec(), spent, engine.locator_next)
}

impl Two {
    fn new() -> Self {
        let now = Now { wall: SystemTime::now(), clock: Instant::now() };
        Self { one: engine(now), other: engine(now), now }
    }

    fn run(&mut self, command: Command) -> Response {
        let before = known(&self.one);
        self.one.handle(command.clone(), self.now).unwrap();
        let undone = self.one.take_batch();
        self.one.undo(&undone, self.other.registry());
        assert_eq!(known(&self.one), before, "undone: {command:?}");

        let response = self.one.handle(command.clone(), self.now).unwrap();
        let batch = self.one.take_batch();
        assert_eq!(batch.writes, undone.writes, "{command:?}");
        self.one.settle();
        let followed = self.other.follow(batch.writes, self.now);
        assert!(followed.writes.is_empty());
        assert_eq!(followed.changes, batch.changes, "{command:?}");
        assert_eq!(known(&self.other), known(&self.one), "{command:?}");
        response
    }

    fn join(&mut self, host: &str, number: u8) {
        let token = Token {
            zone: "capsule.internal".parse().unwrap(),
            host: host.parse().unwrap(),
            operator: host != "guest",
            owners: if host == "guest" { vec!["me".parse().unwrap()] } else { vec![] },
            expires_at: self.now.wall + Duration::from_secs(60),
            nonce: [number; 16],
            ca_hash: [0; 32],
        };
        self.run(Command::Spend { token, key_hash: [number; 32] });
        self.lease(host);
    }

    fn lease(&mut self, host: &str) {
        let address: SocketAddr = "192.0.2.1:4433".parse().unwrap();
        self.run(Command::RenewLease { caller: host.parse().unwrap(), address, capsules: vec![] });
    }

    fn register(&mut self, host: &str, name: &str, number: u8) -> CapsuleId {
        let id = CapsuleId::from_bytes([number; 16]);
        let (name, owner) = (name.parse().unwrap(), "me".parse().unwrap());
        let registration = Registration { id, name, owner, nonce: [number; 16] };
        let caller: HostName = host.parse().unwrap();
        let record = match self.run(Command::Register { caller: caller.clone(), registration }) {
            Response::Capsule(record) => record,
            other => panic!("{other:?}"),
        };
        let (generation, state) = (record.generation, CapsuleState::Running);
        self.run(Command::SetState { caller, capsule: id, generation, state });
        id
    }

    /// Text is added to a capsule's records, or all text that was added goes.
    fn update_zone(&mut self, name: &str, text: Option<&str>) {
        let path = vec![name.to_owned()];
        let change = match text {
            Some(text) => RecordChange::Add(path, 60, ExtraData::Txt(vec![text.into()])),
            None => RecordChange::RemoveSet(path, Kind::Txt),
        };
        let zones = Zones::new("capsule.internal".parse().unwrap(), &pools(), vec![]);
        let update = ZoneUpdate {
            zones: Arc::new(zones),
            keys: vec![],
            origin: Origin::Capsules,
            owner: "me".parse().unwrap(),
            prerequisites: vec![],
            changes: vec![change],
        };
        let (key, verdict) = ("key".into(), Verdict::default());
        self.run(Command::UpdateZone { key, update: Box::new(update), verdict });
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { wall: self.now.wall + time, clock: self.now.clock + time };
        self.run(Command::Expire);
    }
}

#[test]
fn whoever_follows_counts_alike_and_what_is_undone_leaves_no_trace() {
    let mut two = Two::new();
    for (number, host) in [(1, "a"), (2, "b"), (3, "guest")] {
        two.join(host, number);
    }
    let [a, b]: [HostName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
    let db = two.register("a", "db", 1);
    two.register("a", "web", 2);
    two.register("guest", "job", 3);
    let (offer, key) = (OfferId::from_bytes([1; 16]), ClaimKey::from_bytes([1; 32]));
    let new = NewOffer {
        generation: two.one.registry().capsule(db).unwrap().generation,
        id: offer,
        target: b.clone(),
        claim_key_hash: key.hash(),
    };
    two.run(Command::Offer { caller: a.clone(), capsule: db, offer: new });
    two.run(Command::Claim { caller: b.clone(), capsule: db, offer, key });
    let terms = |effect| Terms {
        effect,
        from: "*/web-*".parse().unwrap(),
        to: "me/db".parse().unwrap(),
        ports: "5432".parse().unwrap(),
    };
    two.run(Command::SetRule { caller: a.clone(), terms: terms(Effect::Allow) });
    two.run(Command::SetRule { caller: a.clone(), terms: terms(Effect::Deny) });
    let rule = two.one.registry().policy.rules()[0].id;
    assert_ne!(rule, RuleId::new(0));
    two.run(Command::RemoveRule { caller: a.clone(), id: rule });
    // Host a falls silent alone, then comes back; its capsules are shown anew both times.
    two.pass(LEASE / 2);
    two.lease("b");
    two.lease("guest");
    let heard = ["b", "guest"].map(|name| name.parse().unwrap());
    two.other.hear_of(&heard, two.now);
    two.pass(LEASE * 3 / 4);
    let alive = |two: &Two, name: &str| two.other.registry().host(&name.parse().unwrap()).unwrap().alive;
    assert_eq!((alive(&two, "a"), alive(&two, "b")), (false, true));
    two.lease("a");
    // What was added to records, some of which goes by itself and some with its capsule.
    two.update_zone("db", Some("one"));
    two.update_zone("db", Some("two"));
    two.update_zone("web", Some("three"));
    two.update_zone("web", None);
    // A name that changes hands within what is undone.
    let generation = two.one.registry().capsule(db).unwrap().generation;
    two.run(Command::Remove { caller: b, capsule: db, generation });
    two.register("a", "db", 9);
    two.run(Command::Resign);
    // All fall silent, and the tokens are forgotten.
    two.pass(Duration::from_secs(61));
    two.run(Command::RemoveHost { caller: a, name: "guest".parse().unwrap(), force: false });
}

#[test]
fn whoever_is_heard_of_elsewhere_is_not_silent_and_nobody_is_after_an_outage() {
    let mut two = Two::new();
    two.join("a", 1);
    let a: HostName = "a".parse().unwrap();
    let Now { wall, clock } = two.now;
    let at = |seconds| {
        let time = Duration::from_secs(seconds);
        Now { wall: wall + time, clock: clock + time }
    };
    let heard = two.other.hear_of(std::slice::from_ref(&a), at(10));
    assert_eq!((heard.updates.len(), heard.writes.len(), heard.changes.len()), (1, 0, 0));
    let expire = |engine: &mut Engine, now: Now| {
        engine.handle(Command::Expire, now).unwrap();
        engine.take_batch().writes.len()
    };
    assert_eq!(expire(&mut two.other, at(20)), 0);
    two.other.forgive(at(30));
    assert_eq!(expire(&mut two.other, at(40)), 0);
    assert!(expire(&mut two.other, at(46)) > 0);
    // By a word that comes late nobody is alive again.
    assert!(two.other.hear_of(&[a], at(47)).updates.is_empty());
}
