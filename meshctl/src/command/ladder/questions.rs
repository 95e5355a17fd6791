//! The five questions that every rung answers. Fixed, so that rungs and machines can be compared; a change makes another
//! version.

use mesh_core::trial::Question;
use mesh_core::verdict::Expectation;
use serde_json::json;

/// The version of the set.
pub(in crate::command) const VERSION: &str = "v2";
/// The usual most tokens of an answer.
pub(crate) const MOST_TOKENS: u32 = 300;

/// Name, prompt, and what an answer is like. An end for want of tokens is no fault.
const ALL: [(&str, &str, Expectation); 5] = [
    ("explain", "Explain in two or three sentences why the sky is blue.", Expectation::SENTENCE),
    ("list", "Name three fruits and say one thing about the colour of each.", Expectation::SENTENCE),
    (
        "rewrite",
        "Write this sentence in other words: The train was late because of the snow.",
        Expectation::SENTENCE,
    ),
    ("code", "Write a short Python function that adds up the numbers of a list.", Expectation::BEGINNING),
    (
        "reason",
        "A box holds 12 eggs and I use 5. How many are left? Say how you know.",
        Expectation::SENTENCE,
    ),
];

/// All of them, as a client would ask; each answer has `most` tokens at most.
pub(in crate::command) fn questions(seed: u64, most: u32) -> Vec<Question> {
    let question = |(id, prompt, _): &(&str, &str, Expectation)| Question {
        id: (*id).into(),
        path: "/v1/chat/completions".into(),
        body: json!({
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": most,
            "temperature": 0,
            "seed": seed,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
        .to_string(),
    };
    ALL.iter().map(question).collect()
}

/// What the answer to `id` is to be like.
pub(in crate::command) fn expected(id: &str) -> Expectation {
    let known = ALL.iter().find(|(name, ..)| *name == id);
    known.map_or(Expectation::BEGINNING, |(_, _, expected)| *expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_has_a_name_of_its_own_and_the_same_sampling() {
        let all = questions(7, 300);
        let mut names: Vec<&str> = all.iter().map(|question| question.id.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 5);
        for question in &all {
            let body: serde_json::Value = serde_json::from_str(&question.body).expect("JSON");
            assert_eq!((&body["temperature"], &body["seed"]), (&json!(0), &json!(7)));
            assert!(body.get("model").is_none(), "the agent names it");
        }
        assert!(expected("explain").in_words && !expected("code").in_words);
    }
}
