//! From the quiet to the gate: the phases in which the capsule comes to stand still and its image goes over.

use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::files::private::{Pace, Rounds};

use super::{Departure, unexpected};
use crate::capsule::engine;
use crate::limits::{QUIESCE_TIMEOUT, SHUT_TIMEOUT};
use crate::moving::conversation::{ToSource, ToTarget, hear, say};
use crate::moving::image::{self, MemoryDirectory};
use crate::moving::sockets;

impl Departure {
    /// New connections wait from here on; dials under way and full accept queues get a moment. What is being dialled
    /// after that is dialled again at the target.
    pub(super) async fn quiesce(&mut self) -> anyhow::Result<()> {
        self.done.quiet = true;
        self.network.quiet().begin();
        let deadline = Instant::now() + QUIESCE_TIMEOUT;
        let locators = self.network.locators();
        while Instant::now() < deadline {
            let waiting =
                self.network.sockets(move |sockets| sockets::unaccepted(sockets, &locators)).await?;
            if waiting == 0 && self.network.quiet().dials() == 0 && self.network.connecting() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::timeout(SHUT_TIMEOUT, self.network.quiet().shut())
            .await
            .context("connections that are being opened can't be put off")
    }

    pub(super) async fn hold(&mut self) -> anyhow::Result<()> {
        self.done.held = true;
        let limit = Duration::from_millis(self.sidecar.config.hold_ms_max);
        let (agreed, silent) = self.sidecar.table.hold(self.capsule.id(), limit).await;
        tracing::debug!(capsule = %self.capsule.name(), agreed, silent, "held");
        Ok(())
    }

    pub(super) async fn pause(&mut self) -> anyhow::Result<()> {
        self.done.paused = true;
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::pause(&capsule)).await??;
        Ok(())
    }

    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        let mut parked = self.sidecar.table.park(self.capsule.id()).await;
        let settled;
        (parked, settled) = self
            .network
            .sockets(move |sockets| {
                let settled = sockets::settle(&mut parked, sockets);
                Ok((parked, settled))
            })
            .await?;
        self.done.parked = Some(parked);
        settled.context("settling the capsule's connections")
    }

    pub(super) async fn lock(&mut self) -> anyhow::Result<()> {
        self.done.locked = true;
        self.network.in_netns(kernel::rules::lock).await?;
        Ok(())
    }

    pub(super) async fn snapshot(&mut self) -> anyhow::Result<()> {
        self.done.captured = true;
        let parked = self.done.parked.take().unwrap_or_default();
        let (parked, images) = self
            .network
            .sockets(move |sockets| {
                let images = sockets::capture(&parked, sockets);
                Ok((parked, images))
            })
            .await?;
        self.done.parked = Some(parked);
        let blob = postcard::to_stdvec(&images?)?;
        say(&mut self.send, &ToTarget::Sessions { bytes: blob.len() as u64 }).await?;
        self.send.write_all(&blob).await?;
        Ok(())
    }

    pub(super) async fn dump(&mut self) -> anyhow::Result<()> {
        self.image = Some(MemoryDirectory::of(&self.capsule)?);
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::dump(&capsule)).await?
    }

    /// The last private files and the image go over side by side.
    pub(super) async fn transfer(&mut self) -> anyhow::Result<()> {
        let rounds = std::mem::replace(&mut self.rounds, Rounds::new(&self.capsule.upper()));
        let (rounds, round) = tokio::task::spawn_blocking(move || {
            let round = rounds.last();
            (rounds, round)
        })
        .await?;
        self.rounds = rounds;
        let round = round?;
        if !round.is_empty() {
            tracing::debug!(capsule = %self.capsule.name(), changed = round.paths().len(), "files changed since the last round");
            self.send_private(round.paths(), Pace::Frozen).await?;
        }
        self.log.send_news(&mut self.send, self.capsule.directory()).await?;
        let image = self.image.as_ref().context("the image was not made")?;
        let list = image::list(image.path())?;
        self.bytes.memory = list.iter().map(|(_, length)| length).sum();
        say(&mut self.send, &ToTarget::Image { files: list.clone() }).await?;
        image::send(&mut self.send, image.path(), &list).await
    }

    pub(super) async fn restore(&mut self) -> anyhow::Result<()> {
        say(&mut self.send, &ToTarget::Restore).await?;
        match hear(&mut self.receive).await? {
            ToSource::AtGate { restore_ms } => {
                tracing::debug!(capsule = %self.capsule.name(), restore_ms, "at the gate");
                Ok(())
            }
            other => unexpected(other),
        }
    }
}
