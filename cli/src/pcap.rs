//! Pieces of pcap streams, made into one file: draft-ietf-opsawg-pcap, sections 4 and 5.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes before the first packet.
const HEADER_BYTES: usize = 24;
/// Bytes before each packet.
const RECORD_HEADER_BYTES: usize = 16;
/// The magic number of a file with microseconds, as it is written by a machine with the other order of bytes.
const MAGIC_SWAPPED: u32 = 0xd4c3_b2a1;

/// Several streams, one behind the other, as the bytes of one file.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pending: BytesMut,
    /// The header of the present stream is through; with the way it writes numbers.
    swapped: Option<bool>,
    has_header: bool,
    /// Packets that went out.
    pub(crate) packets: u64,
}

impl Joined {
    /// Another stream begins. A packet that the last one did not finish is left out.
    pub(crate) fn next_stream(&mut self) {
        self.pending.clear();
        self.swapped = None;
    }

    /// Takes bytes of the present stream; gives those that can be written: whole packets, and the first header.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Bytes {
        self.pending.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        let swapped = match self.swapped {
            Some(swapped) => swapped,
            None if self.pending.len() < HEADER_BYTES => return Bytes::new(),
            None => {
                let header = self.pending.split_to(HEADER_BYTES);
                let swapped = header.clone().get_u32() == MAGIC_SWAPPED;
                if !std::mem::replace(&mut self.has_header, true) {
                    out.unsplit(header);
                }
                *self.swapped.insert(swapped)
            }
        };
        let mut whole = 0;
        while let Some(mut header) = self.pending.get(whole..whole + RECORD_HEADER_BYTES) {
            // The time, then the length here.
            header.advance(8);
            let length = if swapped { header.get_u32_le() } else { header.get_u32() };
            let end = whole + RECORD_HEADER_BYTES + length as usize;
            if self.pending.len() < end {
                break;
            }
            (whole, self.packets) = (end, self.packets + 1);
        }
        out.extend_from_slice(&self.pending.split_to(whole));
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut header = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        header.resize(HEADER_BYTES, 1);
        header
    }

    fn packet(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[9; 8][..], &length, &length, bytes].concat()
    }

    #[test]
    fn streams_become_one_file_however_they_are_cut() {
        let one = [header(), packet(b"abc"), packet(b"")].concat();
        let two = [header(), packet(b"defg")].concat();
        let file = [header(), packet(b"abc"), packet(b""), packet(b"defg")].concat();
        for piece in 1..one.len() {
            let mut joined = Joined::default();
            let mut written = Vec::new();
            for (stream, rest) in [(&one, &packet(b"cut off")[..17]), (&two, &[][..])] {
                joined.next_stream();
                for bytes in [stream, rest].concat().chunks(piece) {
                    written.extend_from_slice(&joined.take(bytes));
                }
            }
            assert_eq!((&written, joined.packets), (&file, 3), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_stream_that_ended_before_its_header_leaves_it_to_the_next() {
        let mut joined = Joined::default();
        assert!(joined.take(&header()[..10]).is_empty());
        joined.next_stream();
        assert_eq!(joined.take(&header()), header());
    }
}
