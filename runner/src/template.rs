//! Takes a body apart into text and references, in one pass. Values are put in
//! by those who use it, and never scanned again.

use loopy_contract::manifest::Ref;
use loopy_contract::report::Envelope;
use serde_json::Value;

/// A stretch of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Text to take as it stands.
    Text(&'a str),
    /// A reference to fill in.
    Value(&'a Ref),
}

/// The pieces of `body`. `{{ '{{' }}` is a literal `{{`; braces that belong to
/// no reference are text.
pub(crate) fn pieces<'a>(body: &'a str, refs: &'a [Ref]) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut rest = body;
    let mut text = body;
    // `text` begins where the text not yet put out begins, `rest` where the
    // search goes on; both are suffixes of `body`.
    while let Some(at) = rest.find("{{") {
        let Some(tag) = rest.get(at..) else { break };
        let (piece, length) =
            if let Some(reference) = refs.iter().find(|r| tag.starts_with(r.raw.as_str())) {
                (Piece::Value(reference), reference.raw.len())
            } else if let Some(length) = literal(tag) {
                (Piece::Text("{{"), length)
            } else {
                rest = tag.get(1..).unwrap_or_default();
                continue;
            };
        let before = text.len() - tag.len();
        if let Some(before) = text.get(..before)
            && !before.is_empty()
        {
            pieces.push(Piece::Text(before));
        }
        pieces.push(piece);
        rest = tag.get(length..).unwrap_or_default();
        text = rest;
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}

/// The length of `{{ '{{' }}` at the start of `tag`.
fn literal(tag: &str) -> Option<usize> {
    let inside = tag.strip_prefix("{{")?.trim_start().strip_prefix("'{{'")?;
    let after = inside.trim_start().strip_prefix("}}")?;
    Some(tag.len() - after.len())
}

/// What `reference` stands for: `None` for an optional field that is absent, and
/// for what a step would have put out that was skipped.
pub(crate) fn value(envelope: &Envelope, reference: &Ref) -> Option<Value> {
    pick(envelope.values.get(&reference.producer)?, &reference.field)
}

/// A field of a producer. Of a list of outputs it is the list of that field, with
/// null where it is absent; without a name it is the producer as a whole.
fn pick(producer: &Value, field: &str) -> Option<Value> {
    match producer {
        _ if field.is_empty() => Some(producer.clone()),
        Value::Array(outputs) => Some(
            outputs
                .iter()
                .map(|output| output.get(field).cloned().unwrap_or_default())
                .collect(),
        ),
        _ => producer.get(field).cloned(),
    }
}

/// A value as text: strings as they are, nothing for an absent one, JSON for
/// all else.
pub(crate) fn text(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reference(producer: &str, field: &str, raw: &str) -> Ref {
        Ref {
            producer: producer.into(),
            field: field.into(),
            raw: raw.into(),
        }
    }

    #[test]
    fn references_literals_and_lone_braces_are_told_apart() {
        let refs = [reference("event", "title", "{{ event.title }}")];
        let found = pieces("a {{ event.title }} {{ '{{' }}b{{ c }} {{", &refs);
        assert_eq!(
            found,
            [
                Piece::Text("a "),
                Piece::Value(&refs[0]),
                Piece::Text(" "),
                Piece::Text("{{"),
                Piece::Text("b{{ c }} {{"),
            ]
        );
    }

    #[test]
    fn items_lists_and_what_is_absent_are_picked_rightly() {
        let item = json!({"name": "a", "size": 2});
        assert_eq!(pick(&item, ""), Some(item.clone()));
        assert_eq!(pick(&item, "size"), Some(json!(2)));
        assert_eq!(pick(&item, "gone"), None);
        // An item that is no object has no fields.
        assert_eq!(pick(&json!("text"), ""), Some(json!("text")));
        assert_eq!(pick(&json!("text"), "x"), None);
        let outputs = json!([{"n": 1}, {"m": 2}, {"n": [3]}]);
        assert_eq!(pick(&outputs, ""), Some(outputs.clone()));
        assert_eq!(pick(&outputs, "n"), Some(json!([1, null, [3]])));
        assert_eq!(pick(&json!([]), "n"), Some(json!([])));
    }

    #[test]
    fn neighbours_and_the_empty_body() {
        let refs = [reference("a", "b", "{{a.b}}")];
        assert_eq!(pieces("{{a.b}}{{a.b}}", &refs).len(), 2);
        assert_eq!(pieces("", &refs), []);
        assert_eq!(pieces("{{{a.b}}}", &refs)[0], Piece::Text("{"));
    }
}
