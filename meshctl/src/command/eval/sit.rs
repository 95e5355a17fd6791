//! One exam on one machine: items become questions of trials, and what comes back becomes answers.

use super::items::Paper;
use super::scribe::Scribe;
use crate::command::hands::Hands;
use crate::command::tried::{TEXTS, patience};
use crate::exit::{Failure, Kind};
use mesh_core::exam::{Answer, ContinuationScore, Item, Question, Record, Shots, Sitting, Variant, ask};
use mesh_core::id::ModelId;
use mesh_core::ladder::Shape;
use mesh_core::trial::{self, AskWork, Event, Run, ScoreWork, Scored, Scoring, Trial, Work};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use tokio::time::Instant;

/// Items of one trial: so many answers may be lost with it.
const ITEMS: usize = 25;
/// Bytes of one trial's questions. A message of gRPC has 4 MiB at most, and JSON escapes what it must.
const BYTES: usize = 1 << 20;
/// What one item may have beyond that: it goes alone.
const LONGEST: usize = 3 << 20;
/// Bytes that a token has at least, nearly always: counted too many, patience is too long only.
const TOKEN: usize = 2;

/// How a model is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) variant: Variant,
    pub(super) at_once: u32,
}

/// An item that is still to be asked.
struct Asked<'a> {
    item: &'a Item,
    question: Question,
    weight: usize,
}

/// What came back for one trial.
#[derive(Default)]
struct Came {
    runs: BTreeMap<String, Run>,
    scores: BTreeMap<String, Scored>,
    /// Of all texts.
    bytes: usize,
}

/// The ids of what a trial asks.
fn asked_by(work: &Work) -> BTreeSet<String> {
    match work {
        Work::Ask(work) => work.questions.iter().map(|question| question.id.clone()).collect(),
        Work::Score(work) => work.texts.iter().map(|text| text.id.clone()).collect(),
        Work::Speed(_) | Work::Keep(_) => BTreeSet::new(),
    }
}

/// Where an exam is written down.
pub(super) struct Desk<'a> {
    pub(super) scribe: &'a mut Scribe,
    pub(super) record: &'a mut Record,
    /// Which of the record's sittings.
    pub(super) place: usize,
}

impl Desk<'_> {
    fn sitting(&mut self) -> &mut Sitting {
        &mut self.record.sittings[self.place]
    }
}

/// Asks what the sitting has no answer to yet. After each trial it has grown, and `tell` is told.
///
/// # Errors
/// Items that cannot be asked so, a trial that breaks, and what keeps the record from being kept.
pub(super) async fn sit(
    hands: &mut Hands,
    paper: &Paper,
    shots: &Shots,
    manner: Manner,
    desk: &mut Desk<'_>,
    tell: impl Fn(&Sitting),
) -> Result<(), Failure> {
    let model = desk.record.model.clone();
    let missing: std::collections::BTreeSet<_> = desk.sitting().run.missing().cloned().collect();
    let mut asked = Vec::new();
    for item in paper.items.iter().filter(|item| missing.contains(&item.id())) {
        let question = ask(item, manner.variant, shots).map_err(|error| {
            Failure::new(Kind::Failed, format!("{} cannot be asked", item.id())).cause(error.to_string())
        })?;
        let weight = weight(&question);
        asked.push(Asked { item, question, weight });
    }
    let mut rest = asked.as_slice();
    while !rest.is_empty() {
        let (batch, more) = rest.split_at(together(rest));
        rest = more;
        if let [one] = batch
            && one.weight > LONGEST
        {
            let why = format!("it has more than the {} MiB of one trial", LONGEST >> 20);
            record(desk.sitting(), one.item, &Answer::Nothing { why })?;
            desk.scribe.grown(desk.record)?;
            continue;
        }
        let began = Instant::now();
        let (mut came, mut subject) = (Came::default(), None);
        let trial = trial(&model, batch, manner);
        // The first answer to each, and none to what was not asked: a machine may tell without an end.
        let mut open = asked_by(&trial.work);
        let ended = {
            let asking = hands.trial(&trial, |event| match event {
                Event::Began(found) => subject = Some(found),
                Event::Run(run) if open.remove(&run.id) => came.take(run),
                Event::Scored(scored) if open.remove(&scored.id) => {
                    came.scores.insert(scored.id.clone(), scored);
                }
                Event::Run(_) | Event::Scored(_) | Event::Sample(_) | Event::Ended(_) | Event::Failed(_) => {}
            });
            let mut asking = pin!(asking);
            loop {
                tokio::select! {
                    ended = &mut asking => break ended,
                    // What was answered before waits no longer for this one.
                    () = desk.scribe.due() => desk.scribe.catch_up(desk.record)?,
                }
            }
        };
        let sitting = desk.sitting();
        for (at, one) in batch.iter().enumerate() {
            // Where the trial broke, what was not answered stays to be asked.
            let Some(answer) = came.answer(at, &one.question, ended.is_ok()) else { continue };
            if let Answer::Text { text, .. } = &answer {
                sitting.answered(one.item.id(), text);
            }
            if came.is_clipped(at, &one.question) {
                sitting.clipped.insert(one.item.id());
            }
            record(sitting, one.item, &answer)?;
        }
        sitting.seconds += began.elapsed().as_secs_f64();
        tell(sitting);
        desk.record.subject = desk.record.subject.take().or(subject);
        desk.scribe.grown(desk.record)?;
        ended?;
    }
    Ok(())
}

fn record(sitting: &mut Sitting, item: &Item, answer: &Answer) -> Result<(), Failure> {
    sitting.explained(item, answer);
    let recorded = sitting.run.record(item, answer).map(|_| ());
    recorded.map_err(|error| Failure::new(Kind::Failed, "the answer has no place").cause(error.to_string()))
}

/// How many of the first go into one trial: one at least.
fn together(asked: &[Asked<'_>]) -> usize {
    let mut sum = 0;
    let fits = asked.iter().take(ITEMS).take_while(|one| {
        sum += one.weight;
        sum <= BYTES
    });
    fits.count().max(1)
}

/// How many bytes a question has on its way: JSON within JSON.
fn weight(question: &Question) -> usize {
    let texts = serde_json::to_string(&scorings(0, question)).map_or(usize::MAX, |json| json.len());
    let asked = asking(0, question).and_then(|one| serde_json::to_string(&one).ok());
    // Once more as the text of a message: escapes are doubled at most.
    let escapes = |json: &str| json.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    asked.map_or(texts, |json| json.len() + escapes(&json))
}

/// Bytes of what is to be read.
fn bytes(question: &Question) -> usize {
    match question {
        Question::Continuations { context, choices } => {
            choices.iter().map(|choice| context.len() + choice.len()).sum()
        }
        Question::Rolling { text } => text.len(),
        Question::Complete { prompt, .. } => prompt.len(),
        Question::Chat { messages, .. } => messages.iter().map(|message| message.content.len()).sum(),
    }
}

fn trial(model: &ModelId, batch: &[Asked<'_>], manner: Manner) -> Trial {
    let numbered = || batch.iter().enumerate().map(|(at, one)| (at, &one.question));
    let work = if manner.variant == Variant::LogLikelihood {
        Work::Score(ScoreWork {
            texts: numbered().flat_map(|(at, question)| scorings(at, question)).collect(),
        })
    } else {
        let questions = numbered().filter_map(|(at, question)| asking(at, question)).collect();
        Work::Ask(AskWork { streams: manner.at_once, questions })
    };
    let wait = batch.iter().map(|one| patience(&tokens(&one.question), manner.at_once)).max();
    Trial { model: model.clone(), work, patience_s: wait.unwrap_or(1) }
}

fn scorings(at: usize, question: &Question) -> Vec<Scoring> {
    match question {
        Question::Continuations { context, choices } => {
            let scoring = |(number, choice): (usize, &String)| Scoring {
                id: format!("{at}/{number}"),
                context: context.clone(),
                text: choice.clone(),
            };
            choices.iter().enumerate().map(scoring).collect()
        }
        Question::Rolling { text } => {
            vec![Scoring { id: format!("{at}/0"), context: String::new(), text: text.clone() }]
        }
        Question::Complete { .. } | Question::Chat { .. } => Vec::new(),
    }
}

fn asking(at: usize, question: &Question) -> Option<trial::Question> {
    let (path, stop, most_tokens, (name, content)) = match question {
        Question::Complete { prompt, stop, most_tokens } => {
            ("/v1/completions", stop, most_tokens, ("prompt", json!(prompt)))
        }
        Question::Chat { messages, stop, most_tokens } => {
            ("/v1/chat/completions", stop, most_tokens, ("messages", json!(messages)))
        }
        Question::Continuations { .. } | Question::Rolling { .. } => return None,
    };
    let mut body = json!({
        "max_tokens": most_tokens,
        "temperature": 0,
        "seed": 1,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    body[name] = content;
    if !stop.is_empty() {
        body["stop"] = json!(stop);
    }
    Some(trial::Question { id: at.to_string(), path: path.into(), body: body.to_string() })
}

/// Tokens to read and to write, counted too many.
fn tokens(question: &Question) -> Shape {
    let (read, output) = match question {
        Question::Continuations { context, choices } => {
            (context.len() + choices.iter().map(String::len).max().unwrap_or_default(), 1)
        }
        // Each token is a request of its own, with all before it in the cache.
        Question::Rolling { text } => (text.len(), 1),
        Question::Complete { most_tokens, .. } | Question::Chat { most_tokens, .. } => {
            (bytes(question), *most_tokens)
        }
    };
    Shape { prompt: u32::try_from(read / TOKEN).unwrap_or(u32::MAX), output }
}

impl Came {
    /// Keeps an answer while there is room for its texts; one that has none was not given.
    fn take(&mut self, run: Run) {
        let others = [&run.reasoning, &run.raw, &run.error];
        let others: usize = others.into_iter().flatten().map(String::len).sum();
        let bytes = self.bytes.saturating_add(run.text.len() + others);
        if bytes <= TEXTS {
            self.bytes = bytes;
            self.runs.insert(run.id.clone(), run);
        }
    }

    /// The answer to the question at `at`. Where the trial broke, what failed may have failed with it, and is asked again.
    fn answer(&self, at: usize, question: &Question, is_whole: bool) -> Option<Answer> {
        let nothing = |why: &str| is_whole.then(|| Answer::Nothing { why: why.into() });
        match question {
            Question::Continuations { choices, .. } => {
                let scored: Option<Vec<&Scored>> =
                    (0..choices.len()).map(|number| self.scores.get(&format!("{at}/{number}"))).collect();
                let Some(scored) = scored else { return nothing("the machine told no figure") };
                if let Some(why) = scored.iter().find_map(|one| one.error.as_deref()) {
                    return nothing(why);
                }
                let score = |one: &&Scored| ContinuationScore {
                    log_likelihood: one.log_likelihood,
                    is_greedy: one.is_greedy,
                };
                Some(Answer::Continuations(scored.iter().map(score).collect()))
            }
            Question::Rolling { .. } => match self.scores.get(&format!("{at}/0")) {
                None => nothing("the machine told no figure"),
                Some(Scored { error: Some(why), .. }) => nothing(why),
                Some(scored) => Some(Answer::Rolling { log_likelihood: scored.log_likelihood }),
            },
            Question::Complete { .. } | Question::Chat { .. } => match self.runs.get(&at.to_string()) {
                None => nothing("the machine told no answer"),
                Some(Run { error: Some(why), .. }) => nothing(why),
                Some(run) => {
                    let cut = run.finish_reason.as_deref() == Some("length");
                    Some(Answer::Text { text: run.text.clone(), cut })
                }
            },
        }
    }

    /// The beginning of a prompt had no room. A long text is asked in windows: of it nothing is lost.
    fn is_clipped(&self, at: usize, question: &Question) -> bool {
        let Question::Continuations { choices, .. } = question else { return false };
        let scored = (0..choices.len()).filter_map(|number| self.scores.get(&format!("{at}/{number}")));
        scored.into_iter().any(|one| one.left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::exam::{Message, Role};
    use serde_json::Value;

    fn chat(content: String) -> Question {
        let messages = vec![Message { role: Role::User, content }];
        Question::Chat { messages, stop: vec!["\n".into()], most_tokens: 256 }
    }

    fn item() -> Item {
        let line = "{\"question\": \"1 + 1?\", \"answer\": \"#### 2\"}";
        mesh_core::exam::Suite::Gsm8k.item(&mut serde_json::Deserializer::from_str(line)).expect("an item")
    }

    #[test]
    fn trials_are_bounded_in_items_and_bytes_and_have_one_item_at_least() {
        let item = item();
        let of = |sizes: &[usize]| {
            let asked: Vec<Asked<'_>> = sizes
                .iter()
                .map(|size| Asked { item: &item, question: chat("x".into()), weight: *size })
                .collect();
            together(&asked)
        };
        assert_eq!(of(&[10; 40]), ITEMS);
        assert_eq!(of(&[BYTES / 2, BYTES / 2, 1]), 2);
        assert_eq!(of(&[BYTES * 2, 1]), 1);
    }

    #[test]
    fn questions_are_asked_greedily_as_a_client_asks() {
        let question = asking(3, &chat("Hello".into())).expect("a question");
        let body: Value = serde_json::from_str(&question.body).expect("JSON");
        assert_eq!((question.id.as_str(), question.path.as_str()), ("3", "/v1/chat/completions"));
        assert_eq!(body["messages"], json!([{"role": "user", "content": "Hello"}]));
        assert_eq!(
            (&body["temperature"], &body["stop"], &body["max_tokens"]),
            (&json!(0), &json!(["\n"]), &json!(256))
        );
        assert!(body.get("model").is_none(), "the agent names it");
        let plain = Question::Complete { prompt: "a".into(), stop: vec![], most_tokens: 5 };
        let body: Value = serde_json::from_str(&asking(0, &plain).expect("a question").body).expect("JSON");
        assert!(body.get("stop").is_none() && body["prompt"] == "a");
    }

    #[test]
    fn what_did_not_come_because_a_trial_broke_stays_to_be_asked() {
        let choices =
            Question::Continuations { context: "a".into(), choices: vec![" b".into(), " c".into()] };
        let scored = |id: &str, error: Option<&str>| {
            let scored = Scored {
                id: id.into(),
                log_likelihood: -1.0,
                error: error.map(Into::into),
                ..Scored::default()
            };
            (id.to_owned(), scored)
        };
        let came =
            |scores: Vec<(String, Scored)>| Came { scores: scores.into_iter().collect(), ..Came::default() };
        let half = came(vec![scored("0/0", None)]);
        assert_eq!(half.answer(0, &choices, false), None);
        assert!(matches!(half.answer(0, &choices, true), Some(Answer::Nothing { .. })));
        let whole = came(vec![scored("0/0", None), scored("0/1", None)]);
        assert!(
            matches!(whole.answer(0, &choices, false), Some(Answer::Continuations(all)) if all.len() == 2)
        );
        let failed = came(vec![scored("0/0", None), scored("0/1", Some("no token"))]);
        assert_eq!(failed.answer(0, &choices, true), Some(Answer::Nothing { why: "no token".into() }));
        assert_eq!(failed.answer(0, &choices, false), None, "the engine may have died");
        let clipped = |left_out| {
            let (id, scored) = scored("0/1", None);
            came(vec![(id, Scored { left_out, ..scored })]).is_clipped(0, &choices)
        };
        assert!(clipped(1) && !clipped(0));
        assert_eq!(Came::default().answer(0, &chat("a".into()), false), None);
    }

    #[test]
    fn what_a_question_weighs_is_no_less_than_what_travels() {
        for text in ["plain", "\"quoted\" \\ and\nlines\t", "\u{1}\u{2}", "日本語"] {
            for question in [
                chat(text.repeat(50)),
                Question::Rolling { text: text.repeat(50) },
                Question::Complete { prompt: text.repeat(50), stop: vec![], most_tokens: 9 },
            ] {
                let item = item();
                let asked = Asked { item: &item, weight: weight(&question), question };
                let is_scored = matches!(asked.question, Question::Rolling { .. });
                let manner = if is_scored { Variant::LogLikelihood } else { Variant::Chat };
                let model = ModelId::new("m").expect("a good name");
                let trial =
                    trial(&model, std::slice::from_ref(&asked), Manner { variant: manner, at_once: 1 });
                let json = serde_json::to_string(&trial).expect("JSON");
                assert!(json.len() <= asked.weight + 200, "{} of {}", asked.weight, json.len());
            }
        }
    }
}
