//! CRIU alone: the same Redis, started by hand in the same host, captured and brought back there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use serde_json::Value;
use testkit::figures::median;
use testkit::{Host, Mesh, program, wait_until};

use crate::Extent;
use crate::blackout::{CLIENT_RATE, READY_LIMIT, SERVER, Size};

const PORT: &str = "6390";
/// From the start of the client until it is connected and asks.
const CLIENT_STARTS: Duration = Duration::from_millis(300);
/// What arrives while the process is away would be answered with a reset.
const LOCK: &str = "add table inet bench; add chain inet bench input { type filter hook input priority 0; }; \
                    add rule inet bench input tcp dport 6390 drop";
const UNLOCK: &str = "delete table inet bench";

/// How long CRIU takes, from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    pub(crate) dump_ms: Vec<f64>,
    pub(crate) restore_ms: Vec<f64>,
}

impl Alone {
    /// From the beginning of the capture to a running process.
    pub(crate) fn median_ms(&self) -> f64 {
        let mut both: Vec<f64> =
            self.dump_ms.iter().zip(&self.restore_ms).map(|(dump, restore)| dump + restore).collect();
        median(&mut both)
    }
}

pub(crate) fn measure(mesh: &Mesh, size: Size, extent: &Extent) -> Alone {
    let (a, c) = (mesh.host("a"), mesh.host("c"));
    let images = Images::mount(&mesh.dir().join("images"));
    // Whoever restores ends at once; without an heir here its child would go to process 1, which may be slow to notice
    // that it died, and until then its pid is taken.
    set_child_subreaper(Some(rustix::process::getpid())).expect("every process may inherit");
    let redis = Redis::start(&a, size);
    let place = format!("{}:{PORT}", a.address());
    let mut found = Alone::default();
    for number in 1..=extent.moves {
        eprintln!("bench: the same by CRIU alone, {number} of {}", extent.moves);
        thread::scope(|scope| {
            let client = scope.spawn(|| client(&c, size, &place));
            thread::sleep(CLIENT_STARTS);
            let (dump, restore) = redis.there_and_back(&images.0);
            found.dump_ms.push(dump.as_secs_f64() * 1000.0);
            found.restore_ms.push(restore.as_secs_f64() * 1000.0);
            let seen = client.join().expect("a failed client has said why");
            assert!(seen["ok"] == true, "the connection did not survive CRIU alone: {seen}");
        });
    }
    drop(redis);
    set_child_subreaper(None).expect("every process may stop inheriting");
    found
}

/// Its gap says little: TCP repeats what the lock dropped after 200 ms, 400 ms and so on.
fn client(host: &Host, size: Size, place: &str) -> Value {
    let client = program("db-client").display().to_string();
    let seconds = if size == Size::Empty { "0.8" } else { "1.6" };
    let line = [&client, "--redis", place, "--rate", CLIENT_RATE, "--seconds", seconds, "--json"];
    host.run(line).ok().json()
}

/// Images in memory, as in a move. Removed with the mesh too.
struct Images(PathBuf);

impl Images {
    fn mount(path: &Path) -> Images {
        fs::create_dir_all(path).expect("the mesh's folder can be written to");
        let output = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(path).status();
        assert!(output.is_ok_and(|status| status.success()), "no tmpfs at {}", path.display());
        Images(path.to_owned())
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // What stays mounted is taken away with the mesh.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Open again when it is dropped: a client should not wait for a capture that failed.
struct Lock<'a>(&'a Host);

impl Lock<'_> {
    fn close(host: &Host) -> Lock<'_> {
        host.run(["nft", LOCK]).ok();
        Lock(host)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.run(["nft", UNLOCK]);
    }
}

struct Redis<'a> {
    host: &'a Host,
    pid: Pid,
}

impl Redis<'_> {
    fn start(host: &Host, size: Size) -> Redis<'_> {
        let pid_file = host.dir().join("redis.pid").display().to_string();
        let more = ["--port", PORT, "--daemonize", "yes", "--pidfile", &pid_file];
        host.run(SERVER.iter().chain(&more)).ok();
        let ask =
            |words: &[&str]| host.run(["redis-cli", "-p", PORT].iter().chain(words)).stdout.trim().to_owned();
        wait_until(READY_LIMIT, "redis to answer", || ask(&["ping"]) == "PONG");
        if let Some(words) = size.fill() {
            assert_eq!(ask(&words), "OK", "redis can't be filled");
        }
        let pid = fs::read_to_string(&pid_file).expect("redis writes its pid before it answers");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a pid is a number above 0");
        Redis { host, pid }
    }

    /// Captures it, which ends it, and brings it back under the same pid.
    fn there_and_back(&self, images: &Path) -> (Duration, Duration) {
        for entry in fs::read_dir(images).into_iter().flatten().flatten() {
            fs::remove_file(entry.path()).expect("images of the last time are files");
        }
        let images = images.display().to_string();
        let common = ["-D", &images, "--tcp-established", "--network-lock", "skip", "-v1", "-o", "log"];
        let _lock = Lock::close(self.host);
        let pid = self.pid.to_string();
        let dumped = self.criu(["dump", "-t", &pid].iter().chain(&common).copied(), &images);
        // Its pid is free only when its death was noticed: no work of CRIU's, so not counted.
        wait_until(READY_LIMIT, "the end of the captured redis", || self.has_ended());
        let restored = self.criu(["restore", "-d"].iter().chain(&common).copied(), &images);
        (dumped, restored)
    }

    /// Takes notice of its death, as its parent must.
    fn has_ended(&self) -> bool {
        // No such child: it has ended and was noticed.
        !matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None))
    }

    /// How long it takes to its very end, without the steps of 20 ms in which the mesh waits.
    fn criu<'b>(&self, words: impl Iterator<Item = &'b str>, images: &str) -> Duration {
        let mut command = self.host.command(["criu"].into_iter().chain(words));
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output().expect("nsenter was there a moment ago");
        let took = began.elapsed();
        let log = || fs::read_to_string(Path::new(images).join("log")).unwrap_or_default();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "criu: {}: {said}{}", output.status, log());
        took
    }
}

impl Drop for Redis<'_> {
    fn drop(&mut self) {
        // It may have been lost by a failed restore.
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}
