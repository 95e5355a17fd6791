//! Wishes that failed rest before they are followed again: a router repeats its wish each second, and two that wish for
//! other sizes of one model would have its engine started again and again.

use super::RETRY_AFTER;
use mesh_core::machine::LoadWish;
use tokio::time::Instant;

/// Wishes whose engines broke that are kept apart: so many starts that break within [`RETRY_AFTER`], and no more. A person
/// who looks for the size that works tries two or three.
const MOST: usize = 4;

/// Wishes that failed not long ago.
#[derive(Debug, Default)]
pub(super) struct Rests {
    /// Their engines were started and broke, the longest ago first, each with the moment until which it rests.
    broke: Vec<(LoadWish, Instant, String)>,
    /// The last one that was not started at all. Another size may fit, and asking costs no start.
    refused: Option<(LoadWish, Instant)>,
}

impl Rests {
    /// The engine of `wish` was started, and broke before it served.
    pub(super) fn broke(&mut self, wish: LoadWish, why: String) {
        self.tidy();
        self.broke.retain(|(old, ..)| *old != wish);
        self.broke.push((wish, Instant::now() + RETRY_AFTER, why));
        if self.broke.len() > MOST {
            self.broke.remove(0);
        }
    }

    /// `wish` was not started.
    pub(super) fn refused(&mut self, wish: LoadWish) {
        self.refused = Some((wish, Instant::now() + RETRY_AFTER));
    }

    /// Everything is forgiven.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// When `wish` may be followed; `None` = now.
    pub(super) fn until(&self, wish: &LoadWish) -> Option<Instant> {
        let now = Instant::now();
        let resting = || self.broke.iter().filter(|(_, until, _)| *until > now);
        let of_wish = resting().find(|(old, ..)| old == wish).map(|(_, until, _)| *until);
        // As many as may have broken already: another one waits until the first of them has rested.
        let of_any =
            (resting().count() >= MOST).then(|| resting().map(|(_, until, _)| *until).min()).flatten();
        let of_refused = self.refused.as_ref().filter(|(old, until)| old == wish && *until > now);
        [of_wish, of_any, of_refused.map(|(_, until)| *until)].into_iter().flatten().max()
    }

    /// Why the engine of `wish` broke, while it rests for that.
    pub(super) fn why(&self, wish: &LoadWish) -> Option<&str> {
        let now = Instant::now();
        let of_wish = self.broke.iter().find(|(old, until, _)| old == wish && *until > now);
        of_wish.map(|(.., why)| why.as_str())
    }

    fn tidy(&mut self) {
        let now = Instant::now();
        self.broke.retain(|(_, until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::id::ModelId;
    use std::time::Duration;
    use tokio::time::advance;

    fn wish(context: u32) -> LoadWish {
        LoadWish { context: Some(context), ..LoadWish::from(ModelId::new("tiny").expect("a good name")) }
    }

    fn left(rests: &Rests, wish: &LoadWish) -> Option<Duration> {
        rests.until(wish).map(|until| until - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn each_wish_that_broke_rests_for_itself_and_another_one_does_not() {
        let mut rests = Rests::default();
        rests.broke(wish(1), "exited with code 1".into());
        advance(Duration::from_secs(4)).await;
        rests.broke(wish(2), "was killed".into());
        assert_eq!(left(&rests, &wish(1)), Some(RETRY_AFTER - Duration::from_secs(4)));
        assert_eq!(left(&rests, &wish(2)), Some(RETRY_AFTER));
        assert_eq!((left(&rests, &wish(3)), rests.why(&wish(1))), (None, Some("exited with code 1")));
        advance(Duration::from_secs(6)).await;
        assert_eq!((left(&rests, &wish(1)), rests.why(&wish(1))), (None, None), "it has rested");
        assert!(left(&rests, &wish(2)).is_some());
        rests.forget();
        assert_eq!(left(&rests, &wish(2)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn after_four_wishes_that_broke_a_fifth_waits_for_the_first_of_them() {
        let mut rests = Rests::default();
        for context in 1..=4 {
            assert_eq!(left(&rests, &wish(context)), None, "{context}");
            rests.broke(wish(context), "exited with code 1".into());
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(left(&rests, &wish(5)), Some(RETRY_AFTER - Duration::from_secs(4)));
        assert_eq!(left(&rests, &wish(4)), Some(RETRY_AFTER - Duration::from_secs(1)), "its own is longer");
        advance(RETRY_AFTER - Duration::from_secs(4)).await;
        assert_eq!(left(&rests, &wish(5)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_what_was_refused_only_the_last_rests() {
        let mut rests = Rests::default();
        for context in 1..=9 {
            assert_eq!(left(&rests, &wish(context)), None, "a size that was not asked for yet");
            rests.refused(wish(context));
        }
        assert_eq!((left(&rests, &wish(9)), left(&rests, &wish(8))), (Some(RETRY_AFTER), None));
    }
}
