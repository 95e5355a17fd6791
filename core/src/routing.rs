//! Which replica gets a request: a pure function from a snapshot, the counts in flight and dice to a ranked
//! list with reasons, or a refusal with every machine's reason.
//!
//! This is the first version of the design: feasible → healthy before suspect → the mode's order of models →
//! least predicted seconds where every speed is known, else least in flight for its slots.

use crate::fleet::{FleetView, MachineView};
use crate::health::Liveness;
use crate::id::{MachineId, ModeName, ModelId};
use crate::machine::{EngineState, ReplicaHealth, ReplicaState, ThermalState};
use crate::mode::Purpose;
use crate::units::human_duration;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Requests this router has running, by replica.
pub type Load = BTreeMap<(MachineId, ModelId), u32>;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Models that may answer, best first, with the mode each comes from (`None` = asked for by name).
    pub models: Vec<(&'a ModelId, Option<&'a ModeName>)>,
    /// Chat or embeddings.
    pub purpose: Purpose,
    /// A rough count of the prompt's tokens.
    pub prompt_tokens: u64,
    /// The mode that was asked for; `None` = a model by its name.
    pub mode: Option<&'a ModeName>,
    /// Slots with less context than this are useless: the engine has said so for an earlier attempt.
    pub least_context: u32,
}

/// One term of a cost, in seconds, as `explain` shows it.
pub type Term = (&'static str, f64);

/// A replica that can serve.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// On which machine.
    pub machine: MachineId,
    /// Which model.
    pub model: ModelId,
    /// Requests it already has from this router.
    pub in_flight: u32,
    /// Requests it serves at once, where known.
    pub slots: Option<u32>,
    /// Tokens one request may hold, where known.
    pub context: Option<u32>,
    /// Predicted seconds to the end of the answer, where all speeds are known.
    pub predicted_s: Option<f64>,
    /// What the prediction is made of.
    pub terms: Vec<Term>,
    /// Why it stands where it stands.
    pub why: Why,
}

/// The reason of a choice or of a rejection. Its text is what `explain`, the response header and the logs show.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// Nobody else can serve.
    OnlyCandidate,
    /// The model that the mode puts first; others could serve too.
    FirstChoice,
    /// The least predicted seconds of several.
    LeastSeconds {
        /// Its prediction.
        predicted_s: f64,
        /// How many could serve.
        of: usize,
    },
    /// The fewest requests in flight of several.
    LeastInFlight {
        /// Its count.
        in_flight: u32,
        /// How many could serve.
        of: usize,
    },
    /// Those before it in the ranking have no free slot.
    FreeSlot,
    /// Comes after a better one.
    Behind(&'static str),
    /// Chosen although suspect: nobody healthy is left.
    LastResort(&'static str),
    /// The mode's own models cannot serve.
    Fallback(ModeName),
    /// Silent for this long.
    Offline(Duration),
    /// Its control stream is there, but requests cannot reach it.
    NoDataPath,
    /// Leaving.
    Draining,
    /// Has none of the models.
    LacksModel,
    /// Has it on disk only.
    NotLoaded,
    /// Is loading it.
    Loading,
    /// Could not load it.
    LoadFailed(String),
    /// The engine does not answer.
    EngineDown(String),
    /// Its answers are empty or gibberish.
    Quarantined(String),
    /// It is far slower than it should be: it fell back to the CPU.
    Degraded(String),
    /// The machine is at its thermal limit.
    Hot(String),
    /// The model does not do this.
    Cannot(&'static str),
    /// The context is too small: needed, there.
    ContextTooSmall(u32, u32),
}

impl fmt::Display for Why {
    /// ASCII only: it becomes a header.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyCandidate => write!(out, "only candidate"),
            Self::FirstChoice => write!(out, "the mode's first choice that can serve"),
            Self::LeastSeconds { predicted_s, of } => {
                write!(out, "least predicted time, {predicted_s:.2} s, of {of}")
            }
            Self::LeastInFlight { in_flight, of } => write!(out, "least in flight, {in_flight}, of {of}"),
            Self::FreeSlot => write!(out, "the best one with a free slot"),
            Self::Behind(what) => write!(out, "behind: {what}"),
            Self::LastResort(what) => write!(out, "last resort: {what}"),
            Self::Fallback(mode) => write!(out, "fallback to mode {mode}"),
            Self::Offline(silence) => write!(out, "offline, last heard {} ago", human_duration(*silence)),
            Self::NoDataPath => write!(out, "no data link (UDP blocked, or still connecting)"),
            Self::Draining => write!(out, "draining"),
            Self::LacksModel => write!(out, "has none of the models"),
            Self::NotLoaded => write!(out, "not loaded"),
            Self::Loading => write!(out, "still loading"),
            Self::LoadFailed(why) => write!(out, "could not be loaded: {}", ascii(why)),
            Self::EngineDown(why) => write!(out, "engine down: {}", ascii(why)),
            Self::Quarantined(why) => write!(out, "quarantined: {}", ascii(why)),
            Self::Degraded(why) => write!(out, "degraded: {}", ascii(why)),
            Self::Hot(why) => write!(out, "too hot: {}", ascii(why)),
            Self::Cannot(what) => write!(out, "cannot {what}"),
            Self::ContextTooSmall(needs, has) => write!(out, "context too small: needs {needs}, has {has}"),
        }
    }
}

fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(200).collect()
}

/// A replica or machine that cannot serve, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// Which machine.
    pub machine: MachineId,
    /// Which model, `None` when the machine as a whole is out.
    pub model: Option<ModelId>,
    /// Why.
    pub why: Why,
}

/// Where the request goes, and where next if that fails before the first content.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Best first, never empty.
    pub ranked: Vec<Candidate>,
    /// Those that cannot serve.
    pub rejected: Vec<Rejection>,
}

/// Nobody can serve now.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Each machine's reason.
    pub rejected: Vec<Rejection>,
    /// A model is on its way into memory: waiting helps.
    pub loading: bool,
}

impl Refusal {
    /// Whether no node ever could: every one that has a model says that it does not do this.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        let mut cannot = false;
        for rejection in &self.rejected {
            if matches!(rejection.why, Why::Cannot(_)) {
                cannot = true;
            } else if rejection.why != Why::LacksModel {
                return false;
            }
        }
        cannot
    }

    /// Seconds after which asking again makes sense.
    #[must_use]
    pub fn retry_after_s(&self) -> u32 {
        if self.loading { 5 } else { 10 }
    }
}

/// Ranks the replicas that can serve `request`. `dice` breaks ties: equal candidates get their turn.
///
/// # Errors
/// A [`Refusal`] with each machine's reason when none can.
pub fn decide(
    view: &FleetView,
    load: &Load,
    request: &Request<'_>,
    now: crate::units::Moment,
    dice: u64,
) -> Result<Decision, Refusal> {
    let (mut feasible, mut rejected) = (Vec::new(), Vec::new());
    for machine in &view.machines {
        if let Some(why) = machine_is_out(machine, now) {
            rejected.push(Rejection { machine: machine.id.clone(), model: None, why });
            continue;
        }
        let mut has_any = false;
        for (preference, (model, mode)) in request.models.iter().enumerate() {
            match assess(machine, model, request, load) {
                None => {}
                Some(Ok(option)) => {
                    has_any = true;
                    feasible.push(Feasible {
                        preference,
                        mode: *mode,
                        dice: roll(dice, feasible.len()),
                        ..option
                    });
                }
                Some(Err(why)) => {
                    has_any = true;
                    let model = Some((*model).clone());
                    rejected.push(Rejection { machine: machine.id.clone(), model, why });
                }
            }
        }
        if !has_any {
            rejected.push(Rejection { machine: machine.id.clone(), model: None, why: Why::LacksModel });
        }
    }
    if feasible.is_empty() {
        let loading = rejected.iter().any(|rejection| rejection.why == Why::Loading);
        return Err(Refusal { rejected, loading });
    }
    Ok(Decision { ranked: rank(feasible, request.mode), rejected })
}

/// A feasible replica before ranking.
struct Feasible<'a> {
    candidate: Candidate,
    /// Not the first choice for its health, and why; healthy ones have none.
    doubt: Option<&'static str>,
    /// By how much heat makes it look slower: [`ThermalState::routing_factor`].
    heat: f64,
    preference: usize,
    mode: Option<&'a ModeName>,
    dice: u64,
}

fn machine_is_out(machine: &MachineView, now: crate::units::Moment) -> Option<Why> {
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

/// `None` = the machine does not have the model.
fn assess<'a>(
    machine: &MachineView,
    model: &ModelId,
    request: &Request<'a>,
    load: &Load,
) -> Option<Result<Feasible<'a>, Why>> {
    let (engine, replica) = machine.replica(model)?;
    let history = machine.history.get(model).copied().unwrap_or_default();
    let on_demand = engine.kind.loads_on_demand();
    let state = match &engine.state {
        EngineState::Down(why) => Err(Why::EngineDown(why.clone())),
        EngineState::Starting => Err(Why::Loading),
        EngineState::Up => match &replica.state {
            ReplicaState::Loaded => Ok(None),
            ReplicaState::Available | ReplicaState::Loading if on_demand => Ok(Some("not in memory yet")),
            ReplicaState::Available => Err(Why::NotLoaded),
            ReplicaState::Loading => Err(Why::Loading),
            ReplicaState::Failed(why) => Err(Why::LoadFailed(why.clone())),
        },
    };
    let cold = match state {
        Ok(cold) => cold,
        Err(why) => return Some(Err(why)),
    };
    match &replica.health {
        ReplicaHealth::Quarantined(why) => return Some(Err(Why::Quarantined(why.clone()))),
        ReplicaHealth::Degraded(why) => return Some(Err(Why::Degraded(why.clone()))),
        ReplicaHealth::Unchecked | ReplicaHealth::Good => {}
    }
    let able = match request.purpose {
        Purpose::Chat => (replica.abilities.chat != Some(false)).then_some(()).ok_or("chat"),
        Purpose::Embed => (replica.abilities.embed != Some(false)).then_some(()).ok_or("make embeddings"),
    };
    if let Err(what) = able {
        return Some(Err(Why::Cannot(what)));
    }
    if let Some(context) = replica.context
        && context < request.least_context
    {
        return Some(Err(Why::ContextTooSmall(request.least_context, context)));
    }
    let in_flight = load.get(&(machine.id.clone(), model.clone())).copied().unwrap_or(0);
    let thermal = machine.vitals.as_ref().map(|vitals| vitals.thermal.state).unwrap_or_default();
    let derated = thermal == ThermalState::Derated;
    // Throttled or on battery, two requests at once take longer than one after the other.
    let slots = thermal.slots_allowed(replica.slots);
    let doubt = if history.resting.is_some() {
        Some("has just failed several times")
    } else if machine.liveness == Liveness::Suspect {
        Some("has been silent or unreachable for a moment")
    } else if derated {
        Some("is near its thermal limit, throttled or on battery")
    } else {
        cold
    };
    let heat = thermal.routing_factor();
    let (predicted_s, terms) = predict(&history.speed, request.prompt_tokens, in_flight, slots, heat);
    let candidate = Candidate {
        machine: machine.id.clone(),
        model: model.clone(),
        in_flight,
        slots,
        context: replica.context,
        predicted_s,
        terms,
        why: Why::OnlyCandidate,
    };
    Some(Ok(Feasible { candidate, doubt, heat, preference: 0, mode: None, dice: 0 }))
}

/// Predicted seconds: waiting for a slot, reading the prompt, writing the answer; and what heat adds so that cooler
/// machines are preferred.
fn predict(
    speed: &crate::speed::Speed,
    prompt_tokens: u64,
    in_flight: u32,
    slots: Option<u32>,
    heat: f64,
) -> (Option<f64>, Vec<Term>) {
    let Some(seconds) = speed.seconds(prompt_tokens) else { return (None, Vec::new()) };
    let slots = slots.unwrap_or(1).max(1);
    let ahead = (in_flight + 1).saturating_sub(slots);
    let wait = f64::from(ahead) * (seconds.prefill + seconds.decode) / f64::from(slots);
    let total = wait + seconds.prefill + seconds.decode;
    let mut terms = vec![("wait", wait), ("prefill", seconds.prefill), ("decode", seconds.decode)];
    if heat > 1.0 {
        terms.push(("heat", total * (heat - 1.0)));
    }
    (Some(total * heat), terms)
}

fn rank(mut feasible: Vec<Feasible<'_>>, own_mode: Option<&ModeName>) -> Vec<Candidate> {
    // Seconds and counts cannot be compared with each other, so one yardstick serves the whole list.
    let by_seconds = feasible.iter().all(|option| option.candidate.predicted_s.is_some());
    let cost = |option: &Feasible<'_>| match option.candidate.predicted_s {
        Some(seconds) if by_seconds => seconds,
        // One more request, each as long as heat makes it: of two idle machines the cooler one comes first.
        _ => {
            let slots = f64::from(option.candidate.slots.unwrap_or(1).max(1));
            (f64::from(option.candidate.in_flight + 1) * option.heat - 1.0) / slots
        }
    };
    feasible.sort_by(|a, b| {
        (a.doubt.is_some(), a.preference)
            .cmp(&(b.doubt.is_some(), b.preference))
            .then_with(|| cost(a).total_cmp(&cost(b)))
            .then_with(|| a.dice.cmp(&b.dice))
    });
    let all = feasible.len();
    let (best_healthy, best_preference) =
        feasible.first().map_or((true, 0), |best| (best.doubt.is_none(), best.preference));
    // Only replicas of the same model and health were compared by cost.
    let of = feasible
        .iter()
        .filter(|option| option.doubt.is_none() == best_healthy && option.preference == best_preference)
        .count();
    feasible
        .into_iter()
        .enumerate()
        .map(|(at, option)| {
            let mut candidate = option.candidate;
            candidate.why = match (at, option.doubt) {
                (0, Some(doubt)) => Why::LastResort(doubt),
                (0, None) if option.mode != own_mode => {
                    option.mode.map_or(Why::OnlyCandidate, |mode| Why::Fallback(mode.clone()))
                }
                (0, None) if all == 1 => Why::OnlyCandidate,
                (0, None) if of == 1 => Why::FirstChoice,
                (0, None) => match candidate.predicted_s {
                    Some(predicted_s) if by_seconds => Why::LeastSeconds { predicted_s, of },
                    _ => Why::LeastInFlight { in_flight: candidate.in_flight, of },
                },
                (_, Some(doubt)) if best_healthy => Why::Behind(doubt),
                (_, _) if option.preference > best_preference => {
                    Why::Behind("the mode prefers another model")
                }
                (_, _) if by_seconds => Why::Behind("more predicted seconds, or lost the draw"),
                (_, _) => Why::Behind("more in flight for its slots, or lost the draw"),
            };
            candidate
        })
        .collect()
}

/// One of many dice from one number (the finaliser of MurmurHash3).
fn roll(dice: u64, at: usize) -> u64 {
    let mut x = dice ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests;
