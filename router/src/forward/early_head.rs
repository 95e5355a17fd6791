//! The head of a stream whose first content takes long: after some seconds the client gets `200` and the headers of a
//! stream, and then a sign of life now and then, so that neither it nor a proxy on the way gives up. What goes wrong
//! from then on is told as an event of the stream.
//!
//! A shorter wait keeps its real status: most refusals and most answers come within it.

use super::waiting_room::Progress;
use crate::http::dialect::Dialect;
use crate::http::reply::{ApiError, Reply, ReplyBody};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use mesh_daemon::clock::Clock;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// The head goes out after this long, and then a sign of life as often. Clients and proxies give up after 30 s at the
/// earliest (60 s is nginx's).
const PATIENCE: Duration = Duration::from_secs(10);

/// What a request comes to.
pub(super) type Outcome = Result<Reply, ApiError>;

/// Waits for `outcome`, but for its head no longer than ten seconds.
pub(super) async fn head_in_time(
    mut outcome: BoxFuture<'static, Outcome>,
    progress: watch::Receiver<Progress>,
    clock: Clock,
    dialect: Dialect,
) -> Outcome {
    match tokio::time::timeout(PATIENCE, &mut outcome).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let look = Box::pin(tokio::time::sleep(Duration::ZERO));
            Ok(head(Waiting { outcome, progress, clock, dialect, look }))
        }
    }
}

/// The media type of a stream.
fn stream_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Ollama => "application/x-ndjson",
        Dialect::OpenAi | Dialect::Anthropic | Dialect::Responses => "text/event-stream",
    }
}

fn head(waiting: Waiting) -> Reply {
    let kind = stream_type(waiting.dialect);
    let mut reply = Response::new(Early::Waiting(Box::new(waiting)).boxed_unsync());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    reply
}

/// A stream that has begun before its answer.
enum Early {
    Waiting(Box<Waiting>),
    Answering(ReplyBody),
    Over,
}

struct Waiting {
    outcome: BoxFuture<'static, Outcome>,
    progress: watch::Receiver<Progress>,
    clock: Clock,
    dialect: Dialect,
    look: Pin<Box<Sleep>>,
}

impl Waiting {
    /// The answer's body, or what the client is told instead of it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<ReplyBody, Bytes>> {
        match self.outcome.as_mut().poll(context) {
            Poll::Ready(Ok(reply)) => {
                let kind = reply.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                if !kind.is_some_and(|kind| kind.starts_with(stream_type(self.dialect))) {
                    let error = ApiError::no_stream();
                    return Poll::Ready(Err(self.dialect.last_words(&error)));
                }
                Poll::Ready(Ok(reply.into_body()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.dialect.last_words(&error))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// What the client is waiting for, in words. ASCII without line ends: it stands in a comment.
    fn words(&self) -> String {
        match &*self.progress.borrow() {
            Progress::Deciding => "choosing a machine".into(),
            Progress::Waiting { position, why, since } => {
                let seconds = self.clock.now().since(*since).as_secs();
                format!("waiting for {seconds} s, place {position}: {why}")
            }
            Progress::Loading { node, model, since } => {
                let seconds = self.clock.now().since(*since).as_secs();
                format!("{node} has been loading {model} for {seconds} s")
            }
            Progress::Sent { node, model } => format!("{model} on {node} reads the prompt"),
        }
    }
}

impl Body for Early {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match &mut *self {
                Self::Over => return Poll::Ready(None),
                Self::Answering(body) => return Pin::new(body).poll_frame(context),
                Self::Waiting(waiting) => match waiting.poll(context) {
                    Poll::Ready(Ok(body)) => *self = Self::Answering(body),
                    Poll::Ready(Err(words)) => {
                        *self = Self::Over;
                        return Poll::Ready(Some(Ok(Frame::data(words))));
                    }
                    Poll::Pending => {
                        ready!(waiting.look.as_mut().poll(context));
                        waiting.look.as_mut().reset(Instant::now() + PATIENCE);
                        let sign = waiting.dialect.sign_of_life(&waiting.words());
                        return Poll::Ready(Some(Ok(Frame::data(sign))));
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply::{json_reply, whole};
    use futures_util::FutureExt;
    use http::StatusCode;

    fn waits(outcome: BoxFuture<'static, Outcome>) -> (watch::Sender<Progress>, BoxFuture<'static, Outcome>) {
        let (teller, progress) = watch::channel(Progress::Deciding);
        (teller, head_in_time(outcome, progress, Clock::start(), Dialect::OpenAi).boxed())
    }

    fn late(after: Duration, outcome: Outcome) -> BoxFuture<'static, Outcome> {
        async move {
            tokio::time::sleep(after).await;
            outcome
        }
        .boxed()
    }

    fn stream(text: &'static str) -> Reply {
        let mut reply = Response::new(whole(text));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        reply
    }

    async fn texts(reply: Reply) -> Vec<String> {
        let (mut body, mut texts) = (reply.into_body(), Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.into_data().expect("no trailers");
            texts.push(String::from_utf8(bytes.to_vec()).expect("text"));
        }
        texts
    }

    fn busy() -> ApiError {
        ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "mesh_full", "every slot is taken")
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_within_ten_seconds_keeps_its_status() {
        let (_teller, outcome) = waits(late(PATIENCE / 2, Err(busy())));
        assert_eq!(outcome.await.map(drop), Err(busy()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_has_a_head_signs_of_life_and_then_the_answer() {
        let (teller, outcome) = waits(late(PATIENCE * 3 - Duration::from_secs(1), Ok(stream("data: x\n\n"))));
        let reply = outcome.await.expect("a head");
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(reply.headers()[CONTENT_TYPE], "text/event-stream");
        teller.send_replace(Progress::Sent {
            node: mesh_core::id::MachineId::new("msi").expect("valid"),
            model: mesh_core::id::ModelId::new("tiny").expect("valid"),
        });
        let sign = ": tiny on msi reads the prompt\n\n".to_owned();
        assert_eq!(texts(reply).await, [sign.clone(), sign, "data: x\n\n".to_owned()]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_after_the_head_is_an_event_and_no_clean_end() {
        let (_teller, outcome) = waits(late(PATIENCE + Duration::from_secs(1), Err(busy())));
        let said = texts(outcome.await.expect("a head")).await.concat();
        assert!(said.contains("\"mesh_full\"") && !said.contains("[DONE]"), "{said}");
        let whole = Ok(json_reply(StatusCode::OK, &serde_json::json!({"choices": []})));
        let (_teller, outcome) = waits(late(PATIENCE + Duration::from_secs(1), whole));
        let said = texts(outcome.await.expect("a head")).await.concat();
        assert!(said.contains("\"no_stream\"") && !said.contains("choices"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_while_it_waits_ends_the_request() {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let outcome = async move {
            let _alive = alive;
            std::future::pending::<Outcome>().await
        };
        let (_teller, outcome) = waits(outcome.boxed());
        drop(outcome.await.expect("a head"));
        assert!(gone.await.is_err());
    }
}
