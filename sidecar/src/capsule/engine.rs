//! The seam to shim, OCI runtime and CRIU. Everything here blocks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use admin_api::request::Exec;
use bytes::Bytes;
use kernel::netns::Netns;

use super::Capsule;
use super::file::CapsuleFile;
use crate::sidecar::Sidecar;

pub struct Engine;
impl Engine {
    pub(super) fn new(_s: &Sidecar, _d: &Path, _f: &CapsuleFile) -> Self { Self }
}
pub(crate) async fn clear(_s: &Arc<Sidecar>, _d: &Path, _f: &CapsuleFile) -> anyhow::Result<()> { todo!() }
pub(crate) fn start_shim(_c: &Capsule) -> anyhow::Result<Netns> { todo!() }
pub(crate) fn shim_socket(_c: &Capsule) -> PathBuf { todo!() }
pub(crate) fn mount(_c: &Capsule, _base: &Path) -> anyhow::Result<()> { todo!() }
pub(crate) fn run(_c: &Capsule) -> anyhow::Result<()> { todo!() }
pub(crate) fn pause(_c: &Capsule) -> anyhow::Result<()> { todo!() }
pub(crate) fn resume(_c: &Capsule) -> anyhow::Result<()> { todo!() }
pub(crate) fn dump(_c: &Capsule, _to: &Path) -> anyhow::Result<()> { todo!() }
pub(crate) fn restore(_c: &Capsule, _image: &Path) -> anyhow::Result<()> { todo!() }
pub(crate) fn open_gate(_c: &Capsule) -> anyhow::Result<()> { todo!() }
pub(crate) fn signal(_c: &Capsule, _n: i32) -> anyhow::Result<()> { todo!() }
pub(crate) fn wait_exit(_c: &Capsule) -> Option<i32> { todo!() }
pub(crate) fn teardown(_c: &Capsule) -> Vec<anyhow::Error> { todo!() }
pub(crate) fn log_bytes(_c: &Capsule) -> u64 { todo!() }
pub(crate) fn read_log(_c: &Capsule, _p: u64) -> anyhow::Result<(Vec<(bool, Vec<u8>)>, u64)> { todo!() }
pub(crate) fn pids(_c: &Capsule) -> anyhow::Result<Vec<u32>> { todo!() }
pub(crate) fn immovable(_p: &[u32]) -> Vec<(u32, String)> { todo!() }
pub(crate) fn memory_bytes(_c: &Capsule) -> Option<u64> { todo!() }
pub(crate) fn tools() -> Vec<(String, Option<String>)> { todo!() }
pub(crate) struct Running { pub stdout: tokio::net::unix::pipe::Receiver, pub stderr: tokio::net::unix::pipe::Receiver, pub exit: tokio::sync::oneshot::Receiver<Option<i32>> }
impl Running {
    pub(crate) fn feed(&mut self, _b: Bytes) {}
    pub(crate) fn end_input(&mut self) {}
    pub(crate) fn signal(&mut self, _n: i32) {}
}
pub(crate) fn exec(_c: &Capsule, _e: &Exec) -> anyhow::Result<Running> { todo!() }
impl Capsule {
    pub fn program_pid(&self) -> Option<u32> { None }
    pub fn processes(&self) -> Option<u64> { None }
    pub fn shim_pid(&self) -> Option<u32> { None }
    pub fn log_bytes(&self) -> Option<u64> { None }
    pub fn memory_bytes(&self) -> Option<u64> { None }
}
