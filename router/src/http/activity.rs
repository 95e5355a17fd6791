//! Whether a connection is of use: it has a request, or had one lately, and its client takes what it asked for.
//! Looked at by a slow clock, so a request pays for it with two counts.

use super::reply::ReplyBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// A connection is looked at this often. One that has had no request since the last look, or since its begin, is
/// closed: SDKs open another without a word.
const LOOK: Duration = Duration::from_secs(10);
/// A client that takes nothing of what waits for it holds a slot of an engine: not longer than so many looks.
const STALLED_LOOKS: u32 = 6;

/// What happens on one connection. Each request in progress holds a clone.
#[derive(Debug, Default)]
pub(super) struct Activity {
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
    /// No request.
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
        let (mut seen, mut stalled) = ((0, 0), 0);
        loop {
            looks.tick().await;
            let now = (self.begun.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
            let running = Arc::strong_count(self) - 1;
            let behind = self.behind.load(Ordering::Relaxed);
            if running == 0 && now == seen {
                return Useless::Idle;
            }
            stalled = if running > 0 && behind >= running && now == seen { stalled + 1 } else { 0 };
            if stalled == STALLED_LOOKS {
                return Useless::Stalled;
            }
            seen = now;
        }
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
}
