//! What sidecars and programs do for one session, one small thing at a time.

use overlay_proto::Generation;

use super::directory::host_name;
use super::network::Link;
use super::world::{Phase, World};

impl World {
    pub fn step_session(&mut self, session: usize, side: usize) {
        let amount = 1 + self.random.below(64);
        let what = self.random.below(20);
        let capsule = &self.capsules[self.sessions[session].capsules[side]];
        let in_file = matches!(capsule.phase, Phase::InFile { .. });
        let up = !in_file && self.is_up(capsule.host);
        let here = &mut self.sessions[session];
        let frozen = in_file || here.sides[side].is_frozen();
        match what {
            0..=2 if !frozen => {
                let left = here.bytes[side] - here.sides[side].kernel.written;
                here.sides[side].kernel.program_writes(amount.min(left));
            }
            3..=5 if !frozen => here.sides[side].kernel.program_reads(amount),
            6 if !frozen => {
                let kernel = &mut here.sides[side].kernel;
                if kernel.written == here.bytes[side] {
                    kernel.program_ends();
                }
            }
            7..=9 if up => here.sides[side].pump(amount as usize, &mut here.link),
            10..=12 if up => self.take_bytes(session, side, amount as usize),
            13..=15 if up => self.take_frame(session, side),
            16 if up => self.look_at_link(session, side),
            17 if up => self.hear_directory(session, side),
            18 if up && !frozen => {
                let side = &mut here.sides[side];
                side.apply_end(false, &mut here.link);
                if side.ended.is_none() {
                    side.half.flush_reports();
                    side.settle(&mut here.link);
                }
            }
            19 if up && !frozen => self.accept(session, side),
            _ => {}
        }
    }

    /// The program accepts; the shell notices at some other time, or by the first byte.
    fn accept(&mut self, session: usize, side: usize) {
        let session = &mut self.sessions[session];
        let here = &mut session.sides[side];
        if !here.kernel.accepted {
            here.kernel.accepted = true;
        } else if here.ended.is_none() {
            here.half.accepted();
            here.settle(&mut session.link);
        }
    }

    fn ends_here(&self, session: usize, side: usize) -> bool {
        let session = &self.sessions[session];
        session.link.as_ref().is_some_and(|link| link.hosts[side] == session.sides[side].host)
    }

    fn take_bytes(&mut self, session: usize, side: usize, bytes: usize) {
        if self.ends_here(session, side) {
            let session = &mut self.sessions[session];
            session.sides[side].take_bytes(bytes, &mut session.link);
        }
    }

    fn take_frame(&mut self, session: usize, side: usize) {
        if self.now < self.sessions[session].due[side] {
            return;
        }
        let delay = self.random.below(self.plan.delay_ms + 1);
        let ends_here = self.ends_here(session, side);
        let Some(link) = self.sessions[session].link.as_ref() else { return };
        let (id, broken) = (link.id, link.broken);
        if !ends_here {
            self.answer_from_old_host(session, side);
            return;
        }
        if self.sessions[session].sides[side].link != Some(id) {
            if !broken {
                self.look_at_link(session, side);
            }
            return;
        }
        let (now, trace) = (self.now, self.trace);
        let session = &mut self.sessions[session];
        let Some(frame) = session.link.as_mut().and_then(|link| link.lanes[side].take()) else { return };
        session.due[side] = now + delay;
        if trace {
            println!("{now:6} ms {:?} {side} gets {frame:?}", session.capsules);
        }
        if session.sides[side].ended.is_none() {
            session.sides[side].handle(&frame, &mut session.link);
        } else if let Some(answer) = frame.answer_unknown()
            && let Some(link) = session.link.as_mut().filter(|link| !link.broken)
        {
            link.lanes[1 - side].put(&answer);
        }
    }

    fn answer_from_old_host(&mut self, session: usize, side: usize) {
        let Some(link) = self.sessions[session].link.as_mut() else { return };
        link.lanes[side].streams.clear();
        let answer = link.lanes[side].take().and_then(|frame| frame.answer_not_here());
        if let Some(answer) = answer.filter(|_| !link.broken) {
            link.lanes[1 - side].put(&answer);
        }
    }

    /// The shell looks at its link, and dials if there is none.
    pub fn look_at_link(&mut self, session: usize, side: usize) {
        self.dial(session, side);
        let ends_here = self.ends_here(session, side);
        let session = &mut self.sessions[session];
        let usable = session.link.as_ref().filter(|link| !link.broken && ends_here).map(|link| link.id);
        let here = &mut session.sides[side];
        if here.link == usable {
            return;
        }
        if here.link.is_some() {
            here.link_lost(&mut session.link);
        }
        if usable.is_some() {
            here.link = usable;
            here.link_up(&mut session.link);
        }
    }

    /// To the host where this shell believes the other capsule to be.
    fn dial(&mut self, session: usize, side: usize) {
        let here = &self.sessions[session];
        let mut hosts = [here.sides[side].host; 2];
        hosts[1 - side] = here.sides[side].peer_host;
        let whole = here.link.as_ref().is_some_and(|link| !link.broken && link.hosts[side] == hosts[side]);
        if whole || !self.hear_each_other(hosts[0] as usize, hosts[1] as usize) {
            return;
        }
        self.sessions[session].link = Some(Link::new(self.links_made, hosts));
        self.links_made += 1;
    }

    /// What is under way is lost, but for a part that had arrived.
    pub fn break_link(&mut self, session: usize, arrived: u64) {
        let Some(link) = self.sessions[session].link.as_mut() else { return };
        link.broken = true;
        for lane in &mut link.lanes {
            lane.frames.truncate(arrived as usize % 3);
            for stream in &mut lane.streams {
                stream.bytes.truncate(arrived as usize);
                stream.abandoned = true;
            }
        }
    }

    /// The answer to a question, or news by the watch.
    pub fn hear_directory(&mut self, session: usize, side: usize) {
        let here = &self.sessions[session].sides[side];
        if !self.directory_answers() || here.ended.is_some() || !(here.directory_asked || here.directory_news)
        {
            return;
        }
        let capsules = self.sessions[session].capsules;
        let generations: [Generation; 2] = capsules.map(|capsule| self.directory.records[capsule].generation);
        let peer = &self.directory.records[capsules[1 - side]].host;
        let peer = (0..self.plan.hosts).find(|host| host_name(*host) == *peer).expect("a host") as u64;
        let session_number = session;
        let session = &mut self.sessions[session];
        let here = &mut session.sides[side];
        here.directory_asked = false;
        here.directory_news = false;
        here.peer_host = peer;
        let wrong = session.link.as_ref().is_some_and(|link| link.hosts[1 - side] != peer);
        if wrong && here.link.is_some() {
            here.link_lost(&mut session.link);
        }
        here.half.generations(generations[0], generations[1]);
        here.settle(&mut session.link);
        if wrong {
            self.break_link(session_number, 0);
        }
    }
}
