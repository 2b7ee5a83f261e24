//! What befalls hosts and links, and what people do about it.

use super::state::{Copy, Host, Journal, Phase, Request, State, Talk, Word, other};
use super::{Commit, Mutation};

impl Commit {
    /// A restore that fails, a capsule that can't be thawed, a person who cancels.
    pub(super) fn fail(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        if !here.up || state.left.failures == 0 {
            return false;
        }
        match here.phase {
            Phase::Offering(_) | Phase::Ahead(_) | Phase::Frozen(_) => self.failed(state, host),
            Phase::AtGate(_) => {
                state.say(host, Word::Failed);
                state.hang_up(host);
                state.host(host).phase = Phase::Discarding;
            }
            // The gate is known to be shut, and what stands at it is destroyed.
            Phase::Thawing if matches!(here.copy, Copy::AtGate(_)) => {
                if self.mutation == Some(Mutation::GiveBackAfterThaw) {
                    state.let_run(host);
                }
                self.give_back(state, host);
            }
            _ => return false,
        }
        state.left.failures -= 1;
        true
    }

    pub(super) fn break_link(&self, state: &mut State) -> bool {
        let whole = |talk: &&mut Talk| talk.open == [true; 2] && !talk.broken;
        let Some(talk) = state.talk.as_mut().filter(whole) else { return false };
        if state.left.breaks == 0 {
            return false;
        }
        state.left.breaks -= 1;
        talk.broken = true;
        true
    }

    pub(super) fn kill_sidecar(&self, state: &mut State, host: Host) -> bool {
        if !state.hosts[usize::from(host)].up || state.left.sidecar_kills == 0 {
            return false;
        }
        state.left.sidecar_kills -= 1;
        end_sidecar(state, host);
        true
    }

    pub(super) fn kill_host(&self, state: &mut State, host: Host) -> bool {
        if state.left.host_kills == 0 {
            return false;
        }
        state.left.host_kills -= 1;
        end_sidecar(state, host);
        let here = state.host(host);
        let lost = here.copy != Copy::None;
        here.copy = Copy::None;
        state.memory_lost |= lost;
        true
    }

    pub(super) fn restart(&self, state: &mut State, host: Host) -> bool {
        if state.hosts[usize::from(host)].up {
            return false;
        }
        let here = state.host(host);
        here.up = true;
        if here.disk.exists {
            self.decide(state, host, None);
            self.report(state, host);
        }
        true
    }

    /// A person declares the other host gone.
    pub(super) fn take_over(&self, state: &mut State, host: Host) -> bool {
        let here = state.hosts[usize::from(host)];
        let (Journal::KeySent(offer), Phase::Waiting) = (here.disk.journal, here.phase) else { return false };
        let frozen = here.up && matches!(here.copy, Copy::Frozen(_)) && here.answer.is_none();
        if !frozen || state.left.takeovers == 0 || state.record.host == host {
            return false;
        }
        state.left.takeovers -= 1;
        state.takeover = Some((host, state.record.generation, Some(offer)));
        state.host(other(host)).declared_gone = true;
        state.host(host).phase = Phase::Asking(Request::TakeOver(host));
        state.send(Request::TakeOver(host));
        if self.mutation == Some(Mutation::TakeOverWithoutAnswer) {
            state.let_run(host);
        }
        true
    }
}

fn end_sidecar(state: &mut State, host: Host) {
    state.hang_up(host);
    let here = state.host(host);
    here.up = false;
    here.phase = Phase::Idle;
    here.answer = None;
    here.withdraw = None;
    here.report = false;
}
