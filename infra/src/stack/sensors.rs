//! The functions with the project's sensors, one a language: a host program beside the
//! project's own files. They get no permission but to log and to read their own
//! environment; only the sensor function may call them.

use super::{Binaries, SHELL, StackError, Template, arn, content, read_secret, secret_arn};
use crate::archive::{self, Entry};
use crate::packages::Packages;
use loopy_aws::env::var;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{FileHash, Manifest};
use loopy_engine::sensor_host::{Language, MEMORY_LIMIT};
use loopy_sensors::{NODE_HOST, PYTHON_HOST};
use serde_json::json;
use std::collections::BTreeMap;

/// Seconds that Lambda gives a host: above the limit of a call, which the host itself
/// holds to, and below what the sensor function has, so that this one hears of it.
const TIMEOUT: u64 = 45;

/// How a program begins: a script, a compiled one.
const PROGRAMS: [&[u8]; 2] = [b"#!", b"\x7fELF"];

/// The output with the name of the function of a language.
pub(crate) fn output(language: Language) -> &'static str {
    match language {
        Language::Python => "PythonSensors",
        Language::Typescript => "TypescriptSensors",
        Language::Shell => "ShellSensors",
    }
}

/// What the functions are made of.
pub(super) struct Code<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) files: &'a BTreeMap<FileHash, Vec<u8>>,
    pub(super) binaries: &'a Binaries,
    pub(super) packages: &'a Packages,
}

/// Adds a function for each language that the project has sensors in.
pub(super) fn add(
    template: &mut Template,
    code: &Code<'_>,
    env: bool,
    assets: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), StackError> {
    if env {
        template.secret("SensorSecret", "Environment of the sensors")?;
    }
    for language in Language::ALL {
        if !language.is_in(code.manifest) {
            continue;
        }
        let zip = packed(language, code)?;
        let name = language.name().to_lowercase();
        let key = format!("sensors/{name}-{}.zip", sha256_hex(&zip));
        add_one(template, language, &key, code.binaries, env)?;
        assets.insert(key, zip);
    }
    Ok(())
}

/// The zip of a function.
fn packed(language: Language, code: &Code<'_>) -> Result<Vec<u8>, StackError> {
    let manifest = code.manifest;
    let bootstrap;
    let host = match language {
        Language::Python => ("loopy_sensors.py", PYTHON_HOST.as_bytes()),
        Language::Typescript => ("loopy_sensors.mjs", NODE_HOST.as_bytes()),
        Language::Shell => {
            let zip = code.binaries.functions.get(SHELL);
            let zip = zip.ok_or(StackError::MissingFunction(SHELL))?;
            bootstrap = archive::bootstrap_of(zip).map_err(std::io::Error::other)?;
            ("bootstrap", bootstrap.as_slice())
        }
    };
    let mut entries = vec![Entry {
        path: host.0,
        bytes: host.1,
        executable: language == Language::Shell,
    }];
    let modules = manifest.sensor_modules.iter();
    let modules = modules.filter(|_| language == Language::Typescript);
    for (path, hash) in manifest.sensor_files.iter().chain(modules) {
        let bytes = content(code.files, hash, || path.clone())?;
        entries.push(Entry {
            path,
            bytes,
            // A manifest knows no modes; what a kernel can run, a sensor may want to.
            executable: PROGRAMS.iter().any(|begin| bytes.starts_with(begin)),
        });
    }
    for (path, file) in code.packages.of(language) {
        entries.push(Entry {
            path,
            bytes: &file.bytes,
            executable: file.executable,
        });
    }
    Ok(archive::pack(entries)?)
}

fn add_one(
    template: &mut Template,
    language: Language,
    key: &str,
    binaries: &Binaries,
    env: bool,
) -> Result<(), StackError> {
    let id = output(language);
    let (function, logs, role) = (
        format!("{id}Function"),
        format!("{id}Logs"),
        format!("{id}Role"),
    );
    let (runtime, handler, architecture) = match language {
        Language::Python => ("python3.13", "loopy_sensors.handler", "x86_64"),
        Language::Typescript => ("nodejs22.x", "loopy_sensors.handler", "x86_64"),
        Language::Shell => ("provided.al2023", "bootstrap", binaries.architecture.name()),
    };
    let mut statements = vec![json!({
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": arn(&logs),
    })];
    let mut variables = serde_json::Map::new();
    if env {
        statements.push(read_secret("SensorSecret"));
        variables.insert(var::SENSOR_SECRET.to_owned(), secret_arn("SensorSecret"));
    }
    let mut properties = json!({
        "Description": format!("Runs the project's {language} sensors"),
        "Runtime": runtime,
        "Handler": handler,
        "Architectures": [architecture],
        "Code": {"S3Bucket": {"Ref": "AssetsBucket"}, "S3Key": key},
        "Role": arn(&role),
        "MemorySize": MEMORY_LIMIT >> 20,
        "Timeout": TIMEOUT,
        "LoggingConfig": {"LogGroup": {"Ref": logs}},
    });
    if !variables.is_empty() {
        properties["Environment"] = json!({"Variables": variables});
    }
    template.resource(function.clone(), "AWS::Lambda::Function", properties)?;
    template.kept_resource(
        &logs,
        "AWS::Logs::LogGroup",
        json!({"RetentionInDays": {"Ref": "LogRetentionDays"}}),
    )?;
    template.resource(
        role,
        "AWS::IAM::Role",
        json!({
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Principal": {"Service": "lambda.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }],
            },
            "Policies": [{
                "PolicyName": "sensors",
                "PolicyDocument": {"Version": "2012-10-17", "Statement": statements},
            }],
        }),
    )?;
    let about = format!("The function with the {language} sensors");
    template.add(
        "Outputs",
        id.to_owned(),
        json!({"Description": about, "Value": {"Ref": function}}),
    )?;
    template.variable("Sensor", var::sensors(language), json!({"Ref": function}))?;
    template.allow(
        "Sensor",
        json!({
            "Effect": "Allow",
            "Action": "lambda:InvokeFunction",
            "Resource": arn(&function),
        }),
    )
}
