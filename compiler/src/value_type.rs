//! What is known of a value from its declared JSON Schema, as far as conditions
//! and `each` need it. What cannot be told is [`Shape::Any`], which fits all.

use serde_json::Value;

/// How deep into a schema is looked.
const MAX_DEPTH: usize = 32;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Type<'a> {
    pub(crate) shape: Shape<'a>,
    /// Whether it may be absent or null.
    pub(crate) may_be_absent: bool,
}

/// The kind of value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape<'a> {
    /// Anything, or nothing is known.
    Any,
    /// Only `null`.
    Null,
    Bool,
    Number,
    Text,
    Time,
    /// One of these values.
    Enum(Vec<&'a Value>),
    List(Box<Type<'a>>),
    Map(Map<'a>),
}

/// The schema of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Map<'a>(&'a Value);

impl<'a> Map<'a> {
    /// Whether there may be a field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<()> {
        let declared = self.0.get("properties").and_then(|fields| fields.get(name));
        let is_open = self.0.get("additionalProperties") != Some(&Value::Bool(false));
        (declared.is_some() || is_open).then_some(())
    }

    /// The declared fields.
    pub(crate) fn names(&self) -> Vec<&'a str> {
        let fields = self.0.get("properties").and_then(Value::as_object);
        fields.map_or_else(Vec::new, |fields| {
            fields.keys().map(String::as_str).collect()
        })
    }
}

impl<'a> Type<'a> {
    /// Nothing is known.
    pub(crate) const ANY: Self = Self::of(Shape::Any);
    /// True or false.
    pub(crate) const BOOL: Self = Self::of(Shape::Bool);
    /// A time.
    pub(crate) const TIME: Self = Self::of(Shape::Time);

    const fn of(shape: Shape<'a>) -> Self {
        Self {
            shape,
            may_be_absent: false,
        }
    }

    /// The type that a JSON Schema describes.
    pub(crate) fn of_schema(schema: &'a Value) -> Self {
        Self::below(schema, 0)
    }

    fn below(schema: &'a Value, depth: usize) -> Self {
        if depth > MAX_DEPTH {
            return Self::ANY;
        }
        // What else a schema says can only narrow the type, but with these it
        // takes more than a look to tell how.
        const BEYOND: [&str; 6] = ["$ref", "$dynamicRef", "anyOf", "oneOf", "allOf", "if"];
        if BEYOND.iter().any(|word| schema.get(word).is_some()) {
            return Self::ANY;
        }
        let fixed = schema.get("const").map(|value| vec![value]);
        let values = fixed.or_else(|| Some(schema.get("enum")?.as_array()?.iter().collect()));
        if let Some(mut values) = values {
            let all = values.len();
            values.retain(|value| !value.is_null());
            return Self {
                may_be_absent: values.len() < all,
                shape: if values.is_empty() {
                    Shape::Null
                } else {
                    Shape::Enum(values)
                },
            };
        }
        let (name, may_be_absent) = match schema.get("type") {
            Some(Value::String(name)) => (name.as_str(), false),
            Some(Value::Array(names)) => {
                let mut rest = names
                    .iter()
                    .filter_map(Value::as_str)
                    .filter(|name| *name != "null");
                match (rest.next(), rest.next()) {
                    (Some(name), None) => (name, names.len() > 1),
                    _ => return Self::ANY,
                }
            }
            _ => return Self::ANY,
        };
        let shape = match name {
            "boolean" => Shape::Bool,
            "integer" | "number" => Shape::Number,
            "string" if schema.get("format").and_then(Value::as_str) == Some("date-time") => {
                Shape::Time
            }
            "string" => Shape::Text,
            "array" => {
                let item = schema.get("items").filter(|items| items.is_object());
                Shape::List(Box::new(
                    item.map_or(Self::ANY, |item| Self::below(item, depth + 1)),
                ))
            }
            "object" => Shape::Map(Map(schema)),
            "null" => Shape::Null,
            _ => Shape::Any,
        };
        Self {
            shape,
            may_be_absent,
        }
    }

    /// The type of a literal: just this value, for all but text and numbers.
    pub(crate) fn of_literal(value: &Value) -> Self {
        match value {
            Value::Null => Self {
                shape: Shape::Null,
                may_be_absent: true,
            },
            Value::Bool(_) => Self::BOOL,
            Value::Number(_) => Self::of(Shape::Number),
            _ => Self::of(Shape::Text),
        }
    }

    /// A list of values of this type.
    pub(crate) fn list(self) -> Self {
        Self::of(Shape::List(Box::new(self)))
    }

    /// The type in words.
    pub(crate) fn name(&self) -> &'static str {
        self.shape.name()
    }

    /// Whether values of this type can be values of that shape.
    pub(crate) fn can_be(&self, shape: &Shape) -> bool {
        self.shape.meets(shape)
    }

    /// Whether its values have an order.
    pub(crate) fn has_order(&self) -> bool {
        self.can_be(&Shape::Number) || self.can_be(&Shape::Time)
    }

    /// Whether a value of this type can equal one of the other.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        (self.may_be_absent && other.may_be_absent) || self.shape.meets(&other.shape)
    }

    /// Whether the shapes have values of one kind, whichever those are.
    pub(crate) fn meets_shape(&self, other: &Self) -> bool {
        match (&self.shape, &other.shape) {
            (Shape::Enum(values), shape) => values
                .iter()
                .any(|value| Self::of_literal(value).shape.meets(shape)),
            (a, b) => a.meets(b),
        }
    }
}

impl<'a> Shape<'a> {
    /// The shape in words.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Time => "a time",
            Self::Enum(_) => "one of several values",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Enum(a), Self::Enum(b)) => a.iter().any(|value| b.contains(value)),
            (Self::Enum(values), shape) | (shape, Self::Enum(values)) => values
                .iter()
                .any(|value| Type::of_literal(value).shape == *shape),
            // Lists and maps are for bodies; conditions do not look into them.
            (Self::List(_) | Self::Map(_), _) | (_, Self::List(_) | Self::Map(_)) => false,
            (a, b) => a == b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_are_read_as_far_as_can_be_told() {
        fn shape(schema: &Value) -> Shape<'_> {
            Type::of_schema(schema).shape
        }
        assert_eq!(shape(&json!({"type": "integer"})), Shape::Number);
        assert_eq!(
            shape(&json!({"type": "string", "format": "date-time"})),
            Shape::Time
        );
        assert_eq!(
            shape(&json!({"type": "array", "items": {"type": "string", "enum": ["a"]}})),
            Shape::List(Box::new(Type::of(Shape::Enum(vec![&json!("a")]))))
        );
        assert_eq!(shape(&json!({"const": 5})), Shape::Enum(vec![&json!(5)]));
        for unknown in [
            json!({}),
            json!(true),
            json!({"anyOf": [{"type": "string"}]}),
            json!({"type": ["string", "integer"]}),
            json!({"type": "string", "allOf": [{"enum": ["a"]}]}),
        ] {
            assert_eq!(shape(&unknown), Shape::Any, "{unknown}");
        }
        let schema = json!({"type": ["string", "null"]});
        let nullable = Type::of_schema(&schema);
        assert_eq!(
            (nullable.shape, nullable.may_be_absent),
            (Shape::Text, true)
        );
        let schema = json!({"enum": ["a", null]});
        let nullable = Type::of_schema(&schema);
        assert!(nullable.may_be_absent);
    }
}
