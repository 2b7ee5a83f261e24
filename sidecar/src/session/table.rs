//! Which halves are on this host, and the way to their drivers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use overlay_proto::{CapsuleId, Frame, Half, Role, SessionId, StreamHeader};
use tokio::sync::{mpsc, oneshot};

use super::driver::{Driver, Stopped};
use super::{Event, Facts, Keeping, Key, Parked, Program, Routes, SessionView};
use crate::limits::{MAILBOX_EVENTS, TOMBSTONES};
use crate::link::{Link, Receiver};

/// The halves on this host.
#[derive(Clone)]
pub struct Table(Arc<Inner>);

struct Inner {
    entries: Mutex<Entries>,
    routes: Arc<Routes>,
    runtime: tokio::runtime::Handle,
}

#[derive(Default)]
struct Entries {
    halves: HashMap<Key, Entry>,
    by_peer: HashMap<CapsuleId, HashSet<Key>>,
    ended: HashMap<Key, Farewell>,
    /// Capsules that the directory may place here although their sessions are known elsewhere only, or not yet.
    unsure: HashSet<CapsuleId>,
    ended_order: VecDeque<Key>,
}

/// Why a half is not here any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// Its session is over.
    Ended,
    /// It lives on elsewhere.
    Left,
}

struct Entry {
    mailbox: mpsc::Sender<Event>,
    own: CapsuleId,
    peer: CapsuleId,
    local: SocketAddr,
    remote: SocketAddr,
    /// How often its OPEN came again.
    reopened: u64,
    /// How it stood when it was parked, while it is.
    parked: Option<SessionView>,
}

impl Table {
    /// A table whose drivers run on `runtime`.
    pub fn new(routes: Arc<Routes>, runtime: tokio::runtime::Handle) -> Self {
        Self(Arc::new(Inner { entries: Mutex::default(), routes, runtime }))
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.entries.lock().expect("no panics under this lock")
    }

    /// Makes a mailbox for a half, so that frames for it are kept until its driver runs; none if there is such a half.
    pub fn register(&self, key: Key, facts: &Facts) -> Option<mpsc::Receiver<Event>> {
        self.register_with(key, facts, Vec::new)
    }

    /// As [`Self::register`]; what came for the half earlier is first in the mailbox. It is asked for under the
    /// table's lock, so that nothing comes in between.
    fn register_with(
        &self,
        key: Key,
        facts: &Facts,
        early: impl FnOnce() -> Vec<Event>,
    ) -> Option<mpsc::Receiver<Event>> {
        let (mailbox, events) = mpsc::channel(MAILBOX_EVENTS);
        let mut entries = self.entries();
        if entries.halves.contains_key(&key) {
            return None;
        }
        entries.ended.remove(&key);
        entries.ended_order.retain(|other| *other != key);
        entries.by_peer.entry(facts.peer).or_default().insert(key);
        for event in early() {
            // An empty mailbox has room for more than may be early.
            let _ = mailbox.try_send(event);
        }
        entries.halves.insert(
            key,
            Entry {
                mailbox,
                own: facts.own,
                peer: facts.peer,
                local: facts.local,
                remote: facts.remote,
                reopened: 0,
                parked: None,
            },
        );
        Some(events)
    }

    /// Runs a half that has its link, or will find one.
    pub fn drive(&self, parked: Parked, link: Option<Arc<Link>>) {
        let key = (parked.half.id(), parked.half.role());
        if let Some(entry) = self.entries().halves.get_mut(&key) {
            entry.parked = None;
        }
        let facts = parked.facts.clone();
        let table = self.clone();
        let routes = self.0.routes.clone();
        self.0.runtime.spawn(async move {
            match Driver::new(parked, routes.clone(), link).run().await {
                Stopped::Parked(reply, parked) => {
                    if let Err((parked, _)) = reply.send(*parked) {
                        table.drive(parked, None);
                    }
                }
                Stopped::Over(keeping) => {
                    table.forget(key);
                    if let Some(keeping) = keeping {
                        routes.let_go(&facts.own, keeping);
                    }
                }
            }
        });
    }

    /// Runs a half that begins now, with what came for it earlier; says whether it did, which it does not if there is
    /// one of its name.
    pub fn begin(
        &self,
        mut half: Half,
        facts: Facts,
        program: Program,
        keeping: Option<Keeping>,
        link: Option<Arc<Link>>,
        early: impl FnOnce() -> Vec<Event>,
    ) -> bool {
        let key = (half.id(), half.role());
        let Some(mailbox) = self.register_with(key, &facts, early) else { return false };
        if link.is_none() {
            half.link_lost();
        }
        self.drive(Parked { facts, half, program, keeping, mailbox }, link);
        true
    }

    /// Forgets a half whose session is over, but for the answer to late frames.
    pub fn forget(&self, key: Key) {
        self.bid_farewell(key, Farewell::Ended);
    }

    /// Forgets a half that went elsewhere, but for the answer to late frames.
    pub fn remove(&self, key: Key) {
        self.bid_farewell(key, Farewell::Left);
    }

    fn bid_farewell(&self, key: Key, farewell: Farewell) {
        let mut entries = self.entries();
        if let Some(entry) = entries.halves.remove(&key)
            && let Some(keys) = entries.by_peer.get_mut(&entry.peer)
        {
            keys.remove(&key);
            if keys.is_empty() {
                entries.by_peer.remove(&entry.peer);
            }
        }
        if entries.ended.insert(key, farewell).is_none() {
            entries.ended_order.push_back(key);
            if entries.ended_order.len() > TOMBSTONES {
                let oldest = entries.ended_order.pop_front();
                oldest.map(|oldest| entries.ended.remove(&oldest));
            }
        }
    }

    /// Says whether a capsule's sessions may be unknown here without being over: while there is such a capsule, no other
    /// host is told that a session is unknown.
    pub fn set_unsure(&self, capsule: CapsuleId, unsure: bool) {
        let mut entries = self.entries();
        if unsure {
            entries.unsure.insert(capsule);
        } else {
            entries.unsure.remove(&capsule);
        }
    }

    /// True if this half is here.
    pub fn has(&self, key: &Key) -> bool {
        self.entries().halves.contains_key(key)
    }

    /// Passes an event to a half; gives it back if the half is not here or has too many.
    pub fn tell(&self, key: &Key, event: Event) -> Result<(), Event> {
        let entries = self.entries();
        match entries.halves.get(key) {
            Some(entry) => entry.mailbox.try_send(event).map_err(|error| match error {
                mpsc::error::TrySendError::Full(event) | mpsc::error::TrySendError::Closed(event) => event,
            }),
            None => Err(event),
        }
    }

    /// Tells a half that its OPEN came again, over `link`; what is returned ends in an answer unless its session ends.
    pub fn reopen(&self, key: &Key, link: &Arc<Link>) -> Option<oneshot::Receiver<()>> {
        let (lives, answer) = oneshot::channel();
        let mut entries = self.entries();
        let entry = entries.halves.get_mut(key)?;
        entry.reopened += 1;
        entry.mailbox.try_send(Event::Reopened(link.clone(), lives, entry.reopened)).ok()?;
        Some(answer)
    }

    /// Passes a frame to the half that it is for; an unknown half is answered for.
    pub fn frame(&self, link: &Arc<Link>, key: Key, frame: Frame) {
        if !self.has(&key) {
            let left = {
                let entries = self.entries();
                match entries.ended.get(&key) {
                    Some(Farewell::Left) => true,
                    Some(Farewell::Ended) => false,
                    None => !entries.unsure.is_empty(),
                }
            };
            if let Some(answer) = if left { frame.answer_not_here() } else { frame.answer_unknown() } {
                link.transmit(answer);
            }
            return;
        }
        let found = self.entries().halves.get(&key).map(|entry| (entry.peer, entry.reopened));
        let Some((peer, reopened)) = found else { return };
        if !self.0.routes.places_peer_at(&peer, &link.host) {
            // Asked before it takes a place in the mailbox, which belongs to the peer's frames.
            self.0.routes.check_later(key, peer, link.clone(), frame, reopened);
            return;
        }
        if self.tell(&key, Event::Frame(link.clone(), frame)).is_err()
            && !self.is_parked(&key)
            && !link.is_local()
        {
            // What was lost is told again after the next attach.
            tracing::warn!(session = %key.0, host = %link.host, "a session's mailbox is full; the link is dropped");
            link.close("a session's mailbox is full");
        }
    }

    fn is_parked(&self, key: &Key) -> bool {
        self.entries().halves.get(key).is_none_or(|entry| entry.parked.is_some())
    }

    /// Passes a data stream to its half.
    pub fn data(&self, link: &Arc<Link>, header: StreamHeader, stream: Receiver) -> Result<(), Receiver> {
        match self.tell(&(header.session, header.to), Event::Data(link.clone(), header, stream)) {
            Err(Event::Data(_, _, stream)) => Err(stream),
            _ => Ok(()),
        }
    }

    /// Tells every half that a link is gone.
    pub fn link_down(&self, serial: u64) {
        self.tell_all(|_| true, || Event::LinkDown(serial));
    }

    /// Tells the halves of a capsule, and those of its peers, that the directory's record of it changed.
    pub fn place_changed(&self, capsule: CapsuleId) {
        let mut keys = self.of_capsule(capsule);
        if let Some(peers) = self.entries().by_peer.get(&capsule) {
            keys.extend(peers);
        }
        for key in keys {
            let _ = self.tell(&key, Event::PlaceChanged);
        }
    }

    /// Tells the halves of servers that the policy changed. One whose mailbox is full looks at the policy before it
    /// empties it.
    pub fn policy_changed(&self) {
        let servers: Vec<_> =
            self.entries().halves.keys().filter(|key| key.1 == Role::Acceptor).copied().collect();
        for key in servers {
            let _ = self.tell(&key, Event::PolicyChanged);
        }
    }

    fn tell_all(&self, which: impl Fn(&Entry) -> bool, event: impl Fn() -> Event) {
        for entry in self.entries().halves.values().filter(|entry| which(entry)) {
            let _ = entry.mailbox.try_send(event());
        }
    }

    /// Ends what is left of an earlier connection of `peer` between these addresses: its program has begun a new one. Of
    /// another peer, two gateways with machines of one address, it has not.
    pub fn supersede(&self, session: SessionId, peer: CapsuleId, local: SocketAddr, remote: SocketAddr) {
        for (key, entry) in &self.entries().halves {
            let is_of_these = (entry.peer, entry.local, entry.remote) == (peer, local, remote);
            if key.0 != session && key.1 == Role::Acceptor && is_of_these {
                let _ = entry.mailbox.try_send(Event::Superseded);
            }
        }
    }

    /// Ends the sessions of a capsule here with one that has gone where they can't go. Returns how many there were, when
    /// their end is on record.
    pub async fn end_between(&self, own: CapsuleId, peer: CapsuleId) -> u64 {
        let mailboxes: Vec<_> = {
            let entries = self.entries();
            let between = entries.halves.values().filter(|entry| (entry.own, entry.peer) == (own, peer));
            between.map(|entry| entry.mailbox.clone()).collect()
        };
        let mut waiting = Vec::with_capacity(mailboxes.len());
        for mailbox in mailboxes {
            let (ended, answer) = oneshot::channel();
            if mailbox.send(Event::LeftBehind(ended)).await.is_ok() {
                waiting.push(answer);
            }
        }
        let mut count = 0;
        for answer in waiting {
            count += u64::from(answer.await.unwrap_or(false));
        }
        count
    }

    /// How many halves a capsule has here of sessions with another one.
    pub fn count_between(&self, own: CapsuleId, peer: CapsuleId) -> u64 {
        let entries = self.entries();
        entries.halves.values().filter(|entry| (entry.own, entry.peer) == (own, peer)).count() as u64
    }

    /// The halves of a capsule.
    pub fn of_capsule(&self, own: CapsuleId) -> Vec<Key> {
        self.entries().halves.iter().filter(|(_, entry)| entry.own == own).map(|(key, _)| *key).collect()
    }

    /// The connections of a capsule's halves: the program's address, and the other one.
    pub(super) fn connections_of(&self, own: &CapsuleId) -> Vec<(Key, (SocketAddr, SocketAddr))> {
        let entries = self.entries();
        let own = entries.halves.iter().filter(|(_, entry)| entry.own == *own);
        own.map(|(key, entry)| (*key, (entry.local, entry.remote))).collect()
    }

    /// How the halves of all capsules, or of one, stand.
    pub async fn describe(&self, own: Option<CapsuleId>) -> Vec<SessionView> {
        let mut views = Vec::new();
        let mut asked = Vec::new();
        {
            let entries = self.entries();
            for entry in entries.halves.values().filter(|entry| own.is_none_or(|own| own == entry.own)) {
                if let Some(view) = &entry.parked {
                    views.push(view.clone());
                    continue;
                }
                let (reply, answer) = oneshot::channel();
                if entry.mailbox.try_send(Event::Describe(reply)).is_ok() {
                    asked.push(answer);
                }
            }
        }
        for answer in asked {
            let limit = std::time::Duration::from_millis(500);
            if let Ok(Ok(view)) = tokio::time::timeout(limit, answer).await {
                views.push(view);
            }
        }
        views
    }

    /// Tells every half of a capsule that it leaves, and waits until amounts are agreed or `limit` is over.
    /// Returns how many agreed and how many did not.
    pub async fn hold(&self, own: CapsuleId, limit: std::time::Duration) -> (usize, usize) {
        let waiting: Vec<_> = self
            .of_capsule(own)
            .into_iter()
            .filter_map(|key| {
                let (agreed, answer) = oneshot::channel();
                self.tell(&key, Event::Hold(agreed)).ok().map(|()| answer)
            })
            .collect();
        let deadline = tokio::time::Instant::now() + limit;
        let (mut agreed, mut silent) = (0, 0);
        for answer in waiting {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(())) => agreed += 1,
                Ok(Err(_)) => {}
                Err(_) => silent += 1,
            }
        }
        (agreed, silent)
    }

    /// Ends the hold of a capsule that stays.
    pub fn release(&self, own: CapsuleId) {
        for key in self.of_capsule(own) {
            let _ = self.tell(&key, Event::Release);
        }
    }

    /// Ends the drivers of a capsule and takes its halves.
    pub async fn park(&self, own: CapsuleId) -> Vec<Parked> {
        let asked: Vec<_> = self
            .of_capsule(own)
            .into_iter()
            .filter_map(|key| {
                let (reply, answer) = oneshot::channel();
                self.tell(&key, Event::Park(reply)).ok().map(|()| answer)
            })
            .collect();
        let mut parked = Vec::with_capacity(asked.len());
        for answer in asked {
            // A driver that ended meanwhile drops the question: its session is over.
            let Ok((half, view)) = answer.await else { continue };
            if let Some(entry) = self.entries().halves.get_mut(&(half.half.id(), half.half.role())) {
                entry.parked = Some(view);
            }
            parked.push(half);
        }
        parked
    }
}

#[cfg(test)]
mod tests;
