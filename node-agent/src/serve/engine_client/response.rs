//! What an engine sends for a request: the head of an HTTP/1.1 response, and its body out of its framing. Nothing here
//! reads or waits; bytes come in as the socket brings them, cut anywhere.
//!
//! Framing after RFC 9112, sections 6 and 7. What two programs could read differently is refused.

use super::HttpError;
use bytes::Bytes;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The most bytes of a head.
const HEAD_LIMIT: usize = 64 * 1024;

/// The most headers of a head.
const HEADERS: usize = 100;

/// The most digits of a chunk's size, leading zeros included.
const SIZE_DIGITS: u8 = 32;

/// The most bytes that one chunk's extensions, or all trailers, may take: nobody here reads them.
const UNREAD_LIMIT: usize = 16 * 1024;

/// The longest content type that is passed on.
const CONTENT_TYPE_LIMIT: usize = 256;

/// What is passed on of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) struct Head {
    /// 200 to 999.
    pub(in crate::serve) status: u16,
    pub(in crate::serve) content_type: Option<String>,
    pub(in crate::serve) retry_after_s: Option<u32>,
}

/// One response, on its way.
#[derive(Debug)]
pub(super) struct Response {
    /// Of a head that is not whole yet.
    seen: Vec<u8>,
    /// Bytes that came before the body, those of interim responses included.
    before_body: usize,
    /// `None` until the head is whole.
    framing: Option<Framing>,
    /// Wrong after bytes that were right; told when those are taken.
    wrong: Option<HttpError>,
    /// Whether the engine leaves the connection open.
    keeps: bool,
    /// Bytes came after the end: whose they are nobody knows.
    excess: bool,
}

/// How the end of a body is told, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Bytes that are still to come.
    Length(u64),
    Chunked(Chunk),
    UntilClosed,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size.
    Size {
        size: u64,
        digits: u8,
    },
    /// After the size, up to the end of the line.
    Extension {
        size: u64,
        length: usize,
    },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// In the trailers; `line` counts bytes of this one.
    Trailer {
        length: usize,
        line: usize,
    },
    TrailerLf {
        length: usize,
        line: usize,
    },
    End,
}

impl Response {
    pub(super) fn new() -> Self {
        Self { seen: Vec::new(), before_body: 0, framing: None, wrong: None, keeps: false, excess: false }
    }

    /// Whether nothing of it has come.
    pub(super) fn is_new(&self) -> bool {
        self.before_body == 0
    }

    /// Whether its head and all of its body are there.
    pub(super) fn is_whole(&self) -> bool {
        let ended = matches!(self.framing, Some(Framing::Length(0) | Framing::Chunked(Chunk::End)));
        ended && self.wrong.is_none()
    }

    /// Whether the connection may carry another request after this response.
    pub(super) fn leaves_open(&self) -> bool {
        self.is_whole() && self.keeps && !self.excess
    }

    /// What was wrong behind the bytes that were taken last.
    pub(super) fn wrong(&mut self) -> Option<HttpError> {
        self.wrong.take()
    }

    /// Takes bytes of the head. With its last ones come those of the body that stand behind it.
    pub(super) fn head(&mut self, bytes: &mut [u8]) -> Result<Option<(Head, Bytes)>, HttpError> {
        // What stands behind the head is taken off again.
        self.before_body += bytes.len();
        if self.seen.is_empty() {
            return self.parse(bytes);
        }
        let looked_at = self.seen.len().saturating_sub(3);
        self.seen.extend_from_slice(bytes);
        // One parse for the whole of it: many small pieces would cost their square.
        if !ends_head(&self.seen[looked_at..]) {
            return self.not_yet();
        }
        let mut seen = std::mem::take(&mut self.seen);
        self.parse(&mut seen)
    }

    fn not_yet<T>(&self) -> Result<Option<T>, HttpError> {
        if self.before_body > HEAD_LIMIT { Err(HttpError::HeadTooLong) } else { Ok(None) }
    }

    fn parse(&mut self, bytes: &mut [u8]) -> Result<Option<(Head, Bytes)>, HttpError> {
        let mut at = 0;
        loop {
            // Line ends before a head mean nothing; kept, each would have all of them looked at again.
            at += bytes[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
            let mut response = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
                &mut response,
                &bytes[at..],
                &mut headers,
            )?;
            let httparse::Status::Complete(length) = parsed else {
                self.seen = bytes[at..].to_vec();
                return self.not_yet();
            };
            let status = response.code.unwrap_or_default();
            match status {
                // `100 Continue` and its like: the answer follows.
                100 | 102..=199 => at += length,
                200..=999 => {
                    let body = at + length;
                    self.before_body -= bytes.len() - body;
                    if self.before_body > HEAD_LIMIT {
                        return Err(HttpError::HeadTooLong);
                    }
                    let said = Said::read(response.headers)?;
                    let is_1_1 = response.version == Some(1);
                    // RFC 9112, 6.1: chunks in HTTP/1.0 are framed by a mistake.
                    self.keeps = said.keeps.unwrap_or(is_1_1) && (is_1_1 || !said.chunked);
                    self.framing = Some(said.framing(status));
                    let head =
                        Head { status, content_type: said.content_type, retry_after_s: said.retry_after_s };
                    let first = self.body(&mut bytes[body..])?;
                    return Ok(Some((head, first)));
                }
                _ => return Err(HttpError::Status(status)),
            }
        }
    }

    /// Takes bytes of the body out of their framing, which is overwritten. Behind bytes that were right something may
    /// be [wrong](Self::wrong).
    pub(super) fn body(&mut self, bytes: &mut [u8]) -> Result<Bytes, HttpError> {
        let (payload, used) = match &mut self.framing {
            None => return Err(HttpError::Closed),
            Some(Framing::UntilClosed) => (0..bytes.len(), bytes.len()),
            Some(Framing::Length(left)) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= length as u64;
                (0..length, length)
            }
            Some(Framing::Chunked(chunk)) => {
                let mut payload = 0..0;
                match chunk.take(bytes, &mut payload) {
                    Ok(used) => (payload, used),
                    Err(error) if payload.is_empty() => return Err(error),
                    Err(error) => {
                        self.wrong = Some(error);
                        (payload, bytes.len())
                    }
                }
            }
        };
        self.excess |= used < bytes.len();
        Ok(Bytes::copy_from_slice(&bytes[payload]))
    }

    /// The connection has ended: whether the response has, too.
    pub(super) fn closed(&mut self) -> Result<(), HttpError> {
        match self.framing {
            Some(Framing::UntilClosed) => {
                self.framing = Some(Framing::Length(0));
                self.keeps = false;
                Ok(())
            }
            _ if self.is_whole() => Ok(()),
            _ => Err(HttpError::Closed),
        }
    }
}

/// What the headers of a head say.
#[derive(Default)]
struct Said {
    content_type: Option<String>,
    retry_after_s: Option<u32>,
    length: Option<u64>,
    chunked: bool,
    keeps: Option<bool>,
}

impl Said {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let mut said = Self::default();
        for header in headers {
            let text = || std::str::from_utf8(header.value).unwrap_or_default().trim_ascii();
            // By length first: most headers of an engine are none of these.
            match header.name.len() {
                12 if header.name.eq_ignore_ascii_case("content-type") => {
                    let fits =
                        |text: &&str| (1..=CONTENT_TYPE_LIMIT).contains(&text.len()) && text.is_ascii();
                    said.content_type = Some(text()).filter(fits).map(str::to_owned);
                }
                11 if header.name.eq_ignore_ascii_case("retry-after") => {
                    said.retry_after_s = text().parse().ok();
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    for part in text().split(',').map(str::trim_ascii) {
                        let length = number(part).ok_or(HttpError::Length)?;
                        if said.length.replace(length).is_some_and(|other| other != length) {
                            return Err(HttpError::Length);
                        }
                    }
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if said.chunked || !text().eq_ignore_ascii_case("chunked") {
                        return Err(HttpError::Coding);
                    }
                    said.chunked = true;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for option in header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                        if option.eq_ignore_ascii_case(b"close") {
                            said.keeps = Some(false);
                        } else if option.eq_ignore_ascii_case(b"keep-alive") && said.keeps.is_none() {
                            said.keeps = Some(true);
                        }
                    }
                }
                _ => {}
            }
        }
        if said.chunked && said.length.is_some() {
            // RFC 9112, 6.3: the coding counts, and the connection must not be used again.
            said.keeps = Some(false);
        }
        Ok(said)
    }

    fn framing(&self, status: u16) -> Framing {
        match self.length {
            _ if status == 204 || status == 304 => Framing::Length(0),
            _ if self.chunked => Framing::Chunked(Chunk::SIZE),
            Some(length) => Framing::Length(length),
            None => Framing::UntilClosed,
        }
    }
}

/// Digits and nothing else: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Whether the end of a head may stand here.
fn ends_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

impl Chunk {
    /// Before a size.
    const SIZE: Self = Self::Size { size: 0, digits: 0 };

    /// Takes `bytes` up to the end of the body and says how many those are. `payload` becomes the range of the data,
    /// which is moved together.
    fn take(&mut self, bytes: &mut [u8], payload: &mut Range<usize>) -> Result<usize, HttpError> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::End {
            if let Self::Data(left) = self {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                if (*payload).is_empty() {
                    *payload = at..at + length;
                } else {
                    bytes.copy_within(at..at + length, payload.end);
                    payload.end += length;
                }
                at += length;
                *left -= length as u64;
                if *left == 0 {
                    *self = Self::DataCr;
                }
            } else {
                *self = self.after(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// What follows `byte` of the framing.
    fn after(self, byte: u8) -> Result<Self, HttpError> {
        Ok(match (self, byte) {
            (Self::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < SIZE_DIGITS =>
            {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = size.checked_mul(16).ok_or(HttpError::Chunk)? | u64::from(digit);
                Self::Size { size, digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. } | Self::Extension { size, .. }, b'\r') => Self::SizeLf(size),
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension { size, length: 1 },
            (Self::Extension { size, length }, _) if byte != b'\n' && length < UNREAD_LIMIT => {
                Self::Extension { size, length: length + 1 }
            }
            (Self::SizeLf(0), b'\n') => Self::Trailer { length: 0, line: 0 },
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::SIZE,
            (Self::Trailer { length, line }, b'\r') => Self::TrailerLf { length, line },
            (Self::Trailer { length, line }, _) if byte != b'\n' && length < UNREAD_LIMIT => {
                Self::Trailer { length: length + 1, line: line + 1 }
            }
            (Self::TrailerLf { line: 0, .. }, b'\n') => Self::End,
            (Self::TrailerLf { length, .. }, b'\n') => Self::Trailer { length: length + 2, line: 0 },
            _ => return Err(HttpError::Chunk),
        })
    }
}

#[cfg(test)]
#[path = "response/tests.rs"]
mod tests;
