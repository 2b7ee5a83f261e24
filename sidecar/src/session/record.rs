//! What must survive this sidecar of a half: kept in a file that the capsule's shim holds, beside the half's socket.
//!
//! Each half has a slot of fixed size, written in place before any frame is sent that depends on what it says. The
//! bytes that flow are in no slot: how many were consumed and delivered is worked out from the kernel's counters.
//! A write of one slot is one system call within one page, so a sidecar that is killed leaves it old or new.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::Context;
use kernel::tcp::{self, TcpState};
use overlay_proto::{CapsuleId, End, EndKind, Generation, Half, HalfSnapshot, SessionId};
use serde::{Deserialize, Serialize};

use super::{Facts, Program, Remains, Socket};
use crate::limits::{SESSIONS_MAX, SLOT_BYTES};

/// Version of [`Record`] that is written; a sidecar reads this and older ones.
const VERSION: u32 = 3;

/// The counters are read one after the other, again when something moved meanwhile. A program that sends without a
/// pause fills the receive buffer long before this is used up.
const COUNT_TRIES: u32 = 100_000;

/// Version and length.
const HEADER_BYTES: usize = 8;

/// What a slot says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The far side accepted; the program's own connection has not been taken yet.
    Opened(OpenedRecord),
    /// A half.
    Half(Box<HalfRecord>),
    /// A connection from outside that is on its way to a capsule.
    Brought(BroughtRecord),
    /// A program's connection that was accepted before the far program was asked.
    Accepted(AcceptedRecord),
}

/// A connection that a gateway took, and of which no answer is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroughtRecord {
    /// What the shim holds it as.
    pub held: String,
    /// The session that is asked for.
    pub session: SessionId,
    /// The machine's own address.
    pub outside: SocketAddr,
    /// The address under which it is asked for.
    pub source: SocketAddr,
    /// The program's address.
    pub destination: SocketAddr,
    /// The capsule.
    pub to: CapsuleId,
    /// What the capsule's program gets before all that the machine sends. Since version 3.
    pub preamble: Vec<u8>,
}

/// A program's connection that is there, and of which no answer is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRecord {
    /// What the shim holds it as.
    pub held: String,
    /// The session that is asked for.
    pub session: SessionId,
    /// The program's address.
    pub source: SocketAddr,
    /// The address that it dialled.
    pub destination: SocketAddr,
}

/// A connect that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedRecord {
    /// The session.
    pub session: SessionId,
    /// The capsule that accepted.
    pub peer: CapsuleId,
    /// Generations at that time.
    pub generations: (Generation, Generation),
    /// The program's address.
    pub source: SocketAddr,
    /// The address that it dialled.
    pub destination: SocketAddr,
    /// Sequence number of its SYN.
    pub sequence: u32,
}

/// A half whose program has, or had, a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfRecord {
    /// What the shim holds its socket as, or the file of what a gone program left.
    pub held: String,
    /// The capsule on this side.
    pub own: CapsuleId,
    /// The capsule on the other side.
    pub peer: CapsuleId,
    /// The program's address.
    pub local: SocketAddr,
    /// The other program's address.
    pub remote: SocketAddr,
    /// When the session began.
    pub began: SystemTime,
    /// The core; its offsets count only where there is no socket to ask.
    pub half: HalfSnapshot,
    /// What the kernel's counters lack.
    pub base: Base,
    /// A byte that was consumed before the other half had it, and the kernel's count before that.
    pub prefix: Option<(u8, u64)>,
    /// How a gone program's stream ended; there is a file instead of a socket.
    pub gone: Option<EndKind>,
    /// The program's TCP_USER_TIMEOUT while it is put aside, milliseconds; 0: it is not. Since version 2.
    pub user_timeout_ms: u32,
    /// What the other half gets before all that the program sends: what the program sent begins at the offset behind it.
    /// Since version 3.
    pub preamble: Vec<u8>,
}

/// Offsets at which the kernel's counters were zero: a rebuilt socket does not count what was before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Of what the program sent.
    pub received: i64,
    /// Of what the program was given.
    pub written: i64,
}

/// What the kernel counted of a connection.
#[derive(Debug, Clone, Copy)]
struct Counted {
    /// Bytes taken out of the receive queue.
    consumed: u64,
    /// Bytes in the receive queue.
    queued: u64,
    /// Bytes put into the send queue.
    written: u64,
    fin_received: bool,
    fin_sent: bool,
}

/// The slots of one capsule.
#[derive(Debug)]
pub struct Slots {
    file: std::fs::File,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    next: u32,
    returned: Vec<u32>,
}

/// The slots that say something.
pub type Records = Vec<(Slot, Record)>;

/// A place for one half.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u32,
}

impl Slots {
    /// The slots in a shim's file, and those that say something.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(file: OwnedFd) -> anyhow::Result<(Arc<Self>, Records)> {
        let file = std::fs::File::from(file);
        let bytes = file.metadata()?.len();
        let count =
            u32::try_from(bytes.div_ceil(SLOT_BYTES as u64)).context("the table of sessions is too long")?;
        let slots = Arc::new(Self { file, free: Mutex::default() });
        let mut found = Vec::new();
        let mut returned = Vec::new();
        for number in 0..count {
            let slot = Slot { slots: slots.clone(), number };
            match slot.read() {
                Ok(Some(record)) => found.push((slot, record)),
                Ok(None) => returned.push(number),
                Err(error) => {
                    tracing::error!(number, error = format!("{error:#}"), "a session's record can't be read");
                    returned.push(number);
                }
            }
        }
        *slots.free() = Free { next: count, returned };
        Ok((slots, found))
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().expect("no panics under this lock")
    }

    /// A free slot; none when there are as many sessions as there may be.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut free = self.free();
        let number = free.returned.pop().or_else(|| {
            let number = free.next;
            (number < SESSIONS_MAX).then(|| free.next += 1).map(|()| number)
        })?;
        Some(Slot { slots: self.clone(), number })
    }
}

impl Slot {
    fn at(&self) -> u64 {
        u64::from(self.number) * SLOT_BYTES as u64
    }

    fn read(&self) -> anyhow::Result<Option<Record>> {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; SLOT_BYTES];
        let mut have = 0;
        while have < SLOT_BYTES {
            match self.slots.file.read_at(&mut bytes[have..], self.at() + have as u64)? {
                0 => break,
                count => have += count,
            }
        }
        let (version, length, body) =
            (number(&bytes[..4]), number(&bytes[4..8]) as usize, &bytes[HEADER_BYTES..]);
        if length == 0 {
            return Ok(None);
        }
        anyhow::ensure!(version <= VERSION, "it is of version {version}, this sidecar reads up to {VERSION}");
        let mut body = body.get(..length).context("it is longer than its slot")?.to_vec();
        // What later versions added is at the end, and zero: a byte each.
        body.resize(body.len() + VERSION.saturating_sub(version.max(1)) as usize, 0);
        Ok(Some(postcard::from_bytes(&body)?))
    }

    /// Writes what the slot says.
    ///
    /// # Errors
    /// The record does not fit, or the kernel has no memory.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let body = postcard::to_stdvec(record).map_err(io::Error::other)?;
        if body.len() > SLOT_BYTES - HEADER_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the record is longer than its slot"));
        }
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        self.put(&[&VERSION.to_le_bytes()[..], &length.to_le_bytes(), &body].concat())
    }

    /// The slot says nothing any more, and may be used again.
    pub fn clear(self) {
        if let Err(error) = self.put(&[0; HEADER_BYTES]) {
            tracing::error!(%error, "a session's record was not cleared");
            return;
        }
        self.slots.free().returned.push(self.number);
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.slots.file.write_all_at(bytes, self.at())
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Keeps a half's record true.
#[derive(Debug)]
pub struct Keeping {
    slot: Slot,
    record: Box<HalfRecord>,
    written: bool,
}

impl Keeping {
    /// Begins to keep a half whose socket is held as `held`, before anything flows.
    pub fn begin(slot: Slot, held: String, facts: &Facts, half: &Half, program: &Program) -> Self {
        let half = half.snapshot();
        let (base, gone, preamble) = match program {
            Program::Socket(socket) => {
                let preamble = socket.preamble().to_vec();
                (base_of(socket.fd(), &half, preamble.len() as u64).unwrap_or_default(), None, preamble)
            }
            // The file begins with the first byte that the other half does not have.
            Program::Gone(remains) => {
                let base = Base { received: half.consumed.cast_signed(), written: 0 };
                (base, Some(remains.ending), Vec::new())
            }
        };
        let record = HalfRecord {
            held,
            own: facts.own,
            peer: facts.peer,
            local: facts.local,
            remote: facts.remote,
            began: facts.began,
            half,
            base,
            prefix: None,
            gone,
            user_timeout_ms: 0,
            preamble,
        };
        let mut keeping = Self { slot, record: Box::new(record), written: false };
        keeping.write();
        keeping
    }

    /// Goes on keeping a half of which this was found.
    pub fn found(slot: Slot, record: HalfRecord) -> Self {
        Self { slot, record: Box::new(record), written: true }
    }

    /// What the shim holds for the half.
    pub fn held(&self) -> &str {
        &self.record.held
    }

    /// Notes how the half stands, if that must be on record.
    pub fn note(&mut self, half: &Half, program: &Program) {
        let mut now = half.snapshot();
        if matches!(program, Program::Socket(_)) {
            // The kernel counts these.
            (now.consumed, now.reached, now.delivered) =
                (self.record.half.consumed, self.record.half.reached, self.record.half.delivered);
        }
        if now != self.record.half || !self.written {
            self.record.half = now;
            self.write();
        }
    }

    /// Notes a byte that is about to be consumed although the other half does not have it, or that it has it now.
    ///
    /// # Errors
    /// It can't be noted, and must not be consumed.
    pub fn note_prefix(&mut self, byte: Option<u8>, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.record.prefix = match byte {
            Some(byte) => Some((byte, count(socket, &self.record.half)?.consumed)),
            None => None,
        };
        self.slot.write(&Record::Half(self.record.clone()))
    }

    /// The program's TCP_USER_TIMEOUT that is put aside; 0: none.
    pub fn user_timeout_ms(&self) -> u32 {
        self.record.user_timeout_ms
    }

    /// Notes a TCP_USER_TIMEOUT that is about to be put aside, or with 0 that it was given back.
    ///
    /// # Errors
    /// It can't be noted, and must not be put aside.
    pub fn note_user_timeout(&mut self, timeout_ms: u32) -> io::Result<()> {
        self.record.user_timeout_ms = timeout_ms;
        self.slot.write(&Record::Half(self.record.clone()))
    }

    fn write(&mut self) {
        match self.slot.write(&Record::Half(self.record.clone())) {
            Ok(()) => self.written = true,
            Err(error) => {
                tracing::error!(session = %self.record.half.session, %error, "a session is not on record");
                self.written = false;
            }
        }
    }

    /// The session is over.
    pub fn end(self) -> String {
        self.slot.clear();
        self.record.held
    }
}

impl HalfRecord {
    /// What is not in the bytes.
    pub fn facts(&self) -> Facts {
        let Self { own, peer, local, remote, began, .. } = *self;
        Facts { own, peer, local, remote, began, way: None }
    }

    /// The half and its program's side as they stand now, by what the shim holds: a socket, or a file of remains. Must
    /// be called on the data plane's runtime.
    ///
    /// # Errors
    /// What is held contradicts the record.
    pub fn revive(&self, held: OwnedFd) -> anyhow::Result<(Half, Program)> {
        if let Some(ending) = self.gone {
            let bytes = bytes::Bytes::from(bytes_of(&held).context("reading what a program left")?);
            let had = usize::try_from(self.half.consumed.saturating_sub(self.base.received.cast_unsigned()))?;
            let bytes = bytes.slice(had.min(bytes.len())..);
            return Ok((Half::restore(&self.half)?, Program::Gone(Remains::new(bytes, ending))));
        }
        let reset = self.half.outcome.is_some()
            || self.half.incoming_end.is_some_and(|end| end.kind == EndKind::Reset);
        if reset && tcp::info(&held)?.state == TcpState::Closed {
            // We broke it, which cleared the counters; nothing was left to do but to say so.
            let nothing = Remains::new(bytes::Bytes::new(), EndKind::Reset);
            return Ok((Half::restore(&self.half)?, Program::Gone(nothing)));
        }
        let (half, prefix) = self.half_of(held.as_fd())?;
        let mut socket = Socket::new(held, prefix)?;
        if half.consumed < self.preamble.len() as u64 {
            socket = socket.after(self.preamble.clone().into());
        }
        Ok((Half::restore(&half)?, Program::Socket(socket)))
    }

    /// The half as it stands now, by its socket: (the half, the byte before the receive queue).
    ///
    /// # Errors
    /// The socket is no connection, or contradicts the record.
    pub fn half_of(&self, socket: BorrowedFd<'_>) -> anyhow::Result<(HalfSnapshot, Option<u8>)> {
        let counted = count(socket, &self.half).context("reading the kernel's counters")?;
        let prefix = self.prefix.filter(|(_, before)| counted.consumed > *before).map(|(byte, _)| byte);
        let prefix_bytes = u64::from(prefix.is_some());
        let offset = |base: i64, counted: u64| {
            base.checked_add_unsigned(counted).and_then(|offset| u64::try_from(offset).ok())
        };
        let mut half = self.half.clone();
        let queue = offset(self.base.received, counted.consumed)
            .filter(|queue| *queue >= prefix_bytes.max(self.preamble.len() as u64))
            .context("less was consumed than the record says")?;
        // How much of the preamble the other half has, no counter tells: it says so when it attaches.
        let of_preamble = if queue == self.preamble.len() as u64 { queue } else { 0 };
        half.consumed = queue - prefix_bytes - of_preamble;
        half.delivered =
            offset(self.base.written, counted.written).context("less was delivered than the record says")?;
        let end = queue + counted.queued;
        if half.outgoing_end.is_none() && counted.fin_received {
            half.outgoing_end = Some(End { kind: EndKind::Fin, offset: end });
        }
        half.reached = half.outgoing_end.map_or(end, |known| known.offset.min(end));
        if counted.fin_sent
            && let Some(End { kind: EndKind::Fin, offset }) = half.incoming_end
            && offset == half.delivered
        {
            half.incoming_end_applied = Some(EndKind::Fin);
        }
        Ok((half, prefix))
    }
}

/// Where the kernel's counters of a connection begin, which stands as `half` says, and before whose receive queue so many
/// bytes of ours come.
fn base_of(socket: BorrowedFd<'_>, half: &HalfSnapshot, preamble_bytes: u64) -> io::Result<Base> {
    let counted = count(socket, half)?;
    let from = |offset: u64, counted: u64| offset.cast_signed().wrapping_sub(counted.cast_signed());
    Ok(Base {
        received: from(half.consumed + preamble_bytes, counted.consumed),
        written: from(half.delivered, counted.written),
    })
}

/// Reads the counters, without what the kernel counts beside bytes: our own FIN, and the program's. (Our SYN is in
/// the base.)
fn count(socket: BorrowedFd<'_>, known: &HalfSnapshot) -> io::Result<Counted> {
    let (mut info, mut tries) = (tcp::info(socket)?, COUNT_TRIES);
    loop {
        let (queued, unacknowledged) =
            (u64::from(tcp::queued(socket)?), u64::from(tcp::unacknowledged(socket)?));
        let after = tcp::info(socket)?;
        let moved = (info.bytes_received, info.bytes_acked, info.state)
            != (after.bytes_received, after.bytes_acked, after.state);
        if moved && tries > 0 {
            (info, tries) = (after, tries - 1);
            continue;
        }
        // Over without an error: both FINs came, and were acknowledged. After a reset only the record knows of them.
        let over = info.state == TcpState::Closed;
        let clean = over && !has_failed(socket)?;
        let is_fin = |end: Option<EndKind>| end == Some(EndKind::Fin);
        let fin_received =
            info.state.fin_received() || clean || over && is_fin(known.outgoing_end.map(|end| end.kind));
        let fin_sent = info.state.fin_sent() || clean || over && is_fin(known.incoming_end_applied);
        return Ok(Counted {
            consumed: info.bytes_received.saturating_sub(queued + u64::from(fin_received)),
            queued,
            written: (info.bytes_acked + unacknowledged).saturating_sub(u64::from(fin_sent)),
            fin_received,
            fin_sent,
        });
    }
}

/// Whether an error waits to be told, without taking it.
///
/// # Errors
/// The kernel does not say.
pub fn has_failed(socket: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().contains(PollFlags::ERR))
}

/// A file with bytes for the shim to hold.
///
/// # Errors
/// The kernel has no memory.
pub fn file_of(bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Write;
    let file = rustix::fs::memfd_create("remains", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// The bytes of such a file.
///
/// # Errors
/// It can't be read.
pub fn bytes_of(file: impl AsFd) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
