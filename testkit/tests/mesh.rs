//! Hosts, cables, processes and their end, on real namespaces.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use testkit::{Mesh, leftovers, wait_for, wait_until};

const SHORT: Duration = Duration::from_secs(10);

fn reaches(from: &testkit::Host, to: &testkit::Host, v6: bool) -> bool {
    let address = if v6 { to.address6().to_string() } else { to.address().to_string() };
    let mut ping = from.command(["nsenter", "--version"]);
    ping.stdout(Stdio::null());
    assert!(ping.status().expect("nsenter runs").success());
    let listener = to.inside(|| TcpListener::bind((address.as_str(), 0))).expect("own address");
    let at = listener.local_addr().expect("bound");
    from.inside(|| TcpStream::connect_timeout(&at, Duration::from_millis(300))).is_ok()
}

#[test]
fn hosts_reach_each_other_until_one_is_cut() {
    let mesh = Mesh::new("kit-cut");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    assert!(reaches(&a, &b, false) && reaches(&b, &a, true));
    a.cut();
    assert!(!reaches(&b, &a, false) && !reaches(&a, &b, true));
    a.join();
    wait_until(SHORT, "the cable to carry again", || reaches(&a, &b, false) && reaches(&a, &b, true));
}

#[test]
fn a_process_lives_in_its_host_alone() {
    let mesh = Mesh::new("kit-process");
    let a = mesh.host("a");
    let mut sleeper = a.spawn(["sleep", "60"]);
    let space = |pid: String, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs");
    wait_until(SHORT, "the program to replace nsenter", || {
        fs::read_to_string(format!("/proc/{}/comm", sleeper.pid())).is_ok_and(|name| name.trim() == "sleep")
    });
    assert_ne!(space(sleeper.pid().to_string(), "net"), space("self".into(), "net"));
    assert_eq!(space(sleeper.pid().to_string(), "mnt"), space("self".into(), "mnt"));
    sleeper.kill();
    assert_eq!(sleeper.wait(SHORT).code, 128 + 9);

    let output = a.run(["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
    assert!(catch_unwind(|| output.ok()).is_err());
}

#[test]
fn nothing_is_left_of_a_mesh() {
    let mesh = Mesh::new("kit-left");
    let prefix = mesh.prefix().to_owned();
    let host = mesh.host("a");
    make_a_mess(&host);
    let found = leftovers(&prefix);
    assert_eq!(found.netns.len(), 2, "{found}");
    assert_eq!(found.mounts.len(), 2, "{found}");
    assert!(!found.cgroups.is_empty(), "{found}");
    assert!(found.processes.len() >= 4, "{found}");
    let dir = mesh.dir().to_owned();
    let left = mesh.end();
    assert!(left.is_empty(), "{left}");
    assert!(!dir.exists());
}

#[test]
fn a_panic_leaves_nothing_either() {
    let mut prefix = String::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mesh = Mesh::new("kit-panic");
        prefix = mesh.prefix().to_owned();
        make_a_mess(&mesh.host("a"));
        mesh.host("a").spawn(["echo", "to the log"]).wait(SHORT).ok();
        panic!("on purpose");
    }));
    assert!(result.is_err());
    let left = leftovers(&prefix);
    assert!(left.is_empty(), "{left}");
    let kept =
        env::current_exe().expect("/proc").ancestors().nth(3).expect("target").join("testkit").join(&prefix);
    assert!(fs::remove_dir_all(kept).is_ok(), "the logs were kept");
}

#[test]
fn a_killed_host_has_no_processes_and_others_keep_theirs() {
    let mesh = Mesh::new("kit-kill");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    make_a_mess(&a);
    let mut other = b.spawn(["sleep", "60"]);
    a.kill();
    let found = leftovers(a.netns());
    assert!(found.processes.is_empty(), "{found}");
    assert!(other.is_running());
    assert!(!reaches(&b, &a, false));
}

/// The test below starts this one and kills it.
#[test]
#[ignore = "only as a child of another test"]
fn child_that_is_killed() {
    let mesh = Mesh::new("kit-orphan");
    make_a_mess(&mesh.host("a"));
    println!("\nprefix={}", mesh.prefix());
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_test_that_is_killed_leaves_nothing() {
    let mut child = Command::new(env::current_exe().expect("/proc"))
        .args(["--exact", "child_that_is_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this very program");
    let mut stdout = child.stdout.take().expect("piped");
    let mut text = String::new();
    let prefix = wait_for(SHORT, "the child's mesh", || {
        let mut buffer = [0; 1024];
        let length = stdout.read(&mut buffer).expect("a pipe");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let line = text.lines().find_map(|line| line.strip_prefix("prefix="))?;
        text.ends_with('\n').then(|| line.to_owned())
    });
    let found = leftovers(&prefix);
    assert!(found.processes.len() >= 3, "{found}");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    wait_until(SHORT, "the sweeper to finish", || leftovers(&prefix).is_empty());
}

#[test]
fn http_is_asked_inside_the_host() {
    let mesh = Mesh::new("kit-http");
    let a = mesh.host("a");
    let listener = a.inside(|| TcpListener::bind((a.address(), 9100))).expect("own address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 1024];
        let length = stream.read(&mut request).expect("a request");
        stream.write_all(b"HTTP/1.1 503 Not Yet\r\nContent-Length: 4\r\n\r\nsoon").expect("an answer");
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    assert_eq!(a.http("/readyz").expect("an answer"), (503, "soon".to_owned()));
    assert!(server.join().expect("no panic").starts_with("GET /readyz HTTP/1.1\r\n"));
}

#[test]
fn a_wait_in_vain_says_for_what() {
    let panic =
        catch_unwind(|| wait_until(Duration::from_millis(50), "the moon", || false)).expect_err("in vain");
    let text = panic.downcast_ref::<String>().expect("a message");
    assert!(text.contains("the moon"), "{text}");
}

/// What a sidecar and its capsules may leave: mounts, a process in a namespace of its own that forgot its origin, a
/// frozen process in a cgroup of its own, and a process whose root is an overlay in the data folder.
fn make_a_mess(host: &testkit::Host) {
    let id = format!("{:032x}", u128::from(std::process::id()) << 64);
    let capsule = host.data().join("capsules").join(id);
    fs::create_dir_all(&capsule).expect("own folder");
    let script = r#"
        set -e
        cd "$1"
        mkdir upper work root private; touch shim
        mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" root
        mount -t tmpfs none private
        setsid env -u TESTKIT_HOST unshare --net bash -c 'exec -a capsule-shim tail -f /dev/null "$0"' "$1/shim" >/dev/null 2>&1 &
        setsid env -i unshare --net --mount /usr/sbin/chroot root sleep 61 >/dev/null 2>&1 &
        setsid env -i unshare --net --mount bash -c 'mount --bind root root; cd root; mkdir -p mnt; pivot_root . mnt; exec sleep 62' >/dev/null 2>&1 &
        group=/sys/fs/cgroup/freezer
        [ -d $group ] || group=/sys/fs/cgroup
        group=$group/capsule-$(basename "$1")-$$
        mkdir $group
        setsid sleep 63 >/dev/null 2>&1 &
        echo $! >$group/cgroup.procs
        if [ -e $group/freezer.state ]; then echo FROZEN >$group/freezer.state; else echo 1 >$group/cgroup.freeze; fi
        sleep 0.3
    "#;
    host.run(["bash", "-c", script, "mess", capsule.to_str().expect("plain text")]).ok();
}
