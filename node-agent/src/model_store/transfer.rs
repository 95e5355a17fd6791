//! One model on its way into the store.
//!
//! ```text
//! wait for a turn ─► take the part in hand ─► hash what is there ─► ask the source for the rest ─► take it in
//!                                                   ▲                      │ broke: pause         │
//!                                                   └──────────────────────┴──────────────────────┤ all there
//!                              in the store ◄─ rename ◄─ fsync ◄─ digest and header are right ◄───┘
//! ```

use super::bandwidth::Bandwidth;
use super::digests::blocking;
use super::folder::{Folder, Identity};
use super::http_source::HttpSource;
use super::naming;
use super::peers::{MeshSource, Peers};
use super::progress::Progress;
use super::reception::{Quit, Reception, TakeError};
use super::shelf::{Part, Shelf};
use super::source::{Opened, Source, SourceError};
use super::space::Space;
use super::{Pacing, naming::NameError};
use futures_util::StreamExt;
use mesh_core::machine::{Digest, PullSource, PullWish, TransferState};
use mesh_core::units::{Bytes, human_duration};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// Transfers that work at once. More would only share the same line.
pub(super) const AT_ONCE: usize = 2;

/// Tries in a row that bring next to nothing before a transfer is given up: with the pauses some two minutes.
const TRIES: u32 = 8;

/// The same for a URL of which nothing has come yet: where each is refused at once, some seven seconds. By
/// `Pacing::first_within` it ends sooner where tries take long.
const FIRST_TRIES: u32 = 4;

/// A try that brought this much has shown that the source works.
const WORTH: u64 = 64 * 1024;

/// Whatever they bring: a source that breaks off so often would take for ever.
const TRIES_IN_ALL: u32 = 1000;

/// What all transfers share.
pub(super) struct Shop {
    pub folder: Folder,
    pub shelf: Shelf,
    pub turns: Arc<Semaphore>,
    pub bandwidth: Bandwidth,
    pub space: Space,
    pub peers: Peers,
    pub pacing: Pacing,
}

/// A file that is in the store now.
#[derive(Debug)]
pub(super) struct Arrived {
    pub file: PathBuf,
    pub identity: Identity,
    pub digest: Digest,
}

/// How a transfer ended.
#[derive(Debug)]
pub(super) enum Ended {
    Done(Arrived),
    Failed {
        why: String,
        /// What had come is worth nothing.
        spoilt: bool,
    },
    Cancelled,
    /// The agent stops; the next start goes on.
    Stopped,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{0}")]
    Url(#[from] super::http_source::UrlError),
    #[error("an engine fetches this model, not the store")]
    NotOurs,
    #[error("a copy within the mesh needs the digest of the file")]
    NoDigest,
    #[error("{0}")]
    Shelf(#[from] super::shelf::ShelfError),
    #[error("{0}")]
    Take(#[from] TakeError),
    #[error("{0}")]
    Source(SourceError),
    #[error("{last}; given up after {tries} tries")]
    GivenUp { last: String, tries: u32 },
    #[error("{last}; given up, since nothing came within {}", human_duration(*within))]
    Silent { last: String, within: Duration },
    #[error("the file has {found}, {wanted} were expected")]
    Size { found: Bytes, wanted: Bytes },
    #[error("{why}{}", content_type.as_ref().map(|kind| format!(" (the server calls it {kind})")).unwrap_or_default())]
    NoModel { why: TakeError, content_type: Option<String> },
    #[error("the digest is {found}, {wanted} was expected; what had come is deleted")]
    Digest { found: Digest, wanted: Digest },
    #[error("the server says that its file is {offered}, {wanted} was expected")]
    OtherFile { offered: Digest, wanted: Digest },
    #[error("moving it to its place: {0}")]
    Place(std::io::Error),
}

impl Failure {
    /// Whether what had come is worth nothing.
    fn spoils(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::NoModel { .. } => true,
            Self::Take(error) => match error {
                TakeError::Header(_) | TakeError::Endless(_) => true,
                TakeError::TooFull(_) | TakeError::Disk(_) | TakeError::Shelf(_) => false,
            },
            Self::Name(_)
            | Self::Url(_)
            | Self::NotOurs
            | Self::NoDigest
            | Self::Shelf(_)
            | Self::Source(_)
            | Self::GivenUp { .. }
            | Self::Silent { .. }
            | Self::Size { .. }
            | Self::OtherFile { .. }
            | Self::Place(_) => false,
        }
    }
}

/// Brings a model in. `number` differs from those of all other transfers.
pub(super) async fn run(
    shop: Arc<Shop>,
    number: u64,
    wish: PullWish,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    stop: CancellationToken,
) -> Ended {
    let (shelf, model) = (shop.shelf.clone(), wish.model.clone());
    let (alive, mut all_gone) = mpsc::channel(1);
    let quit = Quit { token: CancellationToken::new(), _alive: alive };
    let ending = quit.token.clone();
    let transfer = Transfer { shop, number, wish, progress, quit };
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ended::Stopped,
        () = cancel.cancelled() => Ended::Cancelled,
        ended = transfer.bring() => match ended {
            Ok(arrived) => Ended::Done(arrived),
            Err(failure) => Ended::Failed { spoilt: failure.spoils(), why: failure.to_string() },
        },
    };
    // The thread that writes must have let go before its files are touched.
    ending.cancel();
    // `None`: nothing is ever sent.
    all_gone.recv().await.unwrap_or_default();
    let tidying = match &ended {
        Ended::Cancelled | Ended::Failed { spoilt: true, .. } => Shelf::forget,
        Ended::Failed { spoilt: false, .. } => Shelf::set_failed,
        Ended::Done(_) => Shelf::forget_journal,
        Ended::Stopped => return ended,
    };
    let tidied = blocking(move || {
        tidying(&shelf, &model);
        Ok(())
    })
    .await;
    if let Err(error) = tidied {
        tracing::warn!(%error, "tidying up after a transfer");
    }
    ended
}

struct Transfer {
    shop: Arc<Shop>,
    number: u64,
    wish: PullWish,
    progress: Arc<Progress>,
    quit: Quit,
}

impl Transfer {
    async fn bring(self) -> Result<Arrived, Failure> {
        let target = naming::file_of(&self.wish.model)?;
        let mut source = self.source()?;
        // The semaphore is never closed.
        let _turn = self.shop.turns.clone().acquire_owned().await;
        self.progress.set_state(TransferState::Running);
        let reception = self.take_in_hand().await?;
        let reception = self.fetch(reception, source.as_mut()).await?;
        self.progress.set_state(TransferState::Verifying);
        let wanted = reception.journal().digest.clone();
        let (part, digest) = on_thread(move || reception.finish()).await?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(Failure::Digest { found: digest, wanted });
        }
        self.place(part, target, digest).await
    }

    fn source(&self) -> Result<Box<dyn Source>, Failure> {
        Ok(match &self.wish.source {
            PullSource::Engine => return Err(Failure::NotOurs),
            PullSource::Url(url) => Box::new(HttpSource::new(url)?),
            PullSource::Mesh => {
                let digest = self.wish.digest.clone().ok_or(Failure::NoDigest)?;
                Box::new(MeshSource::new(self.shop.peers.clone(), digest))
            }
        })
    }

    async fn take_in_hand(&self) -> Result<Reception, Failure> {
        let (shelf, wish, progress) = (self.shop.shelf.clone(), self.wish.clone(), self.progress.clone());
        let (share, quit) = (self.shop.space.share(self.number), self.quit.clone());
        on_thread(move || {
            let (part, journal) = shelf.open(&wish)?;
            Reception::new(part, journal, shelf, share, progress, quit)
        })
        .await
        .map_err(Failure::from)
    }

    /// Asks until all of it has come.
    async fn fetch(&self, mut reception: Reception, source: &mut dyn Source) -> Result<Reception, Failure> {
        let (mut tries, mut in_all, mut pause) = (0, 0, self.shop.pacing.first_retry);
        // Beginning anew is no progress: a server that lies about a length would be read for ever.
        let mut furthest = reception.length();
        let within = self.shop.pacing.first_within;
        let is_unproven = furthest == 0 && matches!(self.wish.source, PullSource::Url(_));
        // Until when the first byte must come; `None` once one has.
        let mut first_by = is_unproven.then(|| Instant::now() + within);
        while !reception.is_whole() {
            let broke = match self.attempt(reception, source, first_by).await? {
                (after, None) => return Ok(after),
                (after, Some(broke)) => {
                    reception = after;
                    broke
                }
            };
            in_all += 1;
            first_by = first_by.filter(|_| reception.length() == 0);
            if reception.length() >= furthest.saturating_add(WORTH) {
                furthest = reception.length();
                (tries, pause) = (0, self.shop.pacing.first_retry);
            }
            let wait = match broke {
                SourceError::Never(_) => return Err(Failure::Source(broke)),
                SourceError::Busy { wait, .. } => {
                    // Somebody is there, and says when to come again.
                    first_by = first_by.map(|by| by + wait.unwrap_or_default());
                    wait.unwrap_or_default().max(pause)
                }
                SourceError::Broke(_) | SourceError::Changed => {
                    source.broke();
                    tries += 1;
                    pause
                }
            };
            if first_by.is_some_and(|by| Instant::now() + wait >= by) {
                return Err(Failure::Silent { last: broke.to_string(), within });
            }
            let most = if first_by.is_some() { FIRST_TRIES } else { TRIES };
            if tries >= most || in_all >= TRIES_IN_ALL {
                return Err(Failure::GivenUp { last: broke.to_string(), tries: in_all });
            }
            tracing::debug!(model = %self.wish.model, source = source.label(), "a transfer pauses: {broke}");
            sleep(wait).await;
            pause = (pause * 2).min(self.shop.pacing.longest_retry);
        }
        Ok(reception)
    }

    /// One request, ended at `first_by` unless something has come. What came is in the reception; the error says why it is not
    /// all.
    async fn attempt(
        &self,
        reception: Reception,
        source: &mut dyn Source,
        mut first_by: Option<Instant>,
    ) -> Result<(Reception, Option<SourceError>), Failure> {
        let offset = reception.length();
        let journal = reception.journal();
        // Without either nothing tells whether the server's file is the one that was begun.
        let sure = journal.digest.is_some() || journal.validator.is_some();
        let from = if sure { offset } else { 0 };
        let opened = match before(first_by, source.open(from, journal.validator.clone())).await {
            Some(Ok(opened)) => opened,
            None => return Ok((reception, Some(nothing_came()))),
            Some(Err(SourceError::Changed)) => {
                let begun = begin(reception, Begin::default()).await?;
                return Ok((begun, Some(SourceError::Changed)));
            }
            Some(Err(error)) => return Ok((reception, Some(error))),
        };
        self.progress.set_source(&source.label());
        let Opened { start, total, validator, digest, content_type, mut body } = opened;
        let expected = self.wish.size.map(|size| size.0);
        self.check_offer(total, digest.as_ref())?;
        // A server that does not know ranges sends all of it again; one that answers a range with another
        // validator has another file.
        let known = journal.validator.as_ref();
        if start > 0 && known.is_some() && validator.as_ref() != known && self.wish.source != PullSource::Mesh
        {
            drop(body);
            let begun = begin(reception, Begin::default()).await?;
            return Ok((begun, Some(SourceError::Changed)));
        }
        let total = total.or(expected);
        let mut intake = begin(reception, Begin { start, total, validator, digest }).await?.take_in();
        let mut broke = None;
        loop {
            let Some(next) = before(first_by, body.next()).await else {
                broke = Some(nothing_came());
                break;
            };
            match next {
                None => break,
                Some(Ok(bytes)) => {
                    first_by = first_by.filter(|_| bytes.is_empty());
                    self.shop.bandwidth.take(bytes.len() as u64).await;
                    if !intake.push(bytes).await {
                        break;
                    }
                }
                Some(Err(error)) => {
                    broke = Some(error);
                    break;
                }
            }
        }
        drop(body);
        let reception = intake.end().await.map_err(|why| {
            if matches!(why, TakeError::Header(_)) {
                return Failure::NoModel { why, content_type };
            }
            Failure::Take(why)
        })?;
        if broke.is_none() {
            broke = ended_early(&reception, total);
        }
        Ok((reception, broke))
    }

    fn check_offer(&self, total: Option<u64>, digest: Option<&Digest>) -> Result<(), Failure> {
        if let (Some(found), Some(wanted)) = (total, self.wish.size)
            && found != wanted.0
        {
            return Err(Failure::Size { found: Bytes(found), wanted });
        }
        if let (Some(offered), Some(wanted)) = (digest, &self.wish.digest)
            && offered != wanted
        {
            return Err(Failure::OtherFile { offered: offered.clone(), wanted: wanted.clone() });
        }
        Ok(())
    }

    async fn place(&self, part: Part, target: PathBuf, digest: Digest) -> Result<Arrived, Failure> {
        let (folder, from) = (self.shop.folder.clone(), Shelf::part_file(&self.wish.model));
        blocking(move || {
            folder.rename(&from, &target)?;
            Ok(Arrived { identity: Identity::of(&part.file)?, file: target, digest })
        })
        .await
        .map_err(Failure::Place)
    }
}

/// What comes of `work` until `moment`, where there is one.
async fn before<T>(moment: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match moment {
        Some(moment) => timeout_at(moment, work).await.ok(),
        None => Some(work.await),
    }
}

fn nothing_came() -> SourceError {
    SourceError::Broke("the server sends nothing".into())
}

/// What the source says it will send.
#[derive(Default)]
struct Begin {
    start: u64,
    total: Option<u64>,
    validator: Option<String>,
    digest: Option<Digest>,
}

/// The source ended its answer cleanly: whether that was all.
fn ended_early(reception: &Reception, total: Option<u64>) -> Option<SourceError> {
    let there = reception.length();
    match total {
        Some(total) if there < total => {
            Some(SourceError::Broke(format!("the source ended after {there} of {total} bytes")))
        }
        Some(_) => None,
        None if reception.could_be_whole() => None,
        None => Some(SourceError::Broke(format!("the source ended within the header, after {there} bytes"))),
    }
}

async fn begin(
    mut reception: Reception,
    Begin { start, total, validator, digest }: Begin,
) -> Result<Reception, Failure> {
    let begun = on_thread(move || reception.begin(start, total, validator, digest).map(|()| reception));
    begun.await.map_err(Failure::from)
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TakeError> + Send + 'static,
) -> Result<T, TakeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(TakeError::Disk(std::io::Error::other(error))),
    }
}
