//! Projects that the tests write themselves, and what is done with their stacks.

use crate::around::sandboxes;
use crate::stack::Deployed;
use loopy_localstack::prepared;
use loopy_testkit::daytona::Daytona;
use serde_json::json;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

/// The beginning of a registry: what scripts run in. Events follow.
pub(crate) const SCRIPTS: &str = "sandboxes:
  Cloud: { provider: daytona, image: { base: debian:bookworm-slim } }
agents:
  Shell: { harness: command, sandbox: Cloud }
";

/// The events of [`GO`].
pub(crate) const GOES: &str = "events:\n  Go: { note: str }\n";

/// A sensor that anybody may say `Go` to.
pub(crate) const GO: (&str, &str) = (
    "sensors/go.py",
    r#"from loopy import sensor
from loopy.events import Go


@sensor(webhook="/hooks/go", emits="Go", verify="none")
def go(request):
    return Go(note=request.json["note"])
"#,
);

/// A step that waits for a file.
const SAY: (&str, &str) = (
    "workflows/echo/say.md",
    r#"---
on: Go
agent: Shell
output:
  said: str
---
while [ ! -e "{{ event.note }}" ]; do sleep 0.1; done
printf '{"output": {"said": "first"}}' > "$LOOPY_OUTPUT"
"#,
);

/// A project of its own and a service of sandboxes.
pub(crate) struct Project {
    pub(crate) folder: TempDir,
    pub(crate) daytona: Daytona,
}

impl Project {
    /// One whose runs wait for the file that their event names.
    pub(crate) fn new() -> Self {
        let scripts = SCRIPTS.replace("bookworm-slim }", "bookworm-slim }, network: [github.com]");
        Self::of(&[("registry.yml", &(scripts + GOES)), GO, SAY])
    }

    /// One of these files.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let daytona = sandboxes("/usr/bin:/bin");
        let folder = tempfile::tempdir().unwrap();
        let own = format!(
            "DAYTONA_API_KEY={}\nDAYTONA_API_URL={}\n",
            daytona.key(),
            daytona.url()
        );
        let project = Self { folder, daytona };
        for (name, text) in files {
            project.write(name, text);
        }
        project.write("loopy.env", &own);
        project
    }

    pub(crate) fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn replace(&self, name: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        assert!(text.contains(old), "{name} has no {old}");
        self.write(name, &text.replace(old, new));
    }
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Deploys, which has to come about.
pub(crate) fn deploy(deployed: &Deployed, project: &Project, more: &[&str]) -> String {
    let output = deployed.deploy(project.path(), &[&["--yes"], more].concat());
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// A folder of functions that cannot all start: the start function's program is in the
/// place of the webhook's, and lacks variables there.
pub(crate) fn broken() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(prepared("LOOPY_TEST_DIST").unwrap()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let of = |name: &str| folder.path().join(name);
    std::fs::copy(of("start.zip"), of("webhook.zip")).unwrap();
    folder
}

/// The value of a parameter of the stack.
pub(crate) fn parameter(deployed: &Deployed, name: &str) -> String {
    let found = deployed.cloudformation("describe-stacks", &[]);
    let parameters = found["Stacks"][0]["Parameters"].as_array().unwrap();
    let found = parameters.iter().find(|it| it["ParameterKey"] == name);
    found.unwrap()["ParameterValue"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Another command about the stack.
pub(crate) fn run(deployed: &Deployed, arguments: &[&str]) -> Output {
    let arguments = [arguments, &deployed.place()].concat();
    deployed.loopy.run(&arguments).unwrap()
}

/// Sends a delivery whose run waits for this file.
pub(crate) async fn go(deployed: &Deployed, file: &Path) {
    let url = format!("{}hooks/go", deployed.address("WebhookUrl"));
    let body = json!({ "note": file }).to_string();
    let answer = reqwest::Client::new().post(url).body(body).send().await;
    assert_eq!(answer.unwrap().status(), 202);
}
