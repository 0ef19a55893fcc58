//! Keeps what came of the last compilation in `.loopy/cache/compile`, so that a
//! project that did not change is not compiled again.
//!
//! What is kept counts only for exactly the same files and the same build of the
//! compiler, by content hash; time stamps play no part. The cache is one file,
//! and only ever a help: one that is missing, damaged or of another build is as
//! good as none, and where none can be written nothing is lost but time.

use loopy_compiler::generate;
use loopy_compiler::{Code, Compilation, Diagnostic, Span};
use loopy_contract::ids::sha256_hex;
use loopy_local::STATE_DIR;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file's name.
const FILE: &str = "compile";

/// The largest file that is kept, in bytes.
const MAX_SIZE: usize = 64 << 20;

/// What `loopy compile` tells of a project.
#[derive(Debug, PartialEq)]
pub(crate) struct Compiled {
    /// What there is to say.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What the project is; `None` when it has errors.
    pub(crate) project: Option<Summary>,
    /// The types for sensors, file by file, if they were asked for and the
    /// project has no errors.
    pub(crate) types: Option<BTreeMap<&'static str, String>>,
    /// The manifest's JSON, if it was asked for and there is one.
    pub(crate) json: Option<String>,
}

/// What is wanted of a project without errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The types for sensors.
    pub(crate) types: bool,
    /// The manifest's JSON.
    pub(crate) json: bool,
}

/// A project without errors, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many workflows it has.
    pub(crate) workflows: usize,
    /// How many steps they have together.
    pub(crate) steps: usize,
    /// How many sensors it has, built-in ones included.
    pub(crate) sensors: usize,
    /// The manifest's hash.
    pub(crate) hash: String,
}

impl Compiled {
    /// What the compiler made of a project.
    pub(crate) fn of(compilation: &Compilation, wanted: Wanted) -> Self {
        let manifest = compilation.manifest.as_ref();
        Self {
            diagnostics: compilation.diagnostics.clone(),
            project: manifest.map(|manifest| Summary {
                workflows: manifest.workflows.len(),
                steps: manifest
                    .workflows
                    .values()
                    .map(|flow| flow.steps.len())
                    .sum(),
                sensors: manifest.sensors.len(),
                hash: manifest.hash.clone(),
            }),
            types: manifest
                .filter(|_| wanted.types)
                .map(|manifest| generate::files(&manifest.registry)),
            json: manifest
                .filter(|_| wanted.json)
                .map(|manifest| manifest.to_json()),
        }
    }
}

/// The first line of the file. The types and the manifest's JSON come after it
/// as they are.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The fingerprint of the files this came of.
    fingerprint: String,
    diagnostics: Vec<Kept>,
    project: Option<Summary>,
    /// The names of the types' files and how many bytes each has.
    types: Option<Vec<(String, usize)>>,
    /// How many bytes the manifest's JSON has.
    json: Option<usize>,
}

/// A diagnostic; its severity is that of its code.
#[derive(Serialize, Deserialize)]
struct Kept {
    code: String,
    file: String,
    line: u32,
    column: u32,
    length: u32,
    message: String,
    hint: Option<String>,
}

impl From<&Diagnostic> for Kept {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            code: diagnostic.code.name().to_owned(),
            file: diagnostic.file.clone(),
            line: diagnostic.span.line,
            column: diagnostic.span.column,
            length: diagnostic.span.length,
            message: diagnostic.message.clone(),
            hint: diagnostic.hint.clone(),
        }
    }
}

impl Kept {
    /// `None` when no code of this build has the name.
    fn diagnostic(self) -> Option<Diagnostic> {
        let code = Code::from_name(&self.code)?;
        Some(Diagnostic {
            code,
            severity: code.severity(),
            file: self.file,
            span: Span {
                line: self.line,
                column: self.column,
                length: self.length,
            },
            message: self.message,
            hint: self.hint,
        })
    }
}

/// What is kept of exactly these files; `None` when there is nothing, or not
/// all that is wanted.
pub(crate) fn find(project: &Path, fingerprint: &str, wanted: Wanted) -> Option<Compiled> {
    let bytes = fs::read(folder(project).join(FILE)).ok()?;
    let (checksum, rest) = line(&bytes)?;
    if checksum != sha256_hex(rest).as_bytes() {
        return None;
    }
    let (head, mut rest) = line(rest)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    if head.fingerprint != fingerprint {
        return None;
    }
    let lacks = (wanted.types && head.types.is_none()) || (wanted.json && head.json.is_none());
    if lacks && head.project.is_some() {
        return None;
    }
    let mut take = |length: usize| {
        let (part, after) = rest.split_at_checked(length)?;
        rest = after;
        std::str::from_utf8(part).ok().map(str::to_owned)
    };
    let types = match head.types {
        None => None,
        Some(files) => Some(
            files
                .into_iter()
                // A forged file must not choose where to write.
                .map(|(name, length)| {
                    let known = generate::NAMES.into_iter().find(|known| *known == name)?;
                    Some((known, take(length)?))
                })
                .collect::<Option<_>>()?,
        ),
    };
    let json = match head.json {
        None => None,
        Some(length) => Some(take(length)?),
    };
    Some(Compiled {
        diagnostics: head
            .diagnostics
            .into_iter()
            .map(Kept::diagnostic)
            .collect::<Option<_>>()?,
        project: head.project,
        types: types.filter(|_| wanted.types),
        json: json.filter(|_| wanted.json),
    })
}

/// Keeps what came of these files in place of what was kept before. Nobody
/// needs to know when that fails: the project may be read-only, the disk full.
pub(crate) fn keep(project: &Path, fingerprint: &str, compiled: &Compiled) {
    let head = Head {
        fingerprint: fingerprint.to_owned(),
        diagnostics: compiled.diagnostics.iter().map(Kept::from).collect(),
        project: compiled.project.clone(),
        types: compiled.types.as_ref().map(|types| {
            types
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.len()))
                .collect()
        }),
        json: compiled.json.as_ref().map(String::len),
    };
    let Ok(mut rest) = serde_json::to_vec(&head) else {
        return;
    };
    rest.push(b'\n');
    let types = compiled.types.iter().flat_map(BTreeMap::values);
    for part in types.chain(&compiled.json) {
        rest.extend_from_slice(part.as_bytes());
    }
    if rest.len() > MAX_SIZE {
        return;
    }
    let _ = write(project, &rest);
}

fn write(project: &Path, rest: &[u8]) -> io::Result<()> {
    let state = project.join(STATE_DIR);
    let folder = folder(project);
    real_folder(&state)?;
    // What is in there is of this machine; it must not end up in the repository.
    let ignore = state.join(".gitignore");
    if ignore.symlink_metadata().is_err() {
        create(&ignore)?.write_all(b"*\n")?;
    }
    real_folder(&folder)?;
    let part = folder.join("compile.part");
    // Another process may be writing its own at the same moment. Whichever file
    // is in place in the end, its checksum tells whether it is whole.
    let _ = fs::remove_file(&part);
    let mut file = create(&part)?;
    file.write_all(sha256_hex(rest).as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(rest)?;
    fs::rename(&part, folder.join(FILE))
}

/// Makes sure that there is a folder, and no link that leads elsewhere.
fn real_folder(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(_) => fs::create_dir(path),
    }
}

/// A new file; never one that a link leads to.
fn create(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

fn folder(project: &Path) -> PathBuf {
    project.join(STATE_DIR).join("cache")
}

/// The first line, and what comes after it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}
