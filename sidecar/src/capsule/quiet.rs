//! Quiet: while a capsule is about to leave, no new connection begins on either side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Whether new connections wait, and how many dials to the program are under way.
#[derive(Clone)]
pub struct Quiet {
    quiet: Arc<watch::Sender<bool>>,
    dialling: Arc<AtomicUsize>,
}

/// A dial under way.
pub struct Dialling(Arc<AtomicUsize>);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Quiet {
    /// Not quiet, or quiet from the beginning as an arriving capsule is.
    pub fn new(quiet: bool) -> Self {
        Self { quiet: Arc::new(watch::Sender::new(quiet)), dialling: Arc::default() }
    }

    /// Begins or ends the quiet.
    pub fn set(&self, quiet: bool) {
        self.quiet.send_replace(quiet);
    }

    /// True while new connections wait.
    pub fn is_quiet(&self) -> bool {
        *self.quiet.borrow()
    }

    /// A receiver that sees every change.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.quiet.subscribe()
    }

    /// Begins a dial, unless it is quiet.
    pub fn dialling(&self) -> Option<Dialling> {
        self.dialling.fetch_add(1, Ordering::AcqRel);
        let dialling = Dialling(self.dialling.clone());
        // Counted before looking: who makes it quiet looks at the count afterwards.
        (!self.is_quiet()).then_some(dialling)
    }

    /// Dials under way.
    pub fn dials(&self) -> usize {
        self.dialling.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
