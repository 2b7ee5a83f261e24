//! What systemd is told.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::process::Directory;

/// A supervisor's end of the notification socket.
struct Supervisor {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Supervisor {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("capsule-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { path, socket }
    }

    /// Everything that it is told until a line begins with `wanted`.
    fn told(&self, wanted: &str) -> Vec<String> {
        let (begin, mut told, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
        while !told.iter().any(|line: &String| line.starts_with(wanted)) {
            assert!(begin.elapsed() < Duration::from_secs(20), "no {wanted} in {told:?}");
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            told.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        told
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[tokio::test]
async fn a_supervisor_hears_when_it_serves_that_it_lives_and_that_it_ends() {
    let supervisor = Supervisor::new();
    let mut directory = Directory::made("", None);
    directory.set_environment(&[
        ("NOTIFY_SOCKET", &supervisor.path.display().to_string()),
        ("WATCHDOG_USEC", "1000000"),
    ]);
    directory.serve();
    supervisor.told("READY=1");
    // It serves by then.
    directory.host("a", 1).await;
    for _ in 0..3 {
        supervisor.told("WATCHDOG=1");
    }
    let status = supervisor.told("STATUS=zone capsule.internal: 1 hosts");
    assert!(!status.iter().any(|line| line == "STOPPING=1"), "{status:?}");
    assert_eq!(directory.stop(), Some(0));
    supervisor.told("STOPPING=1");
}
