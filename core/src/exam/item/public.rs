//! Items with the columns of the public datasets: MMLU, HellaSwag, GSM8K, WikiText.

use super::{ItemError, LONGEST_PAGE, LONGEST_TEXT, id, shown, text};
use crate::exam::extract;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A question with four choices: `question`, `subject`, `choices`, `answer` (0 to 3, or `A` to `D`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawMmlu")]
pub struct MmluItem {
    /// Its name, where it has one.
    pub id: Option<String>,
    /// The question.
    pub question: String,
    /// What it is about, as in the dataset: `abstract_algebra`.
    pub subject: String,
    /// The four choices.
    pub choices: Vec<String>,
    /// The right one, from 0.
    pub answer: usize,
}

/// A text with four endings: `activity_label`, `ctx_a`, `ctx_b`, `endings`, `label` (a number or its text).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawHellaSwag")]
pub struct HellaSwagItem {
    /// Its name, where it has one.
    pub id: Option<String>,
    /// What is going on: `Roof shingle removal`.
    pub activity_label: String,
    /// Whole sentences.
    pub ctx_a: String,
    /// The beginning of the next one; often empty.
    pub ctx_b: String,
    /// The four endings.
    pub endings: Vec<String>,
    /// The right one, from 0.
    pub label: usize,
}

/// A word problem: `question`, `answer` (the way to it, and `#### n` at its end).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawGsm8k")]
pub struct Gsm8kItem {
    /// Its name, where it has one.
    pub id: Option<String>,
    /// The problem.
    pub question: String,
    /// The worked answer.
    pub answer: String,
}

/// A text for perplexity: `page`, a page of WikiText whose words were set apart, or `text`, taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPage")]
pub struct PageItem {
    /// Its name, where it has one.
    pub id: Option<String>,
    /// The text as it stands in the file.
    pub text: String,
    /// It is a page of WikiText.
    pub is_page: bool,
}

#[derive(Deserialize)]
struct RawMmlu {
    #[serde(default)]
    id: Option<String>,
    question: String,
    subject: String,
    choices: Vec<String>,
    answer: Label,
}

#[derive(Deserialize)]
struct RawHellaSwag {
    #[serde(default)]
    id: Option<String>,
    activity_label: String,
    ctx_a: String,
    ctx_b: String,
    endings: Vec<String>,
    label: Label,
}

#[derive(Deserialize)]
struct RawGsm8k {
    #[serde(default)]
    id: Option<String>,
    question: String,
    answer: String,
}

#[derive(Deserialize)]
struct RawPage {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    page: Option<String>,
    #[serde(default)]
    text: Option<String>,
}

impl TryFrom<RawMmlu> for MmluItem {
    type Error = ItemError;

    fn try_from(raw: RawMmlu) -> Result<Self, ItemError> {
        id(raw.id.as_ref())?;
        text("question", &raw.question, LONGEST_TEXT)?;
        text("subject", &raw.subject, LONGEST_TEXT)?;
        four("choices", &raw.choices)?;
        let letter = || match raw.answer.text()?.as_bytes() {
            [letter @ b'A'..=b'D'] => Some(usize::from(letter - b'A')),
            _ => None,
        };
        let answer = raw.answer.index().or_else(letter);
        let answer =
            answer.ok_or_else(|| ItemError::new("answer", raw.answer.shown(), "0 to 3 or \"A\" to \"D\""))?;
        Ok(Self { id: raw.id, question: raw.question, subject: raw.subject, choices: raw.choices, answer })
    }
}

impl TryFrom<RawHellaSwag> for HellaSwagItem {
    type Error = ItemError;

    fn try_from(raw: RawHellaSwag) -> Result<Self, ItemError> {
        id(raw.id.as_ref())?;
        text("activity_label", &raw.activity_label, LONGEST_TEXT)?;
        // The dataset has contexts of one part only.
        for (field, part) in [("ctx_a", &raw.ctx_a), ("ctx_b", &raw.ctx_b)] {
            if !part.is_empty() {
                text(field, part, LONGEST_TEXT)?;
            }
        }
        four("endings", &raw.endings)?;
        let expected = if raw.label.text() == Some("") {
            "\"0\" to \"3\" (the public test split has no labels: take the validation split)"
        } else {
            "0 to 3 or \"0\" to \"3\""
        };
        let label = raw.label.index().ok_or_else(|| ItemError::new("label", raw.label.shown(), expected))?;
        let (ctx_a, ctx_b, endings) = (raw.ctx_a, raw.ctx_b, raw.endings);
        Ok(Self { id: raw.id, activity_label: raw.activity_label, ctx_a, ctx_b, endings, label })
    }
}

impl TryFrom<RawGsm8k> for Gsm8kItem {
    type Error = ItemError;

    fn try_from(raw: RawGsm8k) -> Result<Self, ItemError> {
        id(raw.id.as_ref())?;
        text("question", &raw.question, LONGEST_TEXT)?;
        text("answer", &raw.answer, LONGEST_TEXT)?;
        // With white space around it no answer could be the same: the harness compares texts.
        let number = extract::bare(&raw.answer);
        let is_number = number.chars().any(|c| c.is_ascii_digit()) && number.parse::<f64>().is_ok();
        if !raw.answer.contains("#### ") || !is_number {
            return Err(ItemError::new(
                "answer",
                shown(&raw.answer),
                "a text with `#### ` and a number at its end",
            ));
        }
        Ok(Self { id: raw.id, question: raw.question, answer: raw.answer })
    }
}

impl TryFrom<RawPage> for PageItem {
    type Error = ItemError;

    fn try_from(raw: RawPage) -> Result<Self, ItemError> {
        id(raw.id.as_ref())?;
        let (field, found, is_page) = match (raw.page, raw.text) {
            (Some(page), None) => ("page", page, true),
            (None, Some(text)) => ("text", text, false),
            (Some(_), Some(_)) => return Err(ItemError::new("page", "there beside text", "one of them")),
            (None, None) => return Err(ItemError::new("page", "not there", "a text in page or in text")),
        };
        text(field, &found, LONGEST_PAGE)?;
        Ok(Self { id: raw.id, text: found, is_page })
    }
}

/// Four texts; some may be empty, as in the datasets.
fn four(field: &str, texts: &[String]) -> Result<(), ItemError> {
    if texts.len() != 4 {
        return Err(ItemError::new(field, format!("a list of {}", texts.len()), "four texts"));
    }
    for (at, one) in texts.iter().enumerate().filter(|(_, one)| !one.is_empty()) {
        if one.len() > LONGEST_TEXT {
            text(&format!("{field}[{at}]"), one, LONGEST_TEXT)?;
        }
    }
    Ok(())
}

/// Which choice is right, as a number or as a text.
enum Label {
    Number(i64),
    Text(String),
}

impl Label {
    /// The choice that it names by number.
    fn index(&self) -> Option<usize> {
        let number = match self {
            Self::Number(number) => usize::try_from(*number).ok()?,
            Self::Text(text) => match text.as_bytes() {
                [digit @ b'0'..=b'3'] => usize::from(digit - b'0'),
                _ => return None,
            },
        };
        (number < 4).then_some(number)
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Number(_) => None,
            Self::Text(text) => Some(text),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => shown(text),
        }
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl Visitor<'_> for NumberOrText {
            type Value = Label;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("the number or the letter of a choice")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Label, E> {
                Ok(Label::Number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Label, E> {
                Ok(Label::Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Label, E> {
                Ok(Label::Text(text.to_owned()))
            }
        }
        from.deserialize_any(NumberOrText)
    }
}
