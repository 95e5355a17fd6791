//! Questions whose answers can be checked by a program: JSON of a given form, and tools with the right argument. Fixed, so
//! that models can be compared; a change makes another version.

use mesh_core::trial::{Question, Run};
use mesh_core::validation::{Asked, Call, Called, Formed, Piece, Said, Sort};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The version of all questions of a validation, those of the ladder among them.
pub(super) const VERSION: &str = "v2";
/// The most tokens of an answer: a model that does what is asked needs fifty.
pub(super) const MOST_TOKENS: u32 = 512;
/// Keys of an object that are kept; no question asks for so many.
const KEYS: usize = 64;
/// Tools of one answer that are kept.
const CALLS: usize = 64;

/// People to describe.
const PEOPLE: [&str; 3] = [
    "Anna is 34 years old, lives in Oslo and speaks Norwegian and English.",
    "Kofi is 51 years old, lives in Accra and speaks Twi, English and French.",
    "Mei is 27 years old, lives in Taipei and speaks Mandarin and Japanese.",
];
/// Towns whose weather is wanted.
const TOWNS: [&str; 3] = ["Oslo", "Accra", "Taipei"];
/// The tool.
const TOOL: &str = "weather_now";

/// Questions that force JSON on the answer.
pub(super) fn forms(seed: u64) -> Vec<Question> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "city": {"type": "string"},
            "languages": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "city", "languages"],
        "additionalProperties": false,
    });
    let question = |(number, person): (usize, &&str)| {
        Question {
        id: format!("json-{}", number + 1),
        path: "/v1/chat/completions".into(),
        body: json!({
            "messages": [{
                "role": "user",
                "content": format!("{person} Describe this person as JSON with the keys name, age, city and languages."),
            }],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "person", "strict": true, "schema": schema},
            },
            "max_tokens": MOST_TOKENS,
            "temperature": 0,
            "seed": seed,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
        .to_string(),
    }
    };
    PEOPLE.iter().enumerate().map(question).collect()
}

/// An answer to one of [`forms`].
pub(super) fn formed(run: Run) -> Formed {
    let kinds = [("name", Sort::Text), ("age", Sort::Whole), ("city", Sort::Text), ("languages", Sort::List)];
    let wanted = kinds.map(|(key, sort)| (key.to_owned(), sort));
    Formed { wanted: BTreeMap::from(wanted), said: read(&run.text), run }
}

/// Questions that need a tool.
pub(super) fn calls(seed: u64) -> Vec<Question> {
    let tool = json!({
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Tells the weather in a city at this moment.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city's name"}},
                "required": ["city"],
            },
        },
    });
    let question = |(number, town): (usize, &&str)| {
        Question {
        id: format!("tool-{}", number + 1),
        path: "/v1/chat/completions".into(),
        body: json!({
            "messages": [{"role": "user", "content": format!("What is the weather in {town} right now? Use the tool.")}],
            "tools": [tool],
            "tool_choice": "auto",
            "max_tokens": MOST_TOKENS,
            "temperature": 0,
            "seed": seed,
            "stream": false,
        })
        .to_string(),
    }
    };
    TOWNS.iter().enumerate().map(question).collect()
}

/// An answer to one of [`calls`].
pub(super) fn called(run: Run) -> Called {
    let number = run.id.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
    let town = number.and_then(|number| TOWNS.get(number.checked_sub(1)?)).unwrap_or(&TOWNS[0]);
    let wanted = Asked { tool: TOOL.into(), argument: "city".into(), value: (*town).into() };
    let calls = run.raw.as_deref().map(read_calls).unwrap_or_default();
    Called { wanted, run, calls }
}

/// The calls that an agent tells: a list of names and arguments. A whole answer without one is none.
fn read_calls(raw: &str) -> Vec<Call> {
    let Ok(Value::Array(calls)) = serde_json::from_str(raw) else { return Vec::new() };
    let call = |call: &Value| {
        let name = call["name"].as_str()?.to_owned();
        let arguments = call["arguments"].as_str().map_or_else(|| said(&call["arguments"]), read);
        Some(Call { name, arguments })
    };
    calls.iter().filter_map(call).take(CALLS).collect()
}

/// A text, read as JSON.
pub(super) fn read(text: &str) -> Said {
    if text.trim().is_empty() {
        return Said::Other("empty".into());
    }
    match serde_json::from_str::<Value>(text.trim()) {
        Ok(value) => said(&value),
        // Words of the parser only: they hold places, never the text.
        Err(error) => Said::Other(format!("no JSON: {error}")),
    }
}

fn said(value: &Value) -> Said {
    let Value::Object(keys) = value else { return Said::Other(sort(value).word().into()) };
    if keys.len() > KEYS {
        return Said::Other(format!("an object of {} keys", keys.len()));
    }
    let piece =
        |value: &Value| Piece { sort: sort(value), text: value.as_str().unwrap_or_default().to_owned() };
    Said::Object(keys.iter().map(|(key, value)| (key.clone(), piece(value))).collect())
}

fn sort(value: &Value) -> Sort {
    match value {
        Value::Null => Sort::Null,
        Value::Bool(_) => Sort::Truth,
        Value::Number(number) if number.is_i64() || number.is_u64() => Sort::Whole,
        Value::Number(_) => Sort::Number,
        Value::String(_) => Sort::Text,
        Value::Array(_) => Sort::List,
        Value::Object(_) => Sort::Object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_what_they_are() {
        let Said::Object(keys) = read(" {\"age\": 3, \"name\": \"A\", \"x\": [1], \"y\": 1.5}\n") else {
            panic!("an object")
        };
        let sorts: Vec<(&str, Sort)> = keys.iter().map(|(key, piece)| (key.as_str(), piece.sort)).collect();
        assert_eq!(
            sorts,
            [("age", Sort::Whole), ("name", Sort::Text), ("x", Sort::List), ("y", Sort::Number)]
        );
        assert_eq!(keys["name"].text, "A");
        for (text, what) in [
            ("", "empty"),
            ("[1]", "a list"),
            ("7", "a whole number"),
            ("null", "null"),
            ("{\"a\":", "no JSON: EOF while parsing a value at line 1 column 5"),
            ("Sure! {\"a\": 1}", "no JSON: expected value at line 1 column 1"),
        ] {
            assert_eq!(read(text), Said::Other(what.into()), "{text}");
        }
        let many: String = (0..65).map(|key| format!("\"{key}\":0,")).collect();
        let many = format!("{{{}}}", many.trim_end_matches(','));
        assert_eq!(read(&many), Said::Other("an object of 65 keys".into()));
    }

    #[test]
    fn calls_are_read_from_what_agents_tell_and_from_nothing_else() {
        let with = |raw: Option<&str>| {
            called(Run { id: "tool-2".into(), raw: raw.map(str::to_owned), ..Run::default() })
        };
        let told = with(Some(r#"[{"name":"weather_now","arguments":"{\"city\":\"Accra\"}"}]"#));
        assert_eq!((told.wanted.value.as_str(), told.calls.len()), ("Accra", 1));
        let Said::Object(arguments) = &told.calls[0].arguments else { panic!("an object: {told:?}") };
        assert_eq!(arguments["city"].text, "Accra");
        for raw in [None, Some("{\"choices\":[]}"), Some("[7]"), Some("no")] {
            assert!(with(raw).calls.is_empty(), "{raw:?}");
        }
        let broken = with(Some(r#"[{"name":"weather_now","arguments":"{\"city\":"}]"#));
        assert!(matches!(&broken.calls[0].arguments, Said::Other(what) if what.starts_with("no JSON")));
    }

    #[test]
    fn questions_are_three_of_each_and_name_no_model() {
        for questions in [forms(7), calls(7)] {
            assert_eq!(questions.len(), 3);
            for question in &questions {
                let body: Value = serde_json::from_str(&question.body).expect("JSON");
                assert_eq!((&body["temperature"], &body["seed"]), (&json!(0), &json!(7)));
                assert!(body.get("model").is_none(), "the agent names it");
            }
        }
    }
}
