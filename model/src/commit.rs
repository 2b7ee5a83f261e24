//! The commit of a move, for two hosts and a directory, explored to the last state.
//!
//! | part | is |
//! |---|---|
//! | the directory's rules | the real ones: `capsule_directory::placement` |
//! | what follows from a journal | the real one: `capsule_sidecar::moving::journal::decide` |
//! | the steps of source and target | written down here after `sidecar/src/moving/{source,target}`: they are IO |
//!
//! What may happen, at any moment and in any order: a request to the directory is carried out late, often, or never,
//! and its answer comes, comes late, or is lost (a directory that is away or restarts does no more than that); the link
//! breaks, with what was on it; a watch shows the record as it was; a sidecar dies, while frozen processes, those at the
//! gate, and what was written down survive it; a host dies, and only what was written down survives; restores and thaws
//! fail; a person cancels, or declares a host gone and takes over. [`Budget`] bounds how often.
//!
//! What holds is said in [`Model::properties`]; that it would be noticed, by [`Mutation`].

mod directory;
mod hosts;
mod mishaps;
mod mutation;
mod shown;
pub mod state;
mod successor;

use stateright::{Model, Property};

pub use mutation::Mutation;
pub use shown::show;
pub use state::{Budget, Host, State};

use state::{Copy, HOSTS, Journal, Phase, Request, other};

/// The model.
#[derive(Clone, Debug)]
pub struct Commit {
    /// How much may happen.
    pub budget: Budget,
    /// The rule that is broken, to see that it is missed.
    pub mutation: Option<Mutation>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A person moves the capsule away from this host.
    Begin(Host),
    /// The host does the next thing of its phase.
    Step(Host),
    /// It hears the next word of the conversation.
    Hear(Host),
    /// It notices that the conversation broke.
    Notice(Host),
    /// Its watch catches up.
    Watch(Host),
    /// It waits for the directory to say more, and asks again.
    AskAgain(Host),
    /// It waits, and decides by what its watch shows.
    DecideByWatch(Host),
    /// It decides by how the record stands when it asks.
    DecideByLookup(Host),
    /// It takes the directory to be away.
    DecideAlone(Host),
    /// It looks at an answer that came.
    TakeAnswer(Host),
    /// The directory carries a request out; the answer arrives, or does not.
    Serve(Request, bool),
    /// What the host does fails, or is cancelled.
    Fail(Host),
    /// The link breaks.
    Break,
    /// The host's sidecar is killed.
    KillSidecar(Host),
    /// The host is switched off.
    KillHost(Host),
    /// The host's sidecar starts.
    Restart(Host),
    /// A person declares the other host gone and takes the capsule over to this one.
    TakeOver(Host),
}

impl Action {
    /// Whether it happens by itself and is no mishap: when nothing more goes wrong, only these go on.
    pub fn is_calm(self, model: &Commit, state: &State) -> bool {
        match self {
            Self::Step(_)
            | Self::Hear(_)
            | Self::Notice(_)
            | Self::Watch(_)
            | Self::DecideByLookup(_)
            | Self::TakeAnswer(_)
            | Self::Restart(_) => true,
            // Asking again and again about the same is no step forward.
            Self::AskAgain(host) => model.would_hear_more(state, host),
            Self::Serve(request, answered) => answered && hosts::asks(state, request),
            Self::Begin(_)
            | Self::DecideByWatch(_)
            | Self::DecideAlone(_)
            | Self::Fail(_)
            | Self::Break
            | Self::KillSidecar(_)
            | Self::KillHost(_)
            | Self::TakeOver(_) => false,
        }
    }
}

impl Model for Commit {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.budget)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for host in HOSTS {
            for action in [
                Action::Begin(host),
                Action::Step(host),
                Action::Hear(host),
                Action::Notice(host),
                Action::Watch(host),
                Action::AskAgain(host),
                Action::DecideByLookup(host),
                Action::DecideByWatch(host),
                Action::DecideAlone(host),
                Action::TakeAnswer(host),
                Action::Fail(host),
                Action::KillSidecar(host),
                Action::KillHost(host),
                Action::Restart(host),
                Action::TakeOver(host),
            ] {
                actions.push(action);
            }
        }
        actions.push(Action::Break);
        for request in Request::all(state) {
            actions.push(Action::Serve(request, true));
            actions.push(Action::Serve(request, false));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, action).filter(|after| after != state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one live copy", |_, state: &State| state.live() <= 1),
            Property::always("no image runs after what came from it ran", |_, state: &State| {
                !state.rolled_back
            }),
            Property::always(
                "when nothing more goes wrong, it ends with one live copy",
                |model: &Self, state: &State| model.has_calm_action(state) || ends_well(state),
            ),
            Property::sometimes(MOVED, |_, state: &State| state.seen.moved),
            Property::sometimes(REVOKED, |_, state: &State| state.seen.revoked_after_key),
            Property::sometimes(GIVEN_BACK, |_, state: &State| state.seen.given_back),
            Property::sometimes(TAKEN_OVER, |_, state: &State| state.seen.taken_over),
        ]
    }
}

const MOVED: &str = "a move completes";
const REVOKED: &str = "a source gets its capsule back after the key was sent";
const GIVEN_BACK: &str = "a target gives a capsule back";
const TAKEN_OVER: &str = "an operator takes a capsule over";

impl Commit {
    /// Whether a thing that should happen sometimes is within the budget.
    pub fn can_reach(&self, property: &str) -> bool {
        match property {
            GIVEN_BACK => self.budget.failures > 0,
            TAKEN_OVER => self.budget.takeovers > 0,
            _ => true,
        }
    }

    /// Whether something still happens by itself.
    pub fn has_calm_action(&self, state: &State) -> bool {
        self.calm_successors(state).next().is_some()
    }

    /// Where things go by themselves.
    pub fn calm_successors<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (Action, State)> + 'a {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().filter(|action| action.is_calm(self, state)).filter_map(|action| {
            let after = self.next_state(state, action)?;
            Some((action, after))
        })
    }
}

/// What must be when nothing happens any more.
fn ends_well(state: &State) -> bool {
    let [a, b] = &state.hosts;
    let running =
        HOSTS.into_iter().filter(|host| matches!(state.hosts[usize::from(*host)].copy, Copy::Running(_)));
    let running: Vec<Host> = running.collect();
    match running[..] {
        // It runs where it is placed, and nothing is left in the middle of something; what was cut off stays frozen.
        [host] => {
            let rest = &state.hosts[usize::from(other(host))];
            let alone = match rest.copy {
                Copy::None => true,
                Copy::Frozen(_) => rest.disk.journal == Journal::Superseded,
                Copy::Running(_) | Copy::AtGate(_) => false,
            };
            state.record.host == host && alone && a.phase == Phase::Idle && b.phase == Phase::Idle
        }
        // Its host's memory went. A frozen copy that waits, because what came from it may have run, is the operator's.
        [] => {
            let stuck = HOSTS.into_iter().any(|host| {
                let (here, there) = (&state.hosts[usize::from(host)], &state.hosts[usize::from(other(host))]);
                let may_have_run = match there.disk.journal {
                    Journal::Thawed { .. }
                    | Journal::Offered(_)
                    | Journal::KeySent(_)
                    | Journal::Undone(_) => true,
                    Journal::Quiet
                    | Journal::Arriving
                    | Journal::Key(_)
                    | Journal::GivingBack(_)
                    | Journal::Superseded => false,
                };
                let waits = matches!(here.copy, Copy::Frozen(_))
                    && here.disk.journal != Journal::Superseded
                    && !(may_have_run && here.phase == Phase::Waiting);
                waits || matches!(here.copy, Copy::AtGate(_))
            });
            state.memory_lost && !stuck
        }
        _ => false,
    }
}

impl Commit {
    fn after(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        let done = match action {
            Action::Begin(host) => self.begin(&mut state, host),
            Action::Step(host) => self.step(&mut state, host),
            Action::Hear(host) => self.hear(&mut state, host),
            Action::Notice(host) => self.notice(&mut state, host),
            Action::Watch(host) => self.watch(&mut state, host),
            Action::AskAgain(host) => self.ask_again(&mut state, host),
            Action::DecideByLookup(host) => self.decide_by_lookup(&mut state, host),
            Action::DecideByWatch(host) => self.decide_by_watch(&mut state, host),
            Action::DecideAlone(host) => self.decide_alone(&mut state, host),
            Action::TakeAnswer(host) => self.take_answer(&mut state, host),
            Action::Serve(request, answered) => self.serve(&mut state, request, answered),
            Action::Fail(host) => self.fail(&mut state, host),
            Action::Break => self.break_link(&mut state),
            Action::KillSidecar(host) => self.kill_sidecar(&mut state, host),
            Action::KillHost(host) => self.kill_host(&mut state, host),
            Action::Restart(host) => self.restart(&mut state, host),
            Action::TakeOver(host) => self.take_over(&mut state, host),
        };
        done.then_some(state)
    }
}
