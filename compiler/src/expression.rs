//! Parses conditions: references, literals, comparisons, `in`, `not`, `and`,
//! `or` and parentheses, nothing else.
//!
//! `or` binds loosest, then `and`, then `not`, then the comparisons, which do
//! not chain. Length and depth are bounded, so no text can exhaust the stack of
//! this parser or of a JSON reader of the manifest.

use loopy_contract::expression::{Comparison, Expression};
use serde_json::Value;
use std::ops::Range;

/// The longest expression, in characters.
const MAX_LENGTH: usize = 2_000;

/// How deep parentheses and `not` may nest. Each level can add five levels of
/// JSON, and JSON readers give up at 128.
const MAX_DEPTH: usize = 12;

/// An expression that knows where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expr {
    /// In characters of the source.
    pub(crate) at: Range<usize>,
    pub(crate) kind: Kind,
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Literal(Value),
    Reference {
        producer: String,
        field: String,
    },
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare {
        operator: Comparison,
        left: Box<Expr>,
        right: Box<Expr>,
    },
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// In characters of the source.
    pub(crate) at: Range<usize>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Expr {
    /// The expression as the manifest holds it.
    pub(crate) fn lower(&self) -> Expression {
        let all = |operands: &[Self]| operands.iter().map(Self::lower).collect();
        match &self.kind {
            Kind::Literal(value) => Expression::Literal {
                value: value.clone(),
            },
            Kind::Reference { producer, field } => Expression::Reference {
                producer: producer.clone(),
                field: field.clone(),
            },
            Kind::Not(operand) => Expression::Not {
                operand: Box::new(operand.lower()),
            },
            Kind::And(operands) => Expression::And {
                operands: all(operands),
            },
            Kind::Or(operands) => Expression::Or {
                operands: all(operands),
            },
            Kind::Compare {
                operator,
                left,
                right,
            } => Expression::Compare {
                operator: *operator,
                left: Box::new(left.lower()),
                right: Box::new(right.lower()),
            },
        }
    }
}

/// Parses a whole text.
///
/// # Errors
/// The first thing that is wrong, and where.
pub(crate) fn parse(text: &str) -> Result<Expr, Refusal> {
    let chars: Vec<char> = text.chars().take(MAX_LENGTH + 1).collect();
    if chars.len() > MAX_LENGTH {
        return refuse(
            0..1,
            format!("an expression has at most {MAX_LENGTH} characters"),
        );
    }
    let mut parser = Parser {
        tokens: tokens(&chars)?,
        next: 0,
        depth: 0,
        end: chars.len(),
    };
    let expr = parser.or()?;
    match parser.tokens.get(parser.next) {
        None => Ok(expr),
        Some((Token::Close, at)) => refuse(at.clone(), "no parenthesis is open here"),
        Some((Token::Compare(_) | Token::In, at)) => refuse_with(
            at.clone(),
            "comparisons do not chain",
            "write a < b and b < c",
        ),
        Some((_, at)) => refuse_with(at.clone(), "an operator is missing before this", OPERATORS),
    }
}

const OPERATORS: &str = "the operators are == != < <= > >= in not and or";
const OPERANDS: &str =
    "an operand is event.field, step.field, \"text\", a number, true, false or null";

fn refuse<T>(at: Range<usize>, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        at,
        message: message.into(),
        hint: None,
    })
}

fn refuse_with<T>(at: Range<usize>, message: impl Into<String>, hint: &str) -> Result<T, Refusal> {
    Err(Refusal {
        at,
        message: message.into(),
        hint: Some(hint.to_owned()),
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Value(Kind),
    Compare(Comparison),
    In,
    Not,
    And,
    Or,
    Open,
    Close,
}

fn tokens(chars: &[char]) -> Result<Vec<(Token, Range<usize>)>, Refusal> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let (token, end) = match c {
            '"' | '\'' => text(chars, at)?,
            '0'..='9' => number(chars, at)?,
            '-' if chars.get(at + 1).is_some_and(char::is_ascii_digit) => number(chars, at)?,
            _ if is_name_start(c) => word(chars, at)?,
            _ => sign(chars, at)?,
        };
        tokens.push((token, at..end));
        at = end;
    }
    Ok(tokens)
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Just behind the last of the characters from `at` on that `holds` takes.
fn run(chars: &[char], at: usize, holds: impl Fn(char) -> bool) -> usize {
    let rest = chars.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|c| holds(**c)).count()
}

fn string(chars: &[char], at: Range<usize>) -> String {
    chars.get(at).unwrap_or_default().iter().collect()
}

fn text(chars: &[char], start: usize) -> Result<(Token, usize), Refusal> {
    let quote = chars.get(start).copied();
    let mut text = String::new();
    let mut at = start + 1;
    loop {
        match chars.get(at).copied() {
            None => return refuse(start..chars.len(), "the quote is not closed"),
            c if c == quote => break,
            Some('\\') => match chars.get(at + 1) {
                Some(c @ ('\\' | '"' | '\'')) => {
                    text.push(*c);
                    at += 2;
                }
                _ => {
                    return refuse_with(
                        at..at + 1,
                        "a backslash stands only before a quote or another backslash",
                        "write \\\\ for one backslash",
                    );
                }
            },
            Some(c) => {
                text.push(c);
                at += 1;
            }
        }
    }
    Ok((Token::Value(Kind::Literal(Value::String(text))), at + 1))
}

fn number(chars: &[char], start: usize) -> Result<(Token, usize), Refusal> {
    let digits = |at| run(chars, at, |c| c.is_ascii_digit());
    let is_digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let mut end = digits(start + 1);
    let mut is_int = true;
    if chars.get(end) == Some(&'.') && is_digit(end + 1) {
        end = digits(end + 1);
        is_int = false;
    }
    if matches!(chars.get(end), Some('e' | 'E')) {
        let signed = usize::from(matches!(chars.get(end + 1), Some('+' | '-')));
        if is_digit(end + 1 + signed) {
            end = digits(end + 1 + signed);
            is_int = false;
        }
    }
    let beyond = run(chars, end, |c| is_name_part(c) || c == '.');
    if beyond > end {
        return refuse_with(
            start..beyond,
            format!("`{}` is not a number", string(chars, start..beyond)),
            OPERANDS,
        );
    }
    let written = string(chars, start..end);
    let value = if is_int {
        written.parse::<i64>().ok().map(Value::from)
    } else {
        // Infinity is no JSON number, so this is none for it.
        let float = written.parse::<f64>().ok();
        float
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
    };
    match value {
        Some(value) => Ok((Token::Value(Kind::Literal(value)), end)),
        None => refuse(start..end, format!("the number {written} is too large")),
    }
}

fn word(chars: &[char], start: usize) -> Result<(Token, usize), Refusal> {
    let end = run(chars, start, is_name_part);
    let producer = string(chars, start..end);
    if chars.get(end) == Some(&'.') {
        let stop = run(chars, end + 1, is_name_part);
        let field = string(chars, end + 1..stop);
        if !field.starts_with(is_name_start) {
            return refuse_with(
                start..stop,
                format!("`{producer}.{field}` is not a reference"),
                "a reference is event.field or step.field",
            );
        }
        let beyond = run(chars, stop, |c| is_name_part(c) || c == '.' || c == '[');
        if beyond > stop {
            return refuse_with(
                start..beyond,
                format!("`{}` is not a reference", string(chars, start..beyond)),
                "a reference is event.field or step.field; it does not reach into a value",
            );
        }
        return Ok((Token::Value(Kind::Reference { producer, field }), stop));
    }
    let literal = |value| Token::Value(Kind::Literal(value));
    let token = match producer.as_str() {
        "and" => Token::And,
        "or" => Token::Or,
        "not" => Token::Not,
        "in" => Token::In,
        "true" => literal(Value::Bool(true)),
        "false" => literal(Value::Bool(false)),
        "null" => literal(Value::Null),
        _ => {
            let lower = producer.to_ascii_lowercase();
            let hint = match lower.as_str() {
                "and" | "or" | "not" | "in" | "true" | "false" | "null" => {
                    format!("did you mean `{lower}`?")
                }
                "none" | "nil" => "did you mean `null`?".to_owned(),
                _ if chars.get(end) == Some(&'(') => "expressions call no functions".to_owned(),
                _ => format!("text stands in quotes: \"{producer}\"; a field is event.{producer}"),
            };
            return refuse_with(
                start..end,
                format!("`{producer}` is neither a reference nor a value"),
                &hint,
            );
        }
    };
    Ok((token, end))
}

fn sign(chars: &[char], start: usize) -> Result<(Token, usize), Refusal> {
    let two = string(chars, start..(start + 2).min(chars.len()));
    let two_signs = match two.as_str() {
        "==" => Some(Comparison::Equal),
        "!=" => Some(Comparison::Unequal),
        "<=" => Some(Comparison::LessOrEqual),
        ">=" => Some(Comparison::GreaterOrEqual),
        _ => None,
    };
    if let Some(comparison) = two_signs {
        return Ok((Token::Compare(comparison), start + 2));
    }
    let c = chars.get(start).copied().unwrap_or(' ');
    let token = match c {
        '<' => Token::Compare(Comparison::Less),
        '>' => Token::Compare(Comparison::Greater),
        '(' => Token::Open,
        ')' => Token::Close,
        _ => {
            let (length, hint) = match (two.as_str(), c) {
                ("&&", _) => (2, "did you mean `and`?"),
                ("||", _) => (2, "did you mean `or`?"),
                (_, '=') => (1, "did you mean `==`?"),
                (_, '!') => (1, "did you mean `not`?"),
                (_, '[') => (
                    1,
                    "there are no lists in expressions: write a == \"x\" or a == \"y\"",
                ),
                (_, '+' | '-' | '*' | '/' | '%') => (1, "expressions do not calculate"),
                (_, '{' | '}') => (1, "a reference stands here without braces: event.field"),
                _ => (1, OPERATORS),
            };
            let shown = string(chars, start..start + length);
            return refuse_with(
                start..start + length,
                format!("`{shown}` has no meaning in an expression"),
                hint,
            );
        }
    };
    Ok((token, start + 1))
}

struct Parser {
    tokens: Vec<(Token, Range<usize>)>,
    next: usize,
    depth: usize,
    /// Just behind the last character.
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    /// Goes past `token` if it is next.
    fn take(&mut self, token: &Token) -> bool {
        let is_next = self.peek() == Some(token);
        self.next += usize::from(is_next);
        is_next
    }

    /// The place of the token that is next, or of the end.
    fn place(&self) -> Range<usize> {
        match self.tokens.get(self.next) {
            Some((_, at)) => at.clone(),
            None => self.end..self.end + 1,
        }
    }

    fn deeper(&mut self, at: &Range<usize>) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("an expression nests at most {MAX_DEPTH} levels deep");
            return refuse(at.clone(), message);
        }
        Ok(())
    }

    fn or(&mut self) -> Result<Expr, Refusal> {
        let mut operands = vec![self.and()?];
        while self.take(&Token::Or) {
            operands.push(self.and()?);
        }
        Ok(joined(operands, Kind::Or))
    }

    fn and(&mut self) -> Result<Expr, Refusal> {
        let mut operands = vec![self.not()?];
        while self.take(&Token::And) {
            operands.push(self.not()?);
        }
        Ok(joined(operands, Kind::And))
    }

    fn not(&mut self) -> Result<Expr, Refusal> {
        let at = self.place();
        if !self.take(&Token::Not) {
            return self.comparison();
        }
        self.deeper(&at)?;
        let operand = self.not()?;
        self.depth -= 1;
        Ok(Expr {
            at: at.start..operand.at.end,
            kind: Kind::Not(Box::new(operand)),
        })
    }

    fn comparison(&mut self) -> Result<Expr, Refusal> {
        let left = self.operand()?;
        let operator = match self.peek() {
            Some(Token::Compare(comparison)) => *comparison,
            Some(Token::In) => Comparison::In,
            Some(Token::Not) if matches!(self.tokens.get(self.next + 1), Some((Token::In, _))) => {
                self.next += 1;
                Comparison::NotIn
            }
            _ => return Ok(left),
        };
        self.next += 1;
        let right = self.operand()?;
        Ok(Expr {
            at: left.at.start..right.at.end,
            kind: Kind::Compare {
                operator,
                left: Box::new(left),
                right: Box::new(right),
            },
        })
    }

    fn operand(&mut self) -> Result<Expr, Refusal> {
        let at = self.place();
        match self.peek() {
            Some(Token::Value(kind)) => {
                let kind = kind.clone();
                self.next += 1;
                Ok(Expr { at, kind })
            }
            Some(Token::Open) => {
                self.next += 1;
                self.deeper(&at)?;
                let inner = self.or()?;
                self.depth -= 1;
                let close = self.place();
                if !self.take(&Token::Close) {
                    return refuse(at, "the parenthesis is not closed");
                }
                Ok(Expr {
                    at: at.start..close.end,
                    kind: inner.kind,
                })
            }
            None if self.tokens.is_empty() => refuse_with(at, "the expression is empty", OPERANDS),
            None => refuse_with(at, "the expression ends where an operand is due", OPERANDS),
            Some(Token::Not) => refuse_with(
                at,
                "`not` cannot stand behind an operator",
                "put it in parentheses: a == (not b)",
            ),
            Some(_) => refuse_with(at, "an operand is missing here", OPERANDS),
        }
    }
}

/// One operand as it is, several under what joins them.
fn joined(mut operands: Vec<Expr>, join: fn(Vec<Expr>) -> Kind) -> Expr {
    match (operands.pop(), operands.first().map(|first| first.at.start)) {
        (Some(last), Some(start)) => {
            let end = last.at.end;
            operands.push(last);
            Expr {
                at: start..end,
                kind: join(operands),
            }
        }
        (Some(only), None) => only,
        // Both callers hand over at least one.
        (None, _) => Expr {
            at: 0..0,
            kind: Kind::Literal(Value::Null),
        },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        parse(text).unwrap().lower().to_string()
    }

    fn refusal(text: &str) -> (Range<usize>, String) {
        let refusal = parse(text).unwrap_err();
        let hint = refusal.hint.unwrap_or_default();
        (refusal.at, format!("{} | {hint}", refusal.message))
    }

    #[test]
    fn operators_bind_as_promised() {
        let same = |a: &str, b: &str| {
            assert_eq!(parse(a).unwrap().lower(), parse(b).unwrap().lower(), "{a}");
        };
        same(
            "a.x or b.x and not c.x == 1",
            "(a.x or (b.x and (not (c.x == 1))))",
        );
        same("not a.x and b.x", "(not a.x) and b.x");
        same("not a.x in b.x", "not (a.x in b.x)");
        same("a.x  not\n in b.x", "(a.x) not in (b.x)");
        assert_ne!(
            parse("(a.x or b.x) and c.x").unwrap().lower(),
            parse("a.x or b.x and c.x").unwrap().lower()
        );
        assert_eq!(
            shown("( ( a.x ) ) and (b.x and c.x)"),
            "a.x and (b.x and c.x)"
        );
        assert_eq!(shown("(a.x == 1) == true"), "(a.x == 1) == true");
    }

    #[test]
    fn values_are_what_they_look_like() {
        assert_eq!(
            shown(r#"scan-deps.in == 'a"b\'c\\' and a.b == -1.5e3 or null != "ä""#),
            r#"scan-deps.in == "a\"b'c\\" and a.b == -1500.0 or null != "ä""#
        );
        assert_eq!(shown("a.b<3"), "a.b < 3");
        assert_eq!(
            parse("true").unwrap().kind,
            Kind::Literal(Value::Bool(true))
        );
    }

    #[test]
    fn places_are_exact() {
        let expr = parse("é.x or (a.b == 'ö') and c.d");
        assert_eq!(expr.unwrap_err().at, 0..1);
        let Kind::Or(operands) = parse("a.b or (a.b == 'ö') and c.d").unwrap().kind else {
            unreachable!()
        };
        assert_eq!(operands[1].at, 7..27);
        let Kind::And(operands) = &operands[1].kind else {
            unreachable!()
        };
        assert_eq!(
            (operands[0].at.clone(), operands[1].at.clone()),
            (7..19, 24..27)
        );
    }

    #[test]
    fn what_is_wrong_is_said_where_it_is() {
        for (text, at, say) in [
            ("", 0..1, "empty"),
            ("  ", 2..3, "empty"),
            ("a.b = 1", 4..5, "`==`"),
            ("a.b && c.d", 4..6, "`and`"),
            ("a.b || c.d", 4..6, "`or`"),
            ("!a.b", 0..1, "`not`"),
            ("a.b == pass", 7..11, "\"pass\""),
            ("True", 0..4, "`true`"),
            ("None == a.b", 0..4, "`null`"),
            ("a.b == 'x", 7..9, "not closed"),
            (r"a.b == 'x\d'", 9..10, "backslash"),
            ("a.b ==", 6..7, "ends"),
            ("== 1", 0..2, "missing"),
            ("a.b == == 1", 7..9, "missing"),
            ("(a.b", 0..1, "not closed"),
            ("a.b)", 3..4, "no parenthesis"),
            ("1 < 2 < 3", 6..7, "chain"),
            ("a.b c.d", 4..7, "operator is missing"),
            ("a.b not c.d", 4..7, "operator is missing"),
            ("a.b == not c.d", 7..10, "behind an operator"),
            ("a.b.c", 0..5, "reach"),
            ("a.b[0]", 0..5, "reach"),
            ("a. b", 0..2, "not a reference"),
            ("len(a.b)", 0..3, "functions"),
            ("a.b in ['x']", 7..8, "no lists"),
            ("a.b + 1", 4..5, "calculate"),
            ("{{ a.b }}", 0..1, "braces"),
            ("1x", 0..2, "not a number"),
            ("1.", 0..2, "not a number"),
            ("99999999999999999999", 0..20, "too large"),
            ("1e999", 0..5, "too large"),
            ("a.b == ;", 7..8, "operators"),
        ] {
            let (found, said) = refusal(text);
            assert_eq!(found, at, "{text}: {said}");
            assert!(said.contains(say), "{text}: {said}");
        }
    }

    #[test]
    fn hostile_texts_are_refused() {
        for text in [
            "(".repeat(1_000),
            "not ".repeat(400),
            format!("{}a.b{}", "(".repeat(13), ")".repeat(13)),
        ] {
            assert!(refusal(&text).1.contains("deep"), "{text}");
        }
        assert!(refusal(&"a.b and ".repeat(10_000)).1.contains("characters"));
        assert!(parse(&format!("{}a.b{}", "(".repeat(12), ")".repeat(12))).is_ok());
    }

    /// The deepest tree still fits into what JSON readers take.
    #[test]
    fn the_deepest_expression_survives_json() {
        let mut text = "a.b".to_owned();
        for _ in 0..12 {
            text = format!("a.b or a.b and ({text}) == true");
        }
        let tree = parse(&text).unwrap().lower();
        let json = serde_json::to_string(&tree).unwrap();
        // What stands around it in a manifest.
        let json = format!("{}{json}{}", "[".repeat(12), "]".repeat(12));
        assert!(serde_json::from_str::<Value>(&json).is_ok());
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-z_][A-Za-z0-9_-]{0,6}"
    }

    fn trees() -> impl Strategy<Value = Expression> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("finite", |float| float.is_finite())
                .prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(Value::Null),
        ]
        .prop_map(|value| Expression::Literal { value });
        let reference = (name(), name())
            .prop_map(|(producer, field)| Expression::Reference { producer, field });
        prop_oneof![leaf, reference].prop_recursive(4, 24, 3, |inner| {
            let many = proptest::collection::vec(inner.clone(), 2..4);
            let operator = prop::sample::select(vec![
                Comparison::Equal,
                Comparison::Unequal,
                Comparison::Less,
                Comparison::LessOrEqual,
                Comparison::Greater,
                Comparison::GreaterOrEqual,
                Comparison::In,
                Comparison::NotIn,
            ]);
            prop_oneof![
                inner.clone().prop_map(|operand| Expression::Not {
                    operand: Box::new(operand)
                }),
                many.clone()
                    .prop_map(|operands| Expression::And { operands }),
                many.prop_map(|operands| Expression::Or { operands }),
                (operator, inner.clone(), inner).prop_map(|(operator, left, right)| {
                    Expression::Compare {
                        operator,
                        left: Box::new(left),
                        right: Box::new(right),
                    }
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the text, there is a tree or a reason.
        #[test]
        fn any_text_is_survived(text in any::<String>(), piece in "[a-c.()'\"\\\\<>=! notiadr0-9-]{0,60}") {
            for text in [text, piece] {
                match parse(&text) {
                    Ok(tree) => prop_assert_eq!(parse(&tree.lower().to_string()).unwrap().lower(), tree.lower()),
                    Err(refusal) => prop_assert!(refusal.at.start < refusal.at.end),
                }
            }
        }

        /// A printed tree reads as the same tree.
        #[test]
        fn what_is_printed_reads_the_same(tree in trees()) {
            let text = tree.to_string();
            prop_assume!(text.chars().count() <= MAX_LENGTH);
            prop_assert_eq!(parse(&text).unwrap().lower(), tree);
        }
    }
}
