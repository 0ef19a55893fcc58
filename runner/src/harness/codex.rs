//! `codex`: OpenAI's command-line agent, without a terminal.
//!
//! The prompt goes in by stdin (an argument is bounded), one JSON event a line
//! comes out. The tool keeps no caps, names no dollars, and says only at the end
//! how many tokens it used; so its own record of the session is read while it
//! works. It sends the schema of the outcome to the model and does not check what
//! comes back. A provider that cannot be reached it waits for without end.

use super::answer::{self, HAND_OVER, HAND_OVER_AGAIN};
use super::ending::no_result;
use super::mend::Mending;
use super::strict::strict;
use super::watch::{Read, Watch, patience};
use super::{Drive, Job, failure};
use crate::outcome::{declares_any, wanted_schema};
use crate::prompt;
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where requests go when the sandbox does not say.
const API: &str = "https://api.openai.com/v1";
/// The variables that may hold the key, the first that is set counts.
const KEYS: [&str; 2] = ["CODEX_API_KEY", "OPENAI_API_KEY"];
/// The variable that may hold the base URL.
const BASE_URL: &str = "OPENAI_BASE_URL";
/// Folders between that of the sessions and a session's record.
const RECORD_DEPTH: u32 = 3;

/// The `codex` harness.
pub(super) struct Codex;

impl Drive for Codex {
    async fn drive(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        refuse(job.envelope)?;
        let declares = declares_any(job.envelope);
        let home = Home::create(job)?;
        let meter = RefCell::new(Meter::new(&home.path));
        let mut prompt = prompt::render(job.envelope, HAND_OVER)?;
        let mut thread = None;
        let mut mending = Mending::default();
        loop {
            let ended = invoke(job, &home, &meter, &prompt, thread.as_deref()).await?;
            if !declares {
                return Ok(Outcome::Succeeded {
                    output: Map::new(),
                    emits: BTreeMap::new(),
                });
            }
            let violations = match answer::outcome(job.envelope, &ended.answer) {
                Ok(outcome) => return Ok(outcome),
                Err(violations) => violations,
            };
            thread = ended.thread;
            prompt = mending.prompt(job, &violations, thread.is_some(), HAND_OVER_AGAIN)?;
        }
    }
}

/// Refuses what cannot be kept.
fn refuse(envelope: &Envelope) -> Result<(), Failure> {
    if !envelope.tools.is_empty() {
        return Err(failure(
            FailureClass::Crash,
            "the harness `codex` cannot limit an agent to certain tools; take `tools` out of the agent, or give it another harness",
        ));
    }
    if let (Some(usd), None) = (envelope.usd, envelope.price) {
        let model = envelope.model.as_deref().unwrap_or("(none named)");
        return Err(failure(
            FailureClass::Budget,
            format!(
                "the harness `codex` names no dollars, and nothing says what the model {model} costs, so ${usd} cannot be held; add it to `prices` in registry.yml"
            ),
        ));
    }
    Ok(())
}

/// The tool's own folder and what is in it.
struct Home {
    path: PathBuf,
    /// The schema of the outcome, where it has a strict form.
    schema: Option<PathBuf>,
    /// The last message.
    answer: PathBuf,
}

impl Home {
    fn create(job: &Job<'_>) -> Result<Self, Failure> {
        let path = job.control.file("codex");
        let cannot = |path: &Path, error: &std::io::Error| {
            failure(
                FailureClass::Sandbox,
                format!("cannot write {}: {error}", path.display()),
            )
        };
        std::fs::create_dir(&path).map_err(|error| cannot(&path, &error))?;
        let mut files = vec![(
            path.join("config.toml"),
            config(job.environment, patience(job)?)?,
        )];
        let schema = declares_any(job.envelope)
            .then(|| strict(&wanted_schema(job.envelope)))
            .flatten()
            .map(|schema| (job.control.file("schema.json"), schema.to_string()));
        files.extend(schema.clone());
        for (path, content) in &files {
            std::fs::write(path, content).map_err(|error| cannot(path, &error))?;
        }
        Ok(Self {
            path,
            schema: schema.map(|(path, _)| path),
            answer: job.control.file("answer.txt"),
        })
    }
}

/// The tool's configuration. It ignores the variable of the base URL, and would
/// try WebSockets first with a provider of its own.
fn config(environment: &BTreeMap<String, String>, patience: Duration) -> Result<String, Failure> {
    let set = |name: &&str| {
        environment
            .get(*name)
            .is_some_and(|value| !value.is_empty())
    };
    let base_url = environment.get(BASE_URL).filter(|url| !url.is_empty());
    let key = KEYS.iter().find(|name| set(name));
    if key.is_none() && base_url.is_none() {
        return Err(failure(
            FailureClass::Sandbox,
            "the harness `codex` needs OPENAI_API_KEY or CODEX_API_KEY in the sandbox's env_file",
        ));
    }
    let base_url = base_url.map_or(API, |url| url.trim_end_matches('/'));
    let key = key
        .map(|name| format!("env_key = \"{name}\"\n"))
        .unwrap_or_default();
    Ok(format!(
        // A JSON string is a TOML string.
        "model_provider = \"loopy\"\n\
         check_for_update_on_startup = false\n\
         [analytics]\n\
         enabled = false\n\
         [features]\n\
         apps = false\n\
         plugins = false\n\
         remote_plugin = false\n\
         [model_providers.loopy]\n\
         name = \"loopy\"\n\
         base_url = {}\n\
         wire_api = \"responses\"\n\
         {key}\
         request_max_retries = 3\n\
         stream_max_retries = 3\n\
         stream_idle_timeout_ms = {}\n",
        json!(base_url),
        patience.as_millis(),
    ))
}

/// What one run of the tool came to.
struct Answered {
    /// The last message.
    answer: String,
    /// The session to go on with.
    thread: Option<String>,
}

/// Runs the tool once, in a new session or in `thread`.
async fn invoke(
    job: &Job<'_>,
    home: &Home,
    meter: &RefCell<Meter>,
    prompt: &str,
    thread: Option<&str>,
) -> Result<Answered, Failure> {
    let mut codex = job.command("codex");
    codex.arg("exec");
    if thread.is_some() {
        codex.arg("resume");
    }
    codex.args(["--json", "--skip-git-repo-check"]);
    // The sandbox is the one that Loopy runs in.
    codex.arg("--dangerously-bypass-approvals-and-sandbox");
    codex.arg("--output-last-message").arg(&home.answer);
    if let Some(schema) = &home.schema {
        codex.arg("--output-schema").arg(schema);
    }
    if let Some(model) = &job.envelope.model {
        codex.arg(format!("--model={model}"));
    }
    codex.args(thread).arg("-");
    codex.env("CODEX_HOME", &home.path);

    // A run that fails may leave the answer of the one before it.
    if let Err(error) = std::fs::remove_file(&home.answer) {
        tracing::debug!("no earlier answer: {error}");
    }
    let watch = Watch::new(job, "codex")?;
    let events = RefCell::new(Events::new(job, meter));
    let ended = watch
        .run(codex, prompt.as_bytes(), &events, "Codex")
        .await?;
    let events = events.into_inner();
    if let Some(why) = events.failed {
        return Err(failure(
            FailureClass::Crash,
            format!("the agent could not work: {why}"),
        ));
    }
    if !events.completed || !ended.status.success() {
        return Err(match events.error {
            Some(why) => failure(
                FailureClass::Crash,
                format!("codex {} without a result: {why}", ended.how()),
            ),
            None => no_result("codex", &ended),
        });
    }
    let answer = std::fs::read_to_string(&home.answer).unwrap_or_default();
    Ok(Answered {
        answer,
        thread: events.thread,
    })
}

/// Reads the events of one run.
struct Events<'a> {
    job: &'a Job<'a>,
    meter: &'a RefCell<Meter>,
    thread: Option<String>,
    completed: bool,
    failed: Option<String>,
    error: Option<String>,
}

impl<'a> Events<'a> {
    fn new(job: &'a Job<'a>, meter: &'a RefCell<Meter>) -> Self {
        Self {
            job,
            meter,
            thread: None,
            completed: false,
            failed: None,
            error: None,
        }
    }
}

impl Read for Events<'_> {
    fn line(&mut self, watch: &Watch<'_>, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let text = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        match text("/type").as_deref() {
            Some("thread.started") => self.thread = text("/thread_id"),
            Some("turn.completed") => {
                self.completed = true;
                if let Some(usage) = event.get("usage") {
                    self.meter.borrow_mut().stated(&Tokens::of(usage));
                }
            }
            Some("turn.failed") => {
                let why = text("/error/message").unwrap_or_else(|| "it does not say why".into());
                self.failed = Some(plain(&why));
            }
            // Of the stream of events, or while the tool tries again.
            Some("error") => {
                let message = text("/message").unwrap_or_default();
                watch.trouble(&message);
                self.error = Some(message);
            }
            // An item `error` is a remark: that it does not know the model.
            Some("item.started" | "item.completed")
                if text("/item/type").as_deref() != Some("error") =>
            {
                watch.answered();
            }
            _ => {}
        }
        self.look(watch);
    }

    fn look(&mut self, watch: &Watch<'_>) {
        self.meter.borrow_mut().read(self.job, watch);
    }
}

/// What an error says, taken out of the body of an API's answer where it is one.
fn plain(why: &str) -> String {
    let body: Option<Value> = serde_json::from_str(why).ok();
    body.as_ref()
        .and_then(|body| body.pointer("/error/message")?.as_str())
        .map_or_else(|| why.to_owned(), str::to_owned)
}

/// Tokens as the tool counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tokens {
    input: u64,
    /// Of the input.
    cached: u64,
    output: u64,
}

impl Tokens {
    fn of(usage: &Value) -> Self {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or_default();
        Self {
            input: count("input_tokens"),
            cached: count("cached_input_tokens"),
            output: count("output_tokens"),
        }
    }

    fn add(&mut self, more: Self) {
        self.input += more.input;
        self.cached += more.cached;
        self.output += more.output;
    }
}

/// What all runs of the tool used together.
struct Meter {
    /// Where the tool keeps the records of its sessions, and of those of agents
    /// that its agent starts.
    sessions: PathBuf,
    records: BTreeMap<PathBuf, Record>,
    /// The answers of the model that are counted.
    counted: BTreeSet<String>,
    /// The sum over the records.
    recorded: Tokens,
    /// What the tool said at the end, over the whole of its session.
    stated: Tokens,
}

/// How far a record is read.
#[derive(Default)]
struct Record {
    offset: u64,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
    /// The answer at hand calls a tool, so the model will be asked again.
    calls: bool,
}

impl Meter {
    fn new(home: &Path) -> Self {
        Self {
            sessions: home.join("sessions"),
            records: BTreeMap::new(),
            counted: BTreeSet::new(),
            recorded: Tokens::default(),
            stated: Tokens::default(),
        }
    }

    fn stated(&mut self, tokens: &Tokens) {
        self.stated = *tokens;
    }

    /// Reads what the records have more, and brings the figures up to date.
    fn read(&mut self, job: &Job<'_>, watch: &Watch<'_>) {
        let mut files = Vec::new();
        find(&self.sessions, RECORD_DEPTH, &mut files);
        for file in files {
            let mut record = self.records.remove(&file).unwrap_or_default();
            match record.more(&file) {
                Ok(lines) => {
                    if !lines.is_empty() {
                        watch.heard();
                    }
                    for line in lines {
                        self.line(&line, &mut record, job, watch);
                    }
                }
                Err(error) => tracing::debug!("cannot read {}: {error}", file.display()),
            }
            self.records.insert(file, record);
        }
        self.show(job);
    }

    fn line(&mut self, line: &Value, record: &mut Record, job: &Job<'_>, watch: &Watch<'_>) {
        let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str);
        match text("/type") {
            Some("response_item") => {
                record.calls |= matches!(
                    text("/payload/type"),
                    Some("function_call" | "custom_tool_call" | "local_shell_call")
                );
            }
            // One an answer of the model, as soon as it is complete.
            Some("token_usage_record") => {
                let calls = std::mem::take(&mut record.calls);
                let id = text("/payload/response_id").unwrap_or_default();
                let Some(usage) = line.pointer("/payload/usage") else {
                    return;
                };
                if self.counted.insert(id.to_owned()) {
                    self.recorded.add(Tokens::of(usage));
                    self.show(job);
                    watch.answered();
                    if calls {
                        watch.goes_on();
                    }
                }
            }
            _ => {}
        }
    }

    /// Puts the figures where the attempt has them.
    fn show(&self, job: &Job<'_>) {
        let input = self.recorded.input.max(self.stated.input);
        let cached = self.recorded.cached.max(self.stated.cached);
        let output = self.recorded.output.max(self.stated.output);
        let mut usage = job.usage.borrow_mut();
        usage.input_tokens = input;
        usage.output_tokens = output;
        usage.turns = u32::try_from(self.counted.len()).unwrap_or(u32::MAX);
        usage.usd = job
            .envelope
            .price
            .map(|price| price.usd(input, cached, output));
    }
}

impl Record {
    /// The whole lines that came since the last time.
    fn more(&mut self, file: &Path) -> std::io::Result<Vec<Value>> {
        let mut opened = std::fs::File::open(file)?;
        if opened.metadata()?.len() == self.offset {
            return Ok(Vec::new());
        }
        opened.seek(SeekFrom::Start(self.offset))?;
        self.offset += opened.read_to_end(&mut self.rest)? as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(lines
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect())
    }
}

/// The records below `folder`.
fn find(folder: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth > 0 {
            find(&path, depth - 1, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write as _;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_provider_is_what_the_sandbox_says() {
        let patience = Duration::from_secs(7);
        let own = config(&environment(&[("OPENAI_API_KEY", "k")]), patience).unwrap();
        assert!(
            own.contains("base_url = \"https://api.openai.com/v1\"\n"),
            "{own}"
        );
        assert!(own.contains("env_key = \"OPENAI_API_KEY\"\n"), "{own}");
        assert!(own.contains("stream_idle_timeout_ms = 7000\n"), "{own}");
        assert!(!own.contains("\"k\""), "the key stays where it is");

        let both = environment(&[
            ("OPENAI_API_KEY", "k"),
            ("CODEX_API_KEY", "c"),
            ("OPENAI_BASE_URL", "https://gate.example/\"v1/"),
        ]);
        let gateway = config(&both, patience).unwrap();
        assert!(gateway.contains("base_url = \"https://gate.example/\\\"v1\"\n"));
        assert!(gateway.contains("env_key = \"CODEX_API_KEY\"\n"));

        let open = environment(&[("OPENAI_BASE_URL", "http://localhost:1/v1")]);
        assert!(!config(&open, patience).unwrap().contains("env_key"));
        let none = config(&environment(&[("OPENAI_API_KEY", "")]), patience).unwrap_err();
        assert!(none.message.contains("OPENAI_API_KEY or CODEX_API_KEY"));
    }

    #[test]
    fn an_error_is_told_without_the_json_around_it() {
        let body = r#"{"error":{"message":"asleep","type":"x"}}"#;
        assert_eq!(plain(body), "asleep");
        assert_eq!(plain("no room"), "no room");
    }

    #[test]
    fn a_record_is_read_once_and_by_whole_lines() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("2026/11/21");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("rollout-a.jsonl");
        let mut written = std::fs::File::create(&file).unwrap();
        let mut found = Vec::new();
        find(place.path(), RECORD_DEPTH, &mut found);
        assert_eq!(found, std::slice::from_ref(&file));

        let mut record = Record::default();
        written.write_all(b"{\"a\": 1}\nnot json\n{\"a\"").unwrap();
        assert_eq!(record.more(&file).unwrap(), [json!({"a": 1})]);
        assert_eq!(record.more(&file).unwrap(), [json!(null); 0]);
        written.write_all(b": 2}\n").unwrap();
        assert_eq!(record.more(&file).unwrap(), [json!({"a": 2})]);
    }
}
