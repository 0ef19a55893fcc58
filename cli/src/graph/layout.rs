//! Gives each part of a diagram its place in a picture: layers from top to
//! bottom, few crossings, the steps of a workflow within one frame.

use super::{Graph, Wire};
use dugong::graphlib::{self, GraphOptions};
use dugong::{EdgeLabel, GraphLabel, LayoutError, NodeLabel, Point};

/// A box in pixels, by its upper left corner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Where everything is, in the order of the graph's own lists.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) nodes: Vec<Area>,
    pub(super) frames: Vec<Area>,
    /// The points that each edge passes.
    pub(super) edges: Vec<Vec<Point>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Room around the picture.
const MARGIN: f64 = 24.0;

/// Room for a frame's name, taken from the gap above the frame.
const NAME: f64 = 10.0;

/// Lays the graph out; `sizes` are the nodes' widths and heights.
///
/// # Errors
/// When the layout gets no result.
pub(super) fn of(graph: &Graph, sizes: &[(f64, f64)]) -> Result<Layout, LayoutError> {
    let mut plan = graphlib::Graph::<NodeLabel, EdgeLabel, GraphLabel>::new(GraphOptions {
        multigraph: true,
        compound: true,
        directed: true,
    });
    plan.set_graph(GraphLabel {
        nodesep: 32.0,
        ranksep: 36.0,
        edgesep: 16.0,
        marginx: MARGIN,
        marginy: MARGIN,
        ..GraphLabel::default()
    });
    for (place, (width, height)) in sizes.iter().enumerate() {
        let label = NodeLabel {
            width: *width,
            height: *height,
            ..NodeLabel::default()
        };
        plan.set_node(node(place), label);
    }
    for place in 0..graph.workflows.len() {
        plan.set_node(frame(place), NodeLabel::default());
        for (step, _) in graph.nodes_in(Some(place)) {
            plan.set_parent(node(step), frame(place));
        }
    }
    for (place, edge) in graph.edges.iter().enumerate() {
        let label = EdgeLabel {
            // The steps of a workflow are to stand below each other.
            weight: if edge.wire == Wire::After { 4.0 } else { 1.0 },
            ..EdgeLabel::default()
        };
        let (from, to) = (node(edge.from), node(edge.to));
        plan.set_edge_named(from, to, Some(place.to_string()), Some(label));
    }
    dugong::layout(&mut plan)?;

    let area = |name: &str| {
        let label = plan.node(name).cloned().unwrap_or_default();
        let (x, y) = (label.x.unwrap_or_default(), label.y.unwrap_or_default());
        Area {
            x: x - label.width / 2.0,
            y: y - label.height / 2.0,
            width: label.width,
            height: label.height,
        }
    };
    let edges = graph.edges.iter().enumerate().map(|(place, edge)| {
        let name = place.to_string();
        let label = plan.edge(&node(edge.from), &node(edge.to), Some(&name));
        label.map(|label| label.points.clone()).unwrap_or_default()
    });
    Ok(Layout {
        nodes: (0..sizes.len()).map(|place| area(&node(place))).collect(),
        frames: (0..graph.workflows.len())
            .map(|place| {
                let area = area(&frame(place));
                Area {
                    y: area.y - NAME,
                    height: area.height + NAME,
                    ..area
                }
            })
            .collect(),
        edges: edges.collect(),
        width: plan.graph().width.max(2.0 * MARGIN),
        height: plan.graph().height.max(2.0 * MARGIN),
    })
}

fn node(place: usize) -> String {
    format!("n{place}")
}

fn frame(place: usize) -> String {
    format!("w{place}")
}
