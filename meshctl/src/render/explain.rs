//! One request: what was asked, who could have served it at which cost, what was tried, how it ended.

use super::paint::{self, Look, Paint};
use super::quantity::{UNKNOWN, bytes, known, moment, named, rate, seconds};
use super::wrap::wrapped;
use mesh_proto::v1::{CandidateLine, CostTerm, ExplainReply};

/// The story of one request.
pub(crate) fn story(reply: &ExplainReply, look: Look) -> String {
    let mut lines = head(reply, look);
    lines.push(String::new());
    lines.push(paint::bold("Candidates", look.color));
    lines.extend(candidates(reply, look));
    if !reply.reason.is_empty() {
        lines.extend(wrapped("    choice  ", &look.text(&reply.reason), look));
    }
    lines.push(String::new());
    lines.push(paint::bold("Attempts", look.color));
    lines.extend(attempts(reply, look));
    lines.push(String::new());
    lines.extend(outcome(reply, look));
    lines.join("\n") + "\n"
}

fn head(reply: &ExplainReply, look: Look) -> Vec<String> {
    let mode = if reply.mode.is_empty() { "no mode".to_owned() } else { format!("mode {}", reply.mode) };
    let stream = if reply.stream { "streamed" } else { "not streamed" };
    let client = named(&reply.client);
    vec![
        format!("{}   {}", paint::bold(&look.text(&reply.request_id), look.color), moment(reply.at_unix_ms)),
        look.text(&format!("  asked    {} ({mode}) on {}", named(&reply.asked), named(&reply.path))),
        look.text(&format!("  client   {client}, {} body, {stream}", bytes(reply.body_bytes))),
    ]
}

fn candidates(reply: &ExplainReply, look: Look) -> Vec<String> {
    let candidates = reply.candidates.as_slice();
    if candidates.is_empty() {
        let why = match (reply.outcome.as_str(), reply.status) {
            ("running", _) => "none yet: it waits for a slot, or is being decided about",
            (_, 404) => "none: no machine has a model that was asked for",
            _ => "none: it ended before a machine was chosen",
        };
        return vec![format!("  {why}")];
    }
    let mut ordered: Vec<&CandidateLine> = candidates.iter().collect();
    ordered.sort_by_key(|candidate| if candidate.rank == 0 { u32::MAX } else { candidate.rank });
    let width = |of: fn(&CandidateLine) -> &str| {
        candidates.iter().map(|candidate| of(candidate).chars().count().max(1)).max().unwrap_or(1)
    };
    let (node_width, model_width) = (width(|candidate| &candidate.node), width(|candidate| &candidate.model));
    let mut lines = Vec::new();
    for candidate in ordered {
        let (node, model) = (look.text(&named(&candidate.node)), look.text(&named(&candidate.model)));
        let place = if candidate.rank == 0 { UNKNOWN.to_owned() } else { candidate.rank.to_string() };
        let verdict =
            if candidate.rank == 0 { "rejected".to_owned() } else { known(candidate.predicted_s, seconds) };
        let start = format!("{place:>3}  {node:node_width$}  {model:model_width$}  {verdict:>8}  ");
        lines.extend(wrapped(&start, &why(candidate, look), look));
    }
    lines
}

/// The terms of the cost, then the words.
fn why(candidate: &CandidateLine, look: Look) -> String {
    let terms: Vec<String> = candidate.terms.iter().map(|term| cost(term, look)).collect();
    let mut parts = Vec::new();
    if !terms.is_empty() {
        parts.push(format!("= {}", terms.join(" + ")));
    }
    if let Some(ttft) = candidate.predicted_ttft_s {
        parts.push(format!("TTFT {}", seconds(ttft)));
    }
    if candidate.cached_tokens > 0 {
        parts.push(format!("{} tokens cached", candidate.cached_tokens));
    }
    if candidate.in_flight > 0 {
        parts.push(format!("{} in flight", candidate.in_flight));
    }
    if !candidate.why.is_empty() {
        parts.push(look.text(&candidate.why));
    }
    parts.join("; ")
}

fn cost(term: &CostTerm, look: Look) -> String {
    format!("{} {}", look.text(&term.name), seconds(term.seconds))
}

fn attempts(reply: &ExplainReply, look: Look) -> Vec<String> {
    if reply.attempts.is_empty() {
        return vec!["  none".to_owned()];
    }
    let numbered = reply.attempts.iter().enumerate();
    numbered
        .flat_map(|(at, attempt)| {
            let after = seconds(attempt.started_after_s);
            let place = look.text(&format!("{}  {}", named(&attempt.node), named(&attempt.model)));
            let start = format!("{:>3}  {place}  after {after}  ", at + 1);
            wrapped(&start, &look.text(&attempt.result), look)
        })
        .collect()
}

fn outcome(reply: &ExplainReply, look: Look) -> Vec<String> {
    let paint = match reply.outcome.as_str() {
        "complete" => Paint::Green,
        "failed" | "refused" => Paint::Red,
        _ => Paint::Yellow,
    };
    let status = if reply.status == 0 { String::new() } else { format!(" ({})", reply.status) };
    let detail = look.text(&reply.outcome_detail);
    let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
    let word = paint.on(&look.text(&named(&reply.outcome)), look.color);
    let beside = |actual: String, predicted: Option<f64>| match predicted {
        Some(predicted) => format!("{actual} (predicted {})", seconds(predicted)),
        None => actual,
    };
    // What never had content was not what the prediction was about.
    let promised = reply.predicted_answer_s.filter(|_| reply.ttft_s.is_some());
    let measured = [
        reply.queued_s.map(|value| format!("{} in the queue", seconds(value))),
        reply.ttft_s.map(|value| beside(format!("TTFT {}", seconds(value)), reply.predicted_ttft_s)),
        reply.tokens_per_second.map(rate),
        reply.prompt_tokens.map(|count| format!("{count} tokens in")),
        reply.completion_tokens.map(|count| format!("{count} tokens out")),
        reply.duration_s.map(|value| beside(format!("{} in all", seconds(value)), promised)),
    ];
    let measured: Vec<String> = measured.into_iter().flatten().collect();
    let mut lines = vec![format!("{} {word}{status}{detail}", paint::bold("Outcome", look.color))];
    if !measured.is_empty() {
        lines.extend(wrapped("  ", &measured.join(look.sign(" · ", ", ")), look));
    }
    lines
}
