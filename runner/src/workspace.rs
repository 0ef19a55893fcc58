//! Prepares the workspace: the directory, the repositories and the skills.

use crate::processes::Processes;
use crate::redact::tail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::manifest::Repo;
use loopy_contract::report::{Envelope, Failure, FailureClass, launch_env};
use loopy_contract::repository::{GITHUB_CREDENTIALS, clone_url, mirror_name};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use tokio::process::Command;

/// Where skills lie in the workspace.
const SKILLS: &str = ".agents/skills";
/// Where Claude Code looks for them.
const CLAUDE_SKILLS: &str = ".claude/skills";
/// Bytes of git's words in a message.
const LAST_WORDS: usize = 2000;

/// Where git finds objects that are not in the repository itself.
const ALTERNATES: &str = "GIT_ALTERNATE_OBJECT_DIRECTORIES";

/// A directory for the runner's own files, outside the workspace, gone when
/// dropped.
pub(crate) struct Control {
    path: PathBuf,
}

impl Control {
    /// Makes the directory, for this user only.
    ///
    /// # Errors
    /// A [`FailureClass::Sandbox`] failure when it cannot be made.
    pub(crate) fn create(run: &str, step: &str, attempt: u32) -> Result<Self, Failure> {
        let id = loopy_contract::ids::derive(&[run, step, &attempt.to_string()], 16);
        let path = std::env::temp_dir().join(format!("loopy-{id}-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| {
                sandbox(format!(
                    "cannot create the directory {}: {error}",
                    path.display()
                ))
            })?;
        Ok(Self { path })
    }

    /// A path inside it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The workspace's directory.
pub(crate) struct Workspace {
    /// Without symbolic links.
    root: PathBuf,
    /// As the launcher wrote it.
    given: String,
}

impl Workspace {
    /// Creates the directory where it is missing.
    ///
    /// # Errors
    /// A [`FailureClass::Sandbox`] failure when it cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(path)
            .and_then(|()| path.canonicalize())
            .map(|root| Self {
                root,
                given: path.to_string_lossy().into_owned(),
            })
            .map_err(|error| {
                sandbox(format!(
                    "cannot create the workspace {}: {error}",
                    path.display()
                ))
            })
    }

    /// The directory, without symbolic links.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The environment of everything that runs here: `given`, the sandbox's own
    /// `PATH` where `given` has none, a `HOME`
    /// beside the workspace, the run's id, and the workspace as the launcher
    /// named it, by which a launcher finds the processes of its sandbox.
    ///
    /// # Errors
    /// A [`FailureClass::Sandbox`] failure when the home cannot be made.
    pub(crate) fn environment(
        &self,
        given: &BTreeMap<String, String>,
        run: &str,
        search_path: &str,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut environment = given.clone();
        environment
            .entry("PATH".to_owned())
            .or_insert_with(|| search_path.to_owned());
        if !environment.contains_key("HOME") {
            let home = self.root.parent().unwrap_or(&self.root).join("home");
            std::fs::create_dir_all(&home).map_err(|error| {
                sandbox(format!(
                    "cannot create the home {}: {error}; set HOME in the sandbox's env_file",
                    home.display()
                ))
            })?;
            environment.insert("HOME".to_owned(), home.to_string_lossy().into_owned());
        }
        environment.insert(launch_env::RUN.to_owned(), run.to_owned());
        environment.insert(launch_env::WORKSPACE.to_owned(), self.given.clone());
        Ok(environment)
    }

    /// Clones the repositories and writes the skills. Clones begin with what is in
    /// `mirrors`, where there is a mirror of theirs.
    ///
    /// # Errors
    /// A [`FailureClass::Sandbox`] failure that names what could not be done.
    pub(crate) async fn fill(
        &self,
        envelope: &Envelope,
        environment: &BTreeMap<String, String>,
        processes: &Processes,
        mirrors: Option<&Path>,
    ) -> Result<(), Failure> {
        for repo in &envelope.repos {
            self.clone_repo(repo, environment, processes, mirrors)
                .await?;
        }
        for (name, files) in &envelope.skills {
            self.write_skill(name, files)?;
        }
        if !envelope.skills.is_empty() {
            self.link_skills(envelope.skills.keys())?;
        }
        Ok(())
    }

    async fn clone_repo(
        &self,
        repo: &Repo,
        environment: &BTreeMap<String, String>,
        processes: &Processes,
        mirrors: Option<&Path>,
    ) -> Result<(), Failure> {
        let url = clone_url(&repo.url);
        let path = repo.path.clone().unwrap_or_else(|| repository_name(&url));
        let target = self.inside(&path)?;
        if let Some(reference) = &repo.r#ref
            && (reference.is_empty() || reference.starts_with('-'))
        {
            return Err(sandbox(format!(
                "the repository {} asks for the ref `{reference}`, which git cannot have",
                repo.url
            )));
        }
        let git = Git {
            repo,
            url: &url,
            target: &target,
            environment,
            processes,
            workspace: &self.root,
        };
        let mirror = mirrors
            .map(|folder| folder.join(mirror_name(&url)))
            .filter(|mirror| mirror.join("objects").is_dir() && is_empty(&target));
        if let Some(mirror) = &mirror {
            let Err(failure) = git.clone(Some(mirror)).await else {
                return Ok(());
            };
            tracing::warn!(
                "{} is cloned once more, without its mirror: {}",
                repo.url,
                failure.message
            );
            empty(&target).map_err(|error| {
                sandbox(format!(
                    "cannot remove what is left of a clone in {}: {error}",
                    target.display()
                ))
            })?;
        }
        git.clone(None).await
    }

    fn write_skill(&self, name: &str, files: &BTreeMap<String, String>) -> Result<(), Failure> {
        if !is_one_name(name) {
            return Err(sandbox(format!(
                "the skill name `{name}` is no directory name"
            )));
        }
        for (path, content) in files {
            let file = self.inside(&format!("{SKILLS}/{name}/{path}"))?;
            let bytes = STANDARD.decode(content).map_err(|error| {
                sandbox(format!(
                    "the file {path} of the skill `{name}` is not base64: {error}"
                ))
            })?;
            // The envelope has no modes; what begins as a script is one.
            let mode = if bytes.starts_with(b"#!") {
                0o755
            } else {
                0o644
            };
            file.parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| {
                    let mut open = std::fs::OpenOptions::new();
                    open.write(true).create(true).truncate(true).mode(mode);
                    std::io::Write::write_all(&mut open.open(&file)?, &bytes)
                })
                .map_err(|error| {
                    sandbox(format!(
                        "cannot write the skill file {}: {error}",
                        file.display()
                    ))
                })?;
        }
        Ok(())
    }

    /// Makes `.claude/skills` reach the skills: as a whole where it is not there
    /// yet, one by one where a repository brought its own.
    fn link_skills<'a>(&self, names: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
        let directory = self.inside(CLAUDE_SKILLS)?;
        let failed = |place: &Path, error: std::io::Error| {
            sandbox(format!(
                "cannot link the skills at {}: {error}",
                place.display()
            ))
        };
        if let Some(parent) = directory.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        let whole = Path::new("..").join(SKILLS);
        match symlink(&whole, &directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&directory, error)),
        }
        let wanted = self.root.join(SKILLS);
        if directory.canonicalize().is_ok_and(|path| path == wanted) {
            return Ok(());
        }
        for name in names {
            let link = self.inside(&format!("{CLAUDE_SKILLS}/{name}"))?;
            match symlink(Path::new("../..").join(SKILLS).join(name), &link) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Err(sandbox(format!(
                        "the workspace has a skill `{name}` at {CLAUDE_SKILLS} already, and so has the agent; rename one of the two"
                    )));
                }
                Err(error) => return Err(failed(&link, error)),
            }
        }
        Ok(())
    }

    /// `path` below the workspace.
    ///
    /// # Errors
    /// It is absolute, goes up, or leaves by a symbolic link.
    pub(crate) fn inside(&self, path: &str) -> Result<PathBuf, Failure> {
        let refused = || {
            sandbox(format!(
                "the path `{path}` leaves the workspace; use one inside it"
            ))
        };
        let mut target = self.root.clone();
        for component in Path::new(path).components() {
            match component {
                Component::Normal(name) => target.push(name),
                Component::CurDir => {}
                _ => return Err(refused()),
            }
        }
        // The deepest part that exists decides where the rest will end up. A
        // link that leads nowhere yet does not count as existing, and writing
        // through it would create what it names.
        let mut existing = target.as_path();
        loop {
            match existing.canonicalize() {
                Ok(real) if real.starts_with(&self.root) => return Ok(target),
                Ok(_) => return Err(refused()),
                Err(_) if existing.symlink_metadata().is_ok() => return Err(refused()),
                Err(_) => match existing.parent() {
                    Some(parent) => existing = parent,
                    None => return Err(refused()),
                },
            }
        }
    }
}

/// A repository that is being cloned.
struct Git<'a> {
    repo: &'a Repo,
    url: &'a str,
    target: &'a Path,
    environment: &'a BTreeMap<String, String>,
    processes: &'a Processes,
    workspace: &'a Path,
}

impl Git<'_> {
    /// Clones it. What `mirror` has is taken from there; the clone needs it no longer
    /// when this is done.
    async fn clone(&self, mirror: Option<&Path>) -> Result<(), Failure> {
        let steps = self.steps(mirror);
        for arguments in steps.arguments {
            let mut git = Command::new("git");
            git.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
                .args(arguments)
                .env_clear()
                .envs(self.environment)
                .envs(steps.alternates.iter().map(|path| (ALTERNATES, path)))
                .env("GIT_TERMINAL_PROMPT", "0")
                .current_dir(self.workspace);
            self.run(git).await?;
        }
        Ok(())
    }

    async fn run(&self, git: Command) -> Result<(), Failure> {
        let url = &self.repo.url;
        let ended = self.processes.run(git, &[], |_| (), |_| ()).await;
        let ended = ended.map_err(|error| {
            sandbox(match error.kind() {
                ErrorKind::NotFound => format!(
                    "cannot clone {url}: `git` is not on the sandbox's PATH; install it in the sandbox's image"
                ),
                _ => format!("cannot clone {url}: git does not start: {error}"),
            })
        })?;
        if ended.status.success() {
            return Ok(());
        }
        Err(sandbox(format!(
            "cannot clone {url}: git {}: {}",
            ended.how(),
            tail(ended.last_words(), LAST_WORDS)
        )))
    }

    fn steps(&self, mirror: Option<&Path>) -> Steps {
        let target = self.target.as_os_str();
        let in_target = |arguments: &[&str]| -> Vec<OsString> {
            let mut all: Vec<OsString> = vec!["-C".into(), target.into()];
            all.extend(arguments.iter().map(Into::into));
            all
        };
        let depth = self.repo.depth.map(|depth| format!("--depth={depth}"));
        // A commit is no branch: it is fetched by its name.
        if let (Some(commit), Some(depth)) = (&self.repo.r#ref, &depth)
            && is_commit(commit)
        {
            let (name, helper) = GITHUB_CREDENTIALS.split_once('=').unwrap_or_default();
            let mut arguments = vec![
                vec!["init".into(), "--quiet".into(), "--".into(), target.into()],
                in_target(&["remote", "add", "--", "origin", self.url]),
                in_target(&["config", name, helper]),
                in_target(&["fetch", "--quiet", depth, "--", "origin", commit]),
                in_target(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]),
            ];
            // `fetch` cannot copy what it finds elsewhere, as `clone` does.
            arguments.extend(mirror.map(|_| in_target(&["repack", "-a", "-d", "--quiet"])));
            return Steps {
                arguments,
                alternates: mirror.map(|mirror| mirror.join("objects")),
            };
        }
        let mut clone: Vec<OsString> = ["clone", "--quiet", "-c", GITHUB_CREDENTIALS]
            .map(Into::into)
            .into();
        if let Some(mirror) = mirror {
            let mut reference = OsString::from("--reference-if-able=");
            reference.push(mirror);
            clone.extend([reference, "--dissociate".into()]);
        }
        let mut checkout = None;
        match (&self.repo.r#ref, &depth) {
            (Some(name), Some(_)) => clone.push(format!("--branch={name}").into()),
            (Some(name), None) => {
                checkout = Some(in_target(&["checkout", "--quiet", name, "--"]));
            }
            (None, _) => {}
        }
        clone.extend(depth.map(OsString::from));
        clone.extend(["--".into(), self.url.into(), target.into()]);
        Steps {
            arguments: std::iter::once(clone).chain(checkout).collect(),
            alternates: None,
        }
    }
}

/// What git is asked to do.
struct Steps {
    /// In order.
    arguments: Vec<Vec<OsString>>,
    /// Where each of them finds further objects.
    alternates: Option<PathBuf>,
}

/// Whether nothing is there yet.
fn is_empty(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Removes all that is in a directory, which may not be there.
fn empty(path: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The last part of a URL without `.git`.
fn repository_name(url: &str) -> String {
    let last = url
        .trim_end_matches('/')
        .rsplit(['/', ':'])
        .next()
        .unwrap_or_default();
    last.trim_end_matches(".git").to_owned()
}

fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_one_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    )
}

fn sandbox(message: String) -> Failure {
    Failure {
        class: FailureClass::Sandbox,
        message,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_clone_is_called_like_its_repository() {
        assert_eq!(repository_name("git@github.com:octo/hello.git"), "hello");
        assert_eq!(repository_name("https://x.org/a/b/"), "b");
    }

    #[test]
    fn paths_that_leave_the_workspace_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(&place.path().join("w")).unwrap();
        symlink("/etc", workspace.root().join("out")).unwrap();
        symlink(
            place.path().join("not-yet"),
            workspace.root().join("dangling"),
        )
        .unwrap();
        for path in [
            "../x",
            "/etc/x",
            "a/../../x",
            "out/x",
            "dangling",
            "dangling/x",
        ] {
            assert!(workspace.inside(path).is_err(), "{path}");
        }
        for path in ["x", "a/b", "./a", "."] {
            assert!(workspace.inside(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn skills_reach_claude_beside_those_of_a_repository() {
        let place = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(place.path()).unwrap();
        std::fs::create_dir_all(workspace.root().join(".claude/skills/own")).unwrap();
        let files = BTreeMap::from([
            ("SKILL.md".to_owned(), STANDARD.encode("# s")),
            ("bin/go".to_owned(), STANDARD.encode("#!/bin/sh\n")),
        ]);
        workspace.write_skill("lint", &files).unwrap();
        let names = ["lint".to_owned()];
        workspace.link_skills(names.iter()).unwrap();
        let through = workspace.root().join(".claude/skills/lint/SKILL.md");
        assert_eq!(std::fs::read_to_string(through).unwrap(), "# s");
        let script = workspace
            .root()
            .join(".agents/skills/lint/bin/go")
            .metadata()
            .unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&script.permissions()) & 0o111,
            0o111
        );
        assert!(
            workspace.link_skills(names.iter()).is_err(),
            "the name is taken now"
        );
        assert!(workspace.write_skill("../x", &files).is_err());
    }
}
