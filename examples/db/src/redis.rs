//! As much of a Redis client as counting needs: requests as arrays of strings, answers that are a number or a string.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use crate::load::Database;

/// Longest line or string that is accepted, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    key: String,
}

impl Connection {
    pub(crate) fn open(place: &str, name: &str) -> Result<Connection> {
        let stream = TcpStream::connect(place).with_context(|| format!("connecting to redis at {place}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { reader: BufReader::new(stream), key: format!("db-client:{name}") })
    }

    fn ask(&mut self, words: &[&str]) -> Result<u64> {
        self.reader.get_mut().write_all(request(words).as_bytes())?;
        answer(&mut self.reader)
    }
}

impl Database for Connection {
    fn next(&mut self) -> Result<u64> {
        let key = self.key.clone();
        self.ask(&["INCR", &key])
    }

    fn finish(&mut self, first: u64, last: u64) -> Result<u64> {
        let key = self.key.clone();
        let stored = self.ask(&["GET", &key])?;
        Ok(if stored == last { last - first + 1 } else { stored.saturating_sub(first) + 1 })
    }

    fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        let stream = self.reader.get_ref();
        Ok((stream.local_addr()?, stream.peer_addr()?))
    }
}

fn request(words: &[&str]) -> String {
    let strings = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), strings.collect::<String>())
}

/// An integer, or a string that is one.
fn answer(reader: &mut impl BufRead) -> Result<u64> {
    let line = line(reader)?;
    match (line.get(..1), line.get(1..)) {
        (Some(":"), Some(number)) => number.parse().with_context(|| format!("redis answered {line:?}")),
        (Some("$"), Some(length)) => {
            let length: usize = length.parse().with_context(|| format!("redis answered {line:?}"))?;
            ensure!(length <= ANSWER_BYTES_MAX, "redis answered a string of {length} bytes");
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            text.parse().with_context(|| format!("redis answered {text:?}"))
        }
        (Some("-"), Some(error)) => bail!("redis refused: {error}"),
        _ => bail!("redis answered {line:?}"),
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.by_ref().take(ANSWER_BYTES_MAX as u64).read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None if line.is_empty() => bail!("redis ended the connection"),
        None => bail!("redis broke off within an answer: {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(request(&["INCR", "db-client:a"]), "*2\r\n$4\r\nINCR\r\n$11\r\ndb-client:a\r\n");
    }

    #[test]
    fn answers() {
        let read = |bytes: &str| answer(&mut bytes.as_bytes());
        assert_eq!(read(":42\r\n").expect("a number"), 42);
        assert_eq!(read("$2\r\n17\r\n").expect("a number"), 17);
        for bad in [
            "",
            ":42",
            ":x\r\n",
            "+OK\r\n",
            "-LOADING wait\r\n",
            "$-1\r\n",
            "$9999999\r\n",
            "$5\r\n12",
            "\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read("-LOADING wait\r\n").expect_err("refused").to_string().contains("LOADING wait"));
    }
}
