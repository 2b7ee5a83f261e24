//! Whether the sidecar at the other end of a link still is the one that the link was made with.
//!
//! A sidecar that was killed says nothing, and its successor knows nothing of the link: what is sent on it is lost when
//! the successor's stateless reset comes (RFC 9000, section 10.3). Sessions attach again, but a request is not repeated,
//! since nobody knows whether it was carried out. So a link is asked first, and a request goes where it is answered.

use std::sync::atomic::{AtomicU64, Ordering};

use overlay_proto::Frame;
use tokio::sync::watch;

use super::Link;
use crate::limits::DIAL_TIMEOUT;

/// Questions and answers of one link, which keeps their order: the nth answer is to the nth question.
#[derive(Debug, Default)]
pub(super) struct Pings {
    asked: AtomicU64,
    answered: watch::Sender<u64>,
}

impl Link {
    /// Asks the other end for a sign of life; false if none comes in the time that a new link would take at most.
    pub async fn answers(&self) -> bool {
        if self.is_local() {
            return true;
        }
        let mut answered = self.pings.answered.subscribe();
        let number = self.pings.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.transmit(Frame::Ping);
        tokio::select! {
            heard = answered.wait_for(|count| *count >= number) => heard.is_ok(),
            () = self.gone() => false,
            () = tokio::time::sleep(DIAL_TIMEOUT) => false,
        }
    }

    /// The other end gave a sign of life.
    pub(super) fn ponged(&self) {
        self.pings.answered.send_modify(|count| *count += 1);
    }
}
