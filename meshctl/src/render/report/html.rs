//! A report as one HTML file: no script, nothing fetched, light and dark, and made for the printer too.

use super::document::{Block, Column, Entry, Grid, Section, Tone};
use super::markup::Tag;
use super::plot;

/// The file's own style. It is text of this program and has none of `<`, `>` and `&`.
const STYLE: &str = include_str!("style.css");

/// Whatever a name or an answer may hold: nothing is run and nothing is fetched.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The whole page.
pub(super) fn page(title: &str, sections: &[Section]) -> String {
    let head = Tag::new("head")
        .holding(Tag::new("meta").with("charset", "utf-8"))
        .holding(Tag::new("meta").with("http-equiv", "Content-Security-Policy").with("content", POLICY))
        .holding(
            Tag::new("meta").with("name", "viewport").with("content", "width=device-width, initial-scale=1"),
        )
        .holding(Tag::new("meta").with("name", "color-scheme").with("content", "light dark"))
        .holding(Tag::new("title").text(title))
        .holding(Tag::new("style").text(STYLE));
    let links = sections.iter().map(|section| {
        let target = format!("#{}", section.anchor);
        Tag::new("a").with("href", &target).text(section.title)
    });
    let version = format!("meshctl ladder report, version {}", env!("CARGO_PKG_VERSION"));
    let body = Tag::new("body")
        .holding(
            Tag::new("header")
                .holding(Tag::new("h1").text(title))
                .holding(Tag::new("nav").with("aria-label", "Sections").holding_all(links)),
        )
        .holding(Tag::new("main").holding_all(sections.iter().map(section)))
        .holding(Tag::new("footer").holding(Tag::new("p").text(&version)));
    Tag::new("html").with("lang", "en").holding(head).holding(body).document()
}

fn section(section: &Section) -> Tag {
    let blocks = section.blocks.iter().filter_map(block);
    Tag::new("section")
        .with("id", section.anchor)
        .holding(Tag::new("h2").text(section.title))
        .holding_all(blocks)
}

fn block(block: &Block) -> Option<Tag> {
    let tag = match block {
        Block::Heading(text) => Tag::new("h3").text(text),
        Block::Words(text) => Tag::new("p").text(text),
        Block::List(lines) if lines.is_empty() => return None,
        Block::List(lines) => Tag::new("ul").holding_all(lines.iter().map(|line| Tag::new("li").text(line))),
        Block::Code(lines) => Tag::new("pre").holding(Tag::new("code").text(&lines.join("\n"))),
        Block::Table(grid) => table(grid),
        Block::Plot(plot) => plot::figure(plot),
    };
    Some(tag)
}

fn table(grid: &Grid) -> Tag {
    let head = grid.columns.iter().map(|column| {
        let cell = Tag::new("th").with("scope", "col");
        aligned(cell, column).text(&column.head)
    });
    let row = |entries: &Vec<Entry>| {
        let cells = entries.iter().zip(&grid.columns).enumerate().map(|(at, (entry, column))| {
            // The first column names the row.
            let cell = if at == 0 { Tag::new("th").with("scope", "row") } else { Tag::new("td") };
            let class = class(entry.tone, column.is_number);
            let cell = if class.is_empty() { cell } else { cell.with("class", class) };
            cell.text(&entry.text)
        });
        Tag::new("tr").holding_all(cells)
    };
    let table = Tag::new("table")
        .holding(Tag::new("thead").holding(Tag::new("tr").holding_all(head)))
        .holding(Tag::new("tbody").holding_all(grid.rows.iter().map(row)));
    // Wide ones move in their own frame; one can get there with the keyboard.
    Tag::new("div")
        .with("class", "wide")
        .with("tabindex", "0")
        .with("role", "region")
        .with("aria-label", "table")
        .holding(table)
}

fn aligned(cell: Tag, column: &Column) -> Tag {
    if column.is_number { cell.with("class", "number") } else { cell }
}

fn class(tone: Tone, is_number: bool) -> &'static str {
    match (tone, is_number) {
        (Tone::Plain, false) => "",
        (Tone::Plain, true) => "number",
        (Tone::Good, _) => "good",
        (Tone::Fair, _) => "fair",
        (Tone::Weak, _) => "weak",
        (Tone::Bad, _) => "bad",
    }
}
