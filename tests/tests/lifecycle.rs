//! From `run` to `rm`, with moves between.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use testkit::{Mesh, wait_until};
use tests::{
    SOON, capsule_id, end, ended, exec, move_to, nothing_left_of, on_disk, place, places, run, start,
    wait_logged,
};

#[test]
fn every_verb_of_a_life() {
    let mesh = Mesh::running("life", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let script = "echo out; echo err >&2; echo $GREETING; pwd; trap 'echo bye; exit 5' TERM; \
                  while :; do sleep 0.1; done";
    let answer = run(&a, "life", &["--env", "GREETING=hello", "--workdir", "/tmp"], &["sh", "-c", script]);
    assert_eq!((&answer["capsule"], &answer["host"]), (&"life".into(), &"a".into()), "{answer}");
    wait_logged(&a, "life", "/tmp");
    // The same from both hosts.
    assert_eq!(places(&a), places(&b));
    for host in [&a, &b] {
        let view = host.capsule(["--json", "inspect", "life"]).ok().json();
        assert_eq!((&view["state"], &view["host"]), (&"running".into(), &"a".into()), "{view}");
        assert_eq!(view["dns_name"], "life.capsule.internal");
        assert_eq!((&view["argv"][0], &view["workdir"]), (&"sh".into(), &"/tmp".into()), "{view}");
        assert!(view["pid"].as_u64().is_some_and(|pid| pid > 1) && view["shim_pid"].is_u64(), "{view}");
        let logs = host.capsule(["logs", "life"]).ok();
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\nhello\n/tmp\n", "err\n"));
        let found = host.capsule(["--json", "resolve", "life"]).ok().json();
        assert_eq!((&found["host"], &found["locators"]), (&"a".into(), &answer["locators"]), "{found}");
        // exec: output apart, exit code, signal, input.
        let output = exec(host, "life", &["sh", "-c", "echo 1; echo 2 >&2; exit 7"]);
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "1\n", "2\n"));
        assert_eq!(exec(host, "life", &["sh", "-c", "kill -9 $$"]).code, 128 + 9);
        assert_eq!(exec(host, "life", &["sh", "-c", "kill -TERM $$"]).code, 128 + 15);
        assert_eq!(exec(host, "life", &["/no/such/program"]).code, 125);
        let capsule = format!("{} --admin {}", tests::tool("capsule"), host.admin().display());
        let piped = host.run(["sh", "-c", &format!("printf 'a\\nb' | {capsule} exec life -- cat")]).ok();
        assert_eq!(piped.stdout, "a\nb");
        let many =
            host.run(["sh", "-c", &format!("head -c 3000000 /dev/zero | {capsule} exec life -- wc -c")]);
        assert_eq!(many.ok().stdout.trim(), "3000000");
    }
    // stop: asked politely; from the other host.
    let stopped = b.capsule(["--json", "stop", "life"]).ok().json();
    assert_eq!((&stopped["exit_code"], &stopped["killed"]), (&5.into(), &false.into()), "{stopped}");
    let view = a.capsule(["--json", "inspect", "life"]).ok().json();
    assert_eq!((&view["state"], &view["exit_code"]), (&"stopped".into(), &5.into()), "{view}");
    assert!(a.capsule(["logs", "life"]).ok().stdout.ends_with("bye\n"));
    assert_eq!(b.capsule(["--json", "stop", "life"]).ok().json()["already"], true);
    // start: files, name and locators are the same.
    let again = b.capsule(["--json", "start", "life"]).ok().json();
    assert_eq!((&again["locators"], &again["host"]), (&answer["locators"], &"a".into()), "{again}");
    assert_eq!(place(&b, "life").state, "running");
    let refused = a.capsule(["rm", "life"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let id = capsule_id(&a, "life");
    assert!(on_disk(&a, &id));
    let gone = b.capsule(["--json", "rm", "--force", "life"]).ok().json();
    assert_eq!(gone["id"], id, "{gone}");
    nothing_left_of(&a, &id);
    assert_eq!(places(&a), []);
    assert_eq!(a.capsule(["--json", "rm", "life"]).ok().json()["id"], serde_json::Value::Null);
    end(mesh);
}

#[test]
fn programs_end_with_their_code() {
    let mesh = Mesh::running("codes", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for (name, line, code) in [
        ("zero", "echo done", 0),
        ("seven", "echo done; exit 7", 7),
        ("killed", "echo done; kill -9 $$", 137),
    ] {
        // The first process of a pid namespace ignores what it sends itself: it needs a child to be killed.
        let shell = format!("sh -c '{line}'");
        start(&a, name, &["sh", "-c", &format!("{shell}; exit $?")]);
        let seen = ended(&b, name, SOON);
        assert_eq!((seen.code, seen.stdout.as_str()), (code, "done\n"), "{name}");
        assert_eq!(place(&b, name).state, "stopped");
        let front = format!("front-{name}");
        let output = a.capsule(["run", front.as_str(), "--", "sh", "-c", &format!("{shell}; exit $?")]);
        assert_eq!((i64::from(output.code), output.stdout.as_str()), (code, "done\n"), "{output:?}");
        for name in [name, &front] {
            let id = capsule_id(&a, name);
            a.capsule(["rm", name]).ok();
            nothing_left_of(&a, &id);
        }
    }
    // SIGTERM that a program doesn't take is followed by SIGKILL.
    start(&a, "deaf", &["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]);
    wait_logged(&a, "deaf", "deaf");
    let stopped = a.capsule(["--json", "stop", "-t", "1", "deaf"]).ok().json();
    assert_eq!((&stopped["exit_code"], &stopped["killed"]), (&137.into(), &true.into()), "{stopped}");
    end(mesh);
}

/// A foreground `run` and `logs -f` show each line once, in order, wherever the program goes.
#[test]
fn output_is_followed_across_moves() {
    let mesh = Mesh::running("follow", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let script =
        "i=0; while [ $i -lt 300 ]; do echo line $i; echo error $i >&2; i=$((i+1)); sleep 0.02; done; exit 7";
    let mut front = a.spawn_capsule(["run", "ticker", "--", "sh", "-c", script]);
    wait_until(SOON, "the first lines", || front.stdout().contains("line 5\n"));
    let mut follower = b.spawn_capsule(["logs", "-f", "ticker"]);
    for to in ["b", "c", "a"] {
        move_to(&b, "ticker", to);
        assert!(front.is_running() && follower.is_running(), "they end with the program only");
    }
    let lines = |word: &str| (0..300).map(|number| format!("{word} {number}\n")).collect::<String>();
    let seen = front.wait(Duration::from_secs(40)).exits(7);
    let followed = follower.wait(Duration::from_secs(10)).ok();
    for seen in [seen, followed] {
        assert_eq!(seen.stdout, lines("line"));
        // Between them the command itself tells of the moves.
        let errors = seen.stderr.lines().filter(|line| line.starts_with("error "));
        assert_eq!(errors.map(|line| format!("{line}\n")).collect::<String>(), lines("error"));
    }
    // Signals go where the program is.
    let mut front = a.spawn_capsule([
        "run",
        "signalled",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done",
    ]);
    wait_until(SOON, "the program", || front.stdout().contains("up"));
    move_to(&a, "signalled", "c");
    front.signal(Signal::INT);
    front.wait(SOON).exits(9);
    end(mesh);
}

/// An `exec` that still runs when its capsule moves ends with a message, and does not hinder the move.
#[test]
fn an_exec_ends_with_a_move() {
    let mesh = Mesh::running("exec", &["a", "b"]);
    let a = mesh.host("a");
    start(&a, "home", &["sleep", "600"]);
    let mut inside = a.spawn_capsule(["exec", "home", "--", "sh", "-c", "echo in; sleep 600"]);
    wait_until(SOON, "the exec", || inside.stdout().contains("in"));
    move_to(&a, "home", "b");
    let seen = inside.wait(Duration::from_secs(10)).exits(125);
    assert!(seen.stderr.contains("home"), "{seen:?}");
    let list = exec(&a, "home", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).ok().stdout;
    assert!(!list.contains("echo in"), "the exec went along: {list}");
    end(mesh);
}

/// Ctrl-C in `move` before the commit undoes it; the command says so.
#[test]
fn an_interrupted_move_is_undone() {
    let mesh = Mesh::running("undo", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    // Files that take a while, so that the signal comes in time.
    start(
        &a,
        "heavy",
        &["sh", "-c", "head -c 1500000000 /dev/urandom > /var/tmp/heavy; echo written; exec sleep 600"],
    );
    wait_until(Duration::from_secs(60), "the file", || {
        a.capsule(["logs", "heavy"]).stdout.contains("written")
    });
    let (before, id) = (place(&a, "heavy"), capsule_id(&a, "heavy"));
    let mut moving = a.spawn_capsule(["move", "heavy", "--to", "b"]);
    wait_until(SOON, "the files phase", || moving.stderr().contains("preflight"));
    moving.signal(Signal::INT);
    let seen = moving.wait(Duration::from_secs(20)).exits(1);
    assert!(seen.stderr.contains("heavy stays on a and runs"), "{seen:?}");
    let after = place(&b, "heavy");
    assert_eq!((&after.host, &after.locators), (&before.host, &before.locators));
    exec(&b, "heavy", &["true"]).ok();
    nothing_left_of(&b, &id);
    wait_until(Duration::from_secs(5), "the offer's withdrawal", || place(&b, "heavy").state == "running");
    end(mesh);
}

/// What a program wrote goes along, named or not; nothing of it stays behind.
#[test]
fn private_files_move() {
    let mesh = Mesh::running("files", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let volume = a.dir().join("volume");
    fs::create_dir(&volume).expect("the mesh's folder is ours");
    fs::write(volume.join("given"), "given\n").expect("just made");
    let script = "echo kept > /srv/kept; echo owned > /srv/owned; chown 1234:4321 /srv/owned; chmod 640 /srv/owned; \
         ln -s kept /srv/link; rm /etc/hostname; echo changed >> /data/given; \
         exec 3<>/tmp/gone; echo unlinked >&3; rm /tmp/gone; exec 4>>/srv/open; echo before >&4; echo ready; \
         while [ ! -e /tmp/go ]; do sleep 0.05; done; \
         echo after >&4; cat /srv/kept /srv/link /srv/open /data/given /proc/$$/fd/3; stat -c '%u:%g %a' /srv/owned; \
         ls /etc/hostname /tmp/gone 2>/dev/null; echo end; exec sleep 600";
    let flag = format!("{}:/data", volume.display());
    run(&a, "files", &["--volume", &flag], &["sh", "-c", script]);
    wait_logged(&a, "files", "ready");
    let id = capsule_id(&a, "files");
    for (from, to) in [(&a, "b"), (&b, "a"), (&a, "b")] {
        move_to(&a, "files", to);
        nothing_left_of(from, &id);
    }
    exec(&a, "files", &["touch", "/tmp/go"]).ok();
    wait_logged(&a, "files", "end");
    let seen = a.capsule(["logs", "files"]).ok().stdout;
    let expected = "ready\nkept\nkept\nbefore\nafter\ngiven\nchanged\nunlinked\n1234:4321 640\nend\n";
    assert_eq!(seen, expected);
    // The host's own files are as they were.
    assert!(!std::path::Path::new("/srv/kept").exists());
    assert_eq!(fs::read_to_string(volume.join("given")).expect("ours"), "given\n");
    end(mesh);
}

/// A program that makes, removes and renames all the time finds what it left, wherever it was stopped.
#[test]
fn files_that_come_and_go_move() {
    let mesh = Mesh::running("comings", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    // Each turn checks what the turn before has left: one mark, and a directory or a file in its place.
    let script = "cd /srv; mkdir many; for n in $(seq 200); do echo $n > many/$n; done; i=0; : > mark-0; echo 0 > place; \
         while [ ! -e /tmp/go ]; do j=$i; i=$((i+1)); \
         [ \"$(echo mark-*)\" = mark-$j ] || echo \"wrong marks: $(echo mark-*), not $j\"; \
         if [ $((j%2)) = 0 ]; then [ \"$(cat place)\" = $j ] || echo wrong file $j; \
         else [ \"$(cat place/deep/*)\" = $j ] || echo wrong directory $j; fi; \
         [ $(ls many | wc -l) = 200 ] || echo wrong many $j; \
         : > mark-$i; rm mark-$j; rm -r place; \
         if [ $((i%2)) = 0 ]; then echo $i > place; else mkdir -p place/deep; echo $i > place/deep/$i; fi; \
         mv many many-$i; mv many-$i many; rm -f /etc/motd; echo $i > /etc/motd; chmod 75$((i%2*5)) /; \
         [ $i = 3 ] && echo ready; done; echo turns $i; stat -c %a /; exec sleep 600";
    start(&a, "busy", &["bash", "-c", script]);
    wait_logged(&a, "busy", "ready");
    let id = capsule_id(&a, "busy");
    for (from, to) in [(&a, "b"), (&b, "a"), (&a, "b"), (&b, "a"), (&a, "b"), (&b, "a")] {
        move_to(&a, "busy", to);
        nothing_left_of(from, &id);
    }
    exec(&a, "busy", &["touch", "/tmp/go"]).ok();
    wait_logged(&a, "busy", "turns");
    let seen = a.capsule(["logs", "busy"]).ok().stdout;
    assert!(!seen.contains("wrong"), "{seen}");
    eprintln!("{seen}");
    end(mesh);
}

/// A capsule doesn't see its host's secrets, before and after a move.
#[test]
fn secrets_of_the_host_are_hidden() {
    let mesh = Mesh::running("secrets", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "curious", &["sleep", "600"]);
    for host in [&a, &b] {
        if place(&a, "curious").host != host.name() {
            move_to(&a, "curious", host.name());
        }
        assert!(!fs::read("/etc/shadow").expect("root may").is_empty(), "this machine has no secret to hide");
        assert_eq!(exec(host, "curious", &["cat", "/etc/shadow"]).stdout, "");
        for hidden in [a.data(), b.data(), mesh.directory().host().data()] {
            let folder = hidden.display().to_string();
            let seen = exec(host, "curious", &["find", &folder, "-type", "f"]).stdout;
            // The data of this host's own sidecar; that of the others is here only because they share a machine.
            if hidden == host.data() {
                assert_eq!(seen, "", "files of the sidecar are seen");
            }
        }
        let seen = exec(host, "curious", &["ls", "/run/netns"]);
        assert_eq!(seen.stdout, "", "{seen:?}");
        // Neither processes nor mounts of the host.
        let processes = exec(host, "curious", &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).ok().stdout;
        assert!(processes.trim().parse::<u32>().is_ok_and(|count| count <= 5), "{processes}");
        let refused = exec(host, "curious", &["sh", "-c", "mount -t tmpfs tmpfs /mnt"]);
        assert!(refused.code != 0, "a capsule may mount: {refused:?}");
    }
    end(mesh);
}
