//! Reads step files: `workflows/<workflow>/<step>.md`.

use crate::condition::Lines;
use crate::cron;
use crate::diagnostic::{Code, Report, Span, number};
use crate::forms::{self, Forms, When};
use crate::frontmatter::{self, Unframed};
use crate::parallel;
use crate::sources::{File, Sources};
use crate::step_reader::Reader;
use crate::template::{self, TagKind};
use crate::types::Fields;
use crate::yaml::{self, Node, Scalar, Value};
use loopy_contract::manifest::{Budget, Ref, Trigger};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const KEYS: [&str; 13] = [
    "on",
    "after",
    "agent",
    "when",
    "each",
    "files",
    "output",
    "emits",
    "budget",
    "retry",
    "approve",
    "concurrency",
    "loop",
];
pub(crate) const BUDGET_KEYS: [&str; 6] = [
    "wall_clock",
    "spend",
    "window",
    "latency",
    "tokens",
    "turns",
];

/// What starts a step.
#[derive(Debug)]
pub(crate) enum TriggerDraft {
    None,
    /// There is one, but it cannot be read, which has been reported.
    Broken,
    Read(Trigger, Span),
}

/// One step, as far as it could be read.
#[derive(Debug)]
pub(crate) struct StepDraft {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) trigger: TriggerDraft,
    /// Whether predecessors are written, readable or not.
    pub(crate) has_after: bool,
    pub(crate) after: Vec<(String, Span)>,
    pub(crate) agent: Option<(String, Span)>,
    pub(crate) output: Fields,
    pub(crate) emits: Vec<(String, Span)>,
    pub(crate) budget: Option<Budget>,
    /// The keys of the budget that bound the use of a model.
    pub(crate) model_limits: Vec<(&'static str, Span)>,
    pub(crate) forms: Forms,
    pub(crate) body: String,
    pub(crate) refs: Vec<(Ref, Span)>,
}

/// The steps of one workflow, by name.
#[derive(Debug, Default)]
pub(crate) struct WorkflowDraft {
    /// In boxes: a map has room for more entries than it holds.
    pub(crate) steps: BTreeMap<String, Box<StepDraft>>,
    /// Steps whose file could not be read at all. They exist, but nothing is
    /// known about them.
    pub(crate) broken: BTreeSet<String>,
}

impl WorkflowDraft {
    /// The steps that could be read, by name.
    pub(crate) fn all_steps(&self) -> impl Iterator<Item = &StepDraft> {
        self.steps.values().map(Box::as_ref)
    }
}

/// All workflows, by name.
#[derive(Debug, Default)]
pub(crate) struct Workflows {
    pub(crate) by_name: BTreeMap<String, WorkflowDraft>,
}

impl Workflows {
    /// All steps that could be read, by workflow and name.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &StepDraft> {
        self.by_name.values().flat_map(WorkflowDraft::all_steps)
    }
}

/// Reads all step files.
pub(crate) fn read_all(sources: &Sources, report: &mut Report) -> Workflows {
    let files: Vec<_> = sources
        .below("workflows/")
        .filter_map(|(path, file)| Some((path, file, step_name(path)?)))
        .collect();
    let read = parallel::map(&files, |(path, file, (workflow, name))| {
        let mut report = Report::default();
        let mut reader = Reader {
            file: path,
            report: &mut report,
        };
        let step = reader.step(workflow, name, file).map(Box::new);
        (step, report)
    });
    let mut workflows = Workflows::default();
    for ((_, _, (workflow, name)), (step, found)) in files.into_iter().zip(read) {
        report.append(found);
        let draft = workflows.by_name.entry(workflow.to_owned()).or_default();
        match step {
            Some(step) => {
                draft.steps.insert(name.to_owned(), step);
            }
            None => {
                draft.broken.insert(name.to_owned());
            }
        }
    }
    workflows
}

/// Workflow and step of `workflows/<workflow>/<step>.md`.
pub(crate) fn step_name(path: &str) -> Option<(&str, &str)> {
    let (workflow, file) = path.strip_prefix("workflows/")?.split_once('/')?;
    let name = file.strip_suffix(".md")?;
    (!file.contains('/')).then_some((workflow, name))
}

impl Reader<'_> {
    fn step(&mut self, workflow: &str, name: &str, file: &File) -> Option<StepDraft> {
        let text = match file.text() {
            Ok(text) => text,
            Err(why) => {
                self.malformed(Span::START, why);
                return None;
            }
        };
        let framed = match frontmatter::split(text) {
            Ok(framed) => framed,
            Err(why) => {
                self.unframed(why);
                return None;
            }
        };
        let document = match yaml::parse(framed.yaml, 2) {
            Ok(document) => document,
            Err(problem) => {
                let message = format!("the frontmatter is not YAML: {}", problem.message);
                self.malformed(problem.span, message);
                return None;
            }
        };
        for problem in document.problems {
            self.malformed(problem.span, problem.message);
        }
        let entries = match document.root {
            None => Vec::new(),
            Some(node) if node.is_null() => Vec::new(),
            Some(Node {
                value: Value::Map(entries),
                ..
            }) => entries,
            Some(node) => {
                let message = format!("the frontmatter has to be a map, this is {}", node.kind());
                self.malformed(node.span, message);
                return None;
            }
        };
        if framed.body.trim().is_empty() {
            let span = Span {
                line: framed.body_line.saturating_sub(1),
                column: 1,
                length: 3,
            };
            self.report
                .add(Code::E101, self.file, span, "the step has no body")
                .hint("write below the second `---` what the agent has to do");
            return None;
        }
        self.check_keys(&entries);
        let lines = Lines::of(framed.yaml, 2);
        let mut forms = self.forms(&entries, &lines);
        let (trigger, on_when) = self.trigger(yaml::get(&entries, "on"), &lines);
        forms.on_when = on_when;
        let (has_after, after) = self.names(yaml::get(&entries, "after"), "after");
        let emits = match yaml::get(&entries, "emits").map(|node| &node.value) {
            Some(Value::Map(events)) => {
                let (events, conditions) = self.conditional_emits(events, &lines);
                forms.emits_when = conditions;
                events
            }
            _ => self.names(yaml::get(&entries, "emits"), "emits").1,
        };
        let budget = self.budget(yaml::get(&entries, "budget"));
        Some(StepDraft {
            file: self.file.to_owned(),
            name: name.to_owned(),
            id: format!("{workflow}/{name}"),
            trigger,
            has_after,
            after,
            agent: self.agent(name, yaml::get(&entries, "agent")),
            output: self.output(yaml::get(&entries, "output")),
            emits,
            model_limits: model_limits(&entries, budget.as_ref()),
            budget,
            forms,
            refs: self.refs(&framed.body, framed.body_line),
            body: framed.body,
        })
    }

    fn unframed(&mut self, why: Unframed) {
        let (message, hint) = match why {
            Unframed::NoFence => (
                "the first line of a step has to be `---`",
                "a step is a block of YAML between two `---` lines, and below it the text",
            ),
            Unframed::ByteOrderMark => (
                "the file starts with a byte order mark, so its first line is not `---`",
                "save the file as UTF-8 without a byte order mark",
            ),
            Unframed::Unclosed => (
                "the frontmatter is not closed",
                "end it with a second line that holds only `---`",
            ),
        };
        self.report
            .add(Code::E101, self.file, Span::START, message)
            .hint(hint);
    }

    fn check_keys(&mut self, entries: &[(Node, Node)]) {
        for (key, _) in entries {
            let name = key.as_written().unwrap_or("~");
            if !KEYS.contains(&name) {
                self.unknown_key(key.span, name, &KEYS, "a step");
            }
        }
    }

    /// The trigger, and the condition that it may have.
    fn trigger(&mut self, node: Option<&Node>, lines: &Lines<'_>) -> (TriggerDraft, When) {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return (TriggerDraft::None, When::Always);
        };
        match &node.value {
            Value::List(_) => {
                self.report
                    .add(
                        Code::E111,
                        self.file,
                        node.span,
                        "a step can have only one trigger",
                    )
                    .hint("write one workflow for each event, or let the sensors emit one event");
                (TriggerDraft::Broken, When::Always)
            }
            Value::Map(entries) => {
                for (key, _) in entries {
                    let name = key.as_written().unwrap_or("~");
                    if !forms::ON.keys.contains(&name) {
                        self.unknown_key(key.span, name, forms::ON.keys, "a trigger");
                    }
                }
                let event = yaml::get(entries, "event");
                let Some(event) = event.filter(|event| event.as_written().is_some()) else {
                    self.malformed(node.span, "the trigger names no event");
                    return (TriggerDraft::Broken, When::Always);
                };
                let mut trigger = self.plain_trigger(event);
                let when = match &mut trigger {
                    TriggerDraft::Read(trigger, _) => self.shape(entries, trigger, lines),
                    TriggerDraft::None | TriggerDraft::Broken => When::Always,
                };
                (trigger, when)
            }
            Value::Scalar(..) => (self.plain_trigger(node), When::Always),
        }
    }

    /// The trigger of an event's name or a schedule.
    fn plain_trigger(&mut self, node: &Node) -> TriggerDraft {
        let span = node.span;
        let Some(text) = node
            .as_written()
            .map(str::trim)
            .filter(|text| !text.is_empty())
        else {
            return TriggerDraft::None;
        };
        if !cron::is_cron(text) {
            return TriggerDraft::Read(
                Trigger::Event {
                    event: text.to_owned(),
                    when: None,
                    debounce: None,
                },
                span,
            );
        }
        match cron::parse(text) {
            Ok(schedule) => {
                let trigger = Trigger::Cron {
                    expr: schedule.expr,
                    tz: schedule.tz,
                    catch_up: schedule.catch_up,
                };
                TriggerDraft::Read(trigger, span)
            }
            Err(refusal) => {
                self.report
                    .add(Code::E110, self.file, span, refusal.message)
                    .hint_if(refusal.hint);
                TriggerDraft::Broken
            }
        }
    }

    /// A name or a list of names, and whether anything is written at all.
    fn names(&mut self, node: Option<&Node>, key: &str) -> (bool, Vec<(String, Span)>) {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return (false, Vec::new());
        };
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut names = Vec::new();
        for item in items {
            match item.as_written().filter(|text| !text.trim().is_empty()) {
                Some(text) => names.push((text.trim().to_owned(), item.span)),
                None => {
                    let kind = if item.as_text().is_some() {
                        "blank"
                    } else {
                        item.kind()
                    };
                    let message =
                        format!("`{key}` holds a name or a list of names, this is {kind}");
                    self.malformed(item.span, message);
                }
            }
        }
        (!items.is_empty(), names)
    }

    fn agent(&mut self, name: &str, node: Option<&Node>) -> Option<(String, Span)> {
        let missing = |reader: &mut Self, span| {
            reader
                .report
                .add(
                    Code::E509,
                    reader.file,
                    span,
                    format!("step `{name}` has no agent"),
                )
                .hint("write agent: Name, with a name that registry.yml lists under `agents`");
        };
        match node {
            None => missing(self, Span::START),
            Some(node) if node.is_null() => missing(self, node.span),
            Some(node) => match node.as_text() {
                Some(text) if text.trim().is_empty() => missing(self, node.span),
                Some(text) => return Some((text.trim().to_owned(), node.span)),
                None => {
                    let message = format!("`agent` has to be a name, this is {}", node.kind());
                    self.malformed(node.span, message);
                }
            },
        }
        None
    }

    fn output(&mut self, node: Option<&Node>) -> Fields {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return Fields::default();
        };
        match node.as_map() {
            Some(entries) => Fields::read(entries, self.file, self.report),
            None => {
                let message = format!(
                    "`output` is ignored: it has to be a map, this is {}",
                    node.kind()
                );
                self.ignored(
                    node.span,
                    message,
                    "write output: { verdict: enum[pass, fail] }",
                );
                Fields::default()
            }
        }
    }

    fn budget(&mut self, node: Option<&Node>) -> Option<Budget> {
        let node = node.filter(|node| !node.is_null())?;
        let Some(entries) = node.as_map() else {
            let message = format!(
                "`budget` is ignored: it has to be a map, this is {}",
                node.kind()
            );
            self.ignored(
                node.span,
                message,
                "write budget: { wall_clock: 20, spend: { usd: 4 } }",
            );
            return None;
        };
        let mut budget = Budget::default();
        for (key, value) in entries {
            match key.as_written().unwrap_or("~") {
                "wall_clock" => budget.wall_clock = self.whole("wall_clock", "minutes", value),
                "window" => budget.window = self.whole("window", "days", value),
                "latency" => budget.latency = self.whole("latency", "days", value),
                "tokens" => {
                    budget.tokens = self
                        .whole("tokens", "tokens", value)
                        .and_then(|tokens| self.count("tokens", tokens, value.span));
                }
                "turns" => {
                    budget.turns = self
                        .whole("turns", "turns", value)
                        .and_then(|turns| self.count("turns", turns, value.span));
                }
                "spend" => budget.spend = self.spend(value),
                name => self.unknown_key(key.span, name, &BUDGET_KEYS, "a budget"),
            }
        }
        Some(budget)
    }

    /// A whole number, which may also be written as text or as `2.0`.
    fn whole(&mut self, key: &str, unit: &str, node: &Node) -> Option<i64> {
        // Above this, not every whole number is one of the float's values.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let whole = match &node.value {
            Value::Scalar(_, Scalar::Int(int)) => Some(*int),
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
            Value::Scalar(_, Scalar::Float(float)) => {
                (float.fract() == 0.0 && float.abs() <= EXACT).then_some(*float as i64)
            }
            Value::Scalar(text, Scalar::Text) => text.trim().parse().ok(),
            Value::Scalar(_, Scalar::Null) => return None,
            _ => None,
        };
        match whole {
            None => {
                let message = format!("`budget.{key}` has to be a whole number of {unit}");
                self.malformed(node.span, message);
            }
            Some(whole) if whole <= 0 => {
                let message = format!("`budget.{key}` of {whole} {unit} sets no limit");
                self.ignored(node.span, message, "give a number above 0, or leave it out");
            }
            Some(_) => {}
        }
        whole
    }

    /// A number that was already complained about when it is not above 0.
    fn count<T: TryFrom<i64>>(&mut self, key: &str, whole: i64, span: Span) -> Option<T> {
        if whole <= 0 {
            return None;
        }
        let count = T::try_from(whole).ok();
        if count.is_none() {
            self.malformed(span, format!("`budget.{key}` is too large"));
        }
        count
    }

    fn spend(&mut self, node: &Node) -> Option<BTreeMap<String, serde_json::Value>> {
        let node = Some(node).filter(|node| !node.is_null())?;
        let Some(entries) = node.as_map() else {
            let message = format!(
                "`budget.spend` is ignored: it has to be a map, this is {}",
                node.kind()
            );
            self.ignored(node.span, message, "write spend: { usd: 4 }");
            return None;
        };
        let mut spend = BTreeMap::new();
        for (key, value) in entries {
            let name = key.as_written().unwrap_or("~");
            if name == "usd" {
                match value.as_number() {
                    None => {
                        let message = "`budget.spend.usd` has to be a number of dollars";
                        self.malformed(value.span, message);
                    }
                    Some(usd) if usd <= 0.0 => {
                        let message = format!("`budget.spend.usd` of {usd} sets no limit");
                        self.ignored(
                            value.span,
                            message,
                            "give an amount above 0, or leave it out",
                        );
                    }
                    Some(_) => {}
                }
            } else {
                self.unknown_key(key.span, name, &["usd"], "a spend");
            }
            match value.to_json() {
                Ok(json) => {
                    spend.insert(name.to_owned(), json);
                }
                Err(problem) => self.malformed(problem.span, problem.message),
            }
        }
        Some(spend)
    }

    fn refs(&mut self, body: &str, body_line: u32) -> Vec<(Ref, Span)> {
        let mut refs = Vec::new();
        for tag in template::tags(body) {
            let first_line = tag.raw.split('\n').next().unwrap_or_default();
            let span = Span {
                line: body_line.saturating_add(number(tag.line)),
                column: number(tag.column).saturating_add(1),
                length: number(first_line.chars().count()).max(1),
            };
            match tag.kind {
                TagKind::Reference { producer, field } => refs.push((
                    Ref {
                        producer: producer.to_owned(),
                        field: field.to_owned(),
                        raw: tag.raw.to_owned(),
                    },
                    span,
                )),
                TagKind::Bare(producer) => refs.push((
                    Ref {
                        producer: producer.to_owned(),
                        field: String::new(),
                        raw: tag.raw.to_owned(),
                    },
                    span,
                )),
                TagKind::Literal => {}
                TagKind::Control => {
                    let message = format!("`{first_line}`: templates have no control flow");
                    self.report
                        .add(Code::E301, self.file, span, message)
                        .hint("say in words what the agent is to do in which case");
                }
                TagKind::Malformed => {
                    let message = format!("`{first_line}` is not a reference");
                    self.report
                        .add(Code::E301, self.file, span, message)
                        .hint(template::REFERENCE);
                }
            }
        }
        refs
    }
}

/// The keys of a step's budget that bound the use of a model.
fn model_limits(entries: &[(Node, Node)], budget: Option<&Budget>) -> Vec<(&'static str, Span)> {
    let Some(budget) = budget else {
        return Vec::new();
    };
    let limits = [
        ("spend", budget.usd().is_some()),
        ("tokens", budget.tokens.is_some()),
        ("turns", budget.turns.is_some()),
    ];
    let written = yaml::get(entries, "budget").and_then(Node::as_map);
    let written = written.unwrap_or_default().iter();
    written
        .filter_map(|(key, _)| {
            let mut limits = limits.iter();
            let (name, _) = limits.find(|(name, set)| *set && key.as_text() == Some(name))?;
            Some((*name, key.span))
        })
        .collect()
}
