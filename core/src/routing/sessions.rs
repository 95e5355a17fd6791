//! Where a session's last request of a model was answered: kept as long as no other replica is clearly better, for the
//! engine still has the session's prompt there.

use crate::fleet::{ReplicaKey, mixed};
use crate::units::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Sessions remembered: a bound, far above the editors of a home or an office.
const SESSIONS: usize = 4_096;
/// A session without a request for this long has ended, and its prompt has left the caches.
const LIFE: Duration = Duration::from_secs(3600);

/// The replica of each session and model.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    by_name: BTreeMap<u64, (ReplicaKey, Moment)>,
}

impl Sessions {
    /// Where `session` was answered last by the model with this number.
    #[must_use]
    pub fn at(&self, session: u64, model: u64, now: Moment) -> Option<ReplicaKey> {
        let (replica, since) = self.by_name.get(&mixed(session ^ model))?;
        (now.since(*since) < LIFE).then_some(*replica)
    }

    /// It was answered there.
    pub fn keep(&mut self, session: u64, model: u64, replica: ReplicaKey, now: Moment) {
        let name = mixed(session ^ model);
        if self.by_name.len() >= SESSIONS && !self.by_name.contains_key(&name) {
            self.by_name.retain(|_, (_, since)| now.since(*since) < LIFE);
            if self.by_name.len() >= SESSIONS
                && let Some(oldest) =
                    self.by_name.iter().min_by_key(|(_, (_, since))| *since).map(|(name, _)| *name)
            {
                self.by_name.remove(&oldest);
            }
        }
        self.by_name.insert(name, (replica, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{machine_id, model_id};

    fn replica(machine: &str) -> ReplicaKey {
        ReplicaKey::of(&machine_id(machine), &model_id("m"))
    }

    #[test]
    fn a_session_is_found_for_its_model_until_it_has_been_silent_for_an_hour() {
        let mut sessions = Sessions::default();
        sessions.keep(7, 1, replica("a"), Moment(0));
        sessions.keep(7, 2, replica("b"), Moment(0));
        let almost = Moment(0).plus(LIFE - Duration::from_secs(1));
        assert_eq!(sessions.at(7, 1, almost), Some(replica("a")));
        assert_eq!(sessions.at(7, 2, almost), Some(replica("b")));
        assert_eq!(sessions.at(8, 1, almost), None);
        assert_eq!(sessions.at(7, 1, Moment(0).plus(LIFE)), None);
    }

    #[test]
    fn a_flood_of_sessions_drops_the_oldest() {
        let mut sessions = Sessions::default();
        for session in 0..2 * SESSIONS as u64 {
            sessions.keep(session, 1, replica("a"), Moment(session));
        }
        let now = Moment(2 * SESSIONS as u64);
        assert_eq!(sessions.by_name.len(), SESSIONS);
        assert_eq!(sessions.at(0, 1, now), None);
        assert_eq!(sessions.at(SESSIONS as u64, 1, now), Some(replica("a")));
    }
}
