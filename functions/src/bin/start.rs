//! The function `start`: makes runs of events and cron ticks.

use loopy_aws::env::var;
use loopy_engine::message::QueueName;
use loopy_functions::start::{Needs, Sandboxes};

const NEEDS: Needs = Needs {
    variables: &[
        var::TABLE,
        var::STATE_BUCKET,
        var::ASSETS_BUCKET,
        var::MANIFEST,
        var::queue(QueueName::Events),
        var::queue(QueueName::Steps),
        var::queue(QueueName::Watch),
        var::dead_letter_queue(QueueName::Events),
        var::WATCH_QUEUE_ARN,
        var::SCHEDULE_GROUP,
        var::SCHEDULE_ROLE,
        var::SCHEDULE_DLQ_ARN,
    ],
    maybe_empty: &[],
    sandboxes: Sandboxes::None,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_queue(QueueName::Events, NEEDS).await
}
