//! `loopy graph`: draws how a project hangs together. It also draws what can be
//! read of a project with errors.

mod dot;
mod layout;
mod mermaid;
mod svg;

use crate::Outcome;
use crate::output::Terminal;
use crate::project::{self, NoProject};
use clap::{Args, ValueEnum};
use loopy_compiler::{FormsOutline, Outline, StepOutline, render};
use loopy_contract::manifest::{FieldRef, SensorTrigger, Trigger};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// The letters that a line about a step or an arrow has at most.
const MARK: usize = 40;

/// Arguments of `loopy graph`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// What the diagram is written in
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
    /// Write the diagram to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a diagram is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For Markdown on GitHub and elsewhere
    Mermaid,
    /// For Graphviz
    Dot,
    /// A picture
    Svg,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GraphError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// No place could be found for the nodes.
    #[error("cannot lay the diagram out: {0}")]
    Layout(#[from] dugong::LayoutError),
    /// The diagram cannot be written.
    #[error("cannot write the diagram to {}: {source}", .path.display())]
    Write {
        /// The file that was given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl GraphError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Layout(_) => Some("write --format mermaid or --format dot".to_owned()),
            Self::Write { .. } | Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, GraphError> {
    let sources = project::read(&arguments.project)?;
    let compilation = loopy_compiler::compile(&sources);
    let shown = render::human(&compilation.diagnostics, &sources, terminal.colour);
    if !shown.is_empty() {
        terminal.say(&shown);
    }
    let graph = Graph::of(&compilation.outline);
    let text = match arguments.format {
        Format::Mermaid => mermaid::write(&graph),
        Format::Dot => dot::write(&graph),
        Format::Svg => svg::write(&graph)?,
    };
    match &arguments.out {
        None => terminal.data(&text).map_err(GraphError::Stdout)?,
        Some(path) => {
            std::fs::write(path, text).map_err(|source| GraphError::Write {
                path: path.clone(),
                source,
            })?;
            terminal.say(&format!("wrote {}", path.display()));
        }
    }
    Ok(if compilation.has_errors() {
        Outcome::ProjectErrors
    } else {
        Outcome::Fine
    })
}

/// What is drawn. Nodes, workflows and edges name each other by their place in
/// these lists, whose order follows from the names alone.
#[derive(Debug, Default)]
struct Graph {
    nodes: Vec<Node>,
    /// The workflows' names, each a frame around its steps.
    workflows: Vec<String>,
    /// The arrows, each with what stands beside it.
    edges: BTreeMap<Edge, Option<String>>,
}

/// A box with a name and a line about what it is.
#[derive(Debug)]
struct Node {
    kind: Kind,
    name: String,
    note: String,
    /// What else is to be known of it, a short line each.
    marks: Vec<String>,
    workflow: Option<usize>,
}

impl Node {
    /// All of its lines.
    fn lines(&self) -> impl Iterator<Item = &str> {
        let marks = self.marks.iter().map(String::as_str);
        [self.name.as_str(), self.note.as_str()]
            .into_iter()
            .chain(marks)
    }
}

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Sensor,
    Schedule,
    Event,
    Step,
}

/// An arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: usize,
    to: usize,
    wire: Wire,
}

/// What an arrow stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wire {
    /// A step waits for another.
    After,
    /// A step goes back to an earlier one, perhaps.
    Back,
    /// Something sets something off.
    Event,
}

impl Graph {
    fn of(outline: &Outline) -> Self {
        let mut graph = Self::default();
        let steps = || {
            outline.workflows.iter().flat_map(|(workflow, steps)| {
                let steps = steps.iter();
                steps.map(move |(name, step)| ((workflow.as_str(), name.as_str()), step))
            })
        };
        // Sources first: where the way goes round in a circle, the picture then
        // begins at its way in.
        for sensor in &outline.sensors {
            let note = match &sensor.trigger {
                SensorTrigger::Webhook { path, .. } => format!("POST {path}"),
                SensorTrigger::Poll { interval, .. } => format!("every {interval}"),
            };
            graph.node(Kind::Sensor, &sensor.name, &note, None);
        }
        let mut schedules = BTreeMap::new();
        for (step, outline) in steps() {
            if let Some(Trigger::Cron { expr, tz, .. }) = &outline.trigger {
                let zone = tz.as_deref().unwrap_or("UTC");
                schedules.insert(step, graph.node(Kind::Schedule, expr, zone, None));
            }
        }
        let emitted = steps().flat_map(|(_, step)| step.emits.iter().chain(awaited(step)));
        let sensed = outline.sensors.iter().map(|sensor| &sensor.emits);
        let events: BTreeSet<&String> = emitted.chain(sensed).collect();
        let events: BTreeMap<&String, usize> = events
            .into_iter()
            .map(|event| (event, graph.node(Kind::Event, event, "event", None)))
            .collect();
        let mut places = BTreeMap::new();
        for (workflow, steps) in &outline.workflows {
            let frame = Some(graph.workflows.len());
            graph.workflows.push(one_line(workflow));
            for (name, step) in steps {
                let agent = step.agent.as_deref().unwrap_or("no agent");
                let place = graph.node(Kind::Step, name, agent, frame);
                if let Some(node) = graph.nodes.last_mut() {
                    node.marks = step.forms.as_deref().map(marks).unwrap_or_default();
                }
                places.insert((workflow.as_str(), name.as_str()), place);
            }
        }
        for (place, sensor) in outline.sensors.iter().enumerate() {
            graph.edge(Some(place), events.get(&sensor.emits), Wire::Event, None);
        }
        for ((workflow, name), step) in steps() {
            let here = places.get(&(workflow, name));
            let schedule = schedules.get(&(workflow, name));
            let event = awaited(step).and_then(|event| events.get(event));
            let asks = condition_of(step).map(|when| mark("when", when));
            graph.edge(schedule.or(event).copied(), here, Wire::Event, asks);
            let forms = step.forms.as_deref();
            for before in &step.after {
                let files = forms.and_then(|forms| files_of(forms, before));
                let before = places.get(&(workflow, before.as_str()));
                graph.edge(before.copied(), here, Wire::After, files);
            }
            if let Some(back) = forms.and_then(|forms| forms.back.as_ref()) {
                let label = format!("{}, at most {}", mark("until", &back.until), back.max);
                let to = places.get(&(workflow, back.to.as_str()));
                graph.edge(here.copied(), to, Wire::Back, Some(label));
            }
            for event in &step.emits {
                let asks = forms.and_then(|forms| forms.emits_when.get(event));
                let asks = asks.map(|when| mark("when", when));
                graph.edge(here.copied(), events.get(event), Wire::Event, asks);
            }
        }
        graph
    }

    fn node(&mut self, kind: Kind, name: &str, note: &str, workflow: Option<usize>) -> usize {
        self.nodes.push(Node {
            kind,
            name: one_line(name),
            note: one_line(note),
            marks: Vec::new(),
            workflow,
        });
        self.nodes.len() - 1
    }

    /// Adds an arrow, when both of its ends exist.
    fn edge(&mut self, from: Option<usize>, to: Option<&usize>, wire: Wire, label: Option<String>) {
        if let Some((from, &to)) = from.zip(to) {
            self.edges.insert(Edge { from, to, wire }, label);
        }
    }

    /// The nodes in this frame, or in none, with their places.
    fn nodes_in(&self, workflow: Option<usize>) -> impl Iterator<Item = (usize, &Node)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(move |(_, node)| node.workflow == workflow)
    }
}

/// The event that starts a step.
fn awaited(step: &StepOutline) -> Option<&String> {
    match &step.trigger {
        Some(Trigger::Event { event, .. }) => Some(event),
        _ => None,
    }
}

/// The condition of what starts a step.
fn condition_of(step: &StepOutline) -> Option<&str> {
    match &step.trigger {
        Some(Trigger::Event { when, .. }) => when.as_ref().map(|when| when.source.as_str()),
        _ => None,
    }
}

/// What a step's box says of how it runs.
fn marks(forms: &FormsOutline) -> Vec<String> {
    let mut marks = Vec::new();
    marks.extend(forms.when.as_ref().map(|when| mark("when", when)));
    marks.extend(forms.each.as_ref().map(|list| mark("each", &written(list))));
    if let Some(approve) = &forms.approve {
        let moments = match (approve.before, approve.after) {
            (true, true) => "before and after",
            (true, false) => "before",
            (false, _) => "after",
        };
        marks.push(mark("approve", moments));
    }
    if let Some(concurrency) = &forms.concurrency {
        let limit = format!("{} at once", concurrency.limit);
        marks.push(match &concurrency.key {
            Some(key) => mark(&limit, &format!("for each {}", written(key))),
            None => limit,
        });
    }
    marks
}

/// What an arrow says of the files that a step hands on.
fn files_of(forms: &FormsOutline, step: &str) -> Option<String> {
    let files = forms.files.iter().filter(|(from, _)| from == step);
    let paths: Vec<&str> = files.map(|(_, path)| path.as_str()).collect();
    (!paths.is_empty()).then(|| mark("files", &paths.join(", ")))
}

fn written(reference: &FieldRef) -> String {
    match reference.field.as_str() {
        "" => reference.producer.clone(),
        field => format!("{}.{field}", reference.producer),
    }
}

/// A word and what it is about, in one short line.
fn mark(word: &str, about: &str) -> String {
    let about: Vec<&str> = about.split_whitespace().collect();
    let text = one_line(&format!("{word} {}", about.join(" ")));
    if text.chars().count() <= MARK {
        return text;
    }
    let short: String = text.chars().take(MARK - 1).collect();
    format!("{}…", short.trim_end())
}

/// The text without what no format can hold: line ends and other controls.
fn one_line(text: &str) -> String {
    let odd = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars()
        .map(|c| if odd(c) { '\u{fffd}' } else { c })
        .collect()
}
