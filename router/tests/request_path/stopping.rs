//! A router that is stopped while it answers, over real sockets: what runs longer than it waits is told so, and the
//! connection ends as it should.

use crate::fixture::{Mesh, PATIENCE, Script, engine, replica};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::machine::ReplicaState::Loaded;
use router::http::Front;
use router::ledger::Ledger;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A front door on a mesh with one node.
struct House {
    mesh: Mesh,
    node: (std::sync::Arc<crate::fixture::Node>, crate::fixture::Control),
    door: SocketAddr,
    key: String,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl House {
    async fn start(script: Script) -> Self {
        let mesh = Mesh::start(|_| ());
        let node = mesh.node("a", engine(vec![replica("m", Loaded, Some(8))])).await;
        node.0.always(script);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ledger = Ledger::open(&folder.path().join("ledger.redb")).expect("a new ledger");
        let (_, key) = ledger.create_key("test", 0).await.expect("a key");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (door, stop) = (listener.local_addr().expect("just bound"), CancellationToken::new());
        let front = Front::new((*mesh.forward).clone(), ledger);
        let serving = tokio::spawn(front.serve(listener, stop.clone()));
        Self { mesh, node, door, key, stop, serving, _folder: folder }
    }

    /// Asks over HTTP/1.1, and reads until `wanted` has come.
    async fn asks(&self, path: &str, stream: bool, wanted: &str) -> (TcpStream, String) {
        let body = body(stream);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        let mut client = TcpStream::connect(self.door).await.expect("somebody listens");
        client.write_all(format!("{head}{body}").as_bytes()).await.expect("it is taken");
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            assert_ne!(client.read_buf(&mut seen).await.expect("a connection"), 0, "no {wanted:?}");
        }
        (client, String::from_utf8(seen).expect("text"))
    }

    /// Stops the router, with a clock that runs as fast as nothing happens, and waits until it has ended.
    async fn stops(self) -> Mesh {
        tokio::time::pause();
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.serving).await;
        ended.expect("in time").expect("no panic");
        self.mesh
    }
}

fn body(stream: bool) -> String {
    format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// What comes until the other side closes.
async fn rest(mut client: TcpStream, seen: String) -> String {
    let mut rest = seen.into_bytes();
    client.read_to_end(&mut rest).await.expect("a clean end of the connection");
    String::from_utf8(rest).expect("text")
}

#[tokio::test]
async fn a_stream_that_outlives_the_drain_gets_an_error_event_and_a_whole_body() {
    let house = House::start(Script::EndlessStream).await;
    let chat = house.asks("/v1/chat/completions", true, "\"ok\"").await;
    let id = chat.1.split_once("x-mesh-request-id: ").and_then(|(_, rest)| rest.lines().next());
    let id = id.expect("a header").to_owned();
    let ollama = house.asks("/api/chat", true, "\"ok\"").await;
    let mesh = house.stops().await;
    for ((client, seen), event) in
        [(chat, "data: {\"error\":{"), (ollama, "{\"error\":\"the router is stopping")]
    {
        let told = rest(client, seen).await;
        let last = told.rsplit_once(event).unwrap_or_else(|| panic!("{event} is not in {told}")).1;
        assert!(last.contains("is stopping and waits no longer") || event.contains("is stopping"), "{told}");
        assert!(last.ends_with("\r\n0\r\n\r\n"), "the last chunk: {told:?}");
        assert!(!told.contains("[DONE]") && !told.contains("\"done\":true"), "{told}");
    }
    mesh.until_idle().await;
    let record = mesh.forward.journal.find(&id).await.expect("it is remembered");
    assert_eq!(
        (record.outcome.as_str(), record.attempts[0].result.as_str()),
        ("failed", "cut off: the router stopped")
    );
}

#[tokio::test]
async fn over_http_2_such_a_stream_ends_as_a_stream() {
    let house = House::start(Script::EndlessStream).await;
    let client = TcpStream::connect(house.door).await.expect("somebody listens");
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await;
    let (mut sender, connection) = shaken.expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/v1/chat/completions", house.door))
        .header("authorization", format!("Bearer {}", house.key))
        .body(Full::new(Bytes::from(body(true))))
        .expect("a request");
    let mut answer = sender.send_request(request).await.expect("an answer").into_body();
    let first = answer.frame().await.expect("a frame").expect("content").into_data().expect("no trailers");
    assert!(first.starts_with(b"data: {\"choices\""), "{first:?}");
    house.stops().await;
    let rest = answer.collect().await.expect("no reset").to_bytes();
    assert!(rest.starts_with(b"data: {\"error\":{"), "{rest:?}");
    assert!(String::from_utf8_lossy(&rest).contains("\"code\":\"router_stopping\""), "{rest:?}");
    drop(sender);
    connection.await.expect("no panic").expect("a clean end of the connection");
}

#[tokio::test]
async fn what_has_no_content_by_then_is_refused() {
    let house = House::start(Script::After(Duration::from_secs(600))).await;
    let whole = house.asks("/v1/chat/completions", false, "").await;
    let streamed = house.asks("/v1/chat/completions", true, "").await;
    house.node.0.until(|seen| seen.running == 2).await;
    house.stops().await;
    let (whole, streamed) = (rest(whole.0, whole.1).await, rest(streamed.0, streamed.1).await);
    assert!(whole.starts_with("HTTP/1.1 503 ") && whole.contains("\"code\":\"router_stopping\""), "{whole}");
    assert!(streamed.contains("\"code\":\"router_stopping\"") && !streamed.contains("[DONE]"), "{streamed}");
}
