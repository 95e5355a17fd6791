//! One connection between an agent and its router.

use crate::h2_link::H2Connection;
use crate::{Receiving, Sending};
use bytes::Bytes;
use quinn::VarInt;
use std::time::Duration;
use tokio::time::sleep;

/// How long a goodbye may take to leave the machine.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What was under way before a peer died arrives within this and a round trip.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Questions to a peer that may be dead, and the pause after each: half a second in all. A burst of losses, or a peer
/// or ourselves short of processor time, cannot use up all of them.
const QUESTIONS: u32 = 10;
const QUESTION_EVERY: Duration = Duration::from_millis(50);

/// The connection is gone, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

impl From<quinn::ConnectionError> for Lost {
    fn from(error: quinn::ConnectionError) -> Self {
        Self(error.to_string())
    }
}

/// A connection. Clones share it; it is closed when the last of them and of its streams is dropped.
#[derive(Debug, Clone)]
pub enum Connection {
    /// Over QUIC.
    Quic(quinn::Connection),
    /// Over HTTP/2: only the router opens streams, or over a connection for files only the agent.
    H2(H2Connection),
}

impl Connection {
    /// Opens a stream. Waits while the peer's limit of streams is reached.
    ///
    /// # Errors
    /// [`Lost`], also when it is the other side that opens streams here.
    pub async fn open(&self) -> Result<(Sending, Receiving), Lost> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.open_bi().await?;
                Ok((Sending::Quic(send), Receiving::Quic(receive)))
            }
            Self::H2(connection) => connection.open().await,
        }
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// [`Lost`] when there will be none.
    pub async fn accept(&self) -> Result<(Sending, Receiving), Lost> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.accept_bi().await?;
                Ok((Sending::Quic(send), Receiving::Quic(receive)))
            }
            Self::H2(connection) => connection.accept().await,
        }
    }

    /// Time for a round trip; HTTP/2 does not measure it.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        match self {
            Self::Quic(connection) => Some(connection.rtt()),
            Self::H2(_) => None,
        }
    }

    /// Asks the peer for a sign of life, for half a second and two round trips. True when none came: then it is dead, or no
    /// packets pass; which of the two only the caller can know. Always false over HTTP/2, where the kernel of a peer that
    /// died ends the connection.
    pub async fn is_silent(&self) -> bool {
        let Self::Quic(connection) = self else { return false };
        let round_trip = connection.rtt();
        sleep(LAST_WORDS + round_trip).await;
        let before = heard_on(connection);
        for _ in 0..QUESTIONS {
            // A peer that takes no questions is left to the idle limit.
            if !ask(connection) {
                return false;
            }
            sleep(QUESTION_EVERY + 2 * round_trip / QUESTIONS).await;
            if heard_on(connection) != before {
                return false;
            }
        }
        true
    }

    /// Completes when the connection is gone.
    pub async fn closed(&self) -> Lost {
        match self {
            Self::Quic(connection) => connection.closed().await.into(),
            Self::H2(connection) => connection.closed().await,
        }
    }

    /// Why the connection is gone, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        match self {
            Self::Quic(connection) => connection.close_reason().map(Lost::from),
            Self::H2(connection) => connection.lost(),
        }
    }

    /// Closes it now: its streams break. HTTP/2 tells the peer neither code nor words, only that it is over.
    pub fn close(&self, code: u32, why: &str) {
        match self {
            Self::Quic(connection) => connection.close(VarInt::from_u32(code), why.as_bytes()),
            Self::H2(connection) => connection.close(),
        }
    }

    /// After [`Connection::close`]: waits a moment until what was queued before has left.
    pub async fn goodbye(&self) {
        // Over QUIC it is the endpoint that waits.
        drop(tokio::time::timeout(CLOSE_LIMIT, self.closed()).await);
    }
}

fn heard_on(connection: &quinn::Connection) -> u64 {
    connection.stats().udp_rx.datagrams
}

/// Sends what nobody reads, but whose arrival is acknowledged. False when the peer takes none, or the connection is gone.
fn ask(connection: &quinn::Connection) -> bool {
    connection.send_datagram(Bytes::from_static(b"?")).is_ok()
}
