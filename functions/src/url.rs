//! A function URL's event and response (payload format 2.0). Decoded here and
//! not by a web framework, because a signature holds for the very bytes of the
//! body and a delivery is found by the very path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_engine::{Answer, ReportRequest, WebhookRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The event, as far as it is needed. Without `Debug`: headers hold tokens.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    raw_path: String,
    #[serde(default)]
    raw_query_string: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
    request_context: RequestContext,
}

#[derive(Deserialize)]
struct RequestContext {
    http: Http,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

/// The request in the event, its body as it was sent.
pub struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// The event says that its body is base64, and it is not.
#[derive(Debug, thiserror::Error)]
#[error("the body is not the base64 that the event says it is: {0}")]
pub struct BadBody(#[from] base64::DecodeError);

impl BadBody {
    /// The answer to such a request.
    pub fn answer(&self) -> Answer {
        tracing::warn!(error = %self, "request refused");
        Answer {
            status: 400,
            body: json!({ "error": "the body cannot be read" }),
        }
    }
}

impl TryFrom<Event> for Request {
    type Error = BadBody;

    fn try_from(event: Event) -> Result<Self, BadBody> {
        let body = event.body.unwrap_or_default();
        Ok(Self {
            method: event.request_context.http.method,
            path: event.raw_path,
            query: event.raw_query_string,
            headers: event
                .headers
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect(),
            body: if event.is_base64_encoded {
                STANDARD.decode(body)?
            } else {
                body.into_bytes()
            },
        })
    }
}

impl From<Request> for WebhookRequest {
    fn from(request: Request) -> Self {
        Self {
            method: request.method,
            path: request.path,
            query: request.query,
            headers: request.headers,
            body: request.body,
        }
    }
}

impl From<Request> for ReportRequest {
    fn from(mut request: Request) -> Self {
        Self {
            method: request.method,
            path: request.path,
            authorization: request.headers.remove("authorization"),
            body: request.body,
        }
    }
}

/// What the URL answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    status_code: u16,
    headers: BTreeMap<&'static str, &'static str>,
    body: String,
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let mut headers = BTreeMap::from([("content-type", "application/json")]);
        headers.extend(answer.retry_after().map(|seconds| ("retry-after", seconds)));
        let body = match &answer.body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        Self {
            status_code: answer.status,
            headers,
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn event(change: impl FnOnce(&mut Value)) -> Event {
        let mut event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/github/a%20b",
            "rawQueryString": "a=1&b=%20",
            "cookies": ["session=1"],
            "headers": {
                "X-Hub-Signature-256": "sha256=00",
                "authorization": "Bearer t",
                "content-type": "application/json"
            },
            "requestContext": {
                "domainName": "abc.lambda-url.eu-west-1.on.aws",
                "http": {"method": "POST", "path": "/github/a b", "protocol": "HTTP/1.1"},
                "time": "21/Nov/2026:10:00:00 +0000"
            },
            "body": "{\"a\": \"ü\"}\r\n",
            "isBase64Encoded": false
        });
        change(&mut event);
        serde_json::from_value(event).unwrap()
    }

    fn request(change: impl FnOnce(&mut Value)) -> Request {
        Request::try_from(event(change)).unwrap()
    }

    #[test]
    fn a_delivery_keeps_its_path_query_and_bytes() {
        let delivery = WebhookRequest::from(request(|_| {}));
        assert_eq!(delivery.method, "POST");
        assert_eq!(delivery.path, "/github/a%20b");
        assert_eq!(delivery.query, "a=1&b=%20");
        assert_eq!(delivery.headers["x-hub-signature-256"], "sha256=00");
        assert_eq!(delivery.body, "{\"a\": \"ü\"}\r\n".as_bytes());
    }

    #[test]
    fn a_body_in_base64_is_decoded() {
        let decoded = request(|event| {
            event["body"] = json!("AP/+");
            event["isBase64Encoded"] = json!(true);
        });
        assert_eq!(decoded.body, [0, 255, 254]);
    }

    #[test]
    fn a_body_that_is_not_the_base64_it_should_be_is_refused() {
        let event = event(|event| {
            event["body"] = json!("no base64!");
            event["isBase64Encoded"] = json!(true);
        });
        let refused = Request::try_from(event).map(|_| ()).unwrap_err();
        assert_eq!(refused.answer().status, 400);
    }

    #[test]
    fn a_report_carries_its_authorization_and_may_have_no_body() {
        let report = ReportRequest::from(request(|event| {
            event["rawPath"] = json!("/v1/runs/r/steps/s/attempts/1/envelope");
            event["requestContext"]["http"]["method"] = json!("GET");
            event.as_object_mut().unwrap().remove("body");
        }));
        assert_eq!(report.method, "GET");
        assert_eq!(report.path, "/v1/runs/r/steps/s/attempts/1/envelope");
        assert_eq!(report.authorization.as_deref(), Some("Bearer t"));
        assert!(report.body.is_empty());
    }

    #[test]
    fn an_answer_is_json_in_the_shape_that_lambda_takes() {
        let answer = Answer {
            status: 202,
            body: json!({"delivery": "d"}),
        };
        assert_eq!(
            serde_json::to_value(Response::from(answer)).unwrap(),
            json!({
                "statusCode": 202,
                "headers": {"content-type": "application/json"},
                "body": "{\"delivery\":\"d\"}"
            })
        );
    }
}
