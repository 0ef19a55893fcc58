//! Which delivery this is, so that one that is sent again is known. Each provider
//! has its own way of saying so; what is signed is preferred over what is not.

use super::WebhookRequest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use loopy_contract::ids::derive;
use loopy_contract::manifest::VerifyScheme;
use serde_json::Value;

/// The headers in which a sender that signs nothing may name its delivery.
const OPEN_HEADERS: [&str; 3] = ["idempotency-key", "webhook-id", "x-github-delivery"];

/// The longest id that is taken from a sender, in bytes.
const MAX_ID: usize = 200;

/// The id that one delivery has however often it is sent.
///
/// Without an id of the sender's, the body stands for the delivery. Only a sender
/// that signs nothing may mean the same body anew each time: there, each request is
/// a delivery of its own.
pub(super) fn delivery_id(
    scheme: VerifyScheme,
    request: &WebhookRequest,
    now: Timestamp,
) -> String {
    let header = |name: &str| {
        let value = request.headers.get(name)?;
        (!value.is_empty() && value.len() <= MAX_ID).then(|| value.clone())
    };
    let given = match scheme {
        VerifyScheme::Github => header("x-github-delivery"),
        VerifyScheme::Standard => header("webhook-id"),
        // Sent again, these differ in parts that do not matter.
        VerifyScheme::Stripe => in_body(&request.body, "/id"),
        VerifyScheme::Slack => in_body(&request.body, "/event_id"),
        VerifyScheme::Pagerduty => in_body(&request.body, "/event/id"),
        VerifyScheme::Linear | VerifyScheme::Sentry => None,
        VerifyScheme::None => OPEN_HEADERS.into_iter().find_map(header),
    };
    if let Some(id) = given {
        return derive(&["delivery", &request.path, &id], 32);
    }
    let more = match scheme {
        // Two deliveries of Sentry may be alike but for this.
        VerifyScheme::Sentry => header("request-id").unwrap_or_default(),
        VerifyScheme::None => now.to_string(),
        _ => String::new(),
    };
    let timeless = (scheme == VerifyScheme::Linear).then(|| without_time(&request.body));
    let body = STANDARD.encode(timeless.flatten().as_ref().unwrap_or(&request.body));
    derive(
        &["delivery-body", &request.path, &request.query, &more, &body],
        32,
    )
}

/// A body of Linear's without the time at which it was sent, the one part that differs
/// when it is sent again. `Linear-Delivery` is not signed; what happened, to what and
/// when (`createdAt`) is.
fn without_time(body: &[u8]) -> Option<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    body.as_object_mut()?.remove("webhookTimestamp")?;
    Some(body.to_string().into_bytes())
}

/// A text in a JSON body.
fn in_body(body: &[u8], pointer: &str) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let id = body.pointer(pointer)?.as_str()?;
    (!id.is_empty() && id.len() <= MAX_ID).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn id(scheme: VerifyScheme, headers: &[(&str, &str)], body: &str, second: i64) -> String {
        let headers: BTreeMap<String, String> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let request = WebhookRequest {
            method: "POST".to_owned(),
            path: "/hooks/x".to_owned(),
            query: String::new(),
            headers,
            body: body.as_bytes().to_vec(),
        };
        let now = Timestamp::from_second(second).unwrap_or(Timestamp::MIN);
        delivery_id(scheme, &request, now)
    }

    #[test]
    fn a_delivery_sent_again_has_the_same_id_and_another_one_has_not() {
        type Sent<'a> = (&'a [(&'a str, &'a str)], &'a str);
        let cases: [(VerifyScheme, Sent<'_>, Sent<'_>, Sent<'_>); 6] = [
            (
                VerifyScheme::Github,
                (&[("x-github-delivery", "a")], "{}"),
                (&[("x-github-delivery", "a")], "{}"),
                (&[("x-github-delivery", "b")], "{}"),
            ),
            (
                VerifyScheme::Standard,
                (&[("webhook-id", "a")], "{}"),
                (&[("webhook-id", "a"), ("webhook-timestamp", "2")], "{}"),
                (&[("webhook-id", "b")], "{}"),
            ),
            (
                VerifyScheme::Linear,
                (
                    &[("linear-delivery", "a")],
                    r#"{"createdAt":"1","webhookTimestamp":1}"#,
                ),
                // Whoever repeats signed bytes may write what they like into the header.
                (
                    &[("linear-delivery", "b")],
                    r#"{"createdAt":"1","webhookTimestamp":2}"#,
                ),
                (
                    &[("linear-delivery", "a")],
                    r#"{"createdAt":"2","webhookTimestamp":1}"#,
                ),
            ),
            (
                VerifyScheme::Stripe,
                (&[], r#"{"id":"evt_1","pending_webhooks":2}"#),
                (&[], r#"{"id":"evt_1","pending_webhooks":1}"#),
                (&[], r#"{"id":"evt_2","pending_webhooks":2}"#),
            ),
            (
                VerifyScheme::Slack,
                (&[], "command=%2Fdeploy&trigger_id=1"),
                (
                    &[("x-slack-retry-num", "1")],
                    "command=%2Fdeploy&trigger_id=1",
                ),
                (&[], "command=%2Fdeploy&trigger_id=2"),
            ),
            (
                VerifyScheme::Sentry,
                (&[("request-id", "a")], "{}"),
                (&[("request-id", "a")], "{}"),
                (&[("request-id", "b")], "{}"),
            ),
        ];
        for (scheme, first, again, other) in cases {
            let of = |sent: Sent<'_>, at| id(scheme, sent.0, sent.1, at);
            assert_eq!(of(first, 1), of(again, 9), "{scheme:?}");
            assert_ne!(of(first, 1), of(other, 1), "{scheme:?}");
        }
    }

    #[test]
    fn a_sender_without_ids_may_say_the_same_twice() {
        let none = VerifyScheme::None;
        assert_ne!(id(none, &[], "{}", 1), id(none, &[], "{}", 2));
        let named = [("idempotency-key", "a")];
        assert_eq!(id(none, &named, "{}", 1), id(none, &named, "[]", 2));
    }
}
