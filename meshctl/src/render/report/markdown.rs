//! A report as Markdown that GitHub shows well: tables, lists, fenced commands. What comes from outside cannot become markup.

use super::document::{Block, Grid, Section};

/// The whole page.
pub(super) fn page(title: &str, sections: &[Section]) -> String {
    let mut parts = vec![format!("# {}", escaped(title))];
    for section in sections.iter().filter(|section| section.blocks.iter().any(|part| block(part).is_some())) {
        parts.push(format!("## {}", escaped(section.title)));
        parts.extend(section.blocks.iter().filter_map(block));
    }
    parts.join("\n\n") + "\n"
}

/// `None` for what Markdown has not: plots, and what is empty.
fn block(block: &Block) -> Option<String> {
    match block {
        Block::Heading(text) => Some(format!("### {}", escaped(text))),
        Block::Words(text) => Some(opening(text)),
        Block::List(lines) => {
            let lines: Vec<String> = lines.iter().map(|line| format!("- {}", opening(line))).collect();
            (!lines.is_empty()).then(|| lines.join("\n"))
        }
        Block::Code(lines) => Some(fenced(lines)),
        Block::Table(grid) => Some(table(grid)),
        Block::Plot(_) => None,
    }
}

fn table(grid: &Grid) -> String {
    let heads: Vec<String> = grid.columns.iter().map(|column| escaped(&column.head)).collect();
    let rule: Vec<&str> =
        grid.columns.iter().map(|column| if column.is_number { "---:" } else { "---" }).collect();
    let mut lines = vec![format!("| {} |", heads.join(" | ")), format!("|{}|", rule.join("|"))];
    for row in &grid.rows {
        let cells: Vec<String> = row.iter().map(|entry| escaped(&entry.text)).collect();
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

/// Lines as they are, between fences that no line can end.
fn fenced(lines: &[String]) -> String {
    let text: Vec<String> = lines.iter().map(|line| super::super::paint::printable(line)).collect();
    let longest =
        text.iter().flat_map(|line| line.split(|c| c != '`')).map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{}\n{fence}", text.join("\n"))
}

/// The same where a line begins with it: no list, and no line below a heading.
fn opening(text: &str) -> String {
    let text = escaped(text);
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let is_numbered = digits > 0 && text[digits..].starts_with(['.', ')']);
    match text.chars().next() {
        Some('-' | '+' | '=') => format!("\\{text}"),
        Some(_) if is_numbered && text[digits + 1..].starts_with(' ') => {
            format!("{}\\{}", &text[..digits], &text[digits..])
        }
        _ => text,
    }
}

/// Text on one line that is no markup, no mention and no tag.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for c in super::super::paint::printable(text).trim().chars() {
        match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' | '$' => out.extend(['\\', c]),
            // Within a word it is none of Markdown's.
            '_' if !before.is_alphanumeric() => out.push_str("\\_"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' if !before.is_alphanumeric() => out.push_str("&#64;"),
            // The beginning of a heading, or of an issue's number.
            '#' => out.push_str("\\#"),
            // An address is text, not a link.
            '/' if out.ends_with(":/") => out.push_str("&#47;"),
            c => out.push(c),
        }
        before = c;
    }
    out
}
