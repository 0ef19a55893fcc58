//! The function `report`: serves the runners of attempts on its URL.

use loopy_aws::env::var;
use loopy_engine::message::QueueName;
use loopy_functions::start::{Needs, Sandboxes};

const NEEDS: Needs = Needs {
    variables: &[
        var::TABLE,
        var::STATE_BUCKET,
        var::ASSETS_BUCKET,
        var::BUS,
        var::queue(QueueName::Steps),
        var::queue(QueueName::Watch),
        var::WATCH_QUEUE_ARN,
        var::SCHEDULE_GROUP,
        var::SCHEDULE_ROLE,
        var::SCHEDULE_DLQ_ARN,
        var::WATCH_FUNCTION,
        var::TOKEN_KEY_SECRET,
    ],
    maybe_empty: &[var::SANDBOX_SECRET, var::GITHUB_SECRET],
    sandboxes: Sandboxes::None,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_reports(NEEDS).await
}
