//! What goes wrong and when, drawn from a seed.

use std::fmt;
use std::time::Duration;

/// Hosts of the mesh.
pub(crate) const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
/// Capsules that are moved and suspended, by the words that their names begin with.
pub(crate) const CAPSULES: [&str; 6] = ["redis", "counter", "sink", "source", "keeper", "holder"];

/// One thing that is done to the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A capsule is moved.
    Move { capsule: &'static str, to: &'static str },
    /// A sidecar is killed, and started again after a while.
    Kill { host: &'static str, down: Duration },
    /// A sidecar is replaced by the program on disk.
    Upgrade { host: &'static str },
    /// The directory is killed, and started again after a while.
    Directory { down: Duration },
    /// A host's cable is pulled for a while.
    Cut { host: &'static str, down: Duration },
    /// A host gets another address.
    Readdress { host: &'static str },
    /// A capsule is suspended, and resumed elsewhere after a while.
    Suspend { capsule: &'static str, lies: Duration, on: &'static str },
}

impl Event {
    /// Its kind, for the table.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Move { .. } => "move",
            Self::Kill { .. } => "kill of a sidecar",
            Self::Upgrade { .. } => "upgrade",
            Self::Directory { .. } => "kill of the directory",
            Self::Cut { .. } => "cable pulled",
            Self::Readdress { .. } => "address changed",
            Self::Suspend { .. } => "suspend",
        }
    }

    /// The host that it is done to.
    fn host(&self) -> Option<&'static str> {
        match self {
            Self::Kill { host, .. }
            | Self::Upgrade { host }
            | Self::Cut { host, .. }
            | Self::Readdress { host } => Some(host),
            Self::Move { .. } | Self::Directory { .. } | Self::Suspend { .. } => None,
        }
    }

    /// The capsule that it is done to.
    fn capsule(&self) -> Option<&'static str> {
        match self {
            Self::Move { capsule, .. } | Self::Suspend { capsule, .. } => Some(capsule),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move { capsule, to } => write!(f, "move {capsule} to {to}"),
            Self::Kill { host, down } => write!(f, "kill the sidecar of {host} for {} ms", down.as_millis()),
            Self::Upgrade { host } => write!(f, "upgrade the sidecar of {host}"),
            Self::Directory { down } => write!(f, "kill the directory for {} ms", down.as_millis()),
            Self::Cut { host, down } => write!(f, "pull the cable of {host} for {} ms", down.as_millis()),
            Self::Readdress { host } => write!(f, "change the address of {host}"),
            Self::Suspend { capsule, lies, on } => {
                write!(f, "suspend {capsule} for {} ms, then resume it on {on}", lies.as_millis())
            }
        }
    }
}

/// Events with the time at which each begins.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// Its number under the seed.
    pub(crate) number: u64,
    /// In the order of their beginning.
    pub(crate) events: Vec<(Duration, Event)>,
}

/// Events of one schedule: from a few that meet to a few more.
const EVENTS: std::ops::RangeInclusive<u64> = 2..=4;

impl Schedule {
    /// The schedule of this number under this seed, whose events begin and mostly end within `window`.
    pub(crate) fn of(seed: u64, number: u64, window: Duration) -> Self {
        let mut random = Random(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let count = EVENTS.start() + random.below(EVENTS.end() - EVENTS.start() + 1);
        let mut events: Vec<(Duration, Event)> = Vec::new();
        while (events.len() as u64) < count {
            let begins = random.part_of(window / 2);
            let event = draw(&mut random, window);
            // Two things done to one host or capsule at once are one thing that the test itself does wrong.
            let meets = |(_, other): &(Duration, Event)| {
                let same = |one: Option<&str>, other: Option<&str>| one.is_some() && one == other;
                same(event.host(), other.host())
                    || same(event.capsule(), other.capsule())
                    || event.kind() == "kill of the directory" && other.kind() == event.kind()
            };
            if !events.iter().any(meets) {
                events.push((begins, event));
            }
        }
        events.sort_by_key(|(begins, _)| *begins);
        Self { number, events }
    }
}

fn draw(random: &mut Random, window: Duration) -> Event {
    let host = HOSTS[random.below(HOSTS.len() as u64) as usize];
    let capsule = CAPSULES[random.below(CAPSULES.len() as u64) as usize];
    let down = random.part_of(window * 3 / 4);
    match random.below(14) {
        0..=4 => Event::Move { capsule, to: host },
        5..=7 => Event::Kill { host, down: down / 2 },
        8 => Event::Upgrade { host },
        9 => Event::Directory { down },
        10 | 11 => Event::Cut { host, down },
        12 => Event::Readdress { host },
        _ => Event::Suspend { capsule, lies: down, on: host },
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedule {}:", self.number)?;
        for (begins, event) in &self.events {
            write!(f, " {} ms {event};", begins.as_millis())?;
        }
        Ok(())
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) % bound.max(1)
    }

    fn part_of(&mut self, whole: Duration) -> Duration {
        Duration::from_millis(self.below(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX)))
    }
}
