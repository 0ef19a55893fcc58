//! An attempt's token, sealed for a launch that others can look at.
//!
//! A provider's API shows what a sandbox was launched with to everyone who may list
//! sandboxes, and with the token one could ask for the attempt's secrets. So it is
//! sealed with a key that the sandbox gets on another way (a secret, by reference).
//! Who has only one of the two has nothing.
//!
//! The seal is the token's 32 bytes, combined by exclusive or with
//! `HMAC-SHA256(key, run ‖ step ‖ attempt)`. A token is made from the same three, so
//! no two tokens are ever sealed with the same bytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Seals the token of an attempt, or opens what was sealed. `None` when it is not
/// 32 bytes in base64url, as every token is.
pub fn turn(key: &[u8], run: &str, step: &str, attempt: u32, token: &str) -> Option<String> {
    let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in ["loopy token seal 1", run, step, &attempt.to_string()] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    let mask = mac.finalize().into_bytes();
    let turned: Vec<u8> = bytes.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    Some(URL_SAFE_NO_PAD.encode(turned))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_key_for_its_attempt_alone() {
        let token = URL_SAFE_NO_PAD.encode([7; 32]);
        let sealed = turn(b"key", "run", "step", 1, &token).unwrap();
        assert_ne!(sealed, token);
        assert_eq!(turn(b"key", "run", "step", 1, &sealed).unwrap(), token);
        for wrong in [
            turn(b"other", "run", "step", 1, &sealed),
            turn(b"key", "run", "step", 2, &sealed),
            turn(b"key", "ru", "nstep", 1, &sealed),
        ] {
            assert_ne!(wrong.unwrap(), token);
        }
        assert_eq!(turn(b"key", "run", "step", 1, "short"), None);
        assert_eq!(turn(b"key", "run", "step", 1, "no base64 at all!"), None);
    }
}
