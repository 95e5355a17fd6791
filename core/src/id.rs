//! Names of things: machines, models, modes and requests.
//!
//! Every name that enters the mesh is checked here once, so that it can later stand in a header, a log
//! line, a file name or a metric label without another thought.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a text is not a valid name. The text itself is part of the message, shortened to 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text was empty.
    #[error("a {kind} must not be empty")]
    Empty {
        /// What was being named.
        kind: &'static str,
    },
    /// The text was longer than the kind allows.
    #[error("{kind} `{text}…` has {length} bytes, more than {limit}")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// The first 64 characters.
        text: String,
        /// Its length in bytes.
        length: usize,
        /// The most bytes this kind may have.
        limit: usize,
    },
    /// The text holds a character that the kind does not allow.
    #[error("{kind} `{text}` holds {found:?}; allowed are {allowed}")]
    BadCharacter {
        /// What was being named.
        kind: &'static str,
        /// The first 64 characters.
        text: String,
        /// The offending character.
        found: char,
        /// The allowed characters, in words.
        allowed: &'static str,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $limit:literal, $allowed:literal, $accept:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(
            // Shared: a decision names many machines and models, and copies none of their names.
            Arc<str>,
        );

        impl $name {
            /// Checks `text` against the grammar of this kind of name.
            ///
            /// # Errors
            /// [`IdError`] names the text, what is wrong with it and what is allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check($kind, &text, $limit, $allowed, $accept)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        // Compared, ordered and hashed as the text that it is.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of one machine of the mesh, as in its certificate: `strix-1`. A DNS label, because it
    /// becomes one in the certificate's names.
    MachineId,
    "machine name",
    63,
    "a-z, 0-9 and `-`, not first or last",
    |text: &str, at: usize, c: char| c.is_ascii_lowercase()
        || c.is_ascii_digit()
        || (c == '-' && at > 0 && at + 1 < text.len())
);

name_type!(
    /// The name a model has on an engine and towards clients: `qwen3-coder:30b`, `org/model:Q4_K_M`.
    ModelId,
    "model name",
    256,
    "letters, digits and `- _ . : / @ + ( ) ,`, no `..`, no leading `/` or `-`",
    |text: &str, at: usize, c: char| c.is_ascii_alphanumeric()
        || matches!(c, '_' | '@' | '+' | ',' | '(' | ')' | ':')
        || (matches!(c, '-' | '/') && at > 0)
        || (c == '.' && text.as_bytes().get(at + 1) != Some(&b'.'))
);

name_type!(
    /// The name of a mode: `code`. Clients write `mesh/code` or `mesh-code`.
    ModeName,
    "mode name",
    32,
    "a-z, 0-9 and `-`, not first or last",
    |text: &str, at: usize, c: char| c.is_ascii_lowercase()
        || c.is_ascii_digit()
        || (c == '-' && at > 0 && at + 1 < text.len())
);

name_type!(
    /// The id of one client request, as in `x-mesh-request-id`.
    RequestId,
    "request id",
    64,
    "a-z, 0-9, `-` and `_`",
    |_: &str, _: usize, c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')
);

fn check(
    kind: &'static str,
    text: &str,
    limit: usize,
    allowed: &'static str,
    accept: fn(&str, usize, char) -> bool,
) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    let shown = || text.chars().take(64).collect::<String>();
    if text.len() > limit {
        return Err(IdError::TooLong { kind, text: shown(), length: text.len(), limit });
    }
    match text.char_indices().find(|&(at, c)| !accept(text, at, c)) {
        Some((_, found)) => Err(IdError::BadCharacter { kind, text: shown(), found, allowed }),
        None => Ok(()),
    }
}

/// Turns any text into a valid [`MachineId`] by lower-casing and replacing what is not allowed with `-`.
/// Host names such as `MSI_Raider.local` become `msi-raider`.
#[must_use]
pub fn machine_id_from_hostname(hostname: &str) -> MachineId {
    let label = hostname.split('.').next().unwrap_or_default().to_lowercase();
    let cleaned: String = label
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(63)
        .collect();
    let trimmed = cleaned.trim_matches('-');
    MachineId(if trimmed.is_empty() { "machine".into() } else { trimmed.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_in_use_are_accepted() {
        for name in ["msi", "strix-1", "a", "5070ti"] {
            assert_eq!(MachineId::new(name).map(|m| m.to_string()), Ok(name.to_owned()));
        }
        for name in ["qwen3-coder:30b", "hf.co/org/Model-GGUF:Q4_K_M", "gpt-oss:120b", "tiny_v1.2"] {
            assert!(ModelId::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_refusal_names_the_text_and_the_rule() {
        let error = MachineId::new("Strix 1").expect_err("upper case and a space");
        assert_eq!(
            error.to_string(),
            "machine name `Strix 1` holds 'S'; allowed are a-z, 0-9 and `-`, not first or last"
        );
    }

    #[test]
    fn paths_that_climb_or_start_at_the_root_are_no_model_names() {
        for name in ["../etc/passwd", "a/../b", "/etc/passwd", "-rf", "a\0b", "a b", "a\nb", ""] {
            assert!(ModelId::new(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_hostname_becomes_a_valid_machine_name(hostname in ".{0,100}") {
            let id = machine_id_from_hostname(&hostname);
            prop_assert_eq!(MachineId::new(id.as_str()), Ok(id));
        }

        #[test]
        fn a_name_survives_a_round_trip_through_text(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?") {
            let id = MachineId::new(name.clone()).expect("the pattern is the grammar");
            prop_assert_eq!(String::from(id), name);
        }
    }
}
