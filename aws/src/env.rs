//! The environment that the stack's template gives its functions. Read when a
//! value is needed, because no function gets more than it needs.

use loopy_engine::message::QueueName;
use loopy_engine::ports::PortError;
use loopy_engine::sensor_host::Language;
use std::collections::BTreeMap;

/// The names of the variables.
pub mod var {
    /// Name of the DynamoDB table.
    pub const TABLE: &str = "LOOPY_TABLE";
    /// Name of the bucket with the big parts of what is in the table.
    pub const STATE_BUCKET: &str = "LOOPY_STATE_BUCKET";
    /// Name of the bucket with manifests, files and binaries.
    pub const ASSETS_BUCKET: &str = "LOOPY_ASSETS_BUCKET";
    /// Hash of the manifest that new runs begin with.
    pub const MANIFEST: &str = "LOOPY_MANIFEST";
    /// SHA-256 of the runner's binary.
    pub const RUNNER: &str = "LOOPY_RUNNER";
    /// Name of the event bus.
    pub const BUS: &str = "LOOPY_BUS";
    /// ARN of the watch queue, the target of one-shot schedules.
    pub const WATCH_QUEUE_ARN: &str = "LOOPY_WATCH_QUEUE_ARN";
    /// Name of the group that one-shot schedules belong to.
    pub const SCHEDULE_GROUP: &str = "LOOPY_SCHEDULE_GROUP";
    /// ARN of the role under which a schedule sends to the watch queue.
    pub const SCHEDULE_ROLE: &str = "LOOPY_SCHEDULE_ROLE";
    /// ARN of the queue for what a schedule could not send.
    pub const SCHEDULE_DLQ_ARN: &str = "LOOPY_SCHEDULE_DLQ_ARN";
    /// URL of the report function.
    pub const REPORT_URL: &str = "LOOPY_REPORT_URL";
    /// ARN of the secret with the key of attempt tokens.
    pub const TOKEN_KEY_SECRET: &str = "LOOPY_TOKEN_KEY_SECRET";
    /// ARN of the secret with the webhook secrets; empty when there are none.
    pub const WEBHOOK_SECRET: &str = "LOOPY_WEBHOOK_SECRET";
    /// ARN of the secret with the sandboxes' variables; empty when there are none.
    pub const SANDBOX_SECRET: &str = "LOOPY_SANDBOX_SECRET";
    /// ARN of the secret with the GitHub App; empty when no sandbox clones from
    /// GitHub.
    pub const GITHUB_SECRET: &str = "LOOPY_GITHUB_SECRET";
    /// ARN of the secret with the engine's credentials; empty when there are none.
    pub const ENGINE_SECRET: &str = "LOOPY_ENGINE_SECRET";
    /// Where tasks of Fargate run, as JSON ([`fargate::Place`](crate::fargate::Place));
    /// empty when no sandbox is Fargate's.
    pub const FARGATE: &str = "LOOPY_FARGATE";
    /// Name of the function with the project's Python sensors; empty when
    /// there are none.
    pub const SENSOR_PYTHON: &str = "LOOPY_SENSOR_PYTHON";
    /// As that, with its TypeScript sensors.
    pub const SENSOR_TYPESCRIPT: &str = "LOOPY_SENSOR_TYPESCRIPT";
    /// As that, with its shell sensors.
    pub const SENSOR_SHELL: &str = "LOOPY_SENSOR_SHELL";
    /// ARN of the secret with the sensors' own variables, for the functions that run
    /// them; not set when there are none.
    pub const SENSOR_SECRET: &str = "LOOPY_SENSOR_SECRET";
    /// Name of the watch function, for those that hand sandboxes to stop to it
    /// directly; not set for the others.
    pub const WATCH_FUNCTION: &str = "LOOPY_WATCH_FUNCTION";
    /// The SDK's own variable for an endpoint other than AWS's.
    pub const ENDPOINT_URL: &str = "AWS_ENDPOINT_URL";

    /// Name of the function with the project's sensors in a language.
    pub const fn sensors(language: super::Language) -> &'static str {
        match language {
            super::Language::Python => SENSOR_PYTHON,
            super::Language::Typescript => SENSOR_TYPESCRIPT,
            super::Language::Shell => SENSOR_SHELL,
        }
    }

    /// URL of a queue.
    pub const fn queue(queue: super::QueueName) -> &'static str {
        match queue {
            super::QueueName::Deliveries => "LOOPY_QUEUE_DELIVERIES",
            super::QueueName::Events => "LOOPY_QUEUE_EVENTS",
            super::QueueName::Steps => "LOOPY_QUEUE_STEPS",
            super::QueueName::Watch => "LOOPY_QUEUE_WATCH",
        }
    }

    /// URL of a queue's dead-letter queue.
    pub const fn dead_letter_queue(queue: super::QueueName) -> &'static str {
        match queue {
            super::QueueName::Deliveries => "LOOPY_DLQ_DELIVERIES",
            super::QueueName::Events => "LOOPY_DLQ_EVENTS",
            super::QueueName::Steps => "LOOPY_DLQ_STEPS",
            super::QueueName::Watch => "LOOPY_DLQ_WATCH",
        }
    }
}

/// A variable that the template should have set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {name} is not set; the stack's template sets it for the functions that need it, so deploy the stack again"
)]
pub struct MissingVariable {
    /// The variable's name.
    pub name: String,
}

impl From<MissingVariable> for PortError {
    fn from(missing: MissingVariable) -> Self {
        Self::new("read the function's environment", missing)
    }
}

/// The variables as they were when the process began.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's `LOOPY_…` variables and `AWS_ENDPOINT_URL`.
    pub fn of_process() -> Self {
        // `vars_os`, as `vars` panics on a value that is not Unicode.
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("LOOPY_") || name == var::ENDPOINT_URL)
            .collect()
    }

    /// A variable that must be set and not be empty.
    ///
    /// # Errors
    /// [`MissingVariable`] names it.
    pub fn required(&self, name: &str) -> Result<&str, MissingVariable> {
        match self.0.get(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(MissingVariable {
                name: name.to_owned(),
            }),
        }
    }

    /// A variable that must be set, where empty means that the project has no
    /// such thing.
    ///
    /// # Errors
    /// [`MissingVariable`] when it is not set at all.
    pub fn may_be_empty(&self, name: &str) -> Result<Option<&str>, MissingVariable> {
        match self.0.get(name) {
            Some(value) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
            None => Err(MissingVariable {
                name: name.to_owned(),
            }),
        }
    }

    /// The endpoint that stands in for AWS, if one does.
    pub fn endpoint_url(&self) -> Option<&str> {
        self.0
            .get(var::ENDPOINT_URL)
            .map(String::as_str)
            .filter(|url| !url.is_empty())
    }

    /// The URL of a queue.
    ///
    /// # Errors
    /// [`MissingVariable`] names the queue's variable.
    pub fn queue_url(&self, queue: QueueName) -> Result<&str, MissingVariable> {
        self.required(var::queue(queue))
    }

    /// The URL of a queue's dead-letter queue.
    ///
    /// # Errors
    /// [`MissingVariable`] names the queue's variable.
    pub fn dead_letter_url(&self, queue: QueueName) -> Result<&str, MissingVariable> {
        self.required(var::dead_letter_queue(queue))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        [
            ("LOOPY_TABLE", "runs"),
            ("LOOPY_ENGINE_SECRET", ""),
            ("LOOPY_QUEUE_STEPS", "http://q"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect()
    }

    #[test]
    fn a_missing_variable_is_named() {
        let environment = environment();
        assert_eq!(environment.required(var::TABLE), Ok("runs"));
        let missing = MissingVariable {
            name: "LOOPY_BUS".to_owned(),
        };
        assert!(missing.to_string().contains("LOOPY_BUS"));
        assert_eq!(environment.required(var::BUS), Err(missing));
    }

    #[test]
    fn empty_means_none_only_where_it_may() {
        let environment = environment();
        assert_eq!(environment.may_be_empty(var::ENGINE_SECRET), Ok(None));
        assert!(environment.required(var::ENGINE_SECRET).is_err());
        assert!(environment.may_be_empty(var::SANDBOX_SECRET).is_err());
    }

    #[test]
    fn queues_are_found_by_name() {
        let environment = environment();
        assert_eq!(environment.queue_url(QueueName::Steps), Ok("http://q"));
        assert_eq!(
            environment.dead_letter_url(QueueName::Watch),
            Err(MissingVariable {
                name: "LOOPY_DLQ_WATCH".to_owned()
            })
        );
    }
}
