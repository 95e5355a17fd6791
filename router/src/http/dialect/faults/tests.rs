//! Chats with and without what engines need.

use super::*;
use serde_json::json;

fn before(door: Door, body: &Value) -> Option<ApiError> {
    of_head(door, &Head::read(body.to_string().as_bytes(), true).expect("a head"))
}

#[test]
fn a_chat_without_what_every_engine_needs_is_named_before_any_is_asked() {
    for (messages, param, words) in [
        (json!("x"), "messages", "must be a list"),
        (json!(null), "messages", "must be a list"),
        (json!([]), "messages", "is empty"),
        (json!([{"role": "user"}, 1]), "messages[1]", "must be an object"),
        (json!([{"role": "user"}, {"content": "x"}]), "messages[1].role", "is missing"),
        (json!([{"role": 1}]), "messages[0].role", "must be a text"),
    ] {
        let body = json!({ "model": "m", "messages": messages });
        for door in [Door::Chat, Door::Messages, Door::CountTokens, Door::OllamaChat] {
            if door == Door::OllamaChat && words == "is empty" {
                assert_eq!(before(door, &body), None, "so a model is loaded");
                continue;
            }
            let error = before(door, &body).unwrap_or_else(|| panic!("{door:?} {body}"));
            assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, "invalid_request"));
            assert_eq!(error.param.as_deref(), Some(param));
            assert!(error.message.starts_with(&format!("`{param}` {words}")), "{}", error.message);
        }
    }
    let error = before(Door::Messages, &json!({"model": "m"})).expect("there are none");
    assert!(error.message.starts_with("`messages` is missing"), "{}", error.message);
    assert_eq!(before(Door::OllamaChat, &json!({"model": "m"})), None, "so a model is loaded");
    assert_eq!(before(Door::Completions, &json!({"model": "m", "prompt": "x"})), None);
    assert_eq!(before(Door::Chat, &json!({"model": "m", "messages": [{"role": "user"}]})), None);
}

#[test]
fn items_of_responses_are_messages_with_a_role_or_say_what_they_are() {
    for (input, param, words) in [
        (json!([]), "input", "is empty"),
        (json!(1), "input", "must be a text or a list"),
        (json!(["x"]), "input[0]", "must be an object"),
        (json!([{"role": "user"}, {"content": "x"}]), "input[1].role", "is missing"),
        (json!([{"type": "message", "role": 1}]), "input[0].role", "must be a text"),
    ] {
        let error = before(Door::Responses, &json!({ "model": "m", "input": input })).expect(words);
        assert_eq!(error.param.as_deref(), Some(param));
        assert!(error.message.starts_with(&format!("`{param}` {words}")), "{}", error.message);
    }
    let error = before(Door::Responses, &json!({"model": "m"})).expect("there is none");
    assert!(error.message.starts_with("`input` is missing"), "{}", error.message);
    for sound in [json!("x"), json!([{"role": "developer"}, {"type": "reasoning"}])] {
        assert_eq!(before(Door::Responses, &json!({"model": "m", "input": sound})), None);
    }
    assert_eq!(before(Door::Embeddings, &json!({"model": "m", "input": []})), None);
}

#[test]
fn anthropic_s_messages_have_its_roles_and_instructions_only() {
    let body = json!({"model": "m", "messages": [{"role": "system"}, {"role": "user"}, {"role": "banana"}]});
    for door in [Door::Messages, Door::CountTokens] {
        let error = before(door, &body).expect("a role of nobody");
        assert_eq!(error.message, "`messages[2].role` must be `user` or `assistant`");
    }
    assert_eq!(before(Door::Chat, &body), None, "templates may know it");
}

#[test]
fn a_form_of_the_answer_that_is_none_is_found() {
    for (format, param) in [
        (json!("json"), "response_format"),
        (json!({}), "response_format.type"),
        (json!({"type": "json_schema"}), "response_format.json_schema"),
        (
            json!({"type": "json_schema", "json_schema": {"schema": "x"}}),
            "response_format.json_schema.schema",
        ),
    ] {
        let body = json!({ "messages": [{"role": "user", "content": "x"}], "response_format": format });
        let error = of_body(Door::Chat, body.to_string().as_bytes()).unwrap_or_else(|| panic!("{body}"));
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
    }
    for (door, body, place) in [
        (
            Door::Chat,
            json!({"response_format": {"json_schema": {"schema": {}}}}),
            Some("response_format.json_schema.schema"),
        ),
        (Door::Responses, json!({"text": {"format": {"schema": {}}}}), Some("text.format.schema")),
        (Door::OllamaChat, json!({"format": {}}), Some("format")),
        (Door::OllamaChat, json!({"format": "json"}), None),
        (Door::Messages, json!({"format": {}}), None),
    ] {
        let fault = in_schema(door, body.to_string().as_bytes());
        assert_eq!(fault.as_ref().and_then(|fault| fault.param.as_deref()), place, "{body}");
    }
}

#[test]
fn what_an_engine_failed_over_is_found_and_what_is_sound_is_not() {
    let call = |call: Value| json!([{"role": "assistant", "tool_calls": [call]}]);
    for (messages, param) in [
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": {}}]), "messages[0].content"),
        (json!([{"role": "user", "content": ["x"]}]), "messages[0].content[0]"),
        (json!([{"role": "user", "content": [{}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "text", "text": 1}]}]), "messages[0].content[0].text"),
        (
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "file"}]}]),
            "messages[0].content[1]",
        ),
        (json!([{"role": "user", "content": [{"type": "my secret"}]}]), "messages[0].content[0]"),
        (json!([{"role": "user", "content": "x", "name": 1}]), "messages[0].name"),
        (json!([{"role": "assistant", "tool_calls": "x"}]), "messages[0].tool_calls"),
        (call(json!({})), "messages[0].tool_calls[0].function.name"),
        (call(json!({"type": 1})), "messages[0].tool_calls[0].type"),
        (call(json!({"type": "custom"})), "messages[0].tool_calls[0].custom.name"),
        (
            call(json!({"function": {"name": "f", "arguments": 1}})),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            call(json!({"type": "function", "function": {"arguments": "{}"}})),
            "messages[0].tool_calls[0].function.name",
        ),
    ] {
        let body = json!({ "messages": messages }).to_string();
        let error = of_body(Door::Chat, body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
        assert!(!error.message.contains("secret"), "{}", error.message);
    }
    for (door, tools, param) in [
        (Door::Chat, json!("x"), "tools"),
        (Door::Chat, json!([{}]), "tools[0].type"),
        (Door::Chat, json!([{"type": "function", "function": {}}]), "tools[0].function.name"),
        (Door::Messages, json!([{"input_schema": {}}]), "tools[0].name"),
        (Door::Messages, json!([{"type": "custom"}]), "tools[0].name"),
        (Door::Messages, json!([{"type": 1, "name": "f"}]), "tools[0].type"),
    ] {
        let body = json!({ "messages": [{"role": "user", "content": "x"}], "tools": tools }).to_string();
        let error = of_body(door, body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
    }
    let sound = json!({
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "system", "content": "x", "name": null},
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": "data:"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "x", "tool_call_id": "1"},
        ],
    });
    assert_eq!(of_body(Door::Chat, sound.to_string().as_bytes()), None);
    let sound = json!({
        "tools": [{"name": "f", "input_schema": {}}],
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": ""}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]},
        ],
    });
    assert_eq!(of_body(Door::Messages, sound.to_string().as_bytes()), None);
}

#[test]
fn what_engines_or_openai_and_anthropic_allow_is_no_fault() {
    for message in [
        json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}),
        json!({"role": "assistant", "tool_calls": [{"type": null, "function": {"name": "f", "arguments": {}}}]}),
        json!({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}),
        json!({"role": "assistant", "tool_calls": [{"type": "of_tomorrow"}]}),
        json!({"role": "assistant", "content": null}),
        json!({"role": "tool", "content": null, "tool_call_id": "1"}),
        json!({"role": "function", "name": "f"}),
    ] {
        let body = json!({ "messages": [message] });
        assert_eq!(of_body(Door::Chat, body.to_string().as_bytes()), None, "{body}");
    }
    let tools =
        json!([{"type": "bash_20250124"}, {"type": "custom", "name": "f"}, {"type": null, "name": "f"}]);
    let body = json!({ "tools": tools, "messages": [{"role": "user", "content": "x"}] });
    assert_eq!(of_body(Door::Messages, body.to_string().as_bytes()), None, "{body}");
    assert!(roles(Door::Chat).contains("`developer`"));
}

#[test]
fn other_doors_have_no_chats() {
    assert_eq!(of_body(Door::Responses, b"{\"messages\":[1]}"), None, "no chat of these dialects");
    assert_eq!(of_body(Door::Chat, b"no JSON"), None);
}

#[test]
fn prompts_and_texts_that_are_none_are_named_by_the_door_s_own_field() {
    for (door, body, param, must) in [
        (Door::Completions, "{}", "prompt", "is missing"),
        (Door::Completions, r#"{"prompt":5}"#, "prompt", "must be a text or a list of texts"),
        (Door::Completion, r#"{"prompt":null}"#, "prompt", "must be"),
        (Door::Embeddings, r#"{"prompt":"x"}"#, "input", "is missing"),
        (Door::Embeddings, r#"{"input":true}"#, "input", "must be"),
        (Door::Infill, r#"{"input_suffix":"x"}"#, "input_prefix", "is missing"),
        (Door::Infill, r#"{"input_prefix":"x","input_suffix":1}"#, "input_suffix", "must be a text"),
    ] {
        let fault = of_body(door, body.as_bytes()).expect(body);
        assert_eq!(fault.param.as_deref(), Some(param), "{door:?} {body}");
        assert!(fault.message.starts_with(&format!("`{param}` {must}")), "{}", fault.message);
    }
    for (door, body) in [
        (Door::Completions, r#"{"prompt":["a",[1,2]]}"#),
        (Door::Completion, r#"{"prompt":{"prompt_string":"x"}}"#),
        (Door::Completions, r#"{"prompt":{"prompt_string":"x"}}"#),
        // vLLM's.
        (Door::Completions, r#"{"prompt_embeds":"AAAA"}"#),
        (Door::Embeddings, r#"{"messages":[]}"#),
        (Door::Embeddings, r#"{"input":["a"]}"#),
        // llama.cpp's own name for it.
        (Door::Embeddings, r#"{"content":"a"}"#),
        (Door::Infill, r#"{"input_prefix":"","input_suffix":""}"#),
    ] {
        assert_eq!(of_body(door, body.as_bytes()), None, "{door:?} {body}");
    }
}

#[test]
fn a_field_that_a_translation_made_is_told_by_the_client_s_name_for_it() {
    for (door, named, own) in [
        (Door::Responses, "max_tokens", "max_output_tokens"),
        (Door::Responses, "messages[1].content", "input"),
        (Door::Responses, "temperature", "temperature"),
        (Door::Messages, "stop", "stop_sequences"),
        (Door::OllamaChat, "n_predict", "options.num_predict"),
        (Door::OllamaChat, "temperature", "options.temperature"),
        (Door::OllamaChat, "messages[1].content", "messages[1].content"),
        (Door::OllamaGenerate, "messages", "prompt"),
        (Door::OllamaGenerate, "json_schema", "format"),
        (Door::OllamaEmbeddings, "input", "prompt"),
        (Door::Fim, "input_suffix", "suffix"),
        (Door::Completions, "n_predict", "max_tokens"),
        (Door::Chat, "max_tokens", "max_tokens"),
        (Door::OllamaGenerate, "content", "prompt"),
        (Door::OllamaGenerate, "input_suffix", "suffix"),
        (Door::Completion, "max_tokens", "n_predict"),
        (Door::Completion, "messages", "prompt"),
        (Door::Infill, "max_tokens", "n_predict"),
        (Door::Infill, "messages", "input_prefix"),
        (Door::Infill, "prompt", "input_prefix"),
        (Door::Infill, "suffix", "input_suffix"),
        (Door::Embeddings, "messages", "input"),
        (Door::OllamaEmbed, "messages", "input"),
        (Door::OllamaEmbeddings, "messages", "prompt"),
        (Door::Completions, "input_prefix", "prompt"),
        (Door::Fim, "n_predict", "max_tokens"),
        (Door::Fim, "seed", "random_seed"),
    ] {
        assert_eq!(own_name(door, b"{}", named), own, "{door:?}");
    }
    assert_eq!(own_name(Door::Completions, br#"{"n_predict":"x"}"#, "n_predict"), "n_predict");
}
