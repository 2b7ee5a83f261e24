//! A pseudo-random stream of bytes in which every offset can be computed by itself.

/// Bytes of the stream `seed` are those of this word at `offset / 8`, little endian (SplitMix64).
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `buffer` with the stream's bytes from `offset` on.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let bytes = word(seed, at / 8).to_le_bytes();
        let from = (at % 8) as usize;
        let length = rest.len().min(8 - from);
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&bytes[from..from + length]);
        rest = later;
        at += length as u64;
    }
}

/// The first offset at which `buffer`, read at `offset`, is not the stream's.
pub fn first_wrong(seed: u64, offset: u64, buffer: &[u8]) -> Option<u64> {
    let mut expected = [0; 4096];
    let mut at = offset;
    for chunk in buffer.chunks(expected.len()) {
        let expected = &mut expected[..chunk.len()];
        fill(seed, at, expected);
        if expected != chunk {
            let index = expected.iter().zip(chunk).position(|(wanted, got)| wanted != got)?;
            return Some(at + index as u64);
        }
        at += chunk.len() as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let mut whole = [0; 1000];
        fill(7, 0, &mut whole);
        for (from, to) in [(0, 1000), (1, 9), (7, 8), (8, 16), (13, 999), (500, 500)] {
            let mut part = vec![0; to - from];
            fill(7, from as u64, &mut part);
            assert_eq!(part, whole[from..to]);
        }
    }

    #[test]
    fn a_wrong_byte_is_found_at_its_offset() {
        let mut bytes = vec![0; 20_000];
        fill(3, 5, &mut bytes);
        assert_eq!(first_wrong(3, 5, &bytes), None);
        assert_eq!(first_wrong(4, 5, &bytes), Some(5));
        bytes[12_345] ^= 1;
        assert_eq!(first_wrong(3, 5, &bytes), Some(12_350));
    }
}
