//! Where choices come from.

/// A finite list of choices.
pub struct Tape {
    choices: Vec<u32>,
    at: usize,
}

impl Tape {
    pub fn of_choices(choices: Vec<u32>) -> Tape {
        Tape { choices, at: 0 }
    }

    pub fn of_seed(seed: u64) -> Tape {
        let mut random = Random(seed);
        let length = 200 + random.below(2_500);
        Tape::of_choices((0..length).map(|_| (random.next() >> 32) as u32).collect())
    }

    pub fn next(&mut self) -> Option<u32> {
        let choice = self.choices.get(self.at).copied();
        self.at += 1;
        choice
    }
}

/// SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }

    pub fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}
