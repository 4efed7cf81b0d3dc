//! Runs of purpose Plan: what they are planned from, and how the plan becomes Tasks.
//!
//! | `checkout` | `agent` | `publish` |
//! |---|---|---|
//! | reads the requirement from the trusted clone, computes the plan's signature | writes the plan | puts the plan in order and hands its Tasks over to the API |
//! | asks the forge for the open issues, if the System wants them: with any there is no plan | nothing | hands the Tasks of the issues over and marks the issues |
//!
//! The agent is also told what the repository looks like ([`crate::plan::planner::snapshot`]).
//!
//! A plan that would be the last one again ends before a model is paid for. What the agent writes is
//! testimony: it is read within bounds, and only `publish` holds the token of the API.

pub mod hand_over;
pub mod issues;
pub mod publish;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkout::{CheckoutError, Paths, file};
use super::exchange;
use super::forge::github::GitHub;
use super::git::{FailureKind, Git, GitError};
use crate::crd::planner::PlanTask;
use crate::crd::wire::Inputs;
use crate::plan::planner::is_untouched;
use crate::plan::planner::issue::Chosen;
use crate::plan::planner::requirement::{self, Requirement};
use crate::plan::planner::snapshot::{self, Files};
use crate::plan::replan::is_same_plan;

/// Name of the file in the exchange directory in which the agent leaves its plan.
pub const PLAN_FILE: &str = "plan.json";
/// Name of the file in the exchange directory that says that there is nothing to plan.
pub const SKIP_FILE: &str = "plan.skip";
/// Name of the file in the exchange directory that says what the repository looks like.
pub const SNAPSHOT_FILE: &str = "plan.snapshot";
/// Largest requirement, in bytes.
const MAX_REQUIREMENT: usize = 64 * 1024;
/// Files that are looked at to tell what a repository holds, in bytes of their names.
const MAX_LISTING: usize = 512 * 1024;

/// What `checkout` has found, for `publish`. Lies where the agent cannot reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanFacts {
    /// Commit that is planned for.
    pub head: String,
    pub signature: String,
    /// Text of the requirement.
    pub requirement: String,
    /// The repository holds nothing but the requirement.
    pub repository_is_empty: bool,
    /// The agent has nothing to do: it would be the last plan again, or there are issues, or only those
    /// are wanted.
    pub skip: bool,
    /// Tasks of the open issues.
    pub issues: Vec<PlanTask>,
    /// Issues that did not become Tasks, and why.
    pub passed_over: Vec<String>,
}

impl PlanFacts {
    fn path(paths: &Paths) -> PathBuf {
        paths.repository.join("plan.json")
    }

    /// Reads what `checkout` has written.
    ///
    /// # Errors
    /// When it is not there or not readable.
    pub fn load(paths: &Paths) -> Result<Self, CheckoutError> {
        fs::read(Self::path(paths))
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .map_err(file("read what checkout found"))
    }
}

/// Notes what is planned from, and whether at all. `head` is the commit of the base branch in `bare`;
/// `forge` is asked for issues.
///
/// # Errors
/// When the requirement is not in the repository or not readable, or the forge does not answer.
pub async fn prepare(
    inputs: &Inputs,
    paths: &Paths,
    bare: &Git,
    head: &str,
    forge: Option<&GitHub>,
) -> Result<(), CheckoutError> {
    let (target, repository) = (inputs.spec.plan.clone().unwrap_or_default(), &inputs.spec.repository);
    let chosen = match (forge, &target.issues) {
        (Some(forge), Some(import)) => issues::find(inputs, forge, import).await?,
        (_, _) => Chosen::default(),
    };
    let requirement = match &target.requirement_path {
        _ if target.issues_only || !chosen.tasks.is_empty() => String::new(),
        Some(path) => from_repository(bare, head, path).await?,
        None => inputs.spec.inputs.goal.clone(),
    };
    let plans = !target.issues_only && chosen.tasks.is_empty();
    if plans && !Requirement::parse(&requirement).is_usable() {
        return Err(unusable("the requirement says nothing that could be planned").into());
    }
    let hash = requirement::hash(&requirement);
    let signature = requirement::signature(&hash, head, &repository.url, &repository.base_branch);
    let skip = !plans || is_same_plan(&signature, target.unless_signature.as_deref(), true);
    let listing = listing(bare, head).await?;
    let looks = if skip { String::new() } else { snapshot(bare, head, &listing).await };
    let facts = PlanFacts {
        head: head.to_owned(),
        signature,
        requirement,
        repository_is_empty: !is_cut(&listing) && is_untouched(names(&listing)),
        skip,
        issues: chosen.tasks.into_iter().map(|task| PlanTask { name: task.name, spec: task.spec }).collect(),
        passed_over: chosen.warnings,
    };
    serde_json::to_vec(&facts)
        .map_err(io::Error::other)
        .and_then(|text| fs::write(PlanFacts::path(paths), text))
        .and_then(|()| mark(&paths.exchange, skip))
        .and_then(|()| exchange::write_text(&paths.exchange, SNAPSHOT_FILE, &looks))
        .map_err(file("write what is planned from"))
}

/// Tells the agent whether there is anything to plan.
fn mark(exchange: &Path, skip: bool) -> io::Result<()> {
    let file = exchange.join(SKIP_FILE);
    if skip {
        return fs::write(file, "");
    }
    // An init container can run twice, and the branch may have moved in between.
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn from_repository(bare: &Git, head: &str, path: &str) -> Result<String, GitError> {
    let object = format!("{head}:{path}");
    let found = bare.command("cat-file").args(["blob", &object]).keep(MAX_REQUIREMENT + 1).run().await;
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(error) if error.kind == FailureKind::Stopped => return Err(error),
        Err(_) => return Err(unusable(&format!("there is no file {path} on the base branch"))),
    };
    if bytes.len() > MAX_REQUIREMENT {
        return Err(unusable(&format!("{path} is larger than {MAX_REQUIREMENT} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unusable(&format!("{path} is no text")))
}

fn unusable(detail: &str) -> GitError {
    GitError::new(FailureKind::RequirementUnusable, "read the requirement", detail)
}

/// Names of the files of `head`, each followed by a zero byte, within bounds.
async fn listing(bare: &Git, head: &str) -> Result<String, GitError> {
    let arguments = ["-r", "-z", "--name-only", "--full-tree", head];
    let listing = bare.command("ls-tree").args(arguments).keep(MAX_LISTING).run().await?;
    Ok(String::from_utf8_lossy(&listing).into_owned())
}

fn is_cut(listing: &str) -> bool {
    listing.len() >= MAX_LISTING
}

fn names(listing: &str) -> impl Iterator<Item = &str> {
    // What is cut, is cut in the middle of a name.
    let whole = listing.rsplit_once('\0').map_or("", |(whole, _)| whole);
    whole.split('\0').filter(|name| !name.is_empty())
}

/// What the agent is told of the repository.
async fn snapshot(bare: &Git, head: &str, listing: &str) -> String {
    let files = Files { paths: names(listing).collect(), cut: is_cut(listing) };
    let mut texts = Vec::new();
    for path in snapshot::TEXTS.into_iter().filter(|path| files.paths.contains(path)) {
        let object = format!("{head}:{path}");
        let limit = snapshot::MAX_TEXT * 4;
        // A link, or a file that cannot be read, is no loss: the agent has the checkout.
        if let Ok(bytes) = bare.command("cat-file").args(["blob", &object]).keep(limit).run().await {
            texts.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    snapshot::render(&files, &texts)
}
