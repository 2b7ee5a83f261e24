//! The built command against a sidecar that says what the test wants it to say.

#![allow(clippy::unwrap_used, reason = "a test that can't go on should say where")]

mod answers;
mod documented;
mod exec;
mod failures;
mod fake;
mod moves;
mod run;
