//! Shell sensors: a script with a `# loopy: poll="5m" emits="Event"` line among
//! its first comments.

use super::{Argument, Declared, Found, Unreadable};
use crate::diagnostic::Span;

/// The sensor of one script, if its head has a `# loopy:` line.
pub(super) fn read(path: &str, text: &str) -> Result<Found, Unreadable> {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if !line.trim().is_empty() && !line.starts_with('#') {
            break;
        }
        if let Some(arguments) = line
            .trim_start_matches('#')
            .trim_start()
            .strip_prefix("loopy:")
        {
            let start = offset + line.len() - arguments.len();
            return header(path, text, start, arguments.trim_end())
                .map(|declared| vec![declared].into());
        }
        offset += line.len();
    }
    Ok(Found::default())
}

/// Reads the arguments, which start at byte `start` of `text`.
fn header(path: &str, text: &str, start: usize, arguments: &str) -> Result<Declared, Unreadable> {
    let end = start + arguments.len();
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut declared = Declared {
        name: name.strip_suffix(".sh").unwrap_or(name).to_owned(),
        span: Span::in_text(text, start, end),
        emits: Argument::Absent,
        webhook: Argument::Absent,
        poll: Argument::Absent,
        verify: Argument::Absent,
        on_change: Argument::Absent,
        unknown: Vec::new(),
        module: path.to_owned(),
        function: None,
    };
    let mut rest = arguments.trim_start();
    while !rest.is_empty() {
        let at = end - rest.len();
        let (key, value, after) = pair(rest).ok_or_else(|| Unreadable {
            span: Span::in_text(text, at, end),
            message: format!("`{rest}` is not a list of key=\"value\""),
        })?;
        let argument = match key {
            "emits" => &mut declared.emits,
            "webhook" => &mut declared.webhook,
            "poll" => &mut declared.poll,
            "verify" => &mut declared.verify,
            "on_change" => &mut declared.on_change,
            _ => {
                return Err(Unreadable {
                    span: Span::in_text(text, at, at + key.len()),
                    message: format!(
                        "a sensor has no `{key}`; it has emits, webhook, poll, verify and on_change"
                    ),
                });
            }
        };
        let value_at = at + key.len() + "=\"".len();
        let span = Span::in_text(text, value_at, value_at + value.len());
        *argument = Argument::Text(value.to_owned(), span);
        rest = after.trim_start();
    }
    Ok(declared)
}

/// Splits `key="value"` off the front.
fn pair(text: &str) -> Option<(&str, &str, &str)> {
    let (key, rest) = text.split_once('=')?;
    let (value, after) = rest.strip_prefix('"')?.split_once('"')?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_key.then_some((key, value, after))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_header_is_read_with_places() {
        let text = "#!/bin/sh\n\n# loopy: poll=\"5m\" emits=\"Incident\"\necho\n";
        let read = read("sensors/disk-full.sh", text).unwrap().declared;
        assert_eq!(read[0].name, "disk-full");
        let place = |line, column, length| Span {
            line,
            column,
            length,
        };
        assert_eq!(read[0].poll, Argument::Text("5m".into(), place(3, 16, 2)));
        assert_eq!(
            read[0].emits,
            Argument::Text("Incident".into(), place(3, 27, 8))
        );
    }

    #[test]
    fn what_is_no_header_says_where() {
        assert!(
            read("a.sh", "echo\n# loopy: poll=\"5m\"\n")
                .unwrap()
                .declared
                .is_empty()
        );
        assert_eq!(
            read("a.sh", "# loopy: every=\"5m\"")
                .unwrap_err()
                .span
                .column,
            10
        );
        assert_eq!(
            read("a.sh", "# loopy: poll=\"5m\" x")
                .unwrap_err()
                .span
                .column,
            20
        );
    }
}
