//! Byte strings that are looked for in every request or chunk. A search is prepared once and not each time: preparing
//! it takes longer than searching the few hundred bytes of a chunk.

use memchr::memmem::Finder;
use std::array;
use std::sync::OnceLock;

/// Some marks, for a `static`.
pub struct Marks<const N: usize> {
    texts: [&'static [u8]; N],
    finders: OnceLock<[Finder<'static>; N]>,
}

impl<const N: usize> Marks<N> {
    /// Of these texts.
    #[must_use]
    pub const fn new(texts: [&'static [u8]; N]) -> Self {
        Self { texts, finders: OnceLock::new() }
    }

    /// One prepared search for each text, in their order.
    pub fn finders(&self) -> &[Finder<'static>; N] {
        self.finders.get_or_init(|| array::from_fn(|at| Finder::new(self.texts[at])))
    }

    /// Whether any of them is in `bytes`.
    #[must_use]
    pub fn any_in(&self, bytes: &[u8]) -> bool {
        self.finders().iter().any(|finder| finder.find(bytes).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_texts_is_found_and_nothing_else() {
        static MARKS: Marks<2> = Marks::new([b"\"usage\"", b"[DONE]"]);
        for (text, wanted) in
            [("data: [DONE]", true), ("{\"usage\":1}", true), ("usage DONE", false), ("", false)]
        {
            assert_eq!(MARKS.any_in(text.as_bytes()), wanted, "{text}");
        }
    }
}
