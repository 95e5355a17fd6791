//! A file that another machine of the mesh has. The router finds the machine and passes the bytes on; this
//! agent knows only the router.

use super::source::{Opened, Source, SourceError};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use mesh_core::machine::Digest;
use mesh_proto::v1::response_head::Outcome;
use mesh_proto::v1::{BlobReply, BlobRequest, Refused, ResponseHead};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a copy waits for the link to the router before it says so.
const LINK_WAIT: Duration = Duration::from_secs(10);

/// A router that does not say in this time who has the file does not know.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A machine that sends nothing for so long is gone; the link would know within 4 s, but not of a stuck disk.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Machines that are named to the router as unreliable.
const AVOIDED: usize = 16;

/// What the router passes on.
pub struct PeerAnswer {
    /// The file's size and holder, or a refusal.
    pub head: ResponseHead,
    /// The bytes, or why no more come.
    pub body: BoxStream<'static, Result<Bytes, String>>,
}

/// A way to the router.
pub trait PeerLink: Send + Sync {
    /// Asks for a file. Dropping the future, or later the body, ends it everywhere.
    fn fetch(&self, request: BlobRequest) -> BoxFuture<'static, Result<PeerAnswer, String>>;
}

/// The way to the router, while there is one. Clones share it.
#[derive(Clone, Default)]
pub struct Peers {
    link: Arc<watch::Sender<Option<Arc<dyn PeerLink>>>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Peers").field("linked", &self.link.borrow().is_some()).finish()
    }
}

impl Peers {
    /// The link stands, or is gone.
    pub fn set(&self, link: Option<Arc<dyn PeerLink>>) {
        self.link.send_replace(link);
    }

    async fn link(&self) -> Option<Arc<dyn PeerLink>> {
        let mut link = self.link.subscribe();
        let there = timeout(LINK_WAIT, link.wait_for(Option::is_some)).await.ok()?.ok()?;
        there.clone()
    }
}

/// One file of the mesh.
pub(super) struct MeshSource {
    peers: Peers,
    digest: Digest,
    /// Who sends now.
    holder: Option<String>,
    avoid: Vec<String>,
}

impl MeshSource {
    pub(super) fn new(peers: Peers, digest: Digest) -> Self {
        Self { peers, digest, holder: None, avoid: Vec::new() }
    }

    async fn ask(&mut self, offset: u64) -> Result<Opened, SourceError> {
        let Some(link) = self.peers.link().await else {
            let why = "there is no link to the router; the copy goes on when it is back".into();
            return Err(SourceError::Busy { why, wait: None });
        };
        let request = BlobRequest {
            digest: self.digest.as_str().into(),
            offset,
            avoid: self.avoid.clone(),
            ..BlobRequest::default()
        };
        let PeerAnswer { head, body } = timeout(ANSWER_LIMIT, link.fetch(request))
            .await
            .map_err(|_| SourceError::Broke("the router does not answer".into()))?
            .map_err(SourceError::Broke)?;
        let BlobReply { size, holder, .. } = match head.outcome {
            Some(Outcome::Blob(reply)) => reply,
            Some(Outcome::Refused(refused)) => return Err(self.refused(refused, offset)),
            Some(Outcome::Answer(_)) | None => {
                return Err(SourceError::Broke("the router answers something else".into()));
            }
        };
        self.holder = Some(holder);
        let body = futures_util::stream::unfold(body, |mut body| async move {
            let chunk = match timeout(SILENCE_LIMIT, body.next()).await {
                Ok(chunk) => chunk?.map_err(SourceError::Broke),
                Err(_) => Err(SourceError::Broke("the other machine has gone silent".into())),
            };
            Some((chunk, body))
        });
        Ok(Opened {
            start: offset,
            total: Some(size),
            validator: None,
            digest: Some(self.digest.clone()),
            content_type: None,
            body: body.boxed(),
        })
    }

    fn refused(&self, Refused { kind, message }: Refused, offset: u64) -> SourceError {
        match kind.as_str() {
            "busy" => SourceError::Busy { why: message, wait: None },
            // Nobody had it from the beginning. Later it may only be that its last holder starts again: after a power
            // cut the router may be there before it.
            "no_such_blob" if self.holder.is_none() && offset == 0 => SourceError::Never(message),
            _ => SourceError::Broke(message),
        }
    }
}

impl Source for MeshSource {
    fn open(&mut self, offset: u64, _: Option<String>) -> BoxFuture<'_, Result<Opened, SourceError>> {
        Box::pin(self.ask(offset))
    }

    fn label(&self) -> String {
        self.holder.clone().unwrap_or_else(|| "the mesh".into())
    }

    fn broke(&mut self) {
        // The last to fail is the last to be asked again.
        if let Some(holder) = &self.holder {
            self.avoid.retain(|known| known != holder);
            self.avoid.push(holder.clone());
            if self.avoid.len() > AVOIDED {
                self.avoid.remove(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A router that sends nothing of a file, each time from another holder, and keeps what it was asked.
    #[derive(Default)]
    struct Router {
        asked: Mutex<Vec<BlobRequest>>,
        refuses: bool,
    }

    impl PeerLink for Router {
        fn fetch(&self, request: BlobRequest) -> BoxFuture<'static, Result<PeerAnswer, String>> {
            let mut asked = self.asked.lock().expect("no panic holds it");
            let holder = format!("holder-{}", asked.len());
            asked.push(request);
            let outcome = if self.refuses {
                let message = "nobody".to_owned();
                Outcome::Refused(Refused { kind: "no_such_blob".into(), message })
            } else {
                Outcome::Blob(BlobReply { size: 100, holder, ..BlobReply::default() })
            };
            let head = ResponseHead { outcome: Some(outcome) };
            let body = futures_util::stream::empty().boxed();
            Box::pin(async move { Ok(PeerAnswer { head, body }) })
        }
    }

    fn source(router: &Arc<Router>) -> MeshSource {
        let peers = Peers::default();
        peers.set(Some(router.clone()));
        MeshSource::new(peers, Digest::new(&"ab".repeat(32)).expect("a digest"))
    }

    #[tokio::test]
    async fn holders_that_broke_are_named_to_the_router_the_last_of_them_last() {
        let router = Arc::new(Router::default());
        let mut source = source(&router);
        for offset in 0..3 {
            assert!(source.open(offset, None).await.is_ok());
            source.broke();
        }
        assert!(source.open(3, None).await.is_ok());
        let asked = router.asked.lock().expect("no panic holds it").clone();
        let avoided: Vec<String> = asked.iter().map(|request| request.avoid.join(" ")).collect();
        assert_eq!(avoided, ["", "holder-0", "holder-0 holder-1", "holder-0 holder-1 holder-2"]);
    }

    #[tokio::test]
    async fn nobody_at_the_beginning_is_final_and_nobody_in_the_middle_is_not() {
        let router = Arc::new(Router { refuses: true, ..Router::default() });
        assert!(matches!(source(&router).open(0, None).await, Err(SourceError::Never(_))));
        assert!(matches!(source(&router).open(7, None).await, Err(SourceError::Broke(_))));
    }
}
