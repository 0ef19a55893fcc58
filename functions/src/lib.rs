//! What the Lambda functions share: how they start, and how a Lambda event
//! becomes a call of the engine. Each binary names its queue or its URL, and
//! the variables it cannot do without.

pub mod batch;
mod logs;
mod runner;
mod scripts;
pub mod start;
pub mod url;

pub use scripts::serve_scripts;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use loopy_engine::message::QueueName;
use loopy_engine::{Answer, Engine, ReportRequest, WebhookRequest};
use start::Needs;
use std::sync::Arc;

/// Serves a queue, a batch an invocation, for as long as Lambda keeps the
/// process.
///
/// # Errors
/// What keeps the function from starting, or the loss of the Lambda runtime.
pub async fn serve_queue(queue: QueueName, needs: Needs) -> Result<(), Error> {
    let (engine, home) = start::begin(needs).await?;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<batch::Batch>| {
        let (engine, home) = (Arc::clone(&engine), home.clone());
        async move {
            let failures = batch::process(&engine, home.queues(), queue, event.payload).await?;
            Ok::<_, Error>(failures)
        }
    }))
    .await
}

/// Serves webhook deliveries on the function's URL.
///
/// # Errors
/// As [`serve_queue`].
pub async fn serve_webhooks(needs: Needs) -> Result<(), Error> {
    serve_url(needs, async |engine: &Engine, request: url::Request| {
        engine.webhook(WebhookRequest::from(request)).await
    })
    .await
}

/// Serves the report protocol on the function's URL.
///
/// # Errors
/// As [`serve_queue`].
pub async fn serve_reports(needs: Needs) -> Result<(), Error> {
    serve_url(needs, async |engine: &Engine, request: url::Request| {
        engine.report(ReportRequest::from(request)).await
    })
    .await
}

async fn serve_url<F>(needs: Needs, answer: F) -> Result<(), Error>
where
    F: AsyncFn(&Engine, url::Request) -> Answer + Clone,
{
    let (engine, _) = start::begin(needs).await?;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<url::Event>| {
        let (engine, answer) = (Arc::clone(&engine), answer.clone());
        async move {
            let answered = match url::Request::try_from(event.payload) {
                Ok(request) => answer(&engine, request).await,
                Err(refused) => refused.answer(),
            };
            Ok::<_, Error>(url::Response::from(answered))
        }
    }))
    .await
}
