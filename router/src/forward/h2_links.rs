//! The data plane's listener for HTTP/2 over TLS, for agents that no UDP reaches. They dial the port of their
//! control link; the protocol that the TLS handshake agreed on tells the two apart.
//!
//! Over a data connection the router is the HTTP/2 client, because it sends the requests. A file has a connection of
//! its own, on which the agent asks: so its bytes hold up no tokens.

use super::data_links::{Gate, Way};
use crate::grpc::tls_incoming::TlsConnection;
use mesh_core::fleet::DataPath;
use mesh_link::{Connection, h2_link, tcp};
use mesh_proto::frame::{AGENT_STREAMS, alpn};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that wait for their greeting: as many as the handshakes before.
const WAITING: usize = 64;

/// Where the port that agents dial hands over what is not gRPC.
#[must_use]
pub fn door() -> (mpsc::Sender<TlsConnection>, mpsc::Receiver<TlsConnection>) {
    mpsc::channel(WAITING)
}

/// Serves connections after their TLS handshake until `stop`.
pub async fn serve(mut incoming: mpsc::Receiver<TlsConnection>, gate: Gate, stop: CancellationToken) {
    let kept = TaskTracker::new();
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => break,
            connection = incoming.recv() => connection,
        };
        let Some(connection) = connection else { break };
        kept.spawn(keep(connection, gate.clone(), stop.clone()));
    }
    kept.close();
    kept.wait().await;
}

async fn keep(stream: TlsConnection, gate: Gate, stop: CancellationToken) {
    let from = stream.peer();
    // Who it may not be learns no more than that the connection ends; its control link says why.
    let Ok(node) = gate.node_of(stream.certificate().as_ref(), from).await else { return };
    if let Err(error) = tcp::prepare(stream.tcp()) {
        return tracing::debug!(%from, %error, "a data connection broke as it began");
    }
    let for_files = stream.protocol() == Some(alpn::FILES_H2);
    let greeted = if for_files {
        h2_link::accepting(stream, AGENT_STREAMS).await
    } else {
        h2_link::opening(stream).await
    };
    let connection = match greeted {
        Ok(connection) => Connection::H2(connection),
        Err(error) => return tracing::debug!(%from, %error, "no HTTP/2 on a data connection"),
    };
    let way = if for_files { Way::Files } else { Way::Requests(DataPath::H2) };
    let goodbye = connection.clone();
    tokio::select! {
        () = gate.keep(connection, way, node, from) => {}
        () = stop.cancelled() => {
            goodbye.close(mesh_proto::frame::code::SHUTDOWN, "router stops");
            goodbye.goodbye().await;
        }
    }
}
