//! What sets off a project's runs and polls: a rule per event that starts a workflow,
//! schedules for cron triggers and polls. Where that is more than one template should
//! hold, they go into stacks of their own inside the stack.

use super::standards::skips;
use super::template::Template;
use super::{MAX_RESOURCES, StackError, arn, logical_id};
use crate::schedule;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{Manifest, SensorTrigger, Trigger};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// From so many resources on, triggers lie in stacks inside the stack. What else a
/// project adds still has room then.
pub(super) const NESTED_FROM: usize = 400;

/// How many such stacks there are at most. What lies in which follows from its name, so
/// that nothing ever moves from one to another: on the way it could be missed.
const STACKS: u64 = 16;

/// How many rules all events share then: a bus has 300 rules unless AWS is asked for
/// more.
const RULES: u64 = 64;

/// The longest pattern of a rule that EventBridge takes, in characters.
const MAX_PATTERN: usize = 2048;

/// The longest description of a rule or a schedule, in characters.
const MAX_DESCRIPTION: usize = 512;

/// One trigger.
struct Piece {
    id: String,
    kind: &'static str,
    properties: Value,
    /// What says which stack it lies in.
    key: String,
}

/// Puts a project's triggers into the template, or into templates of their own among
/// the assets.
pub(super) fn add(
    template: &mut Template,
    manifest: &Manifest,
    assets: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), StackError> {
    let events: BTreeSet<&str> = manifest
        .workflows
        .values()
        .filter_map(|workflow| match workflow.entry_trigger()? {
            Trigger::Event { event, .. } => Some(event.as_str()),
            Trigger::Cron { .. } => None,
        })
        .collect();
    let schedules = schedules(manifest)?;
    let count = template.entries(&["Resources"])?.len() + events.len() + schedules.len();
    if count <= NESTED_FROM {
        for event in events {
            let pattern = json!({"source": ["loopy"], "detail-type": [event]});
            let about = format!("Hands {event} to the events queue");
            let id = logical_id("Rule", event);
            template.resource(id, "AWS::Events::Rule", rule(&about, &pattern))?;
        }
        for piece in schedules {
            template.resource(piece.id, piece.kind, piece.properties)?;
        }
        return Ok(());
    }
    let mut pieces = shared_rules(&events)?;
    pieces.extend(schedules);
    nest(template, pieces, assets)
}

fn rule(about: &str, pattern: &Value) -> Value {
    json!({
        "Description": description(about),
        "EventBusName": {"Ref": "EventBus"},
        // By default it is so, but drift is only seen in what a template says.
        "State": "ENABLED",
        "EventPattern": pattern,
        "Targets": [{
            "Id": "events",
            "Arn": arn("EventsQueue"),
            "InputPath": "$.detail",
            "DeadLetterConfig": {"Arn": arn("EventsDeadLetters")},
        }],
    })
}

/// As much of a description as there may be; names may be of any length.
fn description(about: &str) -> String {
    about.chars().take(MAX_DESCRIPTION).collect()
}

/// A few rules for many events; which of them an event is in follows from its name.
fn shared_rules(events: &BTreeSet<&str>) -> Result<Vec<Piece>, StackError> {
    let mut shared: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for event in events {
        shared.entry(number(event, RULES)).or_default().push(event);
    }
    let mut pieces = Vec::new();
    for (index, events) in shared {
        let pattern = json!({"source": ["loopy"], "detail-type": events});
        if pattern.to_string().len() > MAX_PATTERN {
            return Err(StackError::TooManyEvents);
        }
        let key = format!("rule {index}");
        let about = format!("Hands {} events to the events queue", events.len());
        pieces.push(Piece {
            id: format!("Rule{index}"),
            kind: "AWS::Events::Rule",
            properties: rule(&about, &pattern),
            key,
        });
    }
    Ok(pieces)
}

/// A number below `end` that a name always has.
fn number(name: &str, end: u64) -> u64 {
    let hash = sha256_hex(name.as_bytes());
    u64::from_str_radix(&hash[..12], 16).unwrap_or_default() % end
}

/// Puts the pieces into stacks inside the stack.
fn nest(
    template: &mut Template,
    pieces: Vec<Piece>,
    assets: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), StackError> {
    let mut stacks: BTreeMap<u64, Vec<Piece>> = BTreeMap::new();
    for piece in pieces {
        let stack = number(&piece.key, STACKS);
        stacks.entry(stack).or_default().push(piece);
    }
    for (index, pieces) in stacks {
        if pieces.len() > MAX_RESOURCES {
            let count = pieces.len();
            return Err(StackError::TooLarge { count });
        }
        let mut parameters = Map::new();
        let mut resources = Map::new();
        for mut piece in pieces {
            take_out(&mut piece.properties, &mut parameters);
            let resource = json!({"Type": piece.kind, "Properties": piece.properties});
            resources.insert(piece.id, resource);
        }
        let declared: Map<String, Value> = parameters
            .keys()
            .map(|name| (name.clone(), json!({"Type": "String"})))
            .collect();
        let nested = json!({
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": "A part of the triggers of a Loopy stack",
            "Parameters": declared,
            "Resources": resources,
        });
        let bytes = format!("{nested:#}\n").into_bytes();
        let key = format!("templates/{}.yaml", sha256_hex(&bytes));
        let url =
            format!("https://s3.${{AWS::Region}}.${{AWS::URLSuffix}}/${{AssetsBucket}}/{key}");
        let stack = json!({
            "Type": "AWS::CloudFormation::Stack",
            "Metadata": skips(&[(
                "CKV_AWS_124",
                "It changes with the stack around it, and whoever changes that is told",
            )]),
            // It holds nothing but rules and schedules.
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": {"TemplateURL": {"Fn::Sub": url}, "Parameters": parameters},
        });
        assets.insert(key, bytes);
        template.add("Resources", format!("Triggers{index}"), stack)?;
    }
    Ok(())
}

/// Replaces what the properties name of the stack around by parameters, and collects
/// what these are given.
fn take_out(value: &mut Value, parameters: &mut Map<String, Value>) {
    match value {
        Value::Object(members) if members.len() == 1 => {
            let name = match (members.get("Ref"), members.get("Fn::GetAtt")) {
                (Some(Value::String(name)), _) => Some(name.clone()),
                (_, Some(Value::Array(path))) => {
                    let parts = path.iter().filter_map(Value::as_str);
                    Some(parts.collect::<String>())
                }
                _ => None,
            };
            match name {
                Some(name) => {
                    let outer = std::mem::replace(value, json!({"Ref": name}));
                    parameters.insert(name, outer);
                }
                None => members
                    .values_mut()
                    .for_each(|value| take_out(value, parameters)),
            }
        }
        Value::Object(members) => {
            members
                .values_mut()
                .for_each(|value| take_out(value, parameters));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|value| take_out(value, parameters)),
        _ => {}
    }
}

/// Schedules of cron triggers and polls.
fn schedules(manifest: &Manifest) -> Result<Vec<Piece>, StackError> {
    let mut pieces = Vec::new();
    for workflow in manifest.workflows.values() {
        let Some(step) = workflow
            .entry
            .as_ref()
            .and_then(|entry| workflow.steps.get(entry))
        else {
            continue;
        };
        let Some(Trigger::Cron { expr, tz, .. }) = &step.trigger else {
            continue;
        };
        let expressions = schedule::cron(expr).map_err(|source| StackError::Schedule {
            place: format!("step {}", step.id),
            source,
        })?;
        for (index, expression) in expressions.iter().enumerate() {
            let mut id = logical_id("Cron", &step.id);
            if index > 0 {
                id.push_str(&format!("Part{}", index + 1));
            }
            let message = json!({
                "kind": "cron", "step": step.id, "scheduled_at": "<aws.scheduler.scheduled-time>",
            });
            let zone = tz.as_deref().unwrap_or("UTC");
            let about = format!("{expr} for step {}", step.id);
            let of = ("Events", &message);
            let properties = schedule_of(about, expression, Some(zone), of);
            pieces.push(Piece {
                id,
                kind: SCHEDULE,
                properties,
                key: format!("step {}", step.id),
            });
        }
    }
    for sensor in &manifest.sensors {
        let SensorTrigger::Poll { interval, .. } = &sensor.trigger else {
            continue;
        };
        let expression = schedule::rate(interval).map_err(|source| StackError::Schedule {
            place: format!("sensor {}", sensor.name),
            source,
        })?;
        let message = json!({
            "kind": "poll", "sensor": sensor.name, "scheduled_at": "<aws.scheduler.scheduled-time>",
        });
        let about = format!("Every {interval} for sensor {}", sensor.name);
        let of = ("Deliveries", &message);
        pieces.push(Piece {
            id: logical_id("Poll", &sensor.name),
            kind: SCHEDULE,
            properties: schedule_of(about, &expression, None, of),
            key: format!("sensor {}", sensor.name),
        });
    }
    Ok(pieces)
}

const SCHEDULE: &str = "AWS::Scheduler::Schedule";

fn schedule_of(
    about: String,
    expression: &str,
    zone: Option<&str>,
    (queue, message): (&str, &Value),
) -> Value {
    let mut properties = json!({
        "Description": description(&about),
        "GroupName": {"Ref": "ScheduleGroup"},
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": "ENABLED",
        "Target": {
            "Arn": arn(&format!("{queue}Queue")),
            "RoleArn": arn("ScheduleRole"),
            "Input": message.to_string(),
            "DeadLetterConfig": {"Arn": arn(&format!("{queue}DeadLetters"))},
        },
    });
    if let Some(zone) = zone {
        properties["ScheduleExpressionTimezone"] = zone.into();
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_no_longer_than_a_rule_may_have() {
        let about = rule(&"\u{e9}".repeat(600), &json!({}));
        let said = about["Description"].as_str().unwrap_or_default();
        assert_eq!(said.chars().count(), MAX_DESCRIPTION);
        assert_eq!(
            rule("Hands Go over", &json!({}))["Description"],
            "Hands Go over"
        );
    }
}
