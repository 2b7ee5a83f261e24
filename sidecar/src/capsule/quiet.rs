//! Quiet: while a capsule is about to leave, no new connection begins on either side.
//!
//! First new ones wait while those under way get a moment ([`Quiet::begin`]); then those that are still under way are
//! given up, to be tried again at the target ([`Quiet::shut`]). A connection that came to be after that would be in
//! nobody's snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Pause between looks at dials that are being given up.
const LOOK: Duration = Duration::from_millis(1);

/// What becomes of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They are opened.
    Open,
    /// They wait; those under way go on.
    Quiet,
    /// Those under way are given up too.
    Shut,
}

/// Whether new connections wait, and how many dials to the program are under way.
#[derive(Clone)]
pub struct Quiet {
    state: Arc<watch::Sender<State>>,
    /// The connector has given up what it was opening.
    still: Arc<watch::Sender<bool>>,
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
        let state = if quiet { State::Quiet } else { State::Open };
        Self {
            state: Arc::new(watch::Sender::new(state)),
            still: Arc::new(watch::Sender::new(false)),
            dialling: Arc::default(),
        }
    }

    /// From here on new connections wait.
    pub fn begin(&self) {
        self.state.send_replace(State::Quiet);
    }

    /// Gives up what is still being opened, and returns when there is nothing of the kind.
    pub async fn shut(&self) {
        self.still.send_replace(false);
        self.state.send_replace(State::Shut);
        let mut still = self.still.subscribe();
        let _ = still.wait_for(|still| *still).await;
        while self.dials() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The connector has nothing under way any more.
    pub fn acknowledge(&self) {
        self.still.send_replace(true);
    }

    /// Ends the quiet.
    pub fn end(&self) {
        self.state.send_replace(State::Open);
    }

    /// What becomes of new connections.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// A receiver that sees every change.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Waits until dials under way are to be given up.
    pub async fn until_shut(&self) {
        let _ = self.watch().wait_for(|state| *state == State::Shut).await;
    }

    /// Begins a dial, unless it is quiet.
    pub fn dialling(&self) -> Option<Dialling> {
        self.dialling.fetch_add(1, Ordering::AcqRel);
        let dialling = Dialling(self.dialling.clone());
        // Counted before looking: who makes it quiet looks at the count afterwards.
        (self.state() == State::Open).then_some(dialling)
    }

    /// Dials under way.
    pub fn dials(&self) -> usize {
        self.dialling.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
