//! Dialling the router for data: by QUIC, or by HTTP/2 over TLS where UDP does not pass.

use mesh_link::{Connection, Following, h2_link, quic, tcp};
use mesh_proto::frame::alpn;
use mesh_proto::identity::{Credentials, tls};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls::pki_types::ServerName;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Requests that a router may have open at once on this machine. One that holds thousands of streams of a batch must
/// not wait for a place; each costs memory only once it is used.
const QUIC_STREAMS: u32 = 8192;

/// The same over HTTP/2, where one lost packet holds up all of them.
const H2_STREAMS: u32 = 1024;

/// A handshake takes two round trips and one more for each packet that is lost. A new try begins with short
/// pauses again.
const QUIC_LIMIT: Duration = Duration::from_millis(2500);

/// Reaching the router by TCP and greeting it by TLS.
const TCP_LIMIT: Duration = Duration::from_secs(5);

/// A connection for requests.
pub(super) struct Line {
    /// It.
    pub(super) connection: Connection,
    /// What sends its goodbye, for QUIC.
    pub(super) endpoint: Option<Endpoint>,
    /// Looks after its losses as long as it is held, for QUIC.
    pub(super) followed: Option<Following>,
}

/// Dials by QUIC every address that the router's name has, in turn.
///
/// # Errors
/// Why the last of them did not answer.
pub(super) async fn by_quic(router: &str, credentials: &Credentials) -> Result<Line, String> {
    let config = client_config(credentials)?;
    let mut last = format!("{router} has no address");
    for address in addresses(router).await? {
        match timeout(QUIC_LIMIT, one_by_quic(address, &config)).await {
            Ok(Ok(line)) => return Ok(line),
            Ok(Err(error)) => last = format!("{address} (UDP): {error}"),
            Err(_) => {
                last = format!("{address} (UDP): no answer within {} s", QUIC_LIMIT.as_secs_f32());
            }
        }
    }
    Err(last)
}

async fn one_by_quic(address: SocketAddr, config: &ClientConfig) -> Result<Line, String> {
    // The wildcard address lets the connection follow the machine from one network to the next.
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (endpoint, duplication) =
        quic::dialling(SocketAddr::new(any, 0)).map_err(|error| error.to_string())?;
    let connecting = endpoint
        .connect_with(config.clone(), address, tls::ROUTER_NAME)
        .map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let followed = Some(duplication.follow(&connection));
    Ok(Line { connection: Connection::Quic(connection), endpoint: Some(endpoint), followed })
}

fn client_config(credentials: &Credentials) -> Result<ClientConfig, String> {
    let tls = tls::client(credentials, alpn::DATA).map_err(|error| error.to_string())?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(quic::transport(QUIC_STREAMS)));
    Ok(config)
}

/// Dials by HTTP/2 over TLS.
///
/// # Errors
/// Why the router did not answer.
pub(super) async fn by_h2(router: &str, credentials: &Credentials) -> Result<Line, String> {
    let stream = tls(router, credentials, alpn::DATA_H2).await?;
    let connection = h2_link::accepting(stream, H2_STREAMS).await.map_err(|error| error.to_string())?;
    Ok(Line { connection: Connection::H2(connection), endpoint: None, followed: None })
}

/// A TLS connection to the router for `protocol`.
///
/// # Errors
/// Why there is none.
pub(super) async fn tls(
    router: &str,
    credentials: &Credentials,
    protocol: &[u8],
) -> Result<TlsStream<TcpStream>, String> {
    let config = tls::client(credentials, protocol).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(tls::ROUTER_NAME).map_err(|error| error.to_string())?;
    let dialling = async {
        let tcp = TcpStream::connect(router).await?;
        tcp::prepare(&tcp)?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    let stream = timeout(TCP_LIMIT, dialling)
        .await
        .map_err(|_| format!("{router} (TCP): no answer within {} s", TCP_LIMIT.as_secs()))?
        .map_err(|error: std::io::Error| format!("{router} (TCP): {error}"))?;
    if stream.get_ref().1.alpn_protocol() != Some(protocol) {
        return Err(format!("{router} (TCP): the router is too old to send requests over TCP"));
    }
    Ok(stream)
}

async fn addresses(router: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host(router).await;
    Ok(found.map_err(|error| format!("cannot find {router}: {error}"))?.collect())
}
