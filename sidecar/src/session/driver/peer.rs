//! Where the other half is, and whether what comes is its: links, records of the directory, frames, streams.

use std::sync::Arc;

use overlay_proto::{Frame, StreamHeader, StreamVerdict};

use super::super::route::{Finding, PeerPlace, Route};
use super::Driver;
use crate::link::{Link, Receiver};

impl Driver {
    /// A frame counts only if it comes from the host where the directory places the peer (D8). What would end the
    /// session is never believed on the strength of an old record.
    pub(super) fn on_frame(&mut self, link: Arc<Link>, frame: &Frame, checked: bool) {
        let ends = matches!(frame, Frame::Unknown { .. });
        let other_link = self.link.as_ref().is_none_or(|current| current.serial != link.serial);
        if other_link || ends {
            if !checked && (ends || !self.routes.places_peer_at(&self.facts.peer, &link.host)) {
                self.routes.check_later(self.key(), self.facts.peer, link, frame.clone(), self.reopened);
                return;
            }
            if other_link {
                self.adopt(link);
            }
        }
        self.refresh_generations();
        tracing::trace!(session = %self.half.id(), role = ?self.half.role(), ?frame);
        self.half.handle(frame);
    }

    /// Frames come over another link than before: the other half has left the old one.
    pub(super) fn adopt(&mut self, link: Arc<Link>) {
        if self.link.is_some() {
            self.detach();
        }
        self.finding = None;
        self.link = Some(link);
        self.refresh_generations();
        self.half.link_up();
        self.act();
    }

    /// Whether what comes over a link may be the peer's: it is the link in use, or its host is where the peer is.
    pub(super) fn speaks_for_peer(&self, link: &Link) -> bool {
        self.link.as_ref().is_some_and(|current| current.serial == link.serial)
            || self.routes.places_peer_at(&self.facts.peer, &link.host)
    }

    pub(super) fn on_data(&mut self, link: &Arc<Link>, header: StreamHeader, stream: Receiver) {
        if !self.speaks_for_peer(link) {
            tracing::warn!(session = %self.half.id(), host = %link.host, "bytes of a host where the peer is not");
            return;
        }
        match self.half.stream(&header) {
            StreamVerdict::Use => self.incoming.take(stream),
            StreamVerdict::Keep => self.incoming.keep(header, stream),
            StreamVerdict::Drop => {
                tracing::trace!(session = %self.half.id(), host = %link.host, ?header, "late data stream");
            }
        }
    }

    pub(super) fn detach(&mut self) {
        self.link = None;
        self.half.link_lost();
        self.act();
    }

    pub(super) fn refresh_generations(&mut self) {
        if let Some((opener, acceptor)) = self.routes.generations(&self.facts, self.half.role()) {
            self.half.generations(opener, acceptor);
        }
    }

    pub(super) fn on_place_changed(&mut self) {
        // The peer may be known only now.
        self.judged = None;
        match self.routes.peer(&self.facts.peer) {
            PeerPlace::Removed => self.peer_removed(),
            PeerPlace::At(host) => {
                if self.link.as_ref().is_some_and(|link| link.host != host) {
                    self.detach();
                }
                self.refresh_generations();
            }
            // What it agreed on when it was held stands in its file.
            PeerPlace::Suspended if self.link.is_some() => self.detach(),
            PeerPlace::Suspended | PeerPlace::Unknown => {}
        }
    }

    /// Begins to look for the peer's host when there is no link, nobody holds, and there is something to say to it. An answer
    /// that nothing waits for would be there at once, again and again, before the clock has its turn.
    pub(super) fn look_for_link(&mut self) {
        if self.link.as_ref().is_some_and(|link| link.is_down()) {
            self.detach();
        }
        let needed = !self.holding && self.linger.is_none() && self.half.needs_peer();
        if self.link.is_none() && self.finding.is_none() && needed {
            self.finding = Some(self.routes.find(self.facts.peer));
        }
    }

    pub(super) fn on_route(&mut self, route: Route) {
        self.finding = None;
        match route {
            Route::Link(link) => {
                self.link = Some(link);
                self.refresh_generations();
                self.half.link_up();
            }
            Route::Removed => self.peer_removed(),
        }
    }

    /// The peer exists no more. A half that was restored waits for a link to go on; there will be none.
    fn peer_removed(&mut self) {
        self.half.peer_gone();
        if !self.holding {
            self.half.release();
        }
    }
}

/// What came of looking for the peer's host.
pub(super) async fn found(finding: &mut Option<Finding>) -> Route {
    match finding {
        Some(finding) => finding.await,
        None => std::future::pending().await,
    }
}
