//! Checks what steps read outside and inside their bodies: that each reference
//! names something that is there, and that conditions compare what can be
//! compared.

use crate::condition::ConditionDraft;
use crate::diagnostic::{Code, Report, Span};
use crate::expression::{Expr, Kind};
use crate::forms::When;
use crate::nearest::did_you_mean;
use crate::presence::Facts;
use crate::registry::RegistryDraft;
use crate::step::{StepDraft, TriggerDraft, WorkflowDraft, Workflows};
use crate::types::Fields;
use crate::value_type::{Shape, Type};
use jiff::Timestamp;
use loopy_contract::expression::Comparison;
use loopy_contract::manifest::Trigger;
use serde_json::Value;
use std::collections::BTreeSet;

/// The fields of a schedule's tick.
pub(crate) const TICK: [&str; 2] = ["scheduled_at", "last_run"];

/// Checks all steps of all workflows.
pub(crate) fn check(workflows: &Workflows, registry: &RegistryDraft, report: &mut Report) {
    for workflow in workflows.by_name.values() {
        let entry = workflow.entry();
        let trigger = entry.and_then(|entry| match &entry.trigger {
            TriggerDraft::Read(trigger, _) => Some(trigger),
            _ => None,
        });
        for step in workflow.steps.values() {
            let mut known = Facts::default();
            let asked = entry.and_then(|entry| entry.forms.on_when.read());
            if let Some(asked) = asked {
                known.hold(&asked.expr);
            }
            let mut checker = Checker {
                workflow,
                registry,
                trigger,
                step,
                reads: Reads::BeforeIt,
                report,
            };
            checker.step(known);
        }
    }
}

/// What can be read at a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Only the event.
    Event,
    /// The event and the steps before this one.
    BeforeIt,
    /// The outputs of this attempt of the step, too: of one item, when the
    /// step has `each`.
    ItsAttempt,
    /// The outputs of the step, too, as its readers get them.
    Itself,
}

/// What a reference names. Its type is worked out only where it matters: a body
/// may have many references to a large schema.
enum Declared<'a> {
    /// A time of a schedule's tick.
    Tick,
    /// All outputs of a step with `each`.
    Outputs,
    Field {
        schema: &'a Value,
        optional: bool,
        /// Whether there is one for each item.
        listed: bool,
    },
}

impl<'a> Declared<'a> {
    /// The field of this name; `None` when it is not known.
    fn field(fields: &'a Fields, name: &str) -> Option<Self> {
        Some(Self::Field {
            schema: fields.contract.fields.get(name)?,
            optional: fields.contract.optional.contains(name),
            listed: false,
        })
    }

    /// The same, with one for each item if `step` has `each`.
    fn of(self, step: &StepDraft) -> Self {
        match self {
            Self::Field {
                schema, optional, ..
            } => Self::Field {
                schema,
                optional,
                listed: step.forms.each.is_some(),
            },
            other => other,
        }
    }

    fn into_type(self) -> Type<'a> {
        match self {
            Self::Tick => Type::TIME,
            Self::Outputs => Type::ANY.list(),
            Self::Field {
                schema,
                optional,
                listed,
            } => {
                let mut found = Type::of_schema(schema);
                found.may_be_absent |= optional;
                if listed {
                    found = found.list();
                    found.may_be_absent = optional;
                }
                found
            }
        }
    }
}

/// Checks one step.
struct Checker<'a> {
    workflow: &'a WorkflowDraft,
    registry: &'a RegistryDraft,
    /// What starts the workflow, if that is known.
    trigger: Option<&'a Trigger>,
    step: &'a StepDraft,
    reads: Reads,
    report: &'a mut Report,
}

impl<'a> Checker<'a> {
    fn step(&mut self, mut known: Facts) {
        let step = self.step;
        let forms = &step.forms;
        if let Some(condition) = forms.on_when.read() {
            self.reads = Reads::Event;
            self.condition(condition, &Facts::default());
            self.reads = Reads::BeforeIt;
        }
        if let Some(condition) = forms.when.read() {
            self.condition(condition, &known);
            known.hold(&condition.expr);
        }
        let item = self.item(&known);
        if let Some(draft) = &forms.concurrency
            && let Some(key) = &draft.concurrency.key
        {
            let span = draft.key_span;
            let found = self.reference(&key.producer, &key.field, span, &known);
            if let Some(Shape::List(_) | Shape::Map(_)) = found.map(|found| found.into_type().shape)
            {
                let message = "a `concurrency.key` has to be one value, this is several";
                self.report
                    .add(Code::E123, &step.file, span, message)
                    .hint("name a field that holds text or a number");
            }
        }
        self.reads = Reads::Itself;
        if let Some(draft) = &forms.r#loop {
            self.condition(&draft.until, &known);
        }
        self.reads = Reads::ItsAttempt;
        for condition in forms.emits_when.values() {
            self.condition(condition, &known);
        }
        self.reads = Reads::BeforeIt;
        for files in &forms.files {
            if let Some(from) = self.predecessor(&files.step, files.span)
                && let Some(condition) = self.unguarded(from, &known)
            {
                let (name, source) = (&from.name, condition.source());
                self.report
                    .add(
                        Code::E306,
                        &step.file,
                        files.span,
                        format!("the files of `{name}` are absent when step `{name}` is skipped"),
                    )
                    .hint(format!(
                        "give step `{}` the same condition, when: {source}",
                        step.name
                    ));
            }
        }
        for (reference, span) in &step.refs {
            let (producer, field) = (reference.producer.as_str(), reference.field.as_str());
            let of_item = forms.each.as_ref().filter(|each| each.name == producer);
            if of_item.is_some() {
                self.item_field(producer, field, item.as_ref(), *span);
            } else if field.is_empty() && !self.has_each(producer) {
                // A name of an `each` that could not be read.
                if !forms.each_is_broken {
                    let message = format!("`{}` is not a reference", reference.raw);
                    self.report
                        .add(Code::E301, &step.file, *span, message)
                        .hint(crate::template::REFERENCE);
                }
            } else if !(forms.each_is_broken && self.is_no_producer(producer)) {
                self.reference(producer, field, *span, &known);
            }
        }
    }

    /// Whether a name may be the one that a broken `each` gives its items.
    fn is_no_producer(&self, name: &str) -> bool {
        name != "event" && !self.workflow.steps.contains_key(name)
    }

    fn has_each(&self, producer: &str) -> bool {
        let is_before = self.step.after.iter().any(|(name, _)| name == producer);
        let producer = self.workflow.steps.get(producer);
        is_before
            && producer.is_some_and(|step| step.forms.each.is_some() || step.forms.each_is_broken)
    }

    /// The type of an item of the step's `each`.
    fn item(&mut self, known: &Facts) -> Option<Type<'a>> {
        let step = self.step;
        let each = step.forms.each.as_ref()?;
        let name = each.name.as_str();
        if name == "event" || self.workflow.steps.contains_key(name) {
            let message = format!("`{name}` already is the name of something else");
            self.report
                .add(Code::E120, &step.file, each.name_span, message)
                .hint("an item needs a name that is neither `event` nor a step's");
        }
        let (producer, field) = (each.over.producer.as_str(), each.over.field.as_str());
        if field.is_empty() && !self.has_each(producer) {
            let message = format!("`{producer}` is not a list");
            self.report
                .add(Code::E120, &step.file, each.over_span, message)
                .hint("name a field that is one, as in each: plan.tasks as task");
            return None;
        }
        let over = self.reference(producer, field, each.over_span, known)?;
        match over.into_type().shape {
            Shape::List(item) => Some(*item),
            Shape::Any => Some(Type::ANY),
            other => {
                let message = format!("`{producer}.{field}` is {}, not a list", other.name());
                self.report
                    .add(Code::E120, &step.file, each.over_span, message)
                    .hint("`each` wants a field of type list[T]");
                None
            }
        }
    }

    fn item_field(&mut self, name: &str, field: &str, item: Option<&Type<'_>>, span: Span) {
        let Some(item) = item.filter(|_| !field.is_empty()) else {
            return;
        };
        let message = match &item.shape {
            Shape::Any => return,
            Shape::Map(map) => {
                if map.field(field).is_some() {
                    return;
                }
                format!("an item of `each` has no field `{field}`")
            }
            other => format!("an item of `each` is {}, which has no fields", other.name()),
        };
        let names = match &item.shape {
            Shape::Map(map) => map.names(),
            _ => Vec::new(),
        };
        let hint = did_you_mean(field, names.iter().copied()).unwrap_or_else(|| {
            if names.is_empty() {
                format!("the item as a whole is {{{{ {name} }}}}")
            } else {
                format!("its fields are {}", names.join(", "))
            }
        });
        self.report
            .add(Code::E307, &self.step.file, span, message)
            .hint(hint);
    }

    /// The type of what a reference names; `None` when there is no telling,
    /// which has been reported unless it is reported where it is declared.
    fn reference(
        &mut self,
        producer: &str,
        field: &str,
        span: Span,
        known: &Facts,
    ) -> Option<Declared<'a>> {
        if producer == "event" {
            return self.event_field(field, span);
        }
        match self.reads {
            Reads::Event => {
                self.report
                    .add(
                        Code::E304,
                        &self.step.file,
                        span,
                        format!("a trigger's condition cannot read `{producer}`"),
                    )
                    .hint("no step has run yet: it can read only event.field");
                return None;
            }
            Reads::ItsAttempt if producer == self.step.name => {
                return self.output(self.step, field, span);
            }
            Reads::Itself if producer == self.step.name => {
                let found = self.output(self.step, field, span);
                return found.map(|found| found.of(self.step));
            }
            Reads::ItsAttempt | Reads::Itself | Reads::BeforeIt => {}
        }
        let from = self.predecessor(producer, span)?;
        let found = if field.is_empty() {
            Some(Declared::Outputs)
        } else {
            self.output(from, field, span).map(|found| found.of(from))
        };
        self.presence(from, field, span, known);
        found
    }

    fn event_field(&mut self, field: &str, span: Span) -> Option<Declared<'a>> {
        match self.trigger? {
            Trigger::Cron { .. } => {
                if TICK.contains(&field) {
                    return Some(Declared::Tick);
                }
                self.report
                    .add(
                        Code::E303,
                        &self.step.file,
                        span,
                        format!("the tick of a schedule has no field `{field}`"),
                    )
                    .hint(format!("its fields are {}", TICK.join(" and ")));
                None
            }
            Trigger::Event { event, .. } => {
                // An event that is not registered is reported where it is named.
                let fields = &self.registry.events.entries.get(event)?.body;
                if fields.lacks(field) {
                    let names: Vec<&str> =
                        fields.contract.fields.keys().map(String::as_str).collect();
                    let near = did_you_mean(field, names.iter().copied());
                    self.report
                        .add(
                            Code::E302,
                            &self.step.file,
                            span,
                            format!("event `{event}` has no field `{field}`"),
                        )
                        .hint_if(near.or_else(|| {
                            (!names.is_empty())
                                .then(|| format!("its fields are {}", names.join(", ")))
                        }));
                }
                Declared::field(fields, field)
            }
        }
    }

    /// The predecessor of this name. One that does not exist is reported where
    /// it is named.
    fn predecessor(&mut self, producer: &str, span: Span) -> Option<&'a StepDraft> {
        let (step, workflow) = (self.step, self.workflow);
        if step.after.iter().any(|(name, _)| name == producer) {
            return workflow.steps.get(producer).map(Box::as_ref);
        }
        let diagnostic = self.report.add(
            Code::E304,
            &step.file,
            span,
            format!("`{producer}` is not in `after` of step `{}`", step.name),
        );
        if producer == step.name {
            diagnostic.hint("a step cannot read its own outputs here");
        } else if workflow.steps.contains_key(producer) {
            diagnostic.hint(format!("add `{producer}` to `after`"));
        } else {
            let after = step.after.iter().map(|(name, _)| name.as_str());
            let item = step.forms.each.as_ref().map(|each| each.name.as_str());
            diagnostic.hint_if(did_you_mean(producer, after.chain(["event"]).chain(item)));
        }
        None
    }

    fn output(&mut self, from: &'a StepDraft, field: &str, span: Span) -> Option<Declared<'a>> {
        if from.output.lacks(field) {
            let producer = &from.name;
            let fields = &from.output.contract.fields;
            self.report
                .add(
                    Code::E305,
                    &self.step.file,
                    span,
                    format!("step `{producer}` declares no output `{field}`"),
                )
                .hint(
                    did_you_mean(field, fields.keys().map(String::as_str))
                        .unwrap_or_else(|| format!("add it to `output` of step `{producer}`")),
                );
        }
        Declared::field(&from.output, field)
    }

    /// The condition without which a step is skipped, unless this one is sure to be
    /// skipped then too.
    fn unguarded(&self, from: &'a StepDraft, known: &Facts) -> Option<&'a ConditionDraft> {
        let condition = from.forms.when.read()?;
        let is_guarded =
            known.imply(&condition.expr) || matches!(self.step.forms.when, When::Broken);
        (!is_guarded).then_some(condition)
    }

    /// Refuses to read what a skipped step does not give.
    fn presence(&mut self, from: &'a StepDraft, field: &str, span: Span, known: &Facts) {
        let Some(condition) = self.unguarded(from, known) else {
            return;
        };
        if from.output.contract.optional.contains(field)
            || (!field.is_empty() && !from.output.contract.fields.contains_key(field))
        {
            return;
        }
        let (name, source) = (&from.name, condition.source());
        let what = if field.is_empty() {
            name.clone()
        } else {
            format!("{name}.{field}")
        };
        self.report
            .add(
                Code::E306,
                &self.step.file,
                span,
                format!("`{what}` is absent when step `{name}` is skipped"),
            )
            .hint(format!(
                "give step `{}` the same condition, when: {source}; or make the output optional",
                self.step.name
            ));
    }

    // Conditions.

    fn condition(&mut self, condition: &ConditionDraft, known: &Facts) {
        self.truth(condition, &condition.expr, known);
    }

    /// Checks an expression that has to be true or false.
    fn truth(&mut self, condition: &ConditionDraft, expr: &Expr, known: &Facts) {
        match &expr.kind {
            Kind::Not(operand) => self.truth(condition, operand, known),
            Kind::And(operands) => {
                let mut known = known.clone();
                for operand in operands {
                    self.truth(condition, operand, &known);
                    known.hold(operand);
                }
            }
            Kind::Or(operands) => {
                let mut known = known.clone();
                for operand in operands {
                    self.truth(condition, operand, &known);
                    known.fail(operand);
                }
            }
            Kind::Compare {
                operator,
                left,
                right,
            } => self.compare(condition, *operator, left, right, known),
            Kind::Literal(_) | Kind::Reference { .. } => {
                let found = self.value(condition, expr, known);
                if let Some(found) = found
                    && !found.can_be(&Shape::Bool)
                {
                    let message = format!(
                        "`{}` is {}, where true or false is due",
                        expr.lower(),
                        found.name()
                    );
                    self.report
                        .add(
                            Code::E311,
                            &self.step.file,
                            condition.span(&expr.at),
                            message,
                        )
                        .hint("compare it with something: event.field == \"value\"");
                }
            }
        }
    }

    /// The type of an operand.
    fn value(
        &mut self,
        condition: &ConditionDraft,
        expr: &Expr,
        known: &Facts,
    ) -> Option<Type<'a>> {
        match &expr.kind {
            Kind::Literal(value) => Some(Type::of_literal(value)),
            Kind::Reference { producer, field } => {
                let found = self.reference(producer, field, condition.span(&expr.at), known);
                found.map(Declared::into_type)
            }
            _ => {
                self.truth(condition, expr, known);
                Some(Type::BOOL)
            }
        }
    }

    fn compare(
        &mut self,
        condition: &ConditionDraft,
        operator: Comparison,
        left: &Expr,
        right: &Expr,
        known: &Facts,
    ) {
        let types = (
            self.value(condition, left, known),
            self.value(condition, right, known),
        );
        let (Some(left_type), Some(right_type)) = types else {
            return;
        };
        let side = |expr| Side { condition, expr };
        match operator {
            Comparison::Equal | Comparison::Unequal => {
                self.equal(side(left), &left_type, side(right), &right_type);
            }
            Comparison::In | Comparison::NotIn => match &right_type.shape {
                Shape::Any => {}
                Shape::List(item) => self.equal(side(left), &left_type, side(right), item),
                other => {
                    let message = format!("`{}` is {}, not a list", right.lower(), other.name());
                    self.report
                        .add(
                            Code::E311,
                            &self.step.file,
                            condition.span(&right.at),
                            message,
                        )
                        .hint("`in` wants a field of type list[T] on its right");
                }
            },
            Comparison::Less
            | Comparison::LessOrEqual
            | Comparison::Greater
            | Comparison::GreaterOrEqual => {
                self.order(operator, side(left), &left_type, side(right), &right_type);
            }
        }
    }

    fn order(
        &mut self,
        operator: Comparison,
        left: Side<'_>,
        left_type: &Type<'_>,
        right: Side<'_>,
        right_type: &Type<'_>,
    ) {
        for (side, its_type, other) in [
            (left, left_type, right_type),
            (right, right_type, left_type),
        ] {
            let is_time_text = matches!(other.shape, Shape::Time) && side.text().is_some();
            if !its_type.has_order() && !is_time_text {
                let message = format!(
                    "`{}` is {}, and `{}` orders only numbers and times",
                    side.expr.lower(),
                    its_type.name(),
                    operator.name()
                );
                self.report
                    .add(Code::E311, &self.step.file, side.span(), message);
                return;
            }
        }
        self.equal(left, left_type, right, right_type);
    }

    /// Checks that two values can be equal at all.
    fn equal(
        &mut self,
        left: Side<'_>,
        left_type: &Type<'_>,
        right: Side<'_>,
        right_type: &Type<'_>,
    ) {
        for (side, its_type, other) in [
            (left, left_type, right_type),
            (right, right_type, left_type),
        ] {
            let Kind::Literal(value) = &side.expr.kind else {
                continue;
            };
            if self.literal(side, value, its_type, other) {
                return;
            }
        }
        for (side, its_type) in [(left, left_type), (right, right_type)] {
            if matches!(its_type.shape, Shape::List(_) | Shape::Map(_)) {
                let (shown, what) = (side.expr.lower(), its_type.name());
                let message = format!("`{shown}` is {what}, which is compared only with null");
                self.report
                    .add(Code::E311, &self.step.file, side.span(), message);
                return;
            }
        }
        if !left_type.meets(right_type) {
            let message = format!(
                "`{}` is {} and `{}` is {}: they are never equal",
                left.expr.lower(),
                left_type.name(),
                right.expr.lower(),
                right_type.name()
            );
            let span = left
                .condition
                .span(&(left.expr.at.start..right.expr.at.end));
            self.report.add(Code::E311, &self.step.file, span, message);
        }
    }

    /// Checks a literal against the values that the other side can have;
    /// whether that settles it.
    fn literal(
        &mut self,
        side: Side<'_>,
        value: &Value,
        its_type: &Type<'_>,
        other: &Type<'_>,
    ) -> bool {
        let shown = side.expr.lower();
        match (&other.shape, value) {
            (Shape::Any, _) => true,
            (_, Value::Null) => {
                if !other.may_be_absent {
                    let message = "the other side is never absent, so it is never `null`";
                    self.report
                        .add(Code::E312, &self.step.file, side.span(), message)
                        .hint("a field can be absent when its type ends with `?`");
                }
                true
            }
            (Shape::Enum(values), _) if other.meets_shape(its_type) => {
                if values.contains(&value) {
                    return true;
                }
                let names: BTreeSet<String> = values
                    .iter()
                    .map(|value| match value {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    })
                    .collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let near = did_you_mean(value.as_str().unwrap_or_default(), names.iter().copied());
                let message = format!("{shown} is not one of the values it is compared with");
                self.report
                    .add(Code::E312, &self.step.file, side.span(), message)
                    .hint(near.unwrap_or_else(|| format!("the values are {}", names.join(", "))));
                true
            }
            (Shape::Time, Value::String(text)) => {
                if text.parse::<Timestamp>().is_err() {
                    let message = format!("{shown} is not a time");
                    self.report
                        .add(Code::E312, &self.step.file, side.span(), message)
                        .hint("a time is written as \"2026-01-31T12:00:00Z\"");
                }
                true
            }
            _ => false,
        }
    }
}

/// An operand and the condition it stands in.
#[derive(Clone, Copy)]
struct Side<'a> {
    condition: &'a ConditionDraft,
    expr: &'a Expr,
}

impl Side<'_> {
    fn span(&self) -> Span {
        self.condition.span(&self.expr.at)
    }

    /// The text of a literal.
    fn text(&self) -> Option<&str> {
        match &self.expr.kind {
            Kind::Literal(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}
