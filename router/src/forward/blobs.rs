//! Model files that machines of the mesh have: finds one that has a file, and passes its bytes on to another
//! machine or reads a header from them.
//!
//! The router keeps nothing: what it holds of a file is what a stream's window allows.

use super::agent_links::{AgentAnswer, AgentLinks, AnswerBody, LinkError};
use crate::fleet_keeper::FleetHandle;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use mesh_core::fleet::MachineView;
use mesh_core::gguf::{self, GgufError, Header};
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::Digest;
use mesh_proto::v1::response_head::Outcome;
use mesh_proto::v1::{BlobReply, BlobRequest, Refused, ResponseHead};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// How long a machine may take to open a file. Disks that sleep take some seconds. Agents wait 30 s for an answer, in
/// which three machines can be asked.
const OPEN_LIMIT: Duration = Duration::from_secs(9);

/// How long a header may take: 20 MiB over a slow line.
const HEADER_TIME: Duration = Duration::from_secs(60);

/// The first bytes that are asked for, and the most: vocabularies have up to 20 MiB, agents lend 32.
const FIRST_BYTES: u64 = 1 << 20;
const MOST_BYTES: u64 = 32 << 20;

/// Parts of a split model whose headers are read. The largest models have some 50.
const PARTS: u32 = 128;

/// Machines that a caller may name as unreliable.
const AVOIDED: usize = 64;

/// Why a model's header could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// No machine that could be asked has it.
    #[error("no machine that is up has the model `{0}` on its disk")]
    Nowhere(ModelId),
    /// The machine cannot be asked.
    #[error("node `{machine}`: {source}")]
    Link {
        /// Which.
        machine: MachineId,
        /// Why.
        source: LinkError,
    },
    /// It took too long.
    #[error("node `{machine}` did not send the header within {} s", HEADER_TIME.as_secs())]
    Slow {
        /// Which.
        machine: MachineId,
    },
    /// The machine does not lend it.
    #[error("node `{machine}`: {message}")]
    Refused {
        /// Which.
        machine: MachineId,
        /// Its words.
        message: String,
    },
    /// The file is no model's.
    #[error("{0}")]
    Gguf(#[from] GgufError),
    /// It does not end.
    #[error("the header is longer than {} MiB", MOST_BYTES >> 20)]
    TooLong,
}

/// The mesh's files. Clones share the counts.
#[derive(Clone)]
pub struct Blobs {
    links: AgentLinks,
    fleet: FleetHandle,
    /// Copies that each machine sends now.
    lending: Arc<Mutex<BTreeMap<MachineId, usize>>>,
}

impl Blobs {
    /// The files of the machines of `fleet`.
    #[must_use]
    pub fn new(links: AgentLinks, fleet: FleetHandle) -> Self {
        Self { links, fleet, lending: Arc::default() }
    }

    /// Bytes of a file for the machine `caller`: from whoever has it, is up and sends the fewest others. Never
    /// fails: what goes wrong before the first byte is a refusal in the head.
    pub async fn open(&self, caller: &MachineId, mut request: BlobRequest) -> AgentAnswer {
        let digest = match Digest::new(&request.digest) {
            Ok(digest) => digest,
            Err(error) => return refusal("bad_request", error.to_string()),
        };
        request.avoid.truncate(AVOIDED);
        // Names mean something to the router only.
        request.model.clear();
        let holders = self.holders(caller, &digest, &request.avoid);
        let mut last = Refused {
            kind: "no_such_blob".into(),
            message: format!("no other machine that is up has the file {digest}"),
        };
        for holder in holders {
            let Some(link) = self.links.get(&holder) else { continue };
            let wanted = BlobRequest { avoid: Vec::new(), ..request.clone() };
            match timeout(OPEN_LIMIT, link.blob(wanted)).await {
                Ok(Ok(AgentAnswer { head: ResponseHead { outcome: Some(Outcome::Blob(reply)) }, body })) => {
                    tracing::info!(node = %caller, %holder, offset = request.offset, "a copy begins");
                    let counted = self.count(&holder);
                    let reply = BlobReply { holder: holder.to_string(), ..reply };
                    let head = ResponseHead { outcome: Some(Outcome::Blob(reply)) };
                    return AgentAnswer { head, body: held(body, counted) };
                }
                Ok(Ok(AgentAnswer { head, .. })) => {
                    if let Some(Outcome::Refused(refused)) = head.outcome {
                        // A machine that is busy will have it later: that is the better news.
                        if last.kind != "busy" {
                            last = Refused { message: format!("{holder}: {}", refused.message), ..refused };
                        }
                    }
                }
                Ok(Err(error)) => tracing::debug!(%holder, %error, "a holder cannot be asked"),
                Err(_) => tracing::debug!(%holder, "a holder does not answer"),
            }
        }
        refusal(&last.kind, last.message)
    }

    /// Machines that have the file, best first: those that have not failed the caller, then those that send least.
    fn holders(&self, caller: &MachineId, digest: &Digest, avoid: &[String]) -> Vec<MachineId> {
        let snapshot = self.fleet.snapshot();
        let lending = self.lock().clone();
        let mut holders: Vec<&MachineView> = snapshot
            .view
            .machines
            .iter()
            .filter(|machine| machine.id != *caller && is_up(machine))
            .filter(|machine| {
                machine.store.models.iter().any(|stored| stored.digest.as_ref() == Some(digest))
            })
            .collect();
        holders.sort_by_key(|machine| {
            // The last to fail is the last to be asked again.
            let failed = avoid.iter().rposition(|name| name == machine.id.as_str()).map_or(0, |at| at + 1);
            (failed, machine.draining, lending.get(&machine.id).copied().unwrap_or(0))
        });
        holders.into_iter().map(|machine| machine.id.clone()).collect()
    }

    /// The header of a model as it lies on a disk of the mesh: on `machine`, or on any. A split model's headers are
    /// joined.
    ///
    /// # Errors
    /// [`HeaderError`] says which machine and why.
    pub async fn model_header(
        &self,
        machine: Option<&MachineId>,
        model: &ModelId,
    ) -> Result<Header, HeaderError> {
        let snapshot = self.fleet.snapshot();
        let holder = snapshot.view.machines.iter().find(|one| {
            machine.is_none_or(|machine| *machine == one.id)
                && is_up(one)
                && one.store.models.iter().any(|stored| stored.model == *model && stored.broken.is_none())
        });
        let holder = holder.ok_or_else(|| HeaderError::Nowhere(model.clone()))?.id.clone();
        let reading = async {
            let (first, parts) = self.header_of(&holder, model, 0).await?;
            if parts <= 1 {
                return Ok(first);
            }
            let mut headers = vec![first];
            for part in 1..parts.min(PARTS) {
                headers.push(self.header_of(&holder, model, part).await?.0);
            }
            Ok(gguf::join(headers)?)
        };
        timeout(HEADER_TIME, reading).await.map_err(|_| HeaderError::Slow { machine: holder.clone() })?
    }

    /// The header of one file, and how many files the model has.
    async fn header_of(
        &self,
        machine: &MachineId,
        model: &ModelId,
        part: u32,
    ) -> Result<(Header, u32), HeaderError> {
        let mut bytes = BytesMut::new();
        let mut wanted = FIRST_BYTES;
        loop {
            let (more, size, parts) =
                self.first_bytes(machine, model, part, bytes.len() as u64, wanted).await?;
            bytes.extend_from_slice(&more);
            match gguf::read(&bytes, Some(size))? {
                gguf::Outcome::Complete(header) => return Ok((header, parts)),
                gguf::Outcome::NeedMore { at_least } => {
                    let there = bytes.len() as u64;
                    if at_least.max(there + 1) > MOST_BYTES || more.is_empty() {
                        return Err(HeaderError::TooLong);
                    }
                    // Doubled, so that many small strings do not cost a question each.
                    wanted = at_least.max(there * 2).min(MOST_BYTES) - there;
                }
            }
        }
    }

    /// Bytes of the beginning of a model's file on `machine`, its size, and how many files the model has.
    ///
    /// # Errors
    /// [`HeaderError`] when the machine cannot be asked or refuses.
    pub async fn first_bytes(
        &self,
        machine: &MachineId,
        model: &ModelId,
        part: u32,
        offset: u64,
        length: u64,
    ) -> Result<(Bytes, u64, u32), HeaderError> {
        let broke = |source| HeaderError::Link { machine: machine.clone(), source };
        let link = self.links.get(machine).ok_or_else(|| broke(LinkError::Gone("there is none".into())))?;
        let length = length.min(MOST_BYTES);
        let request =
            BlobRequest { model: model.to_string(), part, offset, length, ..BlobRequest::default() };
        let AgentAnswer { head, mut body } = link.blob(request).await.map_err(broke)?;
        let reply = match head.outcome {
            Some(Outcome::Blob(reply)) => reply,
            Some(Outcome::Refused(Refused { message, .. })) => {
                return Err(HeaderError::Refused { machine: machine.clone(), message });
            }
            Some(Outcome::Answer(_)) | None => {
                return Err(broke(LinkError::BadFrame("its answer is none to a wish for bytes".into())));
            }
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk.map_err(broke)?);
            if bytes.len() as u64 > length {
                return Err(broke(LinkError::BadFrame("it sends more than was asked for".into())));
            }
        }
        Ok((bytes.freeze(), reply.size, reply.parts))
    }

    fn count(&self, holder: &MachineId) -> Counted {
        *self.lock().entry(holder.clone()).or_default() += 1;
        Counted { blobs: self.clone(), holder: holder.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MachineId, usize>> {
        // Valid after any panic: each change is one addition.
        self.lending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One copy of a holder's file; it counts down when dropped.
struct Counted {
    blobs: Blobs,
    holder: MachineId,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut lending = self.blobs.lock();
        if let Some(count) = lending.get_mut(&self.holder) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                lending.remove(&self.holder);
            }
        }
    }
}

fn held(body: AnswerBody, counted: Counted) -> AnswerBody {
    body.inspect(move |_| {
        // Dropped with the body.
        let _ = &counted;
    })
    .boxed()
}

fn is_up(machine: &MachineView) -> bool {
    machine.liveness == Liveness::Alive && machine.path.is_some()
}

fn refusal(kind: &str, message: String) -> AgentAnswer {
    let refused = Refused { kind: kind.into(), message };
    AgentAnswer {
        head: ResponseHead { outcome: Some(Outcome::Refused(refused)) },
        body: stream::empty().boxed(),
    }
}
