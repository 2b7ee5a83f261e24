//! Links: one QUIC connection per pair of hosts, shared by the sessions of all their capsules (D5).
//!
//! A link carries one control stream (the first bidirectional stream, opened by the host that dialled, length-
//! prefixed [`Frame`]s), one unidirectional stream for each direction of each session that flows, datagrams, and further
//! bidirectional streams for requests between sidecars. The two halves of a session on one host use the *local*
//! link, which behaves alike without QUIC.

mod control;
mod datagram;
mod dialling;
mod health;
mod ping;
mod rouse;
mod stream;
mod table;
mod tie;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use overlay_proto::{Datagram, Frame, HostName, StreamHeader};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use datagram::NotSent;
pub use dialling::LinkError;
pub use health::Counters;
pub use stream::{Receiver, Sender, StreamBroken, WriteError};
pub use table::{Links, Parts};

/// What a link tells the rest of the sidecar. Calls are made from the link's tasks and must not block.
pub trait Upcalls: Send + Sync + 'static {
    /// Whether a host, which has proved that it is the one, may have a link.
    fn admits<'a>(&'a self, host: &'a HostName) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
    /// A link came up.
    fn up(&self, link: &Arc<Link>);
    /// A link is gone; nothing more arrives on it.
    fn down(&self, link: &Arc<Link>);
    /// A control frame arrived.
    fn frame(&self, link: &Arc<Link>, frame: Frame);
    /// A data stream arrived.
    fn data(&self, link: &Arc<Link>, header: StreamHeader, stream: Receiver);
    /// A datagram arrived.
    fn datagram(&self, link: &Arc<Link>, datagram: Datagram);
    /// A request stream arrived.
    fn request(&self, link: &Arc<Link>, send: quinn::SendStream, receive: quinn::RecvStream);
}

/// A usable link to a host, or to this host itself.
pub struct Link {
    /// The host at the other end.
    pub host: HostName,
    /// Tells links to one host apart.
    pub serial: u64,
    carrier: Carrier,
    frames: mpsc::Sender<Frame>,
    down: CancellationToken,
    since: Instant,
    dial: tie::Dial,
    /// Drawn by the host that decided on this link: later ones have higher ones.
    order: u64,
    pings: ping::Pings,
    health: Mutex<health::Health>,
    /// Permits to write much, see [`crate::limits::LINK_TURNS`].
    turns: Arc<Semaphore>,
    /// Permits for datagrams that have a stream of their own, see [`crate::limits::LARGE_DATAGRAMS`].
    large_out: Arc<Semaphore>,
    large_in: Semaphore,
}

enum Carrier {
    Quic(quinn::Connection),
    Local(Arc<dyn Upcalls>),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "link {} to {}", self.serial, self.host)
    }
}

impl Link {
    /// Queues a control frame. A link whose queue is full is broken: its sessions attach again on a new one.
    pub fn transmit(&self, frame: Frame) {
        if self.frames.try_send(frame).is_err() && !self.down.is_cancelled() {
            tracing::warn!(host = %self.host, "control queue of the link is full; the link is dropped");
            self.close("control queue full");
        }
    }

    /// Opens a data stream with its header.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn open(self: &Arc<Self>, header: StreamHeader) -> Result<Sender, StreamBroken> {
        match &self.carrier {
            Carrier::Quic(connection) => {
                let mut stream = connection.open_uni().await.map_err(|_| StreamBroken)?;
                let mut head = BytesMut::new();
                header.encode(&mut head);
                stream.write_chunk(head.freeze()).await.map_err(|_| StreamBroken)?;
                Ok(Sender::Quic(stream, self.turns.clone()))
            }
            Carrier::Local(upcalls) => {
                let (sender, receiver) = stream::local();
                upcalls.data(self, header, receiver);
                Ok(sender)
            }
        }
    }

    /// Opens a request stream to the sidecar at the other end; `None` on the local link.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn request(
        &self,
    ) -> Result<Option<(quinn::SendStream, quinn::RecvStream)>, quinn::ConnectionError> {
        match &self.carrier {
            Carrier::Quic(connection) => Ok(Some(connection.open_bi().await?)),
            Carrier::Local(_) => Ok(None),
        }
    }

    /// True once nothing more can be sent on this link.
    pub fn is_down(&self) -> bool {
        self.down.is_cancelled()
    }

    /// True for the link of this host to itself.
    pub fn is_local(&self) -> bool {
        matches!(self.carrier, Carrier::Local(_))
    }

    /// The QUIC connection, for its counters.
    pub fn connection(&self) -> Option<&quinn::Connection> {
        match &self.carrier {
            Carrier::Quic(connection) => Some(connection),
            Carrier::Local(_) => None,
        }
    }

    /// Waits until the link is gone.
    pub async fn gone(&self) {
        self.down.cancelled().await;
    }

    /// Datagrams heard on the link.
    fn datagrams(&self) -> u64 {
        self.connection().map_or(0, |connection| connection.stats().udp_rx.datagrams)
    }

    /// How long the link has been up.
    pub fn age(&self) -> std::time::Duration {
        self.since.elapsed()
    }

    /// Ends the link.
    pub fn close(&self, why: &str) {
        self.down.cancel();
        if let Carrier::Quic(connection) = &self.carrier {
            connection.close(quinn::VarInt::from_u32(0), why.as_bytes());
        }
    }
}
