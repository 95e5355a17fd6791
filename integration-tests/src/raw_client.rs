//! A client below HTTP, for bytes that no HTTP library would send: raw requests, and frames of HTTP/2 by hand.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most bytes of an answer that are kept.
const ANSWER_LIMIT: usize = 4 << 20;

/// One answer of HTTP/1.
#[derive(Debug, Clone)]
pub struct RawReply {
    /// Its status.
    pub status: u16,
    /// Its status line and headers, in lower case.
    pub head: String,
    /// Its body, without the framing of chunks.
    pub body: Vec<u8>,
}

/// One frame of HTTP/2 (RFC 9113, section 4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct H2Frame {
    /// Its kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The stream it is of, 0 = the connection.
    pub stream: u32,
    /// The rest of it.
    pub payload: Vec<u8>,
}

/// A connection.
pub struct RawClient {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl RawClient {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = crate::soon("a connection", TcpStream::connect(to)).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, seen: Vec::new() }
    }

    /// Sends bytes; false when the other side has closed or does not take them.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let (mut from, mut to) = self.stream.split();
        let mut sent = 0;
        while sent < bytes.len() {
            // What comes meanwhile is kept, or both sides could wait for each other.
            tokio::select! {
                written = to.write(&bytes[sent..]) => match written {
                    Ok(1..) => sent += written.unwrap_or_default(),
                    Ok(0) | Err(_) => return false,
                },
                read = from.read_buf(&mut self.seen), if self.seen.len() < ANSWER_LIMIT => {
                    if !matches!(read, Ok(1..)) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Says that nothing more comes.
    pub async fn half_close(&mut self) {
        // Fails when the other side is gone, which the next read shows.
        drop(self.stream.shutdown().await);
    }

    async fn more(&mut self) -> bool {
        let read = crate::soon("more of an answer, or its end", self.stream.read_buf(&mut self.seen)).await;
        matches!(read, Ok(1..))
    }

    /// Everything up to the end of the connection.
    pub async fn rest(mut self) -> Vec<u8> {
        while self.seen.len() < ANSWER_LIMIT && self.more().await {}
        self.seen
    }

    /// Resolves with true when `part` has come, with false at the connection's end.
    pub async fn until(&mut self, part: &[u8]) -> bool {
        loop {
            if self.seen.windows(part.len()).any(|seen| seen == part) {
                return true;
            }
            if !self.more().await {
                return false;
            }
        }
    }

    /// Resolves with true when a frame of HTTP/2 has come that `wanted` is true of, with false at the connection's end.
    pub async fn until_frame(&mut self, wanted: impl Fn(&H2Frame) -> bool) -> bool {
        loop {
            if h2_frames(&self.seen).iter().any(&wanted) {
                return true;
            }
            if self.seen.len() >= ANSWER_LIMIT || !self.more().await {
                return false;
            }
        }
    }

    /// The frames of HTTP/2 that have come so far.
    #[must_use]
    pub fn frames(&self) -> Vec<H2Frame> {
        h2_frames(&self.seen)
    }

    /// The next answer, also `100 Continue`; `None` when the connection ends before it is whole.
    pub async fn reply(&mut self) -> Option<RawReply> {
        let end = loop {
            if let Some(at) = self.seen.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.seen[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.trim().parse().ok()?;
        self.seen.drain(..end);
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = field("content-length:").and_then(|number| number.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        if field("transfer-encoding:") == Some("chunked") {
            loop {
                let size = self.line().await?;
                let size = usize::from_str_radix(&size, 16).ok()?;
                let chunk = self.exactly(size).await?;
                self.line().await?;
                body.extend_from_slice(&chunk);
                if size == 0 {
                    break;
                }
            }
        } else {
            body = self.exactly(length).await?;
        }
        Some(RawReply { status, head, body })
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(2).position(|part| part == b"\r\n") {
                let line = String::from_utf8_lossy(&self.seen[..at]).into_owned();
                self.seen.drain(..at + 2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.seen.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.seen.drain(..length).collect())
    }
}

/// What a client of HTTP/2 sends first, with empty settings.
#[must_use]
pub fn h2_begin() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), h2_frame(4, 0, 0, &[])].concat()
}

/// The whole frames at the start of `bytes`.
#[must_use]
pub fn h2_frames(mut bytes: &[u8]) -> Vec<H2Frame> {
    let mut frames = Vec::new();
    while let Some((&[a, b, c, kind, flags, d, e, f, g], rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = rest.get(..length) else { break };
        let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
        frames.push(H2Frame { kind, flags, stream, payload: payload.to_vec() });
        bytes = &rest[length..];
    }
    frames
}

/// One frame of HTTP/2 (RFC 9113, section 4.1).
#[must_use]
pub fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of headers (RFC 7541) that begins a request; nothing in it is compressed.
#[must_use]
pub fn h2_request(post: bool, path: &str, key: &str) -> Vec<u8> {
    let method = if post { 0x83 } else { 0x82 };
    let mut block = vec![method, 0x86];
    literal(&mut block, b":path", path.as_bytes());
    literal(&mut block, b":authority", b"x");
    literal(&mut block, b"authorization", format!("Bearer {key}").as_bytes());
    block
}

/// Appends a header that enters no table. Names and values are shorter than 127 bytes.
fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap_or(u8::MAX) & 0x7f);
        block.extend_from_slice(text);
    }
}
