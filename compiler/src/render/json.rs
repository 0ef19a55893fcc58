//! Writes diagnostics as JSON of our own.

use crate::diagnostic::Diagnostic;

/// For programs: `{"diagnostics": […]}`, indented, with a final newline.
pub fn json(diagnostics: &[Diagnostic]) -> String {
    let value = serde_json::json!({ "diagnostics": diagnostics });
    format!("{value:#}\n")
}
