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
                self.dial_shared(&mut dialling, host, address, known)
            };
            match self.outcome(under_way, host, address).await {
                // It was begun earlier, perhaps before the host was there, and what QUIC repeats comes ever later.
                Err(_) if !fresh && again => again = false,
                outcome => return outcome,
            }
        }
    }

    /// A new link to `host`, dialled although there is one that has become silent. The new one takes its place.
    ///
    /// # Errors
    /// As [`Self::to`].
    pub async fn anew(&self, host: &HostName, address: SocketAddr) -> Result<Arc<Link>, LinkError> {
        let (under_way, _) = {
            let mut dialling = self.0.dialling.0.lock().expect("no panics under this lock");
            self.dial_shared(&mut dialling, host, address, self.newest(host))
        };
        self.outcome(under_way, host, address).await
    }

    /// The dial under way, or a fresh one; says whether it is fresh.
    fn dial_shared(
        &self,
        dialling: &mut HashMap<(HostName, SocketAddr), watch::Receiver<Outcome>>,
        host: &HostName,
        address: SocketAddr,
        known: u64,
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
            let dialled = links.dial_once(&key.0, address, known).await;
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

    /// `known`: the newest link to the host when the dial was decided upon, which may be a while ago.
    async fn dial_once(
        &self,
        host: &HostName,
        address: SocketAddr,
        mut known: u64,
    ) -> Result<Arc<Link>, LinkError> {
        let mut roused = self.0.roused.subscribe();
        let dialled = loop {
            let newest = self.newest(host);
            if self.existing(host).is_none() {
                known = newest;
            }
            let dial = self.clone().dial(host.clone(), address, known);
            tokio::select! {
                dialled = tokio::time::timeout(DIAL_TIMEOUT, dial) => break dialled,
                // What was sent so far went nowhere, and would be repeated late.
                Ok(()) = roused.changed() => {}
            }
        };
        let fail = |why: String| LinkError { host: host.clone(), address, why };
        match dialled {
            Ok(Ok(link)) => Ok(link),
            // The other host may have dialled meanwhile.
            Ok(Err(error)) => self.existing(host).ok_or_else(|| fail(format!("{error:#}"))),
            Err(_) => self
                .existing(host)
                .ok_or_else(|| fail(format!("no answer on UDP within {} s", DIAL_TIMEOUT.as_secs()))),
        }
    }

    /// The link that `host` dialled, for which it closed ours; whoever waits for it has a limit.
    async fn crossed(&self, host: &HostName) -> Arc<Link> {
        loop {
            if let Some(link) = self.existing(host) {
                return link;
            }
            tokio::time::sleep(DIAL_RACE_LOOK).await;
        }
    }

    async fn dial(self, host: HostName, address: SocketAddr, known: u64) -> anyhow::Result<Arc<Link>> {
        let id = drawn();
        let name = self.0.zone.host(&host);
        let connection = self.0.endpoint.connect_with(self.0.client.clone(), address, &name)?.await?;
        let found = identity::peer_host(&connection)?;
        if found != host {
            bail!("{address} is host {found}");
        }
        self.check_member(&host, &connection).await?;
        if self.newest(&host) != known
            && let Some(link) = self.existing(&host)
        {
            // Nobody needs this one any more, and the other host does not know of it yet.
            connection.close(quinn::VarInt::from_u32(0), DIALLED_TWICE.as_bytes());
            return Ok(link);
        }
        let link = match self.greet_and_settle(&host, id, known, &connection).await {
            Ok(link) => link,
            Err(_) if closed_for_another(&connection) => self.crossed(&host).await,
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
        self.greet(&mut send, id, known).await?;
        let mut buffer = BytesMut::new();
        let greeting = control::read_first(&mut receive, &mut buffer).await?;
        check_hello(&greeting)?;
        let dial = Dial::made(self.0.me.clone(), id, known, &greeting);
        let connection = connection.clone();
        self.settle(Greeted { host: host.clone(), dial, connection, send, receive, buffer }).await
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
            let dialled = late.links.dial_once(&to_other, other.address, known).await.unwrap();
            assert_eq!(dialled.serial, back.serial);
            other.up().await;
            for node in [&mut late, &mut other] {
                node.nothing_more().await;
            }
            assert!(!link.is_down() && !back.is_down());
        }
    }
}
