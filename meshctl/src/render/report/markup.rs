//! Markup that cannot be broken out of: a tree of elements whose names are written in this program, and whose texts and
//! attributes are escaped wherever they come from. There is no way to put in a text as it is. What comes out is both HTML and
//! well-formed XML.

use std::fmt::Write as _;

/// Elements without an end of their own. All others have one, even where nothing is in them.
const VOID: [&str; 8] = ["meta", "br", "circle", "path", "line", "rect", "polyline", "col"];

/// One element with all that is in it.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    name: &'static str,
    attributes: String,
    inside: String,
}

impl Tag {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, attributes: String::new(), inside: String::new() }
    }

    /// Adds an attribute.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.attributes.push(' ');
        self.attributes.push_str(name);
        self.attributes.push_str("=\"");
        escape(value, &mut self.attributes);
        self.attributes.push('"');
        self
    }

    /// Adds an attribute that is a length or a place, in pixels.
    #[must_use]
    pub(super) fn at(self, name: &'static str, value: f64) -> Self {
        let text = px(value);
        self.with(name, &text)
    }

    /// Adds text.
    #[must_use]
    pub(super) fn text(mut self, text: &str) -> Self {
        escape(text, &mut self.inside);
        self
    }

    /// Adds an element.
    #[must_use]
    pub(super) fn holding(mut self, child: Self) -> Self {
        child.write(&mut self.inside);
        self
    }

    /// Adds elements.
    #[must_use]
    pub(super) fn holding_all(self, children: impl IntoIterator<Item = Self>) -> Self {
        children.into_iter().fold(self, Self::holding)
    }

    /// The whole document, of which this is the root.
    pub(super) fn document(&self) -> String {
        let mut out = "<!DOCTYPE html>\n".to_owned();
        self.write(&mut out);
        out.push('\n');
        out
    }

    fn write(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = write!(out, "<{}{}", self.name, self.attributes);
        if VOID.contains(&self.name) && self.inside.is_empty() {
            out.push_str("/>");
        } else {
            let _ = write!(out, ">{}</{}>", self.inside, self.name);
        }
        // Lines as people expect them in a file, where white space means nothing.
        if matches!(
            self.name,
            "tr" | "p" | "li" | "h1" | "h2" | "h3" | "section" | "table" | "g" | "meta" | "title"
        ) {
            out.push('\n');
        }
    }
}

/// A place or a length with a tenth of a pixel; what is no number is 0.
pub(super) fn px(value: f64) -> String {
    let value = if value.is_finite() { value.clamp(-1e6, 1e6) } else { 0.0 };
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".into() } else { text.to_owned() }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if is_hidden(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// What XML does not allow, and what changes the order of the letters beside it.
fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{fffe}' | '\u{ffff}')
}
