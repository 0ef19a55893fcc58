//! Whether a stack works: each function is called with nothing to do. One that
//! cannot start, lacks a variable or a permission to read its manifest shows here and
//! not at the first delivery. A call that does not come about says nothing of the
//! function.

use super::{DeployError, Deployment, outputs};
use crate::events::{Progress, explain};
use crate::stack::{FUNCTIONS, capitalised};
use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use loopy_aws::endpoint::function_url;
use std::time::{Duration, Instant};

/// The functions with addresses: the output with it, and what a request for nothing
/// is answered. A webhook at `/` takes no such request.
const PUBLIC: [(&str, &str, &[u16]); 2] = [
    ("webhook", "WebhookUrl", &[404, 405]),
    ("report", "ReportUrl", &[404]),
];

/// How long a new address may take until it is known, and an account to have a place
/// for a call.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);

/// Lambda's words for a function that cannot be run as it is, whoever calls it.
const BROKEN: [&str; 8] = [
    "EC2",
    "EFS",
    "ENI",
    "InvalidRuntime",
    "InvalidZipFile",
    "KMS",
    "ResourceNotFound",
    "SubnetIP",
];

/// Lambda's words for a call that is to come again later.
const LATER: [&str; 4] = [
    "TooManyRequests",
    "ResourceConflict",
    "ResourceNotReady",
    "ServiceException",
];

/// What a look at a function found: what is wrong with it, or nothing; or why it could
/// not be looked at.
type Look = Result<Option<String>, String>;

impl Deployment {
    /// What does not work, a sentence each; empty when all does.
    ///
    /// # Errors
    /// [`DeployError`] when that cannot be found out.
    pub async fn unhealthy(
        &self,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<String>, DeployError> {
        let described = self
            .describe()
            .await?
            .ok_or_else(|| DeployError::NoStack(self.stack.clone()))?;
        let outputs = outputs(&described);
        let mut problems = Vec::new();
        let http = reqwest::Client::builder()
            .timeout(ANSWER)
            .build()
            .map_err(|error| DeployError::Account(error.to_string()))?;
        for name in FUNCTIONS {
            let public = PUBLIC.iter().find(|(function, ..)| *function == name);
            let look = match public {
                Some((_, output, expected)) => {
                    let url = outputs.get(*output).cloned().unwrap_or_default();
                    let url = function_url(&url, self.endpoint.as_deref());
                    answers(&http, &url, expected, PATIENCE).await
                }
                None => {
                    let function = self.function(name).await?;
                    takes_nothing(&self.lambda, &function, PATIENCE).await
                }
            };
            let problem = look.map_err(|why| DeployError::Check {
                function: name.to_owned(),
                why,
            })?;
            problems.extend(problem.map(|problem| format!("function {name}: {problem}")));
        }
        if problems.is_empty() {
            progress(Progress::Healthy {
                functions: FUNCTIONS.len(),
            });
        }
        Ok(problems)
    }

    /// The account's name of a function.
    async fn function(&self, function: &str) -> Result<String, DeployError> {
        let logical_id = format!("{}Function", capitalised(function));
        let found = self
            .client
            .describe_stack_resource()
            .stack_name(&self.stack)
            .logical_resource_id(&logical_id)
            .send()
            .await
            .map_err(|error| DeployError::service(format!("find {logical_id}"), &error))?;
        let detail = found.stack_resource_detail;
        Ok(detail
            .and_then(|detail| detail.physical_resource_id)
            .unwrap_or_default())
    }
}

/// Hands a function of a queue an empty batch.
async fn takes_nothing(lambda: &Client, function: &str, patience: Duration) -> Look {
    let began = Instant::now();
    loop {
        let answer = lambda
            .invoke()
            .function_name(function)
            .payload(Blob::new(br#"{"Records":[]}"#.to_vec()))
            .send()
            .await;
        let error = match answer {
            Ok(answer) => {
                let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
                let payload = String::from_utf8_lossy(&payload).into_owned();
                let right =
                    answer.function_error.is_none() && payload.contains("batchItemFailures");
                let wrong = format!("it answered an empty batch with {payload:.300}");
                return Ok((!right).then_some(wrong));
            }
            Err(error) => error,
        };
        let code = error.as_service_error().and_then(|error| error.code());
        let code = code.unwrap_or_default();
        let says = |words: &[&str]| words.iter().any(|word| code.starts_with(word));
        let why = format!("it cannot be called: {}", explain(&error));
        if says(&BROKEN) {
            return Ok(Some(why));
        }
        if !says(&LATER) || began.elapsed() > patience {
            return Err(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks for nothing at an address until the answer is the function's own.
async fn answers(http: &reqwest::Client, url: &str, expected: &[u16], patience: Duration) -> Look {
    let began = Instant::now();
    loop {
        // A function that cannot start will not start in a minute either.
        let (look, broken) = match http.get(url).send().await {
            Ok(answer) if expected.contains(&answer.status().as_u16()) => return Ok(None),
            Ok(answer) => {
                let status = answer.status();
                let problem = format!("{url} answers {status}");
                let look = if status == reqwest::StatusCode::TOO_MANY_REQUESTS {
                    Err(problem)
                } else {
                    Ok(Some(problem))
                };
                (look, status.is_server_error())
            }
            Err(error) => {
                let why = format!("{url} does not answer: {error}");
                // What was reached and stays silent is the function.
                let look = if error.is_connect() {
                    Err(why)
                } else {
                    Ok(Some(why))
                };
                (look, false)
            }
        };
        if began.elapsed() > patience || (broken && began.elapsed() > 4 * PAUSE) {
            return look;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use aws_sdk_lambda::config::retry::RetryConfig;
    use aws_sdk_lambda::config::{Builder, Credentials};
    use loopy_aws::Connection;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    const SHORT: Duration = Duration::from_millis(1200);

    /// Serves these answers one after the other, the last of them for ever.
    fn serve(answers: &[(u16, &'static str, &'static str)]) -> String {
        let answers = answers.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut left = answers.iter().peekable();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                let (status, code, body) = *left.peek().unwrap();
                if left.len() > 1 {
                    left.next();
                }
                let header = match *code {
                    "" => String::new(),
                    code => format!("x-amzn-errortype: {code}\r\n"),
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        url
    }

    async fn called(answers: &[(u16, &'static str, &'static str)]) -> Look {
        let connection = Connection {
            region: Some("eu-west-1".to_owned()),
            endpoint_url: Some(serve(answers)),
            ..Connection::default()
        };
        let config = Builder::from(&connection.resolve().await.unwrap())
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .build();
        takes_nothing(&Client::from_conf(config), "f", SHORT).await
    }

    const FULL: (u16, &str, &str) = (429, "TooManyRequestsException", "{}");
    const RIGHT: (u16, &str, &str) = (200, "", r#"{"batchItemFailures":[]}"#);

    #[tokio::test]
    async fn an_account_without_a_place_for_a_call_does_not_make_a_version_broken() {
        assert_eq!(called(&[FULL, FULL, RIGHT]).await, Ok(None));
        let full = called(&[FULL]).await.unwrap_err();
        assert!(full.contains("TooManyRequests"), "{full}");
        let denied = (403, "AccessDeniedException", r#"{"message":"no"}"#);
        assert!(called(&[denied]).await.is_err());
        // What says of the function itself that it cannot run does.
        let key = (502, "KMSAccessDeniedException", "{}");
        assert!(called(&[key]).await.unwrap().is_some());
        let wrong = (200, "", "null");
        assert!(called(&[wrong]).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_webhook_at_the_root_is_no_broken_version() {
        let http = reqwest::Client::new();
        let [(_, _, webhook), (_, _, report)] = PUBLIC;
        let at_root = [(405, "", "")];
        let ask = async |answers: &[(u16, &'static str, &'static str)], expected: &[u16]| {
            super::answers(&http, &serve(answers), expected, SHORT).await
        };
        assert_eq!(ask(&at_root, webhook).await, Ok(None));
        assert!(ask(&at_root, report).await.unwrap().is_some());
        assert_eq!(
            ask(&[(429, "", ""), (404, "", "")], webhook).await,
            Ok(None)
        );
        assert!(ask(&[(429, "", "")], webhook).await.is_err());
        assert!(ask(&[(502, "", "")], webhook).await.unwrap().is_some());
        // Nobody listens there.
        let nobody = super::answers(&http, "http://127.0.0.1:1/", webhook, SHORT).await;
        assert!(nobody.is_err(), "{nobody:?}");
    }
}
