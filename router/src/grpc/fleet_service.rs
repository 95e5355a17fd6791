//! The service that agents call: join with a token, renew a certificate, attach for life.
//!
//! Who calls is read from the connection's certificate, never from a message. Decides nothing about machines:
//! reports go to the fleet's keeper, directives come from it.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | session, one for each Attach | the agent's messages, the keeper's directives | reports to the keeper, messages to the agent | the agent leaves, breaks the protocol or is replaced, or the router stops |

use super::guesses::Guesses;
use super::tls_incoming::PeerEnd;
use super::{address_of, peer_end_of, peer_of};
use crate::fleet_keeper::{FleetHandle, Session};
use crate::forward::agent_links::AgentLinks;
use crate::ledger::{LedgerHandle, TokenRefusal};
use mesh_proto::fleet_wire::{directive_to_wire, report_from_wire};
use mesh_proto::identity::{Authority, Peer, Role, csr_key_sha256};
use mesh_proto::v1::fleet_server::Fleet;
use mesh_proto::v1::{
    AgentMessage, Certified, Goodbye, Hello, JoinRequest, RenewRequest, RouterMessage, Welcome,
    agent_message, router_message,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The most bytes of a certificate request; ours have some 250.
const CSR_LIMIT: usize = 16 * 1024;

/// The most bytes of any text in a request.
const TEXT_LIMIT: usize = 256;

/// How long an agent may take for its Hello.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// How often the key of a live session is looked up again: a stolen machine is cut off within this.
const KEY_CHECK: Duration = Duration::from_secs(2);

/// Messages to an agent that may wait. One that leaves more unread is not there any more.
const WAITING_MESSAGES: usize = 64;

/// What the service works with.
#[derive(Clone)]
pub struct FleetServiceParts {
    /// The keeper of what the machines report.
    pub fleet: FleetHandle,
    /// The data links, of which one is doubted when its agent's control connection ends.
    pub links: AgentLinks,
    /// Tokens, and which key each name belongs to.
    pub ledger: LedgerHandle,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// How long a machine's certificate is valid.
    pub certificate_ttl: Duration,
    /// The wall clock, in milliseconds since 1970.
    pub unix_ms: fn() -> u64,
}

/// The Fleet service.
pub struct FleetService {
    parts: FleetServiceParts,
    stop: CancellationToken,
    /// Held over a whole join: joins are rare, and so a flood of guesses cannot pass the check all at once.
    guesses: Mutex<Guesses>,
}

impl FleetService {
    /// A service whose sessions end with a goodbye when `stop` is cancelled.
    #[must_use]
    pub fn new(parts: FleetServiceParts, stop: CancellationToken) -> Self {
        Self { parts, stop, guesses: Mutex::default() }
    }

    /// The node on the other end, if it shows a certificate of this mesh for the key that its name belongs to.
    async fn node<T: Send>(&self, request: &Request<T>, call: &'static str) -> Result<Peer, Status> {
        let refused = |status: Status| {
            tracing::info!(target: "audit", call, ip = %address_of(request.extensions()), why = status.message(), "refused");
            status
        };
        let peer = peer_of(request.extensions()).map_err(refused)?;
        if peer.role != Role::Node {
            let why =
                format!("{call} needs a node's certificate, this one is of {} `{}`", peer.role, peer.name);
            return Err(refused(Status::permission_denied(why)));
        }
        if !self.parts.ledger.node_key_matches(&peer.name, peer.key_sha256).await {
            let why = format!(
                "`{}` is not joined with this key: it was replaced, or this router never knew it; join again \
                 with a new token",
                peer.name
            );
            return Err(refused(Status::permission_denied(why)));
        }
        Ok(peer)
    }

    fn certify(&self, csr: &[u8], role: Role, name: &mesh_core::id::MachineId) -> Result<Certified, Status> {
        let ttl = self.parts.certificate_ttl;
        let chain = self.parts.authority.issue(csr, role, name, ttl).map_err(|error| {
            tracing::error!(%error, %name, "a certificate could not be made");
            Status::internal("the router could not make a certificate; its log says why")
        })?;
        Ok(Certified {
            name: name.to_string(),
            role: role.word().into(),
            chain_der: chain.iter().map(|der| der.to_vec().into()).collect(),
            valid_for_s: ttl.as_secs(),
        })
    }
}

#[tonic::async_trait]
impl Fleet for FleetService {
    type AttachStream = ReceiverStream<Result<RouterMessage, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certified>, Status> {
        let ip = address_of(request.extensions());
        let now = (self.parts.unix_ms)();
        let JoinRequest { token_id, secret, csr_der, proposed_name } = request.into_inner();
        let refused = |status: Status| {
            let token = shortened(&token_id);
            tracing::info!(target: "audit", call = "join", %ip, ?token, why = ?status.message(), "refused");
            status
        };
        for (field, text) in [("token_id", &token_id), ("secret", &secret), ("proposed_name", &proposed_name)]
        {
            bounded(field, text).map_err(refused)?;
        }
        let key_sha256 = key_of(&csr_der).map_err(refused)?;

        let mut guesses = self.guesses.lock().await;
        if !guesses.may_try(ip, now) {
            let why = format!("too many wrong tokens from {ip}; wait a minute");
            return Err(refused(Status::resource_exhausted(why)));
        }
        let redeemed = self.parts.ledger.redeem(&token_id, &secret, &proposed_name, key_sha256, now).await;
        if matches!(redeemed, Err(TokenRefusal::Unknown | TokenRefusal::WrongSecret)) {
            guesses.was_wrong(ip, now);
        }
        drop(guesses);

        let redeemed = redeemed.map_err(|refusal| refused(status_of(&refusal)))?;
        let (role, name) = (redeemed.role, redeemed.name);
        let certified = self.certify(&csr_der, role, &name)?;
        tracing::info!(target: "audit", call = "join", %ip, token = %token_id, %role, %name, "joined");
        Ok(Response::new(certified))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certified>, Status> {
        let peer = self.node(&request, "renew").await?;
        let ip = address_of(request.extensions());
        let csr = request.into_inner().csr_der;
        let refused = |status: Status| {
            tracing::info!(target: "audit", call = "renew", %ip, name = %peer.name, why = status.message(), "refused");
            status
        };
        if key_of(&csr).map_err(refused)? != peer.key_sha256 {
            // Otherwise a stolen certificate could be moved to a key that its owner does not have.
            let why = "a renewal keeps its key; to change the key, join again with a new token";
            return Err(refused(Status::permission_denied(why)));
        }
        let certified = self.certify(&csr, peer.role, &peer.name)?;
        tracing::info!(target: "audit", call = "renew", %ip, name = %peer.name, "renewed");
        Ok(Response::new(certified))
    }

    async fn attach(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = self.node(&request, "attach").await?;
        let (outbound, stream) = mpsc::channel(WAITING_MESSAGES);
        let session = AgentSession {
            ledger: self.parts.ledger.clone(),
            peer,
            fleet: self.parts.fleet.clone(),
            links: self.parts.links.clone(),
            peer_end: peer_end_of(request.extensions()),
            inbound: request.into_inner(),
            outbound,
            stop: self.stop.clone(),
        };
        tokio::spawn(session.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One agent for as long as it is attached.
struct AgentSession {
    ledger: LedgerHandle,
    peer: Peer,
    fleet: FleetHandle,
    links: AgentLinks,
    peer_end: PeerEnd,
    inbound: Streaming<AgentMessage>,
    outbound: mpsc::Sender<Result<RouterMessage, Status>>,
    stop: CancellationToken,
}

impl AgentSession {
    async fn run(mut self) {
        let name = self.peer.name.clone();
        let ended = self.serve().await;
        match &ended {
            Ok(reason) => tracing::info!(node = %name, reason, "an agent has detached"),
            Err(status) => tracing::warn!(node = %name, reason = ?status.message(), "an agent was cut off"),
        }
        if let Err(status) = ended {
            // Nobody reads it when the agent is gone.
            drop(self.outbound.try_send(Err(status)));
        }
        self.doubt_data_link().await;
    }

    /// A process that dies loses its control connection at once, without a goodbye; its data link over QUIC would be missed
    /// only after seconds. Something between the two may have ended the connection as well, so an agent that still
    /// answers on its data link is not dead.
    async fn doubt_data_link(&self) {
        if self.peer_end.is_gone()
            && let Some(link) = self.links.get(&self.peer.name)
            && link.doubt().await
        {
            tracing::warn!(node = %self.peer.name, "the agent has died: what ran there is ended");
        }
    }

    /// Serves until the end and says why it came. Dropping the keeper's session detaches the machine.
    async fn serve(&mut self) -> Result<&'static str, Status> {
        let hello = tokio::select! {
            () = self.stop.cancelled() => return self.goodbye("the router is stopping", true),
            () = self.outbound.closed() => return Ok("it left before its hello"),
            first = tokio::time::timeout(HELLO_LIMIT, self.inbound.message()) => hello_of(first)?,
        };
        let Some(mut session) = self.fleet.attach(self.peer.name.clone(), hello.boot_id).await else {
            return self.goodbye("the router is stopping", true);
        };
        self.send(router_message::Kind::Welcome(Welcome {
            protocol: mesh_proto::PROTOCOL,
            router_version: env!("CARGO_PKG_VERSION").into(),
            name: self.peer.name.to_string(),
        }))?;
        tracing::info!(node = %self.peer.name, agent_version = ?hello.agent_version, "an agent has attached");
        let mut key_check = tokio::time::interval(KEY_CHECK);
        loop {
            tokio::select! {
                // In this order, because a session that is replaced also loses its directives.
                biased;
                () = self.stop.cancelled() => return self.goodbye("the router is stopping", true),
                () = session.replaced.cancelled() => {
                    return self.goodbye("another agent has attached under this name, with the same key", false);
                }
                () = self.outbound.closed() => return Ok("its connection ended"),
                _ = key_check.tick() => {
                    if !self.ledger.node_key_matches(&self.peer.name, self.peer.key_sha256).await {
                        return self.goodbye("this name belongs to another key now", false);
                    }
                }
                directive = session.directives.recv() => {
                    let Some(directive) = directive else {
                        return self.goodbye("the router is stopping", true);
                    };
                    let term = self.ledger.term();
                    self.send(router_message::Kind::Directive(directive_to_wire(&directive, term)))?;
                }
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => take(&session, message).await?,
                    Ok(None) => return Ok("it left"),
                    // What tonic found wrong with the message, or that the connection broke.
                    Err(status) => return Err(status),
                },
            }
        }
    }

    fn goodbye(&self, reason: &'static str, come_back: bool) -> Result<&'static str, Status> {
        self.send(router_message::Kind::Goodbye(Goodbye { reason: reason.into(), come_back }))?;
        Ok(reason)
    }

    fn send(&self, kind: router_message::Kind) -> Result<(), Status> {
        self.outbound.try_send(Ok(RouterMessage { kind: Some(kind) })).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Status::resource_exhausted(format!("{WAITING_MESSAGES} messages wait unread"))
            }
            mpsc::error::TrySendError::Closed(_) => Status::cancelled("the connection ended"),
        })
    }
}

async fn take(session: &Session, message: AgentMessage) -> Result<(), Status> {
    match message.kind {
        Some(agent_message::Kind::Report(report)) => {
            let report = report_from_wire(report)
                .map_err(|error| Status::invalid_argument(format!("the report is invalid: {error}")))?;
            session.report(report).await;
            Ok(())
        }
        Some(agent_message::Kind::Heartbeat(_)) => {
            session.heartbeat().await;
            Ok(())
        }
        Some(agent_message::Kind::Hello(_)) => Err(Status::invalid_argument("a second hello")),
        None => Err(Status::invalid_argument("a message of no known kind")),
    }
}

fn hello_of(
    first: Result<Result<Option<AgentMessage>, Status>, tokio::time::error::Elapsed>,
) -> Result<Hello, Status> {
    let late = |_| Status::deadline_exceeded(format!("no hello within {} s", HELLO_LIMIT.as_secs()));
    let Some(AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }) = first.map_err(late)?? else {
        return Err(Status::failed_precondition("the first message must be a hello"));
    };
    if hello.protocol != mesh_proto::PROTOCOL {
        let (theirs, ours) = (hello.protocol, mesh_proto::PROTOCOL);
        let why =
            format!("agent speaks protocol {theirs}, router needs {ours}; bring both to the same version");
        return Err(Status::failed_precondition(why));
    }
    bounded("hello.boot_id", &hello.boot_id)?;
    bounded("hello.agent_version", &hello.agent_version)?;
    Ok(hello)
}

fn key_of(csr: &[u8]) -> Result<[u8; 32], Status> {
    if csr.len() > CSR_LIMIT {
        let why = format!("a certificate request of {} bytes is over the limit of {CSR_LIMIT}", csr.len());
        return Err(Status::invalid_argument(why));
    }
    csr_key_sha256(csr).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Texts of a peer end up in logs: they must be short and of one line.
fn bounded(field: &str, text: &str) -> Result<(), Status> {
    if text.len() > TEXT_LIMIT {
        let why = format!("{field} has {} bytes, more than {TEXT_LIMIT}", text.len());
        return Err(Status::invalid_argument(why));
    }
    if text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("{field} holds control characters")));
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(32).collect()
}

fn status_of(refusal: &TokenRefusal) -> Status {
    let why = refusal.to_string();
    match refusal {
        TokenRefusal::Unknown
        | TokenRefusal::WrongSecret
        | TokenRefusal::Used { .. }
        | TokenRefusal::Expired { .. }
        | TokenRefusal::Revoked => Status::permission_denied(why),
        TokenRefusal::NameTaken { .. } => Status::already_exists(why),
        TokenRefusal::BadName(_) => Status::invalid_argument(why),
        TokenRefusal::Ledger(error) => {
            tracing::error!(%error, cause = ?std::error::Error::source(error), "a token could not be looked up");
            Status::internal(why)
        }
    }
}
