//! Writes a diagram as an SVG picture for light and dark surroundings.

use super::layout::{self, Area};
use super::{Graph, Kind, Node, Wire};
use dugong::{LayoutError, Point};
use std::fmt::Write;

/// How tall a node is, how tall each further line makes it, and how far its
/// text keeps from its sides.
const HEIGHT: f64 = 46.0;
const LINE: f64 = 15.0;
const PADDING: f64 = 18.0;

/// The longest text that is shown; the whole of it is the node's tooltip.
const SHOWN: usize = 48;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.note, .frame-name, .label { font-size: 11px; fill: #59636e; }
.frame-name, .label { paint-order: stroke; stroke: #f6f8fa; stroke-width: 4px; }
.paper { fill: #ffffff; }
.frame { fill: #f6f8fa; stroke: #d1d9e0; }
.node { stroke-width: 1.2; }
.sensor { fill: #fff8c5; stroke: #9a6700; }
.schedule { fill: #ffeff7; stroke: #bf3989; }
.event { fill: #ddf4ff; stroke: #0969da; }
.step { fill: #ffffff; stroke: #59636e; }
.edge { fill: none; stroke: #59636e; stroke-width: 1.2; }
.wire { stroke-dasharray: 5 4; }
.back { stroke-dasharray: 1 3; stroke-linecap: round; stroke-width: 1.8; }
.tip { fill: #59636e; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .note, .frame-name, .label { fill: #9198a1; }
  .frame-name, .label { stroke: #151b23; }
  .paper { fill: #0d1117; }
  .frame { fill: #151b23; stroke: #3d444d; }
  .sensor { fill: #2b2111; stroke: #d29922; }
  .schedule { fill: #2d1526; stroke: #db61a2; }
  .event { fill: #0c2339; stroke: #4493f8; }
  .step { fill: #212830; stroke: #9198a1; }
  .edge { stroke: #9198a1; }
  .tip { fill: #9198a1; }
}";

/// The picture.
///
/// # Errors
/// When there is no laying the diagram out.
pub(super) fn write(graph: &Graph) -> Result<String, LayoutError> {
    let sizes: Vec<(f64, f64)> = graph.nodes.iter().map(|node| size(graph, node)).collect();
    let labels: Vec<(f64, f64)> = graph
        .edges
        .values()
        .map(|label| label.as_deref().map_or((0.0, 0.0), label_size))
        .collect();
    let layout = layout::of(graph, &sizes, &labels)?;
    let (width, height) = (layout.width, layout.height);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"title desc\" \
         width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.1} {height:.1}\">\n\
         <title id=\"title\">Workflows and events</title>\n\
         <desc id=\"desc\">{}</desc>\n\
         <style>\n{STYLE}\n</style>\n\
         <marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"9\" \
         markerHeight=\"9\" markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"tip\" d=\"M0 0 8 4 0 8z\"/></marker>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n",
        escape(&description(graph))
    );
    for area in &layout.frames {
        let _ = writeln!(svg, "<rect class=\"frame\" {} rx=\"8\"/>", rectangle(area));
    }
    for (edge, line) in graph.edges.keys().zip(&layout.edges) {
        let class = match edge.wire {
            Wire::After => "edge",
            Wire::Back => "edge back",
            Wire::Event => "edge wire",
        };
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"{}\" marker-end=\"url(#tip)\"/>",
            curve(&line.points)
        );
    }
    for (name, area) in graph.workflows.iter().zip(&layout.frames) {
        let _ = writeln!(
            svg,
            "<text class=\"frame-name\" x=\"{:.1}\" y=\"{:.1}\"><title>{}</title>{}</text>",
            area.x + 10.0,
            area.y + 15.0,
            escape(name),
            escape(&shorten(name)),
        );
    }
    for (label, line) in graph.edges.values().zip(&layout.edges) {
        if let (Some(label), Some(at)) = (label, line.label) {
            let _ = writeln!(
                svg,
                "<text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                at.x,
                at.y + 4.0,
                escape(label)
            );
        }
    }
    for (node, area) in graph.nodes.iter().zip(&layout.nodes) {
        box_of(&mut svg, node, area);
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn box_of(svg: &mut String, node: &Node, area: &Area) {
    let (class, shape) = match node.kind {
        Kind::Sensor => ("sensor", format!("<rect {} rx=\"0\"", rectangle(area))),
        Kind::Schedule => ("schedule", format!("<rect {} rx=\"23\"", rectangle(area))),
        Kind::Event => ("event", hexagon(area)),
        Kind::Step => ("step", format!("<rect {} rx=\"8\"", rectangle(area))),
    };
    let middle = area.x + area.width / 2.0;
    let whole: Vec<String> = node.lines().map(escape).collect();
    let _ = write!(
        svg,
        "<g text-anchor=\"middle\"><title>{}</title>{shape} class=\"node {class}\"/>\
         <text x=\"{middle:.1}\" y=\"{:.1}\">{}</text>",
        whole.join("\n"),
        area.y + 20.0,
        escape(&shorten(&node.name)),
    );
    let mut y = area.y + 36.0;
    for line in node.lines().skip(1) {
        let _ = write!(
            svg,
            "<text class=\"note\" x=\"{middle:.1}\" y=\"{y:.1}\">{}</text>",
            escape(&shorten(line)),
        );
        y += LINE;
    }
    svg.push_str("</g>\n");
}

fn rectangle(area: &Area) -> String {
    let Area {
        x,
        y,
        width,
        height,
    } = area;
    format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"")
}

fn hexagon(area: &Area) -> String {
    const CORNER: f64 = 12.0;
    let (left, right) = (area.x, area.x + area.width);
    let (top, bottom) = (area.y, area.y + area.height);
    let middle = f64::midpoint(top, bottom);
    format!(
        "<path d=\"M{left:.1} {middle:.1} {:.1} {top:.1} {:.1} {top:.1} {right:.1} {middle:.1} \
         {:.1} {bottom:.1} {:.1} {bottom:.1}z\"",
        left + CORNER,
        right - CORNER,
        right - CORNER,
        left + CORNER,
    )
}

/// A line past all points, its corners rounded.
fn curve(points: &[Point]) -> String {
    let mut path = String::new();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return path;
    };
    let _ = write!(path, "M{:.1} {:.1}", first.x, first.y);
    for pair in points.windows(2).skip(1) {
        if let [corner, next] = pair {
            let (x, y) = (
                f64::midpoint(corner.x, next.x),
                f64::midpoint(corner.y, next.y),
            );
            let _ = write!(path, "Q{:.1} {:.1} {x:.1} {y:.1}", corner.x, corner.y);
        }
    }
    let _ = write!(path, "L{:.1} {:.1}", last.x, last.y);
    path
}

/// What the picture shows, for those who do not see it.
fn description(graph: &Graph) -> String {
    let mut sentences = Vec::new();
    let name = |place: usize| {
        let node = graph.nodes.get(place);
        node.map_or_else(String::new, |node| match node.workflow {
            Some(workflow) => {
                let workflow = graph.workflows.get(workflow).map_or("", String::as_str);
                format!("{workflow}/{}", node.name)
            }
            None => node.name.clone(),
        })
    };
    for (edge, label) in &graph.edges {
        let verb = match edge.wire {
            Wire::After => "is followed by",
            Wire::Back => "may go back to",
            Wire::Event => "leads to",
        };
        let label = label.as_ref().map(|label| format!(", {label}"));
        sentences.push(format!(
            "{} {verb} {}{}.",
            name(edge.from),
            name(edge.to),
            label.unwrap_or_default()
        ));
    }
    sentences.join(" ")
}

fn size(graph: &Graph, node: &Node) -> (f64, f64) {
    // A frame is as wide as its steps, and its name has to fit.
    let frame = node.workflow.and_then(|place| graph.workflows.get(place));
    let frame = frame.map_or(0.0, |name| width(name, 11.0) - PADDING);
    let lines = node.lines().skip(1).map(|line| width(line, 11.0));
    let widest = lines.fold(width(&node.name, 13.0), f64::max);
    let marks = node.marks.iter().map(|_| LINE);
    (
        widest.max(frame).max(48.0) + 2.0 * PADDING,
        HEIGHT + marks.sum::<f64>(),
    )
}

/// The room for what stands beside an edge.
fn label_size(label: &str) -> (f64, f64) {
    (width(label, 11.0) + PADDING, LINE)
}

/// How wide a text is at most, in a usual font of this size.
fn width(text: &str, size: f64) -> f64 {
    let letters = shorten(text);
    let ems = letters.chars().map(|c| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 0.34,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.95,
        c if c.is_ascii_uppercase() => 0.72,
        c if c.is_ascii() => 0.6,
        _ => 1.0,
    });
    ems.sum::<f64>() * size
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(SHOWN - 1).collect();
    short.push('…');
    short
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
