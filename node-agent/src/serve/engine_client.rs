//! The HTTP/1.1 client that carries requests to the engines of this machine, and the bodies of their answers.
//!
//! Our own and not hyper's (docs/decisions/0010): it knows one method, plain TCP and what is passed on of an answer, so
//! a stream that waits for its next token holds no buffers. Connections are kept where the engine bears it: a new one
//! costs both sides more than all the rest of the hop. What is ready of a body leaves as one piece, so a burst of
//! tokens is one write further on.

mod connection;
mod response;

use bytes::Bytes;
use connection::Connection;
use foldhash::fast::RandomState;
pub(super) use response::Head;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections are given up before engines close them: uvicorn, Node and cpp-httplib do so after 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Idle connections to one engine; more requests than this at once open their own.
const IDLE_CONNECTIONS: usize = 64;

/// A kept connection that the engine has just closed fails within this time; a later failure is the engine's.
const STALE_LIMIT: Duration = Duration::from_millis(500);

/// Room for the head of a request with a key of usual length.
const HEAD: usize = 320;

/// Why an engine did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("`{0}` is no address of an engine")]
    BadUrl(String),
    #[error("its key cannot stand in a header")]
    BadKey,
    #[error("connecting to {0}: {1}")]
    Connect(String, io::Error),
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl SendError {
    /// Whether the engine saw nothing of the request.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::BadUrl(_) | Self::BadKey | Self::Connect(..) => true,
            Self::Http(_) => false,
        }
    }
}

/// What is wrong with an engine's answer, or with the connection that should bring it.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("that is not HTTP/1.1: {0}")]
    Malformed(#[from] httparse::Error),
    #[error("the headers are longer than 64 KiB")]
    HeadTooLong,
    #[error("nobody asked for an answer of status {0}")]
    Status(u16),
    #[error("`Content-Length` is not one number")]
    Length,
    #[error("nobody asked for a `Transfer-Encoding` other than `chunked`")]
    Coding,
    #[error("the chunks are not framed as HTTP/1.1 has it")]
    Chunk,
}

/// A client for all engines of this machine. Clones share their connections.
#[derive(Clone, Default)]
pub(super) struct EngineClient {
    idle: Arc<Mutex<Pool>>,
}

#[derive(Default)]
struct Pool {
    /// By host and port, the newest last.
    idle: HashMap<Arc<str>, Vec<Idle>, RandomState>,
    /// A task closes those that get too old.
    swept: bool,
}

struct Idle {
    connection: Box<Connection>,
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
    pub(super) async fn post(&self, call: Call<'_>, body: Bytes) -> Result<(Head, EngineBody), SendError> {
        let bad_url = || SendError::BadUrl(call.base_url.into());
        let rest = call.base_url.strip_prefix("http://").ok_or_else(bad_url)?;
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let head = request_head(&call, authority, prefix, body.len())?;
        let back = call.keep.then_some(self);
        let mut may_have_seen_it = false;
        if call.keep
            && let Some((mut connection, since)) = self.kept(authority)
        {
            match connection.send(head.clone(), body.clone()).await {
                Ok(answer) => return Ok((answer, EngineBody::new(connection, back))),
                // The engine closed the connection while the request was on its way.
                Err(error)
                    if error.is_end() && connection.is_unanswered() && since.elapsed() < STALE_LIMIT =>
                {
                    may_have_seen_it = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let opened = Connection::open(authority).await;
        let opened =
            opened.map_err(|error| if may_have_seen_it { HttpError::Closed.into() } else { error })?;
        let mut connection = Box::new(opened);
        let answer = connection.send(head, body).await?;
        Ok((answer, EngineBody::new(connection, back)))
    }

    /// A connection that was used lately and still stands, and what time it is.
    fn kept(&self, authority: &str) -> Option<(Box<Connection>, Instant)> {
        let now = Instant::now();
        let mut pool = self.lock();
        let list = pool.idle.get_mut(authority)?;
        // The newest is at the end: if that one is too old, all are.
        while let Some(Idle { connection, since }) = list.pop() {
            if now.duration_since(since) > IDLE_LIMIT {
                list.clear();
            } else if connection.is_open() {
                return Some((connection, now));
            }
        }
        None
    }

    fn take_back(&self, connection: Box<Connection>) {
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

/// The head of a request with a body of `length` bytes.
fn request_head(call: &Call<'_>, host: &str, prefix: &str, length: usize) -> Result<Bytes, SendError> {
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || !visible(call.base_url) || !visible(call.path) {
        return Err(SendError::BadUrl(call.base_url.into()));
    }
    let path = call.path;
    let mut head = String::with_capacity(HEAD);
    // Writing to a string does not fail.
    let _written = write!(
        head,
        "POST {prefix}{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {length}\r\n"
    );
    if let Some(key) = call.api_key {
        if !visible(key) {
            return Err(SendError::BadKey);
        }
        for part in ["authorization: Bearer ", key, "\r\n"] {
            head.push_str(part);
        }
    }
    head.push_str("\r\n");
    Ok(head.into())
}

impl HttpError {
    /// Whether the other side has ended the connection.
    fn is_end(&self) -> bool {
        let gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        };
        matches!(self, Self::Closed) || matches!(self, Self::Io(error) if gone(error))
    }
}

/// The body of an engine's answer. Dropping it closes the connection, and that stops the engine.
pub(super) struct EngineBody {
    /// Read already, the last piece first.
    seen: Vec<Bytes>,
    /// What it comes over; `None` once it has ended.
    connection: Option<Box<Connection>>,
    /// Where the connection goes for the next request once this body has ended well.
    back: Option<EngineClient>,
    /// Why it ended before its time.
    broke: Option<HttpError>,
}

impl EngineBody {
    fn new(connection: Box<Connection>, back: Option<&EngineClient>) -> Self {
        Self { seen: Vec::new(), connection: Some(connection), back: back.cloned(), broke: None }
    }

    /// Puts pieces that were read already back in front, and the error that followed them.
    pub(super) fn unread(&mut self, mut pieces: Vec<Bytes>, broke: Option<HttpError>) {
        pieces.reverse();
        self.seen = pieces;
        self.broke = broke;
    }

    /// The next bytes: all that one read brings. `None` at the clean end.
    pub(super) fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, HttpError>>> {
        if let Some(bytes) = self.seen.pop() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(self.broke.take().map(Err));
        };
        let polled = ready!(connection.poll_body(context));
        if !matches!(polled, Some(Ok(_)))
            && let Some(connection) = self.connection.take().filter(|connection| connection.may_be_kept())
            && let Some(client) = self.back.take()
        {
            client.take_back(connection);
        }
        Poll::Ready(polled)
    }

    /// As [`Self::poll_bytes`], awaited.
    pub(super) async fn bytes(&mut self) -> Option<Result<Bytes, HttpError>> {
        poll_fn(|context| self.poll_bytes(context)).await
    }
}

#[cfg(test)]
#[path = "engine_client/tests.rs"]
mod tests;
