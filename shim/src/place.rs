//! The files of the shim inside a capsule's directory.

use std::path::{Path, PathBuf};

/// Where the shim listens.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("shim.sock")
}

/// The shim's process id, locked as long as it lives.
pub fn pid(dir: &Path) -> PathBuf {
    dir.join("shim.pid")
}

/// What the shim itself has to say.
pub fn diary(dir: &Path) -> PathBuf {
    dir.join("shim.log")
}

/// The program's output.
pub fn log(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The output before that, put aside when the log grew too long.
pub fn log_before(dir: &Path) -> PathBuf {
    dir.join("log.1")
}

/// How the program ended.
pub fn exit(dir: &Path) -> PathBuf {
    dir.join("exit")
}

/// Where runc writes the process id of a capsule's first process (`--pid-file`).
pub fn program_pid(dir: &Path) -> PathBuf {
    dir.join("pid")
}

/// Where runc writes its errors (`--log`).
pub fn runc_log(dir: &Path) -> PathBuf {
    dir.join("runc.log")
}

/// Where the gate of a restore reports.
pub fn gate_socket(dir: &Path) -> PathBuf {
    dir.join("gate.sock")
}

/// CRIU's action script that shuts the gate.
pub fn gate_script(dir: &Path) -> PathBuf {
    dir.join("gate")
}
