//! What is too long to travel: it lies in the state bucket under its hash, and a claim
//! to it goes through the bus and the queues in its place.

use crate::env::{Environment, var};
use crate::parts::Parts;
use aws_sdk_s3::Client;
use loopy_contract::ids::sha256_hex;
use loopy_engine::ports::PortError;
use serde::{Deserialize, Serialize};

/// The folder of all that travels so, below `state/` in the bucket.
const FOLDER: &str = "messages";

/// The longest text that travels itself, in bytes. EventBridge and SQS bill each 64 KB
/// like a message of its own, and the bus is promised no more than 256 KB everywhere.
pub const MAX_INLINE: usize = 192 * 1024;

/// What travels instead.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// The SHA-256 of the text.
    claim: String,
}

/// The bucket that holds what does not travel. A function that may not use it sends
/// everything itself.
#[derive(Clone)]
pub struct Claims(Option<Parts>);

impl Claims {
    /// Those in the state bucket that `environment` names, if it names one.
    pub fn new(client: Client, environment: &Environment) -> Self {
        let named = environment.required(var::STATE_BUCKET).is_ok();
        Self(named.then(|| Parts::of_environment(client, environment)))
    }

    /// The text, or a claim to it.
    ///
    /// # Errors
    /// When it cannot be put into the bucket.
    pub async fn check_in(&self, text: String) -> Result<String, PortError> {
        let Some(parts) = self.0.as_ref().filter(|_| text.len() > MAX_INLINE) else {
            return Ok(text);
        };
        let sha256 = sha256_hex(text.as_bytes());
        parts.put(FOLDER, &sha256, text).await?;
        let claim = Claim { claim: sha256 };
        serde_json::to_string(&claim).map_err(|error| PortError::new("write a claim", error))
    }

    /// The text that was checked in; any other is its own.
    ///
    /// # Errors
    /// When it is not in the bucket, or has been changed there.
    pub async fn redeem(&self, text: String) -> Result<String, PortError> {
        let Ok(Claim { claim }) = serde_json::from_str::<Claim>(&text) else {
            return Ok(text);
        };
        let Some(parts) = &self.0 else {
            let what = format!("read what is claimed as {claim}");
            return Err(PortError::new(what, "this function has no state bucket"));
        };
        let found = parts.get(FOLDER, &claim).await?;
        Ok(found.as_ref().to_owned())
    }
}
