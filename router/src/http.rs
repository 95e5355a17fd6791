//! The clients' front door: the listener with its limits, and the route table. The whole public surface is in
//! [`Front::route`].

mod activity;
pub mod anthropic;
mod arrivals;
mod base_url;
pub mod dialect;
pub mod fim;
pub mod head;
pub mod model_info;
pub mod ollama;
pub mod openai;
pub mod reply;
pub mod responses;
pub mod routing_hints;

use crate::forward::caller::Caller;
use crate::forward::{Forward, Incoming};
use crate::ledger::LedgerHandle;
use crate::metrics::ReasonLabel;
use activity::{Activity, Told};
use arrivals::{Arrivals, BODY_TIME};
use bytes::Bytes;
use dialect::{Dialect, Door};
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming as HttpBody};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use mesh_daemon::clock::unix_ms;
use mesh_daemon::in_place::in_place;
use mesh_daemon::metrics_endpoint;
use reply::{ApiError, Reply, json_reply, names, set_header, whole};
use routing_hints::Hints;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A client has this long to send its headers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Requests in progress have this long to finish when the router stops.
const DRAIN: Duration = Duration::from_secs(10);
/// What still runs after [`DRAIN`] is told so, and its clients have this long to take it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Characters of a client's name for itself that are kept.
const CLIENT_LIMIT: usize = 120;
/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 256;

/// The front door. Clones are cheap.
#[derive(Clone)]
pub struct Front {
    forward: Arc<Forward>,
    ledger: LedgerHandle,
    arrivals: Arrivals,
}

impl Front {
    /// A front door for `forward`, with keys from `ledger`.
    #[must_use]
    pub fn new(forward: Forward, ledger: LedgerHandle) -> Self {
        let arrivals = Arrivals::new(forward.settings.arriving_bytes);
        Self { forward: Arc::new(forward), ledger, arrivals }
    }

    /// Serves clients until `stop`, then lets requests in progress finish for ten seconds. What runs longer gets an
    /// error: as an answer, or as the last event of its stream.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.forward.settings.connections));
        let (tasks, now_or_never) = (TaskTracker::new(), CancellationToken::new());
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&listener, &permits) => accepted,
            };
            let (stream, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file handles: waiting lets some be closed.
                    tracing::warn!(%error, "accepting a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (front, stop, kill) = (self.clone(), stop.clone(), now_or_never.clone());
            tasks.spawn(async move {
                front.forward.metrics.connections.inc();
                front.connection(stream, stop, kill).await;
                front.forward.metrics.connections.dec();
                drop(permit);
            });
        }
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("requests still running after {} s end with an error", DRAIN.as_secs());
            self.forward.ending.cancel();
            if tokio::time::timeout(LAST_WORDS, tasks.wait()).await.is_err() {
                now_or_never.cancel();
                tasks.wait().await;
            }
        }
    }

    async fn connection(&self, stream: TcpStream, stop: CancellationToken, kill: CancellationToken) {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(64 * 1024);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(32 * 1024)
            .keep_alive_interval(Duration::from_secs(20));
        let front = Arc::new(self.clone());
        let activity = Arc::new(Activity::default());
        let seen = Arc::downgrade(&activity);
        let service = service_fn(move |mut request| {
            let (front, busy) = (front.clone(), seen.upgrade().unwrap_or_default().begin());
            // On the heap: hyper moves what it is given, and the connection would be as large as its largest request.
            in_place(|| async move {
                Ok::<_, Infallible>(front.answer(&mut request).await.map(|body| Told::new(body, busy)))
            })
        });
        let connection = http.serve_connection(TokioIo::new(activity.watch(stream)), service);
        activity.drive(connection, stop, kill, |connection| connection.graceful_shutdown()).await;
    }

    async fn answer(&self, request: &mut Request<HttpBody>) -> Reply {
        let id: Arc<str> = fresh_id();
        let span = tracing::info_span!("request", request_id = &*id, path = request.uri().path());
        let dialect = Dialect::of_path(request.uri().path());
        let mut reply = self
            .route(request, &id)
            .instrument(span)
            .await
            .unwrap_or_else(|error| dialect.reply(&error.with("request_id", json!(&*id))));
        set_header(&mut reply, names::REQUEST_ID, &id);
        if dialect == Dialect::Anthropic {
            set_header(&mut reply, names::ANTHROPIC_ID, &id);
        }
        reply
    }

    /// The whole public surface.
    async fn route(&self, request: &mut Request<HttpBody>, id: &Arc<str>) -> Result<Reply, ApiError> {
        // The target of a CONNECT has no path, whatever method it comes with.
        let path = match request.uri().path() {
            "" => "(none)",
            path => path.trim_end_matches('/'),
        };
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, "/healthz") => {
                return Ok(json_reply(StatusCode::OK, &json!({"status": "ok"})));
            }
            (&Method::GET | &Method::HEAD, "/readyz") => return Ok(self.ready()),
            _ => {}
        }
        if matches!((request.method(), request.uri().path()), (&Method::GET | &Method::HEAD, "/")) {
            // Ollama's clients ask this without a key, and it says nothing of the mesh.
            return Ok(ollama::root());
        }
        let key = self.authorize(request.headers())?;
        if let Some(door) = Door::at(path) {
            if request.method() == Method::POST {
                return self.forward(request, id, key, door).await;
            }
            return Err(wrong_method(path, request.method(), "POST"));
        }
        let snapshot = || self.forward.fleet.snapshot();
        match (request.method(), path) {
            (&Method::GET, "/v1/models") => Ok(openai::models(&snapshot())),
            (&Method::GET, "/v1/model/info" | "/model/info") => Ok(model_info::litellm(&snapshot())),
            (&Method::GET, path) if path.starts_with("/v1/models/") => {
                openai::model(&snapshot(), &path["/v1/models/".len()..])
            }
            (&Method::GET, "/props") => {
                let asked = request.uri().query().and_then(|query| query.strip_prefix("model="));
                let asked = asked.map(|name| name.replace("%2F", "/").replace("%2f", "/"));
                model_info::props(&snapshot(), asked.as_deref())
            }
            (&Method::GET | &Method::HEAD, "/api/version") => Ok(ollama::version()),
            (&Method::GET | &Method::HEAD, "/api/tags") => Ok(ollama::tags(&snapshot())),
            (&Method::GET, "/api/ps") => Ok(ollama::running(&snapshot())),
            (&Method::POST, "/api/show") => {
                let body = self.body(request).await?;
                ollama::show(&snapshot(), &body)
            }
            (&Method::POST | &Method::DELETE, "/api/pull" | "/api/push" | "/api/create" | "/api/copy") => {
                Err(ollama::operators_only("load", self.forward.settings.meshctl))
            }
            (&Method::POST | &Method::DELETE, "/api/delete") => {
                Err(ollama::operators_only("delete", self.forward.settings.meshctl))
            }
            (&Method::GET, "/metrics") => Ok(self.metrics()),
            (method, _) => {
                if let Some(allowed) = allowed(path) {
                    return Err(wrong_method(path, method, allowed));
                }
                Err(base_url::no_such_path(method, path))
            }
        }
    }

    /// A key is asked for before anything else is said.
    fn authorize(&self, headers: &HeaderMap) -> Result<Arc<str>, ApiError> {
        let refuse = |reason: &'static str, message: &str| {
            let label = ReasonLabel { reason };
            self.forward.metrics.refusals.get_or_create(&label).inc();
            let meshctl = self.forward.settings.meshctl;
            let hint =
                format!("`{meshctl} key create NAME` makes a key; send it as `Authorization: Bearer mk_…`");
            ApiError {
                kind: "authentication_error",
                ..ApiError::client(StatusCode::UNAUTHORIZED, reason, format!("{message}; {hint}"))
            }
        };
        let authorization = headers.get(AUTHORIZATION);
        let (scheme, key) = authorization
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split_once(' ').unwrap_or((value, "")))
            .unwrap_or_default();
        let is_bearer = scheme.eq_ignore_ascii_case("bearer");
        let bearer = Some(key.trim()).filter(|key| is_bearer && !key.is_empty());
        let presented = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
        let Some(presented) = presented else {
            // What stands in the header may be a key: it is not repeated.
            let what = match (authorization, is_bearer) {
                (None, _) => "this mesh needs an API key",
                (Some(_), true) => "there is no key behind `Bearer` in the header `Authorization`",
                (Some(_), false) => "the header `Authorization` does not begin with `Bearer `",
            };
            return Err(refuse("missing_api_key", what));
        };
        let id = self.ledger.check(presented);
        let Some(id) = id else { return Err(refuse("invalid_api_key", "the API key is not known here")) };
        self.ledger.key_used(&id, unix_ms());
        Ok(id)
    }

    async fn forward(
        &self,
        request: &mut Request<HttpBody>,
        id: &Arc<str>,
        key: Arc<str>,
        door: Door,
    ) -> Result<Reply, ApiError> {
        let client =
            request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let client = shortened(client, CLIENT_LIMIT).to_owned();
        let headers = request.headers();
        let Hints { session, slo, deadline } = routing_hints::read(headers)?;
        let caller = Caller { key, session, deadline, progress: None };
        let body = door.admit(self.body(request).await?)?;
        // All was read of them: an answer may take minutes.
        drop(std::mem::take(request.headers_mut()));
        if matches!(door, Door::OllamaChat | Door::OllamaGenerate)
            && let Some(reply) =
                ollama::preload(&self.forward.fleet.snapshot(), &body, door == Door::OllamaChat)
        {
            return reply;
        }
        let id = id.clone();
        Ok(self.forward.run(Incoming { id, door, client, caller, body, slo }).await)
    }

    async fn body(&self, request: &mut Request<HttpBody>) -> Result<Bytes, ApiError> {
        let limit = self.forward.settings.body_limit;
        let too_large = || {
            let message = format!(
                "the body is over {}; `limits.body` in the router's configuration sets this",
                mesh_core::units::human_bytes(limit as u64)
            );
            ApiError::client(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        };
        let headers = request.headers();
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let named: String = String::from_utf8_lossy(encoding.as_bytes()).chars().take(64).collect();
            let message = format!("bodies encoded as `{named}` are not accepted; send the JSON as it is");
            return Err(ApiError::client(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compressed_body", message));
        }
        let announced =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let length = request.body().size_hint().exact();
        let reading = Limited::new(request.body_mut(), limit).collect();
        let collected = self.arrivals.read(length, limit, reading).await.inspect_err(|full| {
            self.forward.metrics.refusals.get_or_create(&ReasonLabel { reason: full.code }).inc();
        })?;
        match collected {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(ApiError::client(StatusCode::BAD_REQUEST, "broken_body", "the body broke off")),
            Err(_) => {
                let message = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
                Err(ApiError::client(StatusCode::REQUEST_TIMEOUT, "slow_body", message))
            }
        }
    }

    fn ready(&self) -> Reply {
        let snapshot = self.forward.fleet.snapshot();
        let serving = snapshot.view.machines.iter().any(|machine| {
            machine.path.is_some()
                && machine
                    .engines
                    .iter()
                    .flat_map(|engine| &engine.replicas)
                    .any(|replica| replica.state == mesh_core::machine::ReplicaState::Loaded)
        });
        let status = if serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_reply(status, &json!({"ready": serving}))
    }

    fn metrics(&self) -> Reply {
        let mut reply = http::Response::new(whole(metrics_endpoint::render(&self.forward.metrics.registry)));
        let kind = http::HeaderValue::from_static(metrics_endpoint::CONTENT_TYPE);
        reply.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        reply
    }
}

/// What paths answer, besides those of [`Door`].
const KNOWN: [(&str, &str); 17] = [
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/v1/models", "GET"),
    ("/v1/model/info", "GET"),
    ("/model/info", "GET"),
    ("/props", "GET"),
    ("/metrics", "GET"),
    ("/api/version", "GET, HEAD"),
    ("/api/tags", "GET, HEAD"),
    ("/api/ps", "GET"),
    ("/api/show", "POST"),
    ("/api/pull", "POST, DELETE"),
    ("/api/push", "POST, DELETE"),
    ("/api/create", "POST, DELETE"),
    ("/api/copy", "POST, DELETE"),
    ("/api/delete", "POST, DELETE"),
    ("", "GET, HEAD"),
];

/// The methods that a path answers, where it is known.
fn allowed(path: &str) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(known, _)| *known == path).map(|(_, methods)| *methods);
    known.or_else(|| path.starts_with("/v1/models/").then_some("GET"))
}

/// The first `limit` characters.
pub(crate) fn shortened(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        Some((end, _)) if text.len() > limit => &text[..end],
        _ => text,
    }
}

/// An id that sorts by time. Its own time never goes back, whatever the clock does.
fn fresh_id() -> Arc<str> {
    let mut text = *b"req-00000000000000000000000000000000";
    uuid::Uuid::now_v7().simple().encode_lower(&mut text[4..]);
    std::str::from_utf8(&text).expect("hexadecimal digits").into()
}

fn wrong_method(path: &str, method: &Method, allowed: &'static str) -> ApiError {
    let path = if path.is_empty() { "/" } else { shortened(path, 100) };
    let message = format!("{path} does not answer {method}, but {}", allowed.replace(", ", " and "));
    ApiError::client(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        .with(ApiError::ALLOW, json!(allowed))
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // Over the limit, clients wait in the listener's own queue.
    let permit = permits.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // A token is smaller than a segment: Nagle would hold it back.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}
