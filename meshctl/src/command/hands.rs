//! What measurements ask of one machine: reports, loads, trials, and what it is to be.

use super::model::change::{Became, Wish, bring_about};
use super::model::{STALE_FAILURE, fit};
use super::node::{machines, read};
use super::plan;
use super::status::fetch;
use crate::cli::ModelArgs;
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use mesh_core::fit::plan as fitted;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::ladder::{ModeGoal, Shortage};
use mesh_core::machine::{Engine, Replica, ReplicaState, Report, StoreRefusal, Transfer, Vitals};
use mesh_core::memory::{CacheType, Options};
use mesh_core::profile::Profile;
use mesh_core::strategy::Wish as Wanted;
use mesh_core::trial::{Event, Sample, Trial};
use mesh_core::units::human_duration;
use mesh_proto::v1::{DirectReply, DirectRequest, NodeStatus, SetNodeRequest, TrialRequest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Of one call: an agent may take 20 s to begin a trial.
const CALL: Duration = Duration::from_secs(30);
/// Of a load or an unload when `--timeout` says nothing: the largest models come from slow disks.
const LOAD: Duration = Duration::from_secs(1800);
/// What a trial may be silent beyond its requests' patience.
const GRACE: Duration = Duration::from_secs(60);

/// How long a machine may tell no new reading: it tells one every ten seconds, and it is on its way for a while.
const READ_WITHIN: Duration = Duration::from_secs(Vitals::AS_OF_STEP + 2);

/// How long the router's status may take to show what was wished.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a model is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    pub(super) context: Option<u32>,
    pub(super) slots: Option<u32>,
    pub(super) cache: Option<&'static str>,
}

/// A model in the machine's memory, and how it is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loaded {
    pub(super) model: ModelId,
    pub(super) context: Option<u32>,
    pub(super) slots: Option<u32>,
    pub(super) cache: Option<CacheType>,
    pub(super) can_size: bool,
    /// Its engine can be told to let it go.
    pub(super) can_leave: bool,
    /// Its chat template knows tools; `None` = the engine does not tell.
    pub(super) calls_tools: Option<bool>,
}

impl Loaded {
    /// As it is loaded, where that can be chosen.
    pub(super) fn size(&self) -> Size {
        let cache = self.cache.map(|cache| cache.word());
        let size = Size { context: self.context, slots: self.slots, cache };
        if self.can_size { size } else { Size::default() }
    }
}

/// What the machine wrote down of itself.
pub(super) fn profile(report: &Report) -> Profile {
    let read = |json: &str| serde_json::from_str(json).ok();
    report.profile.as_deref().and_then(read).unwrap_or_default()
}

/// How far a file is that is fetched, or how that ended.
pub(super) fn transfer<'a>(report: &'a Report, model: &ModelId) -> Option<&'a Transfer> {
    report.store.as_ref()?.transfers.iter().find(|transfer| transfer.model == *model)
}

/// Whether a model's file is on the machine's disk.
pub(super) fn is_stored(report: &Report, model: &ModelId) -> bool {
    report.store.iter().flat_map(|store| &store.models).any(|stored| stored.model == *model)
}

/// Refusals to fetch a model that are not among `old`.
pub(super) fn not_fetched<'a>(
    report: &'a Report,
    model: &ModelId,
    old: &[StoreRefusal],
) -> Option<&'a StoreRefusal> {
    let mut refusals = report.store.iter().flat_map(|store| &store.refusals);
    refusals.find(|refusal| {
        refusal.model == *model && refusal.reason.starts_with("not fetched") && !old.contains(refusal)
    })
}

/// What an agent starts again by itself after a pause: its engine ended.
pub(super) fn restarting(report: &Report) -> Vec<Loaded> {
    let is_down = |engine: &&Engine| engine.supervised && engine.is_down();
    let engines = report.engines.iter().flatten().filter(is_down);
    engines.flat_map(|engine| sized(engine, |state| matches!(state, ReplicaState::Failed(_)))).collect()
}

/// Models that could not be loaded or whose engine ended, and why.
fn failed_of<'a>(
    engines: impl Iterator<Item = &'a Engine>,
) -> impl Iterator<Item = (&'a ModelId, &'a String)> {
    engines.flat_map(|engine| &engine.replicas).filter_map(|replica| match &replica.state {
        ReplicaState::Failed(why) => Some((&replica.model, why)),
        ReplicaState::Available | ReplicaState::Loading | ReplicaState::Loaded => None,
    })
}

/// What is in memory, or on its way there.
pub(super) fn loaded(report: &Report) -> Vec<Loaded> {
    let is_there = |state: &ReplicaState| matches!(state, ReplicaState::Loaded | ReplicaState::Loading);
    let engines = report.engines.iter().flatten();
    engines.flat_map(|engine| sized(engine, is_there)).collect()
}

/// Models of an engine that are so, with their sizes.
fn sized(engine: &Engine, is_so: impl Fn(&ReplicaState) -> bool) -> Vec<Loaded> {
    let here = engine.replicas.iter().filter(|replica| is_so(&replica.state));
    let (can_size, can_leave) = (engine.capabilities.can_size, engine.capabilities.can_unload);
    let of = |replica: &Replica| Loaded {
        model: replica.model.clone(),
        context: replica.context,
        slots: replica.slots,
        cache: replica.cache_type,
        can_size,
        can_leave,
        calls_tools: replica.abilities.tools,
    };
    here.map(of).collect()
}

/// One machine, by way of its router.
pub(super) struct Hands {
    operators: Operators,
    pub(super) node: MachineId,
    patience: Duration,
    /// Models whose engine goes on saying that they failed, also after they were unloaded.
    unforgiven: BTreeSet<ModelId>,
}

impl Hands {
    pub(super) async fn of(node: &MachineId, way: &Way) -> Result<Self, Failure> {
        let operators = Way { timeout: Some(CALL), ..way.clone() }.dial().await?;
        Ok(Self {
            operators,
            node: node.clone(),
            patience: way.timeout.unwrap_or(LOAD),
            unforgiven: BTreeSet::new(),
        })
    }

    /// What the machine says of itself.
    pub(super) async fn report(&mut self) -> Result<Report, Failure> {
        match machines(&mut self.operators, self.node.as_str()).await?.first() {
            Some(machine) => read(machine),
            None => Err(Failure::new(Kind::NotFound, format!("no node named `{}`", self.node))),
        }
    }

    /// The machine now.
    pub(super) async fn sample(&mut self) -> Result<Sample, Failure> {
        let report = self.report().await?;
        Ok(report.vitals.map(|vitals| Sample::of(&vitals, 0.0)).unwrap_or_default())
    }

    /// The machine as it was read after now: what it reported may be older than what was just done. Unknown where it tells
    /// nothing new for longer than it may.
    pub(super) async fn sample_anew(&mut self) -> Result<Sample, Failure> {
        let (start, known) = (Instant::now(), self.report().await?.vitals);
        while start.elapsed() < READ_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.report().await?.vitals;
            if let Some(vitals) = now.filter(|vitals| known.as_ref() != Some(vitals)) {
                return Ok(Sample::of(&vitals, 0.0));
            }
        }
        Ok(Sample::default())
    }

    /// What modes that answer questions ask for.
    pub(super) async fn goals(&mut self) -> Result<Vec<ModeGoal>, Failure> {
        Ok(self.modes().await?.into_iter().map(|(goal, _)| goal).collect())
    }

    /// What modes that answer questions ask for, and the models that they name.
    pub(super) async fn modes(&mut self) -> Result<Vec<(ModeGoal, Vec<ModelId>)>, Failure> {
        let (wishes, _) = plan::wishes(&mut self.operators).await?;
        let wishes = wishes.modes.into_iter().filter(|wish| !wish.embeds);
        let mode = |wish: Wanted| {
            let goal = ModeGoal { context: Some(wish.context), ..ModeGoal::new(wish.mode, wish.target) };
            (goal, wish.models)
        };
        Ok(wishes.map(mode).collect())
    }

    /// Says what the machine is to be, and tells what it was: `open`, `cordoned`, `drained`.
    pub(super) async fn stand(&mut self, wish: &str) -> Result<String, Failure> {
        let request = SetNodeRequest { node: self.node.to_string(), wish: wish.into() };
        let reply = self.operators.call(|mut client| async move { client.set_node(request).await }).await?;
        Ok(reply.before)
    }

    /// Waits until the router's status shows that the machine is open again, but not for long: it was told.
    pub(super) async fn until_open(&mut self, wish: &str) {
        let start = Instant::now();
        while wish == "resume" && start.elapsed() < SHOWN_WITHIN {
            let Ok(status) = fetch(&mut self.operators).await else { return };
            let is_barred = |node: &NodeStatus| node.name == self.node.as_str() && !node.barred.is_empty();
            if !status.nodes.iter().any(is_barred) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes everything out of its memory that can be, and what would come back there by itself. What could not be loaded is
    /// forgiven: it must not look broken to whoever comes next.
    pub(super) async fn clear(&mut self) -> Result<(), Failure> {
        let report = self.report().await?;
        let there = loaded(&report).into_iter().filter(|one| one.can_leave).map(|one| one.model);
        let can_leave = |engine: &&Engine| engine.capabilities.can_unload;
        let failed = failed_of(report.engines.iter().flatten().filter(can_leave));
        let failed: BTreeSet<ModelId> = failed.map(|(model, _)| model.clone()).collect();
        for model in there.collect::<BTreeSet<ModelId>>() {
            self.unload(&model).await?;
        }
        self.forgive(failed).await
    }

    /// Unloads what failed, so that it is not started again and looks broken to nobody. Engines that do not forgive are waited
    /// for once, and for all of their models together.
    async fn forgive(&mut self, failed: BTreeSet<ModelId>) -> Result<(), Failure> {
        for model in &failed {
            let request = self.request("unload", model);
            self.direct(request).await?;
        }
        let mut waited: BTreeSet<ModelId> = failed.difference(&self.unforgiven).cloned().collect();
        let start = Instant::now();
        while !waited.is_empty() && start.elapsed() < STALE_FAILURE {
            tokio::time::sleep(LOOK_EVERY).await;
            let report = self.report().await?;
            let still: BTreeSet<&ModelId> =
                failed_of(report.engines.iter().flatten()).map(|(model, _)| model).collect();
            waited.retain(|model| still.contains(model));
        }
        self.unforgiven.extend(waited);
        Ok(())
    }

    /// Why the model is not in memory any more, in its machine's words; `None` = it is, or nobody knows.
    pub(super) async fn why_gone(&mut self, model: &ModelId) -> Option<String> {
        let report = self.report().await.ok()?;
        let mut failed = failed_of(report.engines.iter().flatten());
        failed.find(|(one, _)| *one == model).map(|(_, why)| why.clone())
    }

    /// Has a model loaded again that was on its way when it was told to go; nobody waits for it.
    pub(super) async fn start_again(&mut self, one: &Loaded) -> Result<(), Failure> {
        let request = self.loading(&one.model, one.size());
        self.direct(request).await
    }

    /// # Errors
    /// `DoesNotFit` with the machine's words, and all that keeps a model from being loaded.
    pub(super) async fn load(&mut self, model: &ModelId, size: Size) -> Result<Option<Duration>, Failure> {
        let wish = Wish::Load { context: size.context, slots: size.slots, cache: size.cache.is_some() };
        let request = self.loading(model, size);
        self.change(wish, model, request).await
    }

    fn loading(&self, model: &ModelId, size: Size) -> DirectRequest {
        DirectRequest {
            context: size.context,
            slots: size.slots,
            cache_type: size.cache.unwrap_or_default().into(),
            ..self.request("load", model)
        }
    }

    pub(super) async fn unload(&mut self, model: &ModelId) -> Result<(), Failure> {
        let request = self.request("unload", model);
        self.change(Wish::Unload, model, request).await.map(|_| ())
    }

    /// Has a file fetched; its report tells how far it is.
    pub(super) async fn fetch(&mut self, model: &ModelId, url: &str) -> Result<(), Failure> {
        let request = DirectRequest { url: url.into(), ..self.request("pull", model) };
        self.direct(request).await
    }

    /// Has a file no longer fetched (`cancel`) or no longer there (`delete`).
    pub(super) async fn forget(&mut self, action: &str, model: &ModelId) -> Result<(), Failure> {
        let request = self.request(action, model);
        self.direct(request).await
    }

    async fn direct(&mut self, request: DirectRequest) -> Result<(), Failure> {
        let sent = self.operators.call(|mut client| async move { client.direct(request).await }).await;
        sent.map(|_: DirectReply| ())
    }

    /// How long it took; `None` = it was so.
    async fn change(
        &mut self,
        wish: Wish,
        model: &ModelId,
        request: DirectRequest,
    ) -> Result<Option<Duration>, Failure> {
        let args = ModelArgs { model: model.clone(), node: self.node.clone(), no_wait: false };
        match bring_about(&mut self.operators, wish, &args, request, self.patience).await? {
            Became::After(took) => Ok(Some(took)),
            Became::WasSo | Became::Sent => Ok(None),
        }
    }

    fn request(&self, action: &str, model: &ModelId) -> DirectRequest {
        DirectRequest {
            node: self.node.to_string(),
            action: action.into(),
            model: model.to_string(),
            ..DirectRequest::default()
        }
    }

    /// How the model is loaded now.
    pub(super) async fn loaded(&mut self, model: &ModelId) -> Result<Option<Loaded>, Failure> {
        Ok(loaded(&self.report().await?).into_iter().find(|one| one.model == *model))
    }

    /// What is missing to load a model into the memory as it is, for one request of so many tokens at a time; `None` where that
    /// cannot be told, as of models that only an engine keeps.
    pub(super) async fn shortage(&mut self, model: &ModelId, context: Option<u32>) -> Option<Shortage> {
        let shape = fit::shape_of(model, &mut self.operators).await.ok()?;
        let report = self.report().await.ok()?;
        let trained = shape.trained_context.and_then(|tokens| u32::try_from(tokens).ok());
        let options = Options::launched(u64::from(context.or(trained)?), 1);
        let (choice, _) = fitted(&shape, &options, false, &fit::pools(&report)?, fit::margin(&report));
        let (vram, ram) = (choice.fit.device.missing(), choice.fit.host.missing());
        (vram.0 > 0 || ram.0 > 0).then_some(Shortage { vram, ram, ..Shortage::default() })
    }

    /// Tries, and hands on each thing that the machine tells. Dropping it ends the trial on the machine.
    ///
    /// # Errors
    /// Why it did not begin, or broke.
    pub(super) async fn trial(&mut self, trial: &Trial, mut told: impl FnMut(Event)) -> Result<(), Failure> {
        let broke = |why: String| {
            Failure::new(Kind::Failed, format!("the trial of {} broke", trial.model)).cause(why)
        };
        let trial_json = serde_json::to_string(trial).map_err(|error| broke(error.to_string()))?;
        let request = TrialRequest { node: self.node.to_string(), trial_json };
        let mut lines = self.operators.call(|mut client| async move { client.trial(request).await }).await?;
        let silence = Duration::from_secs(trial.patience_s.into()) + GRACE;
        loop {
            let line = tokio::time::timeout(silence, lines.message()).await;
            let line = line.map_err(|_| broke(format!("nothing came for {}", human_duration(silence))))?;
            let Some(line) = line.map_err(|status| self.operators.meaning(&status))? else {
                return Err(broke("the machine stopped telling".into()));
            };
            match serde_json::from_str(&line.event_json) {
                Ok(Event::Failed(why)) => return Err(broke(why)),
                Ok(event @ Event::Ended(_)) => {
                    told(event);
                    return Ok(());
                }
                Ok(event) => told(event),
                Err(error) => {
                    return Err(broke(format!("what the machine tells is not understood: {error}")));
                }
            }
        }
    }
}
