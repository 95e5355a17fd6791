//! What an engine is asked, and what it answered, as data.
//!
//! Prompts are those of lm-evaluation-harness 0.4.13 (`mmlu`, `mmlu_generative`, `hellaswag`, `gsm8k`, `wikitext`), to the
//! byte. HellaSwag has no generative task there: its prompt with letters is of our own.

use super::item::{HellaSwagItem, Item, MmluItem};
use super::{Shots, ShotsError, Suite, Variant, page, python_text};
use crate::machine::EngineKind;
use serde::{Deserialize, Serialize};

/// Tokens of an answer where the item says nothing: the harness's default (`max_gen_toks`).
pub const MOST_TOKENS: u32 = 256;

/// What an engine can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EngineCan {
    /// How likely each token of a given text is.
    pub token_probabilities: bool,
    /// To go on with a text, without a chat template.
    pub completions: bool,
    /// To answer messages.
    pub chats: bool,
}

impl EngineCan {
    /// What engines of a kind can be asked for. Token probabilities of a given text are known to be right for llama.cpp
    /// only. Ollama, Lemonade and LocalAI put a chat template around completions; of unknown engines nobody knows.
    #[must_use]
    pub fn of(kind: EngineKind, can_chat: Option<bool>) -> Self {
        let completions = match kind {
            EngineKind::LlamaServer
            | EngineKind::LlamaRouter
            | EngineKind::LmStudio
            | EngineKind::Vllm
            | EngineKind::Sglang
            | EngineKind::TabbyApi
            | EngineKind::KoboldCpp => true,
            EngineKind::Ollama | EngineKind::Lemonade | EngineKind::LocalAi | EngineKind::OpenAi => false,
        };
        let token_probabilities = kind == EngineKind::LlamaServer;
        Self { token_probabilities, completions, chats: can_chat != Some(false) }
    }

    /// Whether it can be asked in `variant`.
    #[must_use]
    pub fn answers(self, variant: Variant) -> bool {
        match variant {
            Variant::LogLikelihood => self.token_probabilities,
            Variant::Completion => self.completions,
            Variant::Chat => self.chats,
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one who sets the rules.
    System,
    /// The one who asks.
    User,
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What.
    pub content: String,
}

/// What an engine is asked. Greedy (temperature 0), always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How likely is each of `choices` after `context`?
    ///
    /// Tokens: those of `context + choice` beyond as many as `context` alone has, white space at the end of the context
    /// counted to the choice (the harness's `_encode_pair`).
    Continuations {
        /// What stands before.
        context: String,
        /// What may follow, with the space before it.
        choices: Vec<String>,
    },
    /// How likely is this text, from its first token (after the model's own beginning of text) to its last?
    ///
    /// A text longer than the model's context is asked in windows, each after the last token of the one before it; the
    /// last one is full, and only its new tokens count. Each token counts once (the harness's `loglikelihood_rolling`).
    Rolling {
        /// All of it.
        text: String,
    },
    /// Go on with this text.
    Complete {
        /// What stands before.
        prompt: String,
        /// Where to stop.
        stop: Vec<String>,
        /// Tokens at most.
        most_tokens: u32,
    },
    /// Answer this.
    Chat {
        /// From the first to the last.
        messages: Vec<Message>,
        /// Where to stop.
        stop: Vec<String>,
        /// Tokens at most.
        most_tokens: u32,
    },
}

/// How likely one continuation is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ContinuationScore {
    /// The sum of its tokens' natural logarithms of probability.
    pub log_likelihood: f64,
    /// Each of its tokens is the likeliest at its place.
    pub is_greedy: bool,
}

/// What an engine answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Question::Continuations`], in its order.
    Continuations(Vec<ContinuationScore>),
    /// To [`Question::Rolling`]: the sum of the logarithms.
    Rolling {
        /// Natural logarithm of the text's probability.
        log_likelihood: f64,
    },
    /// To the others.
    Text {
        /// The visible text, without what an engine keeps apart as thinking.
        text: String,
        /// It ended for want of tokens.
        cut: bool,
    },
    /// None, and why: the request failed, or a probability was not told. Such an item is counted as failed, not as wrong.
    Nothing {
        /// For people.
        why: String,
    },
}

/// Why an item cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The suite has no such variant.
    #[error("{} cannot be asked as {}: only as {}", .suite.word(), .variant.word(), words(*.suite))]
    NoVariant {
        /// The suite.
        suite: Suite,
        /// How it was to be asked.
        variant: Variant,
    },
    /// There are not enough examples.
    #[error(transparent)]
    Shots(#[from] ShotsError),
}

fn words(suite: Suite) -> String {
    suite.variants().iter().map(|variant| variant.word()).collect::<Vec<_>>().join(", ")
}

/// One question with, in examples, its answer.
struct Turn {
    question: String,
    target: String,
}

/// The question that `item` is, asked as `variant` after `shots`.
///
/// # Errors
/// The suite has no such variant, or there are fewer examples than are asked for.
pub fn ask(item: &Item, variant: Variant, shots: &Shots) -> Result<Question, AskError> {
    let suite = item.suite();
    if !suite.variants().contains(&variant) {
        return Err(AskError::NoVariant { suite, variant });
    }
    let shots = shots.before(item)?;
    let head = description(item, variant);
    let examples: String = shots.into_iter().map(|shot| example(&turn(shot, variant))).collect();
    let question = turn(item, variant).question;
    Ok(match variant {
        Variant::LogLikelihood => {
            if let Item::Page(page) = item {
                return Ok(Question::Rolling { text: rolled(page) });
            }
            let choices = choices(item).into_iter().map(|choice| format!(" {choice}")).collect();
            Question::Continuations { context: format!("{head}{examples}{question}"), choices }
        }
        Variant::Completion => Question::Complete {
            prompt: format!("{head}{examples}{question}"),
            stop: stop(item),
            most_tokens: most_tokens(item),
        },
        Variant::Chat => {
            let system = Message { role: Role::System, content: head };
            let user = Message { role: Role::User, content: format!("{examples}{question}") };
            let messages = [system, user].into_iter().filter(|message| !message.content.is_empty()).collect();
            Question::Chat { messages, stop: stop(item), most_tokens: most_tokens(item) }
        }
    })
}

/// The subject of an MMLU item: its examples are of the same.
pub(super) fn subject(item: &Item) -> Option<&str> {
    match item {
        Item::Mmlu(item) => Some(&item.subject),
        Item::HellaSwag(_) | Item::Gsm8k(_) | Item::Page(_) | Item::Generation(_) => None,
    }
}

/// What may follow an item's question, without the space before it; the lengths of `acc_norm` are theirs.
pub(super) fn choices(item: &Item) -> Vec<String> {
    match item {
        Item::Mmlu(_) => ["A", "B", "C", "D"].map(str::to_owned).to_vec(),
        Item::HellaSwag(item) => item.endings.iter().map(|ending| page::without_marks(ending)).collect(),
        Item::Gsm8k(_) | Item::Page(_) | Item::Generation(_) => Vec::new(),
    }
}

/// Where an answer to `item` ends.
pub(super) fn stop(item: &Item) -> Vec<String> {
    let stop: &[&str] = match item {
        Item::Mmlu(_) | Item::HellaSwag(_) => &["</s>", "\n"],
        Item::Gsm8k(_) => &["Question:", "</s>", "<|im_end|>"],
        Item::Page(_) => &[],
        Item::Generation(item) => return item.stop.clone(),
    };
    stop.iter().map(|text| (*text).to_owned()).collect()
}

fn most_tokens(item: &Item) -> u32 {
    match item {
        Item::Generation(item) => item.most_tokens,
        Item::Mmlu(_) | Item::HellaSwag(_) | Item::Gsm8k(_) | Item::Page(_) => MOST_TOKENS,
    }
}

/// What stands before everything, and is the system message of a chat.
fn description(item: &Item, variant: Variant) -> String {
    match item {
        Item::Mmlu(item) => {
            let subject = item.subject.replace('_', " ");
            format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
        }
        Item::HellaSwag(_) if variant != Variant::LogLikelihood => {
            "The following are beginnings of texts, each with four possible endings. Answer with the letter of the \
             ending that continues the text best.\n\n"
                .to_owned()
        }
        Item::HellaSwag(_) | Item::Gsm8k(_) | Item::Page(_) => String::new(),
        Item::Generation(item) => match &item.system {
            Some(system) if variant == Variant::Completion => format!("{system}\n\n"),
            Some(system) => system.clone(),
            None => String::new(),
        },
    }
}

/// An example as it stands before the question.
fn example(turn: &Turn) -> String {
    format!("{} {}\n\n", turn.question, turn.target)
}

fn turn(item: &Item, variant: Variant) -> Turn {
    match item {
        Item::Mmlu(item) => mmlu(item),
        Item::HellaSwag(item) => hellaswag(item, variant),
        Item::Gsm8k(item) => {
            Turn { question: format!("Question: {}\nAnswer:", item.question), target: item.answer.clone() }
        }
        Item::Page(_) => Turn { question: String::new(), target: String::new() },
        Item::Generation(item) => Turn { question: item.prompt.clone(), target: String::new() },
    }
}

fn mmlu(item: &MmluItem) -> Turn {
    let question = with_letters(python_text::strip(&item.question), &item.choices);
    Turn { question, target: letter(item.answer) }
}

fn hellaswag(item: &HellaSwagItem, variant: Variant) -> Turn {
    let next = python_text::capitalize(&item.ctx_b);
    let query = page::without_marks(&format!("{}: {} {next}", item.activity_label, item.ctx_a));
    let endings: Vec<String> = item.endings.iter().map(|ending| page::without_marks(ending)).collect();
    if variant == Variant::LogLikelihood {
        let target = endings.get(item.label).cloned().unwrap_or_default();
        return Turn { question: query, target };
    }
    Turn { question: with_letters(&query, &endings), target: letter(item.label) }
}

fn with_letters(question: &str, choices: &[String]) -> String {
    let choices = choices.iter().enumerate().map(|(at, choice)| format!("{}. {choice}\n", letter(at)));
    format!("{question}\n{}Answer:", choices.collect::<String>())
}

/// `A` for 0.
pub(super) fn letter(at: usize) -> String {
    ["A", "B", "C", "D"].get(at).copied().unwrap_or_default().to_owned()
}

/// The text whose likelihood is asked.
fn rolled(item: &super::PageItem) -> String {
    if item.is_page { page::detokenized(&item.text) } else { item.text.clone() }
}
