//! A client of the mesh, or of an engine directly, that keeps what it got byte by byte.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// One header as text, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is no text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is no JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The error object, after checking the status and that it can be told from others by a program.
    ///
    /// # Panics
    /// When status or code are others.
    pub fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(
            (self.status, self.json()["error"]["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text()
        );
        self.json()["error"].clone()
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// An answer on its way, by events.
pub struct Events {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    carry: Vec<u8>,
}

impl Events {
    /// One header as text, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// The next event as it came, without the empty line; `None` at the stream's clean end.
    ///
    /// # Panics
    /// When the connection breaks, or the stream ends within an event.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.carry.windows(2).position(|pair| pair == b"\n\n") {
                let rest = self.carry.split_off(end + 2);
                let event = std::mem::replace(&mut self.carry, rest);
                return Some(String::from_utf8(event[..end].to_vec()).expect("events are text"));
            }
            match crate::soon("the next event", self.bytes.next()).await {
                Some(bytes) => self.carry.extend_from_slice(&bytes.expect("the connection stands")),
                None => {
                    assert!(
                        self.carry.is_empty(),
                        "half an event: {:?}",
                        String::from_utf8_lossy(&self.carry)
                    );
                    return None;
                }
            }
        }
    }

    /// The next event that has text in it, as that text.
    ///
    /// # Panics
    /// When the stream ends before.
    pub async fn next_text(&mut self) -> String {
        loop {
            let event = self.next().await.expect("an event with text");
            let text = text_of(&event);
            if !text.is_empty() {
                return text;
            }
        }
    }

    /// All events up to the clean end.
    pub async fn rest(mut self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The JSON of a `data:` event; null for `[DONE]`.
#[must_use]
pub fn data_of(event: &str) -> Value {
    serde_json::from_str(event.strip_prefix("data: ").unwrap_or_default()).unwrap_or_default()
}

/// The text that an event of a chat or of a completion adds.
#[must_use]
pub fn text_of(event: &str) -> String {
    let data = data_of(event);
    let choice = &data["choices"][0];
    choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default().to_owned()
}

/// A client with a base URL and a key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a trailing slash.
    pub base: String,
    /// The bearer token.
    pub key: Option<String>,
}

impl Client {
    /// A client for `base`.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(base: &str, key: Option<&str>) -> Self {
        // Already set is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .tls_certs_only([])
            .build()
            .expect("a client");
        Self { http, base: base.into(), key: key.map(str::to_owned) }
    }

    /// The same client with another key, or none.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// GETs `path`.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn get(&self, path: &str) -> Answer {
        whole(self.request(reqwest::Method::GET, path)).await
    }

    /// GETs `path` with one more header.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn get_with(&self, path: &str, name: &str, value: &str) -> Answer {
        whole(self.request(reqwest::Method::GET, path).header(name, value)).await
    }

    /// POSTs JSON.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string()).await
    }

    /// POSTs any bytes, a whole body or one in chunks of unknown number.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn post_bytes(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        whole(self.request(reqwest::Method::POST, path).body(body)).await
    }

    /// POSTs JSON and reads the answer by events.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn events(&self, path: &str, body: &Value) -> Events {
        let request = self.request(reqwest::Method::POST, path).body(body.to_string());
        let response = crate::soon("an answer's head", request.send()).await.expect("an answer");
        Events {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            bytes: response.bytes_stream().boxed(),
            carry: Vec::new(),
        }
    }
}

impl Client {
    /// POSTs JSON and reads at most `most` bytes of the answer, then leaves.
    ///
    /// # Panics
    /// When nothing answers, or what answers stops in the middle without ending.
    pub async fn post_up_to(&self, path: &str, body: &Value, most: usize) -> (Answer, Ended) {
        let request = self.request(reqwest::Method::POST, path).body(body.to_string());
        let mut response = crate::soon("an answer's head", request.send()).await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut taken = Vec::new();
        let ended = loop {
            if taken.len() >= most {
                break Ended::Left;
            }
            match crate::soon("more of an answer", response.chunk()).await {
                Ok(Some(bytes)) => taken.extend_from_slice(&bytes),
                Ok(None) => break Ended::Cleanly,
                Err(_) => break Ended::Broken,
            }
        };
        (Answer { status, headers, body: taken.into() }, ended)
    }
}

/// How the reading of an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The answer was whole, as HTTP sees it.
    Cleanly,
    /// The connection broke.
    Broken,
    /// The client had enough.
    Left,
}

async fn whole(request: reqwest::RequestBuilder) -> Answer {
    let response = crate::soon("an answer's head", request.send()).await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = crate::soon("an answer's body", response.bytes()).await.expect("a whole answer");
    Answer { status, headers, body }
}
