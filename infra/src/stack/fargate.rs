//! What a stack has for its `fargate` sandboxes: images and what builds them, task
//! definitions, the network they run in, and the rule that tells when one is over.
//! A project without such a sandbox gets nothing of it.

use super::standards::skips;
use super::template::Template;
use super::{
    Architecture, Asset, Binaries, StackError, arn, capitalised, logical_id, read_secret,
    secret_arn, used_sandboxes,
};
use crate::archive::{self, Entry};
use loopy_aws::fargate::{CONTAINER, task_name};
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::Manifest;
use loopy_contract::report::launch_env;
use loopy_sandbox::FARGATE;
use loopy_sandbox::fargate::{RUNNER, Task};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The output with the repository's URI.
pub(crate) const IMAGES: &str = "SandboxImages";
/// The output with the name of the project that builds images in the account.
pub(crate) const BUILD: &str = "SandboxBuild";

/// The output with the cluster.
pub(crate) const CLUSTER: &str = "SandboxCluster";

/// An image that has to be in the stack's repository.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Its tag, which is the hash of all that it is made from.
    pub tag: String,
    /// The sandboxes that are made from it.
    pub sandboxes: Vec<String>,
    /// What it is for.
    pub architecture: Architecture,
    /// Its Dockerfile.
    pub dockerfile: String,
    /// What lies beside the Dockerfile, by name; all of it executable.
    pub files: BTreeMap<&'static str, Vec<u8>>,
}

impl Image {
    /// The key, in the assets bucket, of the zip that it is built from.
    pub(crate) fn key(&self) -> String {
        format!("images/{}.zip", self.tag)
    }

    /// That zip.
    pub(crate) fn asset(&self) -> Result<Asset, StackError> {
        let mut entries = vec![Entry {
            path: "Dockerfile",
            bytes: self.dockerfile.as_bytes(),
            executable: false,
        }];
        entries.extend(self.files.iter().map(|(path, bytes)| Entry {
            path,
            bytes,
            executable: true,
        }));
        Ok(Asset {
            key: self.key(),
            bytes: archive::pack(entries)?,
        })
    }
}

/// What cannot be a fargate sandbox, by name, with the reason.
pub(crate) fn refusals(manifest: &Manifest) -> Vec<String> {
    let sandboxes = used_sandboxes(manifest).into_iter();
    sandboxes
        .filter(|(_, sandbox)| sandbox.provider == FARGATE)
        .filter_map(|(name, sandbox)| {
            let why = Task::of(sandbox).err()?;
            Some(format!("sandbox {name}: {why}"))
        })
        .collect()
}

/// Adds all of it. Gives back the images, and puts what they are built from to the
/// assets.
pub(super) fn add(
    template: &mut Template,
    manifest: &Manifest,
    binaries: &Binaries,
    assets: &mut BTreeMap<String, Vec<u8>>,
) -> Result<Vec<Image>, StackError> {
    let mut tasks = BTreeMap::new();
    for (name, sandbox) in used_sandboxes(manifest) {
        if sandbox.provider == FARGATE {
            let task = Task::of(sandbox).map_err(|why| StackError::Sandbox {
                sandbox: name.to_owned(),
                why,
            })?;
            tasks.insert(name, task);
        }
    }
    if tasks.is_empty() {
        return Ok(Vec::new());
    }

    add_network(template)?;
    add_cluster(template)?;
    add_build(template, binaries.architecture)?;
    let mut images: BTreeMap<String, Image> = BTreeMap::new();
    let mut groups = Map::new();
    for (name, task) in &tasks {
        let image = image(task, binaries);
        add_task(template, name, task, &image.tag, binaries.architecture)?;
        if let Some(reach) = &task.reach {
            let id = logical_id("SandboxGroup", name);
            let about = format!("What sandbox {name} may reach");
            add_group(template, &id, &about, egress(reach))?;
            groups.insert((*name).to_owned(), format!("${{{id}.GroupId}}").into());
        }
        let made = images.entry(image.tag.clone()).or_insert(image);
        made.sandboxes.push((*name).to_owned());
    }
    let names: Vec<&str> = tasks.keys().copied().collect();
    tell_functions(template, &names, groups)?;
    for image in images.values() {
        let asset = image.asset()?;
        assets.insert(asset.key, asset.bytes);
    }
    Ok(images.into_values().collect())
}

fn image(task: &Task, binaries: &Binaries) -> Image {
    let runner = sha256_hex(&binaries.runner);
    let made_from = [
        task.dockerfile.as_str(),
        &runner,
        binaries.architecture.name(),
    ];
    let mut tag = sha256_hex(made_from.join("\n").as_bytes());
    tag.truncate(40);
    Image {
        tag,
        sandboxes: Vec::new(),
        architecture: binaries.architecture,
        dockerfile: task.dockerfile.clone(),
        files: [(RUNNER, binaries.runner.clone())].into(),
    }
}

/// A network of two public subnets: nothing in it is paid for while no task runs, and
/// nothing is let in.
fn add_network(template: &mut Template) -> Result<(), StackError> {
    let vpc = json!({"Ref": "SandboxVpc"});
    let routes = json!({"Ref": "SandboxRoutes"});
    let tags = json!([{"Key": "Name", "Value": {"Ref": "AWS::StackName"}}]);
    template.resource(
        "SandboxVpc".to_owned(),
        "AWS::EC2::VPC",
        json!({
            "CidrBlock": "10.0.0.0/16", "EnableDnsSupport": true, "EnableDnsHostnames": true,
            "Tags": tags,
        }),
    )?;
    template.resource(
        "SandboxGateway".to_owned(),
        "AWS::EC2::InternetGateway",
        json!({"Tags": tags}),
    )?;
    template.resource(
        "SandboxGatewayAttachment".to_owned(),
        "AWS::EC2::VPCGatewayAttachment",
        json!({"VpcId": vpc, "InternetGatewayId": {"Ref": "SandboxGateway"}}),
    )?;
    template.resource(
        "SandboxRoutes".to_owned(),
        "AWS::EC2::RouteTable",
        json!({"VpcId": vpc, "Tags": tags}),
    )?;
    let route = json!({
        "Type": "AWS::EC2::Route",
        "DependsOn": "SandboxGatewayAttachment",
        "Properties": {
            "RouteTableId": routes, "DestinationCidrBlock": "0.0.0.0/0",
            "GatewayId": {"Ref": "SandboxGateway"},
        },
    });
    template.add("Resources", "SandboxRoute".to_owned(), route)?;
    for (index, letter) in ["A", "B"].into_iter().enumerate() {
        let subnet = format!("SandboxSubnet{letter}");
        template.resource(
            subnet.clone(),
            "AWS::EC2::Subnet",
            json!({
                "VpcId": vpc, "CidrBlock": format!("10.0.{index}.0/24"),
                "AvailabilityZone": {"Fn::Select": [index, {"Fn::GetAZs": ""}]},
                "Tags": tags,
            }),
        )?;
        template.resource(
            format!("SandboxRoutes{letter}"),
            "AWS::EC2::SubnetRouteTableAssociation",
            json!({"RouteTableId": routes, "SubnetId": {"Ref": subnet}}),
        )?;
    }
    let anywhere =
        vec![json!({"IpProtocol": "-1", "CidrIp": "0.0.0.0/0", "Description": "Anywhere"})];
    let about = "What sandboxes without a list may reach";
    add_group(template, "SandboxGroup", about, anywhere)
}

/// A security group that lets nothing in.
fn add_group(
    template: &mut Template,
    id: &str,
    about: &str,
    egress: Vec<Value>,
) -> Result<(), StackError> {
    let about: String = about
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' })
        .take(255)
        .collect();
    template.resource(
        id.to_owned(),
        "AWS::EC2::SecurityGroup",
        json!({
            "GroupDescription": about, "VpcId": {"Ref": "SandboxVpc"},
            "SecurityGroupEgress": egress,
        }),
    )
}

/// The rules for what a sandbox may reach. A security group knows no names, so a host
/// with a name is anywhere, on its port; and the engine, which has no address of its
/// own, is always reached on port 443.
fn egress(reach: &BTreeSet<(Option<IpAddr>, u16)>) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    let engine = (None, 443);
    for (address, port) in reach
        .iter()
        .chain([&engine].into_iter().filter(|e| !reach.contains(e)))
    {
        let (key, range) = match address {
            None => ("CidrIp", "0.0.0.0/0".to_owned()),
            Some(IpAddr::V4(address)) => ("CidrIp", format!("{address}/32")),
            Some(IpAddr::V6(address)) => ("CidrIpv6", format!("{address}/128")),
        };
        rules.push(json!({
            "IpProtocol": "tcp", "FromPort": port, "ToPort": port, key: range,
            "Description": "From network in registry.yml, and reports",
        }));
    }
    rules
}

/// The cluster, the images' repository, the logs, the key of sealed tokens, the role
/// that starts containers, and the rule that tells of tasks that are over.
fn add_cluster(template: &mut Template) -> Result<(), StackError> {
    let cluster = json!({
        "Type": "AWS::ECS::Cluster",
        "Metadata": skips(&[(
            "CKV_AWS_65",
            "Container insights cost by the container and say nothing that a run does not keep by itself",
        )]),
        "Properties": {},
    });
    template.add("Resources", CLUSTER.to_owned(), cluster)?;
    let about = "Where the fargate sandboxes run";
    let output = json!({"Description": about, "Value": {"Ref": CLUSTER}});
    template.add("Outputs", CLUSTER.to_owned(), output)?;
    let repository = json!({
        "EmptyOnDelete": true,
        "EncryptionConfiguration": {"Fn::If": [
            "OwnKey",
            {"EncryptionType": "KMS", "KmsKey": {"Ref": "KmsKey"}},
            {"EncryptionType": "AES256"},
        ]},
        "ImageScanningConfiguration": {"ScanOnPush": true},
        "ImageTagMutability": "IMMUTABLE",
        "LifecyclePolicy": {"LifecyclePolicyText": json!({"rules": [{
            "rulePriority": 1,
            "description": "Old images; those in use are built again when they are missing",
            "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 100},
            "action": {"type": "expire"},
        }]}).to_string()},
    });
    let repository = json!({
        "Type": "AWS::ECR::Repository",
        "Metadata": skips(&[(
            "CKV_AWS_136",
            "It is encrypted with the key of KmsKey where one is given; AWS's own key does otherwise, as one costs a dollar a month",
        )]),
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": repository,
    });
    template.add("Resources", IMAGES.to_owned(), repository)?;
    template.kept_resource(
        "SandboxLogs",
        "AWS::Logs::LogGroup",
        json!({"RetentionInDays": {"Ref": "LogRetentionDays"}}),
    )?;
    template.kept_resource(
        "SandboxKey",
        "AWS::SecretsManager::Secret",
        json!({
            "Description": "Key that the tokens of fargate sandboxes are sealed with",
            "GenerateSecretString": {"PasswordLength": 64, "ExcludePunctuation": true},
        }),
    )?;
    template.resource(
        "SandboxExecutionRole".to_owned(),
        "AWS::IAM::Role",
        role(
            "ecs-tasks.amazonaws.com",
            "start",
            vec![
                login(),
                json!({
                    "Effect": "Allow",
                    "Action": [
                        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage",
                        "ecr:GetDownloadUrlForLayer",
                    ],
                    "Resource": arn(IMAGES),
                }),
                json!({
                    "Effect": "Allow",
                    "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                    "Resource": arn("SandboxLogs"),
                }),
                read_secret("SandboxKey"),
            ],
        ),
    )?;
    template.resource(
        "SandboxStopped".to_owned(),
        "AWS::Events::Rule",
        json!({
            "Description": "Tells the watch function of sandboxes that are over",
            "EventPattern": {
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {"clusterArn": [arn("SandboxCluster")], "lastStatus": ["STOPPED"]},
            },
            "Targets": [{
                "Id": "watch",
                "Arn": arn("WatchQueue"),
                "DeadLetterConfig": {"Arn": arn("WatchDeadLetters")},
            }],
        }),
    )?;
    for queue in ["WatchQueue", "WatchDeadLetters"] {
        template.allow_queue(
            queue,
            json!({
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": arn(queue),
                "Condition": {"ArnEquals": {"aws:SourceArn": arn("SandboxStopped")}},
            }),
        )?;
    }
    let about = "Where the images of the fargate sandboxes are";
    let output = json!({"Description": about, "Value": {"Fn::GetAtt": [IMAGES, "RepositoryUri"]}});
    template.add("Outputs", IMAGES.to_owned(), output)
}

/// The project that builds an image from a zip in the assets bucket, where the machine
/// that deploys has no Docker.
fn add_build(template: &mut Template, architecture: Architecture) -> Result<(), StackError> {
    let (kind, image) = match architecture {
        Architecture::X86_64 => (
            "LINUX_CONTAINER",
            "aws/codebuild/amazonlinux-x86_64-standard:5.0",
        ),
        Architecture::Arm64 => (
            "ARM_CONTAINER",
            "aws/codebuild/amazonlinux-aarch64-standard:3.0",
        ),
    };
    let spec = json!({
        "version": 0.2,
        "phases": {"build": {"commands": [
            "aws ecr get-login-password | docker login --username AWS --password-stdin \"${REPOSITORY%%/*}\"",
            "docker build --tag \"$REPOSITORY:$TAG\" .",
            "docker push \"$REPOSITORY:$TAG\"",
        ]}},
    });
    let source = json!({"Fn::Sub": "${AssetsBucket}/images/none.zip"});
    template.resource(
        BUILD.to_owned(),
        "AWS::CodeBuild::Project",
        json!({
            "Description": "Builds the images of the fargate sandboxes",
            "ServiceRole": arn("SandboxBuildRole"),
            "Artifacts": {"Type": "NO_ARTIFACTS"},
            "Environment": {
                "Type": kind, "Image": image, "ComputeType": "BUILD_GENERAL1_SMALL",
                // Without it there is no Docker in a build.
                "PrivilegedMode": true,
                "EnvironmentVariables": [
                    {"Name": "REPOSITORY", "Value": {"Fn::GetAtt": [IMAGES, "RepositoryUri"]}},
                ],
            },
            "Source": {"Type": "S3", "Location": source, "BuildSpec": spec.to_string()},
            "TimeoutInMinutes": 60,
            "LogsConfig": {"CloudWatchLogs": {
                "Status": "ENABLED", "GroupName": {"Ref": "SandboxLogs"}, "StreamName": "build",
            }},
        }),
    )?;
    let of_bucket = |path: &str| json!({"Fn::Sub": format!("arn:${{AWS::Partition}}:s3:::${{AssetsBucket}}{path}")});
    template.resource(
        "SandboxBuildRole".to_owned(),
        "AWS::IAM::Role",
        role(
            "codebuild.amazonaws.com",
            "build",
            vec![
                login(),
                json!({
                    "Effect": "Allow",
                    "Action": [
                        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage",
                        "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
                        "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
                    ],
                    "Resource": arn(IMAGES),
                }),
                json!({
                    "Effect": "Allow",
                    "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                    "Resource": arn("SandboxLogs"),
                }),
                json!({
                    "Effect": "Allow",
                    "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                    "Resource": of_bucket("/images/*"),
                }),
                json!({
                    "Effect": "Allow",
                    "Action": ["s3:GetBucketAcl", "s3:GetBucketLocation"],
                    "Resource": of_bucket(""),
                }),
            ],
        ),
    )?;
    let output = json!({
        "Description": "The project that builds images where there is no Docker",
        "Value": {"Ref": BUILD},
    });
    template.add("Outputs", BUILD.to_owned(), output)
}

/// The task definition of a sandbox.
fn add_task(
    template: &mut Template,
    name: &str,
    task: &Task,
    tag: &str,
    architecture: Architecture,
) -> Result<(), StackError> {
    let architecture = match architecture {
        Architecture::X86_64 => "X86_64",
        Architecture::Arm64 => "ARM64",
    };
    let mut properties = json!({
        "Family": {"Fn::Sub": format!("{}{}", PREFIX, task_name(name))},
        "RequiresCompatibilities": ["FARGATE"],
        "NetworkMode": "awsvpc",
        "Cpu": (task.cpu * 1024).to_string(),
        "Memory": (task.memory * 1024).to_string(),
        "RuntimePlatform": {"CpuArchitecture": architecture, "OperatingSystemFamily": "LINUX"},
        "ExecutionRoleArn": arn("SandboxExecutionRole"),
        // No TaskRoleArn: who works in a sandbox can ask nothing of the account.
        "ContainerDefinitions": [{
            "Name": CONTAINER,
            "Image": {"Fn::Sub": format!("${{{IMAGES}.RepositoryUri}}:{tag}")},
            "Essential": true,
            "Environment": [{"Name": launch_env::WORKSPACE, "Value": task.workspace}],
            "Secrets": [{"Name": launch_env::TOKEN_KEY, "ValueFrom": secret_arn("SandboxKey")}],
            "LinuxParameters": {"InitProcessEnabled": true, "Capabilities": {"Drop": ["ALL"]}},
            "LogConfiguration": {
                "LogDriver": "awslogs",
                "Options": {
                    "awslogs-group": {"Ref": "SandboxLogs"},
                    "awslogs-region": {"Ref": "AWS::Region"},
                    "awslogs-stream-prefix": task_name(name),
                },
            },
        }],
    });
    if let Some(disk) = task.disk {
        properties["EphemeralStorage"] = json!({"SizeInGiB": disk});
    }
    template.resource(
        logical_id("SandboxTask", name),
        "AWS::ECS::TaskDefinition",
        properties,
    )
}

/// What the names of task definitions begin with. A stack's name holds no underscore,
/// so no two stacks share one.
const PREFIX: &str = "${NamePrefix}${AWS::StackName}_";

/// Tells the functions that launch and stop sandboxes where, and lets them.
fn tell_functions(
    template: &mut Template,
    sandboxes: &[&str],
    groups: Map<String, Value>,
) -> Result<(), StackError> {
    let place = json!({
        "cluster": "${SandboxCluster.Arn}",
        "prefix": PREFIX,
        "subnets": ["${SandboxSubnetA}", "${SandboxSubnetB}"],
        "group": "${SandboxGroup.GroupId}",
        "groups": groups,
        "key": "${SandboxKey.Id}",
    });
    let in_cluster = json!({"ArnEquals": {"ecs:cluster": arn("SandboxCluster")}});
    let definitions: Vec<Value> = sandboxes
        .iter()
        .map(|name| {
            json!({"Fn::Sub": format!(
                "arn:${{AWS::Partition}}:ecs:${{AWS::Region}}:${{AWS::AccountId}}:task-definition/{PREFIX}{}:*",
                task_name(name)
            )})
        })
        .collect();
    for function in ["step", "watch"].map(capitalised) {
        let variable = json!({"Fn::Sub": place.to_string()});
        template.variable(&function, "LOOPY_FARGATE", variable)?;
        for statement in [
            json!({
                "Effect": "Allow", "Action": "ecs:RunTask",
                "Resource": definitions, "Condition": in_cluster,
            }),
            json!({
                "Effect": "Allow", "Action": "ecs:StopTask",
                "Resource": {"Fn::Sub": "arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/${SandboxCluster}/*"},
                "Condition": in_cluster,
            }),
            // Tasks cannot be named where they are listed; the condition can.
            json!({
                "Effect": "Allow", "Action": "ecs:ListTasks", "Resource": "*",
                "Condition": in_cluster,
            }),
            json!({
                "Effect": "Allow", "Action": "iam:PassRole",
                "Resource": arn("SandboxExecutionRole"),
                "Condition": {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            }),
            read_secret("SandboxKey"),
        ] {
            template.allow(&function, statement)?;
        }
    }
    Ok(())
}

/// A role of a service.
fn role(service: &str, policy: &str, statements: Vec<Value>) -> Value {
    json!({
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sts:AssumeRole",
            // Only on behalf of this account.
            "Condition": {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
        }]},
        "Policies": [{
            "PolicyName": policy,
            "PolicyDocument": {"Version": "2012-10-17", "Statement": statements},
        }],
    })
}

/// A login to the registry is the account's; no repository can be named.
fn login() -> Value {
    json!({"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"})
}
