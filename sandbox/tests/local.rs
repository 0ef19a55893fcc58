//! The local provider with a real runner: a small shell script that notes what
//! it sees.
#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_contract::manifest::{Harness, ModelKeys, Sandbox};
use loopy_engine::ports::{Allowance, Launch, LaunchError, LaunchSpec, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use loopy_sandbox::Providers;
use loopy_sandbox::local::{Local, LocalConfig, PLAIN_PATH};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TOKEN: &str = "secret-of-one-attempt";

struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
        }
    }

    /// Providers whose runner is this script.
    fn providers(&self, script: &str) -> Providers {
        let runner = self.directory.path().join("runner.sh");
        fs::write(&runner, script).unwrap();
        Providers::new().with_local(Local::new(LocalConfig {
            state: self.directory.path().join("state"),
            runner: vec![
                "/bin/sh".into(),
                runner.to_str().unwrap().into(),
                "an argument".into(),
            ],
            report_url: "http://127.0.0.1:9/report".into(),
            path: PLAIN_PATH.into(),
        }))
    }

    fn sandbox(&self, token: &str) -> PathBuf {
        self.directory.path().join("state/sandboxes").join(token)
    }
}

fn spec(token: &str) -> LaunchSpec {
    LaunchSpec {
        run: "greet-1a2b".into(),
        step: "hello".into(),
        attempt: 2,
        client_token: token.into(),
        name: "Box".into(),
        sandbox: Sandbox {
            provider: "local".into(),
            image: BTreeMap::new(),
            network: vec!["github.com".into()],
            env_file: Vec::new(),
            repos: Vec::new(),
            model_keys: ModelKeys::default(),
        },
        token: TOKEN.into(),
        time_limit: Duration::from_secs(60),
        harness: Harness::Command,
        allowance: Allowance::default(),
    }
}

async fn launch(providers: &Providers, token: &str) -> SandboxRef {
    match providers.launch(&spec(token)).await.unwrap() {
        Launch::Started => SandboxRef {
            provider: "local".into(),
            id: token.into(),
        },
        Launch::Pending(_) => unreachable!("a local launch is never pending"),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what} did not come about"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn number(path: &Path) -> i32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Alive and not a zombie.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[tokio::test]
async fn the_runner_gets_the_launchers_variables_and_a_path_and_nothing_else() {
    let home = Home::new();
    let providers = home.providers(
        "cat /proc/$$/environ >env.tmp; mv env.tmp env; echo \"$1\"; echo oops >&2; read -r line || echo no input",
    );
    launch(&providers, "six").await;

    let place = home.sandbox("six");
    until("the log", || lines(&place.join("runner.log")).len() == 3).await;
    assert_eq!(
        lines(&place.join("runner.log")),
        ["an argument", "oops", "no input"]
    );
    let seen: BTreeMap<String, String> = String::from_utf8(fs::read(place.join("env")).unwrap())
        .unwrap()
        .split_terminator('\0')
        .map(|one| one.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        // Shells set these two themselves.
        .filter(|(name, _)| name != "PWD" && name != "_" && name != "OLDPWD" && name != "SHLVL")
        .collect();
    let workspace = place.join("work");
    let expected: BTreeMap<String, String> = [
        ("LOOPY_REPORT_URL", "http://127.0.0.1:9/report"),
        ("LOOPY_TOKEN", TOKEN),
        ("LOOPY_RUN_ID", "greet-1a2b"),
        ("LOOPY_STEP", "hello"),
        ("LOOPY_ATTEMPT", "2"),
        ("LOOPY_WORKSPACE", workspace.to_str().unwrap()),
        ("LOOPY_LIMITS", r#"{"processes":2048}"#),
        ("PATH", PLAIN_PATH),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert_eq!(seen, expected);
    assert_eq!(
        fs::metadata(&place).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        fs::metadata(place.join("runner.log"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[tokio::test]
async fn what_the_registry_gives_a_sandbox_holds_for_its_processes() {
    let home = Home::new();
    let providers = home.providers(
        r#"{ grep -c '^Max core file size  *0  *0 ' /proc/self/limits
            sh -c 'grep Cpus_allowed_list /proc/self/status'; echo "$LOOPY_LIMITS"; } >seen.tmp
        mv seen.tmp seen"#,
    );
    let mut limited = spec("limited");
    limited.sandbox.image = [("cpu", 1), ("memory", 3)]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into();
    providers.launch(&limited).await.unwrap();
    let seen = home.sandbox("limited").join("seen");
    until("the runner", || seen.exists()).await;
    let lines = lines(&seen);
    assert_eq!(lines[0], "1", "no core dumps");
    let cores = lines[1].split_once(':').unwrap().1.trim();
    assert!(cores.parse::<u32>().is_ok(), "one core, not {cores}");
    assert_eq!(lines[2], r#"{"memory":3221225472,"processes":2048}"#);

    for key in ["memory", "cpu"] {
        let mut wrong = spec("wrong");
        wrong.sandbox.image = [(key.to_owned(), "lots".into())].into();
        let refused = providers.launch(&wrong).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("`image.{key}`")), "{refused}");
    }
}

#[tokio::test]
async fn the_token_is_in_no_command_line_and_no_file() {
    let home = Home::new();
    let providers = home.providers("cat /proc/$$/cmdline >cmdline; echo $$ >pid; exec sleep 60");
    let reference = launch(&providers, "hidden").await;
    let place = home.sandbox("hidden");
    until("the runner", || place.join("pid").exists()).await;
    for entry in fs::read_dir(&place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(TOKEN), "{}", path.display());
        }
    }
    providers.stop(&reference).await.unwrap();
}

#[tokio::test]
async fn a_second_launch_finds_the_first_even_from_another_engine() {
    let home = Home::new();
    let script = "echo started >>starts; echo $$ >pid; exec sleep 60";
    let first = home.providers(script);
    let reference = launch(&first, "twice").await;
    let place = home.sandbox("twice");
    until("the runner", || place.join("pid").exists()).await;
    let pid = number(&place.join("pid"));

    // What an engine knows is gone with it; the next one has only the files.
    drop(first);
    let second = home.providers(script);
    assert_eq!(launch(&second, "twice").await, reference);
    assert!(lives(pid));
    assert_eq!(lines(&place.join("starts")), ["started"]);
    assert_eq!(second.state(&reference).await.unwrap(), SandboxState::Alive);
    second.stop(&reference).await.unwrap();
    assert_eq!(second.state(&reference).await.unwrap(), SandboxState::Gone);
}

/// The engine of the test below; does nothing unless that test runs it.
#[tokio::test]
async fn an_engine_that_will_be_killed() {
    let Ok(directory) = std::env::var("LOOPY_TEST_ENGINE_HOME") else {
        return;
    };
    let state = Path::new(&directory).join("state");
    let script = Path::new(&directory).join("runner.sh");
    let providers = Providers::new().with_local(Local::new(LocalConfig {
        state,
        runner: vec!["/bin/sh".into(), script.to_str().unwrap().into()],
        report_url: "http://127.0.0.1:9".into(),
        path: PLAIN_PATH.into(),
    }));
    launch(&providers, "survivor").await;
    fs::write(Path::new(&directory).join("launched"), "").unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn the_runner_survives_an_engine_that_is_killed_with_its_group() {
    let home = Home::new();
    let providers = home.providers("echo $$ >pid; exec sleep 60");
    let mut engine = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_engine_that_will_be_killed"])
        .env("LOOPY_TEST_ENGINE_HOME", home.directory.path())
        .process_group(0)
        .spawn()
        .unwrap();
    let place = home.sandbox("survivor");
    until("the launch", || {
        home.directory.path().join("launched").exists()
    })
    .await;
    until("the runner", || !lines(&place.join("pid")).is_empty()).await;
    let killed = Command::new("/bin/sh")
        .args(["-c", &format!("kill -9 -{}", engine.id())])
        .status()
        .unwrap();
    assert!(killed.success());
    engine.wait().unwrap();

    let reference = launch(&providers, "survivor").await;
    assert!(lives(number(&place.join("pid"))));
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Alive
    );
    providers.stop(&reference).await.unwrap();
    assert!(!lives(number(&place.join("pid"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launches_at_the_same_time_start_one_runner() {
    let home = Home::new();
    let providers = home.providers("echo started >>starts; exec sleep 60");
    let launches: Vec<_> = (0..8)
        .map(|_| {
            let providers = providers.clone();
            tokio::spawn(async move { launch(&providers, "race").await })
        })
        .collect();
    let mut reference = None;
    for one in launches {
        reference = Some(one.await.unwrap());
    }
    let place = home.sandbox("race");
    until("the runner", || place.join("starts").exists()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(lines(&place.join("starts")), ["started"]);
    providers.stop(&reference.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_launch_finds_the_process_of_a_launcher_that_died_before_the_record() {
    let home = Home::new();
    let providers = home.providers("echo started >>starts; exec sleep 60");
    let place = home.sandbox("orphan");
    fs::create_dir_all(&place).unwrap();
    // As a launcher leaves it that is killed right after it spawned: a process
    // with the sandbox's environment that has not introduced itself yet, and the
    // log that was made for it.
    fs::write(place.join("runner.log"), "").unwrap();
    let introduction = r#"sleep 0.5; read -r stat </proc/$$/stat; read -r boot </proc/sys/kernel/random/boot_id
        printf '{"boot":"%s","stat":"%s"}' "$boot" "$stat" >record.json; exec sleep 60"#;
    let mut orphan = Command::new("setsid")
        .args(["sh", "-c", introduction])
        .env_clear()
        .env("PATH", PLAIN_PATH)
        .env("LOOPY_WORKSPACE", place.join("work"))
        .current_dir(&place)
        .spawn()
        .unwrap();

    let reference = launch(&providers, "orphan").await;
    assert!(
        !place.join("starts").exists(),
        "a second runner was started"
    );
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Alive
    );
    let stopped = tokio::spawn(async move {
        providers.stop(&reference).await.unwrap();
    });
    let status = tokio::task::spawn_blocking(move || orphan.wait())
        .await
        .unwrap()
        .unwrap();
    stopped.await.unwrap();
    assert!(!status.success());
}

#[tokio::test]
async fn one_that_was_never_launched_is_gone_and_one_being_launched_is_not() {
    let home = Home::new();
    let providers = home.providers("exec sleep 60");
    let reference = SandboxRef {
        provider: "local".into(),
        id: "early".into(),
    };
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Gone
    );
    assert!(!home.sandbox("early").exists(), "looking makes nothing");

    // As it is while another process launches: the lock held, no record yet.
    let place = home.sandbox("early");
    fs::create_dir_all(&place).unwrap();
    let lock = fs::File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Alive
    );
    drop(lock);
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Gone
    );
}

#[tokio::test]
async fn a_launch_that_comes_after_the_stop_starts_nothing() {
    let home = Home::new();
    let providers = home.providers("echo started >>starts; exec sleep 60");
    let reference = SandboxRef {
        provider: "local".into(),
        id: "late".into(),
    };
    providers.stop(&reference).await.unwrap();
    assert_eq!(launch(&providers, "late").await, reference);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!home.sandbox("late").join("starts").exists());
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Gone
    );
}

#[tokio::test]
async fn a_runner_that_ended_is_gone_and_is_not_started_again() {
    let home = Home::new();
    let providers = home.providers("echo started >>starts");
    let reference = launch(&providers, "short").await;
    let place = home.sandbox("short");
    until("the runner", || place.join("starts").exists()).await;
    let start = Instant::now();
    while providers.state(&reference).await.unwrap() == SandboxState::Alive {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(launch(&providers, "short").await, reference);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(lines(&place.join("starts")), ["started"]);
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Gone
    );
}

#[tokio::test]
async fn a_runner_that_ended_leaves_no_zombie() {
    let home = Home::new();
    let providers = home.providers("echo $$ >pid");
    launch(&providers, "reaped").await;
    let place = home.sandbox("reaped");
    until("the runner", || !lines(&place.join("pid")).is_empty()).await;
    let pid = number(&place.join("pid"));
    until("the end", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn stop_ends_the_whole_crowd_and_removes_the_workspace() {
    let home = Home::new();
    // A runner that will not listen, a child in its group, and two that made
    // sessions of their own: one whose parent is gone, and one that dropped its
    // environment while its parent lives.
    let providers = home.providers(
        r#"trap '' TERM
        mkdir -p work/read-only; echo x >work/read-only/file; chmod 500 work/read-only
        sleep 300 & echo $! >child
        (setsid sh -c 'echo $$ >stray; exec sleep 300' &)
        setsid env -i PATH="$PATH" sh -c 'echo $$ >bare; exec sleep 300' &
        echo $$ >leader
        while :; do sleep 0.1; done"#,
    );
    let reference = launch(&providers, "crowd").await;
    let place = home.sandbox("crowd");
    let names = ["leader", "child", "stray", "bare"];
    until("the crowd", || {
        names
            .iter()
            .all(|name| !lines(&place.join(name)).is_empty())
    })
    .await;
    let pids: Vec<i32> = names.iter().map(|name| number(&place.join(name))).collect();
    assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");

    let bystander = launch(&home.providers("exec sleep 300"), "bystander").await;
    providers.stop(&reference).await.unwrap();
    for (name, pid) in names.iter().zip(&pids) {
        assert!(!lives(*pid), "{name} still lives");
    }
    assert!(!place.join("work").exists());
    assert!(place.join("runner.log").exists(), "the log is kept");
    assert_eq!(
        providers.state(&reference).await.unwrap(),
        SandboxState::Gone
    );
    assert_eq!(
        providers.state(&bystander).await.unwrap(),
        SandboxState::Alive
    );

    providers.stop(&reference).await.unwrap();
    providers.stop(&bystander).await.unwrap();
}

#[tokio::test]
async fn stop_asks_first() {
    let home = Home::new();
    let providers = home.providers(
        "trap 'echo asked >asked; exit 0' TERM; echo ready >ready; while :; do sleep 0.05; done",
    );
    let reference = launch(&providers, "polite").await;
    let place = home.sandbox("polite");
    until("the runner", || place.join("ready").exists()).await;
    let start = Instant::now();
    providers.stop(&reference).await.unwrap();
    assert!(place.join("asked").exists());
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "it waited though the runner was gone"
    );
}

#[tokio::test]
async fn stop_ends_strays_whose_runner_died() {
    let home = Home::new();
    let providers = home.providers("(setsid sh -c 'echo $$ >stray; exec sleep 300' &)\nsleep 0.3");
    let reference = launch(&providers, "left").await;
    let place = home.sandbox("left");
    until("the stray", || !lines(&place.join("stray")).is_empty()).await;
    let stray = number(&place.join("stray"));
    let start = Instant::now();
    while providers.state(&reference).await.unwrap() == SandboxState::Alive {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(lives(stray));
    providers.stop(&reference).await.unwrap();
    assert!(!lives(stray));
}

#[tokio::test]
async fn the_runner_leads_a_session_of_its_own() {
    let home = Home::new();
    let providers = home.providers("cat /proc/$$/stat >stat.tmp; mv stat.tmp stat; exec sleep 60");
    let reference = launch(&providers, "session").await;
    let place = home.sandbox("session");
    until("the runner", || place.join("stat").exists()).await;
    let stat = fs::read_to_string(place.join("stat")).unwrap();
    let pid = stat.split(' ').next().unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!((fields[2], fields[3]), (pid, pid), "group and session");
    providers.stop(&reference).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_its_reason() {
    let home = Home::new();
    let with = |runner: &str, path: &str| {
        Providers::new().with_local(Local::new(LocalConfig {
            state: home.directory.path().join("state"),
            runner: vec![runner.into()],
            report_url: "http://127.0.0.1:9".into(),
            path: path.into(),
        }))
    };
    let refusal = async |providers: Providers, spec: LaunchSpec| match providers.launch(&spec).await
    {
        Err(LaunchError::Refused(why)) => why,
        other => format!("not refused: {other:?}"),
    };
    let why = refusal(with("/no/such/runner", PLAIN_PATH), spec("missing")).await;
    assert!(why.contains("/no/such/runner"), "{why}");
    let why = refusal(with("/bin/sh", "/no/such/path"), spec("tools")).await;
    assert!(
        why.contains("`setsid`") && why.contains("/no/such/path"),
        "{why}"
    );
    let why = refusal(with("/bin/sh", PLAIN_PATH), spec("../escape")).await;
    assert!(why.contains("../escape"), "{why}");
    let mut unknown = spec("balloon");
    unknown.sandbox.provider = "balloon".into();
    let why = refusal(with("/bin/sh", PLAIN_PATH), unknown).await;
    assert!(
        why.contains("sandbox `Box`") && why.contains("`balloon`"),
        "{why}"
    );
    assert!(
        why.contains("`local`, `docker`, `daytona` and `fargate`"),
        "{why}"
    );
    let mut elsewhere = spec("daytona");
    elsewhere.sandbox.provider = "daytona".into();
    let why = refusal(with("/bin/sh", PLAIN_PATH), elsewhere).await;
    assert!(
        why.contains("can't be used where this engine runs; it has `local`"),
        "{why}"
    );
}
