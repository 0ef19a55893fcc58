//! JSON Schemas of `registry.yml` and of a step's frontmatter, for editors.
//!
//! The keys of each map are the lists that the readers know them by, so an
//! editor and the compiler call the same keys unknown. What each key holds is
//! said here. The compiler checks more than a schema can: what names what, and
//! which types fit.

use crate::diagnostic::{Code, Severity};
use crate::{forms, registry, step, types};
use loopy_contract::failure::FailureClass;
use loopy_contract::manifest::Harness;
use serde_json::{Map, Value, json};

/// The schema of `registry.yml`.
pub fn registry() -> Value {
    let mut schema = map(&registry::SECTIONS, |key| match key {
        "defaults" => Some(about(
            "What agents have where they say nothing else.",
            map(&["agent"], |_| {
                Some(about("The defaults of all agents.", agent()))
            }),
        )),
        "sandboxes" => Some(about(
            "Where agents work, by name.",
            named("^(default$|[^a-z0-9])", sandbox()),
        )),
        "agents" => Some(about(
            "Who does the work, by name.",
            named("^[^a-z0-9]", agent()),
        )),
        "events" => Some(about(
            "The fields of each event, by name.",
            named("^[^a-z0-9]", fields()),
        )),
        "limits" => Some(about("Caps on what the project may use.", limits())),
        "prices" => Some(about(
            "What models cost, by the model's id; counts before Loopy's own table.",
            named("", price()),
        )),
        "warnings" => Some(about(
            "Warnings that the project does not want to hear.",
            map(&warnings(), |_| {
                Some(json!({"enum": ["off", "on"], "description": "Whether it is to be heard."}))
            }),
        )),
        _ => None,
    });
    title(&mut schema, "registry.yml of a Loopy project");
    schema
}

/// The schema of the YAML between the two `---` of `workflows/*/*.md`.
pub fn step() -> Value {
    let mut schema = required(&["agent"], map(&step::KEYS, step_value));
    title(&mut schema, "Frontmatter of a Loopy step");
    schema
}

fn step_value(key: &str) -> Option<Value> {
    Some(match key {
        "on" => json!({
            "description": "What starts the workflow: an event's name, or cron(\"30 6 * * 1-5\", tz=Europe/Berlin, catch_up=once).",
            "anyOf": [
                nullable("string"),
                required(&["event"], map(forms::ON.keys, |key| Some(match key {
                    "event" => text("The event's name."),
                    "when" => condition("Events without it start nothing."),
                    "debounce" => duration("How long there has to be no other such event."),
                    _ => return None,
                }))),
            ],
        }),
        "after" => one_or_more("The steps of this workflow that have to succeed first."),
        "agent" => text("Who does it: the name of an agent in registry.yml."),
        "output" => about("What it puts out: the type of each field.", fields()),
        "emits" => json!({
            "description": "The events it emits when it succeeds, each perhaps under a condition.",
            "anyOf": [
                one_or_more("The events."),
                named("", map(forms::EMITS.keys, |key| Some(match key {
                    "when" => condition("Otherwise it is not emitted."),
                    _ => return None,
                }))),
            ],
        }),
        "when" => {
            condition("Otherwise the step is skipped, and so are those that need its output.")
        }
        "each" => text("One sandbox for each item of a list: plan.tasks as task."),
        "files" => one_or_more(
            "Files of the steps in `after` that it finds in its workspace, each a step and a path or pattern: build/dist/**.",
        ),
        "retry" => required(
            &["max"],
            about(
                "Further attempts after a failed one.",
                map(forms::RETRY.keys, retry_value),
            ),
        ),
        "approve" => about(
            "What a person has to agree to.",
            map(forms::APPROVE.keys, approve_value),
        ),
        "concurrency" => required(
            &["limit"],
            about(
                "How many attempts of this step may work at once, over all runs.",
                map(forms::CONCURRENCY.keys, concurrency_value),
            ),
        ),
        "loop" => required(
            forms::LOOP.keys,
            about(
                "Goes back to an earlier step until a condition holds.",
                map(forms::LOOP.keys, |key| {
                    Some(match key {
                        "to" => text("The step to go back to: this one, or one that it waits for."),
                        "until" => condition("When to go on instead."),
                        "max" => count("How often to go back at most."),
                        _ => return None,
                    })
                }),
            ),
        ),
        "budget" => about(
            "What one attempt may use.",
            map(&step::BUDGET_KEYS, |key| {
                Some(match key {
                    "wall_clock" => whole("Minutes."),
                    "spend" => about("Money.", dollars()),
                    "window" | "latency" => whole("Days; recorded only."),
                    "tokens" => whole("Model tokens."),
                    "turns" => whole("Model turns."),
                    _ => return None,
                })
            }),
        ),
        _ => return None,
    })
}

fn retry_value(key: &str) -> Option<Value> {
    let failures = FailureClass::ALL.map(FailureClass::name);
    Some(match key {
        "max" => count("How many."),
        "backoff" => duration("How long before the first; doubled before each further one."),
        "on" => json!({
            "description": "The failures that are tried again.",
            "anyOf": [
                {"enum": failures},
                {"type": ["array", "null"], "items": {"enum": failures}},
            ],
        }),
        _ => return None,
    })
}

fn approve_value(key: &str) -> Option<Value> {
    Some(match key {
        "before" => about("That the step starts.", nullable("boolean")),
        "after" => about("That its output counts.", nullable("boolean")),
        "within" => duration("How long there is to answer."),
        "otherwise" => json!({
            "enum": ["deny", "approve", null],
            "description": "The answer when nobody gave one in time.",
        }),
        _ => return None,
    })
}

fn concurrency_value(key: &str) -> Option<Value> {
    Some(match key {
        "key" => text("Counted by this value, such as event.repo; all together when absent."),
        "limit" => count("How many."),
        "strategy" => json!({
            "enum": ["queue", "cancel-running", "drop", null],
            "description": "What happens to one too many.",
        }),
        _ => return None,
    })
}

fn agent() -> Value {
    let harnesses = Harness::ALL.map(Harness::name);
    map(&registry::AGENT_KEYS, |key| {
        Some(match key {
            "model" => text("The model's id; none for the harness `command`."),
            "harness" => json!({
                "description": "What drives the work.",
                "anyOf": [
                    {"enum": harnesses},
                    {"type": "null"},
                    map(&registry::HARNESS_KEYS, |key| Some(match key {
                        "runtime" => json!({"enum": harnesses, "description": "What drives the work."}),
                        "model" => text("The model's id."),
                        _ => return None,
                    })),
                ],
            }),
            "sandbox" => text("Where it works: the name of a sandbox."),
            "skills" => {
                one_or_more("What it is given to know: folders under skills/ with a SKILL.md.")
            }
            "tools" => one_or_more("The tools it may use; all when there are none."),
            _ => return None,
        })
    })
}

fn sandbox() -> Value {
    let keys = map(&registry::SANDBOX_KEYS, |key| {
        Some(match key {
            "provider" => json!({"enum": registry::PROVIDERS, "description": "Who runs it."}),
            "image" => about(
                "How its image is made.",
                map(&registry::IMAGE_KEYS, image_value),
            ),
            "network" => one_or_more("Hosts it may reach; all when there are none."),
            "env_file" => one_or_more("Files with its environment, relative to the project."),
            "repos" => json!({
                "description": "Repositories that are cloned into its workspace.",
                "type": "array",
                "items": {"anyOf": [{"type": "string"}, repo()]},
            }),
            "model_keys" => json!({
                "enum": registry::MODEL_KEYS,
                "description": "Where the keys of models are: in the sandbox (when absent), or with a proxy that adds them to requests (`docker` only).",
            }),
            _ => return None,
        })
    });
    required(&["provider"], keys)
}

/// What the keys of an image hold is the provider's business.
fn image_value(key: &str) -> Option<Value> {
    let what = match key {
        "debian_slim" => "A version of Python on slim Debian, to begin from.",
        "base" => "An image to begin from.",
        "dockerfile" => "A Dockerfile to begin from.",
        "snapshot" => "A snapshot of the provider, as it is.",
        "workdir" => "The working directory.",
        "env" => "Environment variables; no secrets.",
        "apt" => "Debian packages to install.",
        "pip" => "Python packages to install.",
        "pip_requirements" => "A file that lists Python packages to install.",
        "run" => "Commands to run while the image is made.",
        "user" => "The user who works in it.",
        "entrypoint" => "The entry point.",
        "cmd" => "The command.",
        "cpu" => "Cores, where the provider can give so many.",
        "memory" => "Memory, in GB.",
        "disk" => "Disk, in GB.",
        "tools" => "Whether the harness's program is put in from outside (`docker` only).",
        _ => return None,
    };
    Some(json!({"description": what}))
}

fn repo() -> Value {
    let keys = map(&registry::REPO_KEYS, |key| {
        Some(match key {
            "url" => text("A clone URL, or owner/name on GitHub."),
            "ref" => text("Branch, tag or commit."),
            "path" => text("Where in the workspace; the repository's name when absent."),
            "depth" => json!({
                "description": "Commits of history, 1 when absent; null is all of it.",
                "type": ["integer", "null"],
                "minimum": 1,
            }),
            _ => return None,
        })
    });
    required(&["url"], keys)
}

fn price() -> Value {
    required(
        &["input", "output"],
        map(&registry::PRICE_KEYS, |key| {
            Some(match key {
                "input" => amount("Dollars for a million tokens read."),
                "cached" => amount("Dollars for a million tokens read from a cache."),
                "output" => amount("Dollars for a million tokens written."),
                _ => return None,
            })
        }),
    )
}

fn amount(words: &str) -> Value {
    about(words, json!({"type": "number", "minimum": 0}))
}

fn limits() -> Value {
    map(&registry::LIMIT_KEYS, |key| {
        Some(match key {
            "cascade_spend" => about(
                "Dollars for all that one outside event sets off.",
                dollars(),
            ),
            "cascade" => about("For all that one outside event sets off.", cap()),
            "day" => about("For one day in UTC, over all workflows.", cap()),
            "workflows" => about(
                "For one run of a workflow, and for its runs in one cascade, by its name.",
                named("", cap()),
            ),
            _ => return None,
        })
    })
}

fn cap() -> Value {
    map(&registry::CAP_KEYS, |key| {
        Some(match key {
            "spend" => about("Money.", dollars()),
            "runs" => count("How many runs."),
            _ => return None,
        })
    })
}

fn dollars() -> Value {
    map(&["usd"], |_| {
        Some(json!({"type": "number", "description": "US dollars."}))
    })
}

/// The codes of all warnings, in full and without their prefix.
fn warnings() -> Vec<&'static str> {
    let codes = Code::ALL.iter();
    let codes = codes.filter(|code| code.severity() == Severity::Warning);
    codes.flat_map(|code| [code.name(), code.short()]).collect()
}

/// A map with these keys and no others. A key without a value of its own may
/// hold anything.
fn map(keys: &[&str], value: impl Fn(&str) -> Option<Value>) -> Value {
    let entries = keys.iter().map(|key| {
        let value = value(key).unwrap_or(Value::Bool(true));
        ((*key).to_owned(), value)
    });
    json!({
        "type": ["object", "null"],
        "properties": entries.collect::<Map<_, _>>(),
        "additionalProperties": false,
    })
}

/// The map, which has to be there and to have these keys.
fn required(keys: &[&str], mut map: Value) -> Value {
    if let Some(map) = map.as_object_mut() {
        map.insert("type".to_owned(), json!("object"));
        map.insert("required".to_owned(), json!(keys));
    }
    map
}

/// A map of names, all with values of one kind.
fn named(name: &str, value: Value) -> Value {
    json!({
        "type": ["object", "null"],
        "propertyNames": {"pattern": name},
        "additionalProperties": value,
    })
}

/// The types of fields.
fn fields() -> Value {
    json!({
        "type": ["object", "null"],
        "additionalProperties": {"$ref": "#/definitions/type"},
    })
}

/// The type of one field. A map is a nested type or a JSON Schema.
fn field_type() -> Value {
    let names = types::NAMES.join("|");
    json!({
        "description": format!(
            "{}, enum[a, b], list[T], a map of types, or a JSON Schema; a ? at the end makes the field optional.",
            types::NAMES.join(", ")
        ),
        "anyOf": [
            {"type": "string", "pattern": format!(r"^\s*({names}|(enum|list)\[[^\n]*\])\s*\??\s*$")},
            {"type": ["object", "null"]},
        ],
    })
}

fn text(what: &str) -> Value {
    about(what, nullable("string"))
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// What is compared, and with what.
fn condition(what: &str) -> Value {
    about(
        &format!("{what} Such as: review.verdict == \"pass\" and event.base in [\"main\"]"),
        json!({"type": ["string", "boolean"]}),
    )
}

fn duration(what: &str) -> Value {
    json!({
        "description": format!("{what} A number and one of s, m, h, d: 30s"),
        "type": ["string", "null"],
        "pattern": "^[0-9]+[smhd]$",
    })
}

/// A whole number above 0.
fn count(what: &str) -> Value {
    json!({"type": "integer", "minimum": 1, "description": what})
}

/// A text or a list of texts.
fn one_or_more(what: &str) -> Value {
    json!({
        "description": what,
        "type": ["string", "array", "null"],
        "items": {"type": "string"},
    })
}

/// A whole number, which may be written as text.
fn whole(what: &str) -> Value {
    json!({
        "description": what,
        "type": ["integer", "string", "null"],
        "pattern": r"^\s*[+-]?[0-9]+\s*$",
    })
}

fn about(what: &str, mut schema: Value) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), json!(what));
    }
    schema
}

/// Makes the schema a document of its own. Editors know draft 7 best.
fn title(schema: &mut Value, title: &str) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(
            "$schema".to_owned(),
            json!("http://json-schema.org/draft-07/schema#"),
        );
        schema.insert("title".to_owned(), json!(title));
        schema.insert("definitions".to_owned(), json!({"type": field_type()}));
    }
}

#[cfg(test)]
#[expect(dead_code, reason = "only the files of the cases are read here")]
#[path = "../tests/literate/mod.rs"]
mod literate;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::sources::Sources;
    use crate::{frontmatter, yaml};
    use jsonschema::Validator;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// What is written in a YAML text; `None` when that cannot be read.
    fn value(text: &str) -> Option<Value> {
        let document = yaml::parse(text, 1).ok()?;
        let root = document.root?;
        document.problems.is_empty().then(|| root.to_json().ok())?
    }

    /// The projects of the literate cases and the examples.
    fn projects() -> Vec<Sources> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut projects = Vec::new();
        for example in std::fs::read_dir(here.join("../examples")).unwrap() {
            projects.push(Sources::read(&example.unwrap().path()).unwrap());
        }
        for cases in std::fs::read_dir(here.join("tests/cases")).unwrap() {
            let text = std::fs::read_to_string(cases.unwrap().path()).unwrap();
            for case in literate::cases(&text) {
                let mut sources = Sources::default();
                for (path, text) in case.files() {
                    sources.insert(path, text);
                }
                projects.push(sources);
            }
        }
        projects
    }

    /// A file that there is a schema for.
    struct File {
        is_valid: bool,
        /// What the compiler has to say about it.
        codes: BTreeSet<Code>,
        shown: String,
    }

    /// What compiler and schemas find in each file.
    fn files(projects: Vec<Sources>) -> Vec<File> {
        let (registry, step) = (validator(&registry()), validator(&step()));
        let mut files = Vec::new();
        for sources in projects {
            let said = crate::compile(&sources).diagnostics;
            for (path, _) in sources.below("") {
                let text = sources.bytes(path).map(String::from_utf8_lossy);
                let text = text.as_deref().unwrap_or_default();
                let (schema, yaml) = if path == registry::FILE {
                    (&registry, text)
                } else if let (Some(_), Ok(framed)) =
                    (step::step_name(path), frontmatter::split(text))
                {
                    (&step, framed.yaml)
                } else {
                    continue;
                };
                let Some(value) = value(yaml) else {
                    continue;
                };
                let codes = said.iter().filter(|found| found.file == path);
                let errors: Vec<String> = schema
                    .iter_errors(&value)
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                files.push(File {
                    is_valid: errors.is_empty(),
                    codes: codes.map(|found| found.code).collect(),
                    shown: format!("{errors:#?}\n{path}\n{text}"),
                });
            }
        }
        files
    }

    fn validator(schema: &Value) -> Validator {
        jsonschema::draft7::new(schema).unwrap()
    }

    #[test]
    fn what_the_compiler_takes_is_valid() {
        // What is ignored is a mistake too.
        let ignored = [Code::W101, Code::W102, Code::W201, Code::W202, Code::W203];
        let fine = |code: &Code| code.severity() == Severity::Warning && !ignored.contains(code);
        let files = files(projects());
        let taken: Vec<&File> = files
            .iter()
            .filter(|file| file.codes.iter().all(fine))
            .collect();
        assert!(taken.len() > 50, "{} files", taken.len());
        for file in taken {
            assert!(file.is_valid, "{}", file.shown);
        }
    }

    /// A project with one thing more in its registry or its step.
    fn with(registry: &str, step: &str) -> Sources {
        let mut sources = Sources::default();
        let agents = if registry.contains("agents:") {
            ""
        } else {
            "agents: { Worker: { harness: command, sandbox: Box } }\n"
        };
        let sandboxes = if registry.contains("sandboxes:") {
            ""
        } else {
            "sandboxes: { Box: { provider: local } }\n"
        };
        let registry = format!("{agents}{sandboxes}{registry}\n");
        sources.insert(registry::FILE, registry);
        let on = if step.contains("on: {") {
            ""
        } else {
            "on: cron(\"* * * * *\")\n"
        };
        let step = format!("---\n{on}agent: Worker\n{step}\n---\ntrue\n");
        sources.insert("workflows/flow/step.md", step);
        sources
    }

    #[test]
    fn the_compiler_and_the_schemas_call_the_same_keys_unknown() {
        for registry in [
            "extra: 1",
            "defaults: { extra: 1 }",
            "defaults: { agent: { extra: 1 } }",
            "agents: { Worker: { harness: command, sandbox: Box, extra: 1 } }",
            "agents: { Worker: { harness: { runtime: command, extra: 1 }, sandbox: Box } }",
            "sandboxes: { Box: { provider: local, extra: 1 } }",
            "sandboxes: { Box: { provider: local, image: { extra: 1 } } }",
            "sandboxes: { Box: { provider: local, repos: [{ url: a/b, extra: 1 }] } }",
            "limits: { extra: 1 }",
            "limits: { day: { runs: 1, extra: 1 } }",
            "limits: { cascade: { spend: { usd: 1, extra: 1 } } }",
            "limits: { workflows: { flow: { runs: 1, extra: 1 } } }",
        ] {
            let files = files(vec![with(registry, "")]);
            let file = &files[0];
            assert!(file.codes.contains(&Code::W201), "{}", file.shown);
            assert!(!file.is_valid, "{}", file.shown);
        }
        for step in [
            "extra: 1",
            "on: { event: Ping, extra: 1 }",
            "budget: { extra: 1 }",
            "budget: { spend: { usd: 1, extra: 1 } }",
            "emits: { Ping: { extra: 1 } }",
            "retry: { max: 1, extra: 1 }",
            "approve: { before: true, extra: 1 }",
            "concurrency: { limit: 1, extra: 1 }",
            "loop: { to: step, until: step.a == 1, max: 1, extra: 1 }",
        ] {
            let files = files(vec![with("", step)]);
            let file = &files[1];
            assert!(file.codes.contains(&Code::W101), "{}", file.shown);
            assert!(!file.is_valid, "{}", file.shown);
        }
        let mut counted = 0;
        for file in files(projects()) {
            if file.codes.contains(&Code::W101) || file.codes.contains(&Code::W201) {
                assert!(!file.is_valid, "{}", file.shown);
                counted += 1;
            }
        }
        assert!(counted > 1, "{counted} files");
    }

    #[test]
    fn every_form_is_valid() {
        let registry = r#"
defaults: { agent: { harness: { runtime: claude-code, model: claude-sonnet-4-6 }, sandbox: Box, skills: [], tools: [read] } }
sandboxes:
  Box: { provider: local, network: [example.com], env_file: a.env, repos: [a/b, { url: a/b, ref: main, path: c, depth: ~ }] }
  Kept: { provider: docker, env_file: [a.env], model_keys: proxy }
  default: { provider: daytona, image: { base: debian, apt: [git], env: { A: b } } }
agents: { Worker: , Other: { harness: command, tools: ~ } }
events: { Ping: { who: str?, how: list[enum[a, b]] }, Pong: { fields: { deep: { line: int? }, any: { type: array } } } }
limits: { cascade: { spend: { usd: 1.5 }, runs: 3 }, day: { runs: 9 }, workflows: { flow: { spend: { usd: 1 } } } }
warnings: { W501: off }
"#;
        let step = r#"
on: { event: Ping, when: event.who == "me", debounce: 30s }
files: [build/dist/**, plan/notes.md]
emits: { Ping: { when: event.who == "me" }, Pong: }
output: { a: int, b: { c: str } }
budget: { wall_clock: 20, spend: { usd: 4 }, tokens: 500000, turns: 40, window: "3", latency: 2.0 }
when: event.who in ["me", "you"]
retry: { max: 2, backoff: 30s, on: [crash, timeout, output] }
approve: { before: true, after: false, within: 24h, otherwise: deny }
concurrency: { key: event.who, limit: 1, strategy: cancel-running }
loop: { to: step, until: step.a == 1, max: 3 }
"#;
        for file in files(vec![with(registry, step)]) {
            assert!(file.is_valid, "{}", file.shown);
            let unknown = [Code::E001, Code::E101, Code::W101, Code::W201];
            assert!(
                unknown.iter().all(|code| !file.codes.contains(code)),
                "{}",
                file.shown
            );
        }
    }

    #[test]
    fn each_key_is_described() {
        fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
            match schema {
                Value::Object(words) => {
                    for (word, inner) in words {
                        if word == "properties" {
                            for (key, value) in inner.as_object().unwrap() {
                                if value["description"].as_str().is_none_or(str::is_empty) {
                                    found.push(format!("{path}.{key}"));
                                }
                                undescribed(value, &format!("{path}.{key}"), found);
                            }
                        } else {
                            undescribed(inner, path, found);
                        }
                    }
                }
                Value::Array(items) => {
                    for item in items {
                        undescribed(item, path, found);
                    }
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        undescribed(&registry(), "registry", &mut found);
        undescribed(&step(), "step", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
}
