//! A position in the first bytes of a file, that says how many more are needed.

use super::GgufError;

/// Why reading stops.
pub(super) enum Stop {
    /// There are fewer bytes than this from the beginning.
    NeedMore(u64),
    /// No continuation helps.
    Error(GgufError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Error(error)
    }
}

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], Stop> {
        let end = self.end(length)?;
        let part = usize::try_from(self.at).ok().zip(usize::try_from(end).ok());
        let part = part.and_then(|(from, to)| self.bytes.get(from..to)).ok_or(Stop::NeedMore(end))?;
        self.at = end;
        Ok(part)
    }

    /// Passes over bytes without looking at them.
    pub(super) fn skip(&mut self, length: u64) -> Result<(), Stop> {
        self.take(length).map(drop)
    }

    fn end(&self, length: u64) -> Result<u64, Stop> {
        self.at.checked_add(length).ok_or_else(|| {
            GgufError::TooMuch { what: "header bytes".into(), found: length, limit: u64::MAX - self.at }
                .into()
        })
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| (value << 8) | u32::from(byte)))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte)))
    }

    pub(super) fn bounded_count(&mut self, what: &str, limit: u64) -> Result<u64, Stop> {
        let found = self.u64()?;
        if found > limit {
            return Err(GgufError::TooMuch { what: what.to_owned(), found, limit }.into());
        }
        Ok(found)
    }

    /// The bytes of a string. Its length is judged before its bytes are waited for.
    pub(super) fn string(&mut self, what: &str, limit: u64) -> Result<&'a [u8], Stop> {
        let length = self.bounded_count(&format!("length of {what}"), limit)?;
        self.take(length)
    }

    pub(super) fn text(&mut self, what: &str, limit: u64) -> Result<&'a str, Stop> {
        let bytes = self.string(what, limit)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Text { what: what.to_owned() }.into())
    }
}
