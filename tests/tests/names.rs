//! Names inside a capsule, while it moves and beyond the mesh's own zone: asked by the programs that everybody uses.

use std::time::{Duration, Instant};

use testkit::{Host, Mesh, Process, wait_until};
use tests::{SOON, end, ended, exec, locators, move_to, start, wait_logged};

/// One lookup after the other, each asked once only: what the move loses is told.
const LOOKUPS: &str = "until=$((SECONDS + 12)); n=0; echo began
    while [ $SECONDS -lt $until ]; do
        got=$(eval $2) || { echo \"failed after $n: $got\"; exit 1; }
        [ \"$got\" = \"$1\" ] || { echo \"$got after $n\"; exit 1; }
        n=$((n + 1))
    done; echo $n lookups";

/// Three ways to ask, none of which asks twice in the time that it has.
const ASKERS: [(&str, &str); 3] = [
    ("datagrams", "dig +short +notcp +tries=1 +time=4 server.capsule.internal A"),
    ("streams", "dig +short +tcp +tries=1 +time=4 server.capsule.internal A"),
    ("library", "timeout 4 getent ahostsv4 server.capsule.internal | sed -n '1s/ .*//p'"),
];

#[test]
fn no_lookup_is_lost_in_a_move() {
    let mesh = Mesh::running("lookups", &["a", "b"]);
    let a = mesh.host("a");
    start(&a, "server", &["sleep", "600"]);
    let (v4, _) = locators(&a, "server");
    for (name, asks) in ASKERS {
        start(&a, name, &["bash", "-c", LOOKUPS, "lookups", &v4, asks]);
        wait_logged(&a, name, "began");
    }
    for to in ["b", "a"] {
        for (name, _) in ASKERS {
            move_to(&a, name, to);
        }
        // The name is right at once where the server is.
        move_to(&a, "server", to);
    }
    for (name, _) in ASKERS {
        let seen = ended(&a, name, Duration::from_secs(40));
        assert_eq!(seen.code, 0, "{name}: {seen:?}");
        eprintln!("{name}: {}", seen.stdout.lines().last().unwrap_or_default());
    }
    end(mesh);
}

/// The upstream is away when the program asks, and there again when its capsule is elsewhere.
#[test]
fn a_lookup_under_way_at_the_freeze_is_answered_where_its_program_goes() {
    let (mesh, upstream) = with_upstream("under-way");
    let (a, outside) = (mesh.host("a"), mesh.host("upstream"));
    outside.cut();
    for (name, flag) in [("datagram", "+notcp"), ("stream", "+tcp")] {
        start(&a, name, &["dig", "+short", flag, "+tries=1", "+time=20", &format!("{name}.test"), "A"]);
        wait_until(SOON, "the query", || {
            !exec(&a, name, &["ss", "-Hntu", "dst", "127.0.0.88"]).ok().stdout.is_empty()
        });
        move_to(&a, name, "b");
        outside.join();
        let seen = ended(&a, name, Duration::from_secs(20));
        assert_eq!((seen.code, seen.stdout.as_str()), (0, "192.0.2.81\n"), "{name}: {seen:?}");
        outside.cut();
    }
    drop(upstream);
    end(mesh);
}

#[test]
fn other_names_are_the_upstreams_and_kept_for_as_long_as_they_hold() {
    let (mesh, mut upstream) = with_upstream("upstream");
    let a = mesh.host("a");
    start(&a, "shell", &["sleep", "600"]);
    let dig = |arguments: &str| {
        let line: Vec<&str> =
            ["dig", "+tries=1", "+time=9"].into_iter().chain(arguments.split(' ')).collect();
        exec(&a, "shell", &line).ok().stdout
    };
    let has = |answer: &str, wanted: &[&str]| {
        assert!(wanted.iter().all(|text| answer.contains(text)), "no {wanted:?} in {answer}");
    };
    let library = exec(&a, "shell", &["getent", "ahostsv4", "www.test"]).ok().stdout;
    has(&library, &["192.0.2.80"]);
    // There is no such name, and there is no such record: of the upstream, and of the zone.
    for protocol in ["+notcp", "+tcp"] {
        has(&dig(&format!("{protocol} www.test A")), &["status: NOERROR", "192.0.2.80"]);
        for zone in ["test", "capsule.internal"] {
            has(&dig(&format!("{protocol} nobody.{zone} A")), &["status: NXDOMAIN", "ANSWER: 0", "SOA"]);
        }
        has(&dig(&format!("{protocol} www.test MX")), &["status: NOERROR", "ANSWER: 0", "SOA"]);
        has(&dig(&format!("{protocol} shell.capsule.internal MX")), &["status: NOERROR", "ANSWER: 0", "SOA"]);
    }
    // What does not fit says so, and is asked again by stream.
    has(&dig("+notcp +ignore +bufsize=512 long.test TXT"), &["flags: qr aa tc"]);
    has(&dig("+bufsize=512 long.test TXT"), &["ANSWER: 8", "(TCP)"]);

    // What was asked holds without the upstream, and for less and less time.
    upstream.kill();
    wait_until(SOON, "a time to live that counts down", || {
        let answer = dig("+notcp +noall +answer www.test A");
        has(&answer, &["192.0.2.80"]);
        answer.split_whitespace().nth(1).and_then(|ttl| ttl.parse().ok()).is_some_and(|ttl: u32| ttl < 3599)
    });
    has(&dig("+notcp nobody.test A"), &["status: NXDOMAIN", "SOA"]);
    has(&dig("+notcp +cdflag www.test A"), &["status: SERVFAIL"]);
    has(&dig("+tcp other.test A"), &["status: SERVFAIL"]);
    // An upstream that says nothing at all costs four seconds, as the manual says.
    mesh.host("upstream").cut();
    for protocol in ["+notcp", "+tcp"] {
        let began = Instant::now();
        has(&dig(&format!("{protocol} other.test A")), &["status: SERVFAIL"]);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(6), "{protocol}: {took:?}");
    }
    end(mesh);
}

/// Hosts a and b, whose capsules' names beyond the zone are asked at unbound on a machine without a sidecar.
fn with_upstream(name: &str) -> (Mesh, Process) {
    let mesh = Mesh::new(name);
    let outside = mesh.host("upstream");
    let upstream = unbound(&mesh, &outside);
    for host in ["a", "b"] {
        mesh.host(host).configure(&format!("upstream_dns = [\"{}\"]", outside.address()));
    }
    mesh.start(&["a", "b"]);
    (mesh, upstream)
}

fn unbound(mesh: &Mesh, host: &Host) -> Process {
    let long: String = (0..8)
        .map(|n| format!("  local-data: 'long.test. TXT \"{}\"'\n", n.to_string().repeat(200)))
        .collect();
    let settings = format!(
        "server:
  interface: {address}
  access-control: 0.0.0.0/0 allow
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  use-syslog: no
  do-daemonize: no
  local-zone: \"test.\" static
  local-data: \"test. 3600 SOA ns.test. root.test. 1 2 3 4 3600\"
  local-data: \"www.test. A 192.0.2.80\"
  local-data: \"datagram.test. A 192.0.2.81\"
  local-data: \"stream.test. A 192.0.2.81\"
{long}",
        address = host.address()
    );
    let file = mesh.dir().join("unbound.conf");
    std::fs::write(&file, settings).expect("the mesh's folder takes files");
    let process = host.spawn(["unbound", "-d", "-c", &file.display().to_string()]);
    let at = format!("@{}", host.address());
    wait_until(SOON, "unbound", || {
        host.run(["dig", "+tries=1", "+time=1", &at, "www.test"]).stdout.contains("192.0.2.80")
    });
    process
}
