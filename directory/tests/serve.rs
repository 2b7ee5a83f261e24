//! The directory as a process, asked over loopback.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

mod serve {
    mod auditing;
    mod authority;
    mod backups;
    mod cookies;
    mod dns;
    mod dns_transports;
    mod dnssec;
    #[path = "../../src/store/etcd/process.rs"]
    mod etcd;
    mod health;
    mod joining;
    mod killing;
    mod malformed;
    mod placing;
    mod process;
    mod resolver;
    mod restarting;
    mod secondary;
    mod several;
    mod several_failing;
    mod several_secured;
    mod supervised;
    mod updating;
    mod watching;
}
