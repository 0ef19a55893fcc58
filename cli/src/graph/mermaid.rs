//! Writes a diagram as Mermaid, for the fences of Markdown.

use super::{Edge, Graph, Kind, Node, Wire};
use std::fmt::Write;

/// The diagram.
pub(super) fn write(graph: &Graph) -> String {
    let mut text = "flowchart TD\n".to_owned();
    for (place, node) in graph.nodes_in(None) {
        line(&mut text, "    ", place, node);
    }
    for (place, name) in graph.workflows.iter().enumerate() {
        let _ = writeln!(text, "    subgraph w{place}[\"{}\"]", escape(name));
        for (place, node) in graph.nodes_in(Some(place)) {
            line(&mut text, "        ", place, node);
        }
        text.push_str("    end\n");
    }
    for (Edge { from, to, wire }, label) in &graph.edges {
        let arrow = match wire {
            Wire::After | Wire::Back => "-->",
            Wire::Event => "-.->",
        };
        let _ = match label {
            Some(label) => writeln!(text, "    n{from} {arrow}|\"{}\"| n{to}", escape(label)),
            None => writeln!(text, "    n{from} {arrow} n{to}"),
        };
    }
    text
}

fn line(text: &mut String, indent: &str, place: usize, node: &Node) {
    let (open, close) = match node.kind {
        Kind::Sensor => ("[/", "/]"),
        Kind::Schedule => ("([", "])"),
        Kind::Event => ("{{", "}}"),
        Kind::Step => ("(", ")"),
    };
    let lines: Vec<String> = node.lines().map(escape).collect();
    let lines = lines.join("<br>");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{indent}n{place}{open}\"{lines}\"{close}");
}

/// The text inside quotes. Letters and digits stand for themselves; of all
/// else, only what has no meaning there in Mermaid, Markdown or HTML does.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        let inside =
            before.is_alphanumeric() && letters.peek().is_some_and(|c| c.is_alphanumeric());
        let plain = match c {
            '-' | '_' => inside,
            ' ' => before != ' ',
            '/' | ',' => true,
            _ => c.is_alphanumeric(),
        };
        if plain {
            escaped.push(c);
        } else if c == '\\' {
            // Mermaid takes `\n` for a line end, even when written as a code.
            // A space of no width keeps the two letters apart.
            escaped.push_str("#92;#8203;");
        } else {
            let _ = write!(escaped, "#{};", u32::from(c));
        }
        before = c;
    }
    escaped
}
