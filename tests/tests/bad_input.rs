//! What can't be done is refused with a clear word, and changes nothing.

use std::fs;
use std::time::{Duration, Instant};

use testkit::{Host, Mesh, Output, program};
use tests::{
    Peer, Place, Talk, capsule_id, checked, end, ended, exec, make_base, move_to, nothing_left_of, on_disk,
    place, places, small_disk, start, tool,
};

/// One line `error [CODE]: what: why; what to do`, with these words in it.
#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{output:?}");
    let mut lines = output.stderr.lines().filter(|line| line.starts_with("error ["));
    let line = lines.next().unwrap_or_else(|| panic!("no error line: {output:?}"));
    assert!(lines.next().is_none(), "more than one error line: {output:?}");
    assert!(line.contains(';'), "it does not say what to do: {line}");
    for word in words {
        assert!(output.stderr.contains(word), "nothing of {word:?} in {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{output:?}");
}

/// Runs a verb that has to fail; all capsules are as before, and the talk goes on.
#[track_caller]
fn refused(host: &Host, talk: &mut Talk, line: &[&str], code: i32, words: &[&str]) {
    let before = places(host);
    let began = Instant::now();
    let output = host.capsule(line);
    says(&output, code, words);
    assert!(began.elapsed() < Duration::from_secs(20), "{line:?} took {:?}", began.elapsed());
    assert_eq!(places(host), before, "{line:?} changed something");
    talk.goes_on();
    eprintln!("{line:?}: {}", output.stderr.trim());
}

#[test]
fn names_that_are_wrong_or_taken() {
    let mesh = Mesh::running("names", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    refused(&a, &mut talk, &["move", "redis", "--to", "nowhere"], 1, &["nowhere", "a, b"]);
    refused(&a, &mut talk, &["move", "nobody", "--to", "b"], 1, &["nobody"]);
    for verb in ["inspect", "logs", "stop", "start", "resolve", "sessions"] {
        refused(&b, &mut talk, &[verb, "nobody"], 1, &["nobody"]);
    }
    refused(&a, &mut talk, &["exec", "nobody", "--", "true"], 125, &["nobody"]);
    // A running capsule is not removed by mistake.
    refused(&b, &mut talk, &["rm", "redis"], 1, &["redis", "--force"]);
    // Taken, from any host. In the foreground the codes up to 124 are the program's.
    for host in [&a, &b] {
        refused(host, &mut talk, &["run", "-d", "redis", "--", "sleep", "1"], 1, &["redis", "name"]);
        refused(host, &mut talk, &["run", "redis", "--", "sleep", "1"], 125, &["redis", "name"]);
    }
    // A command that is not there.
    refused(&a, &mut talk, &["run", "-d", "fresh", "--", "/no/such/program"], 1, &["/no/such/program"]);
    refused(&a, &mut talk, &["run", "fresh", "--", "/no/such/program"], 125, &["/no/such/program"]);
    refused(
        &a,
        &mut talk,
        &["run", "-d", "fresh", "--rootfs", "/no/such/root", "--", "sh"],
        1,
        &["/no/such/root"],
    );
    refused(&a, &mut talk, &["run", "-d", "fresh", "--volume", "/no/such:/x", "--", "sh"], 1, &["/no/such"]);
    refused(&a, &mut talk, &["run", "-d", "UPPER", "--", "sh"], 1, &["UPPER"]);
    // Usage.
    for line in [&["move", "redis"][..], &["frobnicate"], &["run", "-d", "fresh"], &["ps", "--no-such-flag"]]
    {
        let output = a.capsule(line);
        assert_eq!(output.code, 2, "{output:?}");
    }
    // The name of a run that failed is free.
    start(&a, "fresh", &["sleep", "600"]);
    // A move to where it is does nothing, and is no failure.
    let before = places(&a);
    let stays = a.capsule(["--json", "move", "redis", "--to", "a"]).ok().json();
    assert_eq!(stays["already"], true, "{stays}");
    assert_eq!(places(&a), before);
    talk.goes_on();
    end(mesh);
}

#[test]
fn targets_that_can_not_take_it() {
    let mesh = Mesh::new("refuses");
    let (a, b, small) = (mesh.host("a"), mesh.host("b"), mesh.host("small"));
    mesh.directory().start();
    // The source's CPU, as recorded on a richer one.
    let recorded = fs::read_to_string("/proc/cpuinfo").expect("/proc is mounted");
    let richer =
        recorded.lines().map(|line| match line.starts_with("flags") || line.starts_with("Features") {
            true => format!("{line} avx4096_test\n"),
            false => format!("{line}\n"),
        });
    let rich = mesh.host("rich");
    let cpuinfo = rich.dir().join("cpuinfo");
    fs::write(&cpuinfo, richer.collect::<String>()).expect("the mesh's folder is ours");
    rich.configure(&format!("cpuinfo = {:?}", cpuinfo.display().to_string()));
    small_disk(&small, 48 << 20);
    mesh.start(&["a", "b", "rich", "small"]);
    let mut talk = Talk::start(&a, &b);
    let id = capsule_id(&a, "redis");
    refused(&a, &mut talk, &["move", "redis", "--to", "small"], 1, &["redis stays on a", "MiB free"]);
    let dry = a.capsule(["move", "redis", "--to", "small", "--dry-run"]).exits(1);
    assert!(dry.stdout.contains("MiB free"), "{dry:?}");
    assert!(!on_disk(&small, &id), "the target kept something");
    nothing_left_of(&small, &id);
    // Moving to the richer CPU works, and away from it does not.
    move_to(&a, "redis", "rich");
    talk.goes_on();
    refused(&a, &mut talk, &["move", "redis", "--to", "b"], 1, &["redis stays on rich", "avx4096_test"]);
    nothing_left_of(&b, &id);
    end(mesh);
}

#[test]
fn base_files_that_differ() {
    let mesh = Mesh::new("bases");
    let (a, b, c, d) = (mesh.host("a"), mesh.host("b"), mesh.host("c"), mesh.host("d"));
    let peer = tool("stream-peer");
    let programs = [
        ("/bin/sh", "/bin/sh"),
        ("/bin/sleep", "/bin/sleep"),
        ("/bin/cat", "/bin/cat"),
        (&peer, "/opt/peer"),
    ];
    for host in [&a, &c, &d] {
        let base = host.dir().join("base");
        make_base(&base, &programs);
        host.set_base(&base);
    }
    // On c another version lies there, on d something that is no file.
    let other = c.dir().join("base/opt/peer");
    let mut bytes = fs::read(program("stream-peer")).expect("built");
    bytes.extend(b"another version");
    fs::write(&other, bytes).expect("just made");
    let blocked = d.dir().join("base/opt/peer");
    fs::remove_file(&blocked).expect("just made");
    fs::create_dir(&blocked).expect("just made");
    mesh.start(&["a", "b", "c", "d"]);
    let mut talk = Talk::start(&b, &b);
    let flags = ["--send", "64M", "--receive", "64M", "--rate", "4M"];
    let argv = [&["/opt/peer", "--listen", "[::]:7000"][..], &flags].concat();
    start(&a, "sink", &argv);
    tests::wait_logged(&a, "sink", "listening on");
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    let id = capsule_id(&a, "sink");
    refused(&a, &mut talk, &["move", "sink", "--to", "d"], 1, &["sink stays on a", "/opt/peer"]);
    assert!(!on_disk(&d, &id), "the target kept something");
    // What can be shipped is shipped.
    let moved = move_to(&a, "sink", "c");
    let shipped = moved["bytes"]["files"].as_u64().unwrap_or(0);
    assert!(shipped > 0, "the program was not shipped: {moved}");
    assert_eq!(place(&a, "sink").state, "running");
    nothing_left_of(&a, &id);
    // The capsule keeps its own version; the host's is as it was.
    let own = exec(&b, "sink", &["sh", "-c", "cat /opt/peer | tail -c 15"]);
    assert!(!own.stdout.contains("another version"), "{own:?}");
    assert!(fs::read(&other).expect("just made").ends_with(b"another version"));
    checked(&ended(&b, "source", Duration::from_secs(60)), 64 << 20, 64 << 20);
    checked(&ended(&b, "sink", Duration::from_secs(60)), 64 << 20, 64 << 20);
    end(mesh);
}

#[test]
fn tokens_that_are_no_good() {
    let mesh = Mesh::running("tokens", &["a", "b"]);
    let mut talk = Talk::start(&mesh.host("a"), &mesh.host("b"));
    let directory = mesh.directory();
    let refuses = |host: &Host, token: &str| {
        let output = host.join_with(directory, token);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("token"), "{output:?}");
        assert!(!output.stderr.contains("panicked"), "{output:?}");
        assert!(!host.data().join("identity/cert.pem").exists(), "it joined: {output:?}");
        eprintln!("{}", output.stderr.trim());
        output
    };
    // Used twice.
    let token = directory.token("c");
    mesh.host("c").join_with(directory, &token).ok();
    refuses(&mesh.host("c2"), &token);
    // Expired.
    let data = directory.host().data().display().to_string();
    let short = directory.command(&["token", "--data", &data, "--host", "d", "--ttl", "1s"]).ok().stdout;
    std::thread::sleep(Duration::from_millis(2100));
    refuses(&mesh.host("d"), short.trim());
    // Changed, cut, and no token at all.
    let token = directory.token("d");
    refuses(&mesh.host("d"), &token[..token.len() - 8]);
    let changed: String = token
        .char_indices()
        .map(|(at, letter)| if at == token.len() / 2 { flip(letter) } else { letter })
        .collect();
    refuses(&mesh.host("d"), &changed);
    refuses(&mesh.host("d"), "no-token");
    // Of another mesh.
    let strange = mesh.dir().join("strange").display().to_string();
    directory.command(&["init", "--data", &strange, "--zone", "other.internal"]).ok();
    let line = ["token", "--data", strange.as_str(), "--host", "d"];
    let foreign = directory.command(&line);
    if foreign.code == 0 {
        refuses(&mesh.host("d"), foreign.stdout.trim());
    } else {
        assert_eq!(foreign.code, 1, "{foreign:?}");
    }
    // A token is for the host it names: a host that has joined can't become another with it.
    let again = mesh.host("c").join_with(directory, &directory.token("e"));
    assert_eq!(again.code, 1, "{again:?}");
    let known = mesh.host("a").capsule(["--json", "hosts"]).ok().json();
    let names = known["hosts"].as_array().into_iter().flatten().filter_map(|host| host["name"].as_str());
    let strangers: Vec<&str> = names.filter(|name| !["a", "b", "c"].contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?} have joined");
    talk.goes_on();
    // The good one still works.
    mesh.host("d").join_with(directory, &token).ok();
    end(mesh);
}

fn flip(letter: char) -> char {
    if letter == 'A' { 'B' } else { 'A' }
}

#[test]
fn the_directory_is_away() {
    let mesh = Mesh::running("away", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let id = capsule_id(&a, "redis");
    let token = mesh.directory().token("d");
    let before: Vec<Place> = places(&a);
    mesh.directory().kill();
    refused(&a, &mut talk, &["move", "redis", "--to", "c"], 1, &["redis stays on a", "directory"]);
    refused(&a, &mut talk, &["run", "-d", "fresh", "--", "sleep", "1"], 1, &["fresh", "directory"]);
    let began = Instant::now();
    let output = mesh.host("d").join_with(mesh.directory(), &token);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("directory"), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    nothing_left_of(&mesh.host("c"), &id);
    mesh.directory().start();
    talk.goes_on();
    let after = places(&a);
    assert_eq!(after, before);
    move_to(&a, "redis", "c");
    talk.goes_on();
    end(mesh);
}
