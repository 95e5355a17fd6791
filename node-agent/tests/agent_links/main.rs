//! The agent between a router and an engine that both do what a test tells them: reports, reconnecting and
//! renewal on the control link, requests on the data link, and the forwarding to an engine in between.

mod control;
mod data;
mod life;
mod scripted_engine;
mod scripted_logind;
mod scripted_router;
mod serve;
mod sleep;

use std::future::Future;
use std::time::Duration;

/// Completes with `future` or fails the test: nothing here takes this long unless it hangs.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within 20 s"))
}
