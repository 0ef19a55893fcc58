//! What `loopy docs events` says, and that its examples compile.

use crate::support::{Project, json};
use serde_json::{Value, json};
use snapbox::str;

#[test]
fn an_event_is_explained() {
    let project = Project::of(&[]);
    let output = project.loopy(&["docs", "events", "Github.IssueCommentCreated"]);
    output
        .assert()
        .code(0)
        .stderr_eq(str![""])
        .stdout_eq(str![[r#"
Github.IssueCommentCreated: somebody commented on an issue or a pull request

GitHub: POST /hooks/github, signed with GITHUB_WEBHOOK_SECRET

when
  header x-github-event is issue_comment
  /action is created

fields
  author           str   /comment/user/login
  body             str   /comment/body, else ""
  issue_number     int   /issue/number
  on_pull_request  bool  whether /issue/pull_request is there
  repo             str   /repository/full_name
  url              url   /comment/html_url

example
  ---
  on: { event: Github.IssueCommentCreated, when: event.repo == "…" }
  agent: Worker
  ---

"#]]);
}

#[test]
fn a_service_s_events_are_listed() {
    let project = Project::of(&[]);
    let output = project.loopy(&["docs", "events", "sentry"]).assert();
    output.code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
Sentry  POST /hooks/sentry, signed with SENTRY_WEBHOOK_SECRET
In an integration of Sentry's, take this path for the webhook URL and the client secret
for SENTRY_WEBHOOK_SECRET, and tick the resources that the project waits for. Alerts come
when a rule names the integration as its action.

  Sentry.AlertTriggered       an issue alert was triggered
  Sentry.Comment              a comment on an issue: any action
  Sentry.CommentCreated       a comment on an issue: created
  Sentry.CommentDeleted       a comment on an issue: deleted
  Sentry.CommentUpdated       a comment on an issue: updated
  Sentry.Error                an error: any action
  Sentry.ErrorCreated         an error: created
  Sentry.Installation         an installation of the integration: any action
  Sentry.InstallationCreated  an installation of the integration: created
  Sentry.InstallationDeleted  an installation of the integration: deleted
  Sentry.Issue                an issue: any action
  Sentry.IssueArchived        an issue: archived
  Sentry.IssueAssigned        an issue: assigned
  Sentry.IssueCreated         an issue was seen for the first time
  Sentry.IssueIgnored         an issue: ignored
  Sentry.IssueResolved        an issue was resolved
  Sentry.IssueUnresolved      an issue: unresolved
  Sentry.MetricAlert          a metric alert: any action
  Sentry.MetricAlertCritical  a metric alert: critical
  Sentry.MetricAlertResolved  a metric alert: resolved
  Sentry.MetricAlertWarning   a metric alert: warning

"#]]);
    let listed = json(
        &project
            .loopy(&["docs", "events", "--format", "json"])
            .assert()
            .code(0),
    );
    let providers = listed["providers"].as_array().unwrap();
    let names: Vec<&str> = providers
        .iter()
        .map(|provider| provider["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["github", "sentry", "slack", "linear", "stripe", "pagerduty"]
    );
    let events: Vec<usize> = providers
        .iter()
        .map(|provider| provider["events"].as_array().unwrap().len())
        .collect();
    assert!(events.iter().sum::<usize>() > 500, "{events:?}");
    assert_eq!(providers[5]["secret"], "PAGERDUTY_WEBHOOK_SECRET");
    let human = project.loopy(&["docs", "events"]).assert().code(0);
    let human = String::from_utf8_lossy(&human.get_output().stdout).into_owned();
    for provider in providers {
        for event in provider["events"].as_array().unwrap() {
            let line = format!("  {} ", event["name"].as_str().unwrap());
            assert!(human.contains(&line), "{line}");
        }
    }
}

#[test]
fn an_event_s_example_compiles() {
    for (event, field) in [
        ("Github.PullRequestReviewSubmitted", "state"),
        ("Slack.AppMention", "thread"),
        ("Linear.IssueCreated", "identifier"),
        ("Stripe.InvoicePaymentFailed", "customer"),
        ("Pagerduty.IncidentTriggered", "at"),
        ("Sentry.MetricAlertCritical", "title"),
    ] {
        let project = Project::of(&[(
            "registry.yml",
            "sandboxes: { Here: { provider: local } }\n\
             agents: { Worker: { harness: command, sandbox: Here } }\n",
        )]);
        let arguments = ["docs", "events", event, "--format", "json"];
        let page = json(&project.loopy(&arguments).assert().code(0));
        let example = page["example"].as_str().unwrap();
        let body = format!("{example}echo {{{{ event.{field} }}}}\n");
        project.write("workflows/w/s.md", &body);
        let output = project.loopy(&["compile"]).assert().code(0);
        output.stderr_eq(str![[r#"
...
"#]]);
        let has = |name: &str| {
            let fields: &Vec<Value> = page["fields"].as_array().unwrap();
            fields.iter().any(|field| field["name"] == name)
        };
        assert!(has(field), "{event}");
    }
}

#[test]
fn an_event_that_is_none_is_wrong_usage() {
    let project = Project::of(&[]);
    let output = project.loopy(&["docs", "events", "Github.PullRequestReviewed"]);
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
error: there is no built-in event and no service `Github.PullRequestReviewed`

hint: did you mean `Github.PullRequestReview`[..]? `loopy docs events` lists all events

"#]]);
    let output = project.loopy(&["docs", "events", "gitlab"]);
    output.assert().code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: there is no built-in event and no service `gitlab`

hint: did you mean `github`, `sentry`, `slack`, `linear`, `stripe` or `pagerduty`? `loopy docs events` lists all events

"#]]);
    let page = project
        .loopy(&["docs", "events", "Slack.Message", "--format", "json"])
        .assert();
    let page = json(&page.code(0));
    assert_eq!(
        page["when"][1]["one_of"],
        json!([null, "file_share", "me_message", "thread_broadcast"])
    );
}
