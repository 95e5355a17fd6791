//! Clocks that run on while the machine sleeps, against the one that stands still then (`CLOCK_MONOTONIC`, which
//! tokio's [`Instant`] reads on Linux).

use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A jump of this size is a sleep. Shorter ones may be a clock that is set right, and cost little: links notice
/// a silence of some seconds by themselves.
pub(super) const SLEPT: Duration = Duration::from_secs(30);

/// Time since some moment in the past; `None` when it cannot be read.
pub type Clock = Box<dyn FnMut() -> Option<Duration> + Send>;

/// Some clocks that run on.
pub struct Clocks {
    clocks: Vec<(Clock, Option<Duration>)>,
    last: Instant,
}

impl Clocks {
    /// Compares `clocks` with the one that stands still.
    #[must_use]
    pub fn new(clocks: Vec<Clock>) -> Self {
        Self { clocks: clocks.into_iter().map(|clock| (clock, None)).collect(), last: Instant::now() }
    }

    /// By how much the clocks have run ahead since the last call: the most that any of them says.
    pub(super) fn jump(&mut self) -> Option<Duration> {
        let awake = self.last.elapsed();
        self.last = Instant::now();
        let mut jumps = Vec::new();
        for (clock, last) in &mut self.clocks {
            let now = clock();
            if let (Some(now), Some(last)) = (now, *last) {
                // A clock that was set back has not slept.
                jumps.push(now.saturating_sub(last).saturating_sub(awake));
            }
            *last = now;
        }
        jumps.into_iter().max()
    }
}

/// Time since the machine started, sleep included: the first number of `/proc/uptime` below `root`.
#[must_use]
pub fn boot_clock(root: PathBuf) -> Clock {
    let path = root.join("proc/uptime");
    Box::new(move || {
        let text = std::fs::read_to_string(&path).ok()?;
        let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    })
}

/// The time of day. It also shows the pauses of a virtual machine, and it jumps when it is set.
#[must_use]
pub fn wall_clock() -> Clock {
    Box::new(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn scripted() -> (Arc<Mutex<Option<Duration>>>, Clock) {
        let time = Arc::new(Mutex::new(Some(Duration::from_secs(1000))));
        let shown = time.clone();
        (time, Box::new(move || *shown.lock().expect("not poisoned")))
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_that_passes_while_the_machine_stands_still_is_a_jump() {
        let ((boot, boot_clock), (wall, wall_clock)) = (scripted(), scripted());
        let mut clocks = Clocks::new(vec![boot_clock, wall_clock]);
        assert_eq!(clocks.jump(), None, "nothing to compare with yet");
        let set = |clock: &Mutex<Option<Duration>>, seconds: Option<u64>| {
            *clock.lock().expect("not poisoned") = seconds.map(Duration::from_secs);
        };
        tokio::time::advance(Duration::from_secs(100)).await;
        set(&boot, Some(1100));
        set(&wall, Some(1100));
        assert_eq!(clocks.jump(), Some(Duration::ZERO));
        set(&boot, Some(1150));
        assert_eq!(clocks.jump(), Some(Duration::from_secs(50)));
        assert_eq!(clocks.jump(), Some(Duration::ZERO), "a jump is told once");
        set(&wall, Some(10));
        assert_eq!(clocks.jump(), Some(Duration::ZERO), "set back");
        set(&boot, None);
        set(&wall, None);
        assert_eq!(clocks.jump(), None);
        set(&wall, Some(5000));
        assert_eq!(clocks.jump(), None, "readable again, nothing to compare with");
        set(&wall, Some(5040));
        assert_eq!(clocks.jump(), Some(Duration::from_secs(40)));
    }

    #[test]
    fn this_machines_clocks_run() {
        let (mut boot, mut wall) = (boot_clock("/".into()), wall_clock());
        assert!(boot().is_some_and(|up| up > Duration::ZERO));
        assert!(wall().is_some_and(|now| now > Duration::from_secs(1_700_000_000)));
        assert_eq!(boot_clock("/not/there".into())(), None);
    }
}
