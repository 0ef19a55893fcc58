//! Serves the project's shell sensors: a script for each request of the function
//! `sensor`.

use crate::logs;
use crate::start::StartError;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use loopy_aws::Home;
use loopy_aws::home::HomeError;
use loopy_engine::sensor_host::{HostRequest, MEMORY_LIMIT};
use loopy_sensors::shell::Scripts;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Where Lambda unpacks a function.
const TASK_ROOT: &str = "LAMBDA_TASK_ROOT";

/// Serves scripts for as long as Lambda keeps the process.
///
/// # Errors
/// What keeps the function from starting, or the loss of the Lambda runtime.
pub async fn serve_scripts() -> Result<(), Error> {
    logs::begin();
    let home = Home::of_process().await.inspect_err(|error: &HomeError| {
        tracing::error!(%error, "the function cannot start");
    });
    let secrets = Arc::new(home.map_err(StartError::from)?.secrets());
    let project = std::env::var_os(TASK_ROOT).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let search_path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    lambda_runtime::run(service_fn(move |event: LambdaEvent<HostRequest>| {
        let (secrets, project) = (Arc::clone(&secrets), project.clone());
        let search_path = search_path.clone();
        async move {
            let scripts = Scripts {
                project,
                search_path,
                environment: secrets.sensor_env().await?,
                memory_limit: MEMORY_LIMIT,
            };
            Ok::<_, Error>(scripts.answer(&event.payload).await)
        }
    }))
    .await
}
