//! `capsule-sidecar`: one on each host, carries the connections of its capsules and moves capsules.

use std::process::ExitCode;

fn main() -> ExitCode {
    capsule_sidecar::app::main()
}
