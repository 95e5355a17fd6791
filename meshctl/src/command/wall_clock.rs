//! The wall clock: when records begin and end, for people to read, and for ids that sort by time. It may jump: a battery is
//! empty, a server of time corrects it, a person sets it. So nothing is measured with it: durations are of
//! [`tokio::time::Instant`], which only goes forward, here and on the machines.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since 1970; 0 before that.
pub(super) fn now() -> u64 {
    #[cfg(test)]
    if let Some(told) = jumping::told() {
        return told;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that goes as a test wants.
#[cfg(test)]
pub(super) mod jumping {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    thread_local! {
        static TOLD: RefCell<VecDeque<u64>> = const { RefCell::new(VecDeque::new()) };
    }

    /// While it is there, this thread's clock tells these times, one for each look, and the last one from then on.
    pub(in crate::command) struct Jumps;

    impl Jumps {
        pub(in crate::command) fn through(times: impl IntoIterator<Item = u64>) -> Self {
            TOLD.set(times.into_iter().collect());
            Self
        }
    }

    impl Drop for Jumps {
        fn drop(&mut self) {
            TOLD.take();
        }
    }

    pub(super) fn told() -> Option<u64> {
        TOLD.with_borrow_mut(|times| if times.len() > 1 { times.pop_front() } else { times.front().copied() })
    }
}
