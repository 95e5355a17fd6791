//! The data plane's listener: agents dial in by QUIC with their certificates, and each request becomes one
//! bidirectional stream that the router opens. An agent opens streams only to fetch model files.

use super::agent_links::{AgentAnswer, AgentLink, AgentLinks, LinkError};
use super::blobs::Blobs;
use crate::fleet_keeper::FleetHandle;
use crate::ledger::LedgerHandle;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use mesh_core::fleet::DataPath;
use mesh_core::id::MachineId;
use mesh_proto::frame::{
    AGENT_STREAMS, BLOB_PRIORITY, code, encode_head, read_agent_request, read_response_head,
};
use mesh_proto::identity::{Peer, Role};
use mesh_proto::v1::{BlobRequest, RequestHead, agent_request};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, VarInt};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Handshakes that may run at once; more wait in the socket.
const HANDSHAKES: usize = 64;
/// How often the key of a live link is looked up again.
const KEY_CHECK: Duration = Duration::from_secs(2);
/// The most bytes taken from a stream at once.
const CHUNK: usize = 64 * 1024;
/// How long an agent may take to say what it wants on a stream that it opened.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Opening a stream waits only while the agent's stream limit is reached.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// Transport settings of the data plane, the same numbers as on the agent's side.
fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        // Agents open streams for model files only.
        .max_concurrent_bidi_streams(AGENT_STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .keep_alive_interval(Some(Duration::from_secs(1)))
        .max_idle_timeout(Some(VarInt::from_u32(4_000).into()))
        // Token streams never fill CUBIC's window, so each loss shrinks it for good: p99 of a chunk was 2-3
        // times worse than one TCP tunnel. BBR does not shrink.
        .congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()))
        .initial_mtu(1200)
        .stream_receive_window(VarInt::from_u32(1 << 20))
        .receive_window(VarInt::from_u32(16 << 20));
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    // A tailnet's interface has an MTU of 1280: 1232 is what is left after IPv6 and UDP headers.
    discovery.upper_bound(1232);
    transport.mtu_discovery_config(Some(discovery));
    transport
}

/// Starts an endpoint on a bound socket.
///
/// # Errors
/// When the TLS configuration lacks what QUIC needs, or the socket cannot be used.
pub fn endpoint(socket: UdpSocket, tls: rustls::ServerConfig) -> anyhow::Result<Endpoint> {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(transport()));
    let runtime = quinn::default_runtime().ok_or_else(|| anyhow::anyhow!("no async runtime"))?;
    Ok(Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, runtime)?)
}

/// Accepts agents until `stop`, and keeps [`AgentLinks`] and the fleet's data paths true.
pub async fn serve(
    endpoint: Endpoint,
    links: AgentLinks,
    fleet: FleetHandle,
    ledger: LedgerHandle,
    blobs: Blobs,
    stop: CancellationToken,
) {
    let permits = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let (links, fleet, ledger, blobs) = (links.clone(), fleet.clone(), ledger.clone(), blobs.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let accepted = tokio::time::timeout(Duration::from_secs(5), async { incoming.await }).await;
            drop(permit);
            match accepted {
                Ok(Ok(connection)) => keep(connection, links, fleet, ledger, blobs).await,
                Ok(Err(error)) => tracing::debug!(%from, %error, "QUIC handshake failed"),
                Err(_) => tracing::debug!(%from, "QUIC handshake took over 5 s"),
            }
        });
    }
    endpoint.close(code::SHUTDOWN.into(), b"router stops");
    endpoint.wait_idle().await;
}

async fn keep(
    connection: Connection,
    links: AgentLinks,
    fleet: FleetHandle,
    ledger: LedgerHandle,
    blobs: Blobs,
) {
    let from = connection.remote_address();
    let node = match node_of(&connection, &ledger).await {
        Ok(node) => node,
        Err(reason) => {
            tracing::warn!(target: "audit", %from, reason, "data link refused");
            connection.close(code::BAD_FRAME.into(), reason.as_bytes());
            return;
        }
    };
    let link = Arc::new(QuicLink { connection: connection.clone() });
    let number = links.insert(node.name.clone(), link);
    fleet.linked(node.name.clone(), number, Some(DataPath::Quic)).await;
    tracing::info!(node = %node.name, %from, "data link up");
    let error = tokio::select! {
        error = connection.closed() => error,
        // Never sooner than the connection is lost.
        error = heed(&connection, &node.name, &blobs) => error,
        () = replaced_key(&node, &ledger) => {
            tracing::warn!(target: "audit", node = %node.name, %from, "data link cut: the name belongs to another key now");
            connection.close(code::CANCELLED.into(), b"the name belongs to another key now");
            ConnectionError::LocallyClosed
        }
    };
    if links.remove(&node.name, number) {
        fleet.linked(node.name.clone(), number, None).await;
        tracing::warn!(node = %node.name, %error, "data link lost");
    }
}

/// Follows what the agent asks for, each on its own stream, until the connection is lost.
async fn heed(connection: &Connection, caller: &MachineId, blobs: &Blobs) -> ConnectionError {
    // Dropped with the connection: what still runs is reset.
    let mut asked = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok((send, receive)) => {
                    let stream = RequestStream { send, receive, complete: false };
                    asked.spawn(fetch(stream, caller.clone(), blobs.clone()));
                }
                Err(error) => return error,
            },
            Some(_) = asked.join_next() => {}
        }
    }
}

/// Passes a file on from the machine that has it to the one that asks.
async fn fetch(mut stream: RequestStream, caller: MachineId, blobs: Blobs) {
    // Fails only on a stream that has ended.
    drop(stream.send.set_priority(BLOB_PRIORITY));
    let asked = tokio::time::timeout(ASK_LIMIT, read_agent_request(&mut stream.receive)).await;
    let request = match asked {
        Ok(Ok(request)) => request,
        // The stream is reset as it is dropped.
        Ok(Err(error)) => return tracing::debug!(node = %caller, %error, "nothing was asked"),
        Err(_) => return tracing::debug!(node = %caller, "nothing was asked in time"),
    };
    let Some(agent_request::Kind::Blob(wanted)) = request.kind else {
        return tracing::debug!(node = %caller, "asked for what this router does not know");
    };
    let stopped = stream.send.stopped();
    let passing = async {
        let AgentAnswer { head, mut body } = blobs.open(&caller, wanted).await;
        stream.send.write_chunk(encode_head(&head, b"")).await.ok()?;
        while let Some(chunk) = body.next().await {
            match chunk {
                // Waits when the caller is behind; then nothing more is read from the holder than its window.
                Ok(bytes) => stream.send.write_chunk(bytes).await.ok()?,
                Err(error) => {
                    tracing::debug!(node = %caller, %error, "a file on its way broke off");
                    return None;
                }
            }
        }
        Some(())
    };
    let passed = tokio::select! {
        passed = passing => passed,
        // The caller wants no more, or is gone: what it does not take must not wait for it.
        _ = stopped => None,
    };
    if passed.is_some() {
        stream.complete = true;
        // Fails when the caller stopped the stream, and then it does not matter to anyone.
        drop(stream.send.finish());
    }
}

/// Completes when the node's name has been given to another key: a stolen machine is cut off within this.
async fn replaced_key(node: &Peer, ledger: &LedgerHandle) {
    let mut tick = tokio::time::interval(KEY_CHECK);
    loop {
        tick.tick().await;
        if !ledger.node_key_matches(&node.name, node.key_sha256).await {
            return;
        }
    }
}

async fn node_of(connection: &Connection, ledger: &LedgerHandle) -> Result<Peer, String> {
    let identity = connection.peer_identity().ok_or("no certificate")?;
    let chain = identity
        .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
        .map_err(|_| "no certificate chain")?;
    let leaf = chain.first().ok_or("an empty certificate chain")?;
    let peer = Peer::from_der(leaf).map_err(|error| error.to_string())?;
    if peer.role != Role::Node {
        return Err(format!("a {} certificate may not attach as a node", peer.role));
    }
    if !ledger.node_key_matches(&peer.name, peer.key_sha256).await {
        return Err(format!("the name `{}` belongs to another key", peer.name));
    }
    Ok(peer)
}

struct QuicLink {
    connection: Connection,
}

impl AgentLink for QuicLink {
    fn open(&self, head: RequestHead, body: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        Box::pin(exchange(self.connection.clone(), head, body))
    }

    fn blob(&self, request: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        let head = RequestHead { blob: Some(request), ..RequestHead::default() };
        Box::pin(exchange(self.connection.clone(), head, Bytes::new()))
    }

    fn round_trip(&self) -> Option<Duration> {
        Some(self.connection.rtt())
    }
}

/// Head and body in one write up to this size: one datagram instead of two for small requests.
const ONE_WRITE: usize = 16 * 1024;

async fn exchange(connection: Connection, head: RequestHead, body: Bytes) -> Result<AgentAnswer, LinkError> {
    let (send, receive) = tokio::time::timeout(OPEN_LIMIT, connection.open_bi())
        .await
        .map_err(|_| LinkError::Gone("no free stream within 2 s".into()))?
        .map_err(|error| gone(&error))?;
    let mut stream = RequestStream { send, receive, complete: false };
    let (first, rest) = if body.len() <= ONE_WRITE {
        (encode_head(&head, &body), Bytes::new())
    } else {
        (encode_head(&head, &[]), body)
    };
    for part in [first, rest] {
        match stream.send.write_chunk(part).await {
            // The agent has refused without reading on; its answer says why.
            Ok(()) | Err(quinn::WriteError::Stopped(_)) => {}
            Err(error) => return Err(LinkError::Gone(error.to_string())),
        }
    }
    // Fails only when the agent stopped the stream, and then its answer says why.
    drop(stream.send.finish());
    let head =
        read_response_head(&mut stream.receive).await.map_err(|error| read_failed(&connection, &error))?;
    let body = stream::unfold(Some(stream), |state| async move {
        let mut stream = state?;
        match stream.receive.read_chunk(CHUNK, true).await {
            Ok(Some(chunk)) => Some((Ok(chunk.bytes), Some(stream))),
            Ok(None) => {
                stream.complete = true;
                None
            }
            Err(error) => Some((Err(broken(&error)), None)),
        }
    });
    Ok(AgentAnswer { head, body: Box::pin(body) })
}

/// Resets both directions when dropped before the answer is complete: that is how the agent learns that the
/// client has left.
struct RequestStream {
    send: SendStream,
    receive: RecvStream,
    complete: bool,
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.complete {
            // Both fail only on streams that have ended anyway.
            drop(self.send.reset(code::CANCELLED.into()));
            drop(self.receive.stop(code::CANCELLED.into()));
        }
    }
}

fn gone(error: &ConnectionError) -> LinkError {
    LinkError::Gone(error.to_string())
}

fn broken(error: &ReadError) -> LinkError {
    if let ReadError::Reset(reason) = error {
        return match u32::try_from(reason.into_inner()) {
            Ok(code::SHUTDOWN) => LinkError::Shutdown,
            Ok(code::BAD_FRAME) => LinkError::BadFrame("it refused the request's frame".into()),
            _ => LinkError::EngineBroke,
        };
    }
    LinkError::Gone(error.to_string())
}

fn read_failed(connection: &Connection, error: &mesh_proto::frame::FrameError) -> LinkError {
    if let mesh_proto::frame::FrameError::Read(io) = error {
        if let Some(read) = io.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>()) {
            return broken(read);
        }
        return match connection.close_reason() {
            Some(reason) => gone(&reason),
            None => LinkError::Gone(io.to_string()),
        };
    }
    LinkError::BadFrame(error.to_string())
}
