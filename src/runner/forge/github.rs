//! GitHub's REST API: requests, their repetition, and the few fields of the answers that we read.
//!
//! Sends through octocrab, which adds the token for the one server only. Decides nothing.

use std::fmt;
use std::time::Duration;

use http::Method;
use http::header::ACCEPT;
use http::request::Builder;
use octocrab::Octocrab;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::failure::{FailureKind, ForgeError};
use super::{Address, Forge, Merge, Pull, State, Text};
use crate::plan::judge::ci::{self, CheckState, Ci};
use crate::plan::planner::issue::Issue;
use crate::runner::clock;

/// Tries of a request that fails for a passing reason.
pub(super) const TRIES: u32 = 3;
/// Wait before the second try; the third waits twice as long.
const WAIT: Duration = Duration::from_millis(1200);
/// Longest wait for a limit that is waited for here; a longer one is the Task's to wait for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time for one request and its answer.
const LIMIT: Duration = Duration::from_secs(60);
/// Time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Entries in one answer; GitHub's most.
const PAGE: usize = 100;
/// Answers that are read of one list.
const PAGES: usize = 10;
/// Answers that are read of the open issues and of the open pull requests.
const ISSUE_PAGES: usize = 100;
/// Comments on lines that are told to a reviewer, and their length in characters.
const MAX_COMMENTS: usize = 50;
const MAX_COMMENT_CHARS: usize = 1_000;
/// Longest URL of a pull request that is kept.
const MAX_URL: usize = 512;

/// One repository on a GitHub server.
pub struct GitHub {
    crab: Octocrab,
    address: Address,
    secrets: Vec<String>,
    stop: CancellationToken,
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHub").field("address", &self.address).finish_non_exhaustive()
    }
}

impl GitHub {
    /// Prepares to use the API with `token`, which holds visible ASCII characters only.
    ///
    /// # Errors
    /// [`FailureKind::Misconfigured`].
    pub fn new(address: Address, token: &str, stop: &CancellationToken) -> Result<Self, ForgeError> {
        let crab = Octocrab::builder()
            .set_connect_timeout(Some(CONNECT_LIMIT))
            .set_read_timeout(Some(LIMIT))
            .base_uri(address.api.as_str())
            .and_then(|builder| builder.personal_token(token.to_string()).build())
            .map_err(|error| {
                let why = error.to_string();
                ForgeError::new(FailureKind::Misconfigured, "prepare for the API", why)
                    .masking(&[token.to_string()])
            })?;
        Ok(Self { crab, address, secrets: vec![token.to_string()], stop: stop.clone() })
    }

    /// A token of the App's installation for this one repository.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub async fn installation_token(&self, installation: &str) -> Result<String, ForgeError> {
        const WHAT: &str = "get a token for the App's installation";
        let route = format!("/app/installations/{installation}/access_tokens");
        let body = json!({"repositories": [self.address.name]});
        let answer = self.repeated(WHAT, &Method::POST, &route, Some(&body)).await?;
        let token = answer.get("token").and_then(Value::as_str).unwrap_or_default();
        match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(token.to_string()),
            false => Err(unreadable(WHAT)),
        }
    }

    fn repository(&self, rest: &str) -> String {
        format!("/repos/{}/{}{rest}", self.address.owner, self.address.name)
    }

    /// One request, once.
    async fn once(
        &self,
        what: &'static str,
        method: &Method,
        route: &str,
        body: Option<&Value>,
    ) -> Result<Value, ForgeError> {
        let unsent = |error: &dyn fmt::Display| {
            ForgeError::new(FailureKind::Unreachable, what, error.to_string()).masking(&self.secrets)
        };
        let request = Builder::new().method(method).uri(route).header(ACCEPT, "application/vnd.github+json");
        let request = self.crab.build_request(request, body).map_err(|error| unsent(&error))?;
        let answered =
            async {
                let response = self.crab.execute(request).await.map_err(|error| unsent(&told(&error)))?;
                let (status, headers) = (response.status(), response.headers().clone());
                let text = self.crab.body_to_string(response).await.map_err(|error| unsent(&told(&error)))?;
                match status.is_success() {
                    true => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
                    false => Err(ForgeError::of_answer(what, status, &headers, &text, clock::now())
                        .masking(&self.secrets)),
                }
            };
        tokio::select! {
            () = self.stop.cancelled() => Err(ForgeError::new(FailureKind::Stopped, what, "we were told to stop")),
            answer = tokio::time::timeout(LIMIT, answered) => {
                answer.unwrap_or_else(|_| Err(unsent(&format!("no answer within {LIMIT:?}"))))
            }
        }
    }

    /// One request, repeated while it fails for a passing reason.
    async fn repeated(
        &self,
        what: &'static str,
        method: &Method,
        route: &str,
        body: Option<&Value>,
    ) -> Result<Value, ForgeError> {
        let mut tries = 1;
        loop {
            match self.once(what, method, route, body).await {
                Err(error) if tries < TRIES => {
                    self.pause(error, tries).await?;
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    /// Waits before try number `tries + 1`; the error itself when no further try makes sense.
    pub(super) async fn pause(&self, error: ForgeError, tries: u32) -> Result<(), ForgeError> {
        let wait = error.wait.unwrap_or(WAIT * tries);
        if !error.kind.is_transient() || wait > LONGEST_WAIT {
            return Err(error);
        }
        tracing::warn!(operation = error.operation, error = %error, tries, "a request to the forge is repeated");
        tokio::select! {
            () = self.stop.cancelled() => Err(ForgeError::new(FailureKind::Stopped, error.operation, "we were told to stop")),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// All entries of a list, up to a bound; `field` holds them where the answer is no list itself.
    async fn list(
        &self,
        what: &'static str,
        route: &str,
        field: Option<&str>,
    ) -> Result<Vec<Value>, ForgeError> {
        let mut all = Vec::new();
        self.pages(what, route, field, PAGES, |entry| {
            all.push(entry);
            true
        })
        .await?;
        Ok(all)
    }

    /// Hands over the entries of a list one after the other, until `take` has enough.
    async fn pages(
        &self,
        what: &'static str,
        route: &str,
        field: Option<&str>,
        pages: usize,
        mut take: impl FnMut(Value) -> bool,
    ) -> Result<(), ForgeError> {
        let join = if route.contains('?') { '&' } else { '?' };
        for page in 1..=pages {
            let route = format!("{route}{join}per_page={PAGE}&page={page}");
            let mut answer = self.repeated(what, &Method::GET, &route, None).await?;
            let entries = match field {
                Some(field) => answer.get_mut(field).map(Value::take),
                None => Some(answer),
            };
            let Some(Value::Array(entries)) = entries else { return Err(unreadable(what)) };
            let last = entries.len() < PAGE;
            if !entries.into_iter().all(&mut take) || last {
                return Ok(());
            }
        }
        Err(ForgeError::new(
            FailureKind::Refused,
            what,
            format!("the list has more than {} entries", PAGE * pages),
        ))
    }
}

/// An error and its causes: octocrab's own text is often "Service Error" alone.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = source.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unreadable(what: &'static str) -> ForgeError {
    ForgeError::new(
        FailureKind::Refused,
        what,
        "the answer is not one of GitHub's; is apiURL that of the API?",
    )
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A pull request from its JSON.
fn pull(what: &'static str, value: &Value) -> Result<Pull, ForgeError> {
    let merged = value.get("merged").and_then(Value::as_bool).unwrap_or(false)
        || !text(value, "/merged_at").is_empty();
    let state = match text(value, "/state") {
        "open" => State::Open,
        "closed" if merged => State::Merged,
        "closed" => State::Closed,
        _ => return Err(unreadable(what)),
    };
    let number = value.get("number").and_then(Value::as_i64).filter(|number| *number > 0);
    Ok(Pull {
        number: number.ok_or_else(|| unreadable(what))?,
        url: text(value, "/html_url").chars().take(MAX_URL).collect(),
        state,
        head: text(value, "/head/sha").into(),
        merge_commit: Some(text(value, "/merge_commit_sha")).filter(|sha| !sha.is_empty()).map(Into::into),
        mergeable: value.get("mergeable").and_then(Value::as_bool),
        mergeable_state: text(value, "/mergeable_state").into(),
        changed_files: value.get("changed_files").and_then(Value::as_i64),
    })
}

/// An issue from its JSON; of number 0 when it is none.
fn issue(value: &Value) -> Issue {
    let labels = value.get("labels").and_then(Value::as_array);
    // A label is an object, or in old answers its name.
    let label = |label: &Value| label.as_str().unwrap_or_else(|| text(label, "/name")).to_owned();
    Issue {
        number: value.get("number").and_then(Value::as_i64).unwrap_or(0),
        title: text(value, "/title").into(),
        body: text(value, "/body").into(),
        labels: labels.into_iter().flatten().map(label).collect(),
        url: text(value, "/html_url").chars().take(MAX_URL).collect(),
    }
}

/// As GitHub compares them: without regard to case.
fn has_label(issue: &Issue, label: &str) -> bool {
    issue.labels.iter().any(|one| one.to_lowercase() == label.to_lowercase())
}

/// A value in a query.
fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Forge for GitHub {
    async fn find(&self, head: &str, base: &str) -> Result<Option<Pull>, ForgeError> {
        const WHAT: &str = "look for the pull request";
        let from = escaped(&format!("{}:{head}", self.address.owner));
        let route = self.repository(&format!("/pulls?state=all&head={from}&base={}", escaped(base)));
        let mut found = Vec::new();
        for value in self.list(WHAT, &route, None).await? {
            // A server that does not know the filter would hand us somebody else's.
            if text(&value, "/head/ref") == head && text(&value, "/base/ref") == base {
                found.push(pull(WHAT, &value)?);
            }
        }
        let rank = |state: State| match state {
            State::Open => 0,
            State::Merged => 1,
            State::Closed => 2,
        };
        Ok(found.into_iter().min_by_key(|pull| (rank(pull.state), pull.number)))
    }

    async fn get(&self, number: i64) -> Result<Pull, ForgeError> {
        const WHAT: &str = "read the pull request";
        let route = self.repository(&format!("/pulls/{number}"));
        pull(WHAT, &self.repeated(WHAT, &Method::GET, &route, None).await?)
    }

    async fn create(&self, head: &str, base: &str, text: &Text) -> Result<Pull, ForgeError> {
        const WHAT: &str = "create the pull request";
        let body =
            json!({"title": text.title, "body": text.body, "head": head, "base": base, "draft": false});
        pull(WHAT, &self.once(WHAT, &Method::POST, &self.repository("/pulls"), Some(&body)).await?)
    }

    async fn update(&self, number: i64, text: &Text) -> Result<Pull, ForgeError> {
        const WHAT: &str = "update the pull request";
        let (route, body) =
            (self.repository(&format!("/pulls/{number}")), json!({"title": text.title, "body": text.body}));
        pull(WHAT, &self.repeated(WHAT, &Method::PATCH, &route, Some(&body)).await?)
    }

    async fn label(&self, number: i64, labels: &[String]) -> Result<(), ForgeError> {
        let route = self.repository(&format!("/issues/{number}/labels"));
        let body = json!({"labels": labels});
        self.repeated("add the labels", &Method::POST, &route, Some(&body)).await.map(drop)
    }

    async fn issues(
        &self,
        labels: &[String],
        marked: &str,
        take: &mut (dyn FnMut(Issue) -> bool + Send),
    ) -> Result<(), ForgeError> {
        let wanted = escaped(&labels.join(","));
        let route =
            self.repository(&format!("/issues?state=open&sort=created&direction=asc&labels={wanted}"));
        // Those that are Tasks already stay open until they are merged: many may come before a new one.
        self.pages("read the open issues", &route, None, ISSUE_PAGES, |value| {
            let issue = issue(&value);
            // A server that does not know the filter would hand us issues that nobody meant.
            let asked = labels.iter().all(|label| has_label(&issue, label)) && !has_label(&issue, marked);
            let is_issue = issue.number > 0 && value.get("pull_request").is_none();
            !(asked && is_issue) || take(issue)
        })
        .await
    }

    async fn open_pulls(&self) -> Result<Vec<Text>, ForgeError> {
        let mut found = Vec::new();
        let route = self.repository("/pulls?state=open");
        self.pages("read the open pull requests", &route, None, ISSUE_PAGES, |value| {
            found.push(Text { title: text(&value, "/title").into(), body: text(&value, "/body").into() });
            true
        })
        .await?;
        Ok(found)
    }

    async fn comment(&self, number: i64, mark: &str, body: &str) -> Result<(), ForgeError> {
        const WHAT: &str = "write a comment";
        let route = self.repository(&format!("/issues/{number}/comments"));
        let body = json!({"body": format!("{mark}\n{body}")});
        let mut tries = 1;
        loop {
            let all = self.list(WHAT, &route, None).await?;
            let ours = all.iter().find(|comment| text(comment, "/body").lines().next() == Some(mark));
            if let Some(id) = ours.and_then(|comment| comment.get("id")).and_then(Value::as_i64) {
                let route = self.repository(&format!("/issues/comments/{id}"));
                return self.repeated(WHAT, &Method::PATCH, &route, Some(&body)).await.map(drop);
            }
            match self.once(WHAT, &Method::POST, &route, Some(&body)).await {
                Err(error) if tries < TRIES => self.pause(error, tries).await?,
                ended => return ended.map(drop),
            }
            tries += 1;
        }
    }

    async fn checks(&self, commit: &str) -> Result<Ci, ForgeError> {
        const WHAT: &str = "read the checks";
        let runs = self.repository(&format!("/commits/{}/check-runs", escaped(commit)));
        let runs = self.list(WHAT, &runs, Some("check_runs")).await?;
        let statuses = self.repository(&format!("/commits/{}/status", escaped(commit)));
        let statuses = self.list(WHAT, &statuses, Some("statuses")).await?;
        let of_run = |run: &Value| {
            let conclusion = run.get("conclusion").and_then(Value::as_str);
            (text(run, "/name").to_string(), ci::check_run(text(run, "/status"), conclusion))
        };
        let of_status = |status: &Value| {
            (text(status, "/context").to_string(), ci::commit_status(text(status, "/state")))
        };
        let all: Vec<(String, CheckState)> =
            runs.iter().map(of_run).chain(statuses.iter().map(of_status)).collect();
        Ok(ci::together(all.iter().map(|(name, state)| (name.as_str(), *state))))
    }

    async fn review_comments(&self, number: i64) -> Result<Vec<String>, ForgeError> {
        let route = self.repository(&format!("/pulls/{number}/comments"));
        let all = self.list("read the review comments", &route, None).await?;
        let trusted = |comment: &&Value| {
            matches!(text(comment, "/author_association"), "OWNER" | "MEMBER" | "COLLABORATOR")
        };
        let told = all.iter().filter(trusted).take(MAX_COMMENTS).map(|comment| {
            let line = comment
                .get("line")
                .and_then(Value::as_u64)
                .map(|line| format!(":{line}"))
                .unwrap_or_default();
            let said: String = text(comment, "/body").chars().take(MAX_COMMENT_CHARS).collect();
            format!("{}{line}: {}", text(comment, "/path"), said.trim())
        });
        Ok(told.collect())
    }

    async fn close(&self, number: i64) -> Result<(), ForgeError> {
        let route = self.repository(&format!("/pulls/{number}"));
        let body = json!({"state": "closed"});
        self.repeated("close the pull request", &Method::PATCH, &route, Some(&body)).await.map(drop)
    }

    async fn update_branch(&self, number: i64, head: &str) -> Result<(), ForgeError> {
        let route = self.repository(&format!("/pulls/{number}/update-branch"));
        let body = json!({"expected_head_sha": head});
        self.repeated("bring the branch up to date", &Method::PUT, &route, Some(&body)).await.map(drop)
    }

    async fn squash(&self, number: i64, head: &str, message: &Text) -> Result<Merge, ForgeError> {
        const WHAT: &str = "merge the pull request";
        let route = self.repository(&format!("/pulls/{number}/merge"));
        let body = json!({
            "merge_method": "squash", "sha": head,
            "commit_title": message.title, "commit_message": message.body,
        });
        match self.once(WHAT, &Method::PUT, &route, Some(&body)).await {
            Ok(answer) if answer.get("merged").and_then(Value::as_bool) == Some(true) => {
                Ok(Merge::Merged(text(&answer, "/sha").into()))
            }
            Ok(answer) => Ok(Merge::Refused(text(&answer, "/message").into())),
            Err(error) if error.status == Some(409) => Ok(Merge::HeadMoved),
            Err(error) if error.status == Some(405) => Ok(Merge::Refused(error.detail)),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_in_a_query_is_one_value() {
        assert_eq!(escaped("team:agent/x&base=y z"), "team%3Aagent%2Fx%26base%3Dy%20z");
    }

    #[test]
    fn a_merge_is_told_from_a_close() {
        let of = |extra: Value| {
            let mut value = json!({"number": 7, "state": "closed", "html_url": "u", "head": {"sha": "a"}});
            value.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
            pull("x", &value).map(|pull| pull.state)
        };
        assert_eq!(of(json!({"merged_at": "2026-01-01T00:00:00Z"})).expect("a pull"), State::Merged);
        assert_eq!(of(json!({"merged": true})).expect("a pull"), State::Merged);
        assert_eq!(of(json!({"merged_at": null})).expect("a pull"), State::Closed);
        assert_eq!(of(json!({"state": "open"})).expect("a pull"), State::Open);
        assert!(of(json!({"state": "?"})).is_err() && of(json!({"number": 0})).is_err());
    }
}
