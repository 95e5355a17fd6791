//! Made-up prompts of a wanted length: plain words at random, the same for the same seed on every machine.

/// Plain English words of one to three tokens.
const WORDS: [&str; 64] = [
    "the", "river", "and", "stone", "of", "light", "under", "morning", "a", "small", "house", "with",
    "green", "window", "beside", "road", "that", "goes", "north", "through", "quiet", "fields", "where",
    "horses", "stand", "in", "summer", "rain", "people", "carry", "bread", "water", "letters", "from", "one",
    "village", "to", "another", "while", "children", "count", "clouds", "or", "look", "for", "old", "coins",
    "near", "bridge", "every", "evening", "lamp", "is", "lit", "by", "hand", "before", "boats", "return",
    "slowly", "against", "wind", "again", "now",
];

/// `count` words. Each seed begins with other words, so that no cache of a prompt's beginning helps.
pub(super) fn words(seed: u64, count: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::with_capacity(count * 6);
    for number in 0..count {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if number > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[usize::try_from(state >> 58).unwrap_or(0)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_the_same_for_the_same_seed_and_begin_differently_for_others() {
        assert_eq!(words(7, 50), words(7, 50));
        assert_eq!(words(7, 50).split(' ').count(), 50);
        let beginnings: std::collections::BTreeSet<String> = (0..200).map(|seed| words(seed, 8)).collect();
        assert_eq!(beginnings.len(), 200);
        let used: std::collections::BTreeSet<&str> = WORDS.iter().copied().collect();
        let text = words(1, 5000);
        let seen: std::collections::BTreeSet<&str> = text.split(' ').collect();
        assert_eq!(seen, used, "every word comes up");
    }
}
