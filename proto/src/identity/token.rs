//! Join tokens: `mesh1.<pin of the CA>.<id>.<secret>`. One use, short life, and the pin lets the joining
//! machine check the router before it sends the secret.

use super::IdentityError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;

/// A join token as typed by a person.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// base64url of SHA-256 over the CA's public key.
    pub pin: String,
    /// Under which the router keeps the token's record.
    pub id: String,
    /// 32 random bytes in base64url. The router keeps only a hash.
    pub secret: String,
}

impl JoinToken {
    /// The pinned hash, 32 bytes.
    #[must_use]
    pub fn pin_bytes(&self) -> Option<[u8; 32]> {
        URL_SAFE_NO_PAD.decode(&self.pin).ok()?.try_into().ok()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "mesh1.{}.{}.{}", self.pin, self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "JoinToken {}", self.id)
    }
}

impl std::str::FromStr for JoinToken {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bad = |reason: &str| IdentityError::invalid("the join token", reason);
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [version, pin, id, secret] = parts.as_slice() else {
            return Err(bad("is not of the form mesh1.<pin>.<id>.<secret>; was it cut when copied?"));
        };
        if *version != "mesh1" {
            return Err(bad("does not start with `mesh1.`"));
        }
        let token = Self { pin: (*pin).into(), id: (*id).into(), secret: (*secret).into() };
        if token.pin_bytes().is_none() {
            return Err(bad("holds a damaged pin; was it cut when copied?"));
        }
        let id_ok = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let secret_ok = URL_SAFE_NO_PAD.decode(secret).is_ok_and(|bytes| bytes.len() == 32);
        if !id_ok || !secret_ok {
            return Err(bad("is damaged; was it cut when copied?"));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            pin: URL_SAFE_NO_PAD.encode([7; 32]),
            id: "k3f9x2ab".into(),
            secret: URL_SAFE_NO_PAD.encode([9; 32]),
        }
    }

    #[test]
    fn a_token_survives_printing_and_reading() {
        assert_eq!(token().to_string().parse::<JoinToken>().expect("just printed"), token());
    }

    #[test]
    fn a_token_cut_anywhere_is_refused() {
        let text = token().to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinToken>().is_err(), "cut at {end}");
        }
    }

    #[test]
    fn the_secret_never_shows_in_debug_output() {
        assert!(!format!("{:?}", token()).contains(&token().secret));
    }
}
