//! Which engine answers at an address of this machine, told by answers that only that engine gives.
//!
//! Never by port alone and never by POST. Lemonade is looked for first, because it also answers as Ollama.
//! A modemesh router is recognised, so that a mesh never takes itself for an engine.

use super::ask::{Answer, Ask, AskError};
use mesh_core::machine::EngineKind;
use serde_json::Value;
use std::net::IpAddr;

/// Where engines listen by default: Lemonade, Ollama, llama-server and LocalAI, LM Studio, vLLM (and old
/// Lemonade), SGLang, TabbyAPI, KoboldCpp.
pub const DEFAULT_PLACES: [&str; 8] = [
    "http://127.0.0.1:13305",
    "http://127.0.0.1:11434",
    "http://127.0.0.1:8080",
    "http://127.0.0.1:1234",
    "http://127.0.0.1:8000",
    "http://127.0.0.1:30000",
    "http://127.0.0.1:5000",
    "http://127.0.0.1:5001",
];

/// What was found at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nobody listens.
    Nobody,
    /// Somebody who is no engine we know, a mesh router, or silent.
    Stranger,
    /// An engine that can be used as it is.
    Engine(EngineKind),
    /// An engine that cannot be used as it is, and why.
    Unusable(EngineKind, &'static str),
}

/// Identifies who answers at `url`. Takes at most one limit of 2 s where somebody listens and never answers.
pub async fn identify(url: &str) -> Finding {
    let Ok(ask) = Ask::new(url, None) else { return Finding::Stranger };
    let lemonade = match ask.any("/api/v1/health").await {
        Ok(answer) => answer,
        Err(AskError::Refused { .. }) => return Finding::Nobody,
        // Not HTTP at all, or hanging: asking five more times would only take longer.
        Err(_) => return Finding::Stranger,
    };
    if lemonade.of_a_mesh {
        return Finding::Stranger;
    }
    if json_of(&lemonade).is_some_and(|body| body["all_models_loaded"].is_array()) {
        return Finding::Engine(EngineKind::Lemonade);
    }
    match by_answers(&ask).await {
        Ok(finding) => finding,
        Err(_) => Finding::Stranger,
    }
}

/// The kinds after Lemonade, in the order of [`EngineKind::ALL`].
async fn by_answers(ask: &Ask) -> Result<Finding, AskError> {
    if let Some(finding) = ollama(ask).await? {
        return Ok(finding);
    }
    let props = ask.any("/props").await?;
    if let Some(finding) = llama_server(&props) {
        return Ok(finding);
    }
    if lm_studio(ask).await? {
        return Ok(Finding::Engine(EngineKind::LmStudio));
    }
    let kobold = json_of(&ask.any("/api/extra/version").await?).unwrap_or_default();
    if kobold["result"] == "KoboldCpp" {
        return Ok(Finding::Engine(EngineKind::KoboldCpp));
    }
    let models = ask.any("/v1/models").await?;
    if let Some(finding) = tabby(ask, &models).await? {
        return Ok(finding);
    }
    if let Some(finding) = local_ai(ask, &models).await? {
        return Ok(finding);
    }
    if owners(&models).iter().any(|owner| owner == "sglang") {
        return Ok(Finding::Engine(EngineKind::Sglang));
    }
    for path in ["/server_info", "/get_server_info"] {
        let info = json_of(&ask.any(path).await?).unwrap_or_default();
        if info["model_path"].is_string() && info["tp_size"].is_u64() {
            return Ok(Finding::Engine(EngineKind::Sglang));
        }
    }
    let version = ask.any("/version").await?;
    let is_vllm = json_of(&version).is_some_and(|body| body["version"].is_string())
        && owners(&models).iter().any(|owner| owner == "vllm");
    Ok(if is_vllm { Finding::Engine(EngineKind::Vllm) } else { Finding::Stranger })
}

/// Who owns the models of an OpenAI list.
fn owners(models: &Answer) -> Vec<String> {
    let body = json_of(models).unwrap_or_default();
    let list = body["data"].as_array().into_iter().flatten();
    list.filter_map(|model| model["owned_by"].as_str().map(str::to_owned)).collect()
}

/// TabbyAPI asks for a key unless it was told not to.
async fn tabby(ask: &Ask, models: &Answer) -> Result<Option<Finding>, AskError> {
    let kind = EngineKind::TabbyApi;
    if owners(models).iter().any(|owner| owner == "tabbyAPI") {
        return Ok(Some(Finding::Engine(kind)));
    }
    if models.status != 401 {
        return Ok(None);
    }
    let refusal: Value = serde_json::from_slice(&models.body).unwrap_or_default();
    let health = json_of(&ask.any("/health").await?).unwrap_or_default();
    // Its health lists issues only since 2025.
    let is_tabby = health["status"].is_string()
        && (health["issues"].is_array() || refusal["detail"] == "Please provide an API key");
    Ok(is_tabby.then_some(Finding::Unusable(
        kind,
        "it asks for an API key: add its admin key to the agent's configuration",
    )))
}

/// LocalAI tells who it is even to those who have no key; older ones only by what `/system` holds.
async fn local_ai(ask: &Ask, models: &Answer) -> Result<Option<Finding>, AskError> {
    let kind = EngineKind::LocalAi;
    let known = json_of(&ask.any("/.well-known/localai.json").await?).unwrap_or_default();
    if known["version"].is_string() && known["endpoints"].is_object() {
        return Ok(Some(if matches!(models.status.as_u16(), 401 | 403) {
            Finding::Unusable(kind, "it asks for an API key: add it to the agent's configuration")
        } else {
            Finding::Engine(kind)
        }));
    }
    let system = json_of(&ask.any("/system").await?).unwrap_or_default();
    let is_local_ai = system["backends"].is_array() && system["loaded_models"].is_array();
    Ok(is_local_ai.then_some(Finding::Engine(kind)))
}

async fn ollama(ask: &Ask) -> Result<Option<Finding>, AskError> {
    let root = ask.any("/").await?;
    if root.of_a_mesh {
        return Ok(Some(Finding::Stranger));
    }
    if !root.status.is_success() || !root.body.starts_with(b"Ollama is running") {
        return Ok(None);
    }
    let version = ask.any("/api/version").await?;
    if !json_of(&version).is_some_and(|body| body["version"].is_string()) {
        return Ok(None);
    }
    Ok(Some(if is_a_mesh(ask).await? { Finding::Stranger } else { Finding::Engine(EngineKind::Ollama) }))
}

/// A router answers as Ollama does, but its lists say whose they are.
async fn is_a_mesh(ask: &Ask) -> Result<bool, AskError> {
    let tags = json_of(&ask.any("/api/tags").await?).unwrap_or_default();
    let models = json_of(&ask.any("/v1/models").await?).unwrap_or_default();
    let any = |list: &Value, of_a_mesh: fn(&Value) -> bool| {
        list.as_array().is_some_and(|entries| entries.iter().any(of_a_mesh))
    };
    Ok(any(&tags["models"], |m| m["name"].as_str().is_some_and(|name| name.starts_with("mesh/")))
        || any(&models["data"], |m| m["owned_by"] == "modemesh"))
}

fn llama_server(props: &Answer) -> Option<Finding> {
    let kind = EngineKind::LlamaServer;
    let told = props.server == "llama.cpp";
    match props.status.as_u16() {
        503 if told => Some(Finding::Engine(kind)),
        401 | 403 if told => {
            Some(Finding::Unusable(kind, "it asks for an API key: add it to the agent's configuration"))
        }
        501 if told => Some(Finding::Unusable(kind, "it was started with --no-props")),
        200 => {
            let body = json_of(props)?;
            let is_ours = body["build_info"].is_string() && body["default_generation_settings"].is_object();
            if !is_ours {
                None
            } else if body["role"] == "router" {
                Some(Finding::Engine(EngineKind::LlamaRouter))
            } else {
                body["total_slots"].is_u64().then_some(Finding::Engine(kind))
            }
        }
        _ => None,
    }
}

async fn lm_studio(ask: &Ask) -> Result<bool, AskError> {
    let new = ask.any("/api/v1/models").await?;
    let by_new = json_of(&new).is_some_and(|body| {
        body["models"].as_array().is_some_and(|list| {
            // An empty list proves nothing, and there is nothing to serve either.
            !list.is_empty() && list.iter().all(|m| m["key"].is_string() && m["loaded_instances"].is_array())
        })
    });
    if by_new {
        return Ok(true);
    }
    let old = ask.any("/api/v0/models").await?;
    Ok(json_of(&old).is_some_and(|body| {
        body["data"].as_array().is_some_and(|list| {
            !list.is_empty()
                && list.iter().all(|m| m["id"].is_string() && m["state"].is_string() && m["type"].is_string())
        })
    }))
}

fn json_of(answer: &Answer) -> Option<Value> {
    answer.status.is_success().then(|| serde_json::from_slice(&answer.body).ok()).flatten()
}

/// The address in the one form used for comparing, or `None` when it is not on this machine.
/// `localhost:8080`, `127.0.0.1:8080` and `http://127.0.0.1:8080/v1` are all one.
#[must_use]
pub fn local_place(text: &str) -> Option<String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let root = super::ask::root_of(&text).ok()?;
    let url = reqwest::Url::parse(&root).ok()?;
    let host = url.host_str()?;
    let port = url.port_or_known_default()?;
    if host == "localhost" {
        return Some(format!("http://127.0.0.1:{port}"));
    }
    let ip: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    match ip {
        IpAddr::V4(v4) if v4.is_loopback() => Some(format!("http://{v4}:{port}")),
        IpAddr::V6(v6) if v6.is_loopback() => Some(format!("http://[{v6}]:{port}")),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, server: &str, body: &'static [u8]) -> Answer {
        Answer {
            status: reqwest::StatusCode::from_u16(status).expect("a status"),
            server: server.into(),
            of_a_mesh: false,
            body: body.into(),
        }
    }

    #[test]
    fn a_llama_server_is_told_by_its_props_in_every_state() {
        let kind = EngineKind::LlamaServer;
        let props = include_bytes!("../../tests/captures/llama-server-props.json");
        assert_eq!(llama_server(&answer(200, "llama.cpp", props)), Some(Finding::Engine(kind)));
        let loading = include_bytes!("../../tests/captures/llama-server-loading-health.json");
        assert_eq!(llama_server(&answer(503, "llama.cpp", loading)), Some(Finding::Engine(kind)));
        let locked = include_bytes!("../../tests/captures/llama-server-auth-none-props.json");
        assert!(matches!(llama_server(&answer(401, "llama.cpp", locked)), Some(Finding::Unusable(..))));
        let router = include_bytes!("../../tests/captures/llama-server-router-props.json");
        let found = Some(Finding::Engine(EngineKind::LlamaRouter));
        assert_eq!(llama_server(&answer(200, "llama.cpp", router)), found);
        assert_eq!(llama_server(&answer(503, "nginx", b"busy")), None);
        assert_eq!(llama_server(&answer(200, "nginx", b"{}")), None);
    }

    #[test]
    fn only_places_on_this_machine_are_looked_at_and_spelling_does_not_matter() {
        let place = Some("http://127.0.0.1:8080".to_owned());
        for text in ["127.0.0.1:8080", "http://localhost:8080/", "http://127.0.0.1:8080/v1"] {
            assert_eq!(local_place(text), place, "{text}");
        }
        for text in
            ["http://192.168.1.2:8080", "example.org:80", "https://127.0.0.1:1", "0.0.0.0:1", "", "::::"]
        {
            assert_eq!(local_place(text), None, "{text}");
        }
    }
}
