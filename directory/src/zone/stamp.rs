//! What an answer rests on, so that it can be kept until exactly that changes.

/// A capsule's or host's name, folded to a small number. Two names may share one; then either's change counts for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp(u16);

/// What an answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depends {
    /// Only on the directory's settings and keys.
    Nothing,
    /// On one or two names.
    Names([Stamp; 2]),
    /// On everything: it says that something is absent, or shows the serial.
    Revision,
}

impl Stamp {
    /// How many there are.
    pub const COUNT: usize = 1 << 16;

    /// The stamp of a name.
    pub fn of(name: &str) -> Self {
        // FNV-1a: short names, no secret to keep.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let folded = hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48);
        Self(folded.to_le_bytes().first_chunk().map_or(0, |low| u16::from_le_bytes(*low)))
    }

    /// Its place in a table of `COUNT`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Depends {
    /// On one name.
    pub fn on(name: &str) -> Self {
        Self::Names([Stamp::of(name); 2])
    }

    /// On two names.
    pub fn on_both(one: &str, other: &str) -> Self {
        Self::Names([Stamp::of(one), Stamp::of(other)])
    }
}
