//! What is sent: prompt, key, address and body.

use crate::address;
use crate::exit::{Failure, Kind};
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Read};
use std::path::Path;

/// The longest prompt that is read, about two million tokens.
const LONGEST_PROMPT: u64 = 8 << 20;
/// A key is `mk_`, an id and 32 random bytes.
const LONGEST_KEY: usize = 512;

/// The words that were typed, with stdin in the place of each `-`, or stdin alone.
///
/// # Errors
/// `Usage` when there is no prompt, or one too long.
pub(super) async fn prompt(typed: &[String]) -> Result<String, Failure> {
    let wants_stdin = typed.is_empty() || typed.iter().any(|word| word == "-");
    if !wants_stdin {
        return checked(typed.join(" "));
    }
    if typed.is_empty() && io::stdin().is_terminal() {
        return Err(nothing_asked());
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        io::stdin().lock().take(LONGEST_PROMPT + 1).read_to_string(&mut text).map(|_| text)
    });
    let piped = read
        .await
        .map_err(|error| unreadable(&error.to_string()))?
        .map_err(|error| unreadable(&error.to_string()))?;
    checked(woven(typed, &piped))
}

fn woven(typed: &[String], piped: &str) -> String {
    let words = typed.split(|word| word == "-").map(|words| words.join(" ")).collect::<Vec<_>>();
    if typed.is_empty() {
        piped.to_owned()
    } else {
        words.join(&format!("\n\n{}\n\n", piped.trim_end())).trim().to_owned()
    }
}

fn checked(prompt: String) -> Result<String, Failure> {
    if prompt.trim().is_empty() {
        return Err(nothing_asked());
    }
    if prompt.len() as u64 > LONGEST_PROMPT {
        return Err(Failure::new(Kind::Usage, format!("the prompt has more than {LONGEST_PROMPT} bytes")));
    }
    Ok(prompt)
}

fn nothing_asked() -> Failure {
    Failure::new(Kind::Usage, "there is no prompt")
        .hint("meshctl ask --mode code PROMPT   or   meshctl ask --mode code < FILE")
}

fn unreadable(cause: &str) -> Failure {
    Failure::new(Kind::Usage, "cannot read the prompt from stdin").cause(cause)
}

/// The key as an `Authorization` header: the typed one, else the one in the data folder.
///
/// # Errors
/// `Refused` when there is none, `Usage` when it is no key. The key itself is never shown.
pub(super) fn key(typed: Option<&str>, data: &Path) -> Result<HeaderValue, Failure> {
    let file = data.join("api-key");
    let key = match typed {
        Some(key) => key.to_owned(),
        None => std::fs::read_to_string(&file).map_err(|error| {
            Failure::new(Kind::Refused, format!("no API key in {}", file.display()))
                .cause(error.to_string())
                .hint("make one: meshctl key create NAME")
                .hint("then: --key KEY, or MODEMESH_API_KEY, or write it into that file")
        })?,
    };
    let key = key.trim();
    let header =
        (1..=LONGEST_KEY).contains(&key.len()).then(|| HeaderValue::from_str(&format!("Bearer {key}")).ok());
    let mut header = header.flatten().ok_or_else(|| {
        Failure::new(Kind::Usage, "the API key is empty, too long or holds characters that no key has")
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// A client address: `http://HOST:7400`, with or without `/v1`.
///
/// # Errors
/// `Usage` when it is none.
pub(super) fn url(typed: &str) -> Result<Url, Failure> {
    let bad = |why: &str| {
        let shown: String = typed.chars().take(120).collect();
        Failure::new(Kind::Usage, format!("`{shown}` is no client address: {why}"))
            .hint("write it as http://HOST:7400: --url URL")
    };
    let url = Url::parse(typed.trim()).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.host_str().is_some() => Ok(url),
        _ => Err(bad("it is neither http:// nor https://")),
    }
}

/// `url` with a host that can be dialled: "all interfaces" becomes the host where operators reach the router.
///
/// # Errors
/// `Failed` when that host cannot stand in a URL.
pub(super) fn reachable(mut url: Url, router_host: &str) -> Result<Url, Failure> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if address::is_unspecified(&host) {
        let literal =
            if router_host.contains(':') { format!("[{router_host}]") } else { router_host.to_owned() };
        url.set_host(Some(&literal)).map_err(|error| {
            Failure::new(Kind::Failed, format!("`{router_host}` cannot be the host of a URL"))
                .cause(error.to_string())
        })?;
    }
    Ok(url)
}

/// Where chats are posted to.
pub(super) fn endpoint(base: &Url) -> Url {
    let mut target = base.clone();
    let path = base.path().trim_end_matches('/');
    let root = path.strip_suffix("/v1").unwrap_or(path);
    target.set_path(&format!("{root}/v1/chat/completions"));
    target.set_query(None);
    target
}

/// The model name that stands for a mode.
pub(super) fn mode_model(mode: &str) -> String {
    if mode.starts_with("mesh/") { mode.to_owned() } else { format!("mesh/{mode}") }
}

/// The request in the OpenAI dialect.
pub(super) fn body(model: &str, system: Option<&str>, prompt: &str, max_tokens: Option<u32>) -> Value {
    let system = system.map(|text| json!({"role": "system", "content": text}));
    let user = json!({"role": "user", "content": prompt});
    let messages: Vec<Value> = system.into_iter().chain([user]).collect();
    let mut body = json!({
        "model": model,
        "messages": messages,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    if let Some(limit) = max_tokens {
        body["max_tokens"] = limit.into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_takes_the_place_of_the_dash() {
        let words = |typed: &[&str]| typed.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(woven(&words(&[]), "piped\n"), "piped\n");
        assert_eq!(woven(&words(&["-"]), "piped\n"), "piped");
        assert_eq!(woven(&words(&["sum", "up:", "-"]), "piped\n"), "sum up:\n\npiped");
        assert!(checked("  \n".into()).is_err());
    }

    #[test]
    fn the_endpoint_is_the_same_with_and_without_v1() {
        for typed in ["http://a:7400", "http://a:7400/", "http://a:7400/v1", "http://a:7400/v1/?x"] {
            assert_eq!(endpoint(&url(typed).expect("valid")).as_str(), "http://a:7400/v1/chat/completions");
        }
        for typed in ["", "a:7400", "ftp://a", "http://"] {
            assert_eq!(url(typed).map_err(|failure| failure.kind), Err(Kind::Usage), "{typed}");
        }
    }

    #[test]
    fn a_bind_address_becomes_the_routers_host() {
        let told = |text: &str, host: &str| {
            reachable(url(text).expect("valid"), host)
                .expect("a host")
                .as_str()
                .trim_end_matches('/')
                .to_owned()
        };
        assert_eq!(told("http://0.0.0.0:7400", "10.0.0.2"), "http://10.0.0.2:7400");
        assert_eq!(told("http://[::]:7400", "fd7a::1"), "http://[fd7a::1]:7400");
        assert_eq!(told("http://strix:7400", "10.0.0.2"), "http://strix:7400");
    }

    #[test]
    fn a_key_comes_from_the_flag_or_the_file_and_is_never_shown() {
        let data = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(key(None, data.path()).map_err(|failure| failure.kind), Err(Kind::Refused));
        std::fs::write(data.path().join("api-key"), "mk_a_b\n").expect("writable");
        let from_file = key(None, data.path()).expect("there");
        assert_eq!(from_file.as_bytes(), b"Bearer mk_a_b");
        assert!(from_file.is_sensitive());
        let bad = key(Some("secret\nx"), data.path()).expect_err("a line break");
        assert!(!format!("{bad:?}").contains("secret"));
    }

    #[test]
    fn the_body_is_a_streamed_chat() {
        let body = body(&mode_model("code"), Some("be brief"), "hi", Some(9));
        assert_eq!(body["model"], "mesh/code");
        assert_eq!(body["messages"][0]["role"], "system");
        assert_eq!(body["messages"][1]["content"], "hi");
        assert_eq!((&body["stream"], &body["max_tokens"]), (&json!(true), &json!(9)));
    }
}
