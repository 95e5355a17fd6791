//! Server-sent events out of chunks of bytes that may end anywhere.

/// The longest event that is accepted; one event of a chat holds a few tokens.
const LONGEST_EVENT: usize = 1 << 20;

/// One event: its name (empty for the usual one) and its data lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The `event:` field.
    pub(crate) name: String,
    /// The `data:` fields, joined by line feeds.
    pub(crate) data: String,
}

/// An event grew beyond the limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the answer has more than {LONGEST_EVENT} bytes")]
pub(crate) struct TooLong;

/// Collects chunks, gives whole events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    name: String,
    data: Vec<String>,
    size: usize,
}

impl Events {
    /// Takes the next chunk and returns the events that it completes.
    ///
    /// # Errors
    /// [`TooLong`] when one event exceeds 1 MiB.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in chunk {
            if byte != b'\n' {
                self.size += 1;
                if self.size > LONGEST_EVENT {
                    return Err(TooLong);
                }
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line));
            if text.is_empty() {
                events.extend(self.dispatch());
            } else {
                self.field(&text);
            }
        }
        Ok(events)
    }

    fn field(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => self.data.push(value.to_owned()),
            // Comments (an empty field name), ids and retry times.
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.size = 0;
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        (!data.is_empty()).then(|| Event { name, data: data.join("\n") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_the_same_wherever_the_chunks_end() {
        let bytes =
            ": ping\n\ndata: {\"a\":\"ü\"}\r\n\r\nevent: error\ndata: one\ndata: two\n\ndata:[DONE]\n\n"
                .as_bytes();
        let whole = vec![event("", "{\"a\":\"ü\"}"), event("error", "one\ntwo"), event("", "[DONE]")];
        for size in 1..bytes.len() {
            let mut events = Events::default();
            let got: Vec<Event> =
                bytes.chunks(size).flat_map(|chunk| events.feed(chunk).expect("short events")).collect();
            assert_eq!(got, whole, "chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused_in_time() {
        let mut events = Events::default();
        let chunk = vec![b'x'; LONGEST_EVENT];
        assert_eq!(events.feed(&chunk), Ok(vec![]));
        assert_eq!(events.feed(b"x"), Err(TooLong));
    }
}
