//! Peers that are not of the mesh: false routers that want a secret, and clients without TLS.

use crate::plane::{Plane, another_authority, credentials_of, server_config, within};
use mesh_proto::frame::alpn;
use mesh_proto::identity::join::{JoinError, join};
use mesh_proto::identity::tls::{self, ClientCertificate, ServerCertificate};
use mesh_proto::identity::{JoinToken, Role};
use router::grpc::tls_incoming::TlsIncoming;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::StreamExt as _;

/// Answers one connection over TLS and returns all that the client let it read, until it has heard `secret`.
async fn eavesdrop(listener: TcpListener, tls: Arc<ServerConfig>, secret: String) -> Vec<u8> {
    let (tcp, _) = listener.accept().await.expect("a client");
    let mut heard = Vec::new();
    // How reading ends is not the question, only what was heard before.
    if let Ok(mut stream) = TlsAcceptor::from(tls).accept(tcp).await {
        // The start of an HTTP/2 server: empty SETTINGS, so that a client would send its request.
        drop(stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await);
        while !holds(&heard, &secret) && matches!(stream.read_buf(&mut heard).await, Ok(1..)) {}
    }
    heard
}

fn holds(heard: &[u8], text: &str) -> bool {
    heard.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Joins at a false router; returns the joining machine's error and what the false router heard.
async fn lured(token: &JoinToken, tls: Arc<ServerConfig>) -> (JoinError, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let eavesdropper = tokio::spawn(eavesdrop(listener, tls, token.secret.clone()));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = within(join(&address, token, "strix", folder.path())).await.expect_err("a false router");
    assert!(!folder.path().join("chain.pem").exists(), "nothing of it is kept");
    (error, within(eavesdropper).await.expect("no panic"))
}

/// Shows a chain without asking whether it makes sense.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn showing(config: &ServerConfig, certified: CertifiedKey) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(Shown(Arc::new(certified)));
    Arc::new(config)
}

#[tokio::test]
async fn the_eavesdropper_of_these_tests_hears_what_is_said() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let (_, heard) = lured(&token, server_config(&plane.authority, ClientCertificate::Optional)).await;
    assert!(holds(&heard, &token.secret), "with the right CA the secret does come");
}

#[tokio::test]
async fn a_man_in_the_middle_with_another_ca_never_hears_the_secret() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let (_folder, other) = another_authority();
    let (error, heard) = lured(&token, server_config(&other, ClientCertificate::Optional)).await;
    assert!(matches!(error, JoinError::WrongRouter { .. }), "{error}");
    assert_eq!(heard, b"", "not even the start of HTTP/2");
    plane.join(&token, "strix").await.expect("the token is unspent and good at its own router");
}

#[tokio::test]
async fn a_man_in_the_middle_who_shows_the_real_ca_beside_his_own_leaf_never_hears_the_secret() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let (_folder, other) = another_authority();
    let false_router = credentials_of(&other, Role::Router, "router-1");
    let provider = rustls::crypto::ring::default_provider();
    let chain = vec![false_router.chain[0].clone(), plane.authority.certificate().clone()];
    let key = provider.key_provider.load_private_key(false_router.key.clone_key()).expect("a key");
    let config = showing(&server_config(&other, ClientCertificate::Optional), CertifiedKey::new(chain, key));
    let (error, heard) = lured(&token, config).await;
    assert!(matches!(error, JoinError::Connect(_)), "{error}");
    assert_eq!(heard, b"");
}

#[tokio::test]
async fn a_node_of_the_mesh_that_plays_router_never_hears_a_secret() {
    let plane = Plane::start().await;
    let node = plane.node("mallory").await.credentials();
    let token = plane.token(Role::Node, None).await;
    let certificate = ServerCertificate::new(&node).expect("a certificate for its key");
    let config =
        tls::server(certificate, node.ca(), alpn::H2, ClientCertificate::Optional).expect("a configuration");
    let (error, heard) = lured(&token, Arc::new(config)).await;
    assert!(matches!(error, JoinError::Connect(_)), "{error}");
    assert_eq!(heard, b"");
}

#[tokio::test]
async fn a_router_without_tls_never_hears_a_secret() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("a client");
        let mut heard = vec![0; 16 * 1024];
        let count = tcp.read(&mut heard).await.expect("a hello");
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("an answer");
        heard.truncate(count);
        drop(tcp.read_to_end(&mut heard).await);
        heard
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = within(join(&address, &token, "strix", folder.path())).await.expect_err("no TLS");
    assert!(matches!(error, JoinError::Connect(_)), "{error}");
    let heard = within(server).await.expect("no panic");
    assert!(!heard.is_empty() && !holds(&heard, &token.secret) && !holds(&heard, &token.id));
}

#[tokio::test]
async fn a_joining_machine_reads_no_further_than_a_hung_up_router() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = within(join(&address, &token, "strix", folder.path())).await.expect_err("nobody there");
    assert!(matches!(error, JoinError::Connect(_)), "{error}");
}

#[tokio::test]
async fn a_client_without_tls_gets_nothing_and_the_plane_goes_on() {
    let plane = Plane::start().await;
    for greeting in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\nhost: router\r\n\r\n",
        &[0xff; 1024],
    ] {
        let mut tcp = TcpStream::connect(&plane.address).await.expect("the port is open");
        tcp.write_all(greeting).await.expect("a write");
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        drop(within(tcp.read_to_end(&mut answer)).await);
        assert!(!answer.starts_with(b"HTTP") && answer.len() < 64, "a TLS alert at most: {answer:?}");
    }
    plane.node("strix").await;
}

#[tokio::test]
async fn silent_connections_hold_nobody_up() {
    let plane = Plane::start().await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(&plane.address).await.expect("the port is open"));
    }
    plane.node("strix").await;
    drop(silent);
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let plane = Plane::start().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(plane.authority.certificate().clone()).expect("a CA certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("TLS 1.2")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn::H2.to_vec()];
    assert!(crate::plane::channel(&plane.address, config).await.is_err());
}

/// Connects without a certificate, as a machine does that joins.
async fn nameless(plane: &Plane, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let pin = plane.token(Role::Node, None).await.pin_bytes().expect("a good pin");
    let config = tls::pinned_client(pin, alpn::H2).expect("a configuration");
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(tls::ROUTER_NAME).expect("a constant DNS name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A bare listener of the plane's kind.
async fn incoming(plane: &Plane, connections: usize, time: Duration) -> (String, TlsIncoming) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let tls = server_config(&plane.authority, ClientCertificate::Optional);
    (address, TlsIncoming::start(listener, tls, connections, time, &plane.stop))
}

#[tokio::test]
async fn who_shows_no_certificate_is_cut_off_in_time_and_who_does_is_not() {
    let plane = Plane::start().await;
    let (address, mut incoming) = incoming(&plane, 8, Duration::from_millis(50)).await;
    let _stranger = within(nameless(&plane, &address)).await.expect("TLS");
    let mut connection = within(incoming.next()).await.expect("not stopped").expect("a connection");
    let error = within(connection.read_u8()).await.expect_err("cut off");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);

    let node = plane.node("strix").await.credentials();
    let connector = TlsConnector::from(Arc::new(tls::client(&node, alpn::H2).expect("a configuration")));
    let tcp = TcpStream::connect(&address).await.expect("the port is open");
    let name = ServerName::try_from(tls::ROUTER_NAME).expect("a constant DNS name");
    let mut known = within(connector.connect(name, tcp)).await.expect("TLS");
    let mut connection = within(incoming.next()).await.expect("not stopped").expect("a connection");
    assert!(
        tokio::time::timeout(Duration::from_millis(150), connection.read_u8()).await.is_err(),
        "it may wait"
    );
    known.write_all(b"x").await.expect("a write");
    assert_eq!(within(connection.read_u8()).await.expect("still there"), b'x');
}

#[tokio::test]
async fn connections_over_the_limit_wait_until_one_leaves() {
    let plane = Plane::start().await;
    let (address, mut incoming) = incoming(&plane, 1, Duration::from_secs(60)).await;
    let _first = within(nameless(&plane, &address)).await.expect("TLS");
    let held = within(incoming.next()).await.expect("not stopped").expect("a connection");
    let mut second = Box::pin(nameless(&plane, &address));
    assert!(tokio::time::timeout(Duration::from_millis(150), &mut second).await.is_err(), "no place yet");
    drop(held);
    within(second).await.expect("now there is one");
}

#[tokio::test]
async fn a_stopped_listener_ends_its_stream() {
    let plane = Plane::start().await;
    let (_, mut incoming) = incoming(&plane, 1, Duration::from_secs(60)).await;
    plane.stop.cancel();
    assert!(within(incoming.next()).await.is_none());
}
