use super::*;

fn standing(open: bool, noted_ms: u32) -> Standing {
    Standing { away_since: None, leaving: false, open, noted_ms }
}

fn away(since: Instant, noted_ms: u32) -> Standing {
    Standing { away_since: Some(since), open: false, leaving: false, noted_ms }
}

#[test]
fn a_value_is_put_aside_while_the_other_side_is_away_or_the_capsule_leaves() {
    let now = Instant::now();
    assert_eq!(change(&away(now, 0), 3000, true), Change::PutAside(3000));
    assert_eq!(change(&away(now, 0), 0, true), Change::Nothing);
    // What the program sets while its value is aside is its value from then on.
    assert_eq!(change(&away(now, 3000), 5000, true), Change::PutAside(5000));
    let leaving = Standing { leaving: true, ..standing(true, 0) };
    assert_eq!(change(&leaving, 3000, false), Change::PutAside(3000));
    assert_eq!(change(&standing(true, 0), 3000, true), Change::Nothing);
}

#[test]
fn a_value_is_given_back_when_no_byte_waits_since_the_absence() {
    assert_eq!(change(&standing(true, 3000), 0, true), Change::Nothing);
    assert_eq!(change(&standing(true, 3000), 0, false), Change::GiveBack(3000));
    assert_eq!(change(&standing(true, 3000), 700, false), Change::Forget);
    assert_eq!(change(&standing(false, 3000), 0, false), Change::Nothing);
}

#[test]
fn an_absence_has_one_look_and_a_short_one_none() {
    let (mut looks, now) = (Looks::default(), Instant::now());
    assert!(!looks.is_due(&standing(true, 0), now));
    assert_eq!(looks.next(), None, "who has nothing aside costs nothing");
    assert!(!looks.is_due(&away(now, 0), now));
    assert!(!looks.is_due(&standing(true, 0), now + ASIDE_AFTER / 2), "back before anything was done");
    let again = now + ASIDE_AFTER;
    assert!(!looks.is_due(&away(again, 0), again));
    assert!(looks.is_due(&away(again, 0), again + ASIDE_AFTER));
    assert!(!looks.is_due(&away(again, 3000), again + ASIDE_AFTER * 100));
    assert_eq!(looks.next(), None);
}

#[test]
fn a_value_on_record_is_looked_after_until_it_is_given_back() {
    let (mut looks, now) = (Looks::default(), Instant::now());
    assert!(looks.is_due(&standing(true, 3000), now));
    assert!(!looks.is_due(&standing(true, 3000), now));
    let mut at = now;
    for _ in 0..20 {
        let next = looks.next().unwrap();
        assert!(next > at && next <= at + ASIDE_LOOK_LONGEST);
        at = next;
        assert!(looks.is_due(&standing(true, 3000), at));
    }
    assert!(!looks.is_due(&standing(true, 0), at + ASIDE_LOOK_LONGEST * 2));
    assert_eq!(looks.next(), None);
}

#[test]
fn a_silent_host_that_takes_nothing_is_away_before_its_link_is_given_up() {
    let (mut unanswered, began) = (Unanswered::default(), Instant::now());
    let mut now = began;
    while now < began + UNANSWERED_AFTER {
        unanswered.note(Some(now - began), 100, now);
        assert_eq!(unanswered.away_since(), None);
        now = unanswered.next().unwrap();
    }
    unanswered.note(Some(now - began), 100, now);
    assert_eq!(unanswered.away_since(), Some(began));
    unanswered.note(Some(Duration::ZERO), 100, now);
    assert_eq!(unanswered.away_since(), None, "it was heard");
    unanswered.note(Some(UNANSWERED_AFTER), 101, now);
    assert_eq!(unanswered.away_since(), None, "something was taken");
    unanswered.note(None, 101, now);
    assert_eq!((unanswered.away_since(), unanswered.next()), (None, None));
}
