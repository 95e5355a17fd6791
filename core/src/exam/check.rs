//! The checks of generation items: what an answer must be like, told by simple rules.

use super::json_shape::{Shape, shape};
use super::pattern::Pattern;
use serde::Deserialize;

/// Texts in one check.
const MOST_TEXTS: usize = 64;
/// Bytes of one text in a check.
const LONGEST: usize = 4096;

/// One rule. Answers are looked at without white space around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    rule: Rule,
    ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// One of these stands in it.
    Contains(Vec<String>),
    /// None of these does.
    Without(Vec<String>),
    /// It is this.
    Equals(String),
    /// The whole of it has this form.
    Matches(Pattern),
    /// It is JSON of this kind; a code fence around it is no fault.
    Json(Kind),
    /// It is a JSON object with these keys at least.
    Keys(Vec<String>),
    /// It has that many characters at least, at most.
    Chars(usize, usize),
    /// It has that many lines that are not blank, at least, at most.
    Lines(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Any,
    Object,
    Array,
}

/// A check that cannot be: the key, what stands there and what should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {seen}, expected {expected}")]
pub struct CheckError {
    /// Which key of the check; empty = all of it.
    pub key: String,
    /// What stands there.
    pub seen: String,
    /// What should.
    pub expected: String,
}

/// A check as it is written: one of the rules, by its key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCheck {
    contains: Option<String>,
    contains_any: Option<Vec<String>>,
    not_contains: Option<String>,
    equals: Option<String>,
    matches: Option<String>,
    json: Option<Kind>,
    json_keys: Option<Vec<String>>,
    least_chars: Option<usize>,
    most_chars: Option<usize>,
    least_lines: Option<usize>,
    most_lines: Option<usize>,
    ignore_case: bool,
}

impl TryFrom<RawCheck> for Check {
    type Error = CheckError;

    fn try_from(raw: RawCheck) -> Result<Self, CheckError> {
        let wrong = |key: &str, seen: String, expected: &str| CheckError {
            key: key.to_owned(),
            seen,
            expected: expected.to_owned(),
        };
        let bounded = |key: &str, texts: Vec<String>| {
            if !(1..=MOST_TEXTS).contains(&texts.len()) {
                return Err(wrong(key, format!("a list of {}", texts.len()), "1 to 64 texts"));
            }
            match texts.iter().find(|text| text.is_empty() || text.len() > LONGEST) {
                Some(text) => Err(wrong(key, format!("a text of {} bytes", text.len()), "1 to 4096 bytes")),
                None => Ok(texts),
            }
        };
        let mut rules = Vec::new();
        if let Some(text) = raw.contains {
            rules.push(Rule::Contains(bounded("contains", vec![text])?));
        }
        if let Some(texts) = raw.contains_any {
            rules.push(Rule::Contains(bounded("contains_any", texts)?));
        }
        if let Some(text) = raw.not_contains {
            rules.push(Rule::Without(bounded("not_contains", vec![text])?));
        }
        if let Some(text) = raw.equals {
            rules.extend(bounded("equals", vec![text])?.pop().map(Rule::Equals));
        }
        if let Some(text) = raw.matches {
            rules
                .push(Rule::Matches(Pattern::new(&text).map_err(|(seen, why)| wrong("matches", seen, why))?));
        }
        rules.extend(raw.json.map(Rule::Json));
        if let Some(keys) = raw.json_keys {
            rules.push(Rule::Keys(bounded("json_keys", keys)?));
        }
        rules.extend(raw.least_chars.map(|least| Rule::Chars(least, usize::MAX)));
        rules.extend(raw.most_chars.map(|most| Rule::Chars(0, most)));
        rules.extend(raw.least_lines.map(|least| Rule::Lines(least, usize::MAX)));
        rules.extend(raw.most_lines.map(|most| Rule::Lines(0, most)));
        let count = rules.len();
        let rule = rules.pop().filter(|_| count == 1);
        let rule = rule.ok_or_else(|| wrong("", format!("{count} rules"), "one rule in each check"))?;
        let of_text =
            matches!(rule, Rule::Contains(_) | Rule::Without(_) | Rule::Equals(_) | Rule::Matches(_));
        if raw.ignore_case && !of_text {
            return Err(wrong("ignore_case", "beside a rule that has no case".into(), "a rule about text"));
        }
        Ok(Self { rule, ignore_case: raw.ignore_case })
    }
}

impl Check {
    /// It, in the words of an item: `contains "Paris"`.
    pub(super) fn words(&self) -> String {
        let quoted = |texts: &[String]| {
            texts.iter().map(|text| format!("{text:?}")).collect::<Vec<String>>().join(", ")
        };
        let between = |what: &str, (least, most): (usize, usize)| match most {
            usize::MAX => format!("least_{what} {least}"),
            most => format!("most_{what} {most}"),
        };
        let rule = match &self.rule {
            Rule::Contains(texts) if texts.len() > 1 => format!("contains_any {}", quoted(texts)),
            Rule::Contains(texts) => format!("contains {}", quoted(texts)),
            Rule::Without(texts) => format!("not_contains {}", quoted(texts)),
            Rule::Equals(text) => format!("equals {text:?}"),
            Rule::Matches(pattern) => format!("matches \"{}\"", pattern.text()),
            Rule::Json(Kind::Any) => "json any".into(),
            Rule::Json(Kind::Object) => "json object".into(),
            Rule::Json(Kind::Array) => "json array".into(),
            Rule::Keys(keys) => format!("json_keys {}", keys.join(", ")),
            Rule::Chars(least, most) => between("chars", (*least, *most)),
            Rule::Lines(least, most) => between("lines", (*least, *most)),
        };
        if self.ignore_case { rule + " (ignore_case)" } else { rule }
    }

    /// Whether `answer` is like that.
    #[must_use]
    pub fn holds(&self, answer: &str) -> bool {
        let cased = |text: &str| if self.ignore_case { text.to_lowercase() } else { text.to_owned() };
        let answer = answer.trim();
        let any = |texts: &[String]| {
            let answer = cased(answer);
            texts.iter().any(|text| answer.contains(&cased(text)))
        };
        match &self.rule {
            Rule::Contains(texts) => any(texts),
            Rule::Without(texts) => !any(texts),
            Rule::Equals(text) => cased(answer) == cased(text.trim()),
            Rule::Matches(pattern) if self.ignore_case => pattern.lowercase().matches(&cased(answer)),
            Rule::Matches(pattern) => pattern.matches(answer),
            Rule::Json(kind) => match (kind, shape(without_fence(answer))) {
                (_, None) => false,
                (Kind::Any, Some(_))
                | (Kind::Object, Some(Shape::Object(_)))
                | (Kind::Array, Some(Shape::Array)) => true,
                (Kind::Object | Kind::Array, Some(_)) => false,
            },
            Rule::Keys(keys) => match shape(without_fence(answer)) {
                Some(Shape::Object(found)) => keys.iter().all(|key| found.contains(key)),
                Some(Shape::Array | Shape::Other) | None => false,
            },
            Rule::Chars(least, most) => (*least..=*most).contains(&answer.chars().count()),
            Rule::Lines(least, most) => {
                let lines = answer.lines().filter(|line| !line.trim().is_empty()).count();
                (*least..=*most).contains(&lines)
            }
        }
    }
}

/// What stands between three backticks with the name of a language and three backticks, where that is all.
fn without_fence(answer: &str) -> &str {
    let inside = answer.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inside.and_then(|inside| inside.split_once('\n')).map_or(answer, |(_, body)| body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Check {
        Check::try_from(serde_json::from_str::<RawCheck>(json).expect("json")).expect("a check")
    }

    #[test]
    fn each_rule_holds_where_it_should_and_nowhere_else() {
        for (rule, yes, no) in [
            (r#"{"contains":"Paris"}"#, "It is Paris.", "It is paris."),
            (r#"{"contains":"Paris","ignore_case":true}"#, "PARIS", "Rome"),
            (r#"{"contains_any":["8","eight"]}"#, "eight legs", "six"),
            (r#"{"not_contains":"blue","ignore_case":true}"#, "green", "Blue"),
            (r#"{"equals":"yes"}"#, " yes\n", "yes."),
            (r#"{"equals":" Yes","ignore_case":true}"#, "yES", "no"),
            (r##"{"matches":"#:#"}"##, " 14:30 ", "at 14:30"),
            (r#"{"matches":"Yes*","ignore_case":true}"#, "YES, it is", "oh yes"),
            (r#"{"json":"any"}"#, "3", "{"),
            (r#"{"json":"object"}"#, "```json\n{\"a\": 1}\n```", "[1]"),
            (r#"{"json":"array"}"#, "[]", "{}"),
            (r#"{"json_keys":["a","b"]}"#, r#"{"b":[{"c":1}],"a":null}"#, r#"{"a":{"b":1}}"#),
            (r#"{"json_keys":["a"]}"#, r#"{"a":1}"#, r#"[{"a":1}]"#),
            (r#"{"least_chars":3}"#, " äöü ", " äö "),
            (r#"{"most_chars":3}"#, " äöü ", "four"),
            (r#"{"least_lines":2}"#, "a\n\nb", "a\n\n"),
            (r#"{"most_lines":2}"#, "a\n\nb", "a\nb\nc"),
        ] {
            assert!(check(rule).holds(yes), "{rule} {yes}");
            assert!(!check(rule).holds(no), "{rule} {no}");
        }
    }

    #[test]
    fn a_check_has_one_rule_that_can_be_met() {
        for (json, message) in [
            ("{}", " is 0 rules, expected one rule in each check"),
            (r#"{"contains":"a","equals":"a"}"#, " is 2 rules, expected one rule in each check"),
            (r#"{"contains":""}"#, "contains is a text of 0 bytes, expected 1 to 4096 bytes"),
            (r#"{"contains_any":[]}"#, "contains_any is a list of 0, expected 1 to 64 texts"),
            (r#"{"matches":"a\\"}"#, "matches is \"a\\\\\", expected a character after each `\\`"),
            (
                r#"{"most_chars":3,"ignore_case":true}"#,
                "ignore_case is beside a rule that has no case, expected a rule about text",
            ),
        ] {
            let raw: RawCheck = serde_json::from_str(json).expect("json");
            let error = Check::try_from(raw).expect_err(json);
            assert_eq!(error.to_string(), message);
        }
        assert!(serde_json::from_str::<RawCheck>(r#"{"contain":"a"}"#).is_err());
    }
}
