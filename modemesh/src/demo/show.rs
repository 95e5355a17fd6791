//! What the demonstration shows: requests through the front door, as any client sends them.

use super::cast::Cast;
use super::failed;
use anyhow::Context as _;
use mesh_proto::v1::operator_client::OperatorClient;
use mesh_proto::v1::{CreateKeyRequest, StatusReply, StatusRequest};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Three engines start within a few seconds; a busy machine may need longer.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How often the status is asked for while waiting.
const POLL: Duration = Duration::from_millis(100);
/// Answers of the tiny models are short.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The node that is killed, and the mode that feels it.
const VICTIM: (&str, &str) = ("msi", "ask");

/// The demonstration's view of the mesh.
pub(super) struct Show {
    operator: OperatorClient<Channel>,
    client: reqwest::Client,
    url: String,
    key: String,
}

/// One answered request.
struct Answered {
    node: String,
    model: String,
    reason: String,
    took: Duration,
    text: String,
}

impl Show {
    pub(super) async fn open(cast: &mut Cast) -> anyhow::Result<Self> {
        let mut operator = OperatorClient::new(cast.operator().await?);
        let key = operator.create_key(CreateKeyRequest { name: "demo".into() }).await?.into_inner().key;
        let status = operator.status(StatusRequest {}).await?.into_inner();
        let url = status.router.context("a status without a router")?.client_url;
        // For the whole process; a second call is refused and changes nothing.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build()?;
        Ok(Self { operator, client, url, key })
    }

    /// Waits until every mode has a node that serves it.
    pub(super) async fn wait_until_ready(&mut self, cast: &mut Cast) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let status = self.operator.status(StatusRequest {}).await?.into_inner();
            let waiting = not_ready(&status);
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                drop(cast.operator().await);
                return Err(failed("the nodes are not ready", waiting.join("; ")).into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn one_request_per_mode(&mut self, out: &mut impl Write) -> anyhow::Result<()> {
        let status = self.operator.status(StatusRequest {}).await?.into_inner();
        writeln!(out, "\nOne request per mode:\n")?;
        writeln!(out, "  {:<13} {:<9} {:<15} {:>7}  {:<38}  ANSWER", "MODE", "NODE", "MODEL", "TIME", "WHY")?;
        for mode in &status.modes {
            let answered =
                self.ask(&mode.name).await.with_context(|| format!("asking mesh/{}", mode.name))?;
            writeln!(out, "{}", line(&mode.name, &answered))?;
        }
        Ok(())
    }

    pub(super) async fn kill_a_node(&mut self, cast: &mut Cast, out: &mut impl Write) -> anyhow::Result<()> {
        let (node, mode) = VICTIM;
        let pid = cast.kill(node).await?;
        writeln!(
            out,
            "\nKilled {node} (kill -9 {}) and asked mesh/{mode} at once:\n",
            pid.unwrap_or_default()
        )?;
        let answered = self.ask(mode).await.with_context(|| format!("asking mesh/{mode} after the kill"))?;
        writeln!(out, "{}", line(mode, &answered))?;
        let status = self.operator.status(StatusRequest {}).await?.into_inner();
        writeln!(out, "\nThe mesh says:")?;
        for health in &status.health {
            writeln!(out, "  {}", health.message)?;
        }
        Ok(())
    }

    async fn ask(&self, mode: &str) -> anyhow::Result<Answered> {
        let model = format!("mesh/{mode}");
        let question = json!([{ "role": "user", "content": "What is Python?" }]);
        let (path, body) = match mode {
            "embed" => ("embeddings", json!({ "model": model, "input": "What is Python?" })),
            "autocomplete" => {
                ("completions", json!({ "model": model, "prompt": "def main():", "max_tokens": 16 }))
            }
            _ => ("chat/completions", json!({ "model": model, "messages": question, "max_tokens": 24 })),
        };
        let started = Instant::now();
        let request = self.client.post(format!("{}/v1/{path}", self.url)).bearer_auth(&self.key).json(&body);
        let reply = request.send().await?;
        let header = |name: &str| {
            reply.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned()
        };
        let (node, model, reason) = (header("x-mesh-node"), header("x-mesh-model"), header("x-mesh-reason"));
        let status = reply.status();
        let value: Value = reply.json().await?;
        if !status.is_success() {
            let why = value["error"]["message"].as_str().unwrap_or_default().to_owned();
            return Err(failed(&format!("the mesh answered with status {}", status.as_u16()), why).into());
        }
        Ok(Answered { node, model, reason, took: started.elapsed(), text: text_of(&value) })
    }
}

fn not_ready(status: &StatusReply) -> Vec<String> {
    let fallback =
        |mode: &&mesh_proto::v1::ModeStatus| mode.state != "ready" || mode.reason.contains("fallback");
    let modes = status.modes.iter().filter(fallback).map(|m| format!("mode {}: {}", m.name, m.reason));
    let nodes =
        status.nodes.iter().filter(|n| n.state != "ready").map(|n| format!("node {}: {}", n.name, n.reason));
    let missing = (status.nodes.len() < 3).then(|| "a node has not connected yet".to_owned());
    modes.chain(nodes).chain(missing).collect()
}

fn text_of(value: &Value) -> String {
    let choice = &value["choices"][0];
    if let Some(text) = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str()) {
        return text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let numbers = value["data"][0]["embedding"].as_array().map_or(0, Vec::len);
    format!("{numbers} numbers")
}

fn line(mode: &str, answered: &Answered) -> String {
    let Answered { node, model, reason, took, text } = answered;
    let text: String = text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("  {mode:<13} {node:<9} {model:<15} {:>4} ms  {reason:<38}  {text}", took.as_millis())
}
