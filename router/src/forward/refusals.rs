//! The words for requests that are not served: what stands in the way, and what would help.

use super::waiting_room::NoSlot;
use crate::config::Settings;
use crate::http::reply::{ApiError, reasons_json, reasons_text};
use http::StatusCode;
use mesh_core::admission::Refused;
use mesh_core::client_loop::Loops;
use mesh_core::id::{ModeName, ModelId};
use mesh_core::mode::PREFIX;
use mesh_core::routing::{Refusal, Rejection, Why};
use mesh_core::units::human_duration;
use serde_json::json;
use std::time::Duration;

/// A client's word for a model, short enough for a message.
pub(crate) fn shown(asked: &str) -> String {
    asked.chars().take(100).collect()
}

/// There is no such mode or model; `of` is the model whose other name it is.
pub(crate) fn unknown_model(asked: &str, of: Option<&ModelId>, near: &[String], all: &[String]) -> ApiError {
    let mut message = format!("there is no mode or model `{}`", shown(asked));
    if let Some(model) = of {
        message = format!("`{}` is another name of `{model}`, which no machine has", shown(asked));
    } else if near.is_empty() {
        let list: Vec<&str> = all.iter().take(8).map(String::as_str).collect();
        let more = if all.len() > list.len() {
            format!(" and {} more", all.len() - list.len())
        } else {
            String::new()
        };
        let list = if list.is_empty() { "none yet".into() } else { list.join(", ") + &more };
        message.push_str(&format!("; there are {list}"));
    } else {
        message.push_str(&format!("; did you mean {}?", near.join(" or ")));
    }
    ApiError::client(StatusCode::NOT_FOUND, "model_not_found", message)
        .param("model")
        .with("near", json!(near))
        .with("available", json!(all))
}

/// What was asked for, and the models that may answer it.
type AskedOf<'a> = (&'a str, &'a [(ModelId, Option<ModeName>)]);

/// No node can serve it, now or at all.
pub(super) fn unavailable((asked, models): AskedOf<'_>, refusal: &Refusal, settings: &Settings) -> ApiError {
    let meshctl = settings.meshctl;
    let what = if asked.starts_with(PREFIX) { "mode" } else { "model" };
    if refusal.is_permanent() {
        // A 4xx: SDKs would repeat a 5xx twice, for nothing.
        let message =
            format!("{what} `{}` does not do this: {}", shown(asked), reasons_text(&refusal.rejected));
        return ApiError::client(StatusCode::BAD_REQUEST, "unsupported", message)
            .param("model")
            .with("nodes", reasons_json(&refusal.rejected));
    }
    let message =
        format!("no node can serve {what} `{}` now: {}", shown(asked), reasons_text(&refusal.rejected));
    // Waiting alone does not bring back a model that somebody unloaded.
    let unloaded = refusal.rejected.iter().find(|rejection| rejection.why == Why::NotLoaded);
    let message = match unloaded {
        Some(Rejection { machine, model: Some(model), .. }) => {
            format!("{message}; `{meshctl} model load {model} --node {machine}` loads it")
        }
        Some(Rejection { model: None, .. }) | None if is_nowhere(refusal) => {
            let names: Vec<String> = models.iter().take(5).map(|(model, _)| format!("`{model}`")).collect();
            let names = names.join(" or ");
            format!("{message}; it needs {names}, and `{meshctl} model list` shows which models there are")
        }
        Some(Rejection { model: None, .. }) | None => message,
    };
    ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "no_node_available", message)
        .retry_after(refusal.retry_after_s())
        .with("nodes", reasons_json(&refusal.rejected))
}

/// Whether there are machines, and none of them has any of the models.
fn is_nowhere(refusal: &Refusal) -> bool {
    let mut rejected = refusal.rejected.iter().peekable();
    rejected.peek().is_some() && rejected.all(|rejection| rejection.why == Why::LacksModel)
}

/// A prompt of (`at_least`) so many tokens for a model that takes `context` at once.
pub(super) fn too_long(tokens: u64, at_least: bool, context: u64) -> ApiError {
    let at_least = if at_least { "at least " } else { "" };
    let message = format!(
        "the prompt has {at_least}{tokens} tokens, but the model takes {context} at once: shorten it, or ask a model with a larger context"
    );
    ApiError::client(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
        .param("messages")
        .with("prompt_tokens", json!(tokens))
        .with("context", json!(context))
}

/// The router ends.
pub(super) fn stopping() -> ApiError {
    let message = "the router is stopping";
    ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "router_stopping", message).retry_after(5)
}

/// The router ends, and this stream has not.
pub(super) fn stopped_midway() -> ApiError {
    let message = "the router is stopping and waits no longer for this answer: it is not complete, ask again";
    ApiError { message: message.into(), ..stopping() }
}

/// A newer request of the same session took its place. SDKs repeat 409, 429 and 5xx, and this must not be repeated.
pub(super) fn superseded() -> ApiError {
    let message = "a newer completion of the same session took this one's place";
    ApiError::client(StatusCode::GONE, "superseded", message)
}

/// The queue did not give it a slot.
pub(super) fn no_slot(asked: AskedOf<'_>, why: NoSlot, settings: &Settings) -> ApiError {
    match why {
        NoSlot::Refused(refused) => queue(refused, settings),
        NoSlot::NoNode(refusal) => unavailable(asked, &refusal, settings),
        NoSlot::Superseded => superseded(),
        NoSlot::Stopping => stopping(),
    }
}

/// The queue refused it.
pub(super) fn queue(refused: Refused, settings: &Settings) -> ApiError {
    let full = |code, message: String| ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, code, message);
    match refused {
        Refused::KeyBusy { at_once } => {
            let limit = settings.queue.per_key;
            let message = format!(
                "this API key has {at_once} requests here already; {limit} are allowed at once (`limits.per_key`)"
            );
            let error = ApiError::client(StatusCode::TOO_MANY_REQUESTS, "too_many_at_once", message);
            ApiError { kind: "rate_limit_error", ..error }
                .retry_after(1)
                .with("at_once", json!(at_once))
                .with("limit", json!(limit))
        }
        Refused::QueueFull { waiting } => {
            let message = format!("every slot is taken and the queue is full: {waiting} requests wait");
            full("mesh_full", message).retry_after(10).with("queue", json!({ "waiting": waiting }))
        }
        Refused::TooLate { position, predicted, patience } => {
            let message = format!(
                "every slot is taken: as number {position} of those that wait this request would get one in about {}, and it may wait {}",
                human_duration(predicted),
                human_duration(patience),
            );
            let queue = json!({
                "position": position, "predicted_s": predicted.as_secs_f64(), "patience_s": patience.as_secs_f64(),
            });
            full("mesh_full", message).retry_after(seconds(predicted)).with("queue", queue)
        }
        Refused::Expired { waited } => {
            let meshctl = settings.meshctl;
            let message = format!(
                "no slot became free within {}; `{meshctl} status` shows what the mesh is busy with",
                human_duration(waited)
            );
            let queue = json!({ "waited_s": waited.as_secs_f64() });
            full("deadline_passed", message).retry_after(5).with("queue", queue)
        }
    }
}

/// The client repeats what was refused.
pub(super) fn loops(loops: Loops) -> ApiError {
    let Loops { code, times, pause } = loops;
    let advice = match code {
        "context_length_exceeded" => {
            "the prompt has to become shorter, or a model with a larger context be asked"
        }
        "model_not_found" => "GET /v1/models lists what there is",
        "unsupported" => "the request has to change as that error said, or another model be asked",
        _ => "the request has to change",
    };
    let message = format!(
        "the same kind of request was refused {times} times in a row as `{code}`: {advice}; sending it again does not help"
    );
    let error = ApiError::client(StatusCode::TOO_MANY_REQUESTS, "repeated_refusal", message);
    ApiError { kind: "rate_limit_error", ..error }
        .retry_after(seconds(pause))
        .with("refused_as", json!(code))
        .with("times", json!(times))
}

/// Whole seconds for `Retry-After`: at least one, and at most a minute, for much may change in that time.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).clamp(1, 60)
}
