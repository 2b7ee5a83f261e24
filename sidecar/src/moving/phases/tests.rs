use std::time::Duration;

use super::*;

const ORDER: [Phase; 17] = [
    Phase::Preflight,
    Phase::Files,
    Phase::Quiesce,
    Phase::Hold,
    Phase::Pause,
    Phase::Settle,
    Phase::Lock,
    Phase::Snapshot,
    Phase::Dump,
    Phase::Transfer,
    Phase::Write,
    Phase::Restore,
    Phase::Claim,
    Phase::Commit,
    Phase::Thaw,
    Phase::Attach,
    Phase::Release,
];

#[test]
fn words_are_those_of_the_documentation() {
    assert!(ORDER.is_sorted());
    let words = ORDER.map(Phase::word).join(" ");
    let documented = "preflight files quiesce hold pause settle lock snapshot dump transfer write restore claim commit thaw attach release";
    assert_eq!(words, documented);
}

#[test]
fn the_program_is_said_to_stand_still_from_pause_to_thaw() {
    let clock = Clock::start();
    for phase in ORDER {
        let paused = (Phase::Pause..=Phase::Thaw).contains(&phase);
        let state = if paused { RunState::Paused } else { RunState::Running };
        assert_eq!(clock.progress(phase, None).state, state, "{phase:?}");
    }
}

#[test]
fn nothing_is_left_between_capture_and_commit() {
    let left: Vec<Phase> = ORDER.into_iter().filter(|phase| phase.can_be_left()).collect();
    use Phase::{Files, Hold, Preflight, Quiesce, Restore, Transfer, Write};
    assert_eq!(left, [Preflight, Files, Quiesce, Hold, Transfer, Write, Restore]);
}

#[test]
fn the_blackout_is_from_pause_to_running() {
    let mut clock = Clock::start();
    assert_eq!(clock.blackout_ms(), 0.0);
    assert_eq!(clock.progress(Phase::Dump, None).paused_ms, None, "not paused yet");
    std::thread::sleep(Duration::from_millis(5));
    clock.pause();
    assert_eq!(clock.blackout_ms(), 0.0, "not running yet");
    std::thread::sleep(Duration::from_millis(10));
    assert!(clock.progress(Phase::Dump, None).paused_ms.unwrap() >= 10.0);
    assert_eq!(clock.progress(Phase::Attach, None).paused_ms, None);
    clock.running();
    let blackout = clock.blackout_ms();
    assert!((10.0..5000.0).contains(&blackout), "{blackout}");
    assert!(clock.duration_ms() >= blackout + 5.0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(clock.blackout_ms(), blackout);
}

#[test]
fn times_are_kept_in_the_order_in_which_phases_ended() {
    let mut clock = Clock::start();
    clock.finish(Phase::Files, Instant::now());
    clock.note(Phase::Restore, 12.5);
    clock.note(Phase::Files, 2.0);
    let phases = clock.phases();
    assert_eq!(phases.iter().map(|(word, _)| word).collect::<Vec<_>>(), ["files", "restore"]);
    assert!(phases.of("files").unwrap() >= 2.0);
    assert_eq!(phases.of("restore"), Some(12.5));
}

#[test]
fn milliseconds_keep_three_digits() {
    assert_eq!(ms(Duration::from_nanos(1_234_567)), 1.235);
    assert_eq!(ms(Duration::ZERO), 0.0);
    assert_eq!(ms(Duration::from_secs(90)), 90_000.0);
}
