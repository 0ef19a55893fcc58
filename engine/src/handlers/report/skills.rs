//! The skills of an attempt's agent: in its envelope where they fit, else served file by
//! file, in the parts that packs are served in.

use super::super::Engine;
use super::{Refusal, Target, parse};
use crate::ports::PortError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::files::PACK_PART;
use loopy_contract::manifest::Manifest;
use loopy_contract::report::{Envelope, FilesBytes, MAX_ENVELOPE_BYTES, SkillAsk, wire_bytes};
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Engine {
    /// Puts the skills with these names into an envelope that has all else, or what
    /// there is to ask for.
    pub(super) async fn put_skills(
        &self,
        manifest: &Manifest,
        names: &[String],
        envelope: &mut Envelope,
    ) -> Result<(), PortError> {
        for name in names {
            let mut files = BTreeMap::new();
            for (path, hash) in manifest.skills.get(name).into_iter().flatten() {
                let bytes = self.ports.manifests.file(hash).await?;
                files.insert(path.clone(), STANDARD.encode(bytes));
            }
            envelope.skills.insert(name.clone(), files);
        }
        if wire_bytes(envelope) <= MAX_ENVELOPE_BYTES {
            return Ok(());
        }
        let skills = std::mem::take(&mut envelope.skills).into_iter();
        envelope.skill_files = skills
            .map(|(name, files)| {
                let sizes = files.into_iter().map(|(path, data)| (path, decoded(&data)));
                (name, sizes.collect())
            })
            .collect();
        Ok(())
    }

    /// Serves a part of a file of a skill that the agent of this attempt has.
    pub(super) async fn give_skill(&self, target: &Target, body: &[u8]) -> Result<Value, Refusal> {
        let ask: SkillAsk = parse(body)?;
        let stored = self.recalled(target).await?;
        let run = &stored.run;
        let manifest = self.ports.manifests.get(&run.manifest).await?;
        let plan = manifest.workflows.get(&run.workflow);
        let agent = plan
            .and_then(|plan| plan.steps.get(&target.step)?.agent.as_ref())
            .and_then(|name| manifest.registry.agents.get(name));
        let hash = agent
            .filter(|agent| agent.skills.contains(&ask.skill))
            .and_then(|_| manifest.skills.get(&ask.skill)?.get(&ask.path));
        let Some(hash) = hash else {
            let none = format!(
                "the step {} has no file {} of a skill {}",
                target.step, ask.path, ask.skill
            );
            return Err(Refusal::Client(400, none));
        };
        let bytes = self.ports.manifests.file(hash).await?;
        let part = usize::try_from(ask.offset)
            .ok()
            .filter(|offset| offset.is_multiple_of(PACK_PART))
            .and_then(|offset| bytes.get(offset..)?.chunks(PACK_PART).next());
        let Some(part) = part else {
            let nothing = "no part begins at this offset".to_owned();
            return Err(Refusal::Client(400, nothing));
        };
        let data = STANDARD.encode(part);
        Ok(json!(FilesBytes { data }))
    }
}

/// How many bytes base64 stands for.
fn decoded(base64: &str) -> u64 {
    let padding = base64.bytes().rev().take_while(|byte| *byte == b'=');
    (base64.len() / 4 * 3).saturating_sub(padding.count()) as u64
}
