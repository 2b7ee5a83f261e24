//! Tables: fitted to the terminal, never cut when piped.

use comfy_table::{
    Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table as Layout, Width, presets,
};

use crate::terminal::{Stream, Tone};

/// Space after a column.
const PADDING: u16 = 2;
/// Columns up to this width are not broken if that can be helped.
const SHORT: u16 = 16;

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
            column.set_padding((0, PADDING));
        }
        self.keep_short_columns_whole();
        let mut text = String::new();
        for line in self.layout.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Breaks long cells rather than words like a state, where there is room.
    fn keep_short_columns_whole(&mut self) {
        let Some(columns) = self.stream.columns else { return };
        let widths = self.layout.column_max_content_widths();
        let least = widths.iter().map(|width| width.min(&SHORT) + PADDING).fold(0, u16::saturating_add);
        if least > columns {
            return;
        }
        for (column, width) in self.layout.column_iter_mut().zip(widths) {
            let at_least = Width::Fixed(width.min(SHORT) + PADDING);
            column.set_constraint(ColumnConstraint::LowerBoundary(at_least));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: Option<u16>) -> Vec<String> {
        let stream = Stream { is_terminal: columns.is_some(), colour: false, columns, unicode: true };
        let mut table = Table::new(stream, &["NAME", "STATE", ">GEN", "OWNER"]);
        table.row(vec![plain("db"), plain("moving→b files"), plain("7"), plain("long ".repeat(9))]);
        table.render().lines().map(str::to_owned).collect()
    }

    #[test]
    fn long_cells_give_way_and_short_ones_stay_whole() {
        let rows = rows(Some(50));
        assert!(rows.iter().all(|row| row.chars().count() <= 50), "{rows:?}");
        assert!(rows.len() > 2 && rows[1].contains("moving→b files"), "{rows:?}");
    }

    #[test]
    fn however_narrow_it_fits_and_piped_it_is_one_line() {
        assert!(self::rows(Some(24)).iter().all(|row| row.chars().count() <= 24));
        assert_eq!(rows(None).len(), 2);
    }
}
