//! A mesh for moves under fire: a talking capsule on a, its peer on b, and c to move to; a and c have fault points.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use testkit::{Host, Mesh, Process, wait_until};

use crate::capsules::{exec, place, run, wait_logged};
use crate::faults::FaultySidecar;
use crate::residue::{capsule_id, nothing_left_of, on_disk};
use crate::{SOON, Talk, tool};

/// What everybody together may take to agree on a place.
const SETTLED_WITHIN: Duration = Duration::from_secs(25);

/// What a host may take to clear up after a move: runc looks for ten seconds for what died with its host.
const CLEARED_WITHIN: Duration = Duration::from_secs(25);

/// The numbers that the capsule counts into a file which all its copies share: whatever ran twice shows there.
#[derive(Debug)]
pub struct Ticks(PathBuf);

impl Ticks {
    /// All numbers so far.
    pub fn all(&self) -> Vec<u64> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} is no number"))).collect()
    }

    /// No number is missing and none was written twice: there was one copy, at every time.
    ///
    /// # Panics
    /// When there was another one.
    #[track_caller]
    pub fn one_copy(&self) {
        for (number, expected) in self.all().into_iter().zip(1..) {
            assert_eq!(number, expected, "two copies ran, or an older one went on");
        }
    }

    /// It counts on.
    #[track_caller]
    pub fn go_on(&self) {
        let before = self.all().len();
        wait_until(SOON, "the capsule's counting", || self.all().len() > before);
    }

    /// It stands still.
    ///
    /// # Panics
    /// When it counts.
    #[track_caller]
    pub fn stand_still(&self) {
        let before = self.all().len();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(self.all().len(), before, "something runs that should stand still");
    }
}

/// The mesh.
pub struct Fire {
    /// The hosts and their directory.
    pub mesh: Mesh,
    /// The source of the first move.
    pub a: Host,
    /// The peer's host.
    pub b: Host,
    /// The target of the first move.
    pub c: Host,
    /// The sidecar of a.
    pub source: FaultySidecar,
    /// The sidecar of c.
    pub target: FaultySidecar,
    /// The connection that must go on.
    pub talk: Talk,
    /// Whether the capsule lives, and how often.
    pub ticks: Ticks,
    /// The capsule that moves.
    pub id: String,
}

impl Fire {
    /// Capsule `redis` on a, which also counts, and `counter` on b.
    #[track_caller]
    pub fn start(name: &str) -> Fire {
        let mesh = Mesh::new(name);
        mesh.directory().start();
        let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
        b.configure("link_idle_s = 3");
        mesh.start(&["b"]);
        let source = FaultySidecar::start(&a, mesh.directory());
        let target = FaultySidecar::start(&c, mesh.directory());
        let shared = mesh.dir().join("shared");
        fs::create_dir_all(&shared).expect("the mesh's folder is ours");
        let ticks = Ticks(shared.join("ticks"));
        let volume = format!("{0}:/shared:shared", shared.display());
        let both =
            format!("{} /shared/ticks & exec redis-server --save '' --protected-mode no", tool("ticker"));
        run(&a, "redis", &["--volume", &volume], &["sh", "-c", &both]);
        wait_logged(&a, "redis", "Ready to accept connections");
        let mut talk = Talk::join(&a, &b);
        talk.ask_at(&b);
        let id = capsule_id(&a, "redis");
        Fire { mesh, a, b, c, source, target, talk, ticks, id }
    }

    /// Begins a move of the capsule; asked at b, which lives.
    #[track_caller]
    pub fn begin_move(&self, to: &str) -> Process {
        self.b.spawn_capsule(["move", "redis", "--to", to])
    }

    /// Tries a move from a to c, that fails for who asked.
    #[track_caller]
    pub fn move_fails(&self) {
        self.begin_move("c").wait(Duration::from_secs(60)).exits(1);
    }

    /// The capsule runs on `host`, nothing of it is on the other one, it never ran twice, and its talk goes on.
    #[track_caller]
    pub fn settles(&mut self, host: &str, what: &str) {
        wait_until(SETTLED_WITHIN, &format!("the capsule on {host} ({what})"), || {
            let place = place(&self.b, "redis");
            place.host == host && place.state == "running"
        });
        let other = if host == "a" { &self.c } else { &self.a };
        wait_until(CLEARED_WITHIN, &format!("the end of the other copy ({what})"), || {
            !on_disk(other, &self.id)
        });
        nothing_left_of(other, &self.id);
        self.ticks.go_on();
        self.ticks.one_copy();
        self.talk.goes_on();
        eprintln!("{what}: on {host}, {} ticks", self.ticks.all().len());
    }

    /// Brings the capsule back to a.
    #[track_caller]
    pub fn back_to_a(&mut self) {
        self.begin_move("a").wait(Duration::from_secs(60)).ok();
        self.settles("a", "back");
    }

    /// Whether Redis answers, wherever it is.
    pub fn answers(&self) -> bool {
        exec(&self.b, "redis", &["redis-cli", "ping"]).stdout.contains("PONG")
    }

    /// Sidecars end before their mesh does, capsules before their sidecars.
    #[track_caller]
    pub fn end(self) {
        for name in ["redis", "counter"] {
            self.b.capsule(["rm", "--force", name]).ok();
        }
        drop((self.source, self.target));
        crate::end(self.mesh);
    }
}
