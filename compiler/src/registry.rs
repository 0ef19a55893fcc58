//! Reads `registry.yml`: sandboxes, agents with their defaults merged in,
//! events, limits, prices, and the warnings that are turned off.

mod limits;
mod prices;

use crate::catalogue::namespace;
use crate::diagnostic::{Code, Report, Severity, Span};
use crate::nearest::did_you_mean;
use crate::sources::Sources;
use crate::types::Fields;
use crate::yaml::{self, Node, Scalar, Value};
use loopy_contract::event::MAX_EVENT_NAME;
use loopy_contract::manifest::{Agent, Harness, Limits, ModelKeys, Repo, Sandbox};
use loopy_contract::price::Price;
use std::collections::{BTreeMap, BTreeSet};

/// Where the registry lies.
pub(crate) const FILE: &str = "registry.yml";

pub(crate) const PROVIDERS: [&str; 4] = ["local", "docker", "daytona", "fargate"];
pub(crate) const SECTIONS: [&str; 7] = [
    "defaults",
    "sandboxes",
    "agents",
    "events",
    "limits",
    "prices",
    "warnings",
];
pub(crate) const AGENT_KEYS: [&str; 5] = ["model", "harness", "sandbox", "skills", "tools"];
pub(crate) const HARNESS_KEYS: [&str; 2] = ["runtime", "model"];
pub(crate) const SANDBOX_KEYS: [&str; 6] = [
    "provider",
    "image",
    "network",
    "env_file",
    "repos",
    "model_keys",
];
/// What `model_keys` of a sandbox may be.
pub(crate) const MODEL_KEYS: [&str; 2] = [ModelKeys::ALL[0].0, ModelKeys::ALL[1].0];
/// The provider that can keep the keys of models out of its sandboxes.
const WITH_PROXY: &str = "docker";
pub(crate) const LIMIT_KEYS: [&str; 4] = ["cascade_spend", "cascade", "day", "workflows"];
pub(crate) const PRICE_KEYS: [&str; 3] = ["input", "cached", "output"];
pub(crate) const CAP_KEYS: [&str; 2] = ["spend", "runs"];
pub(crate) const REPO_KEYS: [&str; 4] = ["url", "ref", "path", "depth"];
pub(crate) const IMAGE_KEYS: [&str; 17] = [
    "debian_slim",
    "base",
    "dockerfile",
    "snapshot",
    "workdir",
    "env",
    "apt",
    "pip",
    "pip_requirements",
    "run",
    "user",
    "entrypoint",
    "cmd",
    "cpu",
    "memory",
    "disk",
    "tools",
];

/// A registered thing and where it is registered.
#[derive(Clone, Debug)]
pub(crate) struct Entry<T> {
    pub(crate) span: Span,
    pub(crate) body: T,
}

/// One section of the registry.
#[derive(Debug)]
pub(crate) struct Section<T> {
    pub(crate) entries: BTreeMap<String, Entry<T>>,
    /// Whether all of it could be read. What is missing from a section that
    /// could not is no error of the one who names it.
    pub(crate) complete: bool,
}

impl<T> Section<T> {
    fn empty(complete: bool) -> Self {
        Self {
            entries: BTreeMap::new(),
            complete,
        }
    }

    /// Whether naming `name` is an error.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.complete && !self.entries.contains_key(name)
    }

    /// The names in it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

/// An agent with its defaults merged in, as far as it could be read.
#[derive(Debug)]
pub(crate) struct AgentDraft {
    /// `None` when something about it is wrong, which has been reported.
    pub(crate) agent: Option<Agent>,
    pub(crate) sandbox: Option<(String, Span)>,
    pub(crate) skills: Vec<(String, Span)>,
}

/// What `defaults.agent` names.
#[derive(Debug)]
pub(crate) struct DefaultsDraft {
    pub(crate) sandbox: Option<(String, Span)>,
    pub(crate) skills: Vec<(String, Span)>,
}

/// What the registry declares, as far as it could be read.
#[derive(Debug)]
pub(crate) struct RegistryDraft {
    pub(crate) sandboxes: Section<Sandbox>,
    pub(crate) agents: Section<AgentDraft>,
    /// What the agents' defaults name.
    pub(crate) defaults: DefaultsDraft,
    pub(crate) events: Section<Fields>,
    pub(crate) limits: Option<Limits>,
    /// The workflows that limits name.
    pub(crate) limited: Vec<(String, Span)>,
    /// What models cost, by the model's id.
    pub(crate) prices: BTreeMap<String, Price>,
    /// The warnings that the project does not want to hear.
    pub(crate) silenced: BTreeSet<Code>,
}

/// Reads the registry and reports what is wrong with it by itself.
pub(crate) fn read(sources: &Sources, report: &mut Report) -> RegistryDraft {
    let mut reader = Reader { report };
    let root = reader.root(sources);
    let complete = root.is_some();
    let entries = root.unwrap_or_default();
    reader.unknown_keys(Code::W201, &entries, &SECTIONS, "registry.yml has no key");
    let defaults = reader.defaults(yaml::get(&entries, "defaults"));
    let draft = RegistryDraft {
        sandboxes: reader.sandboxes(yaml::get(&entries, "sandboxes"), complete),
        agents: reader.agents(yaml::get(&entries, "agents"), &defaults, complete),
        defaults: defaults.named(),
        events: reader.events(yaml::get(&entries, "events"), complete),
        limits: None,
        limited: Vec::new(),
        prices: reader.prices(yaml::get(&entries, "prices")),
        silenced: reader.warnings(yaml::get(&entries, "warnings")),
    };
    let (limits, limited) = reader.limits(yaml::get(&entries, "limits"));
    reader.cross_names(&draft);
    RegistryDraft {
        limits,
        limited,
        ..draft
    }
}

/// A value that is written, inherited, or neither.
#[derive(Clone, Debug)]
enum Field<T> {
    Absent,
    /// Written as null, which keeps a default out.
    Null(Span),
    Given(T, Span),
    /// Written, but unreadable, which has been reported.
    Broken,
}

impl<T: Clone> Field<T> {
    /// The value with its default merged in. What is inherited is looked at
    /// where the heir stands.
    fn inherit(self, default: &Self, heir: Span) -> Self {
        match (self, default) {
            (Self::Absent, Self::Null(_)) => Self::Null(heir),
            (Self::Absent, Self::Given(value, _)) => Self::Given(value.clone(), heir),
            (Self::Absent, Self::Broken) => Self::Broken,
            (own, _) => own,
        }
    }
}

/// Names with their places.
type Names = Vec<(String, Span)>;

/// The keys of an agent, or of the agents' defaults.
#[derive(Clone, Debug)]
struct AgentFields {
    runtime: Field<String>,
    model: Field<String>,
    sandbox: Field<String>,
    skills: Field<Names>,
    tools: Field<Names>,
}

impl AgentFields {
    fn absent() -> Self {
        Self {
            runtime: Field::Absent,
            model: Field::Absent,
            sandbox: Field::Absent,
            skills: Field::Absent,
            tools: Field::Absent,
        }
    }

    fn broken() -> Self {
        Self {
            runtime: Field::Broken,
            model: Field::Broken,
            sandbox: Field::Broken,
            skills: Field::Broken,
            tools: Field::Broken,
        }
    }

    /// What they name, as far as it is written.
    fn named(self) -> DefaultsDraft {
        DefaultsDraft {
            sandbox: match self.sandbox {
                Field::Given(name, span) => Some((name, span)),
                _ => None,
            },
            skills: match self.skills {
                Field::Given(skills, _) => skills,
                _ => Vec::new(),
            },
        }
    }
}

struct Reader<'a> {
    report: &'a mut Report,
}

type Entries = Vec<(Node, Node)>;

impl Reader<'_> {
    fn malformed(&mut self, span: Span, message: impl Into<String>) {
        self.report.add(Code::E001, FILE, span, message);
    }

    /// The top-level entries; `None` when there is no telling what they are.
    fn root(&mut self, sources: &Sources) -> Option<Entries> {
        let Some(file) = sources.get(FILE) else {
            self.report
                .add(
                    Code::E001,
                    FILE,
                    Span::START,
                    "the project has no registry.yml",
                )
                .hint("an empty file is enough to begin with");
            return None;
        };
        let text = match file.text() {
            Ok(text) => text,
            Err(why) => {
                self.malformed(Span::START, why);
                return None;
            }
        };
        let document = match yaml::parse(text, 1) {
            Ok(document) => document,
            Err(problem) => {
                self.malformed(
                    problem.span,
                    format!("this is not YAML: {}", problem.message),
                );
                return None;
            }
        };
        for problem in document.problems {
            self.malformed(problem.span, problem.message);
        }
        match document.root {
            None => Some(Entries::new()),
            Some(node) if node.is_null() => Some(Entries::new()),
            Some(Node {
                value: Value::Map(entries),
                ..
            }) => Some(entries),
            Some(node) => {
                self.malformed(
                    Span {
                        line: node.span.line,
                        column: 1,
                        length: 1,
                    },
                    format!("registry.yml has to be a map, this is {}", node.kind()),
                );
                None
            }
        }
    }

    fn unknown_keys(&mut self, code: Code, entries: &[(Node, Node)], known: &[&str], what: &str) {
        for (key, _) in entries {
            let name = key.as_written().unwrap_or("~");
            if !known.contains(&name) {
                self.report
                    .add(
                        code,
                        FILE,
                        key.span,
                        format!("{what} `{name}`; it is ignored"),
                    )
                    .hint(
                        did_you_mean(name, known.iter().copied())
                            .unwrap_or_else(|| format!("the keys are {}", known.join(", "))),
                    );
            }
        }
    }

    /// The entries of a section, by name.
    fn section<'n>(
        &mut self,
        node: Option<&'n Node>,
        what: &str,
    ) -> (Vec<(&'n str, &'n Node, Span)>, bool) {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return (Vec::new(), true);
        };
        let Some(entries) = node.as_map() else {
            let message = format!("{what} have to be a map of names, this is {}", node.kind());
            self.malformed(node.span, message);
            return (Vec::new(), false);
        };
        let mut named = Vec::new();
        for (key, body) in entries {
            match key.as_text().filter(|name| !name.trim().is_empty()) {
                Some(name) => named.push((name, body, key.span)),
                None => self.malformed(
                    key.span,
                    match key.as_text() {
                        Some(_) => format!("one of the {what} has a blank name"),
                        None => format!(
                            "the names of {what} have to be text, this is {}",
                            key.kind()
                        ),
                    },
                ),
            }
        }
        (named, true)
    }

    /// The entries of a body; null counts as empty. `None` when it is no map,
    /// which is reported.
    fn body<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [(Node, Node)]> {
        if node.is_null() {
            return Some(&[]);
        }
        let entries = node.as_map();
        if entries.is_none() {
            let message = format!("{what} has to be a map, this is {}", node.kind());
            self.malformed(node.span, message);
        }
        entries
    }

    fn check_name(&mut self, name: &str, span: Span, what: &str) {
        let capital = name.chars().next().is_some_and(char::is_uppercase);
        if !(capital || (what == "sandbox" && name == "default")) {
            let mut letters = name.chars();
            let meant = letters
                .next()
                .map(|first| format!("{}{}", first.to_uppercase(), letters.as_str()))
                .filter(|meant| meant != name && name != "default");
            let message = if name == "default" {
                format!("`default` can name a sandbox, not an {what}")
            } else {
                format!("the name of {what} `{name}` has to start with a capital letter")
            };
            self.report
                .add(Code::E210, FILE, span, message)
                .hint_if(meant.map(|meant| format!("call it `{meant}`")));
        }
    }

    // Sandboxes.

    fn sandboxes(&mut self, node: Option<&Node>, complete: bool) -> Section<Sandbox> {
        let (named, readable) = self.section(node, "sandboxes");
        let mut section = Section::empty(complete && readable);
        for (name, node, span) in named {
            self.check_name(name, span, "sandbox");
            let body = self.sandbox(name, node, span);
            section
                .entries
                .insert(name.to_owned(), Entry { span, body });
        }
        section
    }

    fn sandbox(&mut self, name: &str, node: &Node, span: Span) -> Sandbox {
        let mut sandbox = Sandbox {
            provider: String::new(),
            image: BTreeMap::new(),
            network: Vec::new(),
            env_file: Vec::new(),
            repos: Vec::new(),
            model_keys: ModelKeys::default(),
        };
        let Some(entries) = self.body(node, &format!("sandbox `{name}`")) else {
            return sandbox;
        };
        self.unknown_keys(Code::W201, entries, &SANDBOX_KEYS, "a sandbox has no key");
        let provider = yaml::get(entries, "provider");
        match provider
            .and_then(Node::as_text)
            .filter(|text| !text.trim().is_empty())
        {
            None => {
                let at = provider
                    .filter(|node| !node.is_null())
                    .map_or(span, |node| node.span);
                self.report
                    .add(
                        Code::E214,
                        FILE,
                        at,
                        format!("sandbox `{name}` has no provider"),
                    )
                    .hint(format!("the providers are {}", PROVIDERS.join(", ")));
            }
            Some(text) if PROVIDERS.contains(&text) => sandbox.provider = text.to_owned(),
            Some(text) => {
                let at = provider.map_or(span, |node| node.span);
                self.report
                    .add(
                        Code::E216,
                        FILE,
                        at,
                        format!("sandbox `{name}` names the provider `{text}`, which is not known"),
                    )
                    .hint(
                        did_you_mean(text, PROVIDERS).unwrap_or_else(|| {
                            format!("the providers are {}", PROVIDERS.join(", "))
                        }),
                    );
            }
        }
        if let Some(node) = yaml::get(entries, "image") {
            self.image(name, node, &mut sandbox);
        }
        let place = format!("`network` of sandbox `{name}`");
        sandbox.network = self.texts(yaml::get(entries, "network"), &place);
        let place = format!("`env_file` of sandbox `{name}`");
        sandbox.env_file = self.texts(yaml::get(entries, "env_file"), &place);
        if let Some(node) = yaml::get(entries, "repos") {
            self.repos(name, node, &mut sandbox);
        }
        if let Some(node) = yaml::get(entries, "model_keys").filter(|node| !node.is_null()) {
            self.model_keys(name, node, &mut sandbox);
        }
        sandbox
    }

    fn model_keys(&mut self, name: &str, node: &Node, sandbox: &mut Sandbox) {
        let text = node.as_text().unwrap_or_default();
        let Some((_, model_keys)) = ModelKeys::ALL.iter().find(|(known, _)| *known == text) else {
            let message = format!(
                "`model_keys` of sandbox `{name}` says where the keys of models are: `sandbox` or `proxy`"
            );
            self.report
                .add(Code::E218, FILE, node.span, message)
                .hint_if(did_you_mean(text, MODEL_KEYS));
            return;
        };
        sandbox.model_keys = *model_keys;
        // An unknown provider is reported as such.
        if *model_keys == ModelKeys::Proxy && !["", WITH_PROXY].contains(&sandbox.provider.as_str())
        {
            let provider = &sandbox.provider;
            let why = match provider.as_str() {
                "local" => "a local sandbox may read the files of this user, the keys among them",
                _ => "its sandboxes are not on this machine, where the proxy is",
            };
            self.report
                .add(
                    Code::E218,
                    FILE,
                    node.span,
                    format!(
                        "sandbox `{name}` of the provider `{provider}` cannot have its model keys kept out of it: {why}"
                    ),
                )
                .hint(format!(
                    "give it `provider: {WITH_PROXY}`, or leave `model_keys` out"
                ));
        }
    }

    fn image(&mut self, name: &str, node: &Node, sandbox: &mut Sandbox) {
        if let Some(text) = node.as_text() {
            self.report
                .add(
                    Code::E001,
                    FILE,
                    node.span,
                    format!("the image of sandbox `{name}` has to be a map, this is text"),
                )
                .hint(format!("write image: {{ base: \"{text}\" }}"));
            return;
        }
        let Some(entries) = self.body(node, &format!("the image of sandbox `{name}`")) else {
            return;
        };
        self.unknown_keys(Code::W201, entries, &IMAGE_KEYS, "an image has no key");
        for (key, value) in entries {
            match (key.as_text(), value.to_json()) {
                (Some(key), Ok(json)) => {
                    sandbox.image.insert(key.to_owned(), json);
                }
                (None, _) => {
                    self.malformed(
                        key.span,
                        format!("a key of an image has to be text, this is {}", key.kind()),
                    );
                }
                (_, Err(problem)) => self.malformed(problem.span, problem.message),
            }
        }
    }

    /// A text or a list of texts.
    fn texts(&mut self, node: Option<&Node>, what: &str) -> Vec<String> {
        self.spanned_texts(node, what)
            .map(|texts| texts.into_iter().map(|(text, _)| text).collect())
            .unwrap_or_default()
    }

    /// As [`Self::texts`]; `None` when something was unreadable.
    fn spanned_texts(&mut self, node: Option<&Node>, what: &str) -> Option<Names> {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return Some(Vec::new());
        };
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut texts = Some(Vec::new());
        for item in items {
            match item.as_text().filter(|text| !text.trim().is_empty()) {
                Some(text) => {
                    if let Some(texts) = &mut texts {
                        texts.push((text.to_owned(), item.span));
                    }
                }
                None => {
                    let kind = if item.as_text().is_some() {
                        "blank"
                    } else {
                        item.kind()
                    };
                    self.malformed(item.span, format!("{what} holds texts, this is {kind}"));
                    texts = None;
                }
            }
        }
        texts
    }

    fn repos(&mut self, name: &str, node: &Node, sandbox: &mut Sandbox) {
        let Value::List(items) = &node.value else {
            self.report
                .add(
                    Code::E212,
                    FILE,
                    node.span,
                    format!(
                        "`repos` of sandbox `{name}` has to be a list, this is {}",
                        node.kind()
                    ),
                )
                .hint("write repos: [owner/name]");
            return;
        };
        for item in items {
            match self.repo(item) {
                Ok(repo) => sandbox.repos.push(repo),
                Err((span, message)) => {
                    self.report
                        .add(Code::E212, FILE, span, format!("a repository of sandbox `{name}` {message}"))
                        .hint("write `owner/name`, a clone URL, or { url: owner/name, ref: main, path: dir, depth: 1 }");
                }
            }
        }
    }

    fn repo(&mut self, item: &Node) -> Result<Repo, (Span, String)> {
        let shallow = Some(1);
        if let Some(text) = item.as_text() {
            if text.trim().is_empty() {
                return Err((item.span, "is blank".to_owned()));
            }
            return Ok(Repo {
                url: text.to_owned(),
                r#ref: None,
                path: None,
                depth: shallow,
            });
        }
        let Some(entries) = item.as_map() else {
            return Err((item.span, format!("is {}", item.kind())));
        };
        self.unknown_keys(Code::W201, entries, &REPO_KEYS, "a repository has no key");
        let text = |key: &str| match yaml::get(entries, key).filter(|node| !node.is_null()) {
            None => Ok(None),
            Some(node) => match node.as_text().filter(|text| !text.trim().is_empty()) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err((
                    node.span,
                    format!("has a `{key}` that is {}, not text", node.kind()),
                )),
            },
        };
        let url = text("url")?.ok_or((item.span, "has no `url`".to_owned()))?;
        let depth = match yaml::get(entries, "depth") {
            None => shallow,
            Some(node) if node.is_null() => None,
            Some(node) => match node.value {
                Value::Scalar(_, Scalar::Int(depth)) if depth > 0 => u32::try_from(depth).ok(),
                _ => {
                    let message =
                        "has a `depth` that is no positive number; null means all history";
                    return Err((node.span, message.to_owned()));
                }
            },
        };
        Ok(Repo {
            url,
            r#ref: text("ref")?,
            path: text("path")?,
            depth,
        })
    }

    // Agents.

    fn agents(
        &mut self,
        node: Option<&Node>,
        defaults: &AgentFields,
        complete: bool,
    ) -> Section<AgentDraft> {
        let (named, readable) = self.section(node, "agents");
        let mut section = Section::empty(complete && readable);
        for (name, node, span) in named {
            self.check_name(name, span, "agent");
            let own = match self.body(node, &format!("agent `{name}`")) {
                Some(entries) => self.agent_fields(entries, &format!("agent `{name}`")),
                None => AgentFields::broken(),
            };
            let body = self.agent(name, span, own, defaults);
            section
                .entries
                .insert(name.to_owned(), Entry { span, body });
        }
        section
    }

    fn defaults(&mut self, node: Option<&Node>) -> AgentFields {
        let Some(node) = node else {
            return AgentFields::absent();
        };
        let Some(entries) = self.body(node, "`defaults`") else {
            return AgentFields::broken();
        };
        self.unknown_keys(Code::W201, entries, &["agent"], "`defaults` has no key");
        let Some(node) = yaml::get(entries, "agent") else {
            return AgentFields::absent();
        };
        let Some(entries) = self.body(node, "`defaults.agent`") else {
            return AgentFields::broken();
        };
        self.agent_fields(entries, "`defaults.agent`")
    }

    fn agent_fields(&mut self, entries: &[(Node, Node)], of: &str) -> AgentFields {
        self.unknown_keys(Code::W201, entries, &AGENT_KEYS, "an agent has no key");
        let model = self.text_field(yaml::get(entries, "model"), &format!("`model` of {of}"));
        let harness = yaml::get(entries, "harness");
        let (runtime, nested) = match harness.and_then(Node::as_map) {
            None => (
                self.text_field(harness, &format!("`harness` of {of}")),
                Field::Absent,
            ),
            Some(entries) => {
                self.unknown_keys(Code::W201, entries, &HARNESS_KEYS, "a harness has no key");
                (
                    self.text_field(
                        yaml::get(entries, "runtime"),
                        &format!("`harness.runtime` of {of}"),
                    ),
                    self.text_field(
                        yaml::get(entries, "model"),
                        &format!("`harness.model` of {of}"),
                    ),
                )
            }
        };
        let model = match (model, nested) {
            (Field::Absent, nested) => nested,
            (model, Field::Absent) => model,
            (_, Field::Null(span) | Field::Given(_, span)) => {
                self.malformed(
                    span,
                    format!("{of} gives its model twice, as `model` and in `harness`"),
                );
                Field::Broken
            }
            (_, Field::Broken) => Field::Broken,
        };
        AgentFields {
            runtime,
            model,
            sandbox: self.text_field(yaml::get(entries, "sandbox"), &format!("`sandbox` of {of}")),
            skills: self.list_field(yaml::get(entries, "skills"), &format!("`skills` of {of}")),
            tools: self.list_field(yaml::get(entries, "tools"), &format!("`tools` of {of}")),
        }
    }

    fn text_field(&mut self, node: Option<&Node>, what: &str) -> Field<String> {
        let Some(node) = node else {
            return Field::Absent;
        };
        match node.as_text() {
            Some(text) if !text.trim().is_empty() => Field::Given(text.to_owned(), node.span),
            // A blank text means the same as null: nothing.
            Some(_) => Field::Null(node.span),
            None if node.is_null() => Field::Null(node.span),
            None => {
                self.malformed(
                    node.span,
                    format!("{what} has to be text, this is {}", node.kind()),
                );
                Field::Broken
            }
        }
    }

    fn list_field(&mut self, node: Option<&Node>, what: &str) -> Field<Names> {
        let Some(node) = node else {
            return Field::Absent;
        };
        match self.spanned_texts(Some(node), what) {
            Some(texts) => Field::Given(texts, node.span),
            None => Field::Broken,
        }
    }

    fn agent(
        &mut self,
        name: &str,
        span: Span,
        own: AgentFields,
        defaults: &AgentFields,
    ) -> AgentDraft {
        let own_model = match &own.model {
            Field::Given(_, span) => Some(*span),
            _ => None,
        };
        let harness = self.harness(name, span, &own.runtime.inherit(&defaults.runtime, span));
        let model = if harness == Some(Harness::Command) {
            if let Some(at) = own_model {
                let message = format!("agent `{name}` runs commands; its model has no effect");
                self.report.add(Code::W202, FILE, at, message);
            }
            Some(None)
        } else {
            self.model(
                name,
                span,
                harness,
                own.model.inherit(&defaults.model, span),
            )
            .map(Some)
        };
        let sandbox = match own.sandbox.inherit(&defaults.sandbox, span) {
            Field::Given(text, at) => Some((text, at)),
            Field::Broken => None,
            field @ (Field::Absent | Field::Null(_)) => {
                let at = if let Field::Null(at) = field {
                    at
                } else {
                    span
                };
                self.report
                    .add(
                        Code::E506,
                        FILE,
                        at,
                        format!("agent `{name}` has no sandbox"),
                    )
                    .hint("name one of `sandboxes`, in the agent or in `defaults.agent`");
                None
            }
        };
        let skills = names(own.skills, &defaults.skills, span);
        let tools = names(own.tools, &defaults.tools, span);
        let agent = harness.zip(model).map(|(harness, model)| Agent {
            harness,
            model,
            sandbox: sandbox.as_ref().map(|(name, _)| name.clone()),
            skills: skills.iter().map(|(skill, _)| skill.clone()).collect(),
            tools: tools.into_iter().map(|(tool, _)| tool).collect(),
        });
        AgentDraft {
            agent,
            sandbox,
            skills,
        }
    }

    fn harness(&mut self, name: &str, span: Span, runtime: &Field<String>) -> Option<Harness> {
        let (text, at) = match runtime {
            Field::Broken => return None,
            Field::Given(text, at) => (text, *at),
            Field::Absent | Field::Null(_) => {
                let at = if let Field::Null(at) = runtime {
                    *at
                } else {
                    span
                };
                self.report
                    .add(
                        Code::E507,
                        FILE,
                        at,
                        format!("agent `{name}` has no harness"),
                    )
                    .hint("write harness: claude-code, in the agent or in `defaults.agent`");
                return None;
            }
        };
        match Harness::from_name(text) {
            Some(harness) => Some(harness),
            None => {
                let known = Harness::ALL.map(Harness::name);
                let message =
                    format!("agent `{name}` names the harness `{text}`, which is not known");
                self.report.add(Code::E508, FILE, at, message).hint(
                    did_you_mean(text, known)
                        .unwrap_or_else(|| format!("the harnesses are {}", known.join(", "))),
                );
                None
            }
        }
    }

    fn model(
        &mut self,
        name: &str,
        span: Span,
        harness: Option<Harness>,
        model: Field<String>,
    ) -> Option<String> {
        let (text, at) = match model {
            Field::Broken => return None,
            Field::Given(text, at) => (text, at),
            field @ (Field::Absent | Field::Null(_)) => {
                let at = if let Field::Null(at) = field {
                    at
                } else {
                    span
                };
                self.report
                    .add(Code::E507, FILE, at, format!("agent `{name}` has no model"))
                    .hint("write model: claude-sonnet-4-6, in the agent or in `defaults.agent`");
                return None;
            }
        };
        if let Some(harness) = harness
            && let Err(takes) = eligible(harness, &text)
        {
            let message =
                format!("agent `{name}`: the harness `{harness}` cannot drive the model `{text}`");
            self.report
                .add(Code::E508, FILE, at, message)
                .hint(format!("`{harness}` takes {takes}"));
            return None;
        }
        Some(text)
    }

    // Events.

    fn events(&mut self, node: Option<&Node>, complete: bool) -> Section<Fields> {
        let (named, readable) = self.section(node, "events");
        let mut section = Section::empty(complete && readable);
        for (name, node, span) in named {
            self.check_name(name, span, "event");
            let length = name.encode_utf16().count();
            if length > MAX_EVENT_NAME {
                let beginning: String = name.chars().take(32).collect();
                let message = format!(
                    "the name of event `{beginning}…` has {length} characters, and the bus takes {MAX_EVENT_NAME}"
                );
                self.report
                    .add(Code::E219, FILE, span, message)
                    .hint("give it a shorter name");
            }
            if let Some(namespace) = namespace(name) {
                self.report
                    .add(
                        Code::E215,
                        FILE,
                        span,
                        format!(
                            "event `{name}` lies in `{namespace}`, which belongs to built-in events"
                        ),
                    )
                    .hint(format!("call it `{}`", name.replace('.', "")));
            }
            let body = match self.body(node, &format!("event `{name}`")) {
                Some(entries) => Fields::read(self.event_fields(name, entries), FILE, self.report),
                None => Fields::unknown(),
            };
            section
                .entries
                .insert(name.to_owned(), Entry { span, body });
        }
        section
    }

    /// The fields of an event, with or without the `fields:` around them. A
    /// lone `fields` that holds a map is the wrapper, unless that map is a
    /// JSON Schema and so the type of a field of that name.
    fn event_fields<'n>(&mut self, name: &str, entries: &'n [(Node, Node)]) -> &'n [(Node, Node)] {
        match yaml::get(entries, "fields") {
            Some(node) if entries.len() == 1 && (node.as_map().is_some() || node.is_null()) => self
                .body(node, &format!("`fields` of event `{name}`"))
                .unwrap_or_default(),
            _ => entries,
        }
    }

    // Warnings.

    /// The codes of `warnings: { W501: off }`.
    fn warnings(&mut self, node: Option<&Node>) -> BTreeSet<Code> {
        let mut silenced = BTreeSet::new();
        let entries = node.and_then(|node| self.body(node, "`warnings`"));
        for (key, value) in entries.unwrap_or_default() {
            let name = key.as_written().unwrap_or("~");
            let code = Code::from_name(name);
            let Some(code) = code.filter(|code| code.severity() == Severity::Warning) else {
                let (why, hint) = match code {
                    Some(_) => ("an error, and errors cannot be turned off", None),
                    None => ("the code of no warning", Code::nearest_warning(name)),
                };
                let hint = hint.map(|code| format!("did you mean `{}`?", code.short()));
                let message = format!("`warnings` names `{name}`, which is {why}");
                self.report
                    .add(Code::W203, FILE, key.span, message)
                    .hint(hint.unwrap_or_else(|| {
                        "`loopy docs errors` lists all codes; those of warnings begin with W"
                            .to_owned()
                    }));
                continue;
            };
            match value.as_text() {
                Some("off") => {
                    silenced.insert(code);
                }
                Some("on") => {}
                _ => {
                    let message = format!("`{name}` has to be `off` or `on`; it is ignored");
                    self.report
                        .add(Code::W202, FILE, value.span, message)
                        .hint(format!("write {name}: off"));
                }
            }
        }
        silenced
    }

    /// One name is one thing, whatever the category.
    fn cross_names(&mut self, draft: &RegistryDraft) {
        let mut places: BTreeMap<&str, Vec<(&str, Span)>> = BTreeMap::new();
        let sandboxes = draft
            .sandboxes
            .entries
            .iter()
            .map(|(n, e)| (n, "sandbox", e.span));
        let agents = draft
            .agents
            .entries
            .iter()
            .map(|(n, e)| (n, "agent", e.span));
        let events = draft
            .events
            .entries
            .iter()
            .map(|(n, e)| (n, "event", e.span));
        for (name, category, span) in sandboxes.chain(agents).chain(events) {
            places.entry(name).or_default().push((category, span));
        }
        for (name, uses) in places.iter().filter(|(_, uses)| uses.len() > 1) {
            let span = ["agent", "event", "sandbox"]
                .iter()
                .find_map(|category| uses.iter().find(|(c, _)| c == category))
                .map_or(Span::START, |(_, span)| *span);
            let categories: Vec<&str> = uses.iter().map(|(category, _)| *category).collect();
            self.report.add(
                Code::E211,
                FILE,
                span,
                format!("`{name}` names several things: {}", categories.join(", ")),
            );
        }
    }
}

/// The names of a list field with its default merged in.
fn names(own: Field<Names>, default: &Field<Names>, heir: Span) -> Names {
    match (own, default) {
        (Field::Given(names, _), _) => names,
        (Field::Absent, Field::Given(names, _)) => {
            names.iter().map(|(name, _)| (name.clone(), heir)).collect()
        }
        _ => Names::new(),
    }
}

/// Whether a harness can drive a model; otherwise what it does take.
fn eligible(harness: Harness, model: &str) -> Result<(), &'static str> {
    let is_o_series = |model: &str| {
        model
            .strip_prefix('o')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| model.starts_with(prefix));
    let (holds, takes) = match harness {
        Harness::ClaudeCode => (starts(&["claude-"]), "models that start with `claude-`"),
        Harness::Codex => (
            starts(&["gpt-", "codex"]) || is_o_series(model),
            "models that start with `gpt-` or `codex-`, and the o-series",
        ),
        Harness::Opencode => (
            model
                .split_once('/')
                .is_some_and(|(provider, id)| !provider.trim().is_empty() && !id.trim().is_empty())
                || starts(&["claude-", "gpt-", "codex"]),
            "models written as `provider/model`",
        ),
        Harness::Command | Harness::Loop => (true, "any model"),
    };
    if holds { Ok(()) } else { Err(takes) }
}
