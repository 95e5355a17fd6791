//! Numbers of tokens in the configuration.

use serde::{Deserialize, Serialize};

/// The longest context there is a use for: the longest that a published model was trained for.
const LONGEST_CONTEXT: u32 = 10 << 20;

/// Tokens as people write them: `32768` or `"32K"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tokens(pub String);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl serde::de::Visitor<'_> for Written {
            type Value = Tokens;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a number of tokens such as 32768 or \"32K\"")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Tokens, E> {
                Ok(Tokens(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Tokens, E> {
                Ok(Tokens(number.to_string()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Tokens, E> {
                Ok(Tokens(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl Tokens {
    /// How many.
    ///
    /// # Errors
    /// A sentence with the text and its bounds.
    pub(super) fn read(&self) -> Result<u32, String> {
        let text = self.0.trim();
        let (number, factor) = match text.strip_suffix(['K', 'k']) {
            Some(number) => (number, 1024),
            None => (text, 1),
        };
        let tokens = number.trim().parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
        tokens.filter(|tokens| (1..=LONGEST_CONTEXT).contains(tokens)).ok_or_else(|| {
            format!("`{text}` is no number of tokens from 1 to {LONGEST_CONTEXT}: write 32768 or \"32K\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_people_write_them() {
        let read = |text: &str| Tokens(text.into()).read();
        assert_eq!((read("32768"), read("32K"), read(" 4 k ")), (Ok(32_768), Ok(32_768), Ok(4096)));
        for text in ["", "0", "K", "32M", "-1", "1.5K", "20000K", "99999999999"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
