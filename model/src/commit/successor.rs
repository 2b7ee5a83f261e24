//! What follows from a journal: the real [`journal::decide`], for successors and for everything after the key.

use std::cell::RefCell;
use std::collections::HashMap;

use overlay_proto::HostName;

use super::directory::{carry_out, full, key, number_of, offer_of};
use super::state::{
    Copy, Host, HostState, Journal, Offer, Phase, Record, Request, State, generation, host_name, offer_id,
    other,
};
use super::{Commit, Mutation};
use capsule_sidecar::moving::journal::{self, Decision, Processes, Question, Standing};

/// What the directory said, as far as [`journal::decide`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Told {
    /// It is away.
    Nothing,
    /// What was asked holds, at this generation.
    Ours(u8),
    /// How the record stands, or stood.
    Stands(Record),
}

/// [`Decision`], with the model's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    Ask(Request),
    Look,
    Wait,
    GoOn(Option<u8>, Option<Offer>),
    Undo(Option<u8>, Option<Offer>),
    OpenGate(u8),
    GiveBack,
    Ended(Option<u8>, Option<Offer>),
    Supersede,
    Discard,
}

impl Commit {
    /// Decides by the journal, and takes the first step of what was decided.
    pub(super) fn decide(&self, state: &mut State, host: Host, told: Option<Told>) {
        let next = self.decided(state, host, told);
        let here = state.host(host);
        match next {
            Next::Ask(request) => {
                here.phase = Phase::Asking(request);
                state.send(request);
            }
            Next::Look => here.phase = Phase::Looking,
            Next::Wait => here.phase = Phase::Waiting,
            Next::GoOn(generation, withdraw) => {
                here.phase = Phase::Idle;
                here.report = true;
                self.settled(state, host, generation, withdraw);
            }
            Next::Undo(generation, withdraw) => {
                here.phase = Phase::Undoing;
                if let Journal::Offered(offer) | Journal::KeySent(offer) = here.disk.journal {
                    here.disk.journal = Journal::Undone(offer);
                }
                self.settled(state, host, generation, withdraw);
            }
            Next::OpenGate(generation) => {
                here.disk.generation = generation;
                here.disk.journal = Journal::Thawed { generation, reported: false };
                here.phase = Phase::Thawing;
            }
            Next::GiveBack => self.give_back(state, host),
            Next::Ended(generation, withdraw) => {
                here.phase = Phase::Idle;
                here.copy = Copy::None;
                self.settled(state, host, generation, withdraw);
            }
            Next::Supersede => self.supersede(state, host),
            Next::Discard => {
                here.phase = Phase::Discarding;
                state.hang_up(host);
            }
        }
    }

    fn decided(&self, state: &State, host: Host, told: Option<Told>) -> Next {
        let here = &state.hosts[usize::from(host)];
        let next = decided(host, here, state, told);
        self.mutation.map_or(next, |mutation| mutated(mutation, host, here, told, next))
    }

    /// Whether a host that waits would get on if it asked now.
    pub(super) fn would_hear_more(&self, state: &State, host: Host) -> bool {
        let looked = || self.decided(state, host, Some(Told::Stands(state.record))) != Next::Wait;
        match self.decided(state, host, None) {
            Next::Ask(request) => {
                let (_, answer) = carry_out(self.mutation, state, request);
                matches!(answer, super::state::Answer::Holds(_)) || looked()
            }
            Next::Look => looked(),
            Next::Wait => false,
            _ => true,
        }
    }

    fn settled(&self, state: &mut State, host: Host, generation: Option<u8>, withdraw: Option<Offer>) {
        let here = state.host(host);
        if let Some(generation) = generation {
            here.disk.generation = here.disk.generation.max(generation);
        }
        if let Some(offer) = withdraw {
            here.withdraw = Some(offer);
            state.send(Request::Revoke(offer));
        }
    }

    /// Destroys the copy here and offers the capsule back.
    pub(super) fn give_back(&self, state: &mut State, host: Host) {
        let here = state.host(host);
        let offer = match here.disk.journal {
            Journal::Key(offer) | Journal::GivingBack(offer) => offer,
            // A target that lost what it had written remembers the offer by its moves.
            _ => Offer::of(u8::try_from(state.moves.iter().flatten().count()).expect("few") - 1),
        };
        let here = state.host(host);
        here.disk.journal = Journal::GivingBack(offer);
        here.copy = Copy::None;
        here.phase = Phase::GivingBack(offer);
        if self.mutation == Some(Mutation::GiveBackForgotten) {
            here.disk = super::state::Disk::default();
        }
        state.send(Request::Offer(offer.back()));
    }

    /// The capsule goes on elsewhere: this copy is frozen and kept.
    pub(super) fn supersede(&self, state: &mut State, host: Host) {
        let here = state.host(host);
        here.phase = Phase::Idle;
        here.report = false;
        here.declared_gone = false;
        if self.mutation == Some(Mutation::CutOffGoesOn) {
            return;
        }
        here.disk.journal = Journal::Superseded;
        if let Copy::Running(age) = here.copy {
            here.copy = Copy::Frozen(age);
        }
    }
}

/// The real decision; the same few questions come again and again.
fn decided(host: Host, here: &HostState, state: &State, told: Option<Told>) -> Next {
    type Asked = (Host, Journal, Copy, u8, Option<Told>, Option<u8>);
    thread_local! {
        static DECIDED: RefCell<HashMap<Asked, Next>> = RefCell::default();
    }
    let copy = match here.copy {
        Copy::None => Copy::None,
        Copy::Running(_) => Copy::Running(0),
        Copy::Frozen(_) => Copy::Frozen(0),
        Copy::AtGate(_) => Copy::AtGate(0),
    };
    let offered_at = offer_in(here.disk.journal)
        .and_then(|offer| state.moves[usize::from(offer.number)])
        .map(|(generation, _)| generation);
    let asked = (host, here.disk.journal, copy, here.disk.generation, told, offered_at);
    DECIDED.with_borrow_mut(|decided| *decided.entry(asked).or_insert_with(|| ask(&asked)))
}

fn ask(asked: &(Host, Journal, Copy, u8, Option<Told>, Option<u8>)) -> Next {
    let (host, journal, copy, own, told, offered_at) = *asked;
    let journal = real(journal, host_name(other(host)), offered_at.unwrap_or_default());
    let processes = match copy {
        Copy::None => Processes::Gone,
        Copy::Running(_) => Processes::Running,
        Copy::Frozen(_) => Processes::Frozen,
        Copy::AtGate(_) => Processes::AtGate,
    };
    let answer = told.map(|told| match told {
        Told::Nothing => journal::Answer::Nothing,
        Told::Ours(at) => journal::Answer::Ours(generation(at)),
        Told::Stands(record) => {
            journal::Answer::Stands(Standing::of(&full(&record), &host_name(host), journal.key()))
        }
    });
    let number = |generation: Option<overlay_proto::Generation>| generation.map(number_of);
    match journal::decide(&journal, processes, generation(own), answer.as_ref()) {
        Decision::Ask(Question::Lookup) => Next::Look,
        Decision::Ask(Question::Revoke { offer }) => Next::Ask(Request::Revoke(offer_of(offer))),
        Decision::Ask(Question::Claim { offer, .. }) => Next::Ask(Request::Claim(offer_of(offer))),
        Decision::Wait => Next::Wait,
        Decision::GoOn { generation, withdraw } => Next::GoOn(number(generation), withdraw.map(offer_of)),
        Decision::Undo { generation, withdraw } => Next::Undo(number(generation), withdraw.map(offer_of)),
        Decision::OpenGate { generation } => Next::OpenGate(number_of(generation)),
        Decision::GiveBack { .. } => Next::GiveBack,
        Decision::Ended { generation, withdraw, .. } => {
            Next::Ended(number(generation), withdraw.map(offer_of))
        }
        Decision::Died { .. } => Next::Ended(None, None),
        Decision::Supersede { .. } => Next::Supersede,
        Decision::Discard => Next::Discard,
        // What follows from journals that no move writes.
        other => unreachable!("{other:?}"),
    }
}

fn offer_in(journal: Journal) -> Option<Offer> {
    match journal {
        Journal::Offered(offer)
        | Journal::KeySent(offer)
        | Journal::Undone(offer)
        | Journal::Key(offer)
        | Journal::GivingBack(offer) => Some(offer),
        Journal::Quiet | Journal::Arriving | Journal::Thawed { .. } | Journal::Superseded => None,
    }
}

/// The journal as the real code reads it.
fn real(journal: Journal, source: HostName, offered_at: u8) -> journal::Journal {
    match journal {
        Journal::Quiet => journal::Journal::Quiet,
        Journal::Offered(offer) => journal::Journal::Offered { offer: offer_id(offer) },
        Journal::KeySent(offer) => journal::Journal::KeySent {
            offer: offer_id(offer),
            generation: generation(offered_at),
            key: key(offer),
        },
        Journal::Undone(offer) => journal::Journal::Undone { offer: offer_id(offer) },
        Journal::Arriving => journal::Journal::Arriving,
        Journal::Key(offer) => journal::Journal::Key { offer: offer_id(offer), key: key(offer), source },
        Journal::Thawed { generation: at, reported } => {
            journal::Journal::Thawed { generation: generation(at), reported }
        }
        Journal::GivingBack(offer) => {
            journal::Journal::GivingBack { generation: generation(offered_at + 1), key: key(offer), source }
        }
        Journal::Superseded => journal::Journal::Superseded,
    }
}

/// What a broken variant would decide.
fn mutated(mutation: Mutation, host: Host, here: &HostState, told: Option<Told>, next: Next) -> Next {
    let after_key = matches!(here.disk.journal, Journal::KeySent(_)) && matches!(here.copy, Copy::Frozen(_));
    match (mutation, told) {
        (Mutation::ThawOnRead, None) if after_key => Next::Look,
        (Mutation::ThawOnRead, Some(Told::Stands(record))) if after_key && record.host == host => {
            Next::Undo(None, None)
        }
        (Mutation::RefusalThaws, Some(Told::Stands(_))) if after_key => Next::Undo(None, None),
        (Mutation::DestroyWhenClaimed, Some(Told::Stands(record))) if after_key && record.host != host => {
            Next::Discard
        }
        (Mutation::BackNotSeen, Some(Told::Stands(_))) if after_key && matches!(next, Next::Ask(_)) => {
            Next::Wait
        }
        _ => next,
    }
}
