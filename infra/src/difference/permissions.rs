//! The differences of what two templates allow: statements of roles and policies, who
//! may call functions, which of them have public addresses; and of what they hold back:
//! boundaries of roles, statements that deny.

use super::{Action, Difference, Part};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Something that is allowed: to whom, and what.
type Grants = BTreeSet<(String, String)>;

/// What differs between the templates.
///
/// # Errors
/// A sentence when one cannot be read.
pub(super) fn differences(old: &str, new: &str) -> Result<Vec<Difference>, String> {
    let (old, new) = (Allowed::by(old)?, Allowed::by(new)?);
    let told = |grants: &Grants, action: Action, widens: Option<&str>| -> Vec<Difference> {
        let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, what) in grants {
            by_name.entry(name).or_default().push(what);
        }
        let difference = |(name, what): (&str, Vec<&str>)| Difference {
            part: Part::Permission,
            action,
            name: name.to_owned(),
            about: what.join("; "),
            widens: widens.map(str::to_owned),
        };
        by_name.into_iter().map(difference).collect()
    };
    let more = Some("it may do more in the account");
    let only = |these: &Grants, others: &Grants| these.difference(others).cloned().collect();
    let mut found = told(&only(&new.grants, &old.grants), Action::Added, more);
    found.extend(told(&only(&old.grants, &new.grants), Action::Removed, None));
    let bounds = |allowed: &Allowed| allowed.bounds.keys().cloned().collect::<Grants>();
    let (held, holds) = (bounds(&old), bounds(&new));
    found.extend(told(&only(&holds, &held), Action::Added, None));
    // Of what goes itself, nothing is left to be held back.
    let freed: Grants = only(&held, &holds);
    let (freed, gone): (Grants, Grants) = freed.into_iter().partition(|bound| {
        let whom = old.bounds.get(bound);
        whom.is_none_or(|whom| whom.iter().any(|id| new.ids.contains(id)))
    });
    let loose = Some("what held it back goes");
    found.extend(told(&freed, Action::Removed, loose));
    found.extend(told(&gone, Action::Removed, None));
    Ok(found)
}

/// What a template allows, and what it holds back.
#[derive(Default)]
struct Allowed {
    grants: Grants,
    /// With the resources that each holds back.
    bounds: BTreeMap<(String, String), BTreeSet<String>>,
    /// Its resources.
    ids: BTreeSet<String>,
}

impl Allowed {
    fn by(template: &str) -> Result<Self, String> {
        let template: Value = serde_saphyr::from_str(template)
            .map_err(|error| format!("the template cannot be read: {error}"))?;
        let Some(resources) = template.get("Resources").and_then(Value::as_object) else {
            return Err("the template has no resources".to_owned());
        };
        let mut allowed = Self::default();
        for (id, resource) in resources {
            allowed.ids.insert(id.clone());
            read(id, resource, &mut allowed);
        }
        Ok(allowed)
    }
}

fn read(id: &str, resource: &Value, allowed: &mut Allowed) {
    let properties = &resource["Properties"];
    match resource["Type"].as_str().unwrap_or_default() {
        "AWS::IAM::Role" => role(id, properties, allowed),
        "AWS::IAM::Policy" | "AWS::IAM::ManagedPolicy" => {
            for kind in ["Roles", "Users", "Groups"] {
                for one in items(&properties[kind]) {
                    let one = text(one);
                    let to = format!(" for {one}");
                    policy((id, &one), &properties["PolicyDocument"], &to, allowed);
                }
            }
        }
        "AWS::Lambda::Url" => {
            let auth = properties["AuthType"].as_str().unwrap_or("?");
            allowed
                .grants
                .insert((id.to_owned(), format!("a public address (AuthType {auth})")));
        }
        "AWS::Lambda::Permission" => {
            let principal = text(&properties["Principal"]);
            let action = text(&properties["Action"]);
            let function = text(&properties["FunctionName"]);
            allowed.grants.insert((
                id.to_owned(),
                format!("{principal} may {action} on {function}"),
            ));
        }
        "AWS::SQS::QueuePolicy" | "AWS::S3::BucketPolicy" | "AWS::SNS::TopicPolicy" => {
            for kind in ["Queues", "Bucket", "Topics"] {
                for one in items(&properties[kind]) {
                    policy((id, &text(one)), &properties["PolicyDocument"], "", allowed);
                }
            }
        }
        "AWS::EC2::SecurityGroup" => {
            for rule in items(&properties["SecurityGroupEgress"]) {
                allowed
                    .grants
                    .insert((id.to_owned(), format!("connects to {}", text(rule))));
            }
            for rule in items(&properties["SecurityGroupIngress"]) {
                allowed
                    .grants
                    .insert((id.to_owned(), format!("is reached by {}", text(rule))));
            }
        }
        _ => {}
    }
}

fn role(id: &str, properties: &Value, allowed: &mut Allowed) {
    for statement in items(&properties["AssumeRolePolicyDocument"]["Statement"]) {
        let who = text(&statement["Principal"]);
        let condition = condition(statement);
        let what = format!("is taken by {who}{condition}");
        allowed.grants.insert((id.to_owned(), what));
    }
    for arn in items(&properties["ManagedPolicyArns"]) {
        let what = format!("all of {}", text(arn));
        allowed.grants.insert((id.to_owned(), what));
    }
    for attached in items(&properties["Policies"]) {
        policy((id, id), &attached["PolicyDocument"], "", allowed);
    }
    for boundary in items(&properties["PermissionsBoundary"]) {
        let what = format!("is bounded by {}", text(boundary));
        let bound = allowed.bounds.entry((id.to_owned(), what));
        bound.or_default().insert(id.to_owned());
    }
}

fn condition(statement: &Value) -> String {
    match &statement["Condition"] {
        Value::Null => String::new(),
        condition => format!(" if {}", text(condition)),
    }
}

/// The statements of the policy `id`, which is about the resource `whom`.
fn policy((id, about): (&str, &str), document: &Value, to: &str, allowed: &mut Allowed) {
    for statement in items(&document["Statement"]) {
        let denies = statement["Effect"] == "Deny";
        let condition = condition(statement);
        // A role's own policies name nobody.
        let whom = ["Principal", "NotPrincipal"]
            .iter()
            .filter(|key| !statement[**key].is_null())
            .map(|key| format!("{} may ", except(key, text(&statement[*key]))))
            .collect::<String>();
        for action in named(statement, ["Action", "NotAction"]) {
            // Its own log is no power.
            if matches!(&*action, "logs:CreateLogStream" | "logs:PutLogEvents") {
                continue;
            }
            for resource in named(statement, ["Resource", "NotResource"]) {
                let what = format!("{whom}{action} on {resource}{condition}{to}");
                if denies {
                    let what = format!("never {what}");
                    let bound = allowed.bounds.entry((id.to_owned(), what));
                    bound.or_default().insert(about.to_owned());
                } else {
                    allowed.grants.insert((id.to_owned(), what));
                }
            }
        }
    }
}

/// What a statement names under one of two keys, the second of which means all but that.
fn named(statement: &Value, keys: [&str; 2]) -> Vec<String> {
    let names = keys.iter().flat_map(|key| {
        let items = items(&statement[*key]).iter();
        items.map(move |item| except(key, text(item)))
    });
    names.collect()
}

fn except(key: &str, name: String) -> String {
    if key.starts_with("Not") {
        format!("all but {name}")
    } else {
        name
    }
}

/// A list's items; what is no list stands for itself, and nothing for none.
fn items(value: &Value) -> &[Value] {
    match value {
        Value::Null => &[],
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    }
}

/// A value as people read it: a reference by its name.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(members) if members.len() == 1 => {
            let (key, inner) = members.iter().next().map_or(("", value), |(k, v)| (k, v));
            match (key, inner) {
                ("Ref" | "Fn::Sub" | "Service" | "AWS", Value::String(name)) => name.clone(),
                ("Fn::GetAtt", Value::Array(path)) => path.first().map_or_else(String::new, text),
                _ => value.to_string(),
            }
        }
        other => other.to_string(),
    }
}
