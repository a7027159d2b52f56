//! How commands look: colour where a person reads, none where a program does.

use crate::config;
use std::fmt;
use std::io::IsTerminal as _;

/// Whether there is colour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

/// A meaning that has a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// As it should be.
    Good,
    /// As it should not be.
    Bad,
    /// To be looked at.
    Notable,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
}

impl Paint {
    /// For standard output: colour on a terminal, unless `NO_COLOR` says otherwise.
    pub(super) fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && !config::is_set("NO_COLOR"))
    }

    /// The text in its colour.
    pub(super) fn ink(self, ink: Ink, text: impl fmt::Display) -> String {
        let code = match ink {
            Ink::Good => 32,
            Ink::Bad => 31,
            Ink::Notable => 33,
            Ink::Faint => 2,
            Ink::Strong => 1,
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }
}

/// Text from a request or a token, in which nothing steers the terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows as columns, two spaces apart; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>], paint: Paint) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        text.push_str(&if number == 0 { paint.ink(Ink::Strong, line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_straight_columns_and_no_space_at_the_end_of_a_line() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "é".to_owned()]];
        assert_eq!(table(&rows, Paint(false)), "A     B\nlong  é\n");
        assert_eq!(table(&rows, Paint(true)), "\u{1b}[1mA     B\u{1b}[0m\nlong  é\n");
    }

    #[test]
    fn what_others_wrote_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
