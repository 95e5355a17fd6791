//! Who answers at a place of this machine, and what happens when that changes.

use crate::house::{House, bundled};
use crate::simulator::OllamaSimulator;
use crate::web_server::{HANGS, WebServer};
use mesh_core::machine::{EngineKind, EngineState, ReplicaState};
use node_agent::engine::discover::{Finding, identify};
use node_agent::engine::{EngineConfig, adapter};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

/// Answers as Ollama does, as Lemonade also does.
const AS_OLLAMA: (&str, &str) = ("/", "Ollama is running");
const VERSION: (&str, &str) = ("/api/version", r#"{"version":"0.33.0"}"#);

#[tokio::test]
async fn engines_are_told_apart_by_their_answers_and_strangers_are_left_alone() {
    let ollama = OllamaSimulator::start().await;
    assert_eq!(identify(&ollama.url()).await, Finding::Engine(EngineKind::Ollama));
    assert!(ollama.calls().iter().all(|call| call.starts_with("GET ")), "{:?}", ollama.calls());

    let lemonade =
        WebServer::start("", &[AS_OLLAMA, VERSION, ("/api/v1/health", r#"{"all_models_loaded":[]}"#)]).await;
    assert_eq!(identify(&lemonade.url()).await, Finding::Engine(EngineKind::Lemonade));

    let lm_studio =
        WebServer::start("", &[("/api/v0/models", r#"{"data":[{"id":"a","state":"loaded","type":"llm"}]}"#)])
            .await;
    assert_eq!(identify(&lm_studio.url()).await, Finding::Engine(EngineKind::LmStudio));

    let vllm = WebServer::start(
        "",
        &[
            ("/version", r#"{"version":"0.33.0"}"#),
            ("/v1/models", r#"{"data":[{"id":"a","owned_by":"vllm"}]}"#),
        ],
    )
    .await;
    assert_eq!(identify(&vllm.url()).await, Finding::Engine(EngineKind::Vllm));

    let web = WebServer::start("", &[]).await;
    assert_eq!(identify(&web.url()).await, Finding::Stranger);
    let says_only_hello = WebServer::start("", &[AS_OLLAMA]).await;
    assert_eq!(identify(&says_only_hello.url()).await, Finding::Stranger);
}

#[tokio::test]
async fn a_mesh_router_is_no_engine_however_it_answers() {
    for header in ["x-mesh-request-id: r1\r\n", "server: modemesh\r\n"] {
        let router = WebServer::start(header, &[AS_OLLAMA, VERSION]).await;
        assert_eq!(identify(&router.url()).await, Finding::Stranger);
    }
    let by_owner = WebServer::start(
        "",
        &[AS_OLLAMA, VERSION, ("/v1/models", r#"{"data":[{"id":"code","owned_by":"modemesh"}]}"#)],
    )
    .await;
    assert_eq!(identify(&by_owner.url()).await, Finding::Stranger);
    let without_header =
        WebServer::start("", &[AS_OLLAMA, VERSION, ("/api/tags", r#"{"models":[{"name":"mesh/code"}]}"#)])
            .await;
    assert_eq!(identify(&without_header.url()).await, Finding::Stranger);
}

#[tokio::test]
async fn nobody_and_the_silent_are_told_apart_from_engines() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    assert_eq!(identify(&url).await, Finding::Stranger, "accepts and never answers");
    drop(listener);
    assert_eq!(identify(&url).await, Finding::Nobody);
}

#[tokio::test]
async fn a_real_llama_server_and_an_ollama_are_found_and_a_web_server_is_not() {
    let Some(engine) = bundled().await else { return };
    let mut server = tokio::process::Command::new(engine.python())
        .arg("-I")
        .arg(engine.script())
        .arg(engine.model())
        .args(["--alias", "found", "--slots", "3", "--context", "256"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let line = lines.next_line().await.expect("readable").expect("a line");
    let llama = line.strip_prefix("LISTENING ").expect("says where").to_owned();
    let (ollama, web) = (OllamaSimulator::start().await, WebServer::start("", &[]).await);
    let places = vec![llama.clone(), ollama.url(), web.url(), llama.replace("127.0.0.1", "localhost")];
    let house = House::with_places(Vec::new(), places);
    let seen = house
        .until("both found", |engines| {
            engines.len() == 2 && engines.iter().all(|engine| engine.state == EngineState::Up)
        })
        .await;
    let kinds: Vec<EngineKind> = seen.iter().map(|engine| engine.kind).collect();
    assert_eq!(kinds, [EngineKind::LlamaServer, EngineKind::Ollama]);
    let found = &seen[0].replicas[0];
    assert_eq!((found.model.as_str(), found.slots, found.context), ("found", Some(3), Some(256)));
    assert!(!seen[0].supervised);

    // It cannot be unloaded by us, so it stays.
    house.handle.direct(mesh_core::machine::Directive::Unload(found.model.clone()));
    assert!(house.handle.lease(&found.model).await.is_ok());

    server.kill().await.expect("alive");
    house.until("gone", |engines| engines.len() == 1 && engines[0].kind == EngineKind::Ollama).await;
    house.stopped().await;
}

#[tokio::test]
async fn an_engine_that_appears_later_is_found_and_a_port_may_change_its_owner() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let web = WebServer::start_on(listener, "", &[]);
    let house = House::with_places(Vec::new(), vec![address.to_string()]);
    drop(web);
    let ollama = OllamaSimulator::start_on(bind_again(address).await);
    house.until("found", |engines| engines.len() == 1 && engines[0].state == EngineState::Up).await;
    drop(ollama);
    let _web = WebServer::start_on(bind_again(address).await, "", &[]);
    house.until("gone", <[_]>::is_empty).await;
    house.stopped().await;
}

/// Binds an address that its last owner is just letting go of.
async fn bind_again(address: SocketAddr) -> TcpListener {
    let bound = async {
        loop {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("an option");
            if socket.bind(address).is_ok()
                && let Ok(listener) = socket.listen(64)
            {
                return listener;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::house::PATIENCE, bound).await.expect("the port is free again")
}

fn llama_server_at(url: String) -> House {
    let (name, kind) = ("one".into(), EngineKind::LlamaServer);
    House::with(vec![EngineConfig::Endpoint { name, kind, url, api_key: None }])
}

#[tokio::test]
async fn a_llama_server_too_busy_to_count_is_up_all_the_same() {
    let server = WebServer::start(
        "server: llama.cpp\r\n",
        &[
            ("/health", r#"{"status":"ok"}"#),
            ("/props", include_str!("../captures/llama-server-props.json")),
            ("/v1/models", include_str!("../captures/llama-server-v1-models.json")),
            ("/metrics", HANGS),
        ],
    )
    .await;
    let house = llama_server_at(server.url());
    let seen = house.until_replica("tiny", "loaded", |r| r.state == ReplicaState::Loaded).await;
    assert_eq!((seen.busy, seen.slots, seen.context), (None, Some(2), Some(1024)));
    house.stopped().await;
}

#[tokio::test]
async fn a_llama_server_that_loads_its_model_is_found_and_starting() {
    const ANSWER: &str = concat!("503 ", include_str!("../captures/llama-server-loading-health.json"));
    let pages = &[("/api/v1/health", ANSWER), ("/", ANSWER), ("/props", ANSWER), ("/health", ANSWER)];
    let server = WebServer::start("server: llama.cpp\r\n", pages).await;
    assert_eq!(identify(&server.url()).await, Finding::Engine(EngineKind::LlamaServer));
    let mut engine = adapter(EngineKind::LlamaServer, &server.url(), None).expect("a good address");
    assert_eq!(engine.observe().await.state, EngineState::Starting);
}
