//! Where things are declared and where they are named, as far as a project can
//! be read: what an editor needs to answer for a name, errors or not.

use crate::assemble;
use crate::builtin;
use crate::catalogue;
use crate::diagnostic::{Report, Span, number};
use crate::expression::Kind;
use crate::forms::EachDraft;
use crate::frontmatter;
use crate::registry::{self, RegistryDraft};
use crate::sensor::{self, SensorDraft};
use crate::sources::Sources;
use crate::step::{self, StepDraft, TriggerDraft, WorkflowDraft, Workflows};
use crate::types::Fields;
use crate::yaml;
use loopy_contract::manifest::{Ref, SensorSource, Trigger};
use serde_json::Value;
use std::collections::BTreeMap;

/// The fields of a schedule's tick, with their types.
const TICK: [(&str, &str); 2] = [("scheduled_at", "datetime"), ("last_run", "datetime?")];

/// The declarations of a project and the places that name them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    /// Agents by name.
    pub agents: BTreeMap<String, AgentEntry>,
    /// Sandboxes by name.
    pub sandboxes: BTreeMap<String, SandboxEntry>,
    /// Skills by name.
    pub skills: BTreeMap<String, SkillEntry>,
    /// Events by name, with the built-in ones that a trigger names.
    pub events: BTreeMap<String, EventEntry>,
    /// Steps by workflow and name, those included that could not be read.
    pub workflows: BTreeMap<String, BTreeMap<String, StepEntry>>,
    /// What each file names and declares, by path, in no given order. Of two
    /// that overlap, the first is the closer one.
    pub mentions: BTreeMap<String, Vec<Mention>>,
}

/// A place in the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Path in the project, with `/`.
    pub file: String,
    /// Where in it.
    pub span: Span,
}

/// An agent with its defaults merged in.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentEntry {
    /// Where it is declared.
    pub place: Place,
    /// The harness; `None` when it could not be read.
    pub harness: Option<&'static str>,
    /// The model, where there is one that could be read.
    pub model: Option<String>,
    /// The sandbox it names.
    pub sandbox: Option<String>,
    /// The skills it names.
    pub skills: Vec<String>,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxEntry {
    /// Where it is declared.
    pub place: Place,
    /// Its provider; empty when it could not be read.
    pub provider: String,
}

/// A skill.
#[derive(Clone, Debug, PartialEq)]
pub struct SkillEntry {
    /// Its `SKILL.md`.
    pub file: String,
    /// What it says of itself, where it does.
    pub description: Option<String>,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventEntry {
    /// Where it is declared; `None` for a built-in one.
    pub place: Option<Place>,
    /// Its fields.
    pub fields: BTreeMap<String, FieldEntry>,
    /// What makes it: `sensor name`, `step workflow/step`.
    pub producers: Vec<String>,
    /// The steps that it starts: `workflow/step`.
    pub consumers: Vec<String>,
}

/// A field of an event, or of a step's output.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldEntry {
    /// Where it is declared; `None` where no file does.
    pub place: Option<Place>,
    /// Its type as one would write it.
    pub type_text: String,
}

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEntry {
    /// Its file.
    pub file: String,
    /// What starts the workflow here, if this is its first step.
    pub trigger: Option<Trigger>,
    /// The steps it waits for, as written; they may not exist.
    pub after: Vec<String>,
    /// The agent's name.
    pub agent: Option<String>,
    /// What its body calls one item of the list it runs over.
    pub item: Option<String>,
    /// What it puts out.
    pub outputs: BTreeMap<String, FieldEntry>,
    /// The events it emits, as written.
    pub emits: Vec<String>,
}

/// A place that names or declares something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Where in the file.
    pub span: Span,
    /// What is meant; it may not exist.
    pub target: Target,
}

/// What a place means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An agent.
    Agent(String),
    /// A sandbox.
    Sandbox(String),
    /// A skill.
    Skill(String),
    /// An event.
    Event(String),
    /// A step.
    Step {
        /// The workflow.
        workflow: String,
        /// The step in it.
        step: String,
    },
    /// A field of an event.
    EventField {
        /// The event.
        event: String,
        /// The field of it.
        field: String,
    },
    /// An output of a step.
    Output {
        /// The workflow.
        workflow: String,
        /// The step in it.
        step: String,
        /// The field of its output.
        field: String,
    },
    /// A schedule's tick.
    Tick,
    /// A field of a schedule's tick.
    TickField(String),
}

/// Indexes a project. Pure, like [`compile`](crate::compile), and never fails:
/// what cannot be read is missing.
pub fn index(sources: &Sources) -> Index {
    let mut report = Report::default();
    let mut registry = registry::read(sources, &mut report);
    let workflows = step::read_all(sources, &mut report);
    let mut sensors = sensor::read_all(sources, &mut report);
    builtin::inject(&workflows, &mut registry, &mut sensors.drafts, &mut report);
    let mut builder = Builder::default();
    builder.registry(&registry);
    builder.skills(sources);
    for (name, workflow) in &workflows.by_name {
        builder.workflow(name, workflow);
    }
    builder.producers(&workflows, &sensors.drafts);
    builder.index
}

/// The keys a step's frontmatter may have.
pub fn step_keys() -> &'static [&'static str] {
    &step::KEYS
}

/// The fields of a schedule's tick.
pub fn tick_fields() -> BTreeMap<String, FieldEntry> {
    let field = |type_text: &str| FieldEntry {
        place: None,
        type_text: type_text.to_owned(),
    };
    TICK.into_iter()
        .map(|(name, type_text)| (name.to_owned(), field(type_text)))
        .collect()
}

#[derive(Default)]
struct Builder {
    index: Index,
}

impl Builder {
    fn mention(&mut self, file: &str, span: Span, target: Target) {
        let mention = Mention { span, target };
        match self.index.mentions.get_mut(file) {
            Some(mentions) => mentions.push(mention),
            None => {
                self.index.mentions.insert(file.to_owned(), vec![mention]);
            }
        }
    }

    fn registry(&mut self, registry: &RegistryDraft) {
        let place = |span| Place {
            file: registry::FILE.to_owned(),
            span,
        };
        for (name, entry) in &registry.sandboxes.entries {
            let sandbox = SandboxEntry {
                place: place(entry.span),
                provider: entry.body.provider.clone(),
            };
            self.index.sandboxes.insert(name.clone(), sandbox);
            self.mention(registry::FILE, entry.span, Target::Sandbox(name.clone()));
        }
        for (name, entry) in &registry.events.entries {
            let is_builtin = catalogue::namespace(name).is_some();
            let file = (!is_builtin).then_some(registry::FILE);
            let event = EventEntry {
                place: (!is_builtin).then(|| place(entry.span)),
                fields: fields(&entry.body, file),
                producers: Vec::new(),
                consumers: Vec::new(),
            };
            if !is_builtin {
                self.mention(registry::FILE, entry.span, Target::Event(name.clone()));
            }
            self.field_mentions(&event.fields, |field| Target::EventField {
                event: name.clone(),
                field: field.to_owned(),
            });
            self.index.events.insert(name.clone(), event);
        }
        for (name, entry) in &registry.agents.entries {
            let draft = &entry.body;
            let agent = AgentEntry {
                place: place(entry.span),
                harness: draft.agent.as_ref().map(|agent| agent.harness.name()),
                model: draft.agent.as_ref().and_then(|agent| agent.model.clone()),
                sandbox: draft.sandbox.as_ref().map(|(name, _)| name.clone()),
                skills: draft.skills.iter().map(|(name, _)| name.clone()).collect(),
            };
            self.index.agents.insert(name.clone(), agent);
            // Before the sandbox: one that is inherited stands here too.
            self.mention(registry::FILE, entry.span, Target::Agent(name.clone()));
            self.named(draft.sandbox.as_ref(), &draft.skills);
        }
        let defaults = &registry.defaults;
        self.named(defaults.sandbox.as_ref(), &defaults.skills);
    }

    /// What an agent, or the defaults of all, names in the registry.
    fn named(&mut self, sandbox: Option<&(String, Span)>, skills: &[(String, Span)]) {
        if let Some((sandbox, span)) = sandbox {
            self.mention(registry::FILE, *span, Target::Sandbox(sandbox.clone()));
        }
        for (skill, span) in skills {
            self.mention(registry::FILE, *span, Target::Skill(skill.clone()));
        }
    }

    fn skills(&mut self, sources: &Sources) {
        for name in assemble::skill_names(sources) {
            let file = match name {
                "." => "skills/SKILL.md".to_owned(),
                _ => format!("skills/{name}/SKILL.md"),
            };
            let text = sources.get(&file).and_then(|file| file.text().ok());
            let entry = SkillEntry {
                description: text.and_then(description),
                file,
            };
            self.index.skills.insert(name.to_owned(), entry);
        }
    }

    fn field_mentions(
        &mut self,
        fields: &BTreeMap<String, FieldEntry>,
        target: impl Fn(&str) -> Target,
    ) {
        for (name, field) in fields {
            if let Some(place) = &field.place {
                self.mention(&place.file, place.span, target(name));
            }
        }
    }

    fn workflow(&mut self, name: &str, workflow: &WorkflowDraft) {
        let trigger = workflow.entry().and_then(|entry| match &entry.trigger {
            TriggerDraft::Read(trigger, _) => Some(trigger),
            _ => None,
        });
        let mut steps = BTreeMap::new();
        for step in &workflow.broken {
            let entry = StepEntry {
                file: format!("workflows/{name}/{step}.md"),
                trigger: None,
                after: Vec::new(),
                agent: None,
                item: None,
                outputs: BTreeMap::new(),
                emits: Vec::new(),
            };
            steps.insert(step.clone(), entry);
        }
        for (step, draft) in &workflow.steps {
            steps.insert(step.clone(), self.step(name, trigger, draft));
        }
        self.index.workflows.insert(name.to_owned(), steps);
    }

    /// `event` is what starts the workflow.
    fn step(&mut self, workflow: &str, event: Option<&Trigger>, draft: &StepDraft) -> StepEntry {
        let file = draft.file.as_str();
        let step_target = |step: &str| Target::Step {
            workflow: workflow.to_owned(),
            step: step.to_owned(),
        };
        let trigger = match &draft.trigger {
            TriggerDraft::Read(trigger, span) => {
                let target = match trigger {
                    Trigger::Event { event, .. } => Target::Event(event.clone()),
                    Trigger::Cron { .. } => Target::Tick,
                };
                self.mention(file, *span, target);
                Some(trigger.clone())
            }
            TriggerDraft::None | TriggerDraft::Broken => None,
        };
        if let Some((agent, span)) = &draft.agent {
            self.mention(file, *span, Target::Agent(agent.clone()));
        }
        for (step, span) in &draft.after {
            self.mention(file, *span, step_target(step));
        }
        for (event, span) in &draft.emits {
            self.mention(file, *span, Target::Event(event.clone()));
        }
        let reader = Reader {
            workflow,
            event,
            each: draft.forms.each.as_ref(),
        };
        for (reference, span) in &draft.refs {
            let producer = producer_in_tag(reference, *span);
            let targets = reader.targets(&reference.producer, &reference.field);
            self.reference(file, producer, *span, targets);
        }
        self.forms(&reader, draft);
        let outputs = fields(&draft.output, Some(file));
        self.field_mentions(&outputs, |field| Target::Output {
            workflow: workflow.to_owned(),
            step: draft.name.clone(),
            field: field.to_owned(),
        });
        StepEntry {
            file: draft.file.clone(),
            trigger,
            after: draft.after.iter().map(|(name, _)| name.clone()).collect(),
            agent: draft.agent.as_ref().map(|(name, _)| name.clone()),
            item: draft.forms.each.as_ref().map(|each| each.name.clone()),
            outputs,
            emits: draft.emits.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// What a reference names: its producer, where that has a place of its own,
    /// and the whole.
    fn reference(
        &mut self,
        file: &str,
        producer: Option<Span>,
        whole: Span,
        targets: Option<(Target, Target)>,
    ) {
        let Some((named, field)) = targets else {
            return;
        };
        if let Some(producer) = producer {
            self.mention(file, producer, named);
        }
        self.mention(file, whole, field);
    }

    /// What is named outside a step's body, in conditions and the like.
    fn forms(&mut self, reader: &Reader<'_>, draft: &StepDraft) {
        let (file, forms) = (draft.file.as_str(), &draft.forms);
        let mut found: Vec<(Span, &str, &str)> = Vec::new();
        if let Some(each) = &forms.each {
            found.push((each.over_span, &each.over.producer, &each.over.field));
        }
        if let Some(draft) = &forms.concurrency
            && let Some(key) = &draft.concurrency.key
        {
            found.push((draft.key_span, &key.producer, &key.field));
        }
        if let Some(back) = &forms.r#loop {
            let target = Target::Step {
                workflow: reader.workflow.to_owned(),
                step: back.to.clone(),
            };
            self.mention(file, back.to_span, target);
        }
        for files in &forms.files {
            let target = Target::Step {
                workflow: reader.workflow.to_owned(),
                step: files.step.clone(),
            };
            self.mention(file, files.step_span.unwrap_or(files.span), target);
        }
        let until = forms.r#loop.as_ref().map(|back| &back.until);
        let conditions = [forms.when.read(), forms.on_when.read(), until];
        for condition in conditions
            .into_iter()
            .flatten()
            .chain(forms.emits_when.values())
        {
            let mut open = vec![&condition.expr];
            while let Some(expr) = open.pop() {
                match &expr.kind {
                    Kind::Literal(_) => {}
                    Kind::Reference { producer, field } => {
                        found.push((condition.span(&expr.at), producer, field));
                    }
                    Kind::Not(operand) => open.push(operand),
                    Kind::And(operands) | Kind::Or(operands) => open.extend(operands),
                    Kind::Compare { left, right, .. } => open.extend([&**left, &**right]),
                }
            }
        }
        for (span, producer, field) in found {
            // A span of another length is that of the whole value.
            let letters = number(producer.chars().count());
            let length = letters + 1 + number(field.chars().count());
            let named = (span.length == length).then_some(Span {
                length: letters,
                ..span
            });
            self.reference(file, named, span, reader.targets(producer, field));
        }
    }

    fn producers(&mut self, workflows: &Workflows, sensors: &[SensorDraft]) {
        for SensorDraft { sensor, file, span } in sensors {
            let producer = if sensor.source == SensorSource::Builtin {
                let provider = sensor.provider.as_deref().unwrap_or_default();
                format!("the built-in webhook of {provider}")
            } else {
                let target = Target::Event(sensor.emits.clone());
                self.mention(file, *span, target);
                format!("sensor {}", sensor.name)
            };
            if let Some(event) = self.index.events.get_mut(&sensor.emits) {
                event.producers.push(producer);
            }
        }
        for step in workflows.steps() {
            for (event, _) in &step.emits {
                if let Some(event) = self.index.events.get_mut(event) {
                    event.producers.push(format!("step {}", step.id));
                }
            }
            if let TriggerDraft::Read(Trigger::Event { event, .. }, _) = &step.trigger
                && let Some(event) = self.index.events.get_mut(event)
            {
                event.consumers.push(step.id.clone());
            }
        }
    }
}

/// The step that a reference stands in, as far as it gives the reference its
/// meaning.
struct Reader<'a> {
    workflow: &'a str,
    /// What starts the workflow.
    event: Option<&'a Trigger>,
    each: Option<&'a EachDraft>,
}

impl Reader<'_> {
    /// What the producer and the field of a reference mean.
    fn targets(&self, producer: &str, field: &str) -> Option<(Target, Target)> {
        if let Some(each) = self.each
            && each.name == producer
        {
            // An item has the meaning of the list that it is of.
            let list = self.field(&each.over.producer, &each.over.field)?;
            return Some((list.clone(), list));
        }
        let named = match (producer, self.event) {
            ("event", Some(Trigger::Event { event, .. })) => Target::Event(event.clone()),
            ("event", Some(Trigger::Cron { .. })) => Target::Tick,
            ("event", None) => return None,
            _ => Target::Step {
                workflow: self.workflow.to_owned(),
                step: producer.to_owned(),
            },
        };
        Some((named, self.field(producer, field)?))
    }

    fn field(&self, producer: &str, field: &str) -> Option<Target> {
        let field = field.to_owned();
        Some(match (producer, self.event) {
            ("event", Some(Trigger::Event { event, .. })) => Target::EventField {
                event: event.clone(),
                field,
            },
            ("event", Some(Trigger::Cron { .. })) => Target::TickField(field),
            ("event", None) => return None,
            _ => Target::Output {
                workflow: self.workflow.to_owned(),
                step: producer.to_owned(),
                field,
            },
        })
    }
}

/// The declared fields; `file` declares them, if one does.
fn fields(fields: &Fields, file: Option<&str>) -> BTreeMap<String, FieldEntry> {
    let contract = &fields.contract;
    let entry = |name: &String, schema| FieldEntry {
        place: file.map(|file| Place {
            file: file.to_owned(),
            span: fields.place(name),
        }),
        type_text: type_text(schema, contract.optional.contains(name)),
    };
    contract
        .fields
        .iter()
        .map(|(name, schema)| (name.clone(), entry(name, schema)))
        .collect()
}

/// The `description` in a skill's frontmatter.
fn description(text: &str) -> Option<String> {
    let framed = frontmatter::split(text).ok()?;
    let root = yaml::parse(framed.yaml, 2).ok()?.root?;
    let description = yaml::get(root.as_map()?, "description")?.as_text()?.trim();
    (!description.is_empty()).then(|| description.to_owned())
}

/// The place of a tag's producer. A tag that spreads over lines has none.
fn producer_in_tag(reference: &Ref, tag: Span) -> Option<Span> {
    let before = reference
        .raw
        .find(|c: char| c != '{' && !c.is_whitespace())
        .and_then(|at| reference.raw.get(..at))
        .filter(|_| !reference.raw.contains('\n'))?;
    Some(Span {
        line: tag.line,
        column: tag.column.saturating_add(number(before.chars().count())),
        length: number(reference.producer.chars().count()),
    })
}

/// A type as one would write it, from its JSON Schema.
fn type_text(schema: &Value, optional: bool) -> String {
    let mut text = written(schema).unwrap_or_else(|| "JSON Schema".to_owned());
    if optional {
        text.push('?');
    }
    text
}

/// `None` for a JSON Schema that is no type of the language. Schemas nest no
/// deeper than the YAML they were read from.
fn written(schema: &Value) -> Option<String> {
    let schema = schema.as_object()?;
    let text_of = |key: &str| schema.get(key).and_then(Value::as_str);
    let name = match (text_of("type"), schema.len()) {
        (None, 0) => "json",
        (Some("string"), 1) => "str",
        (Some("string"), 2) if text_of("format") == Some("uri") => "url",
        (Some("string"), 2) if text_of("format") == Some("date-time") => "datetime",
        (Some("string"), 2) if schema.get("minLength") == Some(&Value::from(1)) => "id",
        (Some("string"), 2) => {
            let members = schema.get("enum")?.as_array()?;
            let members: Option<Vec<&str>> = members.iter().map(Value::as_str).collect();
            return Some(format!("enum[{}]", members?.join(", ")));
        }
        (Some("integer"), 1) => "int",
        (Some("number"), 1) => "float",
        (Some("boolean"), 1) => "bool",
        (Some("array"), 2) => return Some(format!("list[{}]", written(schema.get("items")?)?)),
        (Some("object"), 4) => {
            let required = schema.get("required")?.as_array()?;
            let mut parts = Vec::new();
            for (name, field) in schema.get("properties")?.as_object()? {
                let mark = if required.iter().any(|known| known == name) {
                    ""
                } else {
                    "?"
                };
                parts.push(format!("{name}: {}{mark}", written(field)?));
            }
            return Some(format!("{{ {} }}", parts.join(", ")));
        }
        _ => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const REGISTRY: &str = "\
agents:
  Coder: { harness: command, sandbox: Box }
sandboxes:
  Box: { provider: local }
events:
  Bug: { title: str, tags: 'list[{ a: int, b: url? }]?' }
";

    fn project(files: &[(&str, &str)]) -> Index {
        let mut sources = Sources::default();
        for (path, text) in files {
            sources.insert(*path, *text);
        }
        index(&sources)
    }

    fn at(index: &Index, file: &str, line: u32, column: u32) -> Option<Target> {
        let holds = |span: &Span| {
            span.line == line && (span.column..span.column + span.length).contains(&column)
        };
        let mentions = index.mentions.get(file)?;
        let found = mentions.iter().find(|mention| holds(&mention.span))?;
        Some(found.target.clone())
    }

    #[test]
    fn names_are_tied_to_what_they_mean() {
        let index = project(&[
            ("registry.yml", REGISTRY),
            (
                "workflows/w/a.md",
                "---\non: Bug\nagent: Coder\noutput: { n: int }\nemits: Bug\n---\né {{ event.title }}\n",
            ),
            ("workflows/w/b.md", "---\nafter: [a]\n---\n{{a.n}}\n"),
        ]);
        let a = "workflows/w/a.md";
        let event = |field: &str| Target::EventField {
            event: "Bug".to_owned(),
            field: field.to_owned(),
        };
        assert_eq!(at(&index, a, 2, 5), Some(Target::Event("Bug".to_owned())));
        assert_eq!(at(&index, a, 3, 8), Some(Target::Agent("Coder".to_owned())));
        assert_eq!(at(&index, a, 7, 6), Some(Target::Event("Bug".to_owned())));
        assert_eq!(at(&index, a, 7, 12), Some(event("title")));
        assert_eq!(at(&index, "registry.yml", 6, 10), Some(event("title")));
        let output = Target::Output {
            workflow: "w".to_owned(),
            step: "a".to_owned(),
            field: "n".to_owned(),
        };
        assert_eq!(at(&index, "workflows/w/b.md", 4, 5), Some(output));
        let bug = &index.events["Bug"];
        assert_eq!(bug.producers, ["step w/a"]);
        assert_eq!(bug.consumers, ["w/a"]);
        assert_eq!(bug.fields["tags"].type_text, "list[{ a: int, b: url? }]?");
        assert_eq!(index.agents["Coder"].harness, Some("command"));
        let n = index.workflows["w"]["a"].outputs["n"].place.clone();
        assert_eq!(n.unwrap().span.column, 11);
    }

    #[test]
    fn conditions_and_items_mean_something_too() {
        let index = project(&[
            ("registry.yml", REGISTRY),
            (
                "workflows/w/a.md",
                "---\non: Bug\noutput: { ns: 'list[str]', ok: bool }\n---\nx\n",
            ),
            (
                "workflows/w/b.md",
                "---\nafter: a\nwhen: a.ok == true\neach: a.ns as one\n---\n{{ one }}\n",
            ),
        ]);
        let output = |field: &str| Target::Output {
            workflow: "w".to_owned(),
            step: "a".to_owned(),
            field: field.to_owned(),
        };
        let step = Target::Step {
            workflow: "w".to_owned(),
            step: "a".to_owned(),
        };
        let b = "workflows/w/b.md";
        assert_eq!(at(&index, b, 3, 7), Some(step));
        assert_eq!(at(&index, b, 3, 9), Some(output("ok")));
        assert_eq!(at(&index, b, 4, 9), Some(output("ns")));
        assert_eq!(at(&index, b, 6, 5), Some(output("ns")));
        assert_eq!(index.workflows["w"]["b"].item.as_deref(), Some("one"));
    }

    #[test]
    fn the_registry_names_sandboxes_and_skills() {
        let index = project(&[
            (
                "registry.yml",
                "\
defaults: { agent: { sandbox: Box, skills: [tone] } }
sandboxes: { Box: { provider: local } }
agents: { A: { skills: [tone, deep/er] }, B: }
",
            ),
            ("skills/tone/SKILL.md", "---\ndescription: Kind.\n---\nx\n"),
            ("skills/deep/er/SKILL.md", "x\n"),
        ]);
        let target = |line, column| at(&index, "registry.yml", line, column);
        let (tone, sandbox) = ("tone".to_owned(), "Box".to_owned());
        assert_eq!(target(1, 31), Some(Target::Sandbox(sandbox)));
        assert_eq!(target(1, 45), Some(Target::Skill(tone.clone())));
        assert_eq!(target(3, 25), Some(Target::Skill(tone)));
        assert_eq!(target(3, 31), Some(Target::Skill("deep/er".to_owned())));
        // What is inherited does not stand in the way of the agent.
        assert_eq!(target(3, 43), Some(Target::Agent("B".to_owned())));
        let tone = &index.skills["tone"];
        assert_eq!(tone.file, "skills/tone/SKILL.md");
        assert_eq!(tone.description.as_deref(), Some("Kind."));
        assert_eq!(index.skills["deep/er"].description, None);
    }

    #[test]
    fn what_is_broken_hides_only_itself() {
        let index = project(&[
            ("registry.yml", "agents: [\n"),
            (
                "workflows/w/a.md",
                "---\non: cron(\"0 9 * * *\")\n---\n{{ event.last_run }}\n",
            ),
            ("workflows/w/b.md", "---\nafter: [a\n---\nx\n"),
        ]);
        assert!(index.agents.is_empty());
        assert_eq!(
            at(&index, "workflows/w/a.md", 4, 11),
            Some(Target::TickField("last_run".to_owned()))
        );
        assert!(index.workflows["w"].contains_key("b"));
    }
}
