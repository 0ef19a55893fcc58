//! The differences of what two templates allow: statements of roles, who may call
//! functions, and which of them have public addresses.

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
    let (old, new) = (grants(old)?, grants(new)?);
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
    let mut found = told(
        &new.difference(&old).cloned().collect(),
        Action::Added,
        more,
    );
    found.extend(told(
        &old.difference(&new).cloned().collect(),
        Action::Removed,
        None,
    ));
    Ok(found)
}

fn grants(template: &str) -> Result<Grants, String> {
    let template: Value = serde_saphyr::from_str(template)
        .map_err(|error| format!("the template cannot be read: {error}"))?;
    let mut grants = Grants::new();
    let Some(resources) = template.get("Resources").and_then(Value::as_object) else {
        return Err("the template has no resources".to_owned());
    };
    for (id, resource) in resources {
        let properties = &resource["Properties"];
        match resource["Type"].as_str().unwrap_or_default() {
            "AWS::IAM::Role" => role(id, properties, &mut grants),
            "AWS::Lambda::Url" => {
                let auth = properties["AuthType"].as_str().unwrap_or("?");
                grants.insert((id.clone(), format!("a public address (AuthType {auth})")));
            }
            "AWS::Lambda::Permission" => {
                let principal = text(&properties["Principal"]);
                let action = text(&properties["Action"]);
                let function = text(&properties["FunctionName"]);
                grants.insert((
                    id.clone(),
                    format!("{principal} may {action} on {function}"),
                ));
            }
            "AWS::SQS::QueuePolicy" | "AWS::S3::BucketPolicy" | "AWS::SNS::TopicPolicy" => {
                policy(id, &properties["PolicyDocument"], &mut grants);
            }
            "AWS::EC2::SecurityGroup" => {
                for rule in items(&properties["SecurityGroupEgress"]) {
                    grants.insert((id.clone(), format!("connects to {}", text(rule))));
                }
                for rule in items(&properties["SecurityGroupIngress"]) {
                    grants.insert((id.clone(), format!("is reached by {}", text(rule))));
                }
            }
            _ => {}
        }
    }
    Ok(grants)
}

fn role(id: &str, properties: &Value, grants: &mut Grants) {
    for statement in items(&properties["AssumeRolePolicyDocument"]["Statement"]) {
        let who = text(&statement["Principal"]);
        grants.insert((id.to_owned(), format!("is taken by {who}")));
    }
    for arn in items(&properties["ManagedPolicyArns"]) {
        grants.insert((id.to_owned(), format!("all of {}", text(arn))));
    }
    for attached in items(&properties["Policies"]) {
        policy(id, &attached["PolicyDocument"], grants);
    }
}

fn policy(id: &str, document: &Value, grants: &mut Grants) {
    for statement in items(&document["Statement"]) {
        if statement["Effect"] != "Allow" {
            continue;
        }
        let condition = match &statement["Condition"] {
            Value::Null => String::new(),
            condition => format!(" if {}", text(condition)),
        };
        for action in items(&statement["Action"]) {
            let action = text(action);
            // Its own log is no power.
            if matches!(&*action, "logs:CreateLogStream" | "logs:PutLogEvents") {
                continue;
            }
            for resource in items(&statement["Resource"]) {
                let what = format!("{action} on {}{condition}", text(resource));
                grants.insert((id.to_owned(), what));
            }
        }
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
