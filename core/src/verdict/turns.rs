//! Finds answers that do not stop: the model has no working end-of-turn, so it goes on with the user's next
//! question, or it writes until it runs out of tokens where a sound model has long ended.

/// What only chat templates write before a user's turn, by family: ChatML, Llama 3, Gemma, Phi, DeepSeek,
/// Llama 2, Command R.
const TEMPLATES: [&str; 8] = [
    "<|im_start|>user",
    "<|start_header_id|>user",
    "<start_of_turn>user",
    "<|user|>",
    "<｜User｜>",
    "<|User|>",
    "[INST]",
    "<|USER_TOKEN|>",
];
/// The same in plain words, alone on a line or before the question: what is left of a template whose special
/// tokens the engine does not show. People write dialogues in this form, so it counts only in an answer that had
/// to be short and was cut.
const ROLES: [&str; 6] = ["User:", "Human:", "### Instruction", "### User", "### Human", "Q:"];
/// The same without a colon, alone on the line.
const BARE_ROLES: [&str; 2] = ["user", "human"];

/// What ends a turn; a user's turn that follows at once is none that is talked about.
const ENDS: [&str; 8] = [
    "<|im_end|>",
    "</s>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
    "<|end|>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
];

/// Whether the answer holds the beginning of a user's turn that a template would write. What stands between
/// backticks or in the middle of a line explains a template; what stands before any answer is the template's
/// own fault.
pub(super) fn next_turn(text: &str) -> bool {
    let begins = |line: &str, at: usize, is_first: bool| {
        let before = &line[..at];
        let is_quoted = before.matches('`').count() % 2 == 1;
        let is_alone = before.trim().is_empty() && !is_first;
        !is_quoted && (is_alone || ENDS.iter().any(|end| before.trim_end().ends_with(end)))
    };
    plain_lines(text).any(|(is_first, line)| {
        TEMPLATES.iter().any(|turn| line.match_indices(turn).any(|(at, _)| begins(line, at, is_first)))
    })
}

/// Whether a line of the answer, but not the first, begins a user's turn in plain words.
pub(super) fn next_role(text: &str) -> bool {
    let begins =
        |line: &str| ROLES.iter().any(|role| line.starts_with(role)) || BARE_ROLES.contains(&line.trim_end());
    let mut lines = plain_lines(text).map(|(_, line)| line);
    // A dialogue from its first line on is one that was asked for.
    lines.next().is_some_and(|first| !begins(first)) && lines.any(begins)
}

/// The lines outside of fenced code, with whether nothing but white space stands before.
fn plain_lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let (mut is_fenced, mut is_first) = (false, true);
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
            is_first = false;
            return None;
        }
        if is_fenced || line.trim().is_empty() {
            return None;
        }
        Some((std::mem::replace(&mut is_first, false), line))
    })
}
