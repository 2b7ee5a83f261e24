//! The measuring and checking programs, between two hosts without anything of Capsule in between.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, Output, Process, program, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

fn start(host: &Host, name: &str, arguments: &str) -> Process {
    let words = arguments.split_whitespace().map(str::to_owned);
    let mut process = host.spawn(std::iter::once(program(name).display().to_string()).chain(words));
    if arguments.contains("--listen") {
        wait_until(LIMIT, "the program to listen", || {
            process.stderr().contains("listening") || !process.is_running()
        });
    }
    process
}

/// Runs both sides of a stream to their ends.
fn stream(name: &str, listen: &str, connect: &str) -> (Output, Output) {
    let mesh = Mesh::new(name);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut listening = start(&a, "stream-peer", &format!("--listen {}:7000 {listen}", a.address()));
    let mut connecting = start(&b, "stream-peer", &format!("--connect {}:7000 {connect}", a.address()));
    (connecting.wait(LIMIT), listening.wait(LIMIT))
}

fn number(summary: &Value, key: &str) -> u64 {
    summary[key].as_u64().unwrap_or_else(|| panic!("{key} in {summary}"))
}

#[test]
fn both_directions_at_once_with_half_close() {
    let both = "--send 20M --receive 20M --rate 40M --close half";
    let (connect, listen) = stream("kit-both", both, both);
    for summary in [connect.ok().json(), listen.ok().json()] {
        assert_eq!((number(&summary, "sent"), number(&summary, "received")), (20 << 20, 20 << 20));
        assert_eq!(summary["connections"][0]["end"], "eof");
        let seconds = summary["seconds"].as_f64().expect("a number");
        assert!((0.4..5.0).contains(&seconds), "paced: {seconds}");
    }
}

#[test]
fn a_wrong_byte_and_a_missing_one_fail() {
    let (_, listen) = stream("kit-wrong", "--seed 2", "--send 1M");
    assert_eq!(listen.exits(1).json()["connections"][0]["wrong_at"], 0);
    let (_, listen) = stream("kit-short", "--receive 1000001", "--send 1000000");
    assert_eq!(number(&listen.exits(1).json(), "received"), 1_000_000);
}

#[test]
fn write_and_exit_at_once() {
    let (connect, listen) = stream("kit-exit", "--receive 4M --read-after 0.5", "--send 4M --close exit");
    assert_eq!(connect.ok().stdout, "");
    assert_eq!(listen.ok().json()["connections"][0]["end"], "eof");
}

#[test]
fn closing_fully_and_resetting() {
    let full = "--send 1M --receive 1M --close full";
    let (connect, listen) = stream("kit-full", full, full);
    assert_eq!((connect.ok().code, listen.ok().code), (0, 0));
    let (_, listen) = stream("kit-reset", "--expect reset", "--send 1000 --close reset --linger 0.2");
    assert_eq!(listen.ok().json()["connections"][0]["end"], "reset");
}

#[test]
fn many_connections_wait_to_be_accepted() {
    let (connect, listen) = stream(
        "kit-backlog",
        "--connections 20 --accept-after 0.5 --send 1000 --receive 2000",
        "--connections 20 --send 2000 --receive 1000",
    );
    assert_eq!(number(&connect.ok().json(), "received"), 20_000);
    assert_eq!(number(&listen.ok().json(), "received"), 40_000);
}

#[test]
fn a_slow_reader_holds_the_sender_up() {
    // The kernels buffer 36 MiB at most (tcp_wmem, tcp_rmem): the rest must wait for the reader.
    let (connect, listen) = stream("kit-slow", "--receive 64M --read-rate 64M", "--send 64M");
    let seconds = connect.ok().json()["seconds"].as_f64().expect("a number");
    assert!(seconds > 0.3, "{seconds}");
    listen.ok();
}

#[test]
fn a_pulled_cable_is_a_gap_and_no_loss() {
    let mesh = Mesh::new("kit-gap");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut listening = start(&a, "stream-peer", &format!("--listen {}:7000 --receive 6M", a.address()));
    let mut connecting =
        start(&b, "stream-peer", &format!("--connect {}:7000 --send 6M --rate 4M", a.address()));
    wait_until(LIMIT, "the connection", || listening.stderr().contains("connected"));
    std::thread::sleep(Duration::from_millis(300));
    a.cut();
    std::thread::sleep(Duration::from_millis(500));
    a.join();
    connecting.wait(LIMIT).ok();
    let summary = listening.wait(LIMIT).ok().json();
    let gap = summary["longest_gap_ms"].as_f64().expect("a number");
    assert!(gap > 400.0, "{summary}");
}

#[test]
fn figures_are_measured() {
    let mesh = Mesh::new("kit-figures");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let at = a.address();
    let run = |name: &str, arguments: &str| {
        let line = format!("--connect {at}:7000 {arguments}");
        start(&b, name, &line).wait(LIMIT).ok().json()
    };
    {
        let _server = start(&a, "roundtrip", &format!("--listen {at}:7000"));
        let figures = run("roundtrip", "--seconds 0.3");
        assert!(
            figures["p50_us"].as_f64() > Some(1.0)
                && figures["p50_us"].as_f64() <= figures["p99_us"].as_f64()
        );
    }
    {
        let _server = start(&a, "throughput", &format!("--listen {at}:7000"));
        for arguments in ["--seconds 0.3", "--seconds 0.3 --reverse", "--seconds 0.3 --streams 4"] {
            assert!(run("throughput", arguments)["gbit_per_s"].as_f64() > Some(0.1));
        }
    }
    {
        let _server = start(&a, "connects", &format!("--listen {at}:7000"));
        let figures = run("connects", "--seconds 0.5 --parallel 16");
        assert!(number(&figures, "connections") > 100 && number(&figures, "failed") == 0, "{figures}");
    }
    let _server = start(&a, "connects", &format!("--listen {at}:7000 --hold 1"));
    assert_eq!(number(&run("connects", "--hold 200 --seconds 0.1"), "held"), 200);
}
