//! From commands to what they would change, and whether that rests on the newest facts.

use std::collections::VecDeque;

use directory_api::{ApiError, Person, Response};

use super::{Answer, Change, Thread, away, now};
use crate::audit::{self, Entry};
use crate::engine::{Batch, Command, Now, Update};
use crate::store::{Store, StoreError};

/// Facts that a command may change beside what others did; a step is not filled further.
const ROOM_FOR_ONE: usize = 8;

/// Commands that have been evaluated, and what is to become of them.
pub(super) struct Evaluated {
    pub(super) now: Now,
    pub(super) batch: Batch,
    pub(super) entries: Vec<Entry>,
    pub(super) answers: Vec<(Result<Response, ApiError>, Answer)>,
    /// Leases that were renewed, and that ran out.
    pub(super) leases: Counted,
    /// The commands themselves and for whom they are, where they may have to be evaluated again.
    again: Vec<(Box<Command>, Option<Person>)>,
}

/// What is counted of leases.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) renewed: usize,
    pub(super) ended: usize,
}

/// What is counted, or written down, of a command beside its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Renewal,
    Expiry,
    TryStore,
    Other,
}

impl Kind {
    fn of(command: &Command) -> Self {
        match command {
            Command::RenewLease { .. } => Self::Renewal,
            Command::Expire => Self::Expiry,
            Command::TryStore => Self::TryStore,
            _ => Self::Other,
        }
    }
}

impl Evaluated {
    /// The commands as they came, to be evaluated once more.
    pub(super) fn asked_again(self) -> impl DoubleEndedIterator<Item = Change> {
        let answers: Vec<_> = self.answers.into_iter().map(|(_, answer)| answer).collect();
        let commands = self.again.into_iter().zip(answers);
        commands.map(|((command, asked_by), answer)| Change { command, asked_by, answer })
    }
}

impl<S: Store> Thread<S> {
    /// Evaluates commands until there are enough for one step of the store.
    pub(super) fn evaluate(&mut self, changes: &mut VecDeque<Change>) -> Evaluated {
        let now = now();
        let (is_shared, out_of_touch) = match self.store.shared() {
            Some(shared) => (true, (!shared.is_in_touch()).then(|| shared.out_of_touch())),
            None => (false, None),
        };
        let (mut answers, mut entries, mut again) = (Vec::new(), Vec::new(), Vec::new());
        let mut leases = Counted::default();
        // Most commands change up to three facts; who changes more has the store split it.
        while self.engine.batch().writes.len() < self.store.room().saturating_sub(ROOM_FOR_ONE) {
            let Some(Change { command, asked_by, answer }) = changes.pop_front() else { break };
            let (by, verb, first) = (command.by(), command.verb(), self.engine.batch().updates.len());
            let kind = Kind::of(&command);
            if is_shared {
                again.push((command.clone(), asked_by.clone()));
            }
            let result = match (&out_of_touch, kind) {
                (None, _) => self.engine.handle(*command, now),
                // Who is silent is not known while nobody is heard of.
                (Some(_), Kind::Expiry) => Ok(Response::Done),
                // A host is better off with a directory that can tell the others of it. And each commit that is tried in
                // vain holds up all that come after it.
                (Some(error), Kind::Renewal | Kind::TryStore | Kind::Other) => Err(away(error)),
            };
            leases.count(kind, &result, &self.engine.batch().updates[first..]);
            let changed = audit::entries(now.wall, &by, verb, self.engine.batch(), first);
            entries.extend(changed.into_iter().map(|entry| entry.asked_by(asked_by.as_ref())));
            if kind == Kind::TryStore && result.is_ok() {
                let text = "it takes changes again".to_owned();
                entries.push(Entry::new(now.wall, &by, verb, "mesh", "store", text));
            }
            answers.push((result, answer));
        }
        Evaluated { now, batch: self.engine.take_batch(), entries, answers, leases, again }
    }

    /// Whether answers rest on the newest facts. A commit proves it; what needs none is held against the store.
    pub(super) fn stands(&mut self, evaluated: &Evaluated) -> Result<(), StoreError> {
        let commands = evaluated.again.iter().map(|(command, _)| command);
        let mut answered = commands.zip(evaluated.answers.iter().map(|(result, _)| result));
        let in_question = evaluated.batch.writes.is_empty()
            && answered.any(|(command, result)| rests_on_facts(command, result));
        if !in_question {
            return Ok(());
        }
        match self.take_news(true) {
            Some(false) => Ok(()),
            Some(true) => Err(StoreError::Overtaken),
            None => Err(StoreError::Unread),
        }
    }
}

/// Whether newer facts could make an answer another one.
fn rests_on_facts(command: &Command, result: &Result<Response, ApiError>) -> bool {
    match (Kind::of(command), result) {
        (Kind::Expiry, _) | (_, Err(ApiError::StoreAway { .. })) => false,
        (Kind::Renewal, Ok(Response::Lease(lease))) => !lease.stale.is_empty(),
        (Kind::Renewal | Kind::TryStore | Kind::Other, _) => true,
    }
}

impl Counted {
    fn count(&mut self, kind: Kind, result: &Result<Response, ApiError>, updates: &[Update]) {
        match kind {
            Kind::Renewal => self.renewed += usize::from(result.is_ok()),
            Kind::Expiry => {
                self.ended += updates.iter().filter(|update| matches!(update, Update::Host(_))).count();
            }
            Kind::TryStore | Kind::Other => {}
        }
    }
}
