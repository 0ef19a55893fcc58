//! Work that takes longer than one launch may wait, by name: done once for all
//! launches that wait for it, and gone on with when none of them waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// What is under way.
#[derive(Clone, Default)]
pub(super) struct Work {
    under_way: Arc<Mutex<BTreeMap<String, Outcome>>>,
}

/// What comes of one piece; nothing as long as it goes on.
type Outcome = watch::Receiver<Option<Result<(), String>>>;

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// It is done.
    Now,
    /// It goes on.
    Later,
    /// It can't be done, for this reason.
    Never(String),
}

impl Work {
    /// Whether it is under way.
    pub(super) fn goes_on(&self, name: &str) -> bool {
        self.under_way().contains_key(name)
    }

    /// Begins `make` unless the work of this name is under way, and waits so long for
    /// its end.
    pub(super) async fn done(
        &self,
        name: &str,
        patience: Duration,
        make: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Ready {
        let mut outcome = self.begin(name, make);
        let over = timeout(patience, outcome.wait_for(Option::is_some)).await;
        let result = match over {
            Err(_) => return Ready::Later,
            Ok(Ok(result)) => result.clone(),
            Ok(Err(_)) => Some(Err("the work on it was broken off".to_owned())),
        };
        self.forget(name);
        match result {
            Some(Err(why)) => Ready::Never(why),
            _ => Ready::Now,
        }
    }

    fn begin(
        &self,
        name: &str,
        make: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Outcome {
        let mut under_way = self.under_way();
        if let Some(outcome) = under_way.get(name) {
            return outcome.clone();
        }
        let (done, outcome) = watch::channel(None);
        under_way.insert(name.to_owned(), outcome.clone());
        tokio::spawn(async move {
            let made = make.await;
            done.send_replace(Some(made));
        });
        outcome
    }

    fn forget(&self, name: &str) {
        let mut under_way = self.under_way();
        let over = |outcome: &Outcome| outcome.borrow().is_some() || outcome.has_changed().is_err();
        // Not one that was begun anew meanwhile.
        if under_way.get(name).is_some_and(over) {
            under_way.remove(name);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<String, Outcome>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
