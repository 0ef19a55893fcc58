//! The docker provider with a real engine, and runners that are small shell scripts
//! and say what they see to a listener that stands for the engine's.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use bollard::query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions};
use futures::StreamExt;
use loopy_contract::manifest::{Harness, ModelKeys, Repo, Sandbox};
use loopy_contract::repository::mirror_name;
use loopy_engine::ports::{
    Allowance, Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes, Secrets,
};
use loopy_engine::run::SandboxRef;
use loopy_sandbox::docker::{Docker, DockerConfig, Environment, NAME, OpenError};
use loopy_sandbox::local::PLAIN_PATH;
use loopy_sandbox::mirrors::Mirrors;
use loopy_testkit::anthropic::{Block, ModelApi, Script, TokenUsage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::net::TcpListener;

const TOKEN: &str = "secret-of-one-attempt";
/// What `cargo xtask test` has put into the engine: busybox, and the libraries that a
/// runner needs.
const IMAGE: &str = "loopy-test:1";
/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// `say LEAF` posts what comes in on stdin, the way a runner reports. busybox's wget
/// knows no exceptions to a proxy.
const SAY: &str = r#"#!/bin/sh
say() (
  unset http_proxy https_proxy
  body=$(cat)
  wget -q -O /dev/null --header "Authorization: Bearer $LOOPY_TOKEN" --post-data "$body" \
    "$(cat "${LOOPY_REPORT_URL#file://}")/v1/$LOOPY_RUN_ID/$1"
)
"#;

/// What was reported: the last part of the path, the authorization, the body.
type Said = Arc<Mutex<Vec<(String, String, String)>>>;

async fn take(
    State(said): State<Said>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> &'static str {
    let leaf = uri.path().rsplit('/').next().unwrap().to_owned();
    let token = headers.get("authorization").unwrap().to_str().unwrap();
    said.lock().unwrap().push((leaf, token.to_owned(), body));
    "{}"
}

/// What the env_files say, by their names.
struct Env(BTreeMap<String, BTreeMap<String, String>>);

#[async_trait]
impl Secrets for Env {
    async fn sandbox_env(
        &self,
        _: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        let files = sandbox.env_file.iter();
        Ok(files.flat_map(|file| self.0[file].clone()).collect())
    }

    async fn webhook_secrets(&self, _: &str) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        Ok(Vec::new())
    }
}

fn secrets() -> Arc<Env> {
    Arc::new(Env(BTreeMap::new()))
}

/// A project with a listener of its own.
struct Home {
    directory: TempDir,
    docker: Docker,
    said: Said,
    report_to: SocketAddr,
}

fn host() -> String {
    std::env::var("LOOPY_TEST_DOCKER").expect(
        "run `cargo xtask test`, which starts a Docker engine and says in LOOPY_TEST_DOCKER where",
    )
}

fn engine() -> bollard::Docker {
    let socket = host();
    let socket = socket.trim_start_matches("unix://");
    let version = bollard::ClientVersion {
        major_version: 1,
        minor_version: 41,
    };
    bollard::Docker::connect_with_unix(socket, 60, &version).unwrap()
}

/// Serves what takes reports.
async fn listen(said: &Said) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(take).with_state(Arc::clone(said));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

impl Home {
    /// A home whose runner is this script.
    async fn new(script: &str) -> Self {
        Self::with(script, secrets()).await
    }

    async fn with(script: &str, secrets: Arc<Env>) -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("state")).unwrap();
        let runner = directory.path().join("runner.sh");
        fs::write(&runner, format!("{SAY}{script}")).unwrap();
        fs::set_permissions(&runner, fs::Permissions::from_mode(0o755)).unwrap();
        let said = Said::default();
        let report_to = listen(&said).await;
        let docker = Docker::open(config(&directory, report_to), secrets)
            .await
            .unwrap();
        Self {
            directory,
            docker,
            said,
            report_to,
        }
    }

    /// The same project, as another process would open it.
    async fn again(&self) -> Docker {
        Docker::open(config(&self.directory, self.report_to), secrets())
            .await
            .unwrap()
    }

    async fn launch(&self, spec: &LaunchSpec) -> SandboxRef {
        launch(&self.docker, spec).await
    }

    /// What was said under this name, once it was.
    async fn said(&self, leaf: &str) -> String {
        let begun = Instant::now();
        loop {
            for (name, token, body) in self.said.lock().unwrap().iter() {
                if name == leaf {
                    assert_eq!(*token, format!("Bearer {TOKEN}"));
                    return body.clone();
                }
            }
            assert!(begun.elapsed() < LIMIT, "`{leaf}` was not said");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn count(&self, leaf: &str) -> usize {
        let said = self.said.lock().unwrap();
        said.iter().filter(|(name, ..)| name == leaf).count()
    }

    /// All containers of this project, by name.
    async fn containers(&self) -> Vec<String> {
        let state = self.directory.path().join("state").canonicalize().unwrap();
        let label = format!("loopy.project={}", state.display());
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![label])].into()),
            ..ListContainersOptions::default()
        };
        let found = engine().list_containers(Some(options)).await.unwrap();
        found
            .into_iter()
            .map(|one| {
                one.names
                    .unwrap()
                    .remove(0)
                    .trim_start_matches('/')
                    .to_owned()
            })
            .collect()
    }

    /// Ends a sandbox and makes sure that nothing is left.
    async fn end(&self, sandbox: &SandboxRef) {
        self.docker.stop(sandbox).await.unwrap();
        assert_eq!(self.containers().await, [""; 0]);
        assert_eq!(
            self.docker.state(sandbox).await.unwrap(),
            SandboxState::Gone
        );
    }
}

fn config(directory: &TempDir, report_to: SocketAddr) -> DockerConfig {
    DockerConfig {
        tools: directory.path().join("tools"),
        state: directory.path().join("state"),
        host: Some(host()),
        runner: vec![
            directory
                .path()
                .join("runner.sh")
                .to_str()
                .unwrap()
                .to_owned(),
        ],
        report_to,
        report_prefix: "/_loopy".to_owned(),
    }
}

fn spec(token: &str, image: Value, network: &[&str]) -> LaunchSpec {
    let image: BTreeMap<String, Value> = serde_json::from_value(image).unwrap();
    LaunchSpec {
        run: "greet-1a2b".into(),
        step: "hello".into(),
        attempt: 2,
        client_token: token.into(),
        name: "Box".into(),
        sandbox: Sandbox {
            provider: NAME.into(),
            image,
            network: network.iter().map(|&host| host.to_owned()).collect(),
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

async fn launch(docker: &Docker, spec: &LaunchSpec) -> SandboxRef {
    let begun = Instant::now();
    while let Launch::Pending(wait) = docker.launch(spec).await.unwrap() {
        assert!(begun.elapsed() < LIMIT, "the launch does not end");
        tokio::time::sleep(wait.min(Duration::from_millis(100))).await;
    }
    SandboxRef {
        provider: NAME.to_owned(),
        id: spec.client_token.clone(),
    }
}

#[tokio::test]
async fn a_launch_reports_once_whatever_is_repeated() {
    let home = Home::new("echo hello | say here; echo printed; sleep 1000").await;
    let spec = spec("once", json!({"base": IMAGE}), &[]);
    let other = home.again().await;
    let (sandbox, _) = tokio::join!(home.launch(&spec), launch(&other, &spec));
    assert_eq!(home.said("here").await, "hello");
    home.launch(&spec).await;
    launch(&other, &spec).await;
    assert_eq!(
        home.docker.state(&sandbox).await.unwrap(),
        SandboxState::Alive
    );
    assert_eq!(home.containers().await.len(), 1);

    home.end(&sandbox).await;
    // What comes late starts nothing, and another stop is fine.
    launch(&other, &spec).await;
    home.end(&sandbox).await;
    assert_eq!(home.count("here"), 1);
    let log = home
        .directory
        .path()
        .join("state/sandboxes/once/runner.log");
    assert_eq!(fs::read_to_string(log).unwrap(), "printed\n");
}

#[tokio::test]
async fn a_runner_that_ended_is_gone_and_not_started_again() {
    let home = Home::new("echo x | say here").await;
    let spec = spec("ended", json!({"base": IMAGE}), &[]);
    let sandbox = home.launch(&spec).await;
    home.said("here").await;
    let begun = Instant::now();
    while home.docker.state(&sandbox).await.unwrap() == SandboxState::Alive {
        assert!(begun.elapsed() < LIMIT, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    home.launch(&spec).await;
    assert_eq!(
        home.docker.state(&sandbox).await.unwrap(),
        SandboxState::Gone
    );
    home.end(&sandbox).await;
    assert_eq!(home.count("here"), 1);
}

#[tokio::test]
async fn a_stop_before_the_launch_keeps_it_from_starting() {
    let home = Home::new("echo x | say here; sleep 1000").await;
    let sandbox = SandboxRef {
        provider: NAME.to_owned(),
        id: "early".to_owned(),
    };
    home.end(&sandbox).await;
    home.launch(&spec("early", json!({"base": IMAGE}), &[]))
        .await;
    home.end(&sandbox).await;
    assert_eq!(home.count("here"), 0);
}

#[tokio::test]
async fn a_stop_beside_a_launch_leaves_nothing() {
    let home = Home::new("sleep 1000").await;
    for round in 0..6 {
        let token = format!("beside-{round}");
        let spec = spec(&token, json!({"base": IMAGE}), &[]);
        let sandbox = SandboxRef {
            provider: NAME.to_owned(),
            id: token,
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(round * 60)).await;
            home.docker.stop(&sandbox).await.unwrap();
        };
        tokio::join!(home.launch(&spec), late);
        assert_eq!(home.containers().await, [""; 0], "round {round}");
    }
}

#[tokio::test]
async fn the_sandbox_has_no_rights_and_no_secret_but_its_token() {
    let home = Home::new(
        r#"
        id -u | say user
        grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t\n' '  ' | say rights
        { touch /x /opt/x /opt/loopy/engine/x /bin/x 2>&1; :; } | grep -c 'Read-only' | say refused
        touch /tmp/x "$LOOPY_WORKSPACE/x" /loopy/home/x && echo written | say written
        printf '%s' "$LOOPY_WORKSPACE" | say workspace
        printf '%s %s %s' "$LOOPY_RUN_ID" "$LOOPY_STEP" "$LOOPY_ATTEMPT" | say attempt
        env | cut -d= -f1 | grep LOOPY | sort | tr '\n' ' ' | say variables
        sleep 1000
        "#,
    )
    .await;
    let sandbox = home
        .launch(&spec("rights", json!({"base": IMAGE}), &["api.test"]))
        .await;
    assert_eq!(home.said("user").await, "65534");
    let none = "0000000000000000";
    assert_eq!(
        home.said("rights").await.trim(),
        format!("CapPrm: {none} CapEff: {none} CapBnd: {none} NoNewPrivs: 1 Seccomp: 2")
    );
    assert_eq!(home.said("refused").await, "4");
    assert_eq!(home.said("written").await, "written");
    assert_eq!(home.said("workspace").await, "/loopy/work");
    assert_eq!(home.said("attempt").await, "greet-1a2b hello 2");
    assert_eq!(
        home.said("variables").await.trim(),
        "LOOPY_ATTEMPT LOOPY_REPORT_URL LOOPY_RUN_ID LOOPY_STEP LOOPY_TOKEN LOOPY_WORKSPACE"
    );

    let name = home.containers().await.remove(0);
    let found = engine()
        .inspect_container(&name, None::<InspectContainerOptions>)
        .await
        .unwrap();
    let line = format!("{:?} {:?}", found.path, found.args);
    assert!(!line.contains(TOKEN), "{line}");
    let labels = found.config.unwrap().labels.unwrap();
    assert_eq!(labels["loopy"], "1");
    assert_eq!(labels["loopy.run"], "greet-1a2b");
    assert_eq!(labels["loopy.step"], "hello");
    assert_eq!(labels["loopy.attempt"], "2");
    home.end(&sandbox).await;
}

#[tokio::test]
async fn memory_and_processes_are_limited() {
    let home = Home::new(
        r#"
        # tail keeps what it reads in memory.
        head -c 1300m /dev/zero | tail -c 1200m >/dev/null; echo $? | say memory
        sh -c 'i=0; while [ $i -lt 3000 ]; do sleep 1000 & i=$((i + 1)); done' 2>/tmp/forks
        # Built in, as nothing can be started any more.
        kill -9 -1
        cat /tmp/forks | say forks
        sleep 1000
        "#,
    )
    .await;
    let sandbox = home
        .launch(&spec(
            "limits",
            json!({"base": IMAGE, "memory": 1, "cpu": 1}),
            &[],
        ))
        .await;
    assert_eq!(home.said("memory").await, "137");
    let forks = home.said("forks").await;
    assert!(forks.contains("can't fork"), "{forks}");
    let name = home.containers().await.remove(0);
    let found = engine()
        .inspect_container(&name, None::<InspectContainerOptions>)
        .await
        .unwrap();
    let limits = found.host_config.unwrap();
    assert_eq!(limits.memory, Some(1 << 30));
    assert_eq!(limits.memory_swap, Some(1 << 30));
    assert_eq!(limits.nano_cpus, Some(1_000_000_000));
    home.end(&sandbox).await;
}

#[tokio::test]
async fn only_what_is_listed_can_be_reached() {
    // A server that the sandbox could not reach by itself, listed by a name that leads
    // to this machine, for which its address has to be listed too.
    let server = Said::default();
    let near = listen(&server).await.port();
    let home = Home::new(&format!(
        r#"
        get() {{ wget -q -O - --header 'Authorization: x' "$1" 2>&1 && echo; }}
        get http://localhost:{near}/listed | say listed
        get http://unlisted.test/ | say unlisted
        get http://127.0.0.1:1/ | say port
        (unset http_proxy; get http://127.0.0.1:{near}/) | say direct
        gateway=$(echo "$http_proxy" | cut -d/ -f3 | cut -d: -f1)
        (unset http_proxy; get "http://$gateway:{near}/") | say gateway
        nslookup example.com 2>&1 | say names
        env | grep -ic '^http_proxy=\|^https_proxy=\|^no_proxy=' | say variables
        sleep 1000
        "#,
    ))
    .await;
    let listed = format!("localhost:{near}");
    let address = format!("127.0.0.1:{near}");
    let sandbox = home
        .launch(&spec(
            "sealed",
            json!({"base": IMAGE}),
            &[&listed, &address],
        ))
        .await;
    assert_eq!(home.said("listed").await, "{}");
    assert_eq!(server.lock().unwrap().remove(0).0, "listed");
    for what in ["unlisted", "port"] {
        let said = home.said(what).await;
        assert!(said.contains("403 Forbidden"), "{what}: {said}");
    }
    for what in ["direct", "gateway"] {
        let said = home.said(what).await;
        assert!(said.contains("can't connect"), "{what}: {said}");
    }
    let names = home.said("names").await;
    assert!(!names.contains("Name:\texample.com"), "{names}");
    assert_eq!(home.said("variables").await, "6");
    assert!(server.lock().unwrap().is_empty());

    let log = home
        .directory
        .path()
        .join("state/sandboxes/sealed/refused.log");
    let noted = fs::read_to_string(log).unwrap();
    let noted: Vec<&str> = noted
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(
        noted,
        [
            "HTTP unlisted.test:80: unlisted.test:80 is not in the sandbox's `network`",
            "HTTP 127.0.0.1:1: 127.0.0.1:1 is not in the sandbox's `network`",
        ]
    );
    home.end(&sandbox).await;
}

#[tokio::test]
async fn sandboxes_do_not_reach_each_other() {
    let home = Home::new(
        r#"
        ip -4 -o addr show eth0 | sed 's/.*inet \([0-9.]*\).*/\1/' | say address
        echo served >/tmp/index.html
        httpd -p 8000 -h /tmp
        read -r other </dev/null
        sleep 1000
        "#,
    )
    .await;
    let first = home
        .launch(&spec("first", json!({"base": IMAGE}), &["a.test"]))
        .await;
    let address = home.said("address").await;
    let curious = Home::new(&format!(
        "(unset http_proxy; timeout 3 wget -q -O - http://{}:8000/ || echo in vain) | say other",
        address.trim()
    ))
    .await;
    let second = curious
        .launch(&spec("second", json!({"base": IMAGE}), &["a.test"]))
        .await;
    assert_eq!(curious.said("other").await, "in vain");
    home.end(&first).await;
    curious.end(&second).await;
}

#[tokio::test]
async fn an_image_is_built_once() {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let home = Home::new(r#"cat /mark | say "$LOOPY_STEP"; id -un | say "user-$LOOPY_STEP"; touch "$LOOPY_WORKSPACE/x" && echo yes | say "wrote-$LOOPY_STEP"; sleep 1000"#).await;
    let mark = format!("mark-{}", began.as_nanos());
    // Busybox has another command for what the key `user` does.
    let image = json!({
        "base": IMAGE, "workdir": "/srv/place",
        "run": [format!("sleep 1; echo {mark} >/mark")],
    });
    let specs: Vec<LaunchSpec> = (0..3)
        .map(|number| {
            let mut spec = spec(&format!("built-{number}"), image.clone(), &[]);
            spec.step = format!("s{number}");
            spec
        })
        .collect();
    let other = home.again().await;
    let (first, second) = tokio::join!(home.launch(&specs[0]), home.launch(&specs[1]));
    let third = launch(&other, &specs[2]).await;
    for step in ["s0", "s1", "s2"] {
        assert_eq!(home.said(step).await, mark);
        assert_eq!(home.said(&format!("user-{step}")).await, "nobody");
        assert_eq!(home.said(&format!("wrote-{step}")).await, "yes");
    }
    let name = home.containers().await.remove(0);
    let found = engine()
        .inspect_container(&name, None::<InspectContainerOptions>)
        .await
        .unwrap();
    let reference = found.config.unwrap().image.unwrap();
    assert!(reference.starts_with("loopy-sandbox:"), "{reference}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let filters = [
        ("type".to_owned(), vec!["image".to_owned()]),
        ("event".to_owned(), vec!["tag".to_owned()]),
        ("image".to_owned(), vec![reference.clone()]),
    ];
    let options = EventsOptions {
        since: Some(began.as_secs().to_string()),
        until: Some((now.as_secs() + 1).to_string()),
        filters: Some(filters.into()),
    };
    let tagged = engine().events(Some(options)).count().await;
    assert_eq!(tagged, 1, "{reference} was built more than once");
    for sandbox in [first, second, third] {
        home.docker.stop(&sandbox).await.unwrap();
    }
    assert_eq!(home.containers().await, [""; 0]);
}

#[tokio::test]
async fn a_sandbox_without_keys_asks_models_through_the_proxy_until_its_cap() {
    const KEY: &str = "sk-ant-the-real-key";
    let api = ModelApi::start(Script {
        turns: vec![vec![Block::text("hello")]],
        usage: TokenUsage {
            input_tokens: 700,
            output_tokens: 300,
        },
        ..Script::default()
    })
    .unwrap();
    let file = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(pair).collect()
    };
    let files = [
        (
            "agent.env".to_owned(),
            file(&[
                ("ANTHROPIC_API_KEY", KEY),
                ("ANTHROPIC_BASE_URL", &api.url()),
                ("OTHER", "stays"),
            ]),
        ),
        ("bad.env".to_owned(), file(&[("GEMINI_API_KEY", KEY)])),
    ];
    let secrets = Arc::new(Env(files.into()));
    let script = r#"
        base=$(cat "${LOOPY_REPORT_URL#file://}"); base=${base%/_loopy}/_models/anthropic
        ask() (
          unset http_proxy https_proxy
          wget -q -O - --header 'x-api-key: loopy-adds-ANTHROPIC_API_KEY' --post-data "$2" "$base/$1" 2>&1
        )
        for call in first second; do
          ask v1/messages '{"model": "claude-sonnet-4-6", "messages": []}' | say "$call"
        done
        ask v1/files '{}' | say files
        sleep 1000
    "#;
    for network in [[].as_slice(), &["api.test"]] {
        let home = Home::with(script, Arc::clone(&secrets)).await;
        let mut spec = spec("models", json!({"base": IMAGE}), network);
        spec.sandbox.model_keys = ModelKeys::Proxy;
        spec.sandbox.env_file = vec!["agent.env".to_owned()];
        spec.allowance.tokens = Some(1000);
        let sandbox = home.launch(&spec).await;
        let first = home.said("first").await;
        assert!(first.contains("hello"), "{first}");
        let second = home.said("second").await;
        assert!(second.contains("400 Bad Request"), "{second}");
        let files = home.said("files").await;
        assert!(files.contains("403 Forbidden"), "{files}");

        // What the runner gets for the harness.
        let Home {
            directory,
            docker,
            said,
            report_to,
        } = home;
        let docker = Arc::new(docker);
        let environment = Environment::new(Arc::clone(&secrets) as _, Arc::clone(&docker));
        let given = environment.sandbox_env("Box", &spec.sandbox).await;
        let given = given.unwrap();
        drop(environment);
        assert_eq!(given["ANTHROPIC_API_KEY"], "loopy-adds-ANTHROPIC_API_KEY");
        assert!(given["ANTHROPIC_BASE_URL"].ends_with("/_models/anthropic"));
        assert_eq!(given["OTHER"], "stays");
        assert!(!format!("{given:?}").contains(KEY));
        let home = Home {
            directory,
            docker: Arc::into_inner(docker).unwrap(),
            said,
            report_to,
        };

        let name = home.containers().await.remove(0);
        let found = engine()
            .inspect_container(&name, None::<InspectContainerOptions>)
            .await
            .unwrap();
        assert!(!format!("{found:?}").contains(KEY));
        let mut kept = String::new();
        for entry in fs::read_dir(home.directory.path().join("state/sandboxes/models")).unwrap() {
            kept.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        assert!(kept.contains(r#""model":"claude-sonnet-4-6""#), "{kept}");
        assert!(
            kept.contains("POST /_models/anthropic/v1/files: "),
            "{kept}"
        );
        assert!(!kept.contains(KEY), "{kept}");
        home.end(&sandbox).await;
    }
    assert_eq!(api.messages().len(), 2);
    for request in api.messages() {
        assert_eq!(request.headers["x-api-key"], KEY);
    }

    let home = Home::with(script, secrets).await;
    let mut spec = spec("unserved", json!({"base": IMAGE}), &[]);
    spec.sandbox.model_keys = ModelKeys::Proxy;
    spec.sandbox.env_file = vec!["bad.env".to_owned()];
    let why = home.docker.launch(&spec).await.unwrap_err().to_string();
    assert!(
        why.contains("GEMINI_API_KEY") && !why.contains(KEY),
        "{why}"
    );
    assert_eq!(home.containers().await, [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason() {
    let home = Home::new("").await;
    fs::write(
        home.directory.path().join("runner.sh"),
        "#!/no/such/shell\n",
    )
    .unwrap();
    let cases = [
        (
            json!({"base": IMAGE}),
            vec![],
            "the runner can't work in the image loopy-test:1",
        ),
        (
            json!({"base": IMAGE, "run": ["echo why >&2; false"]}),
            vec![],
            "why",
        ),
        (
            json!({"base": "127.0.0.1:1/none:1"}),
            vec![],
            "can't be pulled",
        ),
        (json!({"base": IMAGE, "disk": 3}), vec![], "`image.disk`"),
        (
            json!({"base": IMAGE}),
            vec!["10.0.0.0/8"],
            "`network` has `10.0.0.0/8`",
        ),
        (json!({"base": IMAGE, "cpu": 4000}), vec![], "CPUs"),
    ];
    for (number, (image, network, part)) in cases.into_iter().enumerate() {
        let spec = spec(&format!("refused-{number}"), image, &network);
        let begun = Instant::now();
        let why = loop {
            match home.docker.launch(&spec).await {
                Err(LaunchError::Refused(why)) => break why,
                Ok(Launch::Pending(_)) if begun.elapsed() < LIMIT => {}
                other => unreachable!("{part}: {other:?}"),
            }
        };
        assert!(
            why.starts_with("sandbox `Box`: ") && why.contains(part),
            "{why}"
        );
        home.docker
            .stop(&SandboxRef {
                provider: NAME.to_owned(),
                id: spec.client_token,
            })
            .await
            .unwrap();
    }
    assert_eq!(home.containers().await, [""; 0]);
}

#[tokio::test]
async fn a_container_of_somebody_else_is_not_taken_for_the_sandbox() {
    let home = Home::new("sleep 1000").await;
    let mut spec = spec("taken", json!({"base": IMAGE}), &[]);
    let sandbox = home.launch(&spec).await;
    spec.attempt = 3;
    let why = home.docker.launch(&spec).await.unwrap_err().to_string();
    assert!(why.contains("was not made for attempt 3"), "{why}");
    home.end(&sandbox).await;
}

#[tokio::test]
async fn what_outlives_the_process_finds_the_next_one() {
    let home = Home::new(
        r#"
        echo x | say first
        until [ -e "$LOOPY_WORKSPACE/go" ]; do
          echo x | say again && touch "$LOOPY_WORKSPACE/go"
          sleep 0.1
        done
        wget -q -O - http://unlisted.test/ 2>&1 | say proxy
        sleep 1000
        "#,
    )
    .await;
    let sandbox = home
        .launch(&spec("outlives", json!({"base": IMAGE}), &["a.test"]))
        .await;
    home.said("first").await;
    // The listeners end with the provider, as they do with its process.
    let Home {
        directory,
        docker,
        said,
        report_to,
    } = home;
    drop(docker);
    let docker = Docker::open(config(&directory, report_to), secrets())
        .await
        .unwrap();
    let left = docker.left().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].sandbox, sandbox);
    assert_eq!(
        (left[0].run.as_str(), left[0].step.as_str(), left[0].attempt),
        ("greet-1a2b", "hello", 2)
    );
    let home = Home {
        directory,
        docker,
        said,
        report_to,
    };
    home.said("again").await;
    assert!(home.said("proxy").await.contains("403 Forbidden"));
    home.end(&sandbox).await;
    assert_eq!(home.docker.left().await.unwrap(), []);
}

#[tokio::test]
async fn without_an_engine_it_is_said_where_it_was_looked_for() {
    let directory = TempDir::new().unwrap();
    let mut config = config(&directory, "127.0.0.1:9".parse().unwrap());
    config.state = directory.path().to_owned();
    config.host = Some("unix:///no/such.sock".to_owned());
    let why = Docker::open(config.clone(), secrets()).await.err().unwrap();
    assert!(matches!(why, OpenError::NoAnswer { .. }));
    let why = why.to_string();
    assert!(
        why.contains("unix:///no/such.sock") && why.contains("start Docker"),
        "{why}"
    );
    config.host = Some("tcp://10.0.0.1:2375".to_owned());
    let why = Docker::open(config, secrets())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        why.contains("DOCKER_HOST is `tcp://10.0.0.1:2375`"),
        "{why}"
    );
}

/// No secrets at all.
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

#[tokio::test]
async fn a_sandbox_reads_the_mirrors_of_its_own_repositories_and_writes_none() {
    let home = Home::new(
        r#"cd "$LOOPY_MIRRORS" || exit
        for pack in */objects/pack/*.pack; do wc -c <$pack; done | say read
        { touch new; echo x >>*/HEAD; rm -r */objects; } 2>/dev/null
        ls | say names
        sleep 1000"#,
    )
    .await;
    let place = home.directory.path();
    let git = std::process::Command::new("sh")
        .args([
            "-ec",
            "for name in own other; do
               git init -q -b main $name && cd $name
               git config user.email t@example.com && git config user.name t
               head -c 9000 /dev/urandom >f && git add f && git commit -qm 1 && cd ..
             done",
        ])
        .current_dir(place)
        .output()
        .unwrap();
    assert!(git.status.success(), "{git:?}");
    let with = |token: &str, name: &str| {
        let mut spec = spec(token, json!({"base": IMAGE}), &[]);
        spec.sandbox.repos = vec![Repo {
            url: format!("file://{}/{name}", place.display()),
            r#ref: None,
            path: None,
            depth: None,
        }];
        spec
    };
    let mirrors = Mirrors::new(
        place.join("state/cache/mirrors"),
        PLAIN_PATH.to_owned(),
        Arc::new(NoSecrets),
    );
    let docker = home.again().await.with_mirrors(mirrors);
    let other = launch(&docker, &with("other", "other")).await;
    docker.stop(&other).await.unwrap();
    home.said.lock().unwrap().clear();

    let spec = with("own", "own");
    let sandbox = launch(&docker, &spec).await;
    let read: usize = home.said("read").await.trim().parse().unwrap();
    assert!(read > 9000, "{read}");
    let own = mirror_name(&spec.sandbox.repos[0].url);
    assert_eq!(home.said("names").await.trim(), own);
    let left = std::process::Command::new("sh")
        .args([
            "-ec",
            &format!("git --git-dir=$(echo state/cache/mirrors/*/{own}) fsck --strict"),
        ])
        .current_dir(place)
        .output()
        .unwrap();
    assert!(left.status.success(), "{left:?}");
    home.end(&sandbox).await;
}
