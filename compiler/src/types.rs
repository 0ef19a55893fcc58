//! The types of event fields and step outputs: `str`, `enum[a, b]`, `list[T]`,
//! `T?`, nested maps and JSON Schema fragments, all turned into JSON Schema.

use crate::diagnostic::{Code, Report, Span};
use crate::nearest::nearest;
use crate::yaml::{self, Node, Problem, Scalar, Value as Yaml};
use loopy_contract::manifest::Contract;
use loopy_contract::schema::schema_error;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The names a type may have.
pub(crate) const NAMES: [&str; 8] = [
    "str", "int", "float", "bool", "url", "id", "datetime", "json",
];

/// How deep maps and lists may nest. A map adds two levels to the manifest's
/// JSON, and JSON readers give up at 128.
const MAX_DEPTH: usize = 24;

/// Names other languages have for them.
const ALIASES: [(&str, &str); 12] = [
    ("string", "str"),
    ("text", "str"),
    ("integer", "int"),
    ("number", "float"),
    ("double", "float"),
    ("boolean", "bool"),
    ("uri", "url"),
    ("uuid", "id"),
    ("date", "datetime"),
    ("timestamp", "datetime"),
    ("any", "json"),
    ("object", "json"),
];

/// Declared fields, and what could not be read of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    /// The fields with a readable type.
    pub(crate) contract: Contract,
    /// Where their names stand; nothing of fields that no file declares.
    places: BTreeMap<String, Span>,
    /// The fields whose type was refused; references to them are fine.
    rejected: BTreeSet<String>,
    /// Nothing could be read; any field may exist.
    pub(crate) unknown: bool,
}

impl Fields {
    /// Fields that are known by themselves.
    pub(crate) fn of(contract: Contract) -> Self {
        Self {
            contract,
            ..Self::default()
        }
    }

    /// Fields about which nothing is known.
    pub(crate) fn unknown() -> Self {
        Self {
            unknown: true,
            ..Self::default()
        }
    }

    /// Whether a reference to `field` is to be refused.
    pub(crate) fn lacks(&self, field: &str) -> bool {
        !self.unknown && !self.contract.fields.contains_key(field) && !self.rejected.contains(field)
    }

    /// Where a field is declared.
    pub(crate) fn place(&self, field: &str) -> Span {
        self.places.get(field).copied().unwrap_or(Span::START)
    }

    /// Reads the entries of a map of fields.
    pub(crate) fn read(entries: &[(Node, Node)], file: &str, report: &mut Report) -> Self {
        let mut fields = Self::default();
        for (key, value) in entries {
            let Some(name) = key.as_text().filter(|name| !name.trim().is_empty()) else {
                report
                    .add(
                        Code::E201,
                        file,
                        key.span,
                        format!("a field's name has to be text, this is {}", key.kind()),
                    )
                    .hint("put the name in quotes");
                fields.rejected.extend(key.as_written().map(str::to_owned));
                continue;
            };
            match read(value, 0) {
                Ok(Type { schema, optional }) => {
                    if optional {
                        fields.contract.optional.insert(name.to_owned());
                    }
                    fields.contract.fields.insert(name.to_owned(), schema);
                    fields.places.insert(name.to_owned(), key.span);
                }
                Err(refusal) => {
                    let span = if value.is_null() {
                        key.span
                    } else {
                        refusal.problem.span
                    };
                    report
                        .add(
                            Code::E201,
                            file,
                            span,
                            format!("field `{name}`: {}", refusal.problem.message),
                        )
                        .hint_if(refusal.hint);
                    fields.rejected.insert(name.to_owned());
                }
            }
        }
        fields
    }
}

/// A type that was read.
#[derive(Clone, Debug, PartialEq)]
struct Type {
    schema: Value,
    optional: bool,
}

/// Why a type was refused.
struct Refusal {
    problem: Problem,
    hint: Option<String>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            hint: None,
        }
    }
}

fn refuse(span: Span, message: impl Into<String>, hint: Option<String>) -> Refusal {
    Refusal {
        problem: Problem {
            span,
            message: message.into(),
        },
        hint,
    }
}

fn read(node: &Node, depth: usize) -> Result<Type, Refusal> {
    match &node.value {
        Yaml::Scalar(text, Scalar::Text) => {
            named(text, depth).map_err(|(message, hint)| refuse(node.span, message, hint))
        }
        Yaml::Scalar(_, Scalar::Null) => Err(refuse(node.span, "it has no type", Some(known()))),
        Yaml::Scalar(text, _) => Err(refuse(
            node.span,
            format!("`{text}` is {}, not a type", node.kind()),
            Some(known()),
        )),
        Yaml::List(_) => Err(refuse(
            node.span,
            "a list is not a type",
            Some("write `list[T]`, for example `list[str]`".to_owned()),
        )),
        Yaml::Map(entries) if is_schema(entries) => fragment(node),
        Yaml::Map(entries) => nested(entries, depth + 1),
    }
}

/// The schema of a type that stands in a text of our own, and whether it is
/// optional.
pub(crate) fn from_text(text: &str) -> Option<(Value, bool)> {
    named(text, 0).ok().map(|of| (of.schema, of.optional))
}

fn known() -> String {
    format!(
        "types are {}, enum[a, b], list[T], T? and nested maps of them",
        NAMES.join(", ")
    )
}

/// The type that `text` names; an error is a message and perhaps a hint.
fn named(text: &str, depth: usize) -> Result<Type, (String, Option<String>)> {
    if depth > MAX_DEPTH {
        return Err((too_deep(), None));
    }
    let text = text.trim();
    if let Some(inner) = text.strip_suffix('?') {
        let inner = named(inner, depth + 1)?;
        if inner.optional {
            return Err((format!("`{text}` has more than one `?`"), None));
        }
        return Ok(Type {
            schema: inner.schema,
            optional: true,
        });
    }
    let schema = match text {
        "str" => json!({"type": "string"}),
        "int" => json!({"type": "integer"}),
        "float" => json!({"type": "number"}),
        "bool" => json!({"type": "boolean"}),
        "url" => json!({"type": "string", "format": "uri"}),
        "id" => json!({"type": "string", "minLength": 1}),
        "datetime" => json!({"type": "string", "format": "date-time"}),
        "json" => json!({}),
        _ => {
            if let Some(members) = bracketed(text, "enum") {
                let members: Vec<&str> = members
                    .split(',')
                    .map(str::trim)
                    .filter(|member| !member.is_empty())
                    .collect();
                json!({"type": "string", "enum": members})
            } else if let Some(item) = bracketed(text, "list") {
                let item = item_type(item, depth + 1)?;
                if item.optional {
                    return Err((
                        format!("the items of `{text}` cannot be optional"),
                        Some("put the `?` behind the list: `list[T]?`".to_owned()),
                    ));
                }
                json!({"type": "array", "items": item.schema})
            } else {
                return Err((format!("`{text}` is not a type"), Some(suggestion(text))));
            }
        }
    };
    Ok(Type {
        schema,
        optional: false,
    })
}

/// The type of a list's items; a map is written as in YAML.
fn item_type(text: &str, depth: usize) -> Result<Type, (String, Option<String>)> {
    if !text.trim_start().starts_with('{') {
        return named(text, depth);
    }
    let problem = |problem: Problem| (format!("`{text}`: {}", problem.message), None);
    let document = yaml::parse(text, 1).map_err(problem)?;
    if let Some(duplicate) = document.problems.into_iter().next() {
        return Err(problem(duplicate));
    }
    let root = document
        .root
        .ok_or_else(|| (format!("`{text}` is not a type"), None))?;
    read(&root, depth).map_err(|refusal| (refusal.problem.message, refusal.hint))
}

fn too_deep() -> String {
    format!("the type nests deeper than {MAX_DEPTH} levels")
}

fn bracketed<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.strip_prefix(name)?
        .strip_prefix('[')?
        .strip_suffix(']')
}

fn suggestion(text: &str) -> String {
    let lower = text.to_lowercase();
    let meant = NAMES
        .into_iter()
        .find(|name| *name == lower)
        .or_else(|| {
            ALIASES
                .iter()
                .find(|(alias, _)| *alias == lower)
                .map(|(_, name)| *name)
        })
        .or_else(|| nearest(text, NAMES));
    match meant {
        Some(name) => format!("did you mean `{name}`?"),
        None => known(),
    }
}

/// `{ path: str, line: int? }` as a type of its own.
fn nested(entries: &[(Node, Node)], depth: usize) -> Result<Type, Refusal> {
    if depth > MAX_DEPTH {
        let span = entries.first().map_or(Span::START, |(key, _)| key.span);
        return Err(refuse(span, too_deep(), None));
    }
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for (key, value) in entries {
        let name = key.as_text().ok_or_else(|| {
            let message = format!("a key in it has to be text, this is {}", key.kind());
            refuse(key.span, message, Some("put the name in quotes".to_owned()))
        })?;
        let field = read(value, depth).map_err(|mut refusal| {
            refusal.problem.message = format!("`{name}` in it: {}", refusal.problem.message);
            refusal
        })?;
        if !field.optional {
            required.push(name.to_owned());
        }
        properties.insert(name.to_owned(), field.schema);
    }
    let schema = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    Ok(Type {
        schema,
        optional: false,
    })
}

/// A JSON Schema fragment, taken as it is once it is known to be one.
fn fragment(node: &Node) -> Result<Type, Refusal> {
    let schema = node.to_json()?;
    match schema_error(&schema) {
        None => Ok(Type {
            schema,
            optional: false,
        }),
        Some(error) => Err(refuse(
            node.span,
            format!("this is no valid JSON Schema: {error}"),
            None,
        )),
    }
}

/// Words that make a map a JSON Schema fragment, with the kind of value that
/// does: a field may well be called `items` or `format`.
fn is_schema(entries: &[(Node, Node)]) -> bool {
    if entries.is_empty() {
        return true;
    }
    let is = |key: &Node, value: &Node| key.as_text().is_some_and(|key| marks_schema(key, value));
    entries.iter().any(|(key, value)| is(key, value))
        || entries.iter().all(|(key, value)| {
            matches!(
                key.as_text(),
                Some("title" | "description" | "$comment" | "default" | "examples" | "deprecated")
            ) && !is_type_name(value)
        })
}

fn is_type_name(value: &Node) -> bool {
    value.as_text().is_some_and(|text| named(text, 0).is_ok())
}

fn marks_schema(key: &str, value: &Node) -> bool {
    const JSON_TYPES: [&str; 7] = [
        "string", "integer", "number", "boolean", "array", "object", "null",
    ];
    let is_list = matches!(value.value, Yaml::List(_));
    let is_bool = matches!(value.value, Yaml::Scalar(_, Scalar::Bool(_)));
    let is_subschema = |node: &Node| node.as_map().is_some_and(is_schema);
    match key {
        "type" => {
            is_list
                || value
                    .as_written()
                    .is_some_and(|text| JSON_TYPES.contains(&text))
        }
        "enum" | "required" | "anyOf" | "oneOf" | "allOf" | "prefixItems" => is_list,
        "const" | "format" | "pattern" | "$ref" | "$dynamicRef" | "$schema" | "$id" | "$anchor"
        | "contentEncoding" | "contentMediaType" => {
            !is_type_name(value) && value.as_map().is_none()
        }
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf"
        | "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
        | "maxProperties" | "minContains" | "maxContains" => {
            matches!(
                value.value,
                Yaml::Scalar(_, Scalar::Int(_) | Scalar::Float(_))
            )
        }
        "uniqueItems" => is_bool,
        "items"
        | "additionalProperties"
        | "unevaluatedProperties"
        | "unevaluatedItems"
        | "not"
        | "if"
        | "then"
        | "else"
        | "contains"
        | "propertyNames" => is_bool || is_subschema(value),
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
            value.as_map().is_some_and(|fields| {
                !fields.is_empty() && fields.iter().all(|(_, field)| is_subschema(field))
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn schema(text: &str) -> Result<(Value, bool), String> {
        let node = crate::yaml::parse(text, 1).unwrap().root.unwrap();
        read(&node, 0)
            .map(|t| (t.schema, t.optional))
            .map_err(|r| r.problem.message)
    }

    #[test]
    fn names_become_schemas() {
        assert_eq!(
            schema("url").unwrap(),
            (json!({"type": "string", "format": "uri"}), false)
        );
        assert_eq!(
            schema("enum[a, b c ,, d]?").unwrap(),
            (json!({"type": "string", "enum": ["a", "b c", "d"]}), true)
        );
        assert_eq!(
            schema("list[list[enum[a, b]]]").unwrap().0,
            json!({"type": "array", "items": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}})
        );
        assert_eq!(
            schema("x: list[{ a: list[{}], b: int? }]?").unwrap().0["properties"]["x"]["items"]["properties"],
            json!({"a": {"type": "array", "items": {}}, "b": {"type": "integer"}})
        );
        assert!(
            schema("x: list[{ a: b }]")
                .unwrap_err()
                .contains("`b` is not a type")
        );
        assert!(schema("x: list[{ a: int, a: int }]").is_err());
        for bad in [
            "STR",
            "string",
            "list[str?]",
            "list",
            "enum[a",
            "str??",
            "5",
            "[str]",
            "~",
            "list[]",
        ] {
            assert!(schema(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn maps_are_nested_types_or_schemas() {
        assert_eq!(
            schema("{ type: str, items: { name: str? } }").unwrap().0,
            json!({
                "type": "object", "additionalProperties": false, "required": ["type", "items"],
                "properties": {
                    "type": {"type": "string"},
                    "items": {
                        "type": "object", "additionalProperties": false, "required": [],
                        "properties": {"name": {"type": "string"}},
                    },
                },
            })
        );
        for fragment in [
            "{}",
            "{ type: array, items: { type: string } }",
            "{ properties: { k: { type: string } } }",
            "{ anyOf: [{ type: string }, { type: 'null' }] }",
            "{ description: anything }",
            "{ const: 5 }",
        ] {
            let node = crate::yaml::parse(fragment, 1).unwrap().root.unwrap();
            assert_eq!(
                schema(fragment).unwrap().0,
                node.to_json().unwrap(),
                "{fragment}"
            );
        }
        assert!(schema("{ foo: bar }").unwrap_err().contains("`foo` in it"));
        assert!(
            schema("{ type: object, properties: { k: str } }")
                .unwrap_err()
                .contains("no valid")
        );
        assert!(schema("{ const: .nan }").is_err());
    }
}
