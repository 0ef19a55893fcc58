//! Files that steps hand on: `files/<run>/<step>-<attempt>` below the state
//! directory, each a pack as it came.

use async_trait::async_trait;
use loopy_contract::ids::RunId;
use loopy_engine::files::PackOf;
use loopy_engine::ports::{Packs, PortError};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder below the state directory.
const FOLDER: &str = "files";

/// A folder this young may be of a run that is about to be made.
const YOUNG: Duration = Duration::from_hours(1);

/// The packs below one state directory.
#[derive(Clone, Debug)]
pub struct FilePacks {
    folder: PathBuf,
}

impl FilePacks {
    /// Those below `dir`, the state directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            folder: dir.join(FOLDER),
        }
    }

    fn path(&self, of: &PackOf) -> PathBuf {
        self.folder.join(PackOf::folder(&of.run)).join(of.name())
    }

    /// The folders of all runs that have files.
    pub(crate) fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// The name of a run's folder.
    pub(crate) fn folder_of(run: &str) -> String {
        PackOf::folder(&RunId(run.to_owned()))
    }

    /// Removes those of `folders` that none of these runs has. A run that goes over
    /// another one again has its files before it is there itself.
    pub(crate) fn remove(folders: Vec<PathBuf>, runs: &BTreeSet<String>) -> io::Result<()> {
        for folder in folders {
            let name = folder.file_name().and_then(|name| name.to_str());
            let kept = name.is_some_and(|name| runs.contains(name));
            let age = folder.metadata()?.modified()?.elapsed();
            if !kept && age.is_ok_and(|age| age > YOUNG) {
                std::fs::remove_dir_all(folder)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Packs for FilePacks {
    async fn put(&self, of: &PackOf, offset: u64, bytes: Vec<u8>) -> Result<(), PortError> {
        let path = self.path(of);
        blocking("keep files of a step", move || {
            let folder = made(&path)?;
            let is_new = !path.exists();
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            // Where it belongs: sent twice it is written over itself.
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            if is_new {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        })
        .await
    }

    async fn part(
        &self,
        of: &PackOf,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, PortError> {
        let path = self.path(of);
        blocking("read files of a step", move || {
            let mut file = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; length];
            match file.read_exact(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
                read => read.map(|()| Some(bytes)),
            }
        })
        .await
    }

    async fn copy(&self, from: &PackOf, to: &PackOf, _: u64) -> Result<(), PortError> {
        let (from, to) = (self.path(from), self.path(to));
        blocking("keep files of a step for another run", move || {
            let folder = made(&to)?;
            // A pack that counts is never written to again.
            match std::fs::hard_link(&from, &to) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
            File::open(folder)?.sync_all()
        })
        .await
    }
}

/// The folder of a pack, which is there then.
fn made(path: &Path) -> io::Result<PathBuf> {
    let folder = path.parent().unwrap_or(path).to_owned();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    Ok(folder)
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use loopy_contract::files::PACK_PART;
    use std::time::SystemTime;

    fn of(run: &str, attempt: u32) -> PackOf {
        PackOf {
            run: RunId::from(run),
            from: RunId::from("w-1"),
            step: "a/b".to_owned(),
            attempt,
        }
    }

    #[tokio::test]
    async fn parts_are_kept_once_in_any_order_and_go_over_to_another_run() {
        let dir = tempfile::tempdir().unwrap();
        let packs = FilePacks::new(dir.path());
        let pack = of("w-1", 1);
        assert_eq!(packs.part(&pack, 0, 1).await.unwrap(), None);
        let first = vec![7; PACK_PART];
        let end = PACK_PART as u64;
        packs.put(&pack, end, b"end".to_vec()).await.unwrap();
        packs.put(&pack, 0, first.clone()).await.unwrap();
        packs.put(&pack, 0, first.clone()).await.unwrap();
        let read = |of, offset, length| {
            let packs = packs.clone();
            async move { packs.part(&of, offset, length).await.unwrap() }
        };
        assert_eq!(read(pack.clone(), 0, PACK_PART).await, Some(first.clone()));
        assert_eq!(read(pack.clone(), end, 3).await, Some(b"end".to_vec()));
        assert_eq!(read(pack.clone(), end, 4).await, None);
        assert_eq!(read(of("w-1", 2), 0, 1).await, None);
        let other = of("w-2", 1);
        for _ in 0..2 {
            packs.copy(&pack, &other, end + 3).await.unwrap();
        }
        let gone = FilePacks::folder_of("w-1");
        std::fs::remove_dir_all(dir.path().join(FOLDER).join(gone)).unwrap();
        assert_eq!(read(other, end, 3).await, Some(b"end".to_vec()));
        let lost = packs.copy(&pack, &of("w-3", 1), 3).await.unwrap_err();
        assert!(lost.to_string().contains("No such file"), "{lost}");
    }

    #[tokio::test]
    async fn files_go_with_their_run_but_not_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let packs = FilePacks::new(dir.path());
        assert_eq!(packs.folders().unwrap(), Vec::<PathBuf>::new());
        for run in ["kept", "gone", "young"] {
            packs.put(&of(run, 1), 0, vec![1]).await.unwrap();
            let folder = dir.path().join(FOLDER).join(FilePacks::folder_of(run));
            let age = if run == "young" { 0 } else { 2 };
            let then = SystemTime::now() - Duration::from_hours(age);
            File::open(folder).unwrap().set_modified(then).unwrap();
        }
        let runs = BTreeSet::from([FilePacks::folder_of("kept")]);
        FilePacks::remove(packs.folders().unwrap(), &runs).unwrap();
        for (run, left) in [("kept", true), ("gone", false), ("young", true)] {
            let found = packs.part(&of(run, 1), 0, 1).await.unwrap();
            assert_eq!(found.is_some(), left, "{run}");
        }
    }
}
