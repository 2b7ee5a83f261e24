//! The one thread that changes facts. Commands that arrive while a commit is under way share the next one, so an `fsync`
//! serves many, and one that comes alone waits for nobody.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use directory_api::{ApiError, Response};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::engine::{Command, Engine, Now};
use crate::limits::{COMMIT_BATCH, WRITER_QUEUE};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::store::{Store, StoreError};

/// A handle on the writer; the thread ends when all handles are gone and everything was answered.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    command: Command,
    answer: oneshot::Sender<Result<Response, ApiError>>,
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
        metrics: Arc<Metrics>,
    ) -> Result<Started, StartError> {
        store.commit(&engine.take_batch().writes)?;
        let published = Arc::new(Published::new(engine.registry().clone()));
        let (jobs, queue) = mpsc::channel(WRITER_QUEUE);
        let (end, ended) = oneshot::channel();
        let thread = Thread { engine, store, published: published.clone(), metrics };
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
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { command, answer }).await.map_err(|_| ApiError::Stopping)?;
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
            self.carry_out(&mut jobs)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, jobs: &mut Vec<Job>) -> Result<(), StoreError> {
        let now = Now { wall: SystemTime::now(), clock: Instant::now() };
        let handle = |job: Job| (self.engine.handle(job.command, now), job.answer);
        let answers: Vec<_> = jobs.drain(..).map(handle).collect();
        let batch = self.engine.take_batch();
        if let Err(error) = self.commit(&batch.writes) {
            error!(%error, commands = answers.len(), "cannot commit; nothing was changed");
            for (_, answer) in answers {
                let _ = answer.send(Err(ApiError::StoreFailed));
            }
            self.engine.recover(self.store.load()?, now);
            return Ok(());
        }
        self.published.publish(batch);
        for (result, answer) in answers {
            // Whoever asked may be gone; the change holds all the same.
            let _ = answer.send(result);
        }
        Ok(())
    }

    fn commit(&mut self, writes: &[crate::store::Write]) -> Result<(), StoreError> {
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
