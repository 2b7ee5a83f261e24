//! A Redis server and a client that counts with it: a talk that must go on whatever happens.

use std::time::{Duration, Instant};

use testkit::{Host, wait_until};

use crate::capsules::{exec, place, start, wait_logged};
use crate::tool;

const NEXT_WITHIN: Duration = Duration::from_secs(5);
const KEY: &str = "db-client:client";

/// A client as Redis sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisClient {
    /// Redis counts connections: another one has another id.
    pub id: String,
    /// The client's address and port.
    pub address: String,
    /// The server's own address and port.
    pub local: String,
}

/// Starts a Redis server in a capsule, ready to serve.
#[track_caller]
pub fn start_redis(host: &Host, name: &str) {
    start(host, name, &["redis-server", "--save", "", "--protected-mode", "no"]);
    wait_logged(host, name, "Ready to accept connections");
}

/// The clients of a Redis server but for those of its own capsule.
#[track_caller]
pub fn redis_clients(host: &Host, server: &str) -> Vec<RedisClient> {
    let listed = exec(host, server, &["redis-cli", "client", "list"]).ok().stdout;
    let field = |line: &str, name: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    };
    let of = |line: &str| RedisClient {
        id: field(line, "id"),
        address: field(line, "addr"),
        local: field(line, "laddr"),
    };
    let all = listed.lines().filter(|line| line.starts_with("id=")).map(of);
    let inside =
        |client: &RedisClient| client.address.starts_with("127.") || client.address.starts_with("[::1]");
    let mut others: Vec<RedisClient> = all.filter(|client| !inside(client)).collect();
    // Redis shifts its list round as it looks after its clients.
    others.sort_by_key(|client| client.id.parse::<u64>().unwrap_or_default());
    others
}

/// Capsules `redis` and `counter`, in one endless connection.
#[derive(Debug)]
pub struct Talk {
    /// Whose sidecar is asked.
    host: Host,
    client: RedisClient,
    count: u64,
}

impl Talk {
    /// Starts both, and sees them talk.
    #[track_caller]
    pub fn start(server: &Host, client: &Host) -> Talk {
        start_redis(server, "redis");
        Talk::join(server, client)
    }

    /// Starts the counter alone: there is a Redis server in a capsule `redis`.
    #[track_caller]
    pub fn join(server: &Host, client: &Host) -> Talk {
        let counter = [&tool("db-client"), "--redis", "redis.capsule.internal:6379"];
        start(client, "counter", &[&counter[..], &["--rate", "200", "--seconds", "3600"]].concat());
        let host = server.clone();
        wait_until(NEXT_WITHIN, "the first answer", || count(&host) > 0);
        let clients = redis_clients(&host, "redis");
        assert_eq!(clients.len(), 1, "{clients:?}");
        let mut talk = Talk { count: 0, client: clients[0].clone(), host };
        talk.goes_on();
        talk
    }

    /// Asks the sidecar of another host from here on.
    #[track_caller]
    pub fn ask_at(&mut self, host: &Host) {
        self.host = host.clone();
    }

    /// The one connection is the same as ever, and answers come, none of them wrong.
    #[track_caller]
    pub fn goes_on(&mut self) {
        let before = count(&self.host);
        assert!(before >= self.count, "the count went back from {} to {before}", self.count);
        let waited = std::panic::Location::caller();
        wait_until(NEXT_WITHIN, &format!("further answers ({waited})"), || {
            self.count = count(&self.host);
            self.count > before
        });
        assert_eq!(
            redis_clients(&self.host, "redis"),
            std::slice::from_ref(&self.client),
            "the connection is another"
        );
        assert_eq!(place(&self.host, "counter").state, "running");
        // The client tells of each wrong answer, and ends when its connection does.
        let logs = self.host.capsule(["logs", "counter"]).ok();
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("", ""));
    }

    /// Waits for further answers after a break that `heal` ends, and says how long they took.
    ///
    /// # Panics
    /// When it took longer than `limit`.
    #[track_caller]
    pub fn resumes(&mut self, limit: Duration, heal: impl FnOnce()) -> Duration {
        let before = count(&self.host);
        heal();
        let healed = Instant::now();
        // One answer may have been on its way when the break began.
        wait_until(limit, "answers after the break", || count(&self.host) > before + 1);
        let took = healed.elapsed();
        self.goes_on();
        took
    }
}

#[track_caller]
fn count(host: &Host) -> u64 {
    let answer = exec(host, "redis", &["redis-cli", "get", KEY]).ok().stdout;
    answer.trim().parse().unwrap_or(0)
}
