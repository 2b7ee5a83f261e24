//! Bringing a capsule to a standstill on its host, and back: what a move and a suspend have in common.
//!
//! The steps are taken in their order; [`Standstill::undo`] goes back from wherever they ended, and
//! [`Standstill::release`] leaves nothing of the capsule here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kernel::diag::Diag;

use super::image::MemoryDirectory;
use super::sockets;
use crate::capsule::network::Network;
use crate::capsule::resolver::Travelling;
use crate::capsule::{Capsule, Stage, engine, lifecycle};
use crate::limits::{DATAGRAM_DRAIN, DATAGRAM_DRAIN_LOOK, QUIESCE_TIMEOUT, SHUT_TIMEOUT};
use crate::session::Parked;
use crate::sidecar::Sidecar;

/// A capsule on its way to a standstill.
pub(crate) struct Standstill {
    sidecar: Arc<Sidecar>,
    capsule: Arc<Capsule>,
    network: Arc<Network>,
    quiet: bool,
    held: bool,
    paused: bool,
    locked: bool,
    captured: bool,
    /// Some of its connections have TCP_USER_TIMEOUT set.
    impatient: bool,
    /// Memory of datagrams that its programs had not read when they were frozen.
    unread_datagrams: u64,
    parked: Option<Vec<Parked>>,
    lookups: Travelling,
    image: Option<MemoryDirectory>,
}

impl Standstill {
    /// Of a capsule that runs.
    pub(crate) fn new(sidecar: Arc<Sidecar>, capsule: Arc<Capsule>, network: Arc<Network>) -> Self {
        Self {
            sidecar,
            capsule,
            network,
            quiet: false,
            held: false,
            paused: false,
            locked: false,
            captured: false,
            impatient: false,
            unread_datagrams: 0,
            parked: None,
            lookups: Travelling::default(),
            image: None,
        }
    }

    /// New connections wait from here on; dials under way and full accept queues get a moment. What is being dialled
    /// after that is dialled again where the capsule goes on.
    pub(crate) async fn quiesce(&mut self) -> anyhow::Result<()> {
        self.quiet = true;
        self.network.quiet().begin();
        let capsule = self.capsule.clone();
        let impatient =
            tokio::task::spawn_blocking(move || !engine::impatient(&engine::pids(&capsule)).is_empty());
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
            .context("connections that are being opened can't be put off")?;
        self.impatient = impatient.await?;
        Ok(())
    }

    /// Both halves of every session agree on amounts and stop sending.
    pub(crate) async fn hold(&mut self) -> anyhow::Result<()> {
        self.held = true;
        let limit = Duration::from_millis(self.sidecar.config.hold_ms_max);
        let (agreed, silent) = self.sidecar.table.hold(self.capsule.id(), limit).await;
        tracing::debug!(capsule = %self.capsule.name(), agreed, silent, "held");
        if self.impatient {
            let (sidecar, own) = (self.sidecar.clone(), self.capsule.id());
            tokio::task::spawn_blocking(move || sidecar.around.routes.show_sockets(&own)).await?;
        }
        self.hold_datagrams().await
    }

    /// Datagrams for the capsule wait from here on; what lies in its programs' sockets gets a moment to be read.
    async fn hold_datagrams(&mut self) -> anyhow::Result<()> {
        self.network.datagrams().hold();
        self.network.lookups().hold();
        let deadline = Instant::now() + DATAGRAM_DRAIN;
        while self.network.sockets(Diag::datagrams_unread).await? > 0 && Instant::now() < deadline {
            tokio::time::sleep(DATAGRAM_DRAIN_LOOK).await;
        }
        Ok(())
    }

    /// Freezes all processes.
    pub(crate) async fn pause(&mut self) -> anyhow::Result<()> {
        self.paused = true;
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::pause_for_dump(&capsule)).await??;
        let unread = self.network.sockets(Diag::datagrams_unread).await?;
        if unread > 0 {
            tracing::warn!(capsule = %self.capsule.name(), bytes = unread, "datagrams that its programs have not read are in no image");
        }
        self.unread_datagrams = unread;
        Ok(())
    }

    /// Lets what is on its way inside the capsule's network arrive.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        let mut parked = self.sidecar.table.park(self.capsule.id()).await;
        let settled;
        (parked, settled) = self
            .network
            .sockets(move |sockets| {
                let settled = sockets::settle(&mut parked, sockets);
                Ok((parked, settled))
            })
            .await?;
        self.parked = Some(parked);
        settled.context("settling the capsule's connections")
    }

    /// Nothing arrives in the capsule's network any more.
    pub(crate) async fn lock(&mut self) -> anyhow::Result<()> {
        self.locked = true;
        self.network.in_netns(kernel::rules::lock).await?;
        Ok(())
    }

    /// Captures the sidecar's ends of all connections, as one blob.
    pub(crate) async fn capture(&mut self) -> anyhow::Result<Vec<u8>> {
        self.captured = true;
        let parked = self.parked.take().unwrap_or_default();
        let (parked, images) = self
            .network
            .sockets(move |sockets| {
                let images = sockets::capture(&parked, sockets);
                Ok((parked, images))
            })
            .await?;
        self.parked = Some(parked);
        self.lookups = self.network.lookups().capture().await;
        Ok(postcard::to_stdvec(&images?)?)
    }

    /// What its programs were asking their resolver when they were frozen.
    pub(crate) fn take_lookups(&mut self) -> Travelling {
        std::mem::take(&mut self.lookups)
    }

    /// CRIU writes the image of the processes into memory.
    pub(crate) async fn dump(&mut self) -> anyhow::Result<()> {
        self.image = Some(MemoryDirectory::of(&self.capsule)?);
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::dump(&capsule)).await?
    }

    /// Where the image lies.
    ///
    /// # Errors
    /// It was not made.
    pub(crate) fn image(&self) -> anyhow::Result<&Path> {
        Ok(self.image.as_ref().context("the image was not made")?.path())
    }

    /// Back to how it was, in reverse; goes on past failures.
    pub(crate) async fn undo(&mut self) {
        self.image = None;
        let parked = self.parked.take();
        if self.captured {
            sockets::undo(parked.as_deref().unwrap_or_default());
        }
        if self.locked
            && let Err(error) = self.network.in_netns(kernel::rules::unlock).await
        {
            tracing::error!(capsule = %self.capsule.name(), %error, "the capsule's network stays locked");
        }
        if self.paused {
            let capsule = self.capsule.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || engine::resume(&capsule)).await {
                tracing::error!(capsule = %self.capsule.name(), error = format!("{error:#}"), "the capsule was not thawed");
            }
        }
        for mut half in parked.into_iter().flatten() {
            half.half.link_lost();
            half.half.release();
            self.sidecar.table.drive(half, None);
        }
        if self.held {
            self.sidecar.table.release(self.capsule.id());
            self.sidecar.around.datagrams.release(&self.network);
            let network = self.network.clone();
            self.network.in_netns(move || network.lookups().release()).await;
        }
        if self.quiet {
            self.network.quiet().end();
        }
        self.capsule.set_stage(Stage::Running);
    }

    /// The capsule goes on elsewhere, or lies in a file: nothing of it stays here, and its connections end in silence.
    pub(crate) async fn release(&mut self) {
        let parked = self.parked.take().unwrap_or_default();
        sockets::silence(&parked);
        for half in &parked {
            self.sidecar.table.remove((half.half.id(), half.half.role()));
        }
        self.image = None;
        self.network.lookups().forget();
        let _ = self.sidecar.places.refresh(&self.capsule.id()).await;
        self.sidecar.around.datagrams.counts().unread(self.unread_datagrams);
        lifecycle::discard(&self.sidecar, &self.capsule).await;
        drop(parked);
    }
}
