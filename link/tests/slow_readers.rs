//! Streams whose reader has stopped hold their own writer and nobody else, however many they are.

use bytes::Bytes;
use mesh_core::id::MachineId;
use mesh_link::{Connection, Receiving, Sending, h2_link, quic};
use mesh_proto::frame::alpn;
use mesh_proto::identity::tls::{self, ClientCertificate, ServerCertificate};
use mesh_proto::identity::{Authority, Credentials, LocalKey, Role};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What an engine would send on each of them.
const OF_EACH: usize = 1 << 20;
/// What has to pass beside them.
const OF_ANOTHER: usize = 4 << 20;

#[tokio::test]
async fn over_quic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::create(folder.path()).expect("an authority");
    let router = credentials(&authority, Role::Router, "router");
    let certificate = ServerCertificate::new(&router).expect("a certificate");
    let server = tls::server(certificate, authority.certificate(), alpn::DATA, ClientCertificate::Required)
        .expect("a configuration");
    let crypto = QuicServerConfig::try_from(server).expect("TLS 1.3");
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(quic::transport(16)));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listening = quic::endpoint(UdpSocket::bind(any).expect("a port"), Some(server)).expect("an endpoint");

    let node = credentials(&authority, Role::Node, "node");
    let client = tls::client(&node, alpn::DATA).expect("a configuration");
    let crypto = QuicClientConfig::try_from(client).expect("TLS 1.3");
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(quic::transport(4096)));
    let dialling = quic::dialling(any).expect("an endpoint");
    let address = listening.local_addr().expect("bound");
    let (router, agent) = tokio::join!(
        async { listening.accept().await.expect("it listens").await.expect("a handshake") },
        async {
            let dialled = dialling.connect_with(client, address, tls::ROUTER_NAME);
            dialled.expect("a good address").await.expect("a handshake")
        }
    );
    another_flows_beside(&Connection::Quic(router), &Connection::Quic(agent), 20, 1000).await;
}

fn credentials(authority: &Authority, role: Role, name: &str) -> Credentials {
    let (key, name) = (LocalKey::create().expect("a key"), MachineId::new(name).expect("a good name"));
    let csr = key.csr_der().expect("a request");
    let chain = authority.issue(&csr, role, &name, Duration::from_secs(3600)).expect("a certificate");
    key.with_chain(chain).expect("credentials")
}

async fn h2_ends() -> [Connection; 2] {
    let (router, agent) = tokio::io::duplex(64 * 1024);
    let (router, agent) = tokio::join!(h2_link::opening(router), h2_link::accepting(agent, 1024));
    [router, agent].map(|end| Connection::H2(end.expect("greeted")))
}

#[tokio::test(start_paused = true)]
async fn over_h2() {
    let [router, agent] = h2_ends().await;
    another_flows_beside(&router, &agent, 20, 200).await;
}

#[tokio::test(start_paused = true)]
async fn over_h2_with_the_shortest_tokens_there_are() {
    let [router, agent] = h2_ends().await;
    // Their bookkeeping is many times as long as they are.
    another_flows_beside(&router, &agent, 6, 10).await;
}

/// Beside `slow` streams that nobody reads, whose answers come in tokens of `token` bytes.
async fn another_flows_beside(router: &Connection, agent: &Connection, slow: usize, token: usize) {
    let (mut unread, mut writers) = (Vec::new(), JoinSet::new());
    for _ in 0..slow {
        let (asked, mut reply) = stream(router, agent).await;
        unread.push(asked);
        let words = Bytes::from(vec![1; token]);
        writers.spawn(async move {
            let mut sent = 0;
            while sent < OF_EACH {
                // As long as the reader takes nothing, this ends only by being blocked.
                match timeout(Duration::from_millis(500), reply.0.write(words.clone())).await {
                    Ok(written) => written.expect("the connection stands"),
                    Err(_) => break,
                }
                sent += token;
            }
            (sent, reply)
        });
    }
    let mut held = Vec::new();
    while let Some(writer) = writers.join_next().await {
        let (sent, reply) = writer.expect("no panic");
        assert!(sent < OF_EACH, "{sent} bytes wait unread of one stream");
        held.push(reply);
    }

    let ((_ask, mut answer), (mut reply, _asked)) = stream(router, agent).await;
    let sending = tokio::spawn(async move {
        reply.write(Bytes::from(vec![2; OF_ANOTHER])).await.expect("it flows");
        reply.finish();
    });
    let mut seen = 0;
    while let Some(bytes) =
        timeout(Duration::from_secs(10), answer.chunk(1 << 16)).await.expect("it flows").expect("whole")
    {
        seen += bytes.len();
    }
    assert_eq!(seen, OF_ANOTHER);
    sending.await.expect("sent");
    assert!(router.lost().is_none() && agent.lost().is_none());
}

/// A stream that both ends have: the router's halves, then the agent's.
async fn stream(router: &Connection, agent: &Connection) -> ((Sending, Receiving), (Sending, Receiving)) {
    let mut opened = router.open().await.expect("a stream");
    opened.0.write(Bytes::from_static(b"hello")).await.expect("the agent reads");
    let mut accepted = agent.accept().await.expect("a stream");
    assert_eq!(accepted.1.chunk(100).await, Ok(Some(Bytes::from_static(b"hello"))));
    (opened, accepted)
}
