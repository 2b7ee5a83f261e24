//! A member of the mesh with a valid certificate that keeps no rule but the wire's framing.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use admin_api::{AskError, Body, Call, Request};
use bytes::BytesMut;
use directory_api::identity::{self, TransportSettings};
use directory_api::{CapsuleRecord, Client, LeaseRequest, Membership, join};
use overlay_proto::{CapsuleName, Frame, SessionId, StreamHeader};
use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::SOON;
use tokio::runtime::Runtime;
use tokio::time::timeout;

const LINK_PORT: u16 = 4433;
/// What a sidecar takes to answer a stranger, at most: it may ask the directory first.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// First byte of a request stream: a verb passed on.
pub(crate) const ADMIN: u8 = 1;
/// First byte of a request stream: the conversation of a move.
pub(crate) const MOVE: u8 = 2;
/// First byte of a request stream: files of a move.
pub(crate) const FILES: u8 = 3;

/// Host `evil`, whose operators may only read.
pub(crate) struct Evil {
    runtime: Runtime,
    membership: Membership,
    directory: Client,
    endpoint: quinn::Endpoint,
}

/// A link of `evil` to a sidecar, after the greetings.
pub(crate) struct Wire {
    pub(crate) connection: quinn::Connection,
    pub(crate) send: quinn::SendStream,
    receive: quinn::RecvStream,
    buffer: BytesMut,
}

impl Evil {
    /// Joins with a token that gives no operator rights; the other hosts know it when this returns.
    #[track_caller]
    pub(crate) fn join(mesh: &Mesh, others: &[&Host]) -> Evil {
        Evil::join_as(mesh, others, &[])
    }

    /// The same with a token that was made with these flags too.
    #[track_caller]
    pub(crate) fn join_as(mesh: &Mesh, others: &[&Host], flags: &[&str]) -> Evil {
        let (directory, host) = (mesh.directory(), mesh.host("evil"));
        let data = directory.host().data().display().to_string();
        let words = ["token", "--data", &data, "--host", "evil", "--no-operator"];
        let token = directory.command(&[&words, flags].concat()).ok();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        // Sockets are opened here and belong to the host's network from then on.
        let made = host.inside(|| {
            runtime.block_on(async {
                let membership = join(directory.api(), token.stdout.trim()).await.expect("a good token");
                let client = Client::connect(membership.api.clone(), membership.identity.clone());
                let address = SocketAddr::new(IpAddr::V4(host.address()), LINK_PORT);
                let socket = identity::udp_socket(address, 1 << 20).expect("the port is free");
                let server = identity::link_server(&membership.identity, &TransportSettings::link());
                let endpoint = identity::endpoint(socket, Some(server.expect("a good identity")));
                (membership, client.expect("sockets"), endpoint.expect("a good socket"))
            })
        });
        let (membership, client, endpoint) = made;
        let lease = LeaseRequest { port: LINK_PORT, advertise: None, capsules: Vec::new() };
        let lease = runtime.block_on(client.renew_lease(lease)).expect("a member may");
        assert!(!lease.host.operator, "{lease:?}");
        for other in others {
            wait_until(SOON, "evil to be known", || {
                other.capsule(["--json", "hosts"]).ok().stdout.contains("\"evil\"")
            });
        }
        Evil { runtime, membership, directory: client, endpoint }
    }

    /// Runs to the end of `future`.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// A capsule of its own: registered, without processes.
    #[track_caller]
    pub(crate) fn register(&self, name: &str) -> CapsuleRecord {
        // The owner of the others' capsules: nothing may be refused for the policy's sake.
        self.register_of(name, "root")
    }

    /// The same of an owner.
    #[track_caller]
    pub(crate) fn register_of(&self, name: &str, owner: &str) -> CapsuleRecord {
        let (name, owner) = (name.parse::<CapsuleName>().expect("a name"), owner.parse().expect("an owner"));
        self.run(self.directory.register(name, owner)).expect("a member may")
    }

    /// A QUIC connection with its certificate, and nothing said.
    #[track_caller]
    pub(crate) fn connect(&self, host: &Host) -> quinn::Connection {
        let config = identity::link_client(&self.membership.identity, &TransportSettings::link());
        let address = SocketAddr::new(IpAddr::V4(host.address()), LINK_PORT);
        let name = self.membership.zone.host(&host.name().parse().expect("a host's name"));
        let connecting = self.run(async {
            let connecting = self.endpoint.connect_with(config.expect("a good identity"), address, &name);
            timeout(ANSWER_WITHIN, connecting.expect("a good name")).await
        });
        connecting.expect("an answer in time").expect("a member may link")
    }

    /// A link, greeted on both sides.
    #[track_caller]
    pub(crate) fn link(&self, host: &Host) -> Wire {
        let connection = self.connect(host);
        let (send, receive) = self.run(connection.open_bi()).expect("a stream");
        let mut wire = Wire { connection, send, receive, buffer: BytesMut::new() };
        self.tell(&mut wire, &Frame::hello());
        let hello = self.hear(&mut wire);
        assert!(matches!(hello, Some(Frame::Hello { .. })), "{hello:?}");
        wire
    }

    /// Sends a control frame.
    #[track_caller]
    pub(crate) fn tell(&self, wire: &mut Wire, frame: &Frame) {
        let mut bytes = BytesMut::new();
        overlay_proto::frame::encode(frame, &mut bytes);
        self.run(wire.send.write_all(&bytes)).expect("the link is up");
    }

    /// The next control frame; none when the link went down.
    #[track_caller]
    pub(crate) fn hear(&self, wire: &mut Wire) -> Option<Frame> {
        self.run(async {
            loop {
                if let Some(frame) =
                    overlay_proto::frame::decode(&mut wire.buffer).expect("a sidecar's frame")
                {
                    return Some(frame);
                }
                let chunk = timeout(ANSWER_WITHIN, wire.receive.read_chunk(4096, true)).await;
                match chunk.expect("an answer in time") {
                    Ok(Some(chunk)) => wire.buffer.extend_from_slice(&chunk.bytes),
                    Ok(None) | Err(_) => return None,
                }
            }
        })
    }

    /// Everything said before was read: frames keep their order.
    #[track_caller]
    pub(crate) fn settle(&self, wire: &mut Wire) {
        self.tell(wire, &Frame::Ping);
        while self.hear(wire).expect("the link stays up") != Frame::Pong {}
    }

    /// Opens a data stream with this header, sends `bytes`, and ends it.
    #[track_caller]
    pub(crate) fn data(&self, wire: &Wire, header: StreamHeader, bytes: &[u8]) {
        let mut head = BytesMut::new();
        header.encode(&mut head);
        head.extend_from_slice(bytes);
        self.run(async {
            let mut stream = wire.connection.open_uni().await.expect("a stream");
            // A stream that is refused at once is as good.
            let _ = stream.write_all(&head).await;
            let _ = stream.finish();
            let _ = timeout(ANSWER_WITHIN, stream.stopped()).await;
        });
    }

    /// Makes a call as if it were passed on for somebody at this host.
    pub(crate) fn ask(&self, wire: &Wire, request: Request, by: Option<&str>) -> Result<Body, AskError> {
        self.run(async {
            let (mut send, receive) = wire.connection.open_bi().await.expect("a stream");
            send.write_all(&[ADMIN]).await.expect("the link is up");
            let call = Call { request, forwarded_by: by.map(str::to_owned), asked_by: None };
            let mut conversation = admin_api::call(receive, send, call).await?;
            timeout(Duration::from_secs(60), conversation.outcome(|_| ())).await.expect("an answer in time")
        })
    }

    /// Says one message on a request stream of this kind and gives what is answered; none when nothing is.
    #[track_caller]
    pub(crate) fn converse(&self, wire: &Wire, kind: u8, message: &Value) -> Option<Value> {
        let body = message.to_string().into_bytes();
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
        bytes.extend(body);
        let answer = self.raw(wire, &bytes, false)?;
        let (length, rest) = answer.split_first_chunk::<4>()?;
        let body = rest.get(..u32::from_be_bytes(*length) as usize)?;
        Some(serde_json::from_slice(body).expect("a message"))
    }

    /// Leads a move: says the messages, one after the other, and after the last one whatever bytes there are. Gives
    /// everything that is answered until the other side is done.
    #[track_caller]
    pub(crate) fn lead(&self, wire: &Wire, messages: &[Value], bytes: &[u8]) -> Vec<Value> {
        self.run(async {
            let (mut send, mut receive) = wire.connection.open_bi().await.expect("a stream");
            let mut said = vec![MOVE];
            for message in messages {
                let body = message.to_string().into_bytes();
                said.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
                said.extend(body);
            }
            said.extend_from_slice(bytes);
            let _ = send.write_all(&said).await;
            let _ = send.finish();
            let mut answers = Vec::new();
            let mut length = [0; 4];
            while timeout(SOON, receive.read_exact(&mut length)).await.expect("an end in time").is_ok() {
                let mut body = vec![0; u32::from_be_bytes(length) as usize];
                timeout(SOON, receive.read_exact(&mut body))
                    .await
                    .expect("an end in time")
                    .expect("a message");
                answers.push(serde_json::from_slice(&body).expect("a message"));
            }
            answers
        })
    }

    /// Leads a move to where files are taken. It lasts as long as the streams that are returned.
    #[track_caller]
    pub(crate) fn begin(&self, wire: &Wire, prepare: &Value) -> (quinn::SendStream, quinn::RecvStream) {
        self.run(async {
            let (mut send, mut receive) = wire.connection.open_bi().await.expect("a stream");
            let body = prepare.to_string().into_bytes();
            let length = u32::try_from(body.len()).expect("short").to_be_bytes();
            send.write_all(&[&[MOVE], &length[..], &body].concat()).await.expect("the link is up");
            for says in ["examined", "ready"] {
                let mut length = [0; 4];
                timeout(SOON, receive.read_exact(&mut length))
                    .await
                    .expect("an answer in time")
                    .expect("an answer");
                let mut body = vec![0; u32::from_be_bytes(length) as usize];
                receive.read_exact(&mut body).await.expect("an answer");
                let answer: Value = serde_json::from_slice(&body).expect("a message");
                assert_eq!(answer["says"], says, "{answer}");
            }
            (send, receive)
        })
    }

    /// Says nothing more in a move that was begun, and waits until the target has cleared up.
    #[track_caller]
    pub(crate) fn leave(&self, (mut send, mut receive): (quinn::SendStream, quinn::RecvStream)) {
        let _ = send.finish();
        let rest = self.run(async { timeout(SOON, receive.read_to_end(1 << 16)).await });
        rest.expect("an end in time").expect("the link is up");
    }

    /// Writes bytes on a fresh request stream, and ends it if told to; gives the first that is answered.
    #[track_caller]
    pub(crate) fn raw(&self, wire: &Wire, bytes: &[u8], finish: bool) -> Option<Vec<u8>> {
        self.run(async {
            let (mut send, mut receive) = wire.connection.open_bi().await.expect("a stream");
            let _ = send.write_all(bytes).await;
            if finish {
                let _ = send.finish();
            }
            let mut answer = Vec::new();
            loop {
                match timeout(ANSWER_WITHIN, receive.read_chunk(1 << 20, true)).await.expect("an end in time")
                {
                    Ok(Some(chunk)) => answer.extend_from_slice(&chunk.bytes),
                    Ok(None) | Err(_) => return (!answer.is_empty()).then_some(answer),
                }
                if let Some((length, rest)) = answer.split_first_chunk::<4>()
                    && rest.len() >= u32::from_be_bytes(*length) as usize
                {
                    return Some(answer);
                }
            }
        })
    }
}

/// A session id that nobody has.
pub(crate) fn fresh_session(number: u8) -> SessionId {
    SessionId::from_bytes([number; 16])
}

/// All that the sidecar of a host has logged.
pub(crate) fn log_of(host: &Host) -> String {
    let logs = fs::read_dir(host.dir().join("log")).expect("every host has one").flatten();
    let names = |path: &std::path::Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sidecar"))
    };
    let texts = logs.map(|entry| entry.path()).filter(|path| names(path)).map(fs::read);
    texts.map(|text| String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()).collect()
}

/// The sidecar answers, and nothing in it panicked.
#[track_caller]
pub(crate) fn is_well(host: &Host) {
    assert_eq!(host.http("/healthz").expect("it answers").0, 200, "{}", host.name());
    let log = log_of(host);
    assert!(!log.contains("panicked"), "{}: {log}", host.name());
}
