//! How long a run takes from one step to the next, on one machine and in a stack on
//! the emulator. The steps do nothing, so what is left is Loopy's own time and that
//! of what it stands on; each number has beside it the time of a bare thing that it
//! cannot do without, measured in the same run. In the stack, sandboxes are
//! processes too and start at once: how long a real one takes is its provider's.

use super::functions::invoke_time;
use super::{REGION, call, loopy, median, ms, percentile, print_table, unexpected};
use crate::dist::{self, Arch};
use crate::emulator::Emulator;
use crate::error::Error;
use crate::http;
use crate::process;
use crate::tools;
use crate::workspace::Workspace;
use jiff::Timestamp;
use loopy_contract::ids::RunId;
use loopy_engine::transition::launch_token;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const STEPS: usize = 20;
const RUNS: usize = 5;
const PEER_SAMPLES: usize = 100;
/// What each step does.
const SCRIPT: &str = r#"printf '{"output": {}}' > "$LOOPY_OUTPUT""#;
const STACK: &str = "bench";
const CHAIN: Chain = Chain {
    event: "Go",
    steps: STEPS,
};
/// How long one run on the emulator may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let tools = tools::prepare(workspace)?;
    let functions = dist::build(workspace, &tools, Arch::host(), None)?;
    tools.unlock(workspace)?;
    let loopy = loopy(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;

    let local = folder.path().join("local");
    write_project(&local, "local", &[CHAIN])?;
    let mut rows = Vec::new();
    let times = on_this_machine(&loopy, &local)?;
    let script = ("sh with the script", script_time(folder.path())?);
    // `bench durable` has the hand-off of this home, without sandboxes.
    rows.push(row_of("SQLite", "whole step", &times.steps, script));

    let emulator = Emulator::start(workspace, &tools)?;
    let deployed = folder.path().join("deployed");
    write_project(&deployed, "daytona", &[CHAIN])?;
    let mut stand_in = StandIn::start(workspace)?;
    let stack = Stack {
        loopy: &loopy,
        emulator: &emulator,
    };
    let webhooks = stack.deploy(&deployed, &functions, &stand_in)?;
    let webhook = webhook(&webhooks, &CHAIN)?;
    let times = stack.runs(&webhook, &mut stand_in)?;
    let queue = ("SQS, sent and received", queue_time(&emulator)?);
    let function = ("warm invocation of `step`", function_time(&emulator)?);
    rows.push(row_of("emulator", "hand-off", &times.handoffs, queue));
    rows.push(row_of("emulator", "whole step", &times.steps, function));
    print_table(
        &format!("hand-offs, {RUNS} runs of {STEPS} `command` steps that do nothing"),
        &[
            "home",
            "what",
            "median",
            "p95",
            "beside it",
            "median",
            "ratio",
        ],
        &rows,
    );
    Ok(())
}

/// What is measured of each step but the first.
#[derive(Default)]
struct Times {
    /// From the success of the step before it to its sandbox being asked for.
    handoffs: Vec<Duration>,
    /// From the success of the step before it to its own.
    steps: Vec<Duration>,
}

impl Times {
    /// Adds those of one run. `asked` says when its sandboxes were asked for, by
    /// client token.
    fn read(&mut self, run: &Value, asked: &BTreeMap<String, Timestamp>) -> Result<(), Error> {
        let unreadable = |problem: String| Error::Answer {
            command: "loopy".to_owned(),
            problem: format!("{problem}, in {run}"),
        };
        let at = |kind: &str, step: usize| {
            let name = step_name(step);
            let lines = run["history"].as_array().into_iter().flatten();
            let found: Vec<&Value> = lines
                .filter(|line| line["kind"] == kind && line["step"] == name.as_str())
                .collect();
            // A second attempt would be measured as if it were the first.
            let [line] = found.as_slice() else {
                return Err(unreadable(format!("{name} has {} {kind}", found.len())));
            };
            line["at"]
                .as_str()
                .and_then(|at| at.parse::<Timestamp>().ok())
                .ok_or_else(|| unreadable(format!("{name} has no time of {kind}")))
        };
        for step in 1..STEPS {
            let before = at("step_succeeded", step - 1)?;
            let since = |after: Timestamp| {
                Duration::try_from(after.duration_since(before))
                    .map_err(|error| unreadable(error.to_string()))
            };
            at("step_started", step)?;
            let id = RunId(run["id"].as_str().unwrap_or_default().to_owned());
            if let Some(asked) = asked.get(&launch_token(&id, &step_name(step), 1)) {
                self.handoffs.push(since(*asked)?);
            }
            self.steps.push(since(at("step_succeeded", step)?)?);
        }
        Ok(())
    }
}

fn row_of(
    home: &str,
    what: &str,
    samples: &[Duration],
    (peer, peer_time): (&str, Duration),
) -> Vec<String> {
    let time = median(samples.to_vec());
    vec![
        home.to_owned(),
        what.to_owned(),
        ms(time),
        ms(percentile(samples.to_vec(), 95)),
        peer.to_owned(),
        ms(peer_time),
        format!("{:.1}", time.as_secs_f64() / peer_time.as_secs_f64()),
    ]
}

fn step_name(step: usize) -> String {
    format!("step-{step:02}")
}

/// A workflow whose steps follow one another and do nothing, begun by an event that a
/// webhook makes.
pub(super) struct Chain {
    /// Of the event, and in lower case of the sensor and the workflow.
    pub(super) event: &'static str,
    pub(super) steps: usize,
}

/// A project of chains.
pub(super) fn write_project(root: &Path, provider: &str, chains: &[Chain]) -> Result<(), Error> {
    let write = |path: &Path, content: String| {
        let folder = path.parent().unwrap_or(root);
        std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        std::fs::write(path, content).map_err(Error::file(path))
    };
    let mut registry = format!(
        "sandboxes:\n  Box: {{ provider: {provider} }}\nagents:\n  Shell: {{ harness: command, \
         sandbox: Box }}\nevents:\n"
    );
    for Chain { event, steps } in chains {
        let name = event.to_lowercase();
        registry.push_str(&format!("  {event}: {{ n: int }}\n"));
        write(
            &root.join(format!("sensors/{name}.py")),
            format!(
                "from loopy import sensor\nfrom loopy.events import {event}\n\n\n\
                 @sensor(webhook=\"/hooks/{name}\", emits=\"{event}\", verify=\"none\")\n\
                 def {name}(request):\n    return {event}(n=request.json[\"n\"])\n"
            ),
        )?;
        for step in 0..*steps {
            let begin = match step.checked_sub(1) {
                None => format!("on: {event}"),
                Some(before) => format!("after: {}", step_name(before)),
            };
            write(
                &root.join(format!("workflows/{name}/{}.md", step_name(step))),
                format!("---\n{begin}\nagent: Shell\n---\n{SCRIPT}\n"),
            )?;
        }
    }
    write(&root.join("registry.yml"), registry)
}

/// Runs on SQLite, each in a process that drives it to its end.
fn on_this_machine(loopy: &Path, project: &Path) -> Result<Times, Error> {
    let mut times = Times::default();
    for n in 0..RUNS {
        let mut trigger = Command::new(loopy);
        trigger.arg("trigger").arg(project).args([
            "--event",
            "Go",
            "--field",
            &format!("n={n}"),
            "--json",
        ]);
        let answer = answer(&mut trigger)?;
        times.read(&answer["runs"][0], &BTreeMap::new())?;
    }
    Ok(times)
}

/// Stdout as JSON. Stderr is dropped: it tells of every step.
pub(super) fn answer(command: &mut Command) -> Result<Value, Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| process::start(command, source))?;
    if !output.status.success() {
        return Err(Error::Answer {
            command: process::line(command),
            problem: format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        });
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The script alone, in a shell.
fn script_time(folder: &Path) -> Result<Duration, Error> {
    let mut samples = Vec::new();
    for _ in 0..PEER_SAMPLES {
        let begin = Instant::now();
        process::run(
            Command::new("/bin/sh")
                .args(["-c", SCRIPT])
                .env("LOOPY_OUTPUT", folder.join("output.json")),
        )?;
        samples.push(begin.elapsed());
    }
    Ok(median(samples))
}

/// The stand-in for Daytona; ends when dropped, or when this process does.
pub(super) struct StandIn {
    child: Child,
    stdout: BufReader<ChildStdout>,
    url: String,
    key: String,
}

impl StandIn {
    /// Starts one whose sandboxes take no time of their own to start.
    pub(super) fn start(workspace: &Workspace) -> Result<Self, Error> {
        process::run_beside(workspace.cargo().args([
            "build",
            "--release",
            "--package",
            "loopy-testkit",
            "--example",
            "daytona",
        ]))?;
        let mut command = Command::new(workspace.target.join("release/examples/daytona"));
        command
            .arg("0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|source| process::start(&command, source))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(silent("the stand-in has no output"));
        };
        let mut stand_in = Self {
            child,
            stdout: BufReader::new(stdout),
            url: String::new(),
            key: String::new(),
        };
        let line = stand_in.line()?;
        let said: Value = serde_json::from_str(&line)?;
        for (member, value) in [("url", &mut stand_in.url), ("key", &mut stand_in.key)] {
            said[member]
                .as_str()
                .ok_or_else(|| Error::Answer {
                    command: process::line(&command),
                    problem: format!("it names no {member}"),
                })?
                .clone_into(value);
        }
        Ok(stand_in)
    }

    /// When it was asked for which sandbox.
    fn asked(&mut self) -> Result<BTreeMap<String, Timestamp>, Error> {
        let stdin = self.child.stdin.as_mut();
        let stdin = stdin.ok_or_else(|| silent("the stand-in takes no questions"))?;
        writeln!(stdin, "asked").map_err(|why| silent(&why.to_string()))?;
        let asked: BTreeMap<String, f64> = serde_json::from_str(&self.line()?)?;
        let moments = asked.into_iter().map(|(name, millis)| {
            let at = Timestamp::from_microsecond((millis * 1e3) as i64);
            Ok((name, at.map_err(|why| silent(&why.to_string()))?))
        });
        moments.collect()
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        read.map_err(|why| silent(&why.to_string()))?;
        Ok(line)
    }
}

fn silent(problem: &str) -> Error {
    Error::Answer {
        command: "the stand-in for Daytona".to_owned(),
        problem: problem.to_owned(),
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It removes its files once its standard input is closed.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

/// The project in a stack on the emulator.
pub(super) struct Stack<'a> {
    pub(super) loopy: &'a Path,
    pub(super) emulator: &'a Emulator,
}

impl Stack<'_> {
    /// `loopy` with the emulator as its account and nothing of the caller's.
    pub(super) fn loopy(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.loopy);
        command.args(arguments).args([
            "--stack",
            STACK,
            "--endpoint-url",
            &self.emulator.endpoint(),
            "--region",
            REGION,
            "--json",
        ]);
        command
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// Deploys the project and gives the URLs of its webhooks, by sensor.
    pub(super) fn deploy(
        &self,
        project: &Path,
        functions: &Path,
        stand_in: &StandIn,
    ) -> Result<Value, Error> {
        let mut deploy = self.loopy(&["deploy", "--yes", "--arch", Arch::host().name()]);
        deploy
            .arg("--functions")
            .arg(functions)
            .arg(project)
            .env("DAYTONA_API_KEY", &stand_in.key)
            .env("DAYTONA_API_URL", &stand_in.url);
        Ok(answer(&mut deploy)?["webhooks"].take())
    }

    /// The runs, one after the other.
    fn runs(&self, webhook: &str, stand_in: &mut StandIn) -> Result<Times, Error> {
        let mut times = Times::default();
        for n in 0..RUNS {
            send(webhook, n)?;
            let id = self.until_over(n + 1)?;
            let run = answer(&mut self.loopy(&["runs", "show", &id]))?;
            times.read(&run, &stand_in.asked()?)?;
        }
        Ok(times)
    }

    /// Waits for the latest of `count` runs and gives its id.
    fn until_over(&self, count: usize) -> Result<String, Error> {
        let begin = Instant::now();
        loop {
            let listed = answer(&mut self.loopy(&["runs", "list"]))?;
            if let Some(runs) = listed.as_array()
                && runs.len() == count
                && let Some(id) = runs[0]["id"].as_str()
                && runs[0]["status"] != "running"
            {
                return Ok(id.to_owned());
            }
            if begin.elapsed() > PATIENCE {
                return Err(Error::Answer {
                    command: "loopy runs list".to_owned(),
                    problem: format!("run {count} is not over yet: {listed}"),
                });
            }
            // Seldom, because looking takes time from what is measured.
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// The URL of a chain's webhook.
pub(super) fn webhook(webhooks: &Value, chain: &Chain) -> Result<String, Error> {
    webhooks[chain.event.to_lowercase()]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::Answer {
            command: "loopy deploy".to_owned(),
            problem: format!("it names no webhook for {}: {webhooks}", chain.event),
        })
}

/// Sends the delivery that begins a run.
pub(super) fn send(webhook: &str, n: usize) -> Result<(), Error> {
    let (address, path) = webhook
        .strip_prefix("http://")
        .and_then(|rest| rest.split_at_checked(rest.find('/')?))
        .ok_or_else(|| Error::Http {
            url: webhook.to_owned(),
            problem: "it does not lead to the emulator".to_owned(),
        })?;
    let body = json!({ "n": n }).to_string();
    let response = http::request("POST", address, path, &[], body.as_bytes())?;
    match response.status {
        202 => Ok(()),
        _ => Err(unexpected(webhook, &response)),
    }
}

/// The way of one message through a queue that nobody else uses.
fn queue_time(emulator: &Emulator) -> Result<Duration, Error> {
    let sqs = |action: &str, body: Value| {
        let headers = [
            ("Content-Type", "application/x-amz-json-1.0"),
            ("X-Amz-Target", &*format!("AmazonSQS.{action}")),
        ];
        let body = body.to_string();
        let response = call(emulator, "sqs", "POST", "/", &headers, body.as_bytes())?;
        Ok::<Value, Error>(serde_json::from_slice(&response.body)?)
    };
    let queue = sqs("CreateQueue", json!({ "QueueName": "bench-peer" }))?["QueueUrl"].take();
    let mut samples = Vec::new();
    for n in 0..PEER_SAMPLES {
        let begin = Instant::now();
        let body = n.to_string();
        sqs(
            "SendMessage",
            json!({ "QueueUrl": queue, "MessageBody": body }),
        )?;
        let received = sqs(
            "ReceiveMessage",
            json!({ "QueueUrl": queue, "WaitTimeSeconds": 5 }),
        )?;
        samples.push(begin.elapsed());
        if received["Messages"][0]["Body"] != body {
            return Err(Error::Http {
                url: emulator.endpoint(),
                problem: format!("message {n} came back as {received}"),
            });
        }
    }
    Ok(median(samples))
}

/// One warm invocation of the stack's own `step`, with nothing to do.
fn function_time(emulator: &Emulator) -> Result<Duration, Error> {
    let listed = call(emulator, "lambda", "GET", "/2015-03-31/functions", &[], b"")?;
    let listed: Value = serde_json::from_slice(&listed.body)?;
    let name = listed["Functions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|function| function["FunctionName"].as_str())
        .find(|name| name.starts_with(&format!("{STACK}-Step")))
        .ok_or_else(|| Error::Http {
            url: emulator.endpoint(),
            problem: format!("no function of {STACK} is called Step: {listed}"),
        })?;
    invoke_time(emulator, "step", name)?;
    let samples = (0..PEER_SAMPLES)
        .map(|_| invoke_time(emulator, "step", name))
        .collect::<Result<_, _>>()?;
    Ok(median(samples))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Each step starts 2 ms after the one before it succeeded and takes 10 ms.
    fn history() -> Vec<Value> {
        (0..STEPS)
            .flat_map(|step| {
                let begin = 12 * step;
                [("step_started", begin), ("step_succeeded", begin + 10)].map(|(kind, at)| {
                    let at = format!("2026-01-01T00:00:00.{at:03}Z");
                    json!({ "kind": kind, "step": step_name(step), "attempt": 1, "at": at })
                })
            })
            .collect()
    }

    #[test]
    fn times_are_taken_from_the_success_of_the_step_before() {
        let mut times = Times::default();
        let asked = (0..STEPS)
            .map(|step| {
                let token = launch_token(&RunId("r".to_owned()), &step_name(step), 1);
                let at = format!("2026-01-01T00:00:00.{:03}Z", 12 * step);
                (token, at.parse().unwrap())
            })
            .collect();
        times
            .read(&json!({ "id": "r", "history": history() }), &asked)
            .unwrap();
        let all = |millis| vec![Duration::from_millis(millis); STEPS - 1];
        assert_eq!(times.handoffs, all(2));
        assert_eq!(times.steps, all(12));
    }

    #[test]
    fn a_step_that_was_tried_twice_or_is_not_over_is_no_measurement() {
        let mut twice = history();
        twice.push(twice[2].clone());
        let mut unfinished = history();
        unfinished.pop();
        for history in [twice, unfinished] {
            let run = json!({ "history": history });
            assert!(Times::default().read(&run, &BTreeMap::new()).is_err());
        }
    }
}
