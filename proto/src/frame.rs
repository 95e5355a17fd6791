//! The data plane's frames: a length-prefixed protobuf head, then the raw body until FIN.
//!
//! Nothing here knows QUIC: frames are written to bytes and read from any [`AsyncRead`], so the same code
//! serves both ends and the tests.

use crate::v1::{AgentRequest, RequestHead, ResponseHead};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most bytes a head may have. A request head is under 1 KiB; the rest is room for later fields.
pub const HEAD_LIMIT: usize = 64 * 1024;

/// The most bytes of a request body that an agent accepts, whatever the router's own limit is.
pub const BODY_LIMIT: u64 = 256 * 1024 * 1024;

/// Paths on an engine that a router may ask for. The agent refuses every other path, so a stolen router
/// certificate cannot reach an engine's administration.
pub const PATHS: [&str; 13] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    // llama.cpp's count of a chat's tokens, without an answer.
    "/v1/chat/completions/input_tokens",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/infill",
    "/completion",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
];

/// Not on an engine: the agent itself answers, with one line of JSON (`mesh_core::trial::Event`) after another. The body is
/// a `mesh_core::trial::Trial`. Only operators reach it; it is no path of a client.
pub const TRIAL_PATH: &str = "/mesh/trial";

/// Streams that an agent may have open to the router at once: two copies, and room for their successors.
pub const AGENT_STREAMS: u32 = 4;

/// Streams of model files go after those of requests; requests have quinn's usual 0.
pub const BLOB_PRIORITY: i32 = -1;

/// Codes of RESET and STOP_SENDING on a request's stream.
pub mod code {
    /// The client left, or nobody wants the answer any more.
    pub const CANCELLED: u32 = 1;
    /// The engine's connection broke in the middle of its answer.
    pub const ENGINE_BROKE: u32 = 2;
    /// The agent is shutting down.
    pub const SHUTDOWN: u32 = 3;
    /// The peer broke the rules of the frame.
    pub const BAD_FRAME: u32 = 4;
}

/// ALPN protocol names.
pub mod alpn {
    /// The QUIC data plane.
    pub const DATA: &[u8] = b"modemesh/1";
    /// The data plane over TLS on TCP, where UDP does not pass: the router sends requests by HTTP/2.
    pub const DATA_H2: &[u8] = b"modemesh-data-h2/1";
    /// Model files over TLS on TCP: the agent asks for one by HTTP/2.
    pub const FILES_H2: &[u8] = b"modemesh-files-h2/1";
    /// gRPC.
    pub const H2: &[u8] = b"h2";
}

/// Why a head could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or broke first.
    #[error("reading a head: {0}")]
    Read(#[from] std::io::Error),
    /// The announced length is over [`HEAD_LIMIT`].
    #[error("a head of {0} bytes is over the limit of {HEAD_LIMIT}")]
    TooLong(usize),
    /// The bytes are no such message.
    #[error("decoding a head: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// A head as bytes, with `body` behind it where it is small enough to save a second write.
#[must_use]
pub fn encode_head<M: Message>(head: &M, body: &[u8]) -> Bytes {
    let length = head.encoded_len();
    let mut out = BytesMut::with_capacity(4 + length + body.len());
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    head.encode(&mut out).expect("BytesMut grows as needed");
    out.put_slice(body);
    out.freeze()
}

/// Reads the head of a request.
///
/// # Errors
/// [`FrameError`] when the stream ends, the head is too long or no [`RequestHead`].
pub async fn read_request_head(from: &mut (impl AsyncRead + Unpin)) -> Result<RequestHead, FrameError> {
    read_head(from).await
}

/// Reads what an agent asks of the router.
///
/// # Errors
/// [`FrameError`] when the stream ends, the head is too long or no [`AgentRequest`].
pub async fn read_agent_request(from: &mut (impl AsyncRead + Unpin)) -> Result<AgentRequest, FrameError> {
    read_head(from).await
}

/// Reads the head of a response.
///
/// # Errors
/// [`FrameError`] when the stream ends, the head is too long or no [`ResponseHead`].
pub async fn read_response_head(from: &mut (impl AsyncRead + Unpin)) -> Result<ResponseHead, FrameError> {
    read_head(from).await
}

async fn read_head<M: Message + Default>(from: &mut (impl AsyncRead + Unpin)) -> Result<M, FrameError> {
    let length = from.read_u32().await? as usize;
    if length > HEAD_LIMIT {
        return Err(FrameError::TooLong(length));
    }
    let mut buffer = vec![0; length];
    from.read_exact(&mut buffer).await?;
    Ok(M::decode(buffer.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RequestHead {
        RequestHead {
            request_id: "req-1".into(),
            model: "tiny".into(),
            path: PATHS[0].into(),
            body_length: 3,
            traceparent: String::new(),
            blob: None,
        }
    }

    #[tokio::test]
    async fn a_head_and_its_body_survive_the_wire() {
        let wire = encode_head(&head(), b"abc");
        let mut reader = wire.as_ref();
        assert_eq!(read_request_head(&mut reader).await.expect("a whole head"), head());
        assert_eq!(reader, b"abc");
    }

    #[tokio::test]
    async fn a_truncated_head_is_an_error_and_never_a_default() {
        let wire = encode_head(&head(), b"");
        for end in 0..wire.len() {
            let mut reader = &wire[..end];
            assert!(matches!(read_request_head(&mut reader).await, Err(FrameError::Read(_))), "cut at {end}");
        }
    }

    #[tokio::test]
    async fn a_head_that_announces_gigabytes_is_refused_before_memory_is_taken() {
        let mut reader = [0xff_u8; 16].as_slice();
        assert!(matches!(read_request_head(&mut reader).await, Err(FrameError::TooLong(_))));
    }
}
