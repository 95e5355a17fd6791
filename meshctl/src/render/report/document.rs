//! A report as headings, words, tables, commands and plots, before anybody decides what it is written in.

use super::plot::Plot;

/// What one heading is about.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// What links within the report call it.
    pub(super) anchor: &'static str,
    pub(super) title: &'static str,
    pub(super) blocks: Vec<Block>,
}

/// One piece of a section.
#[derive(Debug, Clone)]
pub(super) enum Block {
    /// A heading below the section's.
    Heading(String),
    /// A paragraph.
    Words(String),
    /// Sentences that belong together.
    List(Vec<String>),
    /// Lines to copy.
    Code(Vec<String>),
    Table(Grid),
    /// Left out where nothing can be drawn.
    Plot(Plot),
}

impl Block {
    pub(super) fn words(text: impl Into<String>) -> Self {
        Self::Words(text.into())
    }
}

/// A table.
#[derive(Debug, Clone, Default)]
pub(super) struct Grid {
    pub(super) columns: Vec<Column>,
    /// As many cells as there are columns.
    pub(super) rows: Vec<Vec<Entry>>,
}

/// The head of a column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) head: String,
    /// Numbers stand on the right.
    pub(super) is_number: bool,
}

impl Grid {
    /// A column of words.
    #[must_use]
    pub(super) fn left(mut self, head: impl Into<String>) -> Self {
        self.columns.push(Column { head: head.into(), is_number: false });
        self
    }

    /// A column of numbers.
    #[must_use]
    pub(super) fn right(mut self, head: impl Into<String>) -> Self {
        self.columns.push(Column { head: head.into(), is_number: true });
        self
    }

    /// Adds a row.
    pub(super) fn row(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let entries: Vec<Entry> = entries.into_iter().collect();
        debug_assert_eq!(entries.len(), self.columns.len(), "one entry for each column");
        self.rows.push(entries);
    }
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// What a cell is to the eye; its words say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// To be used.
    Good,
    /// Would do.
    Fair,
    /// Beside the point.
    Weak,
    /// Not to be used.
    Bad,
}

impl Entry {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Entry {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}
