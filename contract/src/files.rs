//! Files that one step hands on to another: how they are named, and their bounds.
//!
//! A pattern is a path below the workspace, with `/` between its parts. `*` stands
//! for any letters of a part, `?` for one, and a part `**` for any parts. Without
//! any of these it names a file, or a folder with all that is in it.

use std::fmt;

/// The longest pattern, in bytes.
pub const MAX_PATTERN: usize = 1024;

/// The files that one attempt may hand on.
pub const MAX_FILES: usize = 1000;

/// The largest pack of them, compressed, in bytes.
pub const MAX_PACK_BYTES: u64 = 16 * 1024 * 1024;

/// What they may have in all before they are packed, in bytes.
pub const MAX_UNPACKED_BYTES: u64 = 128 * 1024 * 1024;

/// The packs that one attempt may be handed, in bytes.
pub const MAX_HANDED_BYTES: u64 = 256 * 1024 * 1024;

/// What the skills of one agent may have, in bytes.
pub const MAX_SKILL_BYTES: u64 = 16 * 1024 * 1024;

/// The bytes of a pack, or of a skill's file, that are sent at once. Each part but the last has as many.
pub const PACK_PART: usize = 512 * 1024;

/// Where each part of a pack of this size begins.
pub fn part_offsets(size: u64) -> impl Iterator<Item = u64> {
    (0..size.min(MAX_PACK_BYTES)).step_by(PACK_PART)
}

/// How many bytes the part at `offset` of a pack of this size has; `None` when no
/// part begins there.
pub fn part_length(size: u64, offset: u64) -> Option<usize> {
    let part = PACK_PART as u64;
    if size > MAX_PACK_BYTES || offset >= size || !offset.is_multiple_of(part) {
        return None;
    }
    usize::try_from((size - offset).min(part)).ok()
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing is named.
    #[error("it names no path")]
    Empty,
    /// It begins at the root of the file system.
    #[error("it begins with a slash, and a path is one below the workspace")]
    Absolute,
    /// A part is `.` or `..`.
    #[error("`.` and `..` are no parts of it")]
    Dots,
    /// Two slashes without anything in between.
    #[error("a part of it is empty")]
    EmptyPart,
    /// `**` beside other letters.
    #[error("`**` stands for whole parts of a path, and only alone between slashes")]
    Stars,
    /// Longer than [`MAX_PATTERN`].
    #[error("it is longer than {MAX_PATTERN} bytes")]
    Long,
    /// What no path should hold.
    #[error("it holds a control character or a backslash")]
    Letter,
}

/// Which files are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`
    Any,
    /// The letters of one part, `*` and `?` among them.
    One(Vec<char>),
}

impl Pattern {
    /// Reads a pattern. A slash at its end is left out.
    ///
    /// # Errors
    /// [`PatternError`]
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::Long);
        }
        if text.starts_with('/') {
            return Err(PatternError::Absolute);
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return Err(PatternError::Letter);
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            parts.push(match part {
                "" => return Err(PatternError::EmptyPart),
                "." | ".." => return Err(PatternError::Dots),
                "**" => Part::Any,
                _ if part.contains("**") => return Err(PatternError::Stars),
                _ => Part::One(part.chars().collect()),
            });
        }
        Ok(Self {
            parts,
            text: text.to_owned(),
        })
    }

    /// Whether it names one path and leaves nothing open.
    pub fn is_plain(&self) -> bool {
        !self.text.contains(['*', '?'])
    }

    /// The pattern as it is written, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a file at `path`, below the workspace, is meant.
    pub fn matches(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        if self.is_plain() {
            // A folder means all that is in it.
            let below = path.strip_prefix(self.text.as_str());
            return below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        }
        // `dist/**` means what is in `dist`, not a file of that name.
        let fits = |parts: &[&str]| {
            wild(
                &self.parts,
                parts,
                |part| *part == Part::Any,
                |part, name| match part {
                    Part::Any => true,
                    Part::One(letters) => letters_match(letters, name),
                },
            )
        };
        match self.parts.last() {
            Some(Part::Any) => parts.split_last().is_some_and(|(_, folder)| fits(folder)),
            _ => fits(&parts),
        }
    }

    /// Whether a folder at `path` may have files in it that are meant.
    pub fn may_be_in(&self, path: &str) -> bool {
        let mut parts = self.parts.iter();
        for name in path.split('/') {
            match parts.next() {
                Some(Part::Any) => return true,
                Some(Part::One(letters)) if letters_match(letters, name) => {}
                Some(Part::One(_)) => return false,
                None => return self.is_plain(),
            }
        }
        self.is_plain() || parts.next().is_some()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn letters_match(letters: &[char], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    wild(
        letters,
        &name,
        |letter| *letter == '*',
        |letter, found| *letter == '?' || letter == found,
    )
}

/// Whether `items` are what `wanted` says, where some of that stands for any
/// number of them. What comes before such a one is best found as early as it can
/// be, so there is never more than one place to go back to.
fn wild<W, I>(
    wanted: &[W],
    items: &[I],
    is_any: impl Fn(&W) -> bool,
    is_one: impl Fn(&W, &I) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    // The last wildcard, and the first item behind those it stands for.
    let mut back: Option<(usize, usize)> = None;
    while let Some(found) = items.get(item) {
        match wanted.get(at) {
            Some(one) if is_any(one) => {
                back = Some((at, item));
                at += 1;
            }
            Some(one) if is_one(one, found) => {
                at += 1;
                item += 1;
            }
            _ => {
                let Some((any, from)) = back else {
                    return false;
                };
                back = Some((any, from + 1));
                at = any + 1;
                item = from + 1;
            }
        }
    }
    wanted.get(at..).unwrap_or_default().iter().all(is_any)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn what_a_pattern_names_is_found_and_nothing_else() {
        for (text, paths, others) in [
            (
                "a.txt",
                &["a.txt", "a.txt/b"][..],
                &["b/a.txt", "a.txt2"][..],
            ),
            ("dist/", &["dist/a", "dist/b/c"], &["distant/a", "x/dist/a"]),
            ("dist/**", &["dist/a", "dist/b/c"], &["dist", "x/dist/a"]),
            ("**", &["a", "a/b/c", ".x"], &[]),
            ("**/*.md", &["a.md", "b/c/a.md"], &["a.mdx", "a.md/b"]),
            (
                "a/**/z",
                &["a/z", "a/b/z", "a/z/b/z"],
                &["a/b", "z", "a/zz"],
            ),
            ("*.js", &["a.js", ".js", "a.b.js"], &["a/b.js", "ajs"]),
            ("a?c*e", &["abce", "aécde", "abcee"], &["ace", "abcd"]),
            (
                "**/b/**/d/*",
                &["b/d/x", "a/b/b/c/d/d/x"],
                &["b/d", "d/b/x"],
            ),
            ("[id].js", &["[id].js"], &["i.js"]),
        ] {
            let pattern = pattern(text);
            for path in paths {
                assert!(pattern.matches(path), "{text} means {path}");
                let mut folder = *path;
                while let Some((parent, _)) = folder.rsplit_once('/') {
                    folder = parent;
                    assert!(pattern.may_be_in(folder), "{text} in {folder}");
                }
            }
            for path in others {
                assert!(!pattern.matches(path), "{text} does not mean {path}");
            }
        }
        assert!(!pattern("dist/*").may_be_in("other"));
        assert!(!pattern("dist/*").may_be_in("dist/deep"));
        assert!(pattern("dist").may_be_in("dist/deep"));
        assert!(!pattern("a/*/c").matches("a/b/c/d"));
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let stars = pattern(&"*a".repeat(300));
        assert!(!stars.matches(&format!("{}b", "a".repeat(20_000))));
        let folders = pattern(&format!("{}z", "**/a/".repeat(100)));
        assert!(!folders.matches(&format!("{}y", "a/".repeat(5_000))));
    }

    #[test]
    fn what_leaves_the_workspace_is_no_pattern() {
        for (text, why) in [
            ("", PatternError::Empty),
            ("/", PatternError::Absolute),
            ("/etc/passwd", PatternError::Absolute),
            ("../x", PatternError::Dots),
            ("a/./b", PatternError::Dots),
            ("a/..", PatternError::Dots),
            ("a//b", PatternError::EmptyPart),
            ("a**/b", PatternError::Stars),
            ("a\\b", PatternError::Letter),
            ("a\nb", PatternError::Letter),
            (&"a".repeat(MAX_PATTERN + 1), PatternError::Long),
        ] {
            assert_eq!(Pattern::parse(text), Err(why), "{text}");
        }
        assert!(pattern("a b/é/...").is_plain());
        assert!(!pattern("a/*").is_plain());
        assert_eq!(pattern("dist/").as_str(), "dist");
    }

    #[test]
    fn the_parts_of_a_pack_are_its_bytes_once() {
        for size in [0, 1, PACK_PART as u64, PACK_PART as u64 + 1, MAX_PACK_BYTES] {
            let mut end = 0;
            for offset in part_offsets(size) {
                assert_eq!(offset, end);
                end += part_length(size, offset).unwrap() as u64;
            }
            assert_eq!(end, size);
        }
        assert_eq!(part_length(10, 10), None);
        assert_eq!(part_length(10, 1), None);
        assert_eq!(part_length(MAX_PACK_BYTES + 1, 0), None);
    }
}
