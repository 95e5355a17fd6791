//! A scan over JSON that builds nothing: it checks the grammar and tells where the top-level fields stand.
//!
//! It accepts what `serde_json` accepts and less: UTF-8 only, and no deeper than [`DEPTH_LIMIT`]. It never
//! recurses and takes no memory. Long strings are stepped over in blocks, for that is what prompts are made of.

use std::ops::Range;

/// Deeper bodies are refused: `serde_json`'s own limit, so that no reader behind the router meets what it cannot
/// read. One bit for each level says whether it is an object.
pub(crate) const DEPTH_LIMIT: u32 = 128;

/// Why a scan ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not the grammar of JSON, or no object.
    Syntax,
    /// Not UTF-8.
    Encoding,
    /// Deeper than [`DEPTH_LIMIT`].
    Depth,
}

/// A fault and the byte it was met at.
pub(crate) type Met = (Fault, usize);

/// One field of the top-level object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// Its name with both quotes.
    pub(crate) key: Range<usize>,
    /// Whether there are escapes in its name.
    pub(crate) escaped: bool,
    /// Its value, without the white space around it.
    pub(crate) value: Range<usize>,
    /// Of `messages` and `input`: what makes them none that a chat can begin with.
    pub(crate) unsound: Option<Unsound>,
}

/// What is wrong with `messages`, or with the items of `input`, as far as their own level and the next one tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsound {
    /// There are none.
    Missing,
    /// They are no list, and items no text either.
    NoList,
    /// The list is empty.
    Empty,
    /// The message at this place is no object.
    NoObject(usize),
    /// The message at this place has no `role`.
    NoRole(usize),
    /// The `role` of the message at this place is no text.
    RoleNoText(usize),
    /// The `role` of the message at this place is none of [`ROLES`]. Told where nothing else is wrong.
    OtherRole(usize),
}

/// Roles that each dialect has, or takes.
const ROLES: [&[u8]; 3] = [b"\"user\"", b"\"assistant\"", b"\"system\""];

/// What a list is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Messages, each with a role.
    Messages,
    /// Items of OpenAI's responses: those of another `type` than `message` have no role.
    Items,
}

/// Calls `each` for every field of the object that `body` is, in order, until it fails. Returns the body as a text.
///
/// # Errors
/// The first fault, or that of `each`.
pub(crate) fn fields<E: From<Met>>(
    body: &[u8],
    mut each: impl FnMut(Field) -> Result<(), E>,
) -> Result<&str, E> {
    let text = std::str::from_utf8(body).map_err(|error| (Fault::Encoding, error.valid_up_to()))?;
    let mut scan = Scan { body, at: 0 };
    scan.white();
    scan.expect(b'{')?;
    scan.white();
    if scan.peek() == Some(b'}') {
        scan.at += 1;
    } else {
        loop {
            let key_from = scan.at;
            scan.expect(b'"')?;
            let escaped = scan.string()?;
            let key = key_from..scan.at;
            scan.white();
            scan.expect(b':')?;
            scan.white();
            let value_from = scan.at;
            let unsound = match &body[key.clone()] {
                b"\"messages\"" => scan.list(Of::Messages)?,
                b"\"input\"" => scan.list(Of::Items)?,
                _ => {
                    scan.value(1)?;
                    None
                }
            };
            each(Field { key, escaped, value: value_from..scan.at, unsound })?;
            scan.white();
            match scan.next() {
                Some(b',') => scan.white(),
                Some(b'}') => break,
                _ => return Err((Fault::Syntax, scan.at).into()),
            }
        }
    }
    scan.white();
    if scan.at == body.len() { Ok(text) } else { Err((Fault::Syntax, scan.at).into()) }
}

struct Scan<'a> {
    body: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn fault<T>(&self) -> Result<T, Met> {
        Err((Fault::Syntax, self.at))
    }

    fn white(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Met> {
        if self.next() == Some(wanted) { Ok(()) } else { self.fault() }
    }

    /// Behind an opening quote: goes behind the closing one, and tells whether there were escapes.
    fn string(&mut self) -> Result<bool, Met> {
        let mut escaped = false;
        loop {
            self.at = plain_end(self.body, self.at);
            match self.next() {
                Some(b'"') => return Ok(escaped),
                Some(b'\\') => {
                    escaped = true;
                    match self.next() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                        Some(b'u') => {
                            let digits = self.body.get(self.at..self.at + 4);
                            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                                return self.fault();
                            }
                            self.at += 4;
                        }
                        _ => return self.fault(),
                    }
                }
                // A control character, or the end.
                _ => return self.fault(),
            }
        }
    }

    /// A list of messages: on the way over it, what must be there is looked for.
    fn list(&mut self, of: Of) -> Result<Option<Unsound>, Met> {
        if self.peek() != Some(b'[') {
            // A text alone is what the user says.
            let is_sound = of == Of::Items && self.peek() == Some(b'"');
            self.value(1)?;
            return Ok((!is_sound).then_some(Unsound::NoList));
        }
        self.at += 1;
        self.white();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Some(Unsound::Empty));
        }
        let (mut first, mut other) = (None, None);
        for place in 0.. {
            match self.message(place, of)? {
                Some(role @ Unsound::OtherRole(_)) => other = other.or(Some(role)),
                unsound => first = first.or(unsound),
            }
            self.white();
            match self.next() {
                Some(b',') => self.white(),
                Some(b']') => break,
                _ => return self.fault(),
            }
        }
        Ok(first.or(other))
    }

    fn message(&mut self, place: usize, of: Of) -> Result<Option<Unsound>, Met> {
        if self.peek() != Some(b'{') {
            self.value(2)?;
            return Ok(Some(Unsound::NoObject(place)));
        }
        self.at += 1;
        self.white();
        let mut unsound = Some(Unsound::NoRole(place));
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(unsound);
        }
        loop {
            let from = self.at;
            let escaped = self.key()?;
            let (is_text, value) = (self.peek() == Some(b'"'), self.at);
            // Most values are texts.
            let spelt = if is_text {
                self.at += 1;
                self.string()?
            } else {
                self.value(3)?;
                false
            };
            let (key, said) = (&self.body[from..], &self.body[value..self.at]);
            let lacks_role = unsound == Some(Unsound::NoRole(place));
            if escaped {
                // A name with escapes may be `role` in other letters: then the engine is asked.
                unsound = None;
            } else if key.starts_with(b"\"role\"") {
                unsound = if is_text {
                    // So may a role be any of them.
                    (!spelt && !ROLES.contains(&said)).then_some(Unsound::OtherRole(place))
                } else {
                    Some(Unsound::RoleNoText(place))
                };
            } else if of == Of::Items && lacks_role && key.starts_with(b"\"type\"") && said != b"\"message\""
            {
                unsound = None;
            }
            self.white();
            match self.next() {
                Some(b',') => self.white(),
                Some(b'}') => return Ok(unsound),
                _ => return self.fault(),
            }
        }
    }

    /// One value of any kind, with all that is in it, `outer` levels deep in the body.
    fn value(&mut self, outer: u32) -> Result<(), Met> {
        // Bit 0 = the innermost level; 1 = object.
        let (mut kinds, mut depth) = (0_u128, 0_u32);
        loop {
            match self.next() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(open @ (b'{' | b'[')) => {
                    if depth + outer >= DEPTH_LIMIT {
                        return Err((Fault::Depth, self.at));
                    }
                    let object = open == b'{';
                    self.white();
                    if self.peek() == Some(if object { b'}' } else { b']' }) {
                        self.at += 1;
                    } else {
                        (kinds, depth) = (kinds << 1 | u128::from(object), depth + 1);
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b't') => self.word(b"rue")?,
                Some(b'f') => self.word(b"alse")?,
                Some(b'n') => self.word(b"ull")?,
                Some(first @ (b'-' | b'0'..=b'9')) => self.number(first)?,
                _ => return self.fault(),
            }
            // Behind a value: the end of its surroundings, or the next one.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.white();
                let object = kinds & 1 == 1;
                match self.next() {
                    Some(b',') => {
                        self.white();
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => (kinds, depth) = (kinds >> 1, depth - 1),
                    Some(b']') if !object => (kinds, depth) = (kinds >> 1, depth - 1),
                    _ => return self.fault(),
                }
            }
        }
    }

    /// A name and its colon. Tells whether there were escapes in it.
    fn key(&mut self) -> Result<bool, Met> {
        self.expect(b'"')?;
        let escaped = self.string()?;
        self.white();
        self.expect(b':')?;
        self.white();
        Ok(escaped)
    }

    fn word(&mut self, rest: &[u8]) -> Result<(), Met> {
        if !self.body[self.at..].starts_with(rest) {
            return self.fault();
        }
        self.at += rest.len();
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<(), Met> {
        let lead = if first == b'-' { self.next() } else { Some(first) };
        match lead {
            Some(b'0') => {}
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fault(),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), Met> {
        let from = self.at;
        self.digits();
        if self.at == from { self.fault() } else { Ok(()) }
    }
}

/// Bytes that are looked at together in a long string: the compiler compares sixteen at once.
const BLOCK: usize = 64;

/// Where the next quote, backslash or control character stands, or the end.
pub(crate) fn plain_end(body: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = body.get(at..at + 8) {
        let special = special(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
        // Most strings of a head are shorter than this.
        if at - from == 16 {
            at += plain_blocks(&body[at..]);
        }
    }
    while body.get(at).is_some_and(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        at += 1;
    }
    at
}

/// The length of the whole blocks at the start of `body` that hold no quote, backslash or control character.
fn plain_blocks(body: &[u8]) -> usize {
    let is_special = |byte: u8| u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte < 0x20);
    let is_plain = |block: &[u8; BLOCK]| block.iter().fold(0, |any, &byte| any | is_special(byte)) == 0;
    BLOCK * body.as_chunks().0.iter().take_while(|block| is_plain(block)).count()
}

/// Eight bytes at once (Mycroft's test for a zero byte): the lowest bit that is set lies in the first byte that is
/// a quote, a backslash or less than a space. A borrow may set bits above the first one, never below.
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_in = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero_in(word ^ (ONES * b'"' as u64));
    let backslash = zero_in(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

#[cfg(test)]
#[path = "scan/tests.rs"]
mod tests;
