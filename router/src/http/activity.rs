//! Whether a connection is of use: it has a request, or had one lately, and its client takes what it asked for.
//! Looked at by a slow clock, so a request pays for it with two counts, and a write with one.

use super::reply::ReplyBody;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::{Body, Frame, SizeHint};
use mesh_link::tcp::poll_write_parts;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// A connection is looked at this often. One that has had no request since the last look, or since its begin, is
/// closed: SDKs open another without a word.
const LOOK: Duration = Duration::from_secs(10);
/// A client that takes nothing of what waits for it holds a slot of an engine: not longer than so many looks.
const STALLED_LOOKS: u32 = 6;

/// A client that takes fewer bytes between two looks takes nothing: so much go out as pings and the like on a connection
/// of HTTP/2 that stands still. What is counted is what the kernel takes, in lumps of a third of its buffer: of an answer
/// larger than that a client must read some 20 KB each second where the buffer has grown to megabytes.
const CRAWL: u64 = 1024;

/// What happens on one connection. Each request in progress holds a clone.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Bytes that the client's side has taken. Shared with the connection's [`Watched`] stream.
    written: Arc<AtomicU64>,
    /// Requests that have begun.
    begun: AtomicU64,
    /// Pieces of bodies that the client's side of the connection took.
    taken: AtomicU64,
    /// Bodies whose next piece nobody has asked for since the last: the client is behind.
    behind: AtomicUsize,
}

/// A request in progress.
pub(super) struct Busy(Arc<Activity>);

/// Why a connection is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Useless {
    /// No request, and nothing of an answer on its way.
    Idle,
    /// All its answers wait for the client.
    Stalled,
}

impl Activity {
    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Completes when the connection is of no use. `self` must be the only holder besides requests.
    pub(super) async fn ended(self: &Arc<Self>) -> Useless {
        let mut looks = tokio::time::interval(LOOK);
        looks.tick().await;
        let (mut seen, mut written, mut stalled) = ((0, 0), 0, 0);
        loop {
            looks.tick().await;
            let now = (self.begun.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
            let running = Arc::strong_count(self) - 1;
            let behind = self.behind.load(Ordering::Relaxed);
            // An answer that is there as a whole is handed out at once; how it gets on shows only here.
            let still = now == seen && !self.goes_on(&mut written);
            if running == 0 && still {
                return Useless::Idle;
            }
            stalled = if running > 0 && behind >= running && still { stalled + 1 } else { 0 };
            if stalled == STALLED_LOOKS {
                return Useless::Stalled;
            }
            seen = now;
        }
    }

    /// Whether the client has taken more than nothing since `before`, which becomes now.
    fn goes_on(&self, before: &mut u64) -> bool {
        let now = self.written.load(Ordering::Relaxed);
        now - std::mem::replace(before, now) >= CRAWL
    }

    /// Completes when the client has taken nothing for a minute.
    async fn stuck(&self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.tick().await;
        let (mut written, mut stalled) = (self.written.load(Ordering::Relaxed), 0);
        while stalled < STALLED_LOOKS {
            looks.tick().await;
            stalled = if self.goes_on(&mut written) { 0 } else { stalled + 1 };
        }
    }

    /// The connection's stream, whose progress is seen from now on.
    pub(super) fn watch<S>(&self, stream: S) -> Watched<S> {
        Watched { stream, written: self.written.clone() }
    }

    /// Drives a connection to its end: its own, that of its use, or that of the router. At `stop` it has until `kill`
    /// to finish what it has begun; `finish` tells it so.
    pub(super) async fn drive<C: Future>(
        self: Arc<Self>,
        connection: C,
        stop: CancellationToken,
        kill: CancellationToken,
        finish: impl FnOnce(Pin<&mut C>),
    ) {
        let mut connection = pin!(connection);
        // With wakes of its own: else each chunk of an answer would ask the clock and the tokens, too.
        let mut aside = FuturesUnordered::new();
        aside.push(async {
            tokio::select! {
                () = stop.cancelled() => None,
                // Others may be waiting for this place.
                useless = self.ended() => Some(useless),
            }
        });
        let useless = tokio::select! {
            biased;
            // Errors here are clients that hang up or send nonsense; what could be answered was answered.
            _ = connection.as_mut() => return,
            Some(useless) = aside.next() => useless,
        };
        if useless == Some(Useless::Stalled) {
            return;
        }
        finish(connection.as_mut());
        let stuck = async {
            match useless {
                // What was written last may still be on its way.
                Some(_) => self.stuck().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = connection => {}
            () = stuck => {}
            () = kill.cancelled() => {}
        }
    }
}

/// A stream that counts what its other side has taken.
pub(super) struct Watched<S> {
    stream: S,
    written: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S> Watched<S> {
    fn counted(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.counted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = poll_write_parts(Pin::new(&mut self.stream), context, parts);
        self.counted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of an answer, which tells its connection how it gets on.
pub(super) struct Told {
    body: ReplyBody,
    busy: Busy,
    behind: bool,
}

impl Told {
    pub(super) fn new(body: ReplyBody, busy: Busy) -> Self {
        Self { body, busy, behind: false }
    }

    fn set_behind(&mut self, behind: bool) {
        if self.behind != behind {
            self.behind = behind;
            let count = &self.busy.0.behind;
            if behind {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                count.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.set_behind(false);
    }
}

impl Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let handed_out = matches!(polled, Poll::Ready(Some(_)));
        if handed_out {
            self.busy.0.taken.fetch_add(1, Ordering::Relaxed);
        }
        self.set_behind(handed_out);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply::whole;
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_idle_after_ten_seconds_and_after_its_last_request_again() {
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        assert_eq!(activity.ended().await, Useless::Idle);
        assert_eq!(start.elapsed(), LOOK);
        drop(activity.begin());
        let start = Instant::now();
        assert_eq!(activity.ended().await, Useless::Idle);
        assert_eq!(start.elapsed(), LOOK * 2, "at the first look there had been one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_for_its_engine_keeps_its_connection() {
        let activity = Arc::new(Activity::default());
        let _thinking = activity.begin();
        let one = stream::once(async { Ok(Frame::data(Bytes::from("one"))) });
        let slow = StreamBody::new(one.chain(stream::pending())).boxed_unsync();
        let mut told = Told::new(slow, activity.begin());
        assert!(told.frame().await.is_some());
        assert!(told.frame().now_or_never().is_none(), "the client has asked for more");
        assert!(timeout(LOOK * 100, activity.ended()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_for_a_minute_loses_its_connection() {
        let activity = Arc::new(Activity::default());
        let mut told = Told::new(whole("one"), activity.begin());
        assert!(told.frame().await.is_some());
        let start = Instant::now();
        assert_eq!(activity.ended().await, Useless::Stalled);
        assert_eq!(start.elapsed(), LOOK * (STALLED_LOOKS + 1));
        drop(told);
        assert_eq!(activity.behind.load(Ordering::Relaxed), 0);
    }

    /// A connection with one answer, over a line that holds 16 KiB, to a client that takes 4 KiB in each second for so
    /// many seconds and then nothing. What the client has got in bytes, and how long the connection was held.
    async fn taken(answer: ReplyBody, seconds: u32) -> (usize, Duration) {
        let (line, mut client) = tokio::io::duplex(16 << 10);
        let (activity, start) = (Arc::new(Activity::default()), Instant::now());
        let (seen, stream) = (Arc::downgrade(&activity), activity.watch(line));
        let answer = Mutex::new(Some(answer));
        let service = service_fn(move |_: Request<Incoming>| {
            let busy = seen.upgrade().unwrap_or_default().begin();
            let answer = answer.lock().expect("no panic").take().unwrap_or_else(|| whole(""));
            async move { Ok::<_, Infallible>(Response::new(Told::new(answer, busy))) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let never = CancellationToken::new();
        let served =
            tokio::spawn(activity.drive(connection, never.clone(), never, |c| c.graceful_shutdown()));
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is taken");
        let (mut got, mut piece) = (0, vec![0; 4 << 10]);
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            got += client.read(&mut piece).await.unwrap_or(0);
        }
        served.await.expect("no panic");
        (got, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_reads_steadily_gets_all_of_an_answer_however_it_was_made() {
        const LENGTH: usize = 1 << 20;
        let (got, _) = taken(whole(vec![0; LENGTH]), 400).await;
        assert!(got > LENGTH, "{got} bytes of a whole answer");
        let pieces = stream::iter((0..4).map(|_| Ok(Frame::data(Bytes::from(vec![0; LENGTH / 4])))));
        let (got, _) = taken(StreamBody::new(pieces).boxed_unsync(), 400).await;
        assert!(got > LENGTH, "{got} bytes of a stream");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_a_whole_answer_is_held_for_a_minute_and_a_half_at_most() {
        for seconds in [0, 5, 100] {
            let (got, held) = taken(whole(vec![0; 1 << 20]), seconds).await;
            assert!(got < 1 << 20);
            let held = held.saturating_sub(Duration::from_secs(seconds.into()));
            let bounds = Duration::from_secs(60)..=LOOK * (STALLED_LOOKS + 3);
            assert!(bounds.contains(&held), "{held:?} after {seconds} s of reading");
        }
    }
}
