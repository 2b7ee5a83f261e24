//! Tells a secondary that the zones changed (NOTIFY, RFC 1996), signed with its secret. If it does not hear, it finds out
//! by itself when its refresh time is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::limits::{NOTIFY_ATTEMPTS, NOTIFY_EVERY, NOTIFY_TIME};
use crate::published::Published;
use crate::zone::Zones;

use super::records::name;
use super::tsig::{Chain, Secret};

/// Tells one secondary of every change, until it is dropped. Changes that follow each other closely are told at once.
pub(super) async fn tell(
    secondary: SocketAddr,
    secret: Secret,
    zones: Arc<Zones>,
    published: Arc<Published>,
) {
    let mut revisions = published.revisions();
    loop {
        for origin in Zones::ORIGINS {
            if let Err(error) = notify(secondary, &secret, zones.name(origin)).await {
                warn!(%secondary, zone = zones.name(origin), %error, "a secondary does not hear of a change");
            }
        }
        sleep(NOTIFY_EVERY).await;
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

async fn notify(secondary: SocketAddr, secret: &Secret, zone: &str) -> std::io::Result<()> {
    let unspecified: SocketAddr =
        if secondary.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(unspecified).await?;
    socket.connect(secondary).await?;
    // The socket is this exchange's own; the id only tells it from stray packets.
    let id = socket.local_addr()?.port();
    let message = message(id, secret, zone).ok_or_else(|| std::io::Error::other("it can't be encoded"))?;
    let mut answer = [0; 512];
    for attempt in 1..=NOTIFY_ATTEMPTS {
        // A refused packet shows up in the next call; it is one that was not heard.
        let sent = socket.send(&message).await;
        debug!(%secondary, zone, attempt, ?sent, "NOTIFY");
        match timeout(NOTIFY_TIME, socket.recv(&mut answer)).await {
            Ok(Ok(length)) if length >= 12 && answer[..2] == id.to_be_bytes() => {
                return match answer[3] & 0xf {
                    0 => Ok(()),
                    code => Err(std::io::Error::other(format!("it answers with code {code}"))),
                };
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(_)) => sleep(NOTIFY_TIME).await,
        }
    }
    Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

fn message(id: u16, secret: &Secret, zone: &str) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Notify);
    message.metadata.authoritative = true;
    message.add_query(Query::query(name(zone)?, RecordType::SOA));
    let mut bytes = Vec::new();
    message.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Chain::new(secret).sign(&mut bytes, SystemTime::now())?;
    Some(bytes)
}
