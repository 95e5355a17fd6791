//! An HTTP server that looks like llama.cpp's to the agent and answers requests as a test tells it.
//!
//! It is a simulator, used only for faults that a real engine cannot be told to make: dying at a chosen
//! moment, silence, a model that loads for a chosen number of requests. Everything else is tested with the
//! real engine. What it says of itself was recorded from llama.cpp b11549.

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// One step of an answer's body.
#[derive(Debug, Clone)]
pub enum Step {
    /// These bytes.
    Send(String),
    /// Waits for [`ScriptedEngine::go_on`].
    Wait,
    /// Waits for as long as a token takes.
    Pause(Duration),
    /// The connection breaks. What was sent just before may be lost with it; a [`Step::Wait`] prevents that.
    Break,
    /// Nothing more comes, and the connection stays.
    Hang,
}

/// How one POST is answered.
#[derive(Debug, Clone)]
pub enum Script {
    /// A head and a body.
    Answer {
        /// HTTP status.
        status: u16,
        /// Media type.
        content_type: &'static str,
        /// The body; it ends cleanly after the last step unless that says otherwise.
        body: Vec<Step>,
    },
    /// The connection breaks instead.
    HangUp,
    /// Nothing ever comes.
    Silence,
}

impl Script {
    /// A JSON answer.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        let body = vec![Step::Send(body.to_string())];
        Self::Answer { status, content_type: "application/json; charset=utf-8", body }
    }

    /// A stream of events: the role, one chunk for each of `texts`, and then `end`.
    #[must_use]
    pub fn stream(texts: &[&str], end: &[Step]) -> Self {
        let mut body = vec![Step::Send(chunk(&json!({"role": "assistant", "content": null})))];
        body.extend(texts.iter().map(|text| Step::Send(chunk(&json!({"content": text})))));
        body.extend_from_slice(end);
        Self::Answer { status: 200, content_type: "text/event-stream", body }
    }

    /// What llama.cpp says on every path while it loads its model.
    #[must_use]
    pub fn loading() -> Self {
        let error = json!({"message": "Loading model", "type": "unavailable_error", "code": 503});
        Self::json(503, &json!({ "error": error }))
    }

    /// A whole chat.
    #[must_use]
    pub fn chat(text: &str) -> Self {
        Self::json(
            200,
            &json!({
                "choices": [{"finish_reason": "stop", "index": 0,
                             "message": {"role": "assistant", "content": text}}],
                "created": 1_795_221_182, "model": "scripted", "object": "chat.completion",
                "usage": {"completion_tokens": 1, "prompt_tokens": 2, "total_tokens": 3},
                "id": "chatcmpl-scripted",
            }),
        )
    }

    /// A whole stream with a pause after each text.
    #[must_use]
    pub fn slow_stream(texts: &[&str], pause: Duration) -> Self {
        let tokens =
            texts.iter().flat_map(|text| [Step::Send(chunk(&json!({"content": text}))), Step::Pause(pause)]);
        let end = [Step::Send(finish()), Step::Send("data: [DONE]\n\n".into())];
        Self::stream(&[], &tokens.chain(end).collect::<Vec<_>>())
    }

    /// A whole stream.
    #[must_use]
    pub fn whole_stream(texts: &[&str]) -> Self {
        Self::stream(texts, &[Step::Send(finish()), Step::Send("data: [DONE]\n\n".into())])
    }
}

fn chunk(delta: &Value) -> String {
    let choices = json!([{"finish_reason": null, "index": 0, "delta": delta}]);
    format!(
        "data: {}\n\n",
        json!({"choices": choices, "id": "chatcmpl-scripted", "object": "chat.completion.chunk"})
    )
}

fn finish() -> String {
    let choices = json!([{"finish_reason": "stop", "index": 0, "delta": {}}]);
    format!(
        "data: {}\n\n",
        json!({"choices": choices, "id": "chatcmpl-scripted", "object": "chat.completion.chunk"})
    )
}

/// A POST as it came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its path.
    pub path: String,
    /// Its body.
    pub body: Bytes,
}

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// All POSTs.
    pub posts: Vec<Recorded>,
    /// How many of them were given up by the other side before their script had ended.
    pub given_up: usize,
    /// Bytes of answers that the other side has taken.
    pub taken: usize,
}

#[derive(Default)]
struct Scripts {
    next: VecDeque<Script>,
    always: Option<Script>,
}

struct Shared {
    model: String,
    slots: u32,
    scripts: Mutex<Scripts>,
    events: watch::Sender<Events>,
    go_on: Notify,
}

impl Shared {
    fn scripts(&self) -> MutexGuard<'_, Scripts> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running scripted engine; it ends when dropped.
pub struct ScriptedEngine {
    /// Where it answers.
    pub url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl ScriptedEngine {
    /// An engine that holds `model` and, until told otherwise, answers each chat with `from MODEL`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(model: &str) -> Self {
        Self::with_slots(model, 2).await
    }

    /// Bytes of its answers that the other side has taken so far.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.shared.events.borrow().taken
    }

    /// As [`ScriptedEngine::start`], with so many requests at once.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn with_slots(model: &str, slots: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("just bound"));
        let shared = Arc::new(Shared {
            model: model.into(),
            slots,
            scripts: Mutex::default(),
            events: watch::Sender::default(),
            go_on: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        let listening = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = listening.clone();
                let service = service_fn(move |request| serve(shared.clone(), request));
                connections.spawn(async move {
                    // Scripts end connections in every way there is.
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { url, shared, _tasks: tasks }
    }

    /// The name of its model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.shared.model
    }

    /// The next POST that has no script yet is answered like this.
    pub fn next(&self, script: Script) {
        self.shared.scripts().next.push_back(script);
    }

    /// POSTs without a script of their own are answered like this from now on.
    pub fn always(&self, script: Script) {
        self.shared.scripts().always = Some(script);
    }

    /// Ends one [`Step::Wait`], also one that begins later.
    pub fn go_on(&self) {
        self.shared.go_on.notify_one();
    }

    /// All POSTs so far.
    #[must_use]
    pub fn posts(&self) -> Vec<Recorded> {
        self.shared.events.borrow().posts.clone()
    }

    /// Resolves when `wanted` is true of what happened.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&Events) -> bool) {
        let mut events = self.shared.events.subscribe();
        drop(crate::soon(what, events.wait_for(wanted)).await.expect("the engine lives"));
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    if request.method() == http::Method::GET {
        return Ok(about(&shared.model, shared.slots, &path));
    }
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let streams = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["stream"] == true);
    let script = {
        let mut scripts = shared.scripts();
        scripts.next.pop_front().or_else(|| scripts.always.clone()).unwrap_or_else(|| {
            let text = format!("from {}", shared.model);
            if streams { Script::whole_stream(&[&text]) } else { Script::chat(&text) }
        })
    };
    shared.events.send_modify(|events| events.posts.push(Recorded { path, body }));
    let watched = Watched { shared, over: false };
    match script {
        Script::HangUp => {
            watched.over();
            Err(io::Error::other("as the script says"))
        }
        Script::Silence => {
            let _watched = watched;
            std::future::pending().await
        }
        Script::Answer { status, content_type, body } => {
            let status = StatusCode::from_u16(status).map_err(io::Error::other)?;
            Ok(reply(status, content_type, play(body, watched)))
        }
    }
}

/// Notices when the other side gives up: its answer is dropped before it is over.
struct Watched {
    shared: Arc<Shared>,
    over: bool,
}

impl Watched {
    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.over {
            self.shared.events.send_modify(|events| events.given_up += 1);
        }
    }
}

fn play(steps: Vec<Step>, watched: Watched) -> Body {
    let frames = stream::unfold(Some((steps.into_iter(), watched)), |state| async move {
        let (mut steps, watched) = state?;
        loop {
            match steps.next() {
                Some(Step::Send(text)) => {
                    watched.shared.events.send_modify(|events| events.taken += text.len());
                    return Some((Ok(Frame::data(Bytes::from(text))), Some((steps, watched))));
                }
                Some(Step::Pause(pause)) => tokio::time::sleep(pause).await,
                Some(Step::Wait) => watched.shared.go_on.notified().await,
                Some(Step::Break) => {
                    watched.over();
                    return Some((Err(io::Error::other("as the script says")), None));
                }
                Some(Step::Hang) => std::future::pending().await,
                None => {
                    watched.over();
                    return None;
                }
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn reply(status: StatusCode, content_type: &str, body: Body) -> Response<Body> {
    let reply = Response::builder().status(status).header("server", "llama.cpp");
    reply.header("content-type", content_type).body(body).expect("good headers")
}

fn about(model: &str, slots: u32, path: &str) -> Response<Body> {
    let (status, kind, text) = said(model, slots, path);
    let status = StatusCode::from_u16(status).expect("a constant");
    reply(status, kind, Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync())
}

/// What an idle llama-server with one model says on its GET paths: status, media type, body.
pub(crate) fn said(model: &str, slots: u32, path: &str) -> (u16, &'static str, String) {
    match path {
        "/health" => (200, "application/json", json!({"status": "ok"}).to_string()),
        "/props" => (200, "application/json", props(model, slots).to_string()),
        "/v1/models" => (200, "application/json", models(model).to_string()),
        "/metrics" => (200, "text/plain; version=0.0.4", METRICS.to_owned()),
        _ => (
            404,
            "application/json",
            json!({"error": {"message": "File Not Found", "code": 404}}).to_string(),
        ),
    }
}

fn props(model: &str, slots: u32) -> Value {
    json!({
        "default_generation_settings": {"params": {"seed": 4_294_967_295_u32, "stream": false}, "n_ctx": 1024},
        "total_slots": slots,
        "model_alias": model,
        "model_ftype": "Q8_0",
        "model_path": format!("models/{model}.gguf"),
        "modalities": {"vision": false, "video": false, "audio": false},
        "endpoint_slots": true,
        "endpoint_props": true,
        "endpoint_metrics": true,
        "ui": true,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "chat_template_caps": {"supports_tools": false, "supports_tool_calls": false},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "build_info": "b11549-unknown",
        "is_sleeping": false,
    })
}

fn models(model: &str) -> Value {
    json!({
        "object": "list",
        "data": [{
            "id": model, "aliases": [model], "tags": [], "object": "model", "created": 1_795_221_182,
            "owned_by": "llamacpp",
            "meta": {"vocab_type": 2, "n_vocab": 1024, "n_ctx": 1024, "n_ctx_train": 2048, "n_embd": 192,
                     "n_params": 1_377_600, "size": 1_467_648, "ftype": "Q8_0"},
        }],
    })
}

const METRICS: &str = "# HELP llamacpp:requests_processing Number of requests processing\n\
    # TYPE llamacpp:requests_processing gauge\n\
    llamacpp:requests_processing 0\n\
    # HELP llamacpp:requests_deferred Number of requests deferred\n\
    # TYPE llamacpp:requests_deferred gauge\n\
    llamacpp:requests_deferred 0\n";
