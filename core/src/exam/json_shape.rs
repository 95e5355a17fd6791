//! Is a text JSON (RFC 8259), and of what kind? The core has no JSON reader among its dependencies, and needs no more
//! than this: the kind of the value and the keys of an object.

use std::collections::BTreeSet;

/// Arrays and objects inside each other.
const DEEPEST: usize = 128;

/// What a JSON text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object with these keys.
    Object(BTreeSet<String>),
    /// An array.
    Array,
    /// A text, a number, `true`, `false` or `null`.
    Other,
}

/// The shape of `text`; none where it is no JSON, or deeper than anything that a prompt asks for.
pub(super) fn shape(text: &str) -> Option<Shape> {
    let mut reader = Reader { rest: text, keys: BTreeSet::new() };
    reader.skip_space();
    let first = reader.rest.chars().next()?;
    reader.value(0)?;
    reader.skip_space();
    reader.rest.is_empty().then_some(match first {
        '{' => Shape::Object(reader.keys),
        '[' => Shape::Array,
        _ => Shape::Other,
    })
}

struct Reader<'a> {
    rest: &'a str,
    /// Of the outermost object.
    keys: BTreeSet<String>,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// `token`, where it comes next.
    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    /// The value that comes next, inside `depth` others.
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth >= DEEPEST {
            return None;
        }
        match self.rest.bytes().next()? {
            b'{' => self.members(depth),
            b'[' => self.elements(depth),
            b'"' => self.text().map(drop),
            b't' => self.take("true"),
            b'f' => self.take("false"),
            b'n' => self.take("null"),
            _ => self.number(),
        }
    }

    fn members(&mut self, depth: usize) -> Option<()> {
        self.take("{")?;
        self.skip_space();
        if self.take("}").is_some() {
            return Some(());
        }
        loop {
            self.skip_space();
            let key = self.text()?;
            if depth == 0 {
                self.keys.insert(key);
            }
            self.skip_space();
            self.take(":")?;
            self.skip_space();
            self.value(depth + 1)?;
            self.skip_space();
            if self.take(",").is_none() {
                return self.take("}");
            }
        }
    }

    fn elements(&mut self, depth: usize) -> Option<()> {
        self.take("[")?;
        self.skip_space();
        if self.take("]").is_some() {
            return Some(());
        }
        loop {
            self.skip_space();
            self.value(depth + 1)?;
            self.skip_space();
            if self.take(",").is_none() {
                return self.take("]");
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut text = String::new();
        loop {
            let mut chars = self.rest.chars();
            let c = chars.next()?;
            self.rest = chars.as_str();
            match c {
                '"' => return Some(text),
                '\\' => text.push(self.escaped()?),
                '\0'..='\x1f' => return None,
                _ => text.push(c),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let high = self.four()?;
                if (0xd800..0xdc00).contains(&high) {
                    self.take("\\u")?;
                    let low = self.four()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low)?
                } else {
                    char::from_u32(high)?
                }
            }
            _ => return None,
        })
    }

    /// Four hexadecimal digits.
    fn four(&mut self) -> Option<u32> {
        let digits =
            self.rest.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Option<()> {
        self.rest = self.rest.strip_prefix('-').unwrap_or(self.rest);
        if self.take("0").is_none() {
            self.digits()?;
        }
        if self.take(".").is_some() {
            self.digits()?;
        }
        if let Some(rest) = self.rest.strip_prefix(['e', 'E']) {
            self.rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        (rest.len() < self.rest.len()).then(|| self.rest = rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// What serde_json says.
    fn by_serde(text: &str) -> Option<Shape> {
        Some(match serde_json::from_str::<Value>(text).ok()? {
            Value::Object(object) => Shape::Object(object.keys().cloned().collect()),
            Value::Array(_) => Shape::Array,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Shape::Other,
        })
    }

    #[test]
    fn the_shapes_of_odd_texts_are_those_of_serde_json() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let odd = [
            "",
            " ",
            "{}",
            "{ }",
            "[]",
            " [ ] ",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "01",
            "-",
            "-0",
            "1.",
            ".5",
            "1e5",
            "1E+",
            "1e-05",
            "+1",
            "tru",
            "true",
            "nulll",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u00e9\"",
            "\"\\ud800\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\\u0041\"",
            "\"\\udc00\"",
            "\"a\nb\"",
            "\"\u{7f}é\"",
            "{\"a\":{\"b\":[1,{}]}} x",
            "{\"a\":1,\"a\":2}",
            "{\"\\u0061\\n\":\"\\/\"}",
            "\u{feff}1",
            "\u{a0}1",
            "[1 2]",
            "{\"a\" : [true , false]}",
            "NaN",
        ];
        let deep = [nested(127), nested(128).replace("[]", "[1]"), nested(100_000)];
        for text in odd.iter().map(|text| (*text).to_owned()).chain(deep) {
            assert_eq!(shape(&text), by_serde(&text), "{}", text.chars().take(40).collect::<String>());
        }
    }

    proptest! {
        #[test]
        fn shapes_are_those_of_serde_json(text in r#"[\{\}\[\]":, \\a01\-.eu]{0,12}"#) {
            // A number that is too big for its type is JSON all the same.
            prop_assume!(!text.contains('e') || by_serde(&text).is_some() || shape(&text).is_none());
            prop_assert_eq!(shape(&text), by_serde(&text));
        }

        #[test]
        fn what_serde_json_writes_is_read(value in prop::collection::btree_map(".{0,5}", prop::collection::vec(any::<f64>(), 0..3), 0..5)) {
            let text = serde_json::to_string(&value).expect("json");
            prop_assert_eq!(shape(&text), Some(Shape::Object(value.into_keys().collect())));
        }
    }
}
