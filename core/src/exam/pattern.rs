//! Forms of a whole text, simpler than regular expressions: `*` any text, `?` one character, `#` a row of digits, `\` the
//! next character itself.

/// Bytes of a pattern: with [`LOOKED_AT`] this bounds what a match costs.
const LONGEST: usize = 512;
/// Characters of a text that are looked at; a longer one has no form.
const LOOKED_AT: usize = 65_536;

/// A form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    AnyText,
    AnyOne,
    Digits,
    One(char),
}

impl Pattern {
    /// Reads a form; what stands there and what is expected where it is none.
    pub(super) fn new(text: &str) -> Result<Self, (String, &'static str)> {
        if !(1..=LONGEST).contains(&text.len()) {
            return Err((format!("{} bytes long", text.len()), "1 to 512 bytes"));
        }
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '*' => Part::AnyText,
                '?' => Part::AnyOne,
                '#' => Part::Digits,
                '\\' => {
                    let next =
                        chars.next().ok_or_else(|| (format!("{text:?}"), "a character after each `\\`"))?;
                    Part::One(next)
                }
                _ => Part::One(c),
            };
            // Two of these in a row are one.
            if part != Part::AnyText || parts.last() != Some(&Part::AnyText) {
                parts.push(part);
            }
        }
        Ok(Self(parts))
    }

    /// The form as it is written.
    pub(super) fn text(&self) -> String {
        let part = |part: &Part| match part {
            Part::AnyText => "*".to_owned(),
            Part::AnyOne => "?".to_owned(),
            Part::Digits => "#".to_owned(),
            Part::One(c @ ('*' | '?' | '#' | '\\')) => format!("\\{c}"),
            Part::One(c) => c.to_string(),
        };
        self.0.iter().map(part).collect()
    }

    /// The form with its letters in lower case.
    pub(super) fn lowercase(&self) -> Self {
        let lower = |part: &Part| match part {
            Part::One(c) => c.to_lowercase().map(Part::One).collect(),
            Part::AnyText | Part::AnyOne | Part::Digits => vec![*part],
        };
        Self(self.0.iter().flat_map(lower).collect())
    }

    /// Whether the whole of `text` has the form. All ways through the form are followed at once, so no text is slow.
    pub(super) fn matches(&self, text: &str) -> bool {
        let parts = &self.0;
        if text.chars().nth(LOOKED_AT).is_some() {
            return false;
        }
        // at[i]: what came so far ends before part i, or inside it where it is a row that goes on.
        let mut at = vec![false; parts.len() + 1];
        at[0] = true;
        let mut next = at.clone();
        // Whether a row of digits has begun at part i.
        let mut begun = vec![false; parts.len()];
        pass_any_text(parts, &mut at);
        for c in text.chars() {
            next.fill(false);
            for (i, part) in parts.iter().enumerate() {
                let goes_on = std::mem::take(&mut begun[i]);
                if !at[i] && !goes_on {
                    continue;
                }
                match part {
                    Part::AnyText => next[i] = true,
                    Part::AnyOne => next[i + 1] = true,
                    Part::One(one) => next[i + 1] |= *one == c,
                    Part::Digits if c.is_ascii_digit() => {
                        begun[i] = true;
                        next[i + 1] = true;
                    }
                    Part::Digits => {}
                }
            }
            pass_any_text(parts, &mut next);
            std::mem::swap(&mut at, &mut next);
        }
        at[parts.len()]
    }
}

/// Any text may be none.
fn pass_any_text(parts: &[Part], at: &mut [bool]) {
    for (i, part) in parts.iter().enumerate() {
        at[i + 1] |= at[i] && *part == Part::AnyText;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(form: &str, text: &str) -> bool {
        Pattern::new(form).expect("a form").matches(text)
    }

    #[test]
    fn forms_match_whole_texts() {
        for (form, yes, no) in [
            ("a*c", "abbc", "abbcd"),
            ("*", "", "\0no"),
            ("**a**", "a", "b"),
            ("?", "ä", "äb"),
            ("#:#", "14:30", "14:"),
            ("#", "007", ""),
            ("##", "42", "4"),
            ("*#*", "x9y", "xy"),
            ("\\*\\#", "*#", "a#"),
            ("a\nb", "a\nb", "a b"),
            ("*2,*7,*9*", "2, 7, 9.", "2, 9, 7."),
        ] {
            assert!(matches(form, yes), "{form} {yes}");
            assert!(form == "*" || !matches(form, no), "{form} {no}");
        }
    }

    #[test]
    fn a_long_text_with_many_stars_is_not_slow() {
        let form = "*a".repeat(255) + "b";
        assert!(!matches(&form, &"a".repeat(60_000)));
        assert!(!matches("*", &"a".repeat(LOOKED_AT + 1)));
        assert!(Pattern::new(&"a".repeat(513)).is_err() && Pattern::new("").is_err());
    }

    /// The plain meaning, by trying every way.
    fn by_hand(form: &[char], text: &[char]) -> bool {
        match form.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|cut| by_hand(rest, &text[cut..])),
            Some(('#', rest)) => {
                let digits = text.iter().take_while(|c| c.is_ascii_digit()).count();
                (1..=digits).any(|cut| by_hand(rest, &text[cut..]))
            }
            Some((c, rest)) => {
                text.split_first().is_some_and(|(t, tail)| (c == t || *c == '?') && by_hand(rest, tail))
            }
        }
    }

    proptest! {
        #[test]
        fn a_form_means_what_it_says(form in "[ab1*?#]{1,8}", text in "[ab12]{0,9}") {
            let (chars, letters): (Vec<char>, Vec<char>) = (form.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches(&form, &text), by_hand(&chars, &letters));
        }
    }
}
