//! Mirrors of the repositories that sandboxes of this machine clone: what was fetched
//! once is not fetched again.
//!
//! A mirror is a bare repository with the branches and tags of another. Only the home
//! writes it, and git reads it as a source of objects beside the remote, which still
//! says what its branches are; so a mirror is never too old, and without one, or with
//! one that is broken, a clone takes longer and nothing else. Whatever goes wrong
//! here is a warning.
//!
//! `<folder>/<env_files>/<repository>.git`, both names being hashes: sandboxes with the
//! same `env_file`s have the same credentials, and no other ones read what was fetched
//! with them. Beside each lie `.lock`, which its writer holds and whose time is that of
//! the last use, and `.fetched`, whose time is that of the last fetch.

use loopy_contract::ids;
use loopy_contract::manifest::{Repo, Sandbox};
use loopy_contract::repository::{GITHUB_CREDENTIALS, clone_url, mirror_name};
use loopy_engine::ports::{LaunchSpec, PortError, Secrets};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long one call of `launch` waits for a mirror that is being made.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long launches wait in all for a mirror that only shallow clones need: it has the
/// whole history, which they can do without.
const SHALLOW_PATIENCE: Duration = Duration::from_secs(120);
/// When to look again at one that takes longer.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How old the last fetch may be.
const FRESH: Duration = Duration::from_secs(3 * 60);
/// How long nothing is tried again that went wrong.
const REST: Duration = Duration::from_secs(5 * 60);
/// How long git may take for a mirror.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// How long a mirror is kept that nobody uses.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Between two looks at a lock that another process holds.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of git's words in a warning.
const LAST_WORDS: usize = 1000;
/// Bytes of a value that is taken out of git's words.
const SECRET: usize = 8;
/// What a mirror has of its repository.
const REFS: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
/// Schemes of URLs that are mirrored. A path needs no mirror, and with ssh the keys of
/// this machine's user would count, which not every sandbox has.
const SCHEMES: [&str; 4] = ["https", "http", "git", "file"];

/// The mirrors of a project.
#[derive(Clone)]
pub struct Mirrors {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// Where git is looked for.
    path: String,
    secrets: Arc<dyn Secrets>,
    /// Those that are being made or fetched, until the sender is gone.
    under_way: Mutex<BTreeMap<PathBuf, UnderWay>>,
    /// When it went wrong with which.
    failed: Mutex<BTreeMap<PathBuf, Instant>>,
    /// Launches that wait for a mirror, by client token.
    waiting: Mutex<BTreeSet<String>>,
    /// Keeps apart what is made at the same time.
    made: AtomicU64,
}

/// Work on a mirror.
#[derive(Clone)]
struct UnderWay {
    begun: Instant,
    /// Closed when it is over.
    over: watch::Receiver<()>,
}

impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mirrors").field(&self.shared.folder).finish()
    }
}

/// Why a mirror is not as it should be.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("cannot use {path}: {why}")]
    File { path: PathBuf, why: io::Error },
    #[error("the sandbox's environment cannot be had: {0}")]
    Secrets(#[from] PortError),
    #[error("git does not start: {why}; put it on {path}")]
    Start { why: io::Error, path: String },
    #[error("git {command} {how}: {words}")]
    Git {
        command: String,
        how: String,
        words: String,
    },
    #[error("it takes longer than an hour")]
    Time,
}

fn file(path: &Path) -> impl Fn(io::Error) -> MirrorError {
    move |why| MirrorError::File {
        path: path.to_owned(),
        why,
    }
}

/// A mirror to be made or fetched.
struct Job {
    url: String,
    mirror: PathBuf,
    /// The name of the sandbox with whose environment it is done.
    name: String,
    sandbox: Sandbox,
}

impl Mirrors {
    /// Mirrors in `folder`, made by the git on the search path `path` in the environment
    /// that `secrets` gives the sandbox. Those that nobody has used for 30 days are
    /// removed.
    pub fn new(folder: PathBuf, path: String, secrets: Arc<dyn Secrets>) -> Self {
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let unused = folder.clone();
        tokio::task::spawn_blocking(move || remove_unused(&unused));
        Self {
            shared: Arc::new(Shared {
                folder,
                path,
                secrets,
                under_way: Mutex::default(),
                failed: Mutex::default(),
                waiting: Mutex::default(),
                made: AtomicU64::new(0),
            }),
        }
    }

    /// Where the mirrors of a sandbox are, each under its [`mirror_name`].
    pub(crate) fn folder(&self, sandbox: &Sandbox) -> PathBuf {
        let env_files: Vec<&str> = sandbox.env_file.iter().map(String::as_str).collect();
        self.shared.folder.join(ids::derive(&env_files, 16))
    }

    /// The names of those that are there for a sandbox's repositories.
    pub(crate) fn present(&self, sandbox: &Sandbox) -> Vec<String> {
        let folder = self.folder(sandbox);
        let urls: BTreeSet<String> = sandbox.repos.iter().filter_map(mirrored).collect();
        let names = urls.iter().map(|url| mirror_name(url));
        names.filter(|name| is_mirror(&folder.join(name))).collect()
    }

    /// Whether the launch waits for a mirror.
    pub(crate) fn awaited_by(&self, token: &str) -> bool {
        lock(&self.shared.waiting).contains(token)
    }

    /// The launch is not wanted any more.
    pub(crate) fn forget(&self, token: &str) {
        lock(&self.shared.waiting).remove(token);
    }

    /// Sees to the mirrors of a sandbox. Gives when to look again, as long as one that
    /// the launch needs is being made.
    pub(crate) async fn prepare(&self, spec: &LaunchSpec) -> Option<Duration> {
        let sandbox = &spec.sandbox;
        let folder = self.folder(sandbox);
        let mut making = Vec::new();
        for repo in &sandbox.repos {
            let Some(url) = mirrored(repo) else { continue };
            let mirror = folder.join(mirror_name(&url));
            let there = is_mirror(&mirror);
            if there {
                note_use(&mirror);
            }
            if is_fresh(&mirror) && there || self.failed_lately(&mirror) {
                continue;
            }
            let work = self.begin(Job {
                url,
                mirror,
                name: spec.name.clone(),
                sandbox: sandbox.clone(),
            });
            let waits = repo.depth.is_none() || work.begun.elapsed() < SHALLOW_PATIENCE;
            if !there && waits {
                making.push(work.over);
            }
        }
        let until = Instant::now() + PATIENCE;
        for mut over in making {
            // Nothing is sent: the end of the work closes the channel.
            if timeout_at(until, over.changed()).await.is_err() {
                lock(&self.shared.waiting).insert(spec.client_token.clone());
                return Some(LOOK_AGAIN);
            }
        }
        self.forget(&spec.client_token);
        None
    }

    fn failed_lately(&self, mirror: &Path) -> bool {
        let failed = lock(&self.shared.failed);
        failed.get(mirror).is_some_and(|at| at.elapsed() < REST)
    }

    /// Has the work done, once for all who ask.
    fn begin(&self, job: Job) -> UnderWay {
        let mut under_way = lock(&self.shared.under_way);
        under_way.retain(|_, work| work.over.has_changed().is_ok());
        if let Some(work) = under_way.get(&job.mirror) {
            return work.clone();
        }
        let (working, over) = watch::channel(());
        let work = UnderWay {
            begun: Instant::now(),
            over,
        };
        under_way.insert(job.mirror.clone(), work.clone());
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let done = timeout(LONGEST, shared.work(&job)).await;
            if let Err(why) = done.unwrap_or(Err(MirrorError::Time)) {
                tracing::warn!(
                    "the mirror of {} is not up to date, so clones fetch more: {why}",
                    job.url
                );
                lock(&shared.failed).insert(job.mirror, Instant::now());
            }
            drop(working);
        });
        work
    }
}

impl Shared {
    /// Makes the mirror, or fetches what is new.
    async fn work(&self, job: &Job) -> Result<(), MirrorError> {
        let folder = job.mirror.parent().unwrap_or(&self.folder);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(file(folder))?;
        let _lock = lock_file(&job.mirror).await?;
        // Another process may have done it meanwhile.
        if is_mirror(&job.mirror) && is_fresh(&job.mirror) {
            return Ok(());
        }
        let mut git = Git {
            path: &self.path,
            home: folder,
            environment: self.secrets.sandbox_env(&job.name, &job.sandbox).await?,
        };
        // What a sandbox has in its `PATH` need not be on this machine.
        git.environment.remove("PATH");
        if is_mirror(&job.mirror) {
            match git.fetch(&job.mirror, &job.url).await {
                Err(why) if !git.is_sound(&job.mirror).await => {
                    tracing::warn!("the mirror of {} is broken and made anew: {why}", job.url);
                    let broken = self.beside(&job.mirror);
                    fs::rename(&job.mirror, &broken).map_err(file(&broken))?;
                }
                done => return done.and_then(|()| note_fetch(&job.mirror)),
            }
        }
        tracing::info!("making a mirror of {}", job.url);
        remove_leftovers(&job.mirror).await;
        let new = self.beside(&job.mirror);
        let made = git.make(&new, &job.url).await;
        let made = made.and_then(|()| fs::rename(&new, &job.mirror).map_err(file(&job.mirror)));
        if made.is_err() {
            remove_leftovers(&job.mirror).await;
        }
        note_use(&job.mirror);
        made.and_then(|()| note_fetch(&job.mirror))
    }

    /// Where nobody else writes.
    fn beside(&self, mirror: &Path) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        mirror.with_extension(format!("{}-{number}.tmp", std::process::id()))
    }
}

/// The git that makes mirrors.
struct Git<'a> {
    path: &'a str,
    /// Where nobody has a configuration of their own.
    home: &'a Path,
    environment: BTreeMap<String, String>,
}

impl Git<'_> {
    async fn make(&self, mirror: &Path, url: &str) -> Result<(), MirrorError> {
        // For users in containers to read; the folder around it keeps others out.
        let init = ["init", "--quiet", "--bare", "--shared=0644", "--template="];
        self.run(mirror, &init).await?;
        self.fetch(mirror, url).await
    }

    async fn fetch(&self, mirror: &Path, url: &str) -> Result<(), MirrorError> {
        let mut arguments = vec!["fetch", "--quiet", "--prune", "--no-write-fetch-head"];
        arguments.extend(["--", url]);
        arguments.extend(REFS);
        self.run(mirror, &arguments).await
    }

    /// Whether all that its branches lead to is there.
    async fn is_sound(&self, mirror: &Path) -> bool {
        let check = [
            "fsck",
            "--connectivity-only",
            "--no-dangling",
            "--no-progress",
        ];
        is_mirror(mirror) && self.run(mirror, &check).await.is_ok()
    }

    async fn run(&self, mirror: &Path, arguments: &[&str]) -> Result<(), MirrorError> {
        let mut git = Command::new("git");
        git.env_clear()
            .env("HOME", self.home)
            .envs(&self.environment)
            .env("PATH", self.path)
            .env("GIT_TERMINAL_PROMPT", "0")
            .arg("--git-dir")
            .arg(mirror)
            .args(["-c", GITHUB_CREDENTIALS])
            // What it tidies it tidies while the lock is held.
            .args([
                "-c",
                "gc.autoDetach=false",
                "-c",
                "maintenance.autoDetach=false",
            ])
            .args(["-c", "fetch.unpackLimit=1"])
            .args(arguments)
            .current_dir(self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = git.output().await.map_err(|why| MirrorError::Start {
            why,
            path: self.path.to_owned(),
        })?;
        if ended.status.success() {
            return Ok(());
        }
        let mut words = String::from_utf8_lossy(&ended.stderr).into_owned();
        for secret in self
            .environment
            .values()
            .filter(|value| value.len() >= SECRET)
        {
            words = words.replace(secret, "[redacted]");
        }
        let start = words.ceil_char_boundary(words.len().saturating_sub(LAST_WORDS));
        Err(MirrorError::Git {
            command: arguments.first().copied().unwrap_or_default().to_owned(),
            how: ended.status.to_string(),
            words: words.split_off(start).trim().to_owned(),
        })
    }
}

/// What git is asked for, if that is mirrored.
fn mirrored(repo: &Repo) -> Option<String> {
    let url = clone_url(&repo.url);
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    // One with a name or a password in it would be seen in the list of processes.
    (SCHEMES.contains(&scheme) && !authority.contains('@') && !url.contains('?')).then_some(url)
}

fn is_mirror(path: &Path) -> bool {
    path.join("HEAD").is_file() && path.join("objects").is_dir()
}

/// Holds off other processes that write this mirror, until dropped.
async fn lock_file(mirror: &Path) -> Result<File, MirrorError> {
    let path = mirror.with_extension("lock");
    let held = open(&path).map_err(file(&path))?;
    loop {
        match held.try_lock() {
            Ok(()) => return Ok(held),
            Err(TryLockError::WouldBlock) => sleep(LOOK).await,
            Err(TryLockError::Error(why)) => return Err(file(&path)(why)),
        }
    }
}

fn note_use(mirror: &Path) {
    if let Err(error) = touch(&mirror.with_extension("lock")) {
        tracing::debug!("the use of {} is not noted: {error}", mirror.display());
    }
}

fn note_fetch(mirror: &Path) -> Result<(), MirrorError> {
    let path = mirror.with_extension("fetched");
    touch(&path).map_err(file(&path))
}

fn is_fresh(mirror: &Path) -> bool {
    age(&mirror.with_extension("fetched")).is_some_and(|age| age < FRESH)
}

fn touch(path: &Path) -> io::Result<()> {
    open(path)?.set_modified(SystemTime::now())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

/// Since it was last written; none for what is not there.
fn age(path: &Path) -> Option<Duration> {
    let written = fs::metadata(path).ok()?.modified().ok()?;
    // A clock that was set back makes nothing old.
    Some(written.elapsed().unwrap_or_default())
}

/// Removes what was begun for this mirror by processes that died.
async fn remove_leftovers(mirror: &Path) {
    let mirror = mirror.to_owned();
    let removed = tokio::task::spawn_blocking(move || {
        let (Some(folder), Some(name)) = (mirror.parent(), mirror.file_stem()) else {
            return;
        };
        let name = name.to_string_lossy();
        for path in entries(folder) {
            let own = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            if own.is_some_and(|own| own.starts_with(&*name) && own.ends_with(".tmp")) {
                remove(&path);
            }
        }
    });
    if let Err(error) = removed.await {
        tracing::warn!("leftovers of mirrors are not removed: {error}");
    }
}

/// Removes the mirrors in `folder` that nobody has used for long.
fn remove_unused(folder: &Path) {
    for family in entries(folder) {
        for path in entries(&family) {
            let is_lock = path
                .extension()
                .is_some_and(|extension| extension == "lock");
            if !is_lock || age(&path).is_none_or(|age| age < KEPT) {
                continue;
            }
            let Ok(lock) = open(&path) else { continue };
            if lock.try_lock().is_ok() {
                tracing::info!("removing the mirror {}: unused", path.display());
                remove(&path.with_extension("git"));
                remove(&path.with_extension("fetched"));
                remove(&path);
            }
        }
        // One that still holds something stays.
        if let Err(error) = fs::remove_dir(&family) {
            tracing::debug!("{} stays: {error}", family.display());
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn remove(path: &Path) {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use loopy_contract::manifest::{Harness, ModelKeys};
    use loopy_engine::ports::Allowance;

    fn repo(url: &str) -> Repo {
        Repo {
            url: url.to_owned(),
            r#ref: None,
            path: None,
            depth: None,
        }
    }

    #[test]
    fn what_would_show_a_password_or_needs_no_mirror_has_none() {
        for url in ["octo/hello", "https://x.org/a.git", "file:///srv/a.git"] {
            assert!(mirrored(&repo(url)).is_some(), "{url}");
        }
        for url in [
            "https://me:secret@x.org/a.git",
            "https://x.org/a.git?key=secret",
            "git@github.com:octo/hello.git",
            "ssh://x.org/a.git",
            "/srv/a.git",
            "../a",
        ] {
            assert_eq!(mirrored(&repo(url)), None, "{url}");
        }
    }

    #[test]
    fn only_what_nobody_used_for_long_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let family = place.path().join("family");
        let old = SystemTime::now() - KEPT - Duration::from_secs(60);
        for (name, used) in [("old", old), ("new", SystemTime::now()), ("held", old)] {
            fs::create_dir_all(family.join(name).with_extension("git")).unwrap();
            let lock = family.join(name).with_extension("lock");
            open(&lock).unwrap().set_modified(used).unwrap();
        }
        let writer = open(&family.join("held.lock")).unwrap();
        writer.lock().unwrap();
        remove_unused(place.path());
        let mut left = entries(&family);
        left.sort();
        let names = ["held.git", "held.lock", "new.git", "new.lock"];
        assert_eq!(left, names.map(|name| family.join(name)));
    }

    struct NoSecrets;

    #[async_trait::async_trait]
    impl Secrets for NoSecrets {
        async fn sandbox_env(
            &self,
            _name: &str,
            _sandbox: &Sandbox,
        ) -> Result<BTreeMap<String, String>, PortError> {
            Ok(BTreeMap::new())
        }

        async fn webhook_secrets(&self, _variable: &str) -> Result<Vec<String>, PortError> {
            Ok(Vec::new())
        }

        async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
            Ok(BTreeMap::new())
        }

        async fn token_key(&self) -> Result<Vec<u8>, PortError> {
            Ok(Vec::new())
        }
    }

    /// How long launches wait for a mirror that is never done.
    async fn waited(depth: Option<u32>, at_most: Duration) -> Duration {
        let place = tempfile::tempdir().unwrap();
        let git = place.path().join("git");
        fs::write(&git, "#!/bin/sh\nexec /bin/sleep 600\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&git, mode).unwrap();
        let path = place.path().to_str().unwrap().to_owned();
        let mirrors = Mirrors::new(place.path().join("mirrors"), path, Arc::new(NoSecrets));
        let spec = LaunchSpec {
            run: "r-1".into(),
            step: "s".into(),
            attempt: 1,
            client_token: "t".into(),
            name: "Box".into(),
            sandbox: Sandbox {
                provider: "local".into(),
                image: BTreeMap::new(),
                network: Vec::new(),
                env_file: Vec::new(),
                repos: vec![Repo {
                    depth,
                    ..repo("file:///nowhere")
                }],
                model_keys: ModelKeys::default(),
            },
            token: "secret".into(),
            time_limit: Duration::from_secs(60),
            harness: Harness::Command,
            allowance: Allowance::default(),
        };
        let begun = Instant::now();
        while let Some(wait) = mirrors.prepare(&spec).await {
            assert!(mirrors.awaited_by("t"));
            if begun.elapsed() > at_most {
                break;
            }
            sleep(wait).await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_launch_goes_on_without_a_history_that_takes_long() {
        let longer = SHALLOW_PATIENCE * 3;
        assert!(waited(Some(1), longer).await < SHALLOW_PATIENCE * 2);
        assert!(waited(None, longer).await > longer, "this one needs it");
    }
}
