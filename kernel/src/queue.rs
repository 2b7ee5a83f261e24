//! Packets that wait for a verdict (NFQUEUE).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::netlink::NETFILTER;

use crate::netlink::{ACK, Answer, Refused, Request, Socket, for_each_attribute};
use crate::sockopt;

const SUBSYSTEM: u16 = 3 << 8;
const PACKET_VERDICT: u16 = SUBSYSTEM | 1;
const PACKET_CONFIG: u16 = SUBSYSTEM | 2;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH_MAX: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const FLAG_FAIL_OPEN: u32 = 1;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const PACKET_PAYLOAD: u16 = 10;
const NFGENMSG_BYTES: usize = 4;
const NETLINK_NO_ENOBUFS: i32 = 5;
const SO_RCVBUFFORCE: i32 = 33;

/// The packet vanishes.
pub(crate) const NF_DROP: u32 = 0;
/// The packet goes on.
pub(crate) const NF_ACCEPT: u32 = 1;

/// How much a queue takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Packets that wait at once.
    pub(crate) packets: u32,
    /// Bytes of each that are looked at.
    pub(crate) copy_bytes: u32,
    /// Receive buffer of the netlink socket.
    pub(crate) socket_bytes: usize,
    /// Whether what finds it full goes on, instead of being dropped.
    pub(crate) lets_through: bool,
}

/// One queue of the namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct PacketQueue {
    socket: Socket,
    number: u16,
}

impl PacketQueue {
    /// Opens the queue in the namespace of the calling thread; afterwards any thread may use it.
    pub(crate) fn open(number: u16, capacity: Capacity) -> io::Result<PacketQueue> {
        let mut socket = Socket::open(Some(NETFILTER))?;
        let fd = socket.as_fd();
        sockopt::set(fd, libc::SOL_SOCKET, SO_RCVBUFFORCE, &(capacity.socket_bytes as i32))?;
        // A full buffer drops the packet; who sent it repeats it, or does without. There is nothing else to do about it.
        sockopt::set(fd, libc::SOL_NETLINK, NETLINK_NO_ENOBUFS, &1)?;
        let mut request = Request::default();
        let header = config_header(number);
        request.message("bind the packet queue", PACKET_CONFIG, ACK, &header, |config| {
            config.put(CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0]);
        });
        request.message("size the packet queue", PACKET_CONFIG, ACK, &header, |config| {
            let mut parameters = capacity.copy_bytes.to_be_bytes().to_vec();
            parameters.push(COPY_PACKET);
            config.put(CONFIG_PARAMETERS, &parameters);
            config.be32(CONFIG_LENGTH_MAX, capacity.packets);
            config.be32(CONFIG_MASK, FLAG_FAIL_OPEN);
            config.be32(CONFIG_FLAGS, if capacity.lets_through { FLAG_FAIL_OPEN } else { 0 });
        });
        socket.transact(&request).map_err(|Refused { source, .. }| source)?;
        Ok(PacketQueue { socket, number })
    }

    /// The next packet, from its IP header on, and the id by which it is settled; `None` when there is none.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u32, Box<[u8]>)>> {
        loop {
            let mut found = None;
            let Some(answers) = self.socket.receive()? else { return Ok(None) };
            // The kernel sends each packet in a datagram of its own.
            for answer in answers {
                if let Answer::Data { payload } = answer {
                    found = parse_message(payload).or(found);
                }
            }
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Says what becomes of a packet.
    pub(crate) fn settle(&mut self, id: u32, verdict: u32) -> io::Result<()> {
        let mut request = Request::default();
        request.message(
            "decide about a packet",
            PACKET_VERDICT,
            0,
            &config_header(self.number),
            |attributes| {
                let mut header = verdict.to_be_bytes().to_vec();
                header.extend_from_slice(&id.to_be_bytes());
                attributes.put(VERDICT_HEADER, &header);
            },
        );
        // No acknowledgement is asked for: it would stand among the packets. Errors are passed over by `next`.
        self.socket.send(&request)
    }
}

impl AsFd for PacketQueue {
    /// Readable when [`PacketQueue::next`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Packets that found a queue of the calling thread's namespace full and were dropped, since it was opened.
pub(crate) fn dropped(number: u16) -> io::Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue")?;
    Ok(dropped_in(&table, number))
}

/// A line a queue: its number, its socket's port, packets that wait, mode, bytes copied, packets dropped because it was
/// full, packets dropped because the socket was, and more.
fn dropped_in(table: &str, number: u16) -> u64 {
    let queues = table.lines().map(|line| line.split_whitespace().map(|word| word.parse().unwrap_or(0)));
    let of_it = queues.map(Iterator::collect).find(|line: &Vec<u64>| line.first() == Some(&number.into()));
    of_it.map_or(0, |line| line.iter().skip(5).take(2).sum())
}

/// `struct nfgenmsg` with the queue's number.
fn config_header(queue: u16) -> [u8; NFGENMSG_BYTES] {
    let number = queue.to_be_bytes();
    [0, 0, number[0], number[1]]
}

/// Id and packet of a queue message.
fn parse_message(payload: &[u8]) -> Option<(u32, Box<[u8]>)> {
    let mut id = None;
    let mut packet: &[u8] = &[];
    for_each_attribute(payload.get(NFGENMSG_BYTES..).unwrap_or_default(), |kind, value| match kind {
        PACKET_HEADER => id = value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)),
        PACKET_PAYLOAD => packet = value,
        _ => {}
    });
    Some((id?, packet.into()))
}

#[cfg(test)]
mod tests {
    use super::dropped_in;

    /// As Linux 6.18 writes it.
    #[test]
    fn dropped_packets_of_one_queue() {
        let table = "    0   1713     4 2   128    17     3        21  1\n    1   1714     0 2   576     5     0         0  1\n";
        assert_eq!([0, 1, 2].map(|number| dropped_in(table, number)), [20, 5, 0]);
        assert_eq!(dropped_in("", 0), 0);
    }
}
