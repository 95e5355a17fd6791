//! A long text that means nothing, with one sentence in it that does. The same for the same seed on every machine.

use mesh_core::trial::Question;
use serde_json::json;

/// Where the sentence stands, in percent of the text.
pub(super) const DEPTHS: [u32; 3] = [25, 50, 75];
/// Tokens of a template, the question and the sentence itself.
const MARGIN: u32 = 160;
/// Fewer tokens than these are no long text.
const LEAST: u32 = 256;
/// Tokens of one word, where the engine cannot count: English has four for three words, many languages' tokenizers two for
/// one. A text that is too short is told; one that is too long would be refused.
const CAUTIOUS: f64 = 2.0;
/// What the count of a sample may be wrong by.
const SLACK: f64 = 0.97;
/// Words of that sample.
pub(super) const SAMPLE: usize = 800;

const SUBJECTS: [&str; 8] = [
    "The baker",
    "A tall gardener",
    "The old captain",
    "My neighbour",
    "The quiet clerk",
    "A young painter",
    "The miller",
    "Her cousin",
];
const VERBS: [&str; 8] =
    ["carried", "painted", "forgot", "borrowed", "repaired", "counted", "washed", "wrapped"];
const OBJECTS: [&str; 8] = [
    "a wooden chair",
    "the blue lamp",
    "three letters",
    "a basket of apples",
    "the long rope",
    "an empty bottle",
    "the brass key",
    "a heavy coat",
];
const PLACES: [&str; 8] = [
    "near the bridge.",
    "behind the mill.",
    "in the harbour.",
    "on a Sunday.",
    "before the rain.",
    "beside the road.",
    "after breakfast.",
    "without a word.",
];
const TOWNS: [&str; 3] = ["Varnholt", "Quellmar", "Tisbrook"];

/// How long a text may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Room {
    /// Tokens of the text.
    pub(super) text: u32,
    /// The most tokens of the answer.
    pub(super) answer: u32,
}

/// What a context leaves for a text and its answer, of `most` tokens together at most; `None` = too little.
pub(super) fn room(context: u32, most: u32) -> Option<Room> {
    let whole = context.min(most);
    // Models that think first need some room; a short context must not go into that.
    let answer = (whole / 8).clamp(64, 2048);
    let text = whole.checked_sub(answer + MARGIN).filter(|text| *text >= LEAST)?;
    Some(Room { text, answer })
}

/// `count` words of a text that means nothing, and holds no number.
pub(super) fn words(seed: u64, count: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut pick = |list: [&'static str; 8]| {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        list[usize::try_from(state >> 61).unwrap_or(0)]
    };
    let (mut text, mut there) = (String::new(), 0);
    while there < count {
        for list in [SUBJECTS, VERBS, OBJECTS, PLACES] {
            let part = pick(list);
            there += part.split(' ').count();
            text.push_str(part);
            text.push(' ');
        }
    }
    text.trim_end().to_owned()
}

/// How many words have so many tokens, where `sample` words of such a text had `counted`; `None` = the engine cannot count.
pub(super) fn words_in(tokens: u32, counted: Option<u32>) -> usize {
    let per_word = counted.filter(|tokens| *tokens > 0).map(|tokens| f64::from(tokens) / SAMPLE as f64);
    let count = match per_word {
        Some(per_word) => f64::from(tokens) * SLACK / per_word,
        None => f64::from(tokens) / CAUTIOUS,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 2^20 tokens, and positive"
    )]
    let count = count as usize;
    count
}

/// What has to be found at the depth that is number `at`: five digits.
pub(super) fn code(seed: u64, at: usize) -> String {
    let mixed = seed.wrapping_add(at as u64 + 1).wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
    (10_000 + mixed % 90_000).to_string()
}

/// One question for each depth, about texts of so many words.
pub(super) fn questions(seed: u64, count: usize, most_tokens: u32) -> Vec<Question> {
    let question = |(at, depth): (usize, &u32)| {
        let hay = words(seed.wrapping_add(at as u64), count);
        let (before, after) = split(&hay, *depth);
        let (town, code) = (TOWNS[at % TOWNS.len()], code(seed, at));
        let content = format!(
            "Read this text.\n\n{before} The secret number of {town} is {code}. {after}\n\nWhat is the secret number of \
             {town}? Answer with the number only."
        );
        Question {
            id: id(*depth),
            path: "/v1/chat/completions".into(),
            body: json!({
                "messages": [{"role": "user", "content": content}],
                "max_tokens": most_tokens,
                "temperature": 0,
                "seed": seed,
                "stream": true,
                "stream_options": {"include_usage": true},
            })
            .to_string(),
        }
    };
    DEPTHS.iter().enumerate().map(question).collect()
}

fn id(depth: u32) -> String {
    format!("needle-{depth}")
}

/// Which depth, by its number, the question with this id is about; `None` = none.
pub(super) fn asked(question: &str) -> Option<usize> {
    DEPTHS.iter().position(|depth| id(*depth) == question)
}

/// The text in two, at the end of the sentence that reaches so many percent.
fn split(text: &str, percent: u32) -> (&str, &str) {
    let at = text.len() * percent as usize / 100;
    let end = text[at..].find(". ").map_or(text.len(), |more| at + more + 1);
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_for_the_same_seed_and_hold_no_number() {
        assert_eq!(words(7, 200), words(7, 200));
        assert_ne!(words(7, 200), words(8, 200));
        let text = words(7, 200);
        let count = text.split(' ').count();
        assert!((200..215).contains(&count), "{count}");
        assert!(!text.contains(|c: char| c.is_ascii_digit()));
    }

    #[test]
    fn the_sentence_stands_where_it_should_and_once() {
        assert_eq!((asked("needle-99"), asked("")), (None, None));
        for (at, (question, depth)) in questions(3, 2000, 64).iter().zip(DEPTHS).enumerate() {
            let body: serde_json::Value = serde_json::from_str(&question.body).expect("JSON");
            let content = body["messages"][0]["content"].as_str().expect("a text");
            let code = code(3, at);
            assert_eq!(
                (content.matches(&code).count(), question.id.as_str()),
                (1, &*format!("needle-{depth}"))
            );
            assert_eq!(asked(&question.id), Some(at));
            let place = content.find(&code).expect("it is there") * 100 / content.len();
            assert!(place.abs_diff(depth as usize) <= 2, "{place} % of {depth} %");
        }
    }

    #[test]
    fn codes_have_five_digits_and_are_different() {
        let codes: std::collections::BTreeSet<String> = (0..3).map(|at| code(1, at)).collect();
        assert_eq!(codes.len(), 3);
        assert!((0..500).all(|seed| code(seed, 0).len() == 5));
    }

    #[test]
    fn a_text_leaves_room_for_its_answer_and_a_short_context_has_none() {
        assert_eq!(room(16_640, 16_512), Some(Room { text: 16_512 - 2048 - 160, answer: 2048 }));
        assert_eq!(room(2048, 16_512), Some(Room { text: 1632, answer: 256 }));
        assert_eq!((room(400, 16_512), room(480, 16_512).is_some()), (None, true));
    }

    #[test]
    fn words_follow_the_engines_count_and_are_few_without_one() {
        assert_eq!(words_in(1000, Some(800)), 970);
        assert_eq!(words_in(1000, Some(1600)), 485);
        assert_eq!((words_in(1000, None), words_in(1000, Some(0))), (500, 500));
    }
}
