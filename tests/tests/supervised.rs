//! What systemd is told of a sidecar: Type=notify, also across an upgrade.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testkit::{Mesh, program, wait_until};
use tests::end;

struct Supervisor {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Supervisor {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("cx-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket of this test");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket of this test");
        Self { path, socket }
    }

    /// Waits until it is told a line that begins so.
    fn hears(&self, wanted: &str) {
        let (begin, mut told, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
        while !told.iter().any(|line: &String| line.starts_with(wanted)) {
            assert!(begin.elapsed() < Duration::from_secs(20), "no {wanted} in {told:?}");
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            told.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_supervisor_hears_of_a_sidecar_across_its_upgrade() {
    let supervisor = Supervisor::new();
    let mesh = Mesh::running("notify", &["a"]);
    let a = mesh.host("a");
    a.stop_sidecar();
    let socket = supervisor.path.display().to_string();
    a.set_environment(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "1000000")]);
    a.start_sidecar();
    supervisor.hears("READY=1");
    supervisor.hears("WATCHDOG=1");
    // runc has a use of its own for the variable, and would wait for the program to be ready.
    a.capsule(["run", "-d", "sleeper", "--", "sh", "-c", "echo socket=$NOTIFY_SOCKET; sleep 1000"]).ok();
    wait_until(Duration::from_secs(10), "the program's word", || {
        a.capsule(["logs", "sleeper"]).ok().stdout.contains("socket=\n")
    });
    supervisor.hears("STATUS=host a: 1 capsules");

    let pid = a.sidecar_pid();
    let sidecar = program("capsule-sidecar").display().to_string();
    let data = a.data().display().to_string();
    a.run([sidecar.as_str(), "upgrade", "--data", &data]).ok();
    supervisor.hears("READY=1");
    supervisor.hears("WATCHDOG=1");
    assert_eq!(a.sidecar_pid(), pid, "the same process");
    a.capsule(["rm", "--force", "sleeper"]).ok();
    a.stop_sidecar();
    supervisor.hears("STOPPING=1");
    a.start_sidecar();
    end(mesh);
}
