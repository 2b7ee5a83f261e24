//! A sidecar with fault points: failures that can be switched on by name while it runs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use testkit::{Directory, Host, Process, program, wait_until};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// `capsule-sidecar-faults` (`scripts/build-faults`) as the sidecar of a host. Must be dropped before the mesh.
#[derive(Debug)]
pub struct FaultySidecar {
    process: Process,
    file: PathBuf,
}

impl FaultySidecar {
    /// Joins the mesh and serves.
    ///
    /// # Panics
    /// When the program was not built, or does not become ready.
    #[track_caller]
    pub fn start(host: &Host, directory: &Directory) -> FaultySidecar {
        host.join_mesh(directory).ok();
        let file = host.dir().join("fault");
        fs::write(&file, "").expect("the mesh's folder is ours");
        let at = |port: u16| format!("{}:{port}", host.address());
        let mut line = vec!["env".into(), format!("CAPSULE_FAULT_FILE={}", file.display())];
        line.extend([program("capsule-sidecar-faults").display().to_string(), "serve".into()]);
        line.extend(["--data".into(), host.data().display().to_string()]);
        line.extend(["--admin".into(), host.admin().display().to_string()]);
        line.extend(["--listen".into(), at(4433), "--http".into(), at(9100)]);
        let mut process = host.spawn(&line);
        wait_until(READY_WITHIN, "a sidecar with fault points", || {
            assert!(process.is_running(), "it ended: {}", process.stderr());
            host.http("/readyz").is_ok_and(|(status, _)| status == 200)
        });
        FaultySidecar { process, file }
    }

    /// Makes the next move fail at this point.
    pub fn fail_at(&self, point: &str) {
        fs::write(&self.file, point).expect("the mesh's folder is ours");
    }

    /// No more failures.
    pub fn heal(&self) {
        self.fail_at("");
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}
