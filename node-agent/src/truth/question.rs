//! The questions of the truth checks over HTTP, and what engines answer: events, JSON, or no answer at all.

use crate::engine::answer::{NoAnswer, Reading};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use mesh_core::machine::EngineKind;
use mesh_core::verdict::{Probe, ProbeInput};
use reqwest::{Client, redirect};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long one question may take: 64 tokens of the slowest model that is of any use.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The longest answer that is read: 64 tokens with the words around them are some 20 KiB.
const ANSWER_LIMIT: usize = 512 << 10;
/// Tokens of the speed probe: enough for a mean, some seconds on a CPU.
pub(super) const SPEED_TOKENS: u32 = 64;
/// Fewer tokens than this tell no speed.
pub(crate) const LEAST_TOKENS: u32 = 16;
/// Prompts shorter than this tell no speed of reading: the fixed cost of one step dominates.
pub(crate) const LEAST_PROMPT: u32 = 64;
/// Contexts shorter than this get the short prompt: small vocabularies make two tokens of a word.
const LONG_PROMPT_CONTEXT: u32 = 1024;

/// Something to write about; its length makes the speed of reading measurable.
const SPEED_PROMPT: &str = "Tell a long story about a small village by the sea. In the village lives an old \
    fisherman with his two children and a grey cat. Every morning before the sun comes up they walk down to the \
    harbour, look at the sky and the waves, and decide whether the boat can go out. In winter the storms are long \
    and the nights are dark, so the people of the village meet in the house of the teacher, light a fire, and tell \
    each other what they have seen and heard during the year. One evening a stranger knocks at the door, wet from \
    the rain, with a wooden box under his arm, and asks whether he may stay until the wind has turned.";
/// The same for models with a short context.
const SHORT_SPEED_PROMPT: &str = "Tell a long story about a small village by the sea.";

pub(crate) use crate::engine::answer::Reply;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// One of the three prompts.
    Prompt(Probe),
    /// How fast it is.
    Speed {
        /// Whether it chats, or goes on with a text.
        chat: bool,
        /// Tokens of one request, where known.
        context: Option<u32>,
    },
}

/// Who is asked.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// What it is.
    pub(crate) kind: EngineKind,
    /// Its address.
    pub(crate) base_url: Arc<str>,
    /// The key it wants.
    pub(crate) api_key: Option<Arc<str>>,
    /// What it calls the model.
    pub(crate) upstream: Arc<str>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeFault {
    /// It answers with success and something else than an answer.
    #[error("it answers with something that is no answer: {0}")]
    NotAnAnswer(String),
    /// It answers with an error.
    #[error("it answers with status {0}")]
    Status(u16),
    /// It does not answer in time.
    #[error("it did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broke(String),
}

impl From<NoAnswer> for ProbeFault {
    fn from(NoAnswer(why): NoAnswer) -> Self {
        Self::NotAnAnswer(why)
    }
}

/// Who asks. A trait, so that tests of the schedule need no engine.
pub(crate) trait Prober: Send + Sync + 'static {
    /// Asks one question; dropping the future ends the engine's work on it.
    fn ask(&self, target: &Target, question: Question) -> BoxFuture<'static, Result<Reply, ProbeFault>>;
}

/// Asks over HTTP, as `serve.rs` does for clients.
#[derive(Debug, Clone)]
pub(crate) struct HttpProber {
    client: Client,
}

impl HttpProber {
    /// # Errors
    /// When no HTTP client can be made.
    pub(crate) fn new() -> reqwest::Result<Self> {
        // reqwest wants one even for plain HTTP; already set is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(0)
            .tls_certs_only([])
            .build()?;
        Ok(Self { client })
    }
}

impl Prober for HttpProber {
    fn ask(&self, target: &Target, question: Question) -> BoxFuture<'static, Result<Reply, ProbeFault>> {
        let (path, body) = request(target.kind, &target.upstream, question);
        let mut request = self.client.post(format!("{}{path}", target.base_url)).json(&body);
        if let Some(key) = &target.api_key {
            request = request.bearer_auth(key);
        }
        Box::pin(
            async move { timeout(ANSWER_WITHIN, answer(request)).await.unwrap_or(Err(ProbeFault::Silent)) },
        )
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Reply, ProbeFault> {
    let broke = |error: reqwest::Error| ProbeFault::Broke(error.without_url().to_string());
    let response = request.send().await.map_err(broke)?;
    if !response.status().is_success() {
        return Err(ProbeFault::Status(response.status().as_u16()));
    }
    let (mut reading, mut bytes, mut first) = (Reading::default(), 0, None);
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(broke)?;
        bytes += chunk.len();
        if bytes > ANSWER_LIMIT {
            let why = format!("more than {} KiB for a few tokens", ANSWER_LIMIT >> 10);
            return Err(ProbeFault::NotAnAnswer(why));
        }
        // The beginning of the text, not of the answer: some engines send a role first.
        if reading.take(&chunk)? && first.is_none() {
            first = Some(Instant::now());
        }
    }
    let mut reply = telling(reading.end()?);
    // Engines without timings of their own: the time from the first token to the end, of all but the first.
    if let (None, Some(first), Some(tokens @ LEAST_TOKENS..)) = (reply.decode, first, reply.tokens) {
        let seconds = first.elapsed().as_secs_f64();
        reply.decode = (seconds > 0.0).then(|| f64::from(tokens - 1) / seconds);
    }
    Ok(reply)
}

/// Path and body of a question. Greedy and streamed: a stream that is dropped ends the engine's work at once.
pub(super) fn request(kind: EngineKind, upstream: &str, question: Question) -> (&'static str, Value) {
    let mut body = json!({
        "model": upstream,
        "temperature": 0,
        "seed": 1,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let mut set = |key: &str, value: Value| {
        body[key] = value;
    };
    let chat = |prompt: &str| json!([{"role": "user", "content": prompt}]);
    let path = match question {
        Question::Prompt(probe) => {
            set("max_tokens", probe.max_tokens.into());
            match probe.input {
                ProbeInput::Chat(prompt) => {
                    set("messages", chat(prompt));
                    "/v1/chat/completions"
                }
                ProbeInput::Complete(prompt) => {
                    set("prompt", prompt.into());
                    "/v1/completions"
                }
                ProbeInput::Fill { prefix, suffix } if kind == EngineKind::LlamaServer => {
                    set("input_prefix", prefix.into());
                    set("input_suffix", suffix.into());
                    set("n_predict", probe.max_tokens.into());
                    "/infill"
                }
                ProbeInput::Fill { prefix, suffix } => {
                    set("prompt", prefix.into());
                    set("suffix", suffix.into());
                    "/v1/completions"
                }
            }
        }
        Question::Speed { chat: chats, context } => {
            let long = context.is_none_or(|context| context >= LONG_PROMPT_CONTEXT);
            let prompt = if long { SPEED_PROMPT } else { SHORT_SPEED_PROMPT };
            set("max_tokens", SPEED_TOKENS.into());
            if kind == EngineKind::LlamaServer {
                // Or it would tell of the cache, and of models that have little to say.
                set("cache_prompt", false.into());
                set("ignore_eos", true.into());
            }
            if chats {
                set("messages", chat(prompt));
                "/v1/chat/completions"
            } else {
                set("prompt", prompt.into());
                "/v1/completions"
            }
        }
    };
    (path, body)
}

/// What `bytes` answer: events, or one JSON document. Rates over too few tokens are left out.
#[cfg(test)]
pub(super) fn read(bytes: &[u8]) -> Result<Reply, ProbeFault> {
    let mut reading = Reading::default();
    reading.take(bytes)?;
    Ok(telling(reading.end()?))
}

fn telling(mut reply: Reply) -> Reply {
    reply.decode = reply.decode.filter(|_| reply.decode_tokens >= Some(LEAST_TOKENS));
    reply.prefill = reply.prefill.filter(|_| reply.prefill_tokens >= Some(LEAST_PROMPT));
    reply
}
