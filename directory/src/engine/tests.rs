mod asserting;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use directory_api::policy::{Effect, Ports, Terms};
use directory_api::{Change, HeldCapsule, Lease, StaleCapsule, TakeoverFrom, Token, outside};
use overlay_proto::{ClaimKey, OfferId};

use super::*;
use crate::limits::RULES_MAX;
use crate::placement::{NewOffer, NewSuspension, Takeover};
use crate::store::{Memory, Store as _};

const LEASE: Duration = Duration::from_secs(10);

struct Desk {
    engine: Engine,
    store: Memory,
    now: Now,
    changes: Vec<Change>,
}

impl Desk {
    fn new(owner_capsules_max: usize) -> Self {
        let pools = Pools { v4: "10.88.0.0/29".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
        let now = Now { wall: SystemTime::now(), clock: Instant::now() };
        let mut engine = Engine::new(Rules { pools, owner_capsules_max }, Contents::default(), LEASE, now);
        let mut store = Memory::default();
        store.commit(&engine.take_batch().writes).unwrap();
        Self { engine, store, now, changes: vec![] }
    }

    /// With hosts a and b up.
    fn with_hosts() -> Self {
        let mut desk = Self::new(100);
        for (number, name) in [(1, "a"), (2, "b")] {
            desk.run(desk.spend(name, number, number)).unwrap();
            desk.lease(name, &[]);
        }
        desk
    }

    fn run(&mut self, command: Command) -> Result<Response, ApiError> {
        let result = self.engine.handle(command, self.now);
        let batch = self.engine.take_batch();
        assert!(result.is_ok() || batch.writes.is_empty(), "a refusal changes nothing");
        self.store.commit(&batch.writes).unwrap();
        self.changes.extend(batch.changes);
        assert_eq!(self.store.load().unwrap().revision, self.engine.registry().revision);
        result
    }

    fn capsule(&mut self, command: Command) -> Result<CapsuleRecord, ApiError> {
        match self.run(command)? {
            Response::Capsule(record) => Ok(*record),
            other => panic!("{other:?}"),
        }
    }

    fn spend(&self, host: &str, nonce: u8, key: u8) -> Command {
        let token = Token {
            zone: "capsule.internal".parse().unwrap(),
            host: name(host),
            operator: host != "guest",
            owners: match host {
                "guest" | "bound" => vec!["ann".parse().unwrap()],
                "gate" => vec![outside::owner()],
                _ => vec![],
            },
            expires_at: self.now.wall + Duration::from_secs(60),
            nonce: [nonce; 16],
            ca_hash: [0; 32],
        };
        Command::Spend { token, key_hash: [key; 32] }
    }

    fn lease(&mut self, host: &str, capsules: &[HeldCapsule]) -> Lease {
        let address: SocketAddr = "192.0.2.1:4433".parse().unwrap();
        match self
            .run(Command::RenewLease { caller: name(host), address, capsules: capsules.to_vec() })
            .unwrap()
        {
            Response::Lease(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    fn register(&mut self, host: &str, capsule: &str, nonce: u8) -> Result<CapsuleRecord, ApiError> {
        let id = CapsuleId::from_bytes([u8::try_from(self.engine.registry().revision % 251).unwrap(); 16]);
        let capsule = capsule.parse().unwrap();
        let registration =
            Registration { id, name: capsule, owner: "me".parse().unwrap(), nonce: [nonce; 16] };
        self.capsule(Command::Register { caller: name(host), registration })
    }

    fn state(&mut self, record: &CapsuleRecord, state: CapsuleState) -> CapsuleRecord {
        let (caller, capsule, generation) = (record.host.clone(), record.id, record.generation);
        self.capsule(Command::SetState { caller, capsule, generation, state }).unwrap()
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { wall: self.now.wall + time, clock: self.now.clock + time };
        self.run(Command::Expire).unwrap();
    }

    fn shown(&self, id: CapsuleId) -> CapsuleState {
        self.engine.registry().lookup(&LookupKey::Id(id)).unwrap().state
    }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

#[test]
fn a_token_is_used_once_but_may_be_repeated_by_the_same_key() {
    let mut desk = Desk::new(1);
    desk.run(desk.spend("a", 1, 1)).unwrap();
    desk.run(desk.spend("a", 1, 1)).unwrap();
    assert_eq!(desk.run(desk.spend("a", 1, 2)), Err(ApiError::TokenUsed));
    let late = desk.spend("a", 9, 9);
    desk.pass(Duration::from_secs(61));
    assert_eq!(desk.run(late), Err(ApiError::TokenExpired));
    assert!(desk.store.load().unwrap().spent.is_empty(), "expired tokens are forgotten");
}

#[test]
fn names_locators_and_generations_begin_right() {
    let mut desk = Desk::with_hosts();
    let db = desk.register("a", "db", 1).unwrap();
    assert_eq!((db.generation, db.state, &db.host), (Generation::new(1), CapsuleState::Stopped, &name("a")));
    assert_eq!(db.locators.v4.to_string(), "10.88.0.1");
    assert_eq!(desk.register("a", "db", 1).unwrap(), db, "the same request again");
    assert_eq!(desk.register("a", "db", 2), Err(ApiError::NameTaken { name: "db".into() }));
    assert_eq!(desk.register("b", "db", 1), Err(ApiError::NameTaken { name: "db".into() }));
    assert_eq!(desk.register("a", "hosts", 3), Err(ApiError::NameReserved { name: "hosts".into() }));
    for number in 2..=6 {
        desk.register("b", &format!("c{number}"), number).unwrap();
    }
    assert_eq!(desk.register("a", "more", 7), Err(ApiError::LocatorsExhausted));
    desk.run(Command::Remove { caller: name("a"), capsule: db.id, generation: db.generation }).unwrap();
    let again = desk.register("a", "db", 8).unwrap();
    assert_ne!(again.id, db.id);
    assert_eq!(again.locators, db.locators, "the only address left");
}

#[test]
fn an_owner_has_a_quota_and_a_stranger_nothing() {
    let mut desk = Desk::new(1);
    assert_eq!(desk.register("a", "db", 1), Err(ApiError::NotAMember { host: name("a") }));
    desk.run(desk.spend("a", 1, 1)).unwrap();
    desk.register("a", "db", 1).unwrap();
    assert_eq!(desk.register("a", "x", 2), Err(ApiError::QuotaExceeded { owner: "me".into(), limit: 1 }));
}

#[test]
fn a_silent_host_is_shown_lost_and_comes_back_with_its_place() {
    let mut desk = Desk::with_hosts();
    let running = desk.register("a", "db", 1).unwrap();
    let running = desk.state(&running, CapsuleState::Running);
    let stopped = desk.register("a", "off", 2).unwrap();
    desk.pass(LEASE / 2);
    desk.lease("b", &[]);
    desk.changes.clear();
    desk.pass(LEASE * 3 / 4);
    assert_eq!((desk.shown(running.id), desk.shown(stopped.id)), (CapsuleState::Lost, CapsuleState::Stopped));
    assert!(!desk.engine.registry().host(&name("a")).unwrap().alive);
    assert!(desk.engine.registry().host(&name("b")).unwrap().alive);
    let told = |change: &Change| matches!(change, Change::Capsule { record, .. } if record.state == CapsuleState::Lost);
    assert_eq!(desk.changes.iter().filter(|change| told(change)).count(), 1);
    assert_eq!(desk.store.load().unwrap().capsules.iter().find(|kept| kept.id == running.id), Some(&running));
    desk.changes.clear();
    desk.lease("a", &[]);
    assert_eq!(desk.shown(running.id), CapsuleState::Running);
    assert!(
        desk.changes
            .iter()
            .any(|change| matches!(change, Change::Capsule { record, .. } if **record == running))
    );
    let revision = desk.engine.registry().revision;
    desk.lease("a", &[]);
    assert_eq!(desk.engine.registry().revision, revision, "a quiet renewal changes nothing");
}

#[test]
fn a_lease_reports_states_and_hears_what_is_stale() {
    let mut desk = Desk::with_hosts();
    let mine = desk.register("a", "mine", 1).unwrap();
    let theirs = desk.register("b", "theirs", 2).unwrap();
    let held = |record: &CapsuleRecord| HeldCapsule {
        id: record.id,
        generation: record.generation,
        state: CapsuleState::Running,
    };
    let gone = HeldCapsule { id: CapsuleId::from_bytes([99; 16]), ..held(&mine) };
    let lease = desk.lease("a", &[held(&mine), held(&theirs), gone]);
    let stale: Vec<_> = lease.stale.into_iter().map(|stale| (stale.id, stale.placed)).collect();
    assert_eq!(stale, [(theirs.id, Some((name("b"), Generation::new(1)))), (gone.id, None)]);
    assert_eq!((desk.shown(mine.id), desk.shown(theirs.id)), (CapsuleState::Running, CapsuleState::Stopped));
    let old = HeldCapsule { generation: Generation::new(0), ..held(&mine) };
    assert_eq!(desk.lease("a", &[old]).stale.len(), 1);
}

#[test]
fn an_offer_needs_a_target_that_came_up() {
    let mut desk = Desk::with_hosts();
    desk.run(desk.spend("c", 3, 3)).unwrap();
    let db = desk.register("a", "db", 1).unwrap();
    let key = ClaimKey::from_bytes([1; 32]);
    let offer = |target: &str| Command::Offer {
        caller: name("a"),
        capsule: db.id,
        offer: NewOffer {
            generation: db.generation,
            id: OfferId::from_bytes([1; 16]),
            target: name(target),
            claim_key_hash: key.hash(),
        },
    };
    for absent in ["c", "d"] {
        assert_eq!(desk.run(offer(absent)), Err(ApiError::UnknownHost { name: absent.into() }));
    }
    desk.run(offer("b")).unwrap();
    let claim =
        || Command::Claim { caller: name("b"), capsule: db.id, offer: OfferId::from_bytes([1; 16]), key };
    let claimed = desk.capsule(claim()).unwrap();
    assert_eq!((&claimed.host, claimed.generation), (&name("b"), Generation::new(2)));
    let revision = desk.engine.registry().revision;
    assert_eq!(desk.capsule(claim()).unwrap(), claimed);
    assert_eq!(desk.engine.registry().revision, revision, "a repetition is no change");
}

fn remove(caller: &str, host: &str, force: bool) -> Command {
    Command::RemoveHost { caller: name(caller), name: name(host), force }
}

fn take_over(caller: &str, capsule: &CapsuleRecord, number: u8, host_is_gone: bool) -> Command {
    let (id, generation) = (OfferId::from_bytes([number; 16]), capsule.generation);
    let takeover = Takeover { generation, id, from: TakeoverFrom::Kept, host_is_gone };
    Command::TakeOver { caller: name(caller), capsule: capsule.id, takeover }
}

#[test]
fn a_host_that_is_gone_is_removed_by_operators_and_its_capsules_are_lost() {
    let mut desk = Desk::with_hosts();
    desk.run(desk.spend("guest", 3, 3)).unwrap();
    let db = desk.register("b", "db", 1).unwrap();
    let db = desk.state(&db, CapsuleState::Running);
    let off = desk.register("b", "off", 2).unwrap();
    assert!(matches!(desk.run(remove("guest", "b", true)), Err(ApiError::Denied { .. })));
    assert!(matches!(desk.run(remove("b", "b", true)), Err(ApiError::Denied { .. })));
    assert_eq!(desk.run(remove("a", "b", false)), Err(ApiError::HostAlive { host: name("b") }));
    desk.pass(LEASE / 2);
    desk.lease("a", &[]);
    desk.pass(LEASE * 3 / 4);
    desk.changes.clear();
    desk.run(remove("a", "b", false)).unwrap();
    assert_eq!((desk.shown(db.id), desk.shown(off.id)), (CapsuleState::Lost, CapsuleState::Stopped));
    assert!(desk.changes.iter().any(|change| matches!(change, Change::HostRemoved { .. })));
    assert_eq!(desk.register("b", "new", 3), Err(ApiError::NotAMember { host: name("b") }));
    assert_eq!(desk.run(remove("a", "b", false)), Err(ApiError::UnknownHost { name: "b".into() }));
    // Nobody has to say that it is gone.
    let taken = desk.capsule(take_over("a", &db, 1, false)).unwrap();
    assert_eq!((&taken.host, taken.generation), (&name("a"), db.generation.next()));
    // It joins again, and finds its capsule elsewhere.
    desk.run(desk.spend("b", 4, 4)).unwrap();
    let held = HeldCapsule { id: db.id, generation: db.generation, state: CapsuleState::Running };
    let stale = desk.lease("b", &[held]).stale;
    assert_eq!(stale, [StaleCapsule { id: db.id, placed: Some((name("a"), taken.generation)) }]);
}

#[test]
fn capsules_of_a_removed_host_are_removed_by_operators_and_their_names_are_free() {
    let mut desk = Desk::with_hosts();
    desk.run(desk.spend("guest", 3, 3)).unwrap();
    let db = desk.register("b", "db", 1).unwrap();
    let db = desk.state(&db, CapsuleState::Running);
    let remove_capsule =
        |caller: &str| Command::Remove { caller: name(caller), capsule: db.id, generation: db.generation };
    assert!(matches!(desk.run(remove_capsule("a")), Err(ApiError::NotPlacedHere { .. })));
    desk.run(remove("a", "b", true)).unwrap();
    assert!(matches!(desk.run(remove_capsule("guest")), Err(ApiError::Denied { .. })));
    assert_eq!(desk.run(remove_capsule("b")), Err(ApiError::NotAMember { host: name("b") }));
    desk.run(remove_capsule("a")).unwrap();
    let again = desk.register("a", "db", 2).unwrap();
    assert_ne!(again.id, db.id);
    // It joins again, with its copy.
    desk.run(desk.spend("b", 4, 4)).unwrap();
    let held = HeldCapsule { id: db.id, generation: db.generation, state: CapsuleState::Running };
    assert_eq!(desk.lease("b", &[held]).stale, [StaleCapsule { id: db.id, placed: None }]);
}

#[test]
fn a_takeover_needs_an_operator_and_a_host_that_is_gone() {
    let mut desk = Desk::with_hosts();
    desk.run(desk.spend("guest", 3, 3)).unwrap();
    desk.lease("guest", &[]);
    let db = desk.register("b", "db", 1).unwrap();
    let db = desk.state(&db, CapsuleState::Running);
    assert!(matches!(desk.run(take_over("guest", &db, 1, true)), Err(ApiError::Denied { .. })));
    assert_eq!(desk.run(take_over("a", &db, 1, false)), Err(ApiError::HostAlive { host: name("b") }));
    let taken = desk.capsule(take_over("a", &db, 1, true)).unwrap();
    assert_eq!((&taken.host, taken.state), (&name("a"), CapsuleState::Moving));
    assert_eq!(desk.capsule(take_over("a", &db, 1, true)).unwrap(), taken, "a repetition is no change");
    assert!(desk.capsule(take_over("b", &db, 1, true)).is_err());
}

#[test]
fn what_was_committed_is_all_that_a_restart_needs() {
    let mut desk = Desk::with_hosts();
    let db = desk.register("a", "db", 1).unwrap();
    let db = desk.state(&db, CapsuleState::Running);
    let contents = desk.store.load().unwrap();
    let revision = contents.revision;
    let mut again = Engine::new(desk.engine.rules.clone(), contents, LEASE, desk.now);
    assert_eq!(again.registry().revision, revision + 1, "watchers from before begin anew");
    assert_eq!(again.registry().lookup(&LookupKey::Id(db.id)).unwrap(), db, "hosts have a fresh lease");
    let used = again.handle(desk.spend("a", 1, 7), desk.now);
    assert_eq!(used, Err(ApiError::TokenUsed));
}

fn terms(effect: Effect, from: &str, to: &str) -> Terms {
    Terms { effect, from: from.parse().unwrap(), to: to.parse().unwrap(), ports: Ports::ALL }
}

#[test]
fn operators_make_rules_and_each_says_one_thing() {
    let mut desk = Desk::with_hosts();
    desk.run(desk.spend("guest", 3, 3)).unwrap();
    let set = |caller: &str, terms| Command::SetRule { caller: name(caller), terms };
    let allow = terms(Effect::Allow, "bob/*", "ann/db");
    assert!(matches!(desk.run(set("guest", allow.clone())), Err(ApiError::Denied { .. })));
    assert_eq!(
        desk.run(set("stranger", allow.clone())),
        Err(ApiError::NotAMember { host: name("stranger") })
    );
    desk.changes.clear();
    let Ok(Response::Rules(first)) = desk.run(set("a", allow.clone())) else { panic!("no rule") };
    let rule = first.rules[0].clone();
    assert_eq!((rule.id.number(), &rule.terms, &rule.set_by), (first.revision, &allow, &name("a")));
    assert!(matches!(&desk.changes[..], [Change::Rule { rule: told, .. }] if *told == rule));
    desk.run(set("b", allow)).unwrap();
    assert_eq!(desk.changes.len(), 1, "the same again is no change");

    let deny = terms(Effect::Deny, "bob/*", "ann/db");
    desk.run(set("b", deny.clone())).unwrap();
    assert!(
        matches!(&desk.changes[1..], [Change::RuleRemoved { id, .. }, Change::Rule { .. }] if *id == rule.id)
    );
    let kept = desk.store.load().unwrap().rules;
    assert_eq!(kept.iter().map(|rule| &rule.terms).collect::<Vec<_>>(), [&deny]);
    let contents = desk.store.load().unwrap();
    let again = Engine::new(desk.engine.rules.clone(), contents, LEASE, desk.now);
    assert_eq!(again.registry().policy.rules(), kept, "a restart keeps it");

    let remove = |caller: &str, id| Command::RemoveRule { caller: name(caller), id };
    assert!(matches!(desk.run(remove("guest", kept[0].id)), Err(ApiError::Denied { .. })));
    assert_eq!(desk.run(remove("a", rule.id)), Err(ApiError::UnknownRule { id: rule.id.number() }));
    desk.run(remove("a", kept[0].id)).unwrap();
    assert!(desk.engine.registry().policy.rules().is_empty());
}

#[test]
fn the_policy_has_an_end() {
    let mut desk = Desk::with_hosts();
    let set = |number: usize| Command::SetRule {
        caller: name("a"),
        terms: terms(Effect::Allow, "bob/*", &format!("ann/db-{number}")),
    };
    for number in 0..RULES_MAX {
        desk.engine.handle(set(number), desk.now).unwrap();
    }
    let limit = u64::try_from(RULES_MAX).unwrap();
    assert_eq!(desk.engine.handle(set(RULES_MAX), desk.now), Err(ApiError::TooManyRules { limit }));
    let opposite = Command::SetRule { caller: name("a"), terms: terms(Effect::Deny, "bob/*", "ann/db-0") };
    desk.engine.handle(opposite, desk.now).unwrap();
}

#[test]
fn a_host_registers_only_for_the_owners_that_its_token_names() {
    let mut desk = Desk::with_hosts();
    desk.run(desk.spend("guest", 3, 3)).unwrap();
    desk.lease("guest", &[]);
    let refused = desk.register("guest", "mine", 1);
    assert!(matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("of me")), "{refused:?}");
    let contents = desk.store.load().unwrap();
    assert_eq!(contents.host_owners, [(name("guest"), vec!["ann".parse().unwrap()])]);
    desk.engine = Engine::new(desk.engine.rules.clone(), contents, LEASE, desk.now);
    desk.store.commit(&desk.engine.take_batch().writes).unwrap();
    assert!(desk.register("guest", "mine", 1).is_err(), "a restart keeps it");
    let ann = Registration {
        id: CapsuleId::from_bytes([77; 16]),
        name: "hers".parse().unwrap(),
        owner: "ann".parse().unwrap(),
        nonce: [2; 16],
    };
    desk.capsule(Command::Register { caller: name("guest"), registration: ann }).unwrap();
    let mine = desk.register("a", "mine", 3).unwrap();
    // Nor does it take them over, operator or not.
    desk.run(desk.spend("bound", 4, 4)).unwrap();
    desk.lease("bound", &[]);
    let refused = desk.run(take_over("bound", &mine, 1, true));
    assert!(matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("of me")), "{refused:?}");
    desk.run(remove("a", "bound", true)).unwrap();
    desk.run(remove("a", "guest", true)).unwrap();
    assert!(desk.store.load().unwrap().host_owners.is_empty());
}

#[test]
fn only_a_gateway_has_what_is_outside_and_keeps_it() {
    let mut desk = Desk::with_hosts();
    for (number, host) in [(3, "gate"), (4, "guest")] {
        desk.run(desk.spend(host, number, number)).unwrap();
        desk.lease(host, &[]);
    }
    let bring_in = |host: &str, number: u8| Command::Register {
        caller: name(host),
        registration: Registration {
            id: CapsuleId::from_bytes([number; 16]),
            name: outside::name_at(&name(host)).unwrap(),
            owner: outside::owner(),
            nonce: [number; 16],
        },
    };
    let refused = desk.run(bring_in("guest", 70));
    assert!(
        matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("be no gateway")),
        "{refused:?}"
    );
    // Of that owner there are gateways, and nothing that somebody runs.
    let mut run = bring_in("gate", 72);
    if let Command::Register { registration, .. } = &mut run {
        registration.name = "web".parse().unwrap();
    }
    let refused = desk.run(run);
    assert!(
        matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("choose another owner")),
        "{refused:?}"
    );
    let record = desk.capsule(bring_in("gate", 71)).unwrap();
    assert!(record.is_outside());
    // A gateway runs anybody's capsules, as any host.
    desk.register("gate", "mine", 4).unwrap();
    // Nobody else ever speaks for it: it can't be given away, put into a file, or taken over.
    let offer = NewOffer {
        id: OfferId::from_bytes([1; 16]),
        generation: record.generation,
        target: name("a"),
        claim_key_hash: ClaimKey::from_bytes([0; 32]).hash(),
    };
    let given = Command::Offer { caller: name("gate"), capsule: record.id, offer };
    let suspension = NewSuspension {
        id: OfferId::from_bytes([2; 16]),
        generation: record.generation,
        key_hash: ClaimKey::from_bytes([0; 32]).hash(),
    };
    let suspended = Command::Suspend { caller: name("gate"), capsule: record.id, suspension };
    for command in [given, suspended, take_over("a", &record, 9, true)] {
        let refused = desk.run(command);
        assert!(
            matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("stays there")),
            "{refused:?}"
        );
    }
    // With its host it goes; what else was there waits for somebody who takes it over.
    let there = |desk: &Desk, name: &str| {
        desk.engine.registry().capsules().any(|record| record.name.as_str() == name)
    };
    assert!(there(&desk, "gateway-gate") && there(&desk, "mine"));
    desk.run(remove("a", "gate", true)).unwrap();
    assert!(!there(&desk, "gateway-gate") && there(&desk, "mine"));
}

#[test]
fn any_host_has_one_outlet_and_keeps_it() {
    let mut desk = Desk::new(1);
    desk.run(desk.spend("b", 3, 3)).unwrap();
    desk.run(desk.spend("a", 4, 4)).unwrap();
    for host in ["a", "b"] {
        desk.lease(host, &[]);
    }
    let outlet = |host: &str, of: &str, number: u8| Command::Register {
        caller: name(host),
        registration: Registration {
            id: CapsuleId::from_bytes([number; 16]),
            name: outside::outlet_at(&name(of)).unwrap(),
            owner: outside::outlet_owner(),
            nonce: [number; 16],
        },
    };
    let refused = desk.run(outlet("a", "b", 70));
    assert!(
        matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("hosts' outlets")),
        "{refused:?}"
    );
    // However few capsules an owner may have, each host has its own.
    let record = desk.capsule(outlet("a", "a", 71)).unwrap();
    desk.capsule(outlet("b", "b", 72)).unwrap();
    assert!(record.is_outlet() && record.is_of_its_host() && !record.is_outside());
    let refused = desk.run(take_over("b", &record, 9, true));
    assert!(
        matches!(&refused, Err(ApiError::Denied { reason }) if reason.contains("stays there")),
        "{refused:?}"
    );
    desk.run(remove("b", "a", true)).unwrap();
    let left: Vec<_> = desk.engine.registry().capsules().map(|record| record.name.as_str()).collect();
    assert_eq!(left, ["outlet-b"]);
}

#[test]
fn a_commit_that_fails_leaves_hosts_as_they_were_shown() {
    let mut desk = Desk::with_hosts();
    let alive = |desk: &Desk, host: &str| desk.engine.registry().host(&name(host)).unwrap().alive;
    // A host that would have gone lives on, and goes when its next lease is over.
    let published = desk.engine.registry().clone();
    desk.now = Now { wall: desk.now.wall + 2 * LEASE, clock: desk.now.clock + 2 * LEASE };
    desk.engine.handle(Command::Expire, desk.now).unwrap();
    assert!(!alive(&desk, "a"));
    desk.engine.recover(desk.store.load().unwrap(), &published, desk.now);
    assert!(alive(&desk, "a"));
    desk.pass(2 * LEASE);
    assert!(!alive(&desk, "a"));
    // One that would have come back is told of when it does.
    let published = desk.engine.registry().clone();
    let address = "192.0.2.1:4433".parse().unwrap();
    let lease = Command::RenewLease { caller: name("a"), address, capsules: vec![] };
    desk.engine.handle(lease, desk.now).unwrap();
    desk.engine.recover(desk.store.load().unwrap(), &published, desk.now);
    assert!(!alive(&desk, "a"));
    desk.changes.clear();
    desk.lease("a", &[]);
    assert!(desk.changes.iter().any(|change| matches!(change, Change::Host { record, .. } if record.alive)));
}
