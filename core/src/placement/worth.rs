//! What each option is worth to each wish, or why it is of no use to it.
//!
//! ```text
//! worth = weight · firmness · quality · context · cache · speed
//! ```
//! with the model's place in the mode's list as its quality, and the speed against the mode's target.

use super::offers::{Offer, Offers};
use super::pace::{Known, Pace};
use super::site::Site;
use super::small::{Task, Use};
use crate::fit::Offload;
use crate::strategy::{Residency, Wish, Wishes};

/// What the next model of a mode's list is worth against the one before it.
const NEXT_MODEL: f64 = 0.85;
/// What a cache of the next allowed type is worth against the one before it: a little quality, no context.
const NEXT_CACHE: f64 = 0.98;
/// How much half of the context costs: 1 − 2^−0.25 = 16 %.
const CONTEXT_POWER: f64 = 0.25;
/// How much more a pinned mode counts than a warm one.
const PINNED_WEIGHT: f64 = 4.0;
/// How much missing a target costs where the speed was measured: twice as slow leaves a quarter.
const MEASURED_POWER: f64 = 2.0;
/// The same where it was taken from another model, and where it was guessed: a guess must not decide against a model.
const SCALED_POWER: f64 = 1.0;
const GUESSED_POWER: f64 = 0.5;
/// The least that missing a target leaves: a slow answer is better than none.
const SLOWEST: f64 = 0.05;
/// Seconds for a token that a person can read along with, where a mode asks for nothing: 20 tokens a second.
pub(super) const READABLE: f64 = 0.05;
/// How much a slower pace than that costs: four times as slow leaves 70 %, less than the next model of the list.
const READABLE_POWER: f64 = 0.25;
/// What a model of which a part lies in RAM is worth against one that is whole on a processor, where that pace was not
/// measured: whole comes first.
const IN_PARTS: f64 = 0.85;
/// Prompt tokens that a target of time to the first content is judged with, at most.
const TYPICAL_PROMPT: u32 = 4096;

/// Makes the tasks of all wishes.
pub(super) fn tasks(offers: &mut Offers, sites: &[Site], wishes: &Wishes) {
    let mut by_wish: Vec<Vec<usize>> = vec![Vec::new(); wishes.modes.len()];
    for (option, choice) in offers.small.options.iter().enumerate() {
        for &wish in &offers.groups[choice.group] {
            by_wish[wish].push(option);
        }
    }
    let mut tasks = Vec::new();
    for (number, wish) in wishes.modes.iter().enumerate() {
        if wish.residency == Residency::OnDemand {
            continue;
        }
        let mut uses = Vec::new();
        let models = &offers.models[number];
        // Options of one group come one after the other: their model is looked up once.
        let mut rank = 0;
        let mut told = None;
        for &option in &by_wish[number] {
            let offer = &offers.offers[option];
            if models.get(rank) != Some(&offer.model) {
                rank = models.iter().position(|model| *model == offer.model).unwrap_or(models.len());
            }
            let site = &sites[offer.site];
            match worth(wish, rank, offer, offers.paces[option], site) {
                Ok(value) => {
                    let holds = (offer.size.slots / wish.slots.max(1)).max(1);
                    uses.push(Use { option, value, holds });
                }
                Err(why) => {
                    // The longest context of a model comes first: what the shorter ones lack is no news.
                    let group = offers.small.options[option].group;
                    if offer.size.context < wish.least_context && told.replace(group) == Some(group) {
                        continue;
                    }
                    offers.rejected.insert((number, offer.model.clone(), site.machine.clone()), why);
                }
            }
        }
        // One size that does makes what another size lacks no news.
        let mut group = usize::MAX;
        for one in &uses {
            if std::mem::replace(&mut group, offers.small.options[one.option].group) == group {
                continue;
            }
            let offer = &offers.offers[one.option];
            offers.rejected.remove(&(number, offer.model.clone(), sites[offer.site].machine.clone()));
        }
        uses.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.option.cmp(&b.option)));
        tasks.push((number, Task { copies: wish.copies, uses }));
    }
    for (number, task) in tasks {
        offers.tasks.push(number);
        offers.small.tasks.push(task);
    }
}

/// What an offer is worth to a wish, or why it is of no use to it.
fn worth(wish: &Wish, rank: usize, offer: &Offer, pace: Pace, site: &Site) -> Result<f64, String> {
    if !wish.machines.is_empty() && !wish.machines.contains(&site.machine) {
        return Err("the mode is not allowed there".into());
    }
    if let Some(label) = wish.labels.difference(&site.labels).next() {
        return Err(format!("it lacks the label {label}"));
    }
    if offer.size.context < wish.least_context {
        return Err(format!(
            "a context of {} tokens is what it has there, the mode needs {}",
            offer.size.context, wish.least_context
        ));
    }
    if offer.size.slots < wish.slots && !offer.fixed {
        let slots = if offer.size.slots == 1 { "slot" } else { "slots" };
        return Err(format!("it has {} {slots} there, the mode needs {}", offer.size.slots, wish.slots));
    }
    let cache = wish.cache_types.iter().position(|cache| *cache == offer.size.cache);
    let Some(cache) = cache.or(offer.fixed.then_some(0)) else {
        return Err(format!("its cache there is {}, which the mode does not allow", offer.size.cache.word()));
    };
    let has_target = wish.target.tpot_s.is_some() || wish.target.ttft_s.is_some();
    let speed = speed(wish, offer, pace);
    if is_divided(offer) && has_target && !offer.fixed && (speed < 1.0 || pace.known != Known::Measured) {
        return Err(match pace.known {
            Known::Measured => {
                "a part of it would lie in RAM, and it would be too slow for the mode's target".into()
            }
            Known::Scaled | Known::Guessed => {
                "a part of it would lie in RAM, and how fast that is was not measured: it promises no target"
                    .to_owned()
            }
        });
    }
    let quality = NEXT_MODEL.powi(i32::try_from(rank).unwrap_or(i32::MAX));
    let wanted = f64::from(wish.context.max(1));
    let context = (f64::from(offer.size.context.min(wish.context)) / wanted).powf(CONTEXT_POWER);
    let cache = NEXT_CACHE.powi(i32::try_from(cache).unwrap_or(i32::MAX));
    let has_card = site.pools.devices.iter().any(|device| device.carve_out.is_none());
    let in_parts =
        has_card && offer.offload != Offload::Full && !offer.fixed && pace.known != Known::Measured;
    let whole = if in_parts { IN_PARTS } else { 1.0 };
    let firm = if wish.residency == Residency::Pinned { PINNED_WEIGHT } else { 1.0 };
    Ok(wish.weight * firm * quality * context * cache * speed * whole)
}

/// Whether a part of a model lies in RAM beside its processor.
pub(super) fn is_divided(offer: &Offer) -> bool {
    match offer.offload {
        Offload::Full | Offload::None => false,
        Offload::Layers(_) | Offload::ExpertsOfFirst(_) => true,
    }
}

/// How well an offer meets the mode's targets, from [`SLOWEST`] to 1.
fn speed(wish: &Wish, offer: &Offer, pace: Pace) -> f64 {
    let power = match pace.known {
        Known::Measured => MEASURED_POWER,
        Known::Scaled => SCALED_POWER,
        Known::Guessed => GUESSED_POWER,
    };
    let ratio = |target: f64, predicted: f64| (target / predicted.max(1e-9)).min(1.0);
    let mut met: f64 = match wish.target.tpot_s {
        Some(target) => ratio(target, pace.tpot_s).powf(power),
        None => ratio(READABLE, pace.tpot_s).powf(READABLE_POWER),
    };
    if let (Some(target), Some(prefill)) = (wish.target.ttft_s, pace.prefill.filter(|rate| *rate > 0.0)) {
        let prompt = f64::from((offer.size.context / 4).min(TYPICAL_PROMPT));
        met = met.min(ratio(target, prompt / prefill).powf(MEASURED_POWER));
    }
    met.max(SLOWEST)
}

/// What is said where the pace misses the mode's target.
pub(super) fn too_slow(wish: &Wish, pace: Pace) -> Option<String> {
    let target = wish.target.tpot_s.filter(|target| pace.tpot_s > *target)?;
    let how = match pace.known {
        Known::Measured => "measured",
        Known::Scaled => "by what others were measured at there",
        Known::Guessed => "guessed",
    };
    Some(format!("{:.0} ms for a token instead of {:.0} ({how})", pace.tpot_s * 1e3, target * 1e3))
}
