//! What a TCP connection needs before it carries streams of tokens.

use socket2::SockRef;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long sent bytes may stay unacknowledged. Without it a connection whose address has vanished hangs for a
/// quarter of an hour.
pub const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(5);

/// Switches Nagle's algorithm off, so that a token does not wait for the acknowledgement of the one before, and lets
/// the kernel end the connection when the peer is gone.
///
/// # Errors
/// When the connection is broken already.
pub fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_prepared_connection_sends_at_once_and_gives_up_on_a_silent_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("loopback");
        prepare(&tcp).expect("a whole connection");
        assert!(tcp.nodelay().expect("a socket"));
        let limit = SockRef::from(&tcp).tcp_user_timeout().expect("a socket");
        assert_eq!(limit, Some(UNACKNOWLEDGED_LIMIT));
    }
}
