//! One request on its stream: read whole, handed to an engine, the answer sent as it comes.

use crate::serve::{self, Answer, BlobAnswer, EngineBroke, Serve};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use mesh_link::quic::STREAM_WINDOW;
use mesh_link::{Receiving, Sending};
use mesh_proto::frame::{self, code};
use mesh_proto::v1::{BlobRequest, RequestHead, response_head};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A router that announces a request and then sends nothing is not worth a buffer.
const REQUEST_STALL: Duration = Duration::from_secs(30);

/// A draining agent waits so long for the router to have the last bytes of an answer.
pub(super) const ARRIVAL_LIMIT: Duration = Duration::from_secs(2);

/// Bodies of all requests together, in KiB: room for two of the largest. More wait for their turn.
pub(super) const BODIES_KIB: u32 = 512 * 1024;

/// How long a head waits for the first bytes of its body, to leave in one packet with them. A short answer
/// has both at once; a long one has nothing to show before its first token anyway.
const FIRST_BYTES: Duration = Duration::from_millis(5);

/// Chunks that are there already are sent as one write up to this size; never is one waited for.
const COALESCE: usize = 16 * 1024;

/// The sending half of a request's stream. quinn ends a stream cleanly when it is dropped; here a reply that
/// was not finished on purpose is reset, whatever the way out, because FIN means complete.
struct Reply {
    send: Sending,
    finished: bool,
    /// With which code, if it is not finished.
    code: u32,
}

impl Reply {
    fn finish(&mut self) {
        self.finished = true;
        self.send.finish();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.finished {
            self.send.reset(self.code);
        }
    }
}

/// One request on its stream.
pub(super) struct Exchange {
    serve: Arc<Serve>,
    bodies: Arc<Semaphore>,
    reply: Reply,
    recv: Receiving,
    /// The connection is going down.
    cut: CancellationToken,
}

/// Why a request ended early.
enum Early {
    /// The router sent nothing useful: its mistake.
    BadFrame(String),
    /// The router wants no answer, or the connection is lost.
    Withdrawn,
    /// The connection is going down with the agent.
    Cut,
    /// The engine broke off; logged where it was noticed.
    Broke,
}

impl Exchange {
    pub(super) fn new(
        serve: Arc<Serve>,
        bodies: Arc<Semaphore>,
        (send, recv): (Sending, Receiving),
        cut: CancellationToken,
    ) -> Self {
        Self { serve, bodies, reply: Reply { send, finished: false, code: code::ENGINE_BROKE }, recv, cut }
    }

    pub(super) async fn run(self) {
        let Self { serve, bodies, mut reply, mut recv, cut } = self;
        let (stopped, draining) = (reply.send.stopped(), serve.draining());
        let exchange = async {
            let head = read_head(&mut recv).await?;
            if let Some(wanted) = &head.blob {
                return tokio::select! {
                    lent = lend(&serve, wanted, &mut reply.send) => lent,
                    early = tail(&mut recv) => Err(early),
                };
            }
            let request = read(&serve, &bodies, head, &mut reply, &mut recv).await?;
            let Some(request) = request else { return Ok(()) };
            tokio::select! {
                answered = pass_on(&serve, request, &mut reply.send) => answered,
                early = tail(&mut recv) => Err(early),
            }
        };
        let ended = tokio::select! {
            // What has ended is not cut any more.
            biased;
            ended = exchange => ended,
            () = stopped => Err(Early::Withdrawn),
            () = cut.cancelled() => Err(Early::Cut),
        };
        match ended {
            Ok(()) => {
                reply.finish();
                if *draining.borrow() {
                    // The connection will be closed as soon as nothing runs on it.
                    drop(timeout(ARRIVAL_LIMIT, reply.send.arrived()).await);
                }
            }
            Err(Early::Broke) => reply.code = code::ENGINE_BROKE,
            Err(Early::Withdrawn) => reply.code = code::CANCELLED,
            Err(Early::Cut) => reply.code = code::SHUTDOWN,
            Err(Early::BadFrame(cause)) => {
                tracing::warn!("a request of the router broke the rules: {cause}");
                reply.code = code::BAD_FRAME;
                recv.stop(code::BAD_FRAME);
            }
        }
    }
}

struct Request {
    head: RequestHead,
    body: Bytes,
    /// Given back when the body has been handed to the engine.
    room: OwnedSemaphorePermit,
}

async fn read_head(recv: &mut Receiving) -> Result<RequestHead, Early> {
    timeout(REQUEST_STALL, frame::read_request_head(recv))
        .await
        .map_err(|_| Early::BadFrame("its head did not come".into()))?
        .map_err(|error| match error {
            // The stream was reset, or the connection lost.
            frame::FrameError::Read(_) => Early::Withdrawn,
            frame::FrameError::TooLong(_) | frame::FrameError::Decode(_) => {
                Early::BadFrame(error.to_string())
            }
        })
}

/// The whole request; `None` when it was refused by its head alone.
async fn read(
    serve: &Serve,
    bodies: &Arc<Semaphore>,
    head: RequestHead,
    reply: &mut Reply,
    recv: &mut Receiving,
) -> Result<Option<Request>, Early> {
    if head.body_length > frame::BODY_LIMIT {
        let message =
            format!("a body of {} bytes is over the limit of {}", head.body_length, frame::BODY_LIMIT);
        let refusal = serve::refuse(serve, "bad_request", message);
        write(&mut reply.send, frame::encode_head(&refusal, b"")).await?;
        recv.stop(code::BAD_FRAME);
        return Ok(None);
    }
    let kib = u32::try_from(head.body_length / 1024 + 1).unwrap_or(BODIES_KIB);
    let room = bodies.clone().acquire_many_owned(kib).await.map_err(|_| Early::Cut)?;
    let body = read_body(recv, head.body_length).await?;
    Ok(Some(Request { head, body, room }))
}

async fn read_body(recv: &mut Receiving, length: u64) -> Result<Bytes, Early> {
    let length = usize::try_from(length).map_err(|_| Early::BadFrame("its body does not fit".into()))?;
    let mut first = Bytes::new();
    let mut body = BytesMut::new();
    while first.len() + body.len() < length {
        let missing = length - first.len() - body.len();
        let chunk = timeout(REQUEST_STALL, recv.chunk(missing))
            .await
            .map_err(|_| Early::BadFrame("its body did not come".into()))?
            .map_err(|_| Early::Withdrawn)?
            .ok_or_else(|| Early::BadFrame(format!("its body ended {missing} bytes early")))?;
        // A body in one piece is passed on as it is.
        if first.is_empty() && body.is_empty() {
            first = chunk;
        } else {
            if body.is_empty() {
                body.reserve(length.min(STREAM_WINDOW as usize));
                body.extend_from_slice(&std::mem::take(&mut first));
            }
            body.extend_from_slice(&chunk);
        }
    }
    Ok(if body.is_empty() { first } else { body.freeze() })
}

/// Completes only when something other than the request's clean end follows its body.
async fn tail(recv: &mut Receiving) -> Early {
    match recv.chunk(1).await {
        Ok(None) => std::future::pending().await,
        Ok(Some(_)) => Early::BadFrame("bytes follow its body".into()),
        Err(_) => Early::Withdrawn,
    }
}

async fn pass_on(serve: &Arc<Serve>, request: Request, send: &mut Sending) -> Result<(), Early> {
    let Request { head, body, room } = request;
    let Answer { head, mut body } = serve::answer(serve, head, body).await;
    drop(room);
    let has_body = matches!(head.outcome, Some(response_head::Outcome::Answer(_)));
    let first = if has_body { timeout(FIRST_BYTES, body.next()).await.ok() } else { Some(None) };
    match first {
        Some(Some(Ok(bytes))) => write(send, frame::encode_head(&head, &bytes)).await?,
        // Without a head the router cannot mistake it for the beginning of an answer.
        Some(Some(Err(EngineBroke { .. }))) => return Err(Early::Broke),
        Some(None) => return write(send, frame::encode_head(&head, b"")).await,
        None => write(send, frame::encode_head(&head, b"")).await?,
    }
    // Kept from one write to the next.
    let mut ready = Vec::new();
    while let Some(chunk) = body.next().await {
        let (mut more, mut length, mut broke) = (Some(chunk), 0, false);
        while let Some(next) = more {
            let Ok(bytes) = next else {
                broke = true;
                break;
            };
            length += bytes.len();
            ready.push(bytes);
            // The outer loop meets the body's end again, but not an error.
            more = if length < COALESCE { body.next().now_or_never().flatten() } else { None };
        }
        send.write_all(&mut ready).await.map_err(|_| Early::Withdrawn)?;
        if broke {
            return Err(Early::Broke);
        }
    }
    Ok(())
}

/// Sends bytes of a model file, after everything that requests have to send.
async fn lend(serve: &Serve, wanted: &BlobRequest, send: &mut Sending) -> Result<(), Early> {
    send.set_priority(frame::BLOB_PRIORITY);
    let BlobAnswer { head, mut body } = serve::blob(serve, wanted).await;
    write(send, frame::encode_head(&head, b"")).await?;
    while let Some(piece) = body.next().await {
        let bytes = piece.map_err(|error| {
            tracing::warn!("a model file that is lent cannot be read on: {error}");
            Early::Broke
        })?;
        write(send, bytes).await?;
    }
    Ok(())
}

async fn write(send: &mut Sending, bytes: Bytes) -> Result<(), Early> {
    send.write(bytes).await.map_err(|_| Early::Withdrawn)
}
