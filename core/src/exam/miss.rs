//! What was wrong with an answer, for people who look: which choice was likelier, what was taken for the answer, which checks do
//! not hold. No figure is made of it.

use super::extract::{self, LETTERS};
use super::item::Item;
use super::mark::{chances, first_greatest, visible};
use super::question::{Answer, letter, stop};
use super::{Metric, Suite};
use crate::ladder::RecordProblem;
use crate::ladder::check::{self, problem};
use crate::verdict::{self, Expectation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest of its texts, in bytes: the beginning of a check or of what was taken.
const LONGEST: usize = 120;
/// Checks of one item, and choices, at most.
const FEW: usize = 64;

/// What was wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// Another choice was likelier than the right one, by these metrics.
    Likelier(BTreeMap<Metric, Likelier>),
    /// Another answer was read from what it wrote.
    Taken {
        /// The right one.
        wanted: String,
        /// What each metric that is not right took for its answer.
        by: BTreeMap<Metric, String>,
    },
    /// It is not as the item's checks want it, or no whole text.
    Broken {
        /// The checks that do not hold, in the words of the item, in its order.
        checks: Vec<String>,
        /// What is wrong with its form: `empty`, `cut`; `null` = nothing.
        unsound: Option<String>,
    },
}

/// By how much another choice was likelier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likelier {
    /// The likeliest one, from 0.
    pub chosen: usize,
    /// The right one.
    pub right: usize,
    /// The difference of their log-likelihoods in nats, for `acc_norm` in nats for each character; `null` = the right one has a
    /// probability of 0.
    pub by: Option<f64>,
}

/// What is wrong with `answer`; `None` = nothing by any metric, or it has no score.
#[must_use]
pub fn miss(item: &Item, answer: &Answer) -> Option<Miss> {
    match (item, answer) {
        (Item::Mmlu(own), Answer::Continuations(_)) => likelier(item, own.answer, answer),
        (Item::HellaSwag(own), Answer::Continuations(_)) => likelier(item, own.label, answer),
        (Item::Mmlu(own), Answer::Text { text, .. }) => letters(visible(text, &stop(item)), own.answer),
        (Item::HellaSwag(own), Answer::Text { text, .. }) => letters(visible(text, &stop(item)), own.label),
        (Item::Gsm8k(own), Answer::Text { text, .. }) => {
            let seen = visible(text, &stop(item));
            let read = [
                (Metric::StrictMatch, extract::strict_match(seen)),
                (Metric::FlexibleExtract, extract::flexible_extract(seen)),
            ];
            let wrong = read.into_iter().filter(|(_, found)| !extract::same_number(found, &own.answer));
            taken(extract::strict_match(&own.answer), wrong.map(|(metric, found)| (metric, found.to_owned())))
        }
        (Item::Generation(own), Answer::Text { text, cut }) => {
            let seen = visible(text, &stop(item));
            let broken = own.checks.iter().filter(|check| !check.holds(seen));
            let checks: Vec<String> = broken.map(|check| beginning(&check.words())).collect();
            let finish_reason = Some(if *cut { "length" } else { "stop" });
            let judged = verdict::Answer { text: seen, finish_reason, ..verdict::Answer::default() };
            let form = verdict::judge(&judged, Expectation::WHOLE);
            let unsound = form.why().map(|_| form.word().to_owned());
            (!checks.is_empty() || unsound.is_some()).then_some(Miss::Broken { checks, unsound })
        }
        (Item::Page(_), _)
        | (_, Answer::Nothing { .. } | Answer::Rolling { .. } | Answer::Continuations(_)) => None,
    }
}

fn likelier(item: &Item, right: usize, answer: &Answer) -> Option<Miss> {
    let Answer::Continuations(scores) = answer else { return None };
    let wrong = chances(item, scores).ok()?.into_iter().filter_map(|(metric, logs)| {
        let chosen = first_greatest(&logs);
        let by = logs.get(chosen)? - logs.get(right)?;
        (chosen != right)
            .then_some((metric, Likelier { chosen, right, by: Some(by).filter(|by| by.is_finite()) }))
    });
    let wrong: BTreeMap<Metric, Likelier> = wrong.collect();
    (!wrong.is_empty()).then_some(Miss::Likelier(wrong))
}

fn letters(seen: &str, right: usize) -> Option<Miss> {
    let (first, decided) = (extract::first_line(seen), extract::letter(seen, LETTERS));
    let wrong = [
        (Metric::GetResponse, extract::same_words(first, &letter(right)), first.to_owned()),
        (Metric::Letter, decided == Some(right), decided.map(letter).unwrap_or_default()),
    ];
    let wrong = wrong.into_iter().filter(|(_, is_right, _)| !is_right);
    taken(&letter(right), wrong.map(|(metric, _, found)| (metric, found)))
}

fn taken(wanted: &str, wrong: impl Iterator<Item = (Metric, String)>) -> Option<Miss> {
    let by: BTreeMap<Metric, String> = wrong.map(|(metric, found)| (metric, beginning(&found))).collect();
    (!by.is_empty()).then(|| Miss::Taken { wanted: beginning(wanted), by })
}

/// As much of a text as is kept.
fn beginning(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", &text[..end])
}

impl Miss {
    /// Whether it keeps to its bounds.
    ///
    /// # Errors
    /// What does not.
    pub(super) fn check(&self, suite: Suite) -> Result<(), RecordProblem> {
        match self {
            Self::Likelier(wrong) => wrong.values().try_for_each(|one| {
                if one.chosen >= FEW || one.right >= FEW {
                    return Err(problem("missed.likelier", one.chosen.max(one.right), "one of the choices"));
                }
                check::maybe_between("missed.likelier.by", one.by, 0.0, 1e9)
            }),
            Self::Taken { wanted, by } => {
                by.values().chain([wanted]).try_for_each(|text| check::length("missed.taken", text, LONGEST))
            }
            Self::Broken { checks, unsound } => {
                if suite != Suite::Generation {
                    return Err(problem("missed.broken", suite.word(), "an exam with checks"));
                }
                check::count("missed.broken.checks", checks.len(), 0, FEW)?;
                checks
                    .iter()
                    .chain(unsound)
                    .try_for_each(|text| check::length("missed.broken", text, LONGEST))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exam::{ContinuationScore, ItemScore, score};

    fn item(suite: Suite, line: &str) -> Item {
        suite.item(&mut serde_json::Deserializer::from_str(line)).expect("an item")
    }

    fn likelihoods(logs: &[f64]) -> Answer {
        let one =
            |log_likelihood: &f64| ContinuationScore { log_likelihood: *log_likelihood, is_greedy: false };
        Answer::Continuations(logs.iter().map(one).collect())
    }

    fn text(text: &str) -> Answer {
        Answer::Text { text: text.into(), cut: false }
    }

    /// What is told, after it was checked that each metric that is not right is told of, and no other.
    fn told(item: &Item, answer: &Answer) -> Option<Miss> {
        let Ok(ItemScore::Marks { right, .. }) = score(item, answer) else { panic!("no marks") };
        let wrong: Vec<Metric> =
            right.iter().filter(|(_, right)| !**right).map(|(metric, _)| *metric).collect();
        let missed = miss(item, answer);
        let of: Vec<Metric> = match &missed {
            None => vec![],
            Some(Miss::Likelier(wrong)) => wrong.keys().copied().collect(),
            Some(Miss::Taken { by, .. }) => by.keys().copied().collect(),
            Some(Miss::Broken { checks, unsound }) => {
                let checks = (!checks.is_empty()).then_some(Metric::ChecksPassed);
                checks.into_iter().chain(unsound.as_ref().map(|_| Metric::Sound)).collect()
            }
        };
        assert_eq!(of, wrong, "{answer:?}");
        assert_eq!(missed.as_ref().map_or(Ok(()), |missed| missed.check(item.suite())), Ok(()));
        missed
    }

    #[test]
    fn the_likelier_choice_is_told_with_the_distance_to_the_right_one() {
        let mmlu = r#"{"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 3}"#;
        let mmlu = item(Suite::Mmlu, mmlu);
        let by = |chosen, by| {
            Some(Miss::Likelier(BTreeMap::from([(Metric::Acc, Likelier { chosen, right: 3, by })])))
        };
        assert_eq!(told(&mmlu, &likelihoods(&[-2.0, -0.5, -3.0, -1.0])), by(1, Some(0.5)));
        assert_eq!(
            told(&mmlu, &likelihoods(&[-1.0, -2.0, -3.0, -1.0])),
            by(0, Some(0.0)),
            "of equals the first"
        );
        assert_eq!(told(&mmlu, &likelihoods(&[-1.0, -2.0, -3.0, f64::NEG_INFINITY])), by(0, None));
        assert_eq!(told(&mmlu, &likelihoods(&[-2.0, -2.0, -2.0, -1.0])), None);
        assert_eq!(miss(&mmlu, &likelihoods(&[-1.0])), None, "it has no score");
    }

    #[test]
    fn what_was_taken_for_the_answer_is_told_beside_the_right_one() {
        let sum = item(Suite::Gsm8k, r#"{"question": "9 + 9?", "answer": "so\n#### 18"}"#);
        let taken = |by: &[(Metric, &str)]| {
            let by = by.iter().map(|(metric, text)| (*metric, (*text).to_owned())).collect();
            Some(Miss::Taken { wanted: "18".into(), by })
        };
        assert_eq!(told(&sum, &text("It is 18")), taken(&[(Metric::StrictMatch, "[invalid]")]));
        assert_eq!(
            told(&sum, &text("17\n#### 17")),
            taken(&[(Metric::StrictMatch, "17"), (Metric::FlexibleExtract, "17")])
        );
        assert_eq!(told(&sum, &text("#### 18")), None);
        let mmlu = r#"{"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 1}"#;
        let missed = told(&item(Suite::Mmlu, mmlu), &text("The answer is C.\nSure."));
        let Some(Miss::Taken { wanted, by }) = missed else { panic!("{missed:?}") };
        assert_eq!((wanted.as_str(), by[&Metric::Letter].as_str()), ("B", "C"));
        assert_eq!(by[&Metric::GetResponse], "The answer is C.");
    }

    #[test]
    fn checks_that_do_not_hold_are_told_in_the_items_own_words() {
        let own = item(
            Suite::Generation,
            r#"{"id": "a", "prompt": "p", "checks": [{"contains": "Paris"}, {"most_chars": 60},
                {"contains_any": ["8", "eight"], "ignore_case": true}, {"json_keys": ["a", "b"]}, {"json": "array"},
                {"matches": "\\*#?*"}, {"not_contains": "blue"}, {"least_lines": 2}, {"equals": "yes"}]}"#,
        );
        let missed = told(&own, &text("The sky over Paris is blue because the air scatters blue light."));
        let Some(Miss::Broken { checks, unsound: None }) = missed else { panic!("{missed:?}") };
        assert_eq!(
            checks,
            [
                "most_chars 60",
                r#"contains_any "8", "eight" (ignore_case)"#,
                "json_keys a, b",
                "json array",
                r#"matches "\*#?*""#,
                r#"not_contains "blue""#,
                "least_lines 2",
                r#"equals "yes""#,
            ]
        );
        let Some(Miss::Broken { unsound, .. }) = told(&own, &text("")) else { panic!("it is empty") };
        assert_eq!(unsound.as_deref(), Some("empty"));
    }
}
