//! The graph of Tasks that wait for Tasks: who waits for a name, and which wait for themselves.
//!
//! Owns edges and cycles, by Task name. It does not know when a dependency is resolved: the queue
//! keeps only unresolved dependencies here. Tasks that can reach each other, a Task that names itself
//! included, form a knot; none of them can ever start (invariant S11).
//!
//! Cost: adding edges searches from the Task in both directions and stops as soon as one direction
//! ends, so growing a long chain is cheap. Finding or undoing a knot costs its own size and what is
//! reachable from it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Name of a Task.
pub type Name = Arc<str>;

#[derive(Debug, Default)]
struct Node {
    edges: Vec<Name>,
    knot: Option<u64>,
}

#[derive(Debug, Default)]
struct Knot {
    members: Vec<Name>,
    /// A cycle among the members; its first name is repeated at the end.
    cycle: Vec<Name>,
}

/// Unresolved dependencies of the waiting Tasks of a namespace.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Name, Node>,
    dependents: HashMap<Name, BTreeSet<Name>>,
    knots: BTreeMap<u64, Knot>,
    next_knot: u64,
}

impl Graph {
    /// Sets the unresolved dependencies of a Task; none: it waits for nobody. Returns the other Tasks
    /// that joined or left a knot by it.
    pub fn set(&mut self, name: &str, edges: Vec<Name>) -> BTreeSet<Name> {
        let name: Name = name.into();
        let old = self.nodes.get(&name).map(|node| node.edges.clone()).unwrap_or_default();
        if old == edges {
            return BTreeSet::new();
        }
        for to in &old {
            if let Some(from) = self.dependents.get_mut(to) {
                from.remove(&name);
                if from.is_empty() {
                    self.dependents.remove(to);
                }
            }
        }
        for to in &edges {
            self.dependents.entry(Arc::clone(to)).or_default().insert(Arc::clone(&name));
        }
        let grew = edges.iter().any(|to| !old.contains(to));
        let knot = if edges.is_empty() {
            self.nodes.remove(&name).and_then(|node| node.knot)
        } else {
            let node = self.nodes.entry(Arc::clone(&name)).or_default();
            node.edges = edges;
            node.knot
        };
        let mut changed: BTreeSet<Name> =
            knot.map(|knot| self.retie(knot)).unwrap_or_default().into_iter().collect();
        if grew {
            changed.extend(self.tie(&name));
        }
        changed.remove(&name);
        changed
    }

    /// Whether the Task of this name waits for any other.
    pub fn waits(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// Tasks that wait for the name.
    pub fn dependents(&self, name: &str) -> impl Iterator<Item = &Name> {
        self.dependents.get(name).into_iter().flatten()
    }

    /// The cycle that keeps a Task from ever starting; its first name is repeated at the end.
    pub fn cycle(&self, name: &str) -> Option<&[Name]> {
        let knot = self.nodes.get(name)?.knot?;
        self.knots.get(&knot).map(|knot| knot.cycle.as_slice())
    }

    fn edges(&self, name: &Name) -> &[Name] {
        self.nodes.get(name).map_or(&[], |node| node.edges.as_slice())
    }

    /// Finds the knot through a Task that got new edges.
    fn tie(&mut self, name: &Name) -> Vec<Name> {
        if !self.reaches_itself(name) {
            return Vec::new();
        }
        let down = self.reach(name, |graph, at| graph.edges(at).to_vec());
        let up = self.reach(name, |graph, at| graph.dependents(at).cloned().collect());
        let members: Vec<Name> = down.intersection(&up).cloned().collect();
        self.add_knot(members.clone());
        members
    }

    /// Undoes a knot of which a member changed, and ties what is left of it.
    fn retie(&mut self, knot: u64) -> Vec<Name> {
        let Some(Knot { members, cycle: _ }) = self.knots.remove(&knot) else {
            return Vec::new();
        };
        for member in &members {
            if let Some(node) = self.nodes.get_mut(member) {
                node.knot = None;
            }
        }
        for component in self.components(&members) {
            let alone = component.len() == 1;
            if !alone || component.iter().any(|name| self.edges(name).contains(name)) {
                self.add_knot(component);
            }
        }
        members
    }

    /// Ties the members of one strongly connected component; it swallows knots within.
    fn add_knot(&mut self, mut members: Vec<Name>) {
        members.sort();
        let id = self.next_knot;
        self.next_knot += 1;
        for member in &members {
            if let Some(node) = self.nodes.get_mut(member)
                && let Some(old) = node.knot.replace(id)
            {
                self.knots.remove(&old);
            }
        }
        let cycle = members.first().map(|start| self.shortest_cycle(start, &members));
        self.knots.insert(id, Knot { members, cycle: cycle.unwrap_or_default() });
    }

    /// Searches from the Task in both directions at once, until one of them meets it again or ends.
    fn reaches_itself(&self, name: &Name) -> bool {
        let mut down = (HashSet::new(), VecDeque::from([name]));
        let mut up = (HashSet::new(), VecDeque::from([name]));
        loop {
            let (Some(below), Some(above)) = (down.1.pop_front(), up.1.pop_front()) else {
                return false;
            };
            for next in self.edges(below) {
                if next == name {
                    return true;
                }
                if down.0.insert(next) {
                    down.1.push_back(next);
                }
            }
            for next in self.dependents(above) {
                if next == name {
                    return true;
                }
                if up.0.insert(next) {
                    up.1.push_back(next);
                }
            }
        }
    }

    fn reach(&self, from: &Name, next: impl Fn(&Self, &Name) -> Vec<Name>) -> BTreeSet<Name> {
        let mut seen = BTreeSet::from([Arc::clone(from)]);
        let mut open = vec![Arc::clone(from)];
        while let Some(at) = open.pop() {
            for name in next(self, &at) {
                if seen.insert(Arc::clone(&name)) {
                    open.push(name);
                }
            }
        }
        seen
    }

    /// Strongly connected components of the graph restricted to `members`: a search along the edges
    /// that notes the order in which Tasks are left, then one against them in reverse order.
    fn components(&self, members: &[Name]) -> Vec<Vec<Name>> {
        let inside: HashSet<&Name> = members.iter().collect();
        let mut seen = HashSet::new();
        let mut left = Vec::new();
        for start in members {
            let mut path = vec![(start, 0)];
            if !seen.insert(start) {
                continue;
            }
            while let Some((at, edge)) = path.pop() {
                let Some(next) = self.edges(at).get(edge) else {
                    left.push(at);
                    continue;
                };
                path.push((at, edge + 1));
                if let Some(next) = inside.get(next)
                    && seen.insert(next)
                {
                    path.push((next, 0));
                }
            }
        }
        let mut seen = HashSet::new();
        let mut components = Vec::new();
        for start in left.into_iter().rev() {
            let mut component = Vec::new();
            let mut open = vec![start];
            while let Some(at) = open.pop() {
                if inside.contains(at) && seen.insert(at) {
                    component.push(Arc::clone(at));
                    open.extend(self.dependents(at));
                }
            }
            if !component.is_empty() {
                components.push(component);
            }
        }
        components
    }

    fn shortest_cycle(&self, start: &Name, members: &[Name]) -> Vec<Name> {
        let inside: HashSet<&Name> = members.iter().collect();
        let mut from: HashMap<&Name, &Name> = HashMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(at) = open.pop_front() {
            for next in self.edges(at) {
                if next == start {
                    return closed(start, at, &from);
                }
                if inside.contains(next) && !from.contains_key(next) {
                    from.insert(next, at);
                    open.push_back(next);
                }
            }
        }
        Vec::new()
    }
}

/// The way from `start` to `end`, closed by `start`.
fn closed(start: &Name, end: &Name, from: &HashMap<&Name, &Name>) -> Vec<Name> {
    let mut cycle = vec![Arc::clone(start)];
    let mut at = end;
    while at != start {
        cycle.push(Arc::clone(at));
        match from.get(at) {
            Some(before) => at = before,
            None => break,
        }
    }
    cycle.push(Arc::clone(start));
    cycle.reverse();
    cycle
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(graph: &mut Graph, name: &str, edges: &[&str]) -> Vec<String> {
        let edges = edges.iter().map(|e| Name::from(*e)).collect();
        graph.set(name, edges).iter().map(|n| n.to_string()).collect()
    }

    fn cycle(graph: &Graph, name: &str) -> String {
        graph.cycle(name).map(|names| names.join(" ")).unwrap_or_default()
    }

    #[test]
    fn a_cycle_is_found_when_its_last_edge_comes_and_undone_when_one_goes() {
        let mut g = Graph::default();
        assert!(set(&mut g, "a", &["b"]).is_empty());
        assert!(set(&mut g, "b", &["c"]).is_empty());
        assert!(set(&mut g, "x", &["a"]).is_empty());
        assert_eq!(set(&mut g, "c", &["a", "z"]), ["a", "b"]);
        for name in ["a", "b", "c"] {
            assert_eq!(cycle(&g, name), "a b c a");
        }
        assert_eq!(cycle(&g, "x"), "");
        assert_eq!(set(&mut g, "b", &[]), ["a", "c"]);
        assert_eq!(cycle(&g, "a"), "");
    }

    #[test]
    fn a_task_that_names_itself_is_a_cycle_of_one() {
        let mut g = Graph::default();
        set(&mut g, "a", &["a"]);
        assert_eq!(cycle(&g, "a"), "a a");
        set(&mut g, "a", &["b"]);
        assert_eq!(cycle(&g, "a"), "");
    }

    #[test]
    fn a_smaller_cycle_remains_when_the_larger_one_is_undone() {
        let mut g = Graph::default();
        set(&mut g, "a", &["b"]);
        set(&mut g, "b", &["a", "c"]);
        set(&mut g, "c", &["d"]);
        set(&mut g, "d", &["b"]);
        assert_eq!(cycle(&g, "d"), "a b a");
        set(&mut g, "d", &["e"]);
        assert_eq!(cycle(&g, "d"), "");
        assert_eq!(cycle(&g, "b"), "a b a");
    }

    /// Whether the Task can reach itself, by plain search.
    fn naive(edges: &BTreeMap<u8, BTreeSet<u8>>, start: u8) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            for next in edges.get(&at).into_iter().flatten() {
                if *next == start {
                    return true;
                }
                if seen.insert(*next) {
                    open.push(*next);
                }
            }
        }
        false
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_task_on_a_cycle_and_no_other_is_in_a_knot(
            changes in proptest::collection::vec((0u8..8, proptest::collection::btree_set(0u8..8, 0..3)), 1..40)
        ) {
            let mut g = Graph::default();
            let mut edges = BTreeMap::new();
            for (name, to) in changes {
                let before: Vec<Option<Vec<Name>>> =
                    (0..8).map(|n: u8| g.cycle(&n.to_string()).map(<[_]>::to_vec)).collect();
                let changed = g.set(&name.to_string(), to.iter().map(|t| Name::from(t.to_string())).collect());
                edges.insert(name, to);
                for n in 0u8..8 {
                    let text = n.to_string();
                    let cycle = g.cycle(&text).map(<[_]>::to_vec);
                    prop_assert_eq!(cycle.is_some(), naive(&edges, n), "{}", n);
                    if cycle != before[usize::from(n)] && n != name {
                        prop_assert!(changed.contains(text.as_str()), "{} changed unnoticed", n);
                    }
                    for pair in cycle.unwrap_or_default().windows(2) {
                        let (from, to): (u8, u8) = (pair[0].parse().expect("a number"), pair[1].parse().expect("a number"));
                        prop_assert!(edges[&from].contains(&to), "no edge {} {}", from, to);
                    }
                }
            }
        }
    }
}
