//! The home behind HTTP, as a process of its own: a request starts a run and is
//! answered when the run is over, so that a peer that works like this can be
//! measured in the same way.

use super::failed;
use super::serving::{Reports, STEPS, Serving};
use crate::error::Error;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// For whoever is measured beside it.
pub(crate) const STEPS_OF_A_RUN: usize = STEPS;

/// Serves from `folder`, with reports `over_http` or called, until standard input ends; prints the address.
///
/// # Errors
/// When the home cannot be opened, or nothing listened at.
pub(crate) fn serve(folder: &Path, over_http: bool) -> Result<(), Error> {
    let reports = if over_http {
        Reports::OverHttp
    } else {
        Reports::Called
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| failed("start a runtime", why))?;
    runtime.block_on(async {
        let serving = Arc::new(Serving::start_with(folder, reports).await?);
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|why| failed("listen", why))?;
        let address = listener.local_addr().map_err(|why| failed("listen", why))?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{address}")
            .and_then(|()| stdout.flush())
            .map_err(|why| failed("print the address", why))?;
        let router = Router::new()
            .route("/Chain/run", post(run))
            .with_state(serving);
        tokio::select! {
            ended = axum::serve(listener, router) => ended.map_err(|why| failed("serve", why)),
            () = stdin_ends() => Ok(()),
        }
    })
}

async fn run(State(serving): State<Arc<Serving>>) -> StatusCode {
    match serving.one().await {
        Ok(_) => StatusCode::OK,
        Err(error) => {
            eprintln!("error: {error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

async fn stdin_ends() {
    let mut rest = Vec::new();
    // However it ends, whoever started us is gone.
    let _ended = tokio::io::stdin().read_to_end(&mut rest).await;
}
