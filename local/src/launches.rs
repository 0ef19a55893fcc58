//! Sandboxes, of which only so many are launched or stopped at a time: each takes
//! a process of this machine, or a call to a service that counts calls.

use async_trait::async_trait;
use loopy_engine::ports::{Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many at a time.
const AT_A_TIME: usize = 32;

/// Providers that are not asked for too much at once.
pub(crate) struct Launches<S> {
    providers: S,
    places: Semaphore,
}

impl<S> Launches<S> {
    pub(crate) fn new(providers: S) -> Self {
        Self {
            providers,
            places: Semaphore::new(AT_A_TIME),
        }
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, PortError> {
        let place = self.places.acquire().await;
        place.map_err(|why| PortError::new("wait for other launches", why))
    }
}

#[async_trait]
impl<S: Sandboxes> Sandboxes for Launches<S> {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let _place = self.place().await?;
        self.providers.launch(spec).await
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        let _place = self.place().await?;
        self.providers.stop(sandbox).await
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        self.providers.state(sandbox).await
    }
}
