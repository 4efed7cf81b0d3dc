//! What a hostile or merely unusual work tree becomes when it is published: odd names, odd types,
//! sizes, numbers, and what is left out (design section 5).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use git_support::{Pod, Server, content, import, mkfifo, prepared, pushed};
use opentiger::runner::git::Git;
use opentiger::runner::publish::change;
use opentiger::runner::walker::Limits;

#[tokio::test]
async fn submodules_are_carried_over_whatever_lies_in_their_place() {
    let commit = "1234567890123456789012345678901234567890";
    let server = Server::start();
    let repository = server.seed(
        "app.git",
        &[
            ("100644", b"README.md", b"hello\n"),
            ("160000", b"module", commit.as_bytes()),
            ("160000", b"gone", commit.as_bytes()),
        ],
    );
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    let _ = fs::remove_dir_all(pod.file("gone"));
    pod.write("module/.git", "gitdir: /nowhere\n");
    pod.write("module/file", "x");
    pod.write("README.md", "changed\n");
    pod.published().await;
    assert_eq!(pushed(&repository), ["100644 README.md"]);

    fs::remove_dir_all(pod.file("module")).expect("remove");
    symlink("README.md", pod.file("module")).expect("link");
    assert!(pod.refused().await.contains("module: a file takes the place of a submodule"));
}

#[tokio::test]
async fn odd_names_are_taken_exactly_or_refused_with_a_reason() {
    let server = Server::start();
    let (repository, pod) = prepared(&server).await;
    let good = [
        "-rf",
        " lead",
        "a b\u{a0}c",
        "don't.md",
        "q\"q",
        "ünï/日本.txt",
        "[id]/{a}.ts",
        "*",
        ":(top)x",
        "!x",
        "$(id)",
        "%s",
    ];
    for name in good {
        pod.write(name, name);
    }
    let long = format!("{}/{}", "d".repeat(250), "f".repeat(250));
    pod.write(&long, "long");
    // NFC and NFD of the same text are two names.
    pod.write("e\u{301}", "nfd");
    pod.write("\u{e9}", "nfc");
    pod.published().await;
    for name in good {
        assert_eq!(content(&repository, name), name);
    }
    assert_eq!(pushed(&repository).len(), good.len() + 3);

    let bad: [(&[u8], &str); 6] = [
        (b"new\nline", "control character"),
        (b"tab\t", "control character"),
        (b"src\\a.rs", "backslash"),
        (b"\"quoted\"", "quotation mark"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\x1b[31mred", "control character"),
    ];
    for (name, reason) in bad {
        let path = pod.paths.checkout.join(OsStr::from_bytes(name));
        fs::write(&path, "x").expect("write");
        let summary = pod.refused().await;
        assert!(summary.contains(reason), "{summary}");
        assert!(!summary.chars().any(char::is_control), "{summary:?}");
        fs::remove_file(path).expect("remove");
    }
    let deep = (0..250).fold(pod.paths.checkout.clone(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).expect("directories");
    fs::write(deep.join("f"), "x").expect("write");
    assert!(pod.refused().await.contains("nested too deep"));
}

#[tokio::test]
async fn pipes_sockets_and_huge_files_are_refused_without_waiting() {
    let server = Server::start();
    let (repository, pod) = prepared(&server).await;
    let started = Instant::now();
    mkfifo(&pod.file("pipe"));
    assert!(pod.refused().await.contains("pipe: sockets, pipes and devices"));
    fs::remove_file(pod.file("pipe")).expect("remove");

    fs::remove_file(pod.file("src/a.rs")).expect("remove");
    mkfifo(&pod.file("src/a.rs"));
    assert!(pod.refused().await.contains("src/a.rs: sockets, pipes and devices"));
    fs::remove_file(pod.file("src/a.rs")).expect("remove");

    let socket = UnixListener::bind(pod.file("socket")).expect("socket");
    assert!(pod.refused().await.contains("socket: sockets, pipes and devices"));
    drop(socket);
    fs::remove_file(pod.file("socket")).expect("remove");

    let huge = File::create(pod.file("huge.dat")).expect("create");
    huge.set_len(3 * 1024 * 1024 * 1024).expect("sparse");
    let reason = pod.refused().await;
    assert!(reason.contains("huge.dat: the file is larger than 104857600 bytes"), "{reason}");
    // Ignored, it is nobody's business; and a pipe as the rules of a directory rules nothing.
    pod.write(".gitignore", "huge.*\n*.sock\n");
    mkfifo(&pod.file("x.sock"));
    fs::create_dir(pod.file("sub")).expect("directory");
    symlink("/etc/passwd", pod.file("sub/.gitignore")).expect("link");
    pod.published().await;
    assert_eq!(pushed(&repository), ["100644 .gitignore", "D src/a.rs", "120000 sub/.gitignore"]);
    fs::remove_file(pod.file("sub/.gitignore")).expect("remove");
    mkfifo(&pod.file("sub/.gitignore"));
    assert!(pod.refused().await.contains("sub/.gitignore: sockets, pipes and devices"));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn files_of_several_megabytes_arrive_whole() {
    let server = Server::start();
    let (repository, pod) = prepared(&server).await;
    let line = "0123456789abcdef\n";
    for (name, size) in [("one", 1024 * 1024), ("more", 1024 * 1024 + 1), ("big", 20 * 1024 * 1024)] {
        let text = line.repeat(size / line.len() + 1);
        pod.write(name, &text[..size]);
    }
    pod.write("empty", "");
    pod.published().await;
    for name in ["one", "more", "big", "empty"] {
        assert!(content(&repository, name) == fs::read_to_string(pod.file(name)).expect("text"), "{name}");
    }
}

#[tokio::test]
async fn what_is_ignored_or_generated_does_not_count_a41() {
    let server = Server::start();
    let repository = server.seed(
        "app.git",
        &[
            ("100644", b".gitignore", b"*.log\n/secret/\nkept/*\n!kept/yes\n"),
            ("100644", b"tracked.log", b"1\n"),
            ("100644", b"secret/tracked", b"1\n"),
            ("100644", b"dist/bundle.js", b"1\n"),
            ("100644", b"web/a.ts", b"1\n"),
            ("100644", b"web/old.js", b"1\n"),
        ],
    );
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    // Tracked files count even where they would be ignored; generated ones do not.
    for name in ["tracked.log", "secret/tracked", "dist/bundle.js", "web/old.js"] {
        pod.write(name, "2\n");
    }
    for name in [
        "new.log",
        "secret/new",
        "secret/deep/.git/config",
        "kept/no",
        "node_modules/x/.git/config",
        "build/x.o",
        "web/a.js",
        "web/a.d.ts",
        ".venv/lib/x",
    ] {
        pod.write(name, "ignored\n");
    }
    // Tools ignore their own directories this way.
    pod.write(".venv/.gitignore", "*\n");
    pod.write("kept/yes", "y\n");
    pod.write("web/b.js", "no source beside it\n");
    // The agent's own exclusions are not read.
    fs::write(pod.file(".git/info/exclude"), "*\n").expect("write");
    pod.published().await;
    assert_eq!(
        pushed(&repository),
        [
            "100644 kept/yes",
            "100644 secret/tracked",
            "100644 tracked.log",
            "100644 web/b.js",
            "100644 web/old.js"
        ]
    );
}

#[tokio::test]
async fn files_links_and_directories_may_take_each_others_place() {
    let server = Server::start();
    let (repository, pod) = prepared(&server).await;
    fs::remove_file(pod.file("README.md")).expect("remove");
    pod.write("README.md/inner", "x");
    fs::remove_dir_all(pod.file("src")).expect("remove");
    symlink("../../../../etc", pod.file("src")).expect("link");
    fs::remove_file(pod.file("link")).expect("remove");
    pod.write("link", "README.md");
    pod.published().await;
    assert_eq!(
        pushed(&repository),
        ["D README.md", "100644 README.md/inner", "100644 link", "120000 src", "D src/a.rs", "D src/b.rs"]
    );
    assert_eq!(content(&repository, "src"), "../../../../etc", "a link is its text");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_files_are_compared_in_reasonable_time() {
    const FILES: usize = 200_000;
    let server = Server::start();
    let repository = server.create("app.git");
    let mut stream =
        b"commit refs/heads/main\ncommitter T <t@example.com> 1700000000 +0000\ndata 4\nseed\n".to_vec();
    for n in 0..FILES {
        let text = format!("file {n}\n");
        stream.extend(format!("M 100644 inline d{}/f{n}\ndata {}\n{text}\n", n / 500, text.len()).bytes());
    }
    import(&repository, &stream);
    // In memory: what is measured is ours, not the disk's.
    let pod = Pod::in_memory(&server.url("app.git"));
    let started = Instant::now();
    pod.checked_out().await;
    let checkout = started.elapsed();

    // One change; then every file touched, so that all have to be read again.
    pod.write("d7/f3500", "changed\n");
    let git_dir = Git::new(&pod.paths.git_dir(), &pod.paths.private(), &pod.stop);
    let started = Instant::now();
    let changes =
        change::recompute(&git_dir, &pod.paths, Limits::default(), &pod.stop).await.expect("changes");
    let by_manifest = started.elapsed();
    assert_eq!(changes.len(), 1);

    let touch = Command::new("find")
        .arg(&pod.paths.checkout)
        .args(["-name", "f*", "-exec", "touch", "{}", "+"])
        .stdout(Stdio::null())
        .status();
    assert!(touch.expect("touch").success());
    let started = Instant::now();
    let result = pod.published().await;
    let by_content = started.elapsed();
    assert_eq!(result.changed_files, Some(1));
    assert_eq!(pushed(&repository), ["100644 d7/f3500"]);
    println!("{FILES} files: checkout {checkout:?}, by manifest {by_manifest:?}, by content {by_content:?}");
    // Generous, for a loaded machine; a process per file would take many times that.
    assert!(by_manifest < Duration::from_secs(120) && by_content < Duration::from_secs(180));

    // As many new ones are beyond the bound, here a smaller one; ignored ones are not even looked at.
    let limits = Limits { files: 100, ..Limits::default() };
    for n in 0..=100 {
        pod.write(&format!("new/f{n}"), "x");
    }
    let error = change::recompute(&git_dir, &pod.paths, limits, &pod.stop).await.expect_err("too many");
    assert!(error.to_string().contains("more than 100 changed files"), "{error}");
    pod.write(".gitignore", "new/\n");
    let changes = change::recompute(&git_dir, &pod.paths, limits, &pod.stop).await.expect("changes");
    assert_eq!(changes.len(), 2);
    let limits = Limits { entries: 1000, ..Limits::default() };
    let error = change::recompute(&git_dir, &pod.paths, limits, &pod.stop).await.expect_err("too many");
    assert!(error.to_string().contains("more than 1000 entries"), "{error}");
}
