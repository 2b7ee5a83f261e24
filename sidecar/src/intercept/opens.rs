//! OPENs that wait for their ANSWER, and the data streams that overtake it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use overlay_proto::{Frame, OpenOutcome, SessionId, StreamHeader};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::limits::EARLY_EVENTS;
use crate::link::{Link, Receiver};
use crate::session::Event;

/// OPENs sent by this host, and those of other hosts that are being dialled here.
#[derive(Clone, Default)]
pub struct Opens(
    Arc<Mutex<HashMap<SessionId, Waiting>>>,
    Arc<Mutex<HashMap<(SessionId, u64), CancellationToken>>>,
);

/// A dial for another host's OPEN.
pub struct Dialled {
    opens: Opens,
    key: (SessionId, u64),
    cancelled: CancellationToken,
}

impl Dialled {
    /// Ends when the opener gave up.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Whether the opener gave up.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.opens.1.lock().expect("no panics under this lock").remove(&self.key);
    }
}

#[derive(Default)]
struct Waiting {
    answer: Option<oneshot::Sender<OpenOutcome>>,
    /// The link that the OPEN went out on: an answer from elsewhere does not count. None when an earlier sidecar sent it.
    link: Option<u64>,
    /// What came for the half before the program's connection was there, in order.
    early: Vec<Event>,
    /// Who waits for a word of the half, and what is said if there won't be one: one for each link.
    unanswered: Vec<(Arc<Link>, Frame)>,
}

impl Opens {
    /// Notes that an OPEN that came on `link` is being dialled.
    pub fn dialling(&self, session: SessionId, link: &Link) -> Dialled {
        let (key, cancelled) = ((session, link.serial), CancellationToken::new());
        self.1.lock().expect("no panics under this lock").insert(key, cancelled.clone());
        Dialled { opens: self.clone(), key, cancelled }
    }

    /// The opener gave up: only on the link that its OPEN came on.
    pub fn cancel(&self, link: &Link, session: SessionId) {
        if let Some(dial) = self.1.lock().expect("no panics under this lock").get(&(session, link.serial)) {
            dial.cancel();
        }
    }

    /// Notes that an OPEN is about to be sent on `link`.
    pub fn expect(&self, session: SessionId, link: &Link) -> oneshot::Receiver<OpenOutcome> {
        let (answer, answered) = oneshot::channel();
        let mut opens = self.0.lock().expect("no panics under this lock");
        let waiting = opens.entry(session).or_default();
        waiting.answer = Some(answer);
        waiting.link = Some(link.serial);
        answered
    }

    /// Notes a session that an earlier sidecar opened: what comes for it waits, whatever link it comes on.
    pub fn inherit(&self, session: SessionId) {
        let mut opens = self.0.lock().expect("no panics under this lock");
        opens.entry(session).or_default().link = None;
    }

    /// An ANSWER arrived.
    pub fn answer(&self, link: &Link, session: SessionId, outcome: OpenOutcome) {
        let mut opens = self.0.lock().expect("no panics under this lock");
        if let Some(waiting) = opens.get_mut(&session).filter(|waiting| waiting.link == Some(link.serial))
            && let Some(answer) = waiting.answer.take()
        {
            let _ = answer.send(outcome);
        }
    }

    /// True while the answer to an OPEN, or the program's connection, is waited for.
    pub fn waits(&self, session: &SessionId) -> bool {
        self.0.lock().expect("no panics under this lock").contains_key(session)
    }

    /// Keeps a data stream for a session that is being opened; gives it back if the session is not.
    pub fn keep_early(
        &self,
        link: &Arc<Link>,
        header: StreamHeader,
        stream: Receiver,
    ) -> Result<(), Receiver> {
        let mut stream = Some(stream);
        let take = |stream: &mut Option<Receiver>| stream.take().expect("taken once");
        match self.keep(link, header.session, || Event::Data(link.clone(), header, take(&mut stream))) {
            true => Ok(()),
            false => Err(take(&mut stream)),
        }
    }

    /// Keeps a control frame for a session that is being opened: the far program may have ended its direction before
    /// ours has its connection, or the far side, that was asked twice, attaches. Says whether the session is being
    /// opened.
    pub fn keep_early_frame(&self, link: &Arc<Link>, session: SessionId, frame: &Frame) -> bool {
        let unknown = frame.answer_unknown();
        let mut opens = self.0.lock().expect("no panics under this lock");
        let Some(waiting) = opens.get_mut(&session) else { return false };
        waiting.keep(link, || Event::Frame(link.clone(), frame.clone()));
        if let Some(unknown) = unknown
            && waiting.unanswered.iter().all(|(other, _)| other.serial != link.serial)
        {
            waiting.unanswered.push((link.clone(), unknown));
        }
        true
    }

    fn keep(&self, link: &Link, session: SessionId, event: impl FnOnce() -> Event) -> bool {
        let mut opens = self.0.lock().expect("no panics under this lock");
        let Some(waiting) = opens.get_mut(&session) else { return false };
        waiting.keep(link, event);
        true
    }

    /// Ends the waiting, and gives what came early. Called while the session is entered into the table, so that what
    /// comes is either early or finds the session.
    pub fn finish(&self, session: SessionId) -> Vec<Event> {
        let mut opens = self.0.lock().expect("no panics under this lock");
        opens.remove(&session).map(|waiting| waiting.early).unwrap_or_default()
    }

    /// Ends the waiting for a session that does not begin. Whoever waits for a word of it, from wherever the far side is by
    /// now, hears that nobody knows it.
    pub fn give_up(&self, session: SessionId) {
        let waiting = self.0.lock().expect("no panics under this lock").remove(&session);
        for (link, unknown) in waiting.into_iter().flat_map(|waiting| waiting.unanswered) {
            link.transmit(unknown);
        }
    }
}

impl Waiting {
    /// What comes over another link than the OPEN, or is too much, is sent again after the next attach.
    fn keep(&mut self, link: &Link, event: impl FnOnce() -> Event) {
        if self.link.is_none_or(|asked| asked == link.serial) && self.early.len() < EARLY_EVENTS {
            self.early.push(event());
        }
    }
}

#[cfg(test)]
mod tests;
