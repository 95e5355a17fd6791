//! Whether the processor was slowed down for heat: Intel's counters in
//! `/sys/devices/system/cpu/cpu*/thermal_throttle`. AMD's processors have none in the kernel.

use super::{numbered_folders, read_number};
use mesh_core::machine::Reading;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Counted since the machine started: how often a core, and its package, was slowed down.
const COUNTERS: [&str; 2] = ["core_throttle_count", "package_throttle_count"];

/// More processors than this are not watched; the largest machines have half as many.
const CPU_LIMIT: usize = 1024;

/// Remembers the counters, for only their differences tell anything.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Mutex<BTreeMap<PathBuf, u64>>,
}

impl Throttle {
    /// Whether any counter has risen since the last call.
    pub(super) fn read(&self, root: &Path) -> Reading<bool> {
        let folder = root.join("sys/devices/system/cpu");
        let mut now = BTreeMap::new();
        for cpu in numbered_folders(&folder, "cpu").into_iter().take(CPU_LIMIT) {
            let counters = cpu.join("thermal_throttle");
            for path in COUNTERS.map(|name| counters.join(name)) {
                // A counter may be missing: old processors have none for their package.
                if let Ok(count) = read_number::<u64>(&path) {
                    now.insert(path, count);
                }
            }
        }
        // While this thread reads, no other one does; a poisoned lock holds numbers like any other.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, now);
        compare(&before, &last)
    }

    /// What was counted before does not matter any more: the machine has slept.
    pub(super) fn forget(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn compare(before: &BTreeMap<PathBuf, u64>, now: &BTreeMap<PathBuf, u64>) -> Reading<bool> {
    if now.is_empty() {
        return Reading::unknown(
            "no thermal_throttle counters: the kernel has them for Intel's processors only",
        );
    }
    let mut risen = None;
    for (path, count) in now {
        // Processors come and go, for example around a sleep.
        let Some(known) = before.get(path) else { continue };
        if count < known {
            return Reading::unknown(format!("{} went back from {known} to {count}", path.display()));
        }
        risen = Some(risen.unwrap_or(false) || count > known);
    }
    match risen {
        Some(risen) => Reading::Known(risen),
        None => Reading::unknown("told by the difference between two readings, and this is the first"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::Reading::Known;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a temporary folder"))
        }

        fn count(&self, cpu: u32, counter: &str, value: &str) {
            let folder = self.0.path().join(format!("sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
            std::fs::create_dir_all(&folder).expect("created");
            std::fs::write(folder.join(counter), value).expect("written");
        }
    }

    fn reason(reading: Reading<bool>) -> String {
        match reading {
            Reading::Unknown(reason) => reason,
            Known(value) => panic!("{value} is known"),
        }
    }

    #[test]
    fn the_first_reading_tells_nothing_and_the_next_whether_a_counter_has_risen() {
        let (machine, throttle) = (Machine::new(), Throttle::default());
        machine.count(0, "core_throttle_count", "7");
        machine.count(0, "package_throttle_count", "9\n");
        machine.count(1, "core_throttle_count", "0");
        let root = machine.0.path();
        assert!(reason(throttle.read(root)).contains("this is the first"));
        assert_eq!(throttle.read(root), Known(false));
        machine.count(1, "core_throttle_count", "1");
        assert_eq!(throttle.read(root), Known(true));
        assert_eq!(throttle.read(root), Known(false));
        machine.count(0, "package_throttle_count", "12");
        assert_eq!(throttle.read(root), Known(true));
        throttle.forget();
        assert!(reason(throttle.read(root)).contains("this is the first"));
    }

    #[test]
    fn a_counter_that_goes_back_is_unknown_for_one_reading() {
        let (machine, throttle) = (Machine::new(), Throttle::default());
        machine.count(0, "core_throttle_count", "7");
        throttle.read(machine.0.path());
        machine.count(0, "core_throttle_count", "2");
        assert!(reason(throttle.read(machine.0.path())).ends_with("went back from 7 to 2"));
        assert_eq!(throttle.read(machine.0.path()), Known(false));
    }

    #[test]
    fn processors_that_come_back_and_garbage_are_passed_over() {
        let (machine, throttle) = (Machine::new(), Throttle::default());
        let root = machine.0.path();
        assert!(reason(throttle.read(root)).contains("Intel's processors only"));
        machine.count(0, "core_throttle_count", "lots");
        assert!(reason(throttle.read(root)).contains("Intel's processors only"));
        machine.count(0, "core_throttle_count", "4");
        throttle.read(root);
        machine.count(3, "core_throttle_count", "400");
        assert_eq!(throttle.read(root), Known(false), "cpu3 has just come");
        machine.count(3, "core_throttle_count", "");
        assert_eq!(throttle.read(root), Known(false), "cpu3 has gone again");
    }
}
