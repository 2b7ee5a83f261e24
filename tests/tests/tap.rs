//! `capsule tap`: a capture with the capsule's addresses, which follows the capsule.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use testkit::{Mesh, wait_until};
use tests::{SOON, Talk, capsule_id, end, locators, move_to, nothing_left_of};

/// The packets in a capture, as the real tcpdump reads them.
#[track_caller]
fn packets(mesh_host: &testkit::Host, file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    let read = mesh_host.run(["tcpdump", "-n", "-r", &file, "tcp"]).ok();
    read.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_capture_follows_its_capsule() {
    let mesh = Mesh::running("tap", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let id = capsule_id(&a, "redis");
    // Names resolve to both families, and the second is tried first.
    let (redis, counter) = (locators(&a, "redis").1, locators(&a, "counter").1);
    let file = mesh.dir().join("redis.pcap");
    let path = file.display().to_string();

    // Asked on another host than the capsule's.
    let mut tap = b.spawn_capsule(["--json", "tap", "redis", "--to", &path, "port", "6379"]);
    let grown = |above: u64| std::fs::metadata(&file).is_ok_and(|file| file.len() > above);
    wait_until(SOON, "packets at a", || grown(10_000));
    move_to(&a, "redis", "b");
    talk.goes_on();
    let at_b = std::fs::metadata(&file).expect("the capture").len();
    wait_until(SOON, "packets at b", || grown(at_b + 10_000));
    tap.signal(Signal::INT);
    let said = tap.wait(SOON).ok().json();

    // What a program says to itself is there, too.
    let (own, all): (Vec<_>, Vec<_>) =
        packets(&a, &file).into_iter().partition(|line| line.contains("IP 127.0.0.1"));
    assert_eq!((&said["packets"], &said["moves"]), (&(own.len() + all.len()).into(), &1.into()), "{said}");
    let there = format!("IP6 {counter}.");
    let to = format!("> {redis}.6379: Flags [P.]");
    assert!(all.iter().any(|line| line.contains(&there) && line.contains(&to)), "{:?}", &all[..4]);
    let back = format!("IP6 {redis}.6379 > {counter}.");
    assert!(all.iter().all(|line| line.contains(&back) || line.contains(&format!("> {redis}.6379"))));
    nothing_left_of(&a, &id);

    // What can't be captured is said.
    let refused = a.capsule(["--json", "tap", "redis", "--to", &path, "prot", "6379"]).exits(1).json();
    assert_eq!(refused["error"]["code"], "tap/not-started", "{refused}");
    assert!(refused["error"]["why"].as_str().is_some_and(|why| why.contains("syntax error")), "{refused}");
    a.capsule(["tap", "nobody", "--to", &path]).exits(1);
    // To stdout, for a time.
    let piped = a.run([
        "sh",
        "-c",
        &format!(
            "{} --admin {} tap redis --seconds 1 | tcpdump -n -r - tcp | wc -l",
            tests::tool("capsule"),
            a.data().join("admin.sock").display()
        ),
    ]);
    let count: u64 = piped.ok().stdout.trim().parse().expect("a number");
    assert!(count > 10, "{count}");
    talk.goes_on();
    for name in ["redis", "counter"] {
        a.capsule(["rm", "--force", name]).ok();
    }
    end(mesh);
}

/// Who goes away without a word leaves no tcpdump behind.
#[test]
fn a_capture_ends_with_its_client() {
    let mesh = Mesh::running("tap-gone", &["a"]);
    let a = mesh.host("a");
    tests::start_redis(&a, "redis");
    let path = mesh.dir().join("redis.pcap").display().to_string();
    let mut tap = a.spawn_capsule(["tap", "redis", "--to", &path]);
    let captures = || {
        let listed = a.run(["pgrep", "-f", "tcpdump --immediate-mode -B 8192 -U -i lo -Q in"]);
        listed.stdout.lines().count()
    };
    wait_until(SOON, "the capture", || captures() == 1);
    tap.kill();
    wait_until(Duration::from_secs(5), "its end", || captures() == 0);
    // Nor does a sidecar that is killed.
    let mut tap = a.spawn_capsule(["tap", "redis", "--to", &path]);
    wait_until(SOON, "the capture", || captures() == 1);
    a.kill_sidecar();
    wait_until(Duration::from_secs(5), "its end", || captures() == 0);
    tap.wait(SOON).exits(1);
    a.start_sidecar();
    a.capsule(["rm", "--force", "redis"]).ok();
    end(mesh);
}
