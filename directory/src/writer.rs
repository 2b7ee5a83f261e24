//! The one thread that changes facts. Commands that arrive while a commit is under way share the next one, so an `fsync`
//! serves many, and one that comes alone waits for nobody.
//!
//! ```text
//!  commands ─► evaluated ─► committed ─► published, answered
//!                  ▲            └─ another directory was faster: undone, its news taken
//!                  └─────────────────────────┘
//! ```

mod committing;
mod evaluating;
mod following;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use directory_api::{ApiError, Person, Response};
use overlay_proto::HostName;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::audit::Log;
use crate::engine::{Command, Engine, Now};
use crate::limits::{COMMIT_BATCH, OVERTAKEN_MAX, WRITER_QUEUE};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::store::{Contents, Store, StoreError};

/// A handle on the writer; the thread ends when all handles are gone and everything was answered.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    /// Others change the facts too.
    is_shared: bool,
}

#[derive(Debug)]
enum Job {
    /// Carry out a command.
    Change(Change),
    /// Give out everything.
    Read(Reader),
    /// There may be news from other directories.
    News,
    /// See to it that the facts here are not older than this request.
    Latest(oneshot::Sender<bool>),
}

/// A command, and who waits for what becomes of it.
#[derive(Debug)]
struct Change {
    command: Box<Command>,
    asked_by: Option<Person>,
    answer: Answer,
}

impl Change {
    fn refuse(self, refusal: ApiError) {
        // Whoever asked may be gone.
        let _ = self.answer.send(Err(refusal));
    }
}

type Answer = oneshot::Sender<Result<Response, ApiError>>;
type Reader = oneshot::Sender<Result<Contents, ApiError>>;

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
    /// Hosts heard of, of whom the other directories have not been told.
    seen: BTreeSet<HostName>,
    told_at: Instant,
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
        engine.settle();
        let published = Arc::new(Published::new(engine.registry().clone()));
        let (jobs, queue) = mpsc::channel(WRITER_QUEUE);
        let (end, ended) = oneshot::channel();
        let is_shared = store.shared().is_some();
        if let Some(shared) = store.shared() {
            let told = jobs.downgrade();
            // A full queue is looked at soon anyhow, and news with it.
            shared.on_news(Box::new(move || drop(told.upgrade().map(|jobs| jobs.try_send(Job::News)))));
        }
        let (seen, told_at) = (BTreeSet::new(), Instant::now());
        let thread = Thread { engine, store, audit, published: published.clone(), metrics, seen, told_at };
        std::thread::Builder::new().name("writer".into()).spawn(move || {
            // Nobody waits for it when the process stops for another reason.
            let _ = end.send(thread.run(queue));
        })?;
        Ok(Started { writer: Self { jobs, is_shared }, published, ended })
    }

    /// Returns when what is published is no older than this call, with `true`; with `false` when a shared store does not
    /// answer, and what is published may be old.
    pub async fn latest(&self) -> bool {
        if !self.is_shared {
            return true;
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Latest(answer)).await.is_ok() && answered.await.unwrap_or(false)
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
        let change = Change { command: Box::new(command), asked_by, answer };
        self.jobs.send(Job::Change(change)).await.map_err(|_| ApiError::Stopping)?;
        answered.await.map_err(|_| ApiError::StoreFailed)?
    }

    /// Everything that the store holds, between two commits.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn contents(&self) -> Result<Contents, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Read(answer)).await.map_err(|_| ApiError::Stopping)?;
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

impl<S: Store> Thread<S> {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) -> Result<(), StoreError> {
        let mut jobs = Vec::with_capacity(COMMIT_BATCH);
        while queue.blocking_recv_many(&mut jobs, COMMIT_BATCH) > 0 {
            let mut changes = VecDeque::with_capacity(jobs.len());
            let (mut readers, mut waiting) = (Vec::new(), Vec::new());
            for job in jobs.drain(..) {
                match job {
                    Job::Change(change) => changes.push_back(change),
                    Job::Read(answer) => readers.push(answer),
                    Job::News => {}
                    Job::Latest(answer) => waiting.push(answer),
                }
            }
            let taken = self.take_news(!waiting.is_empty());
            for answer in waiting {
                // Whoever waited may be gone.
                let _ = answer.send(taken.is_some());
            }
            self.carry_out(changes)?;
            self.give(readers);
            self.tell_seen();
        }
        Ok(())
    }

    /// Carries out commands, as many at once as the store takes.
    fn carry_out(&mut self, mut changes: VecDeque<Change>) -> Result<(), StoreError> {
        let mut overtaken = 0;
        while !changes.is_empty() {
            let evaluated = self.evaluate(&mut changes);
            let (now, count) = (evaluated.now, evaluated.answers.len());
            let durable = match self.stands(&evaluated) {
                Ok(()) => self.make_durable(&evaluated.batch.writes, &evaluated.entries, now),
                Err(error) => Err(error),
            };
            match durable {
                Ok(()) => {
                    self.engine.settle();
                    self.finish(evaluated);
                    overtaken = 0;
                }
                Err(StoreError::Overtaken) if overtaken < OVERTAKEN_MAX => {
                    overtaken += 1;
                    self.metrics.overtaken(count);
                    self.published.read(|committed| self.engine.undo(&evaluated.batch, committed));
                    if self.take_news(false).is_none() {
                        self.fail(evaluated, &StoreError::Unread)?;
                        continue;
                    }
                    evaluated.asked_again().rev().for_each(|change| changes.push_front(change));
                }
                Err(error) => {
                    error!(%error, commands = count, "cannot commit");
                    self.fail(evaluated, &error)?;
                    if matches!(error, StoreError::Away { .. }) {
                        // One that waits for an answer in vain is enough: the writer must be heard of in time.
                        changes.drain(..).for_each(|change| change.refuse(away(&error)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives out what is committed.
    fn give(&mut self, readers: Vec<Reader>) {
        for answer in readers {
            let is_shared = self.store.shared().is_some();
            let read = self.store.read().map_err(|error| {
                error!(%error, "cannot read the store");
                if is_shared { away(&error) } else { ApiError::StoreFailed }
            });
            let _ = answer.send(read);
        }
    }
}

fn away(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::StoreAway { reason: why.to_string() }
}

fn now() -> Now {
    Now { wall: SystemTime::now(), clock: Instant::now() }
}

#[cfg(test)]
mod tests;
