//! From the journal, the state of the processes and what the directory answered to the next step.

use directory_api::{CapsuleRecord, CapsuleState, Outcome};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};

use super::Journal;

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
    /// To make sure that this suspension is not made.
    Withdraw {
        /// The suspension.
        suspension: OfferId,
        /// The generation at which it was asked for.
        generation: Generation,
    },
    /// To give the capsule in a file to this host.
    Resume {
        /// The suspension.
        suspension: OfferId,
        /// The generation at which it lies in the file.
        generation: Generation,
        /// The key in the file.
        key: ClaimKey,
    },
    /// To place the capsule at this host, which has it from a file, since its own host is gone.
    TakeOver {
        /// The takeover.
        takeover: OfferId,
        /// The generation that the person saw.
        generation: Generation,
        /// The generation at which it lay in the file.
        file: Generation,
    },
    /// To give the capsule to this host.
    Claim {
        /// The offer.
        offer: OfferId,
        /// Its key.
        key: ClaimKey,
    },
}

impl Question {
    /// The fault point at which its answer can be lost or late.
    pub(crate) fn point(&self) -> &'static str {
        match self {
            Self::Lookup => "lookup-answer",
            Self::Revoke { .. } => "revoke-answer",
            Self::Withdraw { .. } => "withdraw-answer",
            Self::Resume { .. } => "resume-answer",
            Self::TakeOver { .. } => "takeover-answer",
            Self::Claim { .. } => "claim-answer",
        }
    }
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
    /// Write `GivingBack`, destroy the copy here, suspend the capsule again under the same id and key, remove the files.
    PutBack {
        /// The suspension.
        suspension: OfferId,
        /// The generation that the resume made.
        generation: Generation,
        /// The key in the file.
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
    /// It may have made steps, or nobody is there to give it back to: report it lost; what it came from, the source's
    /// frozen copy or a file, serves a takeover.
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
pub fn decide(journal: &Journal, processes: Processes, own: Generation, answer: Option<&Answer>) -> Decision {
    match journal {
        Journal::Removing | Journal::Arriving => Decision::Discard,
        Journal::Superseded => Decision::Supersede { by: None },
        // Only a takeover can have given it away, and that is heard of in time.
        Journal::Offered { offer } | Journal::Undone { offer } => go_on(processes, None, Some(*offer)),
        Journal::Suspending { suspension, generation } => {
            suspending(*suspension, *generation, processes, own, answer)
        }
        Journal::Resuming { suspension, generation, key } => {
            resuming(*suspension, *generation, *key, processes, answer)
        }
        Journal::PuttingBack { suspension, generation, key } => {
            Decision::PutBack { suspension: *suspension, generation: *generation, key: *key }
        }
        Journal::Recovering { takeover, generation, file } => {
            let ask = Question::TakeOver { takeover: *takeover, generation: *generation, file: *file };
            recovering(ask, *generation, processes, answer)
        }
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

/// The file is on disk, and nobody may go on before it is certain that the suspension was not made and never will be.
fn suspending(
    suspension: OfferId,
    generation: Generation,
    processes: Processes,
    own: Generation,
    answer: Option<&Answer>,
) -> Decision {
    // It had been withdrawn, and the capsule went on.
    if own > generation {
        return quiet(processes, own, answer);
    }
    match answer {
        None => Decision::Ask(Question::Withdraw { suspension, generation }),
        Some(Answer::Nothing) => Decision::Wait,
        Some(Answer::Ours(generation)) => go_on(processes, Some(*generation), None),
        Some(Answer::Stands(standing)) if standing.taken_over && !standing.here => {
            Decision::Supersede { by: Some(standing.generation) }
        }
        // It lies in the file, was resumed from there, or was removed.
        Some(Answer::Stands(_) | Answer::Unknown) => Decision::Discard,
    }
}

fn resuming(
    suspension: OfferId,
    generation: Generation,
    key: ClaimKey,
    processes: Processes,
    answer: Option<&Answer>,
) -> Decision {
    match (answer, processes) {
        // Also when there is nothing to run: an earlier resume may still be on its way.
        (None, _) => Decision::Ask(Question::Resume { suspension, generation, key }),
        (Some(Answer::Nothing), _) => Decision::Wait,
        (Some(Answer::Unknown | Answer::Stands(_)), _) => Decision::Discard,
        (Some(Answer::Ours(generation)), Processes::AtGate) => Decision::OpenGate { generation: *generation },
        (Some(Answer::Ours(generation)), Processes::Running | Processes::Frozen) => {
            Decision::GoOn { generation: Some(*generation), withdraw: None }
        }
        (Some(Answer::Ours(generation)), Processes::Unfinished | Processes::Exited(_) | Processes::Gone) => {
            Decision::PutBack { suspension, generation: *generation, key }
        }
    }
}

fn recovering(ask: Question, seen: Generation, processes: Processes, answer: Option<&Answer>) -> Decision {
    let nothing_to_run = matches!(processes, Processes::Unfinished | Processes::Exited(_) | Processes::Gone);
    match (answer, processes) {
        // What was asked, and perhaps not carried out, is long ago: asked again without a copy, it would take the capsule
        // from a host that has come back.
        (None, _) if nothing_to_run => Decision::Ask(Question::Lookup),
        (None, _) => Decision::Ask(ask),
        (Some(Answer::Nothing), _) => Decision::Wait,
        (Some(Answer::Stands(standing)), _)
            if nothing_to_run
                && standing.here
                && standing.taken_over
                && standing.generation == seen.next() =>
        {
            Decision::Died { generation: standing.generation }
        }
        (Some(Answer::Unknown | Answer::Stands(_)), _) => Decision::Discard,
        (Some(Answer::Ours(generation)), Processes::AtGate) => Decision::OpenGate { generation: *generation },
        (Some(Answer::Ours(generation)), Processes::Running | Processes::Frozen) => {
            Decision::GoOn { generation: Some(*generation), withdraw: None }
        }
        (Some(Answer::Ours(generation)), Processes::Unfinished | Processes::Exited(_) | Processes::Gone) => {
            Decision::Died { generation: *generation }
        }
    }
}

fn key_sent(
    offer: OfferId,
    offered_at: Generation,
    key: ClaimKey,
    processes: Processes,
    answer: Option<&Answer>,
) -> Decision {
    let copy = match processes {
        Processes::Running | Processes::Frozen => true,
        Processes::AtGate | Processes::Unfinished | Processes::Exited(_) | Processes::Gone => false,
    };
    let standing = match answer {
        None if copy => return Decision::Ask(Question::Revoke { offer }),
        // The target may have the only copy, and is not to be stopped from claiming.
        None => return Decision::Ask(Question::Lookup),
        Some(Answer::Nothing) => return Decision::Wait,
        Some(Answer::Ours(generation)) => return go_on(processes, Some(*generation), None),
        // The target had it, and it was removed there.
        Some(Answer::Unknown) => return Decision::Discard,
        Some(Answer::Stands(standing)) => standing,
    };
    let claimed = offered_at.next();
    if standing.here && standing.generation > offered_at {
        // The offer has ended and the capsule is here: nobody can claim by that offer any more.
        return go_on(processes, Some(standing.generation), None);
    }
    if standing.here {
        return Decision::Wait;
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
        // Only what runs is offered onwards.
        _ if standing.open.is_some() => Decision::Discard,
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
            // What lies in a file is nobody's; its record has the last host.
            here: record.host == *me && record.suspension.is_none(),
            generation: record.generation,
            state: record.state,
            open: record.offer.as_ref().map(|offer| offer.id),
            back: record.offer.as_ref().filter(ours).map(|offer| offer.id),
            taken_over: record.last_outcome.as_ref().is_some_and(taken_over),
        }
    }
}
