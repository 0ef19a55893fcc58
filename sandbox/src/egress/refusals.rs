//! The file in which a sandbox's refused connections are noted, so that whoever
//! writes a `network` list sees what is missing in it.

use super::Guest;
use jiff::Timestamp;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A file is not added to past this size: what is inside the sandbox decides how
/// often it asks.
pub const MOST_BYTES: u64 = 256 * 1024;

/// Says in the log what a sandbox was refused, and notes it in its file.
pub(super) async fn warn_and_note(guest: &Guest, what: &str, why: &str) {
    tracing::warn!(sandbox = guest.name, "refused {what}: {why}");
    let path = guest.refused_log();
    let line = format!("{what}: {why}");
    let noted = tokio::task::spawn_blocking(move || note(&path, &line)).await;
    if let Err(error) = noted.map_err(io::Error::other).and_then(|noted| noted) {
        tracing::warn!(%error, "{} cannot be written", guest.refused_log().display());
    }
}

/// Adds a line to the file, in one write, and makes its folder where it is missing.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn note(path: &Path, what: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let size = file.metadata()?.len();
    if size >= MOST_BYTES {
        return Ok(());
    }
    let mut line = format!("{:.3} {what}\n", Timestamp::now());
    if size + line.len() as u64 >= MOST_BYTES {
        line.push_str("no more is noted\n");
    }
    file.write_all(line.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sandboxes/x/refused.log");
        for number in 0..20_000 {
            note(&path, &format!("CONNECT evil.test:{number}: not listed")).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!((bytes.len() as u64) < MOST_BYTES + 200, "{}", bytes.len());
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.lines()
                .next()
                .unwrap()
                .ends_with("evil.test:0: not listed")
        );
        assert!(text.ends_with("\nno more is noted\n"));
    }
}
