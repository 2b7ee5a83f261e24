//! Dialling: one dial at a time for each host and address, whose outcome all share who wait for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::bail;
use bytes::BytesMut;
use directory_api::identity;
use overlay_proto::HostName;
use tokio::sync::watch;

use super::table::{DIALLED_TWICE, Greeted, check_hello, drawn};
use super::tie::Dial;
use super::{Link, Links, control};
use crate::limits::{DIAL_RACE_LOOK, DIAL_TIMEOUT};

/// Why a host can't be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("host {host} at {address} can't be reached: {why}")]
pub struct LinkError {
    /// The host.
    pub host: HostName,
    /// The address tried.
    pub address: SocketAddr,
    /// What happened.
    pub why: String,
}

/// What came of a dial, once it is known.
type Outcome = Option<Result<Arc<Link>, LinkError>>;

/// What there was when a dial was decided upon, which may be a while before it begins.
struct Before {
    /// The newest link to the host.
    known: u64,
    /// The link that is up and silent, in whose place another one is dialled.
    dead: Option<Arc<Link>>,
}

impl Before {
    fn dead_id(&self) -> u64 {
        self.dead.as_ref().map_or(0, |dead| dead.dial.id)
    }
}

/// The dials under way.
#[derive(Default)]
pub(super) struct Dialling(Mutex<HashMap<(HostName, SocketAddr), watch::Receiver<Outcome>>>);

impl Links {
    /// The link to `host`, dialled at `address` if it is not up.
    ///
    /// # Errors
    /// The host did not answer in time, or is not who it should be.
    pub async fn to(&self, host: &HostName, address: SocketAddr) -> Result<Arc<Link>, LinkError> {
        let mut again = true;
        loop {
            let (under_way, fresh) = {
                let mut dialling = self.0.dialling.0.lock().expect("no panics under this lock");
                // Before the look: what comes up after it was not known. (A dial that knew of a link has found it dead.)
                let known = self.newest(host);
                // Under the lock: a dial that has just ended left its link before it left the list.
                if let Some(link) = self.existing(host) {
                    return Ok(link);
                }
                self.dial_shared(&mut dialling, host, address, Before { known, dead: None })
            };
            match self.outcome(under_way, host, address).await {
                // It was begun earlier, perhaps before the host was there, and what QUIC repeats comes ever later.
                Err(_) if !fresh && again => again = false,
                outcome => return outcome,
            }
        }
    }

    /// A new link in place of one that has become silent, or that one if it is heard again meanwhile.
    ///
    /// # Errors
    /// As [`Self::to`].
    pub async fn anew(&self, dead: &Arc<Link>, address: SocketAddr) -> Result<Arc<Link>, LinkError> {
        let heard_before = dead.datagrams();
        let host = &dead.host;
        let (under_way, _) = {
            let mut dialling = self.0.dialling.0.lock().expect("no panics under this lock");
            if let Some(link) = self.other_than(host, dead.dial.id) {
                return Ok(link);
            }
            self.dial_shared(
                &mut dialling,
                host,
                address,
                Before { known: dead.dial.id, dead: Some(dead.clone()) },
            )
        };
        let link = self.outcome(under_way, host, address).await?;
        // A dial that was under way already had not found it dead.
        if link.serial == dead.serial && dead.datagrams() == heard_before {
            let why = "no other link came up in place of the silent one".to_owned();
            return Err(LinkError { host: host.clone(), address, why });
        }
        Ok(link)
    }

    /// The link to `host`, if one is up that is not this one.
    fn other_than(&self, host: &HostName, dial: u64) -> Option<Arc<Link>> {
        self.existing(host).filter(|link| link.dial.id != dial)
    }

    /// The dial under way, or a fresh one; says whether it is fresh.
    fn dial_shared(
        &self,
        dialling: &mut HashMap<(HostName, SocketAddr), watch::Receiver<Outcome>>,
        host: &HostName,
        address: SocketAddr,
        before: Before,
    ) -> (watch::Receiver<Outcome>, bool) {
        let key = (host.clone(), address);
        if let Some(under_way) = dialling.get(&key).filter(|under_way| under_way.has_changed().is_ok()) {
            return (under_way.clone(), false);
        }
        let (tell, outcome) = watch::channel(None);
        dialling.insert(key.clone(), outcome.clone());
        let links = self.clone();
        // On the data plane's runtime, because quinn spawns the connection's driver where it is dialled.
        self.0.runtime.spawn(async move {
            let dialled = links.dial_once(&key.0, address, before).await;
            links.0.dialling.0.lock().expect("no panics under this lock").remove(&key);
            let _ = tell.send(Some(dialled));
        });
        (outcome, true)
    }

    async fn outcome(
        &self,
        mut under_way: watch::Receiver<Outcome>,
        host: &HostName,
        address: SocketAddr,
    ) -> Result<Arc<Link>, LinkError> {
        let known = under_way.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        known.unwrap_or_else(|| {
            Err(LinkError { host: host.clone(), address, why: "the sidecar ends".to_owned() })
        })
    }

    async fn dial_once(
        &self,
        host: &HostName,
        address: SocketAddr,
        mut before: Before,
    ) -> Result<Arc<Link>, LinkError> {
        let mut roused = self.0.roused.subscribe();
        let dialled = loop {
            let newest = self.newest(host);
            if self.existing(host).is_none() {
                before = Before { known: newest, dead: None };
            }
            let dial = self.clone().dial(host.clone(), address, &before);
            tokio::select! {
                dialled = tokio::time::timeout(DIAL_TIMEOUT, dial) => break dialled,
                // What was sent so far went nowhere, and would be repeated late.
                Ok(()) = roused.changed() => {}
            }
        };
        let fail = |why: String| LinkError { host: host.clone(), address, why };
        let error = match dialled {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => fail(format!("{error:#}")),
            Err(_) => fail(format!("no answer on UDP within {} s", DIAL_TIMEOUT.as_secs())),
        };
        // The other host may have dialled meanwhile.
        self.other_than(host, before.dead_id()).ok_or(error)
    }

    /// The link for which the other host closed ours; whoever waits for it has a limit.
    async fn crossed(&self, host: &HostName, before: &Before) -> Arc<Link> {
        loop {
            if let Some(link) = self.other_than(host, before.dead_id()) {
                return link;
            }
            tokio::time::sleep(DIAL_RACE_LOOK).await;
        }
    }

    async fn dial(self, host: HostName, address: SocketAddr, before: &Before) -> anyhow::Result<Arc<Link>> {
        let id = drawn();
        let heard_before = before.dead.as_ref().map(|dead| dead.datagrams());
        let name = self.0.zone.host(&host);
        let connection = self.0.endpoint.connect_with(self.0.client.clone(), address, &name)?.await?;
        let found = identity::peer_host(&connection)?;
        if found != host {
            bail!("{address} is host {found}");
        }
        self.check_member(&host, &connection).await?;
        // One that came meanwhile, or came back to life: nobody needs this one any more, and the other host does not know
        // of it yet.
        let alive = |dead: &&Arc<Link>| !dead.is_down() && Some(dead.datagrams()) != heard_before;
        let revived = before.dead.as_ref().filter(alive).cloned();
        if let Some(link) = self.other_than(&host, before.dead_id()).or(revived) {
            connection.close(quinn::VarInt::from_u32(0), DIALLED_TWICE.as_bytes());
            return Ok(link);
        }
        let link = match self.greet_and_settle(&host, id, before.known, &connection).await {
            Ok(link) => link,
            Err(_) if closed_for_another(&connection) => self.crossed(&host, before).await,
            Err(error) => return Err(error),
        };
        self.check_still_member(&link).await?;
        Ok(link)
    }

    async fn greet_and_settle(
        &self,
        host: &HostName,
        id: u64,
        known: u64,
        connection: &quinn::Connection,
    ) -> anyhow::Result<Arc<Link>> {
        let (mut send, mut receive) = connection.open_bi().await?;
        let mut unsettled = self.unsettled(host, id);
        self.greet(&mut send, id, known).await?;
        let mut buffer = BytesMut::new();
        let greeting = control::read_first(&mut receive, &mut buffer).await?;
        check_hello(&greeting)?;
        let dial = Dial::made(self.0.me.clone(), id, known, &greeting);
        let connection = connection.clone();
        let link =
            self.settle(Greeted { host: host.clone(), dial, connection, send, receive, buffer }).await?;
        unsettled.settle();
        Ok(link)
    }
}

/// Whether the other host closed it because the two have another link.
pub(super) fn closed_for_another(connection: &quinn::Connection) -> bool {
    matches!(
        connection.close_reason(),
        Some(quinn::ConnectionError::ApplicationClosed(close)) if close.reason == DIALLED_TWICE.as_bytes()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, host};

    /// A dial is decided upon, another link comes up, and only then the dial has its turn: it must not say that it knew the
    /// link and found it dead.
    #[tokio::test]
    async fn a_dial_that_comes_late_takes_the_link_that_came_meanwhile() {
        for (late, other) in [("a", "b"), ("b", "a")] {
            let ca = Ca::new();
            let (to_late, to_other) = (host(late), host(other));
            let (mut late, mut other) = (ca.node(late), ca.node(other));
            let known = late.links.newest(&to_other);
            let link = other.links.to(&to_late, late.address).await.unwrap();
            let back = late.up().await;
            let dialled =
                late.links.dial_once(&to_other, other.address, Before { known, dead: None }).await.unwrap();
            assert_eq!(dialled.serial, back.serial);
            other.up().await;
            for node in [&mut late, &mut other] {
                node.nothing_more().await;
            }
            assert!(!link.is_down() && !back.is_down());
        }
    }
}
