//! How fast a model is: made-up prompts of a fixed length, answers of a fixed length where the engine allows it.

use super::asking::{Asker, cut};
use super::prompts::words;
use super::{GIVEN_UP, Silence as _, Told};
use crate::supervisor::load_facts::Subject;
use crate::truth::{LEAST_PROMPT, LEAST_TOKENS};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use mesh_core::machine::EngineKind;
use mesh_core::statistics::median;
use mesh_core::trial::{Event, Prefix, Run, SpeedWork};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// What is kept of the text of an answer whose length was prescribed: it may be anything.
const TEXT_LIMIT: usize = 1024;
/// Words of a prompt for each token, until the engine has counted once: English has three tokens in four.
const WORDS_PER_TOKEN: f64 = 0.75;
/// Tokens of the warm-up's answer.
const WARM_UP_TOKENS: u32 = 8;

/// Tokens each second: the medians over the runs that count, one request at a time with a cold cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    pub(super) prefill: Option<f64>,
    pub(super) decode: Option<f64>,
}

/// Measures; `None` = nothing that tells of the model alone.
pub(super) async fn measure(
    asker: &Asker,
    work: SpeedWork,
    loaded: &Subject,
    began: Instant,
    told: &Told,
) -> Result<Option<Figures>, String> {
    let room = u64::from(work.prompt_tokens) + u64::from(work.output_tokens);
    if let Some(context) = loaded.replica.context.filter(|context| room > u64::from(*context)) {
        return Err(format!(
            "a prompt of {} tokens and an answer of {} are more than the {context} that it is loaded for",
            work.prompt_tokens, work.output_tokens
        ));
    }
    let chats = loaded.replica.abilities.chat != Some(false);
    let mut maker = Maker { asker, work, chats, words_per_token: WORDS_PER_TOKEN };
    let warm_up = SpeedWork { output_tokens: work.output_tokens.min(WARM_UP_TOKENS), ..work };
    let body = maker.body(warm_up, 0, 0).await?;
    let run = asker.send(maker.path(), body, began).await;
    maker.learn(&run);
    let fault = run.error.clone();
    told.event(Event::Run(Run { warm_up: true, text: String::new(), ..run })).await;
    if let Some(why) = fault {
        return Err(format!("the warm-up got no answer: {why}"));
    }
    let until = work.soak_s.map(|seconds| began + Duration::from_secs(seconds.into()));
    let (mut counted, mut silent) = (Vec::new(), 0);
    for repetition in 0.. {
        let is_over = match until {
            Some(until) => Instant::now() >= until,
            None => repetition >= work.repetitions,
        };
        if is_over {
            break;
        }
        let mut asked = Vec::new();
        for stream in 0..work.streams {
            asked.push(maker.run(repetition, stream, began).boxed());
        }
        let runs = join_all(asked).await;
        silent = if runs.iter().all(Run::is_silent) { silent + 1 } else { 0 };
        let why = runs.iter().find_map(|run| run.error.clone());
        counted
            .extend(runs.iter().filter(|run| run.error.is_none()).map(|run| (run.prefill(), run.decode())));
        for run in runs {
            told.event(Event::Run(run)).await;
        }
        if silent >= GIVEN_UP {
            return Err(format!(
                "{GIVEN_UP} repetitions in a row got no answer: {}",
                why.unwrap_or_default()
            ));
        }
    }
    let is_plain = work.streams == 1 && work.prefix == Prefix::Cold && work.soak_s.is_none();
    // Too few tokens tell more of what a request costs than of the model.
    let (reads, writes) = (work.prompt_tokens >= LEAST_PROMPT, work.output_tokens >= LEAST_TOKENS);
    Ok(is_plain.then(|| Figures {
        prefill: median(counted.iter().filter_map(|(prefill, _)| prefill.filter(|_| reads))),
        decode: median(counted.iter().filter_map(|(_, decode)| decode.filter(|_| writes))),
    }))
}

/// Makes the bodies.
struct Maker<'a> {
    asker: &'a Asker,
    work: SpeedWork,
    chats: bool,
    words_per_token: f64,
}

impl Maker<'_> {
    /// llama.cpp takes a prompt by its tokens; others get a text, in a chat where the model chats.
    fn path(&self) -> &'static str {
        if self.is_exact() || !self.chats { "/v1/completions" } else { "/v1/chat/completions" }
    }

    fn is_exact(&self) -> bool {
        self.asker.kind == EngineKind::LlamaServer
    }

    /// One run that counts.
    async fn run(&self, repetition: u32, stream: u32, began: Instant) -> Run {
        let run = match self.body(self.work, repetition + 1, stream).await {
            Ok(body) => self.asker.send(self.path(), body, began).await,
            Err(why) => Run { error: Some(why), ..Run::default() },
        };
        Run { repetition, stream, text: cut(&run.text, TEXT_LIMIT).to_owned(), ..run }
    }

    async fn body(&self, work: SpeedWork, repetition: u32, stream: u32) -> Result<Value, String> {
        let own = match work.prefix {
            Prefix::Cold => (u64::from(repetition) << 32) | u64::from(stream),
            Prefix::Warm => 0,
        };
        let seed = work.seed.wrapping_add(own.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let mut body = json!({
            "temperature": 0,
            "seed": work.seed,
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": work.output_tokens,
        });
        if self.is_exact() {
            body["prompt"] = self.tokens(seed, work.prompt_tokens).await?;
            body["cache_prompt"] = (work.prefix == Prefix::Warm).into();
            // Or it would tell of models that have little to say.
            body["ignore_eos"] = true.into();
            return Ok(body);
        }
        let count = (f64::from(work.prompt_tokens) * self.words_per_token).max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 2^20, and positive"
        )]
        let text = words(seed, count as usize);
        if self.chats {
            body["messages"] = json!([{"role": "user", "content": text}]);
        } else {
            body["prompt"] = text.into();
        }
        Ok(body)
    }

    /// As many tokens as wanted, by the engine's own tokenizer.
    async fn tokens(&self, seed: u64, wanted: u32) -> Result<Value, String> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        // Each word is a token at least.
        let question = json!({"content": words(seed, wanted), "add_special": true});
        let run = self.asker.send("/tokenize", question, Instant::now()).await;
        if let Some(error) = run.error {
            return Err(format!("the engine does not count tokens: {error}"));
        }
        let answer: Value = serde_json::from_str(&run.raw.unwrap_or_default()).unwrap_or_default();
        let mut tokens = answer["tokens"].as_array().cloned().unwrap_or_default();
        if tokens.len() < wanted {
            return Err(format!("the engine makes {} tokens of {wanted} words", tokens.len()));
        }
        tokens.truncate(wanted);
        Ok(tokens.into())
    }

    /// How many words make a token here.
    fn learn(&mut self, run: &Run) {
        let Some(tokens) = run.prompt_tokens.filter(|tokens| *tokens > 0) else { return };
        let sent = f64::from(self.work.prompt_tokens) * self.words_per_token;
        self.words_per_token = (sent / f64::from(tokens)).clamp(0.05, 2.0);
    }
}
