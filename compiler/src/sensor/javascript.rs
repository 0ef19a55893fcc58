//! JavaScript of TypeScript sensors, and of the project's files that they import: types
//! are left out, relative imports name what they lead to. What was TypeScript is told
//! by a source map at its end.

use super::typescript::{self, Kind, Token};
use super::{Sensors, Unreadable, node};
use crate::diagnostic::{Code, Report, Span};
use crate::sources::Sources;
use loopy_contract::manifest::{SensorSource, module_path};
use oxc_allocator::Allocator;
use oxc_ast::ast::{
    ExportAllDeclaration, ExportFromDeclaration, Expression, ImportDeclaration, ImportExpression,
    StringLiteral,
};
use oxc_ast_visit::{VisitMut, walk_mut};
use oxc_codegen::{Codegen, CodegenOptions};
use oxc_diagnostics::OxcDiagnostic;
use oxc_parser::Parser;
use oxc_semantic::SemanticBuilder;
use oxc_span::SourceType;
use oxc_transformer::{TransformOptions, Transformer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How deep brackets may be in one another.
const MAX_DEPTH: usize = 200;

/// How many words and signs may stand between two commas or semicolons. Each can make
/// the syntax tree a level deeper.
const MAX_LENGTH: usize = 8000;

/// How deep templates may be in one another.
const MAX_TEMPLATES: usize = 8;

/// Stack for each byte of source: a syntax tree is walked by recursion, and can be as
/// deep as its source is long, up to the bounds. It is not touched before it is needed.
const STACK_PER_BYTE: usize = 16 << 10;

/// Stack for everything else, and the most that is used.
const STACK: usize = 1 << 20;
const MAX_STACK: usize = 256 << 20;

/// Where all code of sensors is.
const FOLDER: &str = "sensors/";

/// What a path without an ending may stand for, in this order.
const ENDINGS: [&str; 8] = [
    ".ts",
    ".mts",
    ".js",
    ".mjs",
    "/index.ts",
    "/index.mts",
    "/index.js",
    "/index.mjs",
];

/// The JavaScript of all TypeScript sensors and of what they import, by the path it is
/// run under.
pub(crate) fn modules(
    sources: &Sources,
    sensors: &Sensors,
    report: &mut Report,
) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    let mut left: Vec<String> = sensors
        .drafts
        .iter()
        .filter(|draft| draft.sensor.source == SensorSource::Typescript)
        .map(|draft| draft.file.clone())
        .collect();
    let mut known: BTreeSet<String> = left.iter().cloned().collect();
    while let Some(path) = left.pop() {
        let text = match sources.get(&path).map(|file| file.text()) {
            Some(Ok(text)) => text,
            Some(Err(why)) => {
                report.add(Code::E402, &path, Span::START, why);
                continue;
            }
            None => continue,
        };
        match javascript(sources, &path, text) {
            Ok((javascript, imports)) => {
                modules.insert(module_path(&path), javascript);
                left.extend(
                    imports
                        .into_iter()
                        .filter(|path| known.insert(path.clone())),
                );
            }
            Err(why) => {
                report.add(Code::E402, &path, why.span, why.message);
            }
        }
    }
    modules
}

/// The JavaScript of one file, and the files of the project that it imports.
fn javascript(
    sources: &Sources,
    path: &str,
    text: &str,
) -> Result<(String, Vec<String>), Unreadable> {
    if let Some(at) = too_deep(text, 0)? {
        return Err(Unreadable {
            span: Span::in_text(text, at, at + 1),
            message: "this nests too deep to be read".to_owned(),
        });
    }
    let needed = STACK.saturating_add(text.len().saturating_mul(STACK_PER_BYTE));
    let needed = needed.min(MAX_STACK);
    stacker::maybe_grow(needed, needed, || transformed(sources, path, text))
}

fn transformed(
    sources: &Sources,
    path: &str,
    text: &str,
) -> Result<(String, Vec<String>), Unreadable> {
    let allocator = Allocator::default();
    let kind = if is_typescript(path) {
        SourceType::ts()
    } else {
        SourceType::mjs()
    };
    let refused = |found: &OxcDiagnostic| {
        let at = found.labels.first();
        let start = at.map_or(0, |label| label.offset() as usize);
        let end = start.saturating_add(at.map_or(1, |label| label.len() as usize));
        let language = if is_typescript(path) {
            "TypeScript"
        } else {
            "JavaScript"
        };
        Unreadable {
            span: Span::in_text(text, start, end),
            message: format!("this is not {language}: {}", found.message),
        }
    };
    let parsed = Parser::new(&allocator, text, kind).parse();
    if let Some(error) = parsed.diagnostics.errors().next() {
        return Err(refused(error));
    }
    let mut program = parsed.program;
    let semantic = SemanticBuilder::new()
        .with_check_syntax_error(true)
        .with_enum_eval(true)
        .build(&program);
    if let Some(error) = semantic.diagnostics.errors().next() {
        return Err(refused(error));
    }
    node::check(&program, text)?;
    let scoping = semantic.semantic.into_scoping();
    let options = TransformOptions::from_target(node::TARGET).map_err(|message| Unreadable {
        span: Span::START,
        message,
    })?;
    let done = Transformer::new(&allocator, Path::new(path), &options)
        .build_with_scoping(scoping, &mut program);
    if let Some(error) = done.diagnostics.errors().next() {
        return Err(refused(error));
    }
    let mut imports = Imports {
        sources,
        path,
        text,
        allocator: &allocator,
        found: Vec::new(),
        wrong: None,
    };
    imports.visit_program(&mut program);
    if let Some(wrong) = imports.wrong {
        return Err(wrong);
    }
    let found = imports.found;
    let name = path.rsplit('/').next().unwrap_or(path);
    let printed = Codegen::new()
        .with_options(CodegenOptions {
            source_map_path: Some(name.into()),
            ..CodegenOptions::default()
        })
        .build(&program);
    let mut javascript = printed.code;
    if let Some(map) = printed.map {
        javascript.push_str("//# sourceMappingURL=");
        javascript.push_str(&map.to_data_url());
        javascript.push('\n');
    }
    Ok((javascript, found))
}

fn is_typescript(path: &str) -> bool {
    path.ends_with(".ts") || path.ends_with(".mts")
}

/// Whether JavaScript is made of the file, so that its own imports lead somewhere.
fn is_module(path: &str) -> bool {
    is_typescript(path) || path.ends_with(".js") || path.ends_with(".mjs")
}

/// Has the imports of a file name what they lead to.
struct Imports<'s, 'a> {
    sources: &'s Sources,
    path: &'s str,
    text: &'s str,
    allocator: &'a Allocator,
    found: Vec<String>,
    wrong: Option<Unreadable>,
}

impl<'a> Imports<'_, 'a> {
    fn lead(&mut self, source: &mut StringLiteral<'a>, says_json: bool) {
        let (start, end) = (source.span.start as usize, source.span.end as usize);
        if source.value.ends_with(".json") && !says_json {
            self.wrong.get_or_insert(Unreadable {
                span: Span::in_text(self.text, start, end),
                message: format!(
                    "`{}` is JSON, which has to be said: with {{ type: \"json\" }}",
                    source.value
                ),
            });
        }
        match self.target(source.value.as_str()) {
            Ok(None) => {}
            Ok(Some((target, specifier))) => {
                source.value = oxc_allocator::FromIn::from_in(specifier.as_str(), self.allocator);
                source.raw = None;
                if is_module(&target) {
                    self.found.push(target);
                }
            }
            Err(message) => {
                self.wrong.get_or_insert(Unreadable {
                    span: Span::in_text(self.text, start, end),
                    message,
                });
            }
        }
    }

    /// The file that an import leads to, and what names it at run time; none for a
    /// package.
    fn target(&self, specifier: &str) -> Result<Option<(String, String)>, String> {
        if specifier.starts_with('/') || specifier.starts_with("file:") {
            return Err(format!(
                "`{specifier}` is a place on this machine; import it by a path from this file"
            ));
        }
        if !(specifier.starts_with("./") || specifier.starts_with("../")) {
            return Ok(None);
        }
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut parts: Vec<&str> = folder.split('/').collect();
        let mut leads_out = false;
        for part in specifier.split('/') {
            match part {
                "" | "." => {}
                ".." => leads_out |= parts.pop().is_none(),
                part => parts.push(part),
            }
        }
        let wanted = parts.join("/");
        if leads_out || !wanted.starts_with(FOLDER) {
            return Err(format!(
                "`{specifier}` leads out of `{FOLDER}`, and nothing else is there when the sensor \
                 runs; move it there, or import only types of it (`import type`)"
            ));
        }
        // TypeScript is imported by the name of what is made of it, too.
        let renamed = wanted
            .strip_suffix(".js")
            .map(|stem| format!("{stem}.ts"))
            .or_else(|| {
                wanted
                    .strip_suffix(".mjs")
                    .map(|stem| format!("{stem}.mts"))
            });
        let candidates = std::iter::once(wanted.clone())
            .chain(renamed)
            .chain(ENDINGS.map(|ending| format!("{wanted}{ending}")));
        let target = candidates
            .into_iter()
            .find(|candidate| self.sources.get(candidate).is_some())
            .ok_or_else(|| format!("`{specifier}` leads to {wanted}, which is not there"))?;
        let run_as = if is_module(&target) {
            module_path(&target)
        } else {
            target.clone()
        };
        let up = "../".repeat(folder.matches('/').count());
        let below = run_as.strip_prefix(FOLDER).unwrap_or(&run_as);
        let here = if up.is_empty() { "./" } else { up.as_str() };
        Ok(Some((target, format!("{here}{below}"))))
    }
}

impl<'a> VisitMut<'a> for Imports<'_, 'a> {
    fn visit_import_declaration(&mut self, it: &mut ImportDeclaration<'a>) {
        let says_json = node::says_json(it.with_clause.as_deref());
        self.lead(&mut it.source, says_json);
    }

    fn visit_export_all_declaration(&mut self, it: &mut ExportAllDeclaration<'a>) {
        let says_json = node::says_json(it.with_clause.as_deref());
        self.lead(&mut it.source, says_json);
    }

    fn visit_export_from_declaration(&mut self, it: &mut ExportFromDeclaration<'a>) {
        let says_json = node::says_json(it.with_clause.as_deref());
        self.lead(&mut it.source, says_json);
    }

    fn visit_import_expression(&mut self, it: &mut ImportExpression<'a>) {
        if let Expression::StringLiteral(source) = &mut it.source {
            // What is worked out when it runs may well say so.
            self.lead(source, it.options.is_some());
        }
        walk_mut::walk_import_expression(self, it);
    }
}

/// Where brackets are too deep or an expression is too long, so that the parser would
/// need more memory than the file is worth. `level` counts the templates around.
fn too_deep(text: &str, level: usize) -> Result<Option<usize>, Unreadable> {
    // For each open bracket, the words and signs since its last comma.
    let mut lengths = vec![0_usize];
    let mut total = 0_usize;
    for Token { kind, start, end } in typescript::tokens(text)? {
        match kind {
            Kind::Punctuation('(' | '[' | '{') => lengths.push(0),
            Kind::Punctuation(')' | ']' | '}') if lengths.len() > 1 => {
                total -= lengths.pop().unwrap_or_default();
            }
            Kind::Punctuation(',' | ';') => {
                total -= lengths.last_mut().map_or(0, std::mem::take);
                continue;
            }
            Kind::Opaque => {
                let inside = text.get(start..end).unwrap_or_default();
                for code in typescript::substitutions(inside) {
                    if level == MAX_TEMPLATES || too_deep(code, level + 1)?.is_some() {
                        return Ok(Some(start));
                    }
                }
            }
            _ => {}
        }
        if let Some(last) = lengths.last_mut() {
            *last += 1;
            total += 1;
        }
        if lengths.len() > MAX_DEPTH || total > MAX_LENGTH {
            return Ok(Some(start));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn made(files: &[(&str, &str)]) -> Result<(String, Vec<String>), Unreadable> {
        let mut sources = Sources::default();
        for (path, text) in files {
            sources.insert(*path, *text);
        }
        javascript(&sources, files[0].0, files[0].1)
    }

    fn alone(text: &str) -> Result<String, Unreadable> {
        made(&[("sensors/a.ts", text)]).map(|(javascript, _)| javascript)
    }

    #[test]
    fn types_go_and_code_stays() {
        let text = "import type { A } from '../loopy/index.js';\n\
                    import { B } from '../loopy/index.js';\n\
                    enum Kind { One = 1 }\n\
                    class Box<T> { constructor(private readonly of: T) {} get(): T { return this.of!; } }\n\
                    export const x = { kind: Kind.One, box: new Box<number>(1) as unknown } satisfies B;\n";
        let javascript = alone(text).unwrap();
        for gone in ["loopy", "satisfies", "<number>", "readonly", "unknown"] {
            let code = javascript.split("//# source").next().unwrap();
            assert!(!code.contains(gone), "{javascript}");
        }
        assert!(javascript.contains("this.of = of"), "{javascript}");
        assert!(javascript.contains("//# sourceMappingURL=data:"));
        assert_eq!(alone(text).unwrap(), javascript);
    }

    #[test]
    fn imports_name_what_they_lead_to() {
        let text = "import a from './lib/one';\nimport b from './two.js';\n\
                    import c from './three.mjs';\nimport './data.json' with { type: 'json' };\n\
                    export * from './lib';\nexport { x } from './lib/one.ts';\n\
                    const d = await import('../sensors/two');\nimport e from 'package/deep.js';\n\
                    import f from 'node:fs';\nimport g from './old.cjs';\n\
                    export const all = [a, b, c, d, e, f, g];\n";
        let files = [
            ("sensors/a.ts", text),
            ("sensors/data.json", "{}"),
            ("sensors/lib/index.ts", ""),
            ("sensors/lib/one.ts", ""),
            ("sensors/old.cjs", ""),
            ("sensors/three.mts", ""),
            ("sensors/two.js", ""),
        ];
        let (javascript, mut imports) = made(&files).unwrap();
        for name in [
            "./lib/one.ts.mjs",
            "./two.js.mjs",
            "./three.mts.mjs",
            "./data.json",
            "./lib/index.ts.mjs",
            "package/deep.js",
            "node:fs",
            "./old.cjs",
        ] {
            assert!(
                javascript.contains(&format!("\"{name}\"")),
                "{name}: {javascript}"
            );
        }
        imports.sort();
        imports.dedup();
        let found = ["lib/index.ts", "lib/one.ts", "three.mts", "two.js"];
        assert_eq!(imports, found.map(|path| format!("sensors/{path}")));
        let deep = [
            ("sensors/x/y/a.ts", "import '../../two.js'; import '../z';"),
            ("sensors/two.js", ""),
            ("sensors/x/z.ts", ""),
        ];
        let (javascript, _) = made(&deep).unwrap();
        assert!(javascript.contains("\"../../two.js.mjs\""), "{javascript}");
        assert!(javascript.contains("\"../../x/z.ts.mjs\""), "{javascript}");
    }

    #[test]
    fn what_leads_nowhere_or_is_no_typescript_says_where() {
        for (text, line, part) in [
            (
                "\nimport x from '../lib/x'; x();",
                2,
                "leads out of `sensors/`",
            ),
            (
                "import x from '../../x'; x();",
                1,
                "leads out of `sensors/`",
            ),
            (
                "import x from './x'; x();",
                1,
                "sensors/x, which is not there",
            ),
            (
                "import x from '/etc/x.js'; x();",
                1,
                "a place on this machine",
            ),
            ("\n\nconst = 5;", 3, "this is not TypeScript"),
            ("let a = 1; let a = 2;", 1, "this is not TypeScript"),
            ("return 5", 1, "this is not TypeScript"),
            ("\n@a class A {}", 2, "Node.js 18 does not know decorators"),
            (
                "class A {\n constructor(@a b) {} }",
                2,
                "Node.js 18 does not know decorators",
            ),
            (
                "class A {\n @a b() {} }",
                2,
                "Node.js 18 does not know decorators",
            ),
            (
                "class A { accessor b = 1 }",
                1,
                "Node.js 18 does not know `accessor`",
            ),
            (
                "{\n using a = b(); }",
                2,
                "Node.js 18 does not know `using`",
            ),
            (
                "import a from './a.json'; a();",
                1,
                "with { type: \"json\" }",
            ),
            (
                "import a from 'b/a.json'; a();",
                1,
                "with { type: \"json\" }",
            ),
            ("export * from 'b/a.json';", 1, "with { type: \"json\" }"),
            ("await import('b/a.json');", 1, "with { type: \"json\" }"),
            (
                "import a from 'b/a.json' assert { type: 'json' }; a();",
                1,
                "with { type: \"json\" }",
            ),
        ] {
            let found = alone(text).unwrap_err();
            assert!(found.message.contains(part), "{text}: {}", found.message);
            assert_eq!(found.span.line, line, "{text}");
        }
        assert!(alone("import type x from '../lib/x'; let y: x;").is_ok());
    }

    #[test]
    fn only_what_nests_too_deep_is_refused() {
        let fine = [
            "(".repeat(150) + "1" + &")".repeat(150),
            format!("let x = '{}' // {}\n", "(".repeat(500), "(".repeat(500)),
            format!("let x = [{}]\n", "f(a)[b], ".repeat(20_000)),
            "x = f(a, b) + 1;\n".repeat(20_000),
            "function f() { return `a${b}c` }\n".repeat(500),
            "`${`${`${1}`}`}`".to_owned(),
            format!("`{}`", "${f({ a: '}' })}".repeat(1000)),
        ];
        for text in fine {
            assert_eq!(
                too_deep(&text, 0).unwrap(),
                None,
                "{}",
                &text[..40.min(text.len())]
            );
            assert!(alone(&text).is_ok(), "{}", &text[..40.min(text.len())]);
        }
        let hostile = [
            ("(", ""),
            ("[", ""),
            ("({ a: ", ""),
            ("!", "1"),
            ("- ", "1"),
            ("typeof ", "1"),
            ("await ", "1"),
            ("a => ", "1"),
            ("a ? b : ", "1"),
            ("a ? ", "1"),
            ("a.", "b"),
            ("f() + ", "1"),
            ("2 ** ", "1"),
            ("a = ", "1"),
            ("if (a) ", "b"),
            ("if (a) b; else ", "c"),
            ("while (a) ", "b"),
            ("a: ", "b"),
            ("new ", "a"),
            ("for (;;) ", "a"),
            ("<A>", "b"),
            ("a<", "b"),
            ("a as ", "b"),
            ("`${", ""),
            ("class extends ", "a {}"),
            ("function f() {", ""),
            ("async () => ", "1"),
            ("yield ", "1"),
            ("{", ""),
            ("else ", ""),
            ("a?.", "b"),
            ("a![", ""),
        ];
        for (text, end) in hostile {
            for count in [150, 7900] {
                for before in ["", "let x = ", "type A = "] {
                    // Whatever it is, it is an answer.
                    let _ = alone(&format!("{before}{}{end}", text.repeat(count)));
                }
            }
        }
        for text in ["(", "[", "!", "a => ", "a.", "`${"] {
            let found = alone(&text.repeat(100_000)).unwrap_err();
            assert!(
                found.message.contains("too deep") || found.message.contains("closed"),
                "{text}: {}",
                found.message
            );
        }
    }
}
