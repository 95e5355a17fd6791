//! The two halves of a stream.

use crate::h2_link::{H2Receiving, H2Sending};
use bytes::{Bytes, BytesMut};
use mesh_proto::frame::code;
use quinn::{ReadError, VarInt, WriteError};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Why a stream takes or gives no more bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer ended it early, with a code of [`code`], or 0 where it gave none.
    #[error("the other side ended the stream, code {0}")]
    Ended(u32),
    /// The connection is gone.
    #[error("{0}")]
    Lost(String),
}

/// What follows a stream's pieces is copied into one buffer when they are this small on average. Each piece costs its
/// own bookkeeping until it is acknowledged, and its own frame over HTTP/2; copying costs less.
const SMALL: usize = 4 * 1024;

/// The half that sends. Dropped unfinished it ends the stream: over QUIC as if it were complete, so a caller that
/// may be dropped must reset it; over HTTP/2 as cancelled.
#[derive(Debug)]
pub enum Sending {
    /// Over QUIC.
    Quic(quinn::SendStream),
    /// Over HTTP/2.
    H2(H2Sending),
}

impl Sending {
    /// Sends all of `bytes`. Waits while the peer is behind.
    ///
    /// # Errors
    /// [`StreamError`] when the peer wants no more, or is gone.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        match self {
            Self::Quic(stream) => stream.write_chunk(bytes).await.map_err(write_error),
            Self::H2(stream) => stream.write(bytes).await,
        }
    }

    /// Sends all `pieces` in one go and leaves none of them; small ones are joined.
    ///
    /// # Errors
    /// As [`Sending::write`].
    pub async fn write_all(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), StreamError> {
        let total: usize = pieces.iter().map(Bytes::len).sum();
        let written = match (self, pieces.as_mut_slice()) {
            (_, []) => Ok(()),
            (own, [only]) => own.write(std::mem::take(only)).await,
            (own, many) if total / many.len() < SMALL => {
                let mut joined = BytesMut::with_capacity(total);
                many.iter().for_each(|piece| joined.extend_from_slice(piece));
                own.write(joined.freeze()).await
            }
            (Self::Quic(stream), many) => stream.write_all_chunks(many).await.map_err(write_error),
            (Self::H2(stream), many) => {
                let mut written = Ok(());
                for piece in many {
                    if written.is_ok() {
                        written = stream.write(std::mem::take(piece)).await;
                    }
                }
                written
            }
        };
        pieces.clear();
        written
    }

    /// Everything is sent: the stream ends as complete.
    pub fn finish(&mut self) {
        match self {
            // Fails when the peer stopped the stream in the meantime: then it does not matter to anyone.
            Self::Quic(stream) => drop(stream.finish()),
            Self::H2(stream) => stream.finish(),
        }
    }

    /// Ends the stream as broken, with a code of [`code`]. Does nothing to a stream that has ended.
    pub fn reset(&mut self, code: u32) {
        match self {
            Self::Quic(stream) => drop(stream.reset(VarInt::from_u32(code))),
            Self::H2(stream) => stream.reset(code),
        }
    }

    /// Completes when the peer wants no more of this stream, or is gone. To be awaited in the task that writes.
    pub fn stopped(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Quic(stream) => {
                let stopped = stream.stopped();
                Box::pin(async { drop(stopped.await) })
            }
            Self::H2(stream) => Box::pin(stream.stopped()),
        }
    }

    /// After [`Self::finish`]: completes when the peer has all of it, or is gone. What is still on its way is forgotten when
    /// a QUIC connection is closed; HTTP/2 sends it first.
    pub async fn arrived(&self) {
        if let Self::Quic(_) = self {
            self.stopped().await;
        }
    }

    /// Higher goes first among the streams of a connection; the usual is 0. HTTP/2 knows no such order: there,
    /// streams of files have a connection of their own.
    pub fn set_priority(&self, priority: i32) {
        if let Self::Quic(stream) = self {
            // Fails only on a stream that has ended.
            drop(stream.set_priority(priority));
        }
    }
}

/// The half that receives. It reads as [`AsyncRead`] too, for heads; those errors hold a [`StreamError`].
#[derive(Debug)]
pub enum Receiving {
    /// Over QUIC.
    Quic(quinn::RecvStream),
    /// Over HTTP/2.
    H2(H2Receiving),
}

impl Receiving {
    /// The next bytes, at most `most`; `None` when the stream is complete.
    ///
    /// # Errors
    /// [`StreamError`] when it broke before.
    pub async fn chunk(&mut self, most: usize) -> Result<Option<Bytes>, StreamError> {
        match self {
            Self::Quic(stream) => {
                Ok(stream.read_chunk(most, true).await.map_err(read_error)?.map(|chunk| chunk.bytes))
            }
            Self::H2(stream) => std::future::poll_fn(|context| stream.poll_chunk(context, most)).await,
        }
    }

    /// No more bytes are wanted.
    pub fn stop(&mut self, code: u32) {
        match self {
            // Fails only on a stream that has ended.
            Self::Quic(stream) => drop(stream.stop(VarInt::from_u32(code))),
            Self::H2(stream) => stream.stop(),
        }
    }
}

impl AsyncRead for Receiving {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(stream) => stream
                .poll_read_buf(context, into)
                .map_err(|error| io::Error::new(io::ErrorKind::ConnectionReset, read_error(error))),
            Self::H2(stream) => {
                if into.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
                match ready!(stream.poll_chunk(context, into.remaining())) {
                    Ok(bytes) => into.put_slice(&bytes.unwrap_or_default()),
                    Err(error) => {
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                    }
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Codes beyond those of [`code`] are none of ours.
fn ours(number: VarInt) -> u32 {
    u32::try_from(number.into_inner()).ok().filter(|number| *number <= code::BAD_FRAME).unwrap_or(0)
}

fn write_error(error: WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => StreamError::Ended(ours(code)),
        WriteError::ConnectionLost(lost) => StreamError::Lost(lost.to_string()),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Lost(error.to_string()),
    }
}

fn read_error(error: ReadError) -> StreamError {
    match error {
        ReadError::Reset(code) => StreamError::Ended(ours(code)),
        ReadError::ConnectionLost(lost) => StreamError::Lost(lost.to_string()),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            StreamError::Lost(error.to_string())
        }
    }
}
