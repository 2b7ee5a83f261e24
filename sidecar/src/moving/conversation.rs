//! What source and target of a move say to each other, on one stream.

use std::path::PathBuf;

use admin_api::result::CheckView;
use anyhow::{Context, bail, ensure};
use overlay_proto::{ClaimKey, HostName, OfferId};
use runtime::files::base::{BaseFile, Difference};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::capsule::file::CapsuleFile;
use crate::capsule::resolver::Travelling;
use crate::limits::MOVE_MESSAGE_BYTES;

/// What the source says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub(super) enum ToTarget {
    /// First: can you take it? With `dry_run` the answer is the end.
    Prepare(Box<Prepare>),
    /// Sessions follow as a blob of so many bytes.
    Sessions {
        /// Length.
        bytes: u64,
    },
    /// A piece of the program's log follows.
    Log {
        /// Which file of it.
        name: String,
        /// Where the piece belongs.
        offset: u64,
        /// Its length.
        bytes: u64,
    },
    /// The files of the image follow, one behind the other.
    Image {
        /// Names and lengths.
        files: Vec<(String, u64)>,
        /// What its programs were asking their resolver; hosts of before this field neither send nor miss it.
        #[serde(default)]
        lookups: Travelling,
    },
    /// Everything is there: restore up to the gate.
    Restore,
    /// The capsule is yours to claim.
    Key {
        /// The claim key.
        key: ClaimKey,
    },
}

impl ToTarget {
    /// The fault point at which the target has heard it.
    pub(super) fn point(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "target-prepare",
            Self::Sessions { .. } => "target-sessions",
            Self::Log { .. } => "target-log",
            Self::Image { .. } => "target-image",
            Self::Restore => "target-restore",
            Self::Key { .. } => "target-key",
        }
    }
}

/// What the target must know to say yes or no.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Prepare {
    pub offer: OfferId,
    pub capsule: CapsuleFile,
    pub dry_run: bool,
    pub needs: Needs,
    pub base: Vec<BaseFile>,
    /// Hosts of the peers, so that links are up when the sessions attach.
    pub peers: Vec<HostName>,
}

/// What the capsule needs of a host.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Needs {
    /// Bytes of private files.
    pub files_bytes: u64,
    /// Inodes of private files.
    pub files_inodes: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The source's CPU features.
    pub cpu: Vec<String>,
    /// The source's machine architecture.
    pub machine: String,
    /// Paths of shared volumes.
    pub shared: Vec<PathBuf>,
}

/// What the target says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub(super) enum ToSource {
    /// It can (or can't: a check that failed).
    Examined {
        /// Everything that was looked at.
        checks: Vec<CheckView>,
        /// Base files to be shipped.
        differences: Vec<Difference>,
    },
    /// Network and shim are ready: send.
    Ready,
    /// The capsule stands at the gate.
    AtGate {
        /// How long it took.
        restore_ms: f64,
    },
    /// The directory gave it.
    Claimed {
        /// How long that took.
        claim_ms: f64,
    },
    /// It runs.
    Running {
        /// Its new generation.
        generation: u64,
        /// From claimed to running.
        thaw_ms: f64,
    },
    /// It could not run after the claim. The target has destroyed its copy and offers the capsule back, under the key
    /// of the claim.
    TakeBack {
        /// What went wrong.
        why: String,
    },
    /// Its sessions attached.
    Attached {
        /// How many.
        sessions: u64,
        /// How many did not within the time given.
        waiting: u64,
        /// From running to the last of them.
        attach_ms: f64,
    },
    /// It failed, and nothing of the capsule is left there.
    Failed {
        /// What a person reads.
        why: String,
    },
}

/// Sends one message.
pub(super) async fn say<T: Serialize>(send: &mut quinn::SendStream, message: &T) -> anyhow::Result<()> {
    let body = serde_json::to_vec(message)?;
    ensure!(body.len() <= MOVE_MESSAGE_BYTES, "a message of {} bytes is too long", body.len());
    send.write_all(&u32::try_from(body.len())?.to_be_bytes()).await?;
    send.write_all(&body).await?;
    Ok(())
}

/// Receives one message.
pub(super) async fn hear<T: DeserializeOwned>(receive: &mut quinn::RecvStream) -> anyhow::Result<T> {
    let mut length = [0; 4];
    receive.read_exact(&mut length).await.context("the other host went away")?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MOVE_MESSAGE_BYTES {
        bail!("a message of {length} bytes is too long");
    }
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await.context("the other host went away")?;
    Ok(serde_json::from_slice(&body)?)
}
