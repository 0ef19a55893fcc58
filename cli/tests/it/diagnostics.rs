//! What `loopy compile --format …` writes, and what `loopy docs errors` explains.

use crate::support::{Project, json};
use serde_json::Value;
use snapbox::{file, str};

/// An error, a warning, and one of each kind of character that has a meaning
/// in one of the formats.
fn project() -> Project {
    Project::of(&[
        (
            "registry.yml",
            "sandboxes: { Here: { provider: local } }\n\
             agents: { Shell: { harness: command, sandbox: Here } }\n",
        ),
        (
            "workflows/50%, say/größe.md",
            "---\non: cron(\"0 6 * * *\")\nagent: Shel\nbuget: { wall_clock: 20 }\n---\necho 1\n",
        ),
    ])
}

#[test]
fn people_see_the_lines() {
    let output = project().loopy(&["compile", "--format", "human"]).assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
error LOOPY-E501 workflows/50%, say/größe.md:3:8: registry.yml lists no agent `Shel`
  3 | agent: Shel
    |        ^^^^
  hint: did you mean `Shell`?
warning LOOPY-W101 workflows/50%, say/größe.md:4:1: a step has no key `buget`; it is ignored
  4 | buget: { wall_clock: 20 }
    | ^^^^^
  hint: did you mean `budget`?
1 error, 1 warning

"#]]);
}

#[test]
fn programs_get_json() {
    let output = project().loopy(&["compile", "--format", "json"]).assert();
    output
        .code(1)
        .stdout_eq(str![[r#"
{
  "diagnostics": [
    {
      "code": "LOOPY-E501",
      "column": 8,
      "file": "workflows/50%, say/größe.md",
      "hint": "did you mean `Shell`?",
      "line": 3,
      "message": "registry.yml lists no agent `Shel`",
      "severity": "error"
    },
    {
      "code": "LOOPY-W101",
      "column": 1,
      "file": "workflows/50%, say/größe.md",
      "hint": "did you mean `budget`?",
      "line": 4,
      "message": "a step has no key `buget`; it is ignored",
      "severity": "warning"
    }
  ]
}

"#]])
        .stderr_eq(str![[r#"
1 error, 1 warning

"#]]);
}

#[test]
fn a_log_of_github_actions_gets_annotations() {
    let output = project().loopy(&["compile", "--format", "github"]).assert();
    output
        .code(1)
        .stdout_eq(str![[r#"
::error file=workflows/50%25%2C say/größe.md,line=3,col=8,endLine=3,endColumn=11,title=LOOPY-E501::registry.yml lists no agent `Shel`%0Ahint: did you mean `Shell`?
::warning file=workflows/50%25%2C say/größe.md,line=4,col=1,endLine=4,endColumn=5,title=LOOPY-W101::a step has no key `buget`; it is ignored%0Ahint: did you mean `budget`?

"#]])
        .stderr_eq(str![[r#"
1 error, 1 warning

"#]]);
}

#[test]
fn code_scanning_gets_sarif() {
    let project = project();
    let output = project.loopy(&["compile", "--format", "sarif"]).assert();
    let first = output.get_output().stdout.clone();
    output
        .code(1)
        .stdout_eq(file!["diagnostics/log.sarif.json": Text])
        .stderr_eq(str![[r#"
1 error, 1 warning

"#]]);
    let again = project.loopy(&["compile", "--format", "sarif"]).assert();
    assert_eq!(again.get_output().stdout, first);
}

/// What SARIF 2.1.0, and the services that read it, require.
#[test]
fn sarif_has_what_its_readers_require() {
    for (project, count) in [(project(), 2), (Project::hello(), 0)] {
        let output = project.loopy(&["compile", "--format", "sarif"]).assert();
        let log = json(&output);
        assert_eq!(log["version"], "2.1.0");
        assert!(
            log["$schema"]
                .as_str()
                .unwrap()
                .ends_with("sarif-2.1.0.json")
        );
        let [run] = log["runs"].as_array().unwrap().as_slice() else {
            panic!("{log}");
        };
        assert_eq!(run["columnKind"], "unicodeCodePoints");
        let driver = &run["tool"]["driver"];
        assert_eq!(driver["name"], "loopy");
        assert_eq!(driver["semanticVersion"], env!("CARGO_PKG_VERSION"));
        let rules = driver["rules"].as_array().unwrap();
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), count);
        for rule in rules {
            assert!(rule.get("helpUri").is_none());
            for text in ["/shortDescription/text", "/help/text", "/help/markdown"] {
                assert!(!rule.pointer(text).unwrap().as_str().unwrap().is_empty());
            }
        }
        for result in results {
            check_result(result, rules);
        }
    }
}

fn check_result(result: &Value, rules: &[Value]) {
    let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(result["ruleId"], rules[index]["id"]);
    assert!(["error", "warning"].contains(&result["level"].as_str().unwrap()));
    assert!(!result["message"]["text"].as_str().unwrap().is_empty());
    let place = &result["locations"][0]["physicalLocation"];
    let uri = place["artifactLocation"]["uri"].as_str().unwrap();
    assert!(!uri.starts_with('/') && uri.is_ascii() && !uri.contains([' ', ',', ':']));
    let number = |key: &str| place["region"][key].as_u64().unwrap();
    assert!(number("startLine") >= 1 && number("startColumn") >= 1);
    assert_eq!(number("endLine"), number("startLine"));
    assert!(number("endColumn") > number("startColumn"));
}

/// Services look files up from the root of the repository, where the command
/// is run.
#[test]
fn files_are_named_from_where_the_command_runs() {
    let project = project();
    let (parent, absolute) = (project.outside("."), project.path());
    for given in ["project", "./project/", absolute.to_str().unwrap()] {
        let command = project.loopy(&["compile", given, "--format", "github"]);
        let output = command.current_dir(&parent).assert().code(1);
        let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        assert!(
            text.starts_with("::error file=project/workflows/"),
            "{text}"
        );
    }
    project.write("elsewhere/notes.txt", "");
    let command = project.loopy(&["compile", "..", "--format", "github"]);
    let output = command.current_dir(&absolute.join("elsewhere")).assert();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.starts_with("::error file=workflows/"), "{text}");
}

#[test]
fn a_code_is_explained_under_any_of_its_names() {
    let project = Project::of(&[]);
    let page = include_str!("../../../docs/errors/E102.md");
    for name in ["E102", "e102", "LOOPY-E102"] {
        let output = project.loopy(&["docs", "errors", name]).assert();
        output
            .code(0)
            .stdout_eq(page.to_owned())
            .stderr_eq(str![""]);
    }
    let arguments = ["docs", "errors", "w501", "--format", "json"];
    let explained = json(&project.loopy(&arguments).assert().code(0));
    assert_eq!(explained["code"], "LOOPY-W501");
    assert_eq!(explained["severity"], "warning");
    let page = include_str!("../../../docs/errors/W501.md");
    assert_eq!(explained["page"], page);
}

#[test]
fn a_code_that_is_none_is_wrong_usage() {
    let project = Project::of(&[]);
    let output = project.loopy(&["docs", "errors", "LOOPY-W50"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: there is no code `LOOPY-W50`

hint: did you mean `W501`? `loopy docs errors` lists all codes

"#]]);
    let output = project.loopy(&["docs", "errors", "colour"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: there is no code `colour`

hint: `loopy docs errors` lists all codes

"#]]);
}

#[test]
fn all_codes_are_listed() {
    let project = Project::of(&[]);
    let output = project.loopy(&["docs", "errors"]).assert().code(0);
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.contains("E509  a step has no agent\n"), "{text}");
    let list = json(
        &project
            .loopy(&["docs", "errors", "--format", "json"])
            .assert(),
    );
    let codes = list["codes"].as_array().unwrap();
    assert_eq!(codes.len(), text.lines().count());
    assert!(codes.iter().any(|code| code["code"] == "LOOPY-W506"));
}

#[test]
fn the_docs_list_is_what_the_command_lists() {
    let project = Project::of(&[]);
    let output = project.loopy(&["docs", "errors", "--format", "markdown"]);
    let page = include_str!("../../../docs/errors.md");
    output.assert().code(0).stdout_eq(page.to_owned());
}
