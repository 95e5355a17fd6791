//! Which replica gets a request: a pure function from a snapshot, what this router has running, the request and dice to
//! a ranked list with reasons, or a refusal with every machine's reason.
//!
//! Feasible → healthy before doubtful → the mode's order of models → those that meet the target → least predicted
//! seconds where every speed is known, else the fewest uncached tokens for the load (LMetric). A session stays where it
//! was unless another replica is clearly better.

mod best;
mod cost;
mod load;
mod policy;
mod scan;
mod sessions;
mod why;

pub use load::{Load, Stake};
pub use policy::Policy;
pub use sessions::Sessions;
pub use why::Why;

use crate::fleet::{FleetView, ReplicaKey, mixed, model_number};
use crate::id::{MachineId, ModeName, ModelId};
use crate::mode::Purpose;
use crate::prefix::{Block, CacheId};
use crate::speed::Predicted;
use crate::units::Moment;
use best::{Rivals, Scored};
use scan::{Found, Scan};
use std::num::NonZeroU32;
use std::time::Duration;

/// Candidates and rejections that a decision lists: three are tried, and more than a screen full explains nothing.
pub const LISTED: usize = 32;
/// A session moves when another replica is better by more than this part of its cost …
const SESSION_PART: f64 = 0.1;
/// … and by more than this many seconds.
const SESSION_S: f64 = 0.25;
/// One request of this many goes to a replica that was not measured for a while.
const EXPLORE_ONE_IN: u64 = 100;
/// A speed that was measured this long ago may have changed: another process may use the machine since.
const STALE: Duration = Duration::from_secs(60);

/// What a request needs of a model beyond its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// It brings tools.
    pub tools: bool,
    /// It brings images.
    pub vision: bool,
    /// It asks for the middle between a prefix and a suffix.
    pub fim: bool,
}

/// Times that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Slo {
    /// Seconds to the first content.
    pub ttft_s: Option<f64>,
    /// Seconds for each token of the answer.
    pub tpot_s: Option<f64>,
}

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
    /// What the model must be able to do.
    pub needs: Needs,
    /// Replicas that were tried for it already: they get it no second time.
    pub tried: &'a [ReplicaKey],
    /// The starts of the prompt; empty = not hashed.
    pub prefix: &'a [Block],
    /// The session's name as a number.
    pub session: Option<u64>,
    /// Times that are asked for.
    pub slo: Slo,
    /// How candidates are compared.
    pub policy: Policy,
}

impl<'a> Request<'a> {
    /// A request for `models` that asks for nothing special.
    #[must_use]
    pub fn new(models: Vec<(&'a ModelId, Option<&'a ModeName>)>, purpose: Purpose) -> Self {
        Self {
            models,
            purpose,
            prompt_tokens: 0,
            mode: None,
            least_context: 0,
            needs: Needs::default(),
            tried: &[],
            prefix: &[],
            session: None,
            slo: Slo::default(),
            policy: Policy::default(),
        }
    }
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
    /// Both as a number.
    pub key: ReplicaKey,
    /// Its cache.
    pub cache: CacheId,
    /// Tokens that its cache can hold, where known.
    pub cache_tokens: Option<NonZeroU32>,
    /// Requests it already has from this router.
    pub in_flight: u32,
    /// Requests it serves at once, where known.
    pub slots: Option<u32>,
    /// Tokens one request may hold, where known.
    pub context: Option<u32>,
    /// A rough count of the prompt's tokens.
    pub prompt_tokens: u64,
    /// Those of them that its cache is expected to hold.
    pub cached_tokens: u64,
    /// The same before experience with this cache took off.
    pub believed_tokens: u64,
    /// The engine will load the model for the request.
    pub is_cold: bool,
    /// It stands behind all that are in no doubt, whatever its cost.
    pub is_doubted: bool,
    /// Its cost in seconds, where all speeds are known: its own time and what it takes from others.
    pub predicted_s: Option<f64>,
    /// Predicted seconds to the first content.
    pub predicted_ttft_s: Option<f64>,
    /// Predicted seconds to the end of a typical answer.
    pub predicted_answer_s: Option<f64>,
    /// What the actual times will be compared with.
    pub predicted: Option<Predicted>,
    /// What the cost is made of.
    pub terms: Vec<Term>,
    /// Why it stands where it stands.
    pub why: Why,
}

impl Candidate {
    /// A replica of which nothing is known but its names.
    #[must_use]
    pub fn new(machine: MachineId, model: ModelId) -> Self {
        let key = ReplicaKey::of(&machine, &model);
        Self {
            machine,
            model,
            key,
            cache: CacheId { replica: key.upper(), load: 0 },
            cache_tokens: None,
            in_flight: 0,
            slots: None,
            context: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            believed_tokens: 0,
            is_cold: false,
            is_doubted: false,
            predicted_s: None,
            predicted_ttft_s: None,
            predicted_answer_s: None,
            predicted: None,
            terms: Vec::new(),
            why: Why::OnlyCandidate,
        }
    }
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
    /// Best first, never empty; the best [`LISTED`] of all that can serve.
    pub ranked: Vec<Candidate>,
    /// Those that cannot serve, up to [`LISTED`].
    pub rejected: Vec<Rejection>,
    /// How many can serve.
    pub feasible: usize,
    /// One of all that can serve has a free slot, or does not tell of slots.
    pub any_free: bool,
}

/// Nobody can serve now.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Each machine's reason.
    pub rejected: Vec<Rejection>,
    /// A model is on its way into memory: waiting helps.
    pub loading: bool,
    /// An engine that does not answer is brought back by its agent: waiting may help.
    pub returning: bool,
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
        if self.loading || self.returning { 5 } else { 10 }
    }
}

/// Ranks the replicas that can serve `request`. `dice` breaks ties, so that equal candidates get their turn, and sends
/// one request in a hundred to a replica whose speed was not measured for a while.
///
/// # Errors
/// A [`Refusal`] with each machine's reason when none can.
pub fn decide(
    view: &FleetView,
    load: &Load,
    request: &Request<'_>,
    now: Moment,
    dice: u64,
) -> Result<Decision, Refusal> {
    let scan = Scan::new(view, load, request, now, dice);
    let Found { mut best, mut unranked, feasible, rivals, turned, any_free } = scan.run();
    if feasible == 0 {
        let rejected = scan.reasons(turned, usize::MAX);
        let loading = rejected.iter().any(|rejection| rejection.why == Why::Loading);
        let returns = |why: &Why| matches!(why, Why::EngineDown { supervised: true, .. });
        let returning = rejected.iter().any(|rejection| returns(&rejection.why));
        return Err(Refusal { rejected, loading, returning });
    }
    request.policy.score(&mut unranked, &scan);
    unranked.into_iter().for_each(|one| best.offer(one));
    let mut ranked = best.into_ranked();
    let pick = pick(&scan, feasible, &mut ranked);
    let ranked = explained(&scan, feasible, rivals, &ranked, pick);
    Ok(Decision { ranked, rejected: scan.reasons(turned, LISTED), feasible, any_free })
}

/// How the first of a ranking became the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pick {
    /// By its cost.
    Cost,
    /// By its session.
    Session,
    /// By dice.
    Dice,
}

/// Moves the session's own replica, or now and then one to be measured, to the front.
fn pick<'a>(scan: &Scan<'a>, feasible: usize, ranked: &mut Vec<Scored<'a>>) -> Pick {
    let Some(best) = ranked.first().copied() else { return Pick::Cost };
    if !scan.request.policy.weighs() {
        return Pick::Cost;
    }
    let model = model_number(scan.model(&best).0);
    let kept = scan.request.session.and_then(|session| scan.load.session(session, model, scan.now));
    if let Some(kept) = kept
        && best.serving.key != kept
        && let Some(one) = scan.found(&best, kept).filter(|one| one.group == best.group)
        && stays(scan, &one, &best)
    {
        ranked.retain(|other| other.serving.key != kept || other.group != best.group);
        ranked.insert(0, one);
        ranked.truncate(LISTED);
        return Pick::Session;
    }
    if kept == Some(best.serving.key) && feasible > 1 {
        return Pick::Session;
    }
    if best.is_doubted()
        || !scan.by_seconds(scan.servings(&best))
        || !mixed(!scan.dice).is_multiple_of(EXPLORE_ONE_IN)
    {
        return Pick::Cost;
    }
    let is_stale = |one: &Scored<'_>| {
        let history = scan.machine(one).history.get(scan.model(one).0);
        let measured = history.and_then(|history| history.speed.measured_at());
        measured.is_none_or(|at| scan.now.since(at) > STALE)
    };
    let mut stale = (1..ranked.len()).filter(|at| ranked[*at].group == best.group && is_stale(&ranked[*at]));
    // Any of them: their dice are as good as another draw.
    match stale.by_ref().min_by_key(|at| ranked[*at].roll) {
        Some(at) => {
            let one = ranked.remove(at);
            ranked.insert(0, one);
            Pick::Dice
        }
        None => Pick::Cost,
    }
}

/// Whether a session stays on `kept` although `best` is better.
fn stays(scan: &Scan<'_>, kept: &Scored<'_>, best: &Scored<'_>) -> bool {
    if scan.by_seconds(scan.servings(best)) {
        return kept.cost - best.cost <= (SESSION_PART * best.cost).max(SESSION_S);
    }
    kept.in_flight() < kept.serving.slots || kept.cost <= best.cost * (1.0 + SESSION_PART)
}

fn explained(
    scan: &Scan<'_>,
    feasible: usize,
    rivals: Rivals,
    ranked: &[Scored<'_>],
    pick: Pick,
) -> Vec<Candidate> {
    let Some(best) = ranked.first() else { return Vec::new() };
    let Rivals { of, meet, .. } = rivals;
    let by_seconds = scan.by_seconds(scan.servings(best));
    let chosen = |candidate: &Candidate| {
        let (model_mode, policy) = (scan.model(best).1, scan.request.policy);
        if let Some(doubt) = scan.doubt(best) {
            return Why::LastResort(doubt);
        }
        match model_mode {
            Some(mode) if Some(mode) != scan.request.mode => return Why::Fallback(mode.clone()),
            None if scan.request.mode.is_some() => return Why::OnlyCandidate,
            _ if feasible == 1 => return Why::OnlyCandidate,
            _ => {}
        }
        match (pick, candidate.predicted_s) {
            _ if of == 1 => Why::FirstChoice,
            (Pick::Session, _) => Why::SessionKept { of },
            (Pick::Dice, _) => Why::Explored,
            (Pick::Cost, Some(predicted_s)) if by_seconds => {
                if meet < of && !best.misses_target() {
                    Why::MeetsTarget { meet, of }
                } else {
                    Why::LeastSeconds { predicted_s, of }
                }
            }
            (Pick::Cost, _) if !policy.weighs() => Why::ByPolicy { policy: policy.word(), of },
            (Pick::Cost, _) if candidate.cached_tokens == 0 => {
                Why::LeastInFlight { in_flight: candidate.in_flight, of }
            }
            (Pick::Cost, _) => Why::LeastUncached {
                tokens: candidate.prompt_tokens.saturating_sub(candidate.cached_tokens),
                in_flight: candidate.in_flight,
                of,
            },
        }
    };
    let behind = |one: &Scored<'_>| match scan.doubt(one) {
        Some(doubt) if !best.is_doubted() => doubt,
        _ if one.model_group() != best.model_group() => "the mode prefers another model",
        _ if one.misses_target() && !best.misses_target() => "misses the target",
        _ if one.awaits_first_answer() => "its first answer is awaited",
        _ if pick != Pick::Cost => "not the one picked",
        _ if by_seconds => "more predicted seconds, or lost the draw",
        _ if scan.request.policy.weighs() => "more in flight for its slots, or lost the draw",
        _ => "the policy prefers another",
    };
    let candidates = ranked.iter().enumerate().map(|(at, one)| {
        let mut candidate = candidate(scan, one);
        candidate.why = if at == 0 { chosen(&candidate) } else { Why::Behind(behind(one)) };
        candidate
    });
    candidates.collect()
}

fn candidate(scan: &Scan<'_>, scored: &Scored<'_>) -> Candidate {
    let serving = scored.serving;
    let cost = scan.cost(scored);
    Candidate {
        machine: scan.machine(scored).id.clone(),
        model: scan.model(scored).0.clone(),
        key: serving.key,
        cache: serving.cache(),
        cache_tokens: serving.cache_tokens,
        in_flight: scored.in_flight(),
        slots: serving.told_slots,
        context: serving.context,
        prompt_tokens: scan.request.prompt_tokens,
        cached_tokens: (scored.cached as u64).min(scan.request.prompt_tokens),
        believed_tokens: u64::from(scored.believed),
        is_cold: serving.is_cold,
        is_doubted: scored.is_doubted(),
        predicted_s: cost.map(|cost| cost.total()),
        predicted_ttft_s: cost.map(|cost| cost.ttft_s()),
        predicted_answer_s: cost.map(|cost| cost.answer_s()),
        predicted: cost.map(|cost| cost.predicted()),
        terms: cost.map(|cost| cost.terms()).unwrap_or_default(),
        why: Why::OnlyCandidate,
    }
}

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod tests;
