//! The files of a project, in memory. The only place of this crate that reads
//! a disk.

use crate::parallel;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::FileType;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// The files of a project that mean something to the compiler, by path from the
/// project's root, with `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    files: BTreeMap<String, File>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// It is there, but cannot be read; why.
    Unreadable(String),
}

/// How large a file that is parsed may be. People write far smaller ones.
const MAX_TEXT: usize = 1 << 20;

/// How many bytes are asked for at once.
const READ_AHEAD: usize = 16 << 10;

/// Folders that hold what other tools made, or packages of other people.
const SKIPPED: [&str; 3] = ["__pycache__", "node_modules", "site-packages"];

impl Sources {
    /// Reads a project from disk: `registry.yml`, `workflows/*/*.md`, and all of
    /// `skills/` and `sensors/` but dot-files (which is where secrets are),
    /// `__pycache__`, `node_modules` and `site-packages`. Links are followed as long as they stay
    /// in the project.
    ///
    /// # Errors
    /// When `root` itself is no folder or cannot be read. Anything below it
    /// that cannot be read becomes a diagnostic of [`compile`](crate::compile).
    pub fn read(root: &Path) -> io::Result<Self> {
        std::fs::read_dir(root)?;
        let canonical = root.canonicalize()?;
        Ok(Reader::new(root, &canonical).read())
    }

    /// Adds a file, or replaces it. `path` is relative to the project's root,
    /// with `/`.
    pub fn insert(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), File::Bytes(bytes.into()));
    }

    /// The bytes of a file, if it is there and could be read.
    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        match self.files.get(path)? {
            File::Bytes(bytes) => Some(bytes),
            File::Unreadable(_) => None,
        }
    }

    /// One file, as it was found.
    pub(crate) fn of(path: &str, file: File) -> Self {
        Self {
            files: BTreeMap::from([(path.to_owned(), file)]),
        }
    }

    /// Hex SHA-256 of everything that decides what
    /// [`compile`](crate::compile) makes of these files: all their paths and
    /// bytes, and this build of the compiler. Nothing that can be the same for
    /// two contents, such as a time stamp, is part of it.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        // Each part comes after its length, so that no two ways of cutting the
        // same bytes are alike.
        let mut add = |kind: u8, part: &[u8]| {
            hasher.update([kind]);
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        };
        add(0, env!("CARGO_PKG_VERSION").as_bytes());
        add(0, env!("LOOPY_COMPILER_BUILD").as_bytes());
        for (path, file) in &self.files {
            add(1, path.as_bytes());
            match file {
                File::Bytes(bytes) => add(2, bytes),
                File::Unreadable(why) => add(3, why.as_bytes()),
            }
        }
        hex::encode(hasher.finalize())
    }

    /// A file as it was found.
    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// The paths of what is there but cannot be read, with the reasons.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, file)| match file {
            File::Unreadable(why) => Some((path.as_str(), why.as_str())),
            File::Bytes(_) => None,
        })
    }

    /// The files whose path starts with `prefix`, by path.
    pub(crate) fn below<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a File)> {
        self.files
            .range(prefix.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(prefix))
            .map(|(path, file)| (path.as_str(), file))
    }
}

impl File {
    /// Whether it can be read; otherwise a sentence about why not.
    pub(crate) fn readable(&self) -> Result<(), String> {
        match self {
            Self::Bytes(_) => Ok(()),
            Self::Unreadable(why) => Err(format!("the file cannot be read: {why}")),
        }
    }

    /// The text, or a sentence about why there is none.
    pub(crate) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Bytes(bytes) if bytes.len() > MAX_TEXT => {
                Err(format!("the file is larger than {MAX_TEXT} bytes"))
            }
            Self::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|error| {
                format!(
                    "the file is not UTF-8 text (at byte {})",
                    error.valid_up_to()
                )
            }),
            Self::Unreadable(why) => Err(format!("the file cannot be read: {why}")),
        }
    }
}

/// Reads what lies below some folders of a project.
struct Reader<'a> {
    root: &'a Path,
    /// `root` without any links.
    canonical: &'a Path,
    files: Vec<(String, File)>,
    /// The regular files that are still to be read, by path in the project.
    regular: Vec<(String, PathBuf)>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Path, canonical: &'a Path) -> Self {
        Self {
            root,
            canonical,
            files: Vec::new(),
            regular: Vec::new(),
        }
    }

    fn read(mut self) -> Sources {
        let registry = self.root.join("registry.yml");
        if registry.symlink_metadata().is_ok() {
            let kind = registry.metadata().ok().map(|found| found.file_type());
            self.take("registry.yml".to_owned(), registry, kind);
        }
        self.walk_part("skills", usize::MAX);
        self.walk_part("sensors", usize::MAX);
        // A large project is made of many workflows: to list their folders takes
        // as long as to read the files in them.
        let workflows = self.walk_part("workflows", 1);
        let (root, canonical) = (self.root, self.canonical);
        let steps = parallel::map(&workflows, |workflow| {
            let mut reader = Reader::new(root, canonical);
            reader.walk(workflow, 1);
            reader.read_regular();
            reader.files
        });
        self.read_regular();
        Sources {
            files: self
                .files
                .into_iter()
                .chain(steps.into_iter().flatten())
                .collect(),
        }
    }

    /// Reads the regular files that were found.
    fn read_regular(&mut self) {
        let mut buffer = Vec::new();
        for (relative, path) in self.regular.drain(..) {
            let file = match read_file(&path, &mut buffer) {
                Ok(bytes) => File::Bytes(bytes),
                Err(error) => File::Unreadable(error.to_string()),
            };
            self.files.push((relative, file));
        }
    }

    /// Walks one of the project's own folders, if it is there.
    fn walk_part(&mut self, name: &str, depth: usize) -> Vec<PathBuf> {
        let base = self.root.join(name);
        if !base.is_dir() {
            return Vec::new();
        }
        if base.is_symlink() && !self.stays(&base) {
            self.files.push((name.to_owned(), leads_out()));
            return Vec::new();
        }
        self.walk(&base, depth)
    }

    /// Takes what means something under `base`, down to `depth`. Gives the
    /// folders at that depth.
    fn walk(&mut self, base: &Path, depth: usize) -> Vec<PathBuf> {
        let mut deepest = Vec::new();
        let mut walk = WalkDir::new(base)
            .follow_links(true)
            .min_depth(1)
            .max_depth(depth)
            .into_iter();
        while let Some(entry) = walk.next() {
            match entry {
                Ok(entry) => {
                    let enter = self.visit(&entry) && entry.file_type().is_dir();
                    match (enter, entry.depth() == depth) {
                        (true, true) => deepest.push(entry.into_path()),
                        (true, false) => {}
                        // Never for one at the full depth: it was not entered.
                        (false, false) if entry.file_type().is_dir() => walk.skip_current_dir(),
                        (false, _) => {}
                    }
                }
                Err(error) => {
                    let path = error
                        .path()
                        .map_or_else(|| self.relative(base), |path| self.relative(path));
                    let why = error.io_error().map_or_else(
                        || "the link leads in a circle".to_owned(),
                        ToString::to_string,
                    );
                    self.files.push((path, File::Unreadable(why)));
                }
            }
        }
        deepest
    }

    /// Takes one entry; tells whether what lies below it means something.
    fn visit(&mut self, entry: &DirEntry) -> bool {
        let path = self.relative(entry.path());
        let in_workflows = path.starts_with("workflows/");
        let name = entry.file_name().to_string_lossy();
        if !in_workflows && (name.starts_with('.') || SKIPPED.contains(&name.as_ref())) {
            return false;
        }
        if entry.path_is_symlink() && !self.stays(entry.path()) {
            self.files.push((path, leads_out()));
            return false;
        }
        // A folder called `x.md` is taken too, so that it can be complained about.
        let takes = if in_workflows {
            path.matches('/').count() == 2 && path.ends_with(".md")
        } else {
            !entry.file_type().is_dir()
        };
        if takes {
            self.take(path, entry.path().to_owned(), Some(entry.file_type()));
        }
        true
    }

    /// Whether a link's target is part of the project: otherwise a deploy would
    /// carry off files that nobody meant to give away.
    fn stays(&self, link: &Path) -> bool {
        link.canonicalize()
            .is_ok_and(|target| target.starts_with(self.canonical))
    }

    /// Takes a file of this kind; `None` when there is nothing where a link
    /// leads.
    fn take(&mut self, relative: String, path: PathBuf, kind: Option<FileType>) {
        let why = if relative.contains('\u{fffd}') && path.to_str().is_none() {
            "its name is not UTF-8"
        } else if kind.is_some_and(|kind| kind.is_dir()) {
            "it is a folder"
        } else if !kind.is_some_and(|kind| kind.is_file()) {
            "it is not a regular file"
        } else {
            self.regular.push((relative, path));
            return;
        };
        let file = File::Unreadable(why.to_owned());
        self.files.push((relative, file));
    }

    fn relative(&self, path: &Path) -> String {
        let inside = path.strip_prefix(self.root).unwrap_or(path);
        let parts: Vec<_> = inside
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect();
        parts.join("/")
    }
}

/// The bytes of a file. `buffer` spares a question for its size: nearly all
/// files fit into what the one before it left.
fn read_file(path: &Path, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    buffer.clear();
    buffer.reserve(READ_AHEAD);
    let file = std::fs::File::open(path)?;
    file.take(u64::MAX).read_to_end(buffer)?;
    Ok(buffer.as_slice().to_vec())
}

fn leads_out() -> File {
    File::Unreadable("the link leads out of the project".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_shows_in_the_fingerprint() {
        let of = |files: &[(&str, &str)]| {
            let mut sources = Sources::default();
            for (path, text) in files {
                sources.insert(*path, *text);
            }
            sources.fingerprint()
        };
        let mut unreadable = Sources::default();
        let why = File::Unreadable("x".to_owned());
        unreadable.files.insert("a".to_owned(), why);
        let mut all = vec![
            of(&[]),
            of(&[("a", "")]),
            of(&[("a", "x")]),
            of(&[("a", "y")]),
            of(&[("ax", "")]),
            of(&[("a", ""), ("x", "")]),
            of(&[("a", "x"), ("b", "")]),
            of(&[("a", ""), ("b", "x")]),
            unreadable.fingerprint(),
        ];
        assert_eq!(of(&[("a", "x")]), all[2]);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
