//! A reader of XML as far as our pages use it, so that a page that a browser would only guess at is a failed test.

/// What is on a page.
pub(super) struct Page {
    pub(super) elements: Vec<Element>,
    /// All text and all values of attributes, as they are shown.
    pub(super) text: String,
}

pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
}

/// Reads a page.
///
/// # Errors
/// What is not well formed: an element without an end, a character that had to be escaped.
pub(super) fn elements(html: &str) -> Result<Page, String> {
    let mut rest = html.strip_prefix("<!DOCTYPE html>").ok_or("no document type")?;
    let mut page = Page { elements: Vec::new(), text: String::new() };
    let mut open: Vec<String> = Vec::new();
    while let Some(at) = rest.find('<') {
        let (text, markup) = rest.split_at(at);
        page.text += &unescaped(text)?;
        let end = markup.find('>').ok_or("a tag without an end")?;
        let tag = &markup[1..end];
        rest = &markup[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let last = open.pop().ok_or_else(|| format!("</{name}> ends nothing"))?;
            if last != name {
                return Err(format!("</{name}> ends <{last}>"));
            }
            continue;
        }
        let (tag, is_void) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let element = element(tag)?;
        for (_, value) in &element.attributes {
            page.text += value;
        }
        if !is_void {
            open.push(element.name.clone());
        }
        page.elements.push(element);
    }
    match open.last() {
        Some(name) => Err(format!("<{name}> has no end")),
        None if !rest.trim().is_empty() => Err(format!("text after the end: {rest}")),
        None => Ok(page),
    }
}

fn element(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(format!("`{name}` is no name of an element"));
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").ok_or_else(|| format!("no attribute: {rest}"))?;
        let (value, after) = value.split_once('"').ok_or("an attribute without an end")?;
        if attributes.iter().any(|(known, _)| known == name) {
            return Err(format!("two attributes `{name}`"));
        }
        attributes.push((name.to_owned(), unescaped(value)?));
        rest = after.trim_start();
    }
    Ok(Element { name: name.to_owned(), attributes })
}

fn unescaped(text: &str) -> Result<String, String> {
    let forbidden = |c: char| matches!(c, '>' | '"' | '\'') || (c.is_control() && c != '\n' && c != '\t');
    if let Some(c) = text.chars().find(|c| forbidden(*c)) {
        return Err(format!("{c:?} is not escaped in `{text}`"));
    }
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';').ok_or_else(|| format!("& is not escaped in `{text}`"))?;
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "#39" => '\'',
            other => return Err(format!("&{other}; is unknown")),
        });
        out += rest;
    }
    Ok(out)
}
