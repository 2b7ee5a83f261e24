//! What sessions share: a link's window on the sending side, and on the receiving side.
//!
//! Who has much to send takes turns with the others ([`Turn`]); whose program does not read gives its share back the
//! sooner, the more there are of them ([`Stalls`]).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{PARK_AFTER, PARK_SOONEST, PARK_STREAMS};

type Coming = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send + Sync>>;

/// A place among the writers of a link. It is kept when a step is cancelled.
#[derive(Default)]
pub(super) enum Turn {
    /// None is needed.
    #[default]
    None,
    /// Others come first.
    Waits(Coming),
    /// It is this one's turn.
    Has { _permit: Option<OwnedSemaphorePermit> },
}

impl fmt::Debug for Turn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "None",
            Self::Waits(_) => "Waits",
            Self::Has { .. } => "Has",
        })
    }
}

impl Turn {
    /// Asks for a turn, unless that was done; says whether others come first and it has just begun to wait.
    pub(super) fn begin(&mut self, turns: Option<&Arc<Semaphore>>) -> bool {
        let (Self::None, Some(turns)) = (&*self, turns) else { return false };
        match turns.clone().try_acquire_owned() {
            Ok(permit) => {
                *self = Self::Has { _permit: Some(permit) };
                false
            }
            Err(_) => {
                let turns = turns.clone();
                *self = Self::Waits(Box::pin(async move { turns.acquire_owned().await.ok() }));
                true
            }
        }
    }

    /// Waits until it is this one's turn, if one was asked for.
    pub(super) async fn come(&mut self) {
        if let Self::Waits(coming) = self {
            let permit = coming.await;
            *self = Self::Has { _permit: permit };
        }
    }
}

/// The streams on this host whose programs have no room just now.
#[derive(Debug, Clone, Default)]
pub(super) struct Stalls(Arc<AtomicU32>);

/// One of them.
#[derive(Debug)]
pub(super) struct Stall(Stalls);

impl Stalls {
    pub(super) fn begin(&self) -> Stall {
        self.0.fetch_add(1, Ordering::Relaxed);
        Stall(self.clone())
    }
}

impl Stall {
    /// Time without room after which a stream is parked.
    pub(super) fn park_after(&self) -> Duration {
        park_after(self.0.0.load(Ordering::Relaxed))
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn park_after(stalled: u32) -> Duration {
    (PARK_AFTER * PARK_STREAMS / stalled.max(PARK_STREAMS)).max(PARK_SOONEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_wait_the_sooner_they_are_parked() {
        assert_eq!(park_after(1), PARK_AFTER);
        assert_eq!(park_after(PARK_STREAMS), PARK_AFTER);
        assert_eq!(park_after(2 * PARK_STREAMS), PARK_AFTER / 2);
        assert_eq!(park_after(10_000), PARK_SOONEST);
    }

    #[tokio::test]
    async fn turns_come_in_order_and_survive_cancelling() {
        let turns = Arc::new(Semaphore::new(1));
        let (mut first, mut second, mut third) = (Turn::None, Turn::None, Turn::None);
        assert!(!first.begin(Some(&turns)));
        assert!(second.begin(Some(&turns)) && !second.begin(Some(&turns)));
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, second.come()).await.is_err());
        assert!(third.begin(Some(&turns)));
        assert!(tokio::time::timeout(soon, third.come()).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(soon, third.come()).await.is_err(), "the second was before the third");
        second.come().await;
        drop(second);
        third.come().await;
        assert!(matches!(third, Turn::Has { .. }));
    }

    #[tokio::test]
    async fn on_one_host_there_are_no_turns() {
        let mut turn = Turn::None;
        assert!(!turn.begin(None));
        turn.come().await;
    }
}
