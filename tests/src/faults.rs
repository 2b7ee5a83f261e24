//! A sidecar with fault points: failures that can be switched on by name while it runs.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testkit::{Directory, Host, Process, program, wait_until};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// What it may take to reach a fault point.
const REACHED_WITHIN: Duration = Duration::from_secs(20);

static HELD: AtomicUsize = AtomicUsize::new(0);

/// `capsule-sidecar-faults` (`scripts/build-faults`) as the sidecar of a host. Must be dropped before the mesh.
#[derive(Debug)]
pub struct FaultySidecar {
    host: Host,
    process: Process,
    file: PathBuf,
}

/// A sidecar that is held at a fault point.
#[derive(Debug)]
pub struct Held {
    point: String,
    path: PathBuf,
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
        let process = serve(host, &file);
        let mut sidecar = FaultySidecar { host: host.clone(), process, file };
        sidecar.ready();
        sidecar
    }

    /// Starts it again after its end, without faults.
    #[track_caller]
    pub fn restart(&mut self) {
        self.heal();
        self.process.kill();
        self.process = serve(&self.host, &self.file);
        self.ready();
    }

    /// As [`FaultySidecar::restart`], without waiting until it is ready: the directory is away.
    pub fn restart_alone(&mut self) {
        self.heal();
        self.process.kill();
        self.process = serve(&self.host, &self.file);
    }

    /// Waits until the directory shows its host.
    #[track_caller]
    pub fn ready(&mut self) {
        let (host, process) = (&self.host, &mut self.process);
        wait_until(READY_WITHIN, "a sidecar with fault points", || {
            assert!(process.is_running(), "it ended: {}", process.stderr());
            host.http("/readyz").is_ok_and(|(status, _)| status == 200)
        });
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits until a fault point has killed it.
    #[track_caller]
    pub fn died(&mut self) {
        let process = &mut self.process;
        wait_until(REACHED_WITHIN, "a sidecar's end at a fault point", || !process.is_running());
    }

    /// Makes the next move fail at this point.
    pub fn fail_at(&self, point: &str) {
        fs::write(&self.file, point).expect("the mesh's folder is ours");
    }

    /// Makes it kill itself at this point.
    pub fn die_at(&self, point: &str) {
        self.fail_at(&format!("{point}:kill"));
    }

    /// Makes it wait at this point until it is let go.
    pub fn hold_at(&self, point: &str) -> Held {
        let number = HELD.fetch_add(1, Ordering::Relaxed);
        let path = self.host.dir().join(format!("held-{number}"));
        self.fail_at(&format!("{point}:wait={}", path.display()));
        Held { point: point.to_owned(), path }
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

impl Held {
    /// Waits until the point was reached.
    #[track_caller]
    pub fn reached(&self) {
        let reached = self.path.with_extension("reached");
        wait_until(REACHED_WITHIN, &format!("somebody at the fault point {}", self.point), || {
            reached.exists()
        });
    }

    /// Lets it go on.
    pub fn let_go(self) {
        fs::write(&self.path, "").expect("the mesh's folder is ours");
    }
}

#[track_caller]
fn serve(host: &Host, file: &std::path::Path) -> Process {
    let at = |port: u16| format!("{}:{port}", host.address());
    let mut line = vec!["env".into(), format!("CAPSULE_FAULT_FILE={}", file.display())];
    // Those whose other side dies should not have to wait long.
    line.push("CAPSULE_LINK_IDLE_S=3".into());
    line.extend([program("capsule-sidecar-faults").display().to_string(), "serve".into()]);
    line.extend(["--data".into(), host.data().display().to_string()]);
    line.extend(["--admin".into(), host.admin().display().to_string()]);
    line.extend(["--listen".into(), at(4433), "--http".into(), at(9100)]);
    host.spawn(&line)
}
