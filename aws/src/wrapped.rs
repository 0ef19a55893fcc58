//! What AWS puts around a message when a service of its own gives it up: EventBridge
//! leaves the whole event in a rule's dead-letter queue, whatever of it the rule would
//! have handed on, and Lambda a record of the call that failed. Inside lies what the
//! queue would have been sent.
//!
//! EventBridge: "Using dead-letter queues to process undelivered events" in its guide.
//! Lambda: "Capturing records of Lambda asynchronous invocations" in its guide.

use crate::queues::sendable;
use serde::Deserialize;
use serde_json::Value;

/// An event as EventBridge holds it.
#[derive(Deserialize)]
struct Envelope {
    source: String,
    #[serde(rename = "detail-type")]
    _kind: String,
    detail: Value,
}

/// A record of a call that failed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    request_context: Context,
    request_payload: Payload,
    #[serde(default)]
    response_payload: Response,
}

#[derive(Deserialize)]
struct Context {
    condition: String,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "Records")]
    records: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    body: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Response {
    error_message: Option<String>,
}

/// What lay inside, and why it was given up as far as the wrapping says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unwrapped {
    /// Each message as the queue would have had it.
    pub(crate) bodies: Vec<String>,
    /// In the service's words.
    pub(crate) reason: Option<String>,
}

/// Takes the wrapping off; `None` when there is none.
pub(crate) fn unwrapped(body: &str) -> Option<Unwrapped> {
    if let Ok(envelope) = serde_json::from_str::<Envelope>(body) {
        let ours = envelope.source == crate::bus::SOURCE;
        return ours.then(|| Unwrapped {
            bodies: vec![sendable(envelope.detail.to_string())],
            reason: None,
        });
    }
    let call: Call = serde_json::from_str(body).ok()?;
    let condition = call.request_context.condition;
    let why = call.response_payload.error_message;
    Some(Unwrapped {
        bodies: call
            .request_payload
            .records
            .into_iter()
            .map(|it| it.body)
            .collect(),
        reason: Some(match why {
            Some(why) => format!("{condition}: {why}"),
            None => condition,
        }),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_event_that_a_rule_could_not_deliver_is_its_detail() {
        let body = r#"{"version":"0","id":"7","detail-type":"Go","source":"loopy","account":"1",
            "time":"2026-01-01T00:00:00Z","region":"x","resources":[],
            "detail":{"v":1,"kind":"event","n":1.5}}"#;
        let found = unwrapped(body).unwrap();
        assert_eq!(found.bodies, [r#"{"kind":"event","n":1.5,"v":1}"#]);
        assert_eq!(found.reason, None);
    }

    #[test]
    fn a_call_that_lambda_gave_up_is_its_messages() {
        let body = r#"{"version":"1.0","timestamp":"2026-01-01T00:00:00Z",
            "requestContext":{"requestId":"1","functionArn":"f","condition":"RetriesExhausted",
            "approximateInvokeCount":3},
            "requestPayload":{"Records":[{"messageId":"a","body":"{\"kind\":\"wake\"}"}]},
            "responseContext":{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},
            "responsePayload":{"errorMessage":"it timed out"}}"#;
        let found = unwrapped(body).unwrap();
        assert_eq!(found.bodies, [r#"{"kind":"wake"}"#]);
        assert_eq!(found.reason.unwrap(), "RetriesExhausted: it timed out");
    }

    #[test]
    fn a_message_of_ours_and_words_of_others_have_no_wrapping() {
        for body in [
            r#"{"v":1,"kind":"wake","run":"r"}"#,
            r#"{"source":"aws.ecs","detail-type":"ECS Task State Change","detail":{}}"#,
            "no JSON",
        ] {
            assert_eq!(unwrapped(body), None, "{body}");
        }
    }
}
