//! Repository mode `GitHub`: the runner against a real git server and a fake of GitHub's API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../git_support/mod.rs"]
mod git_support;

mod app;
mod fake;
mod issues;
mod judge;
mod merge;
mod publish;

use std::fs;
use std::path::{Path, PathBuf};

use fake::GitHub;
use git_support::{FILES, Pod, Server};
use opentiger::crd::Purpose;
use opentiger::crd::run::RunRepository;
use opentiger::crd::system::RepositoryMode;
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::runner::publish as step;

pub const TOKEN: &str = "ghp_canary0123456789";

/// git server, API, and the bare repository of both.
pub struct World {
    pub server: Server,
    pub github: GitHub,
    pub repository: PathBuf,
}

impl World {
    pub async fn start() -> Self {
        let server = Server::start();
        fs::create_dir(server.path("team")).expect("directory");
        let repository = server.seed("team/app.git", &FILES);
        server.behaviour.lock().expect("behaviour").basic = Some(format!("x-access-token:{TOKEN}"));
        let github = GitHub::start(&repository, TOKEN).await;
        Self { server, github, repository }
    }

    /// Makes the Pod one of mode GitHub, with a token.
    pub fn adapt(&self, mut pod: Pod) -> Pod {
        let repository = &mut pod.inputs.spec.repository;
        *repository = RunRepository {
            mode: RepositoryMode::GitHub,
            api_url: Some(self.github.url.clone()),
            ..repository.clone()
        };
        pod.inputs.spec.inputs.goal = "x is there. Closes #1".into();
        fs::write(pod.paths.credentials.join("token"), format!("{TOKEN}\n")).expect("write");
        pod
    }

    pub fn pod(&self) -> Pod {
        self.adapt(Pod::new(&self.server.url("team/app.git")))
    }

    /// A Pod that has pushed a change of `src/a.rs`, and its result.
    pub async fn published(&self) -> (Pod, ContainerResult) {
        let pod = self.pod();
        pod.checked_out().await;
        pod.write("src/a.rs", "changed\n");
        let result = pod.published().await;
        (pod, result)
    }

    pub fn looking_at(&self, pod: &Pod, purpose: Purpose) -> Pod {
        self.adapt(pod.looking_at(&self.repository, purpose))
    }

    pub async fn merge(&self, pod: &Pod) -> ContainerResult {
        pod.checked_out().await;
        step::run(&pod.inputs, &pod.paths, |_| Err("not asked".into()), &pod.stop).await
    }
}

pub fn brief(result: &ContainerResult) -> String {
    format!("{:?} {}", result.outcome, result.failure_code.as_deref().unwrap_or("-"))
}

/// Every file below `directory` whose content or name holds the token.
pub fn holding_the_token(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("directory").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("kind");
        if kind.is_dir() {
            found.extend(holding_the_token(&path));
        } else if kind.is_file()
            && fs::read(&path)
                .is_ok_and(|text| text.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()))
        {
            found.push(path);
        }
    }
    found
}

/// As [`Outcome`] and code: an attempt that the cluster is at fault for.
pub fn infra(code: &str) -> String {
    format!("{:?} {code}", Outcome::Infra)
}
