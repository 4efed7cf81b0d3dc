//! Submodules against a real git server, with addresses that lead elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::path::PathBuf;

use git_support::{Pod, Server, git, pushed};
use opentiger::crd::Purpose;
use opentiger::crd::system::Submodules;
use opentiger::crd::wire::Outcome;

const LIB: [(&str, &[u8], &[u8]); 3] = [
    ("100644", b".gitattributes", b"*.txt text eol=crlf filter=x\n"),
    ("100644", b"lib.txt", b"lib\n"),
    ("120000", b"link", b"/etc/passwd"),
];

/// A server with a library and an application that has it at `vendor/lib`, with this `.gitmodules`.
fn seeded(server: &Server, modules: &str) -> (PathBuf, String) {
    let library = server.seed("team/lib.git", &LIB);
    let commit = git(&library, &["rev-parse", "main"]).trim().to_string();
    let application = server.seed(
        "team/app.git",
        &[
            ("100644", b".gitmodules", modules.as_bytes()),
            ("100644", b"a.rs", b"a\n"),
            ("160000", b"vendor/lib", commit.as_bytes()),
        ],
    );
    (application, commit)
}

fn modules(url: &str) -> String {
    format!("[submodule \"../../x\"]\n\tpath = vendor/lib\n\turl = {url}\n\tupdate = !touch /tmp/x\n")
}

fn pod(server: &Server, submodules: Submodules) -> Pod {
    let mut pod = Pod::new(&server.url("team/app.git"));
    pod.inputs.spec.repository.submodules = submodules;
    pod
}

#[tokio::test]
async fn the_files_of_a_submodule_are_there_and_its_pointer_stays() {
    let server = Server::start();
    let (repository, commit) = seeded(&server, &modules("../lib.git"));
    server.behaviour.lock().expect("lock").basic = Some("robot:pass".into());
    let pod = pod(&server, Submodules::SameHost);
    pod.credentials("robot", "pass");
    pod.checked_out().await;
    assert_eq!(fs::read_to_string(pod.file("vendor/lib/lib.txt")).expect("text"), "lib\n");
    assert!(!pod.file("vendor/lib/.git").exists(), "files, no repository");
    assert_eq!(git(&pod.paths.checkout, &["status", "--porcelain"]), "");
    // Twice: an init container can run again.
    pod.checked_out().await;

    pod.write("vendor/lib/lib.txt", "changed\n");
    pod.write("a.rs", "changed\n");
    let result =
        pod.publish_with(Some(opentiger::crd::wire::ContainerResult::new(Outcome::Success)), |paths| {
            assert_eq!(paths, ["a.rs"]);
            Ok(Vec::new())
        });
    assert_eq!(result.await.outcome, Outcome::Success);
    assert_eq!(pushed(&repository), ["100644 a.rs"]);
    let tree = git(&repository, &["ls-tree", git_support::BRANCH, "vendor/lib"]);
    assert_eq!(tree.trim(), format!("160000 commit {commit}\tvendor/lib"));

    let mut judge = pod.looking_at(&repository, Purpose::Judge);
    judge.inputs.spec.repository.submodules = Submodules::SameHost;
    judge.credentials("robot", "pass");
    judge.checked_out().await;
    assert_eq!(fs::read_to_string(judge.file("vendor/lib/lib.txt")).expect("text"), "lib\n");
}

#[tokio::test]
async fn nobody_asks_for_submodules_by_default() {
    let server = Server::start();
    seeded(&server, &modules("ext::sh -c id"));
    let pod = pod(&server, Submodules::default());
    pod.checked_out().await;
    assert_eq!(fs::read_dir(pod.file("vendor/lib")).expect("directory").count(), 0);
}

#[tokio::test]
async fn a_submodule_that_leads_elsewhere_is_refused_before_anything_is_asked() {
    let elsewhere = Server::start();
    elsewhere.seed("lib.git", &LIB);
    let trap = tempfile::tempdir().expect("directory");
    let canary = trap.path().join("canary");
    for url in [
        elsewhere.url("lib.git"),
        format!("ext::sh -c touch% {}", canary.display()),
        format!("file://{}", elsewhere.path("lib.git").display()),
        elsewhere.path("lib.git").display().to_string(),
        format!("--upload-pack=touch {}", canary.display()),
        format!("../../..//{}/lib.git", elsewhere.address),
        "\"https://127.0.0.1\\n@h/x\"".into(),
    ] {
        let server = Server::start();
        seeded(&server, &modules(&url));
        let pod = pod(&server, Submodules::SameHost);
        pod.credentials("robot", "pass");
        let result = pod.checkout().await;
        assert_eq!(result.outcome, Outcome::Failed, "{url}: {}", result.summary);
        assert_eq!(result.failure_code.as_deref(), Some("submodule_refused"), "{url}: {}", result.summary);
        assert!(result.summary.contains("set repository.submodules to Ignore"), "{}", result.summary);
    }
    assert!(!canary.exists(), "nothing was run");
    assert_eq!(elsewhere.behaviour.lock().expect("lock").log, Vec::<String>::new(), "nobody was asked");
}

#[tokio::test]
async fn a_submodule_without_address_or_commit_says_so() {
    let server = Server::start();
    seeded(&server, "[submodule \"x\"]\n\tpath = other\n\turl = ../lib.git\n");
    let result = pod(&server, Submodules::SameHost).checkout().await;
    assert_eq!(result.failure_code.as_deref(), Some("submodule_refused"), "{}", result.summary);
    assert!(result.summary.contains("vendor/lib is not in .gitmodules"), "{}", result.summary);

    let server = Server::start();
    seeded(&server, &modules("../lib.git"));
    git(&server.path("team/lib.git"), &["update-ref", "-d", "refs/heads/main"]);
    fs::remove_dir_all(server.path("team/lib.git/objects")).expect("remove");
    fs::create_dir_all(server.path("team/lib.git/objects")).expect("directory");
    let result = pod(&server, Submodules::SameHost).checkout().await;
    assert_eq!(result.failure_code.as_deref(), Some("submodule_refused"), "{}", result.summary);
    assert!(result.summary.contains("failed to fetch: submodule vendor/lib"), "{}", result.summary);
}
