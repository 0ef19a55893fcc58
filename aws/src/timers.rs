//! One-shot timers as EventBridge schedules that send to the watch queue and
//! delete themselves.

use crate::env::{Environment, var};
use crate::error::failed;
use crate::queues::wire;
use async_trait::async_trait;
use aws_sdk_scheduler::Client;
use aws_sdk_scheduler::types::{
    ActionAfterCompletion, DeadLetterConfig, FlexibleTimeWindow, FlexibleTimeWindowMode, Target,
};
use jiff::tz::TimeZone;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use loopy_contract::ids::derive;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{Clock, PortError, Queues, Timers};
use std::sync::Arc;
use std::time::Duration;

/// A timer this close is sent through the queue with a delay: a schedule whose
/// time has passed when it arrives would never fire.
const TOO_CLOSE: Duration = Duration::from_secs(5);

/// Timers in the schedule group that the environment names.
#[derive(Clone)]
pub struct SchedulerTimers {
    client: Client,
    environment: Arc<Environment>,
    queues: Arc<dyn Queues>,
    clock: Arc<dyn Clock>,
}

impl SchedulerTimers {
    /// Timers by `client`; those that are due go through `queues`.
    pub fn new(
        client: Client,
        environment: Arc<Environment>,
        queues: Arc<dyn Queues>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            client,
            environment,
            queues,
            clock,
        }
    }
}

#[async_trait]
impl Timers for SchedulerTimers {
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError> {
        let what = format!("arm timer {key}");
        if message.queue() != QueueName::Watch {
            return Err(PortError::new(
                what,
                format!(
                    "timers reach the watch queue only, this is for {}",
                    message.queue()
                ),
            ));
        }
        let left = Duration::try_from(at.duration_since(self.clock.now())).unwrap_or_default();
        if left < TOO_CLOSE {
            return self.queues.send(message, left).await;
        }
        let expression = at_expression(at).map_err(|error| PortError::new(&what, error))?;
        let input = wire(message).map_err(|error| PortError::new(&what, error))?;
        let target = Target::builder()
            .arn(self.environment.required(var::WATCH_QUEUE_ARN)?)
            .role_arn(self.environment.required(var::SCHEDULE_ROLE)?)
            .dead_letter_config(
                DeadLetterConfig::builder()
                    .arn(self.environment.required(var::SCHEDULE_DLQ_ARN)?)
                    .build(),
            )
            .input(input)
            .build()
            .map_err(|error| PortError::new(&what, error))?;
        let window = FlexibleTimeWindow::builder()
            .mode(FlexibleTimeWindowMode::Off)
            .build()
            .map_err(|error| PortError::new(&what, error))?;
        let created = self
            .client
            .create_schedule()
            .name(name(key))
            .group_name(self.environment.required(var::SCHEDULE_GROUP)?)
            .schedule_expression(expression)
            .schedule_expression_timezone("UTC")
            .flexible_time_window(window)
            .action_after_completion(ActionAfterCompletion::Delete)
            .target(target)
            .send()
            .await;
        match created {
            Ok(_) => Ok(()),
            // Armed already, by this call's first try or by an earlier delivery.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_conflict_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(what, &error)),
        }
    }

    async fn disarm(&self, key: &str) -> Result<(), PortError> {
        let deleted = self
            .client
            .delete_schedule()
            .name(name(key))
            .group_name(self.environment.required(var::SCHEDULE_GROUP)?)
            .send()
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(format!("disarm timer {key}"), &error)),
        }
    }
}

/// A schedule's name holds 64 of few characters; a key may hold anything.
fn name(key: &str) -> String {
    format!("timer-{}", derive(&["timer", key], 40))
}

/// Up to the second, so that a timer never fires early.
fn at_expression(at: Timestamp) -> Result<String, jiff::Error> {
    let whole = at.round(
        TimestampRound::new()
            .smallest(Unit::Second)
            .mode(RoundMode::Ceil),
    )?;
    let utc = whole.to_zoned(TimeZone::UTC).datetime();
    Ok(format!("at({})", utc.strftime("%Y-%m-%dT%H:%M:%S")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_time_is_rounded_up_to_the_second() {
        let expression = |at: &str| at_expression(at.parse().unwrap()).unwrap();
        assert_eq!(
            expression("2026-11-21T10:00:00Z"),
            "at(2026-11-21T10:00:00)"
        );
        assert_eq!(
            expression("2026-11-21T10:00:00.001Z"),
            "at(2026-11-21T10:00:01)"
        );
        assert_eq!(
            expression("2026-12-31T23:59:59.5+00:00"),
            "at(2027-01-01T00:00:00)"
        );
    }

    #[test]
    fn a_name_fits_the_service_whatever_the_key() {
        let long = "x/ü".repeat(100);
        for key in ["limit/greet-1a2b/build/1", "", long.as_str()] {
            let name = name(key);
            assert!(name.len() <= 64, "{name}");
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
                "{name}"
            );
        }
        assert_ne!(name("a"), name("b"));
    }
}
