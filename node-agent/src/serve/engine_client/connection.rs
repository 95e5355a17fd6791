//! One connection to an engine, driven by whoever waits for its answer and not by a task of its own: what comes from
//! the socket is with its reader after one wake, and a burst of chunks is read in one turn.

use super::SendError;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::net::TcpStream;

/// An engine on this machine that does not accept within this time is not there. There is no limit on the
/// answer itself: a long prompt on a slow machine takes minutes, and the router knows when to give up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The most bytes of an engine's headers.
const HEADER_LIMIT: usize = 64 * 1024;

/// Turns of the connection within one poll. More would keep the thread from others.
const TURNS: u32 = 32;

/// A connection. Dropping it closes it, and that stops the engine.
pub(super) struct Connection {
    /// Host and port of the engine.
    pub(super) authority: Arc<str>,
    /// The same as a header.
    pub(super) host: HeaderValue,
    /// The last path that was asked for: engines are asked for the same one again and again.
    pub(super) path: PathAndQuery,
    sender: SendRequest<Full<Bytes>>,
    io: Io,
}

type Side = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// hyper's side of a connection, and how its wakes reach the reader.
struct Io {
    /// `None` once it has ended.
    side: Option<Pin<Box<Side>>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

/// Wakes for the connection. Most come from within: who takes a chunk makes room for the next. Those need no wake of
/// the task, only another turn.
#[derive(Default)]
struct Wakes {
    reader: AtomicWaker,
    /// A poll is under way, which looks at `again` before it ends.
    polling: AtomicBool,
    again: AtomicBool,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.reader.wake();
        }
    }
}

impl Io {
    /// Lets the connection do what it can, then `read`, until that has something or neither gets on.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut read: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.wakes.reader.register(context.waker());
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..TURNS {
            self.wakes.again.store(false, Ordering::SeqCst);
            self.wakes.polling.store(true, Ordering::SeqCst);
            // What ends it is told to the request that it carries.
            if self.side.as_mut().is_some_and(|side| side.as_mut().poll(&mut inner).is_ready()) {
                self.side = None;
            }
            let polled = read(&mut inner);
            self.wakes.polling.store(false, Ordering::SeqCst);
            // Set after the look at it, it wakes the reader.
            if polled.is_ready() || !self.wakes.again.load(Ordering::SeqCst) {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Connection {
    /// Connects to `host:port`, or to port 80 of `host`.
    pub(super) async fn open(authority: &str) -> Result<Self, SendError> {
        let failed = |error| SendError::Connect(authority.into(), error);
        let host = HeaderValue::from_str(authority).map_err(|_| SendError::BadUrl(authority.into()))?;
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
        let (sender, side) = http.handshake(TokioIo::new(stream)).await?;
        let wakes = Arc::new(Wakes::default());
        let io = Io { side: Some(Box::pin(side)), waker: Waker::from(wakes.clone()), wakes };
        Ok(Self { authority: authority.into(), host, path: PathAndQuery::from_static("/"), sender, io })
    }

    /// Sends a request and completes with the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let Self { sender, io, .. } = self;
        poll_fn(|context| io.poll(context, |inner| sender.poll_ready(inner))).await?;
        let mut answer = pin!(sender.send_request(request));
        poll_fn(|context| io.poll(context, |inner| answer.as_mut().poll(inner))).await
    }

    /// Polls something that the connection has to get on for: the body of its answer.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        read: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.io.poll(context, read)
    }

    /// Whether it may carry the next request: it stands, and nothing of the last one is left to send.
    pub(super) fn is_ready(&mut self) -> bool {
        let Self { sender, io, .. } = self;
        let mut nobody = Context::from_waker(Waker::noop());
        let _nothing_awaited = io.poll(&mut nobody, |_| Poll::<()>::Pending);
        io.side.is_some() && sender.is_ready()
    }
}
