//! The events that come with Loopy: which services have some, and for each event
//! what it holds and how it is read from a delivery. They are data, a file a
//! service in `compiler/catalogue/`, which is read when one of its events is
//! asked for.

mod entry;

use crate::nearest;
use crate::types;
use entry::Field;
use loopy_contract::manifest::{Contract, VerifyScheme};
use loopy_contract::mapping::{Check, Mapping, Reading};
use std::sync::OnceLock;

/// A service with built-in events.
#[derive(Debug)]
pub struct Provider {
    /// Its name in paths and in the manifest: `github`.
    pub name: &'static str,
    /// What its events' names start with, dot included: `Github.`.
    pub prefix: &'static str,
    /// Where its deliveries go.
    pub path: &'static str,
    /// How they are signed.
    pub verify: VerifyScheme,
    /// Whether sensors of a project at that path are verified like that, too,
    /// when they do not say otherwise.
    owns_path: bool,
    file: &'static str,
    loaded: OnceLock<Loaded>,
}

/// What a provider's file says.
#[derive(Debug, Default)]
struct Loaded {
    title: String,
    about: String,
    /// Sorted by name.
    events: Vec<BuiltIn>,
}

/// A built-in event.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltIn {
    /// Its name, prefix included.
    pub name: String,
    /// What has happened, in a few words.
    pub about: String,
    /// What has to hold of a delivery.
    pub when: Vec<Check>,
    /// The kinds of webhooks that carry it, in the service's own words; none where the
    /// service has one kind alone.
    pub hooks: Vec<String>,
    fields: Vec<(String, Field)>,
}

/// A field of a built-in event.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltInField<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type as a project would write it; one that ends in `?` may be absent.
    pub type_text: &'a str,
    /// Where it is found.
    pub reading: &'a Reading,
}

macro_rules! provider {
    ($name:literal, $prefix:literal, $verify:ident, $owns_path:literal) => {
        Provider {
            name: $name,
            prefix: $prefix,
            path: concat!("/hooks/", $name),
            verify: VerifyScheme::$verify,
            owns_path: $owns_path,
            file: include_str!(concat!("../catalogue/", $name, ".yml")),
            loaded: OnceLock::new(),
        }
    };
}

/// What the catalogue calls the webhook of one repository.
const REPOSITORY: &str = "repository";

static PROVIDERS: [Provider; 6] = [
    provider!("github", "Github.", Github, true),
    provider!("sentry", "Sentry.", Sentry, true),
    provider!("slack", "Slack.", Slack, false),
    provider!("linear", "Linear.", Linear, false),
    provider!("stripe", "Stripe.", Stripe, false),
    provider!("pagerduty", "Pagerduty.", Pagerduty, false),
];

/// The services with built-in events.
pub fn providers() -> &'static [Provider] {
    &PROVIDERS
}

/// The service whose namespace the event lies in.
pub fn provider(event: &str) -> Option<&'static Provider> {
    PROVIDERS
        .iter()
        .find(|provider| event.starts_with(provider.prefix))
}

/// The namespace (`Github.`) that a name lies in, if it is one of ours.
pub(crate) fn namespace(event: &str) -> Option<&'static str> {
    provider(event).map(|provider| provider.prefix)
}

/// The scheme that deliveries at `path` are signed with, where the path belongs
/// to a provider.
pub(crate) fn scheme_of_path(path: &str) -> Option<VerifyScheme> {
    PROVIDERS
        .iter()
        .find(|provider| {
            let rest = path.strip_prefix(provider.path);
            provider.owns_path && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .map(|provider| provider.verify)
}

impl Provider {
    fn loaded(&self) -> &Loaded {
        // The files are ours, and a test reads them all.
        self.loaded
            .get_or_init(|| entry::load(self.prefix, self.file).unwrap_or_default())
    }

    /// The service's own name: `GitHub`.
    pub fn title(&self) -> &str {
        &self.loaded().title
    }

    /// How its deliveries come to Loopy, for people.
    pub fn about(&self) -> &str {
        &self.loaded().about
    }

    /// Its events, sorted by name.
    pub fn events(&self) -> &[BuiltIn] {
        &self.loaded().events
    }

    /// The event of this name, prefix included.
    pub fn event(&self, name: &str) -> Option<&BuiltIn> {
        let events = self.events();
        let found = events.binary_search_by(|event| event.name.as_str().cmp(name));
        found.ok().and_then(|at| events.get(at))
    }

    /// The names that may have been meant by one that does not exist.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let names = self.events().iter().map(|event| event.name.as_str());
        nearest::few(name, self.prefix.len(), names)
    }
}

impl BuiltIn {
    /// What has to be set up instead of a repository's webhook, where that cannot carry
    /// the event.
    pub fn beyond_repository(&self) -> Option<String> {
        if self.hooks.is_empty() || self.hooks.iter().any(|hook| hook == REPOSITORY) {
            return None;
        }
        let of = |hook: &String| match hook.as_str() {
            "organization" => "an organization webhook",
            "business" => "an enterprise webhook",
            "app" => "a GitHub App",
            "marketplace" => "a Marketplace webhook",
            _ => "a Sponsors webhook",
        };
        let needed: Vec<&str> = self.hooks.iter().map(of).collect();
        Some(match needed.split_last() {
            Some((last, before)) if !before.is_empty() => {
                format!("{} or {last}", before.join(", "))
            }
            _ => needed.concat(),
        })
    }

    /// What the event holds.
    pub fn contract(&self) -> Contract {
        let mut contract = Contract::default();
        for (name, field) in &self.fields {
            // A test sees to it that all types can be read.
            if let Some((schema, optional)) = types::from_text(&field.type_text) {
                contract.fields.insert(name.clone(), schema);
                if optional {
                    contract.optional.insert(name.clone());
                }
            }
        }
        contract
    }

    /// How the event is read from a delivery.
    pub fn mapping(&self) -> Mapping {
        let fields = self.fields.iter();
        Mapping {
            when: self.when.clone(),
            fields: fields
                .map(|(name, field)| (name.clone(), field.reading.clone()))
                .collect(),
        }
    }

    /// Its fields, sorted by name.
    pub fn fields(&self) -> impl Iterator<Item = BuiltInField<'_>> {
        self.fields.iter().map(|(name, field)| BuiltInField {
            name,
            type_text: &field.type_text,
            reading: &field.reading,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use loopy_contract::schema::{field_violations, schema_error};
    use serde_json::{Map, Value};
    use std::collections::BTreeSet;

    #[test]
    fn every_file_is_well_formed() {
        let mut names = BTreeSet::new();
        for provider in providers() {
            let loaded = entry::load(provider.prefix, provider.file).unwrap();
            assert!(!loaded.title.is_empty() && !loaded.about.is_empty());
            assert!(loaded.events.len() > 9, "{}", provider.name);
            assert!(loaded.events.is_sorted_by_key(|event| &event.name));
            for event in &loaded.events {
                let name = event.name.as_str();
                assert!(names.insert(event.name.clone()), "{name} is there twice");
                let rest = name.strip_prefix(provider.prefix).unwrap();
                assert!(rest.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
                assert!(rest.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
                assert!(
                    !event.about.is_empty() && !event.about.contains('\n'),
                    "{name}"
                );
                assert!(!event.when.is_empty(), "{name} would be any delivery");
                well_formed(event);
            }
        }
    }

    // GitHub's OpenAPI description, @octokit/openapi-webhooks 12.1.0: the kinds without
    // `repository` among their x-github.supported-webhook-types.
    #[test]
    fn what_a_repository_s_webhook_cannot_carry_is_known() {
        let kinds: BTreeSet<&str> = provider("Github.")
            .unwrap()
            .events()
            .iter()
            .filter(|event| event.beyond_repository().is_some())
            .map(|event| match &event.when[0] {
                Check::Header { one_of, .. } => one_of[0].as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        let known = "custom_property deployment_protection_rule deployment_review \
            github_app_authorization installation installation_repositories \
            installation_target marketplace_purchase membership merge_group org_block \
            organization personal_access_token_request projects_v2 projects_v2_item \
            projects_v2_status_update repository_dispatch security_advisory sponsorship \
            team workflow_dispatch";
        assert_eq!(kinds, known.split_whitespace().collect());
        let of = |name: &str| {
            let event = provider(name).unwrap().event(name).unwrap();
            event.beyond_repository()
        };
        assert_eq!(of("Github.Push"), None);
        assert_eq!(of("Slack.Message"), None);
        let team = "an organization webhook, an enterprise webhook or a GitHub App";
        assert_eq!(of("Github.TeamCreated").as_deref(), Some(team));
        assert_eq!(of("Github.MergeGroup").as_deref(), Some("a GitHub App"));
        for event in providers().iter().flat_map(Provider::events) {
            for hook in &event.hooks {
                let words = [
                    REPOSITORY,
                    "organization",
                    "business",
                    "app",
                    "marketplace",
                    "sponsors_listing",
                ];
                assert!(words.contains(&hook.as_str()), "{}: {hook}", event.name);
            }
        }
    }

    fn well_formed(event: &BuiltIn) {
        let name = &event.name;
        let contract = event.contract();
        assert!(!event.fields.is_empty(), "{name} has no field");
        assert_eq!(contract.fields.len(), event.fields.len(), "{name}");
        for (field, Field { type_text, reading }) in &event.fields {
            let about = format!("{name}: {field}: {type_text}");
            assert!(
                field
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{about}"
            );
            assert!(types::from_text(type_text).is_some(), "{about}");
            assert_eq!(schema_error(&contract.fields[field]), None, "{about}");
            assert!(!reading.at.is_empty(), "{about}");
            for at in &reading.at {
                assert!(at.starts_with('/') && !at.ends_with('/'), "{about}: {at}");
            }
            if let Some(default) = &reading.default {
                let told = field_violations(
                    &contract,
                    &Map::from_iter([(field.clone(), default.clone())]),
                );
                // Of the others it is told that they are missing.
                let own = told
                    .iter()
                    .find(|told| told.starts_with(&format!("/{field}:")));
                assert_eq!(own, None, "{about}");
            }
        }
        for check in &event.when {
            let (values, place) = match check {
                Check::Header { name, one_of } => {
                    assert_eq!(*name, name.to_lowercase(), "{name}");
                    let values = one_of.iter().cloned().map(Value::from).collect();
                    (values, name)
                }
                Check::Value { at, one_of } => (one_of.clone(), at),
                Check::Present { at } => (vec![Value::Null], at),
            };
            assert!(!values.is_empty() && !place.is_empty(), "{name}: {check:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told() {
        let told = |events: &str| {
            let text = format!("title: T\nabout: a\nkind: /type\nevents:\n{events}");
            entry::load("T.", &text).unwrap_err()
        };
        for (events, why) in [
            ("  - {subject: x, fields: {}}", "no name"),
            (
                "  - {kind: a, subject: x, fields: {}, colour: red}",
                "colour",
            ),
            ("  - {kind: a, subject: x, fields: {id: int}}", "`id`"),
            (
                "  - {kind: a, subject: x, fields: {id: {type: int}}}",
                "`id`",
            ),
            ("  - {kind: a, subject: x, fields: {id: inti /id}}", "inti"),
            (
                "  - {kind: a, subject: x, when: [{at: /b}], fields: {}}",
                "/b",
            ),
            (
                "  - {kind: a, subject: x, without: [repo], fields: {}}",
                "repo",
            ),
        ] {
            let found = told(events);
            assert!(found.contains(why), "{events}: {found}");
        }
    }

    #[test]
    fn names_and_paths_lead_to_their_provider() {
        assert_eq!(namespace("Github.Push"), Some("Github."));
        assert_eq!(namespace("Pagerduty.X"), Some("Pagerduty."));
        assert_eq!(namespace("Githubs.Push"), None);
        assert_eq!(
            scheme_of_path("/hooks/sentry/x"),
            Some(VerifyScheme::Sentry)
        );
        assert_eq!(scheme_of_path("/hooks/sentryx"), None);
        assert_eq!(scheme_of_path("/hooks/stripe"), None);
        let github = provider("Github.Push").unwrap();
        assert_eq!(github.event("Github.Push").unwrap().name, "Github.Push");
        assert_eq!(github.event("Github.Pushed"), None);
    }
}
