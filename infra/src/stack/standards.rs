//! What every resource of a kind has, whoever added it: the project's tag, the
//! boundary of its roles, traces and keys where they are asked for. The fixed half
//! says all of this for itself; here it is put to what a project adds.

use super::StackError;
use super::template::Template;
use crate::yaml::Node;
use serde_json::{Value, json};

/// The kinds with a list of tags.
const TAGGED: [&str; 20] = [
    "AWS::CloudWatch::Alarm",
    "AWS::CodeBuild::Project",
    "AWS::DynamoDB::Table",
    "AWS::EC2::InternetGateway",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::Subnet",
    "AWS::EC2::VPC",
    "AWS::ECR::Repository",
    "AWS::ECS::Cluster",
    "AWS::ECS::TaskDefinition",
    "AWS::Events::EventBus",
    "AWS::IAM::Role",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Function",
    "AWS::Logs::LogGroup",
    "AWS::S3::Bucket",
    "AWS::SNS::Topic",
    "AWS::SQS::Queue",
    "AWS::SecretsManager::Secret",
];

/// What a checker asks of functions and gets no yes to, with the reasons.
const OF_FUNCTIONS: [(&str, &str); 3] = [
    (
        "CKV_AWS_117",
        "It calls only services with public addresses; in a network it would need a gateway paid by the hour and be no better shielded",
    ),
    (
        "CKV_AWS_116",
        "Another function calls it and waits for the answer; the message behind it has a dead-letter queue",
    ),
    (
        "CKV_AWS_115",
        "What waits for it waits in a queue; a reservation would take from functions of the account that do not",
    ),
];

/// The policy of a role that may send traces.
const TRACES: &str = "traces";

/// Puts it to all resources that lack it.
pub(super) fn apply(template: &mut Template) -> Result<(), StackError> {
    let mut roles = Vec::new();
    let mut of_functions = Vec::new();
    for (id, resource) in template.entries(&["Resources"])? {
        let Some(Node::Text(kind)) = resource.at(&["Type"]).cloned() else {
            continue;
        };
        if TAGGED.contains(&kind.as_str()) {
            tag(resource)?;
        }
        match kind.as_str() {
            "AWS::IAM::Role" => {
                roles.push(id.clone());
                let boundary = given("Bounded", json!({"Ref": "PermissionsBoundary"}));
                lacking(resource, "PermissionsBoundary", boundary)?;
            }
            "AWS::Lambda::Function" => {
                lacking(resource, "KmsKeyArn", own_key())?;
                let traced = given("Traced", json!({"Mode": "Active"}));
                lacking(resource, "TracingConfig", traced)?;
                explain(resource, &OF_FUNCTIONS);
                let role = resource.at(&["Properties", "Role", "Fn::GetAtt"]);
                if let Some(Node::Text(role)) =
                    role.and_then(Node::items).and_then(|items| items.first())
                {
                    of_functions.push(role.clone());
                }
            }
            "AWS::Logs::LogGroup" | "AWS::SecretsManager::Secret" => {
                lacking(resource, "KmsKeyId", own_key())?;
            }
            _ => {}
        }
    }
    for role in of_functions {
        traces(template, &role)?;
    }
    attach(template, "KeyPolicy", &roles)
}

/// The reasons why a resource does not have what a checker asks for, unless it says
/// its own.
pub(super) fn explain(resource: &mut Node, reasons: &[(&str, &str)]) {
    if resource.at(&["Metadata"]).is_none()
        && let Some(entries) = resource.entries()
    {
        entries.push(("Metadata".to_owned(), Node::from(skips(reasons))));
    }
}

/// The metadata that a checker reads.
pub(super) fn skips(reasons: &[(&str, &str)]) -> Value {
    let skip: Vec<Value> = reasons
        .iter()
        .map(|(id, why)| json!({"id": id, "comment": why}))
        .collect();
    json!({"checkov": {"skip": skip}})
}

fn given(condition: &str, value: Value) -> Value {
    json!({"Fn::If": [condition, value, {"Ref": "AWS::NoValue"}]})
}

fn own_key() -> Value {
    given("OwnKey", json!({"Ref": "KmsKey"}))
}

fn properties(resource: &mut Node) -> Result<&mut Vec<(String, Node)>, StackError> {
    resource
        .at(&["Properties"])
        .and_then(Node::entries)
        .ok_or_else(|| StackError::Template("a resource has no properties".to_owned()))
}

fn lacking(resource: &mut Node, name: &str, value: Value) -> Result<(), StackError> {
    let properties = properties(resource)?;
    if !properties.iter().any(|(has, _)| has == name) {
        properties.push((name.to_owned(), Node::from(value)));
    }
    Ok(())
}

fn tag(resource: &mut Node) -> Result<(), StackError> {
    let tag = json!({"Key": "loopy:project", "Value": {"Ref": "AWS::StackName"}});
    lacking(resource, "Tags", json!([]))?;
    let tags = resource.at(&["Properties", "Tags"]).and_then(Node::items);
    if let Some(tags) = tags {
        let tag = Node::from(tag);
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(())
}

/// Lets a function's role send traces, whether or not they are on: Lambda refuses them
/// to a function whose role may not, and a role that is changed together with its
/// function may be too late.
fn traces(template: &mut Template, role: &str) -> Result<(), StackError> {
    let fault = || StackError::Template(format!("{role} has no policies"));
    let policies = template.entries(&["Resources", role, "Properties"])?;
    let (_, policies) = policies
        .iter_mut()
        .find(|(name, _)| name == "Policies")
        .ok_or_else(fault)?;
    let policies = policies.items().ok_or_else(fault)?;
    let own = |policy: &mut Node| matches!(policy.at(&["PolicyName"]), Some(Node::Text(name)) if name == TRACES);
    if !policies.iter_mut().any(own) {
        policies.push(Node::from(json!({
            "PolicyName": TRACES,
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Action": ["xray:PutTraceSegments", "xray:PutTelemetryRecords"],
                    "Resource": "*",
                }],
            },
        })));
    }
    Ok(())
}

/// Adds roles to those that a policy is for.
fn attach(template: &mut Template, policy: &str, roles: &[String]) -> Result<(), StackError> {
    let fault = || StackError::Template(format!("{policy} has no roles"));
    let entries = template.entries(&["Resources", policy, "Properties"])?;
    let (_, attached) = entries
        .iter_mut()
        .find(|(name, _)| name == "Roles")
        .ok_or_else(fault)?;
    let attached = attached.items().ok_or_else(fault)?;
    for role in roles {
        let role = Node::from(json!({ "Ref": role }));
        if !attached.contains(&role) {
            attached.push(role);
        }
    }
    Ok(())
}
