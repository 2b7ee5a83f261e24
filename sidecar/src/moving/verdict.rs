//! Asking the directory who has a capsule, for as long as that takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory_api::{ApiError, CapsuleRecord, ClientError, LookupKey, TakeoverFrom};
use overlay_proto::{CapsuleId, ClaimKey, Generation, OfferId};
use tokio::sync::{mpsc, oneshot};

use super::journal::{Answer, Decision, Journal, Processes, Question, Standing, decide};
use crate::assertion::Decided;
use crate::capsule::Capsule;
use crate::sidecar::Sidecar;

/// Pause between questions to a directory that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Longest time between questions when news should come by the watch, which may be behind.
const ASK_AT_LEAST: Duration = Duration::from_secs(5);

/// A takeover that a person wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takeover {
    /// The generation of the record that the person saw.
    pub generation: Generation,
    /// Drawn for it.
    pub id: OfferId,
    /// Whether the person says that the host is gone.
    pub host_is_gone: bool,
}

/// What became of a takeover.
pub(crate) type Taken = Result<CapsuleRecord, ClientError>;

/// The way to whoever waits with a copy that an unfinished move left, for a takeover from it.
#[derive(Debug, Default)]
pub(crate) struct Wishes(Mutex<Option<mpsc::Sender<Wish>>>);

type Wish = (Takeover, oneshot::Sender<Taken>);

impl Wishes {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Wish>>> {
        self.0.lock().expect("no panics under this lock")
    }

    /// Has the one who waits take the capsule over; `None` if there is nobody.
    pub(crate) async fn wish(&self, takeover: Takeover) -> Option<Taken> {
        let waiting = self.slot().clone()?;
        let (answer, taken) = oneshot::channel();
        waiting.send((takeover, answer)).await.ok()?;
        taken.await.ok()
    }
}

/// Hears wishes while it is there.
struct Listening<'a>(&'a Wishes, mpsc::Receiver<Wish>);

impl<'a> Listening<'a> {
    fn to(wishes: &'a Wishes) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        *wishes.slot() = Some(sender);
        Self(wishes, receiver)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        *self.0.slot() = None;
    }
}

/// Decides what to do with a capsule, and asks for as long as the directory does not say enough. While the answer is
/// to wait, a person may take the capsule over. Never [`Decision::Ask`] or [`Decision::Wait`].
pub(crate) async fn settle(
    sidecar: &Sidecar,
    capsule: &Arc<Capsule>,
    journal: &Journal,
    processes: Processes,
) -> Decision {
    let own = capsule.file().generation;
    let mut answer = None;
    let mut listening = None;
    loop {
        match decide(journal, processes, own, answer.as_ref()) {
            Decision::Ask(question) => {
                answer = Some(ask(sidecar, capsule.id(), &question, journal.key()).await);
            }
            Decision::Wait => {
                let listening = listening.get_or_insert_with(|| Listening::to(capsule.wishes()));
                let heard = answer.take() != Some(Answer::Nothing);
                tracing::info!(capsule = %capsule.name(), ?journal, heard, "kept as it is until the directory says more");
                tokio::select! {
                    () = news(sidecar, capsule, heard) => {}
                    Some((takeover, told)) = listening.1.recv() => {
                        let taken = take_over(sidecar, capsule, takeover, journal.goes_on_from()).await;
                        answer = taken.as_ref().ok().map(|record| Answer::Ours(record.generation));
                        let _ = told.send(taken);
                    }
                }
            }
            decision => return decision,
        }
    }
}

/// Waits until the directory may say more.
async fn news(sidecar: &Sidecar, capsule: &Capsule, heard: bool) {
    if !heard {
        return tokio::time::sleep(ASK_AGAIN).await;
    }
    let id = capsule.id();
    let known = sidecar.places.capsule(&id);
    let differs = move |record: Option<&CapsuleRecord>| record != known.as_ref();
    let _ = tokio::time::timeout(ASK_AT_LEAST, sidecar.places.wait_until(&id, differs)).await;
}

/// Places the capsule here, by a person's word.
pub(crate) async fn take_over(
    sidecar: &Sidecar,
    capsule: &Capsule,
    takeover: Takeover,
    from: TakeoverFrom,
) -> Taken {
    let directory = sidecar.places.directory();
    let Takeover { generation, id, host_is_gone } = takeover;
    let deciding = sidecar.assertions.deciding().await;
    let taken = directory.take_over(capsule.id(), generation, id, from, host_is_gone).await;
    if let Ok(record) = &taken {
        note_given(sidecar, record);
        drop(deciding);
        tracing::warn!(capsule = %capsule.name(), generation = %record.generation, "taken over by this host");
        sidecar.places.take(record.clone());
    }
    taken
}

/// Ends an offer that nobody can claim, since its key was never sent; the directory may be away for a while.
pub(crate) async fn withdraw(sidecar: Arc<Sidecar>, capsule: Arc<Capsule>, offer: OfferId) {
    loop {
        match ask(&sidecar, capsule.id(), &Question::Revoke { offer }, None).await {
            Answer::Ours(generation) => {
                if let Some(network) = sidecar.networks.of(&capsule.id()) {
                    network.set_generation(generation);
                }
                if let Err(error) = capsule.set_generation(generation) {
                    tracing::error!(error = format!("{error:#}"), "its generation was not written down");
                }
                return;
            }
            Answer::Stands(standing) => {
                tracing::info!(capsule = %capsule.name(), ?standing, "there is no such offer to withdraw");
                return;
            }
            Answer::Unknown => return,
            Answer::Nothing => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// Asks the directory once. A refusal is looked into: only a record says where the capsule is.
pub(crate) async fn ask(
    sidecar: &Sidecar,
    capsule: CapsuleId,
    question: &Question,
    key: Option<&ClaimKey>,
) -> Answer {
    let deciding = sidecar.assertions.deciding().await;
    let directory = sidecar.places.directory();
    let done = match question {
        Question::Lookup => return look(sidecar, capsule, key).await,
        Question::Revoke { offer } => directory.revoke(capsule, *offer).await,
        Question::Claim { offer, key } => directory.claim(capsule, *offer, *key).await,
        Question::Withdraw { suspension, generation } => {
            directory.withdraw(capsule, *generation, *suspension).await
        }
        Question::Resume { suspension, generation, key } => {
            directory.resume(capsule, *generation, *suspension, *key).await
        }
        Question::TakeOver { takeover, generation, file } => {
            let from = TakeoverFrom::File(*file);
            directory.take_over(capsule, *generation, *takeover, from, true).await
        }
    };
    if let Ok(record) = &done {
        note_given(sidecar, record);
    }
    drop(deciding);
    if crate::faults::reach(question.point()).is_err() {
        return Answer::Nothing;
    }
    match done {
        Ok(record) => {
            let generation = record.generation;
            sidecar.places.take(record);
            Answer::Ours(generation)
        }
        Err(ClientError::Refused(refusal)) if is_final(&refusal) => {
            tracing::debug!(%capsule, %refusal, "refused");
            look(sidecar, capsule, key).await
        }
        Err(error) => {
            tracing::warn!(%capsule, %error, "no answer that can be relied on");
            Answer::Nothing
        }
    }
}

/// Notes that the directory has placed a capsule here, before anything follows from it.
fn note_given(sidecar: &Sidecar, record: &CapsuleRecord) {
    if let Some(capsule) = sidecar.capsules.get(&record.id) {
        capsule.decide(Decided::Given(record.generation));
    }
}

async fn look(sidecar: &Sidecar, capsule: CapsuleId, key: Option<&ClaimKey>) -> Answer {
    match sidecar.places.directory().lookup(LookupKey::Id(capsule)).await {
        Ok(record) => {
            let standing = Standing::of(&record, &sidecar.me, key);
            sidecar.places.take(record);
            Answer::Stands(standing)
        }
        Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => Answer::Unknown,
        Err(error) => {
            tracing::warn!(%capsule, %error, "no answer that can be relied on");
            Answer::Nothing
        }
    }
}

/// Whether a refusal says how things stand. A store that failed may still hold what was asked for, and one that does not
/// know this host says nothing of the capsule.
pub(crate) fn is_final(refusal: &ApiError) -> bool {
    match refusal {
        ApiError::UnknownCapsule { .. }
        | ApiError::WrongGeneration { .. }
        | ApiError::NotPlacedHere { .. }
        | ApiError::OfferUnknown { .. }
        | ApiError::OfferEnded { .. }
        | ApiError::OfferPending { .. }
        | ApiError::OfferDiffers { .. }
        | ApiError::NotTheTarget { .. }
        | ApiError::Suspended { .. }
        | ApiError::WrongKey => true,
        ApiError::Malformed { .. }
        | ApiError::Denied { .. }
        | ApiError::NameTaken { .. }
        | ApiError::NameReserved { .. }
        | ApiError::UnknownHost { .. }
        | ApiError::TokenUsed
        | ApiError::TokenExpired
        | ApiError::TokenUnknown
        | ApiError::TokenForAnotherHost { .. }
        | ApiError::QuotaExceeded { .. }
        | ApiError::LocatorsExhausted
        | ApiError::HostAlive { .. }
        | ApiError::NotAMember { .. }
        | ApiError::StoreFailed
        | ApiError::Asserting { .. }
        | ApiError::StoreAway { .. }
        | ApiError::Stopping
        | ApiError::UnknownRule { .. }
        | ApiError::TooManyRules { .. }
        | ApiError::Unrecognized { .. } => false,
    }
}
