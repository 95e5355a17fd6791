//! The HTTP client that carries requests to the engines of this machine, and the bodies of their answers.
//!
//! Connections are kept open where the engine bears it: a new one costs both sides more than all the rest of the
//! hop. What is ready of a body leaves as one piece, so a burst of tokens is one write further on.

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::VecDeque;
use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// An engine on this machine that does not accept within this time is not there. There is no limit on the
/// answer itself: a long prompt on a slow machine takes minutes, and the router knows when to give up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Idle connections are closed before engines do it: uvicorn, Node and cpp-httplib keep them for 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Idle connections to one engine; more requests than this at once open their own.
const IDLE_CONNECTIONS: usize = 64;

/// A kept connection that the engine has just closed fails within this time; a later failure is the engine's.
const STALE_LIMIT: Duration = Duration::from_millis(500);

/// The most bytes of an engine's headers.
const HEADER_LIMIT: usize = 64 * 1024;

/// Chunks that are there already leave as one piece up to this size; never is one waited for.
const COALESCE: usize = 16 * 1024;

type Http = Client<HttpConnector, Full<Bytes>>;

/// A client for all engines of this machine.
pub(super) struct EngineClient {
    kept: Http,
    fresh: Http,
}

impl EngineClient {
    pub(super) fn new() -> Self {
        let client = |idle: usize| {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(CONNECT_LIMIT));
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_LIMIT)
                .pool_max_idle_per_host(idle)
                .http1_max_buf_size(HEADER_LIMIT)
                .build(connector)
        };
        Self { kept: client(IDLE_CONNECTIONS), fresh: client(0) }
    }

    /// Sends a request. With `keep`, on a connection that may have been used before and may be used again.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        keep: bool,
    ) -> Result<Response<Incoming>, Error> {
        if !keep {
            return self.fresh.request(request).await;
        }
        let (again, since) = (request.clone(), Instant::now());
        match self.kept.request(request).await {
            // The engine closed the connection while the request was on its way.
            Err(error) if is_stale(&error) && since.elapsed() < STALE_LIMIT => {
                self.fresh.request(again).await
            }
            result => result,
        }
    }
}

/// Whether a connection was closed before any of an answer came.
fn is_stale(error: &Error) -> bool {
    let Some(cause) = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) else {
        return false;
    };
    let io = cause.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    cause.is_incomplete_message()
        || cause.is_canceled()
        || matches!(io, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}

/// The body of an engine's answer. Dropping it closes the connection, and that stops the engine.
pub(super) struct EngineBody {
    seen: VecDeque<Bytes>,
    rest: Incoming,
    /// What is held back until nothing more is ready.
    held: Held,
    ended: Option<Option<hyper::Error>>,
}

#[derive(Default)]
struct Held {
    first: Bytes,
    more: BytesMut,
    /// The connection's task has had a turn since the last chunk.
    yielded: bool,
}

impl Held {
    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    fn push(&mut self, chunk: Bytes) {
        self.yielded = false;
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
        self.yielded = false;
        if self.more.is_empty() { std::mem::take(&mut self.first) } else { self.more.split().freeze() }
    }
}

impl EngineBody {
    pub(super) fn new(rest: Incoming) -> Self {
        Self { seen: VecDeque::new(), rest, held: Held::default(), ended: None }
    }

    /// Puts pieces that were read already back in front, and the error that followed them.
    pub(super) fn unread(&mut self, pieces: Vec<Bytes>, broke: Option<hyper::Error>) {
        self.seen = pieces.into();
        if broke.is_some() {
            self.ended = Some(broke);
        }
    }

    /// The next bytes: all that is ready, up to [`COALESCE`]. `None` at the clean end.
    pub(super) fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        if let Some(bytes) = self.seen.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        while self.ended.is_none() && self.held.len() < COALESCE {
            match Pin::new(&mut self.rest).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
                Poll::Ready(Some(Err(error))) => self.ended = Some(Some(error)),
                Poll::Ready(None) => self.ended = Some(None),
                Poll::Pending if self.held.len() == 0 => return Poll::Pending,
                // The connection's task hands over one chunk each time it runs: let it run once more.
                Poll::Pending if !self.held.yielded => {
                    self.held.yielded = true;
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
        std::future::poll_fn(|context| self.poll_bytes(context)).await
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
