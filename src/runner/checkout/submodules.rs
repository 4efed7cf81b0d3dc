//! Submodules of the checked-out tree, when the System asks for them: the files of each at the commit
//! that the tree names, in the agent's working clone.
//!
//! What `.gitmodules` says was written by whoever could push: an address counts only when it is one
//! of the repository's own scheme, host and port, so that the credentials go nowhere else, and names
//! are never used for files. Must not use `git submodule`, which reads more of a repository's settings.
//!
//! The agent gets files, no repository: the pointer in the tree stays as it is, and what the agent
//! changes below it is not published.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::manifest::gitlinks;
use super::{CheckoutError, Paths, RAW, file};
use crate::crd::system::Submodules;
use crate::crd::wire::Inputs;
use crate::runner::git::remote::{Remote, is_same_server, retry};
use crate::runner::git::{FailureKind, Git, GitError};

/// Most submodules of a repository.
const MAX: usize = 100;
/// Where the commit of a submodule is fetched to.
const COMMIT: &str = "refs/opentiger/submodule";

/// Puts the files of the submodules of `commit` into the working clone.
///
/// # Errors
/// [`FailureKind::SubmoduleRefused`] for an address that is not used, else as git.
pub async fn check_out(
    inputs: &Inputs,
    paths: &Paths,
    bare: &Git,
    commit: &str,
    stop: &CancellationToken,
) -> Result<(), CheckoutError> {
    match inputs.spec.repository.submodules {
        Submodules::Ignore => return Ok(()),
        Submodules::SameHost => {}
    }
    let listing = bare.command("ls-tree").args(["-r", "-z", "--full-tree", commit]).run().await?;
    let links = gitlinks(&listing);
    if links.is_empty() {
        return Ok(());
    }
    if links.len() > MAX {
        return Err(refused(format!("there are {} submodules, more than {MAX}", links.len())).into());
    }
    let addresses = addresses(bare, commit).await?;
    let mut wanted = Vec::new();
    for (path, id) in links {
        let name = String::from_utf8_lossy(&path).into_owned();
        let url = addresses.get(&path).ok_or_else(|| refused(format!("{name} is not in .gitmodules")))?;
        wanted.push((path, id, address(&inputs.spec.repository.url, url, &name)?));
    }
    fs::create_dir_all(paths.submodules()).map_err(file("make the directory of the submodules"))?;
    // All addresses are known to be good before the first is asked.
    for (number, (path, id, url)) in wanted.iter().enumerate() {
        let name = String::from_utf8_lossy(path).into_owned();
        let repository = Git::new(&paths.submodules().join(number.to_string()), &paths.private(), stop);
        fetch(paths, &repository, (&name, url, id)).await?;
        fs::create_dir_all(repository.git_dir().join("info"))
            .and_then(|()| fs::write(repository.git_dir().join("info/attributes"), RAW))
            .map_err(file("write the attributes"))?;
        let directory =
            directory(&paths.checkout, path).map_err(file("open the directory of a submodule"))?;
        let checkout = repository.command_in(&directory, "checkout");
        checkout.args(["--quiet", "--force", "--detach", COMMIT]).run().await?;
    }
    Ok(())
}

fn refused(detail: String) -> GitError {
    GitError::new(FailureKind::SubmoduleRefused, "check out the submodules", detail)
}

/// Names the submodule; what git has no word for is a commit that the server does not give.
fn within(name: &str, error: GitError) -> GitError {
    let kind = match error.kind {
        FailureKind::Other | FailureKind::BaseBranchMissing => FailureKind::SubmoduleRefused,
        kind => kind,
    };
    GitError { kind, detail: format!("submodule {name}: {}", error.detail), ..error }
}

async fn fetch(paths: &Paths, repository: &Git, (name, url, id): (&str, &str, &str)) -> Result<(), GitError> {
    let format = if id.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    repository.command("init").args(["--quiet", "--bare", "--template=", format]).run().await?;
    let remote = Remote::open(url, &paths.credentials, &paths.private())?;
    retry(|| remote.fetch(repository, id, COMMIT, 1)).await.map_err(|error| within(name, error))
}

/// Address by path, as `.gitmodules` has them.
async fn addresses(bare: &Git, commit: &str) -> Result<BTreeMap<Vec<u8>, String>, GitError> {
    let blob = format!("--blob={commit}:.gitmodules");
    let pattern = r"^submodule\..*\.(path|url)$";
    let answer = bare.command("config").args([&blob, "-z", "--get-regexp", pattern]).answers().answer().await;
    let text = match answer {
        Ok(answer) => answer.output,
        Err(error) if error.kind == FailureKind::Stopped => return Err(error),
        Err(error) => return Err(refused(format!("there is no readable .gitmodules: {}", error.detail))),
    };
    let (mut found, mut urls) = (BTreeMap::new(), BTreeMap::new());
    for record in text.split(|byte| *byte == 0) {
        let Some(end) = record.iter().position(|byte| *byte == b'\n') else { continue };
        let (key, value) = record.split_at(end);
        let value = value.get(1..).unwrap_or_default().to_vec();
        if let Some(name) = key.strip_suffix(b".path") {
            found.insert(name.to_vec(), value);
        } else if let Some(name) = key.strip_suffix(b".url") {
            urls.insert(name.to_vec(), String::from_utf8_lossy(&value).into_owned());
        }
    }
    Ok(found.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?))).collect())
}

/// The whole address of a submodule, which must be on the repository's own server.
fn address(repository: &str, url: &str, name: &str) -> Result<String, GitError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._~/:@%+-".contains(c);
    let whole = resolve(repository, url).filter(|whole| whole.chars().all(plain));
    whole.filter(|whole| is_same_server(repository, whole)).ok_or_else(|| {
        let url: String = url.chars().filter(|c| !c.is_control()).take(200).collect();
        refused(format!("submodule {name} is at {url:?}, which is not on the repository's own server"))
    })
}

/// A relative address is one beside the repository (`git submodule add`).
fn resolve(repository: &str, url: &str) -> Option<String> {
    if !url.starts_with("./") && !url.starts_with("../") {
        return Some(url.to_string());
    }
    let (mut base, mut rest) = (repository.trim_end_matches('/'), url);
    loop {
        if let Some(below) = rest.strip_prefix("../") {
            (base, rest) = (base.rsplit_once('/')?.0, below);
        } else if let Some(below) = rest.strip_prefix("./") {
            rest = below;
        } else {
            return Some(format!("{base}/{rest}"));
        }
    }
}

/// The directory of a submodule, every part of which is a directory and no link.
fn directory(root: &Path, path: &[u8]) -> std::io::Result<PathBuf> {
    let mut directory = root.to_path_buf();
    for part in path.split(|byte| *byte == b'/') {
        directory.push(OsStr::from_bytes(part));
        if !fs::symlink_metadata(&directory)?.is_dir() {
            return Err(std::io::ErrorKind::NotADirectory.into());
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_on_the_repository_s_own_server_are_used() {
        let https = "https://h:8443/team/app.git";
        for (repository, url, whole) in [
            (https, "../lib.git", "https://h:8443/team/lib.git"),
            (https, "./x/../lib.git", "https://h:8443/team/app.git/x/../lib.git"),
            (https, "../../other/lib", "https://h:8443/other/lib"),
            (https, "https://H:8443/a", "https://H:8443/a"),
            ("git@h:team/app.git", "../lib.git", "git@h:team/lib.git"),
            ("git@h:team/app.git", "ssh://git@h/lib.git", "ssh://git@h/lib.git"),
        ] {
            assert_eq!(address(repository, url, "m").expect("good"), whole);
        }
        for url in [
            "https://h/lib.git",
            "http://h:8443/lib.git",
            "https://h.evil:8443/lib.git",
            "https://h:8443@evil/lib.git",
            "https://user@h:8443/lib.git",
            "https://h:8443\\@evil/lib.git",
            "ssh://h:8443/lib.git",
            "file:///etc",
            "/etc",
            "ext::sh -c id",
            "../../..//evil/x",
            "../../../../evil/x",
            "../../../..//evil/x",
            "--upload-pack=id",
            "",
        ] {
            let error = address(https, url, "m").expect_err(url);
            assert_eq!(error.kind, FailureKind::SubmoduleRefused, "{url}");
        }
        assert!(address("git@h:app.git", "root@h:lib.git", "m").is_err(), "another user");
    }
}
