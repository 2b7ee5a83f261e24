//! The lines that client and server write to each other.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// Longest line that is read, in bytes: more is an error, not memory.
pub(crate) const LINE_BYTES_MAX: u64 = 4096;

/// A line that is no message.
#[derive(Debug, PartialEq, Eq)]
pub struct ProtocolError(String);

impl Display for ProtocolError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} is no line of the chat protocol", self.0)
    }
}

impl std::error::Error for ProtocolError {}

/// What a client writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Its name, first of all.
    Hello(String),
    /// A line with its number among the client's own.
    Say(u64, String),
    /// It wants to leave.
    Bye,
}

/// What the server writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// The number that the next line will have.
    Welcome(u64),
    /// A line of somebody.
    Line {
        /// Its number among all lines.
        number: u64,
        /// Its writer.
        name: String,
        /// Its number among the writer's lines.
        own_number: u64,
        /// What was written.
        text: String,
    },
    /// Every line below this number was sent.
    Goodbye(u64),
}

impl Display for FromClient {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            FromClient::Hello(name) => write!(formatter, "hello {name}"),
            FromClient::Say(number, text) => write!(formatter, "say {number} {text}"),
            FromClient::Bye => write!(formatter, "bye"),
        }
    }
}

impl FromStr for FromClient {
    type Err = ProtocolError;

    fn from_str(line: &str) -> Result<Self, ProtocolError> {
        let wrong = || ProtocolError(line.to_owned());
        match line.split_once(' ').unwrap_or((line, "")) {
            ("hello", name) if is_name(name) => Ok(FromClient::Hello(name.to_owned())),
            ("say", rest) => {
                let (number, text) = rest.split_once(' ').ok_or_else(wrong)?;
                Ok(FromClient::Say(number.parse().map_err(|_| wrong())?, text.to_owned()))
            }
            ("bye", "") => Ok(FromClient::Bye),
            _ => Err(wrong()),
        }
    }
}

impl Display for FromServer {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            FromServer::Welcome(next) => write!(formatter, "welcome {next}"),
            FromServer::Line { number, name, own_number, text } => {
                write!(formatter, "line {number} {name} {own_number} {text}")
            }
            FromServer::Goodbye(next) => write!(formatter, "goodbye {next}"),
        }
    }
}

impl FromStr for FromServer {
    type Err = ProtocolError;

    fn from_str(line: &str) -> Result<Self, ProtocolError> {
        let wrong = || ProtocolError(line.to_owned());
        let number = |word: &str| word.parse::<u64>().map_err(|_| wrong());
        let (verb, rest) = line.split_once(' ').ok_or_else(wrong)?;
        match verb {
            "welcome" => Ok(FromServer::Welcome(number(rest)?)),
            "goodbye" => Ok(FromServer::Goodbye(number(rest)?)),
            "line" => {
                let words: Vec<&str> = rest.splitn(4, ' ').collect();
                let [at, name, own, text] = words[..] else { return Err(wrong()) };
                let (name, text) = (name.to_owned(), text.to_owned());
                Ok(FromServer::Line { number: number(at)?, name, own_number: number(own)?, text })
            }
            _ => Err(wrong()),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        for message in
            [FromClient::Hello("anna".into()), FromClient::Say(3, "a b  c".into()), FromClient::Bye]
        {
            assert_eq!(message.to_string().parse(), Ok(message));
        }
        let line = FromServer::Line { number: 9, name: "b".into(), own_number: 2, text: String::new() };
        for message in [FromServer::Welcome(0), line, FromServer::Goodbye(u64::MAX)] {
            assert_eq!(message.to_string().parse(), Ok(message));
        }
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "hello", "hello a b", "say", "say x y", "say 1", "bye bye"] {
            assert!(line.parse::<FromClient>().is_err(), "{line}");
        }
        for line in ["", "welcome", "welcome -1", "line 1 a 2", "goodbye", "line a b c d"] {
            assert!(line.parse::<FromServer>().is_err(), "{line}");
        }
    }
}
