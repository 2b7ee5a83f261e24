//! Byte-checked streams between capsules.

use serde_json::Value;
use testkit::Host;

use crate::capsules::{Ended, start, wait_logged};
use crate::tool;

/// A `stream-peer` in a capsule.
#[derive(Debug)]
pub struct Peer;

impl Peer {
    /// Starts one that listens on port 7000, and waits until it does.
    #[track_caller]
    pub fn listen(host: &Host, name: &str, flags: &[&str]) {
        start(host, name, &[&[tool("stream-peer").as_str(), "--listen", "[::]:7000"], flags].concat());
        wait_logged(host, name, "listening on");
    }

    /// Starts one that connects to `place`, and waits until it did.
    #[track_caller]
    pub fn connect(host: &Host, name: &str, place: &str, flags: &[&str]) {
        start(host, name, &[&[tool("stream-peer").as_str(), "--connect", place], flags].concat());
        wait_logged(host, name, "connected");
    }
}

/// The summary of a stream-peer that saw what it was told to see: `bytes` received, all of them right.
#[track_caller]
pub fn checked(ended: &Ended, sent: u64, received: u64) -> Value {
    let summary = ended.json();
    let numbers = ["sent", "received", "wrong"].map(|name| summary[name].as_u64());
    assert_eq!(numbers, [Some(sent), Some(received), Some(0)], "{summary}");
    assert_eq!(summary["ok"], true, "{summary}");
    eprintln!("{} {received} bytes, longest gap {} ms", summary["role"], summary["longest_gap_ms"]);
    summary
}
