//! Bodies of many clients at once, over real sockets: they wait for room, and small ones have some of their own.

use http::StatusCode;
use mesh_daemon::clock::Clock;
use mesh_daemon::config_layers::KeyLines;
use router::config::{RouterConfig, check};
use router::fleet_keeper::FleetHandle;
use router::forward::agent_links::AgentLinks;
use router::forward::in_flight::InFlight;
use router::forward::{Forward, ForwardParts};
use router::http::Front;
use router::journal::Journal;
use router::ledger::Ledger;
use router::metrics::{Metrics, ReasonLabel};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Every wait has this end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of one body; two of them have room at once.
const LIMIT: usize = 1 << 20;

/// A router without any node: what it has read it answers with `no_node_available`.
struct House {
    door: SocketAddr,
    key: String,
    metrics: Metrics,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl House {
    async fn start() -> Self {
        let mut config = RouterConfig::default();
        config.limits.body = "1MiB".into();
        config.limits.arriving_bytes = "3MiB".into();
        let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ledger = Ledger::open(&folder.path().join("ledger.redb")).expect("a new ledger");
        let (_, key) = ledger.create_key("test", 0).await.expect("a key");
        let (clock, stop, metrics) = (Clock::start(), CancellationToken::new(), Metrics::new());
        let forward = Forward::new(ForwardParts {
            fleet: FleetHandle::start(None, BTreeMap::new(), clock, stop.clone()),
            links: AgentLinks::default(),
            in_flight: InFlight::default(),
            journal: Journal::start(),
            metrics: metrics.clone(),
            settings: Arc::new(settings),
            clock,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let door = listener.local_addr().expect("just bound");
        tokio::spawn(Front::new(forward, ledger).serve(listener, stop.clone()));
        Self { door, key, metrics, stop, _folder: folder }
    }

    /// A client that has said how much will come, or not, and waits to be asked for it.
    async fn announces(&self, length: Option<usize>) -> Client {
        let stream = TcpStream::connect(self.door).await.expect("somebody listens");
        let mut client = Client { stream, seen: Vec::new() };
        let framing = match length {
            Some(length) => format!("content-length: {length}"),
            None => "transfer-encoding: chunked".into(),
        };
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nexpect: 100-continue\r\n{framing}\r\n\r\n",
            self.key
        );
        client.send(head.as_bytes()).await;
        client
    }

    /// A small request is answered.
    async fn serves(&self) {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let mut client = self.announces(Some(body.len())).await;
        client.send(body.as_bytes()).await;
        // Whether it is asked for the body or that was there already is of no matter.
        client.is_answered().await;
    }
}

struct Client {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the router takes it");
    }

    /// Reads until `wanted` has come.
    async fn until(&mut self, wanted: &str) {
        let coming = async {
            while !String::from_utf8_lossy(&self.seen).contains(wanted) {
                let read = self.stream.read_buf(&mut self.seen).await.expect("a connection");
                assert_ne!(read, 0, "{wanted:?} is not in {:?}", String::from_utf8_lossy(&self.seen));
            }
        };
        tokio::time::timeout(PATIENCE, coming).await.expect(wanted);
    }

    /// The router reads the body: it has room for it.
    async fn is_let_in(&mut self) {
        self.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    }

    async fn is_answered(&mut self) {
        self.until("no_node_available").await;
    }

    fn has_heard_nothing(&self) -> bool {
        let mut one = [0];
        let waiting = self.stream.try_read(&mut one);
        self.seen.is_empty() && waiting.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends a body of this length.
    async fn finish(&mut self, length: usize) {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let space = " ".repeat(length - body.len());
        self.send(format!("{body}{space}").as_bytes()).await;
    }
}

#[tokio::test]
async fn bodies_wait_for_room_and_small_ones_have_some_of_their_own() {
    let house = House::start().await;
    let (mut first, mut second) = (house.announces(Some(LIMIT)).await, house.announces(None).await);
    first.is_let_in().await;
    second.is_let_in().await;
    let (mut third, mut fourth) = (house.announces(Some(LIMIT)).await, house.announces(Some(LIMIT)).await);
    for _ in 0..20 {
        house.serves().await;
    }
    assert!(third.has_heard_nothing() && fourth.has_heard_nothing());
    first.finish(LIMIT).await;
    first.is_answered().await;
    // One that leaves makes room, too.
    drop(second);
    for waited in [&mut third, &mut fourth] {
        waited.is_let_in().await;
        waited.finish(LIMIT).await;
        waited.is_answered().await;
    }
}

#[tokio::test]
async fn a_body_without_room_is_refused_with_the_limit_and_a_time() {
    let house = House::start().await;
    let (mut first, mut second) = (house.announces(Some(LIMIT)).await, house.announces(Some(LIMIT)).await);
    first.is_let_in().await;
    second.is_let_in().await;
    let mut third = house.announces(Some(LIMIT)).await;
    third.until("bodies_full").await;
    third.until("3 MiB that they may (`limits.arriving_bytes`").await;
    let said = String::from_utf8_lossy(&third.seen).into_owned();
    assert!(said.starts_with(&format!("HTTP/1.1 {} ", StatusCode::SERVICE_UNAVAILABLE.as_u16())), "{said}");
    assert!(said.contains("retry-after: 5\r\n"), "{said}");
    assert!(!said.contains("100 Continue"), "nothing of its body was asked for: {said}");
    assert_eq!(house.metrics.refusals.get_or_create(&ReasonLabel { reason: "bodies_full" }).get(), 1);
    house.serves().await;
}
