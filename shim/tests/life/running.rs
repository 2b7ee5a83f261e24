use std::os::fd::AsFd;
use std::time::Duration;

use shim::{Program, Reply, Request, place};

use crate::capsule::{Capsule, program, until};

#[test]
fn a_program_runs_writes_and_ends_with_its_code() {
    let capsule = Capsule::new("a", "ends");
    capsule.run(&program(&["sh", "-c", "echo out; echo err >&2; hostname; exit 7"]));
    assert_eq!(capsule.client().watch_exit().unwrap(), 7);
    let output = capsule.output();
    for line in ["out\n", "err\n", "test\n"] {
        assert!(output.contains(line), "{output}");
    }
    assert_eq!(std::fs::read_to_string(place::exit(capsule.dir.path())).unwrap(), "{\"code\":7}");
    capsule.remove();
}

#[test]
fn a_program_that_cannot_start_says_why() {
    let capsule = Capsule::new("a", "absent");
    capsule.prepare(&program(&["/no/such/program"]));
    let reply = capsule.ask(&Request::Run { argv: capsule.runc.run_argv(&capsule.id, &capsule.dir) });
    let Reply::Failed { stderr_tail, .. } = reply else { panic!("{reply:?}") };
    assert!(stderr_tail.contains("/no/such/program"), "{stderr_tail}");
    assert_eq!(capsule.program(), Program::None);
    capsule.remove();
}

#[test]
fn signals_reach_the_program() {
    let capsule = Capsule::new("a", "signal");
    capsule.run(&program(&[
        "sh",
        "-c",
        "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    ]));
    capsule.wait_for("ready");
    assert_eq!(capsule.ask(&Request::Signal { signal: 15, exec: None }), Reply::Done);
    assert_eq!(capsule.client().watch_exit().unwrap(), 3);
    assert!(capsule.output().contains("got"));
    capsule.remove();
}

#[test]
fn a_killed_program_ends_with_128_and_the_signal() {
    let capsule = Capsule::new("a", "killed");
    capsule.run(&program(&["sleep", "1000"]));
    capsule.ask(&Request::Signal { signal: 9, exec: None });
    assert_eq!(capsule.client().watch_exit().unwrap(), 137);
    capsule.remove();
}

#[test]
fn the_program_is_alone_and_confined() {
    let capsule = Capsule::new("a", "confined");
    capsule.run(&program(&["sleep", "1000"]));
    let inside = |script: &str| capsule.exec(&["sh", "-c", script]);
    assert_eq!(inside("cat /etc/shadow | wc -c").1.trim(), "0");
    assert_eq!(inside("echo x > /proc/sys/kernel/core_pattern; true").1.matches("Read-only").count(), 1);
    assert_eq!(inside("cat /proc/timer_list | wc -c").1.trim(), "0");
    assert_eq!(inside("cat /proc/1/comm").1.trim(), "sleep");
    assert_eq!(inside("cat /etc/resolv.conf").1.lines().next(), Some("nameserver 127.0.0.88"));
    assert_eq!(inside("mount -t tmpfs none /mnt 2>/dev/null; echo $?").1.trim(), "32");
    assert_eq!(
        inside("mknod /tmp/disk b 254 0 && cat /tmp/disk 2>&1 | grep -c 'not permitted'").1.trim(),
        "1"
    );
    assert_eq!(inside("ls /dev/pts/ptmx /dev/ptmx /dev/null /dev/urandom /dev/fd/0 | wc -l").1.trim(), "5");
    assert_eq!(inside("ls -d /run/systemd /run/capsule 2>/dev/null | wc -l").1.trim(), "0");
    capsule.remove();
}

#[test]
fn a_terminal_can_be_opened() {
    let capsule = Capsule::new("a", "terminal");
    capsule.run(&program(&["sleep", "1000"]));
    let (code, said) = capsule.exec(&["/usr/bin/script", "-qec", "tty", "/dev/null"]);
    assert_eq!((code, said.trim()), (0, "/dev/pts/0"));
    capsule.remove();
}

#[test]
fn several_execs_at_once_each_have_their_code() {
    let capsule = Capsule::new("a", "execs");
    capsule.run(&program(&["sleep", "1000"]));
    std::thread::scope(|scope| {
        for n in 0..6 {
            let capsule = &capsule;
            scope.spawn(move || {
                let script = format!("sleep 0.1; echo {n}; exit {n}");
                assert_eq!(capsule.exec(&["sh", "-c", &script]), (n, format!("{n}\n")));
            });
        }
    });
    let missing = capsule.exec(&["/no/such/command"]);
    assert!(missing.0 != 0 && missing.1.contains("/no/such/command"), "{missing:?}");
    capsule.remove();
}

#[test]
fn an_exec_is_signalled_and_hung_up() {
    let capsule = Capsule::new("a", "hangup");
    capsule.run(&program(&["sleep", "1000"]));
    let null = std::fs::File::open("/dev/null").unwrap();
    let spec = |seconds: &str| runtime::runc::ExecSpec {
        argv: vec!["sleep".into(), seconds.into()],
        ..Default::default()
    };
    let running = |seconds: &str| {
        let (_, said) = capsule.exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
        said.contains(&format!("sleep {seconds} "))
    };
    let start = |id, seconds: &str| {
        let request = Request::Exec { id, argv: capsule.runc.exec_argv(&capsule.id, &spec(seconds)) };
        let client = capsule.client();
        shim::wire::send(&client, &request, &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
        until("the exec", || running(seconds));
        client
    };
    let signalled = start(5, "1001");
    assert_eq!(capsule.ask(&Request::Signal { signal: 15, exec: Some(5) }), Reply::Done);
    let reply: Reply = shim::wire::receive(&signalled, &mut Vec::new()).unwrap().unwrap().message;
    assert_eq!(reply, Reply::Exited { code: 143 });
    let left = start(6, "1002");
    drop(left);
    until("the exec hung up", || !running("1002"));
    capsule.remove();
}

#[test]
fn much_output_arrives_whole() {
    let capsule = Capsule::new("a", "output");
    capsule.run(&program(&["seq", "1", "200000"]));
    assert_eq!(capsule.client().watch_exit().unwrap(), 0);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(capsule.output() == expected);
    capsule.remove();
}

#[test]
fn one_shim_for_a_directory() {
    let capsule = Capsule::new("a", "one");
    let second = std::process::Command::new(crate::capsule::SHIM)
        .arg("--dir")
        .arg(capsule.dir.path())
        .args(["--id", "one"])
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("serves"));
    assert_eq!(capsule.program(), Program::None);
    capsule.remove();
}

#[test]
fn quitting_under_a_running_program_is_refused() {
    let capsule = Capsule::new("a", "quit");
    capsule.run(&program(&["sleep", "1000"]));
    assert!(matches!(capsule.ask(&Request::Quit), Reply::Failed { .. }));
    std::thread::sleep(Duration::from_millis(20));
    assert!(matches!(capsule.program(), Program::Running { .. }));
    capsule.remove();
}

/// In the capsule's own, locked network CRIU can wait for minutes.
#[test]
fn runc_works_in_the_network_of_who_asks() {
    let capsule = Capsule::new("a", "network");
    let seen = capsule.dir.path().join("seen");
    let script = format!("readlink /proc/self/ns/net > {}; exit 1", seen.display());
    let reply = capsule.ask(&Request::Run { argv: vec!["sh".into(), "-c".into(), script] });
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(std::fs::read_to_string(seen).unwrap().trim(), own.to_str().unwrap());
    capsule.remove();
}
