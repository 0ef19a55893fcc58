//! The function `webhook`: verifies deliveries on its URL and queues them.

use loopy_aws::env::var;
use loopy_engine::message::QueueName;
use loopy_functions::start::{Needs, Sandboxes};

const NEEDS: Needs = Needs {
    variables: &[
        var::TABLE,
        var::ASSETS_BUCKET,
        var::MANIFEST,
        var::queue(QueueName::Deliveries),
    ],
    maybe_empty: &[var::WEBHOOK_SECRET],
    sandboxes: Sandboxes::None,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_webhooks(NEEDS).await
}
