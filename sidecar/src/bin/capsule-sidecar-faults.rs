//! `capsule-sidecar` with fault points, for tests: see `capsule_sidecar::faults`.

use std::process::ExitCode;

fn main() -> ExitCode {
    capsule_sidecar::app::main()
}
