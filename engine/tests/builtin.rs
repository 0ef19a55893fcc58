//! The catalogue of built-in events over real deliveries: GitHub's own examples,
//! and for the other services deliveries as their documentation shows them. A
//! delivery is the events of its kind and of no other, what is read of it fits the
//! contract, and what is spoilt in it is either not needed or told.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "builtin/project.rs"]
mod project;

use loopy_contract::mapping::{Check, Take};
use loopy_contract::schema::field_violations;
use project::{Catalogue, Delivery, Documented, camel};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The deliveries of GitHub's package of examples, each with its kind.
fn github() -> Vec<(String, Delivery)> {
    let folder = std::env::var("LOOPY_TEST_WEBHOOKS")
        .unwrap_or_else(|_| panic!("LOOPY_TEST_WEBHOOKS is not set; `cargo xtask test` sets it"));
    let path = Path::new(&folder).join("api.github.com/index.json");
    let kinds: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut deliveries = Vec::new();
    for kind in &kinds {
        let name = kind["name"].as_str().unwrap();
        for body in kind["examples"].as_array().unwrap() {
            let headers = BTreeMap::from([("x-github-event".to_owned(), name.to_owned())]);
            let delivery = Delivery::json(headers, body.clone());
            deliveries.push((name.to_owned(), delivery));
        }
    }
    deliveries
}

/// The events that GitHub's delivery should be, by the rule of the names.
fn expected(catalogue: &Catalogue, kind: &str, body: &Value) -> BTreeSet<String> {
    let name = match kind {
        "issues" => "Github.Issue".to_owned(),
        _ => format!("Github.{}", camel(kind)),
    };
    let mut names = BTreeSet::from([name.clone()]);
    if let Some(action) = body["action"].as_str() {
        names.insert(format!("{name}{}", camel(action)));
    }
    if kind == "pull_request"
        && body["pull_request"]["merged"] == true
        && body["action"] == "closed"
    {
        names.insert("Github.PullRequestMerged".to_owned());
    }
    names.retain(|name| catalogue.events.contains_key(name));
    names
}

#[test]
fn each_of_github_s_examples_is_its_kind_and_action() {
    let catalogue = Catalogue::of("Github.");
    let deliveries = github();
    assert!(deliveries.len() > 300, "{}", deliveries.len());
    let mut without_action = Vec::new();
    for (kind, delivery) in &deliveries {
        let body = delivery.body.clone();
        let expected = expected(&catalogue, kind, &body);
        assert!(!expected.is_empty(), "{kind} is not in the catalogue");
        assert_eq!(catalogue.matching(delivery), expected, "{kind}: {body}");
        for name in &expected {
            let fields = catalogue.read(name, delivery).unwrap();
            let told = field_violations(&catalogue.events[name].contract, &fields);
            assert!(told.is_empty(), "{name}: {told:?}\n{body}");
        }
        let action = body["action"].as_str();
        if let Some(action) = action.filter(|_| expected.len() < 2) {
            without_action.push(format!("{kind}.{action}"));
        }
    }
    // The senders of these make up their actions themselves.
    without_action.dedup();
    assert_eq!(without_action, ["repository_dispatch.on-demand-test"]);
}

#[test]
fn the_first_events_are_read_as_they_always_were() {
    let catalogue = Catalogue::of("Github.");
    let mut seen = BTreeSet::new();
    for (kind, delivery) in github() {
        let body = &delivery.body;
        let at = |pointer: &str| body.pointer(pointer).cloned().unwrap_or_default();
        let or_empty = |pointer: &str| json!(at(pointer).as_str().unwrap_or_default());
        let action = body["action"].as_str().unwrap_or_default();
        let (name, fields) = match (kind.as_str(), action) {
            ("pull_request", "opened") => (
                "Github.PullRequestOpened",
                json!({
                    "number": at("/pull_request/number"), "repo": at("/repository/full_name"),
                    "title": at("/pull_request/title"), "branch": at("/pull_request/head/ref"),
                    "base": at("/pull_request/base/ref"), "url": at("/pull_request/html_url"),
                }),
            ),
            ("issues", "opened") => (
                "Github.IssueOpened",
                json!({
                    "number": at("/issue/number"), "repo": at("/repository/full_name"),
                    "title": at("/issue/title"), "body": or_empty("/issue/body"),
                    "author": at("/issue/user/login"), "url": at("/issue/html_url"),
                }),
            ),
            ("issue_comment", "created") => (
                "Github.IssueCommentCreated",
                json!({
                    "repo": at("/repository/full_name"), "issue_number": at("/issue/number"),
                    "body": or_empty("/comment/body"), "author": at("/comment/user/login"),
                    "url": at("/comment/html_url"),
                    "on_pull_request": body.pointer("/issue/pull_request").is_some(),
                }),
            ),
            ("push", "") => (
                "Github.Push",
                json!({
                    "repo": at("/repository/full_name"), "ref": at("/ref"),
                    "before": at("/before"), "after": at("/after"), "pusher": at("/pusher/name"),
                    "commit_count": at("/commits").as_array().map_or(0, Vec::len),
                }),
            ),
            _ => continue,
        };
        seen.insert(name);
        let read = catalogue.read(name, &delivery).unwrap();
        assert_eq!(Value::Object(read), fields, "{name}");
    }
    assert_eq!(seen.len(), 4);
    // No example is of a merge.
    let (_, mut merged) = github()
        .into_iter()
        .find(|(kind, of)| kind == "pull_request" && of.body["action"] == "closed")
        .unwrap();
    let is_merge = |of: &Delivery| catalogue.matching(of).contains("Github.PullRequestMerged");
    assert!(!is_merge(&merged));
    merged.body["pull_request"]["merged"] = json!(true);
    assert!(is_merge(&merged));
    let fields = catalogue.read("Github.PullRequestMerged", &merged).unwrap();
    assert_eq!(fields.len(), 5);
    assert_eq!(fields["merged_by"], "unknown");
    merged.body["pull_request"]["merged_by"] = json!({"login": "ada"});
    let fields = catalogue.read("Github.PullRequestMerged", &merged).unwrap();
    assert_eq!(fields["merged_by"], "ada");
}

#[test]
fn github_may_send_forms() {
    let catalogue = Catalogue::of("Github.");
    for (_, delivery) in github().into_iter().step_by(7) {
        let mut form = delivery.clone();
        form.form = Some(vec![("payload".to_owned(), delivery.body.to_string())]);
        let names = catalogue.matching(&delivery);
        assert_eq!(catalogue.matching(&form), names);
        for name in names {
            assert_eq!(
                catalogue.read(&name, &form),
                catalogue.read(&name, &delivery)
            );
        }
    }
}

#[test]
fn what_is_spoilt_in_github_s_examples_is_told() {
    let catalogue = Catalogue::of("Github.");
    let mut seen = BTreeSet::new();
    let mut spoilt = 0;
    for (_, delivery) in github() {
        for name in catalogue.matching(&delivery) {
            if seen.insert(name.clone()) {
                spoilt += spoil(&catalogue, &name, &delivery);
            }
        }
    }
    assert!(seen.len() > 190, "{}", seen.len());
    assert!(spoilt > 3000, "{spoilt}");
}

/// Checks the deliveries that a service documents: each is the events it should be,
/// and every event of the service has one, perhaps with the action changed.
fn documented(prefix: &str, deliveries: &str) {
    let catalogue = Catalogue::of(prefix);
    let deliveries: Vec<Documented> = serde_json::from_str(deliveries).unwrap();
    let mut seen = BTreeSet::new();
    for of in &deliveries {
        let delivery = Delivery::documented(of);
        assert_eq!(catalogue.matching(&delivery), of.events, "{}", of.body);
        for (name, wanted) in &of.fields {
            let fields = catalogue.read(name, &delivery).unwrap();
            for (field, value) in wanted {
                assert_eq!(fields.get(field), Some(value), "{name}: {field}");
            }
        }
        for name in &of.events {
            fits(&catalogue, name, &delivery);
            if seen.insert(name.clone()) && of.body.get("command").is_none() {
                let mut plain = delivery.clone();
                plain.form = None;
                assert!(spoil(&catalogue, name, &plain) > 10, "{name}");
            }
        }
    }
    // The others differ from one of their kind in the action.
    for (name, event) in &catalogue.events {
        if seen.contains(name) {
            continue;
        }
        let action = event
            .mapping()
            .when
            .iter()
            .rev()
            .find_map(|check| match check {
                Check::Value { at, one_of } => Some((at, &one_of[0])),
                _ => None,
            });
        let (at, value) = action.unwrap();
        let of_kind = deliveries.iter().find_map(|of| {
            let kind = of.events.iter().min_by_key(|name| name.len())?;
            let mut changed = Delivery::documented(of);
            replace(&mut changed.body, at, Some(value.clone()));
            let both = BTreeSet::from([kind.clone(), name.clone()]);
            (catalogue.matching(&changed) == both).then_some(changed)
        });
        let changed = of_kind.unwrap_or_else(|| panic!("no delivery is a {name}"));
        fits(&catalogue, name, &changed);
    }
}

fn fits(catalogue: &Catalogue, name: &str, delivery: &Delivery) {
    let fields = catalogue.read(name, delivery).unwrap();
    let told = field_violations(&catalogue.events[name].contract, &fields);
    assert!(told.is_empty(), "{name}: {told:?}\n{fields:?}");
}

#[test]
fn sentry_s_documented_deliveries_are_read() {
    documented("Sentry.", include_str!("builtin/sentry.json"));
}

#[test]
fn slack_s_documented_deliveries_are_read() {
    documented("Slack.", include_str!("builtin/slack.json"));
}

#[test]
fn linear_s_documented_deliveries_are_read() {
    documented("Linear.", include_str!("builtin/linear.json"));
}

#[test]
fn stripe_s_documented_deliveries_are_read() {
    documented("Stripe.", include_str!("builtin/stripe.json"));
}

#[test]
fn pagerduty_s_documented_deliveries_are_read() {
    documented("Pagerduty.", include_str!("builtin/pagerduty.json"));
}

/// Spoils each place that the event is read from, one at a time, and checks what
/// comes of it. Gives back how often.
fn spoil(catalogue: &Catalogue, name: &str, delivery: &Delivery) -> usize {
    let event = &catalogue.events[name];
    let mut places = BTreeSet::new();
    for reading in event.mapping().fields.values() {
        places.extend(reading.at.iter().cloned());
    }
    for check in &event.mapping().when {
        if let Check::Value { at, .. } | Check::Present { at } = check {
            places.insert(at.clone());
        }
    }
    let mut count = 0;
    for at in places {
        let values = [
            None,
            Some(Value::Null),
            Some(json!({"a": [1]})),
            Some(json!([{}, null, 7])),
            Some(json!(-1.5)),
            Some(json!(true)),
            Some(json!("")),
            Some(json!("\u{0}?%")),
        ];
        for value in values {
            let mut delivery = delivery.clone();
            if !replace(&mut delivery.body, &at, value.clone()) {
                continue;
            }
            count += 1;
            let Some(fields) = catalogue.read(name, &delivery) else {
                continue;
            };
            let told = field_violations(&event.contract, &fields);
            let about = format!("{name}: {value:?} at {at}: {told:?}");
            for (field, reading) in &event.mapping().fields {
                let names_field = told.iter().any(|told| is_about(told, field));
                let may_lack = event.contract.optional.contains(field);
                let lacks = !fields.contains_key(field);
                // Nothing is made up: a field that is required and not found is told.
                assert_eq!(lacks && !may_lack, lacks && names_field, "{about}");
                assert!(!(lacks && reading.default.is_some()), "{about}");
                if reading.take == Take::Presence {
                    assert!(fields[field].is_boolean(), "{about}");
                }
            }
            // The places that were left alone are still fine.
            for told in &told {
                let blamed = event.mapping().fields.iter().any(|(field, reading)| {
                    is_about(told, field)
                        && reading
                            .at
                            .iter()
                            .any(|place| place.starts_with(&at) || at.starts_with(place))
                });
                assert!(blamed, "{about}");
            }
        }
    }
    count
}

/// Whether a violation is one of this field.
fn is_about(told: &str, field: &str) -> bool {
    told.starts_with(&format!("/{field}:"))
        || told.starts_with(&format!("/{field}/"))
        || told.starts_with(&format!("\"{field}\" is a required property"))
}

/// Puts `value` at a place, or takes away what is there. Says whether anything was
/// there.
fn replace(body: &mut Value, at: &str, value: Option<Value>) -> bool {
    let Some((parent, key)) = at.rsplit_once('/') else {
        return false;
    };
    if body.pointer(at).is_none() {
        return false;
    }
    match (body.pointer_mut(parent), value) {
        (Some(Value::Object(map)), Some(value)) => map.insert(key.to_owned(), value).is_some(),
        (Some(Value::Object(map)), None) => map.remove(key).is_some(),
        (Some(Value::Array(items)), Some(value)) => {
            items[key.parse::<usize>().unwrap()] = value;
            true
        }
        (Some(Value::Array(items)), None) => {
            items.remove(key.parse().unwrap());
            true
        }
        _ => false,
    }
}
