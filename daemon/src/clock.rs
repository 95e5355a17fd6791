//! The only clock of a process. It is tokio's, so tests can pause and advance it.

use mesh_core::units::Moment;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A monotonic clock with an origin of its own. Clones share the origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now. Its first moment is one hour, so that "an hour ago" is a valid moment.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(0).plus(Duration::from_secs(3600)).plus(self.origin.elapsed())
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
