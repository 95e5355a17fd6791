//! Colours and symbols, and what keeps foreign text from using the terminal against its reader.

use anstyle::{AnsiColor, Style};

/// What the reader of the output can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Columns of the terminal; `None` when nothing must be left out.
    pub(crate) width: Option<usize>,
    /// Whether ANSI colours are understood and wanted.
    pub(crate) color: bool,
    /// Whether more than ASCII can be shown.
    pub(crate) unicode: bool,
}

impl Look {
    /// `unicode` or its ASCII stand-in.
    pub(crate) fn sign(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// `→ hint`
    pub(crate) fn arrow(self) -> &'static str {
        self.sign("→", "->")
    }

    /// Text that came from elsewhere, safe to print here.
    pub(crate) fn text(self, text: &str) -> String {
        let text = printable(text);
        if self.unicode { text } else { text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect() }
    }
}

/// How a piece of text is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Paint {
    /// As it is.
    #[default]
    Plain,
    /// Fine.
    Green,
    /// Wants attention.
    Yellow,
    /// Broken.
    Red,
    /// A command or an address.
    Cyan,
    /// A heading.
    Bold,
    /// Beside the point.
    Dim,
}

impl Paint {
    /// `text` in this paint, or as it is where colours are off.
    pub(crate) fn on(self, text: &str, color: bool) -> String {
        let style = match self {
            Self::Plain => return text.to_owned(),
            Self::Green => AnsiColor::Green.on_default(),
            Self::Yellow => AnsiColor::Yellow.on_default(),
            Self::Red => AnsiColor::Red.on_default(),
            Self::Cyan => AnsiColor::Cyan.on_default(),
            Self::Bold => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
        };
        if color && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Red, for `error:`.
pub(crate) fn red(text: &str, color: bool) -> String {
    Paint::Red.on(text, color)
}

/// Bold, for headings.
pub(crate) fn bold(text: &str, color: bool) -> String {
    Paint::Bold.on(text, color)
}

/// Cyan, for `hint:`.
pub(crate) fn cyan(text: &str, color: bool) -> String {
    Paint::Cyan.on(text, color)
}

/// `text` with every control character as a space: escape sequences in names or messages stay words.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Answer text for a terminal: line breaks and tabs stay, every other control character goes.
pub(crate) fn printable_lines(text: &str) -> String {
    text.chars().filter(|&c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// A state word of the schema with its symbol and colour: the word alone would do, the rest is for the eye.
pub(crate) fn state(word: &str, look: Look) -> (String, Paint) {
    let (symbol, ascii, paint) = match word {
        "ready" | "loaded" | "up" | "open" | "good" => ("●", "*", Paint::Green),
        "loading" | "starting" | "draining" => ("◐", "~", Paint::Yellow),
        "suspect" | "silent" | "unserved" | "failed" | "hot" | "degraded" | "quarantined" => {
            ("▲", "!", Paint::Yellow)
        }
        "offline" | "down" => ("✕", "x", Paint::Red),
        _ => ("○", "o", Paint::Dim),
    };
    let word = if word.is_empty() { "-".to_owned() } else { look.text(word) };
    (format!("{} {word}", look.sign(symbol, ascii)), paint)
}
