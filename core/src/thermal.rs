//! How hot a machine is: readings and the time in, one [`Thermal`] state with its reason out.
//!
//! Heat is judged by headroom to the limit that the hardware itself reports. The goal of [`Policy`] is a wish
//! of the router (prefer cooler machines), never a limit. What the hardware says of itself (throttle causes)
//! outranks what a thermometer says. A missing sensor is unknown, not cold. Nothing here reads a clock or a
//! sensor: the agent calls [`Watch::observe`] once a second.
//!
//! ```text
//!             over the goal 30 s       headroom < 12 °C, slowed      headroom < 5 °C,
//!                                      down 5 s, on battery          hardware slowdown
//! Unknown ─► Ok ───────────────► Warm ───────────────► Derated ───────────────► Hot
//!   ▲        ▲                    │                       │                      │
//!   │        └────────────────────┴───────────────────────┴──────────────────────┘
//!   │           5 °C below what led there, and no throttle cause or battery, for 60 s
//!   └── no sensor has been read for 60 s, and nothing else holds a state
//! ```
//! Any state may be skipped: a machine goes from Ok to Hot at once when its readings say so.

mod latch;
mod sensor;

pub use crate::machine::{Power, Temperature, Thermal, ThermalState, ThrottleCause};

use crate::machine::{Reading, Vitals};
use crate::units::{Celsius, Moment};
use latch::Latch;
use sensor::Sensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Over the goal for this long = warm. One long answer warms a small cooler for some seconds; that is no
/// reason to send the next request elsewhere.
pub const WARM_AFTER: Duration = Duration::from_secs(30);
/// Slowed down for this long = derated. Firmware sets these bits for a moment at every step of the load.
pub const THROTTLED_AFTER: Duration = Duration::from_secs(5);
/// Headroom in °C under which a machine is derated: drivers begin to hold clocks down some 10 °C below the
/// limit.
pub const DERATED_HEADROOM: f32 = 12.0;
/// Headroom in °C under which a machine is hot. The last request in flight may still add some degrees.
pub const HOT_HEADROOM: f32 = 5.0;
/// A state is left only this far (°C) below what led there. Kernel trip points and fan curves use 2–5 °C.
pub const HYSTERESIS: f32 = 5.0;
/// … and only after this long there: the time in which a heat sink gives its heat away.
pub const LEAVE_AFTER: Duration = Duration::from_secs(60);
/// The time constant of the smoothing. Dies jump by 10 °C within a second of load; coolers follow in tens of
/// seconds, and it is the cooler that tells how the next request will fare.
pub const SMOOTHING: Duration = Duration::from_secs(10);
/// A silence of this long between two observations (sleep, a probe that hung) starts smoothing and waiting
/// anew: nobody knows what was in between. Three time constants: the old value has no weight left anyway.
pub const GAP: Duration = Duration::from_secs(30);
/// Hot for this long = models are to be unloaded. Refusing work has not helped, so the idle draw must go too.
pub const UNLOAD_AFTER: Duration = Duration::from_secs(120);
/// Sensors beyond this many are ignored: a bound for what a broken driver can make the agent keep.
pub const MAX_SENSORS: usize = 128;

/// What the operator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Above this temperature other machines are preferred. 70 °C: sustained load of a well cooled machine.
    pub goal: Celsius,
    /// Whether a machine on battery may work as if on mains.
    pub battery_allowed: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { goal: Celsius(70.0), battery_allowed: false }
    }
}

/// What is known of a machine's heat at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// All sensors that could be read, with the limits that they report. Names tell them apart.
    pub sensors: Vec<Temperature>,
    /// Why graphics processors are slower than they could be.
    pub throttle: Vec<ThrottleCause>,
    /// Whether the processor was slowed down for heat since the last observation.
    pub cpu_throttled: bool,
    /// Where the power comes from; unknown changes nothing.
    pub power: Reading<Power>,
}

impl Readings {
    /// Gathers them from what a machine's probes found. GPU sensors are told apart by the order of the cards.
    #[must_use]
    pub fn of(vitals: &Vitals) -> Self {
        let mut sensors: Vec<Temperature> =
            vitals.temperatures.known().into_iter().flatten().cloned().collect();
        let mut throttle = Vec::new();
        let gpus = vitals.gpus.known().map_or(&[] as &[_], Vec::as_slice);
        for (index, gpu) in gpus.iter().enumerate() {
            for sensor in gpu.sensors.temperatures.known().into_iter().flatten() {
                let mut sensor = sensor.clone();
                if gpus.len() > 1 {
                    sensor.sensor = format!("GPU {index} {}", sensor.sensor);
                }
                sensors.push(sensor);
            }
            throttle.extend(gpu.sensors.throttle.known().into_iter().flatten().copied());
        }
        Self {
            sensors,
            throttle,
            cpu_throttled: vitals.cpu_throttled.known() == Some(&true),
            power: vitals.power.clone(),
        }
    }
}

impl ThermalState {
    /// Whether a model may be loaded, pulled into memory or benchmarked now.
    #[must_use]
    pub fn admits_load(self) -> bool {
        match self {
            Self::Unknown | Self::Ok | Self::Warm => true,
            Self::Derated | Self::Hot => false,
        }
    }

    /// How many requests at once an engine with `total` slots is counted with when machines are compared; `None` = as
    /// many as the engine takes, which it does not tell.
    #[must_use]
    pub fn slots_allowed(self, total: Option<u32>) -> Option<u32> {
        match self {
            Self::Unknown | Self::Ok | Self::Warm => total,
            Self::Derated => Some(total.unwrap_or(1).min(1)),
            Self::Hot => Some(0),
        }
    }

    /// By how much predicted seconds are multiplied when machines are compared; at least 1. A warm machine
    /// wins while the next one would be a third slower; a derated one only against one half as fast. Hot
    /// machines get nothing anyway ([`Self::slots_allowed`]). Unknown has the weight of Ok: most machines
    /// without sensors are cool, and a penalty would leave them idle for ever.
    #[must_use]
    pub fn routing_factor(self) -> f64 {
        match self {
            Self::Unknown | Self::Ok => 1.0,
            Self::Warm => 1.33,
            Self::Derated => 2.0,
            Self::Hot => 10.0,
        }
    }
}

/// The state machine of one machine's heat.
#[derive(Debug, Clone)]
pub struct Watch {
    policy: Policy,
    sensors: BTreeMap<String, Sensor>,
    slowed: Latch,
    hardware_slowed: Latch,
    battery: Latch,
    last: Option<Moment>,
    thermal: Thermal,
    since: Moment,
}

impl Watch {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(policy: Policy, now: Moment) -> Self {
        Self {
            policy,
            sensors: BTreeMap::new(),
            slowed: Latch::new(THROTTLED_AFTER),
            hardware_slowed: Latch::new(Duration::ZERO),
            battery: Latch::new(Duration::ZERO),
            last: None,
            thermal: Thermal { state: ThermalState::Unknown, why: "no sensor has been read yet".to_owned() },
            since: now,
        }
    }

    /// Takes in what was read at `now` and says what it means. Call it about once a second.
    pub fn observe(&mut self, readings: &Readings, now: Moment) -> &Thermal {
        if self.last.is_some_and(|last| now < last || now.since(last) >= GAP) {
            self.resumed(now);
        }
        self.last = Some(now);
        for (name, value, limit) in plausible(&readings.sensors) {
            if let Some(sensor) = self.sensors.get_mut(name) {
                sensor.read(value, limit, self.policy.goal, now);
            } else if self.sensors.len() < MAX_SENSORS || self.forget_one(now) {
                self.sensors.insert(name.to_owned(), Sensor::new(value, limit, self.policy.goal, now));
            }
        }
        let hardware = readings.throttle.iter().any(|cause| weight(*cause) == Weight::Hardware);
        let slowed =
            readings.cpu_throttled || readings.throttle.iter().any(|cause| weight(*cause) != Weight::Normal);
        self.hardware_slowed.feed(hardware, !hardware, now);
        self.slowed.feed(slowed, !slowed, now);
        let on_battery =
            matches!(readings.power, Reading::Known(Power::Battery(_))) && !self.policy.battery_allowed;
        self.battery.feed(on_battery, !on_battery, now);
        let thermal = self.judge(readings, now);
        if thermal.state != self.thermal.state {
            self.since = now;
        }
        self.thermal = thermal;
        &self.thermal
    }

    /// The machine has slept: smoothing and waiting start anew. States are kept until new readings have been
    /// calm for [`LEAVE_AFTER`]. A gap between observations does the same; this is for clocks that stand
    /// still while the machine sleeps.
    pub fn resumed(&mut self, now: Moment) {
        // What was gone before the sleep stays gone.
        let last = self.last.unwrap_or(now);
        self.sensors.retain(|_, sensor| sensor.counts(last));
        for sensor in self.sensors.values_mut() {
            sensor.restart(now);
        }
        for latch in [&mut self.slowed, &mut self.hardware_slowed, &mut self.battery] {
            latch.restart(now);
        }
        self.since = self.since.min(now);
        self.last = None;
    }

    /// The latest judgement.
    #[must_use]
    pub fn thermal(&self) -> &Thermal {
        &self.thermal
    }

    /// Since when the state has been what it is.
    #[must_use]
    pub fn since(&self) -> Moment {
        self.since
    }

    /// Whether the machine has been hot for so long that its models are to be unloaded.
    #[must_use]
    pub fn wants_unload(&self, now: Moment) -> bool {
        self.thermal.state == ThermalState::Hot && now.since(self.since) >= UNLOAD_AFTER
    }

    /// Makes room for a sensor by dropping one that is gone. False when all are there.
    fn forget_one(&mut self, now: Moment) -> bool {
        let gone = self.sensors.iter().find(|(_, sensor)| !sensor.counts(now)).map(|(name, _)| name.clone());
        gone.is_some_and(|name| self.sensors.remove(&name).is_some())
    }

    /// The highest state that anything holds. What the hardware says of itself comes first, and gives the
    /// reason where it asks for the same state as a thermometer.
    fn judge(&self, readings: &Readings, now: Moment) -> Thermal {
        let mut best: Option<Thermal> = None;
        let mut offer = |state: ThermalState, why: &dyn Fn() -> String| {
            if best.as_ref().is_none_or(|best| state > best.state) {
                best = Some(Thermal { state, why: why() });
            }
        };
        if self.hardware_slowed.holds() {
            offer(ThermalState::Hot, &|| slowed_words(readings, Weight::Hardware));
        }
        if self.slowed.holds() {
            offer(ThermalState::Derated, &|| slowed_words(readings, Weight::Software));
        }
        if self.battery.holds() {
            offer(ThermalState::Derated, &|| battery_words(&readings.power));
        }
        // The sensor with the least headroom speaks for its state; without a limit, the hottest.
        let mut present: Vec<_> = self.sensors.iter().filter(|(_, sensor)| sensor.counts(now)).collect();
        present.sort_by(|a, b| {
            a.1.urgency(self.policy.goal).total_cmp(&b.1.urgency(self.policy.goal)).reverse()
        });
        for (name, sensor) in present {
            offer(sensor.state(), &|| sensor.words(name, self.policy.goal, now));
        }
        best.unwrap_or_else(|| Thermal { state: ThermalState::Unknown, why: self.why_unknown() })
    }

    fn why_unknown(&self) -> String {
        match self.sensors.keys().next() {
            Some(name) => format!("{name} can no longer be read, and no other sensor is there"),
            None => "no temperature sensor can be read".to_owned(),
        }
    }
}

/// What a throttle cause means for the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Every day's work.
    Normal,
    /// The driver or firmware holds clocks down.
    Software,
    /// The hardware protects itself: clocks are halved or worse.
    Hardware,
}

fn weight(cause: ThrottleCause) -> Weight {
    match cause {
        ThrottleCause::PowerCap | ThrottleCause::Idle => Weight::Normal,
        ThrottleCause::SoftwareThermal => Weight::Software,
        ThrottleCause::HardwareThermal | ThrottleCause::HardwareSlowdown | ThrottleCause::PowerBrake => {
            Weight::Hardware
        }
    }
}

fn slowed_words(readings: &Readings, least: Weight) -> String {
    let mut words: Vec<&str> = readings
        .throttle
        .iter()
        .filter(|cause| weight(**cause) == Weight::Hardware || weight(**cause) == least)
        .map(|cause| cause.word())
        .collect();
    if least == Weight::Software && readings.cpu_throttled {
        words.push("processor");
    }
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        format!("was slowed down less than {} s ago", LEAVE_AFTER.as_secs())
    } else {
        format!("slowed down: {}", words.join(", "))
    }
}

fn battery_words(power: &Reading<Power>) -> String {
    match power {
        Reading::Known(Power::Battery(Some(percent))) => format!("on battery, {percent} % left"),
        Reading::Known(Power::Battery(None)) => "on battery".to_owned(),
        Reading::Known(Power::Mains) | Reading::Unknown(_) => {
            format!("was on battery less than {} s ago", LEAVE_AFTER.as_secs())
        }
    }
}

/// One entry per name with a value that a chip can have. Twice the same name: the hotter one with the lower
/// limit.
fn plausible(sensors: &[Temperature]) -> impl Iterator<Item = (&str, f32, Option<f32>)> {
    let mut seen: BTreeMap<&str, (f32, Option<f32>)> = BTreeMap::new();
    for sensor in sensors.iter().filter(|sensor| sensor::is_value(sensor.value.0)) {
        let limit = sensor.limit.map(|limit| limit.0).filter(|limit| sensor::is_limit(*limit));
        let entry = seen.entry(&sensor.sensor).or_insert((sensor.value.0, limit));
        entry.0 = entry.0.max(sensor.value.0);
        entry.1 = match (entry.1, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    seen.into_iter().map(|(name, (value, limit))| (name, value, limit))
}

#[cfg(test)]
#[path = "thermal/tests.rs"]
mod tests;
