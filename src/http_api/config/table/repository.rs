//! Keys of the repository and of the forge, and the secrets.

use super::super::key::{Component, Home, Key, Kind};
use super::{NOBODY, REPOSITORY, fixed, system};
use crate::crd::system::RepositoryMode;

const ONE_REPOSITORY: &str =
    "there is one repository, `spec.repository.url`, and each Run has its own checkout";
const IN_THE_URL: &str = "told from `spec.repository.url`";

pub(super) static KEYS: &[Key] = &[
    system(
        "REPO_URL",
        "",
        REPOSITORY,
        "http, https or ssh URL without credentials",
        "spec.repository.url",
        Kind::Text {
            optional: false,
            most: 2048,
            check: without_credentials,
            get: |s| &s.repository.url,
            set: |s, url| s.repository.url = url,
        },
    ),
    system(
        "BASE_BRANCH",
        "main",
        REPOSITORY,
        "Branch that work starts from",
        "spec.repository.baseBranch",
        Kind::Text {
            optional: false,
            most: 255,
            check: super::super::key::any,
            get: |s| &s.repository.base_branch,
            set: |s, branch| s.repository.base_branch = branch,
        },
    ),
    system(
        "REPO_MODE",
        "github",
        REPOSITORY,
        "`git`: a branch is pushed; `github`: it gets a pull request",
        "spec.repository.mode",
        Kind::Choice {
            words: &["git", "github"],
            get: |s| match s.repository.mode {
                RepositoryMode::Git => "git",
                RepositoryMode::GitHub => "github",
            },
            set: |s, word| {
                s.repository.mode =
                    if word == "github" { RepositoryMode::GitHub } else { RepositoryMode::Git };
            },
        },
    ),
    fixed("LOCAL_REPO_PATH", "", "", ONE_REPOSITORY),
    fixed("LOCAL_WORKTREE_ROOT", "", "", ONE_REPOSITORY),
    fixed(
        "GITHUB_AUTH_MODE",
        "gh",
        "token",
        "the credentials are the Secret that `spec.repository.credentialsSecretRef` names",
    ),
    fixed("GITHUB_OWNER", "", "", IN_THE_URL),
    fixed("GITHUB_REPO", "", "", IN_THE_URL),
];

pub(super) static SECRETS: &[Key] = &[
    secret(
        "GITHUB_TOKEN",
        NOBODY,
        "Kept, read by no program of ours: git uses the Secret that `spec.repository.credentialsSecretRef` names",
    ),
    secret("ANTHROPIC_API_KEY", AGENTS, MODEL_KEY),
    secret("GEMINI_API_KEY", AGENTS, MODEL_KEY),
    secret("OPENAI_API_KEY", AGENTS, MODEL_KEY),
    secret("XAI_API_KEY", AGENTS, MODEL_KEY),
    secret("DEEPSEEK_API_KEY", AGENTS, MODEL_KEY),
];

const MODEL_KEY: &str = "Variable of the agents whose AgentPool names the Secret";
const AGENTS: &[Component] =
    &[Component::Judge, Component::Planner, Component::Worker, Component::Tester, Component::Docser];

const fn secret(name: &'static str, affects: &'static [Component], about: &'static str) -> Key {
    Key { name, original: "", about, env: false, affects, home: Home::Secret }
}

/// Refused here already, so that no answer repeats them.
fn without_credentials(url: &str) -> Result<(), &'static str> {
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
    let web = url.starts_with("http://") || url.starts_with("https://");
    if web && authority.contains('@') {
        return Err(
            "must not contain credentials, put them into a Secret and name it in spec.repository.credentialsSecretRef",
        );
    }
    Ok(())
}
