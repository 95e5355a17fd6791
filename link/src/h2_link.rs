//! A connection over HTTP/2: one task drives it, pings the peer and ends it.
//!
//! ```text
//! agent ── TLS, ALPN modemesh-data-h2/1 ──► router     the router is the HTTP/2 client, the agent the server
//! agent ── TLS, ALPN modemesh-files-h2/1 ─► router     the other way round, for one file
//! ```
//! A stream is `POST /` and its answer with status 200; the bodies are the frames that QUIC carries too.

mod halves;

pub use halves::{H2Receiving, H2Sending};

use crate::quic::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::{Lost, Receiving, Sending};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason, client, server};
use http::{Method, Request, Uri};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Both ends ping the other this often, and give up when it does not answer for so long.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(5);

/// TLS stands by then; greetings cost one round trip.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// What was queued before a close may take this long to leave.
const FLUSH_LIMIT: Duration = Duration::from_millis(800);

/// No header of ours is longer than 100 bytes.
const HEADER_LIMIT: u32 = 4 * 1024;

/// What waits to be sent on each stream: a few tokens, or what keeps a body flowing while the task is woken.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that were cancelled and are remembered, because bytes of theirs may still come.
const CANCELLED: usize = 1024;
const CANCELLED_FOR: Duration = Duration::from_secs(2);

/// Bookkeeping for frames below 256 bytes that wait to be read, in bytes: more ends the whole connection. Enough for the
/// windows of [`crate::quic`] on a thousand streams of tokens of 100 bytes whose clients have all stopped reading.
const SMALL_FRAMES: usize = 1 << 30;

/// Settings for the side that opens streams, and the one that accepts up to `streams` at once. They differ in type
/// only.
macro_rules! settings {
    ($builder:expr) => {{
        let mut builder = $builder;
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIMIT)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(CANCELLED)
            .reset_stream_duration(CANCELLED_FOR)
            // Counted over the connection's whole life, in which clients may cancel any number of requests.
            .max_local_error_reset_streams(None)
            // Clients that leave at once are no attack of the router's.
            .max_pending_accept_reset_streams(CANCELLED)
            .data_frame_budget(SMALL_FRAMES);
        builder
    }};
}

/// A connection over HTTP/2. Clones share it.
#[derive(Clone)]
pub struct H2Connection {
    side: Side,
    lost: watch::Receiver<Option<Lost>>,
    close: Arc<DropGuardOf>,
}

#[derive(Clone)]
enum Side {
    Opens(SendRequest<Bytes>),
    Accepts(Arc<Mutex<mpsc::Receiver<(Sending, Receiving)>>>),
}

struct DropGuardOf {
    token: CancellationToken,
    _cancels: DropGuard,
}

impl fmt::Debug for H2Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("H2Connection").field("lost", &*self.lost.borrow()).finish_non_exhaustive()
    }
}

/// The side of `io` that opens streams.
///
/// # Errors
/// [`Lost`] when the peer does not speak HTTP/2.
pub async fn opening<T>(io: T) -> Result<H2Connection, Lost>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = settings!(client::Builder::new());
    builder.enable_push(false).max_concurrent_streams(0);
    let (opener, mut connection) = greeted(builder.handshake(io)).await?;
    let pings = connection.ping_pong();
    Ok(H2Connection::start(Side::Opens(opener), |close, tell| async move {
        let lost = tokio::select! {
            ended = &mut connection => Lost(ended.err().map_or_else(|| ENDED.into(), |e| words(&e))),
            lost = watched(pings) => lost,
            () = close.cancelled() => Lost(CLOSED.into()),
        };
        tell.send_replace(Some(lost));
    }))
}

/// The side of `io` that accepts streams, `streams` at once.
///
/// # Errors
/// [`Lost`] when the peer does not speak HTTP/2.
pub async fn accepting<T>(io: T, streams: u32) -> Result<H2Connection, Lost>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = settings!(server::Builder::new());
    builder.max_concurrent_streams(streams);
    let mut connection = greeted(builder.handshake::<_, Bytes>(io)).await?;
    let (fresh, accepted) = mpsc::channel(streams as usize);
    let pings = connection.ping_pong();
    let side = Side::Accepts(Arc::new(Mutex::new(accepted)));
    Ok(H2Connection::start(side, |close, tell| async move {
        let watching = watched(pings);
        tokio::pin!(watching);
        let lost = loop {
            tokio::select! {
                next = connection.accept() => match next {
                    Some(Ok((request, mut answer))) => match fresh.try_reserve() {
                        Ok(place) => place.send(halves::accepted(request, answer)),
                        // Never with a peer that keeps to the limit.
                        Err(_) => answer.send_reset(Reason::REFUSED_STREAM),
                    },
                    Some(Err(error)) => break Lost(words(&error)),
                    None => break Lost(ENDED.into()),
                },
                lost = &mut watching => break lost,
                () = close.cancelled() => {
                    // What is queued leaves first; nothing new is taken.
                    connection.graceful_shutdown();
                    let flushed = async { while let Some(Ok(_)) = connection.accept().await {} };
                    drop(timeout(FLUSH_LIMIT, flushed).await);
                    break Lost(CLOSED.into());
                }
            }
        };
        tell.send_replace(Some(lost));
    }))
}

const ENDED: &str = "the other side ended the connection";
const CLOSED: &str = "closed";

/// What a connection is lost by whose other end is gone without a word: the kernel ended it for a process that died, or
/// something on the way did. rustls and h2 have words of their own for each place at which that is met.
pub const CUT: &str =
    "the connection was cut: the program at its other end has died, or something on the way ended it";

/// What an error of a connection is, in our words where a person has to make something of it.
pub(crate) fn words(error: &h2::Error) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kind = error.get_io().map(std::io::Error::kind);
    if matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)) {
        return CUT.into();
    }
    error.to_string()
}

async fn greeted<C>(greeting: impl Future<Output = Result<C, h2::Error>>) -> Result<C, Lost> {
    let greeted = timeout(GREETING_LIMIT, greeting).await;
    let late = || Lost(format!("no greeting within {} s", GREETING_LIMIT.as_secs()));
    greeted.map_err(|_| late())?.map_err(|error| Lost(error.to_string()))
}

/// Completes when the peer does not answer any more.
async fn watched(pings: Option<PingPong>) -> Lost {
    // Taken once for each connection, so it is there.
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING_LIMIT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Lost(words(&error)),
            Err(_) => return Lost(format!("no answer to a ping for {} s", PING_LIMIT.as_secs())),
        }
    }
}

impl H2Connection {
    fn start<F>(side: Side, drive: impl FnOnce(CancellationToken, watch::Sender<Option<Lost>>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tell, lost) = watch::channel(None);
        let token = CancellationToken::new();
        tokio::spawn(drive(token.clone(), tell));
        let close = Arc::new(DropGuardOf { _cancels: token.clone().drop_guard(), token });
        Self { side, lost, close }
    }

    pub(crate) async fn open(&self) -> Result<(Sending, Receiving), Lost> {
        let Side::Opens(opener) = &self.side else { return Err(Lost("the other side opens streams".into())) };
        let mut opener = opener.clone().ready().await.map_err(|error| self.because(&error))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("https://modemesh.internal/");
        let (answer, stream) = opener.send_request(request, false).map_err(|error| self.because(&error))?;
        Ok(halves::opened(stream, answer))
    }

    pub(crate) async fn accept(&self) -> Result<(Sending, Receiving), Lost> {
        let Side::Accepts(accepted) = &self.side else { return Err(self.closed().await) };
        match accepted.lock().await.recv().await {
            Some(stream) => Ok(stream),
            None => Err(self.closed().await),
        }
    }

    pub(crate) async fn closed(&self) -> Lost {
        match self.lost.clone().wait_for(Option::is_some).await {
            Ok(lost) => lost.clone().unwrap_or_else(|| Lost(ENDED.into())),
            // The task that drives it is gone with its runtime.
            Err(_) => Lost(ENDED.into()),
        }
    }

    pub(crate) fn lost(&self) -> Option<Lost> {
        self.lost.borrow().clone()
    }

    pub(crate) fn close(&self) {
        self.close.token.cancel();
    }

    /// The connection's own end says more than what it did to one stream.
    fn because(&self, error: &h2::Error) -> Lost {
        self.lost().unwrap_or_else(|| Lost(words(error)))
    }
}
