//! Zip files that are the same bytes for the same content, so that code is
//! uploaded, and a function changed, only when the code did.

use std::io::{Cursor, Read, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// A file to pack.
pub(crate) struct Entry<'a> {
    /// Its path in the zip.
    pub(crate) path: &'a str,
    /// Its content.
    pub(crate) bytes: &'a [u8],
    /// Whether it is a program.
    pub(crate) executable: bool,
}

/// Packs the files in the order of their paths, each with the same time stamp
/// and one of two modes.
pub(crate) fn pack(mut entries: Vec<Entry<'_>>) -> std::io::Result<Vec<u8>> {
    entries.sort_by(|a, b| a.path.cmp(b.path));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(if entry.executable { 0o755 } else { 0o644 });
        zip.start_file(entry.path, options)?;
        zip.write_all(entry.bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// The files in a zip, with their paths.
///
/// # Errors
/// A sentence: it is no zip, or is damaged.
pub(crate) fn unpack(zip: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).map_err(|error| error.to_string())?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(|error| error.to_string())?;
        let name = file.name().map_err(|error| error.to_string())?.into_owned();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        files.push((name, bytes));
    }
    Ok(files)
}

/// The program in a function's zip.
///
/// # Errors
/// A sentence: it is no zip, or has no `bootstrap`.
pub(crate) fn bootstrap_of(zip: &[u8]) -> Result<Vec<u8>, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).map_err(|error| error.to_string())?;
    let mut file = archive
        .by_name("bootstrap")
        .map_err(|_| "it holds no file `bootstrap`".to_owned())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Read;

    fn entry<'a>(path: &'a str, bytes: &'a [u8]) -> Entry<'a> {
        Entry {
            path,
            bytes,
            executable: path == "bootstrap",
        }
    }

    #[test]
    fn order_and_time_do_not_matter() {
        let one = pack(vec![entry("b/x.py", b"x"), entry("bootstrap", b"elf")]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let two = pack(vec![entry("bootstrap", b"elf"), entry("b/x.py", b"x")]).unwrap();
        assert_eq!(one, two);
        assert_ne!(
            one,
            pack(vec![entry("b/x.py", b"y"), entry("bootstrap", b"elf")]).unwrap()
        );
    }

    #[test]
    fn content_and_modes_survive() {
        let bytes = pack(vec![
            entry("bootstrap", b"elf"),
            entry("sensors/a.py", b"a = 1\n"),
        ])
        .unwrap();
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut found = Vec::new();
        for index in 0..zip.len() {
            let mut file = zip.by_index(index).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let name = file.name().unwrap().into_owned();
            found.push((name, text, file.unix_mode().unwrap() & 0o777));
        }
        assert_eq!(
            found,
            [
                ("bootstrap".to_owned(), "elf".to_owned(), 0o755),
                ("sensors/a.py".to_owned(), "a = 1\n".to_owned(), 0o644)
            ]
        );
    }
}
