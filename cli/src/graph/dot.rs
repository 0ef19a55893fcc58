//! Writes a diagram in Graphviz' language.

use super::{Edge, Graph, Kind, Node, Wire};
use std::fmt::Write;

/// The diagram.
pub(super) fn write(graph: &Graph) -> String {
    let mut text = "digraph {\n    node [fontname=\"sans-serif\"]\n".to_owned();
    for (place, node) in graph.nodes_in(None) {
        line(&mut text, "    ", place, node);
    }
    // Writing to a string cannot fail.
    for (place, name) in graph.workflows.iter().enumerate() {
        let _ = writeln!(text, "    subgraph cluster_{place} {{");
        let _ = writeln!(
            text,
            "        label=\"{}\" fontname=\"sans-serif\" style=\"rounded\"",
            escape(name)
        );
        for (place, node) in graph.nodes_in(Some(place)) {
            line(&mut text, "        ", place, node);
        }
        text.push_str("    }\n");
    }
    for (Edge { from, to, wire }, label) in &graph.edges {
        let label = label.iter().map(|label| {
            let label = escape(label);
            format!("label=\"{label}\" fontname=\"sans-serif\"")
        });
        let style = match wire {
            Wire::After => None,
            Wire::Back => Some("constraint=\"false\"".to_owned()),
            Wire::Event => Some("style=\"dashed\"".to_owned()),
        };
        let attributes: Vec<String> = label.chain(style).collect();
        let _ = match attributes.as_slice() {
            [] => writeln!(text, "    n{from} -> n{to}"),
            some => writeln!(text, "    n{from} -> n{to} [{}]", some.join(" ")),
        };
    }
    text.push_str("}\n");
    text
}

fn line(text: &mut String, indent: &str, place: usize, node: &Node) {
    let look = match node.kind {
        Kind::Sensor => "shape=\"parallelogram\"",
        Kind::Schedule => "shape=\"ellipse\"",
        Kind::Event => "shape=\"hexagon\"",
        Kind::Step => "shape=\"box\" style=\"rounded\"",
    };
    let lines: Vec<String> = node.lines().map(escape).collect();
    let lines = lines.join("\\n");
    let _ = writeln!(text, "{indent}n{place} [label=\"{lines}\" {look}]");
}

/// The text inside quotes: no escapes of Graphviz, no HTML entities.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('&', "&amp;")
}
