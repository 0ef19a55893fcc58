//! What is kept how long. The home removes the rest while it serves, a little at
//! a time.
//!
//! | what | kept |
//! |---|---|
//! | runs that are over, with their transcripts and files | [`KEEP`] after their end |
//! | runs that are not over | for good |
//! | what became of events | [`KEEP`] |
//! | documents, marks of deliveries | until they expire, at most some days more than [`KEEP`] |
//! | manifests | while a run has them, or new runs begin with them |
//! | files of skills and sensors | while a manifest names them |
//! | dead letters | until somebody has them tried again |
//! | when schedules and polls fired last | for good |

use crate::packs::FilePacks;
use crate::schema::nanos;
use crate::transcripts::FileTranscripts;
use crate::worker::{Worker, pause};
use jiff::{SignedDuration, Timestamp};
use loopy_engine::ports::PortError;
use rusqlite::{Connection, params};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long runs and events are kept.
pub const KEEP: SignedDuration = SignedDuration::from_hours(24 * 90);

/// How much of each kind goes at once.
const SOME: usize = 100;

/// Before the first look: whoever serves has better things to do at first.
const BEGIN: Duration = Duration::from_secs(5);

/// Between two looks while there is more to remove.
const SOON: Duration = Duration::from_millis(200);

/// Between two looks otherwise.
const LATER: Duration = Duration::from_mins(10);

/// The tables of which the old goes, each by itself.
const OLD: [&str; 4] = [
    "DELETE FROM runs WHERE id IN (SELECT id FROM runs \
     WHERE created_ns < ?1 AND ended_ns < ?1 AND unsettled = 0 \
     ORDER BY created_ns LIMIT ?3)",
    "DELETE FROM events WHERE id IN (SELECT id FROM events \
     WHERE recorded_ns < ?1 ORDER BY recorded_ns LIMIT ?3)",
    "DELETE FROM documents WHERE key IN (SELECT key FROM documents \
     WHERE expires < ?2 ORDER BY expires LIMIT ?3)",
    "DELETE FROM seen WHERE delivery IN (SELECT delivery FROM seen \
     WHERE expires < ?2 ORDER BY expires LIMIT ?3)",
];

impl Worker {
    /// Removes what is kept no longer, until told to stop.
    pub(crate) async fn tidy(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut wait = BEGIN;
        while pause(wait, &mut stop).await {
            wait = match self.tidy_some().await {
                Ok(true) => SOON,
                Ok(false) => LATER,
                Err(error) => {
                    tracing::warn!(%error, "what is old is not removed yet");
                    LATER
                }
            };
        }
    }

    /// Removes some of what is old; whether there may be more.
    async fn tidy_some(&self) -> Result<bool, PortError> {
        let error = |why: &dyn std::fmt::Display| PortError::new("remove what is old", why);
        let now = self.clock.now();
        let removed = self.db.write(move |connection| remove_old(connection, now));
        let removed = removed.await.map_err(|why| error(&why))?;
        if removed.iter().any(|count| *count >= SOME) {
            return Ok(true);
        }
        let manifests = self.db.write(remove_manifests).await;
        let named = manifests.map_err(|why| error(&why))?;
        let objects = self.dir.join("objects");
        // Before the runs are read: a run that begins later keeps its own.
        let transcripts = FileTranscripts::new(&self.dir).folders();
        let transcripts = transcripts.map_err(|why| error(&why))?;
        let packs = FilePacks::new(&self.dir).folders();
        let packs = packs.map_err(|why| error(&why))?;
        let runs = if transcripts.is_empty() && packs.is_empty() {
            BTreeSet::new()
        } else {
            let runs = self.db.read(runs).await;
            runs.map_err(|why| error(&why))?
        };
        tokio::task::spawn_blocking(move || {
            let of = |name: fn(&str) -> String| runs.iter().map(|run| name(run)).collect();
            remove_transcripts(transcripts, &of(FileTranscripts::folder_of))?;
            FilePacks::remove(packs, &of(FilePacks::folder_of))?;
            remove_objects(&objects, &named)
        })
        .await
        .map_err(|why| error(&why))?
        .map_err(|why| error(&why))?;
        Ok(false)
    }
}

/// How many rows of each table went.
fn remove_old(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<usize>> {
    let oldest = now.checked_sub(KEEP).unwrap_or(Timestamp::MIN);
    OLD.iter()
        .map(|sql| {
            connection.prepare_cached(sql)?.execute(params![
                nanos(oldest),
                now.as_second(),
                i64::try_from(SOME).unwrap_or(i64::MAX)
            ])
        })
        .collect()
}

/// The runs there are.
fn runs(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    connection
        .prepare_cached("SELECT id FROM runs")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Removes the transcripts of runs that are gone.
fn remove_transcripts(folders: Vec<PathBuf>, runs: &BTreeSet<String>) -> std::io::Result<()> {
    for folder in folders {
        let kept = folder
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| runs.contains(name));
        if !kept {
            std::fs::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

/// Removes the manifests that nothing begins or began with. The hashes that the
/// others name.
fn remove_manifests(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    connection
        .prepare_cached(
            "DELETE FROM manifests WHERE current = 0 \
             AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.manifest = manifests.hash)",
        )?
        .execute([])?;
    let mut named = BTreeSet::new();
    let mut texts = connection.prepare_cached("SELECT json FROM manifests")?;
    let mut rows = texts.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if let Ok(manifest) = serde_json::from_str::<Value>(&text) {
            collect_hashes(&manifest, &mut named);
        }
    }
    Ok(named)
}

/// All texts of the form of a content hash.
fn collect_hashes(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if is_hash(text) => {
            found.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect_hashes(item, found)),
        Value::Object(fields) => fields
            .values()
            .for_each(|field| collect_hashes(field, found)),
        _ => {}
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes the files that no manifest names, and what a process left half
/// written.
fn remove_objects(objects: &Path, named: &BTreeSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(objects)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let unnamed = is_hash(&name) && !named.contains(name.as_ref());
        if unnamed || name.ends_with(".part") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::schema::migrate;

    fn count(connection: &Connection, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        connection.query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    fn insert_run(
        connection: &Connection,
        id: &str,
        status: &str,
        created: i64,
        ended: Option<i64>,
    ) {
        connection
            .execute(
                "INSERT INTO runs VALUES (?1, 1, 'w', ?2, 'e', 'e', 'c', ?1, ?3, ?4, 0, 0, '')",
                params![id, status, created, ended],
            )
            .unwrap();
    }

    #[test]
    fn what_is_old_goes_little_by_little_and_the_rest_stays() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new("state.db")).unwrap();
        let now = "2026-06-01T00:00:00Z".parse::<Timestamp>().unwrap();
        let ago = |days: i64| {
            nanos(
                now.checked_sub(SignedDuration::from_hours(24 * days))
                    .unwrap(),
            )
        };
        for index in 0..150 {
            let id = format!("old-{index}");
            insert_run(&connection, &id, "succeeded", ago(95), Some(ago(91)));
        }
        insert_run(&connection, "just", "failed", ago(95), Some(ago(89)));
        insert_run(&connection, "open", "parked", ago(300), None);
        for (id, days) in [("e-old", 91), ("e-new", 89)] {
            connection
                .execute(
                    "INSERT INTO events VALUES (?1, 1, 'n', 'c', ?2, '{}')",
                    params![id, ago(days)],
                )
                .unwrap();
        }
        for (key, expires) in [("d-old", -1), ("d-new", 1)] {
            let expires = now.as_second() + expires;
            let sql = "INSERT INTO documents VALUES (?1, 1, '', ?2)";
            connection.execute(sql, params![key, expires]).unwrap();
            let sql = "INSERT INTO seen VALUES (?1, ?2)";
            connection.execute(sql, params![key, expires]).unwrap();
        }
        assert_eq!(remove_old(&connection, now).unwrap(), [SOME, 1, 1, 1]);
        assert_eq!(remove_old(&connection, now).unwrap(), [50, 0, 0, 0]);
        assert_eq!(remove_old(&connection, now).unwrap(), [0, 0, 0, 0]);
        for (table, left) in [("runs", 2), ("events", 1), ("documents", 1), ("seen", 1)] {
            assert_eq!(count(&connection, table), left, "{table}");
        }
    }

    #[test]
    fn manifests_and_their_files_go_with_the_last_run_that_has_them() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new("state.db")).unwrap();
        let hashes = ["a", "b", "c"].map(|letter| letter.repeat(64));
        for (name, current, hash) in [
            ("m1", 0, &hashes[0]),
            ("m2", 0, &hashes[1]),
            ("m3", 1, &hashes[2]),
        ] {
            let json = format!(r#"{{"skills": {{"s": {{"SKILL.md": "{hash}"}}}}}}"#);
            let sql = "INSERT INTO manifests VALUES (?1, ?2, ?3)";
            connection
                .execute(sql, params![name, json, current])
                .unwrap();
        }
        insert_run(&connection, "m2", "succeeded", 0, Some(0));
        let named = remove_manifests(&connection).unwrap();
        assert_eq!(count(&connection, "manifests"), 2);
        assert!(
            !named.contains(&hashes[0]) && named.contains(&hashes[1]) && named.contains(&hashes[2])
        );

        let dir = tempfile::tempdir().unwrap();
        for name in [
            &hashes[0],
            &hashes[1],
            &format!("{}.77.part", hashes[2]),
            &"other".to_owned(),
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_objects(dir.path(), &named).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [hashes[1].as_str(), "other"]);
    }
}
