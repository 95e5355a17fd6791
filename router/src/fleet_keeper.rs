//! The one owner of the [`Fleet`]: reports, signs of life and outcomes come in, a [`Snapshot`] goes out after
//! each change and whenever time alone changes something.

use crate::modes::{ModeRules, ModeSet};
use mesh_core::fleet::{DataPath, Fleet, FleetView, Outcome};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Directive, Report};
use mesh_core::mode::{ModeTable, ModelAliases};
use mesh_core::profile::{Profile, SpeedRecord};
use mesh_daemon::clock::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Messages that may wait for the keeper. Sessions wait for room, so a flood slows its own sender.
const INBOX: usize = 1024;
/// Directives that may wait for one agent; the next reconcile repeats what does not fit.
const OUTBOX: usize = 32;

/// An answer refines speeds and nothing else, so its news may wait this long for others: a snapshot for each of ten
/// thousand answers a second would cost more than answering them.
const ANSWERS_WAIT: Duration = Duration::from_millis(50);

/// What every decision is made from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// All machines.
    pub view: FleetView,
    /// All modes: configured, or automatic from what the machines have.
    pub modes: ModeTable,
    /// Whether the modes are automatic.
    pub automatic: bool,
    /// What the modes ask of each request.
    pub rules: Arc<ModeRules>,
    /// Machines that take no further model, by their owners' wishes.
    pub barred: Arc<BTreeMap<MachineId, String>>,
}

/// There is no control stream to that machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{0}` is not connected, or does not take its directives")]
pub struct NotAttached(pub MachineId);

enum Message {
    Attach { machine: MachineId, boot_id: String, reply: oneshot::Sender<Session> },
    Report { machine: MachineId, session: u64, report: Box<Report>, speeds: Option<Vec<SpeedRecord>> },
    Heartbeat { machine: MachineId, session: u64 },
    Detach { machine: MachineId, session: u64 },
    Linked { machine: MachineId, link: u64, path: Option<DataPath> },
    Observe { machine: MachineId, model: ModelId, outcome: Outcome },
    Modes(Option<Arc<ModeSet>>),
    Barred(BTreeMap<MachineId, String>),
    Direct { machine: MachineId, directive: Directive, reply: oneshot::Sender<Result<(), NotAttached>> },
}

impl Message {
    /// Whether the next decision needs it.
    fn is_urgent(&self) -> bool {
        !matches!(self, Self::Observe { outcome: Outcome::Answered(_), .. })
    }
}

/// A cheap way to the keeper.
#[derive(Clone)]
pub struct FleetHandle {
    inbox: mpsc::Sender<Message>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// The control stream of one machine. Dropping it says that the stream is gone.
pub struct Session {
    /// What the router wishes of this machine.
    pub directives: mpsc::Receiver<Directive>,
    /// Cancelled when a newer session of the same machine has taken over.
    pub replaced: CancellationToken,
    machine: MachineId,
    number: u64,
    inbox: mpsc::Sender<Message>,
}

impl Session {
    /// A report came.
    pub async fn report(&self, report: Report) {
        // Here and not in the keeper, which all machines wait for. A profile that is none is its agent's matter.
        let speeds = report
            .profile
            .as_deref()
            .and_then(|profile| serde_json::from_str::<Profile>(profile).ok().map(|profile| profile.speeds));
        self.send(Message::Report {
            machine: self.machine.clone(),
            session: self.number,
            report: Box::new(report),
            speeds,
        })
        .await;
    }

    /// A heartbeat came.
    pub async fn heartbeat(&self) {
        self.send(Message::Heartbeat { machine: self.machine.clone(), session: self.number }).await;
    }

    async fn send(&self, message: Message) {
        // A keeper that is gone means that the router is stopping.
        drop(self.inbox.send(message).await);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (inbox, machine, session) = (self.inbox.clone(), self.machine.clone(), self.number);
        let message = Message::Detach { machine, session };
        if let Err(mpsc::error::TrySendError::Full(message)) = inbox.try_send(message)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { inbox.send(message).await });
        }
    }
}

impl FleetHandle {
    /// Starts the keeper. `configured` modes win; with none, the modes follow what the machines have.
    #[must_use]
    pub fn start(
        configured: Option<Arc<ModeSet>>,
        aliases: ModelAliases,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        let (inbox, messages) = mpsc::channel(INBOX);
        let mut keeper = Keeper {
            fleet: Fleet::default(),
            sessions: BTreeMap::new(),
            next_session: 1,
            links: BTreeMap::new(),
            configured: None,
            aliases: Arc::new(aliases),
            rules: Arc::default(),
            barred: Arc::default(),
            clock,
            inbox: inbox.downgrade(),
        };
        keeper.adopt(configured);
        let (publish, snapshot) = watch::channel(Arc::new(keeper.snapshot()));
        tokio::spawn(keeper.run(messages, publish, stop));
        Self { inbox, snapshot }
    }

    /// The newest snapshot, and notice of newer ones.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// A machine's control stream is there. An older session of the same machine is told that it is replaced.
    /// `None` when the router is stopping.
    pub async fn attach(&self, machine: MachineId, boot_id: String) -> Option<Session> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Message::Attach { machine, boot_id, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Link number `link` of a machine is there or gone. That an older link is gone is no news.
    pub async fn linked(&self, machine: MachineId, link: u64, path: Option<DataPath>) {
        drop(self.inbox.send(Message::Linked { machine, link, path }).await);
    }

    /// A request on a replica ended. Never waits: losing one observation is better than holding up an answer.
    pub fn observe(&self, machine: &MachineId, model: &ModelId, outcome: Outcome) {
        let message = Message::Observe { machine: machine.clone(), model: model.clone(), outcome };
        if self.inbox.try_send(message).is_err() {
            tracing::debug!(%machine, "an outcome was not recorded: the fleet keeper is busy or gone");
        }
    }

    /// From now on these are the modes: those of another strategy.
    pub async fn set_modes(&self, modes: Option<Arc<ModeSet>>) {
        drop(self.inbox.send(Message::Modes(modes)).await);
    }

    /// From now on these machines take no model that a request asks for, for these reasons.
    pub async fn set_barred(&self, barred: BTreeMap<MachineId, String>) {
        drop(self.inbox.send(Message::Barred(barred)).await);
    }

    /// Sends a wish to a machine.
    ///
    /// # Errors
    /// [`NotAttached`] when it has no control stream.
    pub async fn direct(&self, machine: &MachineId, directive: Directive) -> Result<(), NotAttached> {
        let gone = || NotAttached(machine.clone());
        let (reply, answer) = oneshot::channel();
        let message = Message::Direct { machine: machine.clone(), directive, reply };
        self.inbox.send(message).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

struct Attached {
    number: u64,
    directives: mpsc::Sender<Directive>,
    replaced: CancellationToken,
}

struct Keeper {
    fleet: Fleet,
    sessions: BTreeMap<MachineId, Attached>,
    next_session: u64,
    /// The newest link of each machine.
    links: BTreeMap<MachineId, u64>,
    configured: Option<Arc<ModeSet>>,
    aliases: Arc<ModelAliases>,
    rules: Arc<ModeRules>,
    barred: Arc<BTreeMap<MachineId, String>>,
    clock: Clock,
    /// Weak, so that the keeper ends when the last handle is gone.
    inbox: mpsc::WeakSender<Message>,
}

impl Keeper {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        publish: watch::Sender<Arc<Snapshot>>,
        stop: CancellationToken,
    ) {
        let mut answers_due = None;
        loop {
            let next_change = self.fleet.next_change(self.clock.now()).into_iter().chain(answers_due).min();
            let time_passes = async {
                match next_change {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut urgent;
            tokio::select! {
                () = stop.cancelled() => return,
                message = messages.recv() => match message {
                    Some(message) => {
                        urgent = message.is_urgent();
                        self.take(message);
                    }
                    None => return,
                },
                () = time_passes => urgent = true,
            }
            // A burst of messages makes one snapshot.
            while let Ok(message) = messages.try_recv() {
                urgent |= message.is_urgent();
                self.take(message);
            }
            if !urgent {
                answers_due.get_or_insert_with(|| self.clock.now().plus(ANSWERS_WAIT));
                continue;
            }
            answers_due = None;
            let fresh = self.snapshot();
            publish.send_if_modified(|old| {
                let changed = **old != fresh;
                if changed {
                    *old = Arc::new(fresh);
                }
                changed
            });
        }
    }

    fn snapshot(&self) -> Snapshot {
        let view = self.fleet.view(self.clock.now());
        let (rules, barred) = (self.rules.clone(), self.barred.clone());
        let (modes, automatic) = match &self.configured {
            Some(set) => (set.table(&view), false),
            None => (ModeTable::automatic(&view), true),
        };
        Snapshot { modes: modes.with_aliases(self.aliases.clone()), view, automatic, rules, barred }
    }

    fn adopt(&mut self, modes: Option<Arc<ModeSet>>) {
        self.rules = Arc::new(modes.as_ref().map(|set| set.rules.clone()).unwrap_or_default());
        self.configured = modes;
    }

    fn take(&mut self, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Attach { machine, boot_id, reply } => self.attach(machine, &boot_id, reply),
            Message::Report { machine, session, report, speeds } if self.is_current(&machine, session) => {
                if let Some(speeds) = speeds {
                    self.fleet.seed(&machine, speeds);
                }
                self.fleet.apply(&machine, *report, now);
            }
            Message::Heartbeat { machine, session } if self.is_current(&machine, session) => {
                self.fleet.heard(&machine, now);
            }
            Message::Detach { machine, session } if self.is_current(&machine, session) => {
                tracing::warn!(node = %machine, "node disconnected");
                self.sessions.remove(&machine);
                self.fleet.lost(&machine, now);
            }
            // A word of a session that was replaced: the newer one knows better.
            Message::Report { .. } | Message::Heartbeat { .. } | Message::Detach { .. } => {}
            Message::Linked { machine, link, path } => {
                let newest = self.links.get(&machine).copied().unwrap_or(0);
                if link >= newest {
                    self.links.insert(machine.clone(), link);
                    self.fleet.linked(&machine, path);
                }
            }
            Message::Observe { machine, model, outcome } => {
                self.fleet.observe(&machine, &model, &outcome, now)
            }
            Message::Modes(modes) => self.adopt(modes),
            Message::Barred(barred) => self.barred = Arc::new(barred),
            Message::Direct { machine, directive, reply } => {
                let sent = match self.sessions.get(&machine) {
                    Some(session) => session.directives.try_send(directive).map_err(|_| NotAttached(machine)),
                    None => Err(NotAttached(machine)),
                };
                // Who asked may have gone meanwhile.
                drop(reply.send(sent));
            }
        }
    }

    fn attach(&mut self, machine: MachineId, boot_id: &str, reply: oneshot::Sender<Session>) {
        let Some(inbox) = self.inbox.upgrade() else { return };
        let (directives, outbox) = mpsc::channel(OUTBOX);
        let (number, replaced) = (self.next_session, CancellationToken::new());
        self.next_session += 1;
        let fresh = Attached { number, directives, replaced: replaced.clone() };
        if let Some(old) = self.sessions.insert(machine.clone(), fresh) {
            tracing::info!(node = %machine, "a newer session replaces the older one");
            old.replaced.cancel();
        }
        tracing::info!(node = %machine, boot_id, "node connected");
        self.fleet.attached(&machine, self.clock.now());
        // If the caller is gone, the session is dropped and detaches.
        drop(reply.send(Session { directives: outbox, replaced, machine, number, inbox }));
    }

    fn is_current(&self, machine: &MachineId, session: u64) -> bool {
        self.sessions.get(machine).is_some_and(|attached| attached.number == session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::health::Liveness;

    fn id(name: &str) -> MachineId {
        MachineId::new(name).expect("valid")
    }

    fn start() -> FleetHandle {
        FleetHandle::start(None, ModelAliases::new(), Clock::start(), CancellationToken::new())
    }

    async fn until(handle: &FleetHandle, wanted: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
        let mut snapshots = handle.snapshots();
        tokio::time::timeout(Duration::from_secs(60), snapshots.wait_for(wanted))
            .await
            .expect("the snapshot never came")
            .expect("the keeper lives")
            .clone()
    }

    fn liveness(snapshot: &Snapshot, name: &str) -> Option<Liveness> {
        snapshot.view.machine(&id(name)).map(|machine| machine.liveness)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_machine_becomes_suspect_and_then_offline_without_any_message() {
        let handle = start();
        let session = handle.attach(id("msi"), "boot".into()).await.expect("the keeper lives");
        until(&handle, |s| liveness(s, "msi") == Some(Liveness::Alive)).await;
        until(&handle, |s| liveness(s, "msi") == Some(Liveness::Suspect)).await;
        until(&handle, |s| liveness(s, "msi") == Some(Liveness::Offline)).await;
        session.heartbeat().await;
        until(&handle, |s| liveness(s, "msi") == Some(Liveness::Alive)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_session_silences_the_older_one() {
        let handle = start();
        let older = handle.attach(id("msi"), "one".into()).await.expect("the keeper lives");
        let newer = handle.attach(id("msi"), "two".into()).await.expect("the keeper lives");
        older.replaced.cancelled().await;
        older.report(Report { draining: Some(true), ..Report::default() }).await;
        drop(older);
        newer.report(Report { engines: Some(vec![]), ..Report::default() }).await;
        let wish = Directive::Load(ModelId::new("m").expect("valid").into());
        handle.direct(&id("msi"), wish.clone()).await.expect("the newer session is attached");
        let snapshot = handle.snapshot();
        let machine = snapshot.view.machine(&id("msi")).expect("attached");
        assert!(!machine.draining && machine.liveness == Liveness::Alive);
        let mut newer = newer;
        assert_eq!(newer.directives.recv().await, Some(wish));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_session_makes_its_machine_suspect_at_once_and_unreachable_for_directives() {
        let handle = start();
        drop(handle.attach(id("msi"), "boot".into()).await);
        until(&handle, |s| liveness(s, "msi") == Some(Liveness::Suspect)).await;
        let wish = Directive::Load(ModelId::new("m").expect("valid").into());
        assert_eq!(handle.direct(&id("msi"), wish).await, Err(NotAttached(id("msi"))));
    }
}
