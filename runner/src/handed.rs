//! Files that an envelope does not hold: fetches those that it names, of earlier steps and
//! of skills, and sends what later steps ask for.

use crate::client::{Client, ReportError};
use crate::pack::{pack, unpack};
use crate::workspace::Workspace;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::files::{MAX_HANDED_BYTES, PACK_PART, Pattern, part_length, part_offsets};
use loopy_contract::ids::sha256_hex;
use loopy_contract::report::{
    Envelope, Failure, FailureClass, FilesAsk, FilesBytes, FilesPart, FilesReply, HandedFiles,
    Pack, SkillAsk,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Fetches the files of earlier steps into the workspace, each step's into a folder
/// of its name, and each item's into a folder of its number in that.
///
/// # Errors
/// A [`FailureClass::Sandbox`] failure when they cannot be had or put there.
pub(crate) async fn fetch(
    client: &Client,
    envelope: &Envelope,
    workspace: &Arc<Workspace>,
    until: Instant,
) -> Result<(), Failure> {
    let size = |handed: &HandedFiles| handed.pack.size;
    let all: u64 = envelope.files.iter().map(size).fold(0, u64::saturating_add);
    if all > MAX_HANDED_BYTES {
        return Err(sandbox(format!(
            "the files that the step asks for have {all} bytes packed, and a step is handed {MAX_HANDED_BYTES} at most; ask for fewer in its `files`"
        )));
    }
    for handed in &envelope.files {
        let bytes = whole(client, handed, until).await?;
        let found = sha256_hex(&bytes);
        if found != handed.pack.sha256 {
            return Err(sandbox(format!(
                "the files of step {} have the hash {found}, and {} is the one that its attempt reported: somebody has changed them",
                handed.step, handed.pack.sha256
            )));
        }
        let patterns = patterns(&handed.paths, FailureClass::Sandbox)?;
        let folder = match handed.item {
            None => handed.step.clone(),
            Some(item) => format!("{}/{item}", handed.step),
        };
        let workspace = Arc::clone(workspace);
        aside(move || unpack(&bytes, &patterns, &workspace, &folder)).await?;
    }
    Ok(())
}

/// The envelope with the skills that were too large for it.
///
/// # Errors
/// A [`FailureClass::Sandbox`] failure when they cannot be had.
pub(crate) async fn with_skills<'e>(
    client: &Client,
    envelope: &'e Envelope,
    until: Instant,
) -> Result<Cow<'e, Envelope>, Failure> {
    let mut envelope = Cow::Borrowed(envelope);
    if envelope.skill_files.is_empty() {
        return Ok(envelope);
    }
    let whole = envelope.to_mut();
    for (skill, files) in &whole.skill_files {
        let mut had = BTreeMap::new();
        for (path, size) in files {
            let bytes = skill_file(client, skill, path, *size, until).await?;
            had.insert(path.clone(), STANDARD.encode(bytes));
        }
        whole.skills.insert(skill.clone(), had);
    }
    Ok(envelope)
}

/// The bytes of a skill's file.
async fn skill_file(
    client: &Client,
    skill: &str,
    path: &str,
    size: u64,
    until: Instant,
) -> Result<Vec<u8>, Failure> {
    let mut whole = Vec::new();
    while (whole.len() as u64) < size {
        let ask = SkillAsk {
            skill: skill.to_owned(),
            path: path.to_owned(),
            offset: whole.len() as u64,
        };
        let body = serde_json::to_vec(&ask).unwrap_or_default();
        let given = client.request("skill", Some(body), until).await;
        let FilesBytes { data } = answered(given, FailureClass::Sandbox).await?;
        let bytes = STANDARD.decode(data).unwrap_or_default();
        let expected = (size - whole.len() as u64).min(PACK_PART as u64);
        if bytes.len() as u64 != expected {
            return Err(sandbox(format!(
                "the file {path} of skill {skill} has only {} of its {size} bytes",
                whole.len() + bytes.len()
            )));
        }
        whole.extend(bytes);
    }
    Ok(whole)
}

/// Sends the files of the workspace that later steps ask for; `None` when there are
/// none.
///
/// # Errors
/// A [`FailureClass::Output`] failure when they are not there or too much.
pub(crate) async fn keep(
    client: &Client,
    envelope: &Envelope,
    workspace: &Arc<Workspace>,
    until: Instant,
) -> Result<Option<Pack>, Failure> {
    let patterns = patterns(&envelope.keeps, FailureClass::Output)?;
    let workspace = Arc::clone(workspace);
    let packed = aside(move || pack(workspace.root(), &patterns)).await?;
    let Some(packed) = packed else {
        return Ok(None);
    };
    for (bytes, offset) in packed.chunks(PACK_PART).zip((0..).step_by(PACK_PART)) {
        let data = STANDARD.encode(bytes);
        let body = serde_json::to_vec(&FilesPart { offset, data }).unwrap_or_default();
        let sent = client.request("files", Some(body), until).await;
        let FilesReply {} = answered(sent, FailureClass::Output).await?;
    }
    Ok(Some(Pack {
        sha256: sha256_hex(&packed),
        size: packed.len() as u64,
    }))
}

/// The bytes of a pack.
async fn whole(client: &Client, handed: &HandedFiles, until: Instant) -> Result<Vec<u8>, Failure> {
    let mut whole = Vec::new();
    for offset in part_offsets(handed.pack.size) {
        let ask = FilesAsk {
            step: handed.step.clone(),
            item: handed.item,
            offset,
        };
        let body = serde_json::to_vec(&ask).unwrap_or_default();
        let given = client.request("fetch", Some(body), until).await;
        let FilesBytes { data } = answered(given, FailureClass::Sandbox).await?;
        let bytes = STANDARD.decode(data).unwrap_or_default();
        if Some(bytes.len()) != part_length(handed.pack.size, offset) {
            return Err(sandbox(format!(
                "the files of step {} have only {} of their {} bytes",
                handed.step,
                whole.len() + bytes.len(),
                handed.pack.size
            )));
        }
        whole.extend(bytes);
    }
    Ok(whole)
}

/// An answer, or why the attempt fails for want of it.
async fn answered<T>(answer: Result<T, ReportError>, class: FailureClass) -> Result<T, Failure> {
    match answer {
        Ok(answer) => Ok(answer),
        // The next heartbeat hears of it too, and ends the attempt.
        Err(ReportError::Over { .. }) => std::future::pending().await,
        Err(error) => Err(Failure {
            class,
            message: error.to_string(),
        }),
    }
}

fn patterns(texts: &[String], class: FailureClass) -> Result<Vec<Pattern>, Failure> {
    let read = |text: &String| {
        Pattern::parse(text).map_err(|why| Failure {
            class,
            message: format!("`{text}` means no files: {why}"),
        })
    };
    texts.iter().map(read).collect()
}

/// Does work on the disk beside the heartbeats.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(sandbox(format!("the files were not worked on: {error}"))))
}

fn sandbox(message: String) -> Failure {
    Failure {
        class: FailureClass::Sandbox,
        message,
    }
}
