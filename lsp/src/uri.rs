//! `file:` URIs and paths.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The path of a `file:` URI; `None` for any other, and for a path that is no
/// UTF-8.
pub(crate) fn path(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let encoded = rest.strip_prefix("localhost").unwrap_or(rest);
    if !encoded.starts_with('/') {
        return None;
    }
    let bytes = encoded.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let digits = encoded.get(at + 1..at + 3)?;
            // The parser would take a sign.
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok().map(PathBuf::from)
}

/// The URI of an absolute path.
pub(crate) fn of(path: &Path) -> String {
    let mut uri = "file://".to_owned();
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_way_there_and_back() {
        let odd = Path::new("/a b/é\u{1f600}/%41#?.md");
        assert_eq!(path(&of(odd)).as_deref(), Some(odd));
        assert_eq!(of(Path::new("/a b")), "file:///a%20b");
        assert_eq!(path("file://localhost/a"), Some(PathBuf::from("/a")));
        for other in [
            "untitled:x",
            "file:",
            "file://host/a",
            "file:///%",
            "file:///%é",
            "file:///%ff",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }
}
