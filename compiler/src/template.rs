//! Finds the tags in a step's body: `{{ producer.field }}` references, the bare
//! `{{ name }}` of `each`, and the literal `{{ '{{' }}`. Code fences mean nothing here.

/// What a tag may be, as advice.
pub(crate) const REFERENCE: &str =
    "a reference is {{ event.field }} or {{ step.field }}; {{ '{{' }} writes two braces";

/// A tag and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    /// The text, braces included.
    pub(crate) raw: &'a str,
    /// Line in the body, counted from 0.
    pub(crate) line: usize,
    /// Characters before it on that line.
    pub(crate) column: usize,
    pub(crate) kind: TagKind<'a>,
}

/// What a tag is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TagKind<'a> {
    /// `{{ producer.field }}`
    Reference { producer: &'a str, field: &'a str },
    /// `{{ name }}`: an item of `each`, or all outputs of a step with `each`.
    Bare(&'a str),
    /// `{{ '{{' }}`
    Literal,
    /// `{% … %}`
    Control,
    /// Anything else in double braces.
    Malformed,
}

/// All tags of a body, in order.
pub(crate) fn tags(body: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut at = 0;
    let bytes = body.as_bytes();
    let (mut line, mut column, mut counted) = (0, 0, 0);
    // Once no closing brace follows, none follows later either.
    let (mut references_end, mut controls_end) = (false, false);
    while let Some(found) = body.get(at..).and_then(|rest| rest.find('{')) {
        let start = at + found;
        let (is_control, closing, ended) = match bytes.get(start + 1) {
            Some(b'{') => (false, "}}", &mut references_end),
            Some(b'%') => (true, "%}", &mut controls_end),
            _ => {
                at = start + 1;
                continue;
            }
        };
        let inside = if *ended { None } else { body.get(start + 2..) };
        let Some(length) = inside.and_then(|rest| rest.find(closing)) else {
            *ended = true;
            at = start + 1;
            continue;
        };
        let end = start + 2 + length + 2;
        for c in body.get(counted..start).unwrap_or_default().chars() {
            (line, column) = if c == '\n' {
                (line + 1, 0)
            } else {
                (line, column + 1)
            };
        }
        counted = start;
        let inner = body.get(start + 2..start + 2 + length).unwrap_or_default();
        tags.push(Tag {
            raw: body.get(start..end).unwrap_or_default(),
            line,
            column,
            kind: if is_control {
                TagKind::Control
            } else {
                kind(inner.trim())
            },
        });
        at = end;
    }
    tags
}

fn kind(inner: &str) -> TagKind<'_> {
    match inner.split_once('.') {
        _ if inner == "'{{'" => TagKind::Literal,
        Some((producer, field)) if is_name(producer) && is_name(field) => {
            TagKind::Reference { producer, field }
        }
        None if is_name(inner) => TagKind::Bare(inner),
        _ => TagKind::Malformed,
    }
}

/// Whether a text can be named in a reference.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(body: &str) -> Vec<TagKind<'_>> {
        tags(body).into_iter().map(|tag| tag.kind).collect()
    }

    #[test]
    fn references_are_found_with_their_place() {
        assert_eq!(
            tags("a\n é {{scan-deps.count}}"),
            [Tag {
                raw: "{{scan-deps.count}}",
                line: 1,
                column: 3,
                kind: TagKind::Reference {
                    producer: "scan-deps",
                    field: "count"
                },
            }]
        );
    }

    #[test]
    fn the_rest_is_told_apart() {
        assert_eq!(kinds("{{ '{{' }} x }}"), [TagKind::Literal]);
        assert_eq!(kinds("{{task}}"), [TagKind::Bare("task")]);
        assert_eq!(kinds("{% if x %} { {{ lone"), [TagKind::Control]);
        for bad in [
            "{{{ e.w }}}",
            "{{ a . b }}",
            "{{ a.b.c }}",
            "{{ a | b }}",
            "{{ 1.a }}",
            "{{}}",
            "{{ a[0] }}",
        ] {
            assert_eq!(kinds(bad), [TagKind::Malformed], "{bad}");
        }
        assert_eq!(kinds("}} {{ {% }"), []);
        assert_eq!(tags(&"{{".repeat(200_000)), []);
    }
}
