//! The forge: where pull requests and checks are. What we use of it is one trait, [`Forge`]; GitHub and
//! GitHub Enterprise Server are the one implementation.
//!
//! Used by `checkout` and `publish` only. Holds the token in memory and for git ([`access`]); no text of
//! this module has it in it. What follows from an answer is decided elsewhere: `plan::judge`.

pub mod access;
pub mod app;
pub mod failure;
pub mod github;
pub mod pull_request;
pub mod text;

use http::Uri;

pub use self::access::Access;
pub use self::failure::{FailureKind, ForgeError};
use crate::plan::judge::ci::Ci;
use crate::plan::planner::issue::Issue;

/// Where a pull request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Closed without a merge.
    Closed,
    Merged,
}

/// A pull request as the forge has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    pub number: i64,
    pub url: String,
    pub state: State,
    /// Commit at its head.
    pub head: String,
    /// Commit that the merge has made.
    pub merge_commit: Option<String>,
    /// Whether it can be merged; `None` while the forge does not know.
    pub mergeable: Option<bool>,
    /// The forge's word for it: `clean`, `dirty`, `behind`, `blocked`, `unstable`, `unknown`.
    pub mergeable_state: String,
    pub changed_files: Option<i64>,
}

/// What people read of a pull request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub title: String,
    pub body: String,
}

/// How a merge was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Merged; the commit on the base branch.
    Merged(String),
    /// The head is not the one that was named.
    HeadMoved,
    /// Not merged, and the server's words for it.
    Refused(String),
}

/// What we use of a forge. Every request is bounded in time and repeated a few times by itself while it
/// fails for a passing reason, except the creation of a pull request, which its caller looks for first.
#[allow(async_fn_in_trait, reason = "used by this crate alone, on one thread")]
pub trait Forge {
    /// The pull request from `head` to `base`: an open one before a merged and that before a closed one,
    /// the oldest of several.
    async fn find(&self, head: &str, base: &str) -> Result<Option<Pull>, ForgeError>;
    /// The pull request by its number, with what the forge knows of its merge.
    async fn get(&self, number: i64) -> Result<Pull, ForgeError>;
    async fn create(&self, head: &str, base: &str, text: &Text) -> Result<Pull, ForgeError>;
    async fn update(&self, number: i64, text: &Text) -> Result<Pull, ForgeError>;
    /// Adds `labels` to a pull request or an issue.
    async fn label(&self, number: i64, labels: &[String]) -> Result<(), ForgeError>;
    /// Hands over the open issues with all of `labels` and without the label `marked`, the oldest first,
    /// until `take` has enough.
    async fn issues(
        &self,
        labels: &[String],
        marked: &str,
        take: &mut (dyn FnMut(Issue) -> bool + Send),
    ) -> Result<(), ForgeError>;
    /// What the open pull requests say.
    async fn open_pulls(&self) -> Result<Vec<Text>, ForgeError>;
    /// Writes the comment that starts with the line `mark`, or replaces it.
    async fn comment(&self, number: i64, mark: &str, body: &str) -> Result<(), ForgeError>;
    /// Check runs and statuses of `commit` together.
    async fn checks(&self, commit: &str) -> Result<Ci, ForgeError>;
    /// What people who may write to the repository have said about lines of the change.
    async fn review_comments(&self, number: i64) -> Result<Vec<String>, ForgeError>;
    /// Closes a pull request without merging it. One that is closed already stays so.
    async fn close(&self, number: i64) -> Result<(), ForgeError>;
    /// Asks the forge to merge the base into the branch, if its head is still `head`.
    async fn update_branch(&self, number: i64, head: &str) -> Result<(), ForgeError>;
    /// One commit on the base, if the head is still `head`.
    async fn squash(&self, number: i64, head: &str, text: &Text) -> Result<Merge, ForgeError>;
}

/// The repository on a GitHub server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Base of the API, without a slash at its end.
    pub api: String,
    pub owner: String,
    pub name: String,
}

impl Address {
    /// From the repository's URL and, where it is set, the API's.
    ///
    /// # Errors
    /// [`FailureKind::Misconfigured`].
    pub fn of(url: &str, api: Option<&str>) -> Result<Self, ForgeError> {
        let refused = |what: &str| ForgeError::new(FailureKind::Misconfigured, "tell the repository", what);
        let uri: Uri = url.parse().map_err(|_| refused("its url is none"))?;
        let (Some(scheme @ ("https" | "http")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(refused("mode GitHub needs an http or https url"));
        };
        let path = uri.path().trim_matches('/');
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let (owner, name) = path
            .split_once('/')
            .map(|(owner, name)| (owner, name.strip_suffix(".git").unwrap_or(name)))
            .filter(|(owner, name)| plain(owner) && plain(name))
            .ok_or_else(|| refused("its url does not end with owner and name"))?;
        let api = match (api, authority.host()) {
            (Some(api), _) => api.trim_end_matches('/').to_string(),
            (None, "github.com" | "www.github.com") => "https://api.github.com".into(),
            (None, _) => format!("{scheme}://{authority}/api/v3"),
        };
        let known = api.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && uri.query().is_none()
        });
        known.ok_or_else(|| refused("its apiURL is no http or https URL"))?;
        Ok(Self { api, owner: owner.into(), name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_told_from_the_url_or_named() {
        for (url, api, expected) in [
            ("https://github.com/team/app.git", None, "https://api.github.com"),
            ("https://github.com/team/app/", None, "https://api.github.com"),
            ("https://ghe.example.com/team/app", None, "https://ghe.example.com/api/v3"),
            ("http://127.0.0.1:81/team/app.git", None, "http://127.0.0.1:81/api/v3"),
            (
                "https://github.com/team/app",
                Some("https://proxy.example.com/gh/"),
                "https://proxy.example.com/gh",
            ),
        ] {
            let address = Address::of(url, api).expect(url);
            assert_eq!(
                (address.api.as_str(), address.owner.as_str(), address.name.as_str()),
                (expected, "team", "app")
            );
        }
        for (url, api) in [
            ("git@github.com:team/app.git", None),
            ("ssh://git@github.com/team/app", None),
            ("https://github.com/app", None),
            ("https://github.com/a/b/c", None),
            ("https://github.com/a/b%2fc", None),
            ("https://github.com/a/b", Some("ftp://x")),
            ("https://github.com/a/b", Some("https://user@x/")),
        ] {
            assert_eq!(Address::of(url, api).expect_err(url).kind, FailureKind::Misconfigured);
        }
    }
}
