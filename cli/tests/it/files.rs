//! Files that one step hands on to another, with the real runner.

use crate::support::{Project, json, until};
use serde_json::{Value, json};
use snapbox::str;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The last line on stdout of `loopy trigger --json`, which ends with this code.
fn triggered(project: &Project, fields: &str, code: i32) -> Value {
    let trigger = ["trigger", "--json", "--event", "Go", "--fields", fields];
    let document = json(&project.loopy(&trigger).assert().code(code));
    document["runs"][0].clone()
}

fn output<'r>(run: &'r Value, step: &str) -> &'r Value {
    &run["steps"][step]["output"]
}

/// What is below a folder of the state directory.
fn kept(project: &Project) -> Vec<PathBuf> {
    let folder = project.path().join(".loopy/files");
    let below = |folder: &PathBuf| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut found: Vec<PathBuf> = below(&folder).iter().flat_map(below).collect();
    found.sort();
    found
}

/// Builds, and has two steps behind it look at what was built.
fn site() -> Project {
    Project::scripts(
        "events:\n  Go: { word: str }\n",
        &[
            (
                "site/build",
                "on: Go",
                "mkdir -p dist/deep && echo \"{{ event.word }}\" > dist/deep/word\n\
                 printf '#!/bin/sh\\ncat \"$(dirname \"$0\")/deep/word\"\\n' > dist/run\n\
                 chmod +x dist/run && echo no > secret && echo log > build.log",
            ),
            (
                "site/check",
                "after: build\nfiles: [build/dist/**, build/none-*]\noutput: { said: str, found: str }",
                "found=$(find . -type f | sort | tr '\\n' ' ')\nmkdir report && cp build/dist/deep/word report/\n\
                 printf '{\"said\": \"%s\", \"found\": \"%s\"}' \"$(./build/dist/run)\" \"$found\" > \"$LOOPY_OUTPUT\"",
            ),
            (
                "site/tell",
                "after: [build, check]\nfiles: [check/report, build/build.log]\noutput: { said: str, found: str }",
                "found=$(find . -type f | sort | tr '\\n' ' ')\n\
                 printf '{\"said\": \"%s\", \"found\": \"%s\"}' \"$(cat check/report/word build/build.log | tr '\\n' ' ')\" \"$found\" > \"$LOOPY_OUTPUT\"",
            ),
        ],
    )
}

#[test]
fn a_step_finds_the_files_that_it_asked_for_and_no_others() {
    let project = site();
    let run = triggered(&project, r#"{"word": "hello"}"#, 0);
    let check = output(&run, "check");
    assert_eq!(check["said"], "hello");
    assert_eq!(check["found"], "./build/dist/deep/word ./build/dist/run ");
    let tell = output(&run, "tell");
    assert_eq!(tell["said"], "hello log ");
    assert_eq!(tell["found"], "./build/build.log ./check/report/word ");

    let files = kept(&project);
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let id = run["id"].as_str().unwrap();
    let notes = project.notes(id, "attempt_succeeded");
    assert!(
        notes[0].ends_with("bytes of packed files kept"),
        "{notes:?}"
    );
    let shown = project.run(id);
    let build = &shown["steps"]["build"]["files"];
    assert_eq!(build["paths"], json!(["build.log", "dist/**", "none-*"]));
    assert_eq!(
        build["packs"][0]["pack"]["sha256"].as_str().unwrap().len(),
        64
    );
    assert_eq!(shown["steps"]["tell"].get("files"), None);
}

#[test]
fn a_forked_run_has_the_files_of_the_steps_it_takes_over() {
    let project = site();
    let run = triggered(&project, r#"{"word": "first"}"#, 0);
    let first = run["id"].as_str().unwrap();
    // The run it came from may be gone by then.
    let before = kept(&project);
    let serving = project.serve();
    let fork = |original: &str, from: &str| {
        let fork = ["runs", "fork", original, "--by", "Ada", "--from", from];
        let output = project.loopy(&fork).assert().code(0);
        let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        let id = text.split_whitespace().next().unwrap().to_owned();
        until("the run", || {
            let run = project.run(&id);
            (run["status"] == "succeeded").then_some(run)
        })
    };
    let second = fork(first, "tell");
    assert_eq!(output(&second, "tell")["said"], "first log ");
    assert_eq!(second["steps"]["build"]["attempts"], json!([]));
    for file in before {
        fs::remove_file(file).unwrap();
    }
    let third = fork(second["id"].as_str().unwrap(), "check");
    assert_eq!(output(&third, "check")["said"], "first");
    assert_eq!(output(&third, "tell")["said"], "first log ");
    serving.stop().code(0);
}

#[test]
fn each_item_hands_on_files_into_a_folder_of_its_number() {
    let project = Project::scripts(
        "events:\n  Go: { names: 'list[str]' }\n",
        &[
            (
                "work/each",
                "on: Go\neach: event.names as name",
                "test \"{{ name }}\" = none || echo \"{{ name }}\" > name.txt",
            ),
            (
                "work/join",
                "after: each\nfiles: each/*.txt\noutput: { all: str }",
                "all=$(grep . -r each | sort | tr '\\n' ' ')\nprintf '{\"all\": \"%s\"}' \"$all\" > \"$LOOPY_OUTPUT\"",
            ),
        ],
    );
    let run = triggered(&project, r#"{"names": ["a", "none", "c"]}"#, 0);
    let all = &output(&run, "join")["all"];
    assert_eq!(all, "each/0/name.txt:a each/2/name.txt:c ");
}

#[test]
fn each_round_of_a_loop_has_the_files_of_that_round() {
    let project = Project::scripts(
        "events:\n  Go: { word: str }\n",
        &[
            (
                "work/write",
                "on: Go",
                "round=1\ntest -z \"$LOOPY_FEEDBACK\" || round=2\necho \"{{ event.word }} $round\" > draft.md",
            ),
            (
                "work/review",
                "after: write\nfiles: write/draft.md\noutput: { fine: bool, read: str }\n\
                 loop: { to: write, until: review.fine, max: 3 }",
                "read=$(cat write/draft.md)\nfine=false\ntest \"$read\" = 'x 1' || fine=true\n\
                 printf '{\"fine\": %s, \"read\": \"%s\"}' $fine \"$read\" > \"$LOOPY_OUTPUT\"",
            ),
            (
                "work/print",
                "after: [write, review]\nfiles: write/*\noutput: { read: str }",
                "printf '{\"read\": \"%s\"}' \"$(cat write/draft.md)\" > \"$LOOPY_OUTPUT\"",
            ),
        ],
    );
    let run = triggered(&project, r#"{"word": "x"}"#, 0);
    assert_eq!(output(&run, "review")["read"], "x 2");
    assert_eq!(output(&run, "print")["read"], "x 2");
}

#[test]
fn what_cannot_be_handed_on_fails_the_step_that_has_it() {
    let project = Project::scripts(
        "events:\n  Go: { what: str }\n",
        &[
            (
                "work/build",
                "on: Go\nretry: { max: 1, on: [output] }",
                "case \"{{ event.what }}\" in\n\
                 big) head -c 17500000 /dev/urandom > out;;\n\
                 many) mkdir many && cd many && seq 1001 | xargs touch && echo 1 > ../out;;\n\
                 late) test -z \"$LOOPY_LAST_FAILURE\" || echo 2 > out;;\n\
                 esac",
            ),
            (
                "work/use",
                "after: build\nfiles: [build/out, build/many/*]\noutput: { n: int }",
                "printf '{\"n\": %s}' \"$(cat build/out)\" > \"$LOOPY_OUTPUT\"",
            ),
        ],
    );
    for (what, said) in [
        (
            "big",
            "(many/*, out) have more than 16 MiB packed; ask for fewer",
        ),
        ("many", "are more than 1000; ask for fewer"),
        (
            "none",
            "later steps ask for out, which was not in the workspace",
        ),
    ] {
        let run = triggered(&project, &json!({ "what": what }).to_string(), 3);
        assert_eq!(run["failure"]["class"], "output", "{what}");
        let message = run["failure"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        assert_eq!(run["steps"]["use"]["state"], "skipped", "{what}");
    }
    // Another try may have them.
    let run = triggered(&project, r#"{"what": "late"}"#, 0);
    assert_eq!(output(&run, "use")["n"], 2);
}

#[test]
fn what_is_asked_for_is_checked_where_it_is_written() {
    let project = Project::scripts(
        "",
        &[
            ("work/build", "on: cron(\"0 6 * * *\")", "true"),
            ("work/use", "after: build\nfiles: [buil/x, build]", "true"),
        ],
    );
    let output = project.loopy(&["compile", "--check"]).assert();
    let output = output.code(1).stdout_eq(str![""]);
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    for part in ["LOOPY-E127", "LOOPY-E304", "did you mean `build`?"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
