//! gRPC channels to a router over the mesh's TLS.

use super::farewell::Farewell;
use super::{Credentials, IdentityError, tls};
use crate::frame::alpn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Finding, reaching and greeting a router may take this long together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A dead peer is noticed after two of these, also while nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Why there is no channel to the router.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answered at that address.
    #[error("cannot reach the router at {address}: {source}")]
    Unreachable {
        /// Which address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody answered who is not a router of this mesh, or who refuses our certificate.
    #[error("the TLS handshake with {address} failed: {source}")]
    Refused {
        /// Which address.
        address: String,
        /// What the library said.
        source: std::io::Error,
    },
    /// Our own credentials are unusable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// gRPC could not start on the connection.
    #[error("speaking gRPC with {address}: {source}")]
    Grpc {
        /// Which address.
        address: String,
        /// What the library said.
        source: tonic::transport::Error,
    },
}

/// A channel to the router at `address` (`host:port`), mutually authenticated. It does not reconnect by
/// itself with newer credentials: dial again for that.
///
/// # Errors
/// [`ConnectError`] tells apart nobody there, not our router, and our own credentials.
pub async fn channel(address: &str, credentials: &Credentials) -> Result<Channel, ConnectError> {
    dial(address, tls::client(credentials, alpn::H2)?).await
}

pub(super) async fn dial(address: &str, config: rustls::ClientConfig) -> Result<Channel, ConnectError> {
    // The first connection is made here and not inside tonic, so that its error is ours to tell apart.
    let first = tls_stream(address, &config).await?;
    let mut first = Some(first);
    let (config, target) = (Arc::new(config), address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let ready = first.take();
        let (config, target) = (config.clone(), target.clone());
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => tls_stream(&target, &config).await.map_err(std::io::Error::other)?,
            };
            Ok::<_, std::io::Error>(TokioIo::new(Farewell(stream)))
        }
    });
    Endpoint::from_static("http://router.modemesh.internal")
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Grpc { address: address.into(), source })
}

async fn tls_stream(
    address: &str,
    config: &rustls::ClientConfig,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { address: address.into(), source };
    let refused = |source| ConnectError::Refused { address: address.into(), source };
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 5 s");
    let tcp = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable(late()))?
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let name = ServerName::try_from(tls::ROUTER_NAME).expect("a constant DNS name");
    let connector = TlsConnector::from(Arc::new(config.clone()));
    tokio::time::timeout(CONNECT_LIMIT, connector.connect(name, tcp))
        .await
        .map_err(|_| refused(late()))?
        .map_err(refused)
}
