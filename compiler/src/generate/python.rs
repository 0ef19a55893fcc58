//! The Python package: `__init__` and `events`, each as code that runs and as
//! a stub that checkers read.
//!
//! When Loopy calls a sensor it provides a `loopy` package of its own, so the
//! code here runs only elsewhere: in a project's own tests, in a REPL.

use super::{Event, Member, Shape, distinct, header, is_word, literal, verify_schemes};
use ruff_python_ast::Expr;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// With more events than this, the stub no longer says which event a sensor
/// gives back, only that it is one: mypy compares all overloads with each
/// other, which takes it a second for these and minutes for some hundred.
const MANY: usize = 32;

/// `__init__.py`.
pub(super) fn package() -> String {
    format!(
        r#"# {}
"""What sensor code imports. Loopy provides this package itself when it calls a
sensor; this one stands in for it elsewhere, such as in tests."""

from . import events

__all__ = ["Request", "Tick", "events", "sensor"]


class Request:
    """What a webhook sensor is called with. Loopy makes it."""


class Tick:
    """What a poll sensor is called with. Loopy makes it."""


def sensor(*, emits, webhook=None, poll=None, verify=None, on_change=False):
    """Marks a function as a sensor. `loopy compile` reads the arguments from
    the source."""

    def mark(function):
        return function

    return mark
"#,
        header()
    )
}

/// `__init__.pyi`.
pub(super) fn package_types(events: &[Event<'_>]) -> String {
    let mut text = format!(
        r#"# {}
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar, overload
from typing_extensions import Never, TypeAlias

from . import events as events

__all__ = ["Request", "Tick", "events", "sensor"]

class Request:
    """A verified webhook delivery."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By name, in any case."""
    query: _Query
    """The first value of each name."""
    body: bytes
    """The raw bytes."""
    @property
    def json(self) -> Any:
        """The parsed body; a ValueError if it is not JSON."""

class Tick:
    """A poll's turn."""

    scheduled_at: datetime
    """When it was due."""
    last_run: datetime
    """When the one before it was."""
    snapshot: list[dict[str, Any]]
    """The fields of each event that one gave, as JSON has them; none the first time."""

# Names that start with `_` are for type checkers; they are not there at run time.

class _Query(dict[str, str]):
    def getlist(self, name: str) -> list[str]:
        """Every value of `name`; an empty list when it is absent."""

_E = TypeVar("_E")
_Some: TypeAlias = _E | Mapping[str, object] | None | Iterable[_E | Mapping[str, object]] | AsyncIterable[_E | Mapping[str, object]]
_Gives: TypeAlias = _Some[_E] | Awaitable[_Some[_E]]
_Verify: TypeAlias = Literal[{}]
"#,
        header(),
        verify_schemes().join(", ")
    );
    if events.is_empty() {
        text.push_str(
            r#"
_F = TypeVar("_F", bound=Callable[..., object])

# registry.yml has no events, so nothing can be emitted.
def sensor(
    *, emits: Never, webhook: str | None = None, poll: str | None = None, verify: _Verify | None = None,
    on_change: bool = False
) -> Callable[[_F], _F]: ...
"#,
        );
        return text;
    }
    // The event a sensor names, what it may then give back, and a name for that.
    let mut names = Names::default();
    let signatures: Vec<(String, String, String)> = if events.len() > MANY {
        let all: Vec<String> = events.iter().map(|event| literal(event.name)).collect();
        let class = "events._Event".to_owned();
        vec![(all.join(", "), class, "_Any".to_owned())]
    } else {
        let signature = |event: &Event<'_>| {
            let class = if is_name(event.name) {
                format!("events.{}", event.name)
            } else {
                "Never".to_owned()
            };
            (
                literal(event.name),
                class,
                names.fresh(&words(&[event.name])),
            )
        };
        events.iter().map(signature).collect()
    };
    for (_, class, name) in &signatures {
        text.push_str(&format!(
            r#"{name}_webhook = TypeVar("{name}_webhook", bound=Callable[[Request], _Gives[{class}]])
{name}_poll = TypeVar("{name}_poll", bound=Callable[[Tick], _Gives[{class}]])
"#
        ));
    }
    for (emits, _, name) in &signatures {
        text.push_str(&format!(
            r"
@overload
def sensor(
    *, emits: Literal[{emits}], webhook: str, poll: None = None, verify: _Verify | None = None,
    on_change: Literal[False] = False
) -> Callable[[{name}_webhook], {name}_webhook]: ...
@overload
def sensor(
    *, emits: Literal[{emits}], poll: str, webhook: None = None, verify: None = None,
    on_change: bool = False
) -> Callable[[{name}_poll], {name}_poll]: ...
"
        ));
    }
    text
}

/// `events.py`.
pub(super) fn events(events: &[Event<'_>]) -> String {
    let named: Vec<&Event<'_>> = events.iter().filter(|event| is_name(event.name)).collect();
    let all: Vec<String> = named.iter().map(|event| literal(event.name)).collect();
    let mut text = format!(
        r#"# {}
import builtins as _builtins

__all__ = [{}]


class _Event:
    _event = ""
    _known = frozenset()

    def __init__(self, /, **fields):
        unknown = sorted(set(fields) - type(self)._known)
        if unknown:
            raise _builtins.TypeError(
                "event %s has no field %s" % (type(self)._event, ", ".join(unknown))
            )
        self.__dict__.update(fields)

    def __setattr__(self, name, value):
        if name not in type(self)._known:
            raise _builtins.AttributeError(
                "event %s has no field %s" % (type(self)._event, name)
            )
        self.__dict__[name] = value

    def __repr__(self):
        fields = ", ".join("%s=%r" % item for item in sorted(self.__dict__.items()))
        return "%s(%s)" % (type(self)._event, fields)

    def __eq__(self, other):
        if type(self) is not type(other):
            return _builtins.NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None  # pyright: ignore
"#,
        header(),
        all.join(", ")
    );
    for event in named {
        let fields: Vec<String> = event
            .fields
            .iter()
            .map(|field| literal(&field.name))
            .collect();
        text.push_str(&format!(
            "\n\nclass {}(_Event):\n    _event = {}\n    _known = frozenset([{}])\n",
            event.name,
            literal(event.name),
            fields.join(", ")
        ));
    }
    text.push_str(&unnamed(events));
    text
}

/// `events.pyi`.
pub(super) fn event_types(events: &[Event<'_>]) -> String {
    let mut stub = Stub {
        names: Names::default(),
        imports: BTreeMap::new(),
        declarations: Vec::new(),
    };
    // A class's own names hide those of the module in it.
    for event in events {
        let fields = event.fields.iter().map(|field| field.name.clone());
        stub.names.taken.extend(fields);
        stub.names.taken.insert(event.name.to_owned());
    }
    let mut all = Vec::new();
    for event in events.iter().filter(|event| is_name(event.name)) {
        all.push(literal(event.name));
        stub.class(event);
    }
    let mut imports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((module, name), local) in &stub.imports {
        if name != local {
            let renamed = format!("{name} as {local}");
            imports.entry(module).or_default().push(renamed);
        } else if *module != "builtins" {
            imports.entry(module).or_default().push(local.clone());
        }
    }
    let imports: Vec<String> = imports
        .into_iter()
        .map(|(module, names)| format!("from {module} import {}\n", names.join(", ")))
        .collect();
    format!(
        r"# {}
# Names that start with `_` are for type checkers; they are not there at run time.
{}
__all__ = [{}]

class _Event:
    __hash__ = None  # type: ignore[assignment]  # pyright: ignore
{}{}",
        header(),
        imports.concat(),
        all.join(", "),
        stub.declarations.concat(),
        unnamed(events)
    )
}

/// A comment on the events that have no class.
fn unnamed(events: &[Event<'_>]) -> String {
    let names: Vec<String> = events
        .iter()
        .filter(|event| !is_name(event.name))
        .map(|event| format!("#   {}\n", literal(event.name)))
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        "\n# These events have no class, as Python cannot spell their names. A sensor\n\
         # that emits one gives back a dict of its fields.\n{}",
        names.concat()
    )
}

/// The stub of the events as it grows.
struct Stub {
    names: Names,
    /// What is imported, by module and name: the name it has here.
    imports: BTreeMap<(&'static str, &'static str), String>,
    declarations: Vec<String>,
}

impl Stub {
    fn class(&mut self, event: &Event<'_>) {
        let (plain, awkward): (Vec<&Member>, Vec<&Member>) = event
            .fields
            .iter()
            .partition(|field| is_attribute(&field.name));
        let mut attributes = String::new();
        let mut parameters = String::new();
        for field in &plain {
            let shape = self.shape(&field.shape, &[event.name, &field.name]);
            let default = if field.optional { " = ..." } else { "" };
            attributes.push_str(&format!("    {}: {shape}\n", field.name));
            parameters.push_str(&format!("        {}: {shape}{default},\n", field.name));
        }
        if !plain.is_empty() {
            parameters.insert_str(0, "        *,\n");
        }
        if let Some(first) = awkward.first() {
            // Checkers match the dict of such a call with every parameter that
            // is not given, so a type of its own for each of these fields would
            // refuse calls that are fine.
            let any = self.import("typing", "Any");
            attributes.push_str(&format!(
                "    # Python cannot spell other fields of it: {}(**{{{}: ...}}).\n",
                event.name,
                literal(&first.name)
            ));
            parameters.push_str(&format!("        **{}: {any},\n", free("fields", event)));
        }
        self.declarations.push(format!(
            "\nclass {}(_Event):\n{attributes}    def __init__(\n        {},\n{parameters}    ) -> None: ...\n",
            event.name,
            free("self", event)
        ));
    }

    fn shape(&mut self, shape: &Shape, path: &[&str]) -> String {
        match shape {
            Shape::Any => self.import("typing", "Any"),
            Shape::Never => self.import("typing_extensions", "Never"),
            Shape::Text => self.import("builtins", "str"),
            Shape::DateTime => self.dated("datetime"),
            Shape::Date => self.dated("date"),
            Shape::Integer => self.import("builtins", "int"),
            Shape::Number => self.import("builtins", "float"),
            Shape::Boolean => self.import("builtins", "bool"),
            Shape::Null => "None".to_owned(),
            Shape::Literal(value) => {
                let value = value_literal(value);
                format!("{}[{value}]", self.import("typing", "Literal"))
            }
            Shape::List(item) => {
                let item = self.shape(item, path);
                format!("{}[{item}]", self.import("builtins", "list"))
            }
            Shape::Map(value) => {
                let value = self.shape(value, path);
                let text = self.import("builtins", "str");
                let map = self.import("collections.abc", "Mapping");
                format!("{map}[{text}, {value}]")
            }
            // A key without a letter is one that checkers do not take.
            Shape::Record(members) if members.iter().any(|member| member.name.is_empty()) => {
                self.shape(&Shape::Map(Box::new(Shape::Any)), path)
            }
            Shape::Record(members) => {
                let members: Vec<&Member> = members.iter().collect();
                self.record(&members, path)
            }
            Shape::Union(shapes) => {
                let is_literal = |shape: &&Shape| matches!(shape, Shape::Literal(_));
                let literals = shapes.iter().filter(is_literal);
                let values = distinct(literals.filter_map(|shape| match shape {
                    Shape::Literal(value) => Some(value_literal(value)),
                    _ => None,
                }));
                let mut members = Vec::new();
                if !values.is_empty() {
                    let name = self.import("typing", "Literal");
                    members.push(format!("{name}[{}]", values.join(", ")));
                }
                for shape in shapes.iter().filter(|shape| !is_literal(shape)) {
                    members.push(self.shape(shape, path));
                }
                distinct(members.into_iter()).join(" | ")
            }
        }
    }

    fn dated(&mut self, class: &'static str) -> String {
        let text = self.import("builtins", "str");
        let class = self.import("datetime", class);
        format!("{text} | {class}")
    }

    /// Declares a map with these keys; gives back its name. Written as a call,
    /// which takes any key.
    fn record(&mut self, members: &[&Member], path: &[&str]) -> String {
        let base = path.first().copied().unwrap_or_default();
        let mut entries = String::new();
        for member in members {
            let shape = self.shape(&member.shape, &[base, &member.name]);
            let shape = if member.optional {
                format!(
                    "{}[{shape}]",
                    self.import("typing_extensions", "NotRequired")
                )
            } else {
                shape
            };
            entries.push_str(&format!("    {}: {shape},\n", literal(&member.name)));
        }
        let name = self.names.fresh(&words(path));
        let typed = self.import("typing_extensions", "TypedDict");
        let entries = if entries.is_empty() {
            "{}".to_owned()
        } else {
            format!("{{\n{entries}}}")
        };
        self.declarations
            .push(format!("\n{name} = {typed}(\"{name}\", {entries})\n"));
        name
    }

    /// The name that an imported one has here.
    fn import(&mut self, module: &'static str, name: &'static str) -> String {
        if let Some(local) = self.imports.get(&(module, name)) {
            return local.clone();
        }
        let local = self.names.fresh(name);
        self.imports.insert((module, name), local.clone());
        local
    }
}

/// Names of a module, none given twice.
#[derive(Default)]
struct Names {
    taken: BTreeSet<String>,
    /// How often each was asked for again.
    repeated: BTreeMap<String, usize>,
}

impl Names {
    /// `wanted`, or something like it that is free. Starts with `_` when it is
    /// not `wanted` itself, but never with `__`, which classes read otherwise.
    fn fresh(&mut self, wanted: &str) -> String {
        if self.taken.insert(wanted.to_owned()) {
            return wanted.to_owned();
        }
        let count = self.repeated.entry(wanted.to_owned()).or_insert(0);
        loop {
            let plain = wanted.trim_start_matches('_');
            let name = match count {
                0 => format!("_{plain}"),
                _ => format!("_{plain}_{count}"),
            };
            *count += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// `wanted`, or something like it that is no field of the event.
fn free(wanted: &str, event: &Event<'_>) -> String {
    let mut name = wanted.to_owned();
    while event.fields.iter().any(|field| field.name == name) {
        name.insert(0, '_');
    }
    name
}

/// A private name made of these parts: short, whatever the parts are.
fn words(parts: &[&str]) -> String {
    const LENGTH: usize = 32;
    let parts: Vec<String> = parts
        .iter()
        .map(|part| {
            part.chars()
                .take(LENGTH)
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect()
        })
        .collect();
    format!("_{}", parts.join("_").trim_matches('_'))
}

fn value_literal(value: &Value) -> String {
    match value {
        Value::String(text) => literal(text),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    }
}

/// Whether Python can spell the name as it is. It reads names in a normal form
/// (NFKC), so some names would be read as others.
fn is_name(name: &str) -> bool {
    is_word(name)
        && name != "__debug__"
        && ruff_python_parser::parse_expression(name).is_ok_and(|parsed| {
            matches!(parsed.into_syntax().body.as_ref(), Expr::Name(found) if found.id.as_str() == name)
        })
}

/// Whether the name can be a parameter and an attribute. With `__` in front it
/// would mean something else in a class.
fn is_attribute(name: &str) -> bool {
    is_name(name) && !name.starts_with("__")
}
