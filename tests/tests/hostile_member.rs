//! A host with a valid certificate that lies: about whom it speaks for, about what it holds, about others' sessions. And
//! what is left to it once it was removed from the mesh.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use admin_api::{Call, ErrorView, FrameReader, FrameWriter, Request as Verb};
use bytes::BytesMut;
use directory_api::identity::{
    SigningRequest, TransportSettings, directory_client, endpoint, link_client, peer_host, udp_socket,
};
use directory_api::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use directory_api::policy::{Effect, Ports, Terms};
use directory_api::{
    ApiError, CapsuleRecord, CapsuleState, Client, ClientError, HeldCapsule, LeaseRequest, LookupKey,
    Membership, Request, Response, TakeoverFrom, frame as message,
};
use overlay_proto::{
    Attach, AttachKey, ClaimKey, End, EndKind, Frame, Generation, OfferId, Open, OpenOutcome, Position, Role,
    SessionId, StreamHeader, frame,
};
use testkit::{Host, Mesh, wait_until};
use tests::{Talk, end, exec, place, redis_clients, start_redis};
use tokio::time::timeout;

/// What an honest answer may take on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// How long it is listened for answers that may not come.
const A_MOMENT: Duration = Duration::from_millis(700);
/// How soon a removed host is cut off.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(5);

/// A member of the mesh without a sidecar: what it says is up to the test.
struct Hostile {
    membership: Membership,
    directory: Client,
    endpoint: quinn::Endpoint,
}

/// Its link to an honest host.
struct Liar {
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    buffer: BytesMut,
}

impl Hostile {
    /// Of a host that has joined; must be called inside that host's network.
    fn new(host: &Host) -> Self {
        let membership = Membership::load(&host.data().join("identity")).expect("it has joined");
        let directory =
            Client::connect(membership.api.clone(), membership.identity.clone()).expect("a good identity");
        let socket = udp_socket("0.0.0.0:0".parse().expect("an address"), 1 << 20).expect("a socket");
        Self { membership, directory, endpoint: endpoint(socket, None).expect("an endpoint") }
    }

    /// Says that it lives, and holds what it says.
    async fn lease(&self, capsules: Vec<HeldCapsule>) -> directory_api::Lease {
        let lease = LeaseRequest { port: 4433, advertise: None, capsules };
        self.directory.renew_lease(lease).await.expect("a member renews its lease")
    }

    async fn dial(&self, host: &Host) -> Result<Liar, String> {
        let identity = &self.membership.identity;
        let client = link_client(identity, &TransportSettings::link()).map_err(|error| error.to_string())?;
        let name = self.membership.zone.host(&host.name().parse().expect("a name"));
        let address = SocketAddr::from((host.address(), 4433));
        let connecting = self.endpoint.connect_with(client, address, &name);
        let connection =
            connecting.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())?;
        assert_eq!(peer_host(&connection).expect("a host").as_str(), host.name());
        let (send, receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let mut liar = Liar { connection, send, receive, buffer: BytesMut::new() };
        liar.say(Frame::hello()).await;
        match timeout(SOON, liar.hear()).await {
            Ok(Some(Frame::Hello { .. })) => Ok(liar),
            Ok(other) => Err(format!("{other:?}: {:?}", liar.connection.close_reason())),
            Err(_) => Err("no answer".into()),
        }
    }

    async fn record(&self, name: &str) -> CapsuleRecord {
        self.directory.lookup(LookupKey::Name(name.parse().expect("a name"))).await.expect("there is one")
    }

    /// A capsule that is its own, as far as the directory knows.
    async fn register(&self, name: &str, owner: &str) -> CapsuleRecord {
        let (name, owner) = (name.parse().expect("a name"), owner.parse().expect("an owner"));
        let record = self.directory.register(name, owner).await.expect("a member registers");
        let running = self.directory.set_state(record.id, record.generation, CapsuleState::Running).await;
        running.expect("it is placed here")
    }

    /// Asks the directory in its own words.
    async fn ask_raw(&self, request: &Request) -> Response {
        let settings = TransportSettings::directory();
        let client = directory_client(&self.membership.identity, &settings).expect("a good identity");
        let name = self.membership.zone.directory();
        let connecting = self.endpoint.connect_with(client, self.membership.api[0], &name);
        let connection = connecting.expect("an address").await.expect("a member may ask");
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        message::write(&mut send, &request.encode(), REQUEST_BYTES_MAX).await.expect("sent");
        let answer = message::read(&mut receive, RESPONSE_BYTES_MAX).await.expect("read").expect("an answer");
        Response::decode(&answer).expect("a response")
    }
}

impl Liar {
    async fn say(&mut self, said: Frame) {
        let mut bytes = BytesMut::new();
        frame::encode(&said, &mut bytes);
        // A link that was closed shows when it is listened to.
        let _ = self.send.write_all(&bytes).await;
    }

    async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer).expect("honest hosts speak well") {
                return Some(frame);
            }
            let chunk = self.receive.read_chunk(4096, true).await.ok()??;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }

    async fn open(&mut self, open: Open) -> OpenOutcome {
        let session = open.session;
        self.say(Frame::Open(open)).await;
        let answer = async {
            loop {
                match self.hear().await {
                    Some(Frame::Answer(answer)) if answer.session == session => return answer.outcome,
                    Some(_) => {}
                    None => panic!("the link ended: {:?}", self.connection.close_reason()),
                }
            }
        };
        timeout(SOON, answer).await.expect("an OPEN is answered")
    }
}

fn open(number: u8, from: &CapsuleRecord, source: &CapsuleRecord, to: &CapsuleRecord) -> Open {
    Open {
        session: SessionId::from_bytes([number; 16]),
        source: SocketAddr::from((source.locators.v4, 40_000 + u16::from(number))),
        destination: SocketAddr::from((to.locators.v4, 6379)),
        sequence: u32::from(number),
        opener: from.id,
        opener_generation: from.generation,
        acceptor: to.id,
        acceptor_generation: to.generation,
    }
}

fn key(record: &CapsuleRecord, other: &CapsuleRecord, attempt: u64) -> AttachKey {
    AttachKey { opener_generation: other.generation, acceptor_generation: record.generation, attempt }
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    result.expect_err("the directory must refuse").refusal().expect("it is not away").clone()
}

/// Joins as `evil`, without operator rights, and runs the lies in its network.
fn as_member(mesh: &Mesh, lies: impl AsyncFnOnce(Hostile) + Send) {
    let (evil, directory) = (mesh.host("evil"), mesh.directory());
    let data = directory.host().data().display().to_string();
    let owners = ["--owner", "root", "--owner", "eve"];
    let line = [&["token", "--data", &data, "--host", "evil", "--no-operator"][..], &owners].concat();
    let token = directory.command(&line).ok().stdout;
    evil.join_with(directory, token.trim()).ok();
    evil.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { lies(Hostile::new(&evil)).await });
    });
}

#[test]
fn it_speaks_for_nobody_but_its_own() {
    let mesh = Mesh::running("hostile", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let listed = a.capsule(["--json", "sessions", "redis"]).ok().json();
    let session: SessionId = listed["sessions"][0]["id"].as_str().unwrap_or_default().parse().expect("an id");
    as_member(&mesh, async |evil| {
        evil.lease(vec![]).await;
        let (redis, counter) = (evil.record("redis").await, evil.record("counter").await);
        let mole = evil.register("mole", "root").await;
        let stranger = evil.register("stranger", "eve").await;
        let mut liar = evil.dial(&a).await.expect("a member gets a link");

        // Impersonate: another's capsule, another's address, a generation that is not, an owner that may not.
        assert_eq!(liar.open(open(1, &counter, &counter, &redis)).await, OpenOutcome::Denied);
        assert_eq!(liar.open(open(2, &mole, &counter, &redis)).await, OpenOutcome::Denied);
        let old = CapsuleRecord { generation: Generation::new(0), ..mole.clone() };
        assert_eq!(liar.open(open(3, &old, &mole, &redis)).await, OpenOutcome::Denied);
        let new = CapsuleRecord { generation: mole.generation.next(), ..mole.clone() };
        assert_eq!(liar.open(open(4, &new, &mole, &redis)).await, OpenOutcome::Denied);
        assert_eq!(liar.open(open(5, &stranger, &stranger, &redis)).await, OpenOutcome::Denied);
        // The truth is accepted, and a replay of it is the same session; not after its capsule is gone.
        let honest = open(6, &mole, &mole, &redis);
        for _ in 0..2 {
            assert!(matches!(liar.open(honest.clone()).await, OpenOutcome::Accepted { .. }));
        }
        liar.say(Frame::Cancel { session: honest.session }).await;
        evil.directory.remove(mole.id, mole.generation).await.expect("its own");
        assert_eq!(liar.open(Open { sequence: 7, ..honest }).await, OpenOutcome::Denied);

        // Attach to others' sessions, end them, feed them.
        let key = key(&redis, &counter, 1_000_000);
        let ends = End { kind: EndKind::Reset, offset: 0 };
        let position = Position { end: Some(ends), ..Position::default() };
        for to in [Role::Acceptor, Role::Opener] {
            for lie in [
                Frame::Attach(Attach { session, to, key, position }),
                Frame::Delivered { session, to, key, offset: 1 << 30, end: None },
                Frame::End { session, to, key, kind: EndKind::Reset, offset: 0 },
                Frame::NotHere { session, to },
                Frame::Unknown { session, to },
            ] {
                liar.say(lie).await;
            }
            let mut bytes = BytesMut::new();
            StreamHeader { session, to, key, offset: 0 }.encode(&mut bytes);
            bytes.extend_from_slice(b"FLUSHALL\r\n");
            let mut stream = liar.connection.open_uni().await.expect("a stream");
            stream.write_all(&bytes).await.expect("sent");
        }
        liar.say(Frame::Cancel { session }).await;
        let answers = [OpenOutcome::Refused, OpenOutcome::NotHere];
        for outcome in answers {
            liar.say(Frame::Answer(overlay_proto::Answer { session, outcome })).await;
        }
        // Frames to the half that is not on that host are answered: "unknown" is all it learns.
        let until = Instant::now() + A_MOMENT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match timeout(left, liar.hear()).await {
                Ok(Some(Frame::Attached(_) | Frame::Delivered { .. } | Frame::Held(_))) => {
                    panic!("it was believed")
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    });
    talk.goes_on();
    assert_eq!(redis_clients(&a, "redis").len(), 1);
    end(mesh);
}

#[test]
fn it_places_and_commands_nothing_but_its_own() {
    let mesh = Mesh::running("hostile-claims", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let before = place(&a, "redis");
    as_member(&mesh, async |evil| {
        let redis = evil.record("redis").await;
        let (id, generation, offer) = (redis.id, redis.generation, OfferId::from_bytes([9; 16]));
        let (claim, me) = (ClaimKey::from_bytes([9; 32]), evil.membership.host.clone());
        // Answer for another's locators: by the lease, by the name, by a certificate.
        let held = HeldCapsule { id, generation: generation.next(), state: CapsuleState::Running };
        let lease = evil.lease(vec![held]).await;
        assert_eq!(lease.stale.len(), 1, "{lease:?}");
        let directory = &evil.directory;
        let elsewhere = ApiError::NotPlacedHere { host: redis.host.clone(), generation };
        let taken =
            directory.register("redis".parse().expect("a name"), "root".parse().expect("an owner")).await;
        assert_eq!(refusal(taken), ApiError::NameTaken { name: "redis".into() });
        // Nor may it call a capsule ann's, to get at hers.
        let ann = "ann".parse().expect("an owner");
        let disguised = directory.register("disguised".parse().expect("a name"), ann).await;
        assert!(matches!(refusal(disguised), ApiError::Denied { .. }));
        let wish =
            SigningRequest::generate(&evil.membership.zone, &"a".parse().expect("a name")).expect("a key");
        let answer = evil.ask_raw(&Request::RenewCertificate { csr: wish.csr_der().to_vec() }).await;
        assert!(matches!(answer, Response::Error(ApiError::Denied { .. })), "{answer:?}");

        // Offer, claim, revoke, suspend, resume, end or take over what is not its own.
        assert_eq!(refusal(directory.offer(id, generation, offer, me, claim.hash()).await), elsewhere);
        assert_eq!(refusal(directory.suspend(id, generation, offer, claim.hash()).await), elsewhere);
        assert_eq!(refusal(directory.withdraw(id, generation, offer).await), elsewhere);
        assert_eq!(refusal(directory.set_state(id, generation, CapsuleState::Stopped).await), elsewhere);
        assert_eq!(refusal(directory.remove(id, generation).await), elsewhere);
        for refused in [
            directory.claim(id, offer, claim).await,
            directory.revoke(id, offer).await,
            directory.resume(id, generation, offer, claim).await,
        ] {
            refusal(refused);
        }
        let taken = directory.take_over(id, generation, offer, TakeoverFrom::Kept, true).await;
        assert!(matches!(refusal(taken), ApiError::Denied { .. }));
        let rule = Terms {
            effect: Effect::Allow,
            from: "*/*".parse().expect("a selector"),
            to: "*/*".parse().expect("a selector"),
            ports: Ports::ALL,
        };
        assert!(matches!(refusal(directory.set_rule(rule).await), ApiError::Denied { .. }));
        let removed = directory.remove_host("b".parse().expect("a name"), true).await;
        assert!(matches!(refusal(removed), ApiError::Denied { .. }));
        assert_eq!(evil.record("redis").await, redis);

        // And have others do it.
        let liar = evil.dial(&a).await.expect("a member gets a link");
        for verb in [
            Verb::Rm { name: "redis".into(), force: true, local: false },
            Verb::Stop { name: "redis".into(), timeout_s: 0 },
            Verb::PolicySet { allow: true, from: "*/*".into(), to: "*/*".into(), ports: None },
        ] {
            let error = forwarded(&liar, verb).await;
            assert_eq!(error.code, "admin/not-operator", "{error}");
        }
    });
    talk.goes_on();
    assert_eq!(place(&b, "redis"), before);
    end(mesh);
}

/// Passes a verb on, as sidecars do, and gives the error that it must be answered with.
async fn forwarded(liar: &Liar, verb: Verb) -> ErrorView {
    let (mut send, receive) = liar.connection.open_bi().await.expect("a stream");
    send.write_all(&[1]).await.expect("the kind of the request");
    let (mut input, mut output) = (FrameReader::new(receive), FrameWriter::new(send));
    let call = Call::new(verb).forwarded("a", None);
    output.write(&admin_api::Frame::Call(call)).await.expect("sent");
    match timeout(SOON, input.next()).await.expect("answered").expect("a frame") {
        Some(admin_api::Frame::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_removed_host_is_cut_off_within_seconds() {
    let mesh = Mesh::running("removed", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    as_member(&mesh, async |evil| {
        evil.lease(vec![]).await;
        let mole = evil.register("mole", "root").await;
        let redis = evil.record("redis").await;
        let mut links = vec![];
        for (host, is_there) in [(&a, true), (&b, false)] {
            let mut liar = evil.dial(host).await.expect("a member gets a link");
            let outcome = liar.open(open(1, &mole, &mole, &redis)).await;
            assert_eq!(matches!(outcome, OpenOutcome::Accepted { .. }), is_there, "{outcome:?}");
            links.push(liar);
        }
        let began = Instant::now();
        a.capsule(["hosts", "remove", "evil", "--force"]).ok();
        for liar in &links {
            timeout(CUT_OFF_WITHIN, liar.connection.closed()).await.expect("its links are ended");
        }
        eprintln!("cut off after {:?}", began.elapsed());
        // Its certificate is good for hours, and opens nothing: also not at a sidecar that has just started.
        b.kill_sidecar();
        b.start_sidecar();
        for host in [&a, &b] {
            let again = evil.dial(host).await.err().expect("no link for a removed host");
            assert!(again.contains("not a host of this mesh"), "{}: {again}", host.name());
        }
        let gone = ApiError::NotAMember { host: evil.membership.host.clone() };
        assert_eq!(refusal(evil.directory.list().await), gone);
        // What it had open is held, as with any host that is away: its capsule may go on elsewhere.
        wait_until(SOON, "its session to be held", || {
            let listed = a.capsule(["--json", "sessions", "redis"]).ok().json();
            let all = listed["sessions"].as_array().cloned().unwrap_or_default();
            all.iter().any(|session| session["peer_capsule"] == "mole" && session["state"] == "held")
        });
    });
    assert_eq!(exec(&a, "redis", &["redis-cli", "ping"]).ok().stdout.trim(), "PONG");
    end(mesh);
}
