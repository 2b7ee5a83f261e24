use super::*;

const MIB: u64 = 1 << 20;
const LIMITS: BufferLimits =
    BufferLimits { session_bytes: 8 * MIB, capsule_bytes: 64 * MIB, host_bytes: 96 * MIB };

fn capsule(number: u8) -> CapsuleId {
    CapsuleId::from_bytes([number; 16])
}

#[test]
fn one_session_gets_what_it_wants_up_to_its_limit() {
    let budget = Budget::new(LIMITS);
    let mut grant = budget.open(capsule(1), MIB);
    assert_eq!((grant.bytes(), budget.granted(), budget.granted_to(&capsule(1))), (MIB, MIB, MIB));
    assert!(grant.grow(100 * MIB));
    assert_eq!(grant.bytes(), 8 * MIB);
    assert!(!grant.grow(8 * MIB));
    assert!(grant.shrink(MIB));
    assert!(!grant.shrink(2 * MIB));
    drop(grant);
    assert_eq!((budget.granted(), budget.granted_to(&capsule(1))), (0, 0));
}

#[test]
fn a_capsule_takes_no_more_than_its_budget_and_leaves_some_to_others() {
    let budget = Budget::new(LIMITS);
    let greedy: Vec<_> = (0..200).map(|_| budget.open(capsule(1), u64::MAX)).collect();
    let floors = greedy.iter().filter(|grant| grant.bytes() == BUFFER_BYTES_MIN).count() as u64;
    assert!(budget.granted_to(&capsule(1)) <= LIMITS.capsule_bytes + floors * BUFFER_BYTES_MIN);
    assert!(greedy.windows(2).all(|pair| pair[0].bytes() >= pair[1].bytes()));
    let other = budget.open(capsule(2), u64::MAX);
    assert!(other.bytes() >= MIB, "{}", other.bytes());
}

#[test]
fn every_session_has_the_least_however_many_there_are() {
    let budget = Budget::new(LIMITS);
    let many: Vec<_> = (0..10_000).map(|_| budget.open(capsule(1), MIB)).collect();
    assert!(many.iter().all(|grant| grant.bytes() >= BUFFER_BYTES_MIN));
    assert!(budget.granted() <= LIMITS.capsule_bytes + 10_000 * BUFFER_BYTES_MIN);
    drop(many);
    assert_eq!(budget.granted(), 0);
}

#[test]
fn what_is_given_back_is_there_for_those_who_ask_again() {
    let budget = Budget::new(BufferLimits { capsule_bytes: 8 * MIB, ..LIMITS });
    let mut first = budget.open(capsule(1), u64::MAX);
    let rest: Vec<_> = (0..40).map(|_| budget.open(capsule(1), u64::MAX)).collect();
    assert!(!first.grow(2 * MIB));
    drop(rest);
    assert!(first.shrink(BUFFER_BYTES_MIN) && first.grow(MIB));
    assert_eq!(budget.granted(), MIB);
}

#[test]
fn a_round_ends_when_the_other_half_has_what_was_sent_at_its_beginning() {
    let mut rounds = Rounds::new(1000);
    assert_eq!(rounds.wanted(1000, 5000), Some(0));
    assert_eq!(rounds.wanted(3000, 8000), None);
    assert_eq!(rounds.wanted(5000, 9000), Some(16_000));
    assert_eq!(rounds.wanted(8999, 20_000), None);
    assert_eq!(rounds.wanted(9500, 20_000), Some(18_000));
}
