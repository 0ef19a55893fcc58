//! The function `step`: takes a step's turn and launches its sandbox.

use loopy_aws::env::var;
use loopy_engine::message::QueueName;
use loopy_functions::start::{Needs, Sandboxes};

const NEEDS: Needs = Needs {
    variables: &[
        var::TABLE,
        var::STATE_BUCKET,
        var::ASSETS_BUCKET,
        var::RUNNER,
        var::BUS,
        var::queue(QueueName::Steps),
        var::queue(QueueName::Watch),
        var::dead_letter_queue(QueueName::Steps),
        var::WATCH_QUEUE_ARN,
        var::SCHEDULE_GROUP,
        var::SCHEDULE_ROLE,
        var::SCHEDULE_DLQ_ARN,
        var::TOKEN_KEY_SECRET,
    ],
    maybe_empty: &[var::ENGINE_SECRET, var::FARGATE],
    sandboxes: Sandboxes::Launch,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_queue(QueueName::Steps, NEEDS).await
}
