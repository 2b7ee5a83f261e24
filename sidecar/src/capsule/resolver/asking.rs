//! Asking one server after the other, each with a head start, until one of them can answer.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use hickory_proto::op::ResponseCode;

use super::exchange::Transport;

/// How servers are asked.
pub(super) struct Asking {
    /// How long one may take.
    pub(super) limit: Duration,
    /// How long one has before the next is asked beside it.
    pub(super) head_start: Duration,
    /// By which protocol.
    pub(super) transport: Transport,
}

/// A server, and what it said, if anything.
type Asked = (SocketAddr, Option<Vec<u8>>);

impl Asking {
    /// The first answer, and who gave it. A server that says that it can't answer is passed over for as long as there are
    /// others.
    pub(super) async fn first(&self, servers: &[SocketAddr], query: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let mut unable = None;
        let mut waiting: VecDeque<SocketAddr> = servers.iter().copied().collect();
        let mut asked: Vec<Pin<Box<_>>> = Vec::with_capacity(servers.len());
        loop {
            match waiting.pop_front() {
                Some(server) => asked.push(Box::pin(self.one(server, query))),
                None if asked.is_empty() => return unable,
                None => {}
            }
            let said = match waiting.is_empty() {
                true => Some(any(&mut asked).await),
                false => tokio::time::timeout(self.head_start, any(&mut asked)).await.ok(),
            };
            match said {
                Some((server, Some(answer))) if is_unable(&answer) => unable = Some((server, answer)),
                Some((server, Some(answer))) => return Some((server, answer)),
                Some((_, None)) | None => {}
            }
        }
    }

    async fn one(&self, server: SocketAddr, query: &[u8]) -> Asked {
        match tokio::time::timeout(self.limit, self.transport.ask(server, query.to_vec())).await {
            Ok(Ok(answer)) => return (server, Some(answer)),
            Ok(Err(error)) => tracing::debug!(%server, error = format!("{error:#}"), "no answer by DNS"),
            Err(_) => tracing::debug!(%server, "no answer by DNS in time"),
        }
        (server, None)
    }
}

/// Whoever of those that are asked is done first.
async fn any<F: Future<Output = Asked>>(asked: &mut Vec<Pin<Box<F>>>) -> Asked {
    poll_fn(|context| {
        for place in 0..asked.len() {
            if let Poll::Ready(said) = asked[place].as_mut().poll(context) {
                drop(asked.swap_remove(place));
                return Poll::Ready(said);
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether a server says that it can't answer: a directory that does not reach its store, for instance.
fn is_unable(answer: &[u8]) -> bool {
    // The lower half of the fourth byte (RFC 1035, section 4.1.1).
    answer.get(3).is_some_and(|flags| u16::from(flags & 0x0f) == u16::from(ResponseCode::ServFail))
}
