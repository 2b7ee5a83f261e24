//! From the quiet to the gate: the phases in which the capsule comes to stand still and its image goes over.

use runtime::files::private::{Pace, Rounds};

use super::{Departure, unexpected};
use crate::moving::conversation::{ToSource, ToTarget, hear, say};
use crate::moving::image;

impl Departure {
    pub(super) async fn quiesce(&mut self) -> anyhow::Result<()> {
        self.still.quiesce().await
    }

    pub(super) async fn hold(&mut self) -> anyhow::Result<()> {
        self.still.hold().await
    }

    pub(super) async fn pause(&mut self) -> anyhow::Result<()> {
        self.still.pause().await
    }

    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.still.settle().await
    }

    pub(super) async fn lock(&mut self) -> anyhow::Result<()> {
        self.still.lock().await
    }

    pub(super) async fn snapshot(&mut self) -> anyhow::Result<()> {
        let blob = self.still.capture().await?;
        say(&mut self.send, &ToTarget::Sessions { bytes: blob.len() as u64 }).await?;
        self.send.write_all(&blob).await?;
        Ok(())
    }

    pub(super) async fn dump(&mut self) -> anyhow::Result<()> {
        self.still.dump().await
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
            let (changed, removed) = (round.paths().len(), round.removed().len());
            tracing::debug!(capsule = %self.capsule.name(), changed, removed, "files changed since the last round");
            self.send_private(&round, Pace::Frozen).await?;
        }
        self.log.send_news(&mut self.send, self.capsule.directory()).await?;
        let lookups = self.still.take_lookups();
        let image = self.still.image()?;
        let list = image::list(image)?;
        self.bytes.memory = list.iter().map(|(_, length)| length).sum();
        say(&mut self.send, &ToTarget::Image { files: list.clone(), lookups }).await?;
        image::send(&mut self.send, image, &list).await
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
