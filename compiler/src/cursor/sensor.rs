//! What belongs at a place in a sensor's file: the event it emits, and the
//! scheme it verifies.

use super::{Cursor, Slot};
use loopy_contract::manifest::VerifyScheme;

/// What belongs behind this text of the sensor file `file`.
pub(super) fn cursor(file: &str, before: &str) -> Option<Cursor> {
    let (_, extension) = file.rsplit_once('.')?;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.get(line_start..)?;
    let (declares, sign) = match extension {
        "py" => {
            // The arguments lie between the decorator's name and its function.
            let call = before.rfind("sensor(")?;
            (!before.get(call..)?.contains("def "), '=')
        }
        "sh" => (
            line.trim_start_matches('#')
                .trim_start()
                .starts_with("loopy:")
                && line.starts_with('#'),
            '=',
        ),
        "ts" => (before.contains("sensorRegistry"), ':'),
        _ => return None,
    };
    let open = open_quote(line)?;
    let name = line.get(..open)?.trim_end().strip_suffix(sign)?.trim_end();
    let start = name.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_');
    let slot = match name.get(start.len()..)? {
        _ if !declares => return None,
        "emits" => Slot::Event,
        "on_change" if extension == "sh" => Slot::Value(vec!["true", "false"]),
        "verify" => Slot::Value(VerifyScheme::ALL.map(VerifyScheme::name).to_vec()),
        _ => return None,
    };
    Some(Cursor {
        slot,
        word_start: line_start + open + 1,
    })
}

/// The quote that is still open at the end of a line.
fn open_quote(line: &str) -> Option<usize> {
    let mut open: Option<(usize, char)> = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match open {
            Some((_, quote)) if c == quote && before != '\\' => open = None,
            None if matches!(c, '"' | '\'') => open = Some((at, c)),
            _ => {}
        }
        before = c;
    }
    open.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(file: &str, before: &str) -> Option<(Slot, usize)> {
        let found = cursor(file, before)?;
        Some((found.slot, before.len() - found.word_start))
    }

    #[test]
    fn arguments_take_events_and_schemes() {
        let emits = [
            ("a.py", "@sensor(webhook=\"/x\", emits=\"Pi"),
            ("a.py", "@loopy.sensor(\n    emits = 'Pi"),
            ("a.sh", "#!/bin/sh\n# loopy: poll=\"5m\" emits=\"Pi"),
            (
                "a.ts",
                "export const sensorRegistry = {\n  a: { poll: \"1h\", emits: 'Pi",
            ),
        ];
        for (file, before) in emits {
            assert_eq!(slot(file, before), Some((Slot::Event, 2)), "{before}");
        }
        for (file, before) in [
            ("a.py", "@sensor(verify=\""),
            ("a.sh", "# loopy: verify=\""),
            ("a.ts", "sensorRegistry = { a: { verify: \""),
        ] {
            let found = slot(file, before);
            assert!(
                matches!(found, Some((Slot::Value(_), 0))),
                "{before}: {found:?}"
            );
        }
        for (file, before) in [
            ("a.py", "x(emits=\""),
            ("a.py", "@sensor(emits=\"Ping\")\ndef a(r):\n    x(emits=\""),
            ("a.py", "@sensor(poll=\""),
            ("a.py", "@sensor(emits="),
            ("a.py", "@sensor(emits=\"Ping\""),
            ("a.sh", "# emits=\""),
            ("a.sh", "x emits=\""),
            ("a.ts", "x = { emits: \""),
            ("a.txt", "@sensor(emits=\""),
        ] {
            assert_eq!(slot(file, before), None, "{before}");
        }
    }
}
