//! What gateways publish.

use serde::{Deserialize, Serialize};

use super::CapsuleState;

/// The answer to `publish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishResult {
    /// The port of the gateway's host.
    pub port: u16,
    /// It was published before.
    #[serde(default)]
    pub already: bool,
    /// All about it.
    #[serde(flatten)]
    pub publication: PublicationView,
}

/// The answer to `unpublish`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpublishResult {
    /// What was published until now.
    pub ended: Vec<PublicationView>,
}

/// The answer to `published`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedResult {
    /// By gateway, in the order in which it was published.
    pub published: Vec<PublicationView>,
    /// Gateways that did not answer.
    #[serde(default)]
    pub silent: Vec<String>,
}

/// A port of a capsule that machines outside reach at a port of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationView {
    /// The gateway's host.
    pub gateway: String,
    /// The port of that host.
    #[serde(rename = "gateway_port")]
    pub port: u16,
    /// The capsule.
    pub capsule: String,
    /// Its port.
    pub capsule_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Each connection begins with a header of the PROXY protocol, version 2.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// The host where the capsule is; none when it was removed, or lies in a file.
    #[serde(default)]
    pub capsule_host: Option<String>,
    /// What the capsule does; none when it was removed.
    #[serde(default)]
    pub state: Option<CapsuleState>,
    /// Connections from outside to that port of the capsule, now.
    pub connections: u64,
}
