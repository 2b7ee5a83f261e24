//! The table at the end, and the verdicts.

use std::collections::BTreeMap;

use testkit::Leftovers;
use testkit::figures::{median, percentile};

use crate::programs::Seen;
use crate::scenario::Moves;
use crate::stage::{Colour, Stage};

/// One line for each program; whether all are ok.
pub(crate) fn show(
    stage: &Stage,
    seen: &[(&'static str, Seen)],
    moves: &BTreeMap<&'static str, Moves>,
) -> bool {
    let header = format!(
        "\n{:8}{:>6}{:>10}{:>6}{:>10}{:>12}{:>13}{:>20}   {}",
        "PROGRAM",
        "MOVES",
        "MESSAGES",
        "LOST",
        "REPEATED",
        "RECONNECTS",
        "LONGEST GAP",
        "PAUSE MEDIAN, MAX",
        "VERDICT"
    );
    stage.line(&stage.paint(Colour::Strong, &header));
    let none = Moves::default();
    let mut all_good = true;
    for (name, seen) in seen {
        let moves = moves.get(name).unwrap_or(&none);
        let fault = fault(seen, moves);
        all_good &= fault.is_none();
        let row = format!(
            "{name:8}{:>6}{:>10}{:>6}{:>10}{:>12}{:>13}{:>20}   {}",
            moves.pauses_ms.len(),
            thousands(seen.messages),
            thousands(seen.lost),
            thousands(seen.repeated),
            seen.reconnects,
            seen.longest_gap_ms.map_or_else(|| "-".to_owned(), |gap| format!("{gap:.0} ms")),
            pauses(&moves.pauses_ms),
            verdict(stage, fault.is_none()),
        );
        stage.line(&row);
        if let Some(fault) = fault {
            stage.line(&format!("        {fault}"));
        }
    }
    all_good
}

/// The killed host, and what is left behind; whether both are ok.
pub(crate) fn show_ending(stage: &Stage, undisturbed: Option<bool>, left: &Leftovers) -> bool {
    let killed = match undisturbed {
        Some(true) => "host c, killed after everything had left it: nothing noticed",
        Some(false) => "host c, killed after everything had left it: the counter stood still",
        None => "host c could not be killed: not everything had left it in time",
    };
    let good = undisturbed == Some(true);
    stage.line(&format!("\n{killed:85}   {}", verdict(stage, good)));
    let behind = format!("left behind: {left}");
    stage.line(&format!("{behind:85}   {}", verdict(stage, left.is_empty())));
    stage.line(&format!("{:.0} s", stage.elapsed().as_secs_f64()));
    good && left.is_empty()
}

/// The first reason why a program's verdict is not ok.
fn fault(seen: &Seen, moves: &Moves) -> Option<String> {
    let broken = seen.lost + seen.repeated + seen.reconnects > 0;
    seen.complaint.clone().or_else(|| moves.failure.clone()).or_else(|| {
        let why = match (broken, seen.messages, moves.pauses_ms.len()) {
            (true, ..) => "messages or connections were not kept",
            (_, 0, _) => "no message came",
            (_, _, 0) => "it was never moved",
            _ => return None,
        };
        Some(why.to_owned())
    })
}

fn verdict(stage: &Stage, good: bool) -> String {
    if good { stage.paint(Colour::Good, "ok") } else { stage.paint(Colour::Bad, "NOT OK") }
}

fn pauses(pauses_ms: &[f64]) -> String {
    let mut sorted = pauses_ms.to_vec();
    if sorted.is_empty() {
        return "-".to_owned();
    }
    format!("{:.0} ms, {:.0} ms", median(&mut sorted), percentile(&mut sorted, 1.0))
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
