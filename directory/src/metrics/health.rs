//! Whether the directory works, as `/healthz` and `/readyz` tell it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::WRITER_SILENCE_MAX;

/// What is known of the writer and the store.
#[derive(Debug, Default)]
pub struct Health {
    /// When the writer answered last.
    heard: Mutex<Option<Instant>>,
    /// Why the last commit failed, if it did.
    store_failure: Mutex<Option<String>>,
    /// Whether news of other directories do not arrive.
    out_of_touch: AtomicBool,
    /// Whether the process is about to end.
    stopping: AtomicBool,
}

impl Health {
    /// The writer answered, whatever it said.
    pub fn writer_answered(&self, now: Instant) {
        *lock(&self.heard) = Some(now);
    }

    /// The store took a commit.
    pub fn store_took(&self) {
        *lock(&self.store_failure) = None;
    }

    /// The store took none.
    pub fn store_failed(&self, why: String) {
        *lock(&self.store_failure) = Some(why);
    }

    /// Whether the last commit failed.
    pub fn is_store_failed(&self) -> bool {
        lock(&self.store_failure).is_some()
    }

    /// News of other directories arrive from a shared store, or no longer.
    pub fn in_touch(&self, in_touch: bool) {
        self.out_of_touch.store(!in_touch, Ordering::Relaxed);
    }

    /// Whether a shared store can be reached, as far as is known; one of its own always can.
    pub fn is_in_touch(&self) -> bool {
        !self.out_of_touch.load(Ordering::Relaxed)
    }

    /// The process is about to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the process can go on as it is; if not, it should be ended and started anew.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check_alive(&self, now: Instant) -> Result<(), String> {
        let Some(heard) = *lock(&self.heard) else { return Err("the writer has not answered yet".into()) };
        let silent = now.saturating_duration_since(heard);
        if silent > WRITER_SILENCE_MAX {
            return Err(format!("the writer has not answered for {} s", silent.as_secs()));
        }
        Ok(())
    }

    /// Whether requests of all kinds can be answered. The store is loaded and all sockets are bound before anybody is
    /// told anything.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check_ready(&self, now: Instant) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("the directory is stopping".into());
        }
        self.check_alive(now)?;
        if !self.is_in_touch() {
            return Err(
                "nothing can be changed, the store that the directories share cannot be reached".into()
            );
        }
        match &*lock(&self.store_failure) {
            Some(why) => Err(format!("nothing can be changed, the store failed: {why}")),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_until_it_is_right() {
        let (health, begin) = (Health::default(), Instant::now());
        assert!(health.check_alive(begin).is_err());
        health.writer_answered(begin);
        assert_eq!(health.check_ready(begin + WRITER_SILENCE_MAX), Ok(()));
        let later = begin + WRITER_SILENCE_MAX + Duration::from_secs(1);
        assert!(health.check_alive(later).unwrap_err().contains("writer"));
        health.writer_answered(later);
        health.store_failed("disk full".into());
        assert_eq!(health.check_alive(later), Ok(()));
        assert!(health.check_ready(later).unwrap_err().contains("disk full"));
        health.store_took();
        assert_eq!(health.check_ready(later), Ok(()));
        health.in_touch(false);
        assert_eq!(health.check_alive(later), Ok(()));
        assert!(health.check_ready(later).unwrap_err().contains("cannot be reached"));
        health.in_touch(true);
        assert_eq!(health.check_ready(later), Ok(()));
        health.stop();
        assert!(health.check_ready(later).unwrap_err().contains("stopping"));
    }
}
