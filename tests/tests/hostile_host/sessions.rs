//! Frames and data about sessions of capsules that are elsewhere.

use super::*;

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
    // By an outlet only capsules on its host reach machines outside, though the policy allows it.
    exec(&a, "redis", &["redis-cli", "-h", &b.address().to_string(), "-p", "1", "ping"]);
    let outlet = a.capsule(["--json", "resolve", "outlet-a"]).ok().json();
    let mut outside = open(22, own.id, own.generation, at(&own.locators.v4.to_string(), 40022));
    outside.acceptor = outlet["id"].as_str().expect("an id").parse().expect("an id");
    outside.acceptor_generation = Generation::new(outlet["generation"].as_u64().expect("a number"));
    outside.destination = SocketAddr::new(b.address().into(), 1);
    assert_eq!(outcome(&evil, &mut wire, outside), OpenOutcome::Denied);
    // That its own capsule may connect shows that all this was not refused for another reason.
    let honest = open(21, own.id, own.generation, at(&own.locators.v4.to_string(), 40021));
    assert!(matches!(outcome(&evil, &mut wire, honest), OpenOutcome::Accepted { .. }));
    let clients = redis_clients(&a, "redis");
    assert_eq!(clients.len(), 1, "{clients:?}");
    assert_eq!(clients[0].address, format!("{}:40021", own.locators.v4));
    is_well(&a);
    end(mesh);
}

/// What the policy lets machines outside reach, a gateway may reach in the name of any; not in that of capsules, of those to
/// come, or of what is another machine everywhere.
#[test]
fn a_gateway_speaks_for_what_is_outside_and_nothing_else() {
    let mesh = Mesh::running("evil-gate", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    start(&b, "client", &["sleep", "600"]);
    let evil = Evil::join_as(&mesh, &[&a, &b], &["--gateway"]);
    let gateway = evil.register_of("gateway-evil", "outside");
    let redis: CapsuleId = capsule_id(&a, "redis").parse().expect("an id");
    let (redis4, redis6) = locators(&a, "redis");
    let (client4, client6) = locators(&b, "client");
    let acceptor_generation = Generation::new(place(&a, "redis").generation);
    let mut wire = evil.link(&a);
    let mut number = 0;
    let mut dials = |source: &str| {
        number += 1;
        let source: SocketAddr = source.parse().expect("an address");
        let locator = if source.is_ipv4() { &redis4 } else { &redis6 };
        let open = Open {
            session: fresh_session(number),
            source,
            destination: SocketAddr::new(locator.parse().expect("a locator"), 6379),
            sequence: 7,
            opener: gateway.id,
            opener_generation: gateway.generation,
            acceptor: redis,
            acceptor_generation,
        };
        outcome(&evil, &mut wire, open)
    };
    assert_eq!(dials("203.0.113.9:40000"), OpenOutcome::Denied, "no rule allows it");
    a.capsule(["policy", "allow", "outside/*", "root/redis", "6379"]).ok();
    let own = gateway.locators;
    let good = [
        "203.0.113.9:40001",
        "[2001:db8::9]:40002",
        &format!("{}:40003", own.v4),
        &format!("[{}]:40004", own.v6),
    ];
    for source in good {
        assert!(matches!(dials(source), OpenOutcome::Accepted { .. }), "{source}");
    }
    let seen: Vec<String> = redis_clients(&a, "redis").into_iter().map(|client| client.address).collect();
    assert!(good.iter().all(|source| seen.iter().any(|address| address == source)), "{seen:?}");
    let bad = [
        format!("{client4}:40005"),
        format!("[{client6}]:40006"),
        format!("{redis4}:40007"),
        "10.88.200.200:40008".to_owned(),
        "[fd88::dead]:40009".to_owned(),
        "127.0.0.1:40010".to_owned(),
        "[::1]:40011".to_owned(),
        "169.254.169.254:40012".to_owned(),
        "224.0.0.1:40013".to_owned(),
        "[fe80::1]:40014".to_owned(),
    ];
    for source in bad {
        assert_eq!(dials(&source), OpenOutcome::Denied, "{source}");
    }
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
