//! Gives each part of a diagram its place in a picture: layers from top to
//! bottom, few crossings, the steps of a workflow within one frame.

use super::{Graph, Wire};
use dugong::graphlib::{self, GraphOptions};
use dugong::{EdgeLabel, GraphLabel, LayoutError, NodeLabel, Point, WorkControl, WorkError};

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
    pub(super) edges: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The way of an edge.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The points that it passes.
    pub(super) points: Vec<Point>,
    /// The middle of its label, where it has one.
    pub(super) label: Option<Point>,
}

/// Room around the picture.
const MARGIN: f64 = 24.0;

/// Room for a frame's name, taken from the gap above the frame.
const NAME: f64 = 10.0;

/// The work that breaking circles from the picture's beginning may make. It
/// leaves the few arrows that go back where one looks for them; where many
/// circles meet, it makes them so long that their ways through the layers are
/// most of the work. Past this, as few arrows as can be go back.
const PATIENCE: usize = 10_000_000;

/// Lays the graph out; `sizes` are the nodes' widths and heights, and `labels`
/// those of what stands beside the edges, zero where nothing does.
///
/// # Errors
/// When the layout gets no result.
pub(super) fn of(
    graph: &Graph,
    sizes: &[(f64, f64)],
    labels: &[(f64, f64)],
) -> Result<Layout, LayoutError> {
    measured(graph, sizes, labels).map(|(layout, _)| layout)
}

/// The layout, and the work that it made.
fn measured(
    graph: &Graph,
    sizes: &[(f64, f64)],
    labels: &[(f64, f64)],
) -> Result<(Layout, usize), LayoutError> {
    let mut first = Work::up_to(PATIENCE);
    match lay_out(plan(graph, sizes, labels, None), graph, &mut first) {
        Ok(layout) => Ok((layout, first.done)),
        Err(LayoutError::Work(WorkError::Interrupted)) => {
            let mut second = Work::up_to(usize::MAX);
            let plan = plan(graph, sizes, labels, Some("greedy"));
            let layout = lay_out(plan, graph, &mut second)?;
            Ok((layout, first.done.saturating_add(second.done)))
        }
        Err(error) => Err(error),
    }
}

/// Counts the steps of a layout, and ends it when they are too many.
#[derive(Debug)]
struct Work {
    done: usize,
    limit: usize,
}

impl Work {
    fn up_to(limit: usize) -> Self {
        Self { done: 0, limit }
    }
}

impl WorkControl for Work {
    fn charge(&mut self, units: usize) -> Result<(), WorkError> {
        let done = self.done.saturating_add(units);
        if done > self.limit {
            return Err(WorkError::Interrupted);
        }
        self.done = done;
        Ok(())
    }
}

type Plan = graphlib::Graph<NodeLabel, EdgeLabel, GraphLabel>;

/// What the layout is given; `acyclicer` is its way to break circles.
fn plan(
    graph: &Graph,
    sizes: &[(f64, f64)],
    labels: &[(f64, f64)],
    acyclicer: Option<&str>,
) -> Plan {
    let mut plan = Plan::new(GraphOptions {
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
        acyclicer: acyclicer.map(str::to_owned),
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
    }
    for (place, node_of) in graph.nodes.iter().enumerate() {
        if let Some(workflow) = node_of.workflow {
            plan.set_parent(node(place), frame(workflow));
        }
    }
    for (place, (edge, (width, height))) in graph.edges.keys().zip(labels).enumerate() {
        let label = EdgeLabel {
            // The steps of a workflow are to stand below each other.
            weight: if edge.wire == Wire::After { 4.0 } else { 1.0 },
            width: *width,
            height: *height,
            ..EdgeLabel::default()
        };
        let (from, to) = (node(edge.from), node(edge.to));
        plan.set_edge_named(from, to, Some(place.to_string()), Some(label));
    }
    plan
}

fn lay_out(mut plan: Plan, graph: &Graph, work: &mut Work) -> Result<Layout, LayoutError> {
    dugong::layout_controlled(&mut plan, work)?;

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
    let edges = graph.edges.keys().enumerate().map(|(place, edge)| {
        let name = place.to_string();
        let label = plan.edge(&node(edge.from), &node(edge.to), Some(&name));
        label.map_or_else(Line::default, |label| Line {
            points: label.points.clone(),
            label: label.x.zip(label.y).map(|(x, y)| Point { x, y }),
        })
    });
    Ok(Layout {
        nodes: (0..graph.nodes.len())
            .map(|place| area(&node(place)))
            .collect(),
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::{Edge, Kind, Node};
    use super::*;

    /// Workflows of five steps, each of which sets off two others, so that the
    /// ways go round in more circles than can be counted.
    fn tangle(workflows: usize) -> Graph {
        const STEPS: usize = 5;
        let mut graph = Graph::default();
        let mut node = |kind, workflow| {
            graph.nodes.push(Node {
                kind,
                name: "name".to_owned(),
                note: "note".to_owned(),
                marks: Vec::new(),
                workflow,
            });
        };
        (0..workflows).for_each(|_| node(Kind::Event, None));
        (0..workflows * STEPS).for_each(|step| node(Kind::Step, Some(step / STEPS)));
        let mut edge = |from, to, wire| graph.edges.insert(Edge { from, to, wire }, None);
        let mut random = 1_usize;
        for workflow in 0..workflows {
            graph.workflows.push("name".to_owned());
            let first = workflows + workflow * STEPS;
            edge(workflow, first, Wire::Event);
            for step in first..first + STEPS - 1 {
                edge(step, step + 1, Wire::After);
            }
            for _ in 0..2 {
                random = (random * 1_103_515_245 + 12345) % (1 << 31);
                edge(first + STEPS - 1, (random >> 8) % workflows, Wire::Event);
            }
        }
        graph
    }

    /// The work of laying out a tangle.
    fn work(workflows: usize) -> usize {
        let graph = tangle(workflows);
        let sizes = vec![(80.0, 46.0); graph.nodes.len()];
        let labels = vec![(0.0, 0.0); graph.edges.len()];
        let (layout, work) = measured(&graph, &sizes, &labels).unwrap();
        assert_eq!(layout.nodes.len(), graph.nodes.len());
        work
    }

    #[test]
    fn many_circles_make_bounded_work() {
        let work = work(360);
        // Without an end to patience it is a hundred million.
        assert!(work < 80_000_000, "{work}");
    }

    #[test]
    fn few_circles_are_broken_where_they_come_round() {
        let work = work(8);
        assert!(work < PATIENCE, "{work}");
    }
}
