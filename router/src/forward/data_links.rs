//! What the router does with an agent's connection, whatever carries it: checks whose it is, keeps it among the
//! links while it stands, sends requests over it, and follows what the agent asks for.

use super::agent_links::{AgentAnswer, AgentLink, AgentLinks, LinkError};
use super::blobs::Blobs;
use crate::fleet_keeper::FleetHandle;
use crate::ledger::LedgerHandle;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use mesh_core::fleet::DataPath;
use mesh_core::id::MachineId;
use mesh_daemon::in_place::in_place;
use mesh_link::{Connection, Lost, Receiving, Sending, StreamError, h2_link};
use mesh_proto::frame::{
    BLOB_PRIORITY, FrameError, code, encode_head, read_agent_request, read_response_head,
};
use mesh_proto::identity::{Peer, Role};
use mesh_proto::v1::{BlobRequest, RequestHead, agent_request};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the key of a live link is looked up again.
const KEY_CHECK: Duration = Duration::from_secs(2);
/// The most bytes taken from a stream at once.
const CHUNK: usize = 64 * 1024;
/// How long an agent may take to say what it wants on a stream that it opened.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Opening a stream waits only while the agent's stream limit is reached.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// Head and body in one write up to this size: one datagram instead of two for small requests.
const ONE_WRITE: usize = 16 * 1024;

/// Why a link was ended whose agent has died.
const DIED: &str = "its agent has died";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Requests go out over it, by this path.
    Requests(DataPath),
    /// The agent fetches files over it and nothing else.
    Files,
}

/// What every new connection needs. Clones share it.
#[derive(Clone)]
pub struct Gate {
    /// Where it is kept.
    pub links: AgentLinks,
    /// Who is told of it.
    pub fleet: FleetHandle,
    /// Who knows the keys.
    pub ledger: LedgerHandle,
    /// What agents may fetch.
    pub blobs: Blobs,
}

impl Gate {
    /// The node that showed `leaf` in the handshake, if it is one of this mesh.
    ///
    /// # Errors
    /// Why it is none; that is logged too.
    pub async fn node_of(
        &self,
        leaf: Option<&CertificateDer<'static>>,
        from: SocketAddr,
    ) -> Result<Peer, String> {
        let checked = async {
            let leaf = leaf.ok_or("no certificate")?;
            let peer = Peer::from_der(leaf).map_err(|error| error.to_string())?;
            if peer.role != Role::Node {
                return Err(format!("a {} certificate may not attach as a node", peer.role));
            }
            if !self.ledger.node_key_matches(&peer.name, peer.key_sha256).await {
                return Err(format!("the name `{}` belongs to another key", peer.name));
            }
            Ok(peer)
        };
        checked.await.inspect_err(|reason: &String| {
            tracing::warn!(target: "audit", %from, reason, "data link refused");
        })
    }

    /// Keeps `connection` until it is lost, or until its node's name belongs to another key.
    pub async fn keep(&self, connection: Connection, way: Way, node: Peer, from: SocketAddr) {
        let kept = match way {
            Way::Files => None,
            Way::Requests(path) => {
                let link = Arc::new(DataLink { connection: connection.clone(), died: Arc::default() });
                let number = self.links.insert(node.name.clone(), link);
                self.fleet.linked(node.name.clone(), number, Some(path)).await;
                tracing::info!(node = %node.name, %from, path = path.word(), "data link up");
                Some(Kept { gate: self, node: &node.name, number })
            }
        };
        let lost = tokio::select! {
            lost = connection.closed() => lost,
            // Never sooner than the connection is lost.
            lost = heed(&connection, &node.name, &self.blobs) => lost,
            () = replaced_key(&node, &self.ledger) => {
                tracing::warn!(target: "audit", node = %node.name, %from, "data link cut: the name belongs to another key now");
                connection.close(code::CANCELLED, "the name belongs to another key now");
                Lost("closed".into())
            }
        };
        if let Some(kept) = kept {
            kept.forget(&lost).await;
        }
    }
}

/// A link's place among the links.
struct Kept<'a> {
    gate: &'a Gate,
    node: &'a MachineId,
    number: u64,
}

impl Kept<'_> {
    async fn forget(self, lost: &Lost) {
        let Self { gate, node, number } = self;
        if gate.links.remove(node, number) {
            gate.fleet.linked(node.clone(), number, None).await;
            tracing::warn!(%node, error = %lost, "data link lost");
        }
    }
}

/// Follows what the agent asks for, each on its own stream, until the connection is lost.
async fn heed(connection: &Connection, caller: &MachineId, blobs: &Blobs) -> Lost {
    // Dropped with the connection: what still runs is reset.
    let mut asked = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Ok((send, receive)) => {
                    let stream = RequestStream { send, receive, complete: false };
                    asked.spawn(fetch(stream, caller.clone(), blobs.clone()));
                }
                Err(lost) => return lost,
            },
            Some(_) = asked.join_next() => {}
        }
    }
}

/// Passes a file on from the machine that has it to the one that asks.
async fn fetch(mut stream: RequestStream, caller: MachineId, blobs: Blobs) {
    stream.send.set_priority(BLOB_PRIORITY);
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
        stream.send.write(encode_head(&head, b"")).await.ok()?;
        while let Some(chunk) = body.next().await {
            match chunk {
                // Waits when the caller is behind; then nothing more is read from the holder than its window.
                Ok(bytes) => stream.send.write(bytes).await.ok()?,
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
        () = stopped => None,
    };
    if passed.is_some() {
        stream.complete = true;
        stream.send.finish();
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

/// The way to one agent. Clones share it.
#[derive(Clone)]
struct DataLink {
    connection: Connection,
    /// It was ended because its agent has died.
    died: Arc<AtomicBool>,
}

impl AgentLink for DataLink {
    fn open(&self, head: RequestHead, body: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        let link = self.clone();
        in_place(|| exchange(link, head, body))
    }

    fn blob(&self, request: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        let head = RequestHead { blob: Some(request), ..RequestHead::default() };
        let link = self.clone();
        in_place(|| exchange(link, head, Bytes::new()))
    }

    fn round_trip(&self) -> Option<Duration> {
        self.connection.round_trip()
    }

    fn doubt(&self) -> BoxFuture<'static, bool> {
        let link = self.clone();
        Box::pin(async move {
            let silent = link.connection.is_silent().await;
            if silent {
                link.died.store(true, Ordering::Relaxed);
                link.connection.close(code::CANCELLED, DIED);
            }
            silent
        })
    }
}

impl DataLink {
    fn gone(&self, why: String) -> LinkError {
        let died = self.died.load(Ordering::Relaxed);
        LinkError::Gone(match why {
            _ if died => DIED.into(),
            // TCP tells at once what QUIC finds out by asking, but not who ended it.
            why if why == h2_link::CUT => format!("{DIED}, or the connection to it was cut"),
            why => why,
        })
    }

    fn broken(&self, error: StreamError) -> LinkError {
        match error {
            StreamError::Ended(code::SHUTDOWN) => LinkError::Shutdown,
            StreamError::Ended(code::BAD_FRAME) => {
                LinkError::BadFrame("it refused the request's frame".into())
            }
            StreamError::Ended(code::ENGINE_BROKE | code::CANCELLED) => LinkError::EngineBroke,
            StreamError::Ended(_) => LinkError::Gone("the stream was reset without a reason".into()),
            StreamError::Lost(why) => self.gone(why),
        }
    }

    fn read_failed(&self, error: &FrameError) -> LinkError {
        if let FrameError::Read(io) = error {
            if let Some(read) = io.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>()) {
                return self.broken(read.clone());
            }
            return self.gone(self.connection.lost().map_or_else(|| io.to_string(), |lost| lost.0));
        }
        LinkError::BadFrame(error.to_string())
    }
}

async fn exchange(link: DataLink, head: RequestHead, body: Bytes) -> Result<AgentAnswer, LinkError> {
    let (send, receive) = tokio::time::timeout(OPEN_LIMIT, link.connection.open())
        .await
        .map_err(|_| LinkError::Gone("no free stream within 2 s".into()))?
        .map_err(|lost| link.gone(lost.0))?;
    let mut stream = RequestStream { send, receive, complete: false };
    let (first, rest) = if body.len() <= ONE_WRITE {
        (encode_head(&head, &body), Bytes::new())
    } else {
        (encode_head(&head, &[]), body)
    };
    for part in [first, rest] {
        match stream.send.write(part).await {
            // The agent has refused without reading on; its answer says why.
            Ok(()) | Err(StreamError::Ended(_)) => {}
            Err(StreamError::Lost(why)) => return Err(link.gone(why)),
        }
    }
    stream.send.finish();
    let head = read_response_head(&mut stream.receive).await.map_err(|error| link.read_failed(&error))?;
    let body = stream::unfold(Some((stream, link)), |state| async move {
        let (mut stream, link) = state?;
        match stream.receive.chunk(CHUNK).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some((stream, link)))),
            Ok(None) => {
                stream.complete = true;
                None
            }
            Err(error) => Some((Err(link.broken(error)), None)),
        }
    });
    Ok(AgentAnswer { head, body: Box::pin(body) })
}

/// Resets both directions when dropped before the answer is complete: that is how the agent learns that the
/// client has left.
struct RequestStream {
    send: Sending,
    receive: Receiving,
    complete: bool,
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.complete {
            self.send.reset(code::CANCELLED);
            self.receive.stop(code::CANCELLED);
        }
    }
}
