//! Bytes of the store's files for other machines and for the router. Files are named by their digest, or a model
//! by its name; a path comes from nowhere but the catalogue.

use super::StoreHandle;
use super::catalogue::File;
use super::digests::blocking;
use super::folder::Identity;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use mesh_core::id::ModelId;
use mesh_core::machine::Digest;
use mesh_proto::v1::{BlobRequest, Refused};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// Whole files that are lent at once: they share this machine's disk and line with its requests.
const LENT_AT_ONCE: usize = 2;

/// Headers that are lent at once beside them.
const HEADERS_AT_ONCE: usize = 4;

/// What counts as a header: larger pieces are copies.
const HEADER_LIMIT: u64 = 32 << 20;

/// Read in one go; the next piece is read while this one is on its way.
const CHUNK: u64 = 256 * 1024;

/// How many may borrow. Clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct Lending {
    files: Arc<Semaphore>,
    headers: Arc<Semaphore>,
}

impl Default for Lending {
    fn default() -> Self {
        Self {
            files: Arc::new(Semaphore::new(LENT_AT_ONCE)),
            headers: Arc::new(Semaphore::new(HEADERS_AT_ONCE)),
        }
    }
}

/// A file whose bytes are lent.
pub struct Lent {
    /// Bytes of the whole file.
    pub size: u64,
    /// Files of its model.
    pub parts: u32,
    /// The bytes that were asked for. An error when the file changed or the disk failed.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

fn refused(kind: &str, message: impl Into<String>) -> Refused {
    Refused { kind: kind.into(), message: message.into() }
}

impl StoreHandle {
    /// Opens what `request` names.
    ///
    /// # Errors
    /// A refusal: `bad_request`, `no_such_blob` or `busy`.
    pub async fn lend(&self, request: &BlobRequest) -> Result<Lent, Refused> {
        let (file, parts) = self.wanted(request)?;
        let size = file.found.identity.size;
        let left = size.checked_sub(request.offset).ok_or_else(|| {
            refused("bad_request", format!("the file has {size} bytes, none at {}", request.offset))
        })?;
        let length = if request.length == 0 { left } else { request.length.min(left) };
        let (lane, what) = if length <= HEADER_LIMIT && request.length > 0 {
            (&self.lending.headers, format!("the beginnings of {HEADERS_AT_ONCE}"))
        } else {
            (&self.lending.files, LENT_AT_ONCE.to_string())
        };
        let permit = lane
            .clone()
            .try_acquire_owned()
            .map_err(|_| refused("busy", format!("this machine lends {what} files already")))?;
        let (folder, found) = (self.folder.clone(), file.found);
        let opened = blocking(move || {
            let opened = folder.open(&found.real)?;
            Ok((Identity::of(&opened)? == found.identity).then_some(opened))
        });
        match opened.await {
            Ok(Some(file)) => Ok(Lent { size, parts, body: pieces(file, request.offset, length, permit) }),
            Ok(None) => Err(refused("no_such_blob", "the file has changed since its digest was computed")),
            Err(error) => Err(refused("no_such_blob", format!("the file cannot be opened: {error}"))),
        }
    }

    fn wanted(&self, request: &BlobRequest) -> Result<(File, u32), Refused> {
        let catalogue = self.catalogue.borrow().clone();
        if request.digest.is_empty() {
            let model = ModelId::new(request.model.clone())
                .map_err(|error| refused("bad_request", error.to_string()))?;
            if request.length == 0 || request.length > HEADER_LIMIT {
                return Err(refused("bad_request", "by its name only a model's beginning is lent"));
            }
            let none = || refused("no_such_blob", format!("the store has no model `{model}`"));
            let stored = catalogue.models.get(&model).ok_or_else(none)?;
            let file = stored.files.get(request.part as usize).and_then(|name| catalogue.files.get(name));
            let parts = u32::try_from(stored.files.len()).unwrap_or(u32::MAX);
            return Ok((file.ok_or_else(none)?.clone(), parts));
        }
        let digest =
            Digest::new(&request.digest).map_err(|error| refused("bad_request", error.to_string()))?;
        let file = catalogue.by_digest(&digest);
        let file = file.ok_or_else(|| refused("no_such_blob", format!("the store has no file {digest}")))?;
        Ok((file.clone(), 1))
    }
}

type Reading = JoinHandle<io::Result<Bytes>>;

fn pieces(
    file: std::fs::File,
    offset: u64,
    length: u64,
    permit: OwnedSemaphorePermit,
) -> BoxStream<'static, io::Result<Bytes>> {
    let (file, end) = (Arc::new(file), offset + length);
    let read = move |at: u64| -> Option<(Reading, u64)> {
        let length = CHUNK.min(end - at);
        let file = file.clone();
        let piece = move || {
            let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            // A file that became shorter ends here with an error, and never with fewer bytes than promised.
            file.read_exact_at(&mut piece, at)?;
            Ok(Bytes::from(piece))
        };
        (length > 0).then(|| (tokio::task::spawn_blocking(piece), at + length))
    };
    let first = read(offset);
    stream::unfold((first, read, permit), |(reading, read, permit)| async move {
        let (reading, at) = reading?;
        let next = read(at);
        let piece = reading.await.map_err(io::Error::other).and_then(|piece| piece);
        let next = if piece.is_ok() { next } else { None };
        Some((piece, (next, read, permit)))
    })
    .boxed()
}
