//! A model of the socket S and the program behind it.

use std::collections::VecDeque;

/// Byte at an offset of what the program of a side writes.
pub fn pattern(side: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (side as u8).wrapping_mul(0x5a)
}

#[derive(Debug)]
pub struct Kernel {
    side: usize,
    receive_max: usize,
    send_max: usize,
    /// From the program, not consumed yet.
    received: VecDeque<u8>,
    /// Offset of its first byte.
    pub consumed: u64,
    pub written: u64,
    pub fin: bool,
    /// The program killed the connection.
    pub reset: bool,
    /// To the program, not read yet.
    sending: VecDeque<u8>,
    /// Bytes taken by this socket.
    pub taken: u64,
    pub read: u64,
    pub accepted: bool,
    pub fin_given: bool,
    pub reset_given: bool,
    pub saw_fin: bool,
}

impl Kernel {
    pub fn new(side: usize, receive_max: usize, send_max: usize, accepted: bool) -> Kernel {
        Kernel {
            side,
            receive_max,
            send_max,
            received: VecDeque::new(),
            consumed: 0,
            written: 0,
            fin: false,
            reset: false,
            sending: VecDeque::new(),
            taken: 0,
            read: 0,
            accepted,
            fin_given: false,
            reset_given: false,
            saw_fin: false,
        }
    }

    fn is_dead(&self) -> bool {
        self.reset || self.reset_given
    }

    pub fn program_writes(&mut self, bytes: u64) {
        if !self.accepted || self.fin || self.is_dead() {
            return;
        }
        for _ in 0..bytes {
            if self.received.len() >= self.receive_max {
                return;
            }
            self.received.push_back(pattern(self.side, self.written));
            self.written += 1;
        }
    }

    pub fn program_reads(&mut self, bytes: u64) {
        if !self.accepted || self.reset {
            return;
        }
        for _ in 0..bytes {
            let Some(byte) = self.sending.pop_front() else { break };
            assert_eq!(
                byte,
                pattern(1 - self.side, self.read),
                "side {} reads offset {}",
                self.side,
                self.read
            );
            self.read += 1;
        }
        if self.sending.is_empty() && self.fin_given {
            self.saw_fin = true;
        }
    }

    pub fn program_ends(&mut self) {
        if self.accepted && !self.is_dead() {
            self.fin = true;
        }
    }

    pub fn program_dies(&mut self) {
        if !self.is_dead() {
            self.reset = true;
            self.sending.clear();
        }
    }

    /// Offset after the last byte that can be read.
    pub fn end(&self) -> u64 {
        self.consumed + self.received.len() as u64
    }

    pub fn peek(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let skip =
            usize::try_from(offset.checked_sub(self.consumed).expect("peeks at what was consumed")).unwrap();
        assert!(skip <= self.received.len(), "side {} peeks beyond its queue", self.side);
        self.received.iter().skip(skip).take(bytes).copied().collect()
    }

    pub fn consume(&mut self, bytes: u64) {
        assert!(bytes as usize <= self.received.len(), "side {} consumes more than there is", self.side);
        self.received.drain(..bytes as usize);
        self.consumed += bytes;
    }

    pub fn discard(&mut self) {
        self.consumed += self.received.len() as u64;
        self.received.clear();
    }

    /// Says how many bytes it took.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        if self.is_dead() {
            return 0;
        }
        assert!(bytes.is_empty() || !self.fin_given, "side {} is sent bytes after FIN", self.side);
        let took = bytes.len().min(self.send_max - self.sending.len());
        self.sending.extend(&bytes[..took]);
        self.taken += took as u64;
        took
    }

    pub fn is_flushed(&self) -> bool {
        self.sending.is_empty()
    }

    pub fn give_fin(&mut self) {
        self.fin_given = true;
    }

    pub fn give_reset(&mut self) {
        self.reset_given = true;
    }

    /// A connection in the accept queue does not survive a move: dialled again.
    pub fn dialled_again(&mut self) -> Kernel {
        assert!(!self.accepted);
        Kernel { reset: self.reset, ..Kernel::new(self.side, self.receive_max, self.send_max, false) }
    }
}
