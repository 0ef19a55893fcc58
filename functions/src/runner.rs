//! The runner's binary, which a launch puts into a sandbox.

use async_trait::async_trait;
use bytes::Bytes;
use loopy_aws::Home;
use loopy_aws::env::var;
use loopy_engine::ports::PortError;
use loopy_sandbox::daytona::RunnerBinary;
use tokio::sync::OnceCell;

/// The binary in the assets bucket, read at the first launch and then kept.
pub(crate) struct AssetsRunner {
    home: Home,
    kept: OnceCell<Bytes>,
}

impl AssetsRunner {
    /// The binary that the environment of `home` names.
    pub(crate) fn new(home: Home) -> Self {
        Self {
            home,
            kept: OnceCell::new(),
        }
    }
}

#[async_trait]
impl RunnerBinary for AssetsRunner {
    async fn bytes(&self) -> Result<Bytes, PortError> {
        let read = async || {
            let hash = self.home.environment().required(var::RUNNER)?;
            self.home.assets().by_hash("runner", hash).await
        };
        self.kept.get_or_try_init(read).await.cloned()
    }
}
