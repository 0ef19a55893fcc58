//! Built-in events that a project uses: their contracts join its registry, and
//! their sensors its own.

use crate::catalogue::provider;
use crate::diagnostic::{Code, Report};
use crate::nearest::did_you_mean_one;
use crate::registry::{Entry, RegistryDraft};
use crate::sensor::SensorDraft;
use crate::step::{TriggerDraft, Workflows};
use crate::types::Fields;
use loopy_contract::manifest::{Sensor, SensorSource, SensorTrigger, Trigger};
use std::collections::BTreeMap;

/// Registers each built-in event that a trigger names, with the sensor that
/// makes it.
pub(crate) fn inject(
    workflows: &Workflows,
    registry: &mut RegistryDraft,
    sensors: &mut Vec<SensorDraft>,
    report: &mut Report,
) {
    let mut wanted = BTreeMap::new();
    for step in workflows.steps() {
        let TriggerDraft::Read(Trigger::Event { event, .. }, span) = &step.trigger else {
            continue;
        };
        let Some(provider) = provider(event) else {
            continue;
        };
        if let Some(builtin) = provider.event(event) {
            wanted
                .entry(event.clone())
                .or_insert((provider, builtin, step.file.clone(), *span));
            continue;
        }
        let listed = format!("`loopy docs events {}` lists all", provider.name);
        report
            .add(
                Code::E112,
                &step.file,
                *span,
                format!("there is no built-in event `{event}`"),
            )
            .hint(match did_you_mean_one(&provider.near(event)) {
                Some(asked) => format!("{asked} {listed}"),
                None => listed,
            });
    }
    for (event, (provider, builtin, file, span)) in wanted {
        registry.events.entries.insert(
            event.clone(),
            Entry {
                span,
                body: Fields::of(builtin.contract()),
            },
        );
        sensors.push(SensorDraft {
            sensor: Sensor {
                name: format!("builtin:{event}"),
                trigger: SensorTrigger::Webhook {
                    path: provider.path.to_owned(),
                    verify: Some(provider.verify),
                },
                emits: event,
                source: SensorSource::Builtin,
                provider: Some(provider.name.to_owned()),
                mapping: Some(builtin.mapping()),
                module: None,
                function: None,
            },
            file,
            span,
        });
    }
}
