//! One request in, one answer out: leases the model, asks its engine over loopback HTTP and passes the bytes
//! on as they come. Called by the data link, and directly by `modemesh up`.
//!
//! What it does not do: choose (the router did), look into bodies, or retry.

mod engine_client;

use crate::metrics::{Metrics, Outcome};
use crate::model_store::StoreHandle;
use crate::supervisor::{Lease, SupervisorHandle};
use crate::trial::Trials;
use bytes::{Bytes, BytesMut};
use engine_client::{Call, EngineBody, EngineClient, Head};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use mesh_core::id::ModelId;
use mesh_daemon::telemetry;
use mesh_proto::frame;
use mesh_proto::v1::response_head;
use mesh_proto::v1::{BlobReply, BlobRequest, EngineAnswer, Refused, RequestHead, ResponseHead};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tracing::{Instrument as _, Span};

/// How much of a 503 is read to see whether the engine is only loading, and for how long.
const EXCUSE_LIMIT: usize = 64 * 1024;
const EXCUSE_TIME: Duration = Duration::from_secs(2);

/// One JSON document on each line.
const NDJSON: &str = "application/x-ndjson";

/// "Service Unavailable".
const UNAVAILABLE: u16 = 503;

/// The engine's connection broke in the middle of an answer. The rest will never come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("engine `{engine}` broke off in the middle of its answer: {cause}")]
pub struct EngineBroke {
    /// The engine's name.
    pub engine: String,
    /// What the connection said.
    pub cause: String,
}

/// What an engine said, or why it said nothing.
pub struct Answer {
    /// The first message of the answer.
    pub head: ResponseHead,
    /// The rest. Dropping it closes the engine's connection and gives the model free.
    pub body: AnswerBody,
}

/// Bytes of a model file, or why there are none.
pub struct BlobAnswer {
    /// The first message of the answer.
    pub head: ResponseHead,
    /// The bytes; after an error there are no more. Dropping it closes the file.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

/// Everything that answering needs.
pub struct Serve {
    supervisor: SupervisorHandle,
    store: OnceLock<StoreHandle>,
    trials: OnceLock<Arc<Trials>>,
    engines: EngineClient,
    metrics: Metrics,
    in_flight: watch::Sender<usize>,
    /// Requests that ever began.
    begun: AtomicU64,
    refusing: Mutex<Refusing>,
    draining: watch::Sender<bool>,
}

/// Why new requests are refused. Each reason comes and goes without the other.
#[derive(Debug, Default)]
struct Refusing {
    stopping: bool,
    asleep: bool,
}

impl Serve {
    /// Answers with the models of `supervisor`.
    #[must_use]
    pub fn new(supervisor: SupervisorHandle, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            supervisor,
            store: OnceLock::new(),
            trials: OnceLock::new(),
            engines: EngineClient::default(),
            metrics,
            in_flight: watch::Sender::new(0),
            begun: AtomicU64::new(0),
            refusing: Mutex::default(),
            draining: watch::Sender::new(false),
        })
    }

    /// From now on files of `store` are lent to the router.
    pub fn lend_from(&self, store: StoreHandle) {
        if self.store.set(store).is_err() {
            tracing::warn!("there is a store already whose files are lent");
        }
    }

    /// From now on operators may try models.
    pub(crate) fn try_with(&self, trials: Trials) {
        if self.trials.set(Arc::new(trials)).is_err() {
            tracing::warn!("trials are possible already");
        }
    }

    /// The store whose files are lent.
    #[must_use]
    pub fn store(&self) -> Option<&StoreHandle> {
        self.store.get()
    }

    /// From now on every new request is refused; running ones go on.
    pub fn drain(&self) {
        self.refuse(|refusing| refusing.stopping = true);
    }

    /// Refuses new requests while the machine goes to sleep and until it is ready again.
    pub fn rest(&self, asleep: bool) {
        self.refuse(|refusing| refusing.asleep = asleep);
    }

    fn refuse(&self, change: impl FnOnce(&mut Refusing)) {
        // Held while it is told, or two changes could be told in the wrong order.
        let mut refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut refusing);
        let draining = refusing.stopping || refusing.asleep;
        self.draining.send_if_modified(|known| std::mem::replace(known, draining) != draining);
    }

    /// Whether new requests are refused.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Requests being answered now. Notice is given when there is none any more.
    #[must_use]
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }
}

/// Answers one request. Never fails: what goes wrong before the first byte is a refusal in the head, and
/// what goes wrong later ends the body with an error. Dropping the future or the body cancels the engine.
pub async fn answer(serve: &Arc<Serve>, head: RequestHead, body: Bytes) -> Answer {
    let span = tracing::info_span!(
        "request",
        request_id = %head.request_id,
        model = %head.model,
        engine = tracing::field::Empty
    );
    telemetry::adopt(&span, &head.traceparent);
    let running = Running::start(serve.clone(), span.clone());
    ask(running, head, body).instrument(span).await
}

/// Answers a wish for bytes of a model file. Like [`answer`], it never fails. It is no request: it neither counts
/// as one nor keeps a draining agent up.
pub async fn blob(serve: &Serve, request: &BlobRequest) -> BlobAnswer {
    let no = |kind: &str, message: String| {
        tracing::debug!(kind, message, "no file lent");
        BlobAnswer { head: refusal_head(kind, message), body: stream::empty().boxed() }
    };
    if *serve.draining.borrow() {
        return no("draining", "this machine is shutting down".into());
    }
    let Some(store) = serve.store.get() else {
        return no("no_such_blob", "this machine has no model store".into());
    };
    match store.lend(request).await {
        Ok(lent) => {
            let reply = BlobReply { size: lent.size, holder: String::new(), parts: lent.parts };
            let lent_bytes = serve.metrics.lent_bytes.clone();
            let count = move |piece: &io::Result<Bytes>| {
                if let Ok(bytes) = piece {
                    lent_bytes.inc_by(bytes.len() as u64);
                }
            };
            let head = ResponseHead { outcome: Some(response_head::Outcome::Blob(reply)) };
            BlobAnswer { head, body: lent.body.inspect(count).boxed() }
        }
        Err(Refused { kind, message }) => no(&kind, message),
    }
}

/// Refuses a request that never reached [`answer`], and counts it.
pub(crate) fn refuse(serve: &Serve, kind: &'static str, message: String) -> ResponseHead {
    serve.metrics.request(Outcome::Refused(kind));
    tracing::debug!(kind, message, "refused");
    refusal_head(kind, message)
}

async fn ask(mut running: Running, head: RequestHead, body: Bytes) -> Answer {
    let serve = running.serve.clone();
    if *serve.draining.borrow() {
        return running.refuse("draining", "this machine is shutting down or going to sleep".into());
    }
    if head.path == frame::TRIAL_PATH {
        return Box::pin(tried(running, &body)).await;
    }
    if !frame::PATHS.contains(&head.path.as_str()) {
        let path: String = head.path.chars().take(64).collect();
        return running.refuse("bad_request", format!("an engine's `{path}` is not for clients"));
    }
    let model = match ModelId::new(head.model) {
        Ok(model) => model,
        Err(error) => return running.refuse("bad_request", error.to_string()),
    };
    let lease = match serve.supervisor.lease(&model).await {
        Ok(lease) => lease,
        Err(refusal) => return running.refuse(refusal.kind(), refusal.to_string()),
    };
    Span::current().record("engine", &*lease.engine);
    serve.metrics.request_bytes.inc_by(body.len() as u64);
    let call = Call {
        base_url: &lease.base_url,
        path: &head.path,
        api_key: lease.api_key.as_deref(),
        keep: lease.keeps_connections,
    };
    match serve.engines.post(call, body).await {
        // On the heap: it is rare, and all requests would have its size.
        Ok((answer, rest)) if answer.status == UNAVAILABLE => {
            Box::pin(excuse(running, lease, answer, rest)).await
        }
        Ok((answer, rest)) => {
            let head = engine_head(&lease, answer);
            Answer { head, body: running.pass_on(lease, rest) }
        }
        Err(error) => {
            // What no engine has seen may be asked again without a doubt.
            let kind = if error.is_unsent() { "engine_down" } else { "engine_hung_up" };
            let message = format!("engine `{}` does not answer: {error}", lease.engine);
            running.refuse(kind, message)
        }
    }
}

/// Begins a trial; its lines are the answer.
async fn tried(mut running: Running, body: &[u8]) -> Answer {
    let serve = running.serve.clone();
    let Some(trials) = serve.trials.get() else {
        return running.refuse("bad_request", "this machine makes no trials".into());
    };
    match trials.ready(body).await {
        Ok(ready) => {
            let lines = trials.clone().begin(ready, running.others());
            let answer = EngineAnswer { status: 200, content_type: NDJSON.into(), ..EngineAnswer::default() };
            let head = ResponseHead { outcome: Some(response_head::Outcome::Answer(answer)) };
            Answer {
                head,
                body: AnswerBody { lines: Some(lines), running: Some(running), ..AnswerBody::empty() },
            }
        }
        Err((kind, message)) => running.refuse(kind, message),
    }
}

/// A 503 is either "still loading", which the router should know as such, or the engine's own answer.
async fn excuse(mut running: Running, lease: Lease, answer: Head, mut body: EngineBody) -> Answer {
    let head = engine_head(&lease, answer);
    let (mut seen, mut length, mut broke) = (Vec::new(), 0, None);
    let reading = async {
        while length < EXCUSE_LIMIT {
            match body.bytes().await {
                Some(Ok(bytes)) => {
                    length += bytes.len();
                    seen.push(bytes);
                }
                Some(Err(error)) => {
                    broke = Some(error);
                    break;
                }
                None => break,
            }
        }
    };
    // What has come by then is judged; the rest, if any, follows.
    drop(tokio::time::timeout(EXCUSE_TIME, reading).await);
    let mut text = BytesMut::with_capacity(length);
    for part in &seen {
        text.extend_from_slice(part);
    }
    if contains(&text, b"Loading model") {
        return running.refuse("loading", format!("engine `{}` is still loading its model", lease.engine));
    }
    body.unread(seen, broke);
    Answer { head, body: running.pass_on(lease, body) }
}

fn engine_head(lease: &Lease, answer: Head) -> ResponseHead {
    let answer = EngineAnswer {
        status: answer.status.into(),
        content_type: answer.content_type.unwrap_or_else(|| "application/octet-stream".into()),
        engine: lease.engine.to_string(),
        retry_after_s: answer.retry_after_s,
    };
    ResponseHead { outcome: Some(response_head::Outcome::Answer(answer)) }
}

fn refusal_head(kind: &str, message: String) -> ResponseHead {
    ResponseHead { outcome: Some(response_head::Outcome::Refused(Refused { kind: kind.into(), message })) }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A request between its arrival and the end of its answer. Dropped early, it counts as cancelled.
struct Running {
    serve: Arc<Serve>,
    span: Span,
    outcome: Outcome,
    passed_on: u64,
}

impl Running {
    fn start(serve: Arc<Serve>, span: Span) -> Self {
        serve.begun.fetch_add(1, Ordering::Relaxed);
        // Nobody waits for more of them, only for none.
        serve.in_flight.send_if_modified(|count| {
            *count += 1;
            false
        });
        serve.metrics.in_flight.inc();
        Self { serve, span, outcome: Outcome::Cancelled, passed_on: 0 }
    }

    /// Counts the requests that run beside this one from now on, those that run already among them.
    fn others(&self) -> impl Fn() -> u32 + Send + use<> {
        let serve = self.serve.clone();
        let there = serve.in_flight.borrow().saturating_sub(1) as u64;
        let before = serve.begun.load(Ordering::Relaxed);
        move || {
            let since = serve.begun.load(Ordering::Relaxed).saturating_sub(before);
            u32::try_from(there.saturating_add(since)).unwrap_or(u32::MAX)
        }
    }

    fn refuse(&mut self, kind: &'static str, message: String) -> Answer {
        self.outcome = Outcome::Refused(kind);
        tracing::debug!(kind, message, "refused");
        Answer { head: refusal_head(kind, message), body: AnswerBody::empty() }
    }

    fn pass_on(self, lease: Lease, engine: EngineBody) -> AnswerBody {
        AnswerBody { engine: Some(engine), lease: Some(lease), running: Some(self), lines: None }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serve.in_flight.send_if_modified(|count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
        self.serve.metrics.in_flight.dec();
        self.serve.metrics.request(self.outcome);
        let (outcome, bytes) = (self.outcome.word(), self.passed_on);
        self.span.in_scope(|| tracing::debug!(outcome, bytes, "request ended"));
    }
}

/// An engine's body on its way. At its end, or when it is dropped, the connection goes first, then the lease.
pub struct AnswerBody {
    engine: Option<EngineBody>,
    /// Of a trial, which no engine answers.
    lines: Option<BoxStream<'static, Bytes>>,
    lease: Option<Lease>,
    running: Option<Running>,
}

impl AnswerBody {
    fn empty() -> Self {
        Self { engine: None, lines: None, lease: None, running: None }
    }

    fn end(&mut self, outcome: Outcome) {
        self.engine = None;
        self.lines = None;
        self.lease = None;
        if let Some(mut running) = self.running.take() {
            running.outcome = outcome;
        }
    }
}

impl Stream for AnswerBody {
    type Item = Result<Bytes, EngineBroke>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(lines) = self.lines.as_mut() {
            let line = std::task::ready!(lines.poll_next_unpin(context));
            if line.is_none() {
                self.end(Outcome::Complete);
            }
            return Poll::Ready(line.map(Ok));
        }
        let Some(engine) = self.engine.as_mut() else { return Poll::Ready(None) };
        match std::task::ready!(engine.poll_bytes(context)) {
            Some(Ok(bytes)) => {
                if let Some(running) = self.running.as_mut() {
                    running.passed_on += bytes.len() as u64;
                    running.serve.metrics.answer_bytes.inc_by(bytes.len() as u64);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(error)) => {
                let engine = self.lease.as_ref().map(|lease| lease.engine.to_string()).unwrap_or_default();
                let broke = EngineBroke { engine, cause: error.to_string() };
                if let Some(running) = &self.running {
                    running.span.in_scope(|| tracing::warn!("{broke}"));
                }
                self.end(Outcome::EngineBroke);
                Poll::Ready(Some(Err(broke)))
            }
            None => {
                self.end(Outcome::Complete);
                Poll::Ready(None)
            }
        }
    }
}
