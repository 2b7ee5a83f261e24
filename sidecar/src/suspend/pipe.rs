//! Between the client's stream of frames and code that reads and writes in one go, on a thread of its own: a few frames
//! wait in between, no more.

use std::io::{self, Read, Write};

use admin_api::limits::FILE_CHUNK_BYTES;
use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

/// Frames between the two sides.
const FRAMES: usize = 4;

/// A pipe from a writing thread to the client.
pub(super) fn to_client() -> (ToClient, mpsc::Receiver<Bytes>) {
    let (sender, receiver) = mpsc::channel(FRAMES);
    (ToClient { sender, chunk: BytesMut::new() }, receiver)
}

/// A pipe from the client to a reading thread. What the client sends ends with [`Piece::End`].
pub(super) fn from_client() -> (mpsc::Sender<Piece>, FromClient) {
    let (sender, receiver) = mpsc::channel(FRAMES);
    (sender, FromClient { receiver, chunk: Bytes::new(), ended: false })
}

/// What comes from the client.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes of the file.
    Bytes(Bytes),
    /// That was all of it.
    End,
}

/// The writing end.
pub(super) struct ToClient {
    sender: mpsc::Sender<Bytes>,
    chunk: BytesMut,
}

impl Write for ToClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(FILE_CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == FILE_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the file any more");
        self.sender.blocking_send(self.chunk.split().freeze()).map_err(gone)
    }
}

/// The reading end.
pub(super) struct FromClient {
    receiver: mpsc::Receiver<Piece>,
    chunk: Bytes,
    ended: bool,
}

impl Read for FromClient {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.chunk = bytes,
                Some(Piece::End) => self.ended = true,
                None => {
                    let why = "the client went away before it sent the whole file";
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, why));
                }
            }
        }
        let taken = out.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut out[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_through_in_bounded_pieces() {
        let (mut writer, mut receiver) = to_client();
        let sent: Vec<u8> = (0..FILE_CHUNK_BYTES * 9 + 5).map(|at| (at * 7) as u8).collect();
        let expected = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.flush().unwrap();
        });
        let (sender, mut reader) = from_client();
        let passing = std::thread::spawn(move || {
            while let Some(bytes) = receiver.blocking_recv() {
                assert!(bytes.len() <= FILE_CHUNK_BYTES);
                sender.blocking_send(Piece::Bytes(bytes)).unwrap();
            }
            sender.blocking_send(Piece::End).unwrap();
        });
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        assert!(found == expected);
        writing.join().unwrap();
        passing.join().unwrap();
    }

    #[test]
    fn a_side_that_goes_away_is_an_error() {
        let (mut writer, receiver) = to_client();
        drop(receiver);
        assert!(writer.write_all(&vec![0; FILE_CHUNK_BYTES]).is_err());
        let (sender, mut reader) = from_client();
        sender.try_send(Piece::Bytes(Bytes::from_static(b"half"))).unwrap();
        drop(sender);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }
}
