//! The token of one attempt: an HMAC over run, step and attempt. Nothing has to
//! be stored for it, a repeated launch derives the same one, and it is good for
//! nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use loopy_contract::ids::RunId;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The token of this attempt under `key`.
pub(crate) fn derive(key: &[u8], run: &RunId, step: &str, attempt: u32) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in ["loopy report 1", run.as_str(), step, &attempt.to_string()] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Some(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// Whether `authorization` is `Bearer` and this attempt's token. Takes the same
/// time for every wrong token of the right length.
pub(crate) fn holds(
    key: &[u8],
    run: &RunId,
    step: &str,
    attempt: u32,
    authorization: Option<&str>,
) -> bool {
    let Some(token) = authorization.and_then(|header| header.strip_prefix("Bearer ")) else {
        return false;
    };
    let Some(expected) = derive(key, run, step, attempt) else {
        return false;
    };
    expected.as_bytes().ct_eq(token.trim().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_attempt_alone() {
        let run = RunId::from("greet-1");
        let token = derive(b"key", &run, "hello", 1).map(|token| format!("Bearer {token}"));
        let token = token.as_deref();
        assert!(holds(b"key", &run, "hello", 1, token));
        assert!(!holds(b"key", &run, "hello", 2, token));
        assert!(!holds(b"key", &run, "hell", 1, token));
        assert!(!holds(b"key", &RunId::from("greet-2"), "hello", 1, token));
        assert!(!holds(b"other", &run, "hello", 1, token));
        assert!(!holds(b"key", &run, "hello", 1, Some("Bearer ")));
        assert!(!holds(b"key", &run, "hello", 1, None));
    }
}
