//! Forwarding one request: decide, try a node, and while nothing has gone to the client, try the next one.
//!
//! ```text
//! body ─► head ─► mode or model ─► decide + count ─► link.open ─┬─ refused, broken, 5xx ─► next node
//!                                        ▲                      ├─ loading ─► next node, or wait and decide again
//!                                        └── nobody left ◄──────┤
//!                                                               └─ first content ─► headers, bytes as they come
//! ```
//! After the first content nothing is retried: a break becomes an error event and the end of the stream.

pub mod agent_links;
pub mod answer_shape;
pub mod attempt;
pub mod blobs;
pub mod in_flight;
pub mod quic_links;
pub mod stream_guard;
pub mod ticket;

use crate::config::Settings;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::http::head::Head;
use crate::http::reply::{ApiError, Reply, reasons_json, reasons_text, set_header};
use crate::journal::Journal;
use crate::metrics::{Metrics, ReasonLabel};
use agent_links::AgentLinks;
use attempt::{Attempt, Failure};
use bytes::Bytes;
use http::StatusCode;
use in_flight::{Claim, InFlight};
use mesh_core::fleet::Outcome;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::mode::{Asked, PREFIX, Purpose};
use mesh_core::routing::{Candidate, Decision, Refusal, Rejection, Request, Why, decide};
use mesh_daemon::clock::{Clock, unix_ms};
use mesh_proto::v1::ExplainReply;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use stream_guard::Usage;
use ticket::{Ended, Ticket};
use tokio::time::Instant;

/// Nodes that are tried for one request: the first and two others.
const ATTEMPTS: usize = 3;

/// A loading model is asked about again this often, besides at every change in the fleet.
const LOAD_POLL: Duration = Duration::from_millis(250);

/// An answer that is no stream has its first content at its end: it may take this many times as long.
const WHOLE_ANSWER: u32 = 6;

/// A rough count of tokens: English and code are near four bytes each. Only for comparing machines.
const BYTES_PER_TOKEN: u64 = 4;

/// What forwarding needs of the rest of the router. Clones are cheap.
#[derive(Clone)]
pub struct Forward {
    /// All machines and modes.
    pub fleet: FleetHandle,
    /// The ways to the agents.
    pub links: AgentLinks,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Records of requests.
    pub journal: Journal,
    /// Counters.
    pub metrics: Metrics,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// The clock.
    pub clock: Clock,
}

/// A request as it came in.
pub struct Incoming {
    /// Its id.
    pub id: String,
    /// The path on the engine, one of [`mesh_proto::frame::PATHS`].
    pub path: &'static str,
    /// Chat or embeddings.
    pub purpose: Purpose,
    /// The client's name for itself.
    pub client: String,
    /// The whole body.
    pub body: Bytes,
}

/// Where a request stands between attempts.
struct Course<'a> {
    /// The models that may answer.
    models: Vec<(ModelId, Option<ModeName>)>,
    mode: Option<ModeName>,
    incoming: &'a Incoming,
    least_context: u32,
    /// What to tell the client if no other node can do what those tried so far cannot.
    beyond: Option<Box<ApiError>>,
}

impl Course<'_> {
    fn request(&self) -> Request<'_> {
        Request {
            models: self.models.iter().map(|(model, mode)| (model, mode.as_ref())).collect(),
            purpose: self.incoming.purpose,
            prompt_tokens: self.incoming.body.len() as u64 / BYTES_PER_TOKEN,
            mode: self.mode.as_ref(),
            least_context: self.least_context,
        }
    }
}

impl Forward {
    /// Answers one request. Dropping the future, or the body of the reply, cancels it down to the engine.
    pub async fn run(&self, incoming: Incoming) -> Reply {
        let mut ticket = Ticket::new(
            ExplainReply {
                request_id: incoming.id.clone(),
                at_unix_ms: unix_ms(),
                path: incoming.path.into(),
                client: incoming.client.clone(),
                body_bytes: incoming.body.len() as u64,
                outcome: "running".into(),
                ..ExplainReply::default()
            },
            self.journal.clone(),
            self.metrics.clone(),
        );
        let may_stream = incoming.purpose == Purpose::Chat;
        let result = match Head::read(&incoming.body, may_stream) {
            Ok(head) => self.route(&incoming, &head, &mut ticket).await,
            Err(error) => {
                Err(ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", error.to_string()))
            }
        };
        let (attempt, candidate, claim) = match result {
            Ok(success) => success,
            Err(error) => {
                let ended = if error.status.is_server_error() { Ended::Failed } else { Ended::Refused };
                self.metrics.refusals.get_or_create(&ReasonLabel { reason: error.code }).inc();
                ticket.end(ended, error.status.as_u16(), &error.message, Usage::default());
                return error.with("request_id", json!(incoming.id)).reply();
            }
        };
        self.deliver(attempt, &candidate, claim, ticket)
    }

    /// From the head of a request to an attempt that has content.
    async fn route(
        &self,
        incoming: &Incoming,
        head: &Head,
        ticket: &mut Ticket,
    ) -> Result<(Attempt, Candidate, Claim), ApiError> {
        let models = self.meaning(&head.model, ticket, head.stream)?;
        let mode = ModeName::new(ticket.mode()).ok();
        let mut course = Course { models, mode, incoming, least_context: 0, beyond: None };
        let deadline = Instant::now() + self.settings.load_wait;
        let mut snapshots = self.fleet.snapshots();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let refusal = match self.decide(&snapshot, &course.request()) {
                Ok((decision, claim)) => {
                    match self.attempts(&mut course, head, decision, claim, ticket).await {
                        Ok(success) => return Ok(success),
                        Err(Exhausted::Error(error)) => return Err(*error),
                        Err(Exhausted::Loading) => None,
                    }
                }
                Err(refusal) if refusal.loading => Some(refusal),
                Err(refusal) => {
                    if let Some(error) = course.beyond {
                        return Err(*error);
                    }
                    ticket.decided(&[], &refusal.rejected);
                    return Err(unavailable(&head.model, &refusal));
                }
            };
            if let Some(refusal) = &refusal {
                ticket.decided(&[], &refusal.rejected);
            }
            if Instant::now() + LOAD_POLL >= deadline {
                let message = format!(
                    "`{}` is still being loaded after {} s",
                    head.model,
                    self.settings.load_wait.as_secs()
                );
                let rejected = refusal.map(|r| r.rejected).unwrap_or_default();
                return Err(ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "model_loading", message)
                    .retry_after(5)
                    .with("nodes", reasons_json(&rejected)));
            }
            if refusal.is_none() {
                // An engine said so itself: not again at every heartbeat of the fleet, each time with the body.
                tokio::time::sleep(LOAD_POLL).await;
            } else if let Ok(Err(_)) = tokio::time::timeout(LOAD_POLL, snapshots.changed()).await {
                let message = "the router is stopping";
                return Err(ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "router_stopping", message)
                    .retry_after(5));
            }
        }
    }

    /// Which models the client's word for a model means.
    fn meaning(
        &self,
        asked: &str,
        ticket: &mut Ticket,
        stream: bool,
    ) -> Result<Vec<(ModelId, Option<ModeName>)>, ApiError> {
        let snapshot = self.fleet.snapshot();
        ticket.asked(asked, stream);
        let named = self.settings.model_aliases.get(asked).map_or(asked, ModelId::as_str);
        match snapshot.modes.resolve(named, &snapshot.view) {
            Asked::Mode(mode) => {
                ticket.set_mode(mode.name.as_str());
                let chain = snapshot.modes.chain(mode);
                Ok(chain.into_iter().map(|(model, from)| (model.clone(), Some(from.clone()))).collect())
            }
            Asked::Model(model) => Ok(vec![(model, None)]),
            // After a restart the router knows nothing until the first report: no reason to call a name wrong.
            Asked::Unknown { .. } if snapshot.view.model_names().is_empty() => {
                let message =
                    format!("`{}` cannot be served: no node has reported a model yet", shown(asked));
                Err(ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "no_node_available", message)
                    .retry_after(5))
            }
            Asked::Unknown { near, all } => Err(unknown_model(asked, &near, &all)),
        }
    }

    fn decide(&self, snapshot: &Snapshot, request: &Request<'_>) -> Result<(Decision, Claim), Refusal> {
        let (now, dice) = (self.clock.now(), rand::random());
        self.in_flight
            .claim(|load| decide(&snapshot.view, load, request, now, dice), |decision| &decision.ranked[0])
    }

    /// Tries the ranked nodes until one has content.
    async fn attempts(
        &self,
        course: &mut Course<'_>,
        head: &Head,
        decision: Decision,
        first_claim: Claim,
        ticket: &mut Ticket,
    ) -> Result<(Attempt, Candidate, Claim), Exhausted> {
        ticket.decided(&decision.ranked, &decision.rejected);
        let (mut claim, mut loading, mut broken) = (Some(first_claim), false, false);
        let (mut tried, mut failed) = (0, None::<(MachineId, String)>);
        let mut ranked = decision.ranked.into_iter().peekable();
        while let Some(candidate) = ranked.next() {
            if tried == ATTEMPTS {
                break;
            }
            if candidate.context.is_some_and(|context| context < course.least_context) {
                continue;
            }
            tried += 1;
            let claim = claim.take().unwrap_or_else(|| self.in_flight.claim_next(&candidate));
            let reason = match &failed {
                None => candidate.why.to_string(),
                Some((node, why)) => format!("next after {node}: {why}"),
            };
            ticket.attempt(&candidate, &reason);
            let failure = match self
                .attempt(course.incoming, head, &candidate, tried < ATTEMPTS && ranked.peek().is_some())
                .await
            {
                Ok(attempt) => {
                    ticket.first_content();
                    return Ok((attempt, candidate, claim));
                }
                Err(failure) => failure,
            };
            ticket.attempt_ended(failure.to_string());
            failed = Some((candidate.machine.clone(), failure.to_string()));
            tracing::debug!(request_id = ticket.id(), node = %candidate.machine, %failure, "attempt failed");
            if let Some(outcome) = failure.outcome() {
                self.fleet.observe(&candidate.machine, &candidate.model, outcome);
            }
            self.metrics.retries.get_or_create(&ReasonLabel { reason: failure.word() }).inc();
            match failure {
                Failure::Client(error) => return Err(Exhausted::Error(error)),
                Failure::Beyond { least_context, error } => {
                    course.least_context = course.least_context.max(least_context);
                    course.beyond = Some(error);
                }
                Failure::Loading => loading = true,
                Failure::Late(limit) if !head.stream => {
                    let message = format!("the answer was not complete within {} s", limit.as_secs());
                    let error = ApiError::mesh(StatusCode::GATEWAY_TIMEOUT, "answer_too_late", message);
                    return Err(Exhausted::Error(Box::new(error)));
                }
                Failure::Link(_) | Failure::Replica(_) | Failure::Busy(_) | Failure::Late(_) => broken = true,
            }
        }
        if loading {
            return Err(Exhausted::Loading);
        }
        if !broken && let Some(error) = course.beyond.take() {
            return Err(Exhausted::Error(error));
        }
        let message =
            format!("every node that could serve `{}` failed: {}", head.model, ticket.attempts_text());
        let error =
            ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "all_nodes_failed", message).retry_after(2);
        Err(Exhausted::Error(Box::new(error)))
    }

    /// One try on one node. With another node at hand, it ends as soon as this one is in doubt: a machine
    /// that was switched off sends nothing, and QUIC alone would wait for four seconds.
    async fn attempt(
        &self,
        incoming: &Incoming,
        head: &Head,
        candidate: &Candidate,
        others: bool,
    ) -> Result<Attempt, Failure> {
        let link = self
            .links
            .get(&candidate.machine)
            .ok_or_else(|| Failure::Link("there is no data link".into()))?;
        let body = head.splice(&incoming.body, candidate.model.as_str());
        let opened = attempt::open(link, incoming, head, candidate, body);
        let limit = self.settings.answer_wait * if head.stream { 1 } else { WHOLE_ANSWER };
        tokio::select! {
            opened = opened => opened,
            () = self.in_doubt(&candidate.machine), if others => {
                Err(Failure::Link("its control stream was lost".into()))
            }
            () = tokio::time::sleep(limit) => Err(Failure::Late(limit)),
        }
    }

    /// Completes when a machine that is alive now is so no longer.
    async fn in_doubt(&self, machine: &MachineId) {
        let mut snapshots = self.fleet.snapshots();
        let alive = |snapshot: &Snapshot| {
            snapshot.view.machine(machine).is_some_and(|view| view.liveness == Liveness::Alive)
        };
        let was_alive = alive(&snapshots.borrow_and_update());
        if !was_alive || snapshots.wait_for(|snapshot| !alive(snapshot)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Turns an attempt with content into the client's answer.
    fn deliver(&self, attempt: Attempt, candidate: &Candidate, claim: Claim, mut ticket: Ticket) -> Reply {
        let (mode, reason, id) =
            (ticket.mode().to_owned(), ticket.reason().to_owned(), ticket.id().to_owned());
        let mut reply = match attempt {
            Attempt::Whole { status, content_type, body, usage } => {
                ticket.attempt_ended("answered");
                ticket.end(Ended::Complete, status.as_u16(), "", usage);
                self.fleet.observe(&candidate.machine, &candidate.model, Outcome::Answered(usage.timing));
                drop(claim);
                attempt::whole_reply(status, &content_type, body)
            }
            Attempt::Stream(stream) => {
                let patience = self.settings.answer_wait;
                stream.reply(self.fleet.clone(), candidate.clone(), claim, ticket, patience)
            }
        };
        set_header(&mut reply, "x-mesh-node", candidate.machine.as_str());
        set_header(&mut reply, "x-mesh-model", candidate.model.as_str());
        if !mode.is_empty() {
            set_header(&mut reply, "x-mesh-mode", &mode);
        }
        set_header(&mut reply, "x-mesh-reason", &reason);
        set_header(&mut reply, "x-mesh-request-id", &id);
        reply
    }
}

/// No node of a decision gave content.
enum Exhausted {
    /// And waiting does not help.
    Error(Box<ApiError>),
    /// But one is loading the model.
    Loading,
}

/// A client's word for a model, short enough for a message.
fn shown(asked: &str) -> String {
    asked.chars().take(100).collect()
}

fn unknown_model(asked: &str, near: &[String], all: &[String]) -> ApiError {
    let mut message = format!("there is no mode or model `{}`", shown(asked));
    if near.is_empty() {
        let list: Vec<&str> = all.iter().take(8).map(String::as_str).collect();
        message.push_str(&format!("; there are {}", list.join(", ")));
    } else {
        message.push_str(&format!("; did you mean {}?", near.join(" or ")));
    }
    ApiError::client(StatusCode::NOT_FOUND, "model_not_found", message)
        .param("model")
        .with("near", json!(near))
        .with("available", json!(all))
}

fn unavailable(asked: &str, refusal: &Refusal) -> ApiError {
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
            format!("{message}; `meshctl model load {model} --node {machine}` loads it")
        }
        Some(Rejection { model: None, .. }) | None => message,
    };
    ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "no_node_available", message)
        .retry_after(refusal.retry_after_s())
        .with("nodes", reasons_json(&refusal.rejected))
}
