//! Fifty random fault schedules, without one lost byte. `make soak` goes on for hours with others.

use std::process::Command;

use testkit::program;

/// Schedules of each test, and seconds in which their events begin and mostly end.
const SCHEDULES: &str = "25";
const WINDOW_S: &str = "2.5";

/// The run says what it does, checks everything, and tells how to replay what failed.
#[track_caller]
fn soak(seed: &str) {
    let mut soak = Command::new(program("soak"));
    soak.args(["--schedules", SCHEDULES, "--window", WINDOW_S, "--seed", seed]);
    let ended = soak.status().expect("soak can be started");
    assert!(ended.success(), "soak failed: {ended}");
}

#[test]
fn twenty_five_fault_schedules() {
    soak("1");
}

#[test]
fn twenty_five_more_fault_schedules() {
    soak("2");
}
