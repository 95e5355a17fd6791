//! Data to text. Pure: what the terminal can show comes in as a [`paint::Look`], text goes out, so that
//! every screen is pinned by a snapshot. JSON is the same data, with the name of its schema in front.

pub(crate) mod access;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod fit;
pub(crate) mod ladder;
pub(crate) mod mode;
pub(crate) mod models;
pub(crate) mod node;
pub(crate) mod paint;
pub(crate) mod plan;
pub(crate) mod quantity;
pub(crate) mod reasons;
pub(crate) mod report;
pub(crate) mod status;
pub(crate) mod stress;
mod table;
pub(crate) mod validate;
mod wrap;

use serde::Serialize;

/// A JSON document: the reply as it came, and which schema it follows. Schemas only ever grow.
#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

/// `body` as JSON: indented for people and files, or on one line for streams of documents.
pub(crate) fn json<T: Serialize>(schema: &'static str, body: &T, one_line: bool) -> String {
    let document = Document { schema, body };
    let text =
        if one_line { serde_json::to_string(&document) } else { serde_json::to_string_pretty(&document) };
    // Keys are field names, so nothing can fail but a number that JSON lacks, which serde_json writes as null.
    text.expect("messages of numbers and texts are always JSON") + "\n"
}

#[cfg(test)]
mod ladder_tests;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod stress_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validate_tests;
