//! The halves of a capsule on their way: settled, captured, rebuilt.
//!
//! | the program's side of a half | travels as |
//! |---|---|
//! | has the connection open (or half-closed) | the kernel's state of our end, both queues included |
//! | closed it, or was reset | the bytes that the other half does not have, and how they ended |
//! | has not accepted it yet | nothing: it is dialled again, from offset 0 |

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use bytes::Bytes;
use kernel::diag::{Diag, SocketState};
use kernel::repair::{self, TcpSnapshot};
use kernel::tcp::{self, TcpState};
use overlay_proto::{CapsuleId, EndKind, Half, HalfSnapshot, Locators, Role};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::capsule::network::Network;
use crate::limits::SETTLE_TIMEOUT;
use crate::session::{Event, Facts, Keeping, Key, Parked, Program, Remains, Socket, Table, has_failed};

/// Version of [`HalfImage`].
const VERSION: u32 = 1;

/// One half on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HalfImage {
    version: u32,
    half: Vec<u8>,
    own: CapsuleId,
    peer: CapsuleId,
    local: SocketAddr,
    remote: SocketAddr,
    began: SystemTime,
    program: ProgramImage,
}

#[derive(Debug, Serialize, Deserialize)]
enum ProgramImage {
    Open {
        tcp: Box<TcpSnapshot>,
        prefix: Option<u8>,
    },
    Unaccepted,
    Gone {
        bytes: Vec<u8>,
        ending: EndKind,
    },
    /// As `Open`, of a program whose TCP_USER_TIMEOUT is put aside.
    Impatient {
        tcp: Box<TcpSnapshot>,
        prefix: Option<u8>,
        user_timeout_ms: u32,
    },
}

impl ProgramImage {
    fn user_timeout_ms(&self) -> u32 {
        match self {
            Self::Impatient { user_timeout_ms, .. } => *user_timeout_ms,
            Self::Open { .. } | Self::Unaccepted | Self::Gone { .. } => 0,
        }
    }
}

/// What the program's kernel holds of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A process has it.
    Program,
    /// In the accept queue.
    Nobody,
    /// Closed by its process, with bytes perhaps still to be sent.
    Orphan,
    /// The kernel has forgotten it.
    Gone,
}

/// How many connections wait for a program to accept them.
pub(super) fn unaccepted(sockets: &mut Diag, locators: &Locators) -> io::Result<usize> {
    let waits = |local: &SocketAddr, socket: &SocketState| {
        let open = matches!(socket.state, TcpState::Established | TcpState::CloseWait);
        open && socket.inode == 0 && locators.contains(local.ip())
    };
    Ok(sockets.all()?.iter().filter(|(local, _, socket)| waits(local, socket)).count())
}

/// Waits until nothing is on its way between our ends and the programs', and empties orphans into our queues.
/// The program is frozen; what is not settled within [`SETTLE_TIMEOUT`] costs a retransmission later.
pub(super) fn settle(parked: &mut [Parked], sockets: &mut Diag) -> io::Result<()> {
    for half in parked.iter_mut() {
        let owner = owner(half, sockets)?;
        let facts = &half.facts;
        if let (Owner::Orphan, Program::Socket(socket)) = (owner, &mut half.program)
            && socket.prefix().is_none()
        {
            let keeping = &mut half.keeping;
            let taken = tcp::flush_orphan(socket.fd(), |byte| match keeping {
                Some(keeping) => keeping.note_prefix(Some(byte), socket.fd()),
                None => Ok(()),
            })?;
            tracing::debug!(local = %facts.local, remote = %facts.remote, flushed = taken.is_some(), "orphan");
            if let Some(byte) = taken {
                socket.set_prefix(byte);
            }
        }
    }
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while !parked.iter().all(is_settled) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn is_settled(half: &Parked) -> bool {
    let Program::Socket(socket) = &half.program else { return true };
    let fd = socket.fd();
    if socket.prefix().is_some() && tcp::info(fd).is_ok_and(|info| !info.state.fin_received()) {
        return false;
    }
    match (tcp::unacknowledged(fd), tcp::unsent(fd)) {
        (Ok(unacknowledged), Ok(unsent)) => unacknowledged == unsent,
        _ => true,
    }
}

fn owner(half: &Parked, sockets: &mut Diag) -> io::Result<Owner> {
    let found = sockets.find(half.facts.local, half.facts.remote)?;
    Ok(match found {
        None => Owner::Gone,
        Some(socket) if socket.inode != 0 => Owner::Program,
        Some(_) if half.half.role() == Role::Acceptor && !half.half.is_accepted() => Owner::Nobody,
        Some(_) => Owner::Orphan,
    })
}

/// Captures every half; the sockets stay in repair mode until [`undo`] or until they are closed in silence.
pub(super) fn capture(parked: &[Parked], sockets: &mut Diag) -> anyhow::Result<Vec<HalfImage>> {
    parked.iter().map(|half| capture_one(half, sockets)).collect()
}

fn capture_one(half: &Parked, sockets: &mut Diag) -> anyhow::Result<HalfImage> {
    let facts = &half.facts;
    let mut core = half.half.clone();
    let owner = owner(half, sockets)?;
    if owner == Owner::Program {
        core.accepted();
    }
    let program = match &half.program {
        Program::Gone(remains) => {
            ProgramImage::Gone { bytes: remains.bytes.to_vec(), ending: remains.ending }
        }
        Program::Socket(_) if owner == Owner::Nobody => ProgramImage::Unaccepted,
        Program::Socket(socket) => {
            let state = tcp::info(socket.fd())?.state;
            if matches!(owner, Owner::Orphan | Owner::Gone) || state == TcpState::Closed {
                let ending = ending_of(socket.fd(), state, &half.half)?;
                let bytes = remaining(socket).context("reading what a program left behind")?;
                let _ = repair::silence(socket.fd());
                ProgramImage::Gone { bytes, ending }
            } else {
                let tcp = repair::capture(socket.fd()).with_context(|| {
                    format!("capturing the connection {} to {}", facts.local, facts.remote)
                })?;
                let (tcp, prefix) = (Box::new(tcp), socket.prefix());
                match half.keeping.as_ref().map_or(0, Keeping::user_timeout_ms) {
                    0 => ProgramImage::Open { tcp, prefix },
                    user_timeout_ms => ProgramImage::Impatient { tcp, prefix, user_timeout_ms },
                }
            }
        }
    };
    Ok(HalfImage {
        version: VERSION,
        half: core.snapshot().to_bytes(),
        own: facts.own,
        peer: facts.peer,
        local: facts.local,
        remote: facts.remote,
        began: facts.began,
        program,
    })
}

/// How the program's stream ended. A connection that is over may have ended well, by a FIN each way, which only the other
/// half does not know yet.
fn ending_of(socket: BorrowedFd<'_>, state: TcpState, half: &Half) -> io::Result<EndKind> {
    let known = half.snapshot().outgoing_end.map(|end| end.kind);
    let over_well = state == TcpState::Closed && known != Some(EndKind::Reset) && !has_failed(socket)?;
    Ok(if state.fin_received() || over_well { EndKind::Fin } else { EndKind::Reset })
}

/// Everything that the other half does not have, without consuming it.
fn remaining(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut bytes: Vec<u8> = socket.prefix().into_iter().collect();
    bytes.extend(tcp::read_queue(socket.fd())?);
    Ok(bytes)
}

/// Brings captured sockets back to life.
pub(super) fn undo(parked: &[Parked]) {
    for half in parked {
        if let Some(fd) = half.program.fd()
            && let Err(error) = repair::resume(fd)
        {
            tracing::error!(local = %half.facts.local, remote = %half.facts.remote, %error, "a connection was not brought back");
        }
    }
}

/// Makes sure that closing sends nothing: the connections live on elsewhere.
pub(super) fn silence(parked: &[Parked]) {
    for half in parked {
        if let Some(fd) = half.program.fd() {
            let _ = repair::silence(fd);
        }
    }
}

/// A half at the target, before its driver runs.
pub(crate) struct Arrived {
    pub facts: Facts,
    pub half: Half,
    pub program: ArrivedProgram,
    /// The program's TCP_USER_TIMEOUT, put aside; 0: none.
    pub user_timeout_ms: u32,
}

/// The program's side at the target.
pub(crate) enum ArrivedProgram {
    /// Rebuilt, silent until [`activate`].
    Open { fd: OwnedFd, tcp: Box<TcpSnapshot>, prefix: Option<u8> },
    /// To be dialled.
    Unaccepted,
    /// Gone.
    Gone(Remains),
}

/// Rebuilds a half; must be called inside the capsule's network, which is locked.
pub(super) fn rebuild(image: HalfImage, own: CapsuleId) -> anyhow::Result<Arrived> {
    ensure!(image.version <= VERSION, "a session of version {} is newer than this host knows", image.version);
    ensure!(image.own == own, "a session of another capsule");
    let half = Half::restore(&HalfSnapshot::from_bytes(&image.half)?)?;
    let facts = Facts {
        own: image.own,
        peer: image.peer,
        local: image.local,
        remote: image.remote,
        began: image.began,
        way: None,
    };
    let user_timeout_ms = image.program.user_timeout_ms();
    let program = match image.program {
        ProgramImage::Open { tcp, prefix } | ProgramImage::Impatient { tcp, prefix, .. } => {
            let fd = repair::rebuild(&tcp)
                .with_context(|| format!("rebuilding the connection {} to {}", facts.local, facts.remote))?;
            ArrivedProgram::Open { fd, tcp, prefix }
        }
        ProgramImage::Unaccepted => ArrivedProgram::Unaccepted,
        ProgramImage::Gone { bytes, ending } => {
            ArrivedProgram::Gone(Remains::new(Bytes::from(bytes), ending))
        }
    };
    Ok(Arrived { facts, half, program, user_timeout_ms })
}

/// Brings a rebuilt connection to life; the program's end is there and the lock is off. Must be called inside the capsule's
/// network, where a FIN of the program is repeated. A connection that does not come to life would go on with a hole: it is
/// reset instead, behind what the program said before.
pub(super) fn activate(arrived: &mut Arrived) {
    let ArrivedProgram::Open { fd, tcp: snapshot, prefix } = &arrived.program else { return };
    let Err(error) = repair::activate(fd.as_fd(), snapshot) else { return };
    let facts = &arrived.facts;
    tracing::error!(local = %facts.local, remote = %facts.remote, %error, "a connection was not brought to life; it is reset");
    let queued = tcp::read_queue(fd).unwrap_or_else(|_| snapshot.received().to_vec());
    let bytes: Vec<u8> = prefix.iter().copied().chain(queued).collect();
    if let Err(error) = tcp::reset(fd) {
        tracing::error!(local = %facts.local, remote = %facts.remote, %error, "its program does not learn of it");
    }
    arrived.program = ArrivedProgram::Gone(Remains::new(Bytes::from(bytes), EndKind::Reset));
}

/// What the shim holds the socket of an arrived half as.
pub(crate) fn held_as((session, role): Key) -> String {
    match role {
        Role::Opener => format!("{session}-o"),
        Role::Acceptor => format!("{session}-a"),
    }
}

/// Lets an arrived half go on, on record for the next sidecar; dials again what was not accepted. On the data plane's
/// runtime.
pub(crate) async fn settle_in(
    arrived: Arrived,
    mailbox: mpsc::Receiver<Event>,
    network: Arc<Network>,
    table: Table,
) {
    let Arrived { facts, mut half, program, user_timeout_ms } = arrived;
    let key = (half.id(), half.role());
    let program = program_of(program, &facts, &mut half, &network).await;
    let prefix = match &program {
        Program::Socket(socket) => socket.prefix(),
        Program::Gone(_) => None,
    };
    let mut keeping = network.keeping(held_as(key), &facts, &half, &program);
    if let (Some(keeping), Some(byte), Program::Socket(socket)) = (&mut keeping, prefix, &program)
        && let Err(error) = keeping.note_prefix(Some(byte), socket.fd())
    {
        tracing::error!(session = %key.0, %error, "a byte that was taken ahead is not on record");
    }
    if let (Some(keeping), 1..) = (&mut keeping, user_timeout_ms)
        && let Err(error) = keeping.note_user_timeout(user_timeout_ms)
    {
        tracing::error!(session = %key.0, %error, "the program's TCP_USER_TIMEOUT is not on record");
    }
    table.drive(Parked { facts, half, program, keeping, mailbox }, None);
}

/// The program's side as the driver needs it, held by the shim.
async fn program_of(
    arrived: ArrivedProgram,
    facts: &Facts,
    half: &mut Half,
    network: &Arc<Network>,
) -> Program {
    let held = held_as((half.id(), half.role()));
    let keep = async |fd: BorrowedFd<'_>| {
        if let Err(error) = network.keeper().hold(&held, fd).await {
            tracing::error!(session = %half.id(), error = format!("{error:#}"), "the shim does not hold a connection");
        }
    };
    let opened = match arrived {
        ArrivedProgram::Gone(remains) => {
            match crate::session::file_of(&remains.bytes) {
                Ok(file) => keep(file.as_fd()).await,
                Err(error) => {
                    tracing::error!(session = %half.id(), %error, "what a program left is in memory only")
                }
            }
            return Program::Gone(remains);
        }
        ArrivedProgram::Open { fd, prefix, .. } => Socket::new(fd, prefix),
        ArrivedProgram::Unaccepted => {
            let dialled = crate::intercept::deliver::dial_program(network, facts.remote, facts.local).await;
            match dialled {
                Ok(fd) => {
                    keep(fd.as_fd()).await;
                    half.dialled_again();
                    Socket::new(fd, None)
                }
                Err(error) => Err(error),
            }
        }
    };
    match opened {
        Ok(socket) => Program::Socket(socket),
        Err(error) => {
            tracing::warn!(local = %facts.local, remote = %facts.remote, %error, "a connection is lost to its program");
            Program::Gone(Remains::new(Bytes::new(), EndKind::Reset))
        }
    }
}

/// The sessions of a capsule that was arriving when its sidecar ended, known to the table.
#[derive(Default)]
pub(crate) struct Arriving(Vec<(Arrived, mpsc::Receiver<Event>)>);

impl Arriving {
    /// Reads the file that the shim holds, and takes the rebuilt sockets out of `held`. Sessions that went on already
    /// are on record by themselves, and left out.
    pub(crate) fn recognized(
        file: BorrowedFd<'_>,
        own: CapsuleId,
        held: &mut HashMap<String, OwnedFd>,
        table: &Table,
    ) -> anyhow::Result<Self> {
        let images: Vec<HalfImage> = postcard::from_bytes(&crate::session::bytes_of(file)?)?;
        ensure!(images.iter().all(|image| image.own == own), "sessions of another capsule");
        let mut arriving = Vec::new();
        for image in images {
            let snapshot = HalfSnapshot::from_bytes(&image.half)?;
            if table.has(&(snapshot.session, snapshot.role)) {
                continue;
            }
            let arrived = match again(image, held) {
                Ok(arrived) => arrived,
                Err(error) => {
                    tracing::error!(session = %snapshot.session, error = format!("{error:#}"), "a session can't go on");
                    continue;
                }
            };
            let key = (snapshot.session, snapshot.role);
            let Some(mailbox) = table.register(key, &arrived.facts) else { continue };
            arriving.push((arrived, mailbox));
        }
        Ok(Self(arriving))
    }

    /// Which they are.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.0.iter().map(|(arrived, _)| (arrived.half.id(), arrived.half.role()))
    }

    /// Lets them go on; says how many. Nothing flowed through them yet, so that they stand as the source captured
    /// them. On the data plane's runtime.
    pub(crate) async fn go_on(self, network: &Arc<Network>, table: &Table) -> u64 {
        let mut count = 0;
        let silent = |arrived: &Arrived| match &arrived.program {
            ArrivedProgram::Open { fd, .. } => repair::is_silent(fd).unwrap_or(false),
            ArrivedProgram::Unaccepted | ArrivedProgram::Gone(_) => false,
        };
        let mut halves = self.0;
        let halves = network
            .in_netns(move || {
                halves
                    .iter_mut()
                    .filter(|(arrived, _)| silent(arrived))
                    .for_each(|(arrived, _)| activate(arrived));
                halves
            })
            .await;
        for (arrived, mailbox) in halves {
            settle_in(arrived, mailbox, network.clone(), table.clone()).await;
            count += 1;
        }
        network.keeper().release(crate::capsule::keeper::ARRIVING.into());
        count
    }
}

/// As [`rebuild`], by the socket that was rebuilt already.
fn again(image: HalfImage, held: &mut HashMap<String, OwnedFd>) -> anyhow::Result<Arrived> {
    let half = Half::restore(&HalfSnapshot::from_bytes(&image.half)?)?;
    let HalfImage { own, peer, local, remote, began, program, .. } = image;
    let user_timeout_ms = program.user_timeout_ms();
    let program = match program {
        ProgramImage::Open { tcp, prefix } | ProgramImage::Impatient { tcp, prefix, .. } => {
            let fd = held.remove(&held_as((half.id(), half.role()))).context("its connection is not held")?;
            ArrivedProgram::Open { fd, tcp, prefix }
        }
        ProgramImage::Unaccepted => ArrivedProgram::Unaccepted,
        ProgramImage::Gone { bytes, ending } => {
            ArrivedProgram::Gone(Remains::new(Bytes::from(bytes), ending))
        }
    };
    let facts = Facts { own, peer, local, remote, began, way: None };
    Ok(Arrived { facts, half, program, user_timeout_ms })
}

#[cfg(test)]
mod tests;
