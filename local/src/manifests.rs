//! Manifests and the files they name, kept for as long as the project's state:
//! a run goes on with the manifest it began with, whatever the project says now.

use crate::db::Db;
use crate::db_error::DbError;
use async_trait::async_trait;
use loopy_contract::ids::{ManifestHash, sha256_hex};
use loopy_contract::manifest::Manifest;
use loopy_engine::ports::{Manifests, PortError};
use rusqlite::OptionalExtension;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A manifest or one of its files could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The database would not take the manifest.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A file could not be written.
    #[error("cannot keep {path}: {why}")]
    File {
        /// Where.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The bytes are not those that the manifest names.
    #[error("the file with hash {0} has other content; compile the project again")]
    Content(String),
}

/// Manifests in the database, files in `.loopy/objects/`, by content hash.
pub struct LocalManifests {
    db: Db,
    objects: PathBuf,
    current: Arc<Manifest>,
    earlier: Mutex<BTreeMap<ManifestHash, Arc<Manifest>>>,
}

impl LocalManifests {
    /// Keeps `current` and its files (bytes by content hash), then serves it
    /// and all that were kept before. `dir` is the state directory.
    ///
    /// # Errors
    /// [`KeepError`] says what could not be kept.
    pub async fn open(
        db: Db,
        dir: &Path,
        current: Manifest,
        files: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, KeepError> {
        let objects = dir.join("objects");
        let error = |why| KeepError::File {
            path: objects.clone(),
            why,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&objects)
            .map_err(error)?;
        for (hash, bytes) in files {
            keep(&objects, hash, bytes)?;
        }
        let (hash, json) = (current.hash.clone(), current.to_json());
        db.write(move |connection| {
            connection.execute("UPDATE manifests SET current = 0 WHERE current = 1", [])?;
            connection.execute(
                "INSERT INTO manifests (hash, json, current) VALUES (?1, ?2, 1) \
                 ON CONFLICT (hash) DO UPDATE SET current = 1",
                [hash, json],
            )
        })
        .await?;
        Ok(Self {
            db,
            objects,
            current: Arc::new(current),
            earlier: Mutex::default(),
        })
    }
}

/// Writes one object, whole or not at all.
fn keep(objects: &Path, hash: &str, bytes: &[u8]) -> Result<(), KeepError> {
    if sha256_hex(bytes) != hash {
        return Err(KeepError::Content(hash.to_owned()));
    }
    let path = objects.join(hash);
    if path.exists() {
        return Ok(());
    }
    let write = || {
        let part = objects.join(format!("{hash}.{}.part", std::process::id()));
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, &path)?;
        std::fs::File::open(objects)?.sync_all()
    };
    write().map_err(|why| KeepError::File {
        path: path.clone(),
        why,
    })
}

#[async_trait]
impl Manifests for LocalManifests {
    async fn current(&self) -> Result<Arc<Manifest>, PortError> {
        Ok(Arc::clone(&self.current))
    }

    async fn get(&self, hash: &ManifestHash) -> Result<Arc<Manifest>, PortError> {
        if self.current.hash == hash.0 {
            return Ok(Arc::clone(&self.current));
        }
        let known = self
            .earlier
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(hash)
            .cloned();
        if let Some(manifest) = known {
            return Ok(manifest);
        }
        let what = || format!("read manifest {hash}");
        let key = hash.0.clone();
        let json: Option<String> = self
            .db
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT json FROM manifests WHERE hash = ?1")?
                    .query_row([key], |row| row.get(0))
                    .optional()
            })
            .await
            .map_err(|why| PortError::new(what(), why))?;
        let json = json.ok_or_else(|| PortError::new(what(), "this project never kept it"))?;
        let manifest = Manifest::from_json(json.as_bytes())
            .map(Arc::new)
            .map_err(|why| PortError::new(what(), why))?;
        self.earlier
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(hash.clone(), Arc::clone(&manifest));
        Ok(manifest)
    }

    async fn file(&self, hash: &str) -> Result<Vec<u8>, PortError> {
        let what = || format!("read the file with hash {hash}");
        // The hash becomes part of a path, so it must be one.
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PortError::new(what(), "that is not a content hash"));
        }
        let path = self.objects.join(hash);
        let bytes = tokio::task::spawn_blocking(move || std::fs::read(path))
            .await
            .map_err(|why| PortError::new(what(), why))?
            .map_err(|why| PortError::new(what(), why))?;
        if sha256_hex(&bytes) != hash {
            return Err(PortError::new(
                what(),
                "the kept file was changed; delete it",
            ));
        }
        Ok(bytes)
    }
}
