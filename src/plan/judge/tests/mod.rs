//! Review and merge, case by case, and under any sequence of verdicts.

mod evaluators;
mod flow;
mod lineage;
mod properties;
mod world;
