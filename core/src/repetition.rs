//! Does a text that is being written go round in circles? Told piece by piece, in little memory, while it passes.
//!
//! [`crate::verdict`] judges a whole answer and takes its time; this watches answers on their way to a client, of
//! any length, for the one thing that shows while it happens: the same bytes again and again without end. It knows
//! no words: a loop whose rounds differ by a number is none to it.
//!
//! ```text
//!            the last 32 bytes stood there before, p bytes back            the next byte differs
//! no cycle ────────────────────────────────────────────────────► cycle(p) ──────────────────────► no cycle
//! ```

/// The longest piece that is looked for, in bytes: some 60 tokens. A list of records is longer.
pub const LONGEST_PIECE: usize = 256;
/// A run shorter than this (bytes) is no fault: some 500 tokens. Lines, tables and rows of zeros are shorter.
pub const LEAST_BYTES: u64 = 2_048;
/// A piece that stands there less often is no fault, however long it is.
pub const LEAST_TIMES: u64 = 12;

/// So many bytes that stood there before make a cycle worth following.
const NEEDLE: usize = 32;
/// A cycle is looked for after so many bytes: what it costs is spread over them.
const STEP: usize = 64;
/// Bytes that must be kept to look back from.
const KEPT: usize = LONGEST_PIECE + NEEDLE;

/// The same piece without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycle {
    /// Bytes of the piece.
    pub piece: usize,
    /// Bytes that it has taken so far, all its rounds together.
    pub bytes: u64,
}

impl Cycle {
    /// How often the piece stands there.
    #[must_use]
    pub fn times(&self) -> u64 {
        self.bytes / self.piece.max(1) as u64
    }
}

/// The watcher of one text. Its memory is bounded by a kilobyte.
#[derive(Debug, Clone, Default)]
pub struct Repetition {
    /// The end of the text: at least [`KEPT`] bytes once there are so many.
    tail: Vec<u8>,
    cycle: Option<Cycle>,
    since_search: usize,
}

impl Repetition {
    /// The text goes on with `piece`.
    pub fn push(&mut self, text: &[u8]) {
        for piece in text.chunks(STEP) {
            self.step(piece);
        }
    }

    /// The cycle that the text is in now, where it is long enough to be a fault.
    #[must_use]
    pub fn endless(&self) -> Option<Cycle> {
        self.cycle.filter(|cycle| cycle.bytes >= LEAST_BYTES && cycle.times() >= LEAST_TIMES)
    }

    fn step(&mut self, piece: &[u8]) {
        if self.tail.len() > KEPT + 4 * STEP {
            self.tail.drain(..self.tail.len() - KEPT);
        }
        let old = self.tail.len();
        self.tail.extend_from_slice(piece);
        if let Some(cycle) = &mut self.cycle {
            // The tail holds a whole piece: it was found there.
            if self.tail[old..] == self.tail[old - cycle.piece..self.tail.len() - cycle.piece] {
                cycle.bytes += piece.len() as u64;
                return;
            }
            self.cycle = None;
        }
        self.since_search += piece.len();
        if self.since_search >= STEP {
            self.since_search = 0;
            self.cycle = self.search();
        }
    }

    /// The shortest distance at which the last bytes stood there before.
    fn search(&self) -> Option<Cycle> {
        let from = self.tail.len().checked_sub(NEEDLE)?;
        let needle = &self.tail[from..];
        let last = *needle.last()?;
        (1..=LONGEST_PIECE.min(from))
            .find(|&back| {
                self.tail[self.tail.len() - 1 - back] == last
                    && self.tail[from - back..self.tail.len() - back] == *needle
            })
            .map(|piece| Cycle { piece, bytes: (NEEDLE + piece) as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pushes in pieces of `size` bytes, as tokens come.
    fn watched(text: &[u8], size: usize) -> Repetition {
        let mut repetition = Repetition::default();
        text.chunks(size).for_each(|piece| repetition.push(piece));
        repetition
    }

    #[test]
    fn one_sentence_without_end_is_found_whatever_the_pieces_it_comes_in() {
        let text = format!("Here is the answer. {}", "I am sorry, I cannot do that. ".repeat(120));
        for size in [1, 3, 7, 64, 100, 5000] {
            let cycle = watched(text.as_bytes(), size).endless().expect("it goes round");
            assert_eq!(cycle.piece, 30, "in pieces of {size}");
            assert!(cycle.times() > 100 && cycle.bytes <= text.len() as u64, "{cycle:?}");
        }
        assert_eq!(watched("a".repeat(3000).as_bytes(), 4).endless().map(|cycle| cycle.piece), Some(1));
    }

    #[test]
    fn what_ends_is_no_endless_repetition() {
        let mut repetition = watched("no ".repeat(2000).as_bytes(), 5);
        assert!(repetition.endless().is_some());
        repetition.push(b"but then it went on.");
        assert_eq!(repetition.endless(), None);
    }

    #[test]
    fn lists_code_and_drawn_lines_are_no_faults() {
        let list: String = (0..400).map(|at| format!("- item {at}: done\\n")).collect();
        let line = format!("Title\\n{}\\n", "-".repeat(200));
        let table: String = (0..200).map(|at| format!("| {at} | 0 | 0 | 0 |\\n")).collect();
        let code = "    assert_eq!(add(1, 2), 3);\\n".repeat(12);
        let record = (0..40).map(|at| format!("{}{}", "x".repeat(300), at)).collect::<String>();
        for text in [list, line, table, code, record] {
            assert_eq!(watched(text.as_bytes(), 4).endless(), None, "{}", &text[..40]);
        }
    }

    #[test]
    fn memory_stays_small_however_long_the_text_is() {
        let mut repetition = Repetition::default();
        for at in 0..200_000_u32 {
            repetition.push(&at.to_le_bytes());
        }
        assert!(repetition.tail.capacity() <= 1024, "{}", repetition.tail.capacity());
    }

    proptest! {
        #[test]
        fn a_cycle_of_any_piece_is_found_and_is_one(
            piece in prop::collection::vec(any::<u8>(), 1..LONGEST_PIECE),
            before in prop::collection::vec(any::<u8>(), 0..300),
            size in 1..200_usize,
        ) {
            let text: Vec<u8> = before.iter().copied().chain(piece.iter().copied().cycle().take(8000)).collect();
            let cycle = watched(&text, size).endless().expect("it goes round");
            // Itself periodic with what was found, over all the bytes that were counted.
            let run = &text[text.len() - cycle.bytes as usize..];
            prop_assert!(run.iter().zip(&run[cycle.piece..]).all(|(a, b)| a == b));
            prop_assert!(cycle.piece <= piece.len());
        }

        #[test]
        fn noise_is_never_a_cycle(text in prop::collection::vec(any::<u8>(), 0..6000)) {
            prop_assert_eq!(watched(&text, 5).endless(), None);
        }
    }
}
