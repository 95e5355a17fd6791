//! Bounded HTTP questions to an engine: 2 s, 4 MiB, no redirect, no proxy, no connection kept.
//!
//! No connection is kept because llama.cpp's server gives each open one a thread of a small pool.

use bytes::BytesMut;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};
use reqwest::{Client, Method, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use std::sync::OnceLock;
use std::time::Duration;

/// How long an engine may take to answer a question about itself.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The longest answer that is read: a list of a thousand models is far smaller.
const ANSWER_LIMIT: usize = 4 << 20;
/// The longest line of an answer in lines.
const LINE_LIMIT: usize = 64 << 10;
/// How much of an engine's own error text is kept.
const ERROR_TEXT: usize = 200;

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The address is none the agent speaks to.
    #[error("`{url}` is no engine address: {why}")]
    BadUrl {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody listens.
    #[error("{base} refuses connections")]
    Refused {
        /// Who was asked.
        base: String,
    },
    /// Somebody listens and does not answer in time.
    #[error("{base}{path} did not answer within {} s", within.as_secs())]
    Silent {
        /// Who was asked.
        base: String,
        /// What was asked.
        path: String,
        /// The limit.
        within: Duration,
    },
    /// The answer is an error.
    #[error("{base}{path} answered {status}{}{text}", if text.is_empty() { "" } else { ": " })]
    Status {
        /// Who was asked.
        base: String,
        /// What was asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The engine's words, shortened.
        text: String,
    },
    /// The answer is longer than an engine's answer can be.
    #[error("{base}{path} answered more than {} MiB", ANSWER_LIMIT >> 20)]
    TooLong {
        /// Who was asked.
        base: String,
        /// What was asked.
        path: String,
    },
    /// The answer is not what this kind of engine answers.
    #[error("{base}{path} answered something else than expected: {why}")]
    Unexpected {
        /// Who was asked.
        base: String,
        /// What was asked.
        path: String,
        /// What is missing.
        why: String,
    },
    /// The connection broke.
    #[error("{base}{path} broke off: {why}")]
    Broke {
        /// Who was asked.
        base: String,
        /// What was asked.
        path: String,
        /// The cause.
        why: String,
    },
}

impl AskError {
    /// The status of an answer that was an error.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        if let Self::Status { status, .. } = self { Some(*status) } else { None }
    }
}

/// An answer of any status.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The `server` header, empty when there is none.
    pub(crate) server: String,
    /// Whether a header says that a modemesh router answered.
    pub(crate) of_a_mesh: bool,
    pub(crate) body: bytes::Bytes,
}

/// One engine to ask.
#[derive(Clone)]
pub struct Ask {
    base: String,
    key: Option<String>,
}

impl Ask {
    /// Questions to `base`, with `key` as bearer token.
    ///
    /// # Errors
    /// [`AskError::BadUrl`] when `base` is no plain http address.
    pub fn new(base: &str, key: Option<String>) -> Result<Self, AskError> {
        let bad = |why| AskError::BadUrl { url: base.chars().take(80).collect(), why };
        let url = Url::parse(base).map_err(|_| bad("write it like http://127.0.0.1:8080"))?;
        if url.scheme() != "http" {
            return Err(bad("engines are spoken to over plain http on this machine"));
        }
        if url.host_str().is_none() || url.query().is_some() || !url.username().is_empty() {
            return Err(bad("only host, port and path may be given"));
        }
        Ok(Self { base: base.trim_end_matches('/').to_owned(), key })
    }

    /// The address without a trailing slash.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The key, if one is used.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// GETs `path` as text.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub(crate) async fn text(&self, path: &str) -> Result<String, AskError> {
        let body = self.good(Method::GET, path, None, ANSWER_WITHIN).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// GETs `path` as JSON.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub(crate) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        let body = self.good(Method::GET, path, None, ANSWER_WITHIN).await?;
        self.read(path, &body)
    }

    /// POSTs `body` to `path` and reads JSON.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> Result<T, AskError> {
        let answer = self.good(Method::POST, path, Some(body), within).await?;
        self.read(path, &answer)
    }

    /// POSTs `body` to `path`; what is answered is not looked at beyond its status.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub(crate) async fn post_unread(
        &self,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> Result<(), AskError> {
        self.good(Method::POST, path, Some(body), within).await.map(drop)
    }

    /// POSTs `body` to `path` and reads text.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub(crate) async fn post_text(
        &self,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> Result<String, AskError> {
        let answer = self.good(Method::POST, path, Some(body), within).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// DELETEs with `body`; what is answered is not looked at beyond its status.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub(crate) async fn delete(
        &self,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> Result<(), AskError> {
        self.good(Method::DELETE, path, Some(body), within).await.map(drop)
    }

    /// POSTs `body` to `path` and reads its answer as JSON documents, one on each line, as they come. Between two
    /// lines at most `patience` may pass.
    pub(crate) fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
        body: &serde_json::Value,
        patience: Duration,
    ) -> BoxStream<'static, Result<T, AskError>> {
        let ask = self.clone();
        let mut request = client().post(format!("{}{path}", self.base)).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let begin = async move {
            let silent =
                || AskError::Silent { base: ask.base.clone(), path: path.to_owned(), within: patience };
            let answer = tokio::time::timeout(patience, request.send()).await.map_err(|_| silent())?;
            let answer = answer.map_err(|error| ask.named(&error, path, patience))?;
            let status = answer.status();
            let mut lines = Lines { ask, path, patience, answer, unread: BytesMut::new(), ended: false };
            if status.is_success() {
                return Ok(lines);
            }
            let text = lines.error_body().await;
            let (base, path) = (lines.ask.base, path.to_owned());
            Err(AskError::Status { base, path, status: status.as_u16(), text })
        };
        begin
            .map(|begun| match begun {
                Ok(lines) => lines.stream().left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            })
            .flatten_stream()
            .boxed()
    }

    /// What an error of the client means.
    fn named(&self, error: &reqwest::Error, path: &str, within: Duration) -> AskError {
        let (base, path) = (self.base.clone(), path.to_owned());
        if error.is_timeout() {
            AskError::Silent { base, path, within }
        } else if error.is_connect() {
            AskError::Refused { base }
        } else {
            AskError::Broke { base, path, why: innermost(error) }
        }
    }

    /// GETs `path` and returns whatever was answered.
    ///
    /// # Errors
    /// [`AskError`] when nothing readable was answered at all.
    pub(crate) async fn any(&self, path: &str) -> Result<Answer, AskError> {
        self.send(Method::GET, path, None, ANSWER_WITHIN).await
    }

    fn read<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, AskError> {
        serde_json::from_slice(body).map_err(|e| self.unexpected(path, e.to_string()))
    }

    pub(crate) fn unexpected(&self, path: &str, why: impl Into<String>) -> AskError {
        AskError::Unexpected { base: self.base.clone(), path: path.to_owned(), why: why.into() }
    }

    async fn good(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        within: Duration,
    ) -> Result<bytes::Bytes, AskError> {
        let answer = self.send(method, path, body, within).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(AskError::Status {
            base: self.base.clone(),
            path: path.to_owned(),
            status: answer.status.as_u16(),
            text: error_text(&answer.body),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        within: Duration,
    ) -> Result<Answer, AskError> {
        let named = |error: &reqwest::Error| self.named(error, path, within);
        let mut request = client().request(method, format!("{}{path}", self.base)).timeout(within);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut answer = request.send().await.map_err(|e| named(&e))?;
        let header =
            |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let server = header("server").to_owned();
        let of_a_mesh = server.starts_with("modemesh")
            || answer.headers().keys().any(|name| name.as_str().starts_with("x-mesh-"));
        let mut body = BytesMut::new();
        while let Some(part) = answer.chunk().await.map_err(|e| named(&e))? {
            if body.len() + part.len() > ANSWER_LIMIT {
                return Err(AskError::TooLong { base: self.base.clone(), path: path.to_owned() });
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status: answer.status(), server, of_a_mesh, body: body.freeze() })
    }
}

/// An answer of JSON lines.
struct Lines {
    ask: Ask,
    path: &'static str,
    patience: Duration,
    answer: reqwest::Response,
    unread: BytesMut,
    ended: bool,
}

impl Lines {
    fn stream<T: DeserializeOwned + Send + 'static>(self) -> impl Stream<Item = Result<T, AskError>> + Send {
        stream::unfold(Some(self), |state| async move {
            let mut lines = state?;
            match lines.next().await {
                Ok(Some(line)) => match lines.ask.read(lines.path, &line) {
                    Ok(value) => Some((Ok(value), Some(lines))),
                    Err(error) => Some((Err(error), None)),
                },
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The next line that is not empty.
    async fn next(&mut self) -> Result<Option<BytesMut>, AskError> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let mut line = self.unread.split_to(end + 1);
                line.truncate(end);
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.ended {
                let rest = std::mem::take(&mut self.unread);
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            if self.unread.len() > LINE_LIMIT {
                return Err(AskError::TooLong { base: self.ask.base.clone(), path: self.path.to_owned() });
            }
            match self.more().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
    }

    async fn more(&mut self) -> Result<Option<bytes::Bytes>, AskError> {
        match tokio::time::timeout(self.patience, self.answer.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(self.ask.named(&error, self.path, self.patience)),
            Err(_) => {
                let (base, path) = (self.ask.base.clone(), self.path.to_owned());
                Err(AskError::Silent { base, path, within: self.patience })
            }
        }
    }

    /// The text of an answer that is an error.
    async fn error_body(&mut self) -> String {
        while let Ok(Some(bytes)) = self.more().await {
            self.unread.extend_from_slice(&bytes);
            if self.unread.len() > LINE_LIMIT {
                break;
            }
        }
        error_text(&self.unread)
    }
}

/// The address without path parts that people copy along: `/`, `/v1`, `/api`, `/api/v1`.
///
/// # Errors
/// [`AskError::BadUrl`] as in [`Ask::new`].
pub(crate) fn root_of(url: &str) -> Result<String, AskError> {
    let mut root = url.trim().trim_end_matches('/');
    for suffix in ["/v1", "/api"] {
        root = root.strip_suffix(suffix).unwrap_or(root);
    }
    Ask::new(root, None).map(|ask| ask.base)
}

/// One client for the process. It never reaches outside HTTP, so it holds no root certificates.
fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // Already set by whoever started first is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(ANSWER_WITHIN)
            .tls_certs_only([])
            .build()
            .expect("a client with a TLS provider and without certificates reads nothing that could fail")
    })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The message of `{"error":"…"}` or `{"error":{"message":"…"}}`, shortened; other bodies are not repeated.
fn error_text(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return String::new() };
    let error = &value["error"];
    let text = error.as_str().or_else(|| error["message"].as_str()).unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(ERROR_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_are_accepted() {
        for url in
            ["https://127.0.0.1:1", "127.0.0.1:8080", "http://user@127.0.0.1", "file:///etc/passwd", ""]
        {
            assert!(matches!(Ask::new(url, None), Err(AskError::BadUrl { .. })), "{url}");
        }
        assert_eq!(root_of("http://127.0.0.1:8000/api/v1/").as_deref(), Ok("http://127.0.0.1:8000"));
    }

    #[test]
    fn both_shapes_of_error_are_read_and_bounded() {
        assert_eq!(error_text(br#"{"error":"model 'x' not found"}"#), "model 'x' not found");
        let loading = include_bytes!("../../tests/captures/llama-server-loading-health.json");
        assert_eq!(error_text(loading), "Loading model");
        assert_eq!(error_text(format!(r#"{{"error":"{}"}}"#, "x".repeat(999)).as_bytes()).len(), ERROR_TEXT);
        assert_eq!(error_text(b"<html>secret</html>"), "");
    }
}
