//! The agent's two connections to its router. Both are dialled by the agent, so no machine needs an open
//! port: [`control`] carries reports up and directives down, [`data`] carries requests. They share the
//! machine's credentials and nothing else: each reconnects on its own.

pub mod control;
pub mod data;

use mesh_core::machine::{Engine, Hardware, Report, Store, Vitals};
use mesh_proto::identity::{Credentials, IdentityError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that stood for this long was wanted. One that ends sooner was refused after the handshake, and
/// dialling at once again would go on for ever.
const STOOD: Duration = Duration::from_secs(5);

/// How long to wait before dialling again: doubled from 0.2 s to 5 s, each time shortened by up to a half so
/// that the machines of a mesh do not all come back in the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Backoff {
    /// The next pause. `dice` is in 0..1.
    pub fn pause(&mut self, dice: f64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST_PAUSE);
        whole.mul_f64(1.0 - dice.clamp(0.0, 1.0) / 2.0)
    }

    /// A connection stood: the next loss begins with the shortest pause again.
    pub fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

/// Says once that the router is away and once that it is back; what happens in between is for debugging.
#[derive(Debug)]
struct Reachability {
    what: &'static str,
    away: bool,
}

impl Reachability {
    fn new(what: &'static str) -> Self {
        Self { what, away: false }
    }

    fn lost(&mut self, router: &str, cause: &dyn std::fmt::Display) {
        let what = self.what;
        if self.away {
            tracing::debug!(router, "{what} is still down: {cause}");
        } else {
            tracing::warn!(router, "{what} is down, trying again until it is back: {cause}");
        }
        self.away = true;
    }

    fn back(&mut self, router: &str) {
        let what = self.what;
        if self.away {
            tracing::info!(router, "{what} is back");
        } else {
            tracing::info!(router, "{what} stands");
        }
        self.away = false;
    }
}

/// The machine's credentials: those in its folder, replaced when they are renewed or when the machine joins
/// again while the agent runs. Clones share them.
#[derive(Debug, Clone)]
pub struct Identity {
    folder: PathBuf,
    current: Arc<watch::Sender<Arc<Credentials>>>,
}

impl Identity {
    /// Reads the credentials in `folder`.
    ///
    /// # Errors
    /// [`IdentityError`] when the machine has not joined, or a file is damaged.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let credentials = Arc::new(Credentials::load(folder)?);
        Ok(Self { folder: folder.into(), current: Arc::new(watch::Sender::new(credentials)) })
    }

    /// What to show in the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        self.current.borrow().clone()
    }

    /// Where the credentials are kept.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn replace(&self, credentials: Credentials) {
        self.current.send_replace(Arc::new(credentials));
    }

    /// Valid credentials, read again from the folder when ours have ended: the machine may have joined again.
    ///
    /// # Errors
    /// [`Expired`] when those in the folder have ended too.
    fn valid(&self, now: SystemTime) -> Result<Arc<Credentials>, Expired> {
        let known = self.current();
        if now < known.expires_at() {
            return Ok(known);
        }
        match Credentials::load(&self.folder) {
            Ok(fresh) if now < fresh.expires_at() => {
                self.replace(fresh);
                Ok(self.current())
            }
            Ok(_) | Err(_) => {
                Err(Expired { ago: now.duration_since(known.expires_at()).unwrap_or_default() })
            }
        }
    }
}

/// The certificate's life is over; only joining again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine's certificate ended {} ago; join again: `meshctl token create --role node` on the router, \
     then `mesh-agent join ROUTER TOKEN` here",
    mesh_core::units::human_duration(self.ago)
)]
pub struct Expired {
    /// How long ago it ended.
    pub ago: Duration,
}

/// What the agent can report, as last seen. Clones are cheap and see the same.
#[derive(Debug, Clone)]
pub struct Reports {
    /// What does not change.
    pub hardware: Arc<Hardware>,
    /// Read each second.
    pub vitals: watch::Receiver<Arc<Vitals>>,
    /// From the supervisor.
    pub engines: watch::Receiver<Arc<Vec<Engine>>>,
    /// From the model store.
    pub store: watch::Receiver<Arc<Store>>,
    /// The machine profile as JSON.
    pub profile: watch::Receiver<Arc<str>>,
    /// Whether the agent takes no new requests.
    pub draining: watch::Receiver<bool>,
}

impl Reports {
    /// The full report of this moment.
    #[must_use]
    pub fn now(&self) -> Report {
        Report {
            hardware: Some((*self.hardware).clone()),
            vitals: Some((**self.vitals.borrow()).clone()),
            engines: Some((**self.engines.borrow()).clone()),
            store: Some((**self.store.borrow()).clone()),
            profile: Some(self.profile.borrow().clone()),
            draining: Some(*self.draining.borrow()),
        }
    }

    /// Completes when a section may have changed since the last call. Sections whose owner has ended no
    /// longer change.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = next(&mut self.vitals) => {}
            () = next(&mut self.engines) => {}
            () = next(&mut self.store) => {}
            () = next(&mut self.profile) => {}
            () = next(&mut self.draining) => {}
        }
    }
}

async fn next<T>(section: &mut watch::Receiver<T>) {
    if section.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A number in 0..1 for jitter; nothing secret hangs on it.
fn dice() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.pause(0.0).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.pause(0.0).as_millis(), 200);
    }

    #[test]
    fn jitter_only_shortens_a_pause_and_by_no_more_than_half() {
        for dice in [0.0, 0.3, 0.999, 1.0, 7.0, -1.0] {
            let pause = Backoff::default().pause(dice);
            assert!((FIRST_PAUSE / 2..=FIRST_PAUSE).contains(&pause), "{dice}: {pause:?}");
        }
    }
}
