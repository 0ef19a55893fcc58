//! `loopy graph`, in each of its formats.

use crate::support::Project;
use regex::Regex;
use snapbox::{Data, file, str};
use std::fs;
use std::path::Path;

/// Asserts what the diagram of an example is.
fn drawn(example: &str, format: &str, expected: Data) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/")
        .join(example);
    let project = Project::of(&[]);
    let example = example.to_str().unwrap();
    let output = project.loopy(&["graph", example, "--format", format]);
    output
        .assert()
        .code(0)
        .stdout_eq(expected)
        .stderr_eq(str![""]);
}

#[test]
fn the_examples_are_drawn_in_mermaid() {
    drawn("hello", "mermaid", file!["graph/hello.mermaid"].raw());
    drawn("github", "mermaid", file!["graph/github.mermaid"].raw());
}

#[test]
fn the_examples_are_drawn_in_dot() {
    drawn("hello", "dot", file!["graph/hello.dot"].raw());
    drawn("github", "dot", file!["graph/github.dot"].raw());
}

#[test]
fn the_examples_are_drawn_as_pictures() {
    drawn("hello", "svg", file!["graph/hello.svg"].raw());
    drawn("github", "svg", file!["graph/github.svg"].raw());
}

/// A project whose steps have all that shapes when and how they run.
fn forms() -> Project {
    let registry = "\
defaults: { agent: { sandbox: Here, harness: command } }
sandboxes: { Here: { provider: local } }
agents: { Shell: }
events:
  Asked: { repo: str, kind: 'enum[bug, feature]' }
  Shipped: { repo: str }
warnings: { W501: off, W504: off, W505: off }
";
    let step = |head: &str| format!("---\n{head}\nagent: Shell\n---\ntrue\n");
    let plan =
        step("on: { event: Asked, when: event.kind == \"bug\" }\noutput: { tasks: list[str] }");
    let build = step(
        "after: plan\neach: plan.tasks as task\nconcurrency: { key: event.repo, limit: 3 }\noutput: { done: bool }",
    );
    let review = step(
        "after: build\noutput: { verdict: enum[pass, fail] }\nloop: { to: plan, until: review.verdict == \"pass\", max: 3 }\nconcurrency: { limit: 1 }",
    );
    let release = step(
        "after: review\nfiles: [review/report.md, review/log/*]\nwhen: review.verdict == \"pass\" and event.repo != \"a <b> & [c]\"\napprove: { before: true, after: true }\nemits: { Shipped: { when: review.verdict == \"pass\" } }",
    );
    let tell = step("on: Shipped\napprove: { after: true }");
    Project::of(&[
        ("registry.yml", registry),
        ("workflows/ship/plan.md", &plan),
        ("workflows/ship/build.md", &build),
        ("workflows/ship/review.md", &review),
        ("workflows/ship/release.md", &release),
        ("workflows/tell/tell.md", &tell),
    ])
}

#[test]
fn what_shapes_a_step_is_drawn() {
    let project = forms();
    for (format, expected) in [
        ("mermaid", file!["graph/forms.mermaid"].raw()),
        ("dot", file!["graph/forms.dot"].raw()),
        ("svg", file!["graph/forms.svg"].raw()),
    ] {
        let output = project.loopy(&["graph", "--format", format]);
        let output = output.assert().code(0);
        output.stdout_eq(expected).stderr_eq(str![""]);
    }
}

/// Names that mean something in one of the formats.
const ODD: &str = "\"]--<b>&amp;#35;\\N{{x}}*_é";

/// A project whose names are odd, and which has errors: one step waits for
/// nobody, one for itself, and one cannot be read.
fn odd() -> Project {
    let project = Project::hello();
    let quoted = ODD.replace('\\', "\\\\").replace('"', "\\\"");
    let entry = format!("---\non: \"{quoted}\"\nagent: Shell\nemits: Greeted\n---\ntrue\n");
    project.write("workflows/w\"<&\\N]/x\"<&\\N].md", &entry);
    project.write(
        "workflows/record/self.md",
        "---\nafter: [self, nobody]\nagent: Shell\n---\ntrue\n",
    );
    let looping = "loop: { to: compose, until: loops.done, max: 3 }";
    let looping = format!(
        "---\nafter: compose\nagent: Shell\noutput: {{ done: bool }}\n{looping}\n---\ntrue\n"
    );
    project.write("workflows/greet/loops.md", &looping);
    project.write("workflows/record/broken.md", "no frontmatter\n");
    project
}

#[test]
fn a_project_with_errors_is_drawn_as_far_as_it_can_be_read() {
    let project = odd();
    let output = project.loopy(&["graph"]).assert();
    let output = output.code(1).stdout_eq(file!["graph/odd.mermaid"].raw());
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    for code in ["E101", "E105", "E106", "E504"] {
        assert!(said.contains(code), "{code}: {said}");
    }
}

#[test]
fn a_picture_is_xml_whatever_the_names() {
    let project = odd();
    let output = project
        .loopy(&["graph", "--format", "svg"])
        .assert()
        .code(1);
    let svg = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts = |tag: &'static str| {
        let nodes = document.descendants();
        let nodes =
            nodes.filter(move |node| node.has_tag_name(("http://www.w3.org/2000/svg", tag)));
        nodes.filter_map(|node| node.text()).collect::<Vec<_>>()
    };
    assert!(texts("text").contains(&ODD), "{svg}");
    assert!(texts("text").contains(&"x\"<&\\N]"), "{svg}");
    assert_eq!(texts("title")[0], "Workflows and events");
    let description = texts("desc")[0];
    for sentence in [
        "hello leads to Hello.",
        "greet/compose is followed by greet/measure.",
        "greet/loops may go back to greet/compose, until loops.done, at most 3.",
    ] {
        assert!(description.contains(sentence), "{description}");
    }
}

#[test]
fn dot_is_quoted_whatever_the_names() {
    let project = odd();
    let output = project
        .loopy(&["graph", "--format", "dot"])
        .assert()
        .code(1);
    let dot = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let strings = Regex::new(r#""((?:[^"\\]|\\.)*)""#).unwrap();
    // Nothing of a name is left over outside of the quotes.
    let statement = Regex::new(
        r"^ *(digraph \{|node \[fontname=S\]|subgraph cluster_\d+ \{|label=S fontname=S style=S|n\d+ \[label=S shape=S( style=S)?\]|n\d+ -> n\d+( \[[a-z]+=S( [a-z]+=S)*\])?|\})$",
    )
    .unwrap();
    for line in dot.lines() {
        let bare = strings.replace_all(line, "S");
        assert!(statement.is_match(&bare), "{line}");
    }
    let label = strings
        .captures_iter(&dot)
        .map(|found| found[1].replace("\\\"", "\"").replace("\\\\", "\\"))
        .find(|label| label.contains("[x]") || label.contains("{{x}}"))
        .unwrap();
    assert_eq!(label.replace("&amp;", "&"), format!("{ODD}\\nevent"));
}

#[test]
fn a_diagram_goes_where_it_is_wanted() {
    let project = Project::hello();
    let output = project.loopy(&["graph", "--out", "../graph.mermaid"]);
    output
        .assert()
        .code(0)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
wrote ../graph.mermaid

"#]]);
    let written = fs::read_to_string(project.outside("graph.mermaid")).unwrap();
    assert!(written.starts_with("flowchart TD\n"), "{written}");

    let output = project
        .loopy(&["graph", "--out", "none/graph.svg"])
        .assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: cannot write the diagram to none/graph.svg: No such file or directory (os error 2)

"#]]);
}

#[test]
fn an_empty_project_has_an_empty_diagram() {
    let project = Project::of(&[("registry.yml", "")]);
    let output = project.loopy(&["graph"]).assert().code(0);
    output.stdout_eq("flowchart TD\n").stderr_eq(str![""]);
    let output = project
        .loopy(&["graph", "--format", "svg"])
        .assert()
        .code(0);
    let svg = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
}
