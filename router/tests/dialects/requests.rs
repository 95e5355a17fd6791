//! How requests reach engines: which pass as they are, which are translated, and into what.

use bytes::Bytes;
use http::StatusCode;
use mesh_core::machine::EngineKind;
use router::http::dialect::Door;
use router::http::dialect::passage::{Change, Passage, Prepared};
use router::http::dialect::translation::Label;
use router::http::head::Head;
use router::http::reply::ApiError;
use serde_json::{Value, json};

fn prepare(door: Door, kind: EngineKind, body: &str) -> Result<Prepared, Box<ApiError>> {
    let body = door.admit(Bytes::copy_from_slice(body.as_bytes())).map_err(Box::new)?;
    let mut head = Head::read(&body, door.has_usage_frame()).map_err(|error| {
        Box::new(ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", error.to_string()))
    })?;
    if !door.has_usage_frame() {
        head.stream = door.streams(&body).map_err(Box::new)?;
    }
    let label = || Label { model: "tiny".into(), id: "req-1".into(), at_unix_ms: 0 };
    Passage::ways(door, kind, &body)?[0].prepare(door, &body, &head, "tiny", label, None)
}

fn translated(door: Door, kind: EngineKind, body: &Value) -> (&'static str, Value) {
    let prepared = prepare(door, kind, &body.to_string()).unwrap_or_else(|error| panic!("{}", error.message));
    assert!(!matches!(prepared.change, Change::None), "it is translated");
    (prepared.path, serde_json::from_slice(&prepared.body).expect("JSON"))
}

fn refused(door: Door, kind: EngineKind, body: &Value) -> ApiError {
    match prepare(door, kind, &body.to_string()) {
        Ok(prepared) => panic!("{} took it", prepared.path),
        Err(error) => *error,
    }
}

#[test]
fn where_the_engine_speaks_the_dialect_only_the_model_differs() {
    use EngineKind::{LlamaServer, LmStudio, Ollama, Vllm};
    // Spaces, escapes, numbers and unknown fields as a client may write them.
    let body = r#" { "model" : "mesh/code" ,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}},{"type":"text","text":"\u00e9\/"}]}],
        "tools":[{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}],"parallel_tool_calls":true , "logprobs":true,"top_logprobs":2,
        "response_format":{"type":"json_object"},"temperature":1.0e-0,"reasoning_content":"x","input":"y","prompt":"z","x-unknown":[1.50] } "#;
    for (door, kinds) in [
        (Door::Chat, &[LlamaServer, Ollama, LmStudio, Vllm][..]),
        (Door::Completions, &[LlamaServer, Ollama, LmStudio, Vllm]),
        (Door::Embeddings, &[LlamaServer, Ollama, LmStudio, Vllm]),
        (Door::Responses, &[Ollama]),
        (Door::Messages, &[LlamaServer, Ollama]),
        (Door::CountTokens, &[LlamaServer]),
        (Door::Infill, &[LlamaServer]),
        (Door::Completion, &[LlamaServer]),
        (Door::OllamaChat, &[Ollama]),
        (Door::OllamaGenerate, &[Ollama]),
        (Door::OllamaEmbed, &[Ollama]),
        (Door::OllamaEmbeddings, &[Ollama]),
    ] {
        // Anthropic's images have another form, and the other one's are none there.
        let own = r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}"#;
        let theirs = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}"#;
        let is_anthropic = matches!(door, Door::Messages | Door::CountTokens);
        let body = &if is_anthropic { body.replace(theirs, own) } else { body.to_owned() };
        for kind in kinds {
            let prepared = prepare(door, *kind, body).unwrap_or_else(|error| panic!("{}", error.message));
            assert_eq!(prepared.path, door.path(), "{kind:?}");
            assert!(matches!(prepared.change, Change::None));
            assert_eq!(prepared.body, body.replace("mesh/code", "tiny"), "{door:?} {kind:?}");
        }
    }
}

#[test]
fn every_path_that_an_engine_is_asked_for_is_one_that_agents_allow() {
    let body = r#"{"model":"m","messages":[],"input":"x","prompt":"x","suffix":"y","stream":true}"#;
    for door in Door::ALL {
        for kind in EngineKind::ALL {
            if let Ok(prepared) = prepare(door, kind, body) {
                assert!(mesh_proto::frame::PATHS.contains(&prepared.path), "{door:?} {kind:?}");
            }
        }
    }
}

#[test]
fn a_suffix_goes_to_infill_for_llama_cpp_stays_for_ollama_and_is_refused_elsewhere() {
    let body = json!({
        "model": "m", "prompt": "def f(", "suffix": "return", "max_tokens": 8, "stop": "\n", "stream": true,
        "temperature": 0.5, "seed": 3,
    });
    let (path, to) = translated(Door::Completions, EngineKind::LlamaServer, &body);
    assert_eq!(path, "/infill");
    assert_eq!(
        to,
        json!({
            "model": "tiny", "input_prefix": "def f(", "input_suffix": "return", "n_predict": 8,
            "stop": ["\n"], "stream": true, "temperature": 0.5, "seed": 3,
        })
    );
    let passed = prepare(Door::Completions, EngineKind::Ollama, &body.to_string()).expect("it can");
    assert!(matches!(passed.change, Change::None) && passed.path == "/v1/completions");
    for door in [Door::Completions, Door::Fim, Door::Infill, Door::OllamaGenerate] {
        let error = refused(door, EngineKind::Vllm, &body);
        assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, "unsupported"), "{door:?}");
    }
    let (path, to) = translated(Door::Fim, EngineKind::Ollama, &body);
    assert_eq!((path, &to["suffix"], &to["max_tokens"]), ("/v1/completions", &json!("return"), &json!(8)));
    let (path, to) = translated(Door::OllamaGenerate, EngineKind::LlamaServer, &body);
    assert_eq!((path, &to["input_suffix"]), ("/infill", &json!("return")));
    let infill = json!({"model": "m", "input_prefix": "a", "input_suffix": "b", "n_predict": -1});
    let (path, to) = translated(Door::Infill, EngineKind::Ollama, &infill);
    assert_eq!((path, &to["prompt"], &to["suffix"]), ("/v1/completions", &json!("a"), &json!("b")));
    assert!(to.get("max_tokens").is_none(), "-1 is no limit");
    // Left out, they would be no limit.
    for tokens in [json!("16"), json!(16.0), json!([16])] {
        let asked = json!({"model": "m", "prompt": "a", "suffix": "b", "max_tokens": tokens});
        let (_, to) = translated(Door::Fim, EngineKind::LlamaServer, &asked);
        assert_eq!(to["n_predict"], tokens, "the engine says what is wrong with it");
    }
    // An empty or absent suffix is no middle.
    for plain in [r#"{"model":"m","prompt":"x","suffix":""}"#, r#"{"model":"m","prompt":"x","suffix":null}"#]
    {
        let passed = prepare(Door::Completions, EngineKind::LlamaServer, plain).expect("a completion");
        assert!(matches!(passed.change, Change::None));
    }
}

#[test]
fn blocks_that_llama_cpp_would_leave_out_are_refused_by_name_and_place() {
    let document = json!({"type": "document", "source": {"type": "text", "data": "my secret"}});
    let result = json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}, document]});
    let text = json!({"type": "text", "text": "read"});
    for (content, at, kind) in [
        (json!([text, document]), "messages[1].content[1]", "the type `document`"),
        (json!([result]), "messages[1].content[0].content[1]", "the type `document`"),
        (json!([{"type": "my secret"}]), "messages[1].content[0]", "an unknown type"),
    ] {
        let first = json!({"role": "user", "content": "hi"});
        let body = json!({"model": "m", "messages": [first, {"role": "user", "content": content}]});
        for door in [Door::Messages, Door::CountTokens] {
            let error = refused(door, EngineKind::LlamaServer, &body);
            assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, "unsupported"));
            assert_eq!(error.param.as_deref(), Some(at));
            let message = error.message;
            assert!(message.contains(&format!("`{at}` is a block of {kind}")), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        let error = refused(Door::Messages, EngineKind::Vllm, &body);
        assert!(error.message.contains("would not reach the model"), "true of each way: {}", error.message);
        assert!(
            prepare(Door::Messages, EngineKind::Ollama, &body.to_string()).is_ok(),
            "it answers for itself"
        );
    }
    let body =
        json!({"model": "m", "system": [text, document], "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(refused(Door::Messages, EngineKind::LlamaServer, &body).param.as_deref(), Some("system[1]"));
    let known = json!([
        text, {"type": "image", "source": {"type": "base64", "data": ""}}, {"type": "thinking", "thinking": "x"},
        {"type": "redacted_thinking", "data": "x"}, {"type": "tool_use", "id": "1", "name": "f", "input": {}},
        {"type": "tool_result", "tool_use_id": "1", "content": "x"},
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_reference", "tool_name": "f"}]},
        // Results within results are nobody's, and are not looked into: each level would be read once more.
        {"type": "tool_result", "content": [{"type": "tool_result", "content": [{"type": "document"}]}]},
    ]);
    let body = json!({"model": "m", "system": [text], "messages": [{"role": "user", "content": known}]});
    let passed = prepare(Door::Messages, EngineKind::LlamaServer, &body.to_string()).expect("all are known");
    assert!(matches!(passed.change, Change::None));
}

#[test]
fn ollama_s_chat_becomes_openai_s_with_calls_images_options_and_format() {
    let body = json!({
        "model": "m", "keep_alive": -1, "think": false, "format": {"type": "object"},
        "options": {"num_ctx": 64, "num_predict": 8, "temperature": 0, "top_k": 5, "stop": ["x"], "num_gpu": 0},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "user", "content": "look", "images": ["iVBORw0KGgo="]},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
                {"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": {}}}]},
            {"role": "tool", "content": "of g", "tool_name": "g"},
            {"role": "tool", "content": "of f"},
        ],
    });
    let (path, to) = translated(Door::OllamaChat, EngineKind::LlamaServer, &body);
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(
        to,
        json!({
            "model": "tiny", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 8,
            "temperature": 0, "top_k": 5, "stop": ["x"], "chat_template_kwargs": {"enable_thinking": false},
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]},
                {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [
                    {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                    {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
                {"role": "tool", "content": "of g", "tool_call_id": "call_1"},
                {"role": "tool", "content": "of f", "tool_call_id": "call_0"},
            ],
        })
    );
}

#[test]
fn what_cannot_be_translated_of_a_response_is_named_with_its_place_and_type() {
    let part = |part: Value| json!({"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}, part]}]});
    let format = |format: Value| json!({"model": "m", "input": "x", "text": {"format": format}});
    for (body, param, words) in [
        (part(json!({"type": "input_file", "file_id": "f"})), "input[0].content[1]", "the type `input_file`"),
        (part(json!({"type": "My Secret"})), "input[0].content[1]", "an unknown type"),
        (part(json!("x")), "input[0].content[1]", "an unknown type"),
        (json!({"model": "m", "input": [{"type": "computer_call"}]}), "input[0]", "the type `computer_call`"),
        (
            json!({"model": "m", "input": [{"role": "user", "content": 1}]}),
            "input[0].content",
            "a text or a list",
        ),
        (
            format(json!({"type": "json_schema", "name": "n", "schema": "x"})),
            "text.format.schema",
            "a JSON schema",
        ),
    ] {
        let error = refused(Door::Responses, EngineKind::LlamaServer, &body);
        assert_eq!((error.status, error.param.as_deref()), (StatusCode::BAD_REQUEST, Some(param)), "{body}");
        assert!(error.message.starts_with(&format!("`{param}` ")), "{}", error.message);
        assert!(error.message.contains(words) && !error.message.contains("Secret"), "{}", error.message);
    }
}

#[test]
fn ollama_s_prompts_become_chats_raw_ones_completions_and_texts_embeddings() {
    let body = json!({"model": "m", "prompt": "hi", "system": "short", "format": "json", "stream": false});
    let (path, to) = translated(Door::OllamaGenerate, EngineKind::Vllm, &body);
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(
        to["messages"],
        json!([{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}])
    );
    assert_eq!(to["response_format"], json!({"type": "json_object"}));
    assert_eq!((&to["stream"], to.get("stream_options")), (&json!(false), None));
    let raw = json!({"model": "m", "prompt": "hi", "raw": true, "options": {"num_predict": -1}});
    let cut = json!({"model": "m", "prompt": "hi", "raw": true, "options": {"num_predict": 16.5}});
    assert_eq!(translated(Door::OllamaGenerate, EngineKind::LlamaServer, &cut).1["max_tokens"], 16);
    let (path, to) = translated(Door::OllamaGenerate, EngineKind::LlamaServer, &raw);
    assert_eq!((path, &to["prompt"], to.get("max_tokens")), ("/v1/completions", &json!("hi"), None));
    let (path, to) =
        translated(Door::OllamaEmbed, EngineKind::Vllm, &json!({"model": "m", "input": ["a", "b"]}));
    assert_eq!(path, "/v1/embeddings");
    assert_eq!(to, json!({"model": "tiny", "input": ["a", "b"], "encoding_format": "float"}));
    let error = refused(Door::OllamaEmbeddings, EngineKind::Vllm, &json!({"model": "m", "prompt": ["a"]}));
    assert_eq!(error.status, StatusCode::BAD_REQUEST);
}

#[test]
fn anthropic_s_messages_become_a_chat_with_tools_images_and_results() {
    let body = json!({
        "model": "m", "max_tokens": 9, "system": [{"type": "text", "text": "short"}], "stop_sequences": ["x"],
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}},
                  {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1",
                "content": [{"type": "text", "text": "42"}]}, {"type": "text", "text": "go on"}]},
        ],
    });
    let (path, to) = translated(Door::Messages, EngineKind::Vllm, &body);
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(
        to,
        json!({
            "model": "tiny", "stream": false, "max_tokens": 9, "stop": ["x"], "user": "u",
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
            "messages": [
                {"role": "system", "content": "short"},
                {"role": "user", "content": [{"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
                {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "t1", "content": "42"},
                {"role": "user", "content": "go on"},
            ],
        })
    );
    let document = json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "document"}]}]});
    assert_eq!(refused(Door::Messages, EngineKind::Vllm, &document).code, "unsupported");
}

#[test]
fn instructions_in_the_midst_stand_at_the_beginning_until_the_model_has_spoken() {
    let said = json!([
        {"role": "user", "content": "hi"},
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "hello"},
        {"role": "system", "content": "c"},
    ]);
    let expected = |first: &str| {
        json!([
            {"role": "system", "content": first}, {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"}, {"role": "user", "content": "c"},
        ])
    };
    for kind in [EngineKind::Vllm, EngineKind::LlamaServer] {
        let mut body = json!({"model": "m", "max_tokens": 9, "messages": said});
        let (path, to) = translated(Door::Messages, kind, &body);
        assert_eq!((path, &to["messages"]), ("/v1/chat/completions", &expected("a\nb")), "{kind:?}");
        body["system"] = "short".into();
        assert_eq!(translated(Door::Messages, kind, &body).1["messages"], expected("short\n\na\nb"));
        let (_, to) =
            translated(Door::Responses, kind, &json!({"model": "m", "instructions": "x", "input": said}));
        assert_eq!(to["messages"], expected("x\n\na\nb"), "{kind:?}");
    }
}

#[test]
fn responses_become_a_chat_with_parallel_calls_in_one_message() {
    let body = json!({
        "model": "m", "instructions": "short", "max_output_tokens": 9, "store": false, "stream": true,
        "reasoning": {"effort": "low"}, "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": true}, {"type": "web_search"}],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": true}},
        "input": [
            {"role": "developer", "content": "rules"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
        ],
    });
    let (path, to) = translated(Door::Responses, EngineKind::LmStudio, &body);
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(translated(Door::Responses, EngineKind::LlamaServer, &body), (path, to.clone()));
    assert_eq!(
        to["messages"],
        json!([
            {"role": "system", "content": "short\n\nrules"}, {"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
        ])
    );
    assert_eq!((&to["max_tokens"], &to["reasoning_effort"]), (&json!(9), &json!("low")));
    assert_eq!(to["response_format"]["json_schema"]["strict"], true);
    assert_eq!(to["tools"].as_array().map(Vec::len), Some(1));
    let earlier = json!({"model": "m", "input": "x", "previous_response_id": "resp_1"});
    assert_eq!(refused(Door::Responses, EngineKind::Vllm, &earlier).code, "unsupported");
    let kept = json!({"model": "m", "input": [{"type": "item_reference", "id": "msg_1"}]});
    let error = refused(Door::Responses, EngineKind::LlamaServer, &kept);
    assert_eq!(error.code, "unsupported");
    assert!(error.message.contains("store: false"), "{}", error.message);
}

#[test]
fn requests_that_cannot_be_read_are_the_client_s_fault_and_their_words_stay_here() {
    for (door, body) in [
        (Door::OllamaChat, json!({"model": "m", "messages": "my secret"})),
        (Door::OllamaChat, json!({"model": "m", "messages": [{"content": {"my secret": 1}}]})),
        (Door::OllamaEmbed, json!({"model": "m", "input": {"my secret": 1}})),
        (Door::Messages, json!({"model": "m", "messages": {"my secret": 1}})),
        (Door::Messages, json!({"model": "m", "messages": [{"role": "user", "content": 3}]})),
        (Door::Responses, json!({"model": "m", "input": 7})),
        (Door::Fim, json!({"model": "m", "prompt": ["my secret"], "suffix": "x"})),
    ] {
        let kind = if door == Door::Fim { EngineKind::LlamaServer } else { EngineKind::Vllm };
        let error = refused(door, kind, &body);
        assert_eq!(error.status, StatusCode::BAD_REQUEST, "{door:?}");
        assert!(!error.message.contains("secret"), "{}", error.message);
    }
    let deep = format!(r#"{{"model":"m","messages":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert_eq!(
        prepare(Door::Messages, EngineKind::Vllm, &deep).err().map(|e| e.status),
        Some(StatusCode::BAD_REQUEST)
    );
}

#[test]
fn engines_too_old_for_a_dialect_are_asked_in_the_next_one() {
    use EngineKind::{LlamaServer, Ollama};
    for (door, kind) in [(Door::Messages, LlamaServer), (Door::Messages, Ollama), (Door::Responses, Ollama)] {
        let ways = Passage::ways(door, kind, b"{}").expect("there are some");
        assert!(matches!(ways[..], [Passage::Through(..), Passage::Chat]), "{door:?} {kind:?}");
    }
}

#[test]
fn members_of_another_form_are_refused_by_name_and_not_left_out() {
    let chat = |name: &str, value: Value| json!({"model": "m", "messages": [{"role": "user", "content": "x"}], name: value});
    let prompt = |name: &str, value: Value| json!({"model": "m", "prompt": "x", name: value});
    let input = |name: &str, value: Value| json!({"model": "m", "input": "x", name: value});
    for (door, body, param) in [
        (Door::Responses, input("instructions", json!(5)), "instructions"),
        (Door::Responses, input("tools", json!("x")), "tools"),
        (Door::Responses, input("text", json!("x")), "text"),
        (Door::Responses, input("text", json!({"format": "x"})), "text"),
        (Door::Responses, input("reasoning", json!("x")), "reasoning"),
        (Door::OllamaChat, chat("format", json!("jsn")), "format"),
        (Door::OllamaChat, chat("tools", json!("x")), "tools"),
        (Door::OllamaChat, chat("think", json!(5)), "think"),
        (Door::OllamaGenerate, prompt("system", json!(5)), "system"),
        (Door::OllamaGenerate, prompt("format", json!(5)), "format"),
        (Door::Fim, json!({"model": "m", "suffix": "x"}), "prompt"),
    ] {
        let error = refused(door, EngineKind::LlamaServer, &body);
        assert_eq!((error.status, error.param.as_deref()), (StatusCode::BAD_REQUEST, Some(param)), "{body}");
    }
    for (door, body) in [
        (Door::Responses, input("text", json!({"verbosity": "low"}))),
        (Door::Responses, input("tools", Value::Null)),
        (Door::OllamaChat, chat("format", json!(""))),
        (Door::OllamaChat, chat("think", json!("high"))),
        (Door::OllamaGenerate, prompt("images", Value::Null)),
    ] {
        translated(door, EngineKind::LlamaServer, &body);
    }
    let image = json!([{"role": "user", "content": "look", "images": "AAAA"}]);
    let error = refused(Door::OllamaChat, EngineKind::LlamaServer, &json!({"model": "m", "messages": image}));
    assert_eq!(error.message, "`images` must be a list of texts in base64");
    let suffix = Passage::ways(Door::Completions, EngineKind::LlamaServer, br#"{"prompt":"x","suffix":5}"#);
    assert_eq!(suffix.expect_err("a number").param.as_deref(), Some("suffix"));
}
