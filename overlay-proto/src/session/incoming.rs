//! Counters of the direction from the other half to the program.

use super::key::{End, EndKind};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Incoming {
    /// Taken by S.
    pub(super) delivered: u64,
    /// Last offset that the other half was told it may forget.
    pub(super) reported: u64,
    /// Last end that the other half was told was applied, under the present key.
    pub(super) end_reported: Option<EndKind>,
    /// How the other program ended it.
    pub(super) end: Option<End>,
    /// The shell was asked to apply this end.
    pub(super) applying: Option<EndKind>,
    /// This end was applied to S.
    pub(super) applied: Option<EndKind>,
    /// The program owns the connection.
    pub(super) accepted: bool,
    /// S takes nothing: the RST goes ahead of the bytes before it.
    pub(super) stalled: bool,
    /// The shell takes from a data stream.
    pub(super) active: bool,
}

impl Incoming {
    pub(super) fn is_reset(&self) -> bool {
        self.end.is_some_and(|end| end.kind == EndKind::Reset)
    }

    /// What the other half may forget. A connection that waits in the accept queue is dialled again after a move,
    /// from offset 0, so nothing may be forgotten before the program owns it.
    pub(super) fn acknowledged(&self) -> u64 {
        if self.accepted { self.delivered } else { 0 }
    }

    /// The end that the other half may forget. After a RST there is nothing to dial again.
    pub(super) fn end_acknowledged(&self) -> Option<EndKind> {
        self.applied.filter(|kind| self.accepted || *kind == EndKind::Reset)
    }

    pub(super) fn unreported(&self) -> u64 {
        self.acknowledged().saturating_sub(self.reported)
    }

    pub(super) fn wants_stream(&self) -> bool {
        self.end.is_none_or(|end| self.delivered < end.offset) && self.applied.is_none() && !self.stalled
    }

    /// The end whose time has come.
    pub(super) fn due(&self) -> Option<EndKind> {
        let end = self.end?;
        let complete = self.delivered >= end.offset;
        match end.kind {
            EndKind::Fin => (complete && self.applied.is_none()).then_some(EndKind::Fin),
            EndKind::Reset => {
                ((complete || self.stalled) && self.applied != Some(EndKind::Reset)).then_some(EndKind::Reset)
            }
        }
    }
}
