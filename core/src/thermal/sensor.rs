//! One sensor: smoothed, with the states that it holds.

use super::latch::Latch;
use super::{DERATED_HEADROOM, HOT_HEADROOM, HYSTERESIS, LEAVE_AFTER, SMOOTHING, ThermalState, WARM_AFTER};
use crate::units::{Celsius, Moment};
use std::time::Duration;

/// Whether a chip can have this temperature. Broken sensors say 0, 127, 128, 255, −128 or −273.
pub(super) fn is_value(value: f32) -> bool {
    value.is_finite() && value > -30.0 && value < 125.0 && value != 0.0
}

/// Whether this can be a limit. Drivers without one report 0, 65 261.85 or −273.
pub(super) fn is_limit(limit: f32) -> bool {
    limit.is_finite() && (40.0..=130.0).contains(&limit)
}

/// One sensor's smoothed value and what it holds.
#[derive(Debug, Clone)]
pub(super) struct Sensor {
    smoothed: f32,
    limit: Option<f32>,
    seen: Moment,
    /// The next value is taken as it is.
    fresh: bool,
    warm: Latch,
    derated: Latch,
    hot: Latch,
}

impl Sensor {
    pub(super) fn new(value: f32, limit: Option<f32>, goal: Celsius, now: Moment) -> Self {
        let mut sensor = Self {
            smoothed: value,
            limit,
            seen: now,
            fresh: true,
            warm: Latch::new(WARM_AFTER),
            derated: Latch::new(Duration::ZERO),
            hot: Latch::new(Duration::ZERO),
        };
        sensor.read(value, limit, goal, now);
        sensor
    }

    /// A new value.
    pub(super) fn read(&mut self, value: f32, limit: Option<f32>, goal: Celsius, now: Moment) {
        if !self.counts(now) {
            // It was gone for so long that its past says nothing.
            (self.warm, self.derated, self.hot) =
                (Latch::new(WARM_AFTER), Latch::new(Duration::ZERO), Latch::new(Duration::ZERO));
            self.fresh = true;
        }
        if self.fresh {
            self.smoothed = value;
        } else {
            let passed = now.since(self.seen).as_secs_f32() / SMOOTHING.as_secs_f32();
            self.smoothed += (value - self.smoothed) * (1.0 - (-passed).exp());
        }
        (self.fresh, self.seen, self.limit) = (false, now, limit);
        let over = self.smoothed - goal.0;
        self.warm.feed(over > 0.0, over < -HYSTERESIS, now);
        // A limit that is no longer reported cannot press, and after a minute it no longer holds either.
        let headroom = self.headroom().unwrap_or(f32::INFINITY);
        for (latch, least) in [(&mut self.derated, DERATED_HEADROOM), (&mut self.hot, HOT_HEADROOM)] {
            latch.feed(headroom < least, headroom > least + HYSTERESIS, now);
        }
    }

    /// Whether it still has a say: a sensor that is gone neither cools nor heats, for a while.
    pub(super) fn counts(&self, now: Moment) -> bool {
        now.since(self.seen) < LEAVE_AFTER
    }

    pub(super) fn restart(&mut self, now: Moment) {
        self.fresh = true;
        self.seen = now;
        for latch in [&mut self.warm, &mut self.derated, &mut self.hot] {
            latch.restart(now);
        }
    }

    pub(super) fn state(&self) -> ThermalState {
        if self.hot.holds() {
            ThermalState::Hot
        } else if self.derated.holds() {
            ThermalState::Derated
        } else if self.warm.holds() {
            ThermalState::Warm
        } else {
            ThermalState::Ok
        }
    }

    fn headroom(&self) -> Option<f32> {
        self.limit.map(|limit| limit - self.smoothed)
    }

    /// How near it is to trouble: used only to choose which sensor gives the reason.
    pub(super) fn urgency(&self, goal: Celsius) -> f32 {
        self.smoothed - self.limit.unwrap_or(goal.0 + DERATED_HEADROOM)
    }

    /// Sensor, value, limit, in one line.
    pub(super) fn words(&self, name: &str, goal: Celsius, now: Moment) -> String {
        let value = Celsius(self.smoothed);
        let of = match self.limit {
            Some(limit) => format!("{name} {value} of {}", Celsius(limit)),
            None => format!("{name} {value}, no limit reported"),
        };
        let gone = if now > self.seen { ", cannot be read now" } else { "" };
        let headroom = self.headroom().unwrap_or(f32::INFINITY);
        let (entry, pressing) = match self.state() {
            ThermalState::Hot => (self.limit.map(|limit| limit - HOT_HEADROOM), headroom < HOT_HEADROOM),
            ThermalState::Derated => {
                (self.limit.map(|limit| limit - DERATED_HEADROOM), headroom < DERATED_HEADROOM)
            }
            ThermalState::Warm => (Some(goal.0), self.smoothed > goal.0),
            ThermalState::Ok | ThermalState::Unknown => return format!("{of}{gone}"),
        };
        let Some(entry) = entry else { return format!("{of}; it had a limit less than a minute ago{gone}") };
        if !pressing {
            let (below, wait) = (Celsius(entry - HYSTERESIS), LEAVE_AFTER.as_secs());
            format!("{of}; cooling, until below {below} for {wait} s{gone}")
        } else if self.state() == ThermalState::Warm {
            format!("{of}; over the goal of {goal}{gone}")
        } else {
            format!("{of}; less than {:.0} °C below its limit{gone}", self.limit.unwrap_or(entry) - entry)
        }
    }
}
