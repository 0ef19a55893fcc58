//! Files that one step hands on to another: takes the pack of an attempt in parts,
//! holds a result against it, and serves it to the steps that ask for it.

use super::super::Engine;
use super::{Refusal, Target, parse};
use crate::files::{PackOf, kept};
use crate::ports::Stored;
use crate::run::Run;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::files::{MAX_PACK_BYTES, PACK_PART, part_length, part_offsets};
use loopy_contract::report::{FilesAsk, FilesBytes, FilesPart, FilesReply, Outcome, StepResult};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

impl Engine {
    /// Keeps a part of the pack that an attempt hands on.
    pub(super) async fn take_files(&self, target: &Target, body: &[u8]) -> Result<Value, Refusal> {
        let part: FilesPart = parse(body)?;
        let bytes = STANDARD
            .decode(&part.data)
            .map_err(|error| Refusal::Client(400, format!("the part is no base64: {error}")))?;
        let end = part.offset.saturating_add(bytes.len() as u64);
        if bytes.len() > PACK_PART || end > MAX_PACK_BYTES {
            let limit = format!("a pack has at most {MAX_PACK_BYTES} bytes, a part {PACK_PART}");
            return Err(Refusal::Client(413, limit));
        }
        if bytes.is_empty() || !part.offset.is_multiple_of(PACK_PART as u64) {
            let places = format!("a part begins at a multiple of {PACK_PART} and has bytes");
            return Err(Refusal::Client(400, places));
        }
        let stored = self.recalled(target).await?;
        self.keeping(&stored.run, target).await?;
        let of = own(target);
        self.ports.packs.put(&of, part.offset, bytes).await?;
        Ok(json!(FilesReply {}))
    }

    /// Serves a part of a pack that the step of this attempt asks for.
    pub(super) async fn give_files(&self, target: &Target, body: &[u8]) -> Result<Value, Refusal> {
        let ask: FilesAsk = parse(body)?;
        let stored = self.recalled(target).await?;
        let run = &stored.run;
        let manifest = self.ports.manifests.get(&run.manifest).await?;
        let plan = manifest.workflows.get(&run.workflow);
        let found = plan.and_then(|plan| {
            let step = plan.steps.get(&target.step)?;
            let asks = step.files.iter().any(|files| files.step == ask.step);
            let mut kept = kept(plan, run, &ask.step).filter(|_| asks);
            Some(kept.find(|(item, _)| *item == ask.item)?.1)
        });
        let Some(kept) = found else {
            let none = format!(
                "the step {} is handed no such files of {}",
                target.step, ask.step
            );
            return Err(Refusal::Client(400, none));
        };
        let Some(length) = part_length(kept.pack.size, ask.offset) else {
            return Err(Refusal::Client(
                400,
                "no part begins at this offset".to_owned(),
            ));
        };
        let of = kept.place(&run.id, &ask.step);
        let bytes = self.ports.packs.part(&of, ask.offset, length).await?;
        let Some(bytes) = bytes else {
            let gone = format!("the files of step {} are kept no longer", ask.step);
            return Err(Refusal::Client(409, gone));
        };
        let data = STANDARD.encode(bytes);
        Ok(json!(FilesBytes { data }))
    }

    /// Refuses a result whose files are not kept as it names them.
    pub(super) async fn check_files(
        &self,
        target: &Target,
        result: &StepResult,
    ) -> Result<(), Refusal> {
        let (Outcome::Succeeded { .. }, Some(pack)) = (&result.outcome, &result.files) else {
            return Ok(());
        };
        let stored = match self.attempt_under_way(target).await {
            // Whether it was taken before, what follows finds out.
            Err(Refusal::Client(410, _)) => return Ok(()),
            found => found?,
        };
        self.keeping(&stored.run, target).await?;
        if pack.size == 0 || pack.size > MAX_PACK_BYTES {
            let limit = format!("a pack has 1 to {MAX_PACK_BYTES} bytes");
            return Err(Refusal::Client(413, limit));
        }
        let of = own(target);
        let mut hash = Sha256::new();
        for offset in part_offsets(pack.size) {
            let length = part_length(pack.size, offset).unwrap_or_default();
            let Some(bytes) = self.ports.packs.part(&of, offset, length).await? else {
                let missing = format!("of the files {offset} bytes are kept, and no more");
                return Err(Refusal::Client(409, missing));
            };
            hash.update(&bytes);
        }
        let found = hex::encode(hash.finalize());
        if found != pack.sha256 {
            let other = format!("the files that are kept have the hash {found}");
            return Err(Refusal::Client(409, other));
        }
        Ok(())
    }

    /// The run as it was last seen, if this attempt was under way then; else as it
    /// is now.
    pub(super) async fn recalled(&self, target: &Target) -> Result<Arc<Stored>, Refusal> {
        match self.driver.recall(&target.run).await? {
            Some(known) if known.run.under_way(&target.step, target.attempt) => Ok(known),
            _ => self.attempt_under_way(target).await,
        }
    }

    /// Refuses files of a step that hands none on.
    async fn keeping(&self, run: &Run, target: &Target) -> Result<(), Refusal> {
        let manifest = self.ports.manifests.get(&run.manifest).await?;
        let plan = manifest.workflows.get(&run.workflow);
        let step = plan.and_then(|plan| plan.steps.get(&target.step));
        if step.is_none_or(|step| step.keeps.is_empty()) {
            let nobody = format!("no step asks for files of {}", target.step);
            return Err(Refusal::Client(400, nobody));
        }
        Ok(())
    }
}

/// Where the pack of this very attempt is.
fn own(target: &Target) -> PackOf {
    PackOf {
        run: target.run.clone(),
        from: target.run.clone(),
        step: target.step.clone(),
        attempt: target.attempt,
    }
}
