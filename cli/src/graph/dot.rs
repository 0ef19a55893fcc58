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
    for Edge { from, to, wire } in &graph.edges {
        let style = match wire {
            Wire::After => "",
            Wire::Back => " [label=\"again\" fontname=\"sans-serif\" constraint=\"false\"]",
            Wire::Event => " [style=\"dashed\"]",
        };
        let _ = writeln!(text, "    n{from} -> n{to}{style}");
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
    let (name, note) = (escape(&node.name), escape(&node.note));
    let _ = writeln!(text, "{indent}n{place} [label=\"{name}\\n{note}\" {look}]");
}

/// The text inside quotes: no escapes of Graphviz, no HTML entities.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('&', "&amp;")
}
