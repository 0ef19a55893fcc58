//! Splits a step file into its YAML block and its body.

use crate::diagnostic::number;

/// The two halves of a step file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Framed<'a> {
    /// The YAML block, which starts at line 2 of the file.
    pub(crate) yaml: &'a str,
    /// The body, lines ended by `\n`, without the last line's end.
    pub(crate) body: String,
    /// The line of the file that the body starts at.
    pub(crate) body_line: u32,
}

/// Why a file does not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unframed {
    /// The first line is no fence.
    NoFence,
    /// There is a byte order mark before the first fence.
    ByteOrderMark,
    /// No second fence.
    Unclosed,
}

/// Splits at the first two `---` lines. Blanks around a fence do not matter,
/// anything before the first one does.
pub(crate) fn split(text: &str) -> Result<Framed<'_>, Unframed> {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    if first.trim() != "---" {
        let marked = first
            .strip_prefix('\u{feff}')
            .is_some_and(|rest| rest.trim() == "---");
        return Err(if marked {
            Unframed::ByteOrderMark
        } else {
            Unframed::NoFence
        });
    }
    let mut end = first.len();
    for (index, line) in lines.enumerate() {
        if line.trim() == "---" {
            let yaml = text.get(first.len()..end).unwrap_or_default();
            let body = text
                .get(end + line.len()..)
                .unwrap_or_default()
                .replace("\r\n", "\n");
            let body = body.strip_suffix('\n').map(str::to_owned).unwrap_or(body);
            return Ok(Framed {
                yaml,
                body,
                body_line: number(index).saturating_add(3),
            });
        }
        end += line.len();
    }
    Err(Unframed::Unclosed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn fences_split_and_later_ones_belong_to_the_body() {
        let framed = split(" --- \r\non: A\r\n---\nx\r\n---\ny\n").unwrap();
        assert_eq!(framed.yaml, "on: A\r\n");
        assert_eq!(framed.body, "x\n---\ny");
        assert_eq!(framed.body_line, 4);
        assert_eq!(split("---\n---").unwrap().body, "");
    }

    #[test]
    fn what_does_not_split_says_why() {
        assert_eq!(split(""), Err(Unframed::NoFence));
        assert_eq!(split("\n---\n---\nx"), Err(Unframed::NoFence));
        assert_eq!(split("\u{feff}---\n---\nx"), Err(Unframed::ByteOrderMark));
        assert_eq!(split("---\non: A\n"), Err(Unframed::Unclosed));
    }
}
