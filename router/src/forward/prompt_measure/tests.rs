//! Bounds of prompts, and what they say of an engine's count.

use super::super::agent_links::{AgentAnswer, AnswerBody, LinkError};
use super::*;
use crate::forward::caller::Caller;
use futures_util::future::BoxFuture;
use futures_util::stream;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::routing::Slo;
use mesh_proto::v1::{BlobRequest, EngineAnswer, ResponseHead};
use serde_json::json;
use std::sync::Mutex;

fn words_of(prompt: &str) -> Option<u64> {
    let body = format!("{{\"model\":\"m\",\"messages\":{prompt}}}");
    words(Door::Chat, &Head::read(body.as_bytes(), true).expect("valid"), body.as_bytes())
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

/// An engine that answers every request with this, or never.
struct Says {
    answer: Option<(u32, &'static str)>,
    asked: Mutex<Vec<String>>,
}

impl Says {
    fn new(answer: Option<(u32, &'static str)>) -> Self {
        Self { answer, asked: Mutex::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl AgentLink for Says {
    fn open(&self, head: RequestHead, _: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        self.asked.lock().expect("no panic").push(head.path);
        let Some((status, text)) = self.answer else { return Box::pin(std::future::pending()) };
        let answer = EngineAnswer {
            status,
            content_type: "application/json".into(),
            engine: "e".into(),
            retry_after_s: None,
        };
        let head = ResponseHead { outcome: Some(Outcome::Answer(answer)) };
        let body: AnswerBody = stream::iter([Ok(Bytes::from_static(text.as_bytes()))]).boxed();
        Box::pin(async { Ok(AgentAnswer { head, body }) })
    }

    fn blob(&self, _: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
        Box::pin(async { Err(LinkError::Shutdown) })
    }
}

async fn measured(
    link: &Says,
    text: &str,
    context: Option<u32>,
    engine: EngineKind,
) -> Result<Measured, Failure> {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 4096});
    measured_at(Door::Chat, link, &body, context, engine).await
}

async fn measured_at(
    door: Door,
    link: &Says,
    body: &serde_json::Value,
    context: Option<u32>,
    engine: EngineKind,
) -> Result<Measured, Failure> {
    let incoming = Incoming {
        id: "req-1".into(),
        door,
        client: String::new(),
        body: Bytes::from(body.to_string()),
        slo: Slo::default(),
        caller: Caller::default(),
    };
    let head = Head::read(&incoming.body, true).expect("valid");
    let (machine, model) = (MachineId::new("msi").expect("valid"), ModelId::new("m").expect("valid"));
    let candidate = Candidate { context, ..Candidate::new(machine, model) };
    measure(link, &incoming, &head, &candidate, Some(engine)).await
}

fn beyond(measured: Result<Measured, Failure>) -> (u32, String) {
    let Err(Failure::Beyond { least_context, error }) = measured else { panic!("{measured:?}") };
    (least_context, error.message)
}

#[tokio::test]
async fn an_engine_that_cuts_in_silence_never_sees_a_prompt_with_more_words_than_tokens() {
    let link = Says::new(None);
    let long = "word ".repeat(5000);
    let (least, said) = beyond(measured(&link, &long, Some(4096), EngineKind::Ollama).await);
    assert_eq!(least, 5002, "`user` is a word, too");
    assert_eq!(
        said,
        "the prompt has at least 5001 tokens, but the model takes 4096 at once: shorten it, or ask a model with a larger context"
    );
    // Where it may fit, what is known is kept for later.
    let fits = measured(&link, &long, Some(8192), EngineKind::Ollama).await.expect("may fit");
    assert_eq!(fits.known.at_least, Some(5001));
    assert_eq!(fits.known.truncated(4096), Some((4096, 5001)));
    let unknown = measured(&link, &long, None, EngineKind::Ollama).await.expect("nothing is known");
    assert_eq!((unknown.known.at_least, unknown.known.context), (Some(5001), None));
    assert!(link.asked().is_empty(), "Ollama has nothing to ask");
}

#[tokio::test]
async fn a_long_system_text_makes_a_prompt_too_long_at_every_door_that_has_one() {
    let link = Says::new(None);
    let (long, hi) = ("word ".repeat(5000), json!([{"role": "user", "content": "Hi"}]));
    let blocks = json!([{"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}]);
    for (door, body) in [
        (Door::Messages, json!({"model": "m", "system": long, "messages": hi})),
        (Door::Messages, json!({"model": "m", "system": blocks, "messages": hi})),
        (Door::Responses, json!({"model": "m", "instructions": long, "input": "Hi"})),
        (Door::Responses, json!({"model": "m", "input": "Hi", "instructions": long})),
    ] {
        let (least, said) = beyond(measured_at(door, &link, &body, Some(4096), EngineKind::Ollama).await);
        assert!(least > 5000, "{door:?}: {said}");
        let fits = measured_at(door, &link, &body, Some(8192), EngineKind::Ollama).await;
        assert!(fits.is_ok(), "{door:?}: {fits:?}");
    }
    // Where it is no field of the dialect no engine reads it.
    let stray = json!({"model": "m", "system": long, "instructions": long, "messages": hi});
    let sent = measured_at(Door::Chat, &link, &stray, Some(4096), EngineKind::Ollama).await.expect("sent");
    assert_eq!(sent.known.at_least, Some(2), "`user` and `Hi`");
    // Tools may or may not be shown to the model: they are in the upper bound only.
    let tools = json!([{"type": "function", "function": {"name": "f", "description": long}}]);
    let tools = json!({"model": "m", "tools": tools, "messages": hi});
    let sent = measured_at(Door::Messages, &link, &tools, Some(4096), EngineKind::Ollama).await;
    assert!(sent.is_ok(), "{sent:?}");
    let counts = Says::new(Some((200, "{\"input_tokens\":5010}")));
    let counted = measured_at(Door::Chat, &counts, &tools, Some(4096), EngineKind::LlamaServer).await;
    assert_eq!(beyond(counted).0, 5011);
}

#[tokio::test]
async fn what_is_around_a_middle_may_be_cut_and_that_is_seen() {
    let (link, long) = (Says::new(None), "word ".repeat(5000));
    for (door, body) in [
        (Door::Infill, json!({"model": "m", "input_prefix": long, "input_suffix": "end"})),
        (Door::Fim, json!({"model": "m", "prompt": long, "suffix": "end"})),
        (Door::Completions, json!({"model": "m", "prompt": "end", "suffix": long})),
        (Door::OllamaGenerate, json!({"model": "m", "prompt": long, "suffix": "end"})),
    ] {
        let sent = measured_at(door, &link, &body, Some(2048), EngineKind::LlamaServer).await;
        let known = sent.expect("llama.cpp cuts it").known;
        assert_eq!((known.at_least, known.truncated(1540)), (Some(5001), Some((1540, 5001))), "{door:?}");
        assert_eq!(known.truncated(5001), None);
    }
    // Without a suffix it is a prompt as any other.
    let plain = json!({"model": "m", "prompt": long});
    let sent = measured_at(Door::Completions, &link, &plain, Some(2048), EngineKind::LlamaServer).await;
    assert_eq!(sent.expect("the engine refuses it").known.at_least, None);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_does_not_come_or_is_none_is_not_waited_for() {
    let long = "word ".repeat(5000);
    for answer in [None, Some((404, "{}")), Some((200, "[]")), Some((200, "{\"input_tokens\":-1}"))] {
        let link = Says::new(answer);
        let sent =
            measured(&link, &long, Some(4096), EngineKind::LlamaServer).await.expect("the engine decides");
        assert_eq!((sent.known.counted, sent.cap, sent.asked), (None, None, true), "{answer:?}");
        assert_eq!(link.asked(), [COUNT_PATH]);
        assert_eq!(counted_as(&Ok(sent)), Some("no_count"));
    }
}

#[tokio::test]
async fn bytes_decide_where_they_can_and_the_count_where_they_cannot() {
    let link = Says::new(Some((200, "{\"input_tokens\":4000,\"object\":\"response.input_tokens\"}")));
    let counted =
        measured(&link, &"x".repeat(9000), Some(4096), EngineKind::LlamaServer).await.expect("fits");
    assert_eq!(counted.known.counted, Some(4000));
    assert_eq!(counted.cap, Some((Cap { tokens: 96, add: None }, "what the context leaves")));
    assert_eq!(link.asked().len(), 1);
    for (bytes, engine) in
        [(3000, EngineKind::LlamaServer), (6000, EngineKind::LlamaServer), (9000, EngineKind::Vllm)]
    {
        let sent = measured(&link, &"x".repeat(bytes), Some(4096), engine).await.expect("sent");
        assert_eq!((sent.known.counted, sent.asked), (None, false), "{bytes} {engine:?}");
    }
    assert_eq!(link.asked().len(), 1, "nobody else was asked");
    let full = Says::new(Some((200, "{\"input_tokens\":4096}")));
    let (least, said) = beyond(measured(&full, &"x".repeat(9000), Some(4096), EngineKind::LlamaServer).await);
    assert_eq!(
        (least, said.as_str()),
        (
            4097,
            "the prompt has 4096 tokens, but the model takes 4096 at once: shorten it, or ask a model with a larger context"
        )
    );
}

#[test]
fn words_are_the_same_counted_one_by_one() {
    let text: Vec<u8> = (0..3000_u32).map(|n| b"ab c\t1 Z-[ {`@"[(n * n % 97 % 14) as usize]).collect();
    for from in [0, 1, 17, 2_700] {
        for before in [b' ', b'x'] {
            let text = &text[from..];
            let befores = std::iter::once(before).chain(text.iter().copied());
            let wanted =
                befores.zip(text).filter(|(before, byte)| *before == b' ' && byte.is_ascii_alphabetic());
            assert_eq!(runs(text, before), wanted.count() as u64, "from {from}");
        }
    }
    assert_eq!((runs(b"", b' '), runs(b"a", b' '), runs(b"a", b'x')), (0, 1, 0));
}

#[test]
fn thoughts_are_seen_by_their_marks_alone() {
    for marked in ["</think>", "<|channel|>", "{\"thinking\":1}", "reasoning_content"] {
        assert!(has_thoughts(format!("some > \"text\" {marked} and more").as_bytes()), "{marked}");
    }
    assert!(!has_thoughts(b"a -> b, \"channel\" > | think, reason"));
}
