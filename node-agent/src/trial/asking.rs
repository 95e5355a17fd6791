//! One question to an engine and its answer, with the times of both.

use crate::engine::answer::Reading;
use crate::supervisor::Lease;
use crate::truth::other_name;
use futures_util::StreamExt as _;
use mesh_core::machine::EngineKind;
use mesh_core::trial::{Question, Run};
use reqwest::{Client, Response, redirect};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The longest answer that is read, in bytes: the events of 20,000 tokens.
const ANSWER_LIMIT: usize = 16 << 20;
/// The longest text that is told, in bytes.
pub(super) const TEXT_LIMIT: usize = 256 << 10;
/// The longest words of an engine about a fault, in bytes.
const FAULT_LIMIT: usize = 300;

/// Asks one engine for one model.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    client: Client,
    base_url: Arc<str>,
    api_key: Option<Arc<str>>,
    upstream: Arc<str>,
    /// The agent started the engine, and gave the model its name.
    is_ours: bool,
    pub(super) kind: EngineKind,
    patience: Duration,
}

impl Asker {
    pub(super) fn new(
        lease: &Lease,
        kind: EngineKind,
        is_ours: bool,
        patience_s: u32,
    ) -> reqwest::Result<Self> {
        // reqwest wants one even for plain HTTP; already set is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            // An engine that closes a kept connection just then would cost a repetition.
            .pool_max_idle_per_host(0)
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .tls_certs_only([])
            .build()?;
        Ok(Self {
            client,
            base_url: lease.base_url.clone(),
            api_key: lease.api_key.clone(),
            upstream: lease.upstream_model.clone(),
            is_ours,
            kind,
            patience: Duration::from_secs(patience_s.into()),
        })
    }

    /// Asks as it is written, with the engine's own name for the model.
    pub(super) async fn ask(&self, question: &Question, began: Instant) -> Run {
        let body = match serde_json::from_str::<Value>(&question.body) {
            Ok(body) if body.is_object() => body,
            Ok(_) | Err(_) => {
                let error = Some("the question's body is no JSON object".to_owned());
                return Run { id: question.id.clone(), error, ..Run::default() };
            }
        };
        let run = self.send(&question.path, body, began).await;
        Run { id: question.id.clone(), ..run }
    }

    /// A JSON document of the engine's own dialect.
    pub(super) async fn document(&self, path: &str, body: Value) -> Result<Value, String> {
        self.read_document(self.client.post(format!("{}{path}", self.base_url)).json(&body)).await
    }

    /// What llama.cpp says of the model that it serves.
    pub(super) async fn props(&self) -> Result<Value, String> {
        self.read_document(self.client.get(format!("{}/props", self.base_url))).await
    }

    async fn read_document(&self, mut request: reqwest::RequestBuilder) -> Result<Value, String> {
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let asking = async {
            let whole = whole(request.send().await.map_err(broke)?).await?;
            serde_json::from_slice(&whole).map_err(|_| "JSON that is none".to_owned())
        };
        let limit = format!("no end within {} s", self.patience.as_secs());
        timeout(self.patience, asking).await.unwrap_or(Err(limit))
    }

    /// Sends `body` and tells what came and when. What goes wrong is told too.
    pub(super) async fn send(&self, path: &str, mut body: Value, began: Instant) -> Run {
        body["model"] = (*self.upstream).into();
        let mut request = self.client.post(format!("{}{path}", self.base_url)).json(&body);
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let sent = Instant::now();
        let mut run = Run { at_s: sent.duration_since(began).as_secs_f64(), ..Run::default() };
        let ended = timeout(self.patience, receive(request, sent, &mut run)).await;
        run.total_s = sent.elapsed().as_secs_f64();
        match ended {
            // Figures of another model would stand under this one's name.
            Ok(Ok(answered)) => run.error = other_name(self.is_ours, &self.upstream, answered.as_ref()),
            Ok(Err(why)) => run.error = Some(why),
            Err(_) => run.error = Some(format!("no end within {} s", self.patience.as_secs())),
        }
        run
    }
}

fn broke(error: reqwest::Error) -> String {
    format!("the connection broke: {}", error.without_url())
}

/// The whole of a good answer.
async fn whole(response: Response) -> Result<Vec<u8>, String> {
    let status = response.status();
    let (mut body, mut whole) = (response.bytes_stream(), Vec::new());
    while let Some(chunk) = body.next().await {
        whole.extend_from_slice(&chunk.map_err(broke)?);
        within(whole.len())?;
    }
    if status.is_success() {
        return Ok(whole);
    }
    let text = String::from_utf8_lossy(&whole);
    Err(format!("status {}: {}", status.as_u16(), cut(text.trim(), FAULT_LIMIT)))
}

fn within(bytes: usize) -> Result<usize, String> {
    if bytes > ANSWER_LIMIT { Err(format!("more than {} MiB", ANSWER_LIMIT >> 20)) } else { Ok(bytes) }
}

/// Reads the answer into `run`, and tells which model gave it, by the engine's word.
async fn receive(
    request: reqwest::RequestBuilder,
    sent: Instant,
    run: &mut Run,
) -> Result<Option<String>, String> {
    let response = request.send().await.map_err(broke)?;
    let status = response.status();
    let is_json = response
        .headers()
        .get(reqwest::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let (mut reading, mut bytes, mut last) = (Reading::default(), 0, None::<Instant>);
    if is_json || !status.is_success() {
        let whole = whole(response).await?;
        reading.take(&whole).map_err(|error| error.to_string())?;
        run.raw = Some(cut(&String::from_utf8_lossy(&whole), TEXT_LIMIT).to_owned());
        run.ttft_s = Some(sent.elapsed().as_secs_f64());
    } else {
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(broke)?;
            bytes = within(bytes + chunk.len())?;
            if !reading.take(&chunk).map_err(|error| error.to_string())? {
                continue;
            }
            let now = Instant::now();
            if let Some(last) = last.replace(now) {
                let gap = now.duration_since(last).as_secs_f64();
                run.longest_gap_s = Some(run.longest_gap_s.map_or(gap, |known| known.max(gap)));
            } else {
                run.ttft_s = Some(now.duration_since(sent).as_secs_f64());
            }
        }
    }
    let reply = match reading.end() {
        Ok(reply) => reply,
        // Counts of tokens and the like are no answers, and still what was asked for.
        Err(_) if is_json => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if let Some(calls) = reply.calls_json() {
        run.raw = Some(calls);
    }
    run.text = cut(&reply.text, TEXT_LIMIT).to_owned();
    run.reasoning = reply.reasoning.map(|thought| cut(&thought, TEXT_LIMIT).to_owned());
    (run.prompt_tokens, run.cached_tokens) = (reply.prompt_tokens, reply.cached_tokens);
    (run.output_tokens, run.finish_reason) = (reply.tokens, reply.finish_reason);
    (run.engine_prefill, run.engine_decode) = (reply.prefill, reply.decode);
    Ok(reply.model)
}

/// The beginning of `text`, of `most` bytes at most.
pub(super) fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Asks an engine that calls its model `name` whatever it is asked for.
    async fn answered_as(name: &str, is_ours: bool) -> Run {
        answered(name, is_ours, Duration::ZERO).await
    }

    /// Asks an engine that takes so long, by the clock that trials go by.
    async fn answered_after(time: Duration) -> Run {
        answered("tiny", true, time).await
    }

    async fn answered(name: &str, is_ours: bool, takes: Duration) -> Run {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base_url = format!("http://{}", listener.local_addr().expect("bound"));
        let message = json!({"role": "assistant", "content": "Blue."});
        let body =
            json!({"model": name, "choices": [{"message": message, "finish_reason": "stop"}]}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let engine = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("somebody asks");
            let mut head = [0; 4096];
            assert!(socket.read(&mut head).await.expect("a request") > 0);
            if !takes.is_zero() {
                tokio::time::pause();
                tokio::time::advance(takes).await;
                tokio::time::resume();
            }
            socket.write_all(answer.as_bytes()).await.expect("it is read");
        });
        drop(rustls::crypto::ring::default_provider().install_default());
        let asker = Asker {
            client: Client::builder().no_proxy().tls_certs_only([]).build().expect("a client"),
            base_url: base_url.into(),
            api_key: None,
            upstream: "tiny".into(),
            is_ours,
            kind: EngineKind::LlamaServer,
            patience: Duration::from_secs(30),
        };
        let run = asker.send("/v1/chat/completions", json!({"messages": []}), Instant::now()).await;
        engine.await.expect("no panic");
        run
    }

    #[tokio::test]
    async fn times_are_of_the_clock_that_only_goes_forward_and_not_of_the_wall() {
        let (begun, asked) = (std::time::SystemTime::now(), answered_after(Duration::from_secs(20)).await);
        assert!((20.0..29.0).contains(&asked.total_s), "{}", asked.total_s);
        assert!(asked.ttft_s.is_some_and(|ttft| (20.0..29.0).contains(&ttft)), "{:?}", asked.ttft_s);
        assert!(
            begun.elapsed().is_ok_and(|wall| wall.as_secs() < 15),
            "the clock on the wall went on as it does"
        );
    }

    #[tokio::test]
    async fn an_answer_of_another_model_is_no_figure_of_this_one() {
        let right = answered_as("tiny", true).await;
        assert_eq!((right.text.as_str(), right.error), ("Blue.", None));
        let wrong = answered_as("somebody-else", true).await.error.expect("it is told");
        assert_eq!(wrong, "its engine answers as `somebody-else` when asked for `tiny`");
        // Other engines have names of their own: `llama3` is `llama3:latest`.
        assert_eq!(answered_as("somebody-else", false).await.error, None);
    }
}
