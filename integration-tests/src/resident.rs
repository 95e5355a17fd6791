//! How much memory this process holds, as the kernel counts it.

use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Resident memory of this process in bytes: `VmRSS` of `/proc/self/status`.
///
/// # Panics
/// Where there is no `/proc`.
#[must_use]
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("these tests need Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib * 1024
}

/// Looks at the memory ten times a second and keeps the most.
pub struct Peak {
    start: u64,
    most: watch::Receiver<u64>,
    looking: JoinHandle<()>,
}

impl Peak {
    /// Begins to look.
    #[must_use]
    pub fn watch() -> Self {
        let start = resident();
        let (told, most) = watch::channel(start);
        let looking = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                let now = resident();
                told.send_if_modified(|most| std::mem::replace(most, now.max(*most)) < now);
            }
        });
        Self { start, most, looking }
    }

    /// The most bytes over those at the start.
    #[must_use]
    pub fn growth(&self) -> u64 {
        (*self.most.borrow()).max(resident()).saturating_sub(self.start)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.looking.abort();
    }
}
