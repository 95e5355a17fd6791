//! Takes the requests of one connection, from its first to its last.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | intake | the connection | an exchange for each stream | the connection is lost, or cut |
//! | exchange, one each | a stream | an answer | answered, withdrawn, or cut |

use super::dial::Line;
use super::exchange::{ARRIVAL_LIMIT, Exchange};
use crate::serve::Serve;
use mesh_link::Connection;
use mesh_proto::frame::code;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the goodbye may take to leave the machine.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A connection whose requests are answered.
pub(super) struct Intake {
    line: Line,
    requests: TaskTracker,
    cut: CancellationToken,
    accepting: JoinHandle<String>,
}

impl Intake {
    pub(super) fn start(line: Line, serve: Arc<Serve>, bodies: Arc<Semaphore>) -> Self {
        let (requests, cut) = (TaskTracker::new(), CancellationToken::new());
        let accepting =
            tokio::spawn(accept(line.connection.clone(), serve, bodies, requests.clone(), cut.clone()));
        Self { line, requests, cut, accepting }
    }

    pub(super) fn connection(&self) -> Connection {
        self.line.connection.clone()
    }

    /// Completes with the cause when the connection is lost.
    pub(super) async fn lost(&mut self) -> String {
        (&mut self.accepting).await.unwrap_or_else(|error| error.to_string())
    }

    /// Waits for a moment until the last bytes of what has ended are with the router.
    pub(super) async fn settle(&self) {
        self.requests.close();
        drop(timeout(ARRIVAL_LIMIT, self.requests.wait()).await);
    }

    /// Cuts what still runs, and says goodbye.
    pub(super) async fn end(self) {
        self.cut.cancel();
        self.requests.close();
        // Each ends at once now, but its reset must be queued before the connection is closed.
        self.requests.wait().await;
        let Line { connection, endpoint, followed } = self.line;
        drop(followed);
        connection.close(code::SHUTDOWN, "the agent stops");
        connection.goodbye().await;
        if let Some(endpoint) = endpoint {
            drop(timeout(CLOSE_LIMIT, endpoint.wait_idle()).await);
        }
    }

    /// Ends when everything that runs on it has ended, but not within `linger`, in which the router may still send a
    /// request.
    pub(super) async fn retire(mut self, linger: Duration, stop: CancellationToken) {
        let requests = self.requests.clone();
        let finished = async {
            sleep(linger).await;
            requests.close();
            requests.wait().await;
        };
        tokio::select! {
            () = finished => {}
            () = stop.cancelled() => {}
            _ = self.lost() => {}
        }
        self.end().await;
    }
}

async fn accept(
    connection: Connection,
    serve: Arc<Serve>,
    bodies: Arc<Semaphore>,
    requests: TaskTracker,
    cut: CancellationToken,
) -> String {
    // However it ends, what runs on it ends with it.
    let _cut = cut.clone().drop_guard();
    loop {
        tokio::select! {
            () = cut.cancelled() => return "cut".into(),
            accepted = connection.accept() => match accepted {
                Ok(stream) => {
                    let exchange = Exchange::new(serve.clone(), bodies.clone(), stream, cut.clone());
                    requests.spawn(exchange.run());
                }
                Err(lost) => return lost.to_string(),
            },
        }
    }
}
