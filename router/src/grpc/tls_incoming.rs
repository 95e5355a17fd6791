//! TLS connections for tonic, accepted with the mesh's own rustls configuration.
//!
//! tonic's own acceptor builds its configuration from PEM files; ours changes certificates while it runs.
//! Handshakes run beside each other, so one slow peer holds nobody up, and both they and the connections are
//! counted, so a flood of either waits in the kernel's queue instead of in our memory.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | accept | the listener | connections after their handshake | stopped, or nobody takes connections |
//! | handshake, one each | a TCP connection | the same with TLS, or a log line | done, or 5 s |

use futures_util::Stream;
use mesh_proto::frame::alpn;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

/// A handshake over a VPN takes two round trips; who needs longer holds a place that others want.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Handshakes at once. Each costs a signature, so more would only slow each other.
const HANDSHAKES: usize = 64;

/// The first pause after an accept that failed for want of descriptors or memory, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a request's extensions hold of the connection it came on.
#[derive(Clone)]
pub struct ConnectInfo {
    /// Addresses and certificates.
    pub tls: TlsConnectInfo<TcpConnectInfo>,
    /// Whether the peer's end of it was gone all of a sudden.
    pub peer_end: PeerEnd,
}

/// Whether the peer's end was gone without TLS's goodbye. The kernel of a process that dies ends its connections so, at once;
/// agents that live say goodbye, also to a connection that they give up, and in an outage of the network nothing of
/// either arrives.
#[derive(Debug, Clone, Default)]
pub struct PeerEnd(Arc<AtomicBool>);

impl PeerEnd {
    /// True from then on.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn look_at(&self, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Connections after their handshake. Dropping it ends the accepting and every unfinished handshake.
pub struct TlsIncoming {
    ready: mpsc::Receiver<TlsConnection>,
    stop: CancellationToken,
}

impl TlsIncoming {
    /// Starts to accept on `listener` until `stop`: at most `connections` at once, those without a client
    /// certificate for the time of `nameless` only.
    #[must_use]
    pub fn start(
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        connections: usize,
        nameless: Duration,
        stop: &CancellationToken,
    ) -> Self {
        Self::start_beside(None, listener, tls, connections, nameless, stop)
    }

    /// The same; connections that agreed on a protocol of the data plane go to `data` instead.
    #[must_use]
    pub fn start_beside(
        data: Option<mpsc::Sender<TlsConnection>>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        connections: usize,
        nameless: Duration,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let (sender, ready) = mpsc::channel(HANDSHAKES);
        let places = Arc::new(Semaphore::new(connections));
        let gate = Gate { acceptor: TlsAcceptor::from(tls), nameless, ready: sender, data };
        tokio::spawn(accept(listener, gate, places, stop.clone()));
        Self { ready, stop }
    }
}

impl Drop for TlsIncoming {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context).map(|connection| connection.map(Ok))
    }
}

/// A TLS connection that holds one of the plane's places as long as it lives.
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    peer_end: PeerEnd,
    /// When a peer that showed no certificate is cut off: it came to join and nothing else.
    deadline: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl TlsConnection {
    fn new(
        stream: TlsStream<TcpStream>,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
        nameless: Duration,
    ) -> Self {
        let has_name = stream.get_ref().1.peer_certificates().is_some();
        let deadline = (!has_name).then(|| Box::pin(tokio::time::sleep(nameless)));
        Self { stream, peer, peer_end: PeerEnd::default(), deadline, _place: place }
    }

    /// The address that dialled.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The certificate that the peer showed.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.stream.get_ref().1.peer_certificates()?.first().map(|leaf| leaf.clone().into_owned())
    }

    /// The protocol that the handshake agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    /// The connection below TLS.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        self.stream.get_ref().0
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        ConnectInfo { tls: self.stream.connect_info(), peer_end: self.peer_end.clone() }
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no certificate, and time is over",
            )));
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        Poll::Ready(read.inspect_err(|error| self.peer_end.look_at(error)))
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(written.inspect_err(|error| self.peer_end.look_at(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        Poll::Ready(written.inspect_err(|error| self.peer_end.look_at(error)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What every handshake needs.
#[derive(Clone)]
struct Gate {
    acceptor: TlsAcceptor,
    nameless: Duration,
    ready: mpsc::Sender<TlsConnection>,
    data: Option<mpsc::Sender<TlsConnection>>,
}

impl Gate {
    /// Hands a connection to whoever speaks its protocol. Nobody takes any more while the router stops.
    async fn pass(&self, connection: TlsConnection) {
        let for_data = matches!(connection.protocol(), Some(alpn::DATA_H2 | alpn::FILES_H2));
        match &self.data {
            Some(data) if for_data => drop(data.send(connection).await),
            Some(_) | None => drop(self.ready.send(connection).await),
        }
    }
}

async fn accept(listener: TcpListener, gate: Gate, places: Arc<Semaphore>, stop: CancellationToken) {
    let turns = Arc::new(Semaphore::new(HANDSHAKES));
    // Dropped at the end, which ends the handshakes.
    let mut handshakes = JoinSet::new();
    let mut pause = Duration::ZERO;
    loop {
        let admitted = async {
            tokio::time::sleep(pause).await;
            // Neither semaphore is ever closed.
            let place = places.clone().acquire_owned().await.ok()?;
            let turn = turns.clone().acquire_owned().await.ok()?;
            Some((place, turn, listener.accept().await))
        };
        let admitted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = handshakes.join_next() => continue,
            admitted = admitted => admitted,
        };
        let Some((place, turn, accepted)) = admitted else { return };
        match accepted {
            Ok((tcp, peer)) => {
                pause = Duration::ZERO;
                let gate = gate.clone();
                handshakes.spawn(async move {
                    if let Some(stream) = handshake(&gate.acceptor, tcp, peer).await {
                        drop(turn);
                        gate.pass(TlsConnection::new(stream, peer, place, gate.nameless)).await;
                    }
                });
            }
            Err(error) => {
                pause = pause_after(&error, pause);
                if pause == FIRST_PAUSE {
                    tracing::warn!(%error, "accepting connections fails; trying again with growing pauses");
                }
            }
        }
    }
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
    // Reports and directives are small and must not wait for each other's acknowledgement.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%peer, %error, "the connection broke before its handshake");
        return None;
    }
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            tracing::info!(target: "audit", %peer, %error, "a TLS handshake was refused");
            None
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "the connection broke during its handshake");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "no TLS handshake within {} s", HANDSHAKE_LIMIT.as_secs());
            None
        }
    }
}

/// How long to wait after an accept that failed. An error of one connection is none of ours; one of the whole
/// process (EMFILE, ENFILE, ENOMEM) lasts, and trying at once again would only burn a core.
fn pause_after(error: &io::Error, last: Duration) -> Duration {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        return Duration::ZERO;
    }
    (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_makes_pauses_grow_to_their_limit() {
        const EMFILE: i32 = 24;
        let error = io::Error::from_raw_os_error(EMFILE);
        let mut pauses = vec![pause_after(&error, Duration::ZERO)];
        for _ in 0..10 {
            pauses.push(pause_after(&error, *pauses.last().expect("not empty")));
        }
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
    }

    #[test]
    fn a_peer_that_hangs_up_in_the_queue_makes_no_pause() {
        let error = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(pause_after(&error, LONGEST_PAUSE), Duration::ZERO);
    }
}
