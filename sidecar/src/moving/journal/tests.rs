use directory_api::{CapsuleState, TakeoverFrom};

use super::*;

const G: u64 = 5;

fn offer() -> OfferId {
    OfferId::from_bytes([1; 16])
}

fn back() -> OfferId {
    OfferId::from_bytes([2; 16])
}

fn key() -> ClaimKey {
    ClaimKey::from_bytes([3; 32])
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn at(number: u64) -> Generation {
    Generation::new(number)
}

fn stands(here: bool, generation: u64, state: CapsuleState) -> Answer {
    let generation = at(generation);
    Answer::Stands(Standing { here, generation, state, open: None, back: None, taken_over: false })
}

const ALL: [Processes; 6] = [
    Processes::Running,
    Processes::Frozen,
    Processes::AtGate,
    Processes::Unfinished,
    Processes::Exited(3),
    Processes::Gone,
];

fn key_sent() -> Journal {
    Journal::KeySent { offer: offer(), generation: at(G), key: key() }
}

fn with_key() -> Journal {
    Journal::Key { offer: offer(), key: key(), source: host("a") }
}

fn thawed(reported: bool) -> Journal {
    Journal::Thawed { generation: at(G), reported }
}

fn decided(journal: &Journal, processes: Processes, answer: Option<Answer>) -> Decision {
    decide(journal, processes, at(G), answer.as_ref())
}

#[test]
fn before_the_key_was_sent_nobody_is_asked() {
    let withdraw = Some(offer());
    for journal in [Journal::Offered { offer: offer() }, Journal::Undone { offer: offer() }] {
        for answer in [None, Some(Answer::Nothing), Some(stands(false, 9, CapsuleState::Running))] {
            let decided = |processes| decided(&journal, processes, answer.clone());
            let go_on = Decision::GoOn { generation: None, withdraw };
            assert_eq!(decided(Processes::Running), go_on);
            assert_eq!(decided(Processes::Frozen), Decision::Undo { generation: None, withdraw });
            let ended = |code| Decision::Ended { code, generation: None, withdraw };
            assert_eq!(decided(Processes::Exited(3)), ended(Some(3)));
            assert_eq!(decided(Processes::Gone), ended(None));
        }
    }
}

#[test]
fn what_was_coming_without_a_key_or_being_removed_goes() {
    for journal in [Journal::Arriving, Journal::Removing] {
        for processes in ALL {
            assert_eq!(decided(&journal, processes, None), Decision::Discard);
        }
    }
}

/// The source after the key: what the directory says for what is there, one line for each.
#[test]
fn after_the_key_was_sent_the_directory_decides() {
    use CapsuleState::{Lost, Moving, Running, Stopped, Suspended};
    let ask = Decision::Ask(Question::Revoke { offer: offer() });
    let undo = |generation| Decision::Undo { generation: Some(at(generation)), withdraw: None };
    let of = |answer| decided(&key_sent(), Processes::Frozen, answer);
    assert_eq!(of(None), ask);
    assert_eq!(of(Some(Answer::Nothing)), Decision::Wait);
    assert_eq!(of(Some(Answer::Ours(at(G + 1)))), undo(G + 1));
    assert_eq!(of(Some(Answer::Unknown)), Decision::Discard);
    // Claimed, and not known to run: ours may be the only image.
    assert_eq!(of(Some(stands(false, G + 1, Moving))), Decision::Wait);
    assert_eq!(of(Some(stands(false, G + 1, Lost))), Decision::Wait);
    for state in [Running, Stopped, Suspended] {
        assert_eq!(of(Some(stands(false, G + 1, state))), Decision::Discard);
    }
    // It ran there and went on from there, whatever it does now.
    for state in [Running, Moving, Lost, Stopped, Suspended] {
        assert_eq!(of(Some(stands(false, G + 2, state))), Decision::Discard);
    }
    // A record older than the claim says nothing.
    assert_eq!(of(Some(stands(false, G, Running))), Decision::Wait);
    // Given back: only the claim lets it go on.
    let given_back = Standing {
        here: false,
        generation: at(G + 1),
        state: Moving,
        open: Some(back()),
        back: Some(back()),
        taken_over: false,
    };
    let claim = Decision::Ask(Question::Claim { offer: back(), key: key() });
    assert_eq!(of(Some(Answer::Stands(given_back.clone()))), claim);
    // Offered on to another host, it has run; taken over by another host, ours may be the only data.
    let offered_on = Standing { back: None, ..given_back.clone() };
    assert_eq!(of(Some(Answer::Stands(offered_on))), Decision::Discard);
    let taken = Standing { generation: at(G + 2), taken_over: true, open: None, back: None, ..given_back };
    assert_eq!(of(Some(Answer::Stands(taken))), Decision::Supersede { by: Some(at(G + 2)) });
    // Placed here after the offer: nobody can claim by it any more. While it may be open, a view of it says nothing.
    assert_eq!(of(Some(stands(true, G + 2, Lost))), undo(G + 2));
    assert_eq!(of(Some(stands(true, G, Moving))), Decision::Wait);
}

#[test]
fn a_source_without_processes_does_the_same_with_its_files() {
    let of = |answer| decided(&key_sent(), Processes::Gone, answer);
    // It does not revoke: what stands at the gate of the target may be the only copy.
    assert_eq!(of(None), Decision::Ask(Question::Lookup));
    assert_eq!(of(Some(stands(true, G, CapsuleState::Moving))), Decision::Wait);
    let ended = Decision::Ended { code: None, generation: Some(at(G + 1)), withdraw: None };
    assert_eq!(of(Some(Answer::Ours(at(G + 1)))), ended);
    assert_eq!(of(Some(stands(false, G + 1, CapsuleState::Moving))), Decision::Wait);
    assert_eq!(of(Some(stands(false, G + 1, CapsuleState::Running))), Decision::Discard);
}

#[test]
fn a_target_with_the_key_claims_again() {
    for processes in ALL {
        let of = |answer| decided(&with_key(), processes, answer);
        assert_eq!(of(None), Decision::Ask(Question::Claim { offer: offer(), key: key() }));
        assert_eq!(of(Some(Answer::Nothing)), Decision::Wait);
        assert_eq!(of(Some(Answer::Unknown)), Decision::Discard);
        assert_eq!(of(Some(stands(false, G + 1, CapsuleState::Running))), Decision::Discard);
        assert_eq!(of(Some(stands(false, G, CapsuleState::Moving))), Decision::Discard);
    }
    let of = |processes| decided(&with_key(), processes, Some(Answer::Ours(at(G + 1))));
    assert_eq!(of(Processes::AtGate), Decision::OpenGate { generation: at(G + 1) });
    let give_back = Decision::GiveBack { generation: at(G + 1), source: host("a"), key: key() };
    for processes in [Processes::Unfinished, Processes::Exited(1), Processes::Gone] {
        assert_eq!(of(processes), give_back);
    }
}

#[test]
fn a_target_that_was_about_to_thaw_never_restores_again() {
    let here = Some(stands(true, G, CapsuleState::Moving));
    for reported in [false, true] {
        let of = |processes, answer| decided(&thawed(reported), processes, answer);
        assert_eq!(of(Processes::AtGate, None), Decision::Ask(Question::Lookup));
        for answer in [Some(Answer::Nothing), here.clone()] {
            assert_eq!(of(Processes::AtGate, answer.clone()), Decision::OpenGate { generation: at(G) });
            let go_on = Decision::GoOn { generation: None, withdraw: None };
            assert_eq!(of(Processes::Running, answer.clone()), go_on);
            let ended = |code| Decision::Ended { code, generation: None, withdraw: None };
            assert_eq!(of(Processes::Exited(3), answer.clone()), ended(Some(3)));
            let gone = if reported { ended(None) } else { Decision::Died { generation: at(G) } };
            assert_eq!(of(Processes::Gone, answer), gone);
        }
        let taken = Some(stands(false, G + 1, CapsuleState::Running));
        assert_eq!(of(Processes::AtGate, taken.clone()), Decision::Discard);
        assert_eq!(of(Processes::Running, taken), Decision::Supersede { by: Some(at(G + 1)) });
    }
}

#[test]
fn giving_back_and_being_superseded_go_on_as_they_began() {
    let giving = Journal::GivingBack { generation: at(G), key: key(), source: host("a") };
    for processes in ALL {
        let give_back = Decision::GiveBack { generation: at(G), source: host("a"), key: key() };
        assert_eq!(decided(&giving, processes, None), give_back);
        assert_eq!(decided(&Journal::Superseded, processes, None), Decision::Supersede { by: None });
    }
}

#[test]
fn without_a_move_a_capsule_goes_on_unless_it_was_taken_over() {
    let of = |processes, answer| decided(&Journal::Quiet, processes, answer);
    let go_on = |generation, withdraw| Decision::GoOn { generation, withdraw };
    assert_eq!(of(Processes::Running, None), Decision::Ask(Question::Lookup));
    assert_eq!(of(Processes::Running, Some(Answer::Nothing)), go_on(None, None));
    assert_eq!(of(Processes::Running, Some(stands(true, G, CapsuleState::Running))), go_on(None, None));
    assert_eq!(
        of(Processes::Frozen, Some(stands(true, G, CapsuleState::Running))),
        Decision::Undo { generation: None, withdraw: None }
    );
    // A revocation whose answer was lost with the sidecar, and an offer that nobody remembers.
    let newer = stands(true, G + 1, CapsuleState::Running);
    assert_eq!(of(Processes::Running, Some(newer)), go_on(Some(at(G + 1)), None));
    let open = Standing {
        here: true,
        generation: at(G),
        state: CapsuleState::Moving,
        open: Some(offer()),
        back: None,
        taken_over: false,
    };
    assert_eq!(of(Processes::Running, Some(Answer::Stands(open))), go_on(None, Some(offer())));
    for processes in [Processes::Running, Processes::Frozen, Processes::Exited(0), Processes::Gone] {
        let elsewhere = Some(stands(false, G + 1, CapsuleState::Running));
        assert_eq!(of(processes, elsewhere), Decision::Supersede { by: Some(at(G + 1)) });
        assert_eq!(of(processes, Some(Answer::Unknown)), Decision::Supersede { by: None });
        // A directory that was set back.
        let older = of(processes, Some(stands(false, G - 1, CapsuleState::Running)));
        assert!(!matches!(older, Decision::Supersede { .. } | Decision::Discard), "{older:?}");
    }
}

/// Whatever is there: after the key only a grant lets processes go on, and nothing is destroyed without an answer.
#[test]
fn no_reading_lets_processes_go_on_after_the_key() {
    let states = [
        CapsuleState::Running,
        CapsuleState::Moving,
        CapsuleState::Lost,
        CapsuleState::Stopped,
        CapsuleState::Suspended,
    ];
    for journal in [key_sent(), with_key()] {
        for processes in ALL {
            for answer in [None, Some(Answer::Nothing)] {
                let decision = decided(&journal, processes, answer);
                assert!(matches!(decision, Decision::Ask(_) | Decision::Wait), "{decision:?}");
            }
            for state in states {
                for generation in G - 1..G + 3 {
                    let decision = decided(&journal, processes, Some(stands(false, generation, state)));
                    let lives = matches!(
                        decision,
                        Decision::GoOn { .. } | Decision::Undo { .. } | Decision::OpenGate { .. }
                    );
                    assert!(!lives, "{journal:?} {processes:?} {state} {generation}: {decision:?}");
                }
            }
        }
    }
}

#[test]
fn a_journal_is_read_as_far_as_it_was_written() {
    let directory = std::env::temp_dir().join(format!("cx-journal-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let read = || Journal::read(&directory).unwrap();
    assert_eq!(read(), Journal::Quiet);
    let arriving = Entry::Arriving { offer: offer(), source: host("a") };
    let entries = [arriving, Entry::Key { key: key() }, Entry::Thawed { generation: at(G) }, Entry::Reported];
    let states = [Journal::Arriving, with_key(), thawed(false), thawed(true)];
    for (entry, state) in entries.iter().zip(states) {
        write(&directory, entry).unwrap();
        assert_eq!(read(), state);
    }
    // It leaves again: what was before no longer counts.
    let offered = Entry::Offered { offer: back(), generation: at(G), target: host("c"), keep_anchored: true };
    write(&directory, &offered).unwrap();
    assert_eq!(read(), Journal::Offered { offer: back() });
    write(&directory, &Entry::KeySent { key: key() }).unwrap();
    let sent = Journal::KeySent { offer: back(), generation: at(G), key: key() };
    assert_eq!(read(), sent);
    // Killed in the middle of a line: nothing followed from it, and the next writer puts it right.
    let torn = std::fs::read_to_string(path(&directory)).unwrap() + r#"{"about_to":"und"#;
    std::fs::write(path(&directory), torn).unwrap();
    assert_eq!(read(), sent);
    write(&directory, &Entry::Undone).unwrap();
    assert_eq!(read(), Journal::Undone { offer: back() });
    write(&directory, &Entry::Superseded { generation: None }).unwrap();
    assert_eq!(read(), Journal::Superseded);
    // An entry of a newer version is not passed over.
    std::fs::write(path(&directory), "{\"about_to\":\"something_else\"}\n").unwrap();
    assert!(Journal::read(&directory).is_err());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_target_that_gives_back_remembers_to_whom() {
    let lines = [
        Entry::Arriving { offer: offer(), source: host("a") },
        Entry::Key { key: key() },
        Entry::GivingBack { generation: at(G) },
    ];
    let text: String = lines.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
    let giving = Journal::GivingBack { generation: at(G), key: key(), source: host("a") };
    assert_eq!(Journal::of(&text).unwrap(), giving);
}

#[test]
fn a_takeover_from_a_file_is_asked_again_until_it_is_answered() {
    let (takeover, generation, file) = (offer(), at(G), at(G - 2));
    let lines = [
        Entry::Resuming { suspension: back(), generation: file },
        Entry::Recovering { takeover, generation, file },
    ];
    let text: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    // Before it was asked nothing is in doubt.
    assert_eq!(Journal::of(&text[0]).unwrap(), Journal::Arriving);
    let journal = Journal::of(&text.concat()).unwrap();
    assert_eq!(journal, Journal::Recovering { takeover, generation, file });
    // Also where a person says `recover` once more, without the file.
    assert_eq!(journal.goes_on_from(), TakeoverFrom::File(file));
    assert_eq!(Journal::Offered { offer: offer() }.goes_on_from(), TakeoverFrom::Copy(offer()));
    assert_eq!(Journal::Superseded.goes_on_from(), TakeoverFrom::Kept);
    let ours = || Some(Answer::Ours(at(G + 1)));
    for processes in ALL {
        let without_a_copy =
            matches!(processes, Processes::Unfinished | Processes::Exited(_) | Processes::Gone);
        let ask = match without_a_copy {
            true => Question::Lookup,
            false => Question::TakeOver { takeover, generation, file },
        };
        assert_eq!(decided(&journal, processes, None), Decision::Ask(ask));
        assert_eq!(decided(&journal, processes, Some(Answer::Nothing)), Decision::Wait);
        for refused in [stands(false, G + 1, CapsuleState::Running), Answer::Unknown] {
            assert_eq!(decided(&journal, processes, Some(refused)), Decision::Discard);
        }
    }
    let generation = at(G + 1);
    assert_eq!(decided(&journal, Processes::AtGate, ours()), Decision::OpenGate { generation });
    for gone in [Processes::Unfinished, Processes::Exited(0), Processes::Gone] {
        assert_eq!(decided(&journal, gone, ours()), Decision::Died { generation });
        let taken = |here, generation, taken_over| {
            let (generation, state) = (at(generation), CapsuleState::Moving);
            Some(Answer::Stands(Standing { here, generation, state, open: None, back: None, taken_over }))
        };
        assert_eq!(decided(&journal, gone, taken(true, G + 1, true)), Decision::Died { generation });
        // It was never carried out: the capsule's host goes on with it.
        for other in [taken(false, G, false), taken(true, G + 1, false), taken(false, G + 2, true)] {
            assert_eq!(decided(&journal, gone, other), Decision::Discard);
        }
    }
}
