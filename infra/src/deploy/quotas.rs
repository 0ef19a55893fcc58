//! How many functions an account runs at once, asked before anything is changed. Other
//! quotas are kept by how a template is made: a bus has 300 rules, a template 500
//! resources.

use super::DeployError;
use aws_sdk_lambda::Client;
use std::collections::BTreeMap;

const PUBLIC: &str = "PublicConcurrency";

/// What each public function gets of an account that can spare it.
const RESERVED: i64 = 50;
/// What AWS wants to remain for all other functions.
const REMAINING: i64 = 100;
/// The functions that have a public address.
const PUBLIC_FUNCTIONS: i64 = 2;

/// Reserves a part of the account's concurrency for the public functions of a new
/// stack, when nothing else was said and the account has enough, and refuses what the
/// account cannot give. One that may run only a few functions at once, as new accounts
/// do, would refuse the stack. `had` are the parameters of a stack that stands.
///
/// # Errors
/// [`DeployError::Quota`].
pub(super) async fn keep_within(
    lambda: &Client,
    had: Option<&BTreeMap<String, String>>,
    given: &mut BTreeMap<String, String>,
) -> Result<(), DeployError> {
    let free = match lambda.get_account_settings().send().await {
        Ok(settings) => settings
            .account_limit()
            .and_then(|limit| limit.unreserved_concurrent_executions())
            .map(i64::from),
        Err(error) => {
            tracing::info!(%error, "the account does not say how many functions it runs at once");
            None
        }
    };
    if had.is_none() && !given.contains_key(PUBLIC) {
        let wanted = PUBLIC_FUNCTIONS * RESERVED + REMAINING;
        if free.is_some_and(|free| free >= wanted) {
            given.insert(PUBLIC.to_owned(), RESERVED.to_string());
        }
    }
    within(free, had, given)
}

fn within(
    free: Option<i64>,
    had: Option<&BTreeMap<String, String>>,
    given: &BTreeMap<String, String>,
) -> Result<(), DeployError> {
    let number = |values: &BTreeMap<String, String>| -> Option<i64> {
        values.get(PUBLIC).and_then(|value| value.parse().ok())
    };
    let held = had.and_then(number).unwrap_or_default();
    if let (Some(wanted), Some(unreserved)) = (number(given), free) {
        let spare = unreserved + PUBLIC_FUNCTIONS * held - REMAINING;
        if PUBLIC_FUNCTIONS * wanted > spare {
            let most = (spare / PUBLIC_FUNCTIONS).max(0);
            return Err(DeployError::Quota {
                what: format!("reserves {wanted} for each of {PUBLIC_FUNCTIONS} functions"),
                quota: "concurrent executions (L-B99A9384)",
                has: format!(
                    "{unreserved} that nothing is reserved for, of which {REMAINING} have to \
                     remain: at most {most} for each"
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn public(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(PUBLIC.to_owned(), value.to_owned())])
    }

    #[test]
    fn what_the_account_can_spare_may_be_reserved_and_no_more() {
        assert!(within(Some(200), None, &public("50")).is_ok());
        let refused = within(Some(199), None, &public("50")).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("at most 49 for each"), "{text}");
        assert!(within(Some(10), None, &public("")).is_ok());
        let refused = within(Some(10), None, &public("1")).unwrap_err();
        assert!(refused.to_string().contains("at most 0"), "{refused}");
        assert!(within(None, None, &public("50")).is_ok(), "nobody knows");
    }

    #[test]
    fn what_a_stack_has_reserved_already_is_its_own() {
        let had = public("50");
        assert!(within(Some(100), Some(&had), &public("50")).is_ok());
        assert!(within(Some(100), Some(&had), &public("51")).is_err());
        assert!(within(Some(100), Some(&had), &public("")).is_ok());
    }
}
