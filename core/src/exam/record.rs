//! The document `mesh.eval/v1`: the exams that one model sat on one machine, item by item, so that two of them can be laid
//! beside each other later. No figure that can be computed is kept.

use super::item::{Item, ItemId, Print};
use super::miss::{Miss, miss};
use super::question::Answer;
use super::run::Run;
use super::{Suite, Variant};
use crate::id::{MachineId, ModelId};
use crate::ladder::RecordProblem;
use crate::ladder::check::{self, problem};
use crate::machine::Digest;
use crate::profile::{HardwareFacts, SoftwareFacts};
use crate::trial::{Finding, Subject};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The document's form and its version. A change that old readers would misread raises it.
pub const SCHEMA: &str = "mesh.eval/v1";
/// The longest answer that is kept, in bytes: enough to see what a model made of a question.
pub const LONGEST_ANSWER: usize = 2000;
/// The longest path, in bytes.
const PATH: usize = 4096;

/// Exams of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The document's form: [`SCHEMA`].
    pub schema: String,
    /// Which: a-z, 0-9 and `-`.
    pub id: String,
    /// Which machine.
    pub node: MachineId,
    /// The version of the program that asked.
    pub meshctl: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When it ended; `null` = it has not.
    pub ended_unix_ms: Option<u64>,
    /// The machine.
    pub hardware: HardwareFacts,
    /// What runs it.
    pub software: SoftwareFacts,
    /// Which model.
    pub model: ModelId,
    /// `Q4_K_M`; `null` = not known.
    pub quantisation: Option<String>,
    /// Bytes of its file; `null` = not known.
    pub size: Option<Bytes>,
    /// Of its file; `null` = not known.
    pub digest: Option<Digest>,
    /// What was asked, as the machine knows it.
    pub subject: Option<Subject>,
    /// Where the items are from.
    pub source: Source,
    /// What later exams of this model are compared with.
    #[serde(default)]
    pub baseline: bool,
    /// The exams, in the order in which they were sat.
    pub sittings: Vec<Sitting>,
}

/// What was asked for, so that an exam that was ended early can go on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// In this order.
    pub suites: Vec<Suite>,
    /// The file or folder; `null` = the samples that come with the program.
    pub items: Option<String>,
    /// The file of examples; `null` = beside the items.
    pub examples: Option<String>,
    /// Items of each suite, at most; `null` = all.
    pub limit: Option<usize>,
    /// Examples before each item; `null` = as usual for the suite.
    pub shots: Option<usize>,
    /// How it was to be asked; `null` = the best that the engine can.
    pub variant: Option<Variant>,
}

/// One exam, sat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sitting {
    /// What became of each item.
    pub run: Run,
    /// The beginning of what was answered, where answers are texts.
    #[serde(default)]
    pub answers: BTreeMap<ItemId, String>,
    /// What was wrong with the answers that were not right.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missed: BTreeMap<ItemId, Miss>,
    /// Items of which the beginning had no room in the model's context.
    #[serde(default)]
    pub clipped: BTreeSet<ItemId>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Sitting {
    /// One in which nothing was asked yet.
    #[must_use]
    pub fn new(run: Run) -> Self {
        Self {
            run,
            answers: BTreeMap::new(),
            missed: BTreeMap::new(),
            clipped: BTreeSet::new(),
            seconds: 0.0,
        }
    }

    /// Keeps what was wrong with the answer to `item`, where something was.
    pub fn explained(&mut self, item: &Item, answer: &Answer) {
        self.missed.remove(&item.id());
        self.missed.extend(miss(item, answer).map(|miss| (item.id(), miss)));
    }

    /// Keeps the beginning of an answer.
    pub fn answered(&mut self, id: ItemId, text: &str) {
        let end = (0..=text.len().min(LONGEST_ANSWER)).rev().find(|at| text.is_char_boundary(*at));
        self.answers.insert(id, text[..end.unwrap_or_default()].to_owned());
    }
}

impl Record {
    /// Whether it keeps to its bounds. A file may come from anybody.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), RecordProblem> {
        if self.schema != SCHEMA {
            return Err(problem("schema", &self.schema, SCHEMA));
        }
        check::id(&self.id)?;
        check::times(self.started_unix_ms, self.ended_unix_ms)?;
        check::words("meshctl", &self.meshctl)?;
        self.quantisation.as_deref().map_or(Ok(()), |word| check::words("quantisation", word))?;
        for (field, path) in [("items", &self.source.items), ("examples", &self.source.examples)] {
            check::length(&format!("source.{field}"), path.as_deref().unwrap_or_default(), PATH)?;
        }
        check::each("sittings", &self.sittings, sitting)?;
        let mut seen = BTreeSet::new();
        for (at, sitting) in self.sittings.iter().enumerate() {
            if !seen.insert(sitting.run.suite) {
                let field = format!("sittings[{at}].run.suite");
                return Err(problem(&field, sitting.run.suite.word(), "there once only"));
            }
        }
        Ok(())
    }

    /// Whether each item of each suite that was asked for has its answer.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let sat: BTreeSet<Suite> = self.sittings.iter().map(|sitting| sitting.run.suite).collect();
        self.source.suites.iter().all(|suite| sat.contains(suite))
            && self.sittings.iter().all(|sitting| sitting.run.missing().next().is_none())
    }

    /// What of it says something of the model: the first share of each whole exam, of items that are no samples. Its name
    /// holds all that makes figures comparable.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |sitting: &Sitting| {
            let run = &sitting.run;
            let report = run.report();
            let score = report.scores.iter().find(|score| score.metric.is_share())?;
            let is_whole = why_not(sitting).is_none();
            let tried = u32::try_from(score.n).ok().filter(|_| is_whole)?;
            let mut print = Print::of(&run.shots_print);
            for item in run.items.values() {
                print.add(&item.print);
            }
            let (suite, variant, metric) = (run.suite.word(), run.variant.word(), score.metric.word());
            let suite = format!("{suite} {metric} {variant} {}-shot items {}", run.shots, print.hex());
            let passed = (score.value * f64::from(tried)).round() as u32;
            Some(Finding { suite, passed: passed.min(tried), tried })
        };
        self.sittings.iter().filter_map(finding).collect()
    }

    /// Why there are no findings, where something is wrong; `None` for samples and perplexities, of which none are made.
    #[must_use]
    pub fn why_nothing_found(&self) -> Option<String> {
        let of_shares = |sitting: &&Sitting| sitting.run.suite != Suite::Perplexity && !sitting.run.smoke;
        let why = |sitting: &Sitting| Some(format!("{}: {}", sitting.run.suite.word(), why_not(sitting)?));
        self.sittings.iter().filter(of_shares).find_map(why)
    }

    /// The exam of a suite.
    #[must_use]
    pub fn sitting(&self, suite: Suite) -> Option<&Sitting> {
        self.sittings.iter().find(|sitting| sitting.run.suite == suite)
    }
}

/// Why an exam says nothing of its model.
fn why_not(sitting: &Sitting) -> Option<String> {
    let report = sitting.run.report();
    let clipped = sitting.clipped.len();
    match () {
        () if report.smoke => Some("its items are samples".into()),
        () if report.missing > 0 => {
            Some(format!("{} of {} items were not asked", report.missing, report.asked))
        }
        () if report.failed > 0 => Some(format!("{} of {} items failed", report.failed, report.asked)),
        // Another context would give another share under the same name.
        () if clipped > 0 => {
            Some(format!("{clipped} of {} items were longer than the context", report.asked))
        }
        () => None,
    }
}

fn sitting(sitting: &Sitting) -> Result<(), RecordProblem> {
    let run = &sitting.run;
    if !run.suite.variants().contains(&run.variant) {
        return Err(problem("run.variant", run.variant.word(), "one of its suite"));
    }
    check::count("run.items", run.items.len(), 1, super::run::MOST_ITEMS)?;
    check::seconds("seconds", Some(sitting.seconds))?;
    let mut ids = sitting.answers.keys().chain(&sitting.clipped).chain(sitting.missed.keys());
    if let Some(id) = ids.find(|id| !run.items.contains_key(*id)) {
        return Err(problem("answers", id, "of an item of the run"));
    }
    sitting.missed.values().try_for_each(|miss| miss.check(run.suite))?;
    sitting.answers.values().try_for_each(|text| check::length("answers", text, LONGEST_ANSWER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exam::Shots;

    fn record() -> Record {
        let line = "{\"question\": \"1 + 1?\", \"answer\": \"#### 2\"}";
        let item = Suite::Gsm8k.item(&mut serde_json::Deserializer::from_str(line)).expect("an item");
        let run = Run::begin(Suite::Gsm8k, Variant::Chat, &Shots::none(), std::slice::from_ref(&item));
        let mut sitting = Sitting::new(run.expect("one item"));
        let answer = Answer::Text { text: "2".into(), cut: false };
        sitting.run.record(&item, &answer).expect("it is in the run");
        sitting.answered(item.id(), "2");
        sitting.explained(&item, &answer);
        Record {
            schema: SCHEMA.into(),
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
            source: Source { suites: vec![Suite::Gsm8k], ..Source::default() },
            baseline: false,
            sittings: vec![sitting],
        }
    }

    #[test]
    fn a_record_comes_back_from_its_file() {
        let record = record();
        let text = serde_json::to_string(&record).expect("JSON");
        let read: Record = serde_json::from_str(&text).expect("a record");
        assert_eq!((read.check(), &read), (Ok(()), &record));
        assert!(read.is_complete());
        let more = Source { suites: vec![Suite::Gsm8k, Suite::Mmlu], ..Source::default() };
        assert!(!Record { source: more, ..record }.is_complete(), "mmlu was not sat");
    }

    #[test]
    fn a_record_out_of_its_bounds_is_refused_by_field() {
        let twice = || record().sittings.into_iter().chain(record().sittings).collect();
        let with = |change: fn(&mut Sitting)| {
            let mut sittings = record().sittings;
            change(&mut sittings[0]);
            sittings
        };
        for (broken, field) in [
            (Record { schema: "mesh.eval/v2".into(), ..record() }, "schema"),
            (Record { id: "../x".into(), ..record() }, "id"),
            (Record { ended_unix_ms: Some(0), ..record() }, "ended_unix_ms"),
            (Record { meshctl: "x".repeat(PATH), ..record() }, "meshctl"),
            (Record { sittings: twice(), ..record() }, "sittings[1].run.suite"),
            (
                Record { sittings: with(|one| one.run.variant = Variant::LogLikelihood), ..record() },
                "sittings[0].run.variant",
            ),
            (Record { sittings: with(|one| one.run.items.clear()), ..record() }, "sittings[0].run.items"),
            (
                Record {
                    sittings: with(|one| {
                        let taken = Miss::Taken { wanted: "x".repeat(200), by: BTreeMap::new() };
                        one.missed.values_mut().for_each(|miss| *miss = taken.clone());
                    }),
                    ..record()
                },
                "sittings[0].missed.taken",
            ),
            (Record { sittings: with(|one| one.seconds = f64::NAN), ..record() }, "sittings[0].seconds"),
            (
                Record {
                    sittings: with(|one| {
                        one.answers.values_mut().for_each(|text| *text = "x".repeat(LONGEST_ANSWER + 1));
                    }),
                    ..record()
                },
                "sittings[0].answers",
            ),
        ] {
            assert_eq!(broken.check().expect_err(field).field, field);
        }
    }

    #[test]
    fn only_whole_exams_of_real_items_find_anything_and_their_names_tell_different_items_apart() {
        let found = record().findings();
        let [Finding { suite, passed: 0, tried: 1 }] = found.as_slice() else { panic!("{found:?}") };
        assert!(suite.starts_with("gsm8k exact_match,strict-match chat 0-shot items "), "{suite}");
        assert!(suite.len() <= crate::trial::SUITE);
        let with = |change: fn(&mut Sitting)| {
            let mut record = record();
            change(&mut record.sittings[0]);
            record.findings()
        };
        assert!(with(|one| one.run.smoke = true).is_empty(), "samples");
        let clipped = |one: &mut Sitting| one.clipped = one.answers.keys().cloned().collect();
        assert!(with(clipped).is_empty(), "another context, another share");
        let missing = |one: &mut Sitting| {
            one.run.items.values_mut().for_each(|item| item.outcome = crate::exam::Outcome::Missing);
        };
        assert!(with(missing).is_empty());
        let other = with(|one| one.run.items.values_mut().for_each(|item| item.print = "other".into()));
        assert_ne!(&other[0].suite, suite, "other items");
    }

    #[test]
    fn an_exam_of_which_a_part_was_not_answered_finds_nothing_and_says_why() {
        let item =
            |line: &str| Suite::Gsm8k.item(&mut serde_json::Deserializer::from_str(line)).expect("an item");
        let items = [
            item("{\"question\": \"1 + 1?\", \"answer\": \"#### 2\"}"),
            item("{\"question\": \"1 + 2?\", \"answer\": \"#### 3\"}"),
        ];
        let run = Run::begin(Suite::Gsm8k, Variant::Chat, &Shots::none(), &items).expect("two items");
        let mut sat = Record { sittings: vec![Sitting::new(run)], ..record() };
        let said = |record: &Record| (record.findings().len(), record.why_nothing_found());
        let answer = |text: &str| Answer::Text { text: text.into(), cut: false };
        sat.sittings[0].run.record(&items[0], &answer("#### 2")).expect("it is in the run");
        assert_eq!(said(&sat), (0, Some("gsm8k: 1 of 2 items were not asked".into())));
        sat.sittings[0]
            .run
            .record(&items[1], &Answer::Nothing { why: "gone".into() })
            .expect("it is in the run");
        assert_eq!(said(&sat), (0, Some("gsm8k: 1 of 2 items failed".into())));
        // What failed is asked again, and what was answered is not.
        sat.sittings[0].run.forget_failures();
        assert_eq!(sat.sittings[0].run.missing().collect::<Vec<_>>(), [&items[1].id()]);
        sat.sittings[0].run.record(&items[1], &answer("#### 4")).expect("it is in the run");
        assert_eq!(said(&sat), (1, None));
        // Of samples nothing is to be found, and nothing is wrong.
        sat.sittings[0].run.smoke = true;
        assert_eq!(said(&sat), (0, None));
    }

    #[test]
    fn a_long_answer_is_cut_between_characters() {
        let mut sitting = record().sittings.remove(0);
        let id = sitting.answers.keys().next().expect("one").clone();
        sitting.answered(id.clone(), &"é".repeat(LONGEST_ANSWER));
        assert_eq!(sitting.answers[&id].chars().count(), LONGEST_ANSWER / 2);
    }
}
