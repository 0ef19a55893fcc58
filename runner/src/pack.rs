//! A pack of files: which regular files of a workspace patterns mean, packed, and
//! unpacked again below another workspace. Never follows or makes a link.

use crate::workspace::Workspace;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use loopy_contract::files::{MAX_FILES, MAX_PACK_BYTES, MAX_UNPACKED_BYTES, Pattern};
use loopy_contract::report::{Failure, FailureClass};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// What the headers of a pack may have on top of its files' bytes.
const HEADERS: u64 = 4096 * MAX_FILES as u64;

/// Packs the files below `root` that are meant, by path; `None` when there is none.
/// The same files give the same bytes.
///
/// # Errors
/// A [`FailureClass::Output`] failure: a path without wildcards is not there, or all
/// of it is too much.
pub(crate) fn pack(root: &Path, patterns: &[Pattern]) -> Result<Option<Vec<u8>>, Failure> {
    let files = meant(root, patterns)?;
    for pattern in patterns.iter().filter(|pattern| pattern.is_plain()) {
        if !files.keys().any(|path| pattern.matches(path)) {
            look_for(root, pattern)?;
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut left = MAX_UNPACKED_BYTES;
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (path, file) in &files {
        let (bytes, mode) = read(file, left).map_err(|error| unreadable(path, &error))?;
        left = match left.checked_sub(bytes.len() as u64) {
            Some(left) => left,
            None => return Err(too_much(patterns, MAX_UNPACKED_BYTES, "")),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        builder
            .append_data(&mut header, path, bytes.as_slice())
            .map_err(|error| unreadable(path, &error))?;
        if builder.get_ref().get_ref().len() as u64 > MAX_PACK_BYTES {
            return Err(too_much(patterns, MAX_PACK_BYTES, " packed"));
        }
    }
    let packed = builder.into_inner().and_then(GzEncoder::finish);
    let packed = packed.map_err(|error| output(format!("cannot pack the files: {error}")))?;
    if packed.len() as u64 > MAX_PACK_BYTES {
        return Err(too_much(patterns, MAX_PACK_BYTES, " packed"));
    }
    Ok(Some(packed))
}

/// Unpacks the files that are meant into `folder` of the workspace.
///
/// # Errors
/// A [`FailureClass::Sandbox`] failure: something is in the way, or the pack is not
/// one that [`pack`] makes.
pub(crate) fn unpack(
    packed: &[u8],
    patterns: &[Pattern],
    workspace: &Workspace,
    folder: &str,
) -> Result<(), Failure> {
    let broken = |why: &dyn std::fmt::Display| {
        sandbox(format!(
            "the files for the folder {folder} cannot be unpacked: {why}"
        ))
    };
    let bounded = GzDecoder::new(packed).take(MAX_UNPACKED_BYTES + HEADERS);
    let mut archive = Archive::new(bounded);
    let entries = archive.entries().map_err(|error| broken(&error))?;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| broken(&error))?;
        if count >= MAX_FILES {
            return Err(broken(&format!("there are more than {MAX_FILES}")));
        }
        let path = entry.path().map_err(|error| broken(&error))?.into_owned();
        let is_inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let Some(path) = path.to_str().filter(|_| is_inside) else {
            return Err(broken(&format!("{} is no path of one", path.display())));
        };
        if entry.header().entry_type() != EntryType::Regular {
            return Err(broken(&format!("{path} is no regular file")));
        }
        if !patterns.iter().any(|pattern| pattern.matches(path)) {
            continue;
        }
        let target = workspace.inside(&format!("{folder}/{path}"))?;
        let mode = entry.header().mode().map_err(|error| broken(&error))?;
        write(&mut entry, &target, mode).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => sandbox(format!(
                "the file {path} cannot be put at {folder}/{path}: the workspace has something there already, perhaps of a repository; give that another `path`"
            )),
            _ => broken(&format!("{path}: {error}")),
        })?;
    }
    Ok(())
}

/// The files that are meant, by path.
fn meant(root: &Path, patterns: &[Pattern]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut files = BTreeMap::new();
    let mut open = vec![(String::new(), root.to_owned())];
    while let Some((folder, place)) = open.pop() {
        let entries = std::fs::read_dir(&place).map_err(|error| unreadable(&folder, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(&folder, &error))?;
            let name = entry.file_name();
            let shown = name.to_string_lossy();
            let path = match folder.as_str() {
                "" => shown.clone().into_owned(),
                folder => format!("{folder}/{shown}"),
            };
            let kind = entry
                .file_type()
                .map_err(|error| unreadable(&path, &error))?;
            let meant = if kind.is_dir() {
                patterns.iter().any(|pattern| pattern.may_be_in(&path))
            } else {
                kind.is_file() && patterns.iter().any(|pattern| pattern.matches(&path))
            };
            if !meant {
                continue;
            }
            if name.to_str().is_none() {
                return Err(output(format!(
                    "the name of {path} is not UTF-8, so that it cannot be handed on"
                )));
            }
            if kind.is_dir() {
                open.push((path, entry.path()));
                continue;
            }
            files.insert(path, entry.path());
            if files.len() > MAX_FILES {
                return Err(output(format!(
                    "the files that later steps ask for ({}) are more than {MAX_FILES}; ask for fewer in their `files`, or hand on an archive of them",
                    list(patterns)
                )));
            }
        }
    }
    Ok(files)
}

/// Says why a path without wildcards means no file. A folder may be empty.
fn look_for(root: &Path, pattern: &Pattern) -> Result<(), Failure> {
    let mut place = root.to_owned();
    for part in pattern.as_str().split('/') {
        place.push(part);
        match place.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(found) if found.is_symlink() => {
                return Err(output(format!(
                    "later steps ask for {pattern}, and {part} in it is a symbolic link, which is not followed; name what it leads to, or put a copy there"
                )));
            }
            Ok(_) => {
                return Err(output(format!(
                    "later steps ask for {pattern}, and {part} in it is no regular file"
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(output(format!(
                    "later steps ask for {pattern}, which was not in the workspace when the work was done; a pattern, as in `{pattern}*`, may mean nothing"
                )));
            }
            Err(error) => return Err(unreadable(pattern.as_str(), &error)),
        }
    }
    Ok(())
}

/// A file's bytes, one more than `most` at most, and the mode that it is handed on
/// with.
fn read(path: &Path, most: u64) -> io::Result<(Vec<u8>, u32)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    let is_program = found.permissions().mode() & 0o111 != 0;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes, if is_program { 0o755 } else { 0o644 }))
}

fn write(from: &mut impl Read, target: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if mode & 0o111 == 0 { 0o644 } else { 0o755 })
        .open(target)?;
    io::copy(from, &mut file)?;
    file.flush()
}

fn list(patterns: &[Pattern]) -> String {
    let shown: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    shown.join(", ")
}

fn too_much(patterns: &[Pattern], most: u64, how: &str) -> Failure {
    output(format!(
        "the files that later steps ask for ({}) have more than {} MiB{how}; ask for fewer in their `files`, or put them where both steps reach them and hand on where that is",
        list(patterns),
        most / (1024 * 1024)
    ))
}

fn unreadable(path: &str, error: &io::Error) -> Failure {
    output(format!(
        "the file or folder {path}, which later steps ask for, cannot be read: {error}"
    ))
}

fn output(message: String) -> Failure {
    Failure {
        class: FailureClass::Output,
        message,
    }
}

fn sandbox(message: String) -> Failure {
    Failure {
        class: FailureClass::Sandbox,
        message,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        let texts = texts.iter();
        texts.map(|text| Pattern::parse(text).unwrap()).collect()
    }

    fn put(place: &TempDir, path: &str, content: &[u8]) -> PathBuf {
        let path = place.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// What is in a workspace: path, content, whether it is a program.
    fn tree(root: &Path) -> Vec<(String, Vec<u8>, bool)> {
        let files = meant(root, &patterns(&["**"])).unwrap();
        files
            .into_iter()
            .map(|(path, place)| {
                let (content, mode) = read(&place, u64::MAX - 1).unwrap();
                (path, content, mode == 0o755)
            })
            .collect()
    }

    fn unpacked(packed: &[u8], texts: &[&str]) -> Result<TempDir, String> {
        let place = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(place.path()).unwrap();
        unpack(packed, &patterns(texts), &workspace, "from/7").map_err(|why| why.message)?;
        Ok(place)
    }

    /// A gzipped tar of these entries, whatever they are.
    fn forged(entries: &[(EntryType, &[u8], &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o4777);
            header.set_link_name("/etc/passwd").unwrap();
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn what_is_meant_is_packed_and_unpacked_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let long = format!("dist/{}/{}", "d".repeat(120), "f".repeat(200));
        put(&place, "dist/app.js", b"app");
        put(&place, &long, b"long");
        put(&place, "notes.md", b"n");
        put(&place, "other/x", b"no");
        let program = put(&place, "dist/run", b"#!/bin/sh\n");
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o700)).unwrap();
        symlink("/etc/passwd", place.path().join("dist/link")).unwrap();
        symlink("/etc", place.path().join("dist/etc")).unwrap();
        let meant = patterns(&["dist/**", "notes.md", "none/*.x"]);
        let packed = pack(place.path(), &meant).unwrap().unwrap();
        assert_eq!(pack(place.path(), &meant).unwrap().unwrap(), packed);

        let all = unpacked(&packed, &["**"]).unwrap();
        let below = |path: &str| format!("from/7/{path}");
        let want = [
            (below("dist/app.js"), b"app".to_vec(), false),
            (below(&long), b"long".to_vec(), false),
            (below("dist/run"), b"#!/bin/sh\n".to_vec(), true),
            (below("notes.md"), b"n".to_vec(), false),
        ];
        assert_eq!(tree(all.path()), want);
        let some = unpacked(&packed, &["*.md", "dist/r*"]).unwrap();
        assert_eq!(tree(some.path()), want[2..]);
        assert_eq!(pack(place.path(), &patterns(&["none/*"])).unwrap(), None);
    }

    #[test]
    fn a_path_that_is_not_there_fails_and_a_pattern_does_not() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("empty")).unwrap();
        put(&place, "real/f", b"f");
        symlink("real", place.path().join("way")).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            place.path().join("pipe"),
            rustix::fs::Mode::RWXU,
        )
        .unwrap();
        for (texts, said) in [
            (&["gone/f"][..], "gone/f, which was not in the workspace"),
            (&["**", "real/g"], "real/g, which was not"),
            (&["way/f"], "way in it is a symbolic link"),
            (&["way"], "way in it is a symbolic link"),
            (&["pipe"], "pipe in it is no regular file"),
            (&["real/f/x"], "f in it is no regular file"),
        ] {
            let failure = pack(place.path(), &patterns(texts)).unwrap_err();
            assert_eq!(failure.class, FailureClass::Output);
            assert!(failure.message.contains(said), "{}", failure.message);
        }
        for texts in [&["empty"][..], &["gone/*"], &["way/*"], &["p?pe"]] {
            assert_eq!(pack(place.path(), &patterns(texts)).unwrap(), None);
        }
    }

    #[test]
    fn too_much_is_refused_with_what_to_do() {
        let place = tempfile::tempdir().unwrap();
        for index in 0..=MAX_FILES {
            put(&place, &format!("many/{index}"), b"");
        }
        // Whatever packs well is bounded by what it is unpacked.
        let big = put(&place, "big", b"");
        let big = OpenOptions::new().write(true).open(big).unwrap();
        big.set_len(MAX_UNPACKED_BYTES + 1).unwrap();
        let mut seed = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        })
        .take(17 * 1024 * 1024)
        .collect();
        put(&place, "noise", &noise);
        for (text, said) in [
            ("many", "more than 1000; ask for fewer"),
            ("big", "more than 128 MiB; ask for fewer"),
            ("noise", "more than 16 MiB packed; ask for fewer"),
        ] {
            let failure = pack(place.path(), &patterns(&[text])).unwrap_err();
            assert_eq!(failure.class, FailureClass::Output);
            assert!(failure.message.contains(said), "{}", failure.message);
        }
        std::fs::remove_file(place.path().join("many/0")).unwrap();
        assert!(pack(place.path(), &patterns(&["many"])).unwrap().is_some());
    }

    #[test]
    fn nothing_leaves_the_folder_and_nothing_is_written_over() {
        for (kind, name) in [
            (EntryType::Regular, &b"../x"[..]),
            (EntryType::Regular, b"/tmp/x"),
            (EntryType::Regular, b"a/../../x"),
            (EntryType::Regular, b"\xff"),
            (EntryType::Symlink, b"link"),
            (EntryType::Link, b"link"),
            (EntryType::Directory, b"folder"),
            (EntryType::Fifo, b"pipe"),
        ] {
            let why = unpacked(&forged(&[(kind, name, b"")]), &["**"]).unwrap_err();
            assert!(why.contains("cannot be unpacked"), "{kind:?} {why}");
        }
        assert!(unpacked(b"no gzip at all", &["**"]).is_err());
        let twice = forged(&[
            (EntryType::Regular, b"a", b"1"),
            (EntryType::Regular, b"a", b"2"),
        ]);
        assert!(unpacked(&twice, &["**"]).is_err());
        // A mode is that of a program or not, and never more.
        let place = unpacked(&forged(&[(EntryType::Regular, b"a", b"1")]), &["a"]).unwrap();
        let mode = place.path().join("from/7/a").metadata().unwrap();
        assert_eq!(mode.permissions().mode() & 0o7022, 0);

        let packed = forged(&[(EntryType::Regular, b"a/b", b"new")]);
        for (there, content) in [("from/7/a/b", "theirs"), ("from/7/a", "a file")] {
            let place = tempfile::tempdir().unwrap();
            put(&place, there, content.as_bytes());
            let workspace = Workspace::create(place.path()).unwrap();
            let failure = unpack(&packed, &patterns(&["**"]), &workspace, "from/7").unwrap_err();
            let said = failure.message;
            assert!(said.contains("has something there already"), "{said}");
            let left = std::fs::read_to_string(place.path().join(there)).unwrap();
            assert_eq!(left, content);
        }
        // A link that a repository brought is no way out.
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), place.path().join("from")).unwrap();
        let workspace = Workspace::create(place.path()).unwrap();
        assert!(unpack(&packed, &patterns(&["**"]), &workspace, "from/7").is_err());
        assert_eq!(tree(outside.path()), []);
    }

    #[test]
    fn a_pack_that_grows_without_end_is_not_unpacked_to_its_end() {
        let zeros = vec![0; 1024 * 1024];
        let mut entries: Vec<(EntryType, &[u8], &[u8])> = Vec::new();
        let names: Vec<String> = (0..140).map(|index| format!("z{index}")).collect();
        for name in &names {
            entries.push((EntryType::Regular, name.as_bytes(), &zeros));
        }
        let why = unpacked(&forged(&entries), &["none"]).unwrap_err();
        assert!(why.contains("cannot be unpacked"), "{why}");
        let many: Vec<(EntryType, &[u8], &[u8])> = (0..=MAX_FILES)
            .map(|_| (EntryType::Regular, &b"x"[..], &b""[..]))
            .collect();
        let why = unpacked(&forged(&many), &["none"]).unwrap_err();
        assert!(why.contains("more than 1000"), "{why}");
    }
}
