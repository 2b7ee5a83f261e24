//! Server and clients over loopback, and through a relay that spoils the stream.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use chat::client::{Summary, Talk, talk};

fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || chat::server::serve(&listener));
    address
}

fn say(server: &str, name: &str, lines: u64, rate: f64) -> Summary {
    let (server, name) = (server.to_owned(), name.to_owned());
    talk(&Talk { server, name, lines, seconds: f64::INFINITY, rate, show: |_| {} })
        .expect("the server is there")
}

/// Passes whole lines from the server on, changed by `change`; the other way untouched.
fn relay(server: &str, change: fn(usize, String) -> Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let to_server = TcpStream::connect(server).expect("the server is there");
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let (mut from, mut to) =
            (client.try_clone().expect("a socket"), to_server.try_clone().expect("a socket"));
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut writer = client.try_clone().expect("a socket");
        for (at, line) in BufReader::new(to_server).lines().map_while(Result::ok).enumerate() {
            let Some(line) = change(at, line) else { break };
            if writer.write_all(line.as_bytes()).is_err() {
                break;
            }
        }
        // The other thread holds this connection too. The client may have ended it already.
        let _ = client.shutdown(Shutdown::Both);
    });
    address
}

#[test]
fn three_clients_see_every_line_once() {
    let server = server();
    let summaries: Vec<Summary> = thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> = ["anna", "ben", "cleo"]
            .map(|name| scope.spawn(move || say(server, name, 2000, 0.0)))
            .into_iter()
            .collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).collect()
    });
    for summary in summaries {
        assert!(summary.ok, "{summary:?}");
        assert!(summary.sent == 2000 && summary.lines >= 2000 && summary.lines <= 6000, "{summary:?}");
        assert_eq!((summary.lost, summary.repeated, summary.reconnects), (0, 0, 0));
    }
}

#[test]
fn who_comes_later_starts_at_the_number_of_then() {
    let server = server();
    assert_eq!(say(&server, "first", 10, 0.0).lines, 10);
    let second = say(&server, "second", 5, 100.0);
    assert!(second.ok && second.lines == 5 && second.longest_gap_ms > 1.0, "{second:?}");
}

#[test]
fn a_lost_line_is_noticed() {
    let at = relay(&server(), |at, line| Some(if at == 5 { String::new() } else { format!("{line}\n") }));
    let summary = say(&at, "anna", 20, 0.0);
    assert!(!summary.ok && summary.lost > 0, "{summary:?}");
}

#[test]
fn a_repeated_line_is_noticed() {
    let at = relay(&server(), |at, line| {
        Some(if at == 5 { format!("{line}\n{line}\n") } else { format!("{line}\n") })
    });
    let summary = say(&at, "anna", 20, 0.0);
    assert!(!summary.ok && summary.repeated > 0, "{summary:?}");
}

#[test]
fn a_broken_connection_ends_the_client() {
    let at = relay(&server(), |at, line| (at < 5).then(|| format!("{line}\n")));
    let summary = say(&at, "anna", 1000, 500.0);
    assert!(!summary.ok && summary.error.is_some(), "{summary:?}");
    assert_eq!(summary.reconnects, 0);
}

#[test]
fn no_server_is_an_error_that_names_it() {
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound").to_string();
    let error = talk(&Talk {
        server: free.clone(),
        name: "anna".into(),
        lines: 1,
        seconds: 1.0,
        rate: 0.0,
        show: |_| {},
    })
    .expect_err("nobody listens");
    assert!(format!("{error:#}").contains(&free), "{error:#}");
}
