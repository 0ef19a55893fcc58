//! What AWS and Daytona ask for: list prices with their date, without any free tier.
//! docs/costs.md shows the same table; a test holds the two together.

use serde::Serialize;

/// The day on which the table was last gone over.
pub const DATE: &str = "2026-11-21";

/// Where they hold.
pub const REGION: &str = "us-east-1";

/// Something that is counted and billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// Invocations of functions.
    LambdaRequests,
    /// Memory of functions times their time, on Intel and AMD.
    LambdaSeconds,
    /// The same on Graviton.
    LambdaSecondsArm,
    /// A kilobyte written to the table or its index.
    WriteUnits,
    /// Four kilobytes read with consistency.
    ReadUnits,
    /// Calls of queues while something happens.
    SqsRequests,
    /// Calls of queues by mappings that find nothing.
    SqsPolling,
    /// Events put on the bus.
    BusEvents,
    /// Schedules and timers that fire.
    Timers,
    /// Objects written.
    S3Writes,
    /// Reads of secrets.
    SecretReads,
    /// Secrets kept for a month.
    Secrets,
    /// Lines of functions.
    Logs,
    /// Alarms kept for a month.
    Alarms,
    /// A core of a task, on Intel and AMD.
    FargateCores,
    /// A gigabyte of such a task's memory.
    FargateMemory,
    /// A core of a task on Graviton.
    FargateCoresArm,
    /// A gigabyte of such a task's memory.
    FargateMemoryArm,
    /// A gigabyte of a task's disk above what every task has.
    FargateDisk,
    /// The public address of a task.
    Addresses,
    /// A core of a sandbox at Daytona.
    DaytonaCores,
    /// A gigabyte of its memory.
    DaytonaMemory,
}

/// A list price.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Who bills it.
    pub service: &'static str,
    /// What is counted.
    pub what: &'static str,
    /// Dollars for `per` of it.
    pub dollars: f64,
    /// How many of it that buys.
    pub per: f64,
    /// How people write `per`: `a million`, `an hour`.
    pub unit: &'static str,
    /// Where it is published.
    pub source: &'static str,
}

const MILLION: f64 = 1_000_000.0;

const fn a_million(
    service: &'static str,
    what: &'static str,
    dollars: f64,
    source: &'static str,
) -> Price {
    Price {
        service,
        what,
        dollars,
        per: MILLION,
        unit: "a million",
        source,
    }
}

const fn each(
    service: &'static str,
    what: &'static str,
    dollars: f64,
    unit: &'static str,
    source: &'static str,
) -> Price {
    Price {
        service,
        what,
        dollars,
        per: 1.0,
        unit,
        source,
    }
}

const LAMBDA: &str = "aws.amazon.com/lambda/pricing";
const TABLE: &str = "aws.amazon.com/dynamodb/pricing";
const SQS: &str = "aws.amazon.com/sqs/pricing";
const BUS: &str = "aws.amazon.com/eventbridge/pricing";
const S3: &str = "aws.amazon.com/s3/pricing";
const SECRETS: &str = "aws.amazon.com/secrets-manager/pricing";
const WATCH: &str = "aws.amazon.com/cloudwatch/pricing";
const TASKS: &str = "aws.amazon.com/fargate/pricing";
const NETWORK: &str = "aws.amazon.com/vpc/pricing";
const DAYTONA: &str = "www.daytona.io/pricing";

impl Meter {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 22] = [
        Self::LambdaRequests,
        Self::LambdaSeconds,
        Self::LambdaSecondsArm,
        Self::WriteUnits,
        Self::ReadUnits,
        Self::SqsRequests,
        Self::SqsPolling,
        Self::BusEvents,
        Self::Timers,
        Self::S3Writes,
        Self::SecretReads,
        Self::Secrets,
        Self::Logs,
        Self::Alarms,
        Self::FargateCores,
        Self::FargateMemory,
        Self::FargateCoresArm,
        Self::FargateMemoryArm,
        Self::FargateDisk,
        Self::Addresses,
        Self::DaytonaCores,
        Self::DaytonaMemory,
    ];

    /// What it costs.
    pub const fn price(self) -> Price {
        match self {
            Self::LambdaRequests => a_million("Lambda", "requests", 0.2, LAMBDA),
            Self::LambdaSeconds => a_million("Lambda", "GB-seconds, x86", 16.6667, LAMBDA),
            Self::LambdaSecondsArm => a_million("Lambda", "GB-seconds, arm", 13.3334, LAMBDA),
            Self::WriteUnits => a_million("DynamoDB", "write units", 0.625, TABLE),
            Self::ReadUnits => a_million("DynamoDB", "read units", 0.125, TABLE),
            Self::SqsRequests => a_million("SQS", "requests of fair queues", 0.5, SQS),
            Self::SqsPolling => a_million("SQS", "requests of idle queues", 0.4, SQS),
            Self::BusEvents => a_million("EventBridge", "events", 1.0, BUS),
            Self::Timers => a_million("Scheduler", "schedules that fire", 1.0, BUS),
            Self::S3Writes => a_million("S3", "writes", 5.0, S3),
            Self::SecretReads => a_million("Secrets Manager", "reads", 5.0, SECRETS),
            Self::Secrets => each("Secrets Manager", "secrets", 0.4, "a month", SECRETS),
            Self::Logs => each("CloudWatch", "GB of logs", 0.5, "a GB", WATCH),
            Self::Alarms => each("CloudWatch", "alarms", 0.1, "a month", WATCH),
            Self::FargateCores => each("Fargate", "core hours, x86", 0.04048, "an hour", TASKS),
            Self::FargateMemory => each("Fargate", "GB hours, x86", 0.004_445, "an hour", TASKS),
            Self::FargateCoresArm => each("Fargate", "core hours, arm", 0.03238, "an hour", TASKS),
            Self::FargateMemoryArm => each("Fargate", "GB hours, arm", 0.00356, "an hour", TASKS),
            Self::FargateDisk => each("Fargate", "GB hours of disk", 0.000_111, "an hour", TASKS),
            Self::Addresses => each(
                "VPC",
                "hours of public addresses",
                0.005,
                "an hour",
                NETWORK,
            ),
            Self::DaytonaCores => each("Daytona", "core hours", 0.0504, "an hour", DAYTONA),
            Self::DaytonaMemory => each("Daytona", "GB hours", 0.0162, "an hour", DAYTONA),
        }
    }

    /// Dollars for so much of it.
    pub fn dollars(self, count: f64) -> f64 {
        let price = self.price();
        count / price.per * price.dollars
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_documentation_has_the_same_prices() {
        let text = include_str!("../../../docs/costs.md");
        assert!(text.contains(&format!("{DATE}, {REGION}")), "{DATE}");
        for meter in Meter::ALL {
            let price = meter.price();
            let row = format!(
                "| {} | {} | ${} {} | {} |",
                price.service, price.what, price.dollars, price.unit, price.source
            );
            assert!(text.lines().any(|line| line == row), "missing: {row}");
        }
    }

    #[test]
    fn a_meter_is_listed_once() {
        let mut all = Meter::ALL.to_vec();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), Meter::ALL.len());
        let last = Meter::ALL.iter().max().unwrap();
        assert_eq!(*last as usize + 1, Meter::ALL.len());
    }
}
