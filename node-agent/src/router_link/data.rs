//! The data link: one QUIC connection to the router, one bidirectional stream for each request.
//!
//! ```text
//! router ──► head, body ──► serve ──► engine
//!        ◄── head + first bytes, chunks as they come, FIN
//! ```
//! A stream may also want bytes of a model file; and the agent opens a few itself, for files that other machines
//! have. Files go after requests in everything: in the packets, and in how many may be under way.
//!
//! FIN means complete and nothing else does: whatever ends a reply early resets its stream. The router's
//! STOP_SENDING or RESET, or the loss of the connection, cancels the engine at once.

use super::{Backoff, Identity, Reachability, STOOD, dice};
use crate::metrics::{Link, Metrics};
use crate::model_store::{PeerAnswer, PeerLink};
use crate::serve::{self, Answer, BlobAnswer, EngineBroke, Serve};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use mesh_proto::frame::{self, alpn, code};
use mesh_proto::identity::{Credentials, tls};
use mesh_proto::v1::{AgentRequest, BlobRequest, RequestHead, agent_request, response_head};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, Endpoint, IdleTimeout, MtuDiscoveryConfig, RecvStream, SendStream,
    TransportConfig, VarInt,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Requests that a router may have open at once on this machine.
const STREAMS: u32 = 1024;

/// Dead after four missed answers; the control link is as quick.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const IDLE_LIMIT: Duration = Duration::from_secs(4);

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// QUIC's smallest packet: passes everywhere.
const FIRST_MTU: u16 = 1200;

/// What fits into a packet of a VPN whose interface has an MTU of 1280, with IPv6 inside: 1280 − 40 − 8.
const LARGEST_MTU: u16 = 1232;

/// A router that announces a request and then sends nothing is not worth a buffer.
const REQUEST_STALL: Duration = Duration::from_secs(30);

/// Bodies of all requests together, in KiB: room for two of the largest. More wait for their turn.
const BODIES_KIB: u32 = 512 * 1024;

/// How long a head waits for the first bytes of its body, to leave in one packet with them. A short answer
/// has both at once; a long one has nothing to show before its first token anyway.
const FIRST_BYTES: Duration = Duration::from_millis(5);

/// Chunks that are there already are sent as one write up to this size; never is one waited for.
const COALESCE: usize = 16 * 1024;

/// The most bytes of a file taken from its stream at once.
const FILE_CHUNK: usize = 64 * 1024;

/// How long the goodbye may take to leave the machine.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What the data link needs.
pub struct DataLink {
    /// The router, `host:port`.
    pub router: String,
    /// Who we are.
    pub identity: Identity,
    /// Who answers.
    pub serve: Arc<Serve>,
    /// What we count.
    pub metrics: Metrics,
    /// Whether the control link stands: while it does not, it is the one that says so.
    pub control_up: watch::Receiver<bool>,
}

impl DataLink {
    /// Keeps a connection to the router until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (mut backoff, mut router_is) = (Backoff::default(), Reachability::new("the data link"));
        loop {
            // An ended certificate is the control link's to complain about.
            if let Ok(credentials) = self.identity.valid(SystemTime::now()) {
                let ended = self.session(&credentials, &mut backoff, &mut router_is, &stop).await;
                self.metrics.link(Link::Data, false);
                match ended {
                    Ended::Stopped => return,
                    // Either it is back in a moment, or the next dial tells what is wrong.
                    Ended::Lost(cause) => {
                        tracing::debug!(router = self.router, "the data link is lost: {cause}")
                    }
                    Ended::NoAnswer(cause) if *self.control_up.borrow() => {
                        router_is.lost(&self.router, &format!("{cause}; does UDP pass to the router?"));
                    }
                    Ended::NoAnswer(cause) => tracing::debug!(router = self.router, "no data link: {cause}"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(backoff.pause(dice())) => {}
            }
        }
    }

    /// One connection, from its handshake to its end.
    async fn session(
        &self,
        credentials: &Credentials,
        backoff: &mut Backoff,
        router_is: &mut Reachability,
        stop: &CancellationToken,
    ) -> Ended {
        let dialled = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            dialled = dial(&self.router, credentials) => dialled,
        };
        let (endpoint, connection) = match dialled {
            Ok(link) => link,
            Err(cause) => return Ended::NoAnswer(cause),
        };
        let since = tokio::time::Instant::now();
        router_is.back(&self.router);
        self.metrics.link(Link::Data, true);
        if let Some(store) = self.serve.store() {
            store.peers().set(Some(Arc::new(FilesByRouter { connection: connection.clone() })));
        }
        let ended = self.accept(&connection, stop).await;
        if let Some(store) = self.serve.store() {
            store.peers().set(None);
        }
        if since.elapsed() >= STOOD {
            backoff.reset();
        }
        connection.close(VarInt::from_u32(code::SHUTDOWN), b"the agent stops");
        drop(timeout(CLOSE_LIMIT, endpoint.wait_idle()).await);
        ended
    }

    async fn accept(&self, connection: &Connection, stop: &CancellationToken) -> Ended {
        let (requests, bodies) = (TaskTracker::new(), Arc::new(Semaphore::new(BODIES_KIB as usize)));
        let cut = stop.child_token();
        let ended = loop {
            let (send, recv) = tokio::select! {
                () = stop.cancelled() => break Ended::Stopped,
                accepted = connection.accept_bi() => match accepted {
                    Ok(streams) => streams,
                    Err(error) => break Ended::Lost(error.to_string()),
                },
            };
            let exchange = Exchange {
                serve: self.serve.clone(),
                bodies: bodies.clone(),
                reply: Reply { send, finished: false, code: code::ENGINE_BROKE },
                recv,
                cut: cut.clone(),
            };
            requests.spawn(exchange.run());
        };
        cut.cancel();
        requests.close();
        // Each ends at once now, but its reset must be queued before the connection is closed.
        requests.wait().await;
        ended
    }
}

/// How a connection ended, or why there was none.
enum Ended {
    Stopped,
    Lost(String),
    NoAnswer(String),
}

/// Dials every address that the router's name has, in turn.
async fn dial(router: &str, credentials: &Credentials) -> Result<(Endpoint, Connection), String> {
    let config = client_config(credentials)?;
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(router)
        .await
        .map_err(|error| format!("cannot find {router}: {error}"))?
        .collect();
    let mut last = format!("{router} has no address");
    for address in addresses {
        match dial_one(address, &config).await {
            Ok(link) => return Ok(link),
            Err(error) => last = format!("{address} (UDP): {error}"),
        }
    }
    Err(last)
}

async fn dial_one(address: SocketAddr, config: &ClientConfig) -> Result<(Endpoint, Connection), String> {
    // The wildcard address lets the connection follow the machine from one network to the next.
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let endpoint = Endpoint::client(SocketAddr::new(any, 0)).map_err(|error| error.to_string())?;
    let connecting = endpoint
        .connect_with(config.clone(), address, tls::ROUTER_NAME)
        .map_err(|error| error.to_string())?;
    // The idle limit of the transport bounds the handshake too.
    let connection = connecting.await.map_err(|error| error.to_string())?;
    Ok((endpoint, connection))
}

fn client_config(credentials: &Credentials) -> Result<ClientConfig, String> {
    let tls = tls::client(credentials, alpn::DATA).map_err(|error| error.to_string())?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut path = MtuDiscoveryConfig::default();
    path.upper_bound(LARGEST_MTU);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_LIMIT.as_millis() as u32))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .initial_mtu(FIRST_MTU)
        .mtu_discovery_config(Some(path))
        // CUBIC shrinks its window with every loss and cannot grow it back while a stream of tokens leaves
        // most of it unused; BBR does not, which measured three times better under loss.
        .congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    transport
}

/// The sending half of a request's stream. quinn ends a stream cleanly when it is dropped; here a reply that
/// was not finished on purpose is reset, whatever the way out, because FIN means complete.
struct Reply {
    send: SendStream,
    finished: bool,
    /// With which code, if it is not finished.
    code: u32,
}

impl Reply {
    fn finish(mut self) {
        self.finished = true;
        // Fails when the router stopped the stream in the meantime: then it does not matter to anyone.
        drop(self.send.finish());
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.finished {
            drop(self.send.reset(VarInt::from_u32(self.code)));
        }
    }
}

/// One request on its stream.
struct Exchange {
    serve: Arc<Serve>,
    bodies: Arc<Semaphore>,
    reply: Reply,
    recv: RecvStream,
    /// The connection is going down.
    cut: CancellationToken,
}

/// Why a request ended early.
enum Early {
    /// The router sent nothing useful: its mistake.
    BadFrame(String),
    /// The router wants no answer, or the connection is lost.
    Withdrawn,
    /// The connection is going down with the agent.
    Cut,
    /// The engine broke off; logged where it was noticed.
    Broke,
}

impl Exchange {
    async fn run(self) {
        let Self { serve, bodies, mut reply, mut recv, cut } = self;
        let stopped = reply.send.stopped();
        let exchange = async {
            let head = read_head(&mut recv).await?;
            if let Some(wanted) = &head.blob {
                return tokio::select! {
                    lent = lend(&serve, wanted, &mut reply.send) => lent,
                    early = tail(&mut recv) => Err(early),
                };
            }
            let request = read(&serve, &bodies, head, &mut reply, &mut recv).await?;
            let Some(request) = request else { return Ok(()) };
            tokio::select! {
                answered = pass_on(&serve, request, &mut reply.send) => answered,
                early = tail(&mut recv) => Err(early),
            }
        };
        let ended = tokio::select! {
            ended = exchange => ended,
            _ = stopped => Err(Early::Withdrawn),
            () = cut.cancelled() => Err(Early::Cut),
        };
        match ended {
            Ok(()) => reply.finish(),
            Err(Early::Broke) => reply.code = code::ENGINE_BROKE,
            Err(Early::Withdrawn) => reply.code = code::CANCELLED,
            Err(Early::Cut) => reply.code = code::SHUTDOWN,
            Err(Early::BadFrame(cause)) => {
                tracing::warn!("a request of the router broke the rules: {cause}");
                reply.code = code::BAD_FRAME;
                // Fails when the stream is over already.
                drop(recv.stop(VarInt::from_u32(code::BAD_FRAME)));
            }
        }
    }
}

struct Request {
    head: RequestHead,
    body: Bytes,
    /// Given back when the body has been handed to the engine.
    room: OwnedSemaphorePermit,
}

async fn read_head(recv: &mut RecvStream) -> Result<RequestHead, Early> {
    timeout(REQUEST_STALL, frame::read_request_head(recv))
        .await
        .map_err(|_| Early::BadFrame("its head did not come".into()))?
        .map_err(|error| match error {
            // The stream was reset, or the connection lost.
            frame::FrameError::Read(_) => Early::Withdrawn,
            frame::FrameError::TooLong(_) | frame::FrameError::Decode(_) => {
                Early::BadFrame(error.to_string())
            }
        })
}

/// The whole request; `None` when it was refused by its head alone.
async fn read(
    serve: &Serve,
    bodies: &Arc<Semaphore>,
    head: RequestHead,
    reply: &mut Reply,
    recv: &mut RecvStream,
) -> Result<Option<Request>, Early> {
    if head.body_length > frame::BODY_LIMIT {
        let message =
            format!("a body of {} bytes is over the limit of {}", head.body_length, frame::BODY_LIMIT);
        let refusal = serve::refuse(serve, "bad_request", message);
        write(&mut reply.send, frame::encode_head(&refusal, b"")).await?;
        drop(recv.stop(VarInt::from_u32(code::BAD_FRAME)));
        return Ok(None);
    }
    let kib = u32::try_from(head.body_length / 1024 + 1).unwrap_or(BODIES_KIB);
    let room = bodies.clone().acquire_many_owned(kib).await.map_err(|_| Early::Cut)?;
    let body = read_body(recv, head.body_length).await?;
    Ok(Some(Request { head, body, room }))
}

async fn read_body(recv: &mut RecvStream, length: u64) -> Result<Bytes, Early> {
    let length = usize::try_from(length).map_err(|_| Early::BadFrame("its body does not fit".into()))?;
    let mut first = Bytes::new();
    let mut body = BytesMut::new();
    while first.len() + body.len() < length {
        let missing = length - first.len() - body.len();
        let chunk = timeout(REQUEST_STALL, recv.read_chunk(missing, true))
            .await
            .map_err(|_| Early::BadFrame("its body did not come".into()))?
            .map_err(|_| Early::Withdrawn)?
            .ok_or_else(|| Early::BadFrame(format!("its body ended {missing} bytes early")))?;
        // A body in one piece is passed on as it is.
        if first.is_empty() && body.is_empty() {
            first = chunk.bytes;
        } else {
            if body.is_empty() {
                body.reserve(length.min(STREAM_WINDOW as usize));
                body.extend_from_slice(&std::mem::take(&mut first));
            }
            body.extend_from_slice(&chunk.bytes);
        }
    }
    Ok(if body.is_empty() { first } else { body.freeze() })
}

/// Completes only when something other than the request's clean end follows its body.
async fn tail(recv: &mut RecvStream) -> Early {
    match recv.read_chunk(1, true).await {
        Ok(None) => std::future::pending().await,
        Ok(Some(_)) => Early::BadFrame("bytes follow its body".into()),
        Err(_) => Early::Withdrawn,
    }
}

async fn pass_on(serve: &Arc<Serve>, request: Request, send: &mut SendStream) -> Result<(), Early> {
    let Request { head, body, room } = request;
    let Answer { head, mut body } = serve::answer(serve, head, body).await;
    drop(room);
    let has_body = matches!(head.outcome, Some(response_head::Outcome::Answer(_)));
    let first = if has_body { timeout(FIRST_BYTES, body.next()).await.ok() } else { Some(None) };
    match first {
        Some(Some(Ok(bytes))) => write(send, frame::encode_head(&head, &bytes)).await?,
        // Without a head the router cannot mistake it for the beginning of an answer.
        Some(Some(Err(EngineBroke { .. }))) => return Err(Early::Broke),
        Some(None) => return write(send, frame::encode_head(&head, b"")).await,
        None => write(send, frame::encode_head(&head, b"")).await?,
    }
    while let Some(chunk) = body.next().await {
        let mut bytes = chunk.map_err(|EngineBroke { .. }| Early::Broke)?;
        // The outer loop meets the body's end again, but not an error.
        let mut more = None;
        while bytes.len() < COALESCE {
            match body.next().now_or_never() {
                Some(Some(Ok(next))) => bytes = joined(bytes, &next),
                other => {
                    more = other.flatten();
                    break;
                }
            }
        }
        write(send, bytes).await?;
        if let Some(Err(EngineBroke { .. })) = more {
            return Err(Early::Broke);
        }
    }
    Ok(())
}

/// Sends bytes of a model file, after everything that requests have to send.
async fn lend(serve: &Serve, wanted: &BlobRequest, send: &mut SendStream) -> Result<(), Early> {
    // Fails only on a stream that has ended.
    drop(send.set_priority(frame::BLOB_PRIORITY));
    let BlobAnswer { head, mut body } = serve::blob(serve, wanted).await;
    write(send, frame::encode_head(&head, b"")).await?;
    while let Some(piece) = body.next().await {
        let bytes = piece.map_err(|error| {
            tracing::warn!("a model file that is lent cannot be read on: {error}");
            Early::Broke
        })?;
        write(send, bytes).await?;
    }
    Ok(())
}

/// Asks the router for files, on streams that the agent opens.
struct FilesByRouter {
    connection: Connection,
}

impl PeerLink for FilesByRouter {
    fn fetch(&self, request: BlobRequest) -> BoxFuture<'static, Result<PeerAnswer, String>> {
        fetch(self.connection.clone(), request).boxed()
    }
}

async fn fetch(connection: Connection, request: BlobRequest) -> Result<PeerAnswer, String> {
    let (send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let mut stream = FileStream { send, recv, complete: false };
    let request = AgentRequest { kind: Some(agent_request::Kind::Blob(request)) };
    let asked = stream.send.write_chunk(frame::encode_head(&request, b"")).await;
    asked.map_err(|error| error.to_string())?;
    // Fails when the router stopped the stream, and then its answer says why.
    drop(stream.send.finish());
    let head = frame::read_response_head(&mut stream.recv).await.map_err(|error| error.to_string())?;
    let body = futures_util::stream::unfold(Some(stream), |stream| async move {
        let mut stream = stream?;
        match stream.recv.read_chunk(FILE_CHUNK, true).await {
            Ok(Some(chunk)) => Some((Ok(chunk.bytes), Some(stream))),
            Ok(None) => {
                stream.complete = true;
                None
            }
            Err(error) => Some((Err(format!("the other machine broke off: {error}")), None)),
        }
    });
    Ok(PeerAnswer { head, body: body.boxed() })
}

/// Resets both directions when dropped before the file is complete, so that the machine that sends it stops.
struct FileStream {
    send: SendStream,
    recv: RecvStream,
    complete: bool,
}

impl Drop for FileStream {
    fn drop(&mut self) {
        if !self.complete {
            // Both fail only on streams that have ended anyway.
            drop(self.send.reset(VarInt::from_u32(code::CANCELLED)));
            drop(self.recv.stop(VarInt::from_u32(code::CANCELLED)));
        }
    }
}

fn joined(first: Bytes, second: &[u8]) -> Bytes {
    let mut both = first.try_into_mut().unwrap_or_else(|first| BytesMut::from(first.as_ref()));
    both.extend_from_slice(second);
    both.freeze()
}

async fn write(send: &mut SendStream, bytes: Bytes) -> Result<(), Early> {
    send.write_chunk(bytes).await.map_err(|_| Early::Withdrawn)
}
