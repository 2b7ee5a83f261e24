//! A host that joined the mesh and then lies: it may speak for what is placed on it, and for nothing else (D8).

#[path = "hostile_host/evil.rs"]
mod evil;

use std::net::SocketAddr;
use std::time::Duration;

use admin_api::request::{Exec, Memory, Run};
use admin_api::{AskError, Request};
use bytes::BytesMut;
use directory_api::CapsuleRecord;
use evil::{ADMIN, Evil, FILES, MOVE, Wire, fresh_session, is_well, log_of};
use overlay_proto::frame::{Attach, Attached, Held, Hold, Position};
use overlay_proto::{
    AttachKey, CapsuleId, EndKind, Frame, Generation, Open, OpenOutcome, Role, SessionId, StreamHeader,
};
use serde_json::{Value, json};
use testkit::{Host, Mesh, pattern, wait_for, wait_until};
use tests::{
    SOON, Talk, capsule_id, end, exec, locators, nothing_left_of, on_disk, place, places, redis_clients,
    start, start_redis,
};

/// A connected pair of programs as the sidecars see it.
#[derive(Clone, Copy)]
struct Session {
    id: SessionId,
    /// Generations of opener and acceptor.
    generations: (u64, u64),
}

impl Session {
    /// The one session of capsule `acceptor`, opened by capsule `opener`.
    #[track_caller]
    fn of(host: &Host, opener: &str, acceptor: &str) -> Session {
        let id = wait_for(SOON, "the session", || {
            let listed = host.capsule(["--json", "sessions", acceptor]).ok().json();
            let sessions = listed["sessions"].as_array().cloned().unwrap_or_default();
            let found = sessions.iter().find(|session| session["peer_capsule"] == opener);
            found.map(|session| session["id"].as_str().expect("an id").to_owned())
        });
        let generations = (place(host, opener).generation, place(host, acceptor).generation);
        Session { id: id.parse().expect("an id"), generations }
    }

    fn key(self, attempt: u64) -> AttachKey {
        key((self.generations.0, self.generations.1, attempt))
    }

    /// Keys that are the present one, older, newer, and made up.
    fn keys(self) -> Vec<AttachKey> {
        let (opener, acceptor) = self.generations;
        let attempts = (0..4).map(|attempt| (opener, acceptor, attempt));
        let made_up = [(opener + 1, acceptor, 0), (opener, acceptor + 1, 9), (u64::MAX, u64::MAX, u64::MAX)];
        attempts.chain([(opener, acceptor, u64::MAX), (0, 0, 0)]).chain(made_up).map(key).collect()
    }
}

fn key((opener, acceptor, attempt): (u64, u64, u64)) -> AttachKey {
    AttachKey {
        opener_generation: Generation::new(opener),
        acceptor_generation: Generation::new(acceptor),
        attempt,
    }
}

/// Connections that Redis has taken in its life, but for those by which it is asked.
#[track_caller]
fn connections_taken(host: &Host, asked: &mut u64) -> u64 {
    *asked += 1;
    let text = exec(host, "redis", &["redis-cli", "info", "stats"]).ok().stdout;
    let line = text.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.and_then(|count| count.trim().parse::<u64>().ok()).expect("Redis counts them") - *asked
}

/// What became of an OPEN.
#[track_caller]
fn outcome(evil: &Evil, wire: &mut Wire, open: Open) -> OpenOutcome {
    let session = open.session;
    evil.tell(wire, &Frame::Open(open));
    loop {
        match evil.hear(wire).expect("the link stays up") {
            Frame::Answer(answer) if answer.session == session => return answer.outcome,
            _ => {}
        }
    }
}

#[test]
fn sessions_are_opened_only_for_capsules_that_are_there() {
    let mesh = Mesh::running("opens", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    start(&b, "client", &["sleep", "600"]);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let redis: CapsuleId = capsule_id(&a, "redis").parse().expect("an id");
    let client: CapsuleId = capsule_id(&a, "client").parse().expect("an id");
    let ((redis4, redis6), (client4, client6)) = (locators(&a, "redis"), locators(&a, "client"));
    let at = |address: &str, port: u16| SocketAddr::new(address.parse().expect("a locator"), port);
    let generation = |name: &str| Generation::new(place(&a, name).generation);
    let (of_client, of_redis) = (generation("client"), generation("redis"));
    let mut wire = evil.link(&a);
    let open = |number: u8, opener: CapsuleId, opener_generation: Generation, source: SocketAddr| Open {
        session: fresh_session(number),
        source,
        destination: at(if source.is_ipv4() { &redis4 } else { &redis6 }, 6379),
        sequence: 7,
        opener,
        opener_generation,
        acceptor: redis,
        acceptor_generation: of_redis,
    };
    let mut asked = 0;
    let before = connections_taken(&a, &mut asked);
    let others = [
        // In the name of a capsule that is placed elsewhere, whatever generation it is said to have.
        open(1, client, of_client, at(&client4, 40001)),
        open(2, client, of_client, at(&client6, 40002)),
        open(3, client, Generation::new(of_client.number() + 1), at(&client4, 40003)),
        open(4, client, Generation::new(u64::MAX), at(&client4, 40004)),
        // In its own name, from an address that is another's, the acceptor's, or nobody's.
        open(5, own.id, own.generation, at(&client4, 40005)),
        open(6, own.id, own.generation, at(&redis4, 40006)),
        open(7, own.id, own.generation, at("127.0.0.1", 40007)),
        open(8, own.id, own.generation, at("203.0.113.9", 40008)),
        open(9, own.id, own.generation, at(&client6, 40009)),
        // In its own name at a generation that it never had.
        open(
            10,
            own.id,
            Generation::new(own.generation.number() + 1),
            at(&own.locators.v4.to_string(), 40010),
        ),
        // In the name of a capsule that does not exist, of the acceptor itself, and of nobody.
        open(11, CapsuleId::from_bytes([9; 16]), of_client, at(&client4, 40011)),
        open(12, redis, of_redis, at(&redis4, 40012)),
        open(13, CapsuleId::from_bytes([0; 16]), Generation::new(0), at(&own.locators.v4.to_string(), 40013)),
    ];
    for open in others {
        assert_eq!(outcome(&evil, &mut wire, open.clone()), OpenOutcome::Denied, "{open:?}");
    }
    assert_eq!(connections_taken(&a, &mut asked), before, "Redis was connected to");
    assert_eq!(redis_clients(&a, "redis"), []);
    // A capsule that is not here is not here, whoever asks.
    let mut elsewhere = open(20, own.id, own.generation, at(&own.locators.v4.to_string(), 40020));
    elsewhere.acceptor = client;
    elsewhere.destination = at(&client4, 6379);
    assert_eq!(outcome(&evil, &mut wire, elsewhere), OpenOutcome::NotHere);
    // That its own capsule may connect shows that all this was not refused for another reason.
    let honest = open(21, own.id, own.generation, at(&own.locators.v4.to_string(), 40021));
    assert!(matches!(outcome(&evil, &mut wire, honest), OpenOutcome::Accepted { .. }));
    let clients = redis_clients(&a, "redis");
    assert_eq!(clients.len(), 1, "{clients:?}");
    assert_eq!(clients[0].address, format!("{}:40021", own.locators.v4));
    is_well(&a);
    end(mesh);
}

/// Every frame about a session, from a host that has neither end of it.
fn forged(session: Session, to: Role) -> Vec<Vec<Frame>> {
    let id = session.id;
    let ends = [EndKind::Fin, EndKind::Reset];
    let positions = [0, 1, 1 << 40].into_iter().flat_map(move |offset| {
        let end = Some(overlay_proto::End { kind: EndKind::Reset, offset });
        let at = Position {
            delivered: offset,
            acknowledged: offset,
            consumed: offset,
            end: None,
            end_delivered: None,
        };
        [at, Position { end, end_delivered: Some(EndKind::Fin), ..at }]
    });
    let positions: Vec<Position> = positions.collect();
    let each = |make: &dyn Fn(AttachKey, Position) -> Frame| -> Vec<Frame> {
        let keys = session.keys().into_iter();
        keys.flat_map(|key| positions.iter().map(move |position| make(key, *position))).collect()
    };
    vec![
        each(&|key, position| Frame::Attach(Attach { session: id, to, key, position })),
        each(&|key, position| Frame::Attached(Attached { session: id, to, key, position })),
        each(&|key, position| Frame::Hold(Hold { session: id, to, key, position })),
        each(&|key, position| Frame::Held(Held { session: id, to, key, position })),
        session.keys().into_iter().map(|key| Frame::Stale { session: id, to, key }).collect(),
        each(&|key, position| {
            let (offset, end) = (position.delivered, position.end_delivered);
            Frame::Delivered { session: id, to, key, offset, end }
        }),
        each(&|key, position| {
            let kind = ends[usize::from(position.end.is_some())];
            Frame::End { session: id, to, key, kind, offset: position.delivered }
        }),
        vec![Frame::Unknown { session: id, to }; 3],
        vec![Frame::NotHere { session: id, to }; 3],
    ]
}

#[test]
fn frames_of_a_stranger_change_nothing() {
    let mesh = Mesh::running("frames", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "counter", "redis");
    let before = places(&a);
    let mut wires = [(evil.link(&a), Role::Acceptor), (evil.link(&b), Role::Opener)];
    let kinds = forged(session, Role::Acceptor).len();
    for kind in 0..kinds {
        for (wire, to) in &mut wires {
            // Also for the half that is on the other host.
            for to in [*to, to.other()] {
                let frames = forged(session, to).swap_remove(kind);
                eprintln!("{} of {:?}", frames.len(), frames[0]);
                frames.iter().for_each(|frame| evil.tell(wire, frame));
            }
            evil.settle(wire);
        }
        talk.goes_on();
    }
    // Asked of the directory, and refused.
    for host in [&a, &b] {
        assert!(
            log_of(host).contains("a host spoke for a capsule that is not placed there"),
            "{}",
            host.name()
        );
        is_well(host);
    }
    assert_eq!(places(&a), before);
    assert_eq!(Session::of(&a, "counter", "redis").id, session.id);
    end(mesh);
}

/// Who did not open a session can't give it up either.
#[test]
fn a_stranger_cancels_nothing() {
    let mesh = Mesh::running("cancels", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "counter", "redis").id;
    for host in [&b, &a] {
        let mut wire = evil.link(host);
        evil.tell(&mut wire, &Frame::Cancel { session });
        evil.settle(&mut wire);
        talk.goes_on();
        is_well(host);
    }
    end(mesh);
}

/// A data stream counts only if it comes from the host that has the other half.
#[test]
fn data_of_a_stranger_reaches_no_program() {
    let mesh = Mesh::running("data", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    // Connected and silent: where its next byte belongs is easily known.
    let line = "exec 3<>/dev/tcp/redis.capsule.internal/6379; head -c 5 <&3; sleep 600";
    start(&b, "silent", &["bash", "-c", line]);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "silent", "redis");
    let forge = |host: &Host, to: Role, bytes: &str| {
        let wire = evil.link(host);
        for (attempt, offset) in [(0, 0), (0, 1), (0, 5), (1, 0), (2, 0)] {
            let header = StreamHeader { session: session.id, to, key: session.key(attempt), offset };
            evil.data(&wire, header, bytes.as_bytes());
        }
        std::thread::sleep(Duration::from_millis(500));
        is_well(host);
    };
    forge(&a, Role::Acceptor, "SET forged yes\r\n");
    assert_eq!(
        exec(&a, "redis", &["redis-cli", "get", "forged"]).ok().stdout.trim(),
        "",
        "evil spoke to Redis"
    );
    forge(&b, Role::Opener, "forged reply\r\n");
    assert_eq!(a.capsule(["logs", "silent"]).ok().stdout, "", "evil spoke to the client");
    assert_eq!(redis_clients(&a, "redis").len(), 1, "the connection is gone");
    end(mesh);
}

/// The same while bytes flow: neither cut nor mixed.
#[test]
fn data_of_a_stranger_does_not_disturb_a_talk() {
    let mesh = Mesh::running("noise", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "counter", "redis");
    for (host, to) in [(&a, Role::Acceptor), (&b, Role::Opener)] {
        let wire = evil.link(host);
        for key in session.keys() {
            for offset in [0, 1, 4096, u64::MAX] {
                let header = StreamHeader { session: session.id, to, key, offset };
                evil.data(&wire, header, b"+forged\r\n");
            }
        }
        talk.goes_on();
        is_well(host);
    }
    end(mesh);
}

/// Each frame costs a question to the directory at most, and none of them the place of one that counts.
#[test]
fn a_flood_of_a_stranger_drowns_nothing() {
    let mesh = Mesh::running("flood", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "counter", "redis");
    for (host, to) in [(&a, Role::Acceptor), (&b, Role::Opener)] {
        let mut wire = evil.link(host);
        let frame =
            Frame::Delivered { session: session.id, to, key: session.key(0), offset: 1 << 40, end: None };
        for _ in 0..20 {
            (0..1000).for_each(|_| evil.tell(&mut wire, &frame));
            talk.goes_on();
        }
        evil.settle(&mut wire);
        is_well(host);
    }
    talk.goes_on();
    end(mesh);
}

/// Whether a verb was refused because the host that passes it on may only read.
#[track_caller]
fn is_refused(answer: &Result<admin_api::Body, AskError>) -> bool {
    matches!(answer, Err(AskError::Refused(view)) if view.code == "admin/not-operator")
}

#[test]
fn a_host_without_operator_rights_only_reads() {
    let mesh = Mesh::running("rights", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for (host, name) in [(&a, "near"), (&b, "far")] {
        start(host, name, &["sleep", "600"]);
    }
    let evil = Evil::join(&mesh, &[&a, &b]);
    let before = places(&a);
    let (id, wire) = (capsule_id(&a, "near"), evil.link(&a));
    let text = str::to_owned;
    // As passed on by itself, as if asked at a's own socket, and in the name of a host that may.
    for by in [Some("evil"), None, Some("b"), Some("a")] {
        for name in ["near", "far", "nobody"] {
            let run = Run { name: text(name), argv: vec![text("sleep"), text("1")], ..Run::default() };
            let inside = Exec { name: text(name), argv: vec![text("true")], ..Exec::default() };
            let acts = [
                Request::Run(run),
                Request::Exec(inside),
                Request::Start { name: text(name) },
                Request::Stop { name: text(name), timeout_s: 1 },
                Request::Rm { name: text(name), force: true, local: false },
                Request::Rm { name: text(name), force: false, local: false },
                Request::Move { name: text(name), to: text("b"), memory: Memory::Auto, dry_run: false },
                Request::Follow { name: text(name), id: id.clone(), from_position: 0, signals: true },
            ];
            for request in acts {
                let answer = evil.ask(&wire, request.clone(), by);
                assert!(is_refused(&answer), "{request:?} by {by:?}: {answer:?}");
            }
        }
    }
    assert_eq!(places(&a), before);
    let reads = [
        Request::Ps { local: false },
        Request::Ps { local: true },
        Request::Hosts,
        Request::Resolve { name: text("far") },
        Request::Inspect { name: text("near") },
        Request::Logs { name: text("near") },
        Request::Sessions { name: None },
        Request::Sessions { name: Some(text("near")) },
        Request::Preflight { name: None, to: None },
        Request::Move { name: text("near"), to: text("b"), memory: Memory::Auto, dry_run: true },
    ];
    for request in reads {
        let answer = evil.ask(&wire, request.clone(), Some("evil"));
        assert!(answer.is_ok(), "{request:?}: {answer:?}");
    }
    for name in ["near", "far"] {
        exec(&b, name, &["true"]).ok();
    }
    assert_eq!(places(&a), before);
    [&a, &b].into_iter().for_each(is_well);
    end(mesh);
}

/// What the source of a move says first, about the capsule in this file.
fn prepare(file: &Value, dry_run: bool) -> Value {
    json!({
        "says": "prepare", "offer": "0123456789abcdef0123456789abcdef", "capsule": file, "dry_run": dry_run,
        "needs": {
            "files_bytes": 0, "files_inodes": 0, "memory_bytes": 0, "cpu": [],
            "machine": std::env::consts::ARCH, "shared": [],
        },
        "base": [], "peers": [],
    })
}

#[test]
fn capsules_that_are_elsewhere_do_not_arrive() {
    let mesh = Mesh::running("arrive", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let (before, id) = (places(&a), capsule_id(&a, "redis"));
    let path = a.data().join("capsules").join(&id).join("capsule.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("redis is there")).expect("JSON");
    let wires = [(&a, evil.link(&a)), (&b, evil.link(&b))];
    let mut unknown = file.clone();
    unknown["id"] = json!("00000000000000000000000000000001");
    for (host, wire) in &wires {
        for file in [&file, &unknown] {
            for dry_run in [true, false] {
                let answer = evil.converse(wire, MOVE, &prepare(file, dry_run));
                assert_eq!(answer, None, "{} examined it", host.name());
            }
        }
        // A conversation that does not begin at its beginning.
        for message in [json!({"says": "restore"}), json!({"says": "image", "files": [["../../x", 4]]})] {
            assert_eq!(evil.converse(wire, MOVE, &message), None);
        }
        // Files of no move, or of one that is another's.
        for tree in ["private", "base"] {
            let header = json!({"offer": "0123456789abcdef0123456789abcdef", "tree": tree});
            assert_eq!(evil.converse(wire, FILES, &header), None);
        }
        let log = log_of(host);
        assert!(log.contains("files of a move that is not under way"), "{log}");
        assert!(log.contains("is not placed at evil"), "{log}");
        is_well(host);
    }
    assert!(!on_disk(&b, &id));
    nothing_left_of(&b, &id);
    assert_eq!(places(&a).iter().filter(|place| place.name != "own").cloned().collect::<Vec<_>>(), {
        before.into_iter().filter(|place| place.name != "own").collect::<Vec<_>>()
    });
    talk.goes_on();
    // Its own capsule is looked at: what was refused was not refused for its form.
    let mine = disguised(file, &own);
    let answer = evil.converse(&wires[1].1, MOVE, &prepare(&mine, true)).expect("an answer");
    assert_eq!(answer["says"], "examined", "{answer}");
    end(mesh);
}

/// The file of a capsule, as if it were that of another one.
fn disguised(mut file: Value, own: &CapsuleRecord) -> Value {
    file["id"] = json!(own.id.to_string());
    file["name"] = json!(own.name.as_str());
    file["generation"] = json!(own.generation);
    file["locators"] = json!(own.locators);
    file
}

/// A host may move its own capsules anywhere; what it says on the way is checked all the same.
#[test]
fn what_a_source_says_harms_no_target() {
    let mesh = Mesh::running("source", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let path = a.data().join("capsules").join(capsule_id(&a, "redis")).join("capsule.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("redis is there")).expect("JSON");
    let (begin, wire) = (prepare(&disguised(file, &own), false), evil.link(&b));
    let wrong: [(&str, Value); 12] = [
        ("more sessions than memory", json!({"says": "sessions", "bytes": 1_u64 << 34})),
        ("more sessions than allowed", json!({"says": "sessions", "bytes": u64::MAX})),
        ("no sessions", json!({"says": "sessions", "bytes": 64})),
        ("a log elsewhere", json!({"says": "log", "name": "../../../../etc/motd", "offset": 0, "bytes": 4})),
        ("a long piece", json!({"says": "log", "name": "log", "offset": 0, "bytes": 1_u64 << 40})),
        ("a far piece", json!({"says": "log", "name": "log", "offset": u64::MAX, "bytes": 4})),
        ("an image elsewhere", json!({"says": "image", "files": [["../../x", 4]]})),
        ("a huge image", json!({"says": "image", "files": [["a", u64::MAX], ["b", 2]]})),
        ("no image at all", json!({"says": "restore"})),
        ("a key too early", json!({"says": "key", "key": "00".repeat(32)})),
        ("prepare twice", begin.clone()),
        ("an unknown word", json!({"says": "please"})),
    ];
    for (what, message) in wrong {
        let answers = evil.lead(&wire, &[begin.clone(), message], &noise(1, 64));
        let says: Vec<&str> = answers.iter().filter_map(|answer| answer["says"].as_str()).collect();
        assert_eq!(says, ["examined", "ready", "failed"], "{what}: {answers:#?}");
        is_well(&b);
        nothing_left_of(&b, &own.id.to_string());
    }
    talk.goes_on();
    end(mesh);
}

/// What is gone at the source is removed at the target, and nothing else there.
#[test]
fn a_source_removes_nothing_but_private_files() {
    let mesh = Mesh::running("removes", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let path = a.data().join("capsules").join(capsule_id(&a, "redis")).join("capsule.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("redis is there")).expect("JSON");
    let (begin, wire) = (prepare(&disguised(file, &own), false), evil.link(&b));
    let offer = begin["offer"].clone();
    let arriving = b.data().join("capsules").join(own.id.to_string());
    let running = evil.begin(&wire, &begin);
    std::os::unix::fs::symlink(b.data(), arriving.join("upper/out")).expect("the layer is there");
    std::fs::write(arriving.join("upper/mine"), "mine").expect("the layer is there");
    let say = |list: &[u8]| {
        let header = json!({"offer": offer, "tree": "private"}).to_string().into_bytes();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
        evil.raw(&wire, &[&[FILES], &length(&header)[..], &header, list].concat(), true)
    };
    let piece = |paths: &[u8]| [&u32::try_from(paths.len()).expect("short").to_be_bytes(), paths].concat();
    let absolute = format!("mine\0{}\0", b.data().join("identity").display());
    let refused = [
        piece(b"mine\0../capsule.json\0"),
        piece(absolute.as_bytes()),
        piece(b"mine\0.\0"),
        piece(b"mine"),
        ((1_u32 << 20) + 1).to_be_bytes().to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        piece(b"mine\0")[..7].to_vec(),
    ];
    for list in refused {
        assert_eq!(say(&list), None, "{list:?}");
    }
    assert!(arriving.join("upper/mine").exists());
    // What is its own goes; a symlink leads nowhere.
    say(&piece(b"mine\0out/identity\0out/capsules\0"));
    assert!(!arriving.join("upper/mine").exists());
    assert!(arriving.join("upper/out").is_symlink());
    assert!(arriving.join("capsule.json").exists() && b.data().join("identity").exists());
    let log = log_of(&b);
    for why in ["is no path below it", "has no end", "is too long", "ended early"] {
        assert!(log.contains(why), "{why}: {log}");
    }
    evil.leave(running);
    nothing_left_of(&b, &own.id.to_string());
    talk.goes_on();
    end(mesh);
}

/// Pseudo-random bytes.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern::fill(seed, 0, &mut bytes);
    bytes
}

/// Beginnings that are no messages, for any kind of stream: noise, huge lengths, too little.
fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..8).map(|seed| noise(seed, 1 << (2 * seed))).collect();
    for length in [u32::MAX, 1 << 31, (16 << 20) + 1, 4097, 4096, 257, 5] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(noise(u64::from(length), 64));
        all.push(bytes);
    }
    all.extend([vec![], vec![0], vec![0; 3], vec![0; 4], vec![0xff; 4], vec![0; 5000]]);
    all
}

/// A link on which garbage may have been fatal is made anew.
#[track_caller]
fn usable(evil: &Evil, host: &Host, wire: Wire) -> Wire {
    if wire.connection.close_reason().is_none() { wire } else { evil.link(host) }
}

#[test]
fn garbage_closes_one_link_at_most() {
    let mesh = Mesh::running("garbage", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "counter", "redis");
    for host in [&a, &b] {
        instead_of_a_greeting(&evil, host);
        talk.goes_on();
        on_the_control_stream(&evil, host);
        talk.goes_on();
        on_data_streams(&evil, host, session);
        talk.goes_on();
        on_request_streams(&evil, host);
        talk.goes_on();
        is_well(host);
    }
    // The link between a and b was not touched.
    for host in [&a, &b] {
        let downs = log_of(host)
            .lines()
            .filter(|line| line.contains("link down"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert!(downs.iter().all(|line| line.contains("evil")), "{}: {downs:#?}", host.name());
    }
    evil.settle(&mut evil.link(&a));
    end(mesh);
}

fn instead_of_a_greeting(evil: &Evil, host: &Host) {
    let mut beginnings = garbage();
    for frame in [
        Frame::Ping,
        Frame::Hello { version_min: 2, version_max: 9 },
        Frame::Hello { version_min: 9, version_max: 0 },
    ] {
        let mut bytes = BytesMut::new();
        overlay_proto::frame::encode(&frame, &mut bytes);
        beginnings.push(bytes.to_vec());
    }
    for bytes in beginnings {
        let connection = evil.connect(host);
        let greeted = evil.run(async {
            let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            let answer = tokio::time::timeout(Duration::from_secs(8), receive.read_chunk(64, true)).await;
            answer.expect("an end in time").is_ok_and(|chunk| chunk.is_some())
        });
        assert!(!greeted, "{} greets after {:?}…", host.name(), &bytes[..bytes.len().min(8)]);
    }
    // Nothing at all, for as long as it likes.
    drop(evil.connect(host));
}

fn on_the_control_stream(evil: &Evil, host: &Host) {
    for bytes in garbage() {
        let mut wire = evil.link(host);
        evil.run(async {
            let _ = wire.send.write_all(&bytes).await;
            let _ = wire.send.finish();
            let closed = tokio::time::timeout(Duration::from_secs(8), wire.connection.closed()).await;
            closed.expect("a control stream that ended is no link");
        });
    }
}

fn on_data_streams(evil: &Evil, host: &Host, session: Session) {
    let mut wire = evil.link(host);
    let mut header = BytesMut::new();
    let to = Role::Acceptor;
    StreamHeader { session: session.id, to, key: session.key(1 << 20), offset: 0 }.encode(&mut header);
    let mut beginnings = garbage();
    beginnings.extend((1..header.len()).map(|length| header[..length].to_vec()));
    for (number, bytes) in beginnings.into_iter().enumerate() {
        wire = usable(evil, host, wire);
        evil.run(async {
            let mut stream = wire.connection.open_uni().await.expect("a stream");
            let _ = stream.write_all(&bytes).await;
            // Ended, cut, or left open.
            match number % 3 {
                0 => drop(stream.finish()),
                1 => drop(stream.reset(quinn::VarInt::from_u32(7))),
                _ => std::mem::forget(stream),
            }
        });
    }
    // Neither is a datagram anything.
    for seed in 0..8 {
        let _ = wire.connection.send_datagram(noise(seed, 100).into());
    }
    evil.settle(&mut usable(evil, host, wire));
}

fn on_request_streams(evil: &Evil, host: &Host) {
    let mut wire = evil.link(host);
    for kind in [0, ADMIN, MOVE, FILES, 4, 0xff] {
        for rest in garbage() {
            wire = usable(evil, host, wire);
            let answer = evil.raw(&wire, &[&[kind], &rest[..]].concat(), true);
            let told = answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let is_error = kind == ADMIN && told.contains("admin/protocol");
            assert!(told.is_empty() || is_error, "{kind}: {told:?}");
        }
    }
    wait_until(SOON, "the sidecar", || host.capsule(["--json", "ps"]).code == 0);
    evil.settle(&mut usable(evil, host, wire));
}
