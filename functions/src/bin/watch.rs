//! The function `watch`: ends attempts whose time is over, stops sandboxes.

use loopy_aws::env::var;
use loopy_engine::message::QueueName;
use loopy_functions::start::{Needs, Sandboxes};

const NEEDS: Needs = Needs {
    variables: &[
        var::TABLE,
        var::ASSETS_BUCKET,
        var::BUS,
        var::queue(QueueName::Steps),
        var::queue(QueueName::Watch),
        var::dead_letter_queue(QueueName::Watch),
        var::SCHEDULE_GROUP,
    ],
    maybe_empty: &[var::ENGINE_SECRET],
    sandboxes: Sandboxes::Stop,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_queue(QueueName::Watch, NEEDS).await
}
