//! Going back to a capsule file when the capsule's host is gone: a resume whose claim is a takeover.
//!
//! The file may be one that was resumed already; what the capsule did since then is lost, which is what a person decides.
//! Its connections are those of the file. Each goes on if its peer has gone no further than the file knows, and is reset
//! on both sides if the peer has: the session core compares the offsets before a byte flows.

use std::sync::Arc;
use std::time::Duration;

use admin_api::result::{CapsuleState as Shown, PsResult, RecoverResult, RecoveredFrom};
use admin_api::{ErrorView, Request};
use anyhow::{Context, bail};
use capsule_file::Manifest;
use directory_api::{ApiError, CapsuleRecord, CapsuleState, ClientError, LookupKey};
use overlay_proto::{CapsuleId, Generation, HostName, OfferId};

use super::resume::{Void, from_file};
use crate::admin::{self, Input, Output};
use crate::capsule::{Capsule, Stage, lifecycle};
use crate::moving::journal::{Decision, Entry, Journal, Processes};
use crate::moving::superseded;
use crate::moving::verdict::settle;
use crate::sidecar::Sidecar;

/// Time in which a host that is said to be gone may prove that it is not: more than a link to a living one takes, on a
/// busy machine too.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);

/// Carries out `capsule recover --from`.
///
/// # Errors
/// The capsule was not recovered here. If the directory had placed it here already, it is shown as lost.
pub async fn command(
    sidecar: &Arc<Sidecar>,
    name: &str,
    host_is_gone: bool,
    input: &mut Input,
    output: &mut Output,
) -> Result<RecoverResult, ErrorView> {
    let recovery = Recovery {
        name: name.to_owned(),
        host_is_gone,
        takeover: OfferId::from_bytes(crate::random::bytes()),
        seen: None,
    };
    let resumed = from_file(sidecar, Some(recovery), input, output).await?;
    tracing::warn!(
        capsule = name,
        file_of = resumed.from,
        generation = resumed.generation,
        "recovered from a file"
    );
    Ok(RecoverResult {
        capsule: resumed.capsule,
        host: resumed.to,
        generation: resumed.generation,
        from: RecoveredFrom::File,
        running: true,
    })
}

/// A takeover from a file.
pub(super) struct Recovery {
    /// The capsule that the person named.
    name: String,
    host_is_gone: bool,
    takeover: OfferId,
    /// The generation of the record when it was looked at.
    seen: Option<Generation>,
}

impl Recovery {
    /// Whether the capsule may go back to this file. For a good answer before any work: the directory decides.
    pub(super) async fn look(&mut self, sidecar: &Arc<Sidecar>, manifest: &Manifest) -> anyhow::Result<()> {
        let directory = sidecar.places.directory();
        let record = match directory.lookup(LookupKey::Id(manifest.capsule)).await {
            Ok(record) => record,
            Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => {
                let why =
                    format!("the {} in the file was removed since, or is of another mesh", manifest.name);
                bail!(Void::new("removed", why));
            }
            Err(error) => return Err(error).context("asking the directory"),
        };
        if record.name.as_str() != self.name {
            bail!(Void::new(
                "other-capsule",
                format!("the file is of {}, not of {}", record.name, self.name)
            ));
        }
        if !sidecar.places.host(&sidecar.me).is_some_and(|me| me.operator) {
            let why = format!("the host {} joined without operator rights", sidecar.me);
            bail!(Void { next: "recover it on another host".into(), ..Void::new("not-operator", why) });
        }
        if !self.host_is_gone {
            let why = "going back to a file needs your word that its host is gone".to_owned();
            let next = format!("capsule recover {} --host-is-gone --from FILE", self.name);
            bail!(Void { next, ..Void::new("not-gone", why) });
        }
        check_past(&record, manifest)?;
        check_here(sidecar, &record)?;
        check_gone(sidecar, &record).await?;
        self.seen = Some(record.generation);
        sidecar.places.take(record);
        Ok(())
    }

    /// The commit: has the directory place the capsule here.
    pub(super) async fn take_over(
        &self,
        sidecar: &Sidecar,
        capsule: &Arc<Capsule>,
        file: Generation,
    ) -> anyhow::Result<Generation> {
        let (takeover, generation) = (self.takeover, self.seen.context("the record was not looked at")?);
        capsule.journal(&Entry::Recovering { takeover, generation, file })?;
        crate::faults::reach("recover-asking")?;
        let journal = Journal::Recovering { takeover, generation, file };
        match settle(sidecar, capsule, &journal, Processes::AtGate).await {
            Decision::OpenGate { generation } => Ok(generation),
            _ => {
                let record = sidecar.places.capsule(&capsule.id());
                let why = record.map_or_else(
                    || format!("{} was removed meanwhile", self.name),
                    |now| format!("meanwhile it is on {}, at generation {}", now.host, now.generation),
                );
                bail!(Void::new("outrun", why))
            }
        }
    }
}

/// What a takeover from a file that failed left of the capsule here: nothing of it ever runs again.
pub(super) async fn clear_what_died(sidecar: &Arc<Sidecar>, manifest: &Manifest) {
    if let Some(died) = sidecar.capsules.get(&manifest.capsule).filter(|old| old.stage() == Stage::Died) {
        lifecycle::discard(sidecar, &died).await;
        sidecar.capsules.remove(&died.id());
    }
}

/// Whether the file is of the past of a capsule that lies in none.
fn check_past(record: &CapsuleRecord, manifest: &Manifest) -> anyhow::Result<()> {
    let (name, generation) = (&record.name, record.generation);
    match &record.suspension {
        Some(made) if made.id == manifest.suspension => {
            let why = format!("{name} lies in this very file, and is on no host that could be gone");
            bail!(Void { next: "capsule resume FILE".into(), ..Void::new("suspended", why) })
        }
        Some(made) => {
            let why =
                format!("{name} was suspended again since, by {} at generation {generation}", made.host);
            bail!(Void { next: "capsule resume, from that file".into(), ..Void::new("suspended", why) })
        }
        None if manifest.generation > generation => {
            let at = manifest.generation;
            let why = format!("the file is of generation {at}, and the directory knows only {generation}");
            let next = "the directory was restored from a backup: see docs/operating.md".to_owned();
            bail!(Void { next, ..Void::new("ahead", why) })
        }
        None => Ok(()),
    }
}

/// Whether this host has something of the capsule that is worth more than the file.
fn check_here(sidecar: &Sidecar, record: &CapsuleRecord) -> anyhow::Result<()> {
    let Some(here) = sidecar.capsules.get(&record.id) else { return Ok(()) };
    match here.stage() {
        Stage::Died | Stage::Left { .. } | Stage::Removed | Stage::Suspended => Ok(()),
        _ if superseded::is_superseded(&here) => {
            let name = &record.name;
            let why = format!("this host keeps a copy of {name} that is newer than any file");
            let next = format!(
                "capsule recover {name} --host-is-gone goes on from that; capsule rm --local {name} removes it"
            );
            bail!(Void { next, ..Void::new("copy-here", why) })
        }
        _ if record.host == sidecar.me => bail!(answers(record, &sidecar.me)),
        _ => {
            let name = &record.name;
            let why = format!("this host has a copy of {name} that an unfinished move left");
            let next = format!("capsule recover {name} --host-is-gone goes on from that");
            bail!(Void { next, ..Void::new("copy-here", why) })
        }
    }
}

/// Whether the capsule's host is silent, or says itself that nothing of the capsule is left there.
async fn check_gone(sidecar: &Arc<Sidecar>, record: &CapsuleRecord) -> anyhow::Result<()> {
    let lost = record.state == CapsuleState::Lost || record.state == CapsuleState::Moving;
    if record.host == sidecar.me {
        return if lost { Ok(()) } else { bail!(answers(record, &sidecar.me)) };
    }
    let asked = admin::ask(sidecar, &record.host, Request::Ps { local: true });
    let listed: PsResult = match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
        Ok(Ok(body)) => body.parse().context("reading what its host answered")?,
        // Whoever says that something is wrong is there.
        Ok(Err(error)) if error.code != "link/host-away" => bail!(answers(record, &record.host)),
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    if has(&listed, record.id) { bail!(answers(record, &record.host)) } else { Ok(()) }
}

fn has(listed: &PsResult, id: CapsuleId) -> bool {
    let id = id.to_string();
    listed.capsules.iter().any(|capsule| capsule.id == id && capsule.state != Shown::Lost)
}

fn answers(record: &CapsuleRecord, host: &HostName) -> Void {
    let name = &record.name;
    let why = format!("{host} is not gone: it answers, and has {name} at generation {}", record.generation);
    let next =
        format!("capsule ps shows {name}; capsule move or capsule suspend takes it from a host that lives");
    Void { next, ..Void::new("host-answers", why) }
}
