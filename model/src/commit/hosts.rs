//! The steps of source and target, after `sidecar/src/moving/{source,target}`.

use super::directory::carry_out;
use super::state::{Answer, Copy, Disk, Host, Journal, Offer, Phase, Request, State, Talk, Word, other};
use super::successor::Told;
use super::{Commit, Mutation};

/// Whether somebody waits for the answer.
pub(super) fn asks(state: &State, request: Request) -> bool {
    asker(state, request).is_some()
}

fn asker(state: &State, request: Request) -> Option<Host> {
    super::HOSTS.into_iter().find(|host| {
        let here = &state.hosts[usize::from(*host)];
        let awaited = match here.phase {
            Phase::Offering(offer) => Some(Request::Offer(offer)),
            Phase::Asking(request) => Some(request),
            Phase::GivingBack(offer) => Some(Request::Offer(offer.back())),
            _ => None,
        };
        let background = here.withdraw.is_some_and(|offer| request == Request::Revoke(offer))
            || here.report && request == Request::Running(*host, here.disk.generation);
        here.up && (awaited == Some(request) && here.answer.is_none() || background)
    })
}

impl Commit {
    pub(super) fn begin(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        let idle = here.up && here.phase == Phase::Idle && matches!(here.copy, Copy::Running(_));
        let number = state.moves.iter().flatten().count();
        if !idle || state.left.moves == 0 || state.talk.is_some() || !state.hosts[usize::from(other(host))].up
        {
            return false;
        }
        state.left.moves -= 1;
        state.moves[number] = Some((here.disk.generation, host));
        let offer = Offer::of(u8::try_from(number).expect("few moves"));
        state.talk = Some(Talk { source: host, lanes: [[None; 2]; 2], open: [true; 2], broken: false });
        let here = state.host(host);
        here.disk.journal = Journal::Offered(offer);
        here.phase = Phase::Offering(offer);
        state.send(Request::Offer(offer));
        true
    }

    pub(super) fn step(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        if !here.up {
            return false;
        }
        match (here.phase, here.copy) {
            (Phase::Ahead(offer), Copy::Running(age)) => {
                state.host(host).copy = Copy::Frozen(age);
                state.host(host).phase = Phase::Frozen(offer);
                state.say(host, Word::Image(offer, age));
            }
            (Phase::KeyWritten(offer), _) => {
                state.say(host, Word::Key(offer));
                state.host(host).phase = Phase::KeySent(offer);
            }
            (Phase::Undoing, _) => {
                state.let_run(host);
                state.host(host).phase = Phase::Idle;
                state.host(host).report = true;
            }
            (Phase::Thawing, _) => {
                state.let_run(host);
                state.say(host, Word::Running);
                state.hang_up(host);
                state.host(host).phase = Phase::Idle;
                state.host(host).report = true;
                state.seen.moved = true;
            }
            (Phase::Discarding, Copy::None) => {
                let here = state.host(host);
                here.disk = Disk::default();
                here.phase = Phase::Idle;
            }
            (Phase::Discarding, _) => {
                // From here on it can't but have heard of a takeover.
                state.host(host).declared_gone = false;
                state.host(host).copy = Copy::None;
            }
            (Phase::Idle, Copy::Running(_))
                if here.view.host != host && here.view.generation > here.disk.generation =>
            {
                self.supersede(state, host);
            }
            _ => return false,
        }
        self.report(state, host);
        true
    }

    /// What is reported in the background is sent as soon as it is known.
    pub(super) fn report(&self, state: &mut State, host: Host) {
        let here = state.hosts[usize::from(host)];
        if here.report {
            state.send(Request::Running(host, here.disk.generation));
        }
    }

    pub(super) fn hear(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        let Some(talk) = state.talk.as_mut().filter(|talk| here.up && talk.open[usize::from(host)]) else {
            return false;
        };
        let (source, lane) = (talk.source, &mut talk.lanes[usize::from(host)]);
        let Some(word) = lane[0].take() else { return false };
        lane.swap(0, 1);
        match (word, here.phase) {
            (Word::Image(offer, age), Phase::Idle) if source != host => self.restore(state, host, offer, age),
            (Word::AtGate, Phase::Frozen(offer)) => {
                let here = state.host(host);
                if self.mutation != Some(Mutation::KeySentNotWritten) {
                    here.disk.journal = Journal::KeySent(offer);
                }
                here.phase = Phase::KeyWritten(offer);
            }
            (Word::Key(offer), Phase::AtGate(expected)) if offer == expected => {
                if self.mutation != Some(Mutation::KeyNotWritten) {
                    state.host(host).disk.journal = Journal::Key(offer);
                }
                if self.mutation == Some(Mutation::GateBeforeAnswer) {
                    state.let_run(host);
                }
                state.host(host).phase = Phase::Asking(Request::Claim(offer));
                state.send(Request::Claim(offer));
            }
            (Word::Running, Phase::KeySent(_)) => {
                state.host(host).phase = Phase::Discarding;
                state.hang_up(host);
            }
            (
                Word::Failed | Word::TakeBack,
                Phase::Offering(_) | Phase::Ahead(_) | Phase::Frozen(_) | Phase::KeySent(_),
            ) => {
                self.failed(state, host);
            }
            // The target is busy with what an earlier move left, or the word comes out of turn.
            (Word::Image(..), _) => {
                state.say(host, Word::Failed);
                state.hang_up(host);
            }
            _ => {}
        }
        true
    }

    fn restore(&self, state: &mut State, host: Host, offer: Offer, age: u8) {
        let here = state.hosts[usize::from(host)];
        let room = match here.copy {
            Copy::None => true,
            Copy::Frozen(_) => here.disk.journal == Journal::Superseded,
            Copy::Running(_) | Copy::AtGate(_) => false,
        };
        if !room {
            state.say(host, Word::Failed);
            state.hang_up(host);
            return;
        }
        let generation = state.moves[usize::from(offer.number)].expect("it was offered").0;
        let here = state.host(host);
        here.disk = Disk { exists: true, generation, journal: Journal::Arriving };
        here.copy = Copy::AtGate(age);
        here.phase = Phase::AtGate(offer);
        here.withdraw = None;
        state.say(host, Word::AtGate);
    }

    pub(super) fn notice(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        let broken = state.talk.is_some_and(|talk| {
            talk.open[usize::from(host)] && (talk.broken || !talk.open[usize::from(other(host))])
        });
        if !here.up || !broken {
            return false;
        }
        state.hang_up(host);
        match here.phase {
            Phase::Offering(_)
            | Phase::Ahead(_)
            | Phase::Frozen(_)
            | Phase::KeyWritten(_)
            | Phase::KeySent(_) => self.failed(state, host),
            Phase::AtGate(_) => state.host(host).phase = Phase::Discarding,
            _ => {}
        }
        true
    }

    /// The move did not work: before the key the source undoes alone, after it the directory is asked.
    pub(super) fn failed(&self, state: &mut State, host: Host) {
        state.hang_up(host);
        let here = state.hosts[usize::from(host)];
        match here.phase {
            Phase::KeySent(offer) if self.mutation == Some(Mutation::UndoAfterKey) => {
                self.undo(state, host, offer)
            }
            Phase::KeyWritten(_) | Phase::KeySent(_) => self.decide(state, host, None),
            Phase::Offering(offer) | Phase::Ahead(offer) | Phase::Frozen(offer) => {
                self.undo(state, host, offer)
            }
            _ => {}
        }
    }

    fn undo(&self, state: &mut State, host: Host, offer: Offer) {
        let here = state.host(host);
        here.disk.journal = Journal::Undone(offer);
        here.phase = Phase::Undoing;
        here.answer = None;
        here.withdraw = Some(offer);
        state.send(Request::Revoke(offer));
    }

    pub(super) fn watch(&self, state: &mut State, host: Host) -> bool {
        let record = state.record;
        let here = state.host(host);
        if !here.up || here.view == record {
            return false;
        }
        here.view = record;
        true
    }

    pub(super) fn ask_again(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        if !here.up || here.phase != Phase::Waiting {
            return false;
        }
        self.decide(state, host, None);
        true
    }

    pub(super) fn decide_by_watch(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        if !here.up || here.phase != Phase::Waiting {
            return false;
        }
        self.decide(state, host, Some(Told::Stands(here.view)));
        self.report(state, host);
        true
    }

    pub(super) fn decide_by_lookup(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        if !here.up || here.phase != Phase::Looking {
            return false;
        }
        let told = Told::Stands(state.record);
        state.host(host).view = state.record;
        self.decide(state, host, Some(told));
        self.report(state, host);
        true
    }

    pub(super) fn decide_alone(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        if !here.up || here.phase != Phase::Looking {
            return false;
        }
        self.decide(state, host, Some(Told::Nothing));
        self.report(state, host);
        true
    }

    pub(super) fn take_answer(&self, state: &mut State, host: Host) -> bool {
        let Some(answer) = state.host(host).answer.take() else { return false };
        let here = state.hosts[usize::from(host)];
        match (here.phase, answer) {
            (Phase::Offering(offer), Answer::Holds(_)) => state.host(host).phase = Phase::Ahead(offer),
            (Phase::Offering(offer), answer) => {
                self.undo(state, host, offer);
                state.hang_up(host);
                if let Answer::Pending(open) = answer {
                    // It is this host's own, from a move that ended before.
                    state.host(host).withdraw = Some(open);
                    state.send(Request::Revoke(open));
                }
            }
            (Phase::Asking(request), Answer::Holds(generation)) => {
                self.holds(state, host, request, generation);
            }
            // Why it was refused is looked up.
            (Phase::Asking(_), _) => state.host(host).phase = Phase::Looking,
            (Phase::GivingBack(_), _) => {
                state.say(host, Word::TakeBack);
                state.host(host).phase = Phase::Discarding;
                state.hang_up(host);
            }
            _ => {}
        }
        true
    }

    fn holds(&self, state: &mut State, host: Host, request: Request, generation: u8) {
        match request {
            Request::Revoke(_) => state.seen.revoked_after_key = true,
            Request::Claim(offer) => state.seen.given_back |= offer.back,
            Request::TakeOver(_) => state.seen.taken_over = true,
            Request::Offer(_) | Request::Running(..) => {}
        }
        state.host(host).disk.generation = generation;
        match (self.mutation, state.hosts[usize::from(host)].copy) {
            (Some(Mutation::ThawedNotWritten), Copy::AtGate(_)) => state.host(host).phase = Phase::Thawing,
            (Some(Mutation::GateBeforeAnswer), Copy::Running(_)) => state.host(host).phase = Phase::Thawing,
            (Some(Mutation::KeyNotWritten), Copy::AtGate(_)) => {
                state.host(host).disk.journal = Journal::Thawed { generation, reported: false };
                state.host(host).phase = Phase::Thawing;
            }
            _ => self.decide(state, host, Some(Told::Ours(generation))),
        }
        if self.mutation == Some(Mutation::ReportBeforeGate)
            && state.hosts[usize::from(host)].phase == Phase::Thawing
        {
            state.host(host).report = true;
            self.report(state, host);
        }
    }

    pub(super) fn serve(&self, state: &mut State, request: Request, answered: bool) -> bool {
        if state.sent & request.bit() == 0 {
            return false;
        }
        let asker = asker(state, request);
        if answered && asker.is_none() {
            return false;
        }
        let (record, answer) = carry_out(self.mutation, state, request);
        if let (Request::TakeOver(host), true) = (request, record.generation > state.record.generation) {
            // What ran elsewhere was given up.
            let ran = state.ran;
            if let Copy::Frozen(age) = &mut state.host(host).copy {
                *age = ran;
            }
        }
        state.record = record;
        let Some(host) = asker.filter(|_| answered) else { return true };
        let here = state.host(host);
        if here.withdraw.is_some_and(|offer| request == Request::Revoke(offer))
            && here.phase != Phase::Asking(request)
        {
            here.withdraw = None;
            if let Answer::Holds(generation) = answer {
                here.disk.generation = here.disk.generation.max(generation);
            }
        } else if here.report && matches!(request, Request::Running(..)) {
            here.report = false;
            if let Journal::Thawed { generation, .. } = here.disk.journal {
                here.disk.journal = Journal::Thawed { generation, reported: true };
            }
        } else {
            here.answer = Some(answer);
        }
        true
    }
}
