//! Items that were not right: what was answered, and what was wrong with it.

use crate::render::ladder::said;
use crate::render::paint::{Look, bold};
use mesh_core::exam::{ItemScore, Likelier, Metric, Miss, Outcome, Record, Sitting, Suite};
use std::collections::BTreeMap;

/// Items that are shown of one exam.
const SHOWN: usize = 50;
/// Characters of an answer that are shown.
const ANSWER: usize = 160;

/// Items that the first metric of their suite calls wrong, and those that failed.
pub(crate) fn wrong(record: &Record, look: Look) -> String {
    let mut text = String::new();
    for sitting in &record.sittings {
        let suite = sitting.run.suite;
        let lines = lines(sitting, look);
        if lines.is_empty() {
            continue;
        }
        let more = lines.len().saturating_sub(SHOWN);
        let heading = format!("{}: {} of {}", suite.word(), lines.len(), sitting.run.items.len());
        text += &format!("\n{}\n{}", bold(&heading, look.color), lines[..lines.len() - more].concat());
        if more > 0 {
            text += &format!("  and {more} more: meshctl eval show {} --json\n", record.id);
        }
    }
    text
}

fn lines(sitting: &Sitting, look: Look) -> Vec<String> {
    let first = sitting.run.suite.metrics(sitting.run.variant).first().copied();
    let items = sitting.run.items.iter().filter_map(|(id, item)| {
        let what = match &item.outcome {
            Outcome::Failed(why) => format!("failed: {}", said(why, look)),
            Outcome::Scored(ItemScore::Marks { right, .. })
                if first.and_then(|metric| right.get(&metric)) == Some(&false) =>
            {
                let why = why(sitting, right, sitting.missed.get(id), look);
                match sitting.answers.get(id) {
                    Some(answer) => format!("{why}: {}", shown(answer, look)),
                    None => why,
                }
            }
            Outcome::Scored(_) | Outcome::Missing => return None,
        };
        Some(format!("  {}  {what}\n", look.text(id.as_str())))
    });
    items.collect()
}

/// What was wrong, by each metric in the order of reports. Records of earlier versions know only by which.
fn why(sitting: &Sitting, right: &BTreeMap<Metric, bool>, miss: Option<&Miss>, look: Look) -> String {
    let suite = sitting.run.suite;
    let known = suite.metrics(sitting.run.variant).iter();
    let known = known.filter_map(|metric| Some((*metric, *right.get(metric)?)));
    let metrics = |told: &dyn Fn(Metric) -> String| {
        let held = |is_right, metric| if is_right { "held".into() } else { told(metric) };
        let each =
            known.clone().map(|(metric, is_right)| format!("{} {}", short(metric), held(is_right, metric)));
        each.collect::<Vec<String>>().join(", ")
    };
    match miss {
        None => metrics(&|_| "failed".into()),
        Some(Miss::Likelier(wrong)) => {
            let named = |metric| if right.len() > 1 { format!("{}: ", short(metric)) } else { String::new() };
            let told = known.filter_map(|(metric, _)| {
                Some(named(metric) + &likelier(metric, *wrong.get(&metric)?, suite))
            });
            said(&told.collect::<Vec<String>>().join("; "), look)
        }
        Some(Miss::Taken { wanted, by }) => {
            let took = |metric| match by.get(&metric).map(String::as_str) {
                None => "failed".into(),
                Some("" | "[invalid]") => "found nothing".into(),
                Some(found) => format!("took {}", look.text(found)),
            };
            format!("{}, wanted {}", metrics(&took), look.text(wanted))
        }
        Some(Miss::Broken { checks, unsound }) => {
            let broken = checks.iter().map(|check| format!("fails {}", look.text(check)));
            let unsound = unsound.iter().map(|word| format!("is {}", look.text(word)));
            broken.chain(unsound).collect::<Vec<String>>().join(", ")
        }
    }
}

/// `strict-match` of `exact_match,strict-match`.
fn short(metric: Metric) -> &'static str {
    metric.word().rsplit(',').next().unwrap_or(metric.word())
}

/// `B was likelier than D by 0.42 nats: 1.52 × as likely`
fn likelier(metric: Metric, one: Likelier, suite: Suite) -> String {
    let named = |at: usize| match (suite, ["A", "B", "C", "D"].get(at)) {
        (Suite::HellaSwag, _) | (_, None) => format!("ending {}", at + 1),
        (_, Some(letter)) => (*letter).to_owned(),
    };
    let (chosen, right) = (named(one.chosen), named(one.right));
    let times = |nats: f64| match nats.exp() {
        many if many > 1000.0 => "over 1000 ×".to_owned(),
        some if some >= 9.95 => format!("{some:.0} ×"),
        few => format!("{few:.2} ×"),
    };
    match (one.by, metric) {
        (None, _) => format!("{chosen} was likelier than {right}, which had no chance"),
        (Some(0.0), _) => format!("{chosen} was as likely as {right}, and stands before it"),
        (Some(nats), Metric::AccNorm) => {
            format!("{chosen} was likelier than {right} by {nats:.3} nats for each character")
        }
        (Some(nats), _) => {
            format!("{chosen} was likelier than {right} by {nats:.2} nats: {} as likely", times(nats))
        }
    }
}

/// The beginning of an answer on one line, in quotes.
fn shown(answer: &str, look: Look) -> String {
    let words = answer.split_whitespace().collect::<Vec<&str>>().join(" ");
    let beginning: String = words.chars().take(ANSWER).collect();
    let more = if beginning.len() < words.len() { look.sign("…", "...") } else { "" };
    format!("\"{}{more}\"", look.text(&beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::exam::{Answer, ContinuationScore, Item, Run, Shots, Source, Variant};
    use mesh_core::id::{MachineId, ModelId};
    use mesh_core::profile::{HardwareFacts, SoftwareFacts};

    const PLAIN: Look = Look { width: None, color: false, unicode: true };

    fn item(suite: Suite, line: &str) -> Item {
        suite.item(&mut serde_json::Deserializer::from_str(line)).expect("an item")
    }

    fn likelihoods(logs: [f64; 4]) -> Answer {
        let one = |log_likelihood| ContinuationScore { log_likelihood, is_greedy: false };
        Answer::Continuations(logs.map(one).to_vec())
    }

    fn text(text: &str) -> Answer {
        Answer::Text { text: text.into(), cut: false }
    }

    fn sitting(suite: Suite, variant: Variant, answered: &[(&str, Answer)]) -> Sitting {
        let items: Vec<Item> = answered.iter().map(|(line, _)| item(suite, line)).collect();
        let mut sitting = Sitting::new(Run::begin(suite, variant, &Shots::none(), &items).expect("items"));
        for (item, (_, answer)) in items.iter().zip(answered) {
            sitting.run.record(item, answer).expect("it is in the run");
            sitting.explained(item, answer);
            if let Answer::Text { text, .. } = answer {
                sitting.answered(item.id(), text);
            }
        }
        sitting
    }

    fn record() -> Record {
        let mmlu = |id: &str| {
            format!(
                r#"{{"id": "{id}", "question": "q", "subject": "s", "choices": ["1", "2", "3", "4"], "answer": 3}}"#
            )
        };
        let swag = r#"{"ind": 7, "ctx_a": "A man", "ctx_b": "", "endings": ["runs.", "eats it all up.", "is a tree.", "sleeps."], "label": 3, "activity_label": "Being"}"#;
        let sum =
            |id: &str| format!(r#####"{{"id": "{id}", "question": "9 + 9?", "answer": "#### 18"}}"#####);
        let own = |id: &str| {
            format!(
                r#"{{"id": "{id}", "prompt": "Where?", "checks": [{{"contains": "Paris"}}, {{"most_chars": 20}}]}}"#
            )
        };
        let sittings = vec![
            sitting(
                Suite::Mmlu,
                Variant::LogLikelihood,
                &[
                    (&mmlu("close"), likelihoods([-2.0, -1.0, -3.0, -1.04])),
                    (&mmlu("far"), likelihoods([-2.0, -1.0, -3.0, -21.0])),
                    (&mmlu("never"), likelihoods([-2.0, -1.0, -3.0, f64::NEG_INFINITY])),
                    (&mmlu("same"), likelihoods([-1.0, -2.0, -3.0, -1.0])),
                    (&mmlu("right"), likelihoods([-2.0, -2.0, -3.0, -1.0])),
                    (&mmlu("broken"), Answer::Nothing { why: "it took too long".into() }),
                ],
            ),
            sitting(
                Suite::HellaSwag,
                Variant::LogLikelihood,
                &[(swag, likelihoods([-9.0, -9.0, -9.5, -9.8]))],
            ),
            sitting(
                Suite::Gsm8k,
                Variant::Chat,
                &[
                    (&sum("form"), text("It is 18.")),
                    (&sum("sum"), text("9 + 9 = 17\n#### 17")),
                    (&sum("right"), text("#### 18")),
                ],
            ),
            sitting(
                Suite::Generation,
                Variant::Chat,
                &[(&own("long"), text("It stands in Rome, I think, or so.")), (&own("empty"), text(""))],
            ),
        ];
        Record {
            schema: mesh_core::exam::SCHEMA.into(),
            id: "20261122-040000-000".into(),
            node: MachineId::new("msi").expect("a good name"),
            meshctl: "0.1.0".into(),
            started_unix_ms: 1,
            ended_unix_ms: None,
            hardware: HardwareFacts::default(),
            software: SoftwareFacts::default(),
            model: ModelId::new("m").expect("a good name"),
            quantisation: None,
            size: None,
            digest: None,
            subject: None,
            source: Source::default(),
            baseline: false,
            sittings,
        }
    }

    #[test]
    fn what_was_wrong_is_told_of_each_item() {
        let mut record = record();
        assert_eq!(record.check(), Ok(()));
        let text = serde_json::to_string(&record).expect("JSON");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("it reads back"), record);
        insta::assert_snapshot!(wrong(&record, PLAIN));
        // As a record of an earlier version.
        record.sittings.iter_mut().for_each(|sitting| sitting.missed.clear());
        let told = wrong(&record, PLAIN);
        assert!(told.contains("form  strict-match failed, flexible-extract held: \"It is 18.\""), "{told}");
        assert!(told.contains("close  acc failed\n"), "{told}");
    }
}
