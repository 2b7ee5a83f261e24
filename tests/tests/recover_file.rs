//! A capsule whose host is gone goes back to a capsule file, by a person's word.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, Output, wait_until};
use tests::{
    FaultySidecar, SOON, Talk, capsule_file, capsule_id, end, exec, nothing_left_of, place, resume, run,
    start_redis, suspend, wait_logged,
};

/// What everybody together may take to agree on a place, with a host that is away.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Tries to go back to a file.
fn recover(host: &Host, name: &str, file: &Path) -> Output {
    let file = file.display().to_string();
    host.capsule(["--json", "recover", name, "--host-is-gone", "--from", &file])
}

/// A recovery must fail with this code, and change nothing.
#[track_caller]
fn refused(host: &Host, name: &str, file: &Path, code: &str) -> Output {
    let before = place(host, name);
    let output = recover(host, name, file).exits(1);
    assert_eq!(output.json()["error"]["code"], code, "{output:?}");
    assert_eq!(place(host, name), before, "after {output:?}");
    output
}

#[track_caller]
fn redis(host: &Host, words: &[&str]) -> String {
    exec(host, "redis", &[&["redis-cli"], words].concat()).ok().stdout.trim().to_owned()
}

/// The client that counts gets further answers.
#[track_caller]
fn talks_on(host: &Host) {
    let count = || redis(host, &["get", "db-client:client"]).parse::<u64>().unwrap_or(0);
    let before = count();
    wait_until(SOON, "further answers", || count() > before);
}

/// Whether a host keeps a frozen copy of a capsule that goes on elsewhere.
fn keeps_copy(host: &Host, name: &str) -> bool {
    let listed = host.capsule(["--json", "ps"]).ok().json();
    let all = listed["capsules"].as_array().cloned().unwrap_or_default();
    let here = |capsule: &Value| capsule["name"] == name && capsule["host"] == host.name();
    all.iter().any(|capsule| here(capsule) && capsule["state"] == "superseded")
}

/// A connection to Redis that says one word, and another one when a file tells it to.
struct Patient {
    name: &'static str,
    go: PathBuf,
}

impl Patient {
    #[track_caller]
    fn connect(mesh: &Mesh, host: &Host, name: &'static str) -> Patient {
        let shared = mesh.dir().join("shared");
        fs::create_dir_all(&shared).expect("the mesh's folder is ours");
        let script = format!(
            "exec 3<>/dev/tcp/redis.capsule.internal/6379; \
             printf 'PING\\r\\n' >&3; read -r -u 3 answer; echo \"first $answer\"; \
             while [ ! -e /shared/{name} ]; do sleep 0.05; done; \
             printf 'INCR {name}\\r\\n' >&3; read -r -u 3 answer && echo \"then $answer\" || echo ended"
        );
        let volume = format!("{}:/shared:shared", shared.display());
        run(host, name, &["--volume", &volume], &["bash", "-c", &script]);
        wait_logged(host, name, "first +PONG");
        Patient { name, go: shared.join(name) }
    }

    /// What becomes of its second word.
    #[track_caller]
    fn goes_on(&self, host: &Host, outcome: &str) {
        fs::write(&self.go, "").expect("the mesh's folder is ours");
        wait_logged(host, self.name, outcome);
    }
}

fn mesh(name: &str) -> (Mesh, Host, Host, Host) {
    let mesh = Mesh::new(name);
    mesh.directory().start();
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    for host in [&a, &b, &c] {
        host.configure("link_idle_s = 3");
    }
    (mesh, a, b, c)
}

#[test]
fn a_capsule_goes_back_to_its_file_when_its_host_is_gone() {
    let (mesh, a, b, c) = mesh("goback");
    mesh.start(&["a", "b", "c"]);
    Talk::start(&a, &b);
    let idle = Patient::connect(&mesh, &b, "idle");
    redis(&a, &["set", "stage", "file"]);
    let (file, id) = (capsule_file(&a, "redis"), capsule_id(&a, "redis"));
    suspend(&a, "redis", &file, &[]);
    let said = refused(&c, "redis", &file, "recover/suspended");
    assert!(said.stdout.contains("capsule resume"), "{said:?}");
    resume(&a, &file, &[]);
    talks_on(&b);
    redis(&a, &["set", "stage", "later"]);
    let late = Patient::connect(&mesh, &b, "late");
    let generation = place(&b, "redis").generation;

    // While its host lives there is nothing to recover, and never without a person's word.
    refused(&c, "redis", &file, "recover/host-answers");
    refused(&a, "redis", &file, "recover/host-answers");
    c.capsule(["recover", "redis", "--from", &file.display().to_string()]).exits(2);
    talks_on(&b);

    // It is cut off, and its copy runs on.
    a.cut();
    refuses_what_is_no_such_file(&c, &file);
    nothing_left_of(&c, &id);
    let recovered = recover(&c, "redis", &file).ok().json();
    assert_eq!((&recovered["host"], &recovered["from"]), (&"c".into(), &"file".into()), "{recovered}");
    assert_eq!(recovered["generation"], generation + 1, "{recovered}");
    assert_eq!(redis(&b, &["get", "stage"]), "file", "the state of the file");
    // The connection whose peer has seen nothing since goes on; those that went on without the file are reset.
    idle.goes_on(&b, "then :1");
    late.goes_on(&b, "ended");
    wait_until(SOON, "the end of the talk", || place(&b, "counter").state == "stopped");
    // Repeated it does no harm, here or elsewhere.
    refused(&c, "redis", &file, "recover/host-answers");
    refused(&b, "redis", &file, "recover/host-answers");
    b.capsule(["resume", &file.display().to_string()]).exits(1);

    // The host that was only cut off hears of it.
    a.join();
    wait_until(SETTLED_WITHIN, "the freezing of the other copy", || keeps_copy(&a, "redis"));
    assert_eq!(redis(&b, &["get", "stage"]), "file");
    // What it kept is newer than the file.
    refused(&a, "redis", &file, "recover/copy-here");
    a.capsule(["rm", "--local", "redis"]).ok();
    nothing_left_of(&a, &id);

    // Its host dies, and comes back with nothing but its files.
    c.kill();
    let recovered = recover(&b, "redis", &file).ok().json();
    assert_eq!(recovered["generation"], generation + 2, "{recovered}");
    assert_eq!(redis(&b, &["get", "idle"]), "", "once more the state of the file");
    c.join();
    c.start_sidecar();
    wait_until(SETTLED_WITHIN, "the copy of the host that came back", || keeps_copy(&c, "redis"));
    assert_eq!(redis(&b, &["get", "stage"]), "file");
    c.capsule(["rm", "--local", "redis"]).ok();

    // Of what was removed there is nothing to go back to.
    b.capsule(["rm", "--force", "redis"]).ok();
    let output = recover(&b, "redis", &file).exits(1);
    assert_eq!(output.json()["error"]["code"], "recover/removed", "{output:?}");
    nothing_left_of(&b, &id);
    end(mesh);
}

#[track_caller]
fn refuses_what_is_no_such_file(host: &Host, file: &Path) {
    let whole = fs::read(file).expect("it is there");
    let bad = file.with_extension("bad");
    for at in [100, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&bad, bytes).expect("the mesh's folder is ours");
        refused(host, "redis", &bad, "recover/damaged");
    }
    fs::write(&bad, &whole[..whole.len() - 100]).expect("the mesh's folder is ours");
    refused(host, "redis", &bad, "recover/truncated");
    refused(host, "redis", Path::new("/etc/hostname"), "recover/foreign");
    refused(host, "counter", file, "recover/other-capsule");
}

/// Whoever dies in a takeover from a file, or can't let it run: it is taken up, or the file serves again.
#[test]
fn a_takeover_from_a_file_comes_to_its_end() {
    let (mesh, a, b, c) = mesh("goback-faults");
    mesh.start(&["a", "b"]);
    let mut taker = FaultySidecar::start(&c, mesh.directory());
    start_redis(&a, "redis");
    redis(&a, &["set", "stage", "file"]);
    let (file, id) = (capsule_file(&a, "redis"), capsule_id(&a, "redis"));
    suspend(&a, "redis", &file, &[]);
    resume(&a, &file, &[]);
    redis(&a, &["set", "stage", "later"]);
    let before = place(&b, "redis");
    a.kill();
    // Before the directory is asked: nothing is left here, nothing is changed.
    taker.fail_at("target-gate");
    let said = recover(&c, "redis", &file).exits(1);
    assert_eq!(said.json()["error"]["code"], "recover/failed", "{said:?}");
    nothing_left_of(&c, &id);
    assert_eq!((place(&b, "redis").host, place(&b, "redis").generation), (before.host, before.generation));
    // Placed here, and it can't run: lost, and the file serves another takeover.
    taker.fail_at("target-claimed");
    recover(&c, "redis", &file).exits(1);
    wait_until(SOON, "the loss", || place(&b, "redis").state == "lost");
    assert_eq!(place(&b, "redis").host, "c");
    taker.die_at("recover-asking");
    recover(&c, "redis", &file).exits(1);
    taker.died();
    taker.restart();
    wait_until(SETTLED_WITHIN, "the capsule at its successor", || {
        let place = place(&b, "redis");
        (place.host.as_str(), place.state.as_str(), place.generation)
            == ("c", "running", before.generation + 2)
    });
    assert_eq!(redis(&b, &["get", "stage"]), "file");
    b.capsule(["rm", "--force", "redis"]).ok();
    nothing_left_of(&c, &id);
    drop(taker);
    end(mesh);
}
