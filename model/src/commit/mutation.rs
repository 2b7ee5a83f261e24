//! Rules that are broken on purpose. Each must be noticed, or the model proves nothing about it.

/// A rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The source sends the key before "key sent" is written.
    KeySentNotWritten,
    /// The source undoes alone although the key was sent.
    UndoAfterKey,
    /// The source thaws because a record shows the capsule here.
    ThawOnRead,
    /// The source thaws on any refusal of its revocation.
    RefusalThaws,
    /// The source destroys its copy when the capsule is claimed, not when it runs.
    DestroyWhenClaimed,
    /// The source learns of an offer back only by the target's word.
    BackNotSeen,
    /// The target claims before "key" is written.
    KeyNotWritten,
    /// The target opens the gate before its claim was answered.
    GateBeforeAnswer,
    /// The target opens the gate before "thawed" is written.
    ThawedNotWritten,
    /// The target gives back after it opened the gate.
    GiveBackAfterThaw,
    /// The target forgets that it gives back before the directory knows.
    GiveBackForgotten,
    /// The target reports that it runs before it opens the gate.
    ReportBeforeGate,
    /// The directory lets a claim succeed after a revocation.
    ClaimIgnoresRevoke,
    /// The directory refuses a repeated claim.
    ClaimNotRepeatable,
    /// The directory takes states of old generations.
    StateOfAnyGeneration,
    /// A host that was declared gone goes on after it heard of it.
    CutOffGoesOn,
    /// A takeover thaws before the directory answered.
    TakeOverWithoutAnswer,
}

impl Mutation {
    /// All of them, in the order of the list.
    pub const ALL: [Self; 17] = [
        Self::KeySentNotWritten,
        Self::UndoAfterKey,
        Self::ThawOnRead,
        Self::RefusalThaws,
        Self::DestroyWhenClaimed,
        Self::BackNotSeen,
        Self::KeyNotWritten,
        Self::GateBeforeAnswer,
        Self::ThawedNotWritten,
        Self::GiveBackAfterThaw,
        Self::GiveBackForgotten,
        Self::ReportBeforeGate,
        Self::ClaimIgnoresRevoke,
        Self::ClaimNotRepeatable,
        Self::StateOfAnyGeneration,
        Self::CutOffGoesOn,
        Self::TakeOverWithoutAnswer,
    ];
}
