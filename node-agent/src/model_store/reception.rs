//! Takes a file's bytes in: writes, hashes and looks at the header on a thread that may block, while the next
//! bytes come.

use super::digests;
use super::header::{self, HeaderError};
use super::progress::Progress;
use super::shelf::{Journal, Part, Shelf, ShelfError};
use super::space::{Share, TooFull};
use bytes::Bytes;
use sha2::Sha256;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Written, hashed and handed over in pieces of about this size.
const BATCH: usize = 1 << 20;

/// The first piece is small: what is no model shall be refused before a megabyte of it has come.
const FIRST_BATCH: usize = 32 * 1024;

/// Hashed in one go when a transfer goes on; between two, the agent may ask to stop.
const HASH_STEP: u64 = 16 << 20;

/// Batches between the network and the disk: together with one in each hand under 5 MiB.
const QUEUE: usize = 2;

/// Synced and noted in the journal each time so many bytes have come: what a power cut may cost.
const SYNC_EVERY: u64 = 256 << 20;

/// A file may be this much longer than its tensors: padding.
const SLACK: u64 = 1 << 20;

/// Why bytes are not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    /// They are no model's.
    #[error("what came is no model that can be used: {0}")]
    Header(#[from] HeaderError),
    /// There is no room.
    #[error("{0}")]
    TooFull(#[from] TooFull),
    /// The disk failed.
    #[error("writing to the model folder: {0}")]
    Disk(#[from] io::Error),
    /// The journal cannot be kept.
    #[error("{0}")]
    Shelf(#[from] ShelfError),
    /// More comes than the file has.
    #[error("more than {0} bytes come, which is all that the file has")]
    Endless(u64),
}

/// A file as far as it has come.
pub(super) struct Reception {
    part: Part,
    hasher: Sha256,
    /// Bytes of the header that are known to be needed; `None` when all of it was read.
    header_needs: Option<u64>,
    /// The most bytes the file may have.
    limit: Option<u64>,
    journal: Journal,
    shelf: Shelf,
    share: Share,
    progress: Arc<Progress>,
    quit: Quit,
}

/// Tells a thread that its transfer has ended, and the transfer when the thread has let go of everything.
#[derive(Debug, Clone)]
pub(super) struct Quit {
    /// Cancelled when the transfer has ended.
    pub token: CancellationToken,
    /// Never used: it is closed when the last of its clones is gone.
    pub _alive: mpsc::Sender<()>,
}

impl Reception {
    /// Goes on with `part`: hashes what has come. Blocks.
    pub(super) fn new(
        part: Part,
        journal: Journal,
        shelf: Shelf,
        share: Share,
        progress: Arc<Progress>,
        quit: Quit,
    ) -> Result<Self, TakeError> {
        let mut hasher = Sha256::default();
        let mut hashed = 0;
        while hashed < part.length {
            if quit.token.is_cancelled() {
                return Err(TakeError::Disk(io::ErrorKind::Interrupted.into()));
            }
            let step = HASH_STEP.min(part.length - hashed);
            digests::read_into(&part.file, hashed, step, &mut hasher)?;
            hashed += step;
        }
        let header_needs = Some(0);
        let mut reception =
            Self { part, hasher, header_needs, limit: None, journal, shelf, share, progress, quit };
        reception.progress.set_done(reception.part.length);
        reception.expect_total(reception.journal.total);
        reception.look_at_header()?;
        Ok(reception)
    }

    /// Bytes that have come.
    pub(super) fn length(&self) -> u64 {
        self.part.length
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether all of it has come, as far as anybody has said.
    pub(super) fn is_whole(&self) -> bool {
        self.header_needs.is_none() && self.journal.total == Some(self.part.length)
    }

    /// Whether it could be all, when nobody said how long it is.
    pub(super) fn could_be_whole(&self) -> bool {
        self.header_needs.is_none()
    }

    fn expect_total(&mut self, total: Option<u64>) {
        self.journal.total = total;
        self.limit = total.or(self.limit);
        self.progress.set_total(total);
    }

    /// The source begins anew, or says for the first time what it will send. Blocks.
    pub(super) fn begin(
        &mut self,
        start: u64,
        total: Option<u64>,
        validator: Option<String>,
        digest: Option<mesh_core::machine::Digest>,
    ) -> Result<(), TakeError> {
        if start < self.part.length {
            self.part.file.set_len(start)?;
            self.part.length = start;
            self.journal.synced = self.journal.synced.min(start);
            self.hasher = Sha256::default();
            digests::read_into(&self.part.file, 0, start, &mut self.hasher)?;
            (self.header_needs, self.limit) = (Some(0), None);
            self.progress.set_done(start);
        }
        self.journal.validator = validator;
        self.journal.digest = self.journal.digest.take().or(digest);
        self.expect_total(total);
        self.shelf.write(&self.journal)?;
        self.claim()
    }

    fn claim(&self) -> Result<(), TakeError> {
        let total = self.limit.unwrap_or(self.part.length + BATCH as u64);
        Ok(self.share.claim(self.part.length, total)?)
    }

    fn append(&mut self, batch: &[Bytes]) -> Result<(), TakeError> {
        self.claim()?;
        for bytes in batch {
            let end = self.part.length + bytes.len() as u64;
            if let Some(limit) = self.limit.filter(|limit| end > *limit) {
                return Err(TakeError::Endless(limit));
            }
            self.part.file.write_all_at(bytes, self.part.length)?;
            sha2::Digest::update(&mut self.hasher, bytes);
            self.part.length = end;
        }
        self.look_at_header()?;
        if self.part.length - self.journal.synced >= SYNC_EVERY {
            self.part.file.sync_data()?;
            self.journal.synced = self.part.length;
            self.shelf.write(&self.journal)?;
        }
        self.progress.set_done(self.part.length);
        Ok(())
    }

    /// Reads as much of the header as has come: what is no model is refused with its first bytes.
    fn look_at_header(&mut self) -> Result<(), TakeError> {
        let Some(needs) = self.header_needs else { return Ok(()) };
        if self.part.length < needs.max(4) {
            return Ok(());
        }
        match header::so_far(&self.part.file, self.part.length, needs, self.journal.total)? {
            header::Progress::Needs(needs) => self.header_needs = Some(needs),
            header::Progress::Whole(header) => {
                self.header_needs = None;
                let expected = header::expected_size(&header).map(|size| size.saturating_add(SLACK));
                self.limit = self.limit.or(expected);
            }
        }
        Ok(())
    }

    /// The whole file's last check. Syncs it and gives its digest. Blocks.
    pub(super) fn finish(self) -> Result<(Part, mesh_core::machine::Digest), TakeError> {
        header::whole(&self.part.file, self.part.length)?;
        self.part.file.sync_all()?;
        Ok((self.part, digests::digest(self.hasher)))
    }

    /// Takes bytes from now on, on a thread of its own.
    pub(super) fn take_in(self) -> Intake {
        let (batches, mut waiting) = mpsc::channel::<Vec<Bytes>>(QUEUE);
        let mut reception = self;
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(batch) = waiting.blocking_recv() {
                if reception.quit.token.is_cancelled() {
                    break;
                }
                reception.append(&batch)?;
            }
            Ok(reception)
        });
        Intake { batch: Vec::new(), bytes: 0, flush_at: FIRST_BATCH, batches, thread }
    }
}

/// The way to a [`Reception`] that writes.
pub(super) struct Intake {
    batch: Vec<Bytes>,
    bytes: usize,
    flush_at: usize,
    batches: mpsc::Sender<Vec<Bytes>>,
    thread: JoinHandle<Result<Reception, TakeError>>,
}

impl Intake {
    /// Hands bytes over; waits when the disk is behind. False when the thread takes no more: [`Self::end`] says
    /// why.
    pub(super) async fn push(&mut self, bytes: Bytes) -> bool {
        self.bytes += bytes.len();
        self.batch.push(bytes);
        self.bytes < self.flush_at || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        (self.bytes, self.flush_at) = (0, BATCH);
        self.batches.send(std::mem::take(&mut self.batch)).await.is_ok()
    }

    /// Writes what is left.
    pub(super) async fn end(mut self) -> Result<Reception, TakeError> {
        if !self.batch.is_empty() {
            // Fails when the thread has ended, which then says why.
            self.flush().await;
        }
        drop(self.batches);
        match self.thread.await {
            Ok(ended) => ended,
            Err(error) => Err(TakeError::Disk(io::Error::other(error))),
        }
    }
}
