//! A llama-server that says it holds the model `tiny`, and hands every POST to the test with its connection.

use crate::soon;
use mesh_core::machine::{EngineKind, EngineState};
use node_agent::engine::EngineConfig;
use node_agent::metrics::Metrics;
use node_agent::serve::Serve;
use node_agent::supervisor::{Supervisor, SupervisorConfig};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

const PROPS: &str = include_str!("../captures/llama-server-props.json");
const MODELS: &str = include_str!("../captures/llama-server-v1-models.json");
const METRICS: &str = include_str!("../captures/llama-server-metrics.txt");

/// A request that the agent made, with the connection to answer on.
pub(crate) struct Post {
    pub(crate) path: String,
    /// `name: value`, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    stream: TcpStream,
}

impl Post {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("the agent reads");
    }

    /// A whole answer.
    pub(crate) async fn answer(mut self, status: &str, content_type: &str, body: &str) {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n");
        self.send(&(head + body)).await;
    }

    /// The head of an event stream of unknown length.
    pub(crate) async fn begin_stream(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
    }

    pub(crate) async fn send_chunk(&mut self, text: &str) {
        self.send(&format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    /// Completes when the agent has closed the connection.
    pub(crate) async fn closed_by_agent(&mut self) {
        let mut byte = [0];
        let read = self.stream.read(&mut byte).await;
        assert!(matches!(read, Ok(0) | Err(_)), "the agent sent more than its request");
    }
}

pub(crate) struct ScriptedEngine {
    pub(crate) url: String,
    pub(crate) posts: mpsc::Receiver<Post>,
    listening: JoinSet<()>,
}

impl ScriptedEngine {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("just bound"));
        let (sender, posts) = mpsc::channel(64);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, sender.clone()));
            }
        });
        Self { url, posts, listening }
    }

    pub(crate) async fn post(&mut self) -> Post {
        soon("a request to the engine", self.posts.recv()).await.expect("the engine listens")
    }

    /// From now on connections are refused.
    pub(crate) async fn vanish(&mut self) {
        self.listening.shutdown().await;
    }
}

async fn serve(mut stream: TcpStream, posts: mpsc::Sender<Post>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    };
    let text = String::from_utf8(bytes[..end].to_vec()).expect("a head is ASCII");
    let mut lines = text.lines();
    let mut first = lines.next().expect("a request line").split(' ');
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default().to_owned());
    if method == "GET" {
        let (status, body) = match path.as_str() {
            "/props" => ("200 OK", PROPS),
            "/v1/models" => ("200 OK", MODELS),
            "/metrics" => ("200 OK", METRICS),
            "/health" => ("200 OK", r#"{"status":"ok"}"#),
            _ => ("404 Not Found", "{}"),
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        drop(stream.write_all(answer.as_bytes()).await);
        return;
    }
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value.as_str());
    let length: usize = length.parse().expect("a length");
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if !matches!(stream.read_buf(&mut body).await, Ok(1..)) {
            return;
        }
    }
    drop(posts.send(Post { path, headers, body, stream }).await);
}

/// An agent's serving half with one scripted engine.
pub(crate) struct Bench {
    pub(crate) serve: Arc<Serve>,
    pub(crate) engine: ScriptedEngine,
    pub(crate) metrics: Metrics,
    _stop: DropGuard,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let engine = ScriptedEngine::start().await;
        let stop = CancellationToken::new();
        let config = SupervisorConfig {
            engines: vec![EngineConfig::Endpoint {
                name: "scripted".into(),
                kind: EngineKind::LlamaServer,
                url: engine.url.clone(),
                api_key: Some("engine-key".into()),
            }],
            discover: Vec::new(),
            engine_folder: "/nonexistent".into(),
            rescan: Duration::from_secs(3600),
            ..SupervisorConfig::new("/nonexistent".into())
        };
        let supervisor = Supervisor::start(config, stop.clone());
        let mut engines = supervisor.engines();
        let up = engines.wait_for(|engines| engines.iter().any(|engine| engine.state == EngineState::Up));
        drop(soon("the engine is up", up).await.expect("the supervisor lives"));
        let metrics = Metrics::new(&mut Registry::default());
        let serve = Serve::new(supervisor, metrics.clone());
        Self { serve, engine, metrics, _stop: stop.drop_guard() }
    }

    pub(crate) async fn idle(&self) {
        let mut in_flight = self.serve.in_flight();
        drop(soon("no request is left", in_flight.wait_for(|&count| count == 0)).await);
    }
}
