//! The data plane's listener for QUIC: agents dial in with their certificates, and each request becomes one
//! bidirectional stream that the router opens. An agent opens streams only to fetch model files.

use super::data_links::{Gate, Way};
use mesh_core::fleet::DataPath;
use mesh_link::{Connection, Duplication, quic};
use mesh_proto::frame::{AGENT_STREAMS, code};
use quinn::Endpoint;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::CertificateDer;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Handshakes that may run at once; more wait in the socket.
const HANDSHAKES: usize = 64;

/// Starts an endpoint on a bound socket.
///
/// # Errors
/// When the TLS configuration lacks what QUIC needs, or the socket cannot be used.
pub fn endpoint(socket: UdpSocket, tls: rustls::ServerConfig) -> anyhow::Result<(Endpoint, Duplication)> {
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(quic::transport(AGENT_STREAMS)));
    Ok(quic::endpoint(socket, Some(server))?)
}

/// Accepts agents until `stop`, and keeps the links and the fleet's data paths true.
pub async fn serve((endpoint, duplication): (Endpoint, Duplication), gate: Gate, stop: CancellationToken) {
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
        let (gate, duplication) = (gate.clone(), duplication.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let accepted = tokio::time::timeout(Duration::from_secs(5), async { incoming.await }).await;
            drop(permit);
            match accepted {
                Ok(Ok(connection)) => {
                    let leaf = leaf_of(&connection);
                    match gate.node_of(leaf.as_ref(), from).await {
                        Ok(node) => {
                            let _followed = duplication.follow(&connection);
                            let connection = Connection::Quic(connection);
                            gate.keep(connection, Way::Requests(DataPath::Quic), node, from).await;
                        }
                        Err(reason) => connection.close(code::BAD_FRAME.into(), reason.as_bytes()),
                    }
                }
                Ok(Err(error)) => tracing::debug!(%from, %error, "QUIC handshake failed"),
                Err(_) => tracing::debug!(%from, "QUIC handshake took over 5 s"),
            }
        });
    }
    endpoint.close(code::SHUTDOWN.into(), b"router stops");
    endpoint.wait_idle().await;
}

fn leaf_of(connection: &quinn::Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}
