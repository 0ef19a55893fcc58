//! Transcripts of attempts as files: `transcripts/<run>/<step>-<attempt>.jsonl`
//! below the state directory. They are for people, so they are not synced.

use async_trait::async_trait;
use loopy_contract::ids::RunId;
use loopy_engine::ports::{PortError, Transcripts};
use loopy_engine::transcript::TranscriptOf;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder below the state directory.
const FOLDER: &str = "transcripts";

/// The transcripts below one state directory.
#[derive(Clone, Debug)]
pub struct FileTranscripts {
    folder: PathBuf,
}

impl FileTranscripts {
    /// Those below `dir`, the state directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            folder: dir.join(FOLDER),
        }
    }

    fn path(&self, of: &TranscriptOf) -> PathBuf {
        let folder = self.folder.join(TranscriptOf::folder(&of.run));
        folder.join(format!("{}.jsonl", of.name()))
    }

    /// What the transcript says from `offset` on; empty when there is no more.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(&self, of: &TranscriptOf, offset: u64) -> Result<Vec<u8>, PortError> {
        let path = self.path(of);
        blocking("read a transcript", move || {
            let mut file = match std::fs::File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                opened => opened?,
            };
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .await
    }

    /// The folders of all runs that have a transcript.
    pub(crate) fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// The name of a run's folder.
    pub(crate) fn folder_of(run: &str) -> String {
        TranscriptOf::folder(&RunId(run.to_owned()))
    }
}

#[async_trait]
impl Transcripts for FileTranscripts {
    async fn append(&self, of: &TranscriptOf, offset: u64, text: &str) -> Result<(), PortError> {
        let (path, text) = (self.path(of), text.to_owned());
        blocking("keep a transcript", move || {
            if let Some(folder) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder)?;
            }
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            // Where it belongs: sent twice it is written over itself.
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(text.as_bytes())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|why| PortError::new(what, why))?
        .map_err(|why| PortError::new(what, why))
}
