//! Tests of the verdicts.

use super::*;

fn answer(text: &str) -> Answer<'_> {
    Answer { text, finish_reason: Some("stop"), ..Answer::default() }
}

#[test]
fn nothing_white_space_and_special_tokens_are_empty() {
    for text in ["", " \n\t ", "<|im_end|>", "<|endoftext|> </s>\n"] {
        assert_eq!(judge(&answer(text), Expectation::WHOLE).word(), "empty", "{text:?}");
    }
    assert_eq!(judge(&answer("Hello."), Expectation::WHOLE), Verdict::Good);
}
