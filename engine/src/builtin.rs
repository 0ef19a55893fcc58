//! The built-in events: what a verified GitHub or Sentry delivery means without
//! any sensor code. A delivery that is not the event gives none.

use crate::ports::{Sensed, SensorCall};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::manifest::Sensor;
use serde_json::{Map, Value, json};

/// The events a built-in sensor makes of a delivery.
///
/// # Errors
/// A sentence: the delivery is no JSON, or lacks what the event needs.
pub(crate) fn events(sensor: &Sensor, call: &SensorCall) -> Result<Vec<Sensed>, String> {
    let SensorCall::Request {
        headers,
        body_base64,
        ..
    } = call
    else {
        return Ok(Vec::new());
    };
    let problem = |what: String| format!("sensor {}: {what}", sensor.name);
    let bytes = STANDARD
        .decode(body_base64)
        .map_err(|error| problem(error.to_string()))?;
    let body: Value = serde_json::from_slice(&bytes)
        .map_err(|error| problem(format!("the delivery is not JSON: {error}")))?;
    let kind = |header: &str| headers.get(header).map_or("", String::as_str);
    let github = kind("x-github-event");
    let sentry = kind("sentry-hook-resource");
    let action = text(&body, "/action");
    let fields = match sensor.emits.as_str() {
        "Github.PullRequestOpened" if github == "pull_request" && action == "opened" => json!({
            "number": body.pointer("/pull_request/number"),
            "repo": body.pointer("/repository/full_name"),
            "title": body.pointer("/pull_request/title"),
            "branch": body.pointer("/pull_request/head/ref"),
            "base": body.pointer("/pull_request/base/ref"),
            "url": body.pointer("/pull_request/html_url"),
        }),
        "Github.PullRequestMerged"
            if github == "pull_request"
                && action == "closed"
                && body.pointer("/pull_request/merged") == Some(&Value::Bool(true)) =>
        {
            json!({
                "number": body.pointer("/pull_request/number"),
                "repo": body.pointer("/repository/full_name"),
                "title": body.pointer("/pull_request/title"),
                "url": body.pointer("/pull_request/html_url"),
                "merged_by": or(text(&body, "/pull_request/merged_by/login"), "unknown"),
            })
        }
        "Github.IssueOpened" if github == "issues" && action == "opened" => json!({
            "number": body.pointer("/issue/number"),
            "repo": body.pointer("/repository/full_name"),
            "title": body.pointer("/issue/title"),
            "body": text(&body, "/issue/body"),
            "author": body.pointer("/issue/user/login"),
            "url": body.pointer("/issue/html_url"),
        }),
        "Github.IssueCommentCreated" if github == "issue_comment" && action == "created" => {
            json!({
                "repo": body.pointer("/repository/full_name"),
                "issue_number": body.pointer("/issue/number"),
                "body": text(&body, "/comment/body"),
                "author": body.pointer("/comment/user/login"),
                "url": body.pointer("/comment/html_url"),
                "on_pull_request": body.pointer("/issue/pull_request").is_some(),
            })
        }
        "Github.Push" if github == "push" => json!({
            "repo": body.pointer("/repository/full_name"),
            "ref": body.pointer("/ref"),
            "before": body.pointer("/before"),
            "after": body.pointer("/after"),
            "pusher": body.pointer("/pusher/name"),
            "commit_count": body.pointer("/commits").and_then(Value::as_array).map_or(0, Vec::len),
        }),
        "Sentry.IssueCreated" if sentry == "issue" && action == "created" => json!({
            "issue_id": body.pointer("/data/issue/id"),
            "title": body.pointer("/data/issue/title"),
            "culprit": text(&body, "/data/issue/culprit"),
            "level": level(&body, "/data/issue/level"),
            "project": body.pointer("/data/issue/project/slug"),
            "url": link(&body, &["/data/issue/permalink", "/data/issue/web_url"]),
        }),
        "Sentry.IssueResolved" if sentry == "issue" && action == "resolved" => json!({
            "issue_id": body.pointer("/data/issue/id"),
            "title": body.pointer("/data/issue/title"),
            "project": body.pointer("/data/issue/project/slug"),
            "url": link(&body, &["/data/issue/permalink", "/data/issue/web_url"]),
        }),
        "Sentry.AlertTriggered" if sentry == "event_alert" && action == "triggered" => json!({
            "issue_id": body.pointer("/data/event/issue_id"),
            "title": body.pointer("/data/event/title"),
            "culprit": text(&body, "/data/event/culprit"),
            "level": level(&body, "/data/event/level"),
            "rule": or(
                text(&body, "/data/triggered_rule"),
                text(&body, "/data/triggering_rules/0"),
            ),
            "url": link(&body, &["/data/event/web_url", "/data/event/url"]),
        }),
        _ => return Ok(Vec::new()),
    };
    let Value::Object(fields) = fields else {
        return Ok(Vec::new());
    };
    let fields: Map<String, Value> = fields;
    Ok(vec![Sensed {
        event: sensor.emits.clone(),
        fields,
    }])
}

fn text<'a>(body: &'a Value, pointer: &str) -> &'a str {
    body.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

fn level<'a>(body: &'a Value, pointer: &str) -> &'a str {
    let level = text(body, pointer);
    if ["debug", "info", "warning", "error", "fatal"].contains(&level) {
        level
    } else {
        "error"
    }
}

fn link<'a>(body: &'a Value, pointers: &[&str]) -> &'a str {
    pointers
        .iter()
        .map(|pointer| text(body, pointer))
        .find(|url| !url.is_empty())
        .unwrap_or("")
}
