//! The gRPC servers of the router: agents on one port, operators on another.
//!
//! What both share is here: TLS from our own configuration, keepalive that notices a dead peer within four
//! seconds, bounds on connections and streams, and an end that waits for running calls but not for ever.
//! And who calls: read from the connection's certificate, the role checked before any operator's call.

pub mod fleet_service;
mod guesses;
pub mod operator_service;
pub mod tls_incoming;

use fleet_service::{FleetService, FleetServiceParts};
use mesh_proto::identity::{Peer, Role};
use mesh_proto::v1::fleet_server::FleetServer;
use mesh_proto::v1::operator_server::{Operator, OperatorServer};
use rustls::ServerConfig;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tls_incoming::{ConnectInfo, PeerEnd, TlsConnection, TlsIncoming};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, interceptor::InterceptedService};
use tonic::transport::Server;
use tonic::{Extensions, Request, Status};

/// A ping each two seconds, answered within two: a machine that lost power is noticed in four.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// How long running calls may take to end after the stop signal.
const DRAIN: Duration = Duration::from_secs(3);

/// The most bytes of one message from a peer. A full report of a big machine has some 50 KiB.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// The most bytes of a request's headers.
const HEADER_LIMIT: u32 = 16 * 1024;

/// How long a peer without a certificate may stay: it comes to join, which takes less than a second.
const NAMELESS: Duration = Duration::from_secs(30);

/// How much one plane takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Calls at once on each connection.
    pub streams: u32,
}

impl Limits {
    /// The agents' plane: one Attach for each agent, and now and then a Join or a Renew.
    pub const AGENTS: Self = Self { connections: 1024, streams: 16 };
    /// The operators' plane: a few people, and scripts that ask for the status.
    pub const OPERATORS: Self = Self { connections: 128, streams: 64 };
}

/// Why a gRPC server ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("serving gRPC on {address}")]
pub struct ServeError {
    /// Where it served.
    pub address: SocketAddr,
    /// The cause.
    pub source: tonic::transport::Error,
}

/// Serves the agents' plane until `stop`: join, renew, attach. `tls` must leave client certificates optional,
/// because a machine that joins has none yet; each call checks for itself. Connections that agreed on a protocol of the
/// data plane go to `data`.
///
/// # Errors
/// [`ServeError`] when the server ends before `stop`.
pub async fn serve_agents(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    parts: FleetServiceParts,
    data: Option<mpsc::Sender<TlsConnection>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let address = address_on(&listener);
    let service =
        FleetServer::new(FleetService::new(parts, stop.clone())).max_decoding_message_size(MESSAGE_LIMIT);
    let incoming =
        TlsIncoming::start_beside(data, listener, tls, Limits::AGENTS.connections, NAMELESS, &stop);
    serve_on(incoming, address, Routes::new(service), Limits::AGENTS, stop).await
}

/// Serves the operators' plane until `stop`. Every call, those of later versions too, needs an operator's
/// certificate; `operator` finds the caller as a [`Peer`] in the request's extensions.
///
/// # Errors
/// [`ServeError`] when the server ends before `stop`.
pub async fn serve_operators(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    operator: impl Operator,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let service = OperatorServer::new(operator).max_decoding_message_size(MESSAGE_LIMIT);
    let guarded = InterceptedService::new(service, operators_only);
    serve(listener, tls, Routes::new(guarded), Limits::OPERATORS, stop).await
}

fn operators_only(mut request: Request<()>) -> Result<Request<()>, Status> {
    let checked = peer_of(request.extensions()).and_then(|peer| match peer.role {
        Role::Operator => Ok(peer),
        Role::Router | Role::Node => {
            let why =
                format!("this needs an operator's certificate, this one is of {} `{}`", peer.role, peer.name);
            Err(Status::permission_denied(why))
        }
    });
    let peer = checked.inspect_err(|status| {
        let ip = address_of(request.extensions());
        tracing::info!(target: "audit", call = "operator", %ip, why = status.message(), "refused");
    })?;
    request.extensions_mut().insert(peer);
    Ok(request)
}

/// The holder of the connection's certificate. That our CA signed it was checked in the handshake.
fn peer_of(extensions: &Extensions) -> Result<Peer, Status> {
    let certificates = extensions.get::<ConnectInfo>().and_then(|info| info.tls.peer_certs());
    let Some(leaf) = certificates.as_ref().and_then(|chain| chain.first()) else {
        return Err(Status::unauthenticated("this call needs a certificate; join first"));
    };
    Peer::from_der(leaf).map_err(|error| Status::unauthenticated(error.to_string()))
}

/// The address of the peer, for logs and for counting wrong guesses; without one all share `0.0.0.0`.
fn address_of(extensions: &Extensions) -> IpAddr {
    let address = extensions.get::<ConnectInfo>().and_then(|info| info.tls.get_ref().remote_addr());
    address.map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip())
}

/// Tells when the peer's end of the connection was gone all of a sudden.
fn peer_end_of(extensions: &Extensions) -> PeerEnd {
    extensions.get::<ConnectInfo>().map(|info| info.peer_end.clone()).unwrap_or_default()
}

/// Serves `routes` on `listener` until `stop`, then waits a few seconds for running calls.
///
/// # Errors
/// [`ServeError`] when the server ends before `stop`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    routes: Routes,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let address = address_on(&listener);
    let incoming = TlsIncoming::start(listener, tls, limits.connections, NAMELESS, &stop);
    serve_on(incoming, address, routes, limits, stop).await
}

fn address_on(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

async fn serve_on(
    incoming: TlsIncoming,
    address: SocketAddr,
    routes: Routes,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(HEADER_LIMIT)
        .max_concurrent_streams(limits.streams)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|source| ServeError { address, source }),
        () = too_late => {
            tracing::warn!(%address, "calls still ran {} s after the stop signal", DRAIN.as_secs());
            Ok(())
        }
    }
}
