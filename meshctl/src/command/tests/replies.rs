//! What a scripted model answers to the questions of a validation.

use super::bench::Manner;
use mesh_core::trial::{Question, Run};
use serde_json::{Value, json};

/// The answer to a question that a program checks; `None` = it is another one.
pub(super) fn reply(manner: Manner, question: &Question) -> Option<Run> {
    let body: Value = serde_json::from_str(&question.body).expect("JSON");
    let asked = body["messages"][0]["content"].as_str().unwrap_or_default();
    let kind = question.id.split('-').next().unwrap_or_default();
    let run = Run {
        id: question.id.clone(),
        ttft_s: Some(0.1),
        total_s: 0.5,
        prompt_tokens: Some(tokens(asked)),
        output_tokens: Some(20),
        finish_reason: Some("stop".into()),
        ..Run::default()
    };
    Some(match kind {
        "tokens" => {
            let count = tokens(body["content"].as_str().unwrap_or_default()) as usize;
            Run { raw: Some(json!({"tokens": vec![7; count]}).to_string()), ..run }
        }
        "json" => Run { text: person(manner, asked), ..run },
        "tool" => tool(manner, asked, run),
        "needle" => Run { text: found(manner, asked), ..run },
        _ => return None,
    })
}

/// `said` by a model that thinks first, in the tokens that it has.
pub(super) fn thought(manner: Manner, question: &Question, said: Run) -> Run {
    let Manner::Thinks(tokens) = manner else { return said };
    let body: Value = serde_json::from_str(&question.body).expect("JSON");
    let reasoning = Some("Let me see what is asked here.".to_owned());
    match body["max_tokens"].as_u64() {
        Some(most) if most < u64::from(tokens) => Run {
            text: String::new(),
            raw: None,
            reasoning,
            finish_reason: Some("length".into()),
            output_tokens: u32::try_from(most).ok(),
            ..said
        },
        _ => Run { reasoning, output_tokens: Some(tokens + 20), ..said },
    }
}

/// Five for four words.
fn tokens(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count() * 5 / 4).expect("few")
}

fn person(manner: Manner, asked: &str) -> String {
    if manner == Manner::Formless {
        return "Here you are: {\"name\": \"Anna\"}".into();
    }
    let name = asked.split(' ').next().unwrap_or_default();
    json!({"name": name, "age": 34, "city": "Oslo", "languages": ["English"]}).to_string()
}

fn tool(manner: Manner, asked: &str, run: Run) -> Run {
    let town = asked.split(" in ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let city = if manner == Manner::Careless { "Rome" } else { town };
    if manner == Manner::Silent {
        return Run { text: "It is sunny.".into(), ..run };
    }
    if manner == Manner::Toolless {
        return Run { ttft_s: None, error: Some("status 400: does not support tools".into()), ..run };
    }
    let arguments = json!({"city": city}).to_string();
    Run { raw: Some(json!([{"name": "weather_now", "arguments": arguments}]).to_string()), ..run }
}

/// It really looks for it.
fn found(manner: Manner, asked: &str) -> String {
    let after = asked.split(" is ").nth(1).unwrap_or_default();
    let code: String = after.chars().take_while(char::is_ascii_digit).collect();
    if manner == Manner::Forgetful { "I do not know.".into() } else { format!("It is {code}.") }
}
