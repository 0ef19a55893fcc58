//! What SQLite does on this disk when every commit is synced: the limit that a
//! durable engine over it has.

use super::super::percentile;
use super::failed;
use crate::error::Error;
use rusqlite::{Connection, params};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each figure is measured.
const LENGTH: Duration = Duration::from_secs(3);

/// As large as a small row of the engine's.
const ROW: usize = 200;

/// The limits.
pub(super) struct Limit {
    /// Commits of one row a second.
    pub(super) commits: f64,
    /// The middle one's time.
    pub(super) commit: Duration,
    /// Rows a second, in commits of a hundred.
    pub(super) rows: f64,
}

/// Measures them in `folder`.
///
/// # Errors
/// When SQLite refuses.
pub(super) fn measure(folder: &Path) -> Result<Limit, Error> {
    let limit = || -> rusqlite::Result<Limit> {
        let connection = Connection::open(folder.join("raw.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT) STRICT")?;
        let ones = commits(&connection, 1)?;
        let hundreds = commits(&connection, 100)?;
        let rate = |times: &[Duration], rows: usize| {
            (times.len() * rows) as f64 / times.iter().sum::<Duration>().as_secs_f64()
        };
        Ok(Limit {
            commits: rate(&ones, 1),
            rows: rate(&hundreds, 100),
            commit: percentile(ones, 50),
        })
    };
    limit().map_err(|why| failed("measure SQLite alone", why))
}

fn commits(connection: &Connection, rows: usize) -> rusqlite::Result<Vec<Duration>> {
    let text = "x".repeat(ROW);
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < LENGTH {
        let commit = Instant::now();
        let tx = connection.unchecked_transaction()?;
        let mut insert = tx.prepare_cached("INSERT INTO rows (text) VALUES (?1)")?;
        for _ in 0..rows {
            insert.execute(params![text])?;
        }
        drop(insert);
        tx.commit()?;
        times.push(commit.elapsed());
    }
    Ok(times)
}
