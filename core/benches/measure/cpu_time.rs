//! Time on a processor, as criterion measures.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use std::time::Duration;

/// Time on a processor, so that what else the machine does is not counted.
pub(crate) struct CpuTime;

impl CpuTime {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures; the core itself does not")]
    /// What this thread has used since it began.
    pub(crate) fn now() -> Duration {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
        let first = told.split(' ').next().expect("three numbers");
        Duration::from_nanos(first.parse().expect("nanoseconds"))
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        // The kernel counts in ticks; nothing takes no time.
        (Self::now() - start).max(Duration::from_nanos(1))
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
