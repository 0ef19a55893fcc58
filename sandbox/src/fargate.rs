//! What a `fargate` sandbox is made from: the image with the runner in it, the size
//! of its task, and what its security group can hold it to. The provider itself is
//! part of the home on AWS.

use crate::egress::Allowed;
use crate::image::{Built, NO_TOOLS, NOBODY, build_for_runner, run};
use loopy_contract::manifest::Sandbox;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The folder with the runner, the home and, unless the registry says otherwise, the
/// workspace.
const FOLDER: &str = "/loopy";
/// The file of the build's context that holds the runner.
pub const RUNNER: &str = "loopy-runner";

/// Cores and GB of a task for which the registry says nothing.
const USUAL: (u32, u32) = (2, 4);
/// The GB that every task has, and the most it can have.
const DISK: (u32, u32) = (20, 200);
/// What Fargate offers with whole cores: cores, the least and the most GB, and the
/// step between. Source: "Task size" in the developer guide of Amazon ECS.
const SIZES: [(u32, u32, u32, u32); 5] = [
    (1, 2, 8, 1),
    (2, 4, 16, 1),
    (4, 8, 30, 1),
    (8, 16, 60, 4),
    (16, 32, 120, 8),
];

/// A task to define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The Dockerfile of its image; [`RUNNER`] has to lie beside it.
    pub dockerfile: String,
    /// Where the work takes place.
    pub workspace: String,
    /// Cores.
    pub cpu: u32,
    /// Memory in GB.
    pub memory: u32,
    /// Disk in GB, where it is more than every task has.
    pub disk: Option<u32>,
    /// What it may reach: an address, or any where there is none, and a port of TCP.
    /// `None` when the registry has no `network` for it.
    pub reach: Option<BTreeSet<(Option<IpAddr>, u16)>>,
}

impl Task {
    /// Reads a sandbox of the registry.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn of(sandbox: &Sandbox) -> Result<Self, String> {
        let built = build_for_runner(&sandbox.image, crate::FARGATE, |key| {
            (key == "tools").then_some(NO_TOOLS)
        })?;
        let (cpu, memory) = size(built.cpu, built.memory)?;
        let reach = match sandbox.network.as_slice() {
            [] => None,
            hosts => Some(Allowed::parse(hosts.iter().map(String::as_str))?.for_a_filter()),
        };
        Ok(Self {
            workspace: built
                .workdir
                .clone()
                .unwrap_or_else(|| format!("{FOLDER}/work")),
            disk: disk(built.disk)?,
            dockerfile: with_runner(built),
            cpu,
            memory,
            reach,
        })
    }
}

/// The image with the runner as its program. The runner belongs to root: whoever
/// works in the sandbox cannot put another one in its place.
fn with_runner(built: Built) -> String {
    let user = built.user.unwrap_or_else(|| NOBODY.to_owned());
    let workspace = built.workdir.unwrap_or_else(|| format!("{FOLDER}/work"));
    let folders = format!("{FOLDER}/home {workspace}");
    [
        built.dockerfile.trim_end().to_owned(),
        "USER root".to_owned(),
        run(&format!("mkdir -p {folders} && chown {user} {folders}")),
        format!("COPY {RUNNER} {FOLDER}/runner"),
        format!("WORKDIR {workspace}"),
        format!("USER {user}"),
        format!("ENTRYPOINT [\"{FOLDER}/runner\"]"),
        String::new(),
    ]
    .join("\n")
}

/// Cores and GB of the task.
fn size(cpu: Option<u32>, memory: Option<u32>) -> Result<(u32, u32), String> {
    let fits = |size: &(u32, u32, u32, u32), memory: u32| {
        let (_, least, most, step) = *size;
        (least..=most).contains(&memory) && (memory - least).is_multiple_of(step)
    };
    let sizes = || {
        let lines = SIZES.map(|(cpu, least, most, step)| {
            let step = if step == 1 {
                String::new()
            } else {
                format!(" in steps of {step}")
            };
            format!("{cpu} with {least} to {most} GB{step}")
        });
        format!("Fargate has {}", lines.join(", "))
    };
    match (cpu, memory) {
        (None, None) => Ok(USUAL),
        (Some(cpu), memory) => {
            let size = SIZES
                .iter()
                .find(|size| size.0 == cpu)
                .ok_or_else(|| format!("`image.cpu` is {cpu}; {}", sizes()))?;
            let memory = memory.unwrap_or(size.1);
            if fits(size, memory) {
                Ok((cpu, memory))
            } else {
                Err(format!(
                    "`image.memory` is {memory} with {cpu} cores; {}",
                    sizes()
                ))
            }
        }
        (None, Some(memory)) => SIZES
            .iter()
            .find(|size| fits(size, memory))
            .map(|size| (size.0, memory))
            .ok_or_else(|| format!("`image.memory` is {memory}; {}", sizes())),
    }
}

fn disk(disk: Option<u32>) -> Result<Option<u32>, String> {
    let (least, most) = DISK;
    match disk {
        None => Ok(None),
        Some(disk) if disk == least => Ok(None),
        Some(disk) if (least..=most).contains(&disk) => Ok(Some(disk)),
        Some(disk) => Err(format!(
            "`image.disk` is {disk}; a fargate sandbox has {least} to {most} GB"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use loopy_contract::manifest::ModelKeys;
    use serde_json::{Value, json};

    fn task(image: Value, network: &[&str]) -> Result<Task, String> {
        Task::of(&Sandbox {
            provider: crate::FARGATE.to_owned(),
            image: serde_json::from_value(image).unwrap(),
            network: network.iter().map(|host| (*host).to_owned()).collect(),
            env_file: Vec::new(),
            repos: Vec::new(),
            model_keys: ModelKeys::default(),
        })
    }

    #[test]
    fn the_runner_is_roots_and_the_folders_are_the_users() {
        let made = task(json!({"base": "a", "workdir": "/w", "user": "me"}), &[]).unwrap();
        assert_eq!(
            made.dockerfile,
            "FROM a\nWORKDIR /w\nRUN [\"/bin/sh\",\"-c\",\"id -u me >/dev/null 2>&1 || useradd -m me\"]\n\
             RUN [\"/bin/sh\",\"-c\",\"chown me '/w'\"]\nUSER me\nUSER root\n\
             RUN [\"/bin/sh\",\"-c\",\"mkdir -p /loopy/home /w && chown me /loopy/home /w\"]\n\
             COPY loopy-runner /loopy/runner\nWORKDIR /w\nUSER me\nENTRYPOINT [\"/loopy/runner\"]\n"
        );
        let plain = task(json!({"base": "a"}), &[]).unwrap();
        assert_eq!(plain.workspace, "/loopy/work");
        assert!(plain.dockerfile.contains("\nUSER 65534:65534\n"));
    }

    #[test]
    fn a_task_has_a_size_that_fargate_has() {
        let size = |image: Value| task(image, &[]).map(|task| (task.cpu, task.memory, task.disk));
        for (image, expected) in [
            (json!({}), (2, 4, None)),
            (json!({"cpu": 1}), (1, 2, None)),
            (json!({"memory": 9}), (2, 9, None)),
            (json!({"cpu": 8, "memory": 20}), (8, 20, None)),
            (json!({"disk": 20}), (2, 4, None)),
            (json!({"disk": 50}), (2, 4, Some(50))),
        ] {
            assert_eq!(size(image.clone()).unwrap(), expected, "{image}");
        }
        for (image, part) in [
            (
                json!({"cpu": 3}),
                "`image.cpu` is 3; Fargate has 1 with 2 to 8 GB, 2 with",
            ),
            (
                json!({"cpu": 1, "memory": 9}),
                "`image.memory` is 9 with 1 cores",
            ),
            (
                json!({"cpu": 8, "memory": 17}),
                "8 with 16 to 60 GB in steps of 4",
            ),
            (json!({"memory": 121}), "`image.memory` is 121"),
            (json!({"disk": 10}), "20 to 200 GB"),
            (json!({"entrypoint": ["x"]}), "`image.entrypoint`"),
            (json!({"snapshot": "x"}), "`image.snapshot`"),
        ] {
            let error = size(image.clone()).unwrap_err();
            assert!(error.contains(part), "{image}: {error}");
        }
    }

    #[test]
    fn a_group_of_ports_knows_no_names() {
        assert_eq!(task(json!({}), &[]).unwrap().reach, None);
        let reach = task(json!({}), &["github.com", "10.0.0.7:8080", "*.x.test:22"]).unwrap();
        let address = "10.0.0.7".parse().ok();
        let expected: BTreeSet<_> = [(None, 22), (None, 80), (None, 443), (address, 8080)].into();
        assert_eq!(reach.reach.unwrap(), expected);
        assert!(task(json!({}), &["https://x"]).is_err());
    }
}
