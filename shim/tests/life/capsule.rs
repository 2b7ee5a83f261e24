//! A capsule on a host: what the sidecar does, in a few lines.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use runtime::bundle::{self, Placement, ProgramSpec};
use runtime::cgroup::Cgroup;
use runtime::criu;
use runtime::dir::CapsuleDir;
use runtime::root::{self, Base, Names};
use runtime::runc::{ExecSpec, Runc};
use runtime::teardown::{remove_files, teardown};
use shim::{Client, Program, Reply, Request, place};

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_capsule-shim");

pub(crate) struct Capsule {
    pub(crate) id: String,
    pub(crate) dir: CapsuleDir,
    pub(crate) cgroup: Cgroup,
    pub(crate) runc: Runc,
    shim_pid: u32,
    host: PathBuf,
}

impl Capsule {
    /// A directory with a shim: as `name` on `host`, with nothing in it yet.
    pub(crate) fn new(host: &str, name: &str) -> Capsule {
        criu::look_at_kernel().unwrap();
        let unique = std::process::id();
        let host = PathBuf::from(format!("/var/tmp/cx-shim-{unique}-{host}-{name}"));
        std::fs::create_dir_all(host.join("capsule")).unwrap();
        let dir = CapsuleDir::new(&host.join("capsule")).unwrap();
        dir.create().unwrap();
        let started = Command::new(SHIM).arg("--dir").arg(dir.path()).args(["--id", name]).status().unwrap();
        assert!(started.success());
        let mut capsule = Capsule {
            id: name.into(),
            cgroup: Cgroup::new(host.file_name().unwrap().to_str().unwrap(), name),
            runc: Runc::new(&host.join("runc")),
            dir,
            shim_pid: 0,
            host,
        };
        capsule.shim_pid = match capsule.ask(&Request::Status) {
            Reply::Status { shim_pid, .. } => shim_pid,
            other => panic!("{other:?}"),
        };
        let up = capsule.inside(&["ip", "link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        capsule
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&place::socket(self.dir.path())).unwrap()
    }

    pub(crate) fn ask(&self, request: &Request) -> Reply {
        self.client().request(request, &[]).unwrap()
    }

    pub(crate) fn program(&self) -> Program {
        match self.ask(&Request::Status) {
            Reply::Status { program, .. } => program,
            other => panic!("{other:?}"),
        }
    }

    /// Root, mounts and bundle, as for a capsule that is new here.
    pub(crate) fn prepare(&self, program: &ProgramSpec) {
        let names = Names {
            name: self.id.clone(),
            zone: "capsule.internal".into(),
            v4: [10, 88, 0, 2].into(),
            v6: "fd88::2".parse().unwrap(),
        };
        root::prepare(&self.dir, &base(), std::slice::from_ref(&self.host), &names).unwrap();
        self.mount(program);
    }

    pub(crate) fn mount(&self, program: &ProgramSpec) {
        root::mount(&self.dir, &base()).unwrap();
        let placement = Placement { dir: &self.dir, netns_pid: self.shim_pid, cgroup: &self.cgroup };
        bundle::write(program, &placement).unwrap();
        criu::write_options(&self.dir, false).unwrap();
    }

    pub(crate) fn run(&self, program: &ProgramSpec) -> u32 {
        self.prepare(program);
        match self.ask(&Request::Run { argv: self.runc.run_argv(&self.id, &self.dir) }) {
            Reply::Started { pid } => pid,
            other => panic!("{other:?} {}", self.output()),
        }
    }

    /// Freezes and captures; leaves it frozen.
    pub(crate) fn capture(&self, images: &Path) -> Result<(), runtime::RuntimeError> {
        self.cgroup.freeze()?;
        assert_eq!(self.ask(&Request::DrainPipes), Reply::Done);
        self.runc.checkpoint(&self.id, &self.dir, images)
    }

    /// Takes over the private files of a frozen capsule.
    pub(crate) fn take_files(&self, from: &Capsule, program: &ProgramSpec) {
        let copied = Command::new("rsync")
            .args(["-aHAXS", "--devices", "--delete"])
            .arg(format!("{}/", from.dir.upper().display()))
            .arg(self.dir.upper())
            .status()
            .unwrap();
        assert!(copied.success());
        root::mask(&self.dir, &base(), std::slice::from_ref(&self.host)).unwrap();
        self.mount(program);
    }

    /// Restores to the gate.
    pub(crate) fn restore_to_gate(&self, images: &Path) -> Reply {
        use std::os::unix::fs::PermissionsExt;
        let gate = place::gate_script(self.dir.path());
        std::fs::write(&gate, shim::gate::script(Path::new(SHIM), self.dir.path())).unwrap();
        std::fs::set_permissions(&gate, PermissionsExt::from_mode(0o700)).unwrap();
        criu::write_options(&self.dir, true).unwrap();
        runtime::shm::load(images, &self.dir.shm()).unwrap();
        let argv = self.runc.restore_argv(&self.id, &self.dir, images);
        self.ask(&Request::Restore { argv, gate: true })
    }

    pub(crate) fn exec(&self, argv: &[&str]) -> (i32, String) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let spec =
            ExecSpec { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..ExecSpec::default() };
        let request = Request::Exec { id: 1, argv: self.runc.exec_argv(&self.id, &spec) };
        let mut client = self.client();
        let reply = client.request(&request, &[null.as_fd(), write.as_fd(), write.as_fd()]).unwrap();
        drop(write);
        let said = std::io::read_to_string(std::fs::File::from(read)).unwrap();
        match reply {
            Reply::Exited { code } => (code, said),
            other => panic!("{other:?}: {said}"),
        }
    }

    /// A command in the capsule's network.
    pub(crate) fn inside(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.shim_pid.to_string(), "-n"]).args(argv);
        command
    }

    /// Drops all that comes in, as during a move.
    pub(crate) fn lock_network(&self) {
        assert!(self.inside(&["iptables-legacy", "-A", "INPUT", "-j", "DROP"]).status().unwrap().success());
    }

    pub(crate) fn unlock_network(&self) {
        assert!(self.inside(&["iptables-legacy", "-F", "INPUT"]).status().unwrap().success());
    }

    /// Everything in the log.
    pub(crate) fn output(&self) -> String {
        let mut reader = shim::log::Reader::open(self.dir.path()).unwrap();
        let mut all: Vec<u8> = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            all.extend(chunk.bytes);
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    pub(crate) fn wait_for(&self, what: &str) {
        until(&format!("{what:?} in the log"), || self.output().contains(what));
    }

    /// Takes everything away, and looks whether it has gone.
    pub(crate) fn remove(&self) {
        let failures = teardown(&self.id, &self.dir, &self.runc, &self.cgroup);
        assert!(failures.is_empty(), "{failures:?}");
        assert!(teardown(&self.id, &self.dir, &self.runc, &self.cgroup).is_empty());
        until("the program's end known", || matches!(self.program(), Program::None | Program::Exited { .. }));
        assert_eq!(self.ask(&Request::Quit), Reply::Done);
        // Whoever adopted it may take its time to notice.
        let stat = format!("/proc/{}/stat", self.shim_pid);
        until("the shim gone", || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
        self.assert_nothing_left();
        remove_files(&self.dir).unwrap();
    }

    fn assert_nothing_left(&self) {
        let here = self.host.to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(here), "a mount is left");
        let mine = self.cgroup.path().trim_start_matches('/').to_owned();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            assert!(!hierarchy.path().join(&mine).exists(), "a cgroup is left in {:?}", hierarchy.path());
        }
        assert!(
            std::fs::read_dir(self.host.join("runc")).map_or(0, Iterator::count) == 0,
            "runc's state is left"
        );
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&line).contains(here),
                "a process is left: {:?}",
                process.path()
            );
        }
    }
}

impl Drop for Capsule {
    fn drop(&mut self) {
        // On the way of a failed test only; else all of it is gone.
        let _ = teardown(&self.id, &self.dir, &self.runc, &self.cgroup);
        if let Ok(mut client) = Client::connect(&place::socket(self.dir.path())) {
            std::thread::sleep(Duration::from_millis(100));
            let _ = client.request(&Request::Quit, &[]);
        }
        let _ = remove_files(&self.dir);
        let _ = std::fs::remove_dir_all(&self.host);
    }
}

fn base() -> Base {
    Base::Host("/".into())
}

pub(crate) fn program(argv: &[&str]) -> ProgramSpec {
    ProgramSpec {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: Vec::new(),
        workdir: Some("/".into()),
        user: None,
        hostname: "test".into(),
        shared: Vec::new(),
        sysfs: false,
    }
}

/// Waits for something that comes soon, or fails.
pub(crate) fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !true_now() {
        assert!(Instant::now() < deadline, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory in memory for images.
pub(crate) struct Images(pub(crate) PathBuf);

impl Images {
    pub(crate) fn new(name: &str) -> Images {
        let path = PathBuf::from(format!("/dev/shm/cx-shim-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Images(path)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
