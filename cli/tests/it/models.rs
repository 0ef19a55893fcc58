//! The agents' real tools, put into containers that have no key: they ask their models
//! through the proxy, which has it.

use crate::docker::{IMAGE, host};
use crate::support::{Loopy, Project, json};
use loopy_testkit::anthropic::{Block, ModelApi, Script};
use loopy_testkit::openai::{self, OpenAi, Reply};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const KEY: &str = "sk-the-real-key-of-this-test";

/// A project of one step of an agent in a sealed sandbox, whose image does not have the
/// agent's tool.
fn project(agent: &str, env: &str) -> Project {
    let registry = format!(
        "sandboxes:\n  Box: {{ provider: docker, image: {{ base: \"{IMAGE}\", tools: true }}, network: [api.test], \
         env_file: agent.env, model_keys: proxy }}\n\
         agents:\n  Worker: {{ {agent}, sandbox: Box }}\n\
         events:\n  Go: {{ text: str }}\n\
         prices: {{ gate/some-model: {{ input: 3, output: 15 }} }}\n"
    );
    let step = "---\non: Go\nagent: Worker\nbudget: { spend: { usd: 1 } }\noutput: { verdict: str }\n---\nJudge.\n";
    let project = Project::of(&[("registry.yml", &registry)]);
    project.write("workflows/work/only.md", step);
    project.write("agent.env", env);
    project
}

fn trigger(project: &Project) -> Loopy<'_> {
    let arguments = ["trigger", "--json", "--event", "Go", "--field", "text=hi"];
    let mut trigger = project
        .loopy(&arguments)
        .env("DOCKER_HOST", &host())
        // Tools are installed once, by npm as it is set up on this machine.
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    let home = std::env::var("HOME").unwrap();
    trigger = trigger
        .env("npm_config_cache", &format!("{home}/.npm"))
        .env("npm_config_userconfig", &format!("{home}/.npmrc"));
    for (name, value) in std::env::vars() {
        let lower = name.to_ascii_lowercase();
        let of_npm = ["npm_config_", "node_", "ssl_cert_"];
        if of_npm.iter().any(|prefix| lower.starts_with(prefix)) || lower.ends_with("_proxy") {
            trigger = trigger.env(&name, &value);
        }
    }
    trigger
}

/// Works the step to its end: what it put out, and what `.loopy` lists of its calls.
fn work(agent: &str, env: &str) -> (Value, Vec<Value>) {
    let project = project(agent, env);
    let document = json(&trigger(&project).assert().code(0));
    let step = &document["runs"][0]["steps"]["only"];
    let output = step["output"].clone();
    assert!(output.is_object(), "{document:#}");

    let mut calls = Vec::new();
    for path in files(&project.path().join(".loopy")) {
        let bytes = fs::read(&path).unwrap();
        let has = |text: &str| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        assert!(!has(KEY), "{} has the key", path.display());
        if path.ends_with("model-calls.log") {
            let text = String::from_utf8(bytes).unwrap();
            calls.extend(text.lines().map(|line| serde_json::from_str(line).unwrap()));
        }
    }
    (output, calls)
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// All that was sent had the key in its header and nowhere else.
fn check<'a>(requests: impl IntoIterator<Item = (&'a str, &'a Value)>, header: &str) {
    for (shown, body) in requests {
        assert_eq!(shown, header);
        assert!(!body.to_string().contains(KEY), "{body}");
    }
}

/// The calls that cost something, each of which has its price.
fn costly(calls: &[Value]) -> usize {
    let costly = calls
        .iter()
        .filter(|call| call["usd"].as_f64().is_some_and(|usd| usd > 0.0));
    costly.count()
}

#[test]
fn claude_code_asks_its_model_without_a_key() {
    let outcome = json!({"output": {"verdict": "pass"}});
    let api = ModelApi::start(Script::of([vec![Block::structured(outcome)]])).unwrap();
    let env = format!(
        "ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={}\n",
        api.url()
    );
    let (output, calls) = work("harness: claude-code, model: claude-sonnet-4-6", &env);
    assert_eq!(output["verdict"], "pass");
    let requests = api.messages();
    assert_eq!(costly(&calls), requests.len(), "{calls:#?}");
    let seen = requests
        .iter()
        .map(|request| (request.headers["x-api-key"].as_str(), &request.body));
    check(seen, KEY);
}

#[test]
fn claude_code_ends_at_a_cap_that_only_the_proxy_counts() {
    let text = vec![Block::text("Not yet.")];
    let api = ModelApi::start(Script::of([text])).unwrap();
    let env = format!(
        "ANTHROPIC_API_KEY={KEY}\nANTHROPIC_BASE_URL={}\n",
        api.url()
    );
    let agent = "harness: claude-code, model: claude-sonnet-4-6";
    let project = project(agent, &env);
    // The tool has a price of its own, by which it could go on for long.
    project.replace(
        "registry.yml",
        "gate/some-model: { input: 3, output: 15 }",
        "claude-sonnet-4-6: { input: 30000, output: 30000 }",
    );
    let document = json(&trigger(&project).assert().failure());
    let told = document["runs"][0].to_string();
    assert!(
        told.contains("the step may spend $1 and has spent $3.6"),
        "{document:#}"
    );
    assert_eq!(api.messages().len(), 1);
}

fn ask_openai(agent: &str, command: Reply, variables: &str) {
    let outcome = json!({"output": {"verdict": "pass"}}).to_string();
    let api = OpenAi::start(openai::Script::of([command, Reply::text(&outcome)])).unwrap();
    let env = variables.replace("=URL", &format!("={}", api.url()));
    let (output, calls) = work(agent, &env);
    assert_eq!(output["verdict"], "pass");
    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(costly(&calls), 2, "{calls:#?}");
    // The second one tells what the command said.
    let told = requests[1].body.to_string();
    assert!(told.contains("_BASE_URL=http://"), "{told}");
    let seen = requests
        .iter()
        .map(|request| (request.headers["authorization"].as_str(), &request.body));
    check(seen, &format!("Bearer {KEY}"));
}

#[test]
fn codex_asks_its_model_without_a_key() {
    ask_openai(
        "harness: codex, model: gpt-5.5",
        Reply::call("exec_command", json!({"cmd": "env"})),
        &format!("OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL=URL\n"),
    );
}

#[test]
fn opencode_asks_a_model_of_one_s_own_without_a_key() {
    ask_openai(
        "harness: opencode, model: gate/some-model",
        Reply::call("bash", json!({"command": "env", "description": "x"})),
        &format!("GATE_API_KEY={KEY}\nGATE_BASE_URL=URL\n"),
    );
}

#[test]
fn the_built_in_loop_asks_its_model_without_a_key() {
    let finish = vec![Block::tool(
        "finish",
        json!({"output": {"verdict": "pass"}}),
    )];
    let env = vec![Block::tool("bash", json!({"command": "env"}))];
    let api = ModelApi::start(Script::of([env, finish])).unwrap();
    let env = format!(
        "ANTHROPIC_AUTH_TOKEN={KEY}\nANTHROPIC_BASE_URL={}\n",
        api.url()
    );
    let (output, calls) = work("harness: loop, model: claude-sonnet-4-6", &env);
    assert_eq!(output["verdict"], "pass");
    assert_eq!(costly(&calls), 2, "{calls:#?}");
    let requests = api.messages();
    let seen = requests
        .iter()
        .map(|request| (request.headers["authorization"].as_str(), &request.body));
    check(seen, &format!("Bearer {KEY}"));
}
