//! Forwarding one request: decide, try a node, and while nothing has gone to the client, try the next one.
//!
//! ```text
//! body ─► head ─► mode or model ─► decide + count ─► link.open ─┬─ refused, broken, 5xx ─► next node
//!                                        ▲                      ├─ loading ─► next node, or wait and decide again
//!                                        └── nobody left ◄──────┤
//!                                                               └─ first content ─► headers, bytes as they come
//! ```
//! After the first content nothing is retried: a break becomes an error event and the end of the stream.

pub mod agent_links;
pub mod answer_judge;
pub mod answer_shape;
pub mod attempt;
pub mod blobs;
pub mod caller;
pub mod cold_load;
mod course;
pub mod data_links;
mod delivery;
mod early_head;
mod ending;
mod engine_error;
pub mod flow;
pub mod h2_links;
pub mod in_flight;
mod opening;
mod probe;
pub mod prompt_measure;
pub mod prompt_prefix;
pub mod quic_links;
pub(crate) mod refusals;
mod rounds;
pub mod stream_guard;
pub mod ticket;
pub mod waiting_room;
pub mod wanted;

use crate::config::Settings;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::http::dialect::{Door, faults};
use crate::http::head::Head;
use crate::http::reply::{ApiError, Reply, reasons_json};
use crate::journal::{Journal, Record};
use crate::metrics::{Metrics, ReasonLabel};
use crate::modes::ModeRules;
use agent_links::AgentLinks;
use bytes::Bytes;
use caller::Caller;
use cold_load::{ColdLoads, Loading, load_refused, still_loading};
use course::{Course, Round};
use http::StatusCode;
use in_flight::InFlight;
use mesh_core::admission::{Entry, Priority, Refused};
use mesh_core::client_loop::{ClientLoops, Fault, Habit};
use mesh_core::id::{ModeName, ModelId};
use mesh_core::mode::Asked;
use mesh_core::retry_budget::RetryBudget;
use mesh_core::routing::{Refusal, Slo};
use mesh_core::units::Moment;
use mesh_daemon::clock::{Clock, unix_ms};
use mesh_daemon::in_place::in_place;
use rounds::{Exhausted, Won};
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use stream_guard::Usage;
use ticket::{Ended, Ticket};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use waiting_room::{NoSlot, Progress, WaitingRoom};
use wanted::{Wanted, hash_of};

/// A loading model is asked about again this often, besides at every change in the fleet.
const LOAD_POLL: Duration = Duration::from_millis(250);
/// How long a request waits for an engine that its agent brings back: three of its starts in a row, with what a small
/// model takes to load.
const RETURN_WAIT: Duration = Duration::from_secs(15);

/// A client that waits for a whole answer hears of a load within this time: many proxies and some clients give up
/// after a minute without a byte.
const WHOLE_LOAD_WAIT: Duration = Duration::from_secs(55);

/// A rough count of tokens: English and code are near four bytes each. Only for comparing machines.
const BYTES_PER_TOKEN: u64 = 4;

/// What forwarding needs of the rest of the router.
#[derive(Clone)]
pub struct Forward {
    /// All machines and modes.
    pub fleet: FleetHandle,
    /// The ways to the agents.
    pub links: AgentLinks,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Records of requests.
    pub journal: Journal,
    /// Counters.
    pub metrics: Metrics,
    /// Where requests wait for a slot.
    pub room: WaitingRoom,
    /// Loads that requests asked for.
    pub loads: ColdLoads,
    /// Cancelled when the router stops and waits no longer: what still runs ends with an error then.
    pub ending: CancellationToken,
    /// Brakes, shared by all requests.
    brakes: Arc<Mutex<Brakes>>,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// The clock.
    pub clock: Clock,
}

/// What keeps clients and the router itself from repeating too much.
struct Brakes {
    retries: RetryBudget,
    loops: ClientLoops,
}

/// What [`Forward`] is made of.
pub struct ForwardParts {
    /// All machines and modes.
    pub fleet: FleetHandle,
    /// The ways to the agents.
    pub links: AgentLinks,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Records of requests.
    pub journal: Journal,
    /// Counters.
    pub metrics: Metrics,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// The clock.
    pub clock: Clock,
}

/// A request as it came in.
pub struct Incoming {
    /// Its id.
    pub id: Arc<str>,
    /// Where it came in.
    pub door: Door,
    /// The client's name for itself.
    pub client: String,
    /// Who asks, and how long they are willing to wait.
    pub caller: Caller,
    /// The whole body.
    pub body: Bytes,
    /// The times that its headers ask for: `x-slo-ttft-ms`, `x-slo-tpot-ms`.
    pub slo: Slo,
}

impl Forward {
    /// Forwarding with an empty waiting room. [`Forward::keep`] must run, or nobody is called who waits.
    #[must_use]
    pub fn new(parts: ForwardParts) -> Self {
        let ForwardParts { fleet, links, in_flight, journal, metrics, settings, clock } = parts;
        let room = WaitingRoom::new(settings.queue, in_flight.clone(), fleet.clone(), metrics.clone(), clock);
        let loads = ColdLoads::new(fleet.clone(), metrics.clone());
        let brakes = Brakes { retries: RetryBudget::new(clock.now()), loops: ClientLoops::default() };
        let brakes = Arc::new(Mutex::new(brakes));
        let ending = CancellationToken::new();
        Self { fleet, links, in_flight, journal, metrics, room, loads, ending, brakes, settings, clock }
    }

    /// What goes on beside the requests until `stop`: calling those that wait, and asking failing replicas whether
    /// they work again.
    pub async fn keep(self, stop: CancellationToken) {
        let probes = probe::keep(self.fleet.clone(), self.links.clone(), self.metrics.clone(), stop.clone());
        tokio::join!(self.room.keep(stop), probes);
    }

    /// Answers one request. Dropping the future, or the body of the reply, cancels it down to the engine.
    pub async fn run(self: &Arc<Self>, mut incoming: Incoming) -> Reply {
        let dialect = incoming.door.dialect();
        let head = head_of(&incoming);
        let answered = if head.as_ref().is_ok_and(|head| head.stream) {
            let (teller, progress) = watch::channel(Progress::default());
            incoming.caller.progress.get_or_insert(teller);
            let forward = self.clone();
            let outcome = in_place(|| async move { forward.answer(incoming, head).await });
            early_head::head_in_time(outcome, progress, self.clock, dialect).await
        } else {
            in_place(|| self.answer(incoming, head)).await
        };
        answered.unwrap_or_else(|error| dialect.reply(&error))
    }

    async fn answer(&self, incoming: Incoming, head: Result<Box<Head>, ApiError>) -> Result<Reply, ApiError> {
        let now = self.clock.now();
        let mut ticket = Ticket::new(
            Record {
                id: incoming.id.clone(),
                at_unix_ms: unix_ms(),
                path: incoming.door.path(),
                client: incoming.client.clone(),
                body_bytes: incoming.body.len() as u64,
                outcome: "running",
                ..Record::default()
            },
            self.clock,
            now,
            self.journal.clone(),
            self.metrics.clone(),
        );
        let habit = habit(&incoming, head.as_deref().ok());
        let admitted = self.brakes().loops.admits(habit, now);
        let tried = admitted.is_ok();
        let result = match (admitted, head) {
            (Err(repeated), _) => Err(refusals::loops(repeated)),
            (Ok(()), Ok(head)) => self.route(&incoming, &head, now, &mut ticket).await,
            (Ok(()), Err(error)) => Err(error),
        };
        match &result {
            Ok(_) => self.brakes().loops.succeeded(habit),
            Err(error) if tried && error.kind == ApiError::CLIENT && error.code != "superseded" => {
                self.brakes().loops.refused(habit, fault(error), self.clock.now());
            }
            Err(_) => {}
        }
        let Won { attempt, candidate, claim } = match result {
            Ok(won) => *won,
            Err(error) => {
                let ended = if error.status.is_server_error() { Ended::Failed } else { Ended::Refused };
                self.metrics.refusals.get_or_create(&ReasonLabel { reason: error.code }).inc();
                ticket.end(ended, error.status.as_u16(), &error.message, Usage::default());
                return Err(error.with("request_id", json!(&*incoming.id)));
            }
        };
        Ok(self.deliver(attempt, &candidate, claim, ticket, incoming.door.dialect()))
    }

    /// From the head of a request that came `now` to an attempt that has content.
    async fn route(
        &self,
        incoming: &Incoming,
        head: &Head,
        now: Moment,
        ticket: &mut Ticket,
    ) -> Result<Box<Won>, ApiError> {
        let snapshot = self.fleet.snapshot();
        let models = self.meaning(&snapshot, &head.model, ticket, head.stream)?;
        let mode = ticket.mode().cloned();
        let slo = targets(&snapshot.rules, mode.as_ref(), incoming.slo);
        let wanted = Arc::new(Wanted {
            models,
            mode,
            purpose: incoming.door.purpose(),
            prompt_tokens: incoming.body.len() as u64 / BYTES_PER_TOKEN,
            least_context: 0,
            tried: Vec::new(),
            counts_only: incoming.door.counts_only(),
            session: incoming.caller.session,
            slo,
            policy: self.settings.policy,
            body: incoming.body.clone(),
            prefix: OnceLock::new(),
        });
        self.brakes().retries.request(now);
        let stay = self.room.arrive(entry(&snapshot.rules, incoming, &wanted, now), now);
        drop(snapshot);
        let stay = Arc::new(stay.map_err(|refused| refusals::queue(refused, &self.settings))?);
        ticket.stays(stay.clone());
        let course = Course {
            wanted,
            incoming,
            head,
            stay: &stay,
            beyond: None,
            round: Round::default(),
            looked_again: false,
        };
        tokio::select! {
            biased;
            () = stay.superseded() => Err(refusals::superseded()),
            () = self.ending.cancelled() => Err(refusals::stopping()),
            result = self.follow(course, ticket) => result,
        }
    }

    /// Waits for slots and tries nodes until one has content or nothing helps.
    async fn follow(&self, mut course: Course<'_>, ticket: &mut Ticket) -> Result<Box<Won>, ApiError> {
        let (incoming, head, stay) = (course.incoming, course.head, course.stay);
        let mut limit = self.settings.load_wait;
        if !head.stream {
            limit = limit.min(WHOLE_LOAD_WAIT);
        }
        let mut loading_for = Duration::ZERO;
        let mut loading = Loading::Nothing;
        // Why nobody could serve it, while it waits for an engine that is brought back, and how long it has.
        let (mut absent, mut absent_for) = (None::<Refusal>, Duration::ZERO);
        let mut snapshots = self.fleet.snapshots();
        loop {
            snapshots.borrow_and_update();
            let queued = stay.queued();
            let turn = stay.slot(&course.wanted, &incoming.caller.progress).await;
            if !stay.queued().is_zero() {
                ticket.queued(stay.queued());
            }
            if stay.queued() > queued {
                // Now it waited for a slot.
                (loading, absent) = (Loading::Nothing, None);
            }
            if turn.is_ok() {
                (absent, absent_for) = (None, Duration::ZERO);
            }
            let refusal = match turn {
                Ok((decision, claim)) => match self.attempts(&mut course, decision, claim, ticket).await {
                    Ok(success) => return Ok(success),
                    Err(Exhausted::Error(error)) => return Err(*error),
                    // The others have no slot free: it waits for one of theirs.
                    Err(Exhausted::Full) => continue,
                    Err(Exhausted::Absent) => {
                        stay.step_aside();
                        course.new_round();
                        tokio::time::sleep(LOAD_POLL).await;
                        continue;
                    }
                    Err(Exhausted::Loading) => {
                        stay.step_aside();
                        loading = loading.or_of_engine(course.round.loading.take(), self.clock.now());
                        course.new_round();
                        None
                    }
                },
                Err(NoSlot::NoNode(refusal)) => Some(refusal),
                Err(NoSlot::Refused(Refused::Expired { waited })) if loading != Loading::Nothing => {
                    let told = cold_load::deadline_passed(&head.model, &loading, waited, self.clock.now());
                    return Err(told);
                }
                Err(no_slot) => {
                    let why = match (no_slot, absent) {
                        (NoSlot::Refused(Refused::Expired { .. }), Some(absent)) => NoSlot::NoNode(absent),
                        (no_slot, _) => no_slot,
                    };
                    return Err(refusals::no_slot((&head.model, &course.wanted.models), why, &self.settings));
                }
            };
            absent = None;
            if let Some(refusal) = &refusal {
                ticket.nobody(&refusal.rejected);
                loading = self.cold(refusal, &course).await?;
                if loading == Loading::Nothing && !refusal.loading {
                    if course.round.tried > 0 && course.forgive() {
                        continue;
                    }
                    let in_time = loading_for + LOAD_POLL < limit;
                    if !in_time || !self.returns(refusal, &course, absent_for) {
                        if course.round.tried > 0 {
                            return Err(course.verdict(ticket));
                        }
                        let asked = (head.model.as_str(), course.wanted.models.as_slice());
                        let unavailable = || refusals::unavailable(asked, refusal, &self.settings);
                        return Err(course.beyond.map_or_else(unavailable, |error| *error));
                    }
                    course.tell(Progress::Deciding);
                    absent = Some(refusal.clone());
                }
            }
            if let Loading::Underway { node, model, since } = &loading {
                course.tell(Progress::Loading { node: node.clone(), model: model.clone(), since: *since });
            }
            if loading_for + LOAD_POLL >= limit {
                let rejected = refusal.map(|refusal| refusal.rejected).unwrap_or_default();
                return Err(still_loading(&head.model, &loading, limit, self.clock.now())
                    .with("nodes", reasons_json(&rejected)));
            }
            let since = Instant::now();
            if refusal.is_none() {
                // An engine said so itself: not again at every heartbeat of the fleet, each time with the body.
                tokio::time::sleep(LOAD_POLL).await;
            } else if let Ok(Err(_)) = tokio::time::timeout(LOAD_POLL, snapshots.changed()).await {
                return Err(refusals::stopping());
            }
            // A deadline that the client set holds for loads, too.
            if incoming.caller.deadline.is_none() {
                stay.excuse(since.elapsed());
            }
            loading_for += since.elapsed();
            if absent.is_some() {
                absent_for += since.elapsed();
            }
        }
    }

    /// Whether to go on waiting, `waited` until now, for an engine that its agent brings back. Who was tried there and
    /// failed may be what ended it.
    fn returns(&self, refusal: &Refusal, course: &Course<'_>, waited: Duration) -> bool {
        refusal.returning && course.wanted.tried.is_empty() && {
            let snapshot = self.fleet.snapshot();
            let patience = priority(&snapshot.rules, course.wanted.mode.as_ref()).patience();
            waited + LOAD_POLL < RETURN_WAIT.min(patience)
        }
    }

    /// No replica can serve it: is one on its way, or can one be loaded?
    async fn cold(&self, refusal: &Refusal, course: &Course<'_>) -> Result<Loading, ApiError> {
        // What an engine cannot do once its model is loaded is no reason to load another one.
        let may_start = self.settings.load_on_demand && course.beyond.is_none();
        let (snapshot, now) = (self.fleet.snapshot(), self.clock.now());
        // A completion is worth nothing when it is late, and what runs in the background drives nobody out.
        let priority = priority(&snapshot.rules, course.wanted.mode.as_ref());
        let may = (may_start, !matches!(priority, Priority::Autocomplete | Priority::Background));
        match self.loads.advance(&snapshot, refusal, &course.wanted, may, now).await {
            // It need not be loaded elsewhere.
            Loading::Failed(_) if refusal.returning => Ok(Loading::Nothing),
            Loading::Failed(failed) => Err(load_refused(&course.head.model, &failed)),
            loading @ (Loading::Underway { .. } | Loading::Blocked { .. } | Loading::Nothing) => Ok(loading),
        }
    }

    /// Which models the client's word for a model means.
    fn meaning(
        &self,
        snapshot: &Snapshot,
        asked: &str,
        ticket: &mut Ticket,
        stream: bool,
    ) -> Result<Vec<(ModelId, Option<ModeName>)>, ApiError> {
        ticket.asked(asked, stream);
        match snapshot.modes.resolve(asked, &snapshot.view) {
            Asked::Mode(mode) => {
                ticket.set_mode(&mode.name);
                let chain = snapshot.modes.chain(mode);
                Ok(chain.into_iter().map(|(model, from)| (model.clone(), Some(from.clone()))).collect())
            }
            Asked::Model(model) => Ok(vec![(model, None)]),
            // After a restart the router knows nothing until the first report: no reason to call a name wrong.
            Asked::Unknown { .. } if snapshot.view.model_names().is_empty() => {
                let message = format!(
                    "`{}` cannot be served: no node has reported a model yet",
                    refusals::shown(asked)
                );
                Err(ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "no_node_available", message)
                    .retry_after(5))
            }
            Asked::Unknown { near, all } => {
                Err(refusals::unknown_model(asked, snapshot.modes.aliases().get(asked), &near, &all))
            }
        }
    }

    fn brakes(&self) -> MutexGuard<'_, Brakes> {
        // Counts are valid after any panic.
        self.brakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times that are asked for: by the client, else by the mode.
fn targets(rules: &ModeRules, mode: Option<&ModeName>, asked: Slo) -> Slo {
    let own = mode.and_then(|mode| rules.targets.get(mode)).copied().unwrap_or_default();
    Slo { ttft_s: asked.ttft_s.or(own.ttft_s), tpot_s: asked.tpot_s.or(own.tpot_s) }
}

/// How urgent a mode is.
fn priority(rules: &ModeRules, mode: Option<&ModeName>) -> Priority {
    mode.map_or(Priority::default(), |mode| {
        let configured = rules.priorities.get(mode).copied();
        configured.unwrap_or_else(|| Priority::of_mode(mode.as_str()))
    })
}

/// What the queue is told of a request.
fn entry(rules: &ModeRules, incoming: &Incoming, wanted: &Wanted, now: Moment) -> Entry {
    let priority = priority(rules, wanted.mode.as_ref());
    let patience = incoming.caller.deadline.unwrap_or_else(|| priority.patience());
    Entry {
        priority,
        key: hash_of(&incoming.caller.key),
        // A count is no newer completion: it takes nobody's place.
        session: incoming.caller.session.filter(|_| !wanted.counts_only),
        deadline: now.plus(patience),
        bytes: incoming.body.len() as u64,
        // Told at each look for a slot: what it needs is read where there is a choice only.
        class: 0,
    }
}

/// What the request says of itself, in any dialect.
fn head_of(incoming: &Incoming) -> Result<Box<Head>, ApiError> {
    let own_stream = incoming.door.has_usage_frame();
    let mut head = Head::read(&incoming.body, own_stream).map(Box::new).map_err(|error| {
        let refused = ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", error.to_string());
        ApiError { param: error.field().map(Into::into), ..refused }
    })?;
    if !own_stream {
        head.stream = incoming.door.streams(&incoming.body)?;
    }
    if let Some(fault) = faults::of_head(incoming.door, &head) {
        return Err(fault);
    }
    let named = incoming.door.model_name(&head.model);
    if named.len() < head.model.len() {
        head.model = named.to_owned();
    }
    Ok(head)
}

/// Who sends what, for noticing clients that repeat themselves.
fn habit(incoming: &Incoming, head: Option<&Head>) -> Habit {
    // Without a session, programs of the same user are told apart by their names.
    let who = incoming.caller.session.unwrap_or_else(|| hash_of(&incoming.client));
    let asked = head.map(|head| (head.model.as_str(), head.tools, head.suffix));
    let kind = hash_of(&(incoming.door.path(), asked));
    Habit::new(who.rotate_left(1) ^ hash_of(&incoming.caller.key), kind, incoming.body.len() as u64)
}

/// What a request was refused for. Numbers make no other mistake: prompts that are too long grow, and the place of what
/// is wrong moves with the conversation.
fn fault(error: &ApiError) -> Fault {
    let words: String = error.message.chars().filter(|c| !c.is_ascii_digit()).collect();
    Fault { code: error.code, what: hash_of(&words) }
}
