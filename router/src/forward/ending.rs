//! The end of the router's patience with what still runs when it stops, as one stream notices it.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream's own ear for the one token of all streams. With a wake of its own: else each chunk of each stream would
/// take the token's lock.
pub(super) struct Ending(FuturesUnordered<WaitForCancellationFutureOwned>);

impl Ending {
    pub(super) fn new(token: &CancellationToken) -> Self {
        Self(std::iter::once(token.clone().cancelled_owned()).collect())
    }

    /// Completes once, when the router waits no longer.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_next_unpin(context).map(drop)
    }
}
