//! Writes a stack to a folder, for the AWS command line:
//!
//! ```text
//! aws s3 sync DIR/assets s3://BUCKET
//! aws cloudformation deploy --stack-name NAME --template-file DIR/template.yaml \
//!     --s3-bucket BUCKET --capabilities CAPABILITY_IAM \
//!     --parameter-overrides AssetsBucket=BUCKET
//! ```
//!
//! Everything that a version of the project determines is written into the
//! template, so the bucket is all there is to say, the first time and later.

use crate::stack::Stack;
use loopy_contract::manifest::Manifest;
use std::path::{Path, PathBuf};

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct EmitError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes `manifest.json`, `template.yaml` and `assets/` (laid out as in the
/// bucket) below `folder`, which is made when it is missing. Gives back the
/// paths of the two files.
///
/// # Errors
/// [`EmitError`] names the file.
pub fn emit(
    stack: &Stack,
    manifest: &Manifest,
    folder: &Path,
) -> Result<(PathBuf, PathBuf), EmitError> {
    let manifest_path = folder.join("manifest.json");
    let template_path = folder.join("template.yaml");
    write(&manifest_path, manifest.to_json().as_bytes())?;
    write(&template_path, stack.template.as_bytes())?;
    for asset in &stack.assets {
        write(&folder.join("assets").join(&asset.key), &asset.bytes)?;
    }
    Ok((manifest_path, template_path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), EmitError> {
    let fault = |source| EmitError {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fault)?;
    }
    std::fs::write(path, bytes).map_err(fault)
}
