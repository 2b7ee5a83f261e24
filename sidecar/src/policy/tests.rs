use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use directory_api::CapsuleState;
use directory_api::policy::{Effect, Ports, Terms};
use overlay_proto::{Generation, Locators};

use super::*;
use crate::testing::{Ca, host};

fn capsule(number: u8, owner: &str) -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([number; 16]),
        name: format!("c{number}").parse().unwrap(),
        owner: owner.parse().unwrap(),
        locators: Locators { v4: [10, 88, 0, number].into(), v6: [0xfd88, 0, 0, 0, 0, 0, 0, 1].into() },
        host: host("a"),
        generation: Generation::new(1),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: SystemTime::UNIX_EPOCH,
        registration: [number; 16],
    }
}

fn allow(id: u64) -> Rule {
    let terms = Terms {
        effect: Effect::Allow,
        from: "bob/*".parse().unwrap(),
        to: "ann/*".parse().unwrap(),
        ports: Ports::ALL,
    };
    Rule { id: RuleId::new(id), terms, set_at: SystemTime::UNIX_EPOCH, set_by: host("a") }
}

/// One whose directory never answers, and how often it told of a change.
fn enforcement() -> (Enforcement, Arc<AtomicUsize>) {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let directory = Client::connect(vec![nowhere], Ca::new().identity("a")).unwrap();
    let enforcement = Enforcement::new(directory.with_call_time(Duration::from_millis(50)));
    let told: Arc<AtomicUsize> = Arc::default();
    let count = told.clone();
    enforcement.on_change(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    (enforcement, told)
}

#[tokio::test]
async fn nothing_is_said_before_the_rules_are_known() {
    let (enforcement, _) = enforcement();
    let (bob, ann) = (capsule(1, "bob"), capsule(2, "ann"));
    assert_eq!(enforcement.judge_now(&ann, &ann, 1).await, None);
    enforcement.begin(3, vec![]);
    assert_eq!(enforcement.judge_now(&ann, &ann, 1).await, Some(Judgement::AllowedWithinOwner));
    // The directory is away: what was known last counts.
    assert_eq!(enforcement.judge_now(&bob, &ann, 1).await, Some(Judgement::DeniedAcrossOwners));
}

#[tokio::test]
async fn an_answer_that_overtook_the_watch_is_not_undone_by_it() {
    let (enforcement, told) = enforcement();
    let (bob, ann) = (capsule(1, "bob"), capsule(2, "ann"));
    enforcement.begin(3, vec![]);
    enforcement.take(RuleSet { revision: 9, rules: vec![allow(8)] });
    assert_eq!(enforcement.judge(&bob, &ann, 1), Some(Judgement::AllowedByRule(RuleId::new(8))));
    let before = (enforcement.changes(), told.load(Ordering::Relaxed));
    // What the watch brings late was before that answer.
    enforcement.put(5, allow(5));
    enforcement.remove(6, RuleId::new(5));
    enforcement.put(8, allow(8));
    enforcement.take(RuleSet { revision: 7, rules: vec![] });
    enforcement.take(RuleSet { revision: 10, rules: vec![allow(8)] });
    assert_eq!((enforcement.changes(), told.load(Ordering::Relaxed)), before);
    enforcement.remove(11, RuleId::new(8));
    assert_eq!(enforcement.judge(&bob, &ann, 1), Some(Judgement::DeniedAcrossOwners));
    assert_eq!(told.load(Ordering::Relaxed), before.1 + 1);
    // A watch that begins anew, with a directory from a backup among others, is believed.
    enforcement.begin(4, vec![allow(2)]);
    assert_eq!(enforcement.judge(&bob, &ann, 1), Some(Judgement::AllowedByRule(RuleId::new(2))));
}
