//! Datagrams over a link: in a QUIC DATAGRAM frame where they fit the path, else each on a stream of its own.
//!
//! A stream repeats what is lost. A datagram of 65,507 bytes is 50 packets of a usual path: in unrepeated fragments one
//! lost packet would take all of it, at one percent of loss two of five.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use overlay_proto::limits::DATAGRAM_MESSAGE_BYTES_MAX;
use overlay_proto::{Datagram, StreamStart};
use tokio::sync::OwnedSemaphorePermit;

use super::{Carrier, Link, Upcalls};
use crate::limits::LARGE_DATAGRAM_TIMEOUT;

/// Why a datagram did not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// The link is gone; the datagram comes back.
    Down,
    /// More is under way than the link takes; it was dropped.
    NoRoom,
}

impl Link {
    /// Sends a datagram, now or not at all.
    ///
    /// # Errors
    /// Why it did not go.
    pub fn send_datagram(self: &Arc<Self>, datagram: Datagram) -> Result<(), (NotSent, Datagram)> {
        if self.is_down() {
            return Err((NotSent::Down, datagram));
        }
        let connection = match &self.carrier {
            Carrier::Local(upcalls) => {
                upcalls.datagram(self, datagram);
                return Ok(());
            }
            Carrier::Quic(connection) => connection,
        };
        let message = datagram.encode();
        if connection.max_datagram_size().is_some_and(|limit| message.len() <= limit) {
            // quinn would drop older ones to make room, and tell nobody.
            if connection.datagram_send_buffer_space() < message.len() {
                return Err((NotSent::NoRoom, datagram));
            }
            return match connection.send_datagram(message) {
                Ok(()) => Ok(()),
                Err(quinn::SendDatagramError::ConnectionLost(_)) => Err((NotSent::Down, datagram)),
                Err(error) => {
                    tracing::debug!(host = %self.host, %error, "a datagram did not go");
                    Err((NotSent::NoRoom, datagram))
                }
            };
        }
        let Ok(permit) = self.large_out.clone().try_acquire_owned() else {
            return Err((NotSent::NoRoom, datagram));
        };
        tokio::spawn(send_large(self.clone(), connection.clone(), message, permit));
        Ok(())
    }

    /// As [`Self::send_datagram`], but waits for room: for who has many at once, and time.
    ///
    /// # Errors
    /// Why it did not go.
    pub async fn send_datagram_waiting(
        self: &Arc<Self>,
        datagram: Datagram,
    ) -> Result<(), (NotSent, Datagram)> {
        let Carrier::Quic(connection) = &self.carrier else { return self.send_datagram(datagram) };
        let message = datagram.encode();
        if connection.max_datagram_size().is_some_and(|limit| message.len() <= limit) {
            return match connection.send_datagram_wait(message).await {
                Ok(()) => Ok(()),
                Err(quinn::SendDatagramError::ConnectionLost(_)) => Err((NotSent::Down, datagram)),
                // The path takes less than it did: on a stream it goes.
                Err(_) => self.send_datagram(datagram),
            };
        }
        let permit = tokio::select! {
            () = self.gone() => None,
            permit = self.large_out.clone().acquire_owned() => permit.ok(),
        };
        let Some(permit) = permit else { return Err((NotSent::Down, datagram)) };
        tokio::spawn(send_large(self.clone(), connection.clone(), message, permit));
        Ok(())
    }
}

/// Sends a datagram on a stream of its own, which is given up when it takes too long.
async fn send_large(
    link: Arc<Link>,
    connection: quinn::Connection,
    message: Bytes,
    permit: OwnedSemaphorePermit,
) {
    let sent = async {
        let mut stream = connection.open_uni().await?;
        let mut head = BytesMut::new();
        StreamStart::Datagram.encode(&mut head);
        stream.write_all_chunks(&mut [head.freeze(), message]).await?;
        stream.finish()?;
        stream.stopped().await?;
        anyhow::Ok(())
    };
    match tokio::time::timeout(LARGE_DATAGRAM_TIMEOUT, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(host = %link.host, %error, "a large datagram was lost"),
        Err(_) => tracing::debug!(host = %link.host, "a large datagram was given up"),
    }
    drop(permit);
}

/// Reads DATAGRAM frames until the link goes down. One that can't be read is dropped, as the network might have.
pub(super) async fn read_datagrams(
    link: &Arc<Link>,
    connection: &quinn::Connection,
    upcalls: &dyn Upcalls,
) -> anyhow::Result<()> {
    loop {
        take(link, connection.read_datagram().await?, upcalls);
    }
}

/// Reads a datagram from the rest of its stream, of which `head` has come already. Of more than the link takes at once
/// the stream is stopped.
pub(super) async fn read_large(
    link: &Arc<Link>,
    mut stream: quinn::RecvStream,
    head: BytesMut,
    upcalls: &dyn Upcalls,
) {
    let Ok(_permit) = link.large_in.try_acquire() else {
        tracing::debug!(host = %link.host, "too many large datagrams at once");
        return;
    };
    let mut message = head;
    let read = async {
        while let Some(chunk) = stream.read_chunk(DATAGRAM_MESSAGE_BYTES_MAX, true).await? {
            anyhow::ensure!(
                message.len() + chunk.bytes.len() <= DATAGRAM_MESSAGE_BYTES_MAX,
                "it is too long"
            );
            message.extend_from_slice(&chunk.bytes);
        }
        anyhow::Ok(message.freeze())
    };
    match tokio::time::timeout(LARGE_DATAGRAM_TIMEOUT, read).await {
        Ok(Ok(message)) => take(link, message, upcalls),
        Ok(Err(error)) => tracing::debug!(host = %link.host, %error, "a large datagram was lost"),
        Err(_) => tracing::debug!(host = %link.host, "a large datagram did not come in time"),
    }
}

fn take(link: &Arc<Link>, message: Bytes, upcalls: &dyn Upcalls) {
    match Datagram::decode(message) {
        Ok(datagram) => upcalls.datagram(link, datagram),
        Err(error) => tracing::debug!(host = %link.host, %error, "no datagram"),
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::DatagramBody;

    use super::*;
    use crate::limits::LARGE_DATAGRAMS;
    use crate::testing::{Ca, Node, Told, host};

    fn datagram(number: u16, length: usize) -> Datagram {
        Datagram {
            source: ([10, 88, 0, 1], number).into(),
            destination: ([10, 88, 0, 2], 53).into(),
            traffic_class: 2,
            returned: None,
            returns: 0,
            tag: [7; 16],
            body: DatagramBody::Udp((0..length).map(|at| at as u8).collect::<Vec<_>>().into()),
        }
    }

    async fn next(node: &mut Node) -> Datagram {
        loop {
            match node.next().await {
                Told::Datagram(datagram) => return datagram,
                Told::Up(_) => {}
                other => panic!("{other:?} instead of a datagram"),
            }
        }
    }

    #[tokio::test]
    async fn small_and_large_ones_arrive_as_they_were() {
        let ca = Ca::new();
        let (a, mut b) = (ca.node("a"), ca.node("b"));
        let link = a.links.to(&host("b"), b.address).await.unwrap();
        for (number, length) in [0, 1, 1200, 1400, 1500, 9000, 65_507].into_iter().enumerate() {
            let sent = datagram(number as u16, length);
            link.send_datagram(sent.clone()).unwrap();
            assert_eq!(next(&mut b).await, sent, "{length} bytes");
        }
        link.close("the test ends");
        assert_eq!(
            link.send_datagram(datagram(1, 1)),
            Err((NotSent::Down, datagram(1, 1))),
            "a link that is gone took it"
        );
    }

    #[tokio::test]
    async fn on_one_host_they_take_the_local_link() {
        let mut a = Ca::new().node("a");
        for length in [0, 65_507] {
            a.links.local().send_datagram(datagram(1, length)).unwrap();
            assert_eq!(next(&mut a).await, datagram(1, length));
        }
    }

    #[tokio::test]
    async fn no_more_large_ones_are_under_way_than_there_is_room_for() {
        let ca = Ca::new();
        let (a, mut b) = (ca.node("a"), ca.node("b"));
        let link = a.links.to(&host("b"), b.address).await.unwrap();
        // Nothing is sent before this task waits.
        let taken: Vec<_> = (0..LARGE_DATAGRAMS as u16 + 5)
            .map(|number| link.send_datagram(datagram(number, 60_000)))
            .collect();
        let refused = taken.iter().filter(|sent| matches!(sent, Err((NotSent::NoRoom, _)))).count();
        assert_eq!(refused, 5);
        for _ in 0..LARGE_DATAGRAMS {
            assert_eq!(next(&mut b).await.body.bytes().len(), 60_000);
        }
        // Whoever waits for room loses none.
        let many = 3 * LARGE_DATAGRAMS as u16;
        for number in 0..many {
            let sent = link.send_datagram_waiting(datagram(number, 60_000));
            tokio::time::timeout(crate::testing::SOON, sent).await.expect("room").unwrap();
        }
        for _ in 0..many {
            assert_eq!(next(&mut b).await.body.bytes().len(), 60_000);
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_room_loses_no_small_one() {
        const MANY: u16 = 10_000;
        let ca = Ca::new();
        let (a, mut b) = (ca.node("a"), ca.node("b"));
        let link = a.links.to(&host("b"), b.address).await.unwrap();
        let sender = link.clone();
        // Many times what quinn keeps of them.
        let sending = tokio::spawn(async move {
            for number in 0..MANY {
                sender.send_datagram_waiting(datagram(number, 1000)).await.unwrap();
            }
        });
        for number in 0..MANY {
            assert_eq!(next(&mut b).await.source.port(), number);
        }
        sending.await.unwrap();
        link.close("the test ends");
        let late = link.send_datagram_waiting(datagram(1, 1)).await;
        assert_eq!(late, Err((NotSent::Down, datagram(1, 1))), "a link that is gone took it");
    }
}
