//! Asks replicas that have failed several times for one token when their pause is over, so that no user's request has
//! to find out whether they work again.

use super::agent_links::AgentLinks;
use super::attempt::{Failure, refusal};
use super::engine_error::engine_error;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::metrics::{Metrics, ReasonLabel};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use mesh_core::fleet::Outcome;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{EngineState, ReplicaState};
use mesh_proto::v1::RequestHead;
use mesh_proto::v1::response_head::Outcome as HeadOutcome;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A replica that needs longer for one token to a prompt of one word is no help. Slow CPUs need seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// A probe that decided nothing (busy, loading) is repeated after this.
const AGAIN: Duration = Duration::from_secs(2);
/// The most bytes that are read of an answer to a probe.
const READ: usize = 64 << 10;

type Place = (MachineId, ModelId);

/// What a probe found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Answered,
    Failed,
    /// Neither: it is busy or loading, or the machine is out of reach, which others notice.
    Undecided,
}

impl Verdict {
    /// What a failure says of the replica.
    fn of(failure: &Failure) -> Self {
        match failure {
            // It does not like the question, but it works.
            Failure::Client(_) | Failure::Beyond { .. } | Failure::NoSuchPath(_) => Self::Answered,
            // The agent's reports say more.
            Failure::Loading | Failure::Busy(_) | Failure::Resting(..) | Failure::Link(_) => Self::Undecided,
            // An engine that takes a request and hangs up has failed like one that answers 500.
            Failure::Replica(_) | Failure::Absent(_) | Failure::Late(_) | Failure::Empty(_) => Self::Failed,
        }
    }
}

/// Probes half-open replicas until `stop`.
pub(super) async fn keep(fleet: FleetHandle, links: AgentLinks, metrics: Metrics, stop: CancellationToken) {
    let (mut snapshots, mut running) = (fleet.snapshots(), JoinSet::new());
    // Those that are being asked (`None`), or are not to be asked again before this moment.
    let mut asked: BTreeMap<Place, Option<Instant>> = BTreeMap::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let now = Instant::now();
        asked.retain(|_, until| until.is_none_or(|until| until > now));
        for (place, embeds) in half_open(&snapshot) {
            if !asked.contains_key(&place) {
                asked.insert(place.clone(), None);
                let links = links.clone();
                running.spawn(async move {
                    let verdict = tokio::time::timeout(LIMIT, probe(&links, &place, embeds));
                    (verdict.await.unwrap_or(Verdict::Failed), place)
                });
            }
        }
        let next = asked.values().flatten().min().copied();
        let time_passes = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            Some(done) = running.join_next() => {
                // A probe does not panic; if one did, its replica is left to users' last resort.
                let Ok((verdict, place)) = done else { continue };
                let (machine, model) = &place;
                let reason = match verdict {
                    Verdict::Answered => "answered",
                    Verdict::Failed => "failed",
                    Verdict::Undecided => "undecided",
                };
                metrics.probes.get_or_create(&ReasonLabel { reason }).inc();
                tracing::info!(node = %machine, %model, reason, "a failing replica was asked for one token");
                match verdict {
                    Verdict::Answered => fleet.observe(machine, model, Outcome::Answered(None)),
                    Verdict::Failed => fleet.observe(machine, model, Outcome::ReplicaFailed),
                    Verdict::Undecided => {}
                }
                asked.insert(place, Some(Instant::now() + AGAIN));
            }
            () = time_passes => {}
        }
    }
}

/// Loaded replicas on machines within reach that have rested and are not trusted yet; and whether each makes
/// embeddings. What is not in memory is not loaded for this.
fn half_open(snapshot: &Snapshot) -> Vec<(Place, bool)> {
    let machines = snapshot.view.machines.iter();
    machines
        .filter(|machine| machine.liveness == Liveness::Alive && machine.path.is_some() && !machine.draining)
        .flat_map(|machine| machine.history.iter().map(move |(model, history)| (machine, model, history)))
        .filter_map(|(machine, model, history)| {
            let (rest, _) = history.resting?;
            let (engine, replica) = machine.replica(model)?;
            let there = engine.state == EngineState::Up && replica.state == ReplicaState::Loaded;
            (rest.is_zero() && there)
                .then(|| ((machine.id.clone(), model.clone()), replica.abilities.embed == Some(true)))
        })
        .collect()
}

async fn probe(links: &AgentLinks, (machine, model): &Place, embeds: bool) -> Verdict {
    let Some(link) = links.get(machine) else { return Verdict::Undecided };
    let (path, body) = if embeds {
        ("/v1/embeddings", json!({ "model": model, "input": "ok" }))
    } else {
        let messages = json!([{ "role": "user", "content": "Say ok." }]);
        ("/v1/chat/completions", json!({ "model": model, "messages": messages, "max_tokens": 1 }))
    };
    let body = Bytes::from(body.to_string());
    let head = RequestHead {
        request_id: format!("probe-{}", uuid::Uuid::now_v7().simple()),
        model: model.to_string(),
        path: path.into(),
        body_length: body.len() as u64,
        traceparent: String::new(),
        blob: None,
    };
    let answer = match link.open(head, body).await {
        Ok(answer) => answer,
        Err(error) => return Verdict::of(&error.into()),
    };
    let status = match answer.head.outcome {
        Some(HeadOutcome::Answer(answer)) => answer.status,
        Some(HeadOutcome::Refused(refused)) => return Verdict::of(&refusal(refused)),
        Some(HeadOutcome::Blob(_)) | None => return Verdict::Failed,
    };
    let (mut body, mut text) = (answer.body, Vec::new());
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) if text.len() < READ => text.extend_from_slice(&chunk),
            Ok(_) => break,
            Err(error) => return Verdict::of(&error.into()),
        }
    }
    let Some(status) = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok()) else {
        return Verdict::Failed;
    };
    if status.is_success() {
        return if answers(&text, embeds) { Verdict::Answered } else { Verdict::Failed };
    }
    Verdict::of(&engine_error(status, &text, model))
}

/// Whether an answer is one: it has a choice, or a vector.
fn answers(text: &[u8], embeds: bool) -> bool {
    let field = if embeds { "data" } else { "choices" };
    serde_json::from_slice::<serde_json::Value>(text)
        .is_ok_and(|value| value[field].as_array().is_some_and(|list| !list.is_empty()))
}
