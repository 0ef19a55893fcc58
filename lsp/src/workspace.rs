//! The open documents and the projects they belong to. A project is held as
//! long as one of its files is open; what is open counts in place of what is on
//! disk.

use crate::text::Lines;
use crate::uri;
use gen_lsp_types::{
    Code, Diagnostic, DiagnosticSeverity, Message, Position, PublishDiagnosticsParams, Range,
    TextDocumentContentChangeEvent, Uri,
};
use loopy_compiler::{Index, Severity, Sources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How many bytes all open documents together may have.
const MAX_OPEN: usize = 256 << 20;

/// The file that makes a folder a project.
pub(crate) const REGISTRY: &str = "registry.yml";

/// An open document.
#[derive(Debug)]
struct Document {
    /// As the client writes it.
    uri: String,
    version: i32,
    text: String,
}

/// How far what is known of a project can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Its diagnostics are those that were published.
    Checked,
    /// An open document has changed.
    Changed,
    /// Files on disk may have changed.
    Stale,
}

/// A project with an open file.
#[derive(Debug)]
struct Project {
    sources: Sources,
    state: State,
    /// Of the sources as they are; made when something asks for it.
    index: Option<Index>,
    /// The last index that knew what the registry declares.
    registered: Option<Index>,
    /// What the client was told, by file.
    published: BTreeMap<String, Vec<Diagnostic>>,
}

/// All that the client has told, and what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    documents: BTreeMap<PathBuf, Document>,
    projects: BTreeMap<PathBuf, Project>,
    /// Whether a project may have lost its last open document.
    may_clear: bool,
}

/// A place in an open file of a project, ready to be answered for.
pub(crate) struct Asked<'w> {
    pub(crate) root: &'w Path,
    /// Path in the project.
    pub(crate) file: &'w str,
    pub(crate) text: &'w str,
    pub(crate) lines: Lines<'w>,
    pub(crate) offset: usize,
    pub(crate) sources: &'w Sources,
    pub(crate) index: &'w Index,
}

impl Workspace {
    /// Takes a document that was opened. One that is no file is of no interest.
    pub(crate) fn open(&mut self, uri: String, version: i32, text: String) {
        let Some(path) = uri::path(&uri) else {
            return;
        };
        let document = Document { uri, version, text };
        self.documents.insert(path.clone(), document);
        self.bound(&path);
        self.assign();
        self.touch(&path, State::Stale);
    }

    /// Applies changes to an open document.
    pub(crate) fn change(
        &mut self,
        uri: &str,
        version: i32,
        changes: Vec<TextDocumentContentChangeEvent>,
    ) {
        use TextDocumentContentChangeEvent as Event;
        let path = uri::path(uri);
        let Some((path, document)) =
            path.and_then(|path| Some((path.clone(), self.documents.get_mut(&path)?)))
        else {
            return;
        };
        document.version = version;
        for change in changes {
            match change {
                Event::TextDocumentContentChangeWholeDocument(whole) => document.text = whole.text,
                Event::TextDocumentContentChangePartial(part) => {
                    let lines = Lines::of(&document.text);
                    let start = lines.offset(&part.range.start);
                    let end = lines.offset(&part.range.end).max(start);
                    document.text.replace_range(start..end, &part.text);
                }
            }
        }
        self.bound(&path);
        self.overlay(&path);
    }

    /// Forgets an open document; what is on disk counts again.
    pub(crate) fn close(&mut self, uri: &str) {
        let Some(path) = uri::path(uri) else {
            return;
        };
        self.touch(&path, State::Stale);
        self.documents.remove(&path);
        self.assign();
        self.may_clear = true;
    }

    /// A file was saved, or changed on disk.
    pub(crate) fn changed_on_disk(&mut self, uri: &str) {
        let Some(path) = uri::path(uri) else {
            return;
        };
        // A project may have begun, or ended, here.
        if path.ends_with(REGISTRY) {
            self.assign();
            self.may_clear = true;
        }
        self.touch(&path, State::Stale);
    }

    /// Whether diagnostics are due.
    pub(crate) fn is_due(&self) -> bool {
        self.projects
            .values()
            .any(|project| project.state != State::Checked)
    }

    /// Checks what has changed; what there is to tell the client.
    pub(crate) fn check(&mut self) -> Vec<PublishDiagnosticsParams> {
        let mut news = Vec::new();
        for root in self.projects.keys().cloned().collect::<Vec<_>>() {
            self.refresh(&root);
            let Some(project) = self.projects.get_mut(&root) else {
                continue;
            };
            if project.state == State::Checked {
                continue;
            }
            project.state = State::Checked;
            let found = diagnostics(&project.sources);
            let files: BTreeSet<&String> = found.keys().chain(project.published.keys()).collect();
            for file in files {
                let now = found.get(file).map(Vec::as_slice).unwrap_or_default();
                let before = project.published.get(file);
                if before.map(Vec::as_slice).unwrap_or_default() != now {
                    news.push(publication(&self.documents, &root.join(file), now.to_vec()));
                }
            }
            project.published = found;
        }
        news
    }

    /// The projects that nothing is open of any more; what to tell the client.
    pub(crate) fn clear(&mut self) -> Vec<PublishDiagnosticsParams> {
        if !std::mem::take(&mut self.may_clear) {
            return Vec::new();
        }
        let used: BTreeSet<PathBuf> = self.documents.keys().filter_map(|p| self.root(p)).collect();
        let mut news = Vec::new();
        let documents = &self.documents;
        self.projects.retain(|root, project| {
            let keep = used.contains(root);
            if !keep {
                for file in project.published.keys() {
                    news.push(publication(documents, &root.join(file), Vec::new()));
                }
            }
            keep
        });
        news
    }

    /// What is needed to answer for a place; `None` when the file is not open or
    /// part of no project.
    pub(crate) fn ask(&mut self, uri: &str, position: &Position) -> Option<Asked<'_>> {
        let path = uri::path(uri)?;
        let (root, _) = self.project_of(&path)?;
        let root = root.to_owned();
        self.refresh(&root);
        let project = self.projects.get_mut(&root)?;
        if project.index.is_none() {
            project.reindex();
        }
        let (root, file) = self.project_of(&path)?;
        let project = self.projects.get(root)?;
        let (path, document) = self.documents.get_key_value(&path)?;
        let file = path
            .to_str()
            .and_then(|path| path.get(path.len() - file.len()..))?;
        let lines = Lines::of(&document.text);
        Some(Asked {
            root,
            file,
            text: &document.text,
            offset: lines.offset(position),
            lines,
            sources: &project.sources,
            index: project.index.as_ref()?,
        })
    }

    /// The nearest folder above that has a registry, on disk or open.
    fn root(&self, path: &Path) -> Option<PathBuf> {
        let has_registry = |folder: &&Path| {
            let registry = folder.join(REGISTRY);
            self.documents.contains_key(&registry) || registry.is_file()
        };
        let root = path.parent()?.ancestors().find(has_registry)?;
        is_part(&inside(root, path)?).then(|| root.to_owned())
    }

    /// Takes up the projects of all open documents.
    fn assign(&mut self) {
        let roots: BTreeSet<PathBuf> = self.documents.keys().filter_map(|p| self.root(p)).collect();
        for root in roots {
            self.projects.entry(root).or_insert_with(|| Project {
                sources: Sources::default(),
                state: State::Stale,
                index: None,
                registered: None,
                published: BTreeMap::new(),
            });
        }
    }

    /// The project that a path lies in, and the path in it.
    fn project_of(&self, path: &Path) -> Option<(&Path, String)> {
        let root = path
            .ancestors()
            .skip(1)
            .find_map(|folder| self.projects.get_key_value(folder))?;
        let file = inside(root.0, path)?;
        is_part(&file).then_some((root.0.as_path(), file))
    }

    fn touch(&mut self, path: &Path, state: State) {
        let Some((root, _)) = self.project_of(path) else {
            return;
        };
        let root = root.to_owned();
        if let Some(project) = self.projects.get_mut(&root) {
            project.state = project.state.max(state);
            project.index = None;
        }
    }

    /// Puts an open document in place of the file.
    fn overlay(&mut self, path: &Path) {
        self.touch(path, State::Changed);
        let Some((root, file)) = self.project_of(path) else {
            return;
        };
        let root = root.to_owned();
        if let Some(document) = self.documents.get(path)
            && let Some(project) = self.projects.get_mut(&root)
        {
            project.sources.insert(file, document.text.as_bytes());
        }
    }

    /// Reads a project anew where the disk may hold something else.
    fn refresh(&mut self, root: &Path) {
        let Some(project) = self.projects.get_mut(root) else {
            return;
        };
        if project.state != State::Stale {
            return;
        }
        project.sources = Sources::read(root).unwrap_or_else(|error| {
            // A registry that was never saved lies in no folder yet.
            tracing::warn!("cannot read {}: {error}", root.display());
            Sources::default()
        });
        project.state = State::Changed;
        project.index = None;
        let below = self.documents.range(root.to_owned()..);
        let below = below.take_while(|(path, _)| path.starts_with(root));
        let paths: Vec<PathBuf> = below.map(|(path, _)| path.clone()).collect();
        for path in paths {
            if self.project_of(&path).is_some_and(|(own, _)| own == root) {
                self.overlay(&path);
            }
        }
    }

    /// Lets go of a document that makes the open ones too large together.
    fn bound(&mut self, path: &Path) {
        let total: usize = self.documents.values().map(|d| d.text.len()).sum();
        if total > MAX_OPEN {
            tracing::warn!(
                "{} is left to what is on disk: over {MAX_OPEN} bytes are open",
                path.display()
            );
            self.documents.remove(path);
            self.touch(path, State::Stale);
            self.may_clear = true;
        }
    }
}

impl Project {
    /// Reads the declarations. While the registry is broken, its last ones stay.
    fn reindex(&mut self) {
        let mut index = loopy_compiler::index(&self.sources);
        let declares = |index: &Index| {
            !(index.agents.is_empty() && index.sandboxes.is_empty() && index.events.is_empty())
        };
        if declares(&index) {
            self.registered = Some(Index {
                workflows: BTreeMap::new(),
                mentions: BTreeMap::new(),
                ..index.clone()
            });
        } else if let Some(last) = &self.registered {
            index.agents.clone_from(&last.agents);
            index.sandboxes.clone_from(&last.sandboxes);
            index.events.clone_from(&last.events);
        }
        self.index = Some(index);
    }
}

/// The path below a folder, with `/`.
fn inside(root: &Path, path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root).ok()?;
    let parts: Option<Vec<&str>> = inside.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

/// Whether a path in a project means something to the compiler.
fn is_part(file: &str) -> bool {
    let parts: Vec<&str> = file.split('/').collect();
    match parts.as_slice() {
        [REGISTRY] => true,
        ["workflows", _, step] => step.ends_with(".md"),
        ["skills" | "sensors", rest @ ..] => !rest
            .iter()
            .any(|part| part.starts_with('.') || *part == "__pycache__" || *part == "node_modules"),
        _ => false,
    }
}

/// What the compiler says, by file.
fn diagnostics(sources: &Sources) -> BTreeMap<String, Vec<Diagnostic>> {
    let mut by_file: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();
    // They come sorted by file, so each file's lines are looked for once.
    let mut lines: Option<(&str, Lines<'_>)> = None;
    let compilation = loopy_compiler::compile(sources);
    for found in &compilation.diagnostics {
        if lines.as_ref().is_none_or(|(file, _)| *file != found.file) {
            lines = Some((&found.file, lines_of(sources, &found.file)));
        }
        let range = lines
            .as_ref()
            .map(|(_, lines)| lines.range(found.span))
            .unwrap_or_default();
        let message = match &found.hint {
            Some(hint) => format!("{}\n{hint}", found.message),
            None => found.message.clone(),
        };
        let severity = match found.severity {
            Severity::Error => DiagnosticSeverity::Error,
            Severity::Warning => DiagnosticSeverity::Warning,
        };
        by_file
            .entry(found.file.clone())
            .or_default()
            .push(Diagnostic {
                range,
                severity: Some(severity),
                code: Some(Code::String(found.code.name().to_owned())),
                code_description: None,
                source: Some("loopy".to_owned()),
                message: Message::String(message),
                tags: None,
                related_information: None,
                data: None,
            });
    }
    by_file
}

/// The lines of a file; none where it is no text.
pub(crate) fn lines_of<'s>(sources: &'s Sources, file: &str) -> Lines<'s> {
    let bytes = sources.bytes(file).unwrap_or_default();
    Lines::of(std::str::from_utf8(bytes).unwrap_or_default())
}

/// The range of a span in a file.
pub(crate) fn range_in(sources: &Sources, file: &str, span: loopy_compiler::Span) -> Range {
    lines_of(sources, file).range(span)
}

fn publication(
    documents: &BTreeMap<PathBuf, Document>,
    path: &Path,
    diagnostics: Vec<Diagnostic>,
) -> PublishDiagnosticsParams {
    let open = documents.get(path);
    PublishDiagnosticsParams {
        uri: Uri(open.map_or_else(|| uri::of(path), |document| document.uri.clone())),
        version: open.map(|document| document.version),
        diagnostics,
    }
}
