//! Whether a key lets the services use it that act by themselves. A rule that may not
//! use its queue's key loses each event without a word: what cannot be delivered goes to
//! a dead-letter queue under the same key.

use super::DeployError;
use aws_sdk_kms::Client;
use serde_json::Value;

/// Who puts messages into the stack's queues without a role of the stack's.
const SERVICE: &str = "events.amazonaws.com";

/// What it needs for that, and what stands for each.
const NEEDS: [(&str, [&str; 3]); 2] = [
    ("kms:Decrypt", ["kms:Decrypt", "kms:*", "*"]),
    (
        "kms:GenerateDataKey",
        ["kms:GenerateDataKey*", "kms:*", "*"],
    ),
];

/// Refuses a key whose policy does not let EventBridge use it. One whose policy the
/// caller may not read is taken as it is; the sentence says what to look at.
///
/// # Errors
/// [`DeployError::Key`].
pub(super) async fn check(client: &Client, key: &str) -> Result<Option<String>, DeployError> {
    let policy = client
        .get_key_policy()
        .key_id(key)
        .policy_name("default")
        .send()
        .await;
    let document = match policy {
        Ok(policy) => policy.policy.unwrap_or_default(),
        Err(error) => {
            let why = crate::events::explain(&error);
            return Ok(Some(format!(
                "cannot read the policy of {key} ({why}); see that it lets {SERVICE} use it, or \
                 every event is lost"
            )));
        }
    };
    let lacks = lacks(&document);
    if lacks.is_empty() {
        Ok(None)
    } else {
        Err(DeployError::Key {
            key: key.to_owned(),
            service: SERVICE,
            lacks: lacks.join(" and "),
        })
    }
}

/// The actions that the policy does not allow the service.
fn lacks(document: &str) -> Vec<&'static str> {
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    let statements = listed(&document["Statement"]);
    let for_service = |statement: &&Value| {
        let principal = &statement["Principal"];
        statement["Effect"] == "Allow"
            && (principal == "*"
                || listed(&principal["AWS"]).iter().any(|who| *who == "*")
                || listed(&principal["Service"])
                    .iter()
                    .any(|who| *who == SERVICE))
    };
    let allowed: Vec<&str> = statements
        .into_iter()
        .filter(for_service)
        .flat_map(|statement| listed(&statement["Action"]))
        .filter_map(Value::as_str)
        .collect();
    let missing = NEEDS.iter().filter(|(need, by)| {
        !allowed
            .iter()
            .any(|action| action == need || by.contains(action))
    });
    missing.map(|(need, _)| *need).collect()
}

/// A list, or what stands in the place of one.
fn listed(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Null => Vec::new(),
        one => vec![one],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lacking(principal: &Value, action: &Value) -> Vec<&'static str> {
        let own = json!({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::1:root"}, "Action": "kms:*"});
        let more = json!({"Effect": "Allow", "Principal": principal, "Action": action});
        lacks(&json!({"Statement": [own, more]}).to_string())
    }

    #[test]
    fn a_key_that_only_the_account_may_use_does_not_do() {
        let nobody = json!({"Service": "logs.eu-west-1.amazonaws.com"});
        let all = ["kms:Decrypt", "kms:GenerateDataKey"];
        assert_eq!(lacking(&nobody, &json!("kms:*")), all);
        let service = json!({"Service": ["events.amazonaws.com", "x.amazonaws.com"]});
        assert_eq!(lacking(&service, &json!("kms:Decrypt")), all[1..]);
        assert_eq!(lacking(&service, &json!("kms:*")), [""; 0]);
        let both = json!(["kms:Decrypt", "kms:GenerateDataKey*"]);
        assert_eq!(lacking(&service, &both), [""; 0]);
        assert_eq!(lacking(&json!("*"), &both), [""; 0]);
        let refused = json!({"Statement": {"Effect": "Deny", "Principal": service, "Action": "*"}});
        assert_eq!(lacks(&refused.to_string()), all);
    }
}
