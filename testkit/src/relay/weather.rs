//! What happens to a packet on its way.

use std::time::Duration;

/// What a network does to packets. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Of a hundred packets this many are lost.
    pub loss_percent: f64,
    /// Of a hundred packets this many come twice.
    pub duplicate_percent: f64,
    /// How long each packet takes.
    pub delay: Duration,
    /// How much longer it may take, by chance: packets overtake each other.
    pub jitter: Duration,
}

/// What the weather makes of one packet: when its copies arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) first: Option<Duration>,
    pub(super) second: Option<Duration>,
}

impl Weather {
    pub(super) fn fate(&self, dice: &mut Dice) -> Fate {
        if dice.percent() < self.loss_percent {
            return Fate { first: None, second: None };
        }
        let first = Some(self.delay + self.jitter.mul_f64(dice.fraction()));
        let twice = dice.percent() < self.duplicate_percent;
        let second = twice.then(|| self.delay + self.jitter.mul_f64(dice.fraction()));
        Fate { first, second }
    }
}

/// Numbers that look like chance (xorshift64*) and are the same every time.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Dice {
    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        (number >> 11) as f64 / (1u64 << 53) as f64
    }

    fn percent(&mut self) -> f64 {
        self.fraction() * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_lost_and_doubled_as_often_as_told() {
        let delay = Duration::from_millis(50);
        let jitter = Duration::from_millis(20);
        let weather = Weather { loss_percent: 5.0, duplicate_percent: 2.0, delay, jitter };
        let mut dice = Dice::default();
        let fates: Vec<Fate> = (0..100_000).map(|_| weather.fate(&mut dice)).collect();
        let lost = fates.iter().filter(|fate| fate.first.is_none()).count();
        let twice = fates.iter().filter(|fate| fate.second.is_some()).count();
        assert!((4_700..5_300).contains(&lost), "{lost}");
        assert!((1_700..2_100).contains(&twice), "{twice}");
        for time in fates.iter().flat_map(|fate| [fate.first, fate.second]).flatten() {
            assert!((delay..delay + jitter).contains(&time), "{time:?}");
        }
    }

    #[test]
    fn fair_weather_does_nothing() {
        let mut dice = Dice::default();
        let fate = Weather::default().fate(&mut dice);
        assert_eq!(fate, Fate { first: Some(Duration::ZERO), second: None });
    }
}
