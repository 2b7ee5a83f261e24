use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

fn rule(id: u64, effect: Effect, from: &str, to: &str, ports: &str) -> Rule {
    let terms =
        Terms { effect, from: selector(from), to: selector(to), ports: ports.parse::<Ports>().unwrap() };
    Rule { id: RuleId::new(id), terms, set_at: UNIX_EPOCH, set_by: "a".parse().unwrap() }
}

/// Judges a connect between `OWNER/NAME`s.
fn judge(policy: &Policy, from: &str, to: &str, port: u16) -> Judgement {
    let read = |text: &str| -> (Owner, CapsuleName) {
        let (owner, name) = text.split_once('/').unwrap();
        (owner.parse().unwrap(), name.parse().unwrap())
    };
    let (from, to) = (read(from), read(to));
    policy.judge(Party { owner: &from.0, name: &from.1 }, Party { owner: &to.0, name: &to.1 }, port)
}

#[test]
fn without_rules_owners_keep_to_themselves() {
    let policy = Policy::default();
    assert_eq!(judge(&policy, "ann/web", "ann/db", 5432), Judgement::AllowedWithinOwner);
    assert_eq!(judge(&policy, "bob/web", "ann/db", 5432), Judgement::DeniedAcrossOwners);
}

#[test]
fn outlets_take_what_no_rule_denies() {
    let deny = rule(2, Effect::Deny, "bob/*", "host/outlet-*", "25");
    for (policy, port, bob) in [
        (Policy::default(), 25, Judgement::AllowedToOutlet),
        (Policy::new(vec![deny.clone()]), 443, Judgement::AllowedToOutlet),
        (Policy::new(vec![deny]), 25, Judgement::DeniedByRule(RuleId::new(2))),
    ] {
        assert_eq!(judge(&policy, "bob/web", "host/outlet-a", port), bob);
        assert_eq!(judge(&policy, "ann/web", "host/outlet-a", port), Judgement::AllowedToOutlet);
        // They open nothing, and what is outside comes in by gateways.
        assert_eq!(judge(&policy, "host/outlet-a", "ann/db", port), Judgement::DeniedAcrossOwners);
        assert_eq!(judge(&policy, "ann/web", "outside/gateway-g", port), Judgement::DeniedAcrossOwners);
    }
}

#[test]
fn an_allow_rule_opens_what_it_names_and_no_more() {
    let policy = Policy::new(vec![rule(4, Effect::Allow, "bob/web-*", "ann/db", "5432")]);
    assert_eq!(judge(&policy, "bob/web-1", "ann/db", 5432), Judgement::AllowedByRule(RuleId::new(4)));
    for (from, to, port) in [
        ("bob/web-1", "ann/db", 5433),
        ("bob/web-1", "ann/db-2", 5432),
        ("bob/web", "ann/db", 5432),
        ("eve/web-1", "ann/db", 5432),
        ("ann/db", "bob/web-1", 5432),
    ] {
        assert_eq!(judge(&policy, from, to, port), Judgement::DeniedAcrossOwners, "{from} {to} {port}");
    }
}

#[test]
fn a_deny_rule_wins_also_within_an_owner() {
    let allow = rule(1, Effect::Allow, "*/*", "*/*", "*");
    let deny = rule(2, Effect::Deny, "ann/web", "ann/db", "6379-6380");
    for rules in [vec![allow.clone(), deny.clone()], vec![deny, allow]] {
        let policy = Policy::new(rules);
        assert_eq!(judge(&policy, "ann/web", "ann/db", 6380), Judgement::DeniedByRule(RuleId::new(2)));
        assert_eq!(judge(&policy, "ann/web", "ann/db", 6381), Judgement::AllowedByRule(RuleId::new(1)));
        assert_eq!(judge(&policy, "bob/web", "ann/db", 6380), Judgement::AllowedByRule(RuleId::new(1)));
    }
}

#[test]
fn patterns_fit_whole_names() {
    let name = |text: &str| text.parse::<CapsuleName>().unwrap();
    for (pattern, fits, not) in [
        ("*", &["a", "a-b"][..], &[][..]),
        ("db", &["db"], &["db2", "adb", "d"]),
        ("web-*", &["web-1", "web-1-2"], &["web", "aweb-1"]),
        ("*-db", &["x-db", "x-db-db"], &["x-db-1", "db"]),
        ("a*a", &["aa", "aba"], &["a", "ab"]),
        ("a*b*c", &["abc", "axbyc", "abbc"], &["acb", "ab"]),
        ("**", &["a"], &[]),
    ] {
        let pattern = NamePattern(pattern.into());
        assert!(fits.iter().all(|text| pattern.matches(&name(text))), "{pattern:?}");
        assert!(!not.iter().any(|text| pattern.matches(&name(text))), "{pattern:?}");
    }
}

#[test]
fn what_is_no_rule_is_refused() {
    for bad in
        ["", "db", "ann/", "/db", "ann/d b", "An/db", "ann*/db", "ann/db/x", &format!("a/{}", "x".repeat(64))]
    {
        assert!(bad.parse::<Selector>().is_err(), "{bad}");
    }
    for bad in ["", "0", "65536", "9-8", "1-", "-1", "1-2-3", "ssh"] {
        assert!(bad.parse::<Ports>().is_err(), "{bad}");
    }
    assert!("x".parse::<RuleId>().is_err());
}

#[test]
fn rules_are_put_and_removed_by_number() {
    let mut policy = Policy::new(vec![rule(5, Effect::Deny, "*/*", "ann/*", "*")]);
    policy.put(rule(3, Effect::Allow, "bob/*", "ann/*", "*"));
    assert_eq!(policy.rules().iter().map(|rule| rule.id.number()).collect::<Vec<_>>(), [3, 5]);
    assert!(!judge(&policy, "bob/x", "ann/y", 1).is_allowed());
    assert!(policy.remove(RuleId::new(5)).is_some() && policy.remove(RuleId::new(5)).is_none());
    assert!(judge(&policy, "bob/x", "ann/y", 1).is_allowed());
}

/// What [`NamePattern::matches`] must say, found by trying every length for every `*`.
fn matches_plainly(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| matches_plainly(rest, &name[skipped..])),
        Some((byte, rest)) => {
            name.split_first().is_some_and(|(first, name)| first == byte && matches_plainly(rest, name))
        }
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let owner = "[ab*]";
    let name = "[ab*]{1,3}";
    let side = (owner, name).prop_map(|(owner, name)| format!("{owner}/{name}"));
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Deny)];
    (any::<u64>(), effect, side.clone(), side, 1_u16..4, 0_u16..3).prop_map(
        |(id, effect, from, to, first, more)| {
            rule(id, effect, &from, &to, &format!("{first}-{}", first + more))
        },
    )
}

proptest! {
    #[test]
    fn patterns_match_as_the_plain_way(pattern in "[ab*]{1,8}", name in "[ab]{1,8}") {
        let fits = NamePattern(pattern.as_str().into()).matches(&name.parse().unwrap());
        prop_assert_eq!(fits, matches_plainly(pattern.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn what_is_shown_reads_back(rule in any_rule()) {
        prop_assert_eq!(rule.terms.from.to_string().parse::<Selector>().unwrap(), rule.terms.from.clone());
        prop_assert_eq!(rule.terms.ports.to_string().parse::<Ports>().unwrap(), rule.terms.ports);
    }

    /// The order of rules means nothing, a deny rule closes and never opens, an allow rule opens and never closes.
    #[test]
    fn rules_do_what_they_say(
        rules in proptest::collection::vec(any_rule(), 0..6),
        more in any_rule(),
        from in "[ab]/[ab]{1,3}",
        to in "[ab]/[ab]{1,3}",
        port in 1_u16..6,
    ) {
        let allowed = |rules: &[Rule]| judge(&Policy { rules: rules.to_vec() }, &from, &to, port).is_allowed();
        let before = allowed(&rules);
        let reversed: Vec<_> = rules.iter().rev().cloned().collect();
        prop_assert_eq!(allowed(&reversed), before);
        let after = allowed(&[rules, vec![more.clone()]].concat());
        match more.terms.effect {
            Effect::Allow => prop_assert!(after || !before),
            Effect::Deny => prop_assert!(before || !after),
        }
    }
}
