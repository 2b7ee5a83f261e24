//! The private layer, moved by rsync in rounds.
//!
//! ```text
//!           ┌──────────── next(): clock, syncfs, listing ◀───────────┐
//!  running  └▶ rsync of what changed since the last complete round ──┘ note()
//!  frozen      last(): listing ─ nothing changed? no rsync at all : rsync of what changed ─ note()
//! ```
//!
//! What changed is decided here and not by rsync, whose look at size and mtime misses a program that goes on
//! writing into a page it has mapped: the kernel stamps a file at the first write to a clean page only. `syncfs`
//! cleans all pages, so a later write stamps again; therefore a file whose ctime is not older than the clock
//! read *before* the `syncfs` may have been written since, and is sent again, whatever else looks the same.
//! Only ctime is asked, which programs cannot set. It holds for each round, not for the last alone.
//!
//! rsync is told every path by name and walks nothing by itself, and what is gone is removed at the target by our
//! own code, before rsync runs there. So what the target holds after a round is what the listing said, or less: a
//! file that vanished before rsync came to it is gone in the next listing too, and removed; one that was back by then
//! bears a new stamp, or its directory does, and is sent.

pub(in crate::files) mod connect;
mod listing;
mod removal;
mod rsync;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use connect::{CONNECT_MODE, connect_stdio};
pub use listing::{Entry, Listing, Stamp};
pub use removal::{Remover, pieces};
pub use rsync::{Ended, Pace, ended, rsync_receiver, rsync_sender};

use super::FilesError;

/// The rounds of one move, at its source.
#[derive(Debug)]
pub struct Rounds {
    upper: PathBuf,
    complete: Option<Round>,
    /// Paths that the target may hold although the complete round lacks them: a later one named them and failed.
    doubtful: BTreeSet<PathBuf>,
}

/// One round: what to remove and to send, and what the target holds afterwards.
#[derive(Debug)]
pub struct Round {
    removed: BTreeSet<PathBuf>,
    paths: Vec<PathBuf>,
    listing: Listing,
}

impl Rounds {
    /// Starts with nothing sent; the target's directory must be empty.
    pub fn new(upper: &Path) -> Rounds {
        Rounds { upper: upper.to_path_buf(), complete: None, doubtful: BTreeSet::new() }
    }

    /// The next round while the programs run.
    pub fn next(&self) -> Result<Round, FilesError> {
        Ok(self.round(Listing::synced(&self.upper)?))
    }

    /// The last round, for programs that are frozen: it writes nothing out.
    pub fn last(&self) -> Result<Round, FilesError> {
        Ok(self.round(Listing::of(&self.upper)?))
    }

    /// Notes how a round ended; also that of an empty one, which is complete without any rsync.
    pub fn note(&mut self, round: Round, ended: Ended) {
        match ended {
            Ended::Complete => {
                self.complete = Some(round);
                self.doubtful.clear();
            }
            Ended::Incomplete => self.doubtful.extend(round.paths),
        }
    }

    fn round(&self, listing: Listing) -> Round {
        let doubtful = || self.doubtful.iter().map(PathBuf::as_path);
        let (mut paths, removed) = match &self.complete {
            Some(Round { listing: previous, paths, .. }) => {
                let sent = paths.iter().map(PathBuf::as_path).chain(doubtful());
                let held = previous.entries().map(|(path, _)| path).chain(doubtful());
                (listing.changed_since(previous, sent), listing.lacks(held))
            }
            None => (listing.paths(), listing.lacks(doubtful())),
        };
        // To remove something changes the times of its directory, which rsync sets again.
        paths.extend(removed.iter().map(|path| listing::above(path).to_path_buf()));
        paths.sort_unstable();
        paths.dedup();
        Round { removed, paths, listing }
    }
}

impl Round {
    /// What the target must remove before it takes what [`rsync_sender`] sends, as relative paths. They go there by
    /// [`pieces`].
    pub fn removed(&self) -> &BTreeSet<PathBuf> {
        &self.removed
    }

    /// What [`rsync_sender`] sends, as relative paths.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Nothing is to be removed or sent, no rsync need be started.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The listing that the target will match.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }
}
