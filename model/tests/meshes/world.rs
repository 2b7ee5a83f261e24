//! Hosts, the network between them, capsules, and what may happen to them.

use std::collections::BTreeSet;

use super::directory::{Directory, Ticket, host_name};
use super::kernel::Kernel;
use super::network::Link;
use super::plan::{Fault, Plan};
use super::side::Side;
use super::tape::Random;
use overlay_proto::Outcome;

/// Where the halves of a capsule in a file are.
pub const NOWHERE: u64 = u64::MAX;
/// Steps of shells and programs in one step of time.
const STEPS_AT_ONCE: usize = 12;
/// Steps of time in which everything must have ended once it is calm.
const CALM_STEPS_MAX: usize = 200_000;

/// What a capsule is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Home,
    /// Its halves hold; to a host, or into a file.
    Leaving {
        to: Option<usize>,
        since: u64,
        ticket: Ticket,
    },
    /// Frozen, and the directory decides.
    Committing {
        to: Option<usize>,
        ticket: Ticket,
    },
    InFile {
        until: u64,
        ticket: Ticket,
    },
    /// Its halves are there and not released.
    Arriving,
}

pub struct Capsule {
    pub host: usize,
    pub phase: Phase,
    /// An offer that is to be ended when the directory is there.
    pub withdraw: Option<Ticket>,
}

pub struct Session {
    pub sides: [Side; 2],
    pub capsules: [usize; 2],
    pub bytes: [u64; 2],
    pub link: Option<Link>,
    /// When the next frame towards each side has come all the way.
    pub due: [u64; 2],
}

pub struct World {
    pub plan: Plan,
    pub random: Random,
    pub now: u64,
    pub directory: Directory,
    pub directory_away_until: u64,
    /// Until when each sidecar is dead.
    pub down_until: Vec<u64>,
    /// Pairs of hosts that don't hear each other, and until when.
    pub parted: Vec<(usize, usize, u64)>,
    pub capsules: Vec<Capsule>,
    pub sessions: Vec<Session>,
    pub links_made: u64,
    pub seen: BTreeSet<String>,
    pub trace: bool,
}

impl World {
    pub fn new(plan: Plan, trace: bool) -> World {
        let mut random = Random(plan.seed);
        let places: Vec<usize> =
            (0..plan.capsules).map(|_| random.below(plan.hosts as u64) as usize).collect();
        let capsules: Vec<Capsule> =
            places.iter().map(|host| Capsule { host: *host, phase: Phase::Home, withdraw: None }).collect();
        let mut world = World {
            directory: Directory::new(&places),
            directory_away_until: 0,
            down_until: vec![0; plan.hosts],
            parted: Vec::new(),
            capsules,
            sessions: Vec::new(),
            links_made: 0,
            seen: BTreeSet::new(),
            now: 1,
            trace,
            random,
            plan,
        };
        for _ in 0..world.plan.sessions {
            world.open_session();
        }
        world
    }

    /// A session whose OPEN was answered: both have their halves.
    fn open_session(&mut self) {
        let count = self.plan.capsules as u64;
        let opener = self.random.below(count);
        let acceptor = (opener + 1 + self.random.below(count - 1)) % count;
        let capsules = [opener as usize, acceptor as usize];
        let hosts = capsules.map(|capsule| self.capsules[capsule].host as u64);
        if hosts[0] == hosts[1] {
            self.saw("local");
        }
        let link = Link::new(self.links_made, hosts);
        self.links_made += 1;
        let trace = self.trace;
        let random = &mut self.random;
        let mut side = |index: usize| {
            let (receive, send) = (random.below(90) as usize + 4, random.below(60) as usize + 4);
            let mut side = Side::new(index, Kernel::new(index, receive, send, index == 0), trace);
            side.host = hosts[index];
            side.peer_host = hosts[1 - index];
            side.link = Some(link.id);
            side
        };
        let sides = [side(0), side(1)];
        let bytes = [self.random.below(700), self.random.below(700)];
        let mut session = Session { sides, capsules, bytes, link: Some(link), due: [0, 0] };
        for side in 0..2 {
            session.sides[side].settle(&mut session.link);
        }
        self.sessions.push(session);
    }

    pub fn saw(&mut self, what: &str) {
        if !self.seen.contains(what) {
            self.seen.insert(what.to_owned());
        }
    }

    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:6} ms {}", self.now, what());
        }
    }

    /// Says what was seen.
    pub fn run(&mut self) -> BTreeSet<String> {
        while self.now < self.plan.rough_ms {
            self.go_wrong();
            self.go_on();
        }
        self.tell(|| "calm".into());
        self.directory_away_until = 0;
        self.down_until.fill(0);
        self.parted.clear();
        for _ in 0..CALM_STEPS_MAX {
            self.go_on();
            let ended = |session: &Session| session.sides.iter().all(|side| side.ended.is_some());
            if self.sessions.iter().all(ended) {
                return self.judge();
            }
        }
        for session in &self.sessions {
            println!("{:?} {:?}", session.capsules, session.sides.each_ref().map(|side| &side.half));
        }
        panic!("does not end: {:?}", self.plan);
    }

    fn go_on(&mut self) {
        self.now += 1 + self.random.below(3);
        for capsule in 0..self.capsules.len() {
            if self.random.one_in(3) {
                self.go_on_moving(capsule);
            }
        }
        for _ in 0..STEPS_AT_ONCE {
            let session = self.random.below(self.sessions.len() as u64) as usize;
            let side = self.random.below(2) as usize;
            self.step_session(session, side);
        }
    }

    /// Something rare.
    fn go_wrong(&mut self) {
        let wrong = |fault: Fault, odds: u64, world: &mut World| {
            world.random.one_in(odds) && world.plan.faults.contains(&fault)
        };
        if wrong(Fault::Moves, 150, self) || wrong(Fault::Suspends, 600, self) {
            let capsule = self.random.below(self.plan.capsules as u64) as usize;
            let to = self.random.below(self.plan.hosts as u64) as usize;
            let into_file = self.random.one_in(4) && self.plan.faults.contains(&Fault::Suspends);
            if into_file || self.plan.faults.contains(&Fault::Moves) {
                self.begin_leaving(capsule, (!into_file).then_some(to));
            }
        }
        if wrong(Fault::Kills, 400, self) {
            let host = self.random.below(self.plan.hosts as u64) as usize;
            self.kill(host);
        }
        if wrong(Fault::Partings, 400, self) {
            let (a, b) =
                (self.random.below(self.plan.hosts as u64), self.random.below(self.plan.hosts as u64));
            self.part(a as usize, b as usize);
        }
        if wrong(Fault::DirectoryAway, 500, self) {
            self.saw("directory away");
            self.directory_away_until = self.now + self.random.below(1_500);
            self.tell(|| format!("the directory is away until {}", self.directory_away_until));
        }
    }

    fn part(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.saw("parted");
        let until = self.now + self.random.below(1_500);
        self.tell(|| format!("{} and {} are parted until {until}", host_name(a), host_name(b)));
        self.parted.push((a, b, until));
        for session in 0..self.sessions.len() {
            let hosts = self.sessions[session].link.as_ref().map(|link| link.hosts);
            if hosts.is_some_and(|hosts| hosts == [a as u64, b as u64] || hosts == [b as u64, a as u64]) {
                let arrived = self.random.below(64);
                self.break_link(session, arrived);
            }
        }
    }

    pub fn is_up(&self, host: usize) -> bool {
        self.down_until[host] <= self.now
    }

    pub fn hear_each_other(&self, a: usize, b: usize) -> bool {
        let parted = |&(one, other, until): &(usize, usize, u64)| {
            until > self.now && ((one, other) == (a, b) || (one, other) == (b, a))
        };
        self.is_up(a) && self.is_up(b) && !self.parted.iter().any(parted)
    }

    pub fn directory_answers(&self) -> bool {
        self.directory_away_until <= self.now
    }

    /// What must be true at the end.
    fn judge(&mut self) -> BTreeSet<String> {
        for session in &mut self.sessions {
            for side in &mut session.sides {
                side.kernel.program_reads(u64::MAX >> 32);
                self.seen.append(&mut side.seen);
            }
            for side in 0..2 {
                let (here, there) = (&session.sides[side], &session.sides[1 - side]);
                assert_eq!(here.ended, Some(Outcome::Closed), "side {side} of {:?}", session.capsules);
                assert!(here.kernel.saw_fin, "side {side} saw no end");
                assert_eq!(here.kernel.read, there.kernel.written, "side {side} lost bytes");
                assert_eq!(there.kernel.written, session.bytes[1 - side], "side {side} has not written all");
            }
        }
        std::mem::take(&mut self.seen)
    }
}
