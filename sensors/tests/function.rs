//! The hosts as Lambda functions: their handlers, in a process as Lambda has one, and
//! Secrets Manager as a stand-in answers for it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bench;

use bench::{PLAIN_PATH, python, write};
use loopy_sensors::{NODE_HOST, PYTHON_HOST};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    Python,
    Typescript,
}

const BOTH: [Language; 2] = [Language::Python, Language::Typescript];

/// Calls the handler with each line. One that is `later` puts the clock five minutes on.
const PYTHON_DRIVER: &str = "
import json, sys, time
sys.path.insert(0, sys.argv[1])
import loopy_sensors
now, ahead = time.time, 0
time.time = lambda: now() + ahead
for line in sys.stdin:
    if line == 'later\\n':
        ahead += 300
        continue
    print(json.dumps(loopy_sensors.handler(json.loads(line), None)), flush=True)
";

const NODE_DRIVER: &str = "
import { createInterface } from 'node:readline';
const { handler } = await import(process.argv[2]);
const now = Date.now;
let ahead = 0;
Date.now = () => now() + ahead;
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'later') ahead += 300000;
  else console.log(JSON.stringify(await handler(JSON.parse(line))));
}
process.exit(0);
";

const PYTHON: &str = r#"
import os, sys, time
LOADED = os.environ.get("TOKEN")
calls = 0
def seen(tick):
    global calls
    calls += 1
    return {"text": [LOADED, os.environ.get("TOKEN"), calls]}
def names(tick): return {"text": sorted(os.environ)}
def spins(tick):
    while True: pass
def exits(tick): os._exit(3)
def large(tick): return {"text": "x" * 5000000}
"#;

const TYPESCRIPT: &str = r#"
const LOADED = process.env.TOKEN;
let calls = 0;
export const sensorRegistry = {
  seen: { run: () => ({ text: [LOADED ?? null, process.env.TOKEN ?? null, ++calls] }) },
  names: { run: () => ({ text: Object.keys(process.env).sort() }) },
  spins: { run: () => { for (;;); } },
  exits: { run: () => process.exit(3) },
  large: { run: () => ({ text: "x".repeat(5000000) }) },
};
"#;

/// Its values, which may be changed.
type Secret = Arc<Mutex<Value>>;

/// Secrets Manager, for one secret; its address.
fn secrets_manager(secret: &Secret) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let secret = Arc::clone(secret);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                    break;
                }
                let line = line.to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let asked: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(asked["SecretId"], "arn:secret");
            let text = secret.lock().unwrap().to_string();
            let answer = json!({"ARN": "arn:secret", "SecretString": text}).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                answer.len()
            );
            let stream = stream.get_mut();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

/// A function that stays warm.
struct Function {
    language: Language,
    process: Child,
    requests: ChildStdin,
    responses: BufReader<ChildStdout>,
    secret: Secret,
    folder: tempfile::TempDir,
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Function {
    fn new(language: Language, code: &str, values: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (host, text, module) = match language {
            Language::Python => ("loopy_sensors.py", PYTHON_HOST, "sensors/hooks.py"),
            Language::Typescript => ("loopy_sensors.mjs", NODE_HOST, "sensors/hooks.mjs"),
        };
        write(folder.path(), host, text);
        write(folder.path(), module, code);
        let secret = Arc::new(Mutex::new(values));
        let mut command = match language {
            Language::Python => {
                let mut command = Command::new(python());
                command.args(["-c", PYTHON_DRIVER]).arg(folder.path());
                command
            }
            Language::Typescript => {
                write(folder.path(), "driver.mjs", NODE_DRIVER);
                let node = std::env::split_paths(PLAIN_PATH).map(|dir| dir.join("node"));
                let node: PathBuf = node.into_iter().find(|path| path.is_file()).unwrap();
                let mut command = Command::new(node);
                command.arg(folder.path().join("driver.mjs"));
                command.arg(folder.path().join(host));
                command
            }
        };
        let mut process = command
            .current_dir("/")
            .env_clear()
            .env("PATH", PLAIN_PATH)
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_DEFAULT_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "the function's")
            .env("AWS_ENDPOINT_URL", secrets_manager(&secret))
            .env("LOOPY_SENSOR_SECRET", "arn:secret")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            language,
            requests: process.stdin.take().unwrap(),
            responses: BufReader::new(process.stdout.take().unwrap()),
            process,
            secret,
            folder,
        }
    }

    fn set(&self, values: Value) {
        *self.secret.lock().unwrap() = values;
    }

    fn later(&mut self) {
        self.requests.write_all(b"later\n").unwrap();
    }

    fn call(&mut self, sensor: &str, time_ms: u64) -> Value {
        let module = match self.language {
            Language::Python => "sensors.hooks",
            Language::Typescript => "sensors/hooks.mjs",
        };
        let request = json!({
            "ask": "call", "sensor": sensor, "module": module, "function": sensor,
            "emits": "Done", "events": {"Done": ["text"]},
            "call": {"kind": "tick", "scheduled_at": "2030-01-01T00:00:00Z",
                     "last_run": "2030-01-01T00:00:00Z", "snapshot": []},
            "limits": {"time_ms": time_ms, "response_bytes": 6_000_000},
        });
        self.requests
            .write_all(format!("{request}\n").as_bytes())
            .unwrap();
        let mut line = String::new();
        self.responses.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The field of its one event.
    fn text(&mut self, sensor: &str) -> Value {
        let answer = self.call(sensor, 30_000);
        let text = &answer["events"][0]["fields"]["text"];
        assert!(!text.is_null(), "{:?} {answer}", self.language);
        text.clone()
    }
}

fn code(language: Language) -> &'static str {
    match language {
        Language::Python => PYTHON,
        Language::Typescript => TYPESCRIPT,
    }
}

#[test]
fn a_changed_secret_reaches_a_warm_function_in_five_minutes() {
    for language in BOTH {
        let mut function = Function::new(language, code(language), json!({"TOKEN": "one"}));
        assert_eq!(function.text("seen"), json!(["one", "one", 1]));
        function.set(json!({"TOKEN": "two"}));
        assert_eq!(function.text("seen"), json!(["one", "one", 2]), "kept");
        function.later();
        // What was read when it was loaded, too.
        assert_eq!(function.text("seen"), json!(["two", "two", 1]));
        // One that stays as it is changes nothing.
        function.later();
        assert_eq!(function.text("seen"), json!(["two", "two", 2]));
        let names = function.text("names");
        let names = names.as_array().unwrap().iter();
        let names: Vec<&str> = names.map(|name| name.as_str().unwrap()).collect();
        let own: Vec<&&str> = names.iter().filter(|name| **name != "LC_CTYPE").collect();
        assert_eq!(own, [&"PATH", &"TOKEN"], "{language:?}");
    }
}

#[test]
fn a_module_that_once_failed_to_load_is_loaded_again_in_a_warm_function() {
    let codes = [
        "import os\nTOKEN = os.environ['TOKEN']\ndef one(tick): return {'text': TOKEN}\n",
        "import './check.mjs';\nexport const sensorRegistry = \
         { one: { run: () => ({ text: process.env.TOKEN }) } };\n",
    ];
    for (language, code) in BOTH.into_iter().zip(codes) {
        let mut function = Function::new(language, code, json!({}));
        write(
            function.folder.path(),
            "sensors/check.mjs",
            "if (!process.env.TOKEN) throw new Error('TOKEN is not set');\n",
        );
        let why = function.call("one", 30_000)["unloadable"].clone();
        assert!(why.as_str().unwrap().contains("TOKEN"), "{why}");
        function.set(json!({"TOKEN": "there"}));
        assert_eq!(function.text("one"), "there", "{language:?}");
    }
}

#[test]
fn a_call_that_takes_too_long_or_ends_its_process_leaves_the_function_whole() {
    for language in BOTH {
        let mut function = Function::new(language, code(language), json!({}));
        assert_eq!(function.text("large").as_str().unwrap().len(), 5_000_000);
        let begun = Instant::now();
        let said = function.call("spins", 700);
        assert_eq!(said, json!({"error": "it did not come back within 0.7 s"}));
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(function.text("seen")[2], 1, "a new process");
        let said = function.call("exits", 30_000)["error"].clone();
        let expected = "its process ended during the call (exit status: 3)";
        assert_eq!(said, expected, "{language:?}");
        assert_eq!(function.text("seen")[2], 1, "a new process");
        assert_eq!(function.text("seen")[2], 2, "which stays");
    }
}

#[test]
fn what_reads_the_secret_does_not_shadow_what_the_project_brings() {
    let code = "import urllib3\ndef one(tick): return {'text': urllib3.whose}\n";
    let mut function = Function::new(Language::Python, code, json!({"TOKEN": "one"}));
    write(
        function.folder.path(),
        "sensors/site-packages/urllib3/__init__.py",
        "whose = 'brought'\n",
    );
    assert_eq!(function.text("one"), "brought");
}
