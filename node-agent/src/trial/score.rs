//! How likely a model takes texts to be, by llama.cpp's token probabilities.
//!
//! llama.cpp has no call that scores a given text. But it tells the probability of each token that it generates, as the
//! model had it before anything was sampled, and a bias on one token makes it generate that one: so each token of the
//! text is asked for by itself, with the prompt before it in the engine's cache. A token that is no whole character gets no
//! probability told; for those another token is asked for, with the probabilities of the whole vocabulary.

use super::Told;
use super::asking::Asker;
use crate::supervisor::load_facts::Subject;
use mesh_core::machine::EngineKind;
use mesh_core::trial::{Event, ScoreWork, Scored, Scoring};
use serde_json::{Value, json};
use tokio::time::Instant;

/// More than any difference of two logits: the token with it is what is generated.
const FORCED: f64 = 1000.0;
/// More tokens than any vocabulary has: the engine takes all that it has.
const VOCABULARY: u32 = 1 << 20;
/// Texts in a row without a figure after which the engine is given up.
const GIVEN_UP: u32 = 3;
/// A window of a long text needs some tokens.
const LEAST_CONTEXT: u32 = 16;

/// Scores all texts in their order.
pub(super) async fn all(
    asker: &Asker,
    work: &ScoreWork,
    loaded: &Subject,
    told: &Told,
) -> Result<(), String> {
    if asker.kind != EngineKind::LlamaServer {
        return Err(format!("{} tells no token probabilities; llama-server does", asker.kind.word()));
    }
    let context = loaded.replica.context.filter(|context| *context >= LEAST_CONTEXT);
    let context = context.ok_or("it is not known how many tokens its context has, or they are too few")?;
    let begin = beginning(asker).await?;
    let neutral = tokens(asker, "a", false).await?;
    let neutral = neutral.first().copied().ok_or("the engine makes no token of a letter")?;
    // One place stays free for the token that is generated.
    let most = usize::try_from(context).unwrap_or(usize::MAX) - 1;
    let scorer = Scorer { asker, most, begin, neutral };
    let mut silent = 0;
    for text in &work.texts {
        let began = Instant::now();
        let scored = scorer.score(text).await;
        silent = if scored.is_err() { silent + 1 } else { 0 };
        let error = scored.as_ref().err().cloned();
        let scored = scored.unwrap_or_default();
        let (id, seconds) = (text.id.clone(), began.elapsed().as_secs_f64());
        told.event(Event::Scored(Scored { id, seconds, error: error.clone(), ..scored })).await;
        if silent >= GIVEN_UP {
            let why = error.unwrap_or_default();
            return Err(format!("{GIVEN_UP} texts in a row could not be scored: {why}"));
        }
    }
    Ok(())
}

/// The token with which documents begin: the one that the tokenizer puts there, else the model's word for it.
async fn beginning(asker: &Asker) -> Result<u64, String> {
    let (plain, special) = (tokens(asker, "a", false).await?, tokens(asker, "a", true).await?);
    if let Some(first) = special.first().filter(|_| special.len() > plain.len()) {
        return Ok(*first);
    }
    let props = asker.props().await?;
    for name in ["bos_token", "eos_token"] {
        let text = props[name].as_str().unwrap_or_default();
        let answer = asker.document("/tokenize", json!({"content": text, "parse_special": true})).await?;
        if let [token] = ids(&answer)[..] {
            return Ok(token);
        }
    }
    Err("the model has no token with which documents begin".into())
}

async fn tokens(asker: &Asker, text: &str, special: bool) -> Result<Vec<u64>, String> {
    let answer = asker.document("/tokenize", json!({"content": text, "add_special": special})).await?;
    Ok(ids(&answer))
}

fn ids(answer: &Value) -> Vec<u64> {
    answer["tokens"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

struct Scorer<'a> {
    asker: &'a Asker,
    /// Tokens that may stand before the one that is asked for.
    most: usize,
    begin: u64,
    /// Some token that is a whole character.
    neutral: u64,
}

impl Scorer<'_> {
    async fn score(&self, scoring: &Scoring) -> Result<Scored, String> {
        let (context, text) = split(&scoring.context, &scoring.text);
        let given = if context.is_empty() { Vec::new() } else { tokens(self.asker, context, true).await? };
        // Together, for the first piece of the text may belong to the last of the context.
        let whole = tokens(self.asker, &format!("{context}{text}"), !context.is_empty()).await?;
        let scored = whole.get(given.len()..).unwrap_or_default();
        if scored.is_empty() {
            return Err("the engine makes no token of the text".into());
        }
        let given = if context.is_empty() { vec![self.begin] } else { given };
        let mut sum = Scored { is_greedy: true, ..Scored::default() };
        let mut before = given;
        // As many at a time as there is room for, each window after what still has room of all before it: after the last
        // token, and the last window after more, so that it is full (`get_rolling_token_windows` of the harness).
        for window in scored.chunks(self.most) {
            let room = (self.most + 1).saturating_sub(window.len()).max(1);
            let out = before.len().saturating_sub(room);
            if sum.tokens == 0 {
                sum.left_out = u32::try_from(out).unwrap_or(u32::MAX);
            }
            let mut prompt = before.split_off(out);
            for token in window {
                let (log_probability, likeliest) = self.one(&prompt, *token).await?;
                sum.log_likelihood += log_probability;
                sum.is_greedy &= likeliest;
                sum.tokens += 1;
                prompt.push(*token);
            }
            before = prompt;
        }
        Ok(sum)
    }

    /// The logarithm of the probability of `token` after `prompt`, and whether it is the likeliest.
    async fn one(&self, prompt: &[u64], token: u64) -> Result<(f64, bool), String> {
        let told = self.told(prompt, token, 1).await?;
        if let Some(found) = told.iter().find(|(id, _)| *id == token) {
            return Ok((found.1, is_likeliest(&told, found.1)));
        }
        let told = self.told(prompt, self.neutral, VOCABULARY).await?;
        let found = told.iter().find(|(id, _)| *id == token).map(|(_, log)| *log);
        let log = found.ok_or("the engine tells no probability of a token")?;
        Ok((log, is_likeliest(&told, log)))
    }

    /// The tokens that the engine tells about at the next place, with their logarithms: the `most` likeliest, and the one
    /// that is forced.
    async fn told(&self, prompt: &[u64], forced: u64, most: u32) -> Result<Vec<(u64, f64)>, String> {
        let body = json!({
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": most,
            "temperature": 0,
            "cache_prompt": true,
            // The same slot each time, whose cache has all but the last token.
            "id_slot": 0,
            "logit_bias": [[forced, FORCED]],
        });
        let answer = self.asker.document("/completion", body).await?;
        let place = &answer["completion_probabilities"][0];
        let read = |entry: &Value| Some((entry["id"].as_u64()?, entry["logprob"].as_f64()?));
        let likeliest = place["top_logprobs"].as_array().into_iter().flatten().filter_map(read);
        Ok(likeliest.chain(read(place)).filter(|(_, log)| log.is_finite()).collect())
    }
}

fn is_likeliest(told: &[(u64, f64)], log: f64) -> bool {
    told.iter().all(|(_, other)| *other <= log)
}

/// Spaces at the end of a context belong to the text: that is how tokens are made of them, and how lm-evaluation-harness
/// divides them.
fn split<'a>(context: &'a str, text: &str) -> (&'a str, String) {
    let given = context.trim_end();
    (given, format!("{}{text}", &context[given.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_before_a_text_are_its_own() {
        assert_eq!(split("Answer: ", "yes"), ("Answer:", " yes".into()));
        assert_eq!(split("Answer:", " yes"), ("Answer:", " yes".into()));
        assert_eq!(split("", "yes"), ("", "yes".into()));
        assert_eq!(split(" \n", "yes"), ("", " \nyes".into()));
    }
}
