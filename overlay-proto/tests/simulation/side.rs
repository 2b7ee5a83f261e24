//! One shell: what a sidecar does for one half, in the small.

use std::collections::BTreeSet;

use overlay_proto::{
    Action, AttachKey, EndKind, Frame, Generation, Half, HalfSnapshot, Outcome, Role, SessionId,
    StreamVerdict,
};

use super::kernel::Kernel;
use super::network::{Link, Stream};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    No,
    /// hold() was called.
    Holding,
    /// Restored at the target, not released yet.
    Restored,
}

pub struct Side {
    pub index: usize,
    pub half: Half,
    pub kernel: Kernel,
    /// Where this side's capsule is.
    pub host: u64,
    /// Where this shell believes the other capsule to be.
    pub peer_host: u64,
    /// Link in use.
    pub link: Option<u64>,
    pub moving: Move,
    pub hold_agreed: bool,
    pub directory_asked: bool,
    pub directory_news: bool,
    /// Key of the data stream being written.
    pub sending: Option<AttachKey>,
    /// StartReceiving was polled.
    pub receiving: Option<AttachKey>,
    /// The stream for it was found.
    pub adopted: bool,
    pub applying: Option<EndKind>,
    pub discarding: bool,
    /// A RST went ahead of bytes.
    pub gave_up: bool,
    pub ended: Option<Outcome>,
    pub trace: bool,
    /// What happened, to see that the tapes reach it.
    pub seen: BTreeSet<String>,
}

impl Side {
    pub fn new(index: usize, kernel: Kernel, trace: bool) -> Side {
        let role = if index == 0 { Role::Opener } else { Role::Acceptor };
        Side {
            index,
            half: Half::new(SessionId::from_bytes([7; 16]), role, Generation::new(1), Generation::new(1)),
            kernel,
            host: index as u64,
            peer_host: 1 - index as u64,
            link: Some(0),
            moving: Move::No,
            hold_agreed: false,
            directory_asked: false,
            directory_news: false,
            sending: None,
            receiving: None,
            adopted: false,
            applying: None,
            discarding: false,
            gave_up: false,
            ended: None,
            trace,
            seen: BTreeSet::new(),
        }
    }

    pub fn saw(&mut self, what: &str) {
        if !self.seen.contains(what) {
            self.seen.insert(what.to_owned());
        }
    }

    /// The program and the socket stand still.
    pub fn is_frozen(&self) -> bool {
        self.moving == Move::Restored || self.moving == Move::Holding && self.hold_agreed
    }

    /// Carries out all actions.
    pub fn settle(&mut self, link: &mut Option<Link>) {
        while let Some(action) = self.half.poll() {
            if self.trace {
                println!("    {} does {action:?}", self.index);
            }
            self.act(action, link);
        }
        self.check();
    }

    fn act(&mut self, action: Action, link: &mut Option<Link>) {
        assert!(self.ended.is_none(), "{action:?} after the end");
        let wire = link.as_mut().filter(|link| Some(link.id) == self.link);
        match action {
            Action::Transmit(frame) => {
                let name = format!("{frame:?}");
                self.seen.insert(name.split(['(', ' ']).next().unwrap_or_default().to_owned());
                if let Some(link) = wire.filter(|link| !link.broken) {
                    link.lanes[1 - self.index].put(&frame);
                }
            }
            Action::StartSending { key, offset } => self.start_sending(key, offset, wire),
            Action::StopSending => {
                let key = self.sending.take().expect("nothing to stop sending");
                let streams = wire.map(|link| &mut link.lanes[1 - self.index].streams);
                for stream in streams.into_iter().flatten().filter(|stream| stream.header.key == key) {
                    stream.abandoned = true;
                }
            }
            Action::StartReceiving { key, offset } => {
                assert!(self.receiving.is_none(), "receives already");
                assert_eq!(offset, self.kernel.taken);
                self.receiving = Some(key);
                self.adopted = false;
            }
            Action::StopReceiving => {
                let key = self.receiving.take().expect("nothing to stop receiving");
                if let Some(link) = wire {
                    link.lanes[self.index].streams.retain(|stream| stream.header.key != key);
                }
            }
            Action::Consume { bytes } => {
                assert!(!self.discarding, "consumes what was thrown away");
                self.kernel.consume(bytes);
            }
            Action::DiscardOutgoing => self.discarding = true,
            Action::ApplyEnd(kind) => {
                assert!(self.applying.is_none(), "two ends at once");
                assert!(!self.is_frozen() || self.moving == Move::Holding, "an end for a captured socket");
                self.applying = Some(kind);
            }
            Action::HoldAgreed => {
                assert_eq!(self.moving, Move::Holding);
                assert!(!self.hold_agreed, "agreed twice");
                self.hold_agreed = true;
            }
            Action::Ended(outcome) => {
                self.saw(&format!("{outcome:?}"));
                self.saw(if self.half.is_holding() { "ended while holding" } else { "ended" });
                assert!(self.sending.is_none() && self.receiving.is_none(), "ended with streams");
                self.ended = Some(outcome);
            }
            Action::AskDirectory => {
                self.saw("asked the directory");
                self.directory_asked = true;
            }
        }
    }

    fn start_sending(&mut self, key: AttachKey, offset: u64, wire: Option<&mut Link>) {
        assert!(self.sending.is_none(), "sends already");
        assert_eq!(self.half.consumed(), self.kernel.consumed, "the peek offset can't be told");
        assert!(offset <= self.kernel.end(), "the other half has more than there is");
        self.sending = Some(key);
        if let Some(link) = wire.filter(|link| !link.broken) {
            let to = self.half.role().other();
            let header = overlay_proto::StreamHeader { session: self.half.id(), to, key, offset };
            let mut bytes = bytes::BytesMut::new();
            header.encode(&mut bytes);
            let read = overlay_proto::StreamHeader::decode(&mut bytes).expect("readable").expect("complete");
            link.lanes[1 - self.index].streams.push(Stream {
                header: read,
                bytes: Default::default(),
                abandoned: false,
            });
        }
    }

    fn check(&self) {
        if self.ended.is_none() {
            assert_eq!(self.half.bytes_delivered(), self.kernel.taken, "side {} miscounts", self.index);
        }
        if !self.discarding {
            assert_eq!(self.half.consumed(), self.kernel.consumed, "side {} miscounts", self.index);
        }
        assert_eq!(self.half.outcome(), self.ended);
    }

    /// Peeks and sends; notices what the program did.
    pub fn pump(&mut self, bytes: usize, link: &mut Option<Link>) {
        if self.ended.is_some() || self.is_frozen() {
            return;
        }
        if self.kernel.reset {
            self.half.local_reset(self.kernel.end());
            self.settle(link);
        }
        if self.discarding {
            self.kernel.discard();
            return;
        }
        if let Some(key) = self.sending {
            let chunk = self.kernel.peek(self.half.bytes_sent(), bytes);
            let streams = link.as_mut().filter(|link| Some(link.id) == self.link && !link.broken);
            let stream = streams.and_then(|link| {
                link.lanes[1 - self.index].streams.iter_mut().find(|stream| stream.header.key == key)
            });
            if let Some(stream) = stream {
                stream.bytes.extend(&chunk);
            }
            self.half.sent(chunk.len() as u64);
        }
        if self.kernel.fin && self.half.bytes_sent() == self.kernel.end() {
            self.half.local_end(EndKind::Fin);
        }
        self.settle(link);
    }

    /// Judges new streams, takes bytes of the one in use.
    pub fn take_bytes(&mut self, bytes: usize, link: &mut Option<Link>) {
        if self.is_frozen() {
            return;
        }
        let Some(here) = link.as_mut().filter(|link| Some(link.id) == self.link) else { return };
        let lane = &mut here.lanes[self.index];
        let in_use = self.receiving.filter(|_| self.adopted);
        let mut adopted = in_use;
        let seen = &mut self.seen;
        lane.streams.retain(|stream| {
            if Some(stream.header.key) == in_use {
                return true;
            }
            let verdict = self.half.stream(&stream.header);
            match verdict {
                StreamVerdict::Use => {
                    assert_eq!(
                        Some(stream.header.key),
                        self.receiving,
                        "uses a stream that was not asked for"
                    );
                    assert!(adopted.is_none(), "two streams for one half");
                    adopted = Some(stream.header.key);
                }
                StreamVerdict::Keep => drop(seen.insert("kept a stream".to_owned())),
                StreamVerdict::Drop => drop(seen.insert("dropped a stream".to_owned())),
            }
            verdict != StreamVerdict::Drop
        });
        let Some(key) = adopted else { return };
        self.adopted = true;
        let Some(stream) = lane.streams.iter_mut().find(|stream| stream.header.key == key) else { return };
        let chunk: Vec<u8> = stream.bytes.iter().take(bytes).copied().collect();
        let took = self.kernel.send(&chunk);
        stream.bytes.drain(..took);
        self.half.delivered(took as u64);
        self.settle(link);
    }

    /// Does what ApplyEnd asked for, once the program read everything, or by force.
    pub fn apply_end(&mut self, force: bool, link: &mut Option<Link>) {
        if self.is_frozen() {
            return;
        }
        match self.applying {
            None => return,
            Some(EndKind::Fin) => self.kernel.give_fin(),
            Some(EndKind::Reset) => {
                if !self.kernel.is_flushed() && !force {
                    return;
                }
                self.gave_up |= !self.kernel.is_flushed();
                self.kernel.give_reset();
            }
        }
        if self.gave_up {
            self.saw("RST ahead of bytes");
        }
        self.applying = None;
        self.half.end_applied();
        self.settle(link);
    }

    /// One second without progress, if a RST waits.
    pub fn stall(&mut self, link: &mut Option<Link>) {
        if self.discarding && !self.is_frozen() && self.ended.is_none() {
            self.gave_up = true;
            self.half.stalled();
            self.settle(link);
        }
    }

    pub fn link_lost(&mut self, link: &mut Option<Link>) {
        // What still comes from the old link is not read any more.
        self.link = None;
        self.half.link_lost();
        self.settle(link);
    }

    pub fn link_up(&mut self, link: &mut Option<Link>) {
        if self.moving != Move::Restored && self.ended.is_none() {
            self.half.link_up();
            self.settle(link);
        }
    }

    pub fn handle(&mut self, frame: &Frame, link: &mut Option<Link>) {
        self.half.handle(frame);
        self.settle(link);
    }

    /// Everything but snapshot and socket is gone.
    pub fn reborn(&mut self, reached_known: bool) {
        let mut snapshot = HalfSnapshot::from_bytes(&self.half.snapshot().to_bytes()).expect("a snapshot");
        assert_eq!(snapshot, self.half.snapshot());
        if !reached_known && !self.discarding {
            snapshot.reached = snapshot.reached.max(self.kernel.end());
        }
        self.half = Half::restore(&snapshot).expect("a sound snapshot");
        self.link = None;
        self.hold_agreed = false;
        self.directory_asked = false;
        self.sending = None;
        self.receiving = None;
        self.adopted = false;
        self.applying = None;
    }
}
