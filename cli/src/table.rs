//! Tables: fitted to the terminal, never cut when piped.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table as Layout, presets};

use crate::terminal::{Stream, Tone};

/// Rows under headings.
pub(crate) struct Table {
    layout: Layout,
    stream: Stream,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; one that starts with `>` stands over
    /// numbers, which are set to the right.
    pub(crate) fn new(stream: Stream, headings: &[&str]) -> Self {
        let mut layout = Layout::new();
        layout.load_style(presets::NOTHING);
        match stream.columns {
            Some(columns) => {
                layout.set_content_arrangement(ContentArrangement::Dynamic);
                layout.set_width(columns);
            }
            None => {
                layout.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if stream.colour {
            layout.enforce_styling();
        } else {
            layout.force_no_tty();
        }
        let right: Vec<bool> = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let mut table = Self { layout, stream, right };
        let headings: Vec<_> = headings
            .iter()
            .map(|heading| (heading.trim_start_matches('>').to_owned(), Tone::Plain))
            .collect();
        table.row(headings);
        table
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<(String, Tone)>) {
        let cells: Vec<Cell> = cells
            .into_iter()
            .enumerate()
            .map(|(index, (text, tone))| {
                let cell = Cell::new(self.stream.clean(&text));
                let cell = match tone {
                    Tone::Plain => cell,
                    Tone::Good => cell.fg(Color::DarkGreen),
                    Tone::Warn => cell.fg(Color::DarkYellow),
                    Tone::Bad => cell.fg(Color::DarkRed),
                };
                match self.right.get(index) {
                    Some(true) => cell.set_alignment(CellAlignment::Right),
                    _ => cell,
                }
            })
            .collect();
        self.layout.add_row(cells);
    }

    /// The lines, each with its end.
    pub(crate) fn render(mut self) -> String {
        for column in self.layout.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in self.layout.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A cell without a special meaning.
pub(crate) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A cell for something that may be missing.
pub(crate) fn or_dash(text: Option<impl Into<String>>) -> (String, Tone) {
    plain(text.map_or_else(|| "-".to_owned(), Into::into))
}
