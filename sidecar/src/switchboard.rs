//! What arrives on links, handed to who is concerned.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use overlay_proto::{Datagram, Frame, HostName, Role, StreamHeader};

use crate::capsule::network::Networks;
use crate::intercept::deliver;
use crate::intercept::surroundings::Surroundings;
use crate::link::{Link, Receiver, Upcalls};
use crate::session::Event;

/// Takes request streams of other sidecars.
pub trait Requests: Send + Sync + 'static {
    /// A request stream of `link`'s host.
    fn request(&self, link: &Arc<Link>, send: quinn::SendStream, receive: quinn::RecvStream);
}

/// The receiver of everything that links bring.
pub struct Switchboard {
    networks: Networks,
    around: OnceLock<Surroundings>,
    requests: OnceLock<Arc<dyn Requests>>,
}

impl Switchboard {
    /// A switchboard that drops everything until it is completed.
    pub fn new(networks: Networks) -> Arc<Self> {
        Arc::new(Self { networks, around: OnceLock::new(), requests: OnceLock::new() })
    }

    /// Gives the parts that need the links to be made first.
    pub fn complete(&self, around: Surroundings, requests: Arc<dyn Requests>) {
        let _ = self.around.set(around);
        let _ = self.requests.set(requests);
    }
}

impl Upcalls for Switchboard {
    fn admits<'a>(&'a self, host: &'a HostName) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(async move {
            match self.around.get() {
                Some(around) => around.places.is_member(host).await,
                None => false,
            }
        })
    }

    fn up(&self, _link: &Arc<Link>) {
        // Who looks for a way to that host has one.
        if let Some(around) = self.around.get() {
            around.places.nudge();
        }
    }

    fn down(&self, link: &Arc<Link>) {
        if let Some(around) = self.around.get() {
            around.table.link_down(link.serial);
        }
    }

    fn frame(&self, link: &Arc<Link>, frame: Frame) {
        let Some(around) = self.around.get() else { return };
        match frame {
            Frame::Open(open) => {
                // At once: a CANCEL may follow before the task has its turn.
                let dialled = around.opens.dialling(open.session, link);
                let (around, networks) = (around.clone(), self.networks.clone());
                tokio::spawn(deliver::deliver(around, networks, link.clone(), open, dialled));
            }
            Frame::Answer(answer) => around.opens.answer(link, answer.session, answer.outcome),
            Frame::Cancel { session } => {
                around.opens.cancel(link, session);
                let _ = around.table.tell(&(session, Role::Acceptor), Event::Cancelled(link.clone()));
            }
            // The link's own.
            Frame::Ping | Frame::Pong | Frame::Hello { .. } | Frame::Settled { .. } => {}
            Frame::Attach(_)
            | Frame::Attached(_)
            | Frame::Stale { .. }
            | Frame::Delivered { .. }
            | Frame::End { .. }
            | Frame::Hold(_)
            | Frame::Held(_)
            | Frame::Unknown { .. }
            | Frame::NotHere { .. } => {
                if let (Some(session), Some(to)) = (frame.session(), frame.to()) {
                    let key = (session, to);
                    // Asked in this order: a session that stops being opened is in the table by then.
                    let early = to == Role::Opener
                        && !around.table.has(&key)
                        && around.opens.keep_early_frame(link, session, &frame);
                    if !early {
                        around.table.frame(link, key, frame);
                    }
                }
            }
        }
    }

    fn data(&self, link: &Arc<Link>, header: StreamHeader, stream: Receiver) {
        let Some(around) = self.around.get() else { return };
        if let Err(stream) = around.table.data(link, header, stream)
            && let Err(stream) = around.opens.keep_early(link, header, stream)
        {
            // It may have begun between the two; a stream for nobody is dropped.
            let _ = around.table.data(link, header, stream);
        }
    }

    fn datagram(&self, link: &Arc<Link>, datagram: Datagram) {
        if let Some(around) = self.around.get() {
            around.datagrams.arrive(link, datagram);
        }
    }

    fn request(&self, link: &Arc<Link>, send: quinn::SendStream, receive: quinn::RecvStream) {
        if let Some(requests) = self.requests.get() {
            requests.request(link, send, receive);
        }
    }
}
