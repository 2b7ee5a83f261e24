//! The one thread that changes facts. Commands that arrive while a commit is under way share the next one, so an `fsync`
//! serves many, and one that comes alone waits for nobody.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use directory_api::{ApiError, Person, Response};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::audit::{self, By, Entry, Log};
use crate::engine::{Command, Engine, Now, Update};
use crate::limits::{COMMIT_BATCH, WRITER_QUEUE};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::store::{Contents, Store, StoreError, Write};

/// A handle on the writer; the thread ends when all handles are gone and everything was answered.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Change {
        command: Box<Command>,
        asked_by: Option<Person>,
        answer: oneshot::Sender<Result<Response, ApiError>>,
    },
    Read {
        answer: oneshot::Sender<Result<Contents, ApiError>>,
    },
}

/// A writer that was started.
#[derive(Debug)]
pub struct Started {
    /// The handle.
    pub writer: Writer,
    /// What it publishes.
    pub published: Arc<Published>,
    /// Tells when and why the thread ended; an error in place of a result means that it broke.
    pub ended: oneshot::Receiver<Result<(), StoreError>>,
}

struct Thread<S> {
    engine: Engine,
    store: S,
    audit: Log,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
}

impl Writer {
    /// Commits what the engine begins with, and starts the thread. It ends early, with the reason, when the store is
    /// lost.
    ///
    /// # Errors
    /// When the store takes no commit, or there is no thread to be had.
    pub fn start<S: Store + 'static>(
        mut engine: Engine,
        mut store: S,
        audit: Log,
        metrics: Arc<Metrics>,
    ) -> Result<Started, StartError> {
        store.commit(&engine.take_batch().writes)?;
        let published = Arc::new(Published::new(engine.registry().clone()));
        let (jobs, queue) = mpsc::channel(WRITER_QUEUE);
        let (end, ended) = oneshot::channel();
        let thread = Thread { engine, store, audit, published: published.clone(), metrics };
        std::thread::Builder::new().name("writer".into()).spawn(move || {
            // Nobody waits for it when the process stops for another reason.
            let _ = end.send(thread.run(queue));
        })?;
        Ok(Started { writer: Self { jobs }, published, ended })
    }

    /// Has a command carried out. When the answer is there, so is the change: on disk and published.
    ///
    /// # Errors
    /// When the command is refused, or the store failed.
    pub async fn run(&self, command: Command) -> Result<Response, ApiError> {
        self.run_for(command, None).await
    }

    /// As [`Writer::run`], for a person that a host names: the audit log says whom.
    ///
    /// # Errors
    /// As [`Writer::run`].
    pub async fn run_for(&self, command: Command, asked_by: Option<Person>) -> Result<Response, ApiError> {
        let (answer, answered) = oneshot::channel();
        let command = Box::new(command);
        self.jobs.send(Job::Change { command, asked_by, answer }).await.map_err(|_| ApiError::Stopping)?;
        answered.await.map_err(|_| ApiError::StoreFailed)?
    }

    /// Everything that the store holds, between two commits.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn contents(&self) -> Result<Contents, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Read { answer }).await.map_err(|_| ApiError::Stopping)?;
        answered.await.map_err(|_| ApiError::StoreFailed)?
    }
}

/// Why the writer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
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

impl<S: Store> Thread<S> {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) -> Result<(), StoreError> {
        let mut jobs = Vec::with_capacity(COMMIT_BATCH);
        while queue.blocking_recv_many(&mut jobs, COMMIT_BATCH) > 0 {
            self.carry_out(&mut jobs)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, jobs: &mut Vec<Job>) -> Result<(), StoreError> {
        let now = Now { wall: SystemTime::now(), clock: Instant::now() };
        let (mut answers, mut entries) = (Vec::with_capacity(jobs.len()), Vec::new());
        let mut readers = Vec::new();
        for job in jobs.drain(..) {
            let (command, asked_by, answer) = match job {
                Job::Change { command, asked_by, answer } => (command, asked_by, answer),
                Job::Read { answer } => {
                    readers.push(answer);
                    continue;
                }
            };
            let (by, verb, first) = (command.by(), command.verb(), self.engine.batch().updates.len());
            let kind = Kind::of(&command);
            let result = self.engine.handle(*command, now);
            self.count(kind, result.is_ok(), first);
            answers.push((result, answer));
            let changed = audit::entries(now.wall, &by, verb, self.engine.batch(), first);
            entries.extend(changed.into_iter().map(|entry| entry.asked_by(asked_by.as_ref())));
            if kind == Kind::TryStore {
                let text = "it takes changes again".to_owned();
                entries.push(Entry::new(now.wall, &by, verb, "mesh", "store", text));
            }
        }
        let batch = self.engine.take_batch();
        if let Err(error) = self.make_durable(&batch.writes, &entries, now) {
            error!(%error, commands = answers.len(), "cannot commit; nothing was changed");
            self.metrics.health.store_failed(error.to_string());
            for (_, answer) in answers {
                let _ = answer.send(Err(ApiError::StoreFailed));
            }
            let contents = self.store.load()?;
            let engine = &mut self.engine;
            self.published.read(|published| engine.recover(contents, published, now));
            self.give(readers);
            return Ok(());
        }
        if !batch.writes.is_empty() {
            self.metrics.health.store_took();
        }
        self.published.publish(batch);
        for (result, answer) in answers {
            // Whoever asked may be gone; the change holds all the same.
            let _ = answer.send(result);
        }
        self.give(readers);
        Ok(())
    }

    /// Counts what became of leases; `first` is the first update that the command made.
    fn count(&self, kind: Kind, is_done: bool, first: usize) {
        match kind {
            Kind::Renewal if is_done => self.metrics.lease_renewed(),
            Kind::Expiry => {
                let updates = self.engine.batch().updates.iter().skip(first);
                self.metrics.leases_ended(updates.filter(|update| matches!(update, Update::Host(_))).count());
            }
            Kind::Renewal | Kind::TryStore | Kind::Other => {}
        }
    }

    /// Gives out what is committed.
    fn give(&self, readers: Vec<oneshot::Sender<Result<Contents, ApiError>>>) {
        for answer in readers {
            let loaded = self.store.load().map_err(|error| {
                error!(%error, "cannot read the store");
                ApiError::StoreFailed
            });
            let _ = answer.send(loaded);
        }
    }

    /// Writes down who did it, and then does it.
    fn make_durable(&mut self, writes: &[Write], entries: &[Entry], now: Now) -> Result<(), StoreError> {
        self.audit.append(entries).map_err(StoreError::Audit)?;
        self.commit(writes).inspect_err(|error| {
            if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
                let range = [first, last].map(|entry| entry.revision.unwrap_or_default());
                let text = format!(
                    "not committed, nothing holds of revisions {} to {}: {error}",
                    range[0], range[1]
                );
                let undone = Entry::new(now.wall, &By::Directory, "undo", "mesh", "store", text);
                if let Err(error) = self.audit.append(&[undone]) {
                    error!(%error, "the audit log does not say that changes were undone");
                }
            }
        })
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let result = self.store.commit(writes);
        self.metrics.committed(begin.elapsed(), result.is_ok());
        result
    }
}

#[cfg(test)]
mod tests;
