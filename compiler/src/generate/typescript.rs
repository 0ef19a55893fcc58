//! The TypeScript package: declarations of the events, and of what a
//! `sensorRegistry` may hold. Types only; there is nothing to import at run
//! time.

use super::{Event, Member, Shape, distinct, header, is_word, literal, verify_schemes};
use serde_json::Value;

/// `index.d.ts`.
pub(super) fn package_types() -> String {
    format!(
        r#"// {}
//
//     import type {{ SensorRegistry }} from "../loopy/index.js";
//     export const sensorRegistry = {{ … }} satisfies SensorRegistry;

import type {{ $Events }} from "./events.js";
export type * from "./events.js";

/** A verified webhook delivery. */
export interface Request {{
  method: string;
  path: string;
  /** By name, in any case. */
  headers: {{ get(name: string): string | null; has(name: string): boolean }};
  query: {{ get(name: string): string | null; getAll(name: string): string[]; has(name: string): boolean }};
  /** The raw bytes. */
  body: Uint8Array;
  /** The parsed body. */
  json: any;
}}

/** A poll's turn: when it was due, when the one before it was, and what that one gave. */
export interface Tick<Event = {{ [field: string]: any }}> {{
  scheduled_at: Date;
  last_run: Date;
  /** The fields of each event, as JSON has them; none the first time. */
  snapshot: readonly Event[];
}}

/** How a webhook's deliveries are verified. */
export type Verify = {};

/** What a sensor may give back: nothing, one event, or several. */
export type Gives<Event> = Event | null | undefined | void | Iterable<Event> | AsyncIterable<Event>;

/** Makes events of what is posted to a path. */
export interface WebhookSensor<Name extends keyof $Events> {{
  emits: Name;
  webhook: string;
  poll?: undefined;
  onChange?: undefined;
  verify?: Verify;
  run: (request: Request) => Gives<$Events[Name]> | Promise<Gives<$Events[Name]>>;
}}

/** Makes events of what it finds every so often. */
export interface PollSensor<Name extends keyof $Events> {{
  emits: Name;
  /** `30s`, `5m`, `2h`, `1d`. */
  poll: string;
  /** Whether an event is kept back that the last turn gave as well. */
  onChange?: boolean;
  webhook?: undefined;
  verify?: undefined;
  run: (tick: Tick<$Events[Name]>) => Gives<$Events[Name]> | Promise<Gives<$Events[Name]>>;
}}

/** A sensor of any event. */
export type Sensor = {{ [Name in keyof $Events]: WebhookSensor<Name> | PollSensor<Name> }}[keyof $Events];

/** The sensors of a file, by name. */
export interface SensorRegistry {{
  [name: string]: Sensor;
}}
"#,
        header(),
        verify_schemes().join(" | ")
    )
}

/// `events.d.ts`.
pub(super) fn event_types(events: &[Event<'_>]) -> String {
    let mut text = format!("// {}\n", header());
    let mut all = String::new();
    for event in events {
        let shape = if is_word(event.name) {
            let fields = members(&event.fields, 1);
            text.push_str(&format!("\nexport interface {} {fields}\n", event.name));
            event.name.to_owned()
        } else {
            members(&event.fields, 2)
        };
        all.push_str(&format!("  {}: {shape};\n", key(event.name)));
    }
    // No event can have this name: theirs start with a capital letter.
    text.push_str(&format!(
        "\n/** All events by name. */\nexport interface $Events {{\n{all}}}\n"
    ));
    text
}

fn members(members: &[Member], indent: usize) -> String {
    if members.is_empty() {
        // `{}` would be anything but null.
        return "{ [key: string]: never }".to_owned();
    }
    let pad = "  ".repeat(indent);
    let lines: Vec<String> = members
        .iter()
        .map(|member| {
            let mark = if member.optional { "?" } else { "" };
            let shape = shape(&member.shape, indent + 1);
            format!("{pad}{}{mark}: {shape};\n", key(&member.name))
        })
        .collect();
    format!("{{\n{}{}}}", lines.concat(), "  ".repeat(indent - 1))
}

fn shape(shape: &Shape, indent: usize) -> String {
    match shape {
        Shape::Any => "unknown".to_owned(),
        Shape::Never => "never".to_owned(),
        Shape::Text => "string".to_owned(),
        // JSON writes a Date as RFC 3339. An event may be called `Date`.
        Shape::DateTime => "string | globalThis.Date".to_owned(),
        Shape::Date => "string".to_owned(),
        Shape::Integer | Shape::Number => "number".to_owned(),
        Shape::Boolean => "boolean".to_owned(),
        Shape::Null => "null".to_owned(),
        Shape::Literal(Value::String(text)) => literal(text),
        Shape::Literal(value) => value.to_string(),
        Shape::List(item) => format!("readonly ({})[]", self::shape(item, indent)),
        Shape::Map(value) => format!("{{ [key: string]: {} }}", self::shape(value, indent)),
        Shape::Record(fields) => members(fields, indent),
        Shape::Union(shapes) => {
            distinct(shapes.iter().map(|member| self::shape(member, indent))).join(" | ")
        }
    }
}

/// A name as a key.
fn key(name: &str) -> String {
    if name.is_ascii() && is_word(name) {
        name.to_owned()
    } else {
        literal(name)
    }
}
