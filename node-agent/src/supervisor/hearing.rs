//! Whether a child still answers, look by look, and when it is taken for hung.

use mesh_core::machine::EngineState;
use std::time::Duration;
use tokio::time::Instant;

/// How long a child may answer nothing at all until it is taken for hung and started again.
pub(super) const DEAF_LIMIT: Duration = Duration::from_secs(60);

/// What one look changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing: it answers as before, or is silent as before.
    Nothing,
    /// It no longer answers, and why.
    Silent(String),
    /// It answers again, after so long.
    Again(Duration),
    /// It has been silent for too long.
    Hung,
}

/// The looks at one child so far.
#[derive(Debug)]
pub(super) struct Hearing {
    answered: Instant,
    silent: bool,
}

impl Hearing {
    /// Of a child that was just started.
    pub(super) fn begin() -> Self {
        Self { answered: Instant::now(), silent: false }
    }

    /// Takes in what a look saw.
    pub(super) fn take(&mut self, state: &EngineState) -> Heard {
        match state {
            EngineState::Up | EngineState::Starting => {
                let silence = self.answered.elapsed();
                self.answered = Instant::now();
                if std::mem::take(&mut self.silent) { Heard::Again(silence) } else { Heard::Nothing }
            }
            EngineState::Down(_) if self.answered.elapsed() >= DEAF_LIMIT => Heard::Hung,
            EngineState::Down(_) if self.silent => Heard::Nothing,
            EngineState::Down(why) => {
                self.silent = true;
                Heard::Silent(why.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn down() -> EngineState {
        EngineState::Down("no answer within 2 s".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_told_when_it_begins_and_when_it_ends() {
        let mut hearing = Hearing::begin();
        assert_eq!(hearing.take(&EngineState::Starting), Heard::Nothing);
        assert_eq!(hearing.take(&EngineState::Up), Heard::Nothing);
        tokio::time::advance(SECOND).await;
        assert_eq!(hearing.take(&down()), Heard::Silent("no answer within 2 s".into()));
        tokio::time::advance(SECOND).await;
        assert_eq!(hearing.take(&down()), Heard::Nothing, "once");
        tokio::time::advance(SECOND).await;
        assert_eq!(hearing.take(&EngineState::Up), Heard::Again(3 * SECOND));
        assert_eq!(hearing.take(&EngineState::Up), Heard::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_without_any_answer_is_a_hang_and_a_minute_with_one_is_not() {
        let mut hearing = Hearing::begin();
        for _ in 0..3 {
            tokio::time::advance(DEAF_LIMIT - SECOND).await;
            assert_ne!(hearing.take(&down()), Heard::Hung);
            assert_ne!(hearing.take(&EngineState::Starting), Heard::Hung);
        }
        tokio::time::advance(DEAF_LIMIT).await;
        assert_eq!(hearing.take(&down()), Heard::Hung, "also at the first look");
    }
}
