//! Reads the ordinary question, straight from the packet: one name and type of class IN, with or without EDNS. What is
//! not ordinary takes the long way. Pure.

use super::cookies::{self, Shown};

/// The length of a DNS header, bytes.
const HEADER: usize = 12;
/// The smallest answer that everybody takes over UDP, bytes (RFC 1035, section 4.2.1).
pub(super) const PLAIN_UDP_BYTES: u16 = 512;

const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

/// An ordinary question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question<'p> {
    /// The packet's id.
    pub(super) id: [u8; 2],
    /// Whether recursion is desired, in its place in the third byte.
    pub(super) recursion_desired: u8,
    /// Whether checking is disabled, in its place in the fourth byte.
    pub(super) checking_disabled: u8,
    /// The name as it came, uncompressed, with its final zero.
    pub(super) name: &'p [u8],
    /// The type.
    pub(super) kind: u16,
    /// What else the answer's bytes depend on.
    pub(super) form: Form,
    /// The largest answer that the asker takes over UDP, bytes.
    pub(super) limit: u16,
    /// Its DNS cookie.
    pub(super) cookie: Option<Shown<'p>>,
}

/// Three forms of answers to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// Without EDNS.
    Plain = 0,
    /// With EDNS.
    Extended = 1,
    /// With EDNS and signatures.
    Signed = 2,
}

impl<'p> Question<'p> {
    /// Reads it; `None` when it is not ordinary.
    pub(super) fn read(packet: &'p [u8]) -> Option<Self> {
        let header: &[u8; HEADER] = packet.first_chunk()?;
        // A query: no answer, operation 0, not truncated. One question, at most one record behind it.
        let ordinary = header[2] & 0b1111_1010 == 0 && header[4..10] == [0, 1, 0, 0, 0, 0] && header[10] == 0;
        if !ordinary || header[11] > 1 {
            return None;
        }
        let (name, rest) = name(&packet[HEADER..])?;
        let (kind, rest) = number(rest)?;
        let (class, rest) = number(rest)?;
        let (form, limit, cookie) = match header[11] {
            0 if rest.is_empty() => (Form::Plain, PLAIN_UDP_BYTES, None),
            1 => edns(rest)?,
            _ => return None,
        };
        (class == CLASS_IN).then_some(Self {
            id: [header[0], header[1]],
            recursion_desired: header[2] & 1,
            checking_disabled: header[3] & 0x10,
            name,
            kind,
            form,
            limit,
            cookie,
        })
    }

    /// Whether a message answers the same question, whatever the case of its letters.
    pub(super) fn is_asked_in(&self, message: &[u8]) -> bool {
        let end = HEADER + self.name.len();
        // Length bytes are below 64 and so have no case.
        message.get(HEADER..end).is_some_and(|name| name.eq_ignore_ascii_case(self.name))
            && message.get(end..end + 2) == Some(&self.kind.to_be_bytes())
    }

    /// Writes the name into the packet in lower case: so all names of an answer to it can point there.
    pub(super) fn write_in_lower_case(&self, packet: &mut [u8]) {
        packet[HEADER..HEADER + self.name.len()].make_ascii_lowercase();
    }

    /// Makes the answer to somebody else's question the answer to this one: id, flags, and the name as it was written here.
    pub(super) fn make_own(&self, message: &mut [u8]) {
        message[..2].copy_from_slice(&self.id);
        message[2] = message[2] & !1 | self.recursion_desired;
        message[3] = message[3] & !0x10 | self.checking_disabled;
        message[HEADER..HEADER + self.name.len()].copy_from_slice(self.name);
    }
}

/// Where the question of a message ends that has one.
pub(super) fn end_of_question(message: &[u8]) -> Option<usize> {
    let (name, rest) = name(message.get(HEADER..)?)?;
    (message[5] == 1 && rest.len() >= 4).then(|| HEADER + name.len() + 4)
}

/// The type that a message with one question asks for.
pub(super) fn question_type(message: &[u8]) -> Option<u16> {
    let end = end_of_question(message)?;
    Some(u16::from_be_bytes([message[end - 4], message[end - 3]]))
}

/// An uncompressed name, with its final zero.
fn name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => break,
            length @ 1..=63 => at += length + 1,
            _ => return None,
        }
    }
    // RFC 1035, section 2.3.4.
    (at < 255).then(|| bytes.split_at(at + 1))
}

/// An OPT record of version 0 that ends the message. Its options ask for nothing that we have, but for cookies.
fn edns(bytes: &[u8]) -> Option<(Form, u16, Option<Shown<'_>>)> {
    let (root, rest) = bytes.split_first()?;
    let (kind, rest) = number(rest)?;
    let (limit, rest) = number(rest)?;
    let (code_and_version, rest) = number(rest)?;
    let (flags, rest) = number(rest)?;
    let (length, options) = number(rest)?;
    let ordinary =
        *root == 0 && kind == TYPE_OPT && code_and_version == 0 && options.len() == usize::from(length);
    let form = if flags & 0x8000 == 0 { Form::Extended } else { Form::Signed };
    let cookie = if ordinary { cookie(options)? } else { None };
    ordinary.then(|| (form, limit.max(PLAIN_UDP_BYTES), cookie))
}

/// The first cookie among the options; `None` when the options or it can't be read.
fn cookie(mut options: &[u8]) -> Option<Option<Shown<'_>>> {
    while !options.is_empty() {
        let (code, rest) = number(options)?;
        let (length, rest) = number(rest)?;
        let (option, rest) = rest.split_at_checked(length.into())?;
        if code == cookies::OPTION {
            return Shown::read(option).map(Some);
        }
        options = rest;
    }
    Some(None)
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0\x02dB\x08internal\0\0\x01\0\x01";

    #[test]
    fn a_plain_question_is_read() {
        let question = Question::read(PLAIN).unwrap();
        assert_eq!(
            (question.id, question.recursion_desired, question.checking_disabled),
            ([0x12, 0x34], 1, 0x10)
        );
        assert_eq!((question.name, question.kind), (&b"\x02dB\x08internal\0"[..], 1));
        assert_eq!((question.form, question.limit), (Form::Plain, 512));
    }

    #[test]
    fn edns_says_size_and_signatures() {
        let mut packet = PLAIN.to_vec();
        packet[11] = 1;
        packet.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        let question = Question::read(&packet).unwrap();
        assert_eq!((question.form, question.limit), (Form::Signed, 1232));
        assert_eq!(question.cookie, None);
        let mut with_cookie = packet.clone();
        with_cookie.splice(packet.len() - 1.., *b"\x10\0\x03\0\0\0\x0a\0\x0812345678");
        let cookie = Question::read(&with_cookie).unwrap().cookie.unwrap();
        assert_eq!((&cookie.client, cookie.server), (b"12345678", &b""[..]));
        with_cookie.pop();
        assert_eq!(Question::read(&with_cookie), None, "a cookie cut short");
        packet[PLAIN.len() + 6] = 1;
        assert_eq!(Question::read(&packet), None, "version 1");
        assert_eq!(Question::read(&packet[..packet.len() - 1]), None, "cut short");
    }

    #[test]
    fn what_is_not_ordinary_is_left_alone() {
        for (at, byte) in
            [(2, 0x81), (2, 0x28), (2, 0x03), (5, 2), (7, 1), (11, 2), (12, 0xc0), (PLAIN.len() - 1, 3)]
        {
            let mut packet = PLAIN.to_vec();
            packet[at] = byte;
            assert_eq!(Question::read(&packet), None, "{byte:#x} at {at}");
        }
        for length in 0..PLAIN.len() {
            assert_eq!(Question::read(&PLAIN[..length]), None, "{length}");
        }
    }

    #[test]
    fn an_answer_becomes_ones_own() {
        let question = Question::read(PLAIN).unwrap();
        let mut answer = b"\0\0\x84\0\0\x01\0\0\0\0\0\0\x02Db\x08INTERNAL\0\0\x01\0\x01rest".to_vec();
        assert!(question.is_asked_in(&answer));
        question.make_own(&mut answer);
        assert_eq!(answer, b"\x12\x34\x85\x10\0\x01\0\0\0\0\0\0\x02dB\x08internal\0\0\x01\0\x01rest");
        assert!(!Question { kind: 2, ..question }.is_asked_in(&answer));
        assert!(!question.is_asked_in(&answer[..20]));
    }
}
