//! One project with sensors in all languages, on one machine and in a stack: the same
//! deliveries, the same events.

use crate::around::sandboxes;
use crate::machine::Serving;
use crate::stack::{Deployed, LONG};
use loopy_contract::manifest::Manifest;
use loopy_localstack::{Loopy, eventually, prepared};
use loopy_testkit::daytona::Daytona;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

const PYTHON: &str = include_str!("sensors/hooks.py");
const BROKEN: &str = include_str!("sensors/broken.py");
const TYPESCRIPT: &str = include_str!("sensors/hooks.ts");
const NUMBERS: &str = include_str!("sensors/numbers.ts");

/// What scripts do, by the case they are for.
const SCRIPTS: [(&str, &str); 6] = [
    (
        "one",
        "echo '{\"case\": \"one\", \"by\": \"shell\", \"value\": 1}'",
    ),
    ("none", "true"),
    (
        "several",
        "for n in 1 2; do echo '{\"case\": \"several\", \"by\": \"shell\", \"value\": '$n'}'; done",
    ),
    (
        "request",
        "body=$(od -An -v -tu1 | tr -s ' \\n' ',' | sed 's/^,//; s/,$//')\n\
         custom=$(printf %s \"$LOOPY_HEADERS\" | sed 's/.*\"x-custom\":\"\\([^\"]*\\)\".*/\\1/')\n\
         echo '{\"case\": \"request\", \"by\": \"shell\", \"value\": [\"'$LOOPY_METHOD'\", \
         \"'$LOOPY_PATH'\", \"'$custom'\", \"'\"$LOOPY_QUERY\"'\", ['$body']]}'",
    ),
    (
        "environment",
        "names=$(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\"\\1\"/p' | sort | tr '\\n' ',')\n\
         echo '{\"case\": \"environment\", \"by\": \"shell\", \"value\": {\"names\": ['${names%,}'], \
         \"token\": \"'$TOKEN'\"}}'",
    ),
    (
        "crash",
        "echo '{\"case\": \"crash\", \"by\": \"shell\", \"value\": 1}'; kill -9 $$",
    ),
];

const POLL_SCRIPT: &str = "# loopy: poll=\"EVERY\" emits=\"Seen\" on_change=\"true\"\n\
    count=$(wc -l < \"$LOOPY_SNAPSHOT\")\n\
    echo '{\"case\": \"poll\", \"by\": \"shell\", \"value\": '$count'}'\n";

const REGISTRY: &str = "sandboxes:
  Cloud: { provider: daytona, image: { base: debian:bookworm-slim } }
agents:
  Shell: { harness: command, sandbox: Cloud }
events:
  Seen: { case: str, by: str, value: json }
";

/// It looks at each event and starts on none.
const STEP: &str = "---
on: { event: Seen, when: event.case == \"never\" }
agent: Shell
---
true
";

/// What the secret of sensors holds.
const ENVIRONMENT: &str = "TOKEN=the sensors' own\n";

/// A project with all of them, whose polls come every so often.
fn project(every: &str) -> (TempDir, Daytona) {
    let daytona = sandboxes("/usr/bin:/bin");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).unwrap();
        std::fs::write(file, text.replace("EVERY", every)).unwrap();
    };
    write("registry.yml", REGISTRY);
    write("workflows/look/at.md", STEP);
    write("sensors/hooks.py", PYTHON);
    write("sensors/broken.py", BROKEN);
    write("sensors/hooks.ts", TYPESCRIPT);
    write("sensors/lib/numbers.ts", NUMBERS);
    write("sensors/.env", ENVIRONMENT);
    // Of other people, as their installers put them there.
    write("sensors/site-packages/brought.py", "ONE = 1\n");
    write(
        "sensors/node_modules/brought/index.js",
        "exports.ONE = 1;\n",
    );
    for (case, script) in SCRIPTS {
        let header = format!(
            "#!/bin/sh\n# loopy: webhook=\"/shell/{case}\" emits=\"Seen\" verify=\"none\"\n"
        );
        write(&format!("sensors/sh_{case}.sh"), &(header + script + "\n"));
    }
    write("sensors/sh_poll.sh", POLL_SCRIPT);
    let own = format!(
        "DAYTONA_API_KEY={}\nDAYTONA_API_URL={}\n",
        daytona.key(),
        daytona.url()
    );
    write("loopy.env", &own);
    (folder, daytona)
}

async fn post(base: &str, path: &str, body: Vec<u8>) -> u16 {
    let sent = reqwest::Client::new()
        .post(format!("{base}{path}"))
        .header("X-CuStOm", "any case")
        .body(body)
        .send();
    sent.await.unwrap().status().as_u16()
}

/// What was seen: for each language and case its values, in order.
fn seen(records: &Value) -> BTreeMap<(String, String), Vec<Value>> {
    let mut found: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    for record in records.as_array().unwrap() {
        let fields = &record["event"]["fields"];
        let text = |name: &str| fields[name].as_str().unwrap().to_owned();
        let of = (text("by"), text("case"));
        found.entry(of).or_default().push(fields["value"].clone());
    }
    for values in found.values_mut() {
        values.sort_by_key(ToString::to_string);
    }
    found
}

/// The cases of each language: the values of the events, which all are delivered.
fn cases() -> Vec<(&'static str, &'static str, Vec<Value>)> {
    let mut cases = Vec::new();
    for by in ["python", "typescript", "shell"] {
        cases.push((by, "one", vec![json!(1)]));
        cases.push((by, "none", vec![]));
        cases.push((by, "several", vec![json!(1), json!(2)]));
        let bytes = json!([255, 0, 97]);
        let query = "a=1&a=2";
        cases.push((
            by,
            "request",
            vec![json!([
                "POST",
                format!("/{by}/request"),
                "any case",
                query,
                bytes
            ])],
        ));
        // None of a process that ended.
        cases.push((by, "crash", vec![]));
    }
    for by in ["python", "typescript"] {
        cases.push((by, "generator", vec![json!(1), json!(2), json!(3)]));
        cases.push((by, "async", vec![json!(1), json!(2)]));
        cases.push((by, "stream", vec![json!(0), json!(1)]));
    }
    cases
}

/// Sends each case's delivery, and waits for the events.
async fn told(base: &str, list: impl Fn() -> Value) {
    for (by, case, _) in cases() {
        let path = format!("/{by}/{case}?a=1&a=2");
        let body = vec![0xff, 0, b'a'];
        assert_eq!(post(base, &path, body).await, 202, "{path}");
    }
    for by in ["python", "typescript", "shell"] {
        assert_eq!(post(base, &format!("/{by}/environment"), vec![]).await, 202);
    }
    let expected: BTreeMap<_, _> = cases()
        .into_iter()
        .filter(|(_, _, values)| !values.is_empty())
        .map(|(by, case, values)| ((by.to_owned(), case.to_owned()), values))
        .collect();
    eventually("the events", LONG, async || {
        let mut found = seen(&list());
        found.retain(|(_, case), _| !["environment", "poll", "broken"].contains(&case.as_str()));
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:#?}"))
        }
    })
    .await
    .unwrap();
    let allowed: BTreeSet<&str> = [
        "PATH",
        "LANG",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "TZ",
        "TOKEN",
        "MENDED",
        // A shell says where it is.
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        // A script finds its delivery there.
        "LOOPY_METHOD",
        "LOOPY_PATH",
        "LOOPY_QUERY",
        "LOOPY_HEADERS",
    ]
    .into();
    let environments = eventually("the environments", LONG, async || {
        let mut found = seen(&list());
        found.retain(|(_, case), _| case == "environment");
        if found.len() == 3 {
            Ok(found)
        } else {
            Err(format!("{found:#?}"))
        }
    })
    .await
    .unwrap();
    for ((by, _), values) in environments {
        let value = &values[0];
        assert_eq!(value["token"], "the sensors' own", "{by}");
        let names = value["names"].as_array().unwrap().iter();
        let strange: Vec<&str> = names
            .map(|name| name.as_str().unwrap())
            .filter(|name| !allowed.contains(name))
            .collect();
        assert_eq!(strange, [""; 0], "{by}");
    }
}

/// Each poll sees what its last turn gave; what it gives again is no event.
async fn polled(list: impl Fn() -> Value) {
    let expected: BTreeMap<_, _> = ["python", "typescript", "shell"]
        .map(|by| ((by.to_owned(), "poll".to_owned()), vec![json!(0), json!(1)]))
        .into();
    eventually("the polls", LONG, async || {
        let mut found = seen(&list());
        found.retain(|(_, case), _| case == "poll");
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:#?}"))
        }
    })
    .await
    .unwrap();
}

async fn answers(base: &str, path: &str, status: u16) {
    // The same delivery again would be answered as before.
    let mut count = 0_u8;
    eventually("another answer", LONG, async || {
        count += 1;
        match post(base, path, vec![b'#', count]).await {
            found if found == status => Ok(()),
            found => Err(format!("{path} answers {found}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn sensors_in_all_languages_on_one_machine() {
    let (project, _daytona) = project("1s");
    let folder = project.path().to_str().unwrap();
    let python = prepared("LOOPY_TEST_PYTHON").unwrap();
    let variables = [
        ("LOOPY_PYTHON", python.as_str()),
        ("AWS_SECRET_ACCESS_KEY", "of the engine's process"),
        ("GITHUB_WEBHOOK_SECRET", "the engine's"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loopy = Loopy::new(BTreeMap::from(variables)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let base = format!("http://{address}");
    let runner = format!("{}/loopy-runner", prepared("LOOPY_TEST_DIST").unwrap());
    let mut arguments = vec!["run", folder, "--listen", &address];
    arguments.extend(["--public-url", &base, "--runner", &runner]);
    let log = project.path().join("said");
    let serving = loopy
        .command(&arguments)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let _serving = Serving(serving);
    let said = || std::fs::read_to_string(&log).unwrap();
    eventually("the sensors to be loaded", LONG, async || {
        let said = said();
        if said.contains("sensor broken cannot be loaded") && said.contains("MENDED") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await
    .unwrap();
    assert!(
        !said().contains("sensor one cannot be loaded"),
        "{}",
        said()
    );

    let list = || {
        let mut arguments = vec![
            "events", "list", "--event", "Seen", "--limit", "500", "--json",
        ];
        arguments.extend(["--project", folder]);
        loopy.json(&arguments).unwrap()
    };
    assert_eq!(post(&base, "/python/broken", vec![]).await, 503);
    told(&base, list).await;
    polled(list).await;
    // It is loaded again, by and by.
    std::fs::write(
        project.path().join("sensors/.env"),
        format!("{ENVIRONMENT}MENDED=yes\n"),
    )
    .unwrap();
    answers(&base, "/python/broken", 202).await;
}

#[tokio::test]
async fn sensors_in_all_languages_in_a_stack() {
    let (project, _daytona) = project("1h");
    let folder = project.path().to_str().unwrap();
    let deployed = Deployed::nothing("sensors");
    let first = deployed.deploy(folder, &["--yes", "--json"]);
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    // The stack stands, and its deployment says which sensor cannot be loaded.
    assert_eq!(first.status.code(), Some(1), "{said}");
    assert!(said.contains("sensor broken cannot be loaded"), "{said}");
    let answer: Value = serde_json::from_slice(&first.stdout).unwrap();
    let url = answer["webhooks"]["py_one"].as_str().unwrap();
    let base = url.strip_suffix("/python/one").unwrap().to_owned();

    let list = || {
        let mut arguments = vec![
            "events", "list", "--event", "Seen", "--limit", "500", "--json",
        ];
        arguments.extend(deployed.place());
        deployed.loopy.json(&arguments).unwrap()
    };
    told(&base, list).await;

    // As the schedules send it, three times.
    let queue = deployed.output("DeliveriesQueue");
    for tick in 1..=3 {
        for sensor in ["py_poll", "ts_poll", "sh_poll"] {
            let at = format!("2030-01-01T0{tick}:00:00Z");
            let message = json!({"kind": "poll", "sensor": sensor, "scheduled_at": at});
            let message = message.to_string();
            let mut send = vec!["sqs", "send-message", "--queue-url", &queue];
            send.extend(["--message-body", &message]);
            deployed.account.aws(&send);
        }
        let count = tick.min(2);
        eventually("a turn", LONG, async || {
            let found = seen(&list());
            let turns = found.iter().filter(|((_, case), _)| case == "poll");
            let all: usize = turns.map(|(_, values)| values.len()).sum();
            if all == 3 * count && deployed.waiting("DeliveriesQueue") <= crashes() {
                Ok(())
            } else {
                Err(format!("{found:#?}"))
            }
        })
        .await
        .unwrap();
    }
    polled(list).await;

    // Deliveries to it are refused, those to its neighbours are not.
    answers(&base, "/python/broken", 503).await;
    assert_eq!(post(&base, "/python/one", vec![1]).await, 202);

    // It can be asked without one.
    let function = deployed.account.aws(&[
        "lambda",
        "get-function-configuration",
        "--function-name",
        &deployed.resource("SensorFunction"),
    ]);
    let variable = |name: &str| {
        let value = &function["Environment"]["Variables"][name];
        value.as_str().unwrap().to_owned()
    };
    let (bucket, hash) = (variable("LOOPY_ASSETS_BUCKET"), variable("LOOPY_MANIFEST"));
    let file = project.path().join("manifest.json");
    let file = file.to_str().unwrap();
    let key = format!("s3://{bucket}/manifests/{hash}.json");
    deployed.account.aws(&["s3", "cp", "--quiet", &key, file]);
    let manifest = Manifest::from_json(&std::fs::read(file).unwrap()).unwrap();
    let config = deployed.account.config().await;
    let load = async || {
        let found = loopy_infra::load_sensors(&config, deployed.stack, &manifest);
        found.await.unwrap()
    };
    let found = load().await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["broken"]);
    assert!(found["broken"].contains("MENDED"), "{found:?}");
    std::fs::write(
        project.path().join("sensors/.env"),
        format!("{ENVIRONMENT}MENDED=yes\n"),
    )
    .unwrap();
    // The sensors may read one variable more.
    let refused = deployed.deploy(folder, &["--yes", "--json"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("secrets: sensors: MENDED"), "{said}");
    let second = deployed.deploy(folder, &["--yes", "--json", "--approve"]);
    assert!(second.status.success());
    assert_eq!(load().await, BTreeMap::new());
    assert_eq!(post(&base, "/python/broken", vec![2]).await, 202);

    // A host holds to the limits of a call.
    for (output, module, function) in [
        ("PythonSensors", "sensors.hooks", json!("sleeps")),
        ("TypescriptSensors", "sensors/hooks.ts.mjs", json!("sleeps")),
    ] {
        let request = json!({
            "ask": "call", "sensor": "sleeps", "module": module, "function": function,
            "emits": "Seen", "events": {"Seen": ["case", "by", "value"]},
            "call": {"kind": "tick", "scheduled_at": "2030-01-01T00:00:00Z",
                     "last_run": "2030-01-01T00:00:00Z", "snapshot": []},
            "limits": {"time_ms": 500, "response_bytes": 1000},
        });
        let name = deployed.output(output);
        let answer = project.path().join("answer.json");
        let answer = answer.to_str().unwrap();
        let request = request.to_string();
        let mut invoke = vec!["lambda", "invoke", "--function-name", &name];
        invoke.extend(["--payload", &request, answer]);
        deployed.account.aws(&invoke);
        let answer: Value = serde_json::from_slice(&std::fs::read(answer).unwrap()).unwrap();
        let expected = json!({"error": "it did not come back within 0.5 s"});
        assert_eq!(answer, expected, "{output}");
    }
}

/// How many deliveries come again and again, as their sensor ends its process.
fn crashes() -> u64 {
    let crashes = cases().into_iter().filter(|(_, case, _)| *case == "crash");
    u64::try_from(crashes.count()).unwrap()
}
