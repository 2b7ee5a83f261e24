//! What a half asks of its shell, and what it shows.

use serde::{Deserialize, Serialize};

use super::key::{AttachKey, EndKind};
use crate::frame::Frame;

/// Something for the shell to do, in the order polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send the frame to the host of the other half.
    Transmit(Frame),
    /// Open a data stream with this key, and send what S has from this offset on (peek offset: `offset − consumed`).
    StartSending {
        /// For the stream header.
        key: AttachKey,
        /// First byte to send.
        offset: u64,
    },
    /// Abandon the data stream to the other half.
    StopSending,
    /// Take bytes from the data stream with this key; it starts at this offset.
    StartReceiving {
        /// Of the stream header.
        key: AttachKey,
        /// First byte that comes.
        offset: u64,
    },
    /// Abandon the data stream from the other half, with all bytes of it that S has not taken.
    StopReceiving,
    /// Remove so many bytes from the front of S's receive queue.
    Consume {
        /// How many.
        bytes: u64,
    },
    /// From here on throw away whatever the program sends, at once. Start the clock of
    /// [`crate::limits::RESET_STALL_MS`] and call [`crate::Half::stalled`] when S took nothing for so long.
    DiscardOutgoing,
    /// All bytes before it were delivered: shut S down for writing, or reset it (once its send queue is empty or
    /// made no progress for a second). Then call [`crate::Half::end_applied`].
    ApplyEnd(EndKind),
    /// The other half is quiet and nothing that it sends changes this one until [`crate::Half::release`].
    HoldAgreed,
    /// The session is over. S may close when its send queue is acknowledged. Leave a tombstone.
    Ended(Outcome),
    /// What this half knows is older than what the other knows: ask, and call [`crate::Half::generations`] with the
    /// answer, also when it brings nothing new.
    AskDirectory,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// FIN both ways, everything delivered.
    Closed,
    /// RST by the program on this side, passed on.
    ResetByProgram,
    /// RST by the program on the other side, passed on.
    ResetByPeer,
    /// The other capsule was removed.
    PeerGone,
    /// The other half's host lost the session.
    PeerUnknown,
    /// The halves contradict each other; bytes would have been lost or repeated.
    Broken(Violation),
}

/// How the halves contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// The other half asks for bytes that were forgotten.
    BelowConsumed,
    /// The other half has bytes that were never sent.
    BeyondSent,
    /// The other half forgot bytes that did not arrive here.
    PeerConsumedUndelivered,
    /// The other half lets more be forgotten than it has.
    AcknowledgedUndelivered,
    /// The other half sent bytes beyond its end.
    EndBelowDelivered,
}

/// What a session is doing, in the words of the status views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attached: data flows.
    Open,
    /// One of the sides is away, as agreed.
    Held,
    /// No attach: the link or the other host can't be reached.
    Detached,
    /// Both directions have ended, or a RST is on its way.
    Closing,
    /// Over.
    Ended,
}

/// What to do with a data stream, judged by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamVerdict {
    /// It is the one that `StartReceiving` named.
    Use,
    /// Its attach is not agreed here yet: keep it unread and judge it again after the next `StartReceiving`. Only
    /// the stream with the newest key is worth keeping.
    Keep,
    /// It belongs to an older attach, or to nothing.
    Drop,
}
