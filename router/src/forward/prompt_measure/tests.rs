//! Bounds of prompts, and what they say of an engine's count.

use super::*;

fn words_of(prompt: &str) -> Option<u64> {
    let body = format!("{{\"model\":\"m\",\"messages\":{prompt}}}");
    words(&Head::read(body.as_bytes(), true).expect("valid"), body.as_bytes())
}

#[test]
fn words_are_counted_in_texts_only_and_never_more_than_there_are() {
    for (prompt, count) in [
        (r#"[{"role":"user","content":"What is Python?"}]"#, 4),
        (r#"[{"content":"d\u00e9j\u00e0 vu, déjà vu"}]"#, 4),
        (r#"[{"content":"one\ntwo\\nthree \"four\" five"}]"#, 3),
        (r#"[{"content":"a\nb  c\u00e9d \"e\" f"}]"#, 4),
        (r#"[{"content":"1 2 3 ... +++ x1 y-z"}]"#, 2),
        (r#"[{"content":"internationalisation"}]"#, 1),
        (r#"["one two", "three"]"#, 3),
        ("[]", 0),
    ] {
        let counted = words_of(prompt).expect("no thoughts");
        assert_eq!(counted, count, "{prompt}");
    }
    assert_eq!(words_of(r#"[{"content":"<think>so</think> yes"}]"#), None);
    assert_eq!(words_of(r#"[{"reasoning_content":"so","content":"yes"}]"#), None);
    let long = format!(r#"[{{"content":"{}"}}]"#, "word ".repeat(5000));
    assert_eq!(words_of(&long), Some(5000));
}

#[test]
fn a_count_far_under_what_the_prompt_has_means_that_it_was_cut() {
    let known = Known { counted: Some(5000), context: Some(4096), ..Known::default() };
    assert_eq!(known.truncated(2048), Some((2048, 5000)));
    assert_eq!(known.truncated(4990), None);
    assert_eq!(known.truncated(0), None, "not counted");
    let bounded = Known { counted: None, at_least: Some(3000), ..known };
    assert_eq!(bounded.truncated(1000), Some((1000, 3000)));
    assert_eq!(bounded.truncated(2990), None);
    assert_eq!(bounded.truncated(4096), Some((4096, 4096)), "exactly full");
    assert_eq!(Known::default().truncated(7), None);
    let short = Known { at_least: Some(20), ..Known::default() };
    assert_eq!(short.truncated(4), None, "a few tokens prove nothing");
}

#[test]
fn the_mode_s_limit_is_added_only_where_the_path_has_such_a_field() {
    let head = Head::read(br#"{"model":"m"}"#, true).expect("valid");
    assert!(
        mode_cap(&head, "/v1/chat/completions", 10).is_some_and(|(cap, _)| cap.add == Some("max_tokens"))
    );
    assert_eq!(mode_cap(&head, "/infill", 10), None);
    let less = Head::read(br#"{"model":"m","max_tokens":9}"#, true).expect("valid");
    assert_eq!(mode_cap(&less, "/v1/chat/completions", 10), None);
}
