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

use rustix::net::netlink::NETFILTER;

use crate::diag::Diag;
use crate::inject::{Injector, RST_ACK, Segment};
use crate::limits::{SYN_COPY_BYTES, SYN_HELD_MAX, SYN_SOCKET_BYTES, UNREACHABLE_TRIES_MAX};
use crate::netlink::{ACK, Answer, Refused, Request, Socket, for_each_attribute};
use crate::sockopt;
use crate::tcp::TcpState;

const SUBSYSTEM: u16 = 3 << 8;
const PACKET_VERDICT: u16 = SUBSYSTEM | 1;
const PACKET_CONFIG: u16 = SUBSYSTEM | 2;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH_MAX: u16 = 3;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const PACKET_PAYLOAD: u16 = 10;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFGENMSG_BYTES: usize = 4;
const NETLINK_NO_ENOBUFS: i32 = 5;
const SO_RCVBUFFORCE: i32 = 33;
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

/// The SYN queue of the namespace that it was opened in.
#[derive(Debug)]
pub struct SynQueue {
    socket: Socket,
    number: u16,
    injector: Injector,
    diag: Diag,
}

impl SynQueue {
    /// Opens the queue in the namespace of the calling thread; afterwards any thread may use it.
    ///
    /// # Errors
    /// EBUSY when another process has it open.
    pub fn open(queue: u16) -> io::Result<SynQueue> {
        let mut socket = Socket::open(Some(NETFILTER))?;
        let fd = socket.as_fd();
        sockopt::set(fd, libc::SOL_SOCKET, SO_RCVBUFFORCE, &(SYN_SOCKET_BYTES as i32))?;
        // A full buffer drops the packet; its sender repeats it. There is nothing else to do about it.
        sockopt::set(fd, libc::SOL_NETLINK, NETLINK_NO_ENOBUFS, &1)?;
        let mut request = Request::default();
        let header = config_header(queue);
        request.message("bind the SYN queue", PACKET_CONFIG, ACK, &header, |config| {
            config.put(CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0]);
        });
        request.message("size the SYN queue", PACKET_CONFIG, ACK, &header, |config| {
            let mut parameters = SYN_COPY_BYTES.to_be_bytes().to_vec();
            parameters.push(COPY_PACKET);
            config.put(CONFIG_PARAMETERS, &parameters);
            config.be32(CONFIG_LENGTH_MAX, SYN_HELD_MAX);
        });
        socket.transact(&request).map_err(|Refused { source, .. }| source)?;
        Ok(SynQueue { socket, number: queue, injector: Injector::open(0)?, diag: Diag::open()? })
    }

    /// Takes the next held SYN; `None` when there is none.
    ///
    /// # Errors
    /// Those of the netlink socket.
    #[allow(clippy::should_implement_trait, reason = "errors and pauses are no part of an iterator")]
    pub fn next(&mut self) -> io::Result<Option<HeldSyn>> {
        loop {
            let mut held = None;
            let mut stray = None;
            let Some(answers) = self.socket.receive()? else { return Ok(None) };
            // The kernel sends each packet in a datagram of its own.
            for answer in answers {
                if let Answer::Data { payload } = answer {
                    match parse_message(payload) {
                        Ok(syn) => held = Some(syn),
                        Err(id) => stray = id,
                    }
                }
            }
            if let Some(id) = stray {
                self.settle(id, NF_DROP)?;
            }
            if held.is_some() {
                return Ok(held);
            }
        }
    }

    /// Decides about a SYN. When this returns, the program's `connect` was told, except that a program stopped
    /// inside `connect` may learn of [`Verdict::Unreachable`] a second later, when its SYN comes again.
    ///
    /// # Errors
    /// ENOENT when the SYN is no longer held.
    pub fn decide(&mut self, syn: HeldSyn, verdict: Verdict) -> io::Result<()> {
        let kernel_verdict = if verdict == Verdict::Deliver { NF_ACCEPT } else { NF_DROP };
        self.settle(syn.id, kernel_verdict)?;
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

    fn settle(&mut self, id: u32, verdict: u32) -> io::Result<()> {
        let mut request = Request::default();
        request.message("decide about a SYN", PACKET_VERDICT, 0, &config_header(self.number), |attributes| {
            let mut header = verdict.to_be_bytes().to_vec();
            header.extend_from_slice(&id.to_be_bytes());
            attributes.put(VERDICT_HEADER, &header);
        });
        // No acknowledgement is asked for: it would stand among the packets. Errors are passed over by `next`.
        self.socket.send(&request)
    }
}

impl AsFd for SynQueue {
    /// Readable when [`SynQueue::next`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `struct nfgenmsg` with the queue's number.
fn config_header(queue: u16) -> [u8; NFGENMSG_BYTES] {
    let number = queue.to_be_bytes();
    [0, 0, number[0], number[1]]
}

/// The SYN in a queue message, or else the packet's id, if there is one.
fn parse_message(payload: &[u8]) -> Result<HeldSyn, Option<u32>> {
    let mut id = None;
    let mut packet: &[u8] = &[];
    for_each_attribute(payload.get(NFGENMSG_BYTES..).unwrap_or_default(), |kind, value| match kind {
        PACKET_HEADER => id = value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)),
        PACKET_PAYLOAD => packet = value,
        _ => {}
    });
    let id = id.ok_or(None)?;
    parse_packet(packet, id).ok_or(Some(id))
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
