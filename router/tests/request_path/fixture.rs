//! A router's request path without sockets: real fleet keeper, queue and journal, scripted links.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use mesh_core::fleet::DataPath;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{
    Capabilities, Capacity, Engine, EngineKind, EngineState, Reading, Replica, ReplicaState, Report, Store,
    Vitals,
};
use mesh_core::routing::Slo;
use mesh_daemon::clock::Clock;
use mesh_daemon::config_layers::KeyLines;
use mesh_proto::v1::response_head::Outcome;
use mesh_proto::v1::{BlobRequest, EngineAnswer, ExplainReply, Refused, RequestHead, ResponseHead};
use router::config::{ModeConfig, RouterConfig, check};
use router::fleet_keeper::{FleetHandle, Session, Snapshot};
use router::forward::agent_links::{AgentAnswer, AgentLink, AgentLinks, LinkError};
use router::forward::caller::Caller;
use router::forward::in_flight::InFlight;
use router::forward::{Forward, ForwardParts, Incoming};
use router::http::dialect::Door;
use router::http::reply::Reply;
use router::journal::Journal;
use router::ledger::OperatorWishes;
use router::metrics::Metrics;
use router::steward::wished::Wished;
use router::steward::{self, StewardParts};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Every wait has this end, on the clock of the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3_600);

/// How a node answers one request.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// A chat, after this long.
    After(Duration),
    /// This status and body at once, with this `Retry-After`.
    Status(u16, &'static str, Option<u32>),
    /// The link breaks.
    Gone,
    /// The engine takes the request and hangs up.
    HangsUp,
    /// The agent refuses, with this kind.
    Refused(&'static str),
    /// The start of a stream, and then nothing.
    EndlessStream,
}

/// What a node has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Requests that it answers now.
    pub(crate) running: usize,
    /// The most of those at any time.
    pub(crate) most: usize,
    /// The bodies of all requests, in order.
    pub(crate) bodies: Vec<Value>,
}

/// A scripted node.
pub(crate) struct Node {
    always: Mutex<Script>,
    next: Mutex<VecDeque<Script>>,
    pub(crate) seen: watch::Sender<Seen>,
}

impl Node {
    pub(crate) fn always(&self, script: Script) {
        *self.always.lock().expect("no panic") = script;
    }

    pub(crate) fn next(&self, script: Script) {
        self.next.lock().expect("no panic").push_back(script);
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.borrow().bodies.len()
    }

    pub(crate) async fn until(&self, wanted: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let found = tokio::time::timeout(PATIENCE, seen.wait_for(wanted)).await;
        drop(found.expect("in time").expect("the node lives"));
    }
}

struct Link(Arc<Node>);

/// Counts a request as running until it is dropped.
struct Runs(Arc<Node>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.seen.send_modify(|seen| seen.running -= 1);
    }
}

impl AgentLink for Link {
    fn open(&self, _: RequestHead, body: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        let node = self.0.clone();
        Box::pin(async move {
            node.seen.send_modify(|seen| {
                seen.running += 1;
                seen.most = seen.most.max(seen.running);
                seen.bodies.push(serde_json::from_slice(&body).unwrap_or(Value::Null));
            });
            let runs = Runs(node.clone());
            let queued = node.next.lock().expect("no panic").pop_front();
            let script = queued.unwrap_or_else(|| node.always.lock().expect("no panic").clone());
            let answer = |status: u16, kind: &str, retry_after_s, body: String, endless: bool| {
                let content_type = kind.into();
                let answer =
                    EngineAnswer { status: status.into(), content_type, engine: "e".into(), retry_after_s };
                let first = stream::iter([Ok(Bytes::from(body))]);
                let rest = if endless { stream::pending().boxed() } else { stream::empty().boxed() };
                // The request runs until its body is dropped.
                let body = first.chain(rest).map(move |item| {
                    let _runs = &runs;
                    item
                });
                AgentAnswer {
                    head: ResponseHead { outcome: Some(Outcome::Answer(answer)) },
                    body: body.boxed(),
                }
            };
            match script {
                Script::After(time) => {
                    tokio::time::sleep(time).await;
                    let message = json!({"role": "assistant", "content": "ok"});
                    let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
                    let body = json!({"object": "chat.completion", "choices": choices});
                    Ok(answer(200, "application/json", None, body.to_string(), false))
                }
                Script::Status(status, body, retry) => {
                    Ok(answer(status, "application/json", retry, body.into(), false))
                }
                Script::Gone => Err(LinkError::Gone("scripted".into())),
                Script::HangsUp => Err(LinkError::EngineBroke),
                Script::Refused(kind) => {
                    let refused = Refused { kind: kind.into(), message: "scripted".into() };
                    let head = ResponseHead { outcome: Some(Outcome::Refused(refused)) };
                    Ok(AgentAnswer { head, body: stream::empty().boxed() })
                }
                Script::EndlessStream => {
                    let delta =
                        json!({"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": null}]});
                    Ok(answer(200, "text/event-stream", None, format!("data: {delta}\n\n"), true))
                }
            }
        })
    }

    fn blob(&self, _: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        Box::pin(async { Err(LinkError::Shutdown) })
    }
}

/// A model on a node.
pub(crate) fn replica(model: &str, state: ReplicaState, slots: Option<u32>) -> Replica {
    Replica { slots, ..Replica::new(ModelId::new(model).expect("valid"), state) }
}

/// An engine of the agent's own with these models.
pub(crate) fn engine(replicas: Vec<Replica>) -> Engine {
    let capabilities = Capabilities { can_load: true, ..Capabilities::default() };
    Engine {
        state: EngineState::Up,
        capabilities,
        replicas,
        ..Engine::new("llama-server-1", EngineKind::LlamaServer, true)
    }
}

/// A report of an engine.
pub(crate) fn report(engine: Engine) -> Report {
    Report { engines: Some(vec![engine]), ..Report::default() }
}

pub(crate) struct Mesh {
    pub(crate) forward: Arc<Forward>,
    pub(crate) fleet: FleetHandle,
    links: AgentLinks,
    pub(crate) in_flight: InFlight,
    stop: CancellationToken,
    clock: Clock,
    /// What operators wish: nothing.
    operator: watch::Sender<Arc<OperatorWishes>>,
    last_id: AtomicU64,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Mesh {
    /// One whose modes all use the model `m`.
    pub(crate) fn start(configure: impl FnOnce(&mut RouterConfig)) -> Self {
        let mut config = RouterConfig::default();
        for mode in ["autocomplete", "ask", "code", "architect", "background"] {
            let models = vec!["m".to_owned()];
            config.modes.insert(mode.into(), ModeConfig { models, ..ModeConfig::default() });
        }
        configure(&mut config);
        let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
        let (clock, stop) = (Clock::start(), CancellationToken::new());
        let fleet =
            FleetHandle::start(settings.modes.clone(), settings.model_aliases.clone(), clock, stop.clone());
        let (links, in_flight) = (AgentLinks::default(), InFlight::default());
        let forward = Forward::new(ForwardParts {
            fleet: fleet.clone(),
            links: links.clone(),
            in_flight: in_flight.clone(),
            journal: Journal::start(),
            metrics: Metrics::new(),
            settings: Arc::new(settings),
            clock,
        });
        tokio::spawn(forward.clone().keep(stop.clone()));
        let operator = watch::Sender::new(Arc::default());
        let (forward, last_id) = (Arc::new(forward), AtomicU64::new(0));
        Self { forward, fleet, links, in_flight, stop, clock, operator, last_id }
    }

    /// A node with one engine. Its heartbeats go on until the session's sender is dropped.
    pub(crate) async fn node(&self, name: &str, engine: Engine) -> (Arc<Node>, Control) {
        let id = MachineId::new(name).expect("valid");
        let node = Arc::new(Node {
            always: Mutex::new(Script::After(Duration::from_millis(100))),
            next: Mutex::default(),
            seen: watch::Sender::default(),
        });
        let session = self.fleet.attach(id.clone(), "boot".into()).await.expect("the keeper lives");
        session.report(report(engine)).await;
        let link = self.links.insert(id.clone(), Arc::new(Link(node.clone())));
        self.fleet.linked(id.clone(), link, Some(DataPath::InProcess)).await;
        let control = Control::start(session);
        self.until(|snapshot| {
            snapshot
                .view
                .machine(&id)
                .is_some_and(|machine| machine.path.is_some() && !machine.engines.is_empty())
        })
        .await;
        (node, control)
    }

    pub(crate) async fn until(&self, mut wanted: impl FnMut(&Snapshot) -> bool) {
        let mut snapshots = self.fleet.snapshots();
        let found = tokio::time::timeout(PATIENCE, snapshots.wait_for(|snapshot| wanted(snapshot))).await;
        drop(found.expect("in time").expect("the keeper lives"));
    }

    /// From now on a steward says where models are loaded.
    pub(crate) fn with_steward(&self) {
        let settings = check(RouterConfig::default(), "a test".into(), &KeyLines::default());
        let settings = settings.expect("it makes sense");
        let parts = StewardParts {
            fleet: self.fleet.clone(),
            in_flight: self.in_flight.clone(),
            blobs: None,
            operator: self.operator.subscribe(),
            expected: BTreeSet::new(),
            wished: Wished::default(),
            modes: None,
            placement: settings.placement,
            strategies: "/nonexistent".into(),
            metrics: Metrics::new(),
            clock: self.clock,
            minute_of_day: || 0,
        };
        self.forward.loads.ask(steward::start(parts, self.stop.clone()));
    }

    /// Sends a request for `model` and waits for its answer's head.
    pub(crate) async fn send(&self, model: &str, caller: Caller) -> Reply {
        self.send_body(&json!({ "model": model, "messages": [{"role": "user", "content": "hi"}] }), caller)
            .await
    }

    pub(crate) async fn send_body(&self, body: &Value, caller: Caller) -> Reply {
        self.send_to(Door::Chat, body, caller).await
    }

    pub(crate) async fn send_to(&self, door: Door, body: &Value, caller: Caller) -> Reply {
        let id = format!("req-{}", self.last_id.fetch_add(1, Ordering::Relaxed)).into();
        let body = Bytes::from(body.to_string());
        let client = "test".into();
        self.forward.run(Incoming { id, door, client, caller, body, slo: Slo::default() }).await
    }

    /// What is remembered of a request; they are numbered from 0.
    pub(crate) async fn explained(&self, number: u64) -> ExplainReply {
        self.forward.journal.find(&format!("req-{number}")).await.expect("it is remembered")
    }

    /// Resolves when this many requests wait in the queue.
    pub(crate) async fn until_waiting(&self, count: usize) {
        eventually(|| self.forward.room.waiting() == count).await;
    }

    pub(crate) async fn until_idle(&self) {
        eventually(|| self.in_flight.load().is_empty() && self.forward.room.here() == 0).await;
    }
}

/// Resolves when `wanted` is true; it is looked at after each step of the test's clock.
pub(crate) async fn eventually(wanted: impl Fn() -> bool) {
    let looking = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("in time");
}

/// The control stream of a scripted node.
pub(crate) struct Control {
    reports: tokio::sync::mpsc::Sender<Report>,
    pub(crate) directives: tokio::sync::mpsc::Receiver<mesh_core::machine::Directive>,
}

impl Control {
    fn start(mut session: Session) -> Self {
        let (reports, mut inbox) = tokio::sync::mpsc::channel::<Report>(8);
        let (outbox, directives) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    report = inbox.recv() => match report {
                        Some(report) => session.report(report).await,
                        None => return,
                    },
                    Some(directive) = session.directives.recv() => drop(outbox.send(directive).await),
                    () = tokio::time::sleep(Duration::from_secs(1)) => session.heartbeat().await,
                }
            }
        });
        Self { reports, directives }
    }

    pub(crate) async fn report(&self, engine: Engine) {
        self.reports.send(report(engine)).await.expect("the session lives");
    }

    /// Its RAM, in GiB.
    pub(crate) async fn ram(&self, total: u64, free: u64) {
        let ram = Capacity {
            total: mesh_core::units::Bytes(total << 30),
            available: mesh_core::units::Bytes(free << 30),
        };
        let vitals = Vitals { ram: Reading::Known(ram), ..Vitals::unknown("not told") };
        let report = Report { vitals: Some(vitals), ..Report::default() };
        self.reports.send(report).await.expect("the session lives");
    }

    pub(crate) async fn store(&self, store: Store) {
        let report = Report { store: Some(store), ..Report::default() };
        self.reports.send(report).await.expect("the session lives");
    }

    pub(crate) async fn wish(&mut self) -> mesh_core::machine::Directive {
        let wish = tokio::time::timeout(PATIENCE, self.directives.recv()).await;
        wish.expect("in time").expect("the router lives")
    }
}

/// The status of an answer, its error's code, and its error.
pub(crate) async fn error_of(reply: Reply) -> (u16, String, Value) {
    let status = reply.status().as_u16();
    let body = reply.into_body().collect().await.expect("it never fails").to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    (status, value["error"]["code"].as_str().unwrap_or_default().to_owned(), value["error"].clone())
}

/// All that a client gets.
pub(crate) async fn text_of(reply: Reply) -> String {
    let body = reply.into_body().collect().await.expect("it never fails").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

pub(crate) fn header(reply: &Reply, name: &str) -> String {
    reply.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// A caller with this key.
pub(crate) fn caller(key: &str) -> Caller {
    Caller { key: key.into(), ..Caller::default() }
}
