//! The pass over all replicas of the models that may answer: who can serve, at which cost, and who cannot.

use super::cost::{self, Cost};
use super::load::{Load, Track};
use super::{Needs, Policy, Rejection, Request, Slo, Why};
use crate::fleet::{Doubt, FleetView, MachineView, ReplicaKey, Serving, Servings};
use crate::health::Liveness;
use crate::id::ModelId;
use crate::machine::{EngineState, ReplicaHealth, ReplicaState, ThermalState};
use crate::mode::Purpose;
use crate::units::Moment;
use std::collections::BTreeSet;

/// A prompt is counted by its bytes. Over so many times the context even a count that is half too high does not fit.
const SURELY_LONG: f64 = 1.5;

/// A replica that can serve. Lower groups come first, whatever the cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scored {
    pub(super) group: u32,
    pub(super) cost: f64,
    /// Breaks ties.
    pub(super) roll: u32,
    pub(super) in_flight: u32,
    /// Tokens of the prompt that its cache holds.
    pub(super) cached: f64,
    /// The same before experience takes off.
    believed: u32,
    preference: u16,
    at: u32,
}

impl Scored {
    /// Doubted, which model, and within it: misses the target, awaits its first answer.
    fn group(is_doubted: bool, preference: u16, misses: bool, awaits: bool) -> u32 {
        u32::from(is_doubted) << 31 | u32::from(preference) << 2 | u32::from(misses) << 1 | u32::from(awaits)
    }

    /// The same without what stands within one model.
    pub(super) fn model_group(self) -> u32 {
        self.group >> 2
    }

    pub(super) fn misses_target(self) -> bool {
        self.group & 2 != 0
    }

    pub(super) fn awaits_first_answer(self) -> bool {
        self.group & 1 != 0
    }

    pub(super) fn is_doubted(self) -> bool {
        self.group >> 31 != 0
    }

    pub(super) fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.group
            .cmp(&other.group)
            .then_with(|| self.cost.total_cmp(&other.cost))
            .then_with(|| self.roll.cmp(&other.roll))
    }
}

/// A replica that cannot serve.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turned {
    machine: u32,
    preference: u16,
    fault: Fault,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It takes no requests: why is read from the view when somebody wants to know.
    Closed,
    Cannot(&'static str),
    Context(u32, u32),
    Tried,
}

/// What a decision is made from.
pub(super) struct Scan<'a> {
    pub(super) view: &'a FleetView,
    pub(super) load: &'a Load,
    pub(super) request: &'a Request<'a>,
    pub(super) now: Moment,
    pub(super) dice: u64,
    /// By preference; `None` = no machine has it.
    models: Vec<Option<&'a Servings>>,
    answers: Vec<f64>,
    /// A time is asked for, and the policy knows times.
    has_target: bool,
    /// Any model that chats will do.
    is_plain: bool,
}

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) feasible: Vec<Scored>,
    pub(super) turned: Vec<Turned>,
    /// One that can serve has a free slot, or tells of no slots.
    pub(super) any_free: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        view: &'a FleetView,
        load: &'a Load,
        request: &'a Request<'a>,
        now: Moment,
        dice: u64,
    ) -> Self {
        let models: Vec<_> = request.models.iter().map(|(model, _)| view.servings(model)).collect();
        let tokens = |servings: &Option<&Servings>| servings.map_or(0.0, |s| s.answer_tokens(request.mode));
        let answers = models.iter().map(tokens).collect();
        let has_target = request.policy == Policy::Seconds && request.slo != Slo::default();
        let is_plain = request.purpose == Purpose::Chat && request.needs == Needs::default();
        Self { view, load, request, now, dice, models, answers, has_target, is_plain }
    }

    pub(super) fn run(&self) -> Found {
        let known = self.models.iter().flatten().map(|servings| servings.list.len()).sum();
        let mut found = Found { feasible: Vec::with_capacity(known), ..Found::default() };
        let held = if self.request.policy.reads_prefixes() {
            self.load.held(self.request.prefix, self.now)
        } else {
            Vec::new()
        };
        for (preference, servings) in self.models.iter().enumerate() {
            let Some(servings) = servings else { continue };
            let preference = u16::try_from(preference).unwrap_or(u16::MAX);
            let (mut tracks, mut held) = (self.load.walk(), held.as_slice());
            for (at, serving) in servings.list.iter().enumerate() {
                let doubt = match self.admits(serving) {
                    Ok(doubt) => doubt,
                    Err(fault) => {
                        found.turned.push(Turned { machine: serving.machine, preference, fault });
                        continue;
                    }
                };
                let track = tracks.find(serving.key);
                let cache = serving.cache();
                while held.first().is_some_and(|one| one.cache < cache) {
                    held = &held[1..];
                }
                let believed = held.first().filter(|one| one.cache == cache).map_or(0, |one| one.tokens);
                let in_flight = track.map_or(0, |track| track.in_flight);
                found.any_free |= serving.told_slots.is_none_or(|slots| in_flight < slots);
                // The key is mixed already: one step is dice enough.
                let roll = (self.dice ^ serving.key.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mut scored = Scored {
                    group: 0,
                    cost: 0.0,
                    roll: u32::try_from(roll >> 32).unwrap_or(0),
                    in_flight,
                    cached: f64::from(believed) * track.map_or(1.0, |track| f64::from(track.trust)),
                    believed,
                    preference,
                    at: u32::try_from(at).unwrap_or(u32::MAX),
                };
                let (misses, awaits) = self.weigh(&mut scored, servings, serving, track);
                scored.group = Scored::group(doubt.is_some(), preference, misses, awaits);
                found.feasible.push(scored);
            }
        }
        found
    }

    /// Sets the cost in seconds or by LMetric. Returns whether the target is missed, and whether the first answer of
    /// an unmeasured replica is awaited.
    fn weigh(
        &self,
        scored: &mut Scored,
        servings: &Servings,
        serving: &Serving,
        track: Option<&Track>,
    ) -> (bool, bool) {
        let by_seconds = self.by_seconds(servings);
        scored.cost = match &serving.rates {
            Some(rates) if by_seconds => {
                let answer = self.answers[usize::from(scored.preference)];
                cost::total(serving, rates, track, self.uncached(scored), answer, self.now)
            }
            // Those with a doubt may be unmeasured where all others are not.
            None if by_seconds => f64::MAX,
            // Heat makes each request look longer: of two idle machines the cooler one comes first.
            _ => self.uncached(scored) * (f64::from(scored.in_flight) + 1.0) * f64::from(serving.heat),
        };
        let slo = &self.request.slo;
        // Of an unmeasured replica nobody can say that it misses anything.
        let misses = self.has_target
            && self.cost(scored, serving, track).is_some_and(|cost| {
                slo.ttft_s.is_some_and(|target| cost.ttft_s() > target)
                    || slo.tpot_s.is_some_and(|target| cost.token_s() > target)
            });
        // One request at a time goes to a replica of unknown speed while there are others: it may be very slow.
        let awaits = self.request.policy == Policy::Seconds
            && serving.rates.is_none()
            && scored.in_flight > 0
            && servings.list.iter().any(|other| other.rates.is_some());
        (misses, awaits)
    }

    pub(super) fn by_seconds(&self, servings: &Servings) -> bool {
        self.request.policy == Policy::Seconds && servings.all_measured
    }

    pub(super) fn cost(&self, scored: &Scored, serving: &Serving, track: Option<&Track>) -> Option<Cost> {
        let answer = self.answers[usize::from(scored.preference)];
        let rates = serving.rates.as_ref()?;
        Some(Cost::of(serving, rates, track, self.uncached(scored), answer, self.now))
    }

    pub(super) fn uncached(&self, scored: &Scored) -> f64 {
        (self.request.prompt_tokens as f64 - scored.cached).max(1.0)
    }

    pub(super) fn servings(&self, scored: &Scored) -> &'a Servings {
        self.models[usize::from(scored.preference)].expect("it was found in this list")
    }

    pub(super) fn serving(&self, scored: &Scored) -> &'a Serving {
        &self.servings(scored).list[scored.at as usize]
    }

    pub(super) fn machine(&self, scored: &Scored) -> &'a MachineView {
        &self.view.machines[self.serving(scored).machine as usize]
    }

    /// The model, and the mode it comes from.
    pub(super) fn model(&self, scored: &Scored) -> (&'a ModelId, Option<&'a crate::id::ModeName>) {
        self.request.models[usize::from(scored.preference)]
    }

    pub(super) fn key(&self, scored: &Scored) -> ReplicaKey {
        self.serving(scored).key
    }

    pub(super) fn believed(&self, scored: &Scored) -> u64 {
        u64::from(scored.believed)
    }

    pub(super) fn track(&self, scored: &Scored) -> Option<&'a Track> {
        self.load.walk().find(self.key(scored))
    }

    /// The replica `key` of the same model as `like`, if it can serve.
    pub(super) fn found<'b>(
        &self,
        feasible: &'b [Scored],
        like: &Scored,
        key: ReplicaKey,
    ) -> Option<&'b Scored> {
        // They were found in this order.
        let at = self.servings(like).list.binary_search_by_key(&key, |serving| serving.key).ok()?;
        let place = (like.preference, u32::try_from(at).unwrap_or(u32::MAX));
        let at = feasible.binary_search_by_key(&place, |one| (one.preference, one.at)).ok()?;
        feasible.get(at)
    }

    /// Uncached prompt tokens that wait there, and prompt tokens of all requests there.
    pub(super) fn tokens_there(&self, scored: &Scored) -> (f64, f64) {
        self.track(scored).map_or((0.0, 0.0), |track| (f64::from(track.unread), f64::from(track.active)))
    }

    /// Tokens that its cache was given.
    pub(super) fn written(&self, scored: &Scored) -> f64 {
        self.track(scored).map_or(0.0, |track| track.written as f64)
    }

    /// Why a replica that can serve is asked only when nobody else can, if so.
    pub(super) fn doubt(&self, scored: &Scored) -> Option<&'static str> {
        self.admits(self.serving(scored)).unwrap_or(None).map(Doubt::text)
    }

    fn admits(&self, serving: &Serving) -> Result<Option<Doubt>, Fault> {
        if !serving.is_open {
            return Err(Fault::Closed);
        }
        if self.request.tried.contains(&serving.key) {
            return Err(Fault::Tried);
        }
        let fits = |context: u32| {
            context >= self.request.least_context && u64::from(context) >= self.request.prompt_tokens
        };
        if self.is_plain && serving.is_plain && serving.context.is_none_or(fits) {
            return Ok(None);
        }
        let (able, needs) = (&serving.abilities, &self.request.needs);
        let lacks = |needed: bool, ability: Option<bool>| needed && ability == Some(false);
        let fault = if lacks(self.request.purpose == Purpose::Chat, able.chat) {
            Some("chat")
        } else if lacks(self.request.purpose == Purpose::Embed, able.embed) {
            Some("make embeddings")
        } else if lacks(needs.tools, able.tools) && !serving.makes_tools {
            Some("call tools")
        } else if lacks(needs.vision, able.vision) {
            Some("read images")
        } else if lacks(needs.fim, able.fim) {
            Some("fill in the middle")
        } else {
            None
        };
        if let Some(what) = fault {
            return Err(Fault::Cannot(what));
        }
        let long = |context: u32| self.request.prompt_tokens as f64 > SURELY_LONG * f64::from(context);
        match serving.context {
            Some(context) if context < self.request.least_context => {
                Err(Fault::Context(self.request.least_context, context))
            }
            _ if serving.doubt.is_some() => Ok(serving.doubt),
            _ if lacks(needs.tools, able.tools) => Ok(Some(Doubt::NoTools)),
            Some(context) if !needs.vision && long(context) => Ok(Some(Doubt::Short)),
            _ => Ok(None),
        }
    }

    /// The reasons of those that cannot serve, machine by machine, and of machines that have none of the models. Of
    /// large meshes no more than `limit`, and not of machines that have nothing to do with the request.
    pub(super) fn reasons(&self, mut turned: Vec<Turned>, limit: usize) -> Vec<Rejection> {
        turned.sort_by_key(|turned| (turned.machine, turned.preference));
        let mut reasons: Vec<(u32, Rejection)> = Vec::new();
        for one in turned {
            if reasons.len() >= limit {
                break;
            }
            let machine = &self.view.machines[one.machine as usize];
            let model = self.request.models[usize::from(one.preference)].0;
            let (model, why) = match one.fault {
                Fault::Cannot(what) => (Some(model), Why::Cannot(what)),
                Fault::Context(needs, has) => (Some(model), Why::ContextTooSmall(needs, has)),
                Fault::Tried => (Some(model), Why::Tried),
                Fault::Closed => match machine_is_out(machine, self.now) {
                    // Said once for all its models.
                    Some(_)
                        if reasons
                            .last()
                            .is_some_and(|(at, last)| *at == one.machine && last.model.is_none()) =>
                    {
                        continue;
                    }
                    Some(why) => (None, why),
                    None => (Some(model), why_closed(machine, model)),
                },
            };
            reasons
                .push((one.machine, Rejection { machine: machine.id.clone(), model: model.cloned(), why }));
        }
        if self.view.machines.len() <= limit {
            let lists = self.models.iter().flatten();
            let have: BTreeSet<u32> = lists.flat_map(|s| &s.list).map(|serving| serving.machine).collect();
            for (at, machine) in self.view.machines.iter().enumerate() {
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                if !have.contains(&at) {
                    let why = machine_is_out(machine, self.now).unwrap_or(Why::LacksModel);
                    reasons.push((at, Rejection { machine: machine.id.clone(), model: None, why }));
                }
            }
            reasons.sort_by_key(|(at, _)| *at);
        }
        reasons.into_iter().map(|(_, rejection)| rejection).take(limit).collect()
    }
}

fn machine_is_out(machine: &MachineView, now: Moment) -> Option<Why> {
    if machine.liveness == Liveness::Offline {
        return Some(Why::Offline(now.since(machine.last_heard)));
    }
    if machine.draining {
        return Some(Why::Draining);
    }
    if machine.path.is_none() {
        return Some(Why::NoDataPath);
    }
    // What runs there may end; firmware throttles by itself, and no running answer is cut for heat.
    machine
        .vitals
        .as_ref()
        .filter(|vitals| vitals.thermal.state == ThermalState::Hot)
        .map(|vitals| Why::Hot(vitals.thermal.why.clone()))
}

/// Why a replica on a machine that is not out takes no requests.
fn why_closed(machine: &MachineView, model: &ModelId) -> Why {
    let Some((engine, replica)) = machine.replica(model) else { return Why::LacksModel };
    match &engine.state {
        EngineState::Down(why) => return Why::EngineDown(why.clone()),
        EngineState::Starting => return Why::Loading,
        EngineState::Up => {}
    }
    match (&replica.state, &replica.health) {
        (ReplicaState::Loading, _) if !engine.kind.loads_on_demand() => Why::Loading,
        (ReplicaState::Available, _) if !engine.kind.loads_on_demand() => Why::NotLoaded,
        (ReplicaState::Failed(why), _) => Why::LoadFailed(why.clone()),
        (_, ReplicaHealth::Quarantined(why)) => Why::Quarantined(why.clone()),
        (_, ReplicaHealth::Degraded(why)) => Why::Degraded(why.clone()),
        (_, ReplicaHealth::Unchecked | ReplicaHealth::Good) => Why::NotLoaded,
    }
}
