//! Encoded answers, kept until what they rest on changes. One table of fixed size, four places for each hash.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};

use crate::limits::{CACHE_ANSWERS_MAX, CACHE_SHARDS};
use crate::zone::Depends;

use super::question::{Form, Question};

/// Answers that share a hash's place.
const WAYS: usize = 4;
const SETS: usize = CACHE_ANSWERS_MAX / CACHE_SHARDS / WAYS;

/// Answers by question and form.
pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    /// So that nobody from outside can choose which answers share a place.
    seed: u64,
}

struct Shard {
    slots: Vec<Option<Box<Kept>>>,
    /// Which of the four places is given up next.
    hand: usize,
}

/// What is known of an answer beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// What it rests on.
    pub(super) depends: Depends,
    /// The revision at which it was made.
    pub(super) revision: u64,
    /// The round of signing in which it was made.
    pub(super) round: u64,
}

struct Kept {
    hash: u64,
    form: Form,
    basis: Basis,
    bytes: Box<[u8]>,
}

impl Cache {
    pub(super) fn new() -> Self {
        let shard = || {
            let slots = std::iter::repeat_with(|| None).take(SETS * WAYS).collect();
            Mutex::new(Shard { slots, hand: 0 })
        };
        let seed = RandomState::new().hash_one(CACHE_SHARDS);
        Self { shards: std::iter::repeat_with(shard).take(CACHE_SHARDS).collect(), seed }
    }

    /// Copies the answer into `answer`, when it is there and still good.
    pub(super) fn find(
        &self,
        question: &Question<'_>,
        is_good: impl Fn(&Basis) -> bool,
        answer: &mut Vec<u8>,
    ) -> bool {
        let (hash, shard, set) = self.place(question);
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |kept: &&Kept| {
            kept.hash == hash && kept.form == question.form && question.is_asked_in(&kept.bytes)
        };
        let found = shard.slots[set..set + WAYS].iter().flatten().map(Box::as_ref).find(fits);
        let Some(kept) = found.filter(|kept| is_good(&kept.basis)) else { return false };
        answer.clear();
        answer.extend_from_slice(&kept.bytes);
        true
    }

    /// Keeps an answer, in place of an older one to the same question, or of any.
    pub(super) fn keep(&self, question: &Question<'_>, basis: Basis, bytes: &[u8]) {
        let (hash, shard, set) = self.place(question);
        let kept = Box::new(Kept { hash, form: question.form, basis, bytes: bytes.into() });
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.hand = shard.hand.wrapping_add(1);
        let hand = shard.hand % WAYS;
        let slots = &mut shard.slots[set..set + WAYS];
        let same = |slot: &Option<Box<Kept>>| {
            slot.as_ref().is_some_and(|old| old.hash == hash && old.form == kept.form)
        };
        let place = slots.iter().position(same).or_else(|| slots.iter().position(Option::is_none));
        slots[place.unwrap_or(hand)] = Some(kept);
    }

    fn place(&self, question: &Question<'_>) -> (u64, &Mutex<Shard>, usize) {
        let hash = hash(self.seed, question);
        let at = |bits: u64, count: usize| usize::try_from(bits).unwrap_or(0) % count;
        (hash, &self.shards[at(hash >> 48, CACHE_SHARDS)], at(hash & 0xffff_ffff, SETS) * WAYS)
    }
}

/// Multiply and fold, eight bytes at a time, without regard to the case of letters. A query costs a few microseconds in
/// all: the standard library's hash would be a tenth of that.
fn hash(seed: u64, question: &Question<'_>) -> u64 {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let mix = |state: u64, word: u64| {
        let product = u128::from(state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
        let [low, high] =
            [product, product >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
        low ^ high
    };
    let (words, rest) = question.name.as_chunks::<8>();
    let mut state = words.iter().fold(seed, |state, word| mix(state, u64::from_le_bytes(*word) | LOWER));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    state = mix(state, u64::from_le_bytes(last) | LOWER);
    mix(state, u64::from(question.kind) << 8 | u64::from(question.form as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASIS: Basis = Basis { depends: Depends::Nothing, revision: 1, round: 0 };

    fn packet(name: &[u8]) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, length][..], name, b"\0\0\x01\0\x01"].concat()
    }

    #[test]
    fn an_answer_is_found_while_it_is_good() {
        let (cache, mut found) = (Cache::new(), vec![]);
        let (lower, upper) = (packet(b"some-longer-name"), packet(b"Some-Longer-NAME"));
        let question = Question::read(&lower).unwrap();
        assert!(!cache.find(&question, |_| true, &mut found));
        cache.keep(&question, BASIS, &lower);
        assert!(cache.find(&Question::read(&upper).unwrap(), |basis| *basis == BASIS, &mut found));
        assert_eq!(found, lower);
        assert!(!cache.find(&question, |_| false, &mut found));
        let signed = Question { form: Form::Signed, ..question };
        assert!(!cache.find(&signed, |_| true, &mut found));
    }

    #[test]
    fn the_table_does_not_grow() {
        let (cache, mut found) = (Cache::new(), vec![]);
        let names: Vec<_> = (0..50_000u32).map(|number| packet(format!("n{number}").as_bytes())).collect();
        for name in &names {
            cache.keep(&Question::read(name).unwrap(), BASIS, name);
        }
        let kept =
            names.iter().filter(|name| cache.find(&Question::read(name).unwrap(), |_| true, &mut found));
        assert!(kept.count() > 49_000, "four places suffice for nearly all at a fifth of the size");
        let slots: usize = cache.shards.iter().map(|shard| shard.lock().unwrap().slots.len()).sum();
        assert_eq!(slots, CACHE_ANSWERS_MAX);
    }
}
