//! What there is: two hosts, the directory's record, the conversation of a move, and requests under way.

#![expect(missing_docs, reason = "named as what they mirror")]

use overlay_proto::{Generation, HostName, OfferId};

/// Hosts of the model, by number.
pub const HOSTS: [Host; 2] = [0, 1];

/// One of the two hosts.
pub type Host = u8;

/// The other one.
pub fn other(host: Host) -> Host {
    1 - host
}

/// The `n`th move, or the offer back that follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offer {
    /// Which move.
    pub number: u8,
    /// Made by the target, to the source, with the same key.
    pub back: bool,
}

impl Offer {
    /// The offer of a move.
    pub fn of(number: u8) -> Self {
        Self { number, back: false }
    }

    /// The same move's offer back.
    pub fn back(self) -> Self {
        Self { back: true, ..self }
    }
}

/// What one host has of the capsule's processes. The number tells how often processes ran before: an image that ran
/// must never run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// Nothing.
    None,
    /// They run.
    Running(u8),
    /// They ran, and stand still.
    Frozen(u8),
    /// Restored from an image of that age, and have made no step.
    AtGate(u8),
}

/// What survives a crash of the sidecar and of the host: `capsule.json` and the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    /// There is a directory of the capsule.
    pub exists: bool,
    /// The last generation written down.
    pub generation: u8,
    pub journal: Journal,
}

/// The journal, as [`capsule_sidecar::moving::journal::Journal`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Journal {
    #[default]
    Quiet,
    Offered(Offer),
    KeySent(Offer),
    Undone(Offer),
    Arriving,
    Key(Offer),
    Thawed {
        generation: u8,
        reported: bool,
    },
    GivingBack(Offer),
    Superseded,
}

/// What a host's sidecar is in the middle of; lost when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing.
    Idle,
    /// Source: the offer was sent.
    Offering(Offer),
    /// Source: files go ahead.
    Ahead(Offer),
    /// Source: frozen, the image is on its way.
    Frozen(Offer),
    /// Source: "key sent" is written, the key is not sent.
    KeyWritten(Offer),
    /// Source: waits for the target's word.
    KeySent(Offer),
    /// Target: at the gate, without the key.
    AtGate(Offer),
    /// Has asked what the journal demanded.
    Asking(Request),
    /// Asks how the record stands.
    Looking,
    /// Decides again when the watch or a repeated question may say more.
    Waiting,
    /// "Undone" is written, the processes are about to be thawed.
    Undoing,
    /// "Thawed" is written, the gate is about to be opened.
    Thawing,
    /// The copy here was destroyed, the offer back is on its way.
    GivingBack(Offer),
    /// Everything is removed: processes first, then files.
    Discarding,
}

/// What the directory answered, as far as anybody goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It holds, at this generation.
    Holds(u8),
    /// It does not: another offer is open.
    Pending(Offer),
    /// It does not.
    Refused,
}

/// One host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostState {
    /// Its sidecar runs.
    pub up: bool,
    pub copy: Copy,
    pub disk: Disk,
    pub phase: Phase,
    /// An answer that arrived and was not looked at yet.
    pub answer: Option<Answer>,
    /// An offer that is withdrawn in the background.
    pub withdraw: Option<Offer>,
    /// `running` has to be reported.
    pub report: bool,
    /// What the watch showed last: the record as it is, or as it was.
    pub view: Record,
    /// An operator said that this host is gone, and it has not heard of that.
    pub declared_gone: bool,
}

/// What source and target say to each other: in order, until the link breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Image(Offer, u8),
    AtGate,
    Key(Offer),
    Running,
    TakeBack,
    Failed,
}

/// Words on their way in one direction.
pub type Lane = [Option<Word>; 2];

/// The conversation of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Talk {
    pub source: Host,
    /// Towards host 0 and host 1.
    pub lanes: [Lane; 2],
    /// Who still holds his end.
    pub open: [bool; 2],
    /// Nothing more gets through; what arrived can still be heard.
    pub broken: bool,
}

/// A request to the directory. One that was sent may be carried out at any time, any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    Offer(Offer),
    Claim(Offer),
    Revoke(Offer),
    /// "It runs here, at this generation."
    Running(Host, u8),
    /// The operator's takeover to this host.
    TakeOver(Host),
}

/// The part of the directory's record that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub host: Host,
    pub generation: u8,
    pub running: bool,
    pub offer: Option<OpenOffer>,
    pub outcome: Option<Outcome>,
}

/// An open offer in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenOffer {
    pub id: Offer,
    pub generation: u8,
    pub target: Host,
    pub running_before: bool,
}

/// How the last one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub id: OutcomeId,
    pub kind: directory_api::Outcome,
    pub generation: u8,
    pub host: Host,
}

/// What an outcome is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeId {
    Offer(Offer),
    TakeOver(Host),
}

/// How much may go wrong, and how much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Moves that are begun.
    pub moves: u8,
    /// Sidecars killed.
    pub sidecar_kills: u8,
    /// Hosts that lose their memory.
    pub host_kills: u8,
    /// Links broken while both ends live.
    pub breaks: u8,
    /// Restores and thaws that fail, moves cancelled.
    pub failures: u8,
    /// Takeovers by an operator.
    pub takeovers: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub record: Record,
    pub hosts: [HostState; 2],
    pub talk: Option<Talk>,
    /// Requests that were sent, by [`Request::bit`].
    pub sent: u64,
    /// Generation and source of each move.
    pub moves: [Option<(u8, Host)>; MOVES_MAX],
    /// Host of the takeover, the generation that the person saw, and the offer that left the copy.
    pub takeover: Option<(Host, u8, Option<Offer>)>,
    pub left: Budget,
    /// Age of the processes that ran last.
    pub ran: u8,
    /// An image ran although processes that came from it had run already.
    pub rolled_back: bool,
    /// Processes that had run went with their host's memory.
    pub memory_lost: bool,
    /// What has happened, to see that the model reaches it.
    pub seen: Seen,
}

/// What has happened in a state's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    pub moved: bool,
    pub given_back: bool,
    pub revoked_after_key: bool,
    pub taken_over: bool,
}

/// Most moves of one run.
pub const MOVES_MAX: usize = 2;
/// Generations that one run can reach.
const GENERATIONS_MAX: u64 = 16;

impl Request {
    /// Its place in [`State::sent`].
    pub fn bit(self) -> u64 {
        let of = |offer: Offer| u64::from(offer.number) * 2 + u64::from(offer.back);
        let per_kind = MOVES_MAX as u64 * 2;
        let place = match self {
            Self::Offer(offer) => of(offer),
            Self::Claim(offer) => per_kind + of(offer),
            Self::Revoke(offer) => 2 * per_kind + of(offer),
            Self::TakeOver(host) => 3 * per_kind + u64::from(host),
            Self::Running(host, generation) => {
                3 * per_kind + 2 + u64::from(host) * GENERATIONS_MAX + u64::from(generation)
            }
        };
        assert!(place < 64, "{self:?} has no place");
        1 << place
    }
}

impl Request {
    /// Those that were sent.
    pub fn all(state: &State) -> impl Iterator<Item = Self> + use<> {
        let sent = state.sent;
        let moves = state.moves.iter().flatten().count();
        let offers = (0..moves).flat_map(|number| {
            let offer = Offer::of(u8::try_from(number).expect("few moves"));
            [offer, offer.back()]
        });
        let by_offer = offers.flat_map(|offer| [Self::Offer(offer), Self::Claim(offer), Self::Revoke(offer)]);
        let reports = HOSTS.into_iter().flat_map(|host| {
            (0..GENERATIONS_MAX as u8).map(move |generation| Self::Running(host, generation))
        });
        let takeovers = HOSTS.into_iter().map(Self::TakeOver);
        by_offer.chain(takeovers).chain(reports).filter(move |request| sent & request.bit() != 0)
    }
}

impl State {
    /// Host 0 has the capsule, and it runs.
    pub fn new(left: Budget) -> Self {
        let record = Record { host: 0, generation: 1, running: true, offer: None, outcome: None };
        let host = |copy, exists| HostState {
            up: true,
            copy,
            disk: Disk { exists, generation: u8::from(exists), ..Disk::default() },
            phase: Phase::Idle,
            answer: None,
            withdraw: None,
            report: false,
            view: record,
            declared_gone: false,
        };
        Self {
            record,
            hosts: [host(Copy::Running(1), true), host(Copy::None, false)],
            talk: None,
            sent: 0,
            moves: [None; MOVES_MAX],
            takeover: None,
            left,
            ran: 1,
            rolled_back: false,
            memory_lost: false,
            seen: Seen::default(),
        }
    }

    pub fn host(&mut self, host: Host) -> &mut HostState {
        &mut self.hosts[usize::from(host)]
    }

    pub fn send(&mut self, request: Request) {
        self.sent |= request.bit();
    }

    /// Says something to the other side of the conversation, if the link holds.
    pub fn say(&mut self, from: Host, word: Word) {
        let Some(talk) = &mut self.talk else { return };
        if talk.broken || talk.open != [true; 2] {
            return;
        }
        let lane = &mut talk.lanes[usize::from(other(from))];
        let place =
            lane.iter_mut().find(|place| place.is_none()).expect("two words at most are on their way");
        *place = Some(word);
    }

    /// This side leaves the conversation.
    pub fn hang_up(&mut self, host: Host) {
        if let Some(talk) = &mut self.talk {
            talk.open[usize::from(host)] = false;
            talk.lanes[usize::from(host)] = [None; 2];
            if talk.open == [false; 2] {
                self.talk = None;
            }
        }
    }

    /// The processes on this host make steps from here on.
    pub fn let_run(&mut self, host: Host) {
        let gone = self.hosts[usize::from(host)].declared_gone;
        let age = match self.hosts[usize::from(host)].copy {
            Copy::Frozen(age) | Copy::AtGate(age) => age,
            Copy::Running(_) | Copy::None => return,
        };
        if gone {
            // It does not know better, and what it does was given up.
            self.host(host).copy = Copy::Running(age);
            return;
        }
        self.rolled_back |= age != self.ran;
        self.ran += 1;
        self.host(host).copy = Copy::Running(self.ran);
    }

    /// How many copies run, those aside that an operator declared gone and that could not hear of it yet.
    pub fn live(&self) -> usize {
        let runs = |host: &&HostState| matches!(host.copy, Copy::Running(_)) && !host.declared_gone;
        self.hosts.iter().filter(runs).count()
    }
}

/// Number of an offer as the directory knows it.
pub fn offer_id(offer: Offer) -> OfferId {
    OfferId::from_bytes([offer.number * 2 + u8::from(offer.back) + 1; 16])
}

/// Name of a host as the directory knows it.
pub fn host_name(host: Host) -> HostName {
    ["a", "b"][usize::from(host)].parse().expect("a host name")
}

/// A generation as the directory knows it.
pub fn generation(number: u8) -> Generation {
    Generation::new(u64::from(number))
}
