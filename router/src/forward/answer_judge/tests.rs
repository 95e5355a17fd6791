//! Answers as engines give them, whole and in pieces.

use super::*;
use mesh_core::id::MachineId;
use mesh_core::machine::{Engine, EngineKind, Replica, ReplicaState};

fn id(name: &str) -> ModelId {
    ModelId::new(name).expect("valid")
}

fn view(models: &[&str]) -> FleetView {
    let mut fleet = mesh_core::fleet::Fleet::default();
    let (machine, now) = (MachineId::new("msi").expect("valid"), mesh_core::units::Moment(0));
    let mut engine = Engine::new("llama-server-1", EngineKind::LlamaServer, true);
    engine.replicas = models.iter().map(|name| Replica::new(id(name), ReplicaState::Loaded)).collect();
    fleet.attached(&machine, now);
    let report = mesh_core::machine::Report { engines: Some(vec![engine]), ..Default::default() };
    fleet.apply(&machine, report, now);
    fleet.view(now)
}

const CHAT: Known = Known { counted: None, at_least: None, context: None, is_stream: false, is_chat: true };

fn usage(completion: u64) -> Usage {
    Usage { completion_tokens: Some(completion), ..Usage::default() }
}

fn faults_of(known: Known, tokens: u64, frames: &[&str]) -> Vec<&'static str> {
    let mut judge = AnswerJudge::default();
    frames.iter().for_each(|frame| judge.look(frame.as_bytes()));
    let judgement =
        judge.judgement(usage(tokens), &known, &id("tiny"), &view(&["tiny", "qwen3:8b", "other"]));
    judgement.faults.iter().map(Fault::word).collect()
}

#[test]
fn an_empty_chat_is_told_from_one_with_text_thoughts_or_tools() {
    let answer = |message: &str, finish: &str| {
        format!(
            r#"{{"choices":[{{"finish_reason":"{finish}","index":0,"message":{{"role":"assistant",{message}}}}}],"model":"tiny"}}"#
        )
    };
    for (message, finish, empty) in [
        (r#""content":"""#, "stop", true),
        (r#""content":null"#, "stop", true),
        (r#""content":"","tool_calls":[]"#, "length", true),
        (r#""content":" \n\t""#, "stop", true),
        (r#""content":" \n""#, "length", false),
        (r#""content":"\u0041""#, "stop", false),
        (r#""content":"\\""#, "stop", false),
        (r#""content":"","reasoning_content":"hm""#, "length", false),
        (
            r#""content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]"#,
            "tool_calls",
            false,
        ),
    ] {
        let faults = faults_of(CHAT, 5, &[&answer(message, finish)]);
        assert_eq!(faults == ["empty"], empty, "{message}: {faults:?}");
        assert!(faults_of(CHAT, 0, &[&answer(message, finish)]).is_empty(), "no tokens spent: {message}");
        let completion = Known { is_chat: false, ..CHAT };
        assert!(faults_of(completion, 5, &[&answer(message, finish)]).is_empty(), "nothing to fill in");
    }
}

#[test]
fn a_stream_is_judged_wherever_its_frames_are_cut_apart() {
    let stream = Known { is_stream: true, ..CHAT };
    let delta = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":null,\"delta\":{{\"content\":\"{text}\"}}}}],\"model\":\"tiny\"}}\n\n"
        )
    };
    let finish = "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}]}\n\n";
    let said = "say \\\"finish_reason\\\":\\\"stop\\\" and \\\"model\\\":\\\"other\\\"";
    assert_eq!(faults_of(stream, 9, &[&delta(said), finish, "data: [DONE]\n\n"]), Vec::<&str>::new());
    assert_eq!(faults_of(stream, 9, &[&delta(said), "data: [DONE]\n\n"]), ["no_finish"]);
    assert_eq!(faults_of(stream, 9, &[&delta(""), finish]), ["empty"]);
    assert_eq!(faults_of(stream, 9, &[": a \"stray quote\n\n", &delta("x"), finish]), Vec::<&str>::new());
    let together = [delta("x"), finish.to_owned()].concat();
    assert_eq!(faults_of(stream, 9, &[&together]), Vec::<&str>::new());
}

#[test]
fn an_answer_that_ends_in_a_loop_is_doubtful_and_no_failure() {
    let mut judge = AnswerJudge::default();
    for _ in 0..900 {
        judge.look(b"data: {\"choices\":[{\"delta\":{\"content\":\" the same\\n\"}}]}\n\n");
    }
    judge.look(b"data: {\"choices\":[{\"finish_reason\":\"length\",\"delta\":{}}]}\n\n");
    let judgement = judge.judgement(usage(900), &CHAT, &id("tiny"), &view(&[]));
    assert_eq!(judgement.outcome(Lesson::default()), Outcome::Doubtful);
    assert!(judgement.text().contains("endless repetition: a piece of 11 bytes"), "{}", judgement.text());
    assert!(judge.may_be_stopped().is_some());
    assert!(!judgement.text().contains("same"), "nothing of the answer");
}

#[test]
fn another_model_of_the_mesh_is_found_and_aliases_are_not() {
    let view = view(&["qwen3:8b", "qwen3:30b", "tiny", "Llama-3.2-3B"]);
    let said = |asked: &str, name: &str| other_model(name, &id(asked), &view);
    for (asked, name) in [
        ("tiny", "tiny"),
        ("tiny", "/models/tiny.gguf"),
        ("tiny", "tiny-q8_0.gguf"),
        ("Llama-3.2-3B", "bartowski/llama-3.2-3b-instruct-Q4_K_M.gguf"),
        ("qwen3:8b", "qwen3"),
        ("qwen3:8b", "C:\\models\\Qwen3-8B.gguf"),
        ("qwen3:8b", ""),
    ] {
        assert_eq!(said(asked, name), None, "{asked}: {name}");
    }
    assert_eq!(said("tiny", "qwen3:8b"), Some(Fault::OtherModel { ours: Some(id("qwen3:8b")) }));
    assert_eq!(said("qwen3:8b", "qwen3:30b"), Some(Fault::OtherModel { ours: Some(id("qwen3:30b")) }));
    assert_eq!(
        said("tiny", "/m/llama-3.2-3b.gguf"),
        Some(Fault::OtherModel { ours: Some(id("Llama-3.2-3B")) })
    );
    assert_eq!(said("tiny", "gpt-4o"), Some(Fault::OtherModel { ours: None }));
    let judgement = Judgement { faults: vec![Fault::OtherModel { ours: None }] };
    assert_eq!(
        judgement.outcome(Lesson::default()),
        Outcome::Answered(Some(Box::default())),
        "a strange name alone is no fault"
    );
}

#[test]
fn any_bytes_are_looked_at_without_harm() {
    let text: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let mut judge = AnswerJudge::default();
    for end in (0..text.len()).step_by(7) {
        judge.look(&text[end / 2..end]);
    }
    for tail in ["\"", "\"\\", "\"content\":\"", "\"content\":\"\\", "\"content\":", "\"tool_calls\":["] {
        judge.look(tail.as_bytes());
    }
}
