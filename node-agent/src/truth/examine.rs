//! One check of one model: where it landed, what it says, how fast it is.

use super::question::{ProbeFault, Prober, Question, Reply, Target};
use super::schedule::Why;
use crate::profile::ProfileHandle;
use crate::reservation::Ledger;
use crate::supervisor::load_facts::Subject;
use mesh_core::fit::{Offload, Pools};
use mesh_core::machine::{ReplicaHealth, ThermalState, Vitals};
use mesh_core::profile::SpeedRecord;
use mesh_core::units::Bytes;
use mesh_core::verdict::{
    Answer, Placement, PlacementVerdict, ReplicaVerdict, SpeedVerdict, judge, placement_verdict,
    replica_verdict, speed_verdict, three_prompts,
};
use std::sync::Arc;

/// How often a slow speed is measured again before it is believed: another program may have had the machine for a
/// second. The best counts.
const SLOW_AGAIN: usize = 2;
/// The share of the processors that others may be using, by the load average, until the speed of a model in RAM
/// tells nothing of the model.
const BUSY_SHARE: f32 = 0.75;
const HINT: &str = "hint: look for the graphics driver's errors in the engine's log, then load it again";

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// What the replica is.
    Health(ReplicaHealth),
    /// No answer, and why.
    Failed(String),
}

pub(super) struct Examiner {
    pub(super) prompts: bool,
    pub(super) ledger: Ledger,
    pub(super) profile: ProfileHandle,
    pub(super) prober: Arc<dyn Prober>,
}

/// Under what a model's speed is kept.
pub(crate) struct SpeedKey {
    pub(crate) model: String,
    pub(crate) build: String,
    pub(crate) device: String,
    pub(crate) offload: Offload,
}

impl SpeedKey {
    /// One measurement, tokens each second.
    pub(crate) fn record(self, prefill: Option<f64>, decode: Option<f64>, at: u64) -> SpeedRecord {
        let Self { model, build, device, offload } = self;
        SpeedRecord { model, build, device, offload, prefill, decode, n: 1, at }
    }
}

impl Examiner {
    /// The worst that is found counts: gibberish before slowness.
    pub(super) async fn examine(&self, subject: &Subject, target: &Target, why: Why) -> Found {
        let abilities = &subject.replica.abilities;
        let prompts = three_prompts(abilities);
        if self.prompts && why.with_prompts() {
            let mut verdicts = Vec::new();
            for probe in prompts.into_iter().flatten() {
                let reply = match self.prober.ask(target, Question::Prompt(probe)).await {
                    Ok(reply) => reply,
                    Err(fault) => return broken(fault),
                };
                if let Some(other) = other_name(subject.supervised, &target.upstream, reply.model.as_ref()) {
                    return Found::Health(ReplicaHealth::Quarantined(other));
                }
                let answer = Answer {
                    text: &reply.text,
                    finish_reason: reply.finish_reason.as_deref(),
                    completion_tokens: reply.tokens,
                    tool_call: false,
                    reasoning: reply.reasoning.as_deref(),
                };
                verdicts.push(judge(&answer, probe.expectation));
            }
            if let (Some(_), ReplicaVerdict::Quarantine(why)) = (prompts, replica_verdict(&verdicts)) {
                return Found::Health(ReplicaHealth::Quarantined(why));
            }
        } else if let ReplicaHealth::Quarantined(_) = subject.replica.health {
            // Only the prompts lift what the prompts imposed.
            return Found::Health(subject.replica.health.clone());
        }
        let vitals = self.ledger.vitals();
        let placed = placement(subject, &vitals);
        let speed = match prompts {
            Some(_) => match self.speed(subject, target, &vitals, placed.is_none()).await {
                Ok(speed) => speed,
                Err(fault) => return broken(fault),
            },
            None => SpeedVerdict::Unknown("it makes no text".into()),
        };
        Found::Health(match (placed, speed) {
            (Some(why), _) => ReplicaHealth::Degraded(why),
            (None, SpeedVerdict::Degraded(why)) => ReplicaHealth::Degraded(why),
            (None, SpeedVerdict::Good | SpeedVerdict::Unknown(_)) => ReplicaHealth::Good,
        })
    }

    async fn speed(
        &self,
        subject: &Subject,
        target: &Target,
        vitals: &Vitals,
        placed_well: bool,
    ) -> Result<SpeedVerdict, ProbeFault> {
        let key = speed_key(subject, vitals);
        let known = self.profile.read(|profile| {
            let record = profile.speed(&key.model, &key.build, &key.device, key.offload)?;
            record.decode
        });
        let question = Question::Speed {
            chat: subject.replica.abilities.chat == Some(true),
            context: subject.replica.context,
        };
        let excuse = excuse(&key, vitals);
        let is_excused = excuse.is_some();
        let mut best = Reply::default();
        let mut verdict = SpeedVerdict::Unknown("not measured".into());
        for _ in 0..=SLOW_AGAIN {
            let reply = self.prober.ask(target, question).await?;
            if reply.decode >= best.decode {
                best = reply;
            }
            verdict = speed_verdict(best.decode, known);
            let slow = matches!(verdict, SpeedVerdict::Degraded(_));
            if !slow || excuse.is_some() {
                break;
            }
        }
        if let (SpeedVerdict::Degraded(_), Some(excuse)) = (&verdict, excuse) {
            return Ok(SpeedVerdict::Unknown(excuse));
        }
        // What fell back to the CPU, or was measured on a busy or throttled machine, must not become what is expected.
        if placed_well && !is_excused && !matches!(verdict, SpeedVerdict::Degraded(_)) {
            self.profile.change(|profile, at| {
                profile.keep_speed(key.record(best.prefill, best.decode, at));
            });
        }
        Ok(verdict)
    }
}

fn broken(fault: ProbeFault) -> Found {
    match fault {
        // Clients would get the same.
        ProbeFault::NotAnAnswer(_) => Found::Health(ReplicaHealth::Quarantined(fault.to_string())),
        ProbeFault::Status(_) | ProbeFault::Silent | ProbeFault::Broke(_) => Found::Failed(fault.to_string()),
    }
}

/// An engine of ours knows its one model by the name it was given.
pub(crate) fn other_name(is_ours: bool, asked: &str, answered: Option<&String>) -> Option<String> {
    let other = answered.filter(|name| is_ours && *name != asked)?;
    let other: String = other.chars().take(80).collect();
    Some(format!("its engine answers as `{other}` when asked for `{asked}`"))
}

/// Why a slow answer would tell nothing of the model.
fn excuse(key: &SpeedKey, vitals: &Vitals) -> Option<String> {
    let thermal = &vitals.thermal;
    if matches!(thermal.state, ThermalState::Derated | ThermalState::Hot) {
        return Some(format!("the machine is {}: {}", thermal.state.word(), thermal.why));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as f32;
    let load = vitals.load.known().filter(|load| **load > threads * BUSY_SHARE)?;
    (key.device == RAM).then(|| format!("the processors are busy: load {load:.1}"))
}

/// The device of models that are in no graphics memory.
pub(crate) const RAM: &str = "ram";

/// Under what its speed is kept: as its keeper has it; for models that an engine loads, as this machine is.
pub(crate) fn speed_key(subject: &Subject, vitals: &Vitals) -> SpeedKey {
    if let Some(facts) = &subject.facts {
        let key = &facts.key;
        return SpeedKey {
            model: key.model.clone(),
            build: key.build.clone(),
            device: key.device.clone(),
            offload: key.options.offload,
        };
    }
    let replica = &subject.replica;
    let model = replica.digest.as_ref().map_or(replica.model.as_str(), |digest| digest.as_str()).to_owned();
    let build = format!("{} {}", subject.kind.word(), subject.version.as_deref().unwrap_or("?"));
    let device = Pools::of(vitals).devices.into_iter().max_by_key(|device| device.memory.total);
    let (device, offload) = match device {
        Some(device) => (format!("{} {}", device.name, device.id), Offload::Full),
        None => (RAM.to_owned(), Offload::None),
    };
    SpeedKey { model, build, device, offload }
}

/// Why it is not where it should be, where it is not.
fn placement(subject: &Subject, vitals: &Vitals) -> Option<String> {
    let fallback = |why: &str| format!("cpu_fallback: {why}; {HINT}");
    let seen = if let Some(facts) = &subject.facts {
        let whole = facts.key.options.offload == Offload::Full;
        if let (true, Some((on_device, all))) = (whole, facts.offloaded)
            && on_device < all
        {
            return Some(fallback(&format!("the engine has {on_device} of {all} layers on the device")));
        }
        let measured = facts.memory.measured && facts.memory.device.0 > 0;
        let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
        Placement {
            predicted_device: facts.predicted.device.total(),
            measured_delta: if measured { Some(signed(facts.memory.device)) } else { facts.shrunk.device },
            size: None,
            size_vram: None,
            whole,
        }
    } else {
        // A machine without a usable graphics processor has nothing to fall back from.
        if Pools::of(vitals).devices.is_empty() {
            return None;
        }
        // The engine's own words.
        let memory = subject.replica.memory?;
        let size = Bytes(memory.device.0.saturating_add(memory.host.0));
        Placement {
            predicted_device: size,
            measured_delta: None,
            size: Some(size),
            size_vram: Some(memory.device),
            whole: true,
        }
    };
    match placement_verdict(&seen) {
        PlacementVerdict::CpuFallback(why) => Some(fallback(&why)),
        PlacementVerdict::Good | PlacementVerdict::Unknown(_) => None,
    }
}
