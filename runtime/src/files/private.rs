//! The private layer, moved by rsync in rounds.
//!
//! ```text
//!           ┌──────────── next(): clock, syncfs, listing ◀───────────┐
//!  running  └▶ rsync of what changed since the last complete round ──┘ complete()
//!  frozen      last(): listing ─ nothing changed? no rsync at all : rsync of what changed ─ complete()
//! ```
//!
//! What changed is decided here and not by rsync, whose look at size and mtime misses a program that goes on
//! writing into a page it has mapped: the kernel stamps a file at the first write to a clean page only. `syncfs`
//! cleans all pages, so a later write stamps again; therefore a file whose ctime is not older than the clock
//! read *before* the `syncfs` may have been written since, and is sent again, whatever else looks the same.
//! Only ctime is asked, which programs cannot set. It holds for each round, not for the last alone.
//!
//! rsync is told every path by name and walks nothing by itself. So what the target holds after a round is what
//! the listing said, and a file that lived only between two listings can't stay behind there.

pub(in crate::files) mod connect;
mod listing;
mod rsync;
#[cfg(test)]
mod tests;

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
}

/// One round: what to send, and what the target holds afterwards.
#[derive(Debug)]
pub struct Round {
    paths: Vec<PathBuf>,
    listing: Listing,
}

impl Rounds {
    /// Starts with nothing sent; the target's directory must be empty.
    pub fn new(upper: &Path) -> Rounds {
        Rounds { upper: upper.to_path_buf(), complete: None }
    }

    /// The next round while the programs run.
    pub fn next(&self) -> Result<Round, FilesError> {
        Ok(self.round(Listing::synced(&self.upper)?))
    }

    /// The last round, for programs that are frozen: it writes nothing out.
    pub fn last(&self) -> Result<Round, FilesError> {
        Ok(self.round(Listing::of(&self.upper)?))
    }

    /// Notes that the target has everything of this round. A round that failed is just not noted: the next one
    /// then holds what it held.
    pub fn complete(&mut self, round: Round) {
        self.complete = Some(round.listing);
    }

    fn round(&self, listing: Listing) -> Round {
        let paths = match &self.complete {
            Some(previous) => listing.changed_since(previous),
            None => listing.paths(),
        };
        Round { paths, listing }
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
