//! The function `shell`: runs the project's shell sensors, which lie beside it. It is
//! let at its log and the sensors' own secret, and at nothing of the engine.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    loopy_functions::serve_scripts().await
}
