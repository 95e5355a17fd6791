//! Everything that the process logs, at every level and from every crate, for tests that look for what must
//! never be logged.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

/// What was logged so far. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SeenLogs {
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl SeenLogs {
    /// Takes over the process's logging. Once per process.
    ///
    /// # Panics
    /// When something else logs already.
    #[must_use]
    pub fn start() -> Self {
        let logs = Self::default();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(logs.clone())
            .init();
        logs
    }

    /// All lines that hold `part`.
    #[must_use]
    pub fn lines_with(&self, part: &str) -> Vec<String> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl Write for SeenLogs {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for SeenLogs {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
