//! What an attempt has used of models, its ceilings, and the list of its calls.
//!
//! The figures stand in a file, so that they outlive this process as the sandbox does.

use super::usage::{Took, Used};
use jiff::Timestamp;
use loopy_contract::price::{Price, price};
use loopy_engine::ports::Allowance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The list of calls is not added to past this size.
const MOST_LISTED: u64 = 1024 * 1024;
/// Calls of an attempt that may be under way at a time; more wait. It bounds by how
/// much a ceiling may be passed.
const MOST_AT_ONCE: usize = 16;
/// Characters of a model's name, or of a reason, in the list.
const LONGEST_WORDS: usize = 200;
/// What a token costs Anthropic's customers that is written to the cache, as a multiple
/// of one that is only read. Others count none apart.
const CACHE_WRITE: f64 = 1.25;
/// The list of calls.
pub(crate) const LIST: &str = "model-calls.log";
/// The sum over them.
const SUM: &str = "model-usage.json";

/// What is said of a sandbox whose keys are with the engine: which variables it has,
/// and what it may use. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// The sandbox's name in the registry.
    pub sandbox: String,
    /// The files with its variables.
    pub env_file: Vec<String>,
    /// What it may use.
    pub allowance: Allowance,
}

/// A call, as it is listed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) at: Timestamp,
    pub(crate) api: String,
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// What the sandbox was answered.
    pub(crate) status: u16,
    pub(crate) input_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    /// None where the model's price is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usd: Option<f64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) reckoned: bool,
    pub(crate) milliseconds: u64,
    /// Why it did not come about, if Loopy knows better than the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Call {
    /// One that begins now.
    pub(crate) fn new(api: String, path: &str, model: Option<&str>) -> Self {
        let short = |text: &str| -> String { text.chars().take(LONGEST_WORDS).collect() };
        Self {
            at: Timestamp::now(),
            api,
            path: short(path),
            model: model.map(short),
            status: 0,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            usd: None,
            reckoned: false,
            milliseconds: 0,
            problem: None,
        }
    }

    /// Puts down what it took.
    pub(crate) fn took(&mut self, took: &Took, price: Option<Price>) {
        self.input_tokens = took.used.input;
        self.cached_tokens = took.used.cached;
        self.output_tokens = took.used.output;
        self.reckoned = took.reckoned;
        self.usd = price.map(|price| dollars(price, took.used));
    }

    /// It is over: after this long, with this answer.
    pub(crate) fn over(&mut self, status: u16, after: Duration, problem: Option<&str>) {
        self.status = status;
        self.milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.problem = problem.map(|why| why.chars().take(LONGEST_WORDS).collect());
    }
}

fn dollars(price: Price, used: Used) -> f64 {
    price.usd(used.input, used.cached, used.output)
        + price.usd(used.cache_written, 0, 0) * (CACHE_WRITE - 1.0)
}

/// What all calls came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) calls: u64,
    pub(crate) input_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) usd: f64,
}

/// The account of one attempt.
pub(crate) struct Account {
    folder: PathBuf,
    terms: Arc<Terms>,
    sum: Mutex<Sum>,
    /// Places for calls that are under way.
    pub(crate) places: Arc<Semaphore>,
}

impl Account {
    /// The account whose files lie here.
    ///
    /// # Errors
    /// What was used before cannot be read.
    pub(crate) fn open(folder: PathBuf, terms: Arc<Terms>) -> io::Result<Self> {
        let sum = match fs::read(folder.join(SUM)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(why) if why.kind() == ErrorKind::NotFound => Sum::default(),
            Err(why) => return Err(why),
        };
        Ok(Self {
            folder,
            terms,
            sum: Mutex::new(sum),
            places: Arc::new(Semaphore::new(MOST_AT_ONCE)),
        })
    }

    /// What a model costs that is asked for by this name. A project's own price may
    /// be said for it with its provider before it.
    pub(crate) fn price(&self, api: &str, model: &str) -> Option<Price> {
        let own = &self.terms.allowance.prices;
        let of_provider = |name: &str| {
            let (provider, rest) = name.split_once('/')?;
            let same = |c: char| match c.to_ascii_lowercase() {
                c if c.is_ascii_alphanumeric() => c,
                _ => '_',
            };
            (rest == model && provider.chars().map(same).eq(api.chars())).then_some(())
        };
        if !own.contains_key(model)
            && let Some((_, price)) = own.iter().find(|(name, _)| of_provider(name).is_some())
        {
            return Some(*price);
        }
        price(own, model)
    }

    /// Why no call may begin that costs tokens, if none may.
    pub(crate) fn refusal(&self, model: &str, price: Option<Price>) -> Option<String> {
        let Allowance { usd, tokens, .. } = &self.terms.allowance;
        let sum = self.sum();
        let used = sum.input_tokens + sum.output_tokens;
        if let Some(limit) = tokens
            && used >= *limit
        {
            return Some(format!(
                "the step may use {limit} tokens and has used {used}; raise `budget.tokens` if it needs more"
            ));
        }
        let limit = (*usd)?;
        if sum.usd >= limit {
            return Some(format!(
                "the step may spend ${limit} and has spent ${:.4}; raise `budget.spend`, or the project's `limits`, if it needs more",
                sum.usd
            ));
        }
        if price.is_some() {
            return None;
        }
        let model: String = model.chars().take(LONGEST_WORDS).collect();
        Some(format!(
            "the step's dollars are limited, and what {model} costs is not known; say it under `prices` in registry.yml"
        ))
    }

    /// Lists a call that is over, and adds it to the sum.
    ///
    /// # Errors
    /// When a file cannot be written; it counts all the same.
    pub(crate) fn book(&self, call: &Call) -> io::Result<()> {
        let mut kept = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        kept.calls += 1;
        kept.input_tokens += call.input_tokens;
        kept.cached_tokens += call.cached_tokens;
        kept.output_tokens += call.output_tokens;
        kept.usd += call.usd.unwrap_or_default();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        // Written with the lock held, so that no older sum lands last.
        let sum = write_sum(&self.folder.join(SUM), &kept);
        sum.and(append(&self.folder.join(LIST), call))
    }

    /// What was used so far.
    pub(crate) fn sum(&self) -> Sum {
        *self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_sum(path: &Path, sum: &Sum) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(&serde_json::to_vec(sum).map_err(io::Error::other)?)?;
    drop(file);
    fs::rename(&part, path)
}

fn append(path: &Path, call: &Call) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() >= MOST_LISTED {
        return Ok(());
    }
    let mut line = serde_json::to_vec(call).map_err(io::Error::other)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// The accounts of a process, by sandbox.
#[derive(Default)]
pub(crate) struct Accounts {
    open: Mutex<BTreeMap<String, Arc<Account>>>,
}

impl Accounts {
    /// The account of a sandbox: one, however many ask.
    ///
    /// # Errors
    /// What was used before cannot be read.
    pub(crate) fn of(
        &self,
        sandbox: &str,
        folder: &Path,
        terms: &Arc<Terms>,
    ) -> io::Result<Arc<Account>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = open.get(sandbox) {
            return Ok(Arc::clone(account));
        }
        let account = Arc::new(Account::open(folder.to_owned(), Arc::clone(terms))?);
        open.insert(sandbox.to_owned(), Arc::clone(&account));
        Ok(account)
    }

    /// The sandbox is gone.
    pub(crate) fn close(&self, sandbox: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(sandbox);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tempfile::TempDir;

    fn account(folder: &TempDir, allowance: Allowance) -> Account {
        let terms = Terms {
            sandbox: "Box".to_owned(),
            env_file: Vec::new(),
            allowance,
        };
        Account::open(folder.path().join("sandboxes/x"), Arc::new(terms)).unwrap()
    }

    fn call(account: &Account, used: Used) -> Call {
        let price = account.price("anthropic", "claude-sonnet-4-6");
        let mut call = Call::new(
            "anthropic".to_owned(),
            "messages",
            Some("claude-sonnet-4-6"),
        );
        let took = Took {
            used,
            ..Took::default()
        };
        call.took(&took, price);
        call.over(200, Duration::from_millis(5), None);
        call
    }

    fn million() -> Used {
        Used {
            input: 1_000_000,
            cached: 200_000,
            cache_written: 400_000,
            output: 100_000,
        }
    }

    #[test]
    fn the_sum_outlives_the_process_and_ends_at_the_ceilings() {
        let folder = TempDir::new().unwrap();
        let allowance = Allowance {
            usd: Some(5.0),
            ..Allowance::default()
        };
        let first = account(&folder, allowance.clone());
        let price = first.price("anthropic", "claude-sonnet-4-6");
        assert_eq!(first.refusal("claude-sonnet-4-6", price), None);
        let call = call(&first, million());
        // 0.8 fresh at 3, 0.2 cached at 0.3, 0.4 written at a quarter more, 0.1 at 15.
        assert!((call.usd.unwrap() - (2.4 + 0.06 + 0.3 + 1.5)).abs() < 1e-9);
        first.book(&call).unwrap();
        assert_eq!(first.refusal("claude-sonnet-4-6", price), None);

        let second = account(&folder, allowance);
        assert_eq!(second.sum(), first.sum());
        second.book(&call).unwrap();
        let why = second.refusal("claude-sonnet-4-6", price).unwrap();
        assert!(why.contains("$5 and has spent $8.52"), "{why}");

        let tokens = Allowance {
            tokens: Some(2_200_000),
            ..Allowance::default()
        };
        let third = account(&folder, tokens);
        let why = third.refusal("any", None).unwrap();
        assert!(why.contains("has used 2200000"), "{why}");
    }

    #[test]
    fn dollars_need_a_price_and_a_provider_may_stand_before_the_model() {
        let folder = TempDir::new().unwrap();
        let own = Price {
            input: 1.0,
            output: 2.0,
            cached: None,
        };
        let prices = [("my-gate/big", own), ("gpt-5", own)]
            .map(|(name, price)| (name.to_owned(), price))
            .into();
        let account = account(
            &folder,
            Allowance {
                usd: Some(1.0),
                tokens: None,
                prices,
            },
        );
        assert_eq!(account.price("my_gate", "big"), Some(own));
        assert_eq!(account.price("my_gate", "my-gate/big"), Some(own));
        assert_eq!(account.price("openai", "gpt-5"), Some(own));
        assert_eq!(account.price("openai", "gpt-5.1").unwrap().input, 1.25);
        assert_eq!(account.price("openai", "big"), None);
        let why = account.refusal("big", None).unwrap();
        assert!(why.contains("what big costs is not known"), "{why}");
    }

    #[test]
    fn the_list_is_bounded_and_a_sum_that_cannot_be_read_is_an_error() {
        let folder = TempDir::new().unwrap();
        let account = account(&folder, Allowance::default());
        let mut call = call(&account, Used::default());
        call.model = Some("m".repeat(LONGEST_WORDS));
        for _ in 0..3000 {
            append(&folder.path().join(LIST), &call).unwrap();
        }
        let size = fs::metadata(folder.path().join(LIST)).unwrap().len();
        assert!(size < MOST_LISTED + 1000, "{size}");

        account.book(&call).unwrap();
        fs::write(folder.path().join("sandboxes/x").join(SUM), "{").unwrap();
        let terms = Arc::clone(&account.terms);
        assert!(Account::open(folder.path().join("sandboxes/x"), terms).is_err());
    }
}
