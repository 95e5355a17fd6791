//! The control link: one `Fleet.Attach` stream for as long as the router is there.
//!
//! ```text
//! dial ──► Hello, full report ──► deltas on change, a heartbeat each second ──► lost ──► pause ──► dial
//!                                        └──► Goodbye: replaced by a newer session ──► 30 s ──► dial
//! ```
//! The certificate is renewed over the same connection after two thirds of its life.

use super::{Backoff, Identity, Reachability, Reports, STOOD, dice};
use crate::metrics::{Link, Metrics};
use mesh_core::machine::{Directive, Report};
use mesh_proto::fleet_wire::{directive_from_wire, report_to_wire};
use mesh_proto::identity::{Credentials, connect, join};
use mesh_proto::v1::fleet_client::FleetClient;
use mesh_proto::v1::{AgentMessage, Goodbye, Heartbeat, Hello, RouterMessage, agent_message, router_message};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

/// A router that accepts the connection and then says nothing is as good as away.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// How long the last report ("draining") may take to leave when the agent stops.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Reports that wait for the network. Each replaces what the one before said, so more would help nobody.
const QUEUE: usize = 8;

/// The link's periods. Only tests set others than the default.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// The router takes a machine for silent after a few of these.
    pub heartbeat: Duration,
    /// After a goodbye: two agents with the same credentials would otherwise throw each other out in turns.
    pub after_goodbye: Duration,
    /// After a failed renewal; a third of the certificate's life is left for trying.
    pub renew_again: Duration,
    /// How often a machine with an ended certificate looks whether it was joined again.
    pub rejoined_check: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            after_goodbye: Duration::from_secs(30),
            renew_again: Duration::from_secs(60),
            rejoined_check: Duration::from_secs(5),
        }
    }
}

/// What the control link needs.
pub struct ControlLink {
    /// The router, `host:port`.
    pub router: String,
    /// Who we are.
    pub identity: Identity,
    /// What we say.
    pub reports: Reports,
    /// Where directives go.
    pub direct: Arc<dyn Fn(Directive) + Send + Sync>,
    /// Differs between two starts of the agent.
    pub boot_id: String,
    /// What we count.
    pub metrics: Metrics,
    /// Shows the data link whether a session stands.
    pub up: watch::Sender<bool>,
    /// Counts for the data link how often another agent has taken our name.
    pub displaced: watch::Sender<u64>,
    /// Shows whether the report that we drain has left.
    pub told_draining: watch::Sender<bool>,
    /// How often, how long.
    pub pacing: Pacing,
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("stopped")]
    Stopped,
    /// The router prefers another session of the same machine.
    #[error("{0}")]
    Unwanted(String),
    #[error("{0}")]
    Lost(String),
}

impl Ended {
    fn by(goodbye: Goodbye) -> Self {
        if goodbye.come_back { Self::Lost(goodbye.reason) } else { Self::Unwanted(goodbye.reason) }
    }
}

impl ControlLink {
    /// Keeps a session with the router until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut backoff, mut router_is) = (Backoff::default(), Reachability::new("the control link"));
        let (mut said_expired, mut fence) = (false, Fence::default());
        loop {
            let pause = match self.identity.valid(SystemTime::now()) {
                Ok(credentials) => {
                    said_expired = false;
                    let ended =
                        self.session(&credentials, &mut backoff, &mut router_is, &mut fence, &stop).await;
                    self.set_up(false);
                    match ended {
                        Ended::Stopped => return,
                        Ended::Unwanted(reason) => {
                            self.displaced.send_modify(|times| *times += 1);
                            tracing::warn!(
                                router = self.router,
                                "the router ended this session: {reason}; trying again in {} s",
                                self.pacing.after_goodbye.as_secs()
                            );
                            self.pacing.after_goodbye
                        }
                        Ended::Lost(cause) => {
                            router_is.lost(&self.router, &cause);
                            backoff.pause(dice())
                        }
                    }
                }
                Err(expired) => {
                    if !said_expired {
                        tracing::error!("{expired}");
                    }
                    said_expired = true;
                    self.pacing.rejoined_check
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn session(
        &mut self,
        credentials: &Credentials,
        backoff: &mut Backoff,
        router_is: &mut Reachability,
        fence: &mut Fence,
        stop: &CancellationToken,
    ) -> Ended {
        let dialled = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            dialled = self.dial(credentials) => dialled,
        };
        match dialled {
            Ok(session) => {
                router_is.back(&self.router);
                self.set_up(true);
                let since = tokio::time::Instant::now();
                let renew_at = renewal(credentials, dice());
                let ended = self.converse(session, renew_at, fence, stop).await;
                if since.elapsed() >= STOOD {
                    backoff.reset();
                }
                ended
            }
            Err(ended) => ended,
        }
    }

    fn set_up(&self, up: bool) {
        self.up.send_replace(up);
        self.told_draining.send_replace(false);
        self.metrics.link(Link::Control, up);
    }

    /// Connects, says hello with a full report, and waits for the welcome.
    async fn dial(&mut self, credentials: &Credentials) -> Result<Session, Ended> {
        let lost = |cause: &dyn std::fmt::Display| Ended::Lost(cause.to_string());
        let channel = connect::channel(&self.router, credentials).await.map_err(|e| lost(&e))?;
        let (up, waiting) = mpsc::channel(QUEUE);
        let hello = Hello {
            protocol: mesh_proto::PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot_id: self.boot_id.clone(),
        };
        // What changes after this line is sent as a delta.
        let sent = self.reports.now();
        for kind in [agent_message::Kind::Hello(hello), agent_message::Kind::Report(report_to_wire(&sent))] {
            up.try_send(AgentMessage { kind: Some(kind) })
                .map_err(|_| lost(&"the first messages do not fit"))?;
        }
        self.metrics.report(true);
        let greeting = async {
            let mut client = FleetClient::new(channel.clone());
            let mut down = client
                .attach(ReceiverStream::new(waiting))
                .await
                .map_err(|status| Ended::Lost(format!("the router refused: {}", status.message())))?
                .into_inner();
            match said(&mut down).await? {
                router_message::Kind::Welcome(_) => Ok(down),
                router_message::Kind::Goodbye(goodbye) => Err(Ended::by(goodbye)),
                router_message::Kind::Directive(_) => {
                    Err(lost(&"the router sent a directive before its welcome"))
                }
            }
        };
        let down = timeout(WELCOME_LIMIT, greeting).await.map_err(|_| {
            lost(&format!("the router did not say welcome within {} s", WELCOME_LIMIT.as_secs()))
        })??;
        Ok(Session { channel, up, down, sent, sequence: 0 })
    }

    async fn converse(
        &mut self,
        mut session: Session,
        mut renew_at: SystemTime,
        fence: &mut Fence,
        stop: &CancellationToken,
    ) -> Ended {
        let mut tick = interval(self.pacing.heartbeat);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewing: Option<tokio::task::JoinHandle<Result<Credentials, join::JoinError>>> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.offer_changes(&mut session);
                    return session.farewell().await;
                }
                message = said(&mut session.down) => match message {
                    Ok(kind) => if let Some(ended) = self.heed(kind, fence) { return ended },
                    Err(ended) => return ended,
                },
                () = self.reports.changed() => self.offer_changes(&mut session),
                () = taken(&session.up), if session.drains() && !*self.told_draining.borrow() => {
                    self.told_draining.send_replace(true);
                }
                _ = tick.tick() => {
                    // A report that found the queue full is offered again.
                    self.offer_changes(&mut session);
                    self.heartbeat(&mut session);
                    // Asked of the wall clock each second: a timer would stand still while a laptop sleeps.
                    if renewing.is_none() && SystemTime::now() >= renew_at {
                        let (channel, folder) = (session.channel.clone(), self.identity.folder().to_owned());
                        renewing = Some(tokio::spawn(async move { join::renew(channel, &folder).await }));
                    }
                }
                renewed = finished(&mut renewing) => {
                    renewing = None;
                    renew_at = self.renewed(renewed);
                }
            }
        }
    }

    /// Acts on what the router says; an end when it says goodbye.
    fn heed(&self, kind: router_message::Kind, fence: &mut Fence) -> Option<Ended> {
        match kind {
            router_message::Kind::Welcome(_) => None,
            router_message::Kind::Goodbye(goodbye) => Some(Ended::by(goodbye)),
            router_message::Kind::Directive(directive) => {
                let term = directive.term;
                match directive_from_wire(directive) {
                    Ok(directive) if !fence.admits(term) => tracing::warn!(
                        ?directive,
                        "ignoring a directive of term {term}: the router has been started anew since, and its term \
                         {} was heard",
                        fence.highest
                    ),
                    Ok(directive) => {
                        self.metrics.directive(&directive);
                        (self.direct)(directive);
                    }
                    // A newer router may wish for what we do not know.
                    Err(error) => tracing::warn!("ignoring a directive: {error}"),
                }
                None
            }
        }
    }

    fn offer_changes(&self, session: &mut Session) {
        let now = self.reports.now();
        let Some(delta) = now.changes_since(&session.sent) else { return };
        if session.offer(agent_message::Kind::Report(report_to_wire(&delta))) {
            session.sent = now;
            self.metrics.report(false);
            if !session.drains() {
                self.told_draining.send_replace(false);
            }
        }
    }

    fn heartbeat(&self, session: &mut Session) {
        let sequence = session.sequence;
        // A full queue means that the network stands still: then a heartbeat would be a lie anyway.
        if session.offer(agent_message::Kind::Heartbeat(Heartbeat { sequence })) {
            session.sequence += 1;
            self.metrics.heartbeats.inc();
        }
    }

    /// Takes the new credentials; returns when to renew next.
    fn renewed(&self, result: Result<Credentials, String>) -> SystemTime {
        match result {
            Ok(credentials) => {
                let at = renewal(&credentials, dice());
                self.identity.replace(credentials);
                tracing::info!("this machine's certificate was renewed");
                at
            }
            Err(cause) => {
                let left = self.identity.current().expires_at().duration_since(SystemTime::now());
                let left = mesh_core::units::human_duration(left.unwrap_or_default());
                tracing::warn!("this machine's certificate could not be renewed, it ends in {left}: {cause}");
                SystemTime::now() + self.pacing.renew_again
            }
        }
    }
}

/// The highest term that was heard since the agent's start, over all sessions: what a router that was replaced says late
/// changes nothing.
#[derive(Debug, Default)]
struct Fence {
    highest: u64,
}

impl Fence {
    /// Whether a directive of `term` is followed; 0 is that of a router that has none.
    fn admits(&mut self, term: u64) -> bool {
        let admits = term == 0 || term >= self.highest;
        self.highest = self.highest.max(term);
        admits
    }
}

struct Session {
    channel: Channel,
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<RouterMessage>,
    /// What the router knows of us.
    sent: Report,
    sequence: u64,
}

impl Session {
    /// Queues a message; false when the network is behind. A closed stream shows on the way down.
    fn offer(&self, kind: agent_message::Kind) -> bool {
        self.up.try_send(AgentMessage { kind: Some(kind) }).is_ok()
    }

    /// Whether the last report queued says that we drain.
    fn drains(&self) -> bool {
        self.sent.draining == Some(true)
    }

    /// Ends our side and waits a moment for the router's, so that the last report is not lost in a buffer.
    async fn farewell(self) -> Ended {
        let Self { up, mut down, .. } = self;
        drop(up);
        let until_the_end = async { while let Ok(Some(_)) = down.message().await {} };
        drop(timeout(FAREWELL_LIMIT, until_the_end).await);
        Ended::Stopped
    }
}

/// Completes when the connection has taken all that was queued.
async fn taken(up: &mpsc::Sender<AgentMessage>) {
    if up.reserve_many(QUEUE).await.is_err() {
        // Its end shows on the way down.
        std::future::pending().await
    }
}

/// The next message that we understand; kinds of a newer router decode to nothing and are passed over.
async fn said(down: &mut Streaming<RouterMessage>) -> Result<router_message::Kind, Ended> {
    loop {
        match down.message().await {
            Ok(Some(RouterMessage { kind: Some(kind) })) => return Ok(kind),
            Ok(Some(RouterMessage { kind: None })) => tracing::debug!("passing over an unknown message"),
            Ok(None) => return Err(Ended::Lost("the router closed the session".into())),
            Err(status) => return Err(Ended::Lost(status.message().to_owned())),
        }
    }
}

/// When to renew: at two thirds of the life, earlier by up to a tenth of that, so that machines that joined
/// together do not renew together.
fn renewal(credentials: &Credentials, dice: f64) -> SystemTime {
    let waiting = credentials.renew_at().duration_since(credentials.issued_at()).unwrap_or_default();
    credentials.issued_at() + waiting.mul_f64(1.0 - dice.clamp(0.0, 1.0) / 10.0)
}

/// The end of a renewal, if one is under way.
async fn finished(
    renewing: &mut Option<tokio::task::JoinHandle<Result<Credentials, join::JoinError>>>,
) -> Result<Credentials, String> {
    match renewing {
        Some(task) => match task.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        None => std::future::pending().await,
    }
}
