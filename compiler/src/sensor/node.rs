//! What JavaScript of sensors may not have, as the Node.js that runs it does not know it.

use super::Unreadable;
use crate::diagnostic::Span;
use oxc_ast::ast::{
    AccessorProperty, Decorator, ImportAttributeKey, Program, VariableDeclaration, WithClause,
    WithClauseKeyword,
};
use oxc_ast_visit::{Visit, walk};

/// The oldest Node.js that sensors are run by.
pub(super) const TARGET: &str = "node18";

/// Refuses what is too new, at its place in `text`.
pub(super) fn check(program: &Program<'_>, text: &str) -> Result<(), Unreadable> {
    let mut newer = Newer { text, wrong: None };
    newer.visit_program(program);
    newer.wrong.map_or(Ok(()), Err)
}

/// Looks for what would be handed on as it is, or with a library that is not there, and
/// is new to Node.js.
struct Newer<'s> {
    text: &'s str,
    wrong: Option<Unreadable>,
}

impl Newer<'_> {
    fn refuse(&mut self, at: oxc_span::Span, what: &str, instead: &str) {
        self.wrong.get_or_insert_with(|| Unreadable {
            span: Span::in_text(self.text, at.start as usize, at.end as usize),
            message: format!("Node.js 18 does not know {what}; {instead}"),
        });
    }
}

impl<'a> Visit<'a> for Newer<'_> {
    fn visit_decorator(&mut self, it: &Decorator<'a>) {
        self.refuse(it.span, "decorators", "call the function yourself");
    }

    fn visit_accessor_property(&mut self, it: &AccessorProperty<'a>) {
        self.refuse(it.span, "`accessor`", "write `get` and `set`");
        walk::walk_accessor_property(self, it);
    }

    fn visit_variable_declaration(&mut self, it: &VariableDeclaration<'a>) {
        if it.kind.is_using() {
            self.refuse(it.span, "`using`", "write `try` and `finally`");
        }
        walk::walk_variable_declaration(self, it);
    }
}

/// Whether an import says that it is of JSON, in the words that Node.js knows.
pub(super) fn says_json(clause: Option<&WithClause<'_>>) -> bool {
    clause.is_some_and(|clause| {
        clause.keyword == WithClauseKeyword::With
            && clause.with_entries.iter().any(|entry| {
                let key = match &entry.key {
                    ImportAttributeKey::Identifier(name) => name.name.as_str(),
                    ImportAttributeKey::StringLiteral(text) => text.value.as_str(),
                };
                key == "type" && entry.value.value.as_str() == "json"
            })
    })
}
