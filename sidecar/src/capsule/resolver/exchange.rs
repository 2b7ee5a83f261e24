//! One query to one server, over either protocol.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::DATAGRAM_BYTES;

/// Time after which a datagram counts as lost.
const REPEAT: Duration = Duration::from_secs(1);

/// How a query came, and so how it is passed on: an answer that does not fit into a datagram says so, and who asked asks
/// again by stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// The answer of `server` to `query`, which goes out under an id of this host's own choice: whoever can make a program
    /// ask does not know it, so an answer can't be forged to a query whose id is known.
    pub(super) async fn ask(self, server: SocketAddr, mut query: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let Some(asked_id) = query.first_chunk::<2>().copied() else { bail!("no query") };
        query[..2].copy_from_slice(&crate::random::bytes::<2>());
        let mut answer = match self {
            Self::Udp => ask_udp(server, &query).await?,
            Self::Tcp => ask_tcp(server, &query).await?,
        };
        answer[..2].copy_from_slice(&asked_id);
        Ok(answer)
    }
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    // One repeat, since a datagram may be lost.
    for _ in 0..2 {
        socket.send(query).await?;
        let answered = tokio::time::timeout(REPEAT, async {
            let mut buffer = vec![0; DATAGRAM_BYTES];
            loop {
                let count = socket.recv(&mut buffer).await?;
                if answers(query, &buffer[..count]) {
                    buffer.truncate(count);
                    return std::io::Result::Ok(buffer);
                }
            }
        });
        if let Ok(answer) = answered.await {
            return Ok(answer?);
        }
    }
    bail!("no answer")
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if !answers(query, &answer) {
        bail!("an answer to another question");
    }
    Ok(answer)
}

/// Whether an answer is one to this query. Servers that refuse one may leave the question out.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    if answer.len() < 2 || answer.get(..2) != query.get(..2) {
        return false;
    }
    // What this library can't read the program perhaps can.
    let (Ok(query), Ok(answer)) = (Message::from_vec(query), Message::from_vec(answer)) else { return true };
    answer.queries.is_empty() || answer.queries == query.queries
}

pub(super) async fn read_message(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> anyhow::Result<()> {
    stream.write_u16(u16::try_from(message.len())?).await?;
    stream.write_all(message).await?;
    Ok(())
}
