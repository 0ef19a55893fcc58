//! Puts the manifest together from parts that have no errors.

use crate::condition::ConditionDraft;
use crate::forms::FilesDraft;
use crate::registry::RegistryDraft;
use crate::sensor::Sensors;
use crate::sources::{File, Sources};
use crate::step::{TriggerDraft, WorkflowDraft, Workflows};
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{
    Each, EventLineage, FileHash, FilesRef, Lineage, Loop, Manifest, Registry, SCHEMA_VERSION,
    Step, Trigger, Workflow,
};
use std::collections::{BTreeMap, BTreeSet};

/// Files by content hash.
type Files = BTreeMap<FileHash, Vec<u8>>;

/// The skills of the project: the folders under `skills/` with a `SKILL.md`.
pub(crate) fn skill_names(sources: &Sources) -> BTreeSet<&str> {
    sources
        .below("skills/")
        .filter_map(|(path, _)| path.strip_prefix("skills/")?.strip_suffix("SKILL.md"))
        .filter_map(|folder| match folder.strip_suffix('/') {
            Some(folder) => Some(folder),
            None => folder.is_empty().then_some("."),
        })
        .collect()
}

/// The manifest, and the files it names.
pub(crate) fn manifest(
    sources: &Sources,
    registry: RegistryDraft,
    workflows: Workflows,
    sensors: Sensors,
    modules: BTreeMap<String, String>,
    skills: &BTreeSet<&str>,
) -> (Manifest, Files) {
    let mut files = Files::new();
    let lineage = lineage(&workflows, &sensors);
    let used: BTreeSet<String> = registry
        .agents
        .entries
        .values()
        .flat_map(|agent| agent.body.skills.iter().map(|(skill, _)| skill.clone()))
        .collect();
    let skills = skill_files(sources, skills, &used, &mut files);
    let sensor_files = sources
        .below("sensors/")
        .filter_map(|(path, file)| Some((path.to_owned(), store(file, &mut files)?)))
        .collect();
    let sensor_modules = modules
        .into_iter()
        .map(|(path, text)| (path, keep(text.into_bytes(), &mut files)))
        .collect();
    let mut sensors: Vec<_> = sensors
        .drafts
        .into_iter()
        .map(|draft| draft.sensor)
        .collect();
    sensors.sort_by(|a, b| a.name.cmp(&b.name));
    let named = |workflow: (String, WorkflowDraft)| (workflow.0, self::workflow(workflow.1));
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION.to_owned(),
        loopy_version: env!("CARGO_PKG_VERSION").to_owned(),
        hash: String::new(),
        registry: self::registry(registry),
        workflows: workflows.by_name.into_iter().map(named).collect(),
        sensors,
        lineage,
        skills,
        sensor_files,
        sensor_modules,
    };
    (manifest.seal(), files)
}

fn registry(draft: RegistryDraft) -> Registry {
    let agents = draft.agents.entries.into_iter();
    let events = draft.events.entries.into_iter();
    Registry {
        sandboxes: draft
            .sandboxes
            .entries
            .into_iter()
            .map(|(n, e)| (n, e.body))
            .collect(),
        agents: agents
            .filter_map(|(name, entry)| Some((name, entry.body.agent?)))
            .collect(),
        events: events
            .map(|(name, entry)| (name, entry.body.contract))
            .collect(),
        limits: draft.limits,
        prices: draft.prices,
    }
}

fn workflow(draft: WorkflowDraft) -> Workflow {
    let entry = draft.entry().map(|step| step.name.clone());
    let mut keeps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for files in draft.all_steps().flat_map(|step| &step.forms.files) {
        let kept = keeps.entry(files.step.clone()).or_default();
        kept.insert(files.path.to_string());
    }
    let steps = draft.steps.into_iter().map(|(name, step)| {
        let forms = step.forms;
        let step = Step {
            id: step.id,
            trigger: match step.trigger {
                TriggerDraft::Read(trigger, _) => Some(trigger),
                TriggerDraft::None | TriggerDraft::Broken => None,
            },
            after: step.after.into_iter().map(|(name, _)| name).collect(),
            agent: step.agent.map(|(name, _)| name),
            output: step.output.contract.fields,
            output_optional: step.output.contract.optional,
            files: files(forms.files),
            keeps: keeps.remove(&name).into_iter().flatten().collect(),
            emits: step.emits.into_iter().map(|(event, _)| event).collect(),
            emits_when: forms
                .emits_when
                .iter()
                .map(|(event, condition)| (event.clone(), condition.lower()))
                .collect(),
            when: forms.when.read().map(ConditionDraft::lower),
            each: forms.each.map(|each| Each {
                over: each.over,
                name: each.name,
            }),
            retry: forms.retry,
            approve: forms.approve,
            concurrency: forms.concurrency.map(|draft| draft.concurrency),
            r#loop: forms.r#loop.map(|draft| Loop {
                to: draft.to,
                until: draft.until.lower(),
                max: draft.max,
            }),
            budget: step.budget,
            body: step.body,
            refs: step
                .refs
                .into_iter()
                .map(|(reference, _)| reference)
                .collect(),
        };
        (name, step)
    });
    Workflow {
        steps: steps.collect(),
        entry,
    }
}

/// Each once, in order.
fn files(drafts: Vec<FilesDraft>) -> Vec<FilesRef> {
    let files = drafts.into_iter().map(|draft| FilesRef {
        path: draft.path.to_string(),
        step: draft.step,
    });
    files.collect::<BTreeSet<_>>().into_iter().collect()
}

fn lineage(workflows: &Workflows, sensors: &Sensors) -> Lineage {
    let mut events: BTreeMap<String, EventLineage> = BTreeMap::new();
    for draft in &sensors.drafts {
        let lineage = events.entry(draft.sensor.emits.clone()).or_default();
        lineage.producers.insert(draft.sensor.name.clone());
    }
    for step in workflows.steps() {
        for (event, _) in &step.emits {
            events
                .entry(event.clone())
                .or_default()
                .producers
                .insert(step.id.clone());
        }
        if let TriggerDraft::Read(Trigger::Event { event, .. }, _) = &step.trigger {
            events
                .entry(event.clone())
                .or_default()
                .consumers
                .insert(step.id.clone());
        }
    }
    Lineage { events }
}

/// The skill that a file below `skills/` belongs to: the innermost one around it, so that
/// a skill which lies inside another one is not part of that one.
fn owner<'s>(inside: &'s str, skills: &BTreeSet<&str>) -> Option<&'s str> {
    let mut folder = inside;
    loop {
        match folder.rsplit_once('/') {
            Some((parent, _)) if skills.contains(parent) => return Some(parent),
            Some((parent, _)) => folder = parent,
            None => return skills.contains(".").then_some("."),
        }
    }
}

/// How many bytes the files of each skill have.
pub(crate) fn skill_sizes<'s>(
    sources: &'s Sources,
    skills: &BTreeSet<&str>,
) -> BTreeMap<&'s str, u64> {
    let mut sizes = BTreeMap::new();
    for (path, file) in sources.below("skills/") {
        let inside = path.strip_prefix("skills/");
        if let (Some(owner), File::Bytes(bytes)) = (inside.and_then(|it| owner(it, skills)), file) {
            *sizes.entry(owner).or_default() += bytes.len() as u64;
        }
    }
    sizes
}

/// The files of each used skill.
fn skill_files(
    sources: &Sources,
    skills: &BTreeSet<&str>,
    used: &BTreeSet<String>,
    files: &mut Files,
) -> BTreeMap<String, BTreeMap<String, FileHash>> {
    let mut found: BTreeMap<String, BTreeMap<String, FileHash>> = BTreeMap::new();
    for (path, file) in sources.below("skills/") {
        let Some(inside) = path.strip_prefix("skills/") else {
            continue;
        };
        let Some(owner) = owner(inside, skills).filter(|owner| used.contains(*owner)) else {
            continue;
        };
        let relative = match owner {
            "." => inside,
            _ => inside
                .strip_prefix(owner)
                .unwrap_or(inside)
                .trim_start_matches('/'),
        };
        if let Some(hash) = store(file, files) {
            found
                .entry(owner.to_owned())
                .or_default()
                .insert(relative.to_owned(), hash);
        }
    }
    found
}

fn store(file: &File, files: &mut Files) -> Option<FileHash> {
    let File::Bytes(bytes) = file else {
        return None;
    };
    Some(keep(bytes.clone(), files))
}

fn keep(bytes: Vec<u8>, files: &mut Files) -> FileHash {
    let hash = sha256_hex(&bytes);
    files.entry(hash.clone()).or_insert(bytes);
    hash
}
