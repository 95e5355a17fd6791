//! Reads the corpus of answers, for the tests that measure the judge and for the one that derives its table.

use serde::Deserialize;

const MADE: [(&str, &str); 3] = [
    ("answers", include_str!("answers.jsonl")),
    ("made", include_str!("made.jsonl")),
    ("broken", include_str!("broken.jsonl")),
];
const BY_HAND: [(&str, &str); 5] = [
    ("human-latin", include_str!("human-latin.txt")),
    ("human-other", include_str!("human-other.txt")),
    ("human-mixed", include_str!("human-mixed.txt")),
    ("code", include_str!("code.txt")),
    ("shapes", include_str!("shapes.txt")),
];

/// One text. `label` is a verdict's word; `noise` = gibberish or repeated, either is right; `unclear` = nobody
/// can tell by the form, so it is printed and never counted.
#[derive(Deserialize)]
pub(crate) struct Sample {
    #[serde(default)]
    pub(crate) id: String,
    pub(crate) label: String,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) finish: Option<String>,
    #[serde(default)]
    pub(crate) tokens: Option<u32>,
    #[serde(default)]
    pub(crate) most_tokens: Option<u32>,
    /// `whole` = somebody waits for all of it.
    #[serde(default)]
    pub(crate) expect: Option<String>,
    pub(crate) text: String,
}

impl Sample {
    fn by_hand(id: String, block: &str) -> Self {
        let (kind, text) = block.split_once('\n').expect("a kind and a text");
        let (finish, text) = (Some("stop".to_owned()), text.trim_end_matches('\n').to_owned());
        let kind = kind.to_owned();
        Self { id, label: "good".into(), kind, finish, tokens: None, most_tokens: None, expect: None, text }
    }

    /// Whole kinds by their name, and single texts of the others.
    pub(crate) fn is_held_out(&self) -> bool {
        fnv(&self.kind).is_multiple_of(4) || fnv(&self.text).is_multiple_of(4)
    }
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Every text, in the order of the files.
pub(crate) fn corpus() -> Vec<Sample> {
    let made = MADE.iter().flat_map(|(file, lines)| {
        lines.lines().enumerate().map(move |(at, line)| {
            let sample: Sample = serde_json::from_str(line).expect("a line of the corpus");
            Sample { id: format!("{file}:{}", at + 1), ..sample }
        })
    });
    let by_hand = BY_HAND.iter().flat_map(|(file, text)| {
        let text = text.strip_prefix("%%% ").expect("a kind first");
        let blocks = text.split("\n%%% ").enumerate();
        blocks.map(move |(at, block)| Sample::by_hand(format!("{file}:{}", at + 1), block))
    });
    by_hand.chain(made).collect()
}
