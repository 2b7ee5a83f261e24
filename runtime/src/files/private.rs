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
//! rsync is told every path by name and walks nothing by itself. So what the target holds after a round is what
//! the listing said, and a file that lived only between two listings can't stay behind there. A path that is
//! named as gone may come back just before rsync looks; such ones are named again by the next round if their
//! directory changed meanwhile.

pub(in crate::files) mod connect;
mod listing;
mod rsync;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use connect::{CONNECT_MODE, connect_stdio};
pub use listing::{Entry, Listing, Stamp};
pub use rsync::{Ended, Pace, ended, rsync_receiver, rsync_sender};

use super::FilesError;

/// The rounds of one move, at its source.
#[derive(Debug)]
pub struct Rounds {
    upper: PathBuf,
    complete: Option<Listing>,
    /// Paths that the target may hold although `complete` lacks them: they were named to rsync, as gone or in a
    /// round that was not complete, and may have come back just then.
    doubtful: BTreeSet<PathBuf>,
}

/// One round: what to send, and what the target holds afterwards.
#[derive(Debug)]
pub struct Round {
    paths: Vec<PathBuf>,
    listing: Listing,
    gone: BTreeSet<PathBuf>,
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
                self.complete = Some(round.listing);
                self.doubtful = round.gone;
            }
            Ended::Incomplete => {
                self.doubtful.extend(round.gone);
                self.doubtful.extend(round.paths);
            }
        }
    }

    fn round(&self, listing: Listing) -> Round {
        let (mut paths, mut gone) = match &self.complete {
            Some(previous) => (listing.changed_since(previous), listing.gone_since(previous)),
            None => (listing.paths(), BTreeSet::new()),
        };
        let returned = |path: &PathBuf| match &self.complete {
            Some(previous) => listing.may_have_come_and_gone(path, previous),
            None => !listing.has(path),
        };
        gone.extend(self.doubtful.iter().filter(|path| returned(path)).cloned());
        paths.extend(gone.iter().filter(|path| listing.lacks_in_a_directory(path)).cloned());
        paths.sort_unstable();
        paths.dedup();
        Round { paths, listing, gone }
    }
}

impl Round {
    /// What to give to [`rsync_sender`]: relative paths, those that are gone among them.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Nothing is to be sent, no rsync need be started.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The listing that the target will match.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }
}
