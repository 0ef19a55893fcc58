//! Reads the literate cases in `tests/cases/*.md`, for all tests that run them.
//!
//! A case is a `##` heading and the files of a small project, each in a block
//! fenced by four backticks whose info string is `<language> <path>`. What the
//! compiler says of a line stands below it: tildes under the place, then the
//! severity, the code and a part of the message or the hint.
//!
//! ```text
//! on: Pong
//!     ~~~~ error LOOPY-E504: `Ping`
//! ```
//!
//! These lines are no part of the file. A block of another name, without a
//! path, is for the test.

/// One thing that the compiler is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its line in the file, without the marks.
    pub(crate) line: u32,
    /// In characters, counted from 1.
    pub(crate) column: u32,
    /// In characters.
    pub(crate) length: u32,
    /// Severity and code: `error LOOPY-E504`.
    pub(crate) what: String,
    /// What has to occur in the message or the hint; may be empty.
    pub(crate) text: String,
}

impl Mark {
    /// The mark that a line is, of the line above it.
    fn read(text: &str, line: u32) -> Option<Self> {
        let rest = text.trim_start_matches(' ');
        let (tildes, what) = rest.split_once(' ')?;
        if tildes.is_empty() || tildes.contains(|c| c != '~') {
            return None;
        }
        let (what, text_part) = what.split_once(": ").unwrap_or((what, ""));
        let (severity, code) = what.split_once(' ')?;
        if !matches!(severity, "error" | "warning") || !code.starts_with("LOOPY-") {
            return None;
        }
        Some(Self {
            line,
            column: u32::try_from(text.len() - rest.len()).ok()? + 1,
            length: u32::try_from(tildes.len()).ok()?,
            what: what.to_owned(),
            text: text_part.to_owned(),
        })
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for _ in 1..self.column {
            f.write_str(" ")?;
        }
        for _ in 0..self.length {
            f.write_str("~")?;
        }
        write!(f, " {}", self.what)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// The path in the project, or the name of a block that is no file.
    pub(crate) name: String,
    /// Whether it is a file.
    pub(crate) is_file: bool,
    /// Its lines without the marks.
    pub(crate) text: String,
    pub(crate) marks: Vec<Mark>,
}

/// A heading and its blocks.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) blocks: Vec<Block>,
}

impl Case {
    /// The files: path and text.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.blocks.iter().filter(|block| block.is_file);
        files.map(|block| (block.name.as_str(), block.text.as_str()))
    }
}

/// What a line of a case file is.
#[derive(Debug)]
enum Part<'t> {
    Heading(&'t str),
    Open(&'t str),
    Close,
    /// A line of a block, with its number there.
    Line(u32),
    Mark(Mark),
    Prose,
}

/// The lines of a case file, and what each of them is.
fn parts(text: &str) -> Vec<(&str, Part<'_>)> {
    let mut parts = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        let part = match inside {
            Some(_) if line == "````" => {
                inside = None;
                Part::Close
            }
            Some(number) => match Mark::read(line, number) {
                Some(mark) if number > 0 => Part::Mark(mark),
                _ => {
                    inside = Some(number + 1);
                    Part::Line(number + 1)
                }
            },
            None => match (line.strip_prefix("## "), line.strip_prefix("````")) {
                (Some(name), _) => Part::Heading(name),
                (None, Some(info)) => {
                    inside = Some(0);
                    Part::Open(info)
                }
                (None, None) => Part::Prose,
            },
        };
        parts.push((line, part));
    }
    parts
}

/// The cases of a file.
pub(crate) fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (line, part) in parts(text) {
        let blocks = cases.last_mut().map(|case| &mut case.blocks);
        match (part, blocks) {
            (Part::Heading(name), _) => cases.push(Case {
                name: name.to_owned(),
                blocks: Vec::new(),
            }),
            (Part::Open(info), Some(blocks)) => {
                let path = info.split_once(' ').map(|(_, path)| path);
                blocks.push(Block {
                    name: path.unwrap_or(info).to_owned(),
                    is_file: path.is_some(),
                    text: String::new(),
                    marks: Vec::new(),
                });
            }
            (Part::Line(_), Some(blocks)) => {
                if let Some(block) = blocks.last_mut() {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
            (Part::Mark(mark), Some(blocks)) => {
                if let Some(block) = blocks.last_mut() {
                    block.marks.push(mark);
                }
            }
            (Part::Open(_) | Part::Line(_) | Part::Mark(_) | Part::Close | Part::Prose, _) => {}
        }
    }
    cases
}

/// The text with other marks: `marks` has those of a case's file, by the case's
/// place and the file's path.
pub(crate) fn with_marks(text: &str, marks: impl Fn(usize, &str) -> Vec<Mark>) -> String {
    let mut written = String::new();
    let (mut headings, mut here) = (0_usize, Vec::new());
    for (line, part) in parts(text) {
        let number = match part {
            Part::Mark(_) => continue,
            Part::Heading(_) => {
                headings += 1;
                None
            }
            Part::Open(info) => {
                let case = headings.checked_sub(1).zip(info.split_once(' '));
                here = case.map_or_else(Vec::new, |(case, (_, path))| marks(case, path));
                None
            }
            Part::Line(number) => Some(number),
            Part::Close | Part::Prose => None,
        };
        written.push_str(line);
        written.push('\n');
        let below = here.iter().filter(|mark| Some(mark.line) == number);
        for mark in below {
            written.push_str(&mark.to_string());
            written.push('\n');
        }
    }
    written
}
