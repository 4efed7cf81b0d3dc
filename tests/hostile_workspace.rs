//! Workspaces that try to run something, reach outside, or overload `publish` (design section 5,
//! invariant S30). Each trap that runs a program is also shown to be live: plain git with a work tree
//! springs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use git_support::{FILES, Pod, Server, content, git, mkfifo, prepared, pushed};
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::runner::git::Git;
use opentiger::runner::publish::change;
use opentiger::runner::walker::Limits;

/// A directory for traps, with a program that leaves a canary when it runs.
struct Trap {
    canary: PathBuf,
    script: PathBuf,
}

impl Trap {
    fn new(pod: &Pod) -> Self {
        let canary = pod.dir.path().join("canary");
        let script = pod.dir.path().join("trap.sh");
        fs::write(&script, format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\ncat\n", canary.display()))
            .expect("write");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { canary, script }
    }

    /// Configuration that makes git run the program wherever it can.
    fn config(&self) -> String {
        let script = self.script.display();
        format!(
            "[core]\n\tfsmonitor = {script}\n\thooksPath = {}\n\tsshCommand = {script}\n\teditor = {script}\n\tpager = {script}\n\
             [filter \"x\"]\n\tclean = {script}\n\tsmudge = {script}\n\tprocess = {script}\n\trequired = true\n\
             [diff]\n\texternal = {script}\n[diff \"x\"]\n\ttextconv = {script}\n\
             [credential]\n\thelper = {script}\n[gpg]\n\tprogram = {script}\n[commit]\n\tgpgSign = true\n\
             [uploadpack]\n\tpackObjectsHook = {script}\n[url \"ext::{script} \"]\n\tinsteadOf = http\n",
            self.script.parent().expect("parent").join("hooks").display(),
        )
    }

    /// Hooks of every name, all the program.
    fn hooks(&self, directory: &Path) {
        fs::create_dir_all(directory).expect("directory");
        for hook in [
            "pre-commit",
            "commit-msg",
            "post-checkout",
            "post-index-change",
            "pre-push",
            "reference-transaction",
            "fsmonitor-watchman",
            "post-commit",
            "pre-receive",
            "update",
        ] {
            let _ = fs::remove_file(directory.join(hook));
            fs::copy(&self.script, directory.join(hook)).expect("copy");
        }
    }

    fn assert_not_sprung(&self) {
        assert!(!self.canary.exists(), "{}", fs::read_to_string(&self.canary).unwrap_or_default());
    }

    /// What `publish` must not do: git with the work tree. Shows that the trap works.
    fn assert_live(&self, pod: &Pod) {
        let index = pod.dir.path().join("control-index");
        let tree = pod.paths.checkout.display().to_string();
        let repository = pod.paths.git_dir().display().to_string();
        for command in [["add", "-A"], ["status", "--porcelain"]] {
            let _ = git_support::plain_git(&pod.paths.checkout)
                .env("GIT_INDEX_FILE", &index)
                .args(["--git-dir", &repository, "--work-tree", &tree])
                .args(command)
                .output();
        }
        let _ = git_support::plain_git(&pod.paths.checkout).args(["add", "-A"]).output();
        let _ = git_support::plain_git(&pod.paths.checkout).args(["diff", "HEAD"]).output();
        assert!(self.canary.exists(), "the trap is not live, the test shows nothing");
    }
}

#[tokio::test]
async fn a_nested_repository_is_refused_and_its_programs_do_not_run() {
    let server = Server::start();
    let (_, pod) = prepared(&server).await;
    let trap = Trap::new(&pod);
    let nested = pod.file("src/vendor");
    fs::create_dir(&nested).expect("directory");
    git(&nested, &["init", "--quiet", "."]);
    fs::write(nested.join("x"), "x").expect("write");
    fs::write(nested.join(".gitattributes"), "* filter=x diff=x\n").expect("write");
    git(&nested, &["add", "-A"]);
    git(&nested, &["commit", "--quiet", "-m", "x"]);
    fs::write(nested.join(".git/config"), trap.config()).expect("write");
    trap.hooks(&nested.join(".git/hooks"));
    fs::write(nested.join("x"), "changed").expect("write");
    // Tracked as a submodule, it is entered by git without being asked.
    let head = git(&nested, &["rev-parse", "HEAD"]);
    git(
        &pod.paths.checkout,
        &["update-index", "--add", "--cacheinfo", &format!("160000,{},src/vendor", head.trim())],
    );
    let _ = fs::remove_file(&trap.canary);
    let reason = pod.refused().await;
    assert!(reason.contains("src/vendor/.git"), "{reason}");
    trap.assert_not_sprung();
    trap.assert_live(&pod);
}

#[tokio::test]
async fn a_git_file_below_the_top_is_refused_and_at_the_top_it_means_nothing() {
    let server = Server::start();
    let (repository, pod) = prepared(&server).await;
    let trap = Trap::new(&pod);
    let evil = pod.dir.path().join("workspace/evil");
    git(&pod.dir.path().join("workspace"), &["init", "--quiet", "evil"]);
    fs::write(evil.join(".git/config"), trap.config()).expect("write");
    fs::remove_dir_all(pod.file(".git")).expect("remove");
    pod.write(".git", "gitdir: ../evil/.git\n");
    pod.write(".gitattributes", "* filter=x\n");
    for name in [".git", ".GIT", "git~1", ".git ", ".g\u{200c}it"] {
        let path = format!("src/{name}");
        pod.write(&path, "gitdir: ../../evil/.git\n");
        let reason = pod.refused().await;
        assert!(reason.contains("a repository inside the repository"), "{reason}");
        fs::remove_file(pod.file(&path)).expect("remove");
    }
    for name in [".GIT", "git~1"] {
        pod.write(&format!("{name}/config"), "x");
        assert!(pod.refused().await.contains("a repository inside the repository"));
        fs::remove_dir_all(pod.file(name)).expect("remove");
    }
    pod.write("src/a.rs", "changed\n");
    pod.published().await;
    assert_eq!(pushed(&repository), ["100644 .gitattributes", "100644 src/a.rs"]);
    trap.assert_not_sprung();
    trap.assert_live(&pod);
}

/// Runs itself a second time, with an environment as hostile as one can be: HOME, XDG, GIT_*.
#[tokio::test]
async fn configuration_and_hooks_in_every_place_git_reads_do_nothing() {
    const CHILD: &str = "OPENTIGER_TEST_HOSTILE_HOME";
    let Some(home) = std::env::var_os(CHILD).map(PathBuf::from) else {
        let home = tempfile::tempdir().expect("directory");
        let script = home.path().join("program.sh");
        fs::write(&script, format!("#!/bin/sh\ntouch '{}'\n", home.path().join("sprung").display()))
            .expect("write");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut child = Command::new(std::env::current_exe().expect("test"));
        child
            .args(["--exact", "configuration_and_hooks_in_every_place_git_reads_do_nothing", "--nocapture"])
            .env(CHILD, home.path())
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path())
            .env("GIT_CONFIG_GLOBAL", home.path().join(".gitconfig"))
            .env("GIT_CONFIG_SYSTEM", home.path().join(".gitconfig"))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "core.fsmonitor")
            .env("GIT_CONFIG_VALUE_0", &script)
            .env("GIT_CONFIG_PARAMETERS", format!("'core.hooksPath'='{}'", home.path().display()))
            .env("GIT_DIR", home.path().join("nowhere"))
            .env("GIT_WORK_TREE", home.path())
            .env("GIT_INDEX_FILE", home.path().join("index"))
            .env("GIT_TEMPLATE_DIR", home.path().join("template"))
            .env("GIT_EXEC_PATH", home.path())
            .env("GIT_ASKPASS", &script)
            .env("SSH_ASKPASS", &script)
            .env("GIT_SSH_COMMAND", &script)
            .env("GIT_PROXY_COMMAND", &script)
            .env("GIT_EXTERNAL_DIFF", &script)
            .env("GIT_EDITOR", &script)
            .env("GIT_PAGER", &script)
            .env("GIT_TRACE", home.path().join("trace"));
        let output = child.output().expect("child");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert!(!home.path().join("sprung").exists());
        assert!(!home.path().join("trace").exists());
        return;
    };
    let server = Server::start();
    let repository = server.seed("app.git", &FILES);
    let pod = Pod::new(&server.url("app.git"));
    let trap = Trap::new(&pod);
    for place in
        [home.join(".gitconfig"), home.join("git/config"), pod.dir.path().join("workspace/.gitconfig")]
    {
        fs::create_dir_all(place.parent().expect("parent")).expect("directory");
        fs::write(place, trap.config()).expect("write");
    }
    trap.hooks(&home.join("template/hooks"));
    pod.checked_out().await;
    let git_dir = pod.file(".git");
    let own = fs::read_to_string(git_dir.join("config")).expect("config");
    fs::write(git_dir.join("config"), own + &trap.config()).expect("write");
    fs::create_dir_all(git_dir.join("info")).expect("directory");
    fs::write(git_dir.join("info/attributes"), "* filter=x diff=x\n").expect("write");
    fs::write(git_dir.join("info/exclude"), "src/\n").expect("write");
    trap.hooks(&git_dir.join("hooks"));
    trap.hooks(&pod.dir.path().join("hooks"));
    pod.write(".gitattributes", "* filter=x diff=x text eol=crlf ident working-tree-encoding=UTF-16\n");
    pod.write(
        ".gitmodules",
        "[submodule \"x\"]\n\tpath = src\n\turl = ext::sh -c 'touch /tmp/x'\n\tupdate = !touch x\n",
    );
    pod.write(".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:1/\n");
    pod.write("src/a.rs", "line\r\n$Id$\n");
    pod.published().await;
    assert_eq!(
        pushed(&repository),
        ["100644 .gitattributes", "100644 .gitmodules", "100644 .lfsconfig", "100644 src/a.rs"]
    );
    assert_eq!(content(&repository, "src/a.rs"), "line\r\n$Id$\n", "the bytes of the file, unconverted");
    trap.assert_not_sprung();
    trap.assert_live(&pod);
}

/// Every object of the trusted clone.
fn all_objects(pod: &Pod) -> String {
    git(&pod.paths.git_dir(), &["cat-file", "--batch-all-objects", "--batch", "--unordered"])
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_pipes_swapped_in_while_it_reads_lead_nowhere() {
    const SECRET: &str = "outside-of-the-workspace";
    let server = Server::start();
    let (_, pod) = prepared(&server).await;
    let outside = pod.dir.path().join("outside");
    fs::create_dir(&outside).expect("directory");
    fs::write(outside.join("file"), SECRET).expect("write");
    pod.write("dir/file", "inside");
    let stop = Arc::new(AtomicBool::new(false));
    let flips = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let flipper = std::thread::spawn({
        let (stop, flips, root, outside) =
            (stop.clone(), flips.clone(), pod.paths.checkout.clone(), outside.clone());
        move || {
            let at = |name: &str| root.join(name);
            // Of each name there is a harmless and a harmful form; they change places all the time.
            symlink(&outside, at("other-dir")).expect("link");
            symlink(outside.join("file"), at("other-src")).expect("link");
            mkfifo(&at("other-pipe"));
            fs::write(at("pipe"), "plain").expect("write");
            while !stop.load(Ordering::Relaxed) {
                for (name, other) in [("dir", "other-dir"), ("src/a.rs", "other-src"), ("pipe", "other-pipe")]
                {
                    let _ = fs::rename(at(name), at(".hold"));
                    let _ = fs::rename(at(other), at(name));
                    let _ = fs::rename(at(".hold"), at(other));
                    flips.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let git = Git::new(&pod.paths.git_dir(), &pod.paths.private(), &pod.stop);
    let (mut taken, mut refused, mut links) = (0, 0, 0);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        match change::recompute(&git, &pod.paths, Limits::default(), &pod.stop).await {
            Ok(changes) => {
                taken += 1;
                links += changes
                    .iter()
                    .filter(|c| c.to.as_ref().is_some_and(|(mode, _)| mode.word() == "120000"))
                    .count();
                assert!(changes.iter().all(|change| !change.path.starts_with("outside")));
            }
            Err(change::ChangeError::Walk(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    flipper.join().expect("thread");
    assert!(taken + refused > 10 && links > 0, "{taken} taken, {refused} refused, {links} links");
    assert!(flips.load(Ordering::Relaxed) > 1000);
    let objects = all_objects(&pod);
    let inside = objects.contains(&outside.display().to_string());
    assert!(inside, "the link itself is recorded as its text");
    assert!(!objects.contains(SECRET), "content from outside was read");
}

#[tokio::test]
async fn a_work_tree_that_is_gone_or_a_link_is_refused() {
    let server = Server::start();
    let (_, pod) = prepared(&server).await;
    fs::rename(&pod.paths.checkout, pod.dir.path().join("workspace/moved")).expect("rename");
    pod.refused().await;
    symlink("/etc", &pod.paths.checkout).expect("link");
    assert!(pod.refused().await.contains("failed to open the work tree"));
}

#[tokio::test]
async fn what_the_agent_leaves_in_the_exchange_cannot_mislead() {
    let server = Server::start();
    let (repository, pod) = prepared(&server).await;
    pod.write("src/a.rs", "changed\n");
    // A result that names another commit and branch: only outcome, tokens and summary are taken.
    let mut agent = ContainerResult::new(Outcome::Success);
    agent.head = Some("f".repeat(40));
    agent.branch = Some("main".into());
    agent.changed_files = Some(1_000_000);
    agent.summary = "all done".into();
    let result = pod.publish_with(Some(agent), |_| Ok(Vec::new())).await;
    assert_eq!(result.head.as_deref(), Some(git(&repository, &["rev-parse", git_support::BRANCH]).trim()));
    assert_eq!((result.branch.as_deref(), result.changed_files), (Some(git_support::BRANCH), Some(1)));
    // A link to a good result elsewhere is no result.
    let path = pod.paths.exchange.join("agent.json");
    fs::write(pod.dir.path().join("workspace/good"), ContainerResult::new(Outcome::Success).to_message())
        .expect("write");
    fs::remove_file(&path).expect("remove");
    symlink(pod.dir.path().join("workspace/good"), &path).expect("link");
    let result = pod.publish_with(None, |_| Ok(Vec::new())).await;
    assert_eq!(result.failure_code.as_deref(), Some("model_or_unknown_failure"));
}
