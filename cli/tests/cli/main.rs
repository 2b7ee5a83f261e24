//! The built command against a sidecar that says what the test wants it to say.

mod answers;
mod exec;
mod failures;
mod fake;
mod moves;
mod run;
