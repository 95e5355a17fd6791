//! The HTTP/1.1 client that carries requests to the engines of this machine, and the bodies of their answers.
//!
//! Connections are hyper's; here they are only opened, and kept where the engine bears it: a new one costs both sides
//! more than all the rest of the hop. hyper-util's own client does the same for any URL, but spends as much as the
//! rest of this hop on URLs and on a task for each connection that it takes back. What is ready of a body leaves as
//! one piece, so a burst of tokens is one write further on.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::error::Error as _;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// An engine on this machine that does not accept within this time is not there. There is no limit on the
/// answer itself: a long prompt on a slow machine takes minutes, and the router knows when to give up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Idle connections are given up before engines close them: uvicorn, Node and cpp-httplib do so after 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Idle connections to one engine; more requests than this at once open their own.
const IDLE_CONNECTIONS: usize = 64;

/// A kept connection that the engine has just closed fails within this time; a later failure is the engine's.
const STALE_LIMIT: Duration = Duration::from_millis(500);

/// The most bytes of an engine's headers.
const HEADER_LIMIT: usize = 64 * 1024;

/// Chunks that are there already leave as one piece up to this size; never is one waited for.
const COALESCE: usize = 16 * 1024;

/// A connection's task that has been woken runs when it is its turn. If that does not come within so many turns of
/// the reader, another thread has much to do, and what there is leaves now.
const LONGEST_WAIT: u32 = 16;

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

/// An open connection to an engine.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    turns: Turns,
}

/// How often the task of a connection has run. It hands over one chunk each time, so who has just taken one knows
/// that nothing more is ready only when this has changed.
type Turns = Arc<AtomicU32>;

/// A client for all engines of this machine. Clones share their connections.
#[derive(Clone, Default)]
pub(super) struct EngineClient {
    idle: Arc<Mutex<HashMap<String, Vec<Idle>>>>,
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
            match self.send(connection, authority, prefix, &call, body.clone()).await {
                // The engine closed the connection while the request was on its way.
                Err(SendError::Http(error)) if is_stale(&error) && since.elapsed() < STALE_LIMIT => {}
                result => return result,
            }
        }
        let connection = connect(authority).await?;
        self.send(connection, authority, prefix, &call, body).await
    }

    async fn send(
        &self,
        mut connection: Connection,
        authority: &str,
        prefix: &str,
        call: &Call<'_>,
        body: Bytes,
    ) -> Result<(http::response::Parts, EngineBody), SendError> {
        let bad_url = || SendError::BadUrl(call.base_url.into());
        let path = PathAndQuery::try_from(format!("{prefix}{}", call.path)).map_err(|_| bad_url())?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(path);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| bad_url())?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(key) = call.api_key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| SendError::BadKey)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        connection.sender.ready().await?;
        let (head, rest) = connection.sender.send_request(request).await?.into_parts();
        let turns = connection.turns.clone();
        let back = call.keep.then(|| (self.clone(), authority.to_owned(), connection));
        Ok((head, EngineBody::new(rest, turns, back)))
    }

    /// A connection that was used lately and still stands.
    fn kept(&self, authority: &str) -> Option<Connection> {
        let mut idle = self.lock();
        let list = idle.get_mut(authority)?;
        // The newest is at the end: if that one is too old, all are.
        while let Some(Idle { connection, since }) = list.pop() {
            if since.elapsed() > IDLE_LIMIT {
                list.clear();
            } else if connection.sender.is_ready() {
                // One that is not has something of its last request still to send.
                return Some(connection);
            }
        }
        None
    }

    fn take_back(&self, authority: String, connection: Connection) {
        let mut idle = self.lock();
        let list = idle.entry(authority).or_default();
        if list.len() < IDLE_CONNECTIONS {
            list.push(Idle { connection, since: Instant::now() });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Idle>>> {
        // Whole after any panic: each change is one push or pop.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(authority: &str) -> Result<Connection, SendError> {
    let failed = |error| SendError::Connect(authority.into(), error);
    let address = if authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    // A request is smaller than a segment: Nagle would hold it back.
    stream.set_nodelay(true).map_err(failed)?;
    let mut http = http1::Builder::new();
    http.max_buf_size(HEADER_LIMIT);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await?;
    let turns = Turns::default();
    let counted = turns.clone();
    tokio::spawn(async move {
        let mut connection = std::pin::pin!(connection);
        // What breaks it is told to the request that it carries.
        drop(
            poll_fn(|context| {
                let polled = connection.as_mut().poll(context);
                counted.fetch_add(1, Ordering::Release);
                polled
            })
            .await,
        );
    });
    Ok(Connection { sender, turns })
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
    turns: Turns,
    /// The connection, for the next request once this body has ended well.
    back: Option<(EngineClient, String, Connection)>,
    /// What is held back until nothing more is ready.
    held: Held,
    ended: Option<Option<hyper::Error>>,
}

#[derive(Default)]
struct Held {
    first: Bytes,
    more: BytesMut,
    /// Turns of the connection's task when the last chunk was taken.
    turns: u32,
    /// How often its next turn has been waited for since.
    waits: u32,
}

impl Held {
    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    fn push(&mut self, chunk: Bytes, turns: u32) {
        (self.turns, self.waits) = (turns, 0);
        if self.first.is_empty() && self.more.is_empty() {
            self.first = chunk;
            return;
        }
        if self.more.is_empty() {
            self.more.reserve(COALESCE);
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&chunk);
    }

    fn take(&mut self) -> Bytes {
        if self.more.is_empty() { std::mem::take(&mut self.first) } else { self.more.split().freeze() }
    }
}

impl EngineBody {
    fn new(rest: Incoming, turns: Turns, back: Option<(EngineClient, String, Connection)>) -> Self {
        Self { seen: Vec::new(), rest, turns, back, held: Held::default(), ended: None }
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
        while self.ended.is_none() && self.held.len() < COALESCE {
            match Pin::new(&mut self.rest).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
                Poll::Ready(Some(Err(error))) => self.ended = Some(Some(error)),
                Poll::Ready(None) => {
                    self.ended = Some(None);
                    if let Some((client, authority, connection)) = self.back.take() {
                        client.take_back(authority, connection);
                    }
                }
                Poll::Pending if self.held.len() == 0 => return Poll::Pending,
                // Taking a chunk has woken the connection's task: let it run once more.
                Poll::Pending
                    if self.held.waits < LONGEST_WAIT
                        && self.held.turns == self.turns.load(Ordering::Acquire) =>
                {
                    self.held.waits += 1;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
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
            self.held.push(data, self.turns.load(Ordering::Acquire));
        }
    }
}

#[cfg(test)]
#[path = "engine_client/tests.rs"]
mod tests;
