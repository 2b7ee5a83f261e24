//! The table, as the README has it between its markers.

use std::path::Path;

use anyhow::{Context, Result};

use crate::app::App;
use crate::trial::Outcome;

const BEGIN: &str = "<!-- made by make apps: begin -->";
const END: &str = "<!-- made by make apps: end -->";

/// One program's line; `ways` are its outcomes, one for each column of [`WAYS`].
pub(crate) struct Row {
    pub(crate) app: &'static App,
    pub(crate) version: String,
    pub(crate) ways: Vec<Outcome>,
}

/// How clients reach the server: a column each.
pub(crate) const WAYS: [&str; 2] = ["capsule to capsule", "from outside, by a gateway"];

/// The table in Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| program | what is checked | {} |\n", WAYS.join(" | "));
    text += &format!("|{}\n", "---|".repeat(2 + WAYS.len()));
    for row in rows {
        let ways: Vec<String> = row.ways.iter().map(cell).collect();
        text +=
            &format!("| {} {} | {} | {} |\n", row.app.name, row.version, row.app.checked, ways.join(" | "));
    }
    text
}

fn cell(outcome: &Outcome) -> String {
    if let Some(fault) = &outcome.fault {
        let first = fault.lines().next().unwrap_or_default();
        return format!("**failed**: {}", first.replace('|', "\\|"));
    }
    let [server, clients] = outcome.moves;
    let gap = outcome.gap_ms.map_or_else(String::new, |gap| format!(", longest silence {gap:.0} ms"));
    let lasted =
        if outcome.lasted == 0 { String::new() } else { format!(", {} connections kept", outcome.lasted) };
    let notes =
        if outcome.notes.is_empty() { String::new() } else { format!("; {}", outcome.notes.join(", ")) };
    let clients = if clients == 0 { String::new() } else { format!(", {clients} of clients") };
    format!("ok: {server} moves of the server{clients}{lasted}{gap}{notes}")
}

/// Puts the table between the markers of a file.
pub(crate) fn write(path: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let new = replaced(&text, table).with_context(|| format!("{}: no {BEGIN} … {END}", path.display()))?;
    std::fs::write(path, new).with_context(|| path.display().to_string())
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = replaced(&text, "new\n").expect("there are markers");
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replaced(&once, "new\n").as_deref(), Some(once.as_str()));
        assert_eq!(replaced("no markers", "new\n"), None);
    }
}
