//! What sets off a project's runs and polls: a rule per event that starts a workflow,
//! schedules for cron triggers and polls.

use super::template::Template;
use super::{StackError, arn, logical_id};
use crate::schedule;
use loopy_contract::manifest::{Manifest, SensorTrigger, Trigger};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One rule per event that starts a workflow.
pub(super) fn add_rules(template: &mut Template, manifest: &Manifest) -> Result<(), StackError> {
    let events: BTreeSet<&str> = manifest
        .workflows
        .values()
        .filter_map(|workflow| match workflow.entry_trigger()? {
            Trigger::Event { event, .. } => Some(event.as_str()),
            Trigger::Cron { .. } => None,
        })
        .collect();
    for event in events {
        template.resource(
            logical_id("Rule", event),
            "AWS::Events::Rule",
            json!({
                "Description": format!("Hands {event} to the events queue"),
                "EventBusName": {"Ref": "EventBus"},
                "EventPattern": {"source": ["loopy"], "detail-type": [event]},
                "Targets": [{
                    "Id": "events",
                    "Arn": arn("EventsQueue"),
                    "InputPath": "$.detail",
                    "DeadLetterConfig": {"Arn": arn("EventsDeadLetters")},
                }],
            }),
        )?;
    }
    Ok(())
}

/// Schedules of cron triggers and polls.
pub(super) fn add_schedules(
    template: &mut Template,
    manifest: &Manifest,
) -> Result<(), StackError> {
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
            add_schedule(
                template,
                id,
                about,
                expression,
                Some(zone),
                "Events",
                &message,
            )?;
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
        let id = logical_id("Poll", &sensor.name);
        add_schedule(
            template,
            id,
            about,
            &expression,
            None,
            "Deliveries",
            &message,
        )?;
    }
    Ok(())
}

fn add_schedule(
    template: &mut Template,
    id: String,
    about: String,
    expression: &str,
    zone: Option<&str>,
    queue: &str,
    message: &Value,
) -> Result<(), StackError> {
    let mut properties = json!({
        "Description": about,
        "GroupName": {"Ref": "ScheduleGroup"},
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
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
    template.resource(id, "AWS::Scheduler::Schedule", properties)
}
