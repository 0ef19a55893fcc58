//! The events that come with Loopy: what `Github.*` and `Sentry.*` hold and
//! which webhook they arrive at.

use loopy_contract::manifest::{Contract, VerifyScheme};
use serde_json::{Value, json};

/// A service with built-in events.
pub(crate) struct Provider {
    /// What its events' names start with, dot included.
    pub(crate) prefix: &'static str,
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) verify: VerifyScheme,
    pub(crate) events: &'static [BuiltIn],
}

pub(crate) struct BuiltIn {
    /// The name behind the prefix.
    pub(crate) name: &'static str,
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

impl BuiltIn {
    /// What the event holds.
    pub(crate) fn contract(&self) -> Contract {
        let fields = self.fields.iter();
        Contract {
            fields: fields
                .map(|(name, kind)| ((*name).to_owned(), kind.schema()))
                .collect(),
            ..Contract::default()
        }
    }
}

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

/// The names of all built-in events, prefix included.
pub(crate) fn names() -> impl Iterator<Item = String> {
    PROVIDERS.iter().flat_map(|provider| {
        let events = provider.events.iter();
        events.map(|builtin| format!("{}{}", provider.prefix, builtin.name))
    })
}

/// The service whose namespace the event lies in.
pub(crate) fn provider(event: &str) -> Option<&'static Provider> {
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
