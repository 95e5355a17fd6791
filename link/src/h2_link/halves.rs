//! The halves of a stream over HTTP/2.

use crate::{Receiving, Sending, StreamError};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

/// Our codes as reasons of RST_STREAM: apart from HTTP/2's own, which the library uses too.
const REASONS: u32 = 0x4d4d_0000;

/// What the router opened.
pub(super) fn opened(stream: SendStream<Bytes>, answer: ResponseFuture) -> (Sending, Receiving) {
    (
        Sending::H2(H2Sending::new(Way::Body(stream))),
        Receiving::H2(H2Receiving { source: Source::Answer(answer), held: Bytes::new() }),
    )
}

/// What the router opened, as its peer sees it.
pub(super) fn accepted(request: Request<RecvStream>, answer: SendResponse<Bytes>) -> (Sending, Receiving) {
    let body = request.into_body();
    (
        Sending::H2(H2Sending::new(Way::Answer(answer))),
        Receiving::H2(H2Receiving { source: Source::Body(body), held: Bytes::new() }),
    )
}

/// The half that sends.
pub struct H2Sending {
    /// Shared with [`H2Sending::stopped`], by one task.
    way: Arc<Mutex<Way>>,
}

enum Way {
    /// The answer's headers have not been sent: they leave with the first bytes.
    Answer(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
    /// Finished or reset.
    Over,
}

impl fmt::Debug for H2Sending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("H2Sending")
    }
}

impl H2Sending {
    fn new(way: Way) -> Self {
        Self { way: Arc::new(Mutex::new(way)) }
    }

    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        std::future::poll_fn(|context| {
            let mut way = lock(&self.way);
            // A peer that is gone makes the headers an error of ours.
            if let Way::Answer(answer) = &mut *way
                && let Poll::Ready(ended) = answer.poll_reset(context)
            {
                return Poll::Ready(Err(match ended {
                    Ok(reason) => StreamError::Ended(code_of(reason)),
                    Err(error) => broken(&error),
                }));
            }
            let Some(stream) = way.body(false)? else { return Poll::Ready(Err(StreamError::Ended(0))) };
            while !bytes.is_empty() {
                stream.reserve_capacity(bytes.len());
                let free = match stream.capacity() {
                    0 => match ready!(stream.poll_capacity(context)) {
                        Some(Ok(free)) => free,
                        Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                        None => return Poll::Ready(Err(why_over(stream, context))),
                    },
                    free => free,
                };
                let part = bytes.split_to(free.min(bytes.len()));
                if !part.is_empty() && stream.send_data(part, false).is_err() {
                    return Poll::Ready(Err(why_over(stream, context)));
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    pub(crate) fn finish(&mut self) {
        let mut way = lock(&self.way);
        // Each fails only on a stream that has ended.
        match &mut *way {
            Way::Answer(_) => drop(way.body(true)),
            Way::Body(stream) => drop(stream.send_data(Bytes::new(), true)),
            Way::Over => {}
        }
        // What it holds is kept: dropping the stream now would take the receiving half's peer for gone.
    }

    pub(crate) fn reset(&mut self, code: u32) {
        let mut way = lock(&self.way);
        let reason = Reason::from(REASONS + code);
        match &mut *way {
            Way::Answer(answer) => answer.send_reset(reason),
            Way::Body(stream) => stream.send_reset(reason),
            Way::Over => {}
        }
        *way = Way::Over;
    }

    /// Completes when the peer has reset the stream, or is gone.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let way = self.way.clone();
        std::future::poll_fn(move |context| {
            let ended = match &mut *lock(&way) {
                Way::Answer(answer) => answer.poll_reset(context),
                Way::Body(stream) => stream.poll_reset(context),
                Way::Over => return Poll::Ready(()),
            };
            ended.map(drop)
        })
    }
}

impl Way {
    /// The body, after the answer's headers; `None` when the stream is over.
    fn body(&mut self, ends: bool) -> Result<Option<&mut SendStream<Bytes>>, StreamError> {
        if let Self::Answer(answer) = self {
            let stream = answer.send_response(Response::new(()), ends).map_err(|error| broken(&error))?;
            *self = Self::Body(stream);
        }
        match self {
            Self::Body(stream) => Ok(Some(stream)),
            Self::Answer(_) | Self::Over => Ok(None),
        }
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    // Valid after any panic: what it holds is the library's.
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream that takes no more bytes was reset by the peer, or went with its connection.
fn why_over(stream: &mut SendStream<Bytes>, context: &mut Context<'_>) -> StreamError {
    match stream.poll_reset(context) {
        Poll::Ready(Ok(reason)) => StreamError::Ended(code_of(reason)),
        Poll::Ready(Err(error)) => broken(&error),
        Poll::Pending => StreamError::Ended(0),
    }
}

fn code_of(reason: Reason) -> u32 {
    let number = u32::from(reason);
    if number & 0xffff_0000 == REASONS { number - REASONS } else { 0 }
}

fn broken(error: &h2::Error) -> StreamError {
    match error.reason() {
        Some(reason) if error.is_reset() => StreamError::Ended(code_of(reason)),
        _ => StreamError::Lost(super::words(error)),
    }
}

/// The half that receives.
pub struct H2Receiving {
    source: Source,
    /// Taken from the stream, but not yet by the caller: at most one frame.
    held: Bytes,
}

enum Source {
    /// The answer has not begun.
    Answer(ResponseFuture),
    Body(RecvStream),
    /// Nobody wants more.
    Over,
}

impl fmt::Debug for H2Receiving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("H2Receiving")
    }
}

impl H2Receiving {
    pub(crate) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        while self.held.is_empty() {
            match &mut self.source {
                Source::Answer(answer) => match ready!(Pin::new(answer).poll(context)) {
                    Ok(answer) if answer.status() == StatusCode::OK => {
                        self.source = Source::Body(answer.into_body());
                    }
                    Ok(answer) => {
                        let text = format!("its answer has the status {}", answer.status().as_u16());
                        return Poll::Ready(Err(StreamError::Lost(text)));
                    }
                    Err(error) => return Poll::Ready(Err(broken(&error))),
                },
                Source::Body(body) => match ready!(body.poll_data(context)) {
                    Some(Ok(bytes)) => {
                        // Fails only on a stream that has ended.
                        drop(body.flow_control().release_capacity(bytes.len()));
                        self.held = bytes;
                    }
                    // The peer has sent all of its answer and wants no more of the request.
                    Some(Err(error)) if error.is_remote() && error.reason() == Some(Reason::NO_ERROR) => {
                        return Poll::Ready(Ok(None));
                    }
                    Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                    None => return Poll::Ready(Ok(None)),
                },
                Source::Over => return Poll::Ready(Err(StreamError::Ended(0))),
            }
        }
        let length = most.min(self.held.len());
        Poll::Ready(Ok(Some(self.held.split_to(length))))
    }

    pub(crate) fn stop(&mut self) {
        // The library resets the stream when it is done with the other half too.
        self.source = Source::Over;
        self.held = Bytes::new();
    }
}
