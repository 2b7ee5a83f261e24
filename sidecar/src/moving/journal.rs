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

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use directory_api::{CapsuleRecord, CapsuleState, Outcome};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};
use serde::{Deserialize, Serialize};

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
    },
    /// The source sends the key: from here on only the directory can say who has the capsule.
    KeySent {
        /// The claim key.
        key: ClaimKey,
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
    /// It was coming, and the key had not come.
    Arriving,
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

/// The state of a capsule's processes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// They run.
    Running,
    /// They are frozen.
    Frozen,
    /// Restored, standing at the gate.
    AtGate,
    /// A start or a restore that did not come to its end.
    Unfinished,
    /// The program ended with this code.
    Exited(i32),
    /// There are none, and nobody saw their end.
    Gone,
}

/// What to ask the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How the record stands.
    Lookup,
    /// To end this offer in favour of this host.
    Revoke {
        /// The offer.
        offer: OfferId,
    },
    /// To give the capsule to this host.
    Claim {
        /// The offer.
        offer: OfferId,
        /// Its key.
        key: ClaimKey,
    },
}

/// What the directory answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing that can be relied on: it is away, or its store failed.
    Nothing,
    /// It did what was asked, or had done it: the capsule is this host's at this generation.
    Ours(Generation),
    /// It refused, or was only asked how things stand.
    Stands(Standing),
    /// It knows no such capsule.
    Unknown,
}

/// A capsule's record, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is placed at this host.
    pub here: bool,
    /// Its generation.
    pub generation: Generation,
    /// The state shown.
    pub state: CapsuleState,
    /// The offer that is open, if any.
    pub open: Option<OfferId>,
    /// The open offer, if it is one to this host under the key of the journal: the capsule is offered back.
    pub back: Option<OfferId>,
    /// Whether its last change of hands was a takeover.
    pub taken_over: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Ask this, and decide again with the answer.
    Ask(Question),
    /// Leave processes and sockets as they are, and decide again when the directory may say more.
    Wait,
    /// They run: take them up. A generation given is the directory's.
    GoOn {
        /// To be written down.
        generation: Option<Generation>,
        /// An offer to end, without waiting for it.
        withdraw: Option<OfferId>,
    },
    /// Write `Undone`, bring the connections back, take the lock off, thaw.
    Undo {
        /// To be written down.
        generation: Option<Generation>,
        /// An offer to end, without waiting for it.
        withdraw: Option<OfferId>,
    },
    /// Write `Thawed`, take the lock off, open the gate, report that it runs.
    OpenGate {
        /// The generation that the claim made.
        generation: Generation,
    },
    /// Write `GivingBack`, destroy the copy here, offer the capsule to `source` under the same key, remove the files.
    GiveBack {
        /// The generation that the claim made.
        generation: Generation,
        /// The host that keeps its frozen copy.
        source: HostName,
        /// The key of the claim, which the source has too.
        key: ClaimKey,
    },
    /// The program ended: report it stopped.
    Ended {
        /// Its exit code, if it was seen.
        code: Option<i32>,
        /// To be written down.
        generation: Option<Generation>,
        /// An offer to end, without waiting for it.
        withdraw: Option<OfferId>,
    },
    /// It may have made steps and is gone: report it lost; the source's frozen copy serves a takeover.
    Died {
        /// The generation that the claim made.
        generation: Generation,
    },
    /// Write `Superseded`, freeze, speak for it no more, and keep it.
    Supersede {
        /// The generation of the capsule elsewhere, when that is known.
        by: Option<Generation>,
    },
    /// Remove everything of it here.
    Discard,
}

/// What a successor may do with a capsule that it finds. `own` is the generation in `capsule.json`.
pub fn decide(
    journal: &Journal,
    processes: Processes,
    own: Generation,
    answer: Option<&Answer>,
) -> Decision {
    match journal {
        Journal::Removing | Journal::Arriving => Decision::Discard,
        Journal::Superseded => Decision::Supersede { by: None },
        // Only a takeover can have given it away, and that is heard of in time.
        Journal::Offered { offer } | Journal::Undone { offer } => go_on(processes, None, Some(*offer)),
        Journal::KeySent { offer, generation, key } => key_sent(*offer, *generation, *key, processes, answer),
        Journal::Key { offer, key, source } => {
            with_key(Question::Claim { offer: *offer, key: *key }, source, *key, processes, answer)
        }
        Journal::GivingBack { generation, key, source } => {
            Decision::GiveBack { generation: *generation, source: source.clone(), key: *key }
        }
        Journal::Thawed { generation, reported } => thawed(*generation, *reported, processes, own, answer),
        Journal::Quiet => quiet(processes, own, answer),
    }
}

fn key_sent(
    offer: OfferId,
    offered_at: Generation,
    key: ClaimKey,
    processes: Processes,
    answer: Option<&Answer>,
) -> Decision {
    let standing = match answer {
        None => return Decision::Ask(Question::Revoke { offer }),
        Some(Answer::Nothing) => return Decision::Wait,
        Some(Answer::Ours(generation)) => return go_on(processes, Some(*generation), None),
        // The target had it, and it was removed there.
        Some(Answer::Unknown) => return Decision::Discard,
        Some(Answer::Stands(standing)) => standing,
    };
    let claimed = offered_at.next();
    if standing.here {
        // The answer to a revocation: no such offer is open, so nobody can claim it any more.
        return go_on(processes, Some(standing.generation), None);
    }
    if let Some(offer) = standing.back {
        return Decision::Ask(Question::Claim { offer, key });
    }
    match standing.state {
        _ if standing.generation < claimed => Decision::Wait,
        _ if standing.generation > claimed && standing.taken_over => {
            Decision::Supersede { by: Some(standing.generation) }
        }
        _ if standing.generation > claimed => Decision::Discard,
        CapsuleState::Moving | CapsuleState::Lost => Decision::Wait,
        CapsuleState::Running | CapsuleState::Stopped | CapsuleState::Suspended => Decision::Discard,
    }
}

fn with_key(
    claim: Question,
    source: &HostName,
    key: ClaimKey,
    processes: Processes,
    answer: Option<&Answer>,
) -> Decision {
    match (answer, processes) {
        // Also when there is nothing to run: an earlier claim may still be on its way, and only a claim that was
        // answered tells whether the capsule has to be given back.
        (None, _) => Decision::Ask(claim),
        (Some(Answer::Nothing), _) => Decision::Wait,
        (Some(Answer::Unknown | Answer::Stands(_)), _) => Decision::Discard,
        (Some(Answer::Ours(generation)), Processes::AtGate) => Decision::OpenGate { generation: *generation },
        (Some(Answer::Ours(generation)), Processes::Running | Processes::Frozen) => {
            Decision::GoOn { generation: Some(*generation), withdraw: None }
        }
        (Some(Answer::Ours(generation)), Processes::Unfinished | Processes::Exited(_) | Processes::Gone) => {
            Decision::GiveBack { generation: *generation, source: source.clone(), key }
        }
    }
}

fn thawed(
    generation: Generation,
    reported: bool,
    processes: Processes,
    own: Generation,
    answer: Option<&Answer>,
) -> Decision {
    let newer = match answer {
        None => return Decision::Ask(Question::Lookup),
        Some(answer) => elsewhere(answer, own.max(generation)),
    };
    match processes {
        // It never made a step, so whoever has it has more.
        Processes::AtGate if newer.is_some() => Decision::Discard,
        Processes::AtGate => Decision::OpenGate { generation },
        Processes::Gone if !reported && newer.is_none() => Decision::Died { generation },
        Processes::Running
        | Processes::Frozen
        | Processes::Unfinished
        | Processes::Exited(_)
        | Processes::Gone => quiet(processes, own.max(generation), answer),
    }
}

fn quiet(processes: Processes, own: Generation, answer: Option<&Answer>) -> Decision {
    let Some(answer) = answer else { return Decision::Ask(Question::Lookup) };
    if let Some(by) = elsewhere(answer, own) {
        return Decision::Supersede { by };
    }
    let standing = match answer {
        Answer::Stands(standing) if standing.here => Some(standing),
        _ => None,
    };
    let generation = standing.map(|standing| standing.generation).filter(|generation| *generation > own);
    go_on(processes, generation, standing.and_then(|standing| standing.open))
}

/// The generation elsewhere, if the capsule was given on without this host. A record that is older than what this host
/// holds is a directory's that lost its memory.
fn elsewhere(answer: &Answer, own: Generation) -> Option<Option<Generation>> {
    match answer {
        Answer::Stands(standing) if !standing.here && standing.generation > own => {
            Some(Some(standing.generation))
        }
        Answer::Unknown => Some(None),
        Answer::Nothing | Answer::Ours(_) | Answer::Stands(_) => None,
    }
}

/// The capsule is this host's: whatever there is of it goes on.
fn go_on(processes: Processes, generation: Option<Generation>, withdraw: Option<OfferId>) -> Decision {
    match processes {
        Processes::Running => Decision::GoOn { generation, withdraw },
        Processes::Frozen => Decision::Undo { generation, withdraw },
        Processes::Exited(code) => Decision::Ended { code: Some(code), generation, withdraw },
        // A source's own start never stands at a gate; what does is of no use here.
        Processes::AtGate | Processes::Unfinished | Processes::Gone => {
            Decision::Ended { code: None, generation, withdraw }
        }
    }
}

impl Standing {
    /// Reads a record; `key` is the one in the journal.
    pub fn of(record: &CapsuleRecord, me: &HostName, key: Option<&ClaimKey>) -> Self {
        let ours = |offer: &&directory_api::OfferRecord| {
            offer.target == *me && key.is_some_and(|key| key.hash() == offer.claim_key_hash)
        };
        let taken_over = |outcome: &directory_api::OutcomeRecord| outcome.outcome == Outcome::TakenOver;
        Self {
            here: record.host == *me,
            generation: record.generation,
            state: record.state,
            open: record.offer.as_ref().map(|offer| offer.id),
            back: record.offer.as_ref().filter(ours).map(|offer| offer.id),
            taken_over: record.last_outcome.as_ref().is_some_and(taken_over),
        }
    }
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

    /// The claim key, if it is known.
    pub fn key(&self) -> Option<&ClaimKey> {
        match self {
            Self::KeySent { key, .. } | Self::Key { key, .. } | Self::GivingBack { key, .. } => Some(key),
            Self::Quiet
            | Self::Offered { .. }
            | Self::Undone { .. }
            | Self::Arriving
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
            Entry::KeySent { key } => match self.offered {
                Some((offer, generation)) => Journal::KeySent { offer, generation, key },
                None => before,
            },
            Entry::Undone => match self.offered {
                Some((offer, _)) => Journal::Undone { offer },
                None => Journal::Quiet,
            },
            Entry::Key { key } => match self.arriving.clone() {
                Some((offer, source)) => {
                    self.key = Some(key);
                    Journal::Key { offer, key, source }
                }
                None => before,
            },
            Entry::Thawed { generation } => Journal::Thawed { generation, reported: false },
            Entry::Reported => match before {
                Journal::Thawed { generation, .. } => Journal::Thawed { generation, reported: true },
                other => other,
            },
            Entry::GivingBack { generation } => match (self.arriving.clone(), self.key) {
                (Some((_, source)), Some(key)) => Journal::GivingBack { generation, key, source },
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
    if matches!(entry, Entry::Offered { .. } | Entry::Arriving { .. }) {
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

fn path(directory: &Path) -> PathBuf {
    directory.join("journal")
}

#[cfg(test)]
mod tests;
