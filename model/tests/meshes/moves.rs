//! Moves, suspends and kills.

use super::directory::host_name;
use super::side::Move;
use super::world::{NOWHERE, Phase, World};

/// After so long a move goes on without the peers that don't answer, ms.
const HOLD_MS_MAX: u64 = 300;

impl World {
    pub fn begin_leaving(&mut self, capsule: usize, to: Option<usize>) {
        let from = self.capsules[capsule].host;
        let ready = self.capsules[capsule].phase == Phase::Home
            && self.capsules[capsule].withdraw.is_none()
            && self.is_up(from)
            && self.directory_answers();
        if !ready || to == Some(from) || to.is_some_and(|to| !self.hear_each_other(from, to)) {
            return;
        }
        let ticket = self.directory.ticket(capsule);
        if let Some(to) = to {
            assert!(self.directory.offer(capsule, from, to, ticket), "an offer is refused");
        }
        self.tell(|| format!("{capsule} begins to leave {} for {to:?}", host_name(from)));
        let leaving = |phase: &Phase| matches!(phase, Phase::Leaving { .. });
        if self.capsules.iter().any(|capsule| leaving(&capsule.phase)) {
            self.saw("both ends left at once");
        }
        self.capsules[capsule].phase = Phase::Leaving { to, since: self.now, ticket };
        for (session, side) in self.halves_of(capsule) {
            let session = &mut self.sessions[session];
            session.sides[side].moving = Move::Holding;
            session.sides[side].half.hold();
            session.sides[side].settle(&mut session.link);
        }
    }

    /// Halves that have not ended.
    fn halves_of(&self, capsule: usize) -> Vec<(usize, usize)> {
        let all = (0..self.sessions.len()).flat_map(|session| [(session, 0), (session, 1)]);
        all.filter(|&(session, side)| {
            let session = &self.sessions[session];
            session.capsules[side] == capsule && session.sides[side].ended.is_none()
        })
        .collect()
    }

    pub fn go_on_moving(&mut self, capsule: usize) {
        let from = self.capsules[capsule].host;
        match self.capsules[capsule].phase {
            Phase::Home => self.end_old_offer(capsule),
            Phase::Leaving { to, since, ticket } => {
                if !self.is_up(from) {
                    return;
                }
                if self.random.one_in(60) || to.is_some_and(|to| !self.hear_each_other(from, to)) {
                    self.saw("cancelled");
                    self.undo(capsule);
                    self.capsules[capsule].withdraw = to.map(|_| ticket);
                    return;
                }
                if self.now > since + HOLD_MS_MAX {
                    self.hold_by_time(capsule);
                }
                let agreed =
                    |&(session, side): &(usize, usize)| self.sessions[session].sides[side].hold_agreed;
                if self.halves_of(capsule).iter().all(agreed) {
                    self.capsules[capsule].phase = Phase::Committing { to, ticket };
                }
            }
            Phase::Committing { to: Some(to), ticket } if self.directory_answers() => {
                let claim_first = !self.random.one_in(6) && self.is_up(to);
                if claim_first {
                    assert!(self.directory.claim(capsule, to, ticket), "a claim is refused");
                    assert!(!self.directory.revoke(capsule, from, ticket), "revoked what was claimed");
                    assert!(self.directory.claim(capsule, to, ticket), "a repeated claim is refused");
                    self.saw("moved");
                    self.arrive(capsule, to);
                } else if self.is_up(from) {
                    assert!(self.directory.revoke(capsule, from, ticket), "a revocation is refused");
                    assert!(!self.directory.claim(capsule, to, ticket), "claimed what was revoked");
                    self.saw("revoked after the key");
                    self.tell(|| format!("{capsule} is revoked"));
                    self.new_generation(capsule);
                    self.undo(capsule);
                }
            }
            Phase::Committing { to: None, ticket } if self.directory_answers() && self.is_up(from) => {
                assert!(self.directory.suspend(capsule, from, ticket), "a suspend is refused");
                self.saw("suspended");
                self.tell(|| format!("{capsule} is suspended"));
                for (session, side) in self.halves_of(capsule) {
                    self.break_link(session, 0);
                    self.sessions[session].sides[side].host = NOWHERE;
                    self.sessions[session].sides[side].link = None;
                }
                self.new_generation(capsule);
                let until = self.now + self.random.below(2_000);
                self.capsules[capsule].phase = Phase::InFile { until, ticket };
            }
            Phase::Committing { .. } => {}
            Phase::InFile { until, ticket } => {
                let to = self.random.below(self.plan.hosts as u64) as usize;
                if self.now < until || !self.directory_answers() || !self.is_up(to) {
                    return;
                }
                assert!(self.directory.resume(capsule, to, ticket), "a resume is refused");
                self.saw("resumed");
                self.arrive(capsule, to);
            }
            Phase::Arriving => self.release(capsule),
        }
    }

    /// An offer whose key was never sent.
    fn end_old_offer(&mut self, capsule: usize) {
        let host = self.capsules[capsule].host;
        if self.directory_answers()
            && self.is_up(host)
            && let Some(ticket) = self.capsules[capsule].withdraw.take()
        {
            assert!(self.directory.revoke(capsule, host, ticket), "a withdrawal is refused");
            self.new_generation(capsule);
        }
    }

    /// Who does not answer a hold is as good as without a link.
    fn hold_by_time(&mut self, capsule: usize) {
        for (session, side) in self.halves_of(capsule) {
            let session = &mut self.sessions[session];
            if !session.sides[side].hold_agreed {
                session.sides[side].saw("held by time");
                session.sides[side].link_lost(&mut session.link);
            }
        }
    }

    /// Back to how it was.
    fn undo(&mut self, capsule: usize) {
        self.tell(|| format!("{capsule} stays"));
        self.capsules[capsule].phase = Phase::Home;
        for (session, side) in self.halves_of(capsule) {
            let session = &mut self.sessions[session];
            let here = &mut session.sides[side];
            here.moving = Move::No;
            here.hold_agreed = false;
            here.half.release();
            here.settle(&mut session.link);
        }
    }

    /// The halves are rebuilt from their snapshots, silent.
    fn arrive(&mut self, capsule: usize, to: usize) {
        self.tell(|| format!("{capsule} is at {} now", host_name(to)));
        self.capsules[capsule].host = to;
        self.capsules[capsule].phase = Phase::Arriving;
        // Whoever asks for a session that has ended hears there that nobody knows it.
        for session in &mut self.sessions {
            for side in 0..2 {
                if session.capsules[side] == capsule {
                    session.sides[side].host = to as u64;
                }
            }
        }
        for (session, side) in self.halves_of(capsule) {
            self.break_link(session, 0);
            let session = &mut self.sessions[session];
            let here = &mut session.sides[side];
            here.reborn(true);
            here.moving = Move::Restored;
            if !here.kernel.accepted {
                here.saw("dialled again");
                here.kernel = here.kernel.dialled_again();
                here.half.dialled_again();
            }
            here.settle(&mut session.link);
        }
        self.new_generation(capsule);
    }

    fn release(&mut self, capsule: usize) {
        let host = self.capsules[capsule].host;
        if !self.is_up(host) || !self.directory_answers() {
            return;
        }
        self.directory.report(capsule, host);
        self.capsules[capsule].phase = Phase::Home;
        for (session, side) in self.halves_of(capsule) {
            self.hear_directory(session, side);
            let session = &mut self.sessions[session];
            session.sides[side].moving = Move::No;
            if session.sides[side].link.is_some() {
                session.sides[side].link_up(&mut session.link);
            }
        }
    }

    /// Everybody who watches hears of it, sooner or later.
    fn new_generation(&mut self, capsule: usize) {
        for session in &mut self.sessions {
            if session.capsules.contains(&capsule) {
                session.sides.iter_mut().for_each(|side| side.directory_news = true);
            }
        }
    }

    /// The sidecar of a host dies: what it knew is in the shims' tables, or gone.
    pub fn kill(&mut self, host: usize) {
        self.saw("killed");
        self.down_until[host] = self.now + self.random.below(800);
        self.tell(|| format!("{} dies until {}", host_name(host), self.down_until[host]));
        for session in 0..self.sessions.len() {
            let hosts = self.sessions[session].link.as_ref().map(|link| link.hosts);
            if hosts.is_some_and(|hosts| hosts.contains(&(host as u64))) {
                let arrived = self.random.below(64);
                self.break_link(session, arrived);
            }
        }
        for capsule in 0..self.capsules.len() {
            if self.capsules[capsule].host != host {
                continue;
            }
            match self.capsules[capsule].phase {
                Phase::Home => {}
                Phase::Leaving { to, ticket, .. } => {
                    // The key was not sent: the successor undoes alone.
                    self.saw("killed while leaving");
                    self.capsules[capsule].phase = Phase::Home;
                    self.capsules[capsule].withdraw = to.map(|_| ticket);
                }
                // Frozen, in a file, or at the gate: nothing of it is in the sidecar only.
                Phase::Committing { .. } | Phase::InFile { .. } | Phase::Arriving => continue,
            }
            for (session, side) in self.halves_of(capsule) {
                let reached_known = self.random.one_in(2);
                let session = &mut self.sessions[session];
                let here = &mut session.sides[side];
                here.moving = Move::No;
                here.reborn(reached_known);
                here.directory_news = true;
                here.settle(&mut session.link);
            }
        }
    }
}
