//! The commit of a move, explored to the last state; and rules broken on purpose, each of which must be noticed.
//!
//! `MODEL_BUDGET=moves,sidecar kills,host kills,broken links,failures,takeovers` explores that far instead, with
//! `cargo nextest run --release -p model explored --no-capture`.

use std::collections::{HashMap, HashSet};

use model::commit::{Budget, Commit, Mutation, State, show};
use stateright::{Checker, HasDiscoveries, Model};

/// As many as a small machine has.
const THREADS: usize = 2;

const fn budget(of: [u8; 6]) -> Budget {
    let [moves, sidecar_kills, host_kills, breaks, failures, takeovers] = of;
    Budget { moves, sidecar_kills, host_kills, breaks, failures, takeovers }
}

fn explore(budget: Budget) {
    let checker = Commit { budget, mutation: None }
        .checker()
        .threads(THREADS)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    for (name, path) in checker.discoveries() {
        let property = checker.model().properties().into_iter().find(|property| property.name == name);
        let failed = property.is_some_and(|property| property.expectation == stateright::Expectation::Always);
        assert!(!failed, "{name}, does not hold:\n{}", show(&path));
    }
    for property in checker.model().properties() {
        let reached = property.expectation == stateright::Expectation::Always
            || checker.discoveries().contains_key(property.name)
            || !checker.model().can_reach(property.name);
        assert!(reached, "never reached: {}", property.name);
    }
    eprintln!("{budget:?}: {} states", checker.unique_state_count());
}

#[test]
fn one_move_explored() {
    match std::env::var("MODEL_BUDGET") {
        Err(_) => explore(budget([1, 2, 1, 1, 1, 1])),
        Ok(text) => {
            let numbers: Vec<u8> =
                text.split(',').map(|number| number.trim().parse().expect("a number")).collect();
            explore(budget(numbers.try_into().expect("six numbers")));
        }
    }
}

#[test]
fn there_and_back_explored() {
    explore(budget([2, 1, 0, 1, 0, 0]));
    explore(budget([2, 0, 1, 0, 0, 1]));
}

/// Together with "when nothing more goes wrong, it ends with one live copy": it does end.
#[test]
fn what_goes_on_by_itself_comes_to_an_end() {
    let model = Commit { budget: budget([1, 1, 1, 1, 1, 1]), mutation: None };
    let mut reached: HashSet<State> = model.init_states().into_iter().collect();
    let mut open: Vec<State> = reached.iter().copied().collect();
    while let Some(state) = open.pop() {
        open.extend(model.next_states(&state).into_iter().filter(|next| reached.insert(*next)));
    }
    // In the graph of what happens by itself, a state that was entered and not left again is on the way to this one.
    let mut left: HashMap<State, bool> = HashMap::with_capacity(reached.len());
    let next = |state: &State| model.calm_successors(state).map(|(_, next)| next).collect::<Vec<_>>();
    for start in reached {
        if left.contains_key(&start) {
            continue;
        }
        let mut path = vec![(start, next(&start))];
        left.insert(start, false);
        while let Some((state, successors)) = path.last_mut() {
            match successors.pop() {
                None => {
                    left.insert(*state, true);
                    path.pop();
                }
                Some(after) => match left.get(&after) {
                    Some(true) => {}
                    Some(false) => {
                        let round: Vec<_> = path.iter().map(|(state, _)| state.to_string()).collect();
                        panic!("it goes round for ever:\n{}\nand again\n{after}", round.join("\n"))
                    }
                    None => {
                        left.insert(after, false);
                        path.push((after, next(&after)));
                    }
                },
            }
        }
    }
}

macro_rules! noticed {
    ($($test:ident: $mutation:ident, $budget:expr;)*) => {
        $(#[test]
        fn $test() {
            let model = Commit { budget: budget($budget), mutation: Some(Mutation::$mutation) };
            let checker = model.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
            let broken = checker.model().properties().into_iter().find_map(|property| {
                let broken = property.expectation == stateright::Expectation::Always;
                checker.discovery(property.name).filter(|_| broken).map(|path| (property.name, path))
            });
            let (name, path) = broken.expect("the model does not notice");
            eprintln!("{name}, does not hold:\n{}", show(&path));
        })*
        #[test]
        fn every_mutation_has_its_test() {
            let tested = [$(Mutation::$mutation),*];
            assert_eq!(tested, Mutation::ALL);
        }
    };
}

noticed! {
    notices_a_key_sent_before_it_is_written: KeySentNotWritten, [1, 1, 0, 0, 0, 0];
    notices_undoing_alone_after_the_key: UndoAfterKey, [1, 0, 0, 1, 0, 0];
    notices_thawing_on_a_read: ThawOnRead, [1, 0, 0, 1, 0, 0];
    notices_thawing_on_a_refusal: RefusalThaws, [1, 0, 0, 1, 0, 0];
    notices_destroying_what_is_only_claimed: DestroyWhenClaimed, [1, 0, 0, 1, 1, 0];
    notices_an_offer_back_that_is_not_seen: BackNotSeen, [1, 0, 0, 0, 1, 0];
    notices_claiming_before_the_key_is_written: KeyNotWritten, [1, 1, 0, 0, 0, 0];
    notices_opening_the_gate_before_the_answer: GateBeforeAnswer, [1, 0, 0, 1, 0, 0];
    notices_opening_the_gate_before_it_is_written: ThawedNotWritten, [1, 0, 1, 0, 0, 0];
    notices_giving_back_what_ran: GiveBackAfterThaw, [1, 0, 0, 0, 1, 0];
    notices_a_giving_back_that_is_forgotten: GiveBackForgotten, [1, 1, 0, 0, 1, 0];
    notices_a_report_before_the_gate: ReportBeforeGate, [1, 0, 0, 1, 1, 0];
    notices_a_claim_after_a_revocation: ClaimIgnoresRevoke, [1, 0, 0, 1, 0, 0];
    notices_a_claim_that_is_not_repeatable: ClaimNotRepeatable, [1, 0, 0, 0, 0, 0];
    notices_a_report_of_an_old_generation: StateOfAnyGeneration, [2, 1, 0, 1, 1, 0];
    notices_a_cut_off_host_that_goes_on: CutOffGoesOn, [1, 0, 0, 1, 0, 1];
    notices_a_takeover_without_an_answer: TakeOverWithoutAnswer, [1, 0, 0, 1, 0, 1];
}
