//! A condition that must press for a while to be believed, and be gone for a minute to be forgotten.

use super::LEAVE_AFTER;
use crate::units::Moment;
use std::time::Duration;

/// ```text
///        pressed for `delay`                  calm for LEAVE_AFTER
/// open ──────────────────────► holding ──────────────────────────► open
/// ```
/// Between "pressed" and "calm" lies the hysteresis: there, nothing changes.
#[derive(Debug, Clone)]
pub(super) struct Latch {
    delay: Duration,
    holding: bool,
    pressed_since: Option<Moment>,
    calm_since: Option<Moment>,
}

impl Latch {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, holding: false, pressed_since: None, calm_since: None }
    }

    /// The condition at `now`: it presses, it is calm, or (neither) it lies in between.
    pub(super) fn feed(&mut self, pressed: bool, calm: bool, now: Moment) {
        if pressed {
            let since = *self.pressed_since.get_or_insert(now);
            self.holding |= now.since(since) >= self.delay;
        } else {
            self.pressed_since = None;
        }
        if calm {
            let since = *self.calm_since.get_or_insert(now);
            self.holding &= now.since(since) < LEAVE_AFTER;
        } else {
            self.calm_since = None;
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.holding
    }

    /// Both waits start anew at `now`.
    pub(super) fn restart(&mut self, now: Moment) {
        self.pressed_since = self.pressed_since.map(|_| now);
        self.calm_since = self.calm_since.map(|_| now);
    }
}
