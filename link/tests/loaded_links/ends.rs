//! Two ends of a connection in one process.

use bytes::Bytes;
use mesh_link::{Connection, Duplication, Following, Receiving, Sending, quic};
use mesh_proto::frame::alpn;
use mesh_proto::identity::tls::{self, ClientCertificate, ServerCertificate};
use mesh_proto::identity::{Authority, Credentials, LocalKey, Role};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A router that listens for QUIC and an agent that can dial.
pub(crate) struct QuicEnds {
    router: (Endpoint, Duplication),
    agent: (Endpoint, Duplication),
    followed: Mutex<Vec<Following>>,
    config: ClientConfig,
    /// The router's.
    pub(crate) address: SocketAddr,
}

impl QuicEnds {
    pub(crate) fn listening() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::create(folder.path()).expect("an authority");
        let shown = ServerCertificate::new(&credentials(&authority, Role::Router)).expect("a certificate");
        let tls = tls::server(shown, authority.certificate(), alpn::DATA, ClientCertificate::Required)
            .expect("a configuration");
        let mut server =
            ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("TLS 1.3")));
        server.transport_config(Arc::new(quic::transport(16)));
        let router =
            quic::endpoint(UdpSocket::bind(ANY).expect("a port"), Some(server)).expect("an endpoint");

        let tls = tls::client(&credentials(&authority, Role::Node), alpn::DATA).expect("a configuration");
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")));
        config.transport_config(Arc::new(quic::transport(4096)));
        let agent = quic::dialling(ANY).expect("an endpoint");
        let address = router.0.local_addr().expect("bound");
        Self { router, agent, followed: Mutex::default(), config, address }
    }

    /// Completes when what follows the connections has ended by itself.
    pub(crate) async fn nobody_follows(&self) {
        let followed = std::mem::take(&mut *self.followed.lock().expect("no test has failed"));
        for one in followed {
            one.closed().await.expect("no panic");
        }
    }

    /// What the agent's end of the last connection is told to lose.
    pub(crate) fn agent_loses(&self) -> Option<f64> {
        let followed = self.followed.lock().expect("no test has failed");
        followed.last().and_then(|agent| *agent.lossy().borrow())
    }

    /// The router's end and the agent's, which dials `address`.
    pub(crate) async fn connected(&self, address: SocketAddr) -> (Connection, Connection) {
        let (router, agent) = tokio::join!(
            async { self.router.0.accept().await.expect("it listens").await.expect("a handshake") },
            async {
                let dialled = self.agent.0.connect_with(self.config.clone(), address, tls::ROUTER_NAME);
                dialled.expect("a good address").await.expect("a handshake")
            }
        );
        let followed = [self.router.1.follow(&router), self.agent.1.follow(&agent)];
        self.followed.lock().expect("no test has failed").extend(followed);
        (Connection::Quic(router), Connection::Quic(agent))
    }
}

fn credentials(authority: &Authority, role: Role) -> Credentials {
    let key = LocalKey::create().expect("a key");
    let (csr, name) = (key.csr_der().expect("a request"), "one".parse().expect("a good name"));
    let chain = authority.issue(&csr, role, &name, Duration::from_secs(3600)).expect("a certificate");
    key.with_chain(chain).expect("credentials")
}

/// A stream that both ends have: the router's halves, then the agent's.
pub(crate) async fn stream(
    router: &Connection,
    agent: &Connection,
) -> ((Sending, Receiving), (Sending, Receiving)) {
    let mut opened = router.open().await.expect("a stream");
    opened.0.write(Bytes::from_static(b"hello")).await.expect("the agent reads");
    let mut accepted = agent.accept().await.expect("a stream");
    assert_eq!(accepted.1.chunk(100).await, Ok(Some(Bytes::from_static(b"hello"))));
    (opened, accepted)
}
