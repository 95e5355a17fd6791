//! Ids, secrets and their hashes. A secret is shown once and never stored; with 256 random bits a plain
//! SHA-256 is enough to keep of it, because nobody can try them all.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Letters of an id: lower case, without those that look alike (l and 1, o and 0).
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Letters of an id: 40 bits, so that ten thousand ids rarely share even a long prefix.
const ID_LENGTH: usize = 8;

/// The most bytes a presented secret may have; ours have 43.
pub(super) const SECRET_LIMIT: usize = 128;

/// The SHA-256 of a secret or of a public key.
pub(super) type Sha = [u8; 32];

/// A new random id.
pub(super) fn random_id() -> String {
    let mut bytes = [0_u8; ID_LENGTH];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// A new secret: 32 random bytes, base64url.
pub(super) fn random_secret() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is stored of a secret.
pub(super) fn hash(secret: &str) -> Sha {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whether `presented` is the secret of which `stored` is the hash; takes as long for every wrong answer.
pub(super) fn fits(presented: &str, stored: &Sha) -> bool {
    presented.len() <= SECRET_LIMIT && hash(presented).ct_eq(stored).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_eight_letters_that_do_not_look_alike() {
        for _ in 0..200 {
            let id = random_id();
            assert!(id.len() == 8 && id.bytes().all(|c| LETTERS.contains(&c)), "{id}");
        }
    }

    #[test]
    fn only_the_secret_itself_fits_its_hash() {
        let secret = random_secret();
        assert_eq!(secret.len(), 43);
        assert!(fits(&secret, &hash(&secret)));
        assert!(!fits(&random_secret(), &hash(&secret)));
        assert!(!fits("", &hash(&secret)));
        let long = "x".repeat(SECRET_LIMIT + 1);
        assert!(!fits(&long, &hash(&long)), "an overlong secret is refused unread");
    }
}
