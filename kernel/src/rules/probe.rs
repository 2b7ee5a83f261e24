//! What this machine lacks, found out by trying.

use std::fmt;

use super::{Interception, RulesError};
use crate::limits::{INTERCEPT_TCP_PORT, INTERCEPT_UDP_PORT, SYN_HELD_MAX};
use crate::netns::{Netns, Worker};
use crate::syn::{SynQueue, WhenFull};
use crate::{diag, repair, tcp, udp};

/// Something that capsules use and this machine does not have, with the kernel's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Network namespaces (CONFIG_NET_NS, CAP_SYS_ADMIN).
    NetworkNamespace(String),
    /// Addresses, routes, sysctls or the nft table.
    Interception(String),
    /// The SYN queue (CONFIG_NETFILTER_NETLINK_QUEUE): capsules do without, and their connects are accepted first.
    SynQueue(String),
    /// Transparent sockets of IPv4 or IPv6.
    TransparentSocket(String),
    /// TCP_REPAIR (CONFIG_CHECKPOINT_RESTORE, CAP_NET_ADMIN).
    TcpRepair(String),
    /// SO_PEEK_OFF on TCP sockets (Linux 6.9).
    PeekOffset(String),
    /// Socket diagnosis (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG).
    SocketDiagnosis(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NetworkNamespace(why) => {
                write!(formatter, "no network namespaces (CONFIG_NET_NS, root): {why}")
            }
            Missing::Interception(why) => write!(formatter, "connections can't be intercepted: {why}"),
            Missing::SynQueue(why) => {
                write!(
                    formatter,
                    "connects can't be held (CONFIG_NFT_QUEUE or xt_NFQUEUE, CONFIG_NETFILTER_NETLINK_QUEUE): {why}"
                )
            }
            Missing::TransparentSocket(why) => write!(formatter, "no transparent sockets: {why}"),
            Missing::TcpRepair(why) => {
                write!(
                    formatter,
                    "connections can't be captured (TCP_REPAIR, CONFIG_CHECKPOINT_RESTORE): {why}"
                )
            }
            Missing::PeekOffset(why) => {
                write!(formatter, "no SO_PEEK_OFF on TCP (Linux 6.9 or later): {why}")
            }
            Missing::SocketDiagnosis(why) => {
                write!(formatter, "no socket diagnosis (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG): {why}")
            }
        }
    }
}

impl Missing {
    /// Whether no capsule runs without it.
    #[must_use]
    pub fn is_vital(&self) -> bool {
        !matches!(self, Missing::SynQueue(_))
    }
}

/// Tries everything in a namespace that is thrown away, and returns what did not work.
#[must_use]
pub fn probe() -> Vec<Missing> {
    match Netns::create().and_then(|netns| Worker::start(&netns)) {
        Ok(worker) => worker.run(probe_inside),
        Err(error) => vec![Missing::NetworkNamespace(error.to_string())],
    }
}

fn probe_inside() -> Vec<Missing> {
    let interception = Interception {
        v4: [192, 0, 2, 1].into(),
        v6: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        tcp_port: INTERCEPT_TCP_PORT,
        udp_port: INTERCEPT_UDP_PORT,
        hold: true,
        queue: 0,
        icmp_queue: 1,
    };
    let mut missing = Vec::new();
    if let Err(error) = set_up_and_lock(&interception) {
        missing.push(Missing::Interception(error.to_string()));
    }
    if let Some(why) = why_nothing_is_held(&interception) {
        missing.push(Missing::SynQueue(why));
    }
    for v6 in [false, true] {
        if let Err(error) = udp::listen(v6, interception.udp_port) {
            missing.push(Missing::TransparentSocket(error.to_string()));
        }
        match tcp::listen(v6, interception.tcp_port) {
            Err(error) => missing.push(Missing::TransparentSocket(error.to_string())),
            Ok(_) if v6 => {}
            Ok(_) => probe_socket(interception.v4.into(), &mut missing),
        }
    }
    let looked = diag::Diag::open().and_then(|mut diag| {
        diag.all()?;
        diag.datagrams_unread()
    });
    if let Err(error) = looked {
        missing.push(Missing::SocketDiagnosis(error.to_string()));
    }
    missing
}

fn why_nothing_is_held(interception: &Interception) -> Option<String> {
    match super::holds() {
        Ok(true) => SynQueue::open(interception.queue, SYN_HELD_MAX, WhenFull::Drop)
            .err()
            .map(|error| error.to_string()),
        Ok(false) => Some("the kernel knows no rule that hands packets to a queue".into()),
        Err(error) => Some(error.to_string()),
    }
}

fn set_up_and_lock(interception: &Interception) -> Result<(), RulesError> {
    super::set_up(interception)?;
    super::lock()?;
    super::unlock()
}

fn probe_socket(local: std::net::IpAddr, missing: &mut Vec<Missing>) {
    let Ok(socket) = tcp::transparent_socket(local) else { return };
    if let Err(error) = tcp::set_peek_offset(&socket, 0) {
        missing.push(Missing::PeekOffset(error.to_string()));
    }
    if let Err(error) = repair::silence(&socket) {
        missing.push(Missing::TcpRepair(error.to_string()));
    }
}
