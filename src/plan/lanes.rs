//! Lanes: floors and caps on how many Tasks of a kind of work are in progress at once.
//!
//! Owns what the rules of a lane are (spec: convergence 3.6; design 4 overrules the escape that
//! ignores caps). It does not select Tasks: that is [`crate::plan::dispatch`].

use crate::crd::Role;
use crate::crd::system::Lane;

/// Lane of a Task that names none and has no other.
pub const FEATURE: &str = "feature";
/// Lane of documentation work.
pub const DOCSER: &str = "docser";
/// Lane of work that resolves merge conflicts and diverged branches.
pub const CONFLICT_RECOVERY: &str = "conflict_recovery";
/// Lane of reviews and merges; it has no rule unless a System states one.
pub const JUDGE: &str = "judge";
/// Lane of planning; it has no rule unless a System states one.
pub const PLANNER: &str = "planner";
/// Lane that counts towards the floor of `feature` while it has no rule of its own.
const RESEARCH: &str = "research";

/// Lane of a Task whose spec names none.
pub fn default_lane(role: Role) -> &'static str {
    match role {
        Role::Docser => DOCSER,
        Role::Judge => JUDGE,
        Role::Planner => PLANNER,
        Role::Worker | Role::Tester => FEATURE,
    }
}

/// Lane under which a Task counts: `feature` when none is named.
pub fn effective(lane: &str) -> &str {
    if lane.is_empty() { FEATURE } else { lane }
}

/// One lane as the System states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneFacts {
    pub name: String,
    /// Slots that this lane is served first with.
    pub min: Option<u32>,
    /// Slots that this lane never exceeds; absent: unlimited.
    pub max: Option<u32>,
}

impl From<&Lane> for LaneFacts {
    fn from(lane: &Lane) -> Self {
        let slots = |n: Option<i32>| n.map(|n| u32::try_from(n).unwrap_or(0));
        Self { name: lane.name.clone(), min: slots(lane.min_slots), max: slots(lane.max_slots) }
    }
}

/// A lane that has a rule; every other lane is [`LaneRules::OTHER`], without floor and cap.
pub type LaneIndex = usize;

/// One lane's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRule {
    pub name: String,
    pub floor: u32,
    pub cap: Option<u32>,
    /// Lane towards whose floor this lane counts; its own, except for `research`.
    pub floor_of: LaneIndex,
}

/// The rules of all lanes of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRules(Vec<LaneRule>);

impl Default for LaneRules {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl LaneRules {
    /// Index of all lanes without a rule.
    pub const OTHER: LaneIndex = LaneIndex::MAX;

    /// Rules of a System. No lanes at all: `feature` has a floor of 1, `conflict_recovery` a cap of 2,
    /// `docser` a cap of 1.
    pub fn new(lanes: &[LaneFacts]) -> Self {
        let defaults =
            [(FEATURE, Some(1), None), (CONFLICT_RECOVERY, None, Some(2)), (DOCSER, None, Some(1))]
                .map(|(name, min, max)| LaneFacts { name: name.to_owned(), min, max });
        let lanes = if lanes.is_empty() { &defaults[..] } else { lanes };
        let mut rules: Vec<LaneRule> = lanes
            .iter()
            .enumerate()
            .map(|(index, lane)| LaneRule {
                name: lane.name.clone(),
                floor: lane.min.unwrap_or(0),
                cap: lane.max,
                floor_of: index,
            })
            .collect();
        let feature = rules.iter().position(|rule| rule.name == FEATURE);
        let has_research = rules.iter().any(|rule| rule.name == RESEARCH);
        if let Some(floor_of) = feature.filter(|_| !has_research) {
            rules.push(LaneRule { name: RESEARCH.to_owned(), floor: 0, cap: None, floor_of });
        }
        Self(rules)
    }

    /// Index of a lane's rule, or [`Self::OTHER`].
    pub fn index(&self, lane: &str) -> LaneIndex {
        let lane = effective(lane);
        self.0.iter().position(|rule| rule.name == lane).unwrap_or(Self::OTHER)
    }

    /// The rule at an index; `None` for [`Self::OTHER`].
    pub fn rule(&self, index: LaneIndex) -> Option<&LaneRule> {
        self.0.get(index)
    }

    /// Every rule with its index.
    pub fn iter(&self) -> impl Iterator<Item = (LaneIndex, &LaneRule)> {
        self.0.iter().enumerate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_configuration_the_three_known_lanes_have_rules() {
        let rules = LaneRules::default();
        let rule = |lane| rules.rule(rules.index(lane)).map(|r| (r.floor, r.cap));
        assert_eq!(rule("feature"), Some((1, None)));
        assert_eq!(rule(""), Some((1, None)));
        assert_eq!(rule("conflict_recovery"), Some((0, Some(2))));
        assert_eq!(rule("docser"), Some((0, Some(1))));
        assert_eq!(rule("plugin_x"), None);
    }

    #[test]
    fn research_counts_towards_the_floor_of_feature_unless_it_has_a_rule() {
        let rules = LaneRules::default();
        assert_eq!(rules.rule(rules.index("research")).map(|r| r.floor_of), Some(rules.index("feature")));
        let own = LaneRules::new(&[
            LaneFacts { name: "feature".into(), min: Some(1), max: None },
            LaneFacts { name: "research".into(), min: Some(2), max: None },
        ]);
        assert_eq!(own.rule(own.index("research")).map(|r| r.floor_of), Some(1));
    }
}
