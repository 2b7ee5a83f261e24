//! Connection attempts to foreign addresses, held until somebody decides (NFQUEUE).
//!
//! A program's `connect` sees what was decided and when: success when the SYN is let through to the TPROXY listener,
//! ECONNREFUSED or EHOSTUNREACH by a hand-made RST or ICMP error otherwise. While nobody decides it waits. A SYN that
//! was dropped is repeated by its kernel every second, as is what comes while no queue is open; kernels that repeat
//! one that is still held are seen as well, and each repeat is held anew.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::diag::Diag;
use crate::inject::{Injector, RST_ACK, Segment};
use crate::limits::{SYN_COPY_BYTES, SYN_SOCKET_BYTES, UNREACHABLE_TRIES_MAX};
use crate::queue::{self, Capacity, NF_ACCEPT, NF_DROP, PacketQueue};
use crate::tcp::TcpState;

const UNREACHABLE_PAUSE: Duration = Duration::from_micros(100);

/// A connection attempt that waits for [`SynQueue::decide`].
#[derive(Debug)]
#[must_use = "an undecided SYN keeps its place in the queue until the queue is closed"]
pub struct HeldSyn {
    /// The program's address.
    pub source: SocketAddr,
    /// Where it wants to connect to.
    pub destination: SocketAddr,
    /// Sequence number of the SYN: repeats have the same, another attempt has another.
    pub sequence: u32,
    id: u32,
    /// The packet's head, for an ICMP error to quote.
    packet: Box<[u8]>,
}

/// What becomes of a held SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the TPROXY listener: `connect` succeeds.
    Deliver,
    /// `connect` fails with ECONNREFUSED.
    Refuse,
    /// `connect` fails with EHOSTUNREACH.
    Unreachable,
    /// It vanishes; its kernel sends it again within a second.
    Drop,
}

/// What becomes of a SYN that finds as many held as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It vanishes; its kernel sends it again within a second.
    Drop,
    /// It goes to the TPROXY listener, which nobody was asked about.
    Deliver,
}

/// The SYN queue of the namespace that it was opened in.
#[derive(Debug)]
pub struct SynQueue {
    queue: PacketQueue,
    injector: Injector,
    diag: Diag,
}

impl SynQueue {
    /// Opens the queue, which holds up to `held_max` SYNs, in the namespace of the calling thread; afterwards any thread
    /// may use it.
    ///
    /// # Errors
    /// EBUSY when another process has it open.
    pub fn open(queue: u16, held_max: u32, when_full: WhenFull) -> io::Result<SynQueue> {
        let capacity = Capacity {
            packets: held_max,
            copy_bytes: SYN_COPY_BYTES,
            socket_bytes: SYN_SOCKET_BYTES,
            lets_through: when_full == WhenFull::Deliver,
        };
        let queue = PacketQueue::open(queue, capacity)?;
        Ok(SynQueue { queue, injector: Injector::open(0)?, diag: Diag::open()? })
    }

    /// Takes the next held SYN; `None` when there is none.
    ///
    /// # Errors
    /// Those of the netlink socket.
    #[allow(clippy::should_implement_trait, reason = "errors and pauses are no part of an iterator")]
    pub fn next(&mut self) -> io::Result<Option<HeldSyn>> {
        while let Some((id, packet)) = self.queue.next()? {
            match parse_packet(&packet, id) {
                Some(held) => return Ok(Some(held)),
                None => self.queue.settle(id, NF_DROP)?,
            }
        }
        Ok(None)
    }

    /// Decides about a SYN. When this returns, the program's `connect` was told, except that a program stopped
    /// inside `connect` may learn of [`Verdict::Unreachable`] a second later, when its SYN comes again.
    ///
    /// # Errors
    /// ENOENT when the SYN is no longer held.
    pub fn decide(&mut self, syn: HeldSyn, verdict: Verdict) -> io::Result<()> {
        let kernel_verdict = if verdict == Verdict::Deliver { NF_ACCEPT } else { NF_DROP };
        self.queue.settle(syn.id, kernel_verdict)?;
        match verdict {
            Verdict::Deliver | Verdict::Drop => Ok(()),
            Verdict::Refuse => self.injector.send_segment(&Segment {
                source: syn.destination,
                destination: syn.source,
                sequence: 0,
                acknowledgment: syn.sequence.wrapping_add(1),
                flags: RST_ACK,
                window: 0,
            }),
            Verdict::Unreachable => self.tell_unreachable(&syn),
        }
    }

    /// TCP forgets an ICMP error that arrives while a call holds the socket's lock, which `connect` does until
    /// shortly after the SYN is out. So it is told until it is seen to have heard.
    fn tell_unreachable(&mut self, syn: &HeldSyn) -> io::Result<()> {
        for attempt in 0..UNREACHABLE_TRIES_MAX {
            if attempt > 0 {
                std::thread::sleep(UNREACHABLE_PAUSE);
            }
            self.injector.send_unreachable(syn.destination.ip(), syn.source.ip(), &syn.packet)?;
            let state = self.diag.find(syn.source, syn.destination)?.map(|socket| socket.state);
            if state != Some(TcpState::SynSent) {
                break;
            }
        }
        Ok(())
    }
}

/// SYNs that found the queue of the calling thread's namespace full and were dropped, since it was opened.
///
/// # Errors
/// The kernel does not show its queues.
pub fn dropped(queue: u16) -> io::Result<u64> {
    queue::dropped(queue)
}

impl AsFd for SynQueue {
    /// Readable when [`SynQueue::next`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

fn parse_packet(packet: &[u8], id: u32) -> Option<HeldSyn> {
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
            let header_bytes = usize::from(packet[0] & 15) * 4;
            (address(12)?.into(), address(16)?.into(), packet.get(header_bytes..)?)
        }
        6 if i32::from(*packet.get(6)?) == libc::IPPROTO_TCP => {
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
            (address(8)?.into(), address(24)?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
    Some(HeldSyn {
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
        sequence,
        id,
        packet: packet.into(),
    })
}
