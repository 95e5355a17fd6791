//! The node that shares a process with the router: the same reports, directives and requests as over the
//! network, by function calls.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | control | the agent's reports, a heartbeat each second | the fleet keeper; directives to the agent | the router has drained |

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use mesh_core::fleet::DataPath;
use mesh_core::id::MachineId;
use mesh_daemon::in_place::in_place;
use mesh_proto::v1::{BlobRequest, RequestHead};
use node_agent::app::Direct;
use node_agent::model_store::{PeerAnswer, PeerLink};
use node_agent::router_link::Reports;
use node_agent::serve::{self, Answer, BlobAnswer, Serve, answer};
use router::app::Router;
use router::fleet_keeper::Session;
use router::forward::agent_links::{AgentAnswer, AgentLink, LinkError};
use router::forward::blobs::Blobs;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// As often as an agent over the network.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The data path of a node in this process: one call, no copy.
struct InProcessLink {
    serve: Arc<Serve>,
}

impl AgentLink for InProcessLink {
    fn open(&self, head: RequestHead, body: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        let serve = self.serve.clone();
        in_place(|| async move {
            let Answer { head, body } = answer(&serve, head, body).await;
            let body = body.map(|chunk| chunk.map_err(|_| LinkError::EngineBroke)).boxed();
            Ok(AgentAnswer { head, body })
        })
    }

    fn blob(&self, request: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        let serve = self.serve.clone();
        async move {
            let BlobAnswer { head, body } = serve::blob(&serve, &request).await;
            let body = body.map(|piece| piece.map_err(|_| LinkError::EngineBroke)).boxed();
            Ok(AgentAnswer { head, body })
        }
        .boxed()
    }
}

/// Files of other machines for the node in this process.
struct FilesOfTheMesh {
    blobs: Blobs,
    name: MachineId,
}

impl PeerLink for FilesOfTheMesh {
    fn fetch(&self, request: BlobRequest) -> BoxFuture<'static, Result<PeerAnswer, String>> {
        let (blobs, name) = (self.blobs.clone(), self.name.clone());
        async move {
            let AgentAnswer { head, body } = blobs.open(&name, request).await;
            let body = body.map(|piece| piece.map_err(|error| error.to_string())).boxed();
            Ok(PeerAnswer { head, body })
        }
        .boxed()
    }
}

/// Makes the agent a node of the router in the same process, until `stop`.
pub async fn attach(
    router: &Router,
    name: MachineId,
    serve: Arc<Serve>,
    direct: Direct,
    reports: Reports,
    stop: CancellationToken,
) {
    if let Some(store) = serve.store() {
        let files = FilesOfTheMesh { blobs: router.blobs.clone(), name: name.clone() };
        store.peers().set(Some(Arc::new(files)));
    }
    let link = router.links.insert(name.clone(), Arc::new(InProcessLink { serve }));
    router.fleet.linked(name.clone(), link, Some(DataPath::InProcess)).await;
    let boot_id = format!("{:016x}", rand::random::<u64>());
    if let Some(session) = router.fleet.attach(name.clone(), boot_id).await {
        tokio::spawn(control(session, name, direct, reports, stop));
    }
}

async fn control(
    mut session: Session,
    name: MachineId,
    direct: Direct,
    mut reports: Reports,
    stop: CancellationToken,
) {
    let mut told = reports.now();
    session.report(told.clone()).await;
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => session.heartbeat().await,
            () = reports.changed() => {
                let now = reports.now();
                if let Some(delta) = now.changes_since(&told) {
                    session.report(delta).await;
                    told = now;
                }
            }
            directive = session.directives.recv() => match directive {
                Some(directive) => direct(directive),
                None => return,
            },
            () = session.replaced.cancelled() => {
                tracing::error!(%name, "another machine has taken this node's name; rename one of them in agent.toml");
                return;
            }
        }
    }
}
