//! Answers, whole and in streams.

use bytes::Bytes;
use router::forward::stream_guard::{Framing, StreamGuard};
use router::http::dialect::pieces::Source;
use router::http::dialect::translation::{Label, Translation, Voice};
use router::http::{anthropic, fim, ollama, responses};
use serde_json::{Value, json};

const CHAT: &str = include_str!("../captures/chat-stream-usage.txt");
const TOOLS: &str = include_str!("../captures/tools-forced-prefill-stream.txt");
const NATIVE: &str = include_str!("../captures/completion-native-stream.txt");

fn label() -> Label {
    Label { model: "tiny".into(), id: "req-1".into(), at_unix_ms: 1_795_221_182_007 }
}

fn voices() -> [(&'static str, Box<dyn Voice>); 6] {
    [
        ("ollama chat", Box::new(ollama::Lines::new(label(), true))),
        ("ollama generate", Box::new(ollama::Lines::new(label(), false))),
        ("anthropic", Box::new(anthropic::Messages::new(label()))),
        ("responses", Box::new(responses::Items::new(label()))),
        ("completion", Box::new(fim::Texts::new(label(), fim::Shape::Completion, true))),
        ("fim", Box::new(fim::Texts::new(label(), fim::Shape::Fim, false))),
    ]
}

fn voice(name: &str) -> Box<dyn Voice> {
    let found = voices().into_iter().find(|(known, _)| *known == name);
    found.expect("one of them").1
}

/// Through the guard and the translation, as in the router.
fn stream(source: Source, voice: Box<dyn Voice>, chunks: &[&[u8]]) -> String {
    let framing = if source == Source::Llama { Framing::Llama } else { Framing::OpenAi };
    let (mut guard, mut translation) = (StreamGuard::new(framing, true), Translation::new(source, voice));
    let mut out = Vec::new();
    for chunk in chunks {
        let mut frames = Vec::new();
        guard.push(Bytes::copy_from_slice(chunk), &mut frames).expect("short frames");
        for frame in frames {
            out.extend_from_slice(&translation.frames(&frame).expect("an answer"));
        }
    }
    String::from_utf8(out).expect("text")
}

fn whole(source: Source, name: &str, body: &str) -> Value {
    let told = Translation::new(source, voice(name)).whole(body.as_bytes()).expect("an answer");
    serde_json::from_slice(&told).expect("JSON")
}

/// The data of events, or the lines.
fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with("event:") && *line != "data: [DONE]")
        .map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).expect("JSON"))
        .collect()
}

#[test]
fn a_translated_stream_is_the_same_wherever_it_was_cut() {
    // The long one at every seventh byte only: it has the same kinds of frames dozens of times.
    for (source, recorded, step) in
        [(Source::Chat, CHAT, 1), (Source::Chat, TOOLS, 7), (Source::Llama, NATIVE, 1)]
    {
        for (name, _) in voices() {
            let bytes = recorded.as_bytes();
            let at_once = stream(source, voice(name), &[bytes]);
            for cut in (0..bytes.len()).step_by(step) {
                let told = stream(source, voice(name), &[&bytes[..cut], &bytes[cut..]]);
                assert_eq!(told, at_once, "{name} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(stream(source, voice(name), &single), at_once, "{name} byte by byte");
        }
    }
}

#[test]
fn a_broken_stream_never_gets_an_end() {
    let cut = CHAT.find("\"finish_reason\":\"length\"").expect("it has an end");
    for (name, _) in voices() {
        let told = stream(Source::Chat, voice(name), &[&CHAT.as_bytes()[..cut]]);
        assert!(!told.is_empty(), "{name}");
        for end in ["\"done\":true", "message_stop", "response.completed", "response.incomplete", "[DONE]"] {
            assert!(!told.contains(end), "{name}: {told}");
        }
    }
}

#[test]
fn what_is_no_answer_ends_a_translation_with_an_error() {
    let mut translation = Translation::new(Source::Chat, voice("anthropic"));
    assert!(translation.frames(b"data: {\"choices\":[]}\n\n").is_ok());
    assert!(translation.frames(b"data: <html>\n\n").is_err());
}

#[test]
fn ollama_s_lines_have_the_texts_and_at_the_end_the_reason_tokens_and_nanoseconds() {
    let lines = objects(&stream(Source::Chat, voice("ollama chat"), &[CHAT.as_bytes()]));
    let texts: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!(texts, "Lethomagest");
    let (last, others) = lines.split_last().expect("lines");
    assert!(others.iter().all(|line| line["done"] == false));
    assert_eq!(last["done"], true);
    assert_eq!(last["done_reason"], "length");
    assert_eq!((last["prompt_eval_count"].as_u64(), last["eval_count"].as_u64()), (Some(19), Some(6)));
    assert_eq!(last["eval_duration"], 665_749_000);
    assert_eq!(last["created_at"], "2026-11-21T00:33:02.007Z");
}

#[test]
fn ollama_gets_a_call_when_its_arguments_are_complete() {
    let lines = objects(&stream(Source::Chat, voice("ollama chat"), &[TOOLS.as_bytes()]));
    let calls: Vec<&Value> = lines.iter().map(|line| &line["message"]["tool_calls"]).collect();
    let call = calls.iter().find(|calls| calls.is_array()).expect("a call");
    assert_eq!(call[0]["function"]["name"], "get_time");
    assert!(call[0]["function"]["arguments"].is_object());
}

#[test]
fn anthropic_s_events_come_in_their_order_with_blocks_opened_and_closed() {
    let told = stream(Source::Chat, voice("anthropic"), &[CHAT.as_bytes()]);
    let kinds: Vec<String> =
        objects(&told).iter().map(|event| event["type"].as_str().expect("typed").into()).collect();
    let mut wanted = vec!["message_start", "content_block_start"];
    wanted.extend(["content_block_delta"; 6]);
    wanted.extend(["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(kinds, wanted);
    let events = objects(&told);
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"]["stop_reason"], "max_tokens");
    assert_eq!(last["usage"], json!({"input_tokens": 1, "cache_read_input_tokens": 18, "output_tokens": 6}));
    for (event, name) in events.iter().zip(told.lines().filter_map(|line| line.strip_prefix("event: "))) {
        assert_eq!(event["type"], name);
    }
}

#[test]
fn anthropic_s_tool_use_has_its_input_in_parts_that_join() {
    let events = objects(&stream(Source::Chat, voice("anthropic"), &[TOOLS.as_bytes()]));
    let start = events.iter().find(|event| event["type"] == "content_block_start").expect("a block");
    assert_eq!(start["content_block"]["type"], "tool_use");
    assert_eq!(start["content_block"]["name"], "get_time");
    let input: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert!(input.starts_with("{\"z\":"), "{input}");
}

#[test]
fn thoughts_and_texts_are_blocks_and_items_of_their_own() {
    let frames = concat!(
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"It\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
    );
    let events = objects(&stream(Source::Chat, voice("anthropic"), &[frames.as_bytes()]));
    let blocks: Vec<&Value> = events.iter().filter(|event| event["type"] == "content_block_start").collect();
    let kinds: Vec<&Value> = blocks.iter().map(|block| &block["content_block"]["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    let indices: Vec<u64> = blocks.iter().filter_map(|block| block["index"].as_u64()).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    // Some engines say `stop` although tools are to be called.
    assert!(events.iter().any(|event| event["delta"]["stop_reason"] == "tool_use"));

    let events = objects(&stream(Source::Chat, voice("responses"), &[frames.as_bytes()]));
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let last = &events.last().expect("events")["response"];
    let kinds: Vec<&Value> =
        last["output"].as_array().expect("items").iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(last["output"][1]["content"][0]["text"], "It");
    assert_eq!(last["output"][3]["call_id"], "b");
}

#[test]
fn a_response_that_met_its_limit_is_incomplete_and_keeps_its_text() {
    let events = objects(&stream(Source::Chat, voice("responses"), &[CHAT.as_bytes()]));
    let last = events.last().expect("events");
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "Lethomagest");
    assert_eq!(last["response"]["usage"]["input_tokens"], 19);
}

#[test]
fn texts_in_the_middle_are_told_in_both_shapes() {
    let completion = stream(Source::Llama, voice("completion"), &[NATIVE.as_bytes()]);
    assert!(completion.ends_with("data: [DONE]\n\n"), "{completion}");
    let frames = objects(&completion);
    let text: String = frames.iter().filter_map(|frame| frame["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "n't");
    assert_eq!(frames.last().expect("frames")["usage"]["prompt_tokens"], 3);
    let frames = objects(&stream(Source::Llama, voice("fim"), &[NATIVE.as_bytes()]));
    let text: String =
        frames.iter().filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "n't");
    let infill = include_str!("../captures/infill.txt");
    let told = whole(Source::Llama, "completion", infill);
    assert_eq!(told["choices"][0]["text"], "            debug = []\n");
    assert_eq!(told["choices"][0]["finish_reason"], "length");
    assert_eq!(told["usage"]["total_tokens"], 25);
    let told = whole(Source::Llama, "fim", infill);
    assert_eq!(told["choices"][0]["message"]["content"], "            debug = []\n");
}

#[test]
fn whole_answers_say_the_same_in_every_dialect() {
    let chat = include_str!("../captures/chat.txt");
    let text = "* `reducing`: The `fs.stdout";
    assert_eq!(whole(Source::Chat, "ollama chat", chat)["message"]["content"], text);
    assert_eq!(whole(Source::Chat, "ollama generate", chat)["response"], text);
    assert_eq!(whole(Source::Chat, "anthropic", chat)["content"][0]["text"], text);
    assert_eq!(whole(Source::Chat, "responses", chat)["output"][0]["content"][0]["text"], text);
    let tools = include_str!("../captures/tools-forced-prefill.txt");
    let told = whole(Source::Chat, "anthropic", tools);
    assert_eq!(told["content"][0]["input"], json!({"z": "UTC"}));
    assert_eq!(told["content"][0]["id"], "ZWbLcr98bgEvvmP54QchUuyXkFRB126g");
    let told = whole(Source::Chat, "ollama chat", tools);
    assert_eq!(told["message"]["tool_calls"][0]["function"]["arguments"], json!({"z": "UTC"}));
    let told = whole(Source::Chat, "responses", tools);
    assert_eq!(told["output"][0]["type"], "function_call");
}

#[test]
fn a_whole_answer_to_a_client_that_wants_a_stream_becomes_one() {
    let chat = include_str!("../captures/chat.txt");
    let told = Translation::new(Source::Chat, voice("anthropic")).whole_as_stream(chat.as_bytes());
    let told = String::from_utf8(told.expect("an answer").to_vec()).expect("text");
    assert!(told.starts_with("event: message_start") && told.trim_end().ends_with("\"message_stop\"}"));
}

#[test]
fn too_many_calls_are_refused_before_they_fill_the_memory() {
    let mut translation = Translation::new(Source::Chat, voice("ollama chat"));
    let told = (0..1000).try_for_each(|index| {
        let frame = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"function\":{{}}}}]}}}}]}}\n\n"
        );
        translation.frames(frame.as_bytes()).map(drop)
    });
    assert!(told.is_err());
}
