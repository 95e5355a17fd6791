//! Tests of the verdicts. Real answers are judged in `core/tests/verdict_samples.rs`.

use super::*;
use crate::machine::Abilities;
use crate::units::Bytes;
use proptest::prelude::*;

fn answer(text: &str) -> Answer<'_> {
    Answer { text, finish_reason: Some("stop"), completion_tokens: Some(12), ..Answer::default() }
}

fn why(verdict: &Verdict) -> &str {
    verdict.why().expect("a fault")
}

#[test]
fn nothing_white_space_and_special_tokens_are_empty() {
    for (text, reason) in [
        ("", "no text, 12 tokens generated"),
        (" \n\t \u{200b}", "only white space, 12 tokens generated"),
        ("<|im_end|>", "only special tokens, 12 tokens generated"),
        ("<|endoftext|> </s>\n<｜▁pad▁｜>", "only special tokens, 12 tokens generated"),
    ] {
        let found = judge(&answer(text), Expectation::WHOLE);
        assert_eq!(found, Verdict::Empty(reason.into()), "{text:?}");
    }
    assert_eq!(judge(&answer("Hello."), Expectation::WHOLE), Verdict::Good);
}

#[test]
fn a_tool_call_needs_no_text() {
    assert_eq!(judge(&Answer { tool_call: true, ..answer("") }, Expectation::WHOLE), Verdict::Good);
    let noise = "G".repeat(80);
    let noise = Answer { tool_call: true, ..answer(&noise) };
    assert_eq!(judge(&noise, Expectation::WHOLE).word(), "repeated", "but text beside it is judged");
}

#[test]
fn an_answer_that_ran_out_of_tokens_is_cut_unless_few_were_asked_for() {
    for word in ["length", "max_tokens", "limit"] {
        let cut = Answer { finish_reason: Some(word), ..answer("The sky is") };
        let found = judge(&cut, Expectation::WHOLE);
        assert_eq!(found, Verdict::Cut("the answer ended for want of tokens, 12 generated".into()));
        assert_eq!(judge(&cut, Expectation::BEGINNING), Verdict::Good);
    }
    let silent = Answer { finish_reason: None, ..answer("The sky is blue.") };
    assert_eq!(judge(&silent, Expectation::WHOLE), Verdict::Good, "many engines do not say");
}

#[test]
fn thinking_that_used_up_the_tokens_is_cut_and_judged_in_the_answers_place() {
    let thinking = Answer {
        finish_reason: Some("length"),
        reasoning: Some("The user greets me. I should greet back."),
        ..answer("")
    };
    let found = judge(&thinking, Expectation::SENTENCE);
    assert_eq!(found, Verdict::Cut("all went into thinking, 12 tokens generated".into()));
    assert_eq!(replica_verdict(&[found]), ReplicaVerdict::Pass);
    let noise = "G".repeat(80);
    let looping = Answer { reasoning: Some(&noise), ..thinking };
    assert_eq!(judge(&looping, Expectation::SENTENCE).word(), "repeated");
    let silent = Answer { finish_reason: Some("stop"), ..thinking };
    let found = judge(&silent, Expectation::SENTENCE);
    assert_eq!(why(&found), "the thinking ended without an answer, 12 tokens generated");
}

#[test]
fn a_model_without_an_end_goes_on_with_the_users_turn() {
    for turn in [
        "Paris.<|im_end|>\n<|im_start|>user\nAnd of Spain?",
        "Paris.\n<|im_start|>user\nAnd of Spain?",
        "Paris.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd of Spain?",
        "Paris.</s>[INST] And of Spain? [/INST]",
        "```\nParis\n```\n<start_of_turn>user\nAnd of Spain?",
    ] {
        let cut = Answer { finish_reason: Some("length"), ..answer(turn) };
        let found = judge(&cut, Expectation::SENTENCE);
        assert_eq!(why(&found), "it goes on with a user's turn, 12 tokens generated", "{turn}");
        assert!(matches!(replica_verdict(&[found]), ReplicaVerdict::Quarantine(_)));
        let silent = Answer { finish_reason: None, ..cut };
        assert_eq!(judge(&silent, Expectation::WHOLE).word(), "endless", "many engines do not say");
        assert_eq!(judge(&answer(turn), Expectation::WHOLE), Verdict::Good, "it has stopped");
    }
}

#[test]
fn who_explains_a_template_does_stop() {
    for text in [
        "A turn looks like this:\n```\n<|im_start|>user\nHi<|im_end|>\n```\nand",
        "Start with `<|im_start|>user` and end with `<|im_end|><|im_start|>user` where",
        "The template writes [INST] before the question and",
        "<|im_start|>user",
    ] {
        let cut = Answer { finish_reason: Some("length"), ..answer(text) };
        assert_ne!(judge(&cut, Expectation::BEGINNING).word(), "endless", "{text}");
    }
}

#[test]
fn plain_names_of_roles_count_only_where_the_end_was_due() {
    let short = Expectation::BEGINNING.within(100);
    for (text, word) in [
        ("Paris.\nUser: And of Spain?\nAssistant: Madrid.", "endless"),
        ("Paris.\n\n### Instruction:\nAnd of Spain?", "endless"),
        ("Paris.\nuser\nAnd of Spain?\nassistant\n", "endless"),
        ("User: Is it open?\nClerk: Yes.\nUser: And on Sunday?", "good"),
        ("The user: a person.\nThe users of the shop", "good"),
    ] {
        let cut = Answer { finish_reason: Some("length"), ..answer(text) };
        assert_eq!(judge(&cut, short).word(), word, "{text}");
        assert_eq!(judge(&cut, Expectation::BEGINNING), Verdict::Good, "a dialogue may have been asked for");
        assert_eq!(judge(&answer(text), short), Verdict::Good, "it has stopped: {text}");
    }
}

#[test]
fn more_tokens_than_a_short_answer_takes_and_no_end_is_endless() {
    let short = Expectation::WHOLE.within(20);
    let told = |tokens| Answer {
        finish_reason: Some("length"),
        completion_tokens: tokens,
        ..answer("The capital of France is Paris, which lies on the Seine, and so")
    };
    let found = judge(&told(Some(64)), short);
    assert_eq!(found, Verdict::Endless("64 tokens without an end, 20 are more than enough".into()));
    assert_eq!(judge(&told(Some(20)), short).word(), "cut");
    assert_eq!(judge(&told(None), short).word(), "cut", "13 words are 13 tokens or more");
    let words = "one two three four five six seven eight nine ten ".to_owned();
    let many = words.clone() + "and then eleven, twelve, thirteen, fourteen, fifteen, sixteen, seventeen";
    assert_eq!(judge(&Answer { text: &many, ..told(None) }, Expectation::WHOLE.within(15)).word(), "endless");
    let ended = Answer { finish_reason: Some("stop"), ..told(Some(64)) };
    assert_eq!(judge(&ended, short), Verdict::Good, "late, but by itself");
    let old: Expectation = serde_json::from_str(r#"{"may_be_cut":true,"may_loop":false,"in_words":false}"#)
        .expect("an older one");
    assert_eq!(old, Expectation::BEGINNING);
}

#[test]
fn the_inner_names_of_tokens_are_no_text() {
    for (text, reason) in [
        ("TheĠcapitalĠofĠFranceĠisĠParis", "5 names of spaces and 0 spaces"),
        ("▁The▁capital▁of▁France▁is▁Paris", "6 names of spaces and 0 spaces"),
        ("<0xE5><0x8C><0x97><0xE4><0xBA><0xAC>", "6 names of bytes among 36 characters"),
        ("PÃ¤ijÃ¤nne on jÃ¤rvi HÃ¤meessÃ¤", "5 of 31 characters are bytes of others"),
    ] {
        let found = judge(&answer(text), Expectation::WHOLE);
        assert_eq!(found, Verdict::Gibberish(reason.into()));
    }
}

#[test]
fn scripts_may_stand_side_by_side_but_not_touch_at_random() {
    let table = "| water | вода | 水 | ماء | νερό |\n| bread | хлеб | 面包 | خبز | ψωμί |\n";
    assert_eq!(judge(&answer(table), Expectation::BEGINNING).word(), "good");
    let soup = "valueстан 北京ing ماءcode の хлебreturn 面包 int νερόle 水тель for";
    let found = judge(&answer(soup), Expectation::BEGINNING);
    assert!(why(&found).starts_with("scripts touch 1"), "{found:?}");
}

#[test]
fn reasons_are_counts_and_never_the_answers_words() {
    let secret = "Zanzibar Quokka ".repeat(12);
    let found = judge(&answer(&secret), Expectation::WHOLE);
    assert_eq!(why(&found), "a piece of 16 characters 11 times, 100 % of the text");
    let broken = judge(&answer("Zanz\u{fffd}ibar \u{4}"), Expectation::WHOLE);
    assert_eq!(why(&broken), "2 of 11 characters are control characters or broken");
}

#[test]
fn a_base_model_may_loop_over_sentences_but_not_over_words() {
    let sentence = "Once upon a time there was a little girl. ".repeat(6);
    assert_eq!(judge(&answer(&sentence), Expectation::CONTINUATION), Verdict::Good);
    assert_eq!(judge(&answer(&sentence), Expectation::BEGINNING).word(), "repeated");
    for flood in ["G".repeat(60), "the ".repeat(30)] {
        assert_eq!(judge(&answer(&flood), Expectation::CONTINUATION).word(), "repeated");
    }
}

#[test]
fn a_list_that_differs_in_its_numbers_is_no_loop() {
    let list: String =
        (1..400).map(|n| format!("Line {n} costs {} coins of {}. ", n * 13 % 101, n * 7)).collect();
    assert_eq!(judge(&answer(&list), Expectation::WHOLE), Verdict::Good);
    let cases: String = (400..430).map(|n| format!("    case {n}:\n        return {n}\n")).collect();
    assert_eq!(judge(&answer(&cases), Expectation::WHOLE), Verdict::Good);
}

#[test]
fn a_probe_of_24_tokens_finds_one_character_without_end() {
    let abilities = Abilities { chat: Some(true), ..Abilities::default() };
    let probes = three_prompts(&abilities).expect("it chats");
    for character in ["G", "@", "?", "!", "的", "0"] {
        let flood = character.repeat(probes[0].max_tokens as usize);
        assert_eq!(judge(&answer(&flood), probes[0].expectation).word(), "repeated", "{character}");
    }
    assert_eq!(judge(&answer("10^12 is 1000000000000."), Expectation::WHOLE), Verdict::Good);
}

#[test]
fn a_sentence_is_made_of_words_where_one_was_asked_for() {
    let symbols = ";0?!18=1C%-DB&*(^%$#@!~`|{]['\":;>.<,/?+_)(*&^%$1=3;-9!";
    assert_eq!(judge(&answer(symbols), Expectation::SENTENCE).word(), "gibberish");
    assert_eq!(
        judge(&answer(symbols), Expectation::BEGINNING),
        Verdict::Good,
        "it may be a regular expression"
    );
    assert_eq!(judge(&answer("1, 2, 3, 4, 5"), Expectation::SENTENCE), Verdict::Good);
}

#[test]
fn a_long_answer_is_judged_by_its_beginning_and_its_end() {
    let line = |n: u32| format!("Chapter {n} tells of item {}, which costs {} coins.\n", n * 7, n * 13 % 101);
    let sound: String = (0..2_000).map(line).collect();
    assert!(sound.chars().count() > 4 * LOOKED_AT);
    let fallen = sound.clone() + &"and so on ".repeat(2_000);
    assert_eq!(judge(&answer(&fallen), Expectation::WHOLE).word(), "repeated");
}

#[test]
fn one_bad_answer_of_three_is_enough_for_quarantine_and_a_cut_one_is_none() {
    let (good, cut) = (Verdict::Good, Verdict::Cut("few tokens".into()));
    assert_eq!(replica_verdict(&[good.clone(), cut.clone(), good.clone()]), ReplicaVerdict::Pass);
    let gibberish = Verdict::Gibberish("9 of 40 characters are broken".into());
    assert_eq!(
        replica_verdict(&[good.clone(), cut, gibberish]),
        ReplicaVerdict::Quarantine(
            "1 of 3 test answers is bad; answer 3 is gibberish: 9 of 40 characters are broken".into()
        )
    );
    let empty = || Verdict::Empty("no text".into());
    assert_eq!(
        replica_verdict(&[good, empty(), empty()]),
        ReplicaVerdict::Quarantine("2 of 3 test answers are bad; answer 2 is empty: no text".into())
    );
    assert!(matches!(replica_verdict(&[]), ReplicaVerdict::Quarantine(_)));
}

#[test]
fn probes_ask_only_what_the_model_can_do() {
    let kind = |chat, fim, embed| {
        let abilities = Abilities { chat, fim, embed, ..Abilities::default() };
        three_prompts(&abilities).map(|probes| match probes[0].input {
            ProbeInput::Chat(_) => "chat",
            ProbeInput::Complete(_) => "complete",
            ProbeInput::Fill { .. } => "fill",
        })
    };
    assert_eq!(kind(Some(true), None, None), Some("chat"));
    assert_eq!(kind(Some(true), Some(true), Some(true)), Some("chat"), "a chat model that can more");
    assert_eq!(kind(Some(false), Some(true), None), Some("fill"));
    assert_eq!(kind(Some(false), Some(false), Some(true)), None, "no prompt condemns an embedding model");
    assert_eq!(kind(None, None, Some(true)), None);
    assert_eq!(kind(Some(false), None, None), Some("complete"));
    assert_eq!(kind(None, None, None), Some("complete"), "it may be a base model");
}

#[test]
fn a_probe_knows_its_right_answers() {
    let abilities = Abilities { chat: Some(true), ..Abilities::default() };
    let [_, fact, _] = three_prompts(&abilities).expect("it chats");
    assert!(fact.is_right("The capital of France is PARIS."));
    assert!(!fact.is_right("The capital of France is London."));
}

#[test]
fn half_the_speed_of_the_profile_is_good_and_less_is_a_fallback() {
    assert_eq!(speed_verdict(Some(40.0), Some(80.0)), SpeedVerdict::Good);
    assert_eq!(speed_verdict(Some(400.0), Some(80.0)), SpeedVerdict::Good);
    let SpeedVerdict::Degraded(why) = speed_verdict(Some(8.96), Some(31.37)) else { panic!("far slower") };
    assert!(
        why.starts_with("cpu_fallback: 9.0 tokens/s are 29 % of the 31.4 in the profile; hint: "),
        "{why}"
    );
}

#[test]
fn a_speed_with_nothing_to_compare_is_unknown() {
    for (measured, profile) in [
        (None, Some(80.0)),
        (Some(8.0), None),
        (Some(f64::NAN), Some(80.0)),
        (Some(0.0), Some(80.0)),
        (Some(8.0), Some(0.0)),
        (Some(8.0), Some(f64::INFINITY)),
    ] {
        let found = speed_verdict(measured, profile);
        assert!(matches!(found, SpeedVerdict::Unknown(_)), "{measured:?} {profile:?}");
    }
}

const GIB: u64 = 1 << 30;

fn placed(predicted: u64, delta: i64) -> Placement {
    Placement {
        predicted_device: Bytes(predicted),
        measured_delta: Some(delta),
        whole: true,
        ..Placement::default()
    }
}

#[test]
fn device_memory_that_moved_as_predicted_is_good() {
    for delta in [4 * GIB, 5 * GIB, 3 * GIB] {
        let seen = placed(4 * GIB, i64::try_from(delta).expect("small"));
        assert_eq!(placement_verdict(&seen), PlacementVerdict::Good);
    }
    assert_eq!(placement_verdict(&placed(0, 0)), PlacementVerdict::Good, "planned for the CPU");
}

#[test]
fn device_memory_that_hardly_moved_is_a_fallback() {
    for (delta, came) in [(0, "0 B"), (-(1 << 28), "0 B"), (300 << 20, "300 MiB"), (5 << 29, "2.5 GiB")] {
        let expected = format!("4 GiB were to land on the device, its memory shrank by {came}");
        assert_eq!(placement_verdict(&placed(4 * GIB, delta)), PlacementVerdict::CpuFallback(expected));
    }
}

#[test]
fn what_cannot_be_seen_is_unknown_and_no_fallback() {
    let unread = Placement { measured_delta: None, ..placed(4 * GIB, 0) };
    assert!(matches!(placement_verdict(&unread), PlacementVerdict::Unknown(_)));
    assert!(matches!(placement_verdict(&placed(2 << 20, 0)), PlacementVerdict::Unknown(_)), "a tiny model");
}

#[test]
fn the_engines_own_word_comes_before_the_device() {
    let ollama = |on_device| Placement {
        size: Some(Bytes(5 * GIB)),
        size_vram: Some(Bytes(on_device)),
        ..placed(5 * GIB, 0)
    };
    assert_eq!(placement_verdict(&ollama(5 * GIB)), PlacementVerdict::Good);
    assert_eq!(
        placement_verdict(&ollama(4 * GIB)),
        PlacementVerdict::CpuFallback("the engine has 4 GiB of the model's 5 GiB on the device".into())
    );
    let planned = Placement { whole: false, ..ollama(3 * GIB) };
    let planned = Placement { predicted_device: Bytes(3 * GIB), ..planned };
    assert_eq!(placement_verdict(&planned), PlacementVerdict::Good, "a planned part in RAM is no fallback");
    let less = Placement { size_vram: Some(Bytes(GIB)), ..planned };
    assert_eq!(
        placement_verdict(&less),
        PlacementVerdict::CpuFallback("the engine has 1 GiB of the planned 3 GiB on the device".into())
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_judge_panic(text in any::<String>(), cut in any::<bool>()) {
        let seen = Answer { finish_reason: cut.then_some("length"), ..answer(&text) };
        for expectation in [Expectation::WHOLE, Expectation::SENTENCE, Expectation::CONTINUATION] {
            let found = judge(&seen, expectation);
            prop_assert!(!found.why().is_some_and(|why| why.contains('\n')));
        }
    }

    #[test]
    fn anything_said_over_and_over_is_a_loop(piece in "[a-z]{2,9}( [a-z]{2,9}){0,7}", times in 14_usize..40) {
        let text = format!("{piece} ").repeat(times);
        prop_assert_eq!(judge(&answer(&text), Expectation::WHOLE).word(), "repeated");
    }
}
