//! What a deployment changes in the project's own words, and what of it somebody has
//! to agree to by name.

use super::Error;
use loopy_contract::manifest::Manifest;
use loopy_infra::{Action, Difference, Part, Version, differences as compare};

/// What changes; nothing where nothing stood, as all of it is new then.
pub(crate) fn differences(
    before: Option<&Version>,
    manifest: &Manifest,
    template: &str,
) -> Result<Vec<Difference>, Error> {
    let Some(before) = before else {
        return Ok(Vec::new());
    };
    // Where the older manifest cannot be read, all of the project counts as new.
    let nothing = empty(manifest);
    let old = before.manifest.as_ref().unwrap_or(&nothing);
    compare((old, &before.template), (manifest, template)).map_err(Error::Compare)
}

fn empty(like: &Manifest) -> Manifest {
    Manifest {
        registry: Default::default(),
        workflows: Default::default(),
        sensors: Vec::new(),
        lineage: Default::default(),
        skills: Default::default(),
        sensor_files: Default::default(),
        ..like.clone()
    }
}

/// Whether somebody has to agree.
pub(crate) fn needed(differences: &[Difference]) -> bool {
    differences
        .iter()
        .any(|difference| difference.widens.is_some())
}

/// What somebody has to agree to, a line each.
pub(crate) fn widening(differences: &[Difference]) -> Vec<String> {
    let line = |difference: &Difference| {
        let why = difference.widens.as_ref()?;
        let title = difference.part.title();
        Some(format!(
            "{title}: {}: {} ({why})",
            difference.name, difference.about
        ))
    };
    differences.iter().filter_map(line).collect()
}

/// All of it, part by part.
pub(crate) fn shown(differences: &[Difference]) -> String {
    let mut text = String::new();
    let mut part: Option<Part> = None;
    for difference in differences {
        if part != Some(difference.part) {
            part = Some(difference.part);
            text.push_str(&format!("{}:\n", difference.part.title()));
        }
        let sign = match difference.action {
            Action::Added => '+',
            Action::Changed => '~',
            Action::Removed => '-',
        };
        let about = match difference.about.as_str() {
            "" => String::new(),
            about => format!(": {about}"),
        };
        let widens = match &difference.widens {
            Some(why) => format!("  ({why})"),
            None => String::new(),
        };
        text.push_str(&format!("  {sign} {}{about}{widens}\n", difference.name));
    }
    text
}
