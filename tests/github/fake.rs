//! A GitHub server's REST API on loopback, with the shapes that docs.github.com shows ("REST API endpoints
//! for pull requests, checks, commit statuses, issue comments, apps"), on top of a real git repository:
//! heads are the branches' commits, a squash and an update make real commits.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::git_support::{git, plain_git};

/// Where the API begins, as on GitHub Enterprise Server.
const BASE: &str = "/api/v3";

#[derive(Clone, Debug)]
pub struct FakePull {
    pub number: i64,
    pub head: String,
    pub base: String,
    pub state: &'static str,
    pub merge_commit: Option<String>,
    pub title: String,
    pub body: String,
    pub mergeable: Value,
    pub mergeable_state: &'static str,
    pub labels: Vec<String>,
    pub comments: Vec<(i64, String)>,
}

/// An open issue.
#[derive(Clone, Debug, Default)]
pub struct FakeIssue {
    pub number: i64,
    pub title: String,
    pub body: Option<String>,
    pub labels: Vec<String>,
    pub comments: Vec<(i64, String)>,
}

/// One answer that is given instead of the real one.
pub struct Fault {
    /// Of the request: method and a part of its path.
    pub of: (&'static str, &'static str),
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// Whether the request is carried out nevertheless.
    pub carried_out: bool,
}

impl Fault {
    pub fn new(method: &'static str, path: &'static str, status: u16) -> Self {
        Self { of: (method, path), status, headers: Vec::new(), body: "{}".into(), carried_out: false }
    }

    pub fn saying(self, message: &str) -> Self {
        Self {
            body: json!({"message": message, "documentation_url": "https://docs.github.com"}).to_string(),
            ..self
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn carried_out(self) -> Self {
        Self { carried_out: true, ..self }
    }
}

pub struct World {
    pub repository: PathBuf,
    /// The token that is accepted.
    pub token: String,
    pub pulls: Vec<FakePull>,
    pub issues: Vec<FakeIssue>,
    /// Name, status, conclusion.
    pub checks: Vec<(&'static str, &'static str, Option<&'static str>)>,
    /// Context, state.
    pub statuses: Vec<(&'static str, &'static str)>,
    pub review_comments: Vec<Value>,
    pub faults: Vec<Fault>,
    /// `<method> <path>` of every request, without the base.
    pub log: Vec<String>,
    /// Authorization of the requests for an installation token.
    pub proofs: Vec<String>,
    next: i64,
}

impl World {
    fn head_of(&self, branch: &str) -> String {
        let output =
            plain_git(&self.repository).args(["rev-parse", "--verify", "-q", branch]).output().expect("git");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    pub fn add(&mut self, head: &str, base: &str, state: &'static str) -> i64 {
        self.next += 1;
        self.pulls.push(FakePull {
            number: self.next,
            head: head.into(),
            base: base.into(),
            state,
            merge_commit: None,
            title: String::new(),
            body: String::new(),
            mergeable: json!(true),
            mergeable_state: "clean",
            labels: Vec::new(),
            comments: Vec::new(),
        });
        self.next
    }

    pub fn count(&self, request: &str) -> usize {
        self.log.iter().filter(|line| line.starts_with(request)).count()
    }

    fn json(&self, pull: &FakePull, whole: bool) -> Value {
        let merged = pull.state == "merged";
        let mut value = json!({
            "url": format!("https://git.example/repos/team/app/pulls/{}", pull.number),
            "id": 1_000 + pull.number,
            "html_url": format!("https://git.example/team/app/pull/{}", pull.number),
            "number": pull.number, "locked": false, "draft": false,
            "state": if merged { "closed" } else { pull.state },
            "title": pull.title, "body": pull.body,
            "user": {"login": "robot", "id": 1, "type": "Bot"},
            "labels": pull.labels.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
            "head": {"label": format!("team:{}", pull.head), "ref": pull.head, "sha": self.head_of(&pull.head)},
            "base": {"label": format!("team:{}", pull.base), "ref": pull.base, "sha": self.head_of(&pull.base)},
            "merged_at": if merged { json!("2026-01-01T00:00:00Z") } else { Value::Null },
            "merge_commit_sha": pull.merge_commit,
        });
        if whole {
            let more = json!({
                "merged": merged, "mergeable": pull.mergeable, "mergeable_state": pull.mergeable_state,
                "comments": pull.comments.len(), "commits": 1, "changed_files": 1, "additions": 1, "deletions": 1,
            });
            value.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        }
        value
    }
}

/// The tree of `two` merged into `one`.
fn tree(repository: &Path, one: &str, two: &str) -> String {
    git(repository, &["merge-tree", "--write-tree", "--no-messages", one, two]).trim().to_string()
}

pub struct GitHub {
    pub url: String,
    world: Arc<Mutex<World>>,
}

impl GitHub {
    pub async fn start(repository: &Path, token: &str) -> Self {
        let world = Arc::new(Mutex::new(World {
            repository: repository.into(),
            token: token.into(),
            pulls: Vec::new(),
            issues: Vec::new(),
            checks: Vec::new(),
            statuses: Vec::new(),
            review_comments: Vec::new(),
            faults: Vec::new(),
            log: Vec::new(),
            proofs: Vec::new(),
            next: 40,
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}{BASE}", listener.local_addr().expect("address"));
        let app = Router::new().fallback(serve).with_state(world.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, world }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("world")
    }
}

fn refusal(status: u16, message: &str, errors: Value) -> (u16, Value) {
    (
        status,
        json!({"message": message, "errors": errors, "documentation_url": "https://docs.github.com/rest"}),
    )
}

async fn serve(
    State(world): State<Arc<Mutex<World>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut world = world.lock().expect("world");
    let Some(path) = uri.path().strip_prefix(BASE) else {
        return (StatusCode::NOT_FOUND, "<html>no API here</html>").into_response();
    };
    world.log.push(format!("{method} {path}"));
    let authorization =
        headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let fault = world.faults.iter().position(|f| f.of.0 == method.as_str() && path.contains(f.of.1));
    let fault = fault.map(|at| world.faults.remove(at));
    if let Some(fault) = fault {
        if fault.carried_out {
            answer(&mut world, method.as_str(), path, uri.query().unwrap_or_default(), &body);
        }
        let mut response =
            (StatusCode::from_u16(fault.status).expect("status"), fault.body.replace("$TOKEN", &world.token))
                .into_response();
        for (name, value) in fault.headers {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), HeaderValue::from_str(&value).expect("value"));
        }
        return response;
    }
    let (status, value) = if path.starts_with("/app/installations/") {
        world.proofs.push(authorization);
        assert_eq!(body, json!({"repositories": ["app"]}));
        (
            201,
            json!({
                "token": world.token, "expires_at": "2099-07-11T22:14:10Z", "repository_selection": "selected",
                "permissions": {"contents": "write", "pull_requests": "write"},
            }),
        )
    } else if authorization != format!("Bearer {}", world.token) {
        refusal(401, "Bad credentials", json!([]))
    } else {
        answer(&mut world, method.as_str(), path, uri.query().unwrap_or_default(), &body)
    };
    (StatusCode::from_u16(status).expect("status"), axum::Json(value)).into_response()
}

fn answer(world: &mut World, method: &str, path: &str, query: &str, body: &Value) -> (u16, Value) {
    let Some(rest) = path.strip_prefix("/repos/team/app") else {
        return refusal(404, "Not Found", json!([]));
    };
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    if let Some(answer) = of_issues(world, method, &parts, query, body) {
        return answer;
    }
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
    let index = |number: &str| {
        let number: i64 = number.parse().expect("a number");
        world.pulls.iter().position(|pull| pull.number == number)
    };
    match (method, &parts[..]) {
        ("GET", ["pulls"]) => {
            let wanted = |name: &str| {
                let value = query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or_default();
                value.replace("%2F", "/").replace("%3A", ":")
            };
            let (head, base) = (wanted("head="), wanted("base="));
            assert!(query.contains("state=all"), "{query}");
            // The newest first, as GitHub sorts by default.
            let found =
                world.pulls.iter().rev().filter(|p| format!("team:{}", p.head) == head && p.base == base);
            (200, found.map(|pull| world.json(pull, false)).collect())
        }
        ("POST", ["pulls"]) => {
            let (head, base) = (text("head"), text("base"));
            let open = world.pulls.iter().any(|p| p.head == head && p.base == base && p.state == "open");
            if open {
                let why = format!("A pull request already exists for team:{head}.");
                return refusal(
                    422,
                    "Validation Failed",
                    json!([{"resource": "PullRequest", "code": "custom", "message": why}]),
                );
            }
            if world.head_of(&head).is_empty() {
                return refusal(
                    422,
                    "Validation Failed",
                    json!([{"resource": "PullRequest", "field": "head", "code": "invalid"}]),
                );
            }
            if git(&world.repository, &["diff", "--name-only", &base, &head]).is_empty() {
                let why = format!("No commits between {base} and {head}");
                return refusal(
                    422,
                    "Validation Failed",
                    json!([{"resource": "PullRequest", "code": "custom", "message": why}]),
                );
            }
            world.add(&head, &base, "open");
            let last = world.pulls.last_mut().expect("added");
            (last.title, last.body) = (text("title"), text("body"));
            (201, world.json(world.pulls.last().expect("added"), true))
        }
        (_, ["pulls" | "issues", number, ..]) if *number != "comments" && index(number).is_none() => {
            refusal(404, "Not Found", json!([]))
        }
        ("GET", ["pulls", number]) => (200, world.json(&world.pulls[index(number).expect("there")], true)),
        ("PATCH", ["pulls", number]) => {
            let at = index(number).expect("there");
            if text("state") == "closed" {
                world.pulls[at].state = "closed";
            } else {
                (world.pulls[at].title, world.pulls[at].body) = (text("title"), text("body"));
            }
            (200, world.json(&world.pulls[at], true))
        }
        ("GET", ["pulls", _, "comments"]) => (200, json!(world.review_comments)),
        ("PUT", ["pulls", number, "update-branch"]) => {
            let at = index(number).expect("there");
            let (head, base) = (world.pulls[at].head.clone(), world.pulls[at].base.clone());
            let now = world.head_of(&head);
            if text("expected_head_sha") != now {
                return refusal(422, "expected head sha didn't match current head ref.", json!([]));
            }
            let tree = tree(&world.repository, &head, &base);
            let commit = git(
                &world.repository,
                &["commit-tree", "-p", &head, "-p", &base, "-m", "Merge branch", &tree],
            );
            git(&world.repository, &["update-ref", &format!("refs/heads/{head}"), commit.trim()]);
            world.pulls[at].mergeable_state = "clean";
            (202, json!({"message": "Updating pull request branch.", "url": "https://git.example"}))
        }
        ("PUT", ["pulls", number, "merge"]) => {
            let at = index(number).expect("there");
            let pull = world.pulls[at].clone();
            if text("sha") != world.head_of(&pull.head) {
                return refusal(409, "Head branch was modified. Review and try the merge again.", json!([]));
            }
            if pull.state != "open" {
                return refusal(405, "Pull Request is not mergeable", json!([]));
            }
            assert_eq!(text("merge_method"), "squash");
            let tree = tree(&world.repository, &pull.base, &pull.head);
            let message = format!("{}\n\n{}", text("commit_title"), text("commit_message"));
            let commit = git(&world.repository, &["commit-tree", "-p", &pull.base, "-m", &message, &tree])
                .trim()
                .to_string();
            git(&world.repository, &["update-ref", &format!("refs/heads/{}", pull.base), &commit]);
            world.pulls[at].state = "merged";
            world.pulls[at].merge_commit = Some(commit.clone());
            (200, json!({"sha": commit, "merged": true, "message": "Pull Request successfully merged"}))
        }
        ("POST", ["issues", number, "labels"]) => {
            let at = index(number).expect("there");
            let labels = body["labels"].as_array().expect("labels").iter().filter_map(Value::as_str);
            for label in labels {
                if !world.pulls[at].labels.iter().any(|known| known == label) {
                    world.pulls[at].labels.push(label.into());
                }
            }
            (200, world.pulls[at].labels.iter().map(|name| json!({"name": name})).collect())
        }
        ("GET", ["issues", number, "comments"]) => {
            let comments = &world.pulls[index(number).expect("there")].comments;
            (
                200,
                comments
                    .iter()
                    .map(|(id, body)| json!({"id": id, "body": body, "user": {"login": "robot"}}))
                    .collect(),
            )
        }
        ("POST", ["issues", number, "comments"]) => {
            world.next += 1;
            let id = world.next;
            let at = index(number).expect("there");
            world.pulls[at].comments.push((id, text("body")));
            (201, json!({"id": id, "body": text("body")}))
        }
        ("PATCH", ["issues", "comments", id]) => {
            let id: i64 = id.parse().expect("an id");
            for (known, body) in world.pulls.iter_mut().flat_map(|pull| &mut pull.comments) {
                if *known == id {
                    *body = text("body");
                }
            }
            (200, json!({"id": id, "body": text("body")}))
        }
        ("GET", ["commits", sha, "check-runs"]) => {
            let runs: Vec<Value> = world
                .checks
                .iter()
                .enumerate()
                .map(|(n, (name, status, conclusion))| {
                    json!({
                        "id": n, "name": name, "head_sha": sha, "status": status, "conclusion": conclusion,
                        "started_at": "2026-01-01T00:00:00Z", "app": {"slug": "actions"},
                    })
                })
                .collect();
            // Pages as GitHub has them.
            let page: usize = query.rsplit("page=").next().expect("page").parse().expect("a number");
            let some: Vec<&Value> = runs.iter().skip((page - 1) * 100).take(100).collect();
            (200, json!({"total_count": runs.len(), "check_runs": some}))
        }
        ("GET", ["commits", sha, "status"]) => {
            let all: Vec<Value> = world
                .statuses
                .iter()
                .map(|(context, state)| json!({"context": context, "state": state}))
                .collect();
            // Without any, GitHub says "pending".
            (200, json!({"state": "pending", "sha": sha, "total_count": all.len(), "statuses": all}))
        }
        _ => refusal(404, "Not Found", json!([])),
    }
}

/// What is asked about issues, and the list of open pull requests, page by page.
fn of_issues(
    world: &mut World,
    method: &str,
    parts: &[&str],
    query: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let asked = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().replace("%2C", ",").replace("%20", " ")
    };
    let page = |all: Vec<Value>| {
        let number = |name: &str, default| asked(name).parse().unwrap_or(default);
        let (size, page): (usize, usize) = (number("per_page", 30), number("page", 1));
        (200, all.into_iter().skip((page - 1) * size).take(size).collect())
    };
    match (method, parts) {
        ("GET", ["pulls"]) if asked("state") == "open" => {
            let open = world.pulls.iter().filter(|pull| pull.state == "open");
            Some(page(open.map(|pull| world.json(pull, false)).collect()))
        }
        ("GET", ["issues"]) => {
            assert_eq!((asked("state"), asked("direction")), ("open".into(), "asc".into()));
            let wanted = asked("labels").to_lowercase();
            let has = |labels: &[String]| {
                wanted.split(',').all(|want| labels.iter().any(|label| label.to_lowercase() == want))
            };
            // GitHub counts pull requests among the issues.
            let pulls = world.pulls.iter().filter(|pull| has(&pull.labels)).map(|pull| {
                let mut value = world.json(pull, false);
                value["pull_request"] = json!({"url": value["url"]});
                value
            });
            let issues = world.issues.iter().filter(|issue| has(&issue.labels)).map(|issue| {
                json!({
                    "id": 5_000 + issue.number, "number": issue.number, "state": "open",
                    "html_url": format!("https://git.example/team/app/issues/{}", issue.number),
                    "title": issue.title, "body": issue.body, "locked": false, "comments": issue.comments.len(),
                    "labels": issue.labels.iter().map(|name| json!({"id": 1, "name": name})).collect::<Vec<_>>(),
                })
            });
            Some(page(pulls.chain(issues).collect()))
        }
        (_, ["issues", number, what @ ("labels" | "comments")]) => {
            let at = world.issues.iter().position(|issue| issue.number.to_string() == *number)?;
            let next = world.issues.iter().map(|issue| issue.comments.len()).sum::<usize>();
            let issue = &mut world.issues[at];
            match (method, *what) {
                ("POST", "labels") => {
                    let names = body["labels"].as_array().into_iter().flatten();
                    issue.labels.extend(names.filter_map(Value::as_str).map(str::to_owned));
                }
                ("POST", _) => {
                    let text = body["body"].as_str().unwrap_or_default().to_owned();
                    issue.comments.push((9_000 + i64::try_from(next).expect("few"), text));
                }
                _ => {}
            }
            let comments = issue.comments.iter().map(|(id, text)| json!({"id": id, "body": text}));
            Some((200, comments.collect()))
        }
        _ => None,
    }
}
