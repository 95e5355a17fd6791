//! Tables without borders that are never wrapped: where the terminal is too narrow, lists are shortened and
//! columns left out, the least important first.
//!
//! The `comfy-table` crate measures and aligns (it knows how wide characters are); what to leave out is
//! decided here.

use super::paint::{Look, Paint};
use comfy_table::{CellAlignment, TableStyle};

/// Between columns.
const GAP: &str = "  ";

/// Stands between cells while they are aligned; [`Look::text`] keeps it out of them.
const FENCE: char = '\u{1f}';

/// How important a column is. Columns of the lowest rank go first, of equal ones the rightmost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Nice to have.
    Extra,
    /// Worth its place on a usual terminal.
    Useful,
    /// What most readers look for.
    Important,
    /// A row means nothing without it; never left out.
    Essential,
}

/// One cell.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// A text that is shown whole.
    Text(String, Paint),
    /// A list that may be shortened to its first entries: `a, b +3`.
    List(Vec<String>),
}

impl Cell {
    /// A plain text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into(), Paint::Plain)
    }

    /// The text in at most `room` columns; `None` is all the room there is.
    fn within(&self, room: Option<usize>) -> String {
        match self {
            Self::Text(text, _) => text.clone(),
            Self::List(entries) if entries.is_empty() => super::quantity::UNKNOWN.to_owned(),
            Self::List(entries) => shorten(entries, room),
        }
    }

    fn paint(&self) -> Paint {
        match self {
            Self::Text(_, paint) => *paint,
            Self::List(_) => Paint::Plain,
        }
    }
}

/// The longest of `a, b, c` / `a, b +1` / `a +2` that fits; the last one in any case.
fn shorten(entries: &[String], room: Option<usize>) -> String {
    let fits = |text: &String| room.is_none_or(|room| text.chars().count() <= room);
    let shown = |count: usize| match entries.len() - count {
        0 => entries.join(", "),
        hidden => format!("{} +{hidden}", entries[..count].join(", ")),
    };
    (1..=entries.len()).rev().map(shown).find(fits).unwrap_or_else(|| shown(1))
}

#[derive(Debug, Clone)]
struct Column {
    head: &'static str,
    rank: Rank,
    alignment: CellAlignment,
    cells: Vec<Cell>,
}

impl Column {
    fn texts(&self, room: Option<usize>) -> Vec<String> {
        self.cells.iter().map(|cell| cell.within(room)).collect()
    }

    fn is_list(&self) -> bool {
        self.cells.iter().any(|cell| matches!(cell, Cell::List(_)))
    }
}

/// A table in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    columns: Vec<Column>,
}

impl Table {
    /// Adds a column of words.
    #[must_use]
    pub(super) fn left(self, head: &'static str, rank: Rank) -> Self {
        self.column(head, rank, CellAlignment::Left)
    }

    /// Adds a column of numbers.
    #[must_use]
    pub(super) fn right(self, head: &'static str, rank: Rank) -> Self {
        self.column(head, rank, CellAlignment::Right)
    }

    fn column(mut self, head: &'static str, rank: Rank, alignment: CellAlignment) -> Self {
        self.columns.push(Column { head, rank, alignment, cells: Vec::new() });
        self
    }

    /// Adds a row: one cell for each column, in their order.
    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len(), "one cell for each column");
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.cells.push(cell);
        }
    }

    /// The table as lines, the heading first, none longer than the look's width as far as the essential
    /// columns allow.
    pub(super) fn lines(mut self, look: Look) -> Vec<String> {
        let Some(limit) = look.width else {
            let texts = self.columns.iter().map(|column| column.texts(None)).collect();
            return self.layout(texts, look);
        };
        let mut widths = measure(self.columns.iter().map(|column| (column, column.texts(Some(0)))));
        while total(&widths) > limit {
            let dropped = (0..self.columns.len())
                .filter(|&at| self.columns[at].rank < Rank::Essential)
                .min_by_key(|&at| (self.columns[at].rank, usize::MAX - at));
            let Some(at) = dropped else { break };
            self.columns.remove(at);
            widths.remove(at);
        }
        let mut texts = Vec::with_capacity(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            let spare = limit.saturating_sub(total(&widths));
            let room = if column.is_list() { widths[at] + spare } else { widths[at] };
            let cells = column.texts(Some(room));
            widths[at] = measure([(column, cells.clone())])[0];
            texts.push(cells);
        }
        self.layout(texts, look)
    }

    fn layout(&self, texts: Vec<Vec<String>>, look: Look) -> Vec<String> {
        let mut grid =
            grid(self.columns.iter().zip(&texts).map(|(column, cells)| (column.head, cells.as_slice())));
        for (at, column) in self.columns.iter().enumerate() {
            if let Some(aligned) = grid.column_mut(at) {
                aligned.set_cell_alignment(column.alignment);
            }
        }
        grid.lines()
            .enumerate()
            .map(|(line, text)| {
                let cells: Vec<String> = text
                    .split(FENCE)
                    .zip(&self.columns)
                    .map(|(cell, column)| {
                        let paint = match line.checked_sub(1) {
                            None => Paint::Bold,
                            Some(row) => column.cells.get(row).map(Cell::paint).unwrap_or_default(),
                        };
                        let word = cell.trim();
                        if word.is_empty() {
                            cell.to_owned()
                        } else {
                            cell.replacen(word, &paint.on(word, look.color), 1)
                        }
                    })
                    .collect();
                cells.join(GAP).trim_end().to_owned()
            })
            .collect()
    }
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
}

fn measure<'a>(columns: impl IntoIterator<Item = (&'a Column, Vec<String>)>) -> Vec<usize> {
    let columns: Vec<(&str, Vec<String>)> =
        columns.into_iter().map(|(column, cells)| (column.head, cells)).collect();
    let grid = grid(columns.iter().map(|(head, cells)| (*head, cells.as_slice())));
    grid.column_max_content_widths().into_iter().map(usize::from).collect()
}

fn grid<'a>(columns: impl Iterator<Item = (&'a str, &'a [String])>) -> comfy_table::Table {
    let (heads, columns): (Vec<&str>, Vec<&[String]>) = columns.unzip();
    let mut style = TableStyle::new();
    style.header_lines.junction = Some(FENCE);
    style.content_lines.junction = Some(FENCE);
    let mut grid = comfy_table::Table::new();
    grid.force_no_tty().load_style(style).set_header(heads);
    for row in 0..columns.first().map_or(0, |cells| cells.len()) {
        grid.add_row(columns.iter().map(|cells| cells[row].as_str()));
    }
    for column in grid.column_iter_mut() {
        column.set_padding((0, 0));
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(width: Option<usize>) -> Look {
        Look { width, color: false, unicode: true }
    }

    fn table() -> Table {
        let mut table = Table::default()
            .left("NODE", Rank::Essential)
            .left("GPU", Rank::Extra)
            .right("BUSY", Rank::Useful)
            .left("MODELS", Rank::Important);
        table.row([
            Cell::text("strix-1"),
            Cell::text("Radeon"),
            Cell::text("12"),
            Cell::List(["qwen3-coder:30b", "gemma3:12b", "qwen3:32b"].map(str::to_owned).to_vec()),
        ]);
        table.row([Cell::text("ü"), Cell::text("-"), Cell::text("-"), Cell::List(vec![])]);
        table
    }

    #[test]
    fn a_pipe_sees_everything() {
        assert_eq!(
            table().lines(look(None)),
            [
                "NODE     GPU     BUSY  MODELS",
                "strix-1  Radeon    12  qwen3-coder:30b, gemma3:12b, qwen3:32b",
                "ü        -          -  -",
            ]
        );
    }

    #[test]
    fn lists_shrink_before_columns_go_and_no_line_is_longer_than_the_terminal() {
        assert_eq!(table().lines(look(Some(54)))[1], "strix-1  Radeon    12  qwen3-coder:30b, gemma3:12b +1");
        assert_eq!(table().lines(look(Some(45)))[1], "strix-1  Radeon    12  qwen3-coder:30b +2");
        assert_eq!(table().lines(look(Some(34)))[1], "strix-1    12  qwen3-coder:30b +2");
        assert_eq!(table().lines(look(Some(27)))[1], "strix-1  qwen3-coder:30b +2");
        assert_eq!(table().lines(look(Some(10)))[1], "strix-1");
        for width in 7..100 {
            for line in table().lines(look(Some(width))) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let mut table = Table::default().left("A", Rank::Essential).right("B", Rank::Essential);
        table.row([Cell::Text("up".into(), Paint::Green), Cell::text("1")]);
        table.row([Cell::text("down"), Cell::Text("22".into(), Paint::Red)]);
        let plain = table.clone().lines(look(None));
        let painted = table.lines(Look { color: true, ..look(None) });
        assert!(painted[1].contains("\u{1b}[32mup\u{1b}[0m"), "{painted:?}");
        let stripped: Vec<String> = painted
            .iter()
            .map(|line| {
                ["\u{1b}[32m", "\u{1b}[31m", "\u{1b}[1m", "\u{1b}[0m"]
                    .iter()
                    .fold(line.clone(), |l, e| l.replace(e, ""))
            })
            .collect();
        assert_eq!(stripped, plain);
    }
}
