//! What the tests of the whole mesh share. Nothing of it is shipped.
//!
//! - [`test_mesh`]: a router and its nodes in one test process, joined as real machines join
//! - [`test_node`]: one of those nodes, in the test's process or in one of its own that can be killed
//! - [`desk`]: one machine with real models, and a person who types at it
//! - [`engine_fixture`]: the real llama.cpp engine and the tiny models
//! - [`installed`]: the SDKs of clients and Python packages
//! - [`scripted_engine`]: a simulator for faults that a real engine cannot be told to make
//! - [`raw_engine`]: an engine below HTTP, for bytes that no HTTP library would send
//! - [`raw_client`]: a client below HTTP, for the same reason
//! - [`resident`]: how much memory this process holds
//! - [`client`]: an HTTP client that keeps what it got byte by byte
//! - [`relay`]: a network between a node and its router that can lose UDP
//! - [`seen_logs`]: everything that was logged

pub mod client;
pub mod desk;
pub mod engine_fixture;
pub mod installed;
pub mod raw_client;
pub mod raw_engine;
pub mod relay;
pub mod resident;
pub mod scripted_engine;
pub mod seen_logs;
pub mod test_mesh;
pub mod test_node;

use std::time::Duration;

/// Longer than any single step takes on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `step`, but not for ever.
///
/// # Panics
/// When it does not come within [`PATIENCE`].
pub async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, step).await;
    done.unwrap_or_else(|_| panic!("not within {} s: {what}", PATIENCE.as_secs()))
}

/// Asks `probe` again and again until it gives something: for what has no way to tell of its changes.
///
/// # Panics
/// When it does not come within [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let asking = async {
        loop {
            tick.tick().await;
            if let Some(found) = probe().await {
                return found;
            }
        }
    };
    soon(what, asking).await
}
