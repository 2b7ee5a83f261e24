//! Waiting for something to become true, with a limit and a name.

use std::thread::sleep;
use std::time::{Duration, Instant};

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Asks until the answer is yes.
///
/// # Panics
/// When `deadline` has passed: says `what` was waited for.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut closure: impl FnMut() -> bool) {
    wait_for(deadline, what, || closure().then_some(()));
}

/// Asks until there is an answer, and returns it.
///
/// # Panics
/// When `deadline` has passed: says `what` was waited for.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, what: &str, closure: impl FnMut() -> Option<T>) -> T {
    match poll(deadline, closure) {
        Some(answer) => answer,
        None => panic!("waited {deadline:?} in vain for {what}"),
    }
}

/// Asks until there is an answer or the time is over.
pub(crate) fn poll<T>(deadline: Duration, mut closure: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = closure() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(POLL_EVERY);
    }
}
