//! The data link: one connection to the router, one stream for each request.
//!
//! ```text
//! router ──► head, body ──► serve ──► engine
//!        ◄── head + first bytes, chunks as they come, end
//!
//! dial QUIC ──► requests ──► lost ──► pause ──► dial QUIC
//!    └─ 5 s without an answer while TCP stands ──► dial HTTP/2 over TLS ──► requests
//!           ▲                                                                │ beside them, each 30 to 60 s: dial
//!           └── the old connection finishes what runs on it ◄── it answers ──┘ QUIC
//! ```
//! A stream may also want bytes of a model file; and the agent opens a few itself, for files that other machines
//! have. Files go after requests in everything: in the packets, and in how many may be under way.
//!
//! A stream's end means complete and nothing else does: whatever ends a reply early resets it. When the router resets
//! or stops a stream, or the connection is lost, the engine is cancelled at once.

mod dial;
mod exchange;
mod files;
mod intake;

use super::{Backoff, Identity, Reachability, STOOD, dice};
use crate::metrics::{Link, Metrics};
use crate::serve::Serve;
use dial::Line;
use files::FilesByRouter;
use intake::Intake;
use mesh_link::{Connection, Following};
use mesh_proto::identity::Credentials;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How requests may come to this machine: `data_link` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataWay {
    /// By QUIC, and by HTTP/2 over TCP as long as UDP does not pass.
    #[default]
    Auto,
    /// By QUIC only.
    Quic,
    /// By HTTP/2 over TCP only.
    H2,
}

/// When the link changes its way. Only tests set others than the default.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// QUIC is not answered for so long while the control link stands: UDP does not pass.
    pub fall_back_after: Duration,
    /// The first look whether UDP passes by now. It comes soon, because a router that was just starting may
    /// have been taken for a wall.
    pub first_look: Duration,
    /// Between later looks, shortened by up to a half.
    pub look_again: Duration,
    /// How long the router may go on to use a connection after it has a better one: it has heard of that within
    /// milliseconds.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            fall_back_after: Duration::from_secs(5),
            first_look: Duration::from_secs(5),
            look_again: Duration::from_secs(60),
            linger: Duration::from_secs(2),
        }
    }
}

/// What the data link needs.
pub struct DataLink {
    /// The router, `host:port`.
    pub router: String,
    /// Who we are.
    pub identity: Identity,
    /// Who answers.
    pub serve: Arc<Serve>,
    /// What we count.
    pub metrics: Metrics,
    /// Whether the control link stands: while it does not, it is the one that says so.
    pub control_up: watch::Receiver<bool>,
    /// How many times the router has ended our control session for another agent of this name. It has put that one's data
    /// link in the place of ours then.
    pub displaced: watch::Receiver<u64>,
    /// Which ways it may take.
    pub way: DataWay,
    /// When it changes its way.
    pub patience: Patience,
}

/// How a connection ended, or why there was none.
enum Ended {
    Stopped,
    Lost(String),
    /// Another agent has this name now.
    Displaced,
    NoAnswer(String),
    /// QUIC answers again while requests come over HTTP/2.
    Better(Line),
}

/// What is known of UDP between us and the router.
#[derive(Default)]
struct Udp {
    /// How long it was tried in vain while the control link stood.
    silent_for: Duration,
    /// Whether we have said that it does not pass.
    told: bool,
    /// It passed again for a moment only: the next look is not a quick one.
    looked: bool,
}

impl DataLink {
    /// Keeps a connection to the router until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut backoff, mut router_is) = (Backoff::default(), Reachability::new("the data link"));
        let bodies = Arc::new(Semaphore::new(exchange::BODIES_KIB as usize));
        let (mut udp, mut better, retired) = (Udp::default(), None, TaskTracker::new());
        loop {
            // Not before the name is ours again, or this link would take the other agent's place.
            if self.displaced.has_changed().unwrap_or(false) {
                self.displaced.mark_unchanged();
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = self.control_up.wait_for(|up| *up) => {}
                }
            }
            // An ended certificate is the control link's to complain about.
            if let Ok(credentials) = self.identity.valid(SystemTime::now()) {
                let over_tcp = self.takes_tcp(&udp);
                let found = match better.take() {
                    Some(line) => Ok(line),
                    None => tokio::select! {
                        () = stop.cancelled() => break,
                        dialled = self.dial(&credentials, &mut udp) => dialled,
                    },
                };
                let ended = match found {
                    Ok(line) => {
                        let since = Instant::now();
                        router_is.back(&self.router);
                        self.metrics.link(Link::Data, true);
                        let lossy = line.followed.as_ref().map(Following::lossy);
                        let intake = Intake::start(line, self.serve.clone(), bodies.clone());
                        let ended = tokio::select! {
                            ended = self.serve_on(intake, &mut udp, &retired, &stop) => ended,
                            never = self.count_losses(lossy) => match never {},
                        };
                        self.metrics.link_losses(None);
                        if since.elapsed() >= STOOD {
                            backoff.reset();
                        }
                        udp.looked &= since.elapsed() < self.patience.look_again;
                        ended
                    }
                    Err(cause) => Ended::NoAnswer(cause),
                };
                self.metrics.link(Link::Data, false);
                match ended {
                    Ended::Stopped => break,
                    Ended::Displaced => continue,
                    Ended::Better(line) => {
                        better = Some(line);
                        continue;
                    }
                    // Either it is back in a moment, or the next dial tells what is wrong.
                    Ended::Lost(cause) => {
                        tracing::debug!(router = self.router, "the data link is lost: {cause}");
                    }
                    Ended::NoAnswer(cause) if *self.control_up.borrow() && over_tcp => {
                        router_is.lost(&self.router, &cause);
                    }
                    Ended::NoAnswer(cause) if *self.control_up.borrow() && self.way == DataWay::Quic => {
                        router_is.lost(&self.router, &format!("{cause}; does UDP pass to the router?"));
                    }
                    Ended::NoAnswer(cause) => tracing::debug!(router = self.router, "no data link: {cause}"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(backoff.pause(dice())) => {}
            }
        }
        retired.close();
        retired.wait().await;
    }

    fn takes_tcp(&self, udp: &Udp) -> bool {
        match self.way {
            DataWay::Auto => udp.silent_for >= self.patience.fall_back_after,
            DataWay::Quic => false,
            DataWay::H2 => true,
        }
    }

    /// A connection by the way that is up.
    async fn dial(&self, credentials: &Credentials, udp: &mut Udp) -> Result<Line, String> {
        if self.takes_tcp(udp) {
            let dialled = dial::by_h2(&self.router, credentials).await;
            match &dialled {
                Ok(_) if self.way == DataWay::Auto && !udp.told => {
                    tracing::warn!(
                        router = self.router,
                        "UDP does not pass to the router: no answer for {} s; requests come by HTTP/2 over TCP until it does",
                        udp.silent_for.as_secs()
                    );
                    udp.told = true;
                }
                Ok(_) => {}
                // The router may be away altogether: what was learned of UDP says nothing of its next life.
                Err(_) => udp.silent_for = Duration::ZERO,
            }
            return dialled;
        }
        // Only what stood all the while shows that the router was there.
        let (mut control, since) = (self.control_up.clone(), Instant::now());
        let stood = *control.borrow_and_update();
        let dialled = dial::by_quic(&self.router, credentials).await;
        udp.silent_for = match &dialled {
            Err(_) if stood && !control.has_changed().unwrap_or(false) => udp.silent_for + since.elapsed(),
            Ok(_) | Err(_) => Duration::ZERO,
        };
        dialled
    }

    /// Answers what comes over a connection until it ends or there is a better one.
    async fn serve_on(
        &self,
        mut intake: Intake,
        udp: &mut Udp,
        retired: &TaskTracker,
        stop: &CancellationToken,
    ) -> Ended {
        let connection = intake.connection();
        let over_quic = matches!(connection, Connection::Quic(_));
        if over_quic && std::mem::take(&mut udp.told) {
            tracing::info!(router = self.router, "UDP passes to the router again: requests come by QUIC");
        }
        let files = if over_quic {
            FilesByRouter::Shared(connection)
        } else {
            FilesByRouter::OwnTcp { router: self.router.clone(), identity: self.identity.clone() }
        };
        if let Some(store) = self.serve.store() {
            store.peers().set(Some(Arc::new(files)));
        }
        let looking = self.look_for_quic(over_quic, udp);
        let ended = tokio::select! {
            () = stop.cancelled() => Ended::Stopped,
            cause = intake.lost() => Ended::Lost(cause),
            () = self.displaced() => Ended::Displaced,
            line = looking => Ended::Better(line),
        };
        if let Some(store) = self.serve.store() {
            store.peers().set(None);
        }
        match ended {
            Ended::Better(_) => {
                udp.silent_for = Duration::ZERO;
                udp.looked = true;
                retired.spawn(intake.retire(self.patience.linger, stop.clone()));
            }
            // What the router sent before goes on.
            Ended::Displaced => drop(retired.spawn(intake.retire(self.patience.linger, stop.clone()))),
            Ended::Stopped | Ended::Lost(_) | Ended::NoAnswer(_) => {
                // All answers have ended, but not all of their bytes may have left.
                if *self.serve.in_flight().borrow() == 0 {
                    intake.settle().await;
                }
                intake.end().await;
            }
        }
        ended
    }

    /// Keeps the metric of the link's losses true.
    async fn count_losses(&self, lossy: Option<watch::Receiver<Option<f64>>>) -> Infallible {
        if let Some(mut lossy) = lossy {
            lossy.mark_changed();
            while lossy.changed().await.is_ok() {
                let share = lossy.borrow_and_update().unwrap_or(0.0);
                self.metrics.link_losses(Some(share));
            }
        }
        std::future::pending().await
    }

    /// Completes when another agent has taken this name, also while the link was being dialled.
    async fn displaced(&self) {
        let mut displaced = self.displaced.clone();
        if displaced.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Completes with a connection by QUIC when it is wanted and UDP passes again.
    async fn look_for_quic(&self, over_quic: bool, udp: &Udp) -> Line {
        if over_quic || self.way == DataWay::H2 {
            return std::future::pending().await;
        }
        let mut pause = if udp.looked { self.patience.look_again } else { self.patience.first_look };
        loop {
            sleep(pause).await;
            pause = self.patience.look_again.mul_f64(1.0 - dice() / 2.0);
            let Ok(credentials) = self.identity.valid(SystemTime::now()) else { continue };
            match dial::by_quic(&self.router, &credentials).await {
                Ok(line) => return line,
                Err(cause) => tracing::debug!(router = self.router, "UDP still does not pass: {cause}"),
            }
        }
    }
}
