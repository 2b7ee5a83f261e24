//! What the tests of several modules need: members of one mesh, links over loopback, programs' connections.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use directory_api::identity::{self, SigningRequest, Subject, TransportSettings};
use directory_api::{Identity, Zone};
use overlay_proto::{AttachKey, Datagram, Frame, Generation, HostName, Role, SessionId, StreamHeader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::link::{Link, Links, Parts, Receiver, Upcalls};
use crate::session::{Program, Socket};

/// Time that anything on loopback may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// The CA of a mesh of tests.
pub(crate) struct Ca(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// A host with a valid certificate.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        let host = host(name);
        let request = SigningRequest::generate(&zone(), &host).unwrap();
        let (mut csr, _) = identity::read_request(request.csr_der()).unwrap();
        csr.params = identity::certificate_parameters(&zone(), &Subject::Host(host)).unwrap();
        let chain = vec![csr.signed_by(&self.0).unwrap().der().clone()];
        Identity::new(request.key_pem(), chain, self.0.der().clone()).unwrap()
    }

    /// Links of host `name` at any free port.
    pub(crate) fn node(&self, name: &str) -> Node {
        Node::start(&self.identity(name), "127.0.0.1:0".parse().unwrap())
    }
}

pub(crate) fn zone() -> Zone {
    "capsule.internal".parse().unwrap()
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// The links of one host, and what they bring.
pub(crate) struct Node {
    pub(crate) links: Links,
    pub(crate) address: SocketAddr,
    pub(crate) told: mpsc::UnboundedReceiver<Told>,
}

/// What a link brought.
#[derive(Debug)]
pub(crate) enum Told {
    Up(Arc<Link>),
    Down(Arc<Link>),
    Frame(Frame),
    Data(StreamHeader, Receiver),
    Datagram(Datagram),
    Request(quinn::RecvStream),
}

/// A host that was removed from the mesh of the tests, and has a certificate.
pub(crate) const REMOVED: &str = "removed";

struct Recorder(mpsc::UnboundedSender<Told>);

impl Upcalls for Recorder {
    fn admits<'a>(&'a self, host: &'a HostName) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(host.as_str() != REMOVED))
    }

    fn up(&self, link: &Arc<Link>) {
        let _ = self.0.send(Told::Up(link.clone()));
    }

    fn down(&self, link: &Arc<Link>) {
        let _ = self.0.send(Told::Down(link.clone()));
    }

    fn frame(&self, _link: &Arc<Link>, frame: Frame) {
        let _ = self.0.send(Told::Frame(frame));
    }

    fn data(&self, _link: &Arc<Link>, header: StreamHeader, stream: Receiver) {
        let _ = self.0.send(Told::Data(header, stream));
    }

    fn datagram(&self, _link: &Arc<Link>, datagram: Datagram) {
        let _ = self.0.send(Told::Datagram(datagram));
    }

    fn request(&self, _link: &Arc<Link>, _send: quinn::SendStream, receive: quinn::RecvStream) {
        let _ = self.0.send(Told::Request(receive));
    }
}

impl Node {
    /// Serves links on the runtime of the calling task; a port that was just given up may be taken again.
    pub(crate) fn start(identity: &Identity, address: SocketAddr) -> Self {
        let settings = TransportSettings::link();
        let server = identity::link_server(identity, &settings).unwrap();
        let client = identity::link_client(identity, &settings).unwrap();
        let socket = identity::udp_socket(address, 1 << 20).unwrap();
        let (recorder, told) = mpsc::unbounded_channel();
        let (me, secret) = (identity.host().unwrap().clone(), [7; 32]);
        let parts =
            Parts { me, zone: zone(), socket, server, client, secret, keep_alive: settings.keep_alive };
        let links = Links::start(parts, Arc::new(Recorder(recorder))).unwrap();
        links.admit();
        let address = links.address().unwrap();
        Self { links, address, told }
    }

    /// The next thing that its links brought.
    pub(crate) async fn next(&mut self) -> Told {
        timeout(SOON, self.told.recv()).await.expect("nothing came in time").expect("the links live")
    }

    /// The link that comes up next.
    pub(crate) async fn up(&mut self) -> Arc<Link> {
        match self.next().await {
            Told::Up(link) => link,
            other => panic!("{other:?} instead of a link"),
        }
    }

    /// Fails if its links bring anything within a moment.
    pub(crate) async fn nothing_more(&mut self) {
        if let Ok(told) = timeout(Duration::from_millis(100), self.told.recv()).await {
            panic!("{told:?} was not expected");
        }
    }
}

/// A data stream inside this host: both ends.
pub(crate) async fn local_stream(node: &mut Node, header: StreamHeader) -> (crate::link::Sender, Receiver) {
    let sender = node.links.local().open(header).await.unwrap();
    match node.next().await {
        Told::Data(found, receiver) if found == header => (sender, receiver),
        other => panic!("{other:?} instead of a stream"),
    }
}

/// A header of an attach of this attempt.
pub(crate) fn header(attempt: u64, offset: u64) -> StreamHeader {
    StreamHeader { session: SessionId::from_bytes([1; 16]), to: Role::Acceptor, key: key(attempt), offset }
}

/// A key of this attempt between capsules at generation 1.
pub(crate) fn key(attempt: u64) -> AttachKey {
    let first = Generation::new(1);
    AttachKey { opener_generation: first, acceptor_generation: first, attempt }
}

/// A program's connection: the program's end, and ours.
pub(crate) async fn connection() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (program, ours) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (program.unwrap(), ours.unwrap().0.into_std().unwrap().into())
}

/// The same, with our end as a session has it.
pub(crate) async fn program(prefix: Option<u8>) -> (TcpStream, Program) {
    let (program, ours) = connection().await;
    let ours = Program::Socket(Socket::new(ours, prefix).unwrap());
    ours.seek(0).unwrap();
    (program, ours)
}
