//! Items and their errors, and questions that the oracle does not know, by example.

use super::question::Role;
use super::*;
use serde_json::{Value, json};

pub(super) fn item(suite: Suite, line: &Value) -> Result<Item, String> {
    suite.item(line).map_err(|error| error.to_string())
}

pub(super) fn mmlu(id: &str) -> Item {
    let line = json!({"id": id, "question": "q", "subject": "odd_things", "choices": ["a", "b", "c", "d"], "answer": "B"});
    item(Suite::Mmlu, &line).expect("an item")
}

pub(super) fn page(id: &str, text: &str) -> Item {
    item(Suite::Perplexity, &json!({"id": id, "text": text})).expect("an item")
}

#[test]
fn every_broken_line_names_its_field_its_value_and_what_is_expected() {
    let mmlu = json!({"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 1});
    let swag = json!({"activity_label": "a", "ctx_a": "b", "ctx_b": "", "endings": ["a", "b", "c", ""], "label": "3"});
    let gsm = json!({"question": "q", "answer": "x\n#### 1,000"});
    let own = json!({"prompt": "p", "checks": [{"contains": "a"}]});
    let long = "ä".repeat(100);
    for (suite, whole, key, value, message) in [
        (Suite::Mmlu, &mmlu, "answer", json!(4), "answer is 4, expected 0 to 3 or \"A\" to \"D\""),
        (Suite::Mmlu, &mmlu, "answer", json!(-1), "answer is -1, expected 0 to 3 or \"A\" to \"D\""),
        (Suite::Mmlu, &mmlu, "answer", json!("E"), "answer is \"E\", expected 0 to 3 or \"A\" to \"D\""),
        (
            Suite::Mmlu,
            &mmlu,
            "answer",
            json!(null),
            "invalid type: null, expected the number or the letter of a choice",
        ),
        (Suite::Mmlu, &mmlu, "choices", json!(["a"]), "choices is a list of 1, expected four texts"),
        (Suite::Mmlu, &mmlu, "question", json!(" \n"), "question is \" \\n\", expected a text"),
        (Suite::Mmlu, &mmlu, "id", json!("x".repeat(201)), "id is 201 bytes long, expected 200 at most"),
        (
            Suite::HellaSwag,
            &swag,
            "label",
            json!(""),
            "label is \"\", expected \"0\" to \"3\" (the public test split has no labels: take the validation split)",
        ),
        (Suite::HellaSwag, &swag, "label", json!("4"), "label is \"4\", expected 0 to 3 or \"0\" to \"3\""),
        (Suite::HellaSwag, &swag, "endings", json!([]), "endings is a list of 0, expected four texts"),
        (
            Suite::Gsm8k,
            &gsm,
            "answer",
            json!("it is 42"),
            "answer is \"it is 42\", expected a text with `#### ` and a number at its end",
        ),
        (
            Suite::Gsm8k,
            &gsm,
            "answer",
            json!("x\n#### 42\n"),
            "answer is \"x\\n#### 42\\n\", expected a text with `#### ` and a number at its end",
        ),
        (
            Suite::Gsm8k,
            &gsm,
            "answer",
            json!("#### many"),
            "answer is \"#### many\", expected a text with `#### ` and a number at its end",
        ),
        (
            Suite::Gsm8k,
            &gsm,
            "answer",
            json!(long),
            &format!(
                "answer is \"{}\"… (200 bytes), expected a text with `#### ` and a number at its end",
                "ä".repeat(40)
            ),
        ),
        (
            Suite::Perplexity,
            &json!({}),
            "x",
            json!(1),
            "page is not there, expected a text in page or in text",
        ),
        (
            Suite::Perplexity,
            &json!({"page": "a"}),
            "text",
            json!("b"),
            "page is there beside text, expected one of them",
        ),
        (
            Suite::Perplexity,
            &json!({}),
            "text",
            json!("a".repeat(LONGEST_PAGE + 1)),
            "text is 4194305 bytes long, expected 4194304 at most",
        ),
        (Suite::Generation, &own, "most_tokens", json!(0), "most_tokens is 0, expected 1 to 32768"),
        (
            Suite::Generation,
            &own,
            "stop",
            json!([""]),
            "stop is a list of 1 texts, expected 4 at most, none of them empty",
        ),
        (Suite::Generation, &own, "checks", json!([]), "checks is a list of 0, expected 1 to 64 checks"),
        (
            Suite::Generation,
            &own,
            "checks",
            json!([{"contains": "a"}, {}]),
            "checks[1] is 0 rules, expected one rule in each check",
        ),
        (
            Suite::Generation,
            &own,
            "checks",
            json!([{"equals": ""}]),
            "checks[0].equals is a text of 0 bytes, expected 1 to 4096 bytes",
        ),
    ] {
        let mut line = whole.clone();
        assert!(suite == Suite::Perplexity || item(suite, &line).is_ok(), "{line}");
        line[key] = value;
        assert_eq!(item(suite, &line).expect_err("refused"), message);
    }
    let unknown = json!({"prompt": "p", "checks": [{"contains": "a"}], "check": 1});
    assert!(item(Suite::Generation, &unknown).expect_err("refused").starts_with("unknown field `check`"));
}

#[test]
fn columns_may_be_written_as_in_the_datasets_and_others_are_ignored() {
    for answer in [json!(2), json!("2"), json!("C")] {
        let line = json!({"question": "q", "subject": "s", "choices": ["a", "", "c", "d"], "answer": answer, "more": [1]});
        let Ok(Item::Mmlu(read)) = item(Suite::Mmlu, &line) else { panic!("{line}") };
        assert_eq!(read.answer, 2);
    }
    for label in [json!(0), json!("0")] {
        let line = json!({"ind": 4, "activity_label": "a", "ctx_a": "", "ctx_b": "b", "ctx": "b", "endings": ["a", "b", "c", "d"],
                          "source_id": "x", "split": "val", "split_type": "indomain", "label": label});
        assert!(item(Suite::HellaSwag, &line).is_ok());
    }
}

#[test]
fn the_smoke_items_are_items_and_are_marked() {
    let files = [
        (Suite::Mmlu, include_str!("../../../configs/eval/smoke/mmlu.jsonl")),
        (Suite::Mmlu, include_str!("../../../configs/eval/smoke/mmlu-dev.jsonl")),
        (Suite::HellaSwag, include_str!("../../../configs/eval/smoke/hellaswag.jsonl")),
        (Suite::HellaSwag, include_str!("../../../configs/eval/smoke/hellaswag-dev.jsonl")),
        (Suite::Gsm8k, include_str!("../../../configs/eval/smoke/gsm8k.jsonl")),
        (Suite::Gsm8k, include_str!("../../../configs/eval/smoke/gsm8k-dev.jsonl")),
        (Suite::Perplexity, include_str!("../../../configs/eval/smoke/perplexity.jsonl")),
        (Suite::Generation, include_str!("../../../configs/eval/smoke/generation.jsonl")),
    ];
    for (suite, file) in files {
        let items: Vec<Item> = file
            .lines()
            .map(|line| {
                suite
                    .item(&mut serde_json::Deserializer::from_str(line))
                    .unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        let variant = suite.variants()[0];
        let run = Run::begin(suite, variant, &Shots::none(), &items).expect("a run");
        assert!(run.smoke && run.twice == 0 && items.iter().all(Item::is_smoke));
        assert!(items.iter().all(|item| ask(item, variant, &Shots::none()).is_ok()));
    }
    assert!(!mmlu("my own").is_smoke());
}

#[test]
fn an_engine_is_asked_in_the_best_way_that_it_can_answer() {
    let all = EngineCan { token_probabilities: true, completions: true, chats: true };
    let no_probabilities = EngineCan { token_probabilities: false, ..all };
    let chats_only = EngineCan { chats: true, ..EngineCan::default() };
    let of = |engine| Suite::ALL.map(|suite: Suite| suite.variant_for(engine).map_or("-", Variant::word));
    assert_eq!(of(all), ["loglikelihood", "loglikelihood", "completion", "loglikelihood", "chat"]);
    assert_eq!(of(no_probabilities), ["completion", "completion", "completion", "-", "chat"]);
    assert_eq!(of(chats_only), ["chat", "chat", "chat", "-", "chat"]);
    let error = ask(&page("a", "b"), Variant::Chat, &Shots::none()).expect_err("no such variant");
    assert_eq!(error.to_string(), "perplexity cannot be asked as chat: only as loglikelihood");
}

#[test]
fn endings_are_asked_with_letters_where_no_probabilities_are_told() {
    let line = json!({"activity_label": "Tea", "ctx_a": "A kettle boils.", "ctx_b": "she", "endings": ["pours [x] it.", "b", "c", "d"], "label": "1"});
    let swag = item(Suite::HellaSwag, &line).expect("an item");
    let mut other = line.clone();
    other["ctx_a"] = json!("Another.");
    let shots = Shots::first(1, vec![swag.clone(), item(Suite::HellaSwag, &other).expect("an item")])
        .expect("enough");
    let Ok(Question::Chat { messages, stop, most_tokens }) = ask(&swag, Variant::Chat, &shots) else {
        panic!("no chat")
    };
    assert_eq!(
        (messages[0].role, messages[1].role, messages.len(), most_tokens),
        (Role::System, Role::User, 2, MOST_TOKENS)
    );
    assert!(messages[0].content.contains("Answer with the letter"));
    // The example is the other one: an item never stands before itself.
    assert_eq!(
        messages[1].content,
        "Tea: Another. She\nA. pours  it.\nB. b\nC. c\nD. d\nAnswer: B\n\nTea: A kettle boils. She\nA. pours  it.\nB. b\nC. c\nD. d\nAnswer:".replace("  ", " ")
    );
    assert_eq!(stop, ["</s>", "\n"]);
}

#[test]
fn texts_and_prompts_of_ones_own_are_asked_as_they_are() {
    let text = "a ( b ) , c \n ";
    let asked = ask(&page("a", text), Variant::LogLikelihood, &Shots::none()).expect("a question");
    assert_eq!(asked, Question::Rolling { text: text.into() });
    let line = json!({"system": "s", "prompt": "p ", "stop": ["x"], "most_tokens": 9, "checks": [{"contains": "a"}]});
    let own = item(Suite::Generation, &line).expect("an item");
    let asked = ask(&own, Variant::Completion, &Shots::none()).expect("a question");
    assert_eq!(
        asked,
        Question::Complete { prompt: "s\n\np ".into(), stop: vec!["x".into()], most_tokens: 9 }
    );
    let Ok(Question::Chat { messages, .. }) = ask(&own, Variant::Chat, &Shots::none()) else {
        panic!("no chat")
    };
    assert_eq!(messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(), ["s", "p "]);
}

#[test]
fn too_few_examples_say_how_many_there_are() {
    let shots = Shots::first(2, vec![mmlu("a")]).expect("begun");
    let error = ask(&mmlu("b"), Variant::Chat, &shots).expect_err("too few");
    // The same content: an item is no example of itself, whatever it is called.
    assert_eq!(
        error.to_string(),
        "2 examples asked for, 0 there about odd_things: add some, or ask for fewer"
    );
    assert!(matches!(Shots::first(65, vec![]), Err(ShotsError::TooMany { asked: 65 })));
    let error = Shots::first(1, vec![page("a", "b")]).expect_err("none");
    assert_eq!(error.to_string(), "perplexity has no examples before its items: ask for 0, not 1");
    assert!(ask(&page("a", "b"), Variant::LogLikelihood, &Shots::first(1, vec![]).expect("begun")).is_err());
}

#[test]
fn a_letter_is_found_where_an_answer_decides_for_it() {
    for (answer, letter) in [
        ("B", Some(1)),
        (" B\n", Some(1)),
        ("(C) because", Some(2)),
        ("**D**. It is", Some(3)),
        ("B) Paris", Some(1)),
        ("The answer is C.", Some(2)),
        ("The correct answer is: **A**", Some(0)),
        ("Answer: (D)", Some(3)),
        ("First I thought answer A. But the answer is B.", Some(1)),
        ("It must be (B), as said.", Some(1)),
        ("Either (A) or (B).", None),
        ("A whale is a mammal", None),
        ("A-levels", None),
        ("AB", None),
        ("E", None),
        ("b", None),
        ("I do not know the answer", None),
        ("", None),
        ("Ä", None),
    ] {
        assert_eq!(extract::letter(answer, 4), letter, "{answer:?}");
    }
}

#[test]
fn thoughts_before_an_answer_are_not_the_answer() {
    let text = "<think>A? #### 1</think>\n\nB";
    assert_eq!(mark::visible(text, &["\n".into()]), "B");
    assert_eq!(mark::visible("a</think>b</think> c\nd", &["\n".into(), String::new()]), "c");
}

#[test]
fn every_word_names_its_suite_and_every_suite_its_metrics() {
    for suite in Suite::ALL {
        assert_eq!(Suite::from_word(suite.word()), Some(suite));
        assert_eq!(serde_json::to_value(suite).expect("json"), suite.word());
        for variant in suite.variants() {
            assert_eq!(serde_json::to_value(variant).expect("json"), variant.word());
            for metric in suite.metrics(*variant) {
                assert_eq!(serde_json::to_value(metric).expect("json"), metric.word());
            }
        }
    }
    assert_eq!(Suite::from_word("MMLU"), None);
}
