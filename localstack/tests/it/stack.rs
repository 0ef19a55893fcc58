//! A deployed stack as a test sees it: through the command and the queues.

use crate::around::Account;
use loopy_aws::endpoint::function_url;
use loopy_localstack::{Loopy, eventually, prepared};
use serde_json::Value;
use std::process::Output;
use std::time::Duration;

/// How long anything may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A deployed stack and who works with it.
pub(crate) struct Deployed {
    /// The stack's name. Each test has its own, although it has an account of
    /// its own too: the emulator ends the running processes of every function
    /// with the name of one that is made, in whatever account.
    pub(crate) stack: &'static str,
    pub(crate) account: Account,
    pub(crate) loopy: Loopy,
}

/// An account of AWS itself is left as it was found, but for what a stack keeps.
impl Drop for Deployed {
    fn drop(&mut self) {
        if self.account.endpoint.is_none() {
            let destroy = [&["destroy", "--yes"][..], &self.place()].concat();
            // Panicking while a test fails would hide why it does.
            let _ = self.loopy.run(&destroy);
        }
    }
}

impl Deployed {
    /// An account without a stack.
    pub(crate) fn nothing(stack: &'static str) -> Self {
        Self::nothing_in(Account::new(), stack)
    }

    /// One where signatures are checked and a role may do only what its policies say.
    pub(crate) fn nothing_enforced(stack: &'static str) -> Self {
        Self::nothing_in(Account::at("LOOPY_TEST_EMULATOR_ENFORCING"), stack)
    }

    fn nothing_in(account: Account, stack: &'static str) -> Self {
        let loopy = account.loopy();
        Self {
            stack,
            account,
            loopy,
        }
    }

    /// The arguments that lead a command here.
    pub(crate) fn place(&self) -> Vec<&str> {
        [&["--stack", self.stack][..], &self.account.place()].concat()
    }

    pub(crate) fn deploy(&self, project: &str, more: &[&str]) -> Output {
        let functions = prepared("LOOPY_TEST_DIST").unwrap();
        let mut arguments = vec!["deploy", project, "--stack", self.stack];
        arguments.extend(["--functions", &functions]);
        arguments.extend(self.account.place());
        arguments.extend(more);
        self.loopy.run(&arguments).unwrap()
    }

    pub(crate) fn runs(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["runs"];
        all.extend(arguments);
        all.extend(["--stack", self.stack, "--json"]);
        all.extend(self.account.place());
        self.loopy.json(&all).unwrap()
    }

    /// All there is about a run of a listing.
    pub(crate) fn show(&self, run: &Value) -> Value {
        self.runs(&["show", run["id"].as_str().unwrap()])
    }

    /// Waits until there are so many runs, all of them over.
    pub(crate) async fn runs_over(&self, count: usize) -> Vec<Value> {
        eventually("the runs to end", LONG, async || {
            let runs = self.runs(&["list"]);
            let runs = runs.as_array().unwrap();
            let over = runs.iter().all(|run| run["status"] != "running");
            if runs.len() >= count && over {
                return Ok(runs.clone());
            }
            let shown = runs.iter().map(|run| self.show(run).to_string());
            Err(shown.collect::<Vec<_>>().join("\n"))
        })
        .await
        .unwrap()
    }

    /// What CloudFormation says of the stack.
    pub(crate) fn cloudformation(&self, command: &str, arguments: &[&str]) -> Value {
        let about = ["cloudformation", command, "--stack-name", self.stack];
        self.account.aws(&[&about, arguments].concat())
    }

    pub(crate) fn status(&self) -> String {
        let found = self.cloudformation("describe-stacks", &[]);
        let status = found["Stacks"][0]["StackStatus"].as_str().unwrap();
        status.to_owned()
    }

    /// An output of the stack.
    pub(crate) fn output(&self, name: &str) -> String {
        let found = self.cloudformation("describe-stacks", &["--query", "Stacks[0].Outputs"]);
        let outputs = found.as_array().unwrap();
        let output = outputs.iter().find(|output| output["OutputKey"] == name);
        output.unwrap()["OutputValue"].as_str().unwrap().to_owned()
    }

    /// An output that is a function's URL, as the endpoint serves it.
    pub(crate) fn address(&self, name: &str) -> String {
        function_url(&self.output(name), self.account.endpoint.as_deref())
    }

    /// The account's own name of a resource of the stack.
    pub(crate) fn resource(&self, name: &str) -> String {
        let named = ["--logical-resource-id", name];
        let found = self.cloudformation("describe-stack-resource", &named);
        let id = &found["StackResourceDetail"]["PhysicalResourceId"];
        id.as_str().unwrap().to_owned()
    }

    /// How many messages wait in the queue, in flight included.
    pub(crate) fn waiting(&self, output: &str) -> u64 {
        let url = self.output(output);
        let found = self.account.aws(&[
            "sqs",
            "get-queue-attributes",
            "--queue-url",
            &url,
            "--attribute-names",
            "All",
        ]);
        let attribute =
            |name: &str| -> u64 { found["Attributes"][name].as_str().unwrap().parse().unwrap() };
        attribute("ApproximateNumberOfMessages")
            + attribute("ApproximateNumberOfMessagesNotVisible")
            + attribute("ApproximateNumberOfMessagesDelayed")
    }
}
