//! What is left when the command is killed: what has begun goes on, and no
//! step that finished runs again.

use crate::support::{Project, Running, SHELL, until};
use rustix::process::Signal;
use snapbox::str;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const STEPS: [&str; 4] = ["one", "two", "three", "four"];

/// Four steps in a row; each writes a line when it begins, and one when it ends.
fn chain() -> Project {
    let registry = format!("{SHELL}events:\n  Go: {{ log: str }}\n");
    let project = Project::of(&[("registry.yml", &registry)]);
    let mut trigger = "on: Go".to_owned();
    for step in STEPS {
        project.write(
            &format!("workflows/chain/{step}.md"),
            &format!(
                "---\n{trigger}\nagent: Shell\n---\n\
                 log={{{{ event.log }}}}\n\
                 echo '{step} begins' >> \"$log\"\nsleep 0.2\necho '{step} ends' >> \"$log\"\n"
            ),
        );
        trigger = format!("after: {step}");
    }
    project
}

/// What the log holds when each step ran once, in its turn.
fn whole() -> String {
    let lines = STEPS.map(|step| format!("{step} begins\n{step} ends\n"));
    lines.concat()
}

fn read(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

fn trigger<'p>(project: &'p Project, log: &Path) -> Running<'p> {
    let field = format!("log={}", log.display());
    let trigger = project.loopy(&["trigger", "--event", "Go", "--field", &field]);
    trigger.spawn()
}

/// Waits until the log has `lines` lines, and then `milliseconds` more, so that
/// the kill that follows hits another moment each time.
fn moment(log: &Path, lines: usize, milliseconds: u64) {
    until(&format!("{lines} lines"), || {
        (read(log).lines().count() >= lines).then_some(())
    });
    sleep(Duration::from_millis(milliseconds));
}

#[test]
fn what_a_killed_trigger_began_is_finished_by_run() {
    let project = chain();
    let mut midway = 0;
    let moments = [(0, 0), (1, 60), (2, 0), (2, 25), (4, 10), (7, 90)];
    for (round, (lines, milliseconds)) in moments.into_iter().enumerate() {
        let log = project.outside(&format!("log-{round}"));
        let trigger = trigger(&project, &log);
        trigger.until_says("run started");
        moment(&log, lines, milliseconds);
        trigger.kill();
        let at_kill = read(&log);
        // On a busy machine the last moments may come too late.
        midway += usize::from(at_kill.len() < whole().len());

        let serving = project.serve();
        project.until_succeeded(round + 1);
        serving.stop().code(0);
        assert_eq!(read(&log), whole(), "killed at {at_kill}");
    }
    assert!(midway >= 3, "{midway}");
}

#[test]
fn what_a_killed_trigger_began_is_finished_by_the_next() {
    let project = chain();
    for (round, (lines, milliseconds)) in [(1, 0), (2, 10), (3, 40)].into_iter().enumerate() {
        let first = project.outside(&format!("first-{round}"));
        let second = project.outside(&format!("second-{round}"));
        let killed = trigger(&project, &first);
        moment(&first, lines, milliseconds);
        killed.kill();

        let output = trigger(&project, &second).end().code(0);
        let said = String::from_utf8_lossy(&output.get_output().stderr);
        assert!(said.contains("going on with what hand-"), "{said}");
        assert_eq!(read(&first), whole());
        assert_eq!(read(&second), whole());
        project.until_succeeded(2 * (round + 1));
    }
}

#[test]
fn run_killed_again_and_again_repeats_nothing() {
    let project = chain();
    let log = project.outside("log");
    let mut serving = project.serve();
    let handing = trigger(&project, &log);
    handing.until_says("run started");
    handing.kill();
    for (lines, milliseconds) in [(0, 20), (1, 50), (2, 5), (3, 150), (4, 30), (6, 15), (7, 0)] {
        moment(&log, lines, milliseconds);
        serving.run.kill();
        serving = project.serve();
    }
    project.until_succeeded(1);
    serving.stop().code(0);
    assert_eq!(read(&log), whole());
}

#[test]
fn a_trigger_goes_on_by_itself_when_the_process_that_serves_is_killed() {
    let project = chain();
    let log = project.outside("log");
    let serving = project.serve();
    let trigger = trigger(&project, &log);
    moment(&log, 2, 30);
    serving.run.kill();
    let output = trigger.end().code(0);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    assert!(
        said.contains("that process is gone; going on here\n"),
        "{said}"
    );
    assert_eq!(read(&log), whole());
    project.until_succeeded(1);
}

#[test]
fn an_interrupted_trigger_says_how_it_goes_on() {
    let project = chain();
    let log = project.outside("log");
    let interrupted = trigger(&project, &log);
    moment(&log, 3, 0);
    interrupted.signal(Signal::INT);
    let output = interrupted.end().code(2).stdout_eq(str![""]);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    let parting = "error: interrupted; what has run is kept\n\n\
                   hint: `loopy run` goes on where it stopped\n";
    assert!(said.ends_with(parting), "{said}");

    let serving = project.serve();
    project.until_succeeded(1);
    serving.stop().code(0);
    assert_eq!(read(&log), whole());
}

#[test]
fn running_steps_outlive_run_that_is_told_to_stop() {
    let project = chain();
    let log = project.outside("log");
    let serving = project.serve();
    let handing = trigger(&project, &log);
    moment(&log, 1, 0);
    handing.kill();
    serving.stop().code(0);
    let serving = project.serve();
    project.until_succeeded(1);
    serving.stop().code(0);
    assert_eq!(read(&log), whole());
}

#[test]
fn a_delivery_that_was_accepted_survives_the_kill_that_follows() {
    let project = Project::hello();
    for round in 0..3_usize {
        let serving = project.serve();
        let name = format!(r#"{{"name": "guest {round}"}}"#);
        assert_eq!(serving.post("/hooks/hello", &name), 202);
        sleep(Duration::from_millis(60 * round as u64));
        serving.run.kill();

        let serving = project.serve();
        project.until_succeeded(2 * (round + 1));
        serving.stop().code(0);
    }
}
