//! Which sensors cannot be loaded: kept by manifest, so that a delivery which only they
//! wait for is refused before it is accepted. It is told by whoever tried; a note that
//! nobody repeats lapses, so that a trouble which passed keeps nothing out for good.

use super::Engine;
use crate::ports::{Document, PortError, Store};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long a note holds when nobody repeats it.
pub const LAPSES: SignedDuration = SignedDuration::from_mins(5);

/// How long the document is kept, with a manifest that is in use no more.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);

/// How much of a reason is kept, in characters: every delivery reads all of them.
const SHOWN: usize = 500;

/// How often a write is tried over, when others write at the same time.
const TRIES: usize = 8;

/// That a sensor could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unloadable {
    /// Why not.
    pub reason: String,
    /// When that was last seen.
    pub at: Timestamp,
}

impl Unloadable {
    /// Whether it has not lapsed yet.
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) < LAPSES
    }
}

/// The sensors of a manifest that could not be loaded, by name.
pub type Unloadables = BTreeMap<String, Unloadable>;

fn key(manifest: &Manifest) -> String {
    format!("unloadable/{}", manifest.hash)
}

async fn read(
    store: &dyn Store,
    manifest: &Manifest,
) -> Result<(Unloadables, Option<u64>), PortError> {
    let Some(Document { text, version }) = store.document(&key(manifest)).await? else {
        return Ok((Unloadables::new(), None));
    };
    let found = serde_json::from_str(&text)
        .map_err(|why| PortError::new("read which sensors cannot be loaded", why))?;
    Ok((found, Some(version)))
}

/// The sensors of a manifest that could not be loaded when that was last tried, those
/// included whose note has lapsed.
///
/// # Errors
/// When the store cannot be read.
pub async fn unloadable(store: &dyn Store, manifest: &Manifest) -> Result<Unloadables, PortError> {
    Ok(read(store, manifest).await?.0)
}

/// Keeps what a load of all sensors found: those that cannot be loaded, with why.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn keep_unloadable(
    store: &dyn Store,
    manifest: &Manifest,
    found: &BTreeMap<String, String>,
    now: Timestamp,
) -> Result<(), PortError> {
    change(store, manifest, now, |kept| {
        *kept = found
            .iter()
            .map(|(sensor, reason)| (sensor.clone(), note(reason, now)))
            .collect();
    })
    .await
}

fn note(reason: &str, at: Timestamp) -> Unloadable {
    Unloadable {
        reason: shortened(reason),
        at,
    }
}

/// The beginning and the end of a reason, where a trace says what went wrong.
fn shortened(reason: &str) -> String {
    let count = reason.chars().count();
    if count <= SHOWN {
        return reason.to_owned();
    }
    let beginning: String = reason.chars().take(SHOWN / 2).collect();
    let end: String = reason.chars().skip(count - SHOWN / 2).collect();
    format!("{beginning} … {end}")
}

async fn change(
    store: &dyn Store,
    manifest: &Manifest,
    now: Timestamp,
    change: impl Fn(&mut Unloadables),
) -> Result<(), PortError> {
    let what = "keep which sensors cannot be loaded";
    for _ in 0..TRIES {
        let (before, version) = read(store, manifest).await?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let text = serde_json::to_string(&after).map_err(|why| PortError::new(what, why))?;
        let expires = now.checked_add(KEPT).unwrap_or(Timestamp::MAX);
        let expected = Some(version.unwrap_or_default());
        if store
            .write_document(&key(manifest), &text, expected, expires)
            .await?
        {
            return Ok(());
        }
    }
    Err(PortError::new(what, "others keep writing it"))
}

impl Engine {
    /// Loads the code of all sensors of the current manifest without calling one. Gives
    /// those that cannot be loaded, with why, and keeps that.
    ///
    /// # Errors
    /// When the code cannot be reached, or the store.
    pub async fn load_sensors(&self) -> Result<BTreeMap<String, String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let found = self.ports.sensor_code.load(&manifest).await?;
        let now = self.ports.clock.now();
        keep_unloadable(&*self.ports.store, &manifest, &found, now).await?;
        Ok(found)
    }

    /// Notes that a sensor was loaded. What became of its events matters more than the
    /// note, which lapses anyway.
    pub(super) async fn loads(&self, manifest: &Manifest, sensor: &str) {
        self.note(manifest, sensor, None).await;
    }

    /// Notes that a sensor cannot be loaded.
    pub(super) async fn does_not_load(&self, manifest: &Manifest, sensor: &str, reason: &str) {
        let now = self.ports.clock.now();
        self.note(manifest, sensor, Some(note(reason, now))).await;
    }

    async fn note(&self, manifest: &Manifest, sensor: &str, note: Option<Unloadable>) {
        let noted = change(
            &*self.ports.store,
            manifest,
            self.ports.clock.now(),
            |kept| {
                match &note {
                    Some(note) => kept.insert(sensor.to_owned(), note.clone()),
                    None => kept.remove(sensor),
                };
            },
        );
        if let Err(error) = noted.await {
            tracing::warn!(sensor, %error, "whether a sensor can be loaded is not kept");
        }
    }
}
