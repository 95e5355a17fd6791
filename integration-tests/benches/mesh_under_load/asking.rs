//! A client that reports how an answer went instead of failing on it, and arrivals on a fixed schedule.

use futures_util::StreamExt;
use integration_tests::client::text_of;
use integration_tests::test_mesh::TestMesh;
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With `[DONE]`.
    Whole,
    /// With an error that says so, within the stream.
    ToldError,
    /// In the middle, without a word, or without an answer at all.
    Broken,
    /// Another status than 200.
    Refused,
    /// Not at all: the client's patience was over first.
    GivenUp,
}

/// What became of a streamed request.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// When it was sent.
    pub(crate) sent: Instant,
    /// HTTP status; 0 when there was no answer.
    pub(crate) status: u16,
    /// Until the first text.
    pub(crate) first: Option<Duration>,
    /// Until the end.
    pub(crate) took: Duration,
    /// How it ended.
    pub(crate) end: End,
    /// The last event with a `usage` or `timings` in it.
    pub(crate) usage: Value,
}

/// A client of a mesh, which leaves when an answer takes longer than its patience.
#[derive(Clone)]
pub(crate) struct Asker {
    http: reqwest::Client,
    url: String,
    key: String,
    patience: Duration,
}

impl Asker {
    pub(crate) fn of(mesh: &TestMesh, patience: Duration) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([]);
        Self {
            http: http.build().expect("a client"),
            url: format!("{}/v1/chat/completions", mesh.router().client_url()),
            key: mesh.key().to_owned(),
            patience,
        }
    }

    /// Asks for a stream and reads all of it.
    pub(crate) async fn ask(&self, body: String) -> Outcome {
        let sent = Instant::now();
        let mut outcome = Outcome {
            sent,
            status: 0,
            first: None,
            took: Duration::ZERO,
            end: End::Broken,
            usage: Value::Null,
        };
        if tokio::time::timeout(self.patience, self.read(body, &mut outcome)).await.is_err() {
            outcome.end = End::GivenUp;
        }
        outcome.took = sent.elapsed();
        outcome
    }

    async fn read(&self, body: String, outcome: &mut Outcome) {
        let patience = self.patience.as_millis().to_string();
        let request = self.http.post(&self.url).bearer_auth(&self.key).body(body);
        let request = request.header("x-mesh-deadline-ms", patience);
        if let Ok(response) = request.send().await {
            outcome.status = response.status().as_u16();
            if outcome.status == 200 {
                let mut bytes = response.bytes_stream();
                let mut carry = Vec::new();
                while let Some(Ok(piece)) = bytes.next().await {
                    carry.extend_from_slice(&piece);
                    while let Some(end) = carry.windows(2).position(|pair| pair == b"\n\n") {
                        let rest = carry.split_off(end + 2);
                        let event = std::mem::replace(&mut carry, rest);
                        outcome.read(&String::from_utf8_lossy(&event[..end]));
                    }
                }
            } else {
                outcome.end = End::Refused;
                // A refusal is over when it has been read.
                drop(response.bytes().await);
            }
        }
    }

    /// Sends `rate` requests each second for `length`, whatever becomes of them, and waits for all.
    pub(crate) async fn keep_asking(
        &self,
        rate: f64,
        length: Duration,
        mut body: impl FnMut(usize) -> String,
    ) -> Vec<(usize, Outcome)> {
        let begin = Instant::now();
        let mut asking = JoinSet::new();
        for number in 0_u32.. {
            let due = Duration::from_secs_f64(f64::from(number) / rate);
            if due >= length {
                break;
            }
            tokio::time::sleep_until(begin + due).await;
            let (asker, number) = (self.clone(), number as usize);
            let body = body(number);
            asking.spawn(async move { (number, asker.ask(body).await) });
        }
        asking.join_all().await
    }
}

impl Outcome {
    fn read(&mut self, event: &str) {
        if event == "data: [DONE]" {
            self.end = End::Whole;
            return;
        }
        if self.first.is_none() && !text_of(event).is_empty() {
            self.first = Some(self.sent.elapsed());
        }
        if event.contains("\"error\"") {
            self.end = End::ToldError;
        }
        if event.contains("\"usage\"") || event.contains("\"timings\"") {
            self.usage = integration_tests::client::data_of(event);
        }
    }
}
