//! Streams of each framing pass the guard unchanged, however they are cut, and their end, errors and tokens are seen.

use bytes::Bytes;
use router::forward::stream_guard::{Framing, StreamGuard};

const ANTHROPIC: &str = include_str!("../captures/anthropic-messages-stream.txt");
const LLAMA: &str = include_str!("../captures/completion-native-stream.txt");
const OLLAMA: &str = concat!(
    r#"{"model":"m","created_at":"2026-11-21T00:00:00Z","message":{"role":"assistant","content":"say \"done\":true"},"done":false}"#,
    "\n",
    r#"{"model":"m","created_at":"2026-11-21T00:00:00Z","message":{"role":"assistant","content":"x"},"done":false}"#,
    "\n",
    r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":26,"prompt_eval_duration":130079000,"eval_count":298,"eval_duration":4799921000}"#,
    "\n"
);
const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null},\"sequence_number\":0}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"It\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\" is\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":13,\"output_tokens\":2}}}\n\n"
);

fn run(framing: Framing, chunks: &[&[u8]]) -> (String, StreamGuard) {
    let (mut guard, mut out) = (StreamGuard::new(framing, true), Vec::new());
    for chunk in chunks {
        guard.push(Bytes::copy_from_slice(chunk), &mut out).expect("short frames");
    }
    (String::from_utf8(out.concat()).expect("text"), guard)
}

#[test]
fn every_framing_passes_whole_whatever_the_cut_and_its_tokens_are_seen() {
    for (framing, stream, prompt, answer) in [
        (Framing::Anthropic, ANTHROPIC, 19, 2),
        (Framing::Llama, LLAMA, 3, 2),
        (Framing::Ollama, OLLAMA, 26, 298),
        (Framing::Responses, RESPONSES, 13, 2),
    ] {
        for cut in 0..stream.len() {
            let (text, guard) = run(framing, &[&stream.as_bytes()[..cut], &stream.as_bytes()[cut..]]);
            assert_eq!(text, stream, "{framing:?} cut at {cut}");
            let (seen, usage) = (guard.seen(), guard.usage());
            assert!(seen.content && seen.done && !seen.error, "{framing:?} cut at {cut}: {seen:?}");
            assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(prompt), Some(answer)));
        }
    }
}

#[test]
fn a_stream_is_done_at_its_last_frame_and_not_before() {
    for (framing, stream) in [
        (Framing::Anthropic, ANTHROPIC),
        (Framing::Llama, LLAMA),
        (Framing::Ollama, OLLAMA),
        (Framing::Responses, RESPONSES),
    ] {
        let frames = stream.trim_end();
        let last = frames.rfind(if framing == Framing::Ollama { "\n" } else { "\n\n" }).expect("several");
        let (_, guard) = run(framing, &[&stream.as_bytes()[..last + 1]]);
        assert!(!guard.seen().done, "{framing:?}");
    }
}

#[test]
fn errors_in_streams_are_seen_and_their_words_kept_back() {
    for (framing, good, error) in [
        (
            Framing::Anthropic,
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{}}\n\n",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"my secret\"}}\n\n",
        ),
        (
            Framing::Llama,
            "data: {\"content\":\"x\",\"stop\":false}\n\n",
            "data: {\"error\":{\"message\":\"my secret\"}}\n\n",
        ),
        (Framing::Ollama, "{\"response\":\"x\",\"done\":false}\n", "{\"error\":\"my secret\"}\n"),
        (
            Framing::Responses,
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n",
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{}}\n\n",
        ),
    ] {
        assert!(run(framing, &[error.as_bytes()]).1.seen().error, "{framing:?} at once");
        let (text, guard) = run(framing, &[good.as_bytes(), error.as_bytes(), good.as_bytes()]);
        assert!(guard.seen().error && !guard.seen().done, "{framing:?}");
        assert_eq!(text, good, "{framing:?}");
    }
}
