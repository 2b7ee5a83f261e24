//! Beside other directories: what they did is published here as if it had been done here.

use std::time::Instant;

use tracing::{error, info, warn};

use super::{Thread, now};
use crate::limits::LEASE_TICK;
use crate::store::{News, Store};

/// How news were taken.
enum Taken {
    /// As they came.
    AsItIs,
    /// By reading everything.
    ByReading,
    /// Not at all.
    Not,
}

impl<S: Store> Thread<S> {
    /// Takes up what others did; with `latest`, everything that was committed before now. Gives whether that was anything,
    /// and `None` when it is not known: what is known here stays then.
    pub(super) fn take_news(&mut self, latest: bool) -> Option<bool> {
        let Some(shared) = self.store.shared() else { return Some(false) };
        let in_touch = shared.is_in_touch();
        if !in_touch {
            self.metrics.health.in_touch(false);
        }
        let taken = match latest {
            true if in_touch => shared.latest(),
            true => return None,
            false => shared.news(),
        };
        let news = taken.inspect_err(|error| warn!(%error, "cannot see what other directories did")).ok()?;
        let changes = news.iter().any(|one| matches!(one, News::Committed { .. } | News::Gap));
        for one in news {
            match self.take(one) {
                Taken::AsItIs => {}
                // Whatever follows is in it.
                Taken::ByReading => break,
                Taken::Not => return None,
            }
        }
        Some(changes)
    }

    fn take(&mut self, news: News) -> Taken {
        let now = now();
        match news {
            News::Committed { revision, writes } => {
                let batch = self.engine.follow(writes, now);
                self.published.publish(batch);
                let here = self.engine.registry().revision;
                if here != revision {
                    warn!(here, there = revision, "another directory counts otherwise; reading everything");
                    if let Some(shared) = self.store.shared() {
                        shared.distrust();
                    }
                    return self.reload();
                }
            }
            News::Seen(hosts) => {
                let batch = self.engine.hear_of(&hosts, now);
                self.published.publish(batch);
            }
            News::InTouchAgain => {
                self.engine.forgive(now);
                self.metrics.health.in_touch(true);
            }
            News::Gap => return self.reload(),
        }
        Taken::AsItIs
    }

    /// Begins anew with what the store holds.
    fn reload(&mut self) -> Taken {
        match self.store.load() {
            Ok(contents) => {
                let engine = &mut self.engine;
                self.published.read(|published| engine.recover(contents, published, now()));
                self.published.replace(self.engine.registry().clone());
                info!(revision = self.engine.registry().revision, "read all facts from the store");
                Taken::ByReading
            }
            // The store keeps saying that something is missing until this succeeded.
            Err(error) => {
                error!(%error, "cannot read the facts; what is known here may be old");
                Taken::Not
            }
        }
    }

    /// Tells the others of the hosts heard of here.
    pub(super) fn tell_seen(&mut self) {
        if self.seen.is_empty() || self.told_at.elapsed() < LEASE_TICK {
            return;
        }
        let Some(shared) = self.store.shared() else { return };
        let hosts = std::mem::take(&mut self.seen).into_iter().collect();
        if let Err(untold) = shared.tell_seen(hosts) {
            self.seen.extend(untold);
        }
        self.told_at = Instant::now();
    }
}
