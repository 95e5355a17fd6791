//! The HTTP/1.1 client that carries requests to the engines of this machine, and the bodies of their answers.
//!
//! Connections are hyper's; here they are only opened, driven, and kept where the engine bears it: a new one costs both
//! sides more than all the rest of the hop. hyper-util's own client does the same for any URL, but spends as much as
//! the rest of this hop on URLs and on tasks for its connections. What is ready of a body leaves as one piece, so a
//! burst of tokens is one write further on.

mod connection;

use bytes::{Bytes, BytesMut};
use connection::Connection;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use std::collections::HashMap;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections are given up before engines close them: uvicorn, Node and cpp-httplib do so after 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Idle connections to one engine; more requests than this at once open their own.
const IDLE_CONNECTIONS: usize = 64;

/// A kept connection that the engine has just closed fails within this time; a later failure is the engine's.
const STALE_LIMIT: Duration = Duration::from_millis(500);

/// Headers of a request.
const HEADERS: usize = 6;

/// Chunks that are there already leave as one piece up to this size; never is one waited for.
const COALESCE: usize = 16 * 1024;

/// Why an engine did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("`{0}` is no address of an engine")]
    BadUrl(String),
    #[error("its key cannot stand in a header")]
    BadKey,
    #[error("connecting to {0}: {1}")]
    Connect(String, io::Error),
    #[error("{}", innermost(.0))]
    Http(#[from] hyper::Error),
}

/// A client for all engines of this machine. Clones share their connections.
#[derive(Clone, Default)]
pub(super) struct EngineClient {
    idle: Arc<Mutex<Pool>>,
}

#[derive(Default)]
struct Pool {
    /// By host and port, the newest last.
    idle: HashMap<Arc<str>, Vec<Idle>>,
    /// A task closes those that get too old.
    swept: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// Where and how to ask.
pub(super) struct Call<'a> {
    /// `http://127.0.0.1:8080`, perhaps with a path that goes before every other.
    pub(super) base_url: &'a str,
    /// `/v1/chat/completions`
    pub(super) path: &'a str,
    /// The key the engine asks for.
    pub(super) api_key: Option<&'a str>,
    /// Whether the connection may be kept for the next request.
    pub(super) keep: bool,
}

impl EngineClient {
    /// POSTs `body` and completes with the head of the answer.
    pub(super) async fn post(
        &self,
        call: Call<'_>,
        body: Bytes,
    ) -> Result<(http::response::Parts, EngineBody), SendError> {
        let bad_url = || SendError::BadUrl(call.base_url.into());
        let rest = call.base_url.strip_prefix("http://").ok_or_else(bad_url)?;
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        if call.keep
            && let Some(connection) = self.kept(authority)
        {
            let since = Instant::now();
            match self.send(connection, prefix, &call, body.clone()).await {
                // The engine closed the connection while the request was on its way.
                Err(SendError::Http(error)) if is_stale(&error) && since.elapsed() < STALE_LIMIT => {}
                result => return result,
            }
        }
        let connection = Connection::open(authority).await?;
        self.send(connection, prefix, &call, body).await
    }

    async fn send(
        &self,
        mut connection: Connection,
        prefix: &str,
        call: &Call<'_>,
        body: Bytes,
    ) -> Result<(http::response::Parts, EngineBody), SendError> {
        if connection.path.as_str().strip_prefix(prefix) != Some(call.path) {
            connection.path = PathAndQuery::try_from(format!("{prefix}{}", call.path))
                .map_err(|_| SendError::BadUrl(call.base_url.into()))?;
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(connection.path.clone());
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(HOST, connection.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(key) = call.api_key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| SendError::BadKey)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let (head, rest) = connection.send(request).await?.into_parts();
        Ok((head, EngineBody::new(rest, connection, call.keep.then(|| self.clone()))))
    }

    /// A connection that was used lately and still stands.
    fn kept(&self, authority: &str) -> Option<Connection> {
        let mut pool = self.lock();
        let list = pool.idle.get_mut(authority)?;
        // The newest is at the end: if that one is too old, all are.
        while let Some(Idle { mut connection, since }) = list.pop() {
            if since.elapsed() > IDLE_LIMIT {
                list.clear();
            } else if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn take_back(&self, connection: Connection) {
        let mut pool = self.lock();
        let list = match pool.idle.get_mut(&connection.authority) {
            Some(list) => list,
            None => pool.idle.entry(connection.authority.clone()).or_default(),
        };
        if list.len() < IDLE_CONNECTIONS {
            list.push(Idle { connection, since: Instant::now() });
        }
        if !std::mem::replace(&mut pool.swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes connections that nobody has used for a while, until none is left.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(IDLE_LIMIT).await;
            let mut pool = self.lock();
            pool.idle.retain(|_, list| {
                list.retain(|idle| idle.since.elapsed() <= IDLE_LIMIT);
                !list.is_empty()
            });
            if pool.idle.is_empty() {
                pool.swept = false;
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        // Whole after any panic: each change is one push or pop.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a connection was closed before any of an answer came.
fn is_stale(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || matches!(io, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}

/// The cause of all causes: the others only say that there is one.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The body of an engine's answer. Dropping it closes the connection, and that stops the engine.
pub(super) struct EngineBody {
    /// Read already, the last piece first.
    seen: Vec<Bytes>,
    rest: Incoming,
    /// What it comes over; `None` once it was given back.
    connection: Option<Connection>,
    /// Where the connection goes for the next request once this body has ended well.
    back: Option<EngineClient>,
    /// What is held back until nothing more is ready.
    held: Held,
    ended: Option<Option<hyper::Error>>,
}

#[derive(Default)]
struct Held {
    first: Bytes,
    more: BytesMut,
}

impl Held {
    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() && self.more.is_empty() {
            self.first = chunk;
            return;
        }
        if self.more.is_empty() {
            self.more.reserve(self.first.len() + chunk.len());
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&chunk);
    }

    fn take(&mut self) -> Bytes {
        if self.more.is_empty() {
            std::mem::take(&mut self.first)
        } else {
            // With its memory: a thousand streams that had a burst each would keep 16 KiB for the next one.
            std::mem::take(&mut self.more).freeze()
        }
    }
}

impl EngineBody {
    fn new(rest: Incoming, connection: Connection, back: Option<EngineClient>) -> Self {
        let (connection, held) = (Some(connection), Held::default());
        Self { seen: Vec::new(), rest, connection, back, held, ended: None }
    }

    /// Puts pieces that were read already back in front, and the error that followed them.
    pub(super) fn unread(&mut self, mut pieces: Vec<Bytes>, broke: Option<hyper::Error>) {
        pieces.reverse();
        self.seen = pieces;
        if broke.is_some() {
            self.ended = Some(broke);
        }
    }

    /// The next bytes: all that is ready, up to [`COALESCE`]. `None` at the clean end.
    pub(super) fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        if let Some(bytes) = self.seen.pop() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        while self.ended.is_none()
            && self.held.len() < COALESCE
            && let Some(connection) = &mut self.connection
        {
            let rest = &mut self.rest;
            match connection.poll(context, |context| Pin::new(&mut *rest).poll_frame(context)) {
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
                Poll::Ready(Some(Err(error))) => self.ended = Some(Some(error)),
                Poll::Ready(None) => {
                    self.ended = Some(None);
                    let connection = self.connection.take();
                    if let (Some(client), Some(connection)) = (self.back.take(), connection) {
                        client.take_back(connection);
                    }
                }
                Poll::Pending => break,
            }
        }
        if self.held.len() > 0 {
            return Poll::Ready(Some(Ok(self.held.take())));
        }
        match &mut self.ended {
            Some(error) => Poll::Ready(error.take().map(Err)),
            None => Poll::Pending,
        }
    }

    /// As [`Self::poll_bytes`], awaited.
    pub(super) async fn bytes(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        poll_fn(|context| self.poll_bytes(context)).await
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        // Trailers say nothing that anybody here reads.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            self.held.push(data);
        }
    }
}

#[cfg(test)]
#[path = "engine_client/tests.rs"]
mod tests;
