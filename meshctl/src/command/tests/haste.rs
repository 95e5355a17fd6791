//! Time that is in a hurry: the verbs wait for machines, and a scripted machine need not be waited for.
//!
//! Tests with a router begin with their time paused. Left to itself, paused time jumps to the next timer whenever the runtime
//! has nothing to do, also while a packet is between two sockets, and so past the limits of calls. Here it goes no further
//! than a step at once, and stands still for a beat after each: what was under way comes in.

use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

/// The furthest that time goes at once: the verbs look at machines less often.
const STEP: Duration = Duration::from_millis(50);
/// Of the clock on the wall.
const BEAT: Duration = Duration::from_millis(1);

/// Holds paused time to its steps, until the handle is aborted or the runtime ends.
pub(super) fn hurry() -> JoinHandle<()> {
    tokio::spawn(async {
        loop {
            sleep(STEP).await;
            // As long as a blocking task runs, paused time does not jump.
            spawn_blocking(|| std::thread::park_timeout(BEAT)).await.expect("it only waits");
        }
    })
}
