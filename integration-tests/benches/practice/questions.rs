//! What is asked.

use futures_util::StreamExt;
use serde_json::{Value, json};

/// The model that answers in a few words.
pub(crate) const SHORT: &str = "short";

/// The one that answers in many tokens, and always as a stream.
pub(crate) const LONG: &str = "long";

/// Bytes of a long prompt: the files that an editor sends along.
const LONG_PROMPT: usize = 100_000;

/// One request.
pub(crate) struct Question {
    path: &'static str,
    /// None for a GET.
    body: Option<Value>,
    /// The client goes after the first piece.
    leaves: bool,
    status: u16,
}

/// What each of so many requests is; short chats more often than the rest.
pub(crate) fn question(number: usize) -> Question {
    let chat = |model: &str, text: &str, stream: bool| {
        json!({"model": model, "messages": [{"role": "system", "content": "You write code."},
               {"role": "user", "content": text}], "max_tokens": 256, "temperature": 0.2, "stream": stream})
    };
    let post = |path, body| Question { path, body: Some(body), leaves: false, status: 200 };
    let ask = "Why does this not compile? fn main() { println!(\"{}\", 1) }\n".repeat(4);
    match number % 32 {
        0..6 | 24.. => post("/v1/chat/completions", chat(SHORT, &ask, false)),
        6..9 => post("/v1/chat/completions", chat(SHORT, &ask, true)),
        9..12 => post("/v1/chat/completions", chat(LONG, &ask, true)),
        12 => post("/v1/chat/completions", chat(SHORT, &long_prompt(), false)),
        13 => post("/v1/completions", json!({"model": SHORT, "prompt": ask, "max_tokens": 64})),
        14 => post("/v1/messages", messages(SHORT, &ask, false)),
        15 => post("/v1/messages", messages(LONG, &ask, true)),
        16 => post("/api/chat", chat(SHORT, &ask, false)),
        17 => post("/api/chat", chat(LONG, &ask, true)),
        18 => post("/v1/responses", json!({"model": SHORT, "input": ask})),
        19 => post("/v1/responses", json!({"model": LONG, "input": ask, "stream": true})),
        20 => post("/v1/chat/completions", chat("mesh/code", &ask, true)),
        21 => Question { leaves: true, ..post("/v1/chat/completions", chat(LONG, &ask, true)) },
        22 => {
            // Another one each time: who asks for the same again and again gets a 429.
            let missing = format!("nobody-has-{number}");
            Question { status: 404, ..post("/v1/chat/completions", chat(&missing, &ask, false)) }
        }
        23 => Question { path: "/v1/models", body: None, leaves: false, status: 200 },
    }
}

fn messages(model: &str, text: &str, stream: bool) -> Value {
    json!({"model": model, "max_tokens": 256, "system": "You write code.", "stream": stream,
           "messages": [{"role": "user", "content": text}]})
}

fn long_prompt() -> String {
    let line = "    let answer = self.ask(question, \"a line of a file\").await?; // and what it is for\n";
    line.repeat(LONG_PROMPT / line.len())
}

/// A client whose connections stay open, as those of editors do.
#[derive(Clone)]
pub(crate) struct Asker {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Asker {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        // Already set is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([]);
        Self { http: http.build().expect("a client"), url: url.into(), key: key.into() }
    }

    /// Whether the mesh lists `model`.
    pub(crate) async fn has(&self, model: &str) -> bool {
        let request = self.http.get(format!("{}/v1/models", self.url)).bearer_auth(&self.key);
        let Ok(response) = request.send().await else { return false };
        response.text().await.is_ok_and(|text| text.contains(&format!("\"{model}\"")))
    }

    /// Asks, and reads the answer as far as this client would.
    pub(crate) async fn ask(&self, question: &Question) {
        let url = format!("{}{}", self.url, question.path);
        let request = match &question.body {
            Some(body) => self.http.post(url).body(body.to_string()),
            None => self.http.get(url),
        };
        let request = request.bearer_auth(&self.key).header("content-type", "application/json");
        let response = request.send().await.expect("an answer");
        let status = response.status();
        let leaves = question.leaves && status == question.status;
        let mut pieces = response.bytes_stream();
        let mut answer = Vec::new();
        while let Some(piece) = pieces.next().await {
            answer.extend_from_slice(&piece.expect("a whole answer"));
            if leaves {
                return;
            }
        }
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, question.status, "{}: {text}", question.path);
    }
}
