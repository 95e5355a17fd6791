//! Writes a record down as it grows, but not after each few items: it is written whole, and that of 14,000 items has megabytes.

use crate::command::keep::Keep;
use crate::exit::Failure;
use mesh_core::exam::Record;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Between two writings: what a power cut may cost.
pub(super) const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Of one record after the other.
pub(super) struct Scribe {
    keep: Keep<Record>,
    last: Option<Instant>,
    is_behind: bool,
}

impl Scribe {
    pub(super) fn new(keep: Keep<Record>) -> Self {
        Self { keep, last: None, is_behind: false }
    }

    /// Begins `record` under an id of its own.
    ///
    /// # Errors
    /// As [`Keep::begin`].
    pub(super) fn begin(&mut self, record: &mut Record) -> Result<(), Failure> {
        let began = record.started_unix_ms;
        self.keep.begin(record, began)?;
        self.last = Some(Instant::now());
        Ok(())
    }

    /// `record` has grown: it is written where that is due.
    ///
    /// # Errors
    /// As [`Keep::write`].
    pub(super) fn grown(&mut self, record: &Record) -> Result<(), Failure> {
        self.is_behind = true;
        match self.last {
            Some(last) if last.elapsed() < WRITE_EVERY => Ok(()),
            _ => self.write(record),
        }
    }

    /// Resolves when what was not written yet is due; never where all is written.
    pub(super) async fn due(&self) {
        match self.last.filter(|_| self.is_behind) {
            Some(last) => sleep_until(last + WRITE_EVERY).await,
            None => std::future::pending().await,
        }
    }

    /// Writes `record`, whether it is due or not.
    ///
    /// # Errors
    /// As [`Keep::write`].
    pub(super) fn write(&mut self, record: &Record) -> Result<(), Failure> {
        let kept = self.keep.write(record);
        // A large one on a slow disk takes a while itself. One that failed is tried again no sooner.
        self.last = Some(Instant::now());
        self.is_behind = kept.is_err();
        kept
    }

    /// Writes `record` where something of it is not written yet.
    ///
    /// # Errors
    /// As [`Keep::write`].
    pub(super) fn catch_up(&mut self, record: &Record) -> Result<(), Failure> {
        if self.is_behind { self.write(record) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::exam::Source;
    use mesh_core::id::{MachineId, ModelId};
    use mesh_core::profile::{HardwareFacts, SoftwareFacts};

    fn record(started_unix_ms: u64) -> Record {
        Record {
            schema: mesh_core::exam::SCHEMA.into(),
            id: "20261122-040000-000".into(),
            node: MachineId::new("msi").expect("a good name"),
            meshctl: "0.1.0".into(),
            started_unix_ms,
            ended_unix_ms: None,
            hardware: HardwareFacts::default(),
            software: SoftwareFacts::default(),
            model: ModelId::new("m").expect("a good name"),
            quantisation: None,
            size: None,
            digest: None,
            subject: None,
            source: Source::default(),
            baseline: false,
            sittings: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_grows_often_is_written_seldom_and_never_long_after() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let keep = Keep::<Record>::of(data.path());
        let mut scribe = Scribe::new(keep.clone());
        let written = || keep.read(&record(0).id).map(|record| record.started_unix_ms);
        let (mut writings, mut last) = (0, None);
        // 560 trials of 25 items, each of a tenth of a second.
        for number in 1..=560 {
            scribe.grown(&record(number)).expect("it is kept");
            let now = written().ok();
            writings += u32::from(now != last);
            last = now;
            assert!(number - now.expect("the first is written at once") < 50, "at most 5 s behind");
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(writings, 12, "56 s");
        // The next trial may take an hour: what there is is written meanwhile.
        let before = Instant::now();
        scribe.due().await;
        assert!(before.elapsed() < WRITE_EVERY);
        scribe.catch_up(&record(560)).expect("it is kept");
        assert_eq!(written(), Ok(560));
        let never = tokio::time::timeout(Duration::from_secs(3600), scribe.due()).await;
        assert!(never.is_err(), "all is written");
    }
}
