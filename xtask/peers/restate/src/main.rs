//! The work that `cargo xtask bench peers` measures, as a Restate service: a run of
//! chained steps that do nothing, each durable before the next begins. The only
//! argument is the number of steps. Prints the address it serves at, and ends when
//! its standard input does.

use restate_sdk::prelude::*;
use std::error::Error;
use std::io::Write;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// The service `Chain`.
struct Chain {
    steps: usize,
}

#[service]
impl Chain {
    /// One run. `run` answers when the server has the step's result on disk.
    #[handler]
    async fn run(&self, context: Context<'_>) -> HandlerResult<()> {
        for _ in 0..self.steps {
            context
                .run(|| async { Ok::<_, HandlerError>(()) })
                .name("step")
                .await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let steps = std::env::args()
        .nth(1)
        .ok_or("name the number of steps")?
        .parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?)?;
    stdout.flush()?;
    let endpoint = Endpoint::builder().bind(Chain { steps }).build();
    HttpServer::new(endpoint)
        .serve_with_cancel(listener, async {
            let mut rest = Vec::new();
            // However it ends, whoever started us is gone.
            let _ended = tokio::io::stdin().read_to_end(&mut rest).await;
        })
        .await;
    Ok(())
}
