//! The events that come with Loopy: what `Github.*` and `Sentry.*` hold and
//! which webhook they arrive at.

use crate::diagnostic::{Code, Report};
use crate::registry::{Entry, RegistryDraft};
use crate::sensor::SensorDraft;
use crate::step::{TriggerDraft, Workflows};
use crate::types::Fields;
use loopy_contract::manifest::{
    Contract, Sensor, SensorSource, SensorTrigger, Trigger, VerifyScheme,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A service with built-in events.
struct Provider {
    /// What its events' names start with, dot included.
    prefix: &'static str,
    name: &'static str,
    path: &'static str,
    verify: VerifyScheme,
    events: &'static [BuiltIn],
}

struct BuiltIn {
    /// The name behind the prefix.
    name: &'static str,
    fields: &'static [(&'static str, Kind)],
}

#[derive(Clone, Copy)]
enum Kind {
    Str,
    Int,
    Bool,
    Url,
    Level,
}

const fn event(name: &'static str, fields: &'static [(&'static str, Kind)]) -> BuiltIn {
    BuiltIn { name, fields }
}

use Kind::{Bool, Int, Level, Str, Url};

const PROVIDERS: [Provider; 2] = [
    Provider {
        prefix: "Github.",
        name: "github",
        path: "/hooks/github",
        verify: VerifyScheme::Github,
        events: &[
            event(
                "PullRequestOpened",
                &[
                    ("number", Int),
                    ("repo", Str),
                    ("title", Str),
                    ("branch", Str),
                    ("base", Str),
                    ("url", Url),
                ],
            ),
            event(
                "PullRequestMerged",
                &[
                    ("number", Int),
                    ("repo", Str),
                    ("title", Str),
                    ("url", Url),
                    ("merged_by", Str),
                ],
            ),
            event(
                "IssueOpened",
                &[
                    ("number", Int),
                    ("repo", Str),
                    ("title", Str),
                    ("body", Str),
                    ("author", Str),
                    ("url", Url),
                ],
            ),
            event(
                "IssueCommentCreated",
                &[
                    ("repo", Str),
                    ("issue_number", Int),
                    ("body", Str),
                    ("author", Str),
                    ("url", Url),
                    ("on_pull_request", Bool),
                ],
            ),
            event(
                "Push",
                &[
                    ("repo", Str),
                    ("ref", Str),
                    ("before", Str),
                    ("after", Str),
                    ("pusher", Str),
                    ("commit_count", Int),
                ],
            ),
        ],
    },
    Provider {
        prefix: "Sentry.",
        name: "sentry",
        path: "/hooks/sentry",
        verify: VerifyScheme::Sentry,
        events: &[
            event(
                "IssueCreated",
                &[
                    ("issue_id", Str),
                    ("title", Str),
                    ("culprit", Str),
                    ("level", Level),
                    ("project", Str),
                    ("url", Url),
                ],
            ),
            event(
                "IssueResolved",
                &[
                    ("issue_id", Str),
                    ("title", Str),
                    ("project", Str),
                    ("url", Url),
                ],
            ),
            event(
                "AlertTriggered",
                &[
                    ("issue_id", Str),
                    ("title", Str),
                    ("culprit", Str),
                    ("level", Level),
                    ("rule", Str),
                    ("url", Url),
                ],
            ),
        ],
    },
];

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Str => json!({"type": "string"}),
            Self::Int => json!({"type": "integer"}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Url => json!({"type": "string", "format": "uri"}),
            Self::Level => {
                json!({"type": "string", "enum": ["debug", "info", "warning", "error", "fatal"]})
            }
        }
    }
}

/// The namespace (`Github.`) that a name lies in, if it is one of ours.
pub(crate) fn namespace(event: &str) -> Option<&'static str> {
    provider(event).map(|provider| provider.prefix)
}

fn provider(event: &str) -> Option<&'static Provider> {
    PROVIDERS
        .iter()
        .find(|provider| event.starts_with(provider.prefix))
}

/// The scheme that deliveries at `path` are signed with, where the path belongs
/// to a provider.
pub(crate) fn scheme_of_path(path: &str) -> Option<VerifyScheme> {
    PROVIDERS
        .iter()
        .find(|provider| {
            path.strip_prefix(provider.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .map(|provider| provider.verify)
}

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
        let TriggerDraft::Read(Trigger::Event { event }, span) = &step.trigger else {
            continue;
        };
        let Some(provider) = provider(event) else {
            continue;
        };
        let name = event.strip_prefix(provider.prefix).unwrap_or_default();
        match provider.events.iter().find(|builtin| builtin.name == name) {
            Some(builtin) => {
                wanted.entry(event.clone()).or_insert((
                    provider,
                    builtin,
                    step.file.clone(),
                    *span,
                ));
            }
            None => {
                let names: Vec<String> = provider
                    .events
                    .iter()
                    .map(|builtin| format!("{}{}", provider.prefix, builtin.name))
                    .collect();
                report
                    .add(
                        Code::E112,
                        &step.file,
                        *span,
                        format!("there is no built-in event `{event}`"),
                    )
                    .hint(format!("the built-in events are {}", names.join(", ")));
            }
        }
    }
    for (event, (provider, builtin, file, span)) in wanted {
        let fields = builtin
            .fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), kind.schema()));
        let contract = Contract {
            fields: fields.collect(),
            ..Contract::default()
        };
        registry.events.entries.insert(
            event.clone(),
            Entry {
                span,
                body: Fields::of(contract),
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
                module: None,
                function: None,
            },
            file,
            span,
        });
    }
}
