//! The operators' calls: status, explain, tokens, keys, directives, plans. That the caller is an operator was checked
//! before any of these runs.

use crate::fleet_keeper::{FleetHandle, NotAttached};
use crate::forward::agent_links::AgentLinks;
use crate::forward::blobs::{Blobs, HeaderError};
use crate::forward::in_flight::InFlight;
use crate::forward::waiting_room::WaitingRoom;
use crate::journal::{Journal, NotFound};
use crate::ledger::{LedgerError, LedgerHandle};
use crate::steward::StewardHandle;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::memory::Shape;
use mesh_daemon::clock::{Clock, unix_ms};
use mesh_proto::identity::{JoinToken, Peer, Role};
use mesh_proto::v1::operator_server::Operator;
use mesh_proto::v1::{
    CreateKeyReply, CreateKeyRequest, CreateTokenReply, CreateTokenRequest, DirectReply, DirectRequest,
    ExplainReply, ExplainRequest, KeyLine, ListKeysReply, ListKeysRequest, ListTokensReply,
    ListTokensRequest, MachinesReply, MachinesRequest, ModelShapeReply, ModelShapeRequest, PinModelReply,
    PinModelRequest, PlanReply, PlanRequest, RevokeReply, RevokeRequest, RouterStatus, SetModeReply,
    SetModeRequest, SetNodeReply, SetNodeRequest, StatusReply, StatusRequest, TokenLine, TrialRequest,
    WishesReply, WishesRequest,
};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

mod direct;
mod machines;
mod node_state;
mod placing;
mod status;
mod trials;

/// What the service works with.
pub struct OperatorParts {
    /// All machines and modes.
    pub fleet: FleetHandle,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Where requests wait for a slot.
    pub room: WaitingRoom,
    /// Records of requests.
    pub journal: Journal,
    /// Headers of stored models.
    pub blobs: Blobs,
    /// The ways to the agents.
    pub links: AgentLinks,
    /// Whether requests have models loaded.
    pub loads_on_demand: bool,
    /// Plans.
    pub steward: StewardHandle,
    /// The folder of strategies.
    pub strategies: PathBuf,
    /// Tokens and keys.
    pub ledger: LedgerHandle,
    /// What tokens pin.
    pub pin: String,
    /// The router's name.
    pub name: String,
    /// Where clients connect, as a URL.
    pub client_url: String,
    /// Where agents connect.
    pub agents_address: String,
    /// Where the configuration came from.
    pub config_source: String,
    /// The clock.
    pub clock: Clock,
}

/// The Operator service.
pub struct OperatorService {
    parts: OperatorParts,
    started: Instant,
}

impl OperatorService {
    /// A service that counts its uptime from now.
    #[must_use]
    pub fn new(parts: OperatorParts) -> Self {
        Self { parts, started: Instant::now() }
    }
}

fn audit<T>(request: &Request<T>, action: &'static str, subject: &str) {
    let operator = request.extensions().get::<Peer>().map_or("?", |peer| peer.name.as_str());
    tracing::info!(target: "audit", operator, action, subject);
}

fn ledger_status(error: &LedgerError) -> Status {
    match error {
        LedgerError::Unknown { .. } => Status::not_found(error.to_string()),
        LedgerError::TtlTooLong { .. }
        | LedgerError::RoleNotGranted { .. }
        | LedgerError::TooMany { .. }
        | LedgerError::BadKeyName { .. }
        | LedgerError::Ambiguous { .. }
        | LedgerError::NotOpen { .. } => Status::invalid_argument(error.to_string()),
        LedgerError::Locked { .. }
        | LedgerError::Unwritable { .. }
        | LedgerError::Corrupt { .. }
        | LedgerError::Newer { .. }
        | LedgerError::Storage { .. }
        | LedgerError::Record { .. }
        | LedgerError::Closed => {
            tracing::error!(%error, "the ledger failed");
            Status::internal(error.to_string())
        }
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let parts = &self.parts;
        let snapshot = parts.fleet.snapshot();
        let load = parts.in_flight.load();
        let waiting = parts.room.waiting_by_mode();
        let stats = parts.journal.stats().await;
        let planned = parts.steward.planned().borrow().clone();
        let router = RouterStatus {
            name: parts.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            client_url: parts.client_url.clone(),
            config_source: if snapshot.automatic { "automatic".into() } else { parts.config_source.clone() },
            in_flight: load.values().sum(),
            waiting: waiting.values().sum(),
            strategy: planned.wishes.strategy.clone(),
            plan: if planned.following { "following" } else { "off" }.into(),
            plan_stopped: planned.stopped.clone(),
        };
        let loads_on_demand = parts.loads_on_demand;
        let traffic = status::Traffic { load: &load, waiting: &waiting, stats: &stats, loads_on_demand };
        let (now, unix_s) = (parts.clock.now(), unix_ms() / 1000);
        Ok(Response::new(status::compose(router, &snapshot, &traffic, now, unix_s)))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        let prefix: String = request.into_inner().request_id.chars().take(64).collect();
        match self.parts.journal.find(&prefix).await {
            Ok(record) => Ok(Response::new(record)),
            Err(error @ NotFound::Ambiguous { .. }) => Err(Status::invalid_argument(error.to_string())),
            Err(error @ (NotFound::Unknown(_) | NotFound::Empty)) => {
                Err(Status::not_found(error.to_string()))
            }
        }
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        let CreateTokenRequest { role, name, ttl_s } = request.get_ref().clone();
        let granted = Role::from_word(&role).ok_or_else(|| {
            Status::invalid_argument(format!("there is no role `{role}`; there are node and operator"))
        })?;
        let name = if name.is_empty() { None } else { Some(machine(&name)?) };
        let ttl = if ttl_s == 0 { crate::ledger::DEFAULT_TTL } else { Duration::from_secs(ttl_s) };
        let (id, secret) = self
            .parts
            .ledger
            .create_token(granted, name, ttl, unix_ms())
            .await
            .map_err(|error| ledger_status(&error))?;
        audit(&request, "create token", &id);
        let token = JoinToken { pin: self.parts.pin.clone(), id: id.clone(), secret };
        Ok(Response::new(CreateTokenReply {
            token: token.to_string(),
            id,
            expires_in_s: ttl.as_secs(),
            agents_address: self.parts.agents_address.clone(),
        }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensReply>, Status> {
        let now = unix_ms();
        let rows = self.parts.ledger.list_tokens(now).await.map_err(|error| ledger_status(&error))?;
        let seconds_left = |expires: u64| {
            let left = i128::from(expires) - i128::from(now);
            i64::try_from(left / 1000).unwrap_or(0)
        };
        let tokens = rows
            .into_iter()
            .map(|row| TokenLine {
                expires_in_s: seconds_left(row.expires_unix_ms),
                id: row.id,
                role: row.role,
                name: row.name.unwrap_or_default(),
                state: row.state.word().into(),
                used_by: row.used_by.unwrap_or_default(),
            })
            .collect();
        Ok(Response::new(ListTokensReply { tokens }))
    }

    async fn revoke_token(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeReply>, Status> {
        let id = self.parts.ledger.revoke_token(&request.get_ref().id, unix_ms()).await;
        let id = id.map_err(|error| ledger_status(&error))?;
        audit(&request, "revoke token", &id);
        Ok(Response::new(RevokeReply {}))
    }

    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyReply>, Status> {
        let made = self.parts.ledger.create_key(&request.get_ref().name, unix_ms()).await;
        let (id, key) = made.map_err(|error| ledger_status(&error))?;
        audit(&request, "create key", &id);
        Ok(Response::new(CreateKeyReply { key, id }))
    }

    async fn list_keys(&self, _: Request<ListKeysRequest>) -> Result<Response<ListKeysReply>, Status> {
        let rows = self.parts.ledger.list_keys().await.map_err(|error| ledger_status(&error))?;
        let keys = rows
            .into_iter()
            .map(|row| KeyLine {
                id: row.id,
                name: row.name,
                created_unix_ms: row.created_unix_ms,
                last_used_unix_ms: row.last_used_unix_ms,
            })
            .collect();
        Ok(Response::new(ListKeysReply { keys }))
    }

    async fn revoke_key(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeReply>, Status> {
        let id = self.parts.ledger.revoke_key(&request.get_ref().id).await;
        let id = id.map_err(|error| ledger_status(&error))?;
        audit(&request, "revoke key", &id);
        Ok(Response::new(RevokeReply {}))
    }

    async fn machines(&self, request: Request<MachinesRequest>) -> Result<Response<MachinesReply>, Status> {
        let wanted = &request.get_ref().node;
        let (snapshot, now) = (self.parts.fleet.snapshot(), self.parts.clock.now());
        if wanted.is_empty() {
            let machines = snapshot.view.machines.iter().map(|known| machines::report_of(known, now));
            return Ok(Response::new(MachinesReply { machines: machines.collect() }));
        }
        let Some(known) = snapshot.view.machine(&machine(wanted)?) else {
            return Err(direct::no_node(&snapshot.view, wanted));
        };
        Ok(Response::new(MachinesReply { machines: vec![machines::report_of(known, now)] }))
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanReply>, Status> {
        Ok(Response::new(placing::plan(&self.parts, request.into_inner()).await?))
    }

    async fn apply_plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanReply>, Status> {
        let applied = placing::apply(&self.parts, request.get_ref()).await?;
        audit(&request, "apply plan", &request.get_ref().strategy);
        Ok(Response::new(applied))
    }

    async fn set_node(&self, request: Request<SetNodeRequest>) -> Result<Response<SetNodeReply>, Status> {
        let before = placing::set_node(&self.parts, request.get_ref()).await?;
        audit(&request, "set node", &format!("{}: {}", request.get_ref().node, request.get_ref().wish));
        Ok(Response::new(SetNodeReply { before: before.into() }))
    }

    async fn pin_model(&self, request: Request<PinModelRequest>) -> Result<Response<PinModelReply>, Status> {
        let was_so = placing::pin(&self.parts, request.get_ref()).await?;
        let PinModelRequest { model, node, pinned } = request.get_ref();
        audit(&request, if *pinned { "pin model" } else { "unpin model" }, &format!("{model} on {node}"));
        Ok(Response::new(PinModelReply { was_so }))
    }

    async fn set_mode(&self, request: Request<SetModeRequest>) -> Result<Response<SetModeReply>, Status> {
        let named = |name: &str, value: &str| format!("{name}={value}");
        let asked = request.get_ref();
        let words = asked.settings.iter().map(|setting| named(&setting.name, &setting.value));
        let words: Vec<String> = words.chain(asked.reset.iter().map(|name| named(name, ""))).collect();
        let reply = placing::set_mode(&self.parts, asked.clone()).await?;
        let what = if asked.reset_all { "all as written".to_owned() } else { words.join(" ") };
        audit(&request, "set mode", &format!("{}: {what}", reply.mode));
        Ok(Response::new(reply))
    }

    type TrialStream = trials::Lines;

    async fn trial(&self, request: Request<TrialRequest>) -> Result<Response<Self::TrialStream>, Status> {
        let node = request.get_ref().node.clone();
        audit(&request, "trial", &node);
        Ok(Response::new(trials::begin(&self.parts, request.into_inner()).await?))
    }

    async fn wishes(&self, _: Request<WishesRequest>) -> Result<Response<WishesReply>, Status> {
        Ok(Response::new(placing::wishes(&self.parts).await?))
    }

    async fn model_shape(
        &self,
        request: Request<ModelShapeRequest>,
    ) -> Result<Response<ModelShapeReply>, Status> {
        let ModelShapeRequest { model, node } = request.into_inner();
        let model = ModelId::new(&model).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let node = if node.is_empty() { None } else { Some(machine(&node)?) };
        let header =
            self.parts.blobs.model_header(node.as_ref(), &model).await.map_err(|error| match error {
                HeaderError::Nowhere(_) => Status::not_found(error.to_string()),
                HeaderError::Slow { .. } => Status::deadline_exceeded(error.to_string()),
                HeaderError::Link { .. }
                | HeaderError::Refused { .. }
                | HeaderError::Gguf(_)
                | HeaderError::TooLong => Status::failed_precondition(error.to_string()),
            })?;
        let shape = Shape::from_header(&header)
            .map_err(|error| Status::failed_precondition(format!("`{model}`: {error}")))?;
        let shape_json =
            serde_json::to_string(&shape).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ModelShapeReply { shape_json }))
    }

    async fn direct(&self, request: Request<DirectRequest>) -> Result<Response<DirectReply>, Status> {
        let snapshot = self.parts.fleet.snapshot();
        let (node, directive) = direct::directive_of(request.get_ref().clone(), &snapshot.view)?;
        audit(&request, "direct", node.as_str());
        let sent = self.parts.fleet.direct(&node, directive).await;
        sent.map_err(|error @ NotAttached(_)| Status::unavailable(error.to_string()))?;
        Ok(Response::new(DirectReply {}))
    }
}

fn machine(name: &str) -> Result<MachineId, Status> {
    MachineId::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}
