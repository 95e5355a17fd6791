//! The pass over all replicas of the models that may answer: who can serve, at which cost, and who cannot.

use super::best::{Best, Rivals, Scored};
use super::cost::{self, Cost, Line};
use super::load::{Load, Track, Walk};
use super::{LISTED, Needs, Policy, Rejection, Request, Slo, Why};
use crate::fleet::{Doubt, FleetView, Floor, MachineView, ReplicaKey, Serving, Servings, Sure};
use crate::health::Liveness;
use crate::id::ModelId;
use crate::machine::{EngineState, ReplicaHealth, ReplicaState, ThermalState};
use crate::mode::Purpose;
use crate::prefix::{CacheId, Held};
use crate::units::Moment;

/// A prompt is counted by its bytes. Over so many times the context even a count that is half too high does not fit.
const SURELY_LONG: f64 = 1.5;

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
    /// What each cache is believed to hold of the prompt, sorted by cache.
    held: Vec<Held>,
    /// A time is asked for, and the policy knows times.
    has_target: bool,
    /// What the request asks of a replica.
    asked: Sure,
}

/// What was found.
pub(super) struct Found<'a> {
    pub(super) best: Best<'a>,
    /// All that can serve, where a policy compares them only when it has seen all; else none.
    pub(super) unranked: Vec<Scored<'a>>,
    /// How many can serve.
    pub(super) feasible: usize,
    pub(super) rivals: Rivals,
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
        let held = if request.policy.reads_prefixes() { load.held(request.prefix, now) } else { Vec::new() };
        let has_target = request.policy == Policy::Seconds && request.slo != Slo::default();
        let Needs { tools, vision, fim } = request.needs;
        let (chat, embed) = (request.purpose == Purpose::Chat, request.purpose == Purpose::Embed);
        let asked = Sure::new(chat, embed, tools, vision, fim);
        Self { view, load, request, now, dice, models, answers, held, has_target, asked }
    }

    pub(super) fn run(&self) -> Found<'a> {
        let known = self.models.iter().flatten().map(|servings| servings.list.len()).sum();
        let weighs = self.request.policy.weighs();
        let mut found = Found {
            best: Best::of(known),
            unranked: Vec::with_capacity(if weighs { 0 } else { known }),
            feasible: 0,
            rivals: Rivals::default(),
            turned: Vec::new(),
            any_free: false,
        };
        for (preference, servings) in self.models.iter().enumerate() {
            let Some(servings) = *servings else { continue };
            let preference = u16::try_from(preference).unwrap_or(u16::MAX);
            let mut bar = self.bar(servings, preference);
            let (mut tracks, mut held) = (self.load.walk(), self.held.as_slice());
            let (mut at, mut passed) = (0, 0);
            loop {
                if let Some(bar) = &mut bar {
                    let over = self.passed_over(&servings.floors[at..], bar, &mut tracks, &found);
                    at += over;
                    passed += over;
                }
                let (Some(serving), Some(floor)) = (servings.list.get(at), servings.floors.get(at)) else {
                    break;
                };
                at += 1;
                let doubt = match self.admits(serving) {
                    Ok(doubt) => doubt,
                    Err(fault) => {
                        found.turned.push(Turned { machine: serving.machine, preference, fault });
                        continue;
                    }
                };
                let track = tracks.find(serving.key);
                let believed = believed(&mut held, serving.cache());
                let one = self.scored(servings, preference, (serving, floor), track, believed, doubt);
                found.any_free |= serving.told_slots.is_none_or(|slots| one.in_flight() < slots);
                found.feasible += 1;
                found.rivals.count(one.model_group(), 1, usize::from(!one.misses_target()));
                if weighs {
                    found.best.offer(one);
                } else {
                    found.unranked.push(one);
                }
            }
            found.feasible += passed;
            found.rivals.count(Scored::group(false, preference, false, false) >> 2, passed, passed);
        }
        found
    }

    /// What replicas are passed over by; `None` where each has to be looked at: for a target, to count those that meet
    /// it, for a policy that does not compare by the floors' unit, and in a list that is short anyway.
    fn bar(&self, servings: &Servings, preference: u16) -> Option<Bar> {
        if self.request.policy != Policy::Seconds || self.has_target || servings.list.len() <= LISTED {
            return None;
        }
        let context = u64::from(self.request.least_context).max(self.request.prompt_tokens);
        let context = u32::try_from(context).ok()?;
        let held = self.held.iter().map(|one| one.cache.replica);
        let mut singled: Vec<u32> =
            held.chain(self.request.tried.iter().map(|replica| replica.upper())).collect();
        // The last one first: they are taken from the end.
        singled.sort_unstable_by(|one, other| other.cmp(one));
        let group = Scored::group(false, preference, false, false);
        let (prompt, answer) = (self.uncached(0.0), self.answers[usize::from(preference)]);
        Some(Bar { context, prompt, answer, by_seconds: servings.all_measured, group, singled })
    }

    /// How many replicas at the start of `floors` can serve without a doubt and change nothing but counts, as far as
    /// their floors and their tracks tell: they are none of the best, and not the first with a free slot.
    fn passed_over(
        &self,
        floors: &[Floor],
        bar: &mut Bar,
        tracks: &mut Walk<'_>,
        found: &Found<'_>,
    ) -> usize {
        let (Some(first), Some(last)) = (floors.first(), found.best.last()) else { return 0 };
        while bar.singled.last().is_some_and(|replica| *replica < first.key.upper()) {
            bar.singled.pop();
        }
        let until = bar.singled.last().map_or(u64::MAX, |replica| u64::from(*replica) << 32);
        let (bar, any_free) = (&*bar, found.any_free);
        if bar.group < last.group {
            return 0;
        }
        let is_worse = |floor: &Floor, least: f64| {
            bar.group > last.group
                || least > last.cost
                || least == last.cost && self.roll(floor.key) >= last.roll
        };
        let mut is_passed_over = |floor: &Floor| {
            if !(floor.sure.covers(self.asked) && floor.context >= bar.context && floor.key.number() < until)
            {
                return false;
            }
            // Most need no track.
            if any_free && is_worse(floor, floor.cost(bar.prompt, bar.answer)) {
                return true;
            }
            let (Some(track), Some(slots)) = (tracks.find(floor.key), floor.slots) else { return false };
            // LMetric does not know what waits.
            let (out, unread) = (track.in_flight, if bar.by_seconds { track.unread } else { 0 });
            let line = Line { slots: u32::from(slots.get()), out, unread, evicted: 0.0 };
            (any_free || floor.is_full(out)) && is_worse(floor, line.cost(floor, bar.prompt, bar.answer))
        };
        floors.iter().position(|floor| !is_passed_over(floor)).unwrap_or(floors.len())
    }

    fn roll(&self, key: ReplicaKey) -> u32 {
        // The key is mixed already: one step is dice enough.
        let roll = (self.dice ^ key.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        u32::try_from(roll >> 32).unwrap_or(0)
    }

    fn scored(
        &self,
        servings: &Servings,
        preference: u16,
        (serving, floor): (&'a Serving, &Floor),
        track: Option<&'a Track>,
        believed: u32,
        doubt: Option<Doubt>,
    ) -> Scored<'a> {
        let mut scored = Scored {
            serving,
            track,
            group: 0,
            cost: 0.0,
            roll: self.roll(serving.key),
            cached: f64::from(believed) * track.map_or(1.0, |track| f64::from(track.trust)),
            believed,
            preference,
        };
        let by_seconds = self.by_seconds(servings);
        let uncached = self.uncached(scored.cached);
        scored.cost = match &serving.rates {
            Some(_) if by_seconds => {
                let answer = self.answers[usize::from(preference)];
                cost::total(serving, floor, track, uncached, answer, self.now)
            }
            // Those with a doubt may be unmeasured where all others are not.
            None if by_seconds => f64::MAX,
            // Heat makes each request look longer: of two idle machines the cooler one comes first.
            _ => uncached * (f64::from(scored.in_flight()) + 1.0) * f64::from(serving.heat),
        };
        let slo = &self.request.slo;
        // Of an unmeasured replica nobody can say that it misses anything.
        let misses = self.has_target
            && self.cost(&scored).is_some_and(|cost| {
                slo.ttft_s.is_some_and(|target| cost.ttft_s() > target)
                    || slo.tpot_s.is_some_and(|target| cost.token_s() > target)
            });
        // One request at a time goes to a replica of unknown speed while there are others: it may be very slow.
        let awaits = self.request.policy == Policy::Seconds
            && serving.rates.is_none()
            && scored.in_flight() > 0
            && servings.any_measured;
        scored.group = Scored::group(doubt.is_some(), preference, misses, awaits);
        scored
    }

    pub(super) fn by_seconds(&self, servings: &Servings) -> bool {
        self.request.policy == Policy::Seconds && servings.all_measured
    }

    pub(super) fn cost(&self, scored: &Scored<'_>) -> Option<Cost> {
        let answer = self.answers[usize::from(scored.preference)];
        let (serving, rates) = (scored.serving, scored.serving.rates.as_ref()?);
        Some(Cost::of(serving, rates, scored.track, self.uncached(scored.cached), answer, self.now))
    }

    fn uncached(&self, cached: f64) -> f64 {
        (self.request.prompt_tokens as f64 - cached).max(1.0)
    }

    pub(super) fn servings(&self, scored: &Scored<'_>) -> &'a Servings {
        self.models[usize::from(scored.preference)].expect("it was found in this list")
    }

    pub(super) fn machine(&self, scored: &Scored<'_>) -> &'a MachineView {
        &self.view.machines[scored.serving.machine as usize]
    }

    /// The model, and the mode it comes from.
    pub(super) fn model(&self, scored: &Scored<'_>) -> (&'a ModelId, Option<&'a crate::id::ModeName>) {
        self.request.models[usize::from(scored.preference)]
    }

    /// The replica `key` of the same model as `like`, if it can serve.
    pub(super) fn found(&self, like: &Scored<'_>, key: ReplicaKey) -> Option<Scored<'a>> {
        let servings = self.servings(like);
        let at = servings.list.binary_search_by_key(&key, |serving| serving.key).ok()?;
        let (serving, floor) = (&servings.list[at], &servings.floors[at]);
        let doubt = self.admits(serving).ok()?;
        let believed = believed(&mut self.held.as_slice(), serving.cache());
        Some(self.scored(servings, like.preference, (serving, floor), self.load.find(key), believed, doubt))
    }

    /// Why a replica that can serve is asked only when nobody else can, if so.
    pub(super) fn doubt(&self, scored: &Scored<'_>) -> Option<&'static str> {
        self.admits(scored.serving).unwrap_or(None).map(Doubt::text)
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
        if serving.sure.covers(self.asked) && serving.context.is_none_or(fits) {
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
            let mut lacks = vec![true; self.view.machines.len()];
            for serving in self.models.iter().flatten().flat_map(|servings| &servings.list) {
                lacks[serving.machine as usize] = false;
            }
            for (at, machine) in self.view.machines.iter().enumerate() {
                if lacks[at] {
                    let at = u32::try_from(at).unwrap_or(u32::MAX);
                    let why = machine_is_out(machine, self.now).unwrap_or(Why::LacksModel);
                    reasons.push((at, Rejection { machine: machine.id.clone(), model: None, why }));
                }
            }
            reasons.sort_by_key(|(at, _)| *at);
        }
        reasons.into_iter().map(|(_, rejection)| rejection).take(limit).collect()
    }
}

/// What replicas of one model are passed over by.
struct Bar {
    /// Tokens that the request needs room for.
    context: u32,
    /// Tokens of its prompt.
    prompt: f64,
    /// Tokens of its answer.
    answer: f64,
    /// Costs are seconds.
    by_seconds: bool,
    /// The first group that a replica without a doubt may be in.
    group: u32,
    /// The upper halves of the keys of replicas that their floors do not tell of: what a cache holds takes off, and
    /// what was tried cannot serve. The last of them first.
    singled: Vec<u32>,
}

/// Tokens that `cache` holds. Caches are asked for in their order: `held` is left at this one.
fn believed(held: &mut &[Held], cache: CacheId) -> u32 {
    while held.first().is_some_and(|one| one.cache < cache) {
        *held = &held[1..];
    }
    held.first().filter(|one| one.cache == cache).map_or(0, |one| one.tokens)
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
        EngineState::Down(why) => {
            return Why::EngineDown { why: why.clone(), supervised: engine.supervised };
        }
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

#[cfg(test)]
mod tests;
