//! The function `sensor`: turns deliveries and poll ticks into events.

use loopy_aws::env::var;
use loopy_engine::message::QueueName;
use loopy_functions::start::{Needs, Sandboxes};

const NEEDS: Needs = Needs {
    variables: &[
        var::TABLE,
        var::STATE_BUCKET,
        var::ASSETS_BUCKET,
        var::MANIFEST,
        var::BUS,
        var::queue(QueueName::Deliveries),
        var::dead_letter_queue(QueueName::Deliveries),
    ],
    maybe_empty: &[
        var::SENSOR_PYTHON,
        var::SENSOR_TYPESCRIPT,
        var::SENSOR_SHELL,
    ],
    sandboxes: Sandboxes::None,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_queue(QueueName::Deliveries, NEEDS).await
}
