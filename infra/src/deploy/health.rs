//! Whether a stack works: each function is called with nothing to do. One that
//! cannot start, lacks a variable or a permission to read its manifest shows here and
//! not at the first delivery.

use super::{DeployError, Deployment, outputs};
use crate::events::{Progress, explain};
use crate::stack::{FUNCTIONS, capitalised};
use aws_sdk_lambda::primitives::Blob;
use loopy_aws::endpoint::function_url;
use std::time::{Duration, Instant};

/// The functions with addresses: the output with it, and what a request for nothing
/// is answered.
const PUBLIC: [(&str, &str, u16); 2] =
    [("webhook", "WebhookUrl", 404), ("report", "ReportUrl", 404)];

/// How long a new address may take until it is known.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);

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
            let problem = match public {
                Some((_, output, expected)) => {
                    let url = outputs.get(*output).cloned().unwrap_or_default();
                    let url = function_url(&url, self.endpoint.as_deref());
                    answers(&http, &url, *expected).await
                }
                None => self.takes_nothing(name).await?,
            };
            problems.extend(problem.map(|problem| format!("function {name}: {problem}")));
        }
        if problems.is_empty() {
            progress(Progress::Healthy {
                functions: FUNCTIONS.len(),
            });
        }
        Ok(problems)
    }

    /// Hands a function of a queue an empty batch.
    async fn takes_nothing(&self, function: &str) -> Result<Option<String>, DeployError> {
        let logical_id = format!("{}Function", capitalised(function));
        let name = self
            .client
            .describe_stack_resource()
            .stack_name(&self.stack)
            .logical_resource_id(&logical_id)
            .send()
            .await
            .map_err(|error| DeployError::service(format!("find {logical_id}"), &error))?
            .stack_resource_detail
            .and_then(|detail| detail.physical_resource_id)
            .unwrap_or_default();
        let answer = self
            .lambda
            .invoke()
            .function_name(&name)
            .payload(Blob::new(br#"{"Records":[]}"#.to_vec()))
            .send()
            .await;
        Ok(match answer {
            Err(error) => Some(format!("it cannot be called: {}", explain(&error))),
            Ok(answer) => {
                let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
                let payload = String::from_utf8_lossy(&payload).into_owned();
                let right =
                    answer.function_error.is_none() && payload.contains("batchItemFailures");
                (!right).then(|| format!("it answered an empty batch with {payload:.300}"))
            }
        })
    }
}

/// Asks for nothing at an address until the answer is the function's own.
async fn answers(http: &reqwest::Client, url: &str, expected: u16) -> Option<String> {
    let began = Instant::now();
    loop {
        // A function that cannot start will not start in a minute either.
        let (problem, broken) = match http.get(url).send().await {
            Ok(answer) if answer.status().as_u16() == expected => return None,
            Ok(answer) => {
                let status = answer.status();
                (format!("{url} answers {status}"), status.is_server_error())
            }
            Err(error) => (format!("{url} does not answer: {error}"), false),
        };
        if began.elapsed() > PATIENCE || (broken && began.elapsed() > 4 * PAUSE) {
            return Some(problem);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
