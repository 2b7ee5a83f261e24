//! What is done while the capsule runs: the target is asked, and files go ahead.

use std::time::Duration;

use admin_api::result::{CheckView, Level};
use anyhow::{Context, bail};
use directory_api::{ApiError, CapsuleRecord, ClientError};
use overlay_proto::HostName;
use runtime::files::private::{Ended, Pace, Round, Rounds};

use super::{Departure, Refused, unexpected};
use crate::limits::{FEW_FILES, FILE_ROUNDS};
use crate::moving::anchored;
use crate::moving::claimed;
use crate::moving::conversation::{Needs, Prepare, ToSource, ToTarget, hear, say};
use crate::moving::examine;
use crate::moving::files::{self, Tree};
use crate::moving::journal::{Answer, Entry, Journal, Question};
use crate::moving::verdict;

/// Time that the directory gets to note that the capsule runs here before it is offered onwards.
const REPORT_WAIT: Duration = Duration::from_secs(5);

impl Departure {
    pub(super) async fn ask_target(&mut self, dry_run: bool) -> anyhow::Result<(Vec<CheckView>, Needs)> {
        let (capsule, base_dir) = (self.capsule.clone(), self.sidecar.config.base.clone());
        let cpuinfo = self.sidecar.config.cpuinfo.clone();
        let (mut own_checks, needs, base) =
            tokio::task::spawn_blocking(move || examine::what_it_needs(&capsule, &base_dir, &cpuinfo))
                .await??;
        let unread = self.network.sockets(kernel::diag::Diag::datagrams_unread).await?;
        own_checks.extend(examine::unread_datagrams(self.capsule.name(), unread));
        self.anchored = anchored::of(&self.sidecar, self.capsule.id()).await;
        // What is bound to another host was left there before, and stays.
        self.anchored.retain(|one| one.host == self.sidecar.me.as_str());
        let (me, count) = (&self.sidecar.me, self.anchored.len());
        own_checks.extend(anchored::at_move(self.capsule.name(), me, count, self.keep_anchored));
        let sessions = self.sidecar.table.describe(Some(self.capsule.id())).await;
        self.sessions_before = sessions.len() as u64;
        let mut peers: Vec<HostName> = sessions
            .iter()
            .filter_map(|session| self.sidecar.places.capsule(&session.facts.peer))
            .map(|peer| peer.host)
            .collect();
        peers.sort();
        peers.dedup();
        self.bytes.memory = needs.memory_bytes;
        let files_bytes = needs.files_bytes;
        let prepare =
            Prepare { offer: self.offer, capsule: self.capsule.file(), dry_run, needs, base, peers };
        let needs = Needs { memory_bytes: self.bytes.memory, files_bytes, ..Default::default() };
        say(&mut self.send, &ToTarget::Prepare(Box::new(prepare))).await?;
        match hear(&mut self.receive).await? {
            ToSource::Examined { mut checks, differences } => {
                self.differences = differences;
                own_checks.append(&mut checks);
                Ok((own_checks, needs))
            }
            other => unexpected(other),
        }
    }

    pub(super) async fn prepare(&mut self) -> anyhow::Result<()> {
        let (checks, _) = self.ask_target(false).await?;
        if checks.iter().any(|check| check.level == Level::Fail) {
            bail!(Refused(checks));
        }
        match hear(&mut self.receive).await? {
            ToSource::Ready => {}
            other => return unexpected(other),
        }
        // The journal is about to begin anew, and with it the knowledge that somebody may wait for this.
        let generation = self.generation;
        if Journal::read(self.capsule.directory())? == (Journal::Thawed { generation, reported: false }) {
            let reported = claimed::report_running(&self.sidecar, &self.capsule, generation);
            let _ = tokio::time::timeout(REPORT_WAIT, reported).await;
        }
        let mut offered = self.offer_once().await;
        if let Err(ClientError::Refused(ApiError::OfferPending { offer, .. })) = &offered {
            // One of an earlier move, which came late or could not be withdrawn; its key was never sent, or this capsule
            // would not be here.
            let (id, question) = (self.capsule.id(), Question::Revoke { offer: *offer });
            if let Answer::Ours(generation) = verdict::ask(&self.sidecar, id, &question, None).await {
                self.settle_generation(generation)?;
                self.generation = generation;
                offered = self.offer_once().await;
            }
        }
        self.sidecar.places.take(offered.context("offering the capsule at the directory")?);
        Ok(())
    }

    async fn offer_once(&mut self) -> Result<CapsuleRecord, ClientError> {
        // Before the answer: an offer whose answer is lost stands too.
        let (offer, generation, target) = (self.offer, self.generation, self.target.clone());
        let keep_anchored = self.keep_anchored;
        let entry = Entry::Offered { offer, generation, target: target.clone(), keep_anchored };
        self.capsule.journal(&entry).map_err(|error| ClientError::Local {
            what: "writing the journal",
            source: std::io::Error::other(error),
        })?;
        self.done.offered = true;
        self.asserted = self.sidecar.assertions.made();
        let directory = self.sidecar.places.directory();
        directory.offer(self.capsule.id(), generation, offer, target, self.key.hash()).await
    }

    pub(super) async fn files_ahead(&mut self) -> anyhow::Result<()> {
        for _ in 0..FILE_ROUNDS {
            let rounds = std::mem::replace(&mut self.rounds, Rounds::new(&self.capsule.upper()));
            let (rounds, round) = tokio::task::spawn_blocking(move || {
                let round = rounds.next();
                (rounds, round)
            })
            .await?;
            self.rounds = rounds;
            let round = round?;
            if round.is_empty() {
                self.rounds.note(round, Ended::Complete);
                break;
            }
            let few = round.paths().len() + round.removed().len() < FEW_FILES;
            let ended = self.send_private(&round, Pace::Running).await?;
            self.rounds.note(round, ended);
            if ended == Ended::Complete && few {
                break;
            }
        }
        if !self.differences.is_empty() {
            self.ship_base().await?;
        }
        self.log.send_news(&mut self.send, self.capsule.directory()).await
    }

    /// Base files that the target lacks go into the private layer there.
    pub(super) async fn ship_base(&mut self) -> anyhow::Result<()> {
        let staging = self.sidecar.data.join("moves").join(format!("{}.base", self.offer));
        let (base, differences, to) =
            (self.sidecar.config.base.clone(), self.differences.clone(), staging.clone());
        let staged = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&to)?;
            anyhow::Ok(runtime::files::base::stage(&base, &differences, &to)?)
        })
        .await?;
        let sent = match staged {
            Ok(_) => {
                files::send(&self.sidecar, &self.target, self.offer, Tree::Base, &staging, None, Pace::Frozen)
                    .await
            }
            Err(error) => Err(error),
        };
        let _ = std::fs::remove_dir_all(&staging);
        self.bytes.files += sent?.1;
        Ok(())
    }

    /// Sends what changed in the private layer.
    pub(super) async fn send_private(&mut self, round: &Round, pace: Pace) -> anyhow::Result<Ended> {
        let upper = self.capsule.upper();
        let sent =
            files::send(&self.sidecar, &self.target, self.offer, Tree::Private, &upper, Some(round), pace);
        let (ended, bytes) = sent.await?;
        self.bytes.files += bytes;
        Ok(ended)
    }
}
