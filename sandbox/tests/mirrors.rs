//! Mirrors of real repositories behind git's own server, and what local sandboxes learn
//! of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use loopy_contract::manifest::{Harness, ModelKeys, Repo, Sandbox};
use loopy_contract::repository::mirror_name;
use loopy_engine::ports::{
    Allowance, Launch, LaunchSpec, PortError, SandboxState, Sandboxes, Secrets,
};
use loopy_engine::run::SandboxRef;
use loopy_sandbox::Providers;
use loopy_sandbox::local::{Local, LocalConfig, PLAIN_PATH};
use loopy_sandbox::mirrors::Mirrors;
use loopy_testkit::git::GitHost;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

const PASSWORD: &str = "ghs_a-token-for-tests";
/// Bytes of the repository that cannot be compressed.
const LARGE: u64 = 300_000;

/// Runs a script in `place`; gives its output.
fn shell(place: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Gives the sandbox with the `env_file` `secrets` what lets it in.
struct Environment;

#[async_trait]
impl Secrets for Environment {
    async fn sandbox_env(
        &self,
        _name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        let helper = "!f() { echo username=x; echo \"password=$GITHUB_TOKEN\"; }; f";
        let all = [
            ("GITHUB_TOKEN", PASSWORD),
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "credential.helper"),
            ("GIT_CONFIG_VALUE_0", helper),
        ];
        let own = all.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let known = sandbox.env_file.iter().any(|file| file == "secrets");
        Ok(if known { own.into() } else { BTreeMap::new() })
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

/// A project, and a host with a repository that it clones.
struct World {
    place: TempDir,
    host: GitHost,
}

impl World {
    fn new(password: Option<&str>) -> Self {
        let place = tempfile::tempdir().unwrap();
        shell(
            place.path(),
            &format!(
                "mkdir repos && git init -q -b main work && cd work
                 git config user.email t@example.com && git config user.name t
                 head -c {LARGE} /dev/urandom > large && git add large && git commit -qm 1
                 git commit -qm 2 --allow-empty
                 git clone -q --bare . ../repos/origin.git"
            ),
        );
        let host = GitHost::start(&place.path().join("repos"), password).unwrap();
        Self { place, host }
    }

    fn url(&self) -> String {
        self.host.url("origin.git")
    }

    fn commit(&self) -> String {
        shell(
            &self.place.path().join("work"),
            "date +%N > f && git add f && git commit -qm more && git push -q ../repos/origin.git main
             git rev-parse HEAD",
        )
    }

    fn mirrors(&self, path: &str) -> Mirrors {
        let folder = self.place.path().join("state/cache/mirrors");
        Mirrors::new(folder, path.to_owned(), Arc::new(Environment))
    }

    /// Providers whose runner notes what it knows of mirrors.
    fn providers(&self, mirrors: Mirrors) -> Providers {
        let runner = self.place.path().join("runner.sh");
        fs::write(
            &runner,
            "echo \"$LOOPY_MIRRORS\" >mirrors.tmp; mv mirrors.tmp mirrors",
        )
        .unwrap();
        let local = Local::new(LocalConfig {
            state: self.place.path().join("state"),
            runner: vec!["/bin/sh".into(), runner.to_str().unwrap().into()],
            report_url: "http://127.0.0.1:9".into(),
            path: PLAIN_PATH.into(),
        });
        Providers::new().with_local(local.with_mirrors(mirrors))
    }

    fn spec(&self, token: &str) -> LaunchSpec {
        let repo = Repo {
            url: self.url(),
            r#ref: None,
            path: None,
            depth: None,
        };
        LaunchSpec {
            run: "greet-1a2b".into(),
            step: "hello".into(),
            attempt: 1,
            client_token: token.into(),
            name: "Box".into(),
            sandbox: Sandbox {
                provider: "local".into(),
                image: BTreeMap::new(),
                network: Vec::new(),
                env_file: vec!["secrets".to_owned()],
                repos: vec![repo],
                model_keys: ModelKeys::default(),
            },
            token: "secret-of-one-attempt".into(),
            time_limit: Duration::from_secs(60),
            harness: Harness::Command,
            allowance: Allowance::default(),
        }
    }

    /// Launches until it is not pending any more; gives what the runner knows.
    async fn launch(&self, providers: &Providers, spec: &LaunchSpec) -> Option<PathBuf> {
        let begun = Instant::now();
        while let Launch::Pending(_) = providers.launch(spec).await.unwrap() {
            assert!(begun.elapsed() < Duration::from_secs(60), "still pending");
        }
        let noted = self.sandbox(&spec.client_token).join("mirrors");
        until("the runner", || noted.exists()).await;
        let text = fs::read_to_string(noted).unwrap();
        (!text.trim().is_empty()).then(|| PathBuf::from(text.trim()))
    }

    fn sandbox(&self, token: &str) -> PathBuf {
        self.place.path().join("state/sandboxes").join(token)
    }

    /// The mirror of its repository in `folder`.
    fn mirror(&self, folder: Option<PathBuf>) -> PathBuf {
        folder.unwrap().join(mirror_name(&self.url()))
    }

    /// A folder with a `git` that does `first` before it is git.
    fn git_that(&self, first: &str) -> String {
        let folder = self.place.path().join("bin");
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("git");
        let real = shell(self.place.path(), "command -v git");
        fs::write(
            &program,
            format!("#!/bin/sh\n{first}\nexec {real} \"$@\"\n"),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:{PLAIN_PATH}", folder.display())
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} did not come about"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn make_stale(mirror: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let fetched = fs::File::options()
        .write(true)
        .open(mirror.with_extension("fetched"))
        .unwrap();
    fetched.set_modified(hour_ago).unwrap();
}

fn is_fresh(mirror: &Path) -> bool {
    let fetched = fs::metadata(mirror.with_extension("fetched")).unwrap();
    fetched.modified().unwrap().elapsed().unwrap() < Duration::from_secs(60)
}

fn head(mirror: &Path) -> String {
    shell(mirror, "git --git-dir=. rev-parse refs/heads/main")
}

#[tokio::test]
async fn the_first_launch_makes_a_mirror_and_the_next_ones_find_it() {
    let world = World::new(None);
    let providers = world.providers(world.mirrors(PLAIN_PATH));
    let first = world.launch(&providers, &world.spec("first")).await;
    assert!(world.host.sent() > LARGE);
    let mirror = world.mirror(first.clone());
    shell(&mirror, "git --git-dir=. fsck --strict");
    assert_eq!(world.launch(&providers, &world.spec("second")).await, first);
    assert_eq!(world.host.sent(), 0, "a fresh one is not fetched");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(mirror.parent().unwrap()), 0o700);
    let pack = shell(&mirror, "echo objects/pack/*.pack");
    assert_eq!(mode(&mirror.join(pack)) & 0o004, 0o004, "for containers");
}

#[tokio::test]
async fn an_old_mirror_is_fetched_beside_the_work() {
    let world = World::new(None);
    let providers = world.providers(world.mirrors(PLAIN_PATH));
    let mirror = world.mirror(world.launch(&providers, &world.spec("first")).await);
    world.host.sent();
    let new = world.commit();
    make_stale(&mirror);
    world.launch(&providers, &world.spec("second")).await;
    until("the fetch", || head(&mirror) == new).await;
    until("its end", || is_fresh(&mirror)).await;
    assert!(world.host.sent() < 5_000, "only what is new");
    // A branch that goes, goes here too.
    shell(
        world.place.path(),
        "git -C repos/origin.git branch -m main other",
    );
    make_stale(&mirror);
    world.launch(&providers, &world.spec("third")).await;
    let branches = || {
        shell(
            &mirror,
            "git --git-dir=. branch --format='%(refname:short)'",
        )
    };
    until("the fetch", || branches() == "other").await;
}

#[tokio::test]
async fn the_token_of_a_private_repository_is_in_no_file_and_no_argument() {
    let world = World::new(Some(PASSWORD));
    let log = world.place.path().join("arguments");
    let path = world.git_that(&format!("echo \"$@\" >> {}", log.display()));
    let providers = world.providers(world.mirrors(&path));
    let found = world.launch(&providers, &world.spec("private")).await;
    assert!(head(&world.mirror(found)).len() == 40);
    let arguments = fs::read_to_string(&log).unwrap();
    assert!(arguments.contains("fetch"), "{arguments}");
    assert!(!arguments.contains(PASSWORD), "{arguments}");
    let found = Command::new("grep")
        .args(["-rlF", PASSWORD, "state"])
        .current_dir(world.place.path())
        .output()
        .unwrap();
    assert!(found.stdout.is_empty(), "{found:?}");

    // Whoever has no token has no way to what was fetched with it.
    let mut other = world.spec("other");
    other.sandbox.env_file.clear();
    assert_eq!(world.launch(&providers, &other).await, None);
}

#[tokio::test]
async fn what_cannot_be_mirrored_is_launched_all_the_same() {
    let world = World::new(Some("another password"));
    let calls = world.place.path().join("calls");
    let path = world.git_that(&format!("echo \"$3\" >> {}", calls.display()));
    let providers = world.providers(world.mirrors(&path));
    assert_eq!(world.launch(&providers, &world.spec("one")).await, None);
    let asked = fs::read_to_string(&calls).unwrap();
    assert_eq!(world.launch(&providers, &world.spec("two")).await, None);
    assert_eq!(
        fs::read_to_string(&calls).unwrap(),
        asked,
        "not at once again"
    );
    let left = shell(world.place.path(), "ls state/cache/mirrors/*");
    assert!(!left.contains(".tmp") && !left.contains(".git"), "{left}");

    let none = world.place.path().join("no-git");
    let without = world.providers(world.mirrors(none.to_str().unwrap()));
    assert_eq!(world.launch(&without, &world.spec("three")).await, None);
}

#[tokio::test]
async fn a_broken_mirror_is_made_anew() {
    let world = World::new(None);
    let providers = world.providers(world.mirrors(PLAIN_PATH));
    let mirror = world.mirror(world.launch(&providers, &world.spec("first")).await);
    shell(&mirror, "rm objects/pack/*");
    let new = world.commit();
    make_stale(&mirror);
    world.launch(&providers, &world.spec("second")).await;
    let sound = || {
        let head = format!("git --git-dir=. log {new} && git --git-dir=. fsck --connectivity-only");
        let check = Command::new("sh")
            .args(["-ec", &head])
            .current_dir(&mirror)
            .output();
        check.is_ok_and(|check| check.status.success())
    };
    until("the new one", sound).await;
    until("its leftovers to go", || {
        !shell(mirror.parent().unwrap(), "ls").contains(".tmp")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_launches_of_two_engines_make_one_mirror() {
    let world = Arc::new(World::new(None));
    let engines = [(); 2].map(|()| world.providers(world.mirrors(PLAIN_PATH)));
    let launches: Vec<_> = (0..8)
        .map(|n| {
            let (world, providers) = (Arc::clone(&world), engines[n % 2].clone());
            tokio::spawn(async move {
                let spec = world.spec(&format!("race-{n}"));
                world.launch(&providers, &spec).await
            })
        })
        .collect();
    for launch in launches {
        assert!(launch.await.unwrap().is_some());
    }
    let sent = world.host.sent();
    assert!((LARGE..2 * LARGE).contains(&sent), "{sent} bytes were sent");
}

#[tokio::test]
async fn a_launch_is_pending_while_its_mirror_is_made() {
    let world = World::new(None);
    let path = world.git_that("sleep 3");
    let providers = world.providers(world.mirrors(&path));
    let spec = world.spec("patient");
    let sandbox = SandboxRef {
        provider: "local".into(),
        id: "patient".into(),
    };
    let launch = providers.launch(&spec).await.unwrap();
    assert!(matches!(launch, Launch::Pending(_)), "{launch:?}");
    assert_eq!(
        providers.state(&sandbox).await.unwrap(),
        SandboxState::Alive
    );
    assert!(world.launch(&providers, &spec).await.is_some());
    let over = async || providers.state(&sandbox).await.unwrap() == SandboxState::Gone;
    let begun = Instant::now();
    while !over().await {
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn shallow_clones_have_a_mirror_too() {
    let world = World::new(None);
    let providers = world.providers(world.mirrors(PLAIN_PATH));
    let mut shallow = world.spec("shallow");
    shallow.sandbox.repos[0].depth = Some(1);
    let mirror = world.mirror(world.launch(&providers, &shallow).await);
    let count = "git --git-dir=. rev-list --count main";
    assert_eq!(shell(&mirror, count), "2", "with the whole history");
}
