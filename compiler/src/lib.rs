//! Compiles a project: files in, a manifest and diagnostics out. Pure: the same
//! files give the same bytes. It never panics, and it never stops at the first
//! error; malformed input of any kind is a diagnostic.
//!
//! [`Sources::read`] is the only part that touches a disk. [`compile`] reads
//! the registry, the steps and the sensors each by itself, then looks at what
//! holds between them, and at last puts the manifest together.

mod assemble;
mod builtin;
pub mod catalogue;
mod condition;
mod cron;
mod cursor;
mod diagnostic;
pub mod docs;
mod duration;
mod expression;
pub mod format;
mod forms;
mod frontmatter;
pub mod generate;
mod index;
mod lint;
mod nearest;
mod outline;
mod parallel;
mod presence;
mod reads;
mod reference;
mod registry;
pub mod render;
pub mod schema;
mod sensor;
mod sources;
mod step;
mod step_reader;
mod template;
mod types;
mod value_type;
mod workflow;
mod yaml;

pub use cursor::{Cursor, Slot, cursor};
pub use diagnostic::{Code, Diagnostic, Severity, Span};
pub use index::{
    AgentEntry, EventEntry, FieldEntry, Index, Mention, Place, SandboxEntry, SkillEntry, StepEntry,
    Target, index, step_keys, tick_fields,
};
pub use nearest::{did_you_mean, did_you_mean_one};
pub use outline::{BackOutline, FormsOutline, Outline, SensorOutline, StepOutline};
pub use sources::Sources;

use diagnostic::Report;
use loopy_contract::manifest::{FileHash, Manifest};
use std::collections::BTreeMap;

/// What came of a project.
#[derive(Clone, Debug, PartialEq)]
pub struct Compilation {
    /// The manifest; `None` when there are errors.
    pub manifest: Option<Manifest>,
    /// The bytes of each skill file and each piece of sensor code that the
    /// manifest names, by content hash. Empty when there are errors.
    pub files: BTreeMap<FileHash, Vec<u8>>,
    /// What there is to say, by file and place.
    pub diagnostics: Vec<Diagnostic>,
    /// How the project hangs together, errors or not.
    pub outline: Outline,
}

impl Compilation {
    /// Whether there are errors.
    pub fn has_errors(&self) -> bool {
        self.manifest.is_none()
    }
}

/// Compiles a project.
pub fn compile(sources: &Sources) -> Compilation {
    let mut report = Report::default();
    for (path, why) in sources.unreadable() {
        // The registry, steps and sensors are reported where they are read.
        let is_read = path == registry::FILE
            || path.starts_with("sensors/")
            || step::step_name(path).is_some();
        if !is_read {
            let message = format!("{path} cannot be read: {why}");
            report.add(Code::E002, path, Span::START, message);
        }
    }
    let mut registry = registry::read(sources, &mut report);
    let workflows = step::read_all(sources, &mut report);
    let mut sensors = sensor::read_all(sources, &mut report);
    let skills = assemble::skill_names(sources);

    workflow::check(&workflows, &mut report);
    // Before the built-in events are registered: sensors may not emit those.
    sensor::check(&sensors, &registry, &mut report);
    builtin::inject(&workflows, &mut registry, &mut sensors.drafts, &mut report);
    reads::check(&workflows, &registry, &mut report);
    reference::check_steps(&workflows, &registry, &mut report);
    let sizes = assemble::skill_sizes(sources, &skills);
    reference::check_registry(&workflows, &registry, &skills, &sizes, &mut report);

    let modules = sensor::javascript::modules(sources, &sensors, &mut report);

    let outline = outline::of(&workflows, &sensors.drafts);
    // What an error hides may well be made and used.
    if !report.has_errors() {
        reference::check_producers(&workflows, &registry, &sensors.drafts, &mut report);
        lint::check(&workflows, &registry, &sensors.drafts, &mut report);
    }

    let has_errors = report.has_errors();
    let diagnostics = report.finish(&registry.silenced);
    if has_errors {
        return Compilation {
            manifest: None,
            files: BTreeMap::new(),
            diagnostics,
            outline,
        };
    }
    let (manifest, files) =
        assemble::manifest(sources, registry, workflows, sensors, modules, &skills);
    Compilation {
        manifest: Some(manifest),
        files,
        diagnostics,
        outline,
    }
}
