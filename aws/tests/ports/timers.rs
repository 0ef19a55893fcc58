//! Timers fire once, into the watch queue, and not before their time.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use aws_sdk_scheduler::types::ActionAfterCompletion;
use jiff::{SignedDuration, Timestamp};
use loopy_aws::env::var;
use loopy_aws::{SchedulerTimers, SystemClock};
use loopy_contract::ids::RunId;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::Timers;
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "loopy-timers";

fn limit(attempt: u32) -> Message {
    Message::TimeLimit {
        run: RunId::from("greet-0123"),
        step: "build".to_owned(),
        attempt,
        check: 0,
    }
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::now()
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap()
}

struct Fixture {
    account: Account,
    timers: SchedulerTimers,
    scheduler: aws_sdk_scheduler::Client,
    watch: String,
}

async fn fixture() -> Fixture {
    let mut account = Account::open().await;
    account.make_queue(QueueName::Watch).await;
    let environment = account.environment();
    let watch = environment.queue_url(QueueName::Watch).unwrap().to_owned();
    let dead = environment.dead_letter_url(QueueName::Watch).unwrap();
    let scheduler = aws_sdk_scheduler::Client::new(&account.config);
    scheduler
        .create_schedule_group()
        .name(GROUP)
        .send()
        .await
        .unwrap();
    let (watch_arn, dead_arn) = (account.arn_of(&watch).await, account.arn_of(dead).await);
    account.set(var::WATCH_QUEUE_ARN, &watch_arn);
    account.set(var::SCHEDULE_DLQ_ARN, &dead_arn);
    account.set(var::SCHEDULE_GROUP, GROUP);
    account.set(var::SCHEDULE_ROLE, &account.role_arn("schedule"));
    let timers = SchedulerTimers::new(
        scheduler.clone(),
        account.shared_environment(),
        account.queues(),
        Arc::new(SystemClock),
    );
    Fixture {
        account,
        timers,
        scheduler,
        watch,
    }
}

impl Fixture {
    async fn armed(&self) -> Vec<String> {
        let listed = self
            .scheduler
            .list_schedules()
            .group_name(GROUP)
            .send()
            .await
            .unwrap();
        listed
            .schedules
            .into_iter()
            .filter_map(|schedule| schedule.name)
            .collect()
    }
}

#[tokio::test]
async fn a_timer_armed_twice_is_one_and_fires_once() {
    let fixture = fixture().await;
    let at = after(7);
    fixture.timers.arm("limit/a", at, &limit(1)).await.unwrap();
    fixture.timers.arm("limit/a", at, &limit(1)).await.unwrap();
    let armed = fixture.armed().await;
    assert_eq!(armed.len(), 1);
    let schedule = fixture
        .scheduler
        .get_schedule()
        .group_name(GROUP)
        .name(&armed[0])
        .send()
        .await
        .unwrap();
    assert_eq!(
        schedule.action_after_completion,
        Some(ActionAfterCompletion::Delete)
    );
    assert_eq!(
        schedule.schedule_expression_timezone.as_deref(),
        Some("UTC")
    );
    assert!(fixture.account.receive(&fixture.watch).await.is_empty());

    let body = fixture
        .account
        .next_body(&fixture.watch, Duration::from_secs(30))
        .await
        .unwrap();
    assert!(Timestamp::now() >= at);
    assert_eq!(serde_json::from_str::<Message>(&body).unwrap(), limit(1));
    assert_eq!(fixture.armed().await, Vec::<String>::new());
    assert_eq!(
        fixture
            .account
            .next_body(&fixture.watch, Duration::from_secs(2))
            .await,
        None
    );
}

#[tokio::test]
async fn a_disarmed_timer_is_gone_and_disarming_it_again_is_fine() {
    let fixture = fixture().await;
    fixture
        .timers
        .arm("limit/a", after(3600), &limit(1))
        .await
        .unwrap();
    fixture
        .timers
        .arm("limit/b", after(3600), &limit(2))
        .await
        .unwrap();
    assert_eq!(fixture.armed().await.len(), 2);
    fixture.timers.disarm("limit/a").await.unwrap();
    fixture.timers.disarm("limit/a").await.unwrap();
    fixture.timers.disarm("never armed").await.unwrap();
    assert_eq!(fixture.armed().await.len(), 1);
}

#[tokio::test]
async fn a_timer_whose_time_is_over_or_close_goes_through_the_queue() {
    let fixture = fixture().await;
    fixture
        .timers
        .arm("limit/a", after(-60), &limit(1))
        .await
        .unwrap();
    let body = fixture
        .account
        .next_body(&fixture.watch, Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(serde_json::from_str::<Message>(&body).unwrap(), limit(1));

    let at = after(2);
    fixture.timers.arm("limit/b", at, &limit(2)).await.unwrap();
    assert_eq!(fixture.armed().await, Vec::<String>::new());
    let body = fixture
        .account
        .next_body(&fixture.watch, Duration::from_secs(10))
        .await
        .unwrap();
    assert!(Timestamp::now() >= at);
    assert_eq!(serde_json::from_str::<Message>(&body).unwrap(), limit(2));
}

#[tokio::test]
async fn a_message_for_another_queue_is_refused() {
    let fixture = fixture().await;
    let turn = Message::Handoff {
        run: RunId::from("greet-0123"),
        step: "build".to_owned(),
        attempt: 1,
    };
    let error = fixture.timers.arm("x", after(60), &turn).await.unwrap_err();
    assert!(error.to_string().contains("this is for steps"), "{error}");
}

#[tokio::test]
async fn a_missing_group_is_an_error_when_arming() {
    let mut fixture = fixture().await;
    fixture.account.set(var::SCHEDULE_GROUP, "no-such-group");
    let timers = SchedulerTimers::new(
        fixture.scheduler.clone(),
        fixture.account.shared_environment(),
        fixture.account.queues(),
        Arc::new(SystemClock),
    );
    let error = timers
        .arm("limit/a", after(60), &limit(1))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("arm timer limit/a: ResourceNotFoundException"),
        "{error}"
    );
}
