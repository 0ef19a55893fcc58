//! What a deployment changes in the project's own words, and what of it somebody has
//! to agree to by name.

use super::Error;
use loopy_aws::DynamoStore;
use loopy_contract::manifest::Manifest;
use loopy_infra::deploy::stranded::losses;
use loopy_infra::{
    Action, Deployment, Difference, Part, Version, differences as compare, open_runs,
};

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

/// What somebody has to agree to by name, a line each.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// What lets somebody do more than before.
    pub(crate) widens: Vec<String>,
    /// What runs that are not over may need, and lose.
    pub(crate) strands: Vec<String>,
    /// What a version needs, and is not there any more.
    pub(crate) lacks: Vec<String>,
}

impl Agreement {
    /// Fails unless there is nothing to agree to, or somebody did.
    pub(crate) fn check(self, agreed: bool) -> Result<(), Error> {
        let Self {
            widens,
            strands,
            lacks,
        } = &self;
        if agreed || (widens.is_empty() && strands.is_empty() && lacks.is_empty()) {
            return Ok(());
        }
        Err(Error::Unagreed(self))
    }

    /// All of it.
    pub(crate) fn told(&self) -> String {
        let parts = [
            ("this lets somebody do more than before", &self.widens),
            ("runs that are not over may need what goes", &self.strands),
            ("what this version needs is not there any more", &self.lacks),
        ];
        let parts = parts.into_iter().filter(|(_, lines)| !lines.is_empty());
        let told = parts.map(|(title, lines)| format!("{title}:\n  {}", lines.join("\n  ")));
        told.collect::<Vec<_>>().join("\n")
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        let mut hint = "pass --approve to agree to it".to_owned();
        if !self.strands.is_empty() {
            hint.push_str("; or wait until the runs are over, or cancel them");
        }
        if !self.lacks.is_empty() {
            hint.push_str("; or deploy that version from its folder, which stores the values");
        }
        if self.strands.is_empty() && self.lacks.is_empty() {
            hint.push_str("; --plan shows all that would change");
        }
        hint
    }
}

/// What runs that are not over may need, and lose when the stack is made of `to`.
pub(crate) async fn stranded(
    deployment: &Deployment,
    store: &DynamoStore,
    before: &Version,
    to: &Manifest,
) -> Result<Vec<String>, Error> {
    match open_runs(store).await {
        Ok(open) => Ok(deployment.stranded(&open, to).await?),
        // Whoever began with the version that is deployed may be among them.
        Err(error) => {
            let from = before.manifest.as_ref();
            let lost = from.map(|from| losses(from, to)).unwrap_or_default();
            let told = lost
                .iter()
                .map(|it| format!("{it} ({error}, so nobody knows which runs need it)"));
            Ok(told.collect())
        }
    }
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
