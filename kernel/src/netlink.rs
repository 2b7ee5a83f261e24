//! Netlink messages: enough to write requests of a few kinds, send them at once, and read what comes back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::limits::NETLINK_READ_BYTES;

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 4;
/// `NLM_F_DUMP`.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// Which request of a batch the kernel refused, and why.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

impl Refused {
    pub(crate) fn of(what: &'static str) -> impl FnOnce(io::Error) -> Refused {
        move |source| Refused { what, source }
    }
}

/// One or several messages that are sent together.
#[derive(Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    names: Vec<&'static str>,
    acknowledged: usize,
}

impl Request {
    /// Appends a message; `header` is the fixed part behind the netlink header.
    pub(crate) fn message(
        &mut self,
        name: &'static str,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        let sequence = self.names.len() as u32;
        self.names.push(name);
        self.acknowledged += usize::from(flags & ACK != 0);
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        body(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn name(&self, sequence: u32) -> &'static str {
        self.names.get(sequence as usize).copied().unwrap_or("netlink request")
    }
}

/// Writes the attributes of a message or of a nest.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER_BYTES + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// A number in network byte order, as netfilter has them.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ATTRIBUTE_HEADER_BYTES]);
        body(&mut Attributes { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }
}

/// A message that the kernel sent.
pub(crate) enum Answer<'a> {
    /// The outcome of the request with this sequence number.
    Outcome { sequence: u32, outcome: io::Result<()> },
    /// The end of a dump.
    Done,
    /// Anything else: its payload, behind the netlink header.
    Data { payload: &'a [u8] },
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        Ok(Socket { fd, buffer: vec![0; NETLINK_READ_BYTES] })
    }

    pub(crate) fn send(&self, request: &Request) -> io::Result<()> {
        let sent = rustix::net::send(&self.fd, &request.bytes, SendFlags::empty())?;
        if sent == request.bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads what has arrived, at most one datagram; `None` when there is nothing.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Answers<'_>>> {
        match rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(Answers { rest: &self.buffer[..length] })),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request and waits for all its outcomes. The kernel works on netlink requests inside `send`, so the
    /// outcomes are there when it returns.
    pub(crate) fn transact(&mut self, request: &Request) -> Result<(), Refused> {
        self.send(request).map_err(Refused::of("send to netlink"))?;
        let mut seen = 0;
        let mut first_error = None;
        while let Some(answers) = self.receive().map_err(Refused::of("read from netlink"))? {
            for answer in answers {
                if let Answer::Outcome { sequence, outcome } = answer {
                    seen += 1;
                    if let Err(source) = outcome {
                        first_error.get_or_insert(Refused { what: request.name(sequence), source });
                    }
                }
            }
        }
        match first_error {
            Some(refused) => Err(refused),
            None if seen < request.acknowledged => {
                Err(Refused { what: "netlink answer", source: io::ErrorKind::UnexpectedEof.into() })
            }
            None => Ok(()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages of one datagram.
pub(crate) struct Answers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Answers<'a> {
    type Item = Answer<'a>;

    fn next(&mut self) -> Option<Answer<'a>> {
        let length = u32_at(self.rest, 0)? as usize;
        let kind = u16_at(self.rest, 4)?;
        let sequence = u32_at(self.rest, 8)?;
        let payload = self.rest.get(HEADER_BYTES..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(match kind {
            KIND_ERROR => {
                let code = u32_at(payload, 0)?.cast_signed();
                let outcome = if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                Answer::Outcome { sequence, outcome }
            }
            KIND_DONE => Answer::Done,
            _ => Answer::Data { payload },
        })
    }
}

/// Calls `each` with kind and value of every attribute in `bytes`.
pub(crate) fn for_each_attribute<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u16, &'a [u8])) {
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let Some(value) = bytes.get(ATTRIBUTE_HEADER_BYTES..usize::from(length)) else { return };
        each(kind & KIND_MASK, value);
        bytes = bytes.get(aligned(usize::from(length))..).unwrap_or_default();
    }
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(aligned(bytes.len()), 0);
}
