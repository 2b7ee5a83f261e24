//! Both sides, the link between them, the directory, and what may happen.

use std::collections::BTreeSet;

use overlay_proto::{Frame, Generation, Outcome};

use super::kernel::Kernel;
use super::network::Link;
use super::side::{Move, Side};
use super::tape::{Random, Tape};

/// What the programs are up to, and how rough it gets.
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    bytes: [u64; 2],
    receive_max: [usize; 2],
    send_max: [usize; 2],
    programs_die: bool,
    moves: bool,
    crashes: bool,
    late_frames: bool,
    /// The ANSWER to the first OPEN was lost: the acceptor tried to attach so often before the opener had its half.
    answer_lost: Option<u64>,
}

impl Plan {
    pub fn of_seed(seed: u64) -> Plan {
        let mut random = Random(seed ^ 0x5eed);
        let mut two = |bound: u64| [random.below(bound), random.below(bound)];
        let bytes = two(700);
        let receive_max = two(90).map(|bytes| bytes as usize + 4);
        let send_max = two(60).map(|bytes| bytes as usize + 4);
        let programs_die = random.one_in(3);
        let moves = !random.one_in(4);
        let crashes = !random.one_in(4);
        let late_frames = random.one_in(2);
        let answer_lost = random.one_in(4).then(|| random.below(4));
        Plan { seed, bytes, receive_max, send_max, programs_die, moves, crashes, late_frames, answer_lost }
    }
}

pub struct World {
    plan: Plan,
    tape: Tape,
    random: Random,
    pub sides: [Side; 2],
    pub link: Option<Link>,
    links_made: u64,
    pub hosts_made: u64,
    pub generations: [u64; 2],
    /// Frames of the past, by the side they went to.
    past: [Vec<Frame>; 2],
    /// What a host that lost a capsule would say to each side, if it did not know.
    pub zombie: [Option<Frame>; 2],
    trace: bool,
}

const PAST_MAX: usize = 64;
const CALM_ROUNDS_MAX: usize = 100_000;

impl World {
    pub fn new(plan: Plan, tape: Tape, trace: bool) -> World {
        let side = |index: usize| {
            let kernel = Kernel::new(index, plan.receive_max[index], plan.send_max[index], index == 0);
            Side::new(index, kernel, trace)
        };
        let mut world = World {
            sides: [side(0), side(1)],
            tape,
            random: Random(plan.seed),
            plan,
            link: Some(Link::new(0, [0, 1])),
            links_made: 1,
            hosts_made: 2,
            generations: [1, 1],
            past: [Vec::new(), Vec::new()],
            zombie: [None, None],
            trace,
        };
        if let Some(attempts) = world.plan.answer_lost {
            world.lose_answer(attempts);
        }
        for side in 0..2 {
            world.sides[side].settle(&mut world.link);
        }
        world
    }

    fn lose_answer(&mut self, attempts: u64) {
        let mut gone = None;
        let [opener, acceptor] = &mut self.sides;
        for _ in 0..attempts {
            acceptor.link_lost(&mut gone);
            acceptor.link_up(&mut gone);
        }
        opener.half.link_lost();
        opener.half.link_up();
        acceptor.link = Some(0);
        acceptor.saw("lost answer");
    }

    /// Says what was seen.
    pub fn run(&mut self) -> BTreeSet<String> {
        while let Some(choice) = self.tape.next() {
            self.step(choice);
        }
        self.calm_down();
        self.judge();
        let [opener, acceptor] = &mut self.sides;
        opener.seen.append(&mut acceptor.seen);
        std::mem::take(&mut opener.seen)
    }

    fn step(&mut self, choice: u32) {
        let side = (choice & 1) as usize;
        let amount = u64::from(choice >> 1 & 0x3f);
        let rough = choice >> 7 & 0xff;
        let event = choice >> 15 & 0x1f;
        if self.trace {
            println!("side {side} event {event} rough {rough} amount {amount}");
        }
        match event {
            0..=3 => self.program_writes(side, amount),
            4..=6 => self.program_reads(side, amount),
            7..=9 => self.sides[side].pump(amount as usize, &mut self.link),
            10..=12 => self.take_bytes(side, amount as usize),
            13..=16 => self.take_frame(side),
            17 | 18 => self.notice_link(side),
            19 => self.connect(side),
            20 | 21 => self.hear_directory(side, rough & 1 == 0),
            22 | 23 => self.sides[side].apply_end(rough < 20, &mut self.link),
            24 => self.flush(side),
            25 if rough < 64 => self.hear_zombie(side),
            25 => self.accept(side),
            26 if rough < 60 => self.break_link(amount),
            27 if rough < 40 => self.program_ends(side),
            28 if rough < 10 && self.plan.programs_die => self.sides[side].kernel.program_dies(),
            28 if rough > 250 => self.sides[side].stall(&mut self.link),
            29 if self.plan.moves => self.go_on_moving(side, rough),
            30 if rough < 30 && self.plan.crashes => self.crash(side, rough),
            31 if self.plan.late_frames => self.repeat_late_frame(side, amount as usize),
            _ => {}
        }
    }

    fn program_writes(&mut self, side: usize, bytes: u64) {
        if !self.sides[side].is_frozen() {
            let left = self.plan.bytes[side] - self.sides[side].kernel.written;
            self.sides[side].kernel.program_writes(bytes.min(left));
        }
    }

    fn program_reads(&mut self, side: usize, bytes: u64) {
        if !self.sides[side].is_frozen() {
            self.sides[side].kernel.program_reads(bytes);
        }
    }

    fn program_ends(&mut self, side: usize) {
        if !self.sides[side].is_frozen() {
            self.sides[side].kernel.program_ends();
        }
    }

    /// The program accepts; the shell notices at some other time, or by the first byte.
    fn accept(&mut self, side: usize) {
        let here = &mut self.sides[side];
        if here.is_frozen() {
            return;
        }
        if here.kernel.accepted {
            here.half.accepted();
            here.settle(&mut self.link);
        } else if !here.kernel.reset {
            here.kernel.accepted = true;
        }
    }

    fn flush(&mut self, side: usize) {
        if !self.sides[side].is_frozen() {
            self.sides[side].half.flush_reports();
            self.sides[side].settle(&mut self.link);
        }
    }

    fn take_bytes(&mut self, side: usize, bytes: usize) {
        if self.is_at_end_of_link(side) {
            self.sides[side].take_bytes(bytes, &mut self.link);
        }
    }

    /// Whether the link in use ends at the host where this side's capsule is.
    fn is_at_end_of_link(&self, side: usize) -> bool {
        self.link.as_ref().is_some_and(|link| link.hosts[side] == self.sides[side].host)
    }

    fn take_frame(&mut self, side: usize) {
        let Some(link) = self.link.as_mut() else { return };
        let id = link.id;
        if link.hosts[side] != self.sides[side].host {
            self.answer_from_old_host(side);
            return;
        }
        if self.sides[side].link != Some(id) {
            if !link.broken {
                self.notice_link(side);
            }
            return;
        }
        let Some(frame) = link.lanes[side].take() else { return };
        if self.trace {
            println!("    {side} gets {frame:?}");
        }
        if self.past[side].len() < PAST_MAX {
            self.past[side].push(frame.clone());
        }
        if self.sides[side].ended.is_some() {
            self.answer_from_tombstone(side, &frame);
        } else {
            self.sides[side].handle(&frame, &mut self.link);
        }
    }

    fn answer_from_old_host(&mut self, side: usize) {
        let Some(link) = self.link.as_mut() else { return };
        link.lanes[side].streams.clear();
        let answer = link.lanes[side].take().and_then(|frame| frame.answer_not_here());
        if let Some(answer) = answer.filter(|_| !link.broken) {
            link.lanes[1 - side].put(&answer);
        }
    }

    fn answer_from_tombstone(&mut self, side: usize, frame: &Frame) {
        let Some(link) = self.link.as_mut().filter(|link| !link.broken) else { return };
        if let Some(answer) = frame.answer_unknown() {
            link.lanes[1 - side].put(&answer);
        }
    }

    /// The shell looks at its link.
    fn notice_link(&mut self, side: usize) {
        let usable = self.link.as_ref().filter(|link| !link.broken).map(|link| link.id);
        let usable = usable.filter(|_| self.is_at_end_of_link(side));
        let here = &mut self.sides[side];
        if here.link == usable {
            return;
        }
        if here.link.is_some() {
            here.link_lost(&mut self.link);
        }
        if usable.is_some() {
            here.link = usable;
            here.link_up(&mut self.link);
        }
    }

    /// Dials the host where this shell believes the other capsule to be.
    fn connect(&mut self, side: usize) {
        if self.link.as_ref().is_some_and(|link| !link.broken) {
            return;
        }
        let mut hosts = [self.sides[side].host; 2];
        hosts[1 - side] = self.sides[side].peer_host;
        self.link = Some(Link::new(self.links_made, hosts));
        self.links_made += 1;
        self.notice_link(side);
    }

    /// What is under way is lost, but for a part that had arrived.
    pub fn break_link(&mut self, arrived: u64) {
        let Some(link) = self.link.as_mut() else { return };
        link.broken = true;
        for lane in &mut link.lanes {
            lane.frames.truncate(arrived as usize % 3);
            for stream in &mut lane.streams {
                stream.bytes.truncate(arrived as usize);
                stream.abandoned = true;
            }
        }
    }

    pub fn hear_directory(&mut self, side: usize, link_first: bool) {
        let (opener, acceptor) = (Generation::new(self.generations[0]), Generation::new(self.generations[1]));
        let peer_host = self.sides[1 - side].host;
        let here = &mut self.sides[side];
        if !here.directory_asked && !here.directory_news {
            return;
        }
        here.directory_asked = false;
        here.directory_news = false;
        let moved = std::mem::replace(&mut here.peer_host, peer_host) != peer_host;
        let wrong = moved && self.link.as_ref().is_some_and(|link| link.hosts[1 - side] != peer_host);
        if wrong && link_first {
            here.link_lost(&mut self.link);
        }
        here.half.generations(opener, acceptor);
        here.settle(&mut self.link);
        if wrong {
            if here.link.is_some() {
                here.link_lost(&mut self.link);
            }
            self.break_link(0);
        }
    }

    /// A frame of an older attach that took its time.
    fn repeat_late_frame(&mut self, side: usize, pick: usize) {
        let here = &mut self.sides[side];
        let old = |frame: &&Frame| key_of(frame).is_some_and(|key| key < here.half.key());
        let late: Vec<Frame> = self.past[side].iter().filter(old).cloned().collect();
        if late.is_empty() || here.ended.is_some() {
            return;
        }
        let frame = &late[pick % late.len()];
        here.saw("late frame");
        if self.trace {
            println!("    {side} gets late {frame:?}");
        }
        here.handle(frame, &mut self.link);
    }

    /// Nothing breaks any more; everybody does what is to be done, in a random order.
    fn calm_down(&mut self) {
        if self.trace {
            println!("calm");
        }
        for _ in 0..CALM_ROUNDS_MAX {
            if self.sides.iter().all(|side| side.ended.is_some()) {
                return;
            }
            let side = self.random.below(2) as usize;
            let amount = 1 + self.random.below(200);
            match self.random.below(10) {
                0 => self.program_writes(side, amount),
                1 => self.program_reads(side, amount),
                2 => self.sides[side].pump(amount as usize, &mut self.link),
                3 => self.take_bytes(side, amount as usize),
                4 => self.take_frame(side),
                5 => self.calm_link(side),
                6 => self.hear_directory(side, amount & 1 == 0),
                7 => self.sides[side].apply_end(false, &mut self.link),
                8 => self.calm_program(side),
                _ => self.calm_move(side),
            }
        }
        let halves = [&self.sides[0].half, &self.sides[1].half];
        let kernels = [&self.sides[0].kernel, &self.sides[1].kernel];
        panic!("does not end: {:?}\n{halves:#?}\n{kernels:#?}\n{:#?}", self.plan, self.link);
    }

    fn calm_link(&mut self, side: usize) {
        self.flush(side);
        let right = self
            .link
            .as_ref()
            .is_some_and(|link| !link.broken && link.hosts == [self.sides[0].host, self.sides[1].host]);
        if !right {
            self.break_link(0);
            self.sides[side].directory_news = true;
            self.hear_directory(side, true);
            self.connect(side);
        }
        self.notice_link(side);
    }

    fn calm_program(&mut self, side: usize) {
        self.accept(side);
        if self.sides[side].kernel.written >= self.plan.bytes[side] || self.sides[side].kernel.fin {
            self.program_ends(side);
        }
    }

    fn calm_move(&mut self, side: usize) {
        match self.sides[side].moving {
            Move::No => {}
            Move::Holding => self.go_on_moving(side, 255),
            Move::Restored => self.release(side, true),
        }
    }

    /// What must be true at the end.
    fn judge(&mut self) {
        for side in 0..2 {
            self.sides[side].moving = Move::No;
            self.program_reads(side, u64::MAX >> 32);
        }
        for side in 0..2 {
            let (here, there) = (&self.sides[side], &self.sides[1 - side]);
            let outcome = here.ended.expect("ended");
            let both_fin = here.kernel.fin && there.kernel.fin;
            let allowed = match outcome {
                Outcome::Closed => both_fin,
                Outcome::ResetByProgram => here.kernel.reset,
                Outcome::ResetByPeer => there.kernel.reset,
                Outcome::PeerGone | Outcome::PeerUnknown | Outcome::Broken(_) => false,
            };
            assert!(allowed, "side {side} ended as {outcome:?}");
            if outcome == Outcome::ResetByPeer && !here.kernel.reset {
                assert!(here.kernel.reset_given, "side {side} was not told of the RST");
                assert!(here.discarding, "side {side} held its program's bytes back");
            }
            if outcome == Outcome::Closed {
                assert!(
                    here.kernel.fin_given && (here.kernel.saw_fin || here.kernel.reset),
                    "side {side} saw no end"
                );
            }
            let complete = !here.kernel.reset && !here.gave_up && !there.discarding;
            if complete {
                assert_eq!(here.kernel.read, there.kernel.written, "side {side} lost bytes ({outcome:?})");
            }
        }
    }
}

fn key_of(frame: &Frame) -> Option<overlay_proto::AttachKey> {
    match frame {
        Frame::Attach(frame) => Some(frame.key),
        Frame::Attached(frame) => Some(frame.key),
        Frame::Hold(frame) => Some(frame.key),
        Frame::Held(frame) => Some(frame.key),
        Frame::Stale { key, .. } | Frame::Delivered { key, .. } | Frame::End { key, .. } => Some(*key),
        _ => None,
    }
}
