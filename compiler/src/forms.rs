//! Reads what a step may add to its wiring: `each`, `retry`, `approve`,
//! `concurrency`, `loop`, `files`, conditions, and what shapes its trigger.

use crate::condition::{ConditionDraft, Lines};
use crate::diagnostic::{Code, Span, number};
use crate::duration;
use crate::nearest::did_you_mean;
use crate::step_reader::Reader;
use crate::template::is_name;
use crate::yaml::{self, Node, Scalar, Value};
use loopy_contract::failure::FailureClass;
use loopy_contract::files::Pattern;
use loopy_contract::manifest::{Answer, Approve, Concurrency, FieldRef, Retry, Strategy, Trigger};
use std::collections::{BTreeMap, BTreeSet};

/// More further attempts than this are a mistake.
const MAX_RETRIES: u32 = 100;

/// More at once than this is no limit.
const MAX_AT_ONCE: u32 = 100_000;

/// More rounds than this are a mistake.
const MAX_ROUNDS: u32 = 1_000;

/// The failures that a step is tried again for when none are named: all but a
/// spent budget, which a further attempt would only spend again.
const RETRIED: [FailureClass; 5] = [
    FailureClass::Crash,
    FailureClass::Timeout,
    FailureClass::Output,
    FailureClass::Sandbox,
    FailureClass::Lost,
];

/// What `approve.otherwise` may say.
pub(crate) const ANSWERS: [(&str, Answer); 2] =
    [("deny", Answer::Deny), ("approve", Answer::Approve)];

/// What `concurrency.strategy` may say.
pub(crate) const STRATEGIES: [(&str, Strategy); 3] = [
    ("queue", Strategy::Queue),
    ("cancel-running", Strategy::CancelRunning),
    ("drop", Strategy::Drop),
];

/// A condition under a key that has to hold one.
#[derive(Clone, Debug, Default)]
pub(crate) enum When {
    /// There is none.
    #[default]
    Always,
    /// There is one, but it cannot be read, which has been reported.
    Broken,
    Read(ConditionDraft),
}

impl When {
    /// The condition, if there is a readable one.
    pub(crate) fn read(&self) -> Option<&ConditionDraft> {
        match self {
            Self::Read(condition) => Some(condition),
            Self::Always | Self::Broken => None,
        }
    }
}

/// `each: plan.tasks as task`
#[derive(Debug)]
pub(crate) struct EachDraft {
    pub(crate) over: FieldRef,
    pub(crate) over_span: Span,
    pub(crate) name: String,
    pub(crate) name_span: Span,
}

/// `concurrency: { key: event.repo, limit: 1 }`
#[derive(Debug)]
pub(crate) struct ConcurrencyDraft {
    pub(crate) concurrency: Concurrency,
    pub(crate) key_span: Span,
}

/// `loop: { to: fix, until: …, max: 3 }`
#[derive(Debug)]
pub(crate) struct LoopDraft {
    pub(crate) to: String,
    pub(crate) to_span: Span,
    pub(crate) until: ConditionDraft,
    pub(crate) max: u32,
}

/// One of `files: [build/dist/**, plan/notes.md]`
#[derive(Debug)]
pub(crate) struct FilesDraft {
    pub(crate) step: String,
    pub(crate) path: Pattern,
    /// Of the whole.
    pub(crate) span: Span,
    /// Of the step's name, where it has a place of its own.
    pub(crate) step_span: Option<Span>,
}

/// All of them, of one step.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    pub(crate) when: When,
    pub(crate) each: Option<EachDraft>,
    pub(crate) retry: Option<Retry>,
    pub(crate) approve: Option<Approve>,
    pub(crate) concurrency: Option<ConcurrencyDraft>,
    pub(crate) r#loop: Option<LoopDraft>,
    pub(crate) files: Vec<FilesDraft>,
    /// There is an `each`, but it cannot be read, which has been reported.
    pub(crate) each_is_broken: bool,
    /// The conditions of events that are emitted, by event.
    pub(crate) emits_when: BTreeMap<String, ConditionDraft>,
    /// The condition of the trigger.
    pub(crate) on_when: When,
}

impl Forms {
    /// The conditions and references outside the body: producer and field. The
    /// field is empty where all of a producer is read.
    pub(crate) fn references(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        if let Some(each) = &self.each {
            found.push((each.over.producer.as_str(), each.over.field.as_str()));
        }
        if let Some(draft) = &self.concurrency
            && let Some(key) = &draft.concurrency.key
        {
            found.push((key.producer.as_str(), key.field.as_str()));
        }
        let conditions = [self.when.read(), self.on_when.read()];
        let until = self.r#loop.as_ref().map(|draft| &draft.until);
        for condition in conditions
            .into_iter()
            .flatten()
            .chain(until)
            .chain(self.emits_when.values())
        {
            found.extend(condition.references());
        }
        found
    }
}

/// What is said of a map under a key.
pub(crate) struct Form {
    code: Code,
    /// The key.
    name: &'static str,
    /// The keys of the map.
    pub(crate) keys: &'static [&'static str],
    hint: &'static str,
}

pub(crate) const RETRY: Form = Form {
    code: Code::E121,
    name: "retry",
    keys: &["max", "backoff", "on"],
    hint: "write retry: { max: 2, backoff: 30s, on: [crash, timeout, output] }",
};
pub(crate) const APPROVE: Form = Form {
    code: Code::E122,
    name: "approve",
    keys: &["before", "after", "within", "otherwise"],
    hint: "write approve: { before: true, within: 24h, otherwise: deny }",
};
pub(crate) const CONCURRENCY: Form = Form {
    code: Code::E123,
    name: "concurrency",
    keys: &["key", "limit", "strategy"],
    hint: "write concurrency: { key: event.repo, limit: 1, strategy: queue }",
};
pub(crate) const LOOP: Form = Form {
    code: Code::E124,
    name: "loop",
    keys: &["to", "until", "max"],
    hint: "write loop: { to: fix, until: review.verdict == \"pass\", max: 3 }",
};
pub(crate) const EMITS: Form = Form {
    code: Code::E125,
    name: "emits",
    keys: &["when"],
    hint: "write emits: { Event: { when: review.verdict == \"pass\" } }",
};
pub(crate) const ON: Form = Form {
    code: Code::E126,
    name: "on",
    keys: &["event", "when", "debounce"],
    hint: "write on: { event: Event, when: event.base == \"main\", debounce: 30s }",
};

impl Reader<'_> {
    /// Reads all forms but those of `on` and `emits`.
    pub(crate) fn forms(&mut self, entries: &[(Node, Node)], lines: &Lines<'_>) -> Forms {
        let given = |key| yaml::get(entries, key).filter(|node| !node.is_null());
        let when = match entries
            .iter()
            .find(|(key, _)| key.as_text() == Some("when"))
        {
            None => When::Always,
            Some((key, node)) => self.when(key, node, lines),
        };
        let each = given("each").map(|node| self.each(node, lines));
        Forms {
            when,
            each_is_broken: matches!(each, Some(None)),
            each: each.flatten(),
            retry: given("retry").and_then(|node| self.retry(node)),
            approve: given("approve").and_then(|node| self.approve(node)),
            concurrency: given("concurrency").and_then(|node| self.concurrency(node)),
            r#loop: given("loop").and_then(|node| self.r#loop(node, lines)),
            files: given("files").map_or_else(Vec::new, |node| self.files(node)),
            emits_when: BTreeMap::new(),
            on_when: When::Always,
        }
    }

    /// Reads a condition. A key without a value is no condition that always
    /// holds: whoever writes `when:` wants one.
    fn when(&mut self, key: &Node, node: &Node, lines: &Lines<'_>) -> When {
        if node.is_null() {
            self.report
                .add(Code::E310, self.file, key.span, "the condition is empty")
                .hint("write when: event.field == \"value\", or remove it");
            return When::Broken;
        }
        match ConditionDraft::read(node, lines) {
            Ok(condition) => When::Read(condition),
            Err(refusal) => {
                self.report
                    .add(Code::E310, self.file, refusal.span, refusal.message)
                    .hint_if(refusal.hint);
                When::Broken
            }
        }
    }

    fn refuse(&mut self, form: &Form, span: Span, message: String) {
        self.report
            .add(form.code, self.file, span, message)
            .hint(form.hint);
    }

    /// The entries of a form; unknown keys are told.
    fn entries<'n>(&mut self, form: &Form, node: &'n Node) -> Option<&'n [(Node, Node)]> {
        let Some(entries) = node.as_map() else {
            let message = format!("`{}` has to be a map, this is {}", form.name, node.kind());
            self.refuse(form, node.span, message);
            return None;
        };
        for (key, _) in entries {
            let name = key.as_written().unwrap_or("~");
            if !form.keys.contains(&name) {
                self.unknown_key(key.span, name, form.keys, &format!("`{}`", form.name));
            }
        }
        Some(entries)
    }

    /// A count from 1 to `most`; `None` when it is not one.
    fn above_zero(&mut self, form: &Form, key: &str, node: &Node, most: u32) -> Option<u32> {
        let count = match &node.value {
            Value::Scalar(_, Scalar::Int(int)) => u32::try_from(*int).ok(),
            _ => None,
        }
        .filter(|count| (1..=most).contains(count));
        if count.is_none() {
            let message = format!(
                "`{}.{key}` has to be a whole number from 1 to {most}",
                form.name
            );
            self.refuse(form, node.span, message);
        }
        count
    }

    /// The seconds of a duration above zero.
    fn seconds(&mut self, form: &Form, key: &str, node: &Node) -> Option<u64> {
        let seconds = node
            .as_written()
            .and_then(|text| duration::seconds(text.trim()))
            .filter(|seconds| *seconds > 0);
        if seconds.is_none() {
            let message = format!("`{}.{key}` is no duration", form.name);
            self.report
                .add(form.code, self.file, node.span, message)
                .hint("a duration is a number above 0 and one of s, m, h, d: 30s");
        }
        seconds
    }

    /// One of several words.
    fn choice<T: Copy>(
        &mut self,
        form: &Form,
        key: &str,
        node: &Node,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let written = node.as_written().unwrap_or_default();
        let found = choices.iter().find(|(name, _)| *name == written);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "`{}.{key}` has to be one of {}",
                form.name,
                names.join(", ")
            );
            self.report
                .add(form.code, self.file, node.span, message)
                .hint(did_you_mean(written, names).unwrap_or_else(|| form.hint.to_owned()));
        }
        found.map(|(_, choice)| *choice)
    }

    /// `REF as NAME`
    fn each(&mut self, node: &Node, lines: &Lines<'_>) -> Option<EachDraft> {
        let form = Form {
            code: Code::E120,
            name: "each",
            keys: &[],
            hint: "write each: plan.tasks as task",
        };
        let Some(written) = node.as_written() else {
            let message = format!("`each` has to be text, this is {}", node.kind());
            self.refuse(&form, node.span, message);
            return None;
        };
        let words: Vec<&str> = written.split_whitespace().collect();
        let [over, "as", name] = words.as_slice() else {
            let message = format!("`{written}` is not `reference as name`");
            self.refuse(&form, node.span, message);
            return None;
        };
        let spans = lines.words(written, node.span);
        let at = |word: usize| spans.get(word).copied().unwrap_or(node.span);
        let reference = reference(over);
        if reference.is_none() {
            self.refuse(&form, at(0), format!("`{over}` is not a reference"));
        }
        let is_name = is_name(name);
        if !is_name {
            self.refuse(&form, at(2), format!("`{name}` is not a name"));
        }
        let over = reference.filter(|_| is_name)?;
        Some(EachDraft {
            over,
            over_span: at(0),
            name: (*name).to_owned(),
            name_span: at(2),
        })
    }

    fn retry(&mut self, node: &Node) -> Option<Retry> {
        let entries = self.entries(&RETRY, node)?;
        let Some(max) = yaml::get(entries, "max") else {
            self.refuse(&RETRY, node.span, "`retry` does not say `max`".to_owned());
            return None;
        };
        let max = self.above_zero(&RETRY, "max", max, MAX_RETRIES);
        let backoff = given(entries, "backoff");
        let backoff = backoff.and_then(|node| self.seconds(&RETRY, "backoff", node));
        let on = match given(entries, "on") {
            None => RETRIED.into(),
            Some(node) => self.failures(node),
        };
        Some(Retry {
            max: max?,
            backoff,
            on,
        })
    }

    fn failures(&mut self, node: &Node) -> BTreeSet<FailureClass> {
        let choices = FailureClass::ALL.map(|class| (class.name(), class));
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        if items.is_empty() {
            let message = "`retry.on` names no failure, so nothing is tried again";
            self.refuse(&RETRY, node.span, message.to_owned());
        }
        items
            .iter()
            .filter_map(|item| self.choice(&RETRY, "on", item, &choices))
            .collect()
    }

    fn approve(&mut self, node: &Node) -> Option<Approve> {
        let entries = self.entries(&APPROVE, node)?;
        let mut flag = |key| match given(entries, key) {
            None => Some(false),
            Some(Node {
                value: Value::Scalar(_, Scalar::Bool(flag)),
                ..
            }) => Some(*flag),
            Some(node) => {
                let message = format!("`approve.{key}` has to be true or false");
                self.refuse(&APPROVE, node.span, message);
                None
            }
        };
        let (before, after) = (flag("before"), flag("after"));
        if (before, after) == (Some(false), Some(false)) {
            let message = "`approve` asks neither `before` nor `after` the step";
            self.refuse(&APPROVE, node.span, message.to_owned());
            return None;
        }
        let within = given(entries, "within");
        let otherwise = given(entries, "otherwise");
        let answer = match otherwise {
            None => Some(Answer::Deny),
            Some(node) => self.choice(&APPROVE, "otherwise", node, &ANSWERS),
        };
        if let Some(node) = otherwise
            && within.is_none()
        {
            self.ignored(
                node.span,
                "`approve.otherwise` has no effect without `within`".to_owned(),
                "write within: 24h, or leave `otherwise` out",
            );
        }
        let within = within.and_then(|node| self.seconds(&APPROVE, "within", node));
        Some(Approve {
            before: before?,
            after: after?,
            within,
            otherwise: answer?,
        })
    }

    fn concurrency(&mut self, node: &Node) -> Option<ConcurrencyDraft> {
        let entries = self.entries(&CONCURRENCY, node)?;
        let key_node = given(entries, "key");
        let key = key_node.and_then(|node| {
            let written = node.as_written().unwrap_or_default();
            let key = reference(written.trim()).filter(|key| !key.field.is_empty());
            if key.is_none() {
                let message = format!(
                    "`concurrency.key` has to be a reference, this is {}",
                    node.kind()
                );
                self.refuse(&CONCURRENCY, node.span, message);
            }
            key
        });
        let Some(limit) = given(entries, "limit") else {
            let message = "`concurrency` does not say its `limit`";
            self.refuse(&CONCURRENCY, node.span, message.to_owned());
            return None;
        };
        let limit = self.above_zero(&CONCURRENCY, "limit", limit, MAX_AT_ONCE);
        let strategy = match given(entries, "strategy") {
            None => Some(Strategy::Queue),
            Some(node) => self.choice(&CONCURRENCY, "strategy", node, &STRATEGIES),
        };
        Some(ConcurrencyDraft {
            concurrency: Concurrency {
                key,
                limit: limit?,
                strategy: strategy?,
            },
            key_span: key_node.unwrap_or(node).span,
        })
    }

    fn r#loop(&mut self, node: &Node, lines: &Lines<'_>) -> Option<LoopDraft> {
        let entries = self.entries(&LOOP, node)?;
        let mut missing = false;
        for key in ["to", "until", "max"] {
            if given(entries, key).is_none() {
                self.refuse(&LOOP, node.span, format!("`loop` does not say `{key}`"));
                missing = true;
            }
        }
        let target = given(entries, "to").and_then(|to| match to.as_written() {
            Some(name) => Some((name.trim().to_owned(), to.span)),
            None => {
                let message = format!("`loop.to` has to be a step's name, this is {}", to.kind());
                self.refuse(&LOOP, to.span, message);
                None
            }
        });
        let until = entries
            .iter()
            .find(|(key, node)| key.as_text() == Some("until") && !node.is_null())
            .map(|(key, node)| self.when(key, node, lines));
        let max =
            given(entries, "max").and_then(|node| self.above_zero(&LOOP, "max", node, MAX_ROUNDS));
        let (to, to_span) = target?;
        match until? {
            When::Read(until) if !missing => Some(LoopDraft {
                to,
                to_span,
                until,
                max: max?,
            }),
            _ => None,
        }
    }

    /// `STEP/PATH`, or a list of them.
    fn files(&mut self, node: &Node) -> Vec<FilesDraft> {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        items.iter().filter_map(|item| self.file(item)).collect()
    }

    fn file(&mut self, node: &Node) -> Option<FilesDraft> {
        let form = Form {
            code: Code::E127,
            name: "files",
            keys: &[],
            hint: "write files: [build/dist/**, plan/notes.md], each a step and a path of its files",
        };
        let Some(written) = node.as_written().filter(|_| !node.is_null()) else {
            let message = format!("`files` holds paths, this is {}", node.kind());
            self.refuse(&form, node.span, message);
            return None;
        };
        let text = written.trim();
        let Some((step, path)) = text.split_once('/') else {
            let message = format!("`{text}` names no path of a step's files");
            self.refuse(&form, node.span, message);
            return None;
        };
        // Its files go into a folder of the step's name.
        if matches!(step, "" | "." | "..") {
            let message = format!("`{text}` does not begin with a step's name");
            self.refuse(&form, node.span, message);
            return None;
        }
        match Pattern::parse(path) {
            Ok(path) => {
                // A span of another length has quotes or an escape in it.
                let whole = number(written.chars().count());
                let step_span = (node.span.length == whole).then_some(Span {
                    length: number(step.chars().count()),
                    ..node.span
                });
                Some(FilesDraft {
                    step: step.to_owned(),
                    path,
                    span: node.span,
                    step_span,
                })
            }
            Err(why) => {
                self.refuse(&form, node.span, format!("the path `{path}`: {why}"));
                None
            }
        }
    }

    /// `emits: { Event: { when: … } }`: the events, and the conditions that
    /// some of them have.
    pub(crate) fn conditional_emits(
        &mut self,
        entries: &[(Node, Node)],
        lines: &Lines<'_>,
    ) -> (Vec<(String, Span)>, BTreeMap<String, ConditionDraft>) {
        let mut events = Vec::new();
        let mut conditions = BTreeMap::new();
        for (key, node) in entries {
            let Some(event) = key.as_written().filter(|name| !name.trim().is_empty()) else {
                let message = format!("an event's name has to be text, this is {}", key.kind());
                self.refuse(&EMITS, key.span, message);
                continue;
            };
            events.push((event.trim().to_owned(), key.span));
            if node.is_null() {
                continue;
            }
            let Some(body) = self.entries(&EMITS, node) else {
                continue;
            };
            let when = body.iter().find(|(key, _)| key.as_text() == Some("when"));
            if let Some((key, node)) = when
                && let When::Read(condition) = self.when(key, node, lines)
            {
                conditions.insert(event.trim().to_owned(), condition);
            }
        }
        (events, conditions)
    }

    /// What shapes `on: { event: X, when: …, debounce: 30s }`: put into the
    /// trigger, and the condition for its checks.
    pub(crate) fn shape(
        &mut self,
        entries: &[(Node, Node)],
        trigger: &mut Trigger,
        lines: &Lines<'_>,
    ) -> When {
        let is_shaping = |key: &Node| matches!(key.as_text(), Some("when" | "debounce"));
        let Trigger::Event { when, debounce, .. } = trigger else {
            if let Some((key, _)) = entries.iter().find(|(key, _)| is_shaping(key)) {
                self.report
                    .add(
                        ON.code,
                        self.file,
                        key.span,
                        "a schedule has neither a condition nor a debounce",
                    )
                    .hint("they are for events; a step's own `when` can read a schedule's tick");
            }
            return When::Always;
        };
        *debounce = given(entries, "debounce").and_then(|node| self.seconds(&ON, "debounce", node));
        let written = entries
            .iter()
            .find(|(key, _)| key.as_text() == Some("when"));
        let condition = match written {
            None => When::Always,
            Some((key, node)) => self.when(key, node, lines),
        };
        *when = condition.read().map(ConditionDraft::lower);
        condition
    }
}

fn given<'n>(entries: &'n [(Node, Node)], key: &str) -> Option<&'n Node> {
    yaml::get(entries, key).filter(|node| !node.is_null())
}

/// `producer.field`, or `producer` alone.
fn reference(text: &str) -> Option<FieldRef> {
    let (producer, field) = match text.split_once('.') {
        Some((producer, field)) => (producer, Some(field)),
        None => (text, None),
    };
    let readable = is_name(producer) && field.is_none_or(is_name);
    readable.then(|| FieldRef {
        producer: producer.to_owned(),
        field: field.unwrap_or_default().to_owned(),
    })
}
