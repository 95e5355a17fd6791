//! One connection to an engine, driven by whoever waits for its answer and not by a task of its own: what comes from
//! the socket is with its reader after one wake, and a burst of chunks is read in one turn. Between reads it holds no
//! buffer: what it reads into belongs to the thread.

use super::response::{Head, Response};
use super::{HttpError, SendError};
use bytes::{Buf as _, Bytes};
use mesh_link::tcp::poll_write_parts;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

/// An engine on this machine that does not accept within this time is not there. There is no limit on the
/// answer itself: a long prompt on a slow machine takes minutes, and the router knows when to give up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The most bytes of one read: chunks that are there already leave as one piece up to this size.
const READ: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// A connection. Dropping it closes it, and that stops the engine.
pub(super) struct Connection {
    /// Host and port of the engine.
    pub(super) authority: Arc<str>,
    stream: TcpStream,
    /// What is still to be sent of the request.
    head: Bytes,
    body: Bytes,
    /// Why no more of it can be sent. The answer may be there all the same.
    unsent: Option<io::Error>,
    response: Response,
    /// Of the body, read with the head.
    first: Bytes,
}

impl Connection {
    /// Connects to `host:port`, or to port 80 of `host`.
    pub(super) async fn open(authority: &str) -> Result<Self, SendError> {
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
        Ok(Self {
            authority: authority.into(),
            stream,
            head: Bytes::new(),
            body: Bytes::new(),
            unsent: None,
            response: Response::new(),
            first: Bytes::new(),
        })
    }

    /// Sends a request and completes with the head of its answer.
    pub(super) async fn send(&mut self, head: Bytes, body: Bytes) -> Result<Head, HttpError> {
        (self.head, self.body) = (head, body);
        self.response = Response::new();
        poll_fn(|context| self.poll_head(context)).await
    }

    /// Whether nothing of an answer has come.
    pub(super) fn is_unanswered(&self) -> bool {
        self.response.is_new()
    }

    /// Whether it may carry another request: all was sent, all has come, and both sides keep it.
    pub(super) fn may_be_kept(&self) -> bool {
        self.response.leaves_open() && self.unsent.is_none() && self.head.is_empty() && self.body.is_empty()
    }

    /// Whether it stands. One that was kept and has something to say can only say that it ends.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, HttpError>> {
        loop {
            self.write(context);
            let read = self.read(context, |response, bytes| response.head(bytes));
            match ready!(read)? {
                None => {
                    let closed = self.response.closed();
                    return Poll::Ready(Err(match self.unsent.take() {
                        Some(error) => error.into(),
                        None => closed.err().unwrap_or(HttpError::Closed),
                    }));
                }
                Some(Some((head, first))) => {
                    self.first = first;
                    return Poll::Ready(Ok(head));
                }
                Some(None) => {}
            }
        }
    }

    /// The next bytes of the answer's body: all that one read brings. `None` at the clean end.
    pub(super) fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, HttpError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        loop {
            if let Some(wrong) = self.response.wrong() {
                return Poll::Ready(Some(Err(wrong)));
            }
            if self.response.is_whole() {
                return Poll::Ready(None);
            }
            self.write(context);
            match ready!(self.read(context, Response::body)) {
                Ok(None) => return Poll::Ready(self.response.closed().err().map(Err)),
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Reads once and hands over what came; `None` at the end of the connection.
    fn read<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&mut Response, &mut [u8]) -> Result<T, HttpError>,
    ) -> Poll<Result<Option<T>, HttpError>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled_mut();
            Poll::Ready(if bytes.is_empty() { Ok(None) } else { take(&mut self.response, bytes).map(Some) })
        })
    }

    /// Sends what the socket takes. Who reads goes on with it: an engine may answer before it has read everything.
    fn write(&mut self, context: &mut Context<'_>) {
        while self.unsent.is_none() && !(self.head.is_empty() && self.body.is_empty()) {
            let parts = [IoSlice::new(&self.head), IoSlice::new(&self.body)];
            match poll_write_parts(Pin::new(&mut self.stream), context, &parts) {
                Poll::Ready(Ok(0)) => self.unsent = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => {
                    let of_head = sent.min(self.head.len());
                    self.head.advance(of_head);
                    self.body.advance(sent - of_head);
                }
                Poll::Ready(Err(error)) => self.unsent = Some(error),
                Poll::Pending => return,
            }
        }
        // Their memory is free as soon as it is sent.
        if self.head.is_empty() && self.body.is_empty() {
            (self.head, self.body) = (Bytes::new(), Bytes::new());
        }
    }
}
