//! Answers as Ollama tells them: a line of JSON for each piece, durations in nanoseconds.

use crate::http::dialect::pieces::Finish;
use crate::http::dialect::translation::{Answer, Label, Part, Voice};
use serde_json::{Value, json};

/// Answers of `/api/chat` and `/api/generate`.
pub struct Lines {
    label: Label,
    chat: bool,
}

impl Lines {
    /// Answers to a chat, or to a prompt.
    #[must_use]
    pub fn new(label: Label, chat: bool) -> Self {
        Self { label, chat }
    }

    fn line(&self, text: &str, thought: &str, calls: Option<Value>) -> Value {
        let mut line = json!({ "model": self.label.model, "created_at": timestamp(self.label.at_unix_ms) });
        if self.chat {
            line["message"] = json!({ "role": "assistant", "content": text });
            if !thought.is_empty() {
                line["message"]["thinking"] = thought.into();
            }
            if let Some(calls) = calls {
                line["message"]["tool_calls"] = calls;
            }
        } else {
            line["response"] = text.into();
            if !thought.is_empty() {
                line["thinking"] = thought.into();
            }
        }
        line["done"] = false.into();
        line
    }

    fn last(&self, mut line: Value, answer: &Answer) -> Value {
        let tokens = answer.tokens;
        line["done"] = true.into();
        line["done_reason"] = match answer.finish {
            Finish::Length => "length",
            Finish::Stop | Finish::Tools | Finish::Filter => "stop",
        }
        .into();
        let nanoseconds = |seconds: Option<f64>| (seconds.unwrap_or(0.0).max(0.0) * 1e9) as u64;
        let (prefill, decode) = (nanoseconds(tokens.prefill_s), nanoseconds(tokens.decode_s));
        line["total_duration"] = (prefill + decode).into();
        line["load_duration"] = 0.into();
        line["prompt_eval_count"] = tokens.prompt.into();
        line["prompt_eval_duration"] = prefill.into();
        line["eval_count"] = tokens.answer.into();
        line["eval_duration"] = decode.into();
        line
    }

    /// Ollama's arguments are objects, so a call can be told only when it is complete.
    fn calls(answer: &Answer) -> Option<Value> {
        let call = |(at, call): (usize, &crate::http::dialect::translation::Call)| json!({ "id": call.id, "function": { "index": at, "name": call.name, "arguments": call.object() } });
        (!answer.calls.is_empty()).then(|| answer.calls.iter().enumerate().map(call).collect())
    }
}

impl Voice for Lines {
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn begin(&mut self) -> String {
        String::new()
    }

    fn part(&mut self, part: Part<'_>, _: &Answer) -> String {
        match part {
            Part::Text(text) => format!("{}\n", self.line(text, "", None)),
            Part::Thought(text) => format!("{}\n", self.line("", text, None)),
            Part::CallBegins(_) | Part::Arguments(..) => String::new(),
        }
    }

    fn end(&mut self, answer: &Answer) -> String {
        let mut out = String::new();
        if let Some(calls) = Self::calls(answer).filter(|_| self.chat) {
            out = format!("{}\n", self.line("", "", Some(calls)));
        }
        out + &format!("{}\n", self.last(self.line("", "", None), answer))
    }

    fn whole(&mut self, answer: &Answer) -> Value {
        self.last(self.line(&answer.text, &answer.thought, Self::calls(answer)), answer)
    }
}

/// A time as Ollama writes it: RFC 3339 in UTC.
#[must_use]
pub fn timestamp(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's `civil_from_days`: years begin in March, so the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_leap_days_included() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(1_795_221_182_007), "2026-11-21T00:33:02.007Z");
    }
}
