//! The standing instructions of each role, for the prompt (spec agents 4).
//!
//! Reviews and plans have prompts of their own and none of these. Must not read anything at run time.

use crate::crd::pool::Role;

/// How an agent of this role works: a Markdown list; empty for roles whose prompt says it all.
pub fn instructions(role: Role) -> &'static str {
    match role {
        Role::Worker => include_str!("roles/worker.md"),
        Role::Tester => include_str!("roles/tester.md"),
        Role::Docser => include_str!("roles/docser.md"),
        Role::Judge | Role::Planner => "",
    }
}
