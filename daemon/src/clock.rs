//! The only clock of a process. It is tokio's, so tests can pause and advance it.

use mesh_core::units::Moment;
use std::time::SystemTime;
use tokio::time::Instant;

/// The first moment of a clock, in microseconds: "an hour ago" is a valid moment.
const FIRST: u64 = 3_600_000_000;

/// A monotonic clock with an origin of its own. Clones share the origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now. Its first moment is one hour.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        // Read some ten times for each request: in plain arithmetic.
        let since = self.origin.elapsed();
        Moment(FIRST + since.as_secs() * 1_000_000 + u64::from(since.subsec_micros()))
    }

    /// Completes at `moment`.
    pub async fn sleep_until(&self, moment: Moment) {
        tokio::time::sleep_until(Instant::now() + moment.since(self.now())).await;
    }
}

/// Wall-clock time in milliseconds since 1970, for records that people read.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Minutes since midnight where this machine is; by UTC where its zone cannot be read.
#[must_use]
pub fn minute_of_day() -> u16 {
    let time = jiff::Zoned::now().time();
    u16::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_the_day_is_one_of_1440() {
        assert!(minute_of_day() < 1440);
    }
}
