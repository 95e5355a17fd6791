//! A simulator of Ollama's HTTP API, as of Ollama 0.33: it holds no model and computes nothing.
//!
//! It is a simulator because no package registry that a test machine can reach carries the Ollama server. It
//! answers the calls an agent makes with the shapes, statuses and texts of the real one: `/`, `/api/version`,
//! `/api/tags`, `/api/ps`, `/api/show`, and `/api/generate` and `/api/embed` as far as they load and unload; it cuts
//! a context to what the model was trained for, deletes, and begins a pull that goes on until its client leaves.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A simulated Ollama; it stops listening when dropped.
pub(crate) struct OllamaSimulator {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<String, Model>,
    /// Every call as `METHOD path`.
    calls: Vec<String>,
    refuse_loads: bool,
    refuse_deletes: bool,
    hangs: bool,
}

struct Model {
    capabilities: Vec<&'static str>,
    loaded: bool,
    context: u64,
}

impl OllamaSimulator {
    /// One with a chat model `qwen3:8b` and an embedding model `nomic-embed-text:latest`, both on disk.
    pub(crate) async fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    pub(crate) fn start_on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("bound");
        let mut state = State::default();
        for (name, capabilities) in
            [("qwen3:8b", vec!["completion", "tools"]), ("nomic-embed-text:latest", vec!["embedding"])]
        {
            state.models.insert(name.into(), Model { capabilities, loaded: false, context: 0 });
        }
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that goes away is none of the server's worries.
                    drop(serve(stream, &shared).await);
                });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call so far as `METHOD path`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().expect("no panic holds it").calls.clone()
    }

    /// From now on loads fail as they do when memory is short.
    pub(crate) fn refuse_loads(&self) {
        self.state.lock().expect("no panic holds it").refuse_loads = true;
    }

    /// From now on deletes fail as they do when the files are another user's.
    pub(crate) fn refuse_deletes(&self) {
        self.state.lock().expect("no panic holds it").refuse_deletes = true;
    }

    /// From now on connections are accepted and never answered.
    pub(crate) fn hang(&self) {
        self.state.lock().expect("no panic holds it").hangs = true;
    }

    pub(crate) fn is_loaded(&self, model: &str) -> bool {
        self.state.lock().expect("no panic holds it").models[model].loaded
    }
}

impl Drop for OllamaSimulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    if state.lock().expect("no panic holds it").hangs {
        return std::future::pending().await;
    }
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 || bytes.len() > 64 << 10 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0_usize);
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let first = String::from_utf8_lossy(&bytes[..head]);
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body: Value = serde_json::from_slice(&bytes[head..]).unwrap_or(Value::Null);
    if path == "/api/pull" {
        return pull(stream, state).await;
    }
    let (status, kind, answer) = {
        let mut state = state.lock().expect("no panic holds it");
        state.calls.push(format!("{method} {path}"));
        state.answer(method, path, &body)
    };
    let reply = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// Half of a layer, then nothing more until the client leaves, which is how a pull is cancelled.
async fn pull(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let note = |call: &str| state.lock().expect("no panic holds it").calls.push(call.into());
    note("POST /api/pull");
    let lines = "{\"status\":\"pulling manifest\"}\n\
        {\"status\":\"pulling 0123456789ab\",\"digest\":\"sha256:01\",\"total\":200,\"completed\":100}\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{head}{lines}").as_bytes()).await?;
    while stream.read(&mut [0; 64]).await.unwrap_or(0) > 0 {}
    note("pull cancelled");
    Ok(())
}

type Reply = (&'static str, &'static str, String);

fn reply(status: &'static str, body: &Value) -> Reply {
    (status, "application/json; charset=utf-8", body.to_string())
}

impl State {
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> Reply {
        match (method, path) {
            ("GET", "/") => ("200 OK", "text/plain; charset=utf-8", "Ollama is running".into()),
            ("GET", "/api/version") => reply("200 OK", &json!({ "version": "0.33.0" })),
            ("GET", "/api/tags") => reply("200 OK", &json!({ "models": self.list(|_| true) })),
            ("GET", "/api/ps") => reply("200 OK", &json!({ "models": self.list(|model| model.loaded) })),
            ("DELETE", "/api/delete") if self.refuse_deletes => {
                let why = "remove /usr/share/ollama/.ollama/models/manifests: permission denied";
                reply("500 Internal Server Error", &json!({ "error": why }))
            }
            ("DELETE", "/api/delete") => {
                let name = body["model"].as_str().unwrap_or_default();
                match self.models.remove(name) {
                    Some(_) => ("200 OK", "text/plain", String::new()),
                    None => missing(name),
                }
            }
            ("POST", "/api/show") => self.show(body),
            ("POST", "/api/generate") => self.run(body, "completion", "generate"),
            ("POST", "/api/embed") => self.run(body, "embedding", "embed"),
            _ => ("404 Not Found", "text/plain", "404 page not found".into()),
        }
    }

    fn list(&self, wanted: impl Fn(&Model) -> bool) -> Vec<Value> {
        let entry = |(name, model): (&String, &Model)| {
            let mut entry = json!({
                "name": name, "model": name, "size": 5_225_388_164_u64,
                "digest": format!("sha256:{name}"),
                "details": {"parent_model": "", "format": "gguf", "family": "qwen3", "families": ["qwen3"],
                            "parameter_size": "8.2B", "quantization_level": "Q4_K_M"},
            });
            if model.loaded {
                entry["size_vram"] = json!(0);
                entry["context_length"] = json!(model.context);
                entry["expires_at"] = json!("2318-01-01T00:00:00Z");
            } else {
                entry["modified_at"] = json!("2026-11-01T00:00:00Z");
            }
            entry
        };
        self.models.iter().filter(|(_, model)| wanted(model)).map(entry).collect()
    }

    fn show(&self, body: &Value) -> Reply {
        let name = body["model"].as_str().unwrap_or_default();
        let Some(model) = self.models.get(name) else { return missing(name) };
        reply(
            "200 OK",
            &json!({
                "modelfile": "", "parameters": "", "template": "{{ .Prompt }}",
                "model_info": {"general.architecture": "qwen3", "general.parameter_count": 8_190_735_360_u64,
                               "qwen3.context_length": 40960, "qwen3.block_count": 36},
                "capabilities": model.capabilities,
            }),
        )
    }

    /// An empty request loads; with `keep_alive` 0 it unloads, before capabilities are looked at.
    fn run(&mut self, body: &Value, capability: &str, verb: &str) -> Reply {
        let name = body["model"].as_str().unwrap_or_default().to_owned();
        let refuse = self.refuse_loads;
        let Some(model) = self.models.get_mut(&name) else { return missing(&name) };
        let done = |reason: &str| json!({"model": name, "response": "", "done": true, "done_reason": reason});
        if body["keep_alive"] == 0 && verb == "generate" {
            model.loaded = false;
            return reply("200 OK", &done("unload"));
        }
        if !model.capabilities.contains(&capability) {
            return reply("400 Bad Request", &json!({"error": format!("{name:?} does not support {verb}")}));
        }
        if refuse {
            let why = "model requires more system memory (5.6 GiB) than is available (1.2 GiB)";
            return reply("500 Internal Server Error", &json!({ "error": why }));
        }
        model.loaded = true;
        // Its own default, and never more than the model was trained for.
        model.context = body["options"]["num_ctx"].as_u64().unwrap_or(4096).min(40960);
        if verb == "embed" {
            return reply("200 OK", &json!({"model": name, "embeddings": []}));
        }
        reply("200 OK", &done("load"))
    }
}

fn missing(name: &str) -> Reply {
    reply("404 Not Found", &json!({"error": format!("model '{name}' not found")}))
}
