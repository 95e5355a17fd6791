//! One small request through a mode: who answers, and how fast.

use super::answer::Summary;
use super::{Door, Shown, answered, question};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use serde::Serialize;

/// Needs no knowledge, and no model answers it with nothing.
const PROMPT: &str = "Count from one to ten in words.";
/// Enough to see a rate; a model that thinks first uses them up with that.
const TOKENS: u32 = 48;

/// What `mode test --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    mode: &'a str,
    #[serde(flatten)]
    summary: Summary<'a>,
}

/// # Errors
/// As for `ask`, and `Failed` when the answer is empty.
pub(in crate::command) async fn run(
    mode: &str,
    key: Option<&str>,
    url: Option<&str>,
    way: &Way,
    screen: &Screen,
) -> Result<(), Failure> {
    let asked = question::mode_model(mode);
    let body = question::body(&asked, None, PROMPT, Some(TOKENS));
    let answer = answered(&asked, &body, Door { key, url }, Shown::Nothing, way, screen).await?;
    if screen.is_json() {
        let document = Document { mode, summary: answer.summary() };
        screen.result(&render::json("mesh.mode-test/v1", &document, false))?;
    }
    let stats = answer.stats(screen.look);
    if !answer.has_begun() {
        let failure = Failure::new(Kind::Failed, format!("{asked} answered, but with nothing"))
            .cause(stats.trim_start_matches("# ").trim_end());
        return Err(match answer.request_id() {
            Some(id) => failure.hint(format!("meshctl explain {id}")),
            None => failure,
        });
    }
    if screen.is_json() {
        return Ok(());
    }
    screen.result(&format!("{}: {}", screen.look.text(mode), stats.trim_start_matches("# ")))
}
