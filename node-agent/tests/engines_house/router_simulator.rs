//! A simulator of llama.cpp's server in router mode: it holds no model and computes nothing.
//!
//! It is a simulator because no package registry carries the binary. Statuses, texts and shapes are those captured from
//! the real one (ggml 0.25.3): what `/models` lists, `model is already running`, `File Not Found`, an eviction before
//! a load that fails, an unload that succeeds twice. A load and an unload take [`STEPS`] looks at `/models`.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Looks at `/models` until something that was begun is done.
const STEPS: u32 = 2;

/// A simulated router; it stops listening when dropped.
pub(crate) struct RouterSimulator {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    models: BTreeMap<&'static str, Model>,
    max_instances: usize,
    calls: Vec<String>,
    /// `/metrics` of a model is not answered: it computes a batch.
    computes: bool,
}

#[derive(Clone)]
struct Model {
    status: &'static str,
    /// Looks until the status is the next one.
    steps: u32,
    failed: bool,
    broken: bool,
}

impl RouterSimulator {
    /// Models `broken`, `one`, `two` and `three`, none loaded, two at a time.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let model = |name: &'static str| {
            (name, Model { status: "unloaded", steps: 0, failed: false, broken: name == "broken" })
        };
        let models = ["broken", "one", "two", "three"].map(model).into();
        let state = State { models, max_instances: 2, calls: Vec::new(), computes: false };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { drop(serve(stream, &shared).await) });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call so far as `METHOD path`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// As if it had come to this state by itself.
    pub(crate) fn set(&self, model: &str, status: &'static str) {
        self.change(model, |model| model.status = status);
    }

    /// As if its last life had failed.
    pub(crate) fn fail(&self, model: &str) {
        self.change(model, |model| model.failed = true);
    }

    /// From now on loaded models compute and count nothing meanwhile.
    pub(crate) fn compute(&self) {
        self.lock().computes = true;
    }

    pub(crate) fn status(&self, model: &str) -> &'static str {
        self.lock().models[model].status
    }

    fn change(&self, model: &str, with: impl FnOnce(&mut Model)) {
        with(self.lock().models.get_mut(model).expect("a known model"));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds it")
    }
}

impl Drop for RouterSimulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            break (end + 4, length.unwrap_or(0_usize));
        }
        if stream.read_buf(&mut bytes).await? == 0 || bytes.len() > 64 << 10 {
            return Ok(());
        }
    };
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let first = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body: Value = serde_json::from_slice(&bytes[head..]).unwrap_or(Value::Null);
    let answer = {
        let mut state = state.lock().expect("no panic holds it");
        state.calls.push(format!("{method} {path}"));
        state.answer(method, path, body["model"].as_str().unwrap_or_default())
    };
    let Some((status, answer)) = answer else { return std::future::pending().await };
    let reply = format!(
        "HTTP/1.1 {status}\r\nserver: llama.cpp\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(reply.as_bytes()).await
}

fn error(code: u16, message: &str, kind: &str) -> (&'static str, String) {
    let status = if code == 404 { "404 Not Found" } else { "400 Bad Request" };
    (status, json!({"error": {"code": code, "message": message, "type": kind}}).to_string())
}

impl State {
    /// `None`: never.
    fn answer(&mut self, method: &str, path: &str, model: &str) -> Option<(&'static str, String)> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let about = query.split('&').find_map(|pair| pair.strip_prefix("model="));
        if let Some(about) = about {
            // What would load it, if the agent asked so.
            if self.models.get(about).is_none_or(|model| model.status != "loaded") {
                return Some(error(400, "model is not loaded", "invalid_request_error"));
            }
            return match path {
                "/metrics" if self.computes => None,
                "/metrics" => {
                    let text = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 3\n";
                    Some(("200 OK", text.into()))
                }
                _ => Some(("200 OK", include_str!("../captures/llama-server-props.json").into())),
            };
        }
        let good = |value: Value| Some(("200 OK", value.to_string()));
        match (method, path) {
            ("GET", "/props") => good(json!({
                "role": "router", "max_instances": self.max_instances, "models_autoload": false,
                "default_generation_settings": {"params": null, "n_ctx": 0}, "build_info": "b1-0c1e570",
            })),
            ("GET", "/models") => {
                self.step();
                good(json!({"object": "list", "data": self.models.iter().map(entry).collect::<Vec<_>>()}))
            }
            ("POST", "/models/load") => Some(self.load(model)),
            ("POST", "/models/unload") => {
                let Some(model) = self.models.get_mut(model) else {
                    return Some(error(404, "File Not Found", "not_found_error"));
                };
                model.steps = STEPS;
                Some(("200 OK", r#"{"success":true}"#.into()))
            }
            _ => Some(error(404, "File Not Found", "not_found_error")),
        }
    }

    fn load(&mut self, name: &str) -> (&'static str, String) {
        let Some(model) = self.models.get(name) else {
            return error(404, "File Not Found", "not_found_error");
        };
        if model.status != "unloaded" {
            return error(400, "model is already running", "invalid_request_error");
        }
        let running: Vec<&'static str> =
            self.models.iter().filter(|(_, m)| m.status != "unloaded").map(|(name, _)| *name).collect();
        if running.len() >= self.max_instances {
            self.models.get_mut(running[0]).expect("listed").status = "unloaded";
        }
        let model = self.models.get_mut(name).expect("looked up");
        model.steps = STEPS + 2;
        ("200 OK", r#"{"success":true}"#.into())
    }

    /// Brings what was begun one look further.
    fn step(&mut self) {
        for model in self.models.values_mut().filter(|model| model.steps > 0) {
            model.steps -= 1;
            match (model.status, model.steps) {
                // The list tells of the life before until the new one has begun.
                ("unloaded", STEPS) => (model.status, model.failed) = ("loading", false),
                ("loading", 0) if model.broken => (model.status, model.failed) = ("unloaded", true),
                ("loading", 0) => model.status = "loaded",
                ("loaded" | "sleeping", 0) => model.status = "unloaded",
                _ => {}
            }
        }
    }
}

fn entry((name, model): (&&'static str, &Model)) -> Value {
    let mut status = json!({"value": model.status, "args": ["llama-server", "--alias", name]});
    if model.failed {
        status["failed"] = json!(true);
        status["exit_code"] = json!(1);
    }
    let mut entry = json!({
        "id": name, "object": "model", "owned_by": "llamacpp", "status": status,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    });
    if model.status == "loaded" {
        entry["meta"] = json!({"n_ctx": 1024, "n_ctx_train": 2048, "n_params": 1_377_600, "size": 1_467_648});
    }
    entry
}
