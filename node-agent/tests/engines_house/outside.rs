//! Engines that run already, as far as memory and truth go: admitted, caught in RAM, asked to fetch and delete.
//!
//! With a simulator of Ollama of its own, because what it says of its memory must be chosen, and no test machine has
//! an Ollama that falls back to the CPU at will. Its answers follow Ollama 0.33.

use crate::house::{House, PATIENCE, engine_folder, model};
use mesh_core::machine::{
    Capacity, Directive, EngineKind, Gpu, GpuVendor, LoadWish, Pool, PullSource, PullWish, Reading, Replica,
    ReplicaHealth, ReplicaState, TransferState, Vitals,
};
use mesh_core::profile::MeasuredBy;
use mesh_core::units::Bytes;
use node_agent::engine::EngineConfig;
use node_agent::profile::ProfileHandle;
use node_agent::supervisor::SupervisorConfig;
use node_agent::truth::TruthConfig;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const GIB: u64 = 1 << 30;
const NAME: &str = "qwen3:8b";

/// An Ollama with one model of 5 GiB, which takes 6 GiB when loaded.
struct Ollama {
    url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    listed: bool,
    loaded: bool,
    /// What of the 6 GiB is on the card.
    vram: u64,
    says: &'static str,
    calls: Vec<String>,
}

impl Ollama {
    async fn start(vram_gib: u64, says: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let state = State { listed: true, loaded: false, vram: vram_gib * GIB, says, calls: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { url, state }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no panic"));
    }

    fn heard(&self, call: &str) -> usize {
        self.state.lock().expect("no panic").calls.iter().filter(|heard| *heard == call).count()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0_usize) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let call: Vec<&str> = head.split_whitespace().take(2).collect();
    let call = call.join(" ");
    let body: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    let answer = state.lock().expect("no panic").answer(&call, &body);
    let reply =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}", answer.len());
    let _gone = stream.write_all(reply.as_bytes()).await;
}

impl State {
    fn answer(&mut self, call: &str, body: &Value) -> String {
        self.calls.push(call.to_owned());
        let tag = json!({"name": NAME, "model": NAME, "size": 5 * GIB, "digest": "ab".repeat(32)});
        let running = json!({"name": NAME, "model": NAME, "size": 6 * GIB, "size_vram": self.vram,
                             "digest": "ab".repeat(32), "context_length": 4096});
        match call {
            "GET /" => "Ollama is running".into(),
            "GET /api/version" => json!({"version": "0.33.0"}).to_string(),
            "GET /api/tags" => json!({"models": if self.listed { vec![tag] } else { vec![] }}).to_string(),
            "GET /api/ps" => json!({"models": if self.loaded { vec![running] } else { vec![] }}).to_string(),
            "POST /api/show" => json!({
                "model_info": {
                    "general.architecture": "qwen3", "qwen3.block_count": 36, "qwen3.context_length": 262_144,
                    "qwen3.embedding_length": 4096, "qwen3.attention.head_count": 32,
                    "qwen3.attention.head_count_kv": 8, "qwen3.attention.key_length": 128,
                    "qwen3.attention.value_length": 128,
                },
                "capabilities": ["completion"],
            })
            .to_string(),
            "POST /api/generate" => {
                self.loaded = body["keep_alive"] != 0;
                json!({"model": NAME, "response": "", "done": true}).to_string()
            }
            "POST /api/pull" => {
                self.listed = true;
                [
                    json!({"status": "pulling manifest"}),
                    json!({"status": "pulling ab", "digest": "sha256:ab", "total": 2048, "completed": 1024}),
                    json!({"status": "pulling ab", "digest": "sha256:ab", "total": 2048, "completed": 2048}),
                    json!({"status": "success"}),
                ]
                .map(|line| format!("{line}\n"))
                .concat()
            }
            "DELETE /api/delete" => {
                self.listed = false;
                String::new()
            }
            "POST /v1/chat/completions" => {
                let chunk = |delta: Value, end: Value| json!({"model": NAME, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]});
                let usage = json!({"model": NAME, "choices": [], "usage": {"completion_tokens": 40}});
                let events = [
                    chunk(json!({"content": self.says}), Value::Null),
                    chunk(json!({}), json!("stop")),
                    usage,
                ];
                events.map(|event| format!("data: {event}\n\n")).concat() + "data: [DONE]\n\n"
            }
            other => json!({"error": format!("{other} is not simulated")}).to_string(),
        }
    }
}

/// A machine with one card of 8 GiB, of which this much is free, and RAM.
fn machine(card_gib: u64, ram_gib: u64) -> Arc<Vitals> {
    let card = Gpu {
        memory: Reading::Known(Capacity { total: Bytes(8 * GIB), available: Bytes(card_gib * GIB) }),
        pool: Pool::Discrete { reserved: None },
        ..Gpu::unknown("0000:01:00.0", "Card", GpuVendor::Nvidia, "a test")
    };
    Arc::new(Vitals {
        ram: Reading::Known(Capacity { total: Bytes(64 * GIB), available: Bytes(ram_gib * GIB) }),
        gpus: Reading::Known(vec![card]),
        ..Vitals::unknown("a test")
    })
}

fn house(ollama: &Ollama, vitals: Arc<Vitals>, profile: &ProfileHandle) -> House {
    House::of(SupervisorConfig {
        engines: vec![EngineConfig::Endpoint {
            name: "ollama".into(),
            kind: EngineKind::Ollama,
            url: ollama.url.clone(),
            api_key: None,
        }],
        discover: Vec::new(),
        vitals: watch::channel(vitals).1,
        profile: profile.clone(),
        truth: TruthConfig::default(),
        ..SupervisorConfig::new(engine_folder())
    })
}

const ENGLISH: &str = "Hello there, it is very nice to meet you on this fine day.";

fn is_loaded(replica: &Replica) -> bool {
    replica.state == ReplicaState::Loaded
}

#[tokio::test]
async fn a_model_that_ollama_keeps_partly_in_ram_is_degraded_with_a_hint_until_it_is_not() {
    let ollama = Ollama::start(2, ENGLISH).await;
    let profile = ProfileHandle::in_memory();
    let house = house(&ollama, machine(7, 60), &profile);
    house.until_replica(NAME, "known", |r| r.abilities.chat.is_some()).await;
    house.handle.direct(Directive::Load(model(NAME).into()));
    let degraded = |r: &Replica| r.health.word() == "degraded";
    let seen = house.until_replica(NAME, "degraded", degraded).await;
    let ReplicaHealth::Degraded(why) = &seen.health else { panic!("{:?}", seen.health) };
    for part in ["cpu_fallback", "2 GiB", "6 GiB", "hint: "] {
        assert!(why.contains(part), "{part} in: {why}");
    }
    let memory = seen.memory.expect("told");
    assert_eq!((memory.device, memory.host), (Bytes(2 * GIB), Bytes(4 * GIB)));
    // What it took, by its own word, is what the next load of it is admitted by.
    let records = profile.read(|profile| profile.footprints.clone());
    let took = records.first().and_then(|record| record.measured).expect("measured");
    assert_eq!((took.device, took.source), (Bytes(2 * GIB), MeasuredBy::EngineLog));
    assert_eq!(records[0].load.build, "ollama 0.33.0");
    assert_eq!(house.handle.ledger().claims(), [], "its bytes are the engine's, and show in what is free");

    house.handle.direct(Directive::Unload(model(NAME)));
    house.until_replica(NAME, "unloaded", |r| r.state == ReplicaState::Available).await;
    ollama.change(|state| state.vram = 6 * GIB);
    house.handle.direct(Directive::Load(model(NAME).into()));
    house.until_replica(NAME, "good", |r| r.health == ReplicaHealth::Good).await;
    house.stopped().await;
}

#[tokio::test]
async fn ollama_is_not_even_asked_for_what_does_not_fit() {
    let ollama = Ollama::start(6, ENGLISH).await;
    let profile = ProfileHandle::in_memory();
    let house = house(&ollama, machine(2, 2), &profile);
    house.until_replica(NAME, "known", |r| r.abilities.chat.is_some()).await;
    house.handle.direct(Directive::Load(model(NAME).into()));
    let failed = |r: &Replica| matches!(r.state, ReplicaState::Failed(_));
    let seen = house.until_replica(NAME, "refused", failed).await;
    let why = format!("{:?}", seen.state);
    assert!(why.contains("does not fit") && why.contains("2 GiB are free"), "{why}");
    assert_eq!(ollama.heard("POST /api/generate"), 0);
    house.stopped().await;
}

#[tokio::test]
async fn gibberish_from_ollama_is_quarantined() {
    let ollama = Ollama::start(6, "\u{fffd}\u{fffd}x\u{fffd} qz\u{fffd}\u{fffd}\u{fffd} vv\u{fffd}").await;
    let house = house(&ollama, machine(8, 60), &ProfileHandle::in_memory());
    house.until_replica(NAME, "known", |r| r.abilities.chat.is_some()).await;
    house.handle.direct(Directive::Load(model(NAME).into()));
    house.until_replica(NAME, "quarantined", |r| r.health.word() == "quarantined" && is_loaded(r)).await;
    house.stopped().await;
}

#[tokio::test]
async fn an_engine_fetches_and_deletes_models_by_itself_and_tells_how_far_it_is() {
    let ollama = Ollama::start(6, ENGLISH).await;
    ollama.change(|state| state.listed = false);
    let house = house(&ollama, machine(8, 60), &ProfileHandle::in_memory());
    house.until("up", |engines| engines[0].capabilities.can_pull && engines[0].version.is_some()).await;
    let wish = PullWish { model: model(NAME), source: PullSource::Engine, digest: None, size: None };
    house.handle.direct(Directive::Pull(wish));
    let mut transfers = house.handle.transfers();
    let done = transfers.wait_for(|all| all.first().is_some_and(|transfer| transfer.state.is_over()));
    let seen = tokio::time::timeout(PATIENCE, done).await.expect("in time").expect("open").clone();
    assert_eq!(
        (&seen[0].state, seen[0].done, seen[0].total),
        (&TransferState::Done, Bytes(2048), Some(Bytes(2048)))
    );
    assert_eq!((seen[0].source.as_str(), seen[0].kind.word()), ("ollama", "engine"));
    house.until_replica(NAME, "listed", |r| r.state == ReplicaState::Available).await;

    house.handle.direct(Directive::Load(model(NAME).into()));
    house.until_replica(NAME, "loaded", is_loaded).await;
    let lease = house.handle.lease(&model(NAME)).await.expect("loaded");
    assert!(house.handle.deletes(&model(NAME)));
    house.handle.direct(Directive::Delete(model(NAME)));
    house.until_replica(NAME, "draining", |r| r.state == ReplicaState::Available).await;
    assert_eq!(ollama.heard("DELETE /api/delete"), 0, "a request holds it");
    drop(lease);
    house.until("gone", |engines| engines[0].replicas.is_empty()).await;
    assert_eq!(ollama.heard("DELETE /api/delete"), 1);
    house.stopped().await;
}

#[tokio::test]
async fn a_longer_context_needs_more_memory_by_the_model_s_own_keys() {
    let ollama = Ollama::start(6, ENGLISH).await;
    let house = house(&ollama, machine(7, 12), &ProfileHandle::in_memory());
    house.until_replica(NAME, "known", |r| r.abilities.chat.is_some()).await;
    // 131,072 tokens × 147,456 bytes are 18 GiB of cache beside 5 GiB of weights.
    let long = LoadWish { context: Some(131_072), ..LoadWish::from(model(NAME)) };
    house.handle.direct(Directive::Load(long));
    let refused = |r: &Replica| matches!(r.state, ReplicaState::Failed(_));
    let seen = house.until_replica(NAME, "refused", refused).await;
    let ReplicaState::Failed(why) = &seen.state else { panic!("{:?}", seen.state) };
    assert!(why.starts_with("does not fit: needs ") && ollama.heard("POST /api/generate") == 0, "{why}");
    house.stopped().await;
}
