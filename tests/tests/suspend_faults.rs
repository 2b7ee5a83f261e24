//! Suspends and resumes that fail in each phase, and those whose sidecar or directory dies: the capsule is in its place or
//! in its file, never both, and its talk goes on.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use testkit::{Host, Mesh, Process, wait_until};
use tests::{
    FaultySidecar, SOON, Talk, capsule_file, capsule_id, end, nothing_left_of, place, resume, suspend,
};

/// Every phase of a suspend before the commit, and what is between the file's being written and the question.
const SUSPEND_POINTS: [&str; 13] = [
    "preflight",
    "quiesce",
    "hold",
    "pause",
    "settle",
    "lock",
    "snapshot",
    "dump",
    "write",
    "suspend-written",
    "suspend-stored",
    "commit",
    "suspend-asking",
];

/// Every phase of a resume before the claim.
const RESUME_POINTS: [&str; 5] =
    ["resume-preflight", "resume-transfer", "resume-restore", "target-gate", "resume-asking"];

/// After the claim, before the capsule made a step.
const CLAIMED_POINTS: [&str; 2] = ["target-claimed", "target-thaw"];

/// Hosts a and c have sidecars with fault points; the client is on b.
struct Faulty {
    mesh: Mesh,
    a: Host,
    b: Host,
    c: Host,
    at_a: FaultySidecar,
    at_c: FaultySidecar,
    talk: Talk,
    file: PathBuf,
    id: String,
}

impl Faulty {
    #[track_caller]
    fn start(name: &str) -> Faulty {
        let mesh = Mesh::running(name, &["b"]);
        let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
        let at_a = FaultySidecar::start(&a, mesh.directory());
        let at_c = FaultySidecar::start(&c, mesh.directory());
        let mut talk = Talk::start(&a, &b);
        talk.ask_at(&b);
        let (file, id) = (capsule_file(&b, "redis"), capsule_id(&b, "redis"));
        Faulty { mesh, a, b, c, at_a, at_c, talk, file, id }
    }

    /// Begins a suspend from b's own command.
    fn begin_suspend(&self) -> Process {
        self.b.spawn_capsule(["--json", "suspend", "redis", "--to", &self.file.display().to_string()])
    }

    fn begin_resume(&self) -> Process {
        let file = self.file.display().to_string();
        self.b.spawn_capsule(["--json", "resume", &file, "--to", "c"])
    }

    /// No file and no piece of one.
    #[track_caller]
    fn no_file(&self, point: &str) {
        let left: Vec<_> = fs::read_dir(self.file.parent().expect("it is in a folder"))
            .expect("the mesh's folder is ours")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains("redis.capsule"))
            .collect();
        assert!(left.is_empty(), "{point}: {left:?}");
    }

    #[track_caller]
    fn goes_on_at(&mut self, host: &str, what: &str) {
        wait_until(SOON, &format!("redis on {host} ({what})"), || {
            let place = place(&self.b, "redis");
            place.host == host && place.state == "running"
        });
        // Its own host is asked: a link to a sidecar that died may not know it yet.
        self.talk.ask_at(if host == "a" { &self.a } else { &self.c });
        self.talk.goes_on();
    }

    /// The directory may have been away: what everybody knows takes a moment.
    #[track_caller]
    fn lies_in_its_file(&self) {
        wait_until(SOON, "the suspended capsule", || place(&self.b, "redis").state == "suspended");
    }

    fn end(self) {
        for name in ["redis", "counter"] {
            self.b.capsule(["rm", "--force", name]).ok();
        }
        drop((self.at_a, self.at_c));
        end(self.mesh);
    }
}

#[test]
fn a_failed_suspend_leaves_it_running_and_no_file() {
    let mut faulty = Faulty::start("suspend-fails");
    for point in SUSPEND_POINTS {
        faulty.at_a.fail_at(point);
        let output = faulty.begin_suspend().wait(SOON).exits(1);
        faulty.at_a.heal();
        let said = output.json()["error"].to_string();
        assert!(said.contains("redis stays on a and runs") && said.contains(point), "{point}: {said}");
        faulty.no_file(point);
        faulty.goes_on_at("a", point);
    }
    // After all that it still works.
    suspend(&faulty.b, "redis", &faulty.file, &[]);
    resume(&faulty.a, &faulty.file, &[]);
    faulty.goes_on_at("a", "a good one");
    faulty.end();
}

#[test]
fn a_failed_resume_leaves_the_file_good() {
    let mut faulty = Faulty::start("resume-fails");
    suspend(&faulty.b, "redis", &faulty.file, &[]);
    for point in RESUME_POINTS {
        let before = place(&faulty.b, "redis");
        faulty.at_c.fail_at(point);
        let output = faulty.begin_resume().wait(SOON).exits(1);
        faulty.at_c.heal();
        assert!(output.stdout.contains(point), "{point}: {output:?}");
        assert_eq!(place(&faulty.b, "redis"), before, "{point}");
        nothing_left_of(&faulty.c, &faulty.id);
    }
    for point in CLAIMED_POINTS {
        let before = place(&faulty.b, "redis");
        faulty.at_c.fail_at(point);
        let output = faulty.begin_resume().wait(SOON).exits(1);
        faulty.at_c.heal();
        assert!(output.stdout.contains("lies in its file again"), "{point}: {output:?}");
        let after = place(&faulty.b, "redis");
        assert_eq!((after.state.as_str(), after.generation), ("suspended", before.generation + 2), "{point}");
        nothing_left_of(&faulty.c, &faulty.id);
    }
    resume(&faulty.c, &faulty.file, &[]);
    faulty.goes_on_at("c", "a good one");
    faulty.end();
}

#[test]
fn ctrl_c_undoes_what_is_not_committed() {
    let mut faulty = Faulty::start("suspend-cancel");
    for point in ["dump", "suspend-written"] {
        let held = faulty.at_a.hold_at(point);
        let mut suspending = faulty.begin_suspend();
        held.reached();
        suspending.signal(Signal::INT);
        // The sidecar must have heard of it before it goes on.
        wait_until(SOON, "the word that it is undone", || suspending.stderr().contains("undoing"));
        sleep(Duration::from_millis(100));
        faulty.at_a.heal();
        held.let_go();
        let output = suspending.wait(SOON).exits(1);
        assert!(output.stdout.contains("suspend/cancelled"), "{point}: {output:?}");
        faulty.no_file(point);
        faulty.goes_on_at("a", point);
    }
    // When it is not known whether the directory was asked: undone as soon as that is certain.
    let held = faulty.at_a.hold_at("suspend-asking");
    let mut suspending = faulty.begin_suspend();
    held.reached();
    faulty.mesh.directory().kill();
    faulty.at_a.heal();
    held.let_go();
    suspending.signal(Signal::INT);
    wait_until(SOON, "the word that it is undone", || suspending.stderr().contains("undoing"));
    sleep(Duration::from_secs(1));
    assert!(suspending.is_running(), "{suspending:?}");
    faulty.mesh.directory().start();
    let output = suspending.wait(Duration::from_secs(30)).exits(1);
    assert!(output.stdout.contains("suspend/cancelled"), "{output:?}");
    faulty.no_file("suspend-asking");
    faulty.goes_on_at("a", "suspend-asking");
    faulty.end();
}

/// The sidecar of the source dies: the next one finds out whether the suspend was made.
#[test]
fn when_the_source_dies() {
    let mut faulty = Faulty::start("suspend-dies");
    for point in ["pause", "dump", "suspend-written", "suspend-stored", "suspend-asking"] {
        faulty.at_a.die_at(point);
        let mut suspending = faulty.begin_suspend();
        faulty.at_a.died();
        suspending.wait(SOON).exits(1);
        faulty.at_a.restart();
        faulty.goes_on_at("a", point);
        let _ = fs::remove_file(&faulty.file);
    }
    // Committed: the file is all there is of it.
    faulty.at_a.die_at("suspend-committed");
    let mut suspending = faulty.begin_suspend();
    faulty.at_a.died();
    suspending.wait(SOON).exits(1);
    faulty.at_a.restart();
    wait_until(SOON, "the end of the source's copy", || !tests::on_disk(&faulty.a, &faulty.id));
    nothing_left_of(&faulty.a, &faulty.id);
    faulty.lies_in_its_file();
    assert!(faulty.file.exists(), "what may be all there is of it is kept");
    resume(&faulty.c, &faulty.file, &[]);
    faulty.goes_on_at("c", "suspend-committed");
    faulty.end();
}

/// The sidecar of the target dies: the file is good, or the capsule runs.
#[test]
fn when_the_target_dies() {
    let mut faulty = Faulty::start("resume-dies");
    suspend(&faulty.b, "redis", &faulty.file, &[]);
    for point in ["resume-transfer", "resume-restore", "target-gate"] {
        faulty.at_c.die_at(point);
        let mut resuming = faulty.begin_resume();
        faulty.at_c.died();
        resuming.wait(SOON).exits(1);
        faulty.at_c.restart();
        wait_until(SOON, "the end of the target's copy", || !tests::on_disk(&faulty.c, &faulty.id));
        nothing_left_of(&faulty.c, &faulty.id);
        assert_eq!(place(&faulty.b, "redis").state, "suspended", "{point}");
    }
    // From the claim on the next one goes on with it.
    for point in ["resume-asking", "target-claimed", "target-thaw", "target-running"] {
        faulty.at_c.die_at(point);
        let mut resuming = faulty.begin_resume();
        faulty.at_c.died();
        resuming.wait(SOON).exits(1);
        faulty.at_c.restart();
        faulty.goes_on_at("c", point);
        fs::remove_file(&faulty.file).expect("it is there");
        suspend(&faulty.b, "redis", &faulty.file, &[]);
    }
    resume(&faulty.a, &faulty.file, &[]);
    faulty.goes_on_at("a", "a good one");
    faulty.end();
}

/// Without the directory nothing is decided: late, never double.
#[test]
fn when_the_directory_is_away() {
    let mut faulty = Faulty::start("suspend-away");
    // Before the question: undone, since nobody was asked.
    let held = faulty.at_a.hold_at("commit");
    let mut suspending = faulty.begin_suspend();
    held.reached();
    faulty.mesh.directory().kill();
    faulty.at_a.heal();
    held.let_go();
    let output = suspending.wait(Duration::from_secs(30)).exits(1);
    assert!(output.stdout.contains("redis stays on a and runs"), "{output:?}");
    faulty.no_file("commit");
    faulty.mesh.directory().start();
    faulty.goes_on_at("a", "commit");
    // Behind it: it stands still until the answer.
    let held = faulty.at_a.hold_at("suspend-asking");
    let mut suspending = faulty.begin_suspend();
    held.reached();
    faulty.mesh.directory().kill();
    faulty.at_a.heal();
    held.let_go();
    sleep(Duration::from_secs(3));
    assert!(suspending.is_running(), "{suspending:?}");
    faulty.mesh.directory().start();
    suspending.wait(Duration::from_secs(30)).ok();
    faulty.lies_in_its_file();
    // And at the gate of a resume.
    let held = faulty.at_c.hold_at("resume-asking");
    let mut resuming = faulty.begin_resume();
    held.reached();
    faulty.mesh.directory().kill();
    faulty.at_c.heal();
    held.let_go();
    sleep(Duration::from_secs(3));
    assert!(resuming.is_running(), "{resuming:?}");
    faulty.mesh.directory().start();
    resuming.wait(Duration::from_secs(30)).ok();
    faulty.goes_on_at("c", "resume-asking");
    faulty.end();
}
