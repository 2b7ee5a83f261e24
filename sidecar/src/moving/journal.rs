//! What was about to be done, written down before it is done; and what a successor may do after reading it.
//!
//! The journal is the file `journal` in a capsule's directory, one JSON document on each line, every line on disk before
//! what it says begins. A move begins a new journal. It belongs to the process that has the data directory.
//!
//! ```text
//!  source   Offered ─→ KeySent ─→ (everything removed)        target   Arriving ─→ Key ─→ Thawed ─→ Reported
//!              └──────────┴─→ Undone                                               └───────┴─→ GivingBack
//! ```
//!
//! [`decide`] is pure: from the journal, the state of the processes and what the directory answered to the next step.
//! It never lets processes go on because of something that was only read: before the key was sent they go on without
//! asking; after it only a claim, a revocation or a takeover that the directory carried out lets them.

mod decision;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use directory_api::TakeoverFrom;
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};
use serde::{Deserialize, Serialize};

pub use decision::{Answer, Decision, Processes, Question, Standing, decide};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about_to", rename_all = "snake_case")]
pub enum Entry {
    /// The source offers the capsule; begins the journal.
    Offered {
        /// The offer.
        offer: OfferId,
        /// At this generation.
        generation: Generation,
        /// To this host.
        target: HostName,
        /// Whether this host carries connections on that are bound to it; otherwise they end when it is gone.
        #[serde(default)]
        keep_anchored: bool,
    },
    /// The source sends the key: from here on only the directory can say who has the capsule.
    KeySent {
        /// The claim key.
        key: ClaimKey,
    },
    /// The host asks the directory to note that the capsule lies in a file, which is on disk; begins the journal.
    Suspending {
        /// The suspension.
        suspension: OfferId,
        /// The generation at which it is asked.
        generation: Generation,
    },
    /// The capsule comes from a file; begins the journal.
    Resuming {
        /// The suspension.
        suspension: OfferId,
        /// The generation at which it lies in the file.
        generation: Generation,
    },
    /// The capsule comes from a file, and the host is about to take it over from a host that is gone; begins the journal.
    Recovering {
        /// The takeover.
        takeover: OfferId,
        /// The generation that the person saw.
        generation: Generation,
        /// The generation at which it lay in the file.
        file: Generation,
    },
    /// The source lets its processes go on.
    Undone,
    /// The target makes room; begins the journal.
    Arriving {
        /// The offer.
        offer: OfferId,
        /// The host it comes from.
        source: HostName,
    },
    /// The target claims.
    Key {
        /// The claim key.
        key: ClaimKey,
    },
    /// The target opens the gate: the image is never restored again.
    Thawed {
        /// The generation that the claim made.
        generation: Generation,
    },
    /// The directory has noted that the capsule runs: the source's copy is gone or about to go.
    Reported,
    /// The target destroys its copy, and then offers the capsule back.
    GivingBack {
        /// The generation that the claim made.
        generation: Generation,
    },
    /// The capsule goes on elsewhere although it was never given away: this copy is frozen and kept.
    Superseded {
        /// The generation of the capsule elsewhere, when that is known.
        generation: Option<Generation>,
    },
    /// The capsule is removed for good.
    Removing,
}

/// Where a capsule stands by its journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Journal {
    /// No move is under way.
    #[default]
    Quiet,
    /// Its source has offered it, and not sent the key.
    Offered {
        /// The offer.
        offer: OfferId,
    },
    /// Its source was about to send the key.
    KeySent {
        /// The offer.
        offer: OfferId,
        /// The generation at which it was offered.
        generation: Generation,
        /// The claim key, with which a target also offers it back.
        key: ClaimKey,
    },
    /// Its source was about to let it go on.
    Undone {
        /// The offer.
        offer: OfferId,
    },
    /// Its host was about to have it noted as suspended.
    Suspending {
        /// The suspension.
        suspension: OfferId,
        /// The generation at which it was asked.
        generation: Generation,
    },
    /// It was coming, and the key had not come.
    Arriving,
    /// It came from a file, and its host was about to claim it.
    Resuming {
        /// The suspension.
        suspension: OfferId,
        /// The generation at which it lay in the file.
        generation: Generation,
        /// The key in the file.
        key: ClaimKey,
    },
    /// It came from a file and could not run; its host was about to make the file good again.
    PuttingBack {
        /// The suspension.
        suspension: OfferId,
        /// The generation that the resume made.
        generation: Generation,
        /// The key in the file.
        key: ClaimKey,
    },
    /// It came from a file, and its host was about to take it over.
    Recovering {
        /// The takeover.
        takeover: OfferId,
        /// The generation that the person saw.
        generation: Generation,
        /// The generation at which it lay in the file.
        file: Generation,
    },
    /// Its target was about to claim it.
    Key {
        /// The offer.
        offer: OfferId,
        /// The claim key.
        key: ClaimKey,
        /// The host it comes from.
        source: HostName,
    },
    /// Its target was about to open the gate.
    Thawed {
        /// The generation that the claim made.
        generation: Generation,
        /// Whether the directory has noted that it runs.
        reported: bool,
    },
    /// Its target was about to destroy its copy and to offer it back.
    GivingBack {
        /// The generation that the claim made.
        generation: Generation,
        /// The claim key.
        key: ClaimKey,
        /// The host it comes from.
        source: HostName,
    },
    /// It goes on elsewhere, and this copy is kept.
    Superseded,
    /// It was about to be removed.
    Removing,
}

impl Journal {
    /// Reads the journal in a capsule's directory; none is a quiet one.
    ///
    /// # Errors
    /// It can't be read, or has entries that this version does not know.
    pub fn read(directory: &Path) -> io::Result<Self> {
        match std::fs::read_to_string(path(directory)) {
            Ok(text) => Self::of(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Quiet),
            Err(error) => Err(error),
        }
    }

    /// Reads lines. What follows the last end of a line was cut off in the middle, so that nothing followed from it.
    fn of(text: &str) -> io::Result<Self> {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut journal = Self::Quiet;
        let mut begun = Begun::default();
        for line in whole.lines() {
            let entry = serde_json::from_str(line)?;
            journal = begun.then(journal, entry);
        }
        Ok(journal)
    }

    /// The offer of the move that is under way.
    pub fn offer(&self) -> Option<OfferId> {
        match self {
            Self::Offered { offer } | Self::KeySent { offer, .. } | Self::Key { offer, .. } => Some(*offer),
            Self::Quiet
            | Self::Undone { .. }
            | Self::Arriving
            | Self::Suspending { .. }
            | Self::Resuming { .. }
            | Self::PuttingBack { .. }
            | Self::Recovering { .. }
            | Self::Thawed { .. }
            | Self::GivingBack { .. }
            | Self::Superseded
            | Self::Removing => None,
        }
    }

    /// What a takeover by a person's word goes on from, while nobody knows more.
    pub fn goes_on_from(&self) -> TakeoverFrom {
        match (self, self.offer()) {
            // The processes here came out of that file, whatever the person said this time.
            (Self::Recovering { file, .. }, _) => TakeoverFrom::File(*file),
            (_, Some(offer)) => TakeoverFrom::Copy(offer),
            (_, None) => TakeoverFrom::Kept,
        }
    }

    /// The claim key, if it is known.
    pub fn key(&self) -> Option<&ClaimKey> {
        match self {
            Self::KeySent { key, .. } | Self::Key { key, .. } | Self::GivingBack { key, .. } => Some(key),
            Self::Quiet
            | Self::Offered { .. }
            | Self::Undone { .. }
            | Self::Arriving
            | Self::Suspending { .. }
            | Self::Resuming { .. }
            | Self::PuttingBack { .. }
            | Self::Recovering { .. }
            | Self::Thawed { .. }
            | Self::Superseded
            | Self::Removing => None,
        }
    }
}

/// How the move began that the following entries are about.
#[derive(Default)]
struct Begun {
    offered: Option<(OfferId, Generation)>,
    arriving: Option<(OfferId, HostName)>,
    resuming: Option<(OfferId, Generation)>,
    key: Option<ClaimKey>,
}

impl Begun {
    fn then(&mut self, before: Journal, entry: Entry) -> Journal {
        match entry {
            Entry::Offered { offer, generation, .. } => {
                *self = Self { offered: Some((offer, generation)), ..Self::default() };
                Journal::Offered { offer }
            }
            Entry::Arriving { offer, source } => {
                *self = Self { arriving: Some((offer, source)), ..Self::default() };
                Journal::Arriving
            }
            Entry::Suspending { suspension, generation } => {
                *self = Self::default();
                Journal::Suspending { suspension, generation }
            }
            Entry::Resuming { suspension, generation } => {
                *self = Self { resuming: Some((suspension, generation)), ..Self::default() };
                Journal::Arriving
            }
            Entry::Recovering { takeover, generation, file } => {
                *self = Self::default();
                Journal::Recovering { takeover, generation, file }
            }
            Entry::KeySent { key } => match self.offered {
                Some((offer, generation)) => Journal::KeySent { offer, generation, key },
                None => before,
            },
            Entry::Undone => match self.offered {
                Some((offer, _)) => Journal::Undone { offer },
                None => Journal::Quiet,
            },
            Entry::Key { key } => {
                self.key = Some(key);
                match (self.arriving.clone(), self.resuming) {
                    (Some((offer, source)), _) => Journal::Key { offer, key, source },
                    (None, Some((suspension, generation))) => {
                        Journal::Resuming { suspension, generation, key }
                    }
                    (None, None) => before,
                }
            }
            Entry::Thawed { generation } => Journal::Thawed { generation, reported: false },
            Entry::Reported => match before {
                Journal::Thawed { generation, .. } => Journal::Thawed { generation, reported: true },
                other => other,
            },
            Entry::GivingBack { generation } => match (self.arriving.clone(), self.resuming, self.key) {
                (Some((_, source)), _, Some(key)) => Journal::GivingBack { generation, key, source },
                (None, Some((suspension, _)), Some(key)) => {
                    Journal::PuttingBack { suspension, generation, key }
                }
                _ => before,
            },
            Entry::Superseded { .. } => Journal::Superseded,
            Entry::Removing => Journal::Removing,
        }
    }
}

/// Writes an entry; it is on disk when this returns. An entry that begins a journal takes the place of what was there.
///
/// # Errors
/// The file can't be written: what the entry says must not be done.
pub fn write(directory: &Path, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_string(entry)?;
    line.push('\n');
    let begins = matches!(
        entry,
        Entry::Offered { .. }
            | Entry::Arriving { .. }
            | Entry::Suspending { .. }
            | Entry::Resuming { .. }
            | Entry::Recovering { .. }
    );
    if begins {
        let draft = directory.join("journal.new");
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&draft, path(directory))?;
        return std::fs::File::open(directory)?.sync_data();
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).read(true).open(path(directory))?;
    // What an earlier writer could not finish was never followed by anything.
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    let whole = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < before.len() {
        file.set_len(whole as u64)?;
    }
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

/// The entry with which the journal in a capsule's directory begins, if there is one that can be read.
pub fn first_entry(directory: &Path) -> Option<Entry> {
    let text = std::fs::read_to_string(path(directory)).ok()?;
    serde_json::from_str(text.split_once('\n')?.0).ok()
}

fn path(directory: &Path) -> PathBuf {
    directory.join("journal")
}

#[cfg(test)]
mod tests;
