//! What an attacker tries: no credentials and wrong ones, more than he may, another namespace, strange
//! paths and strings, too much of everything; and that no secret is ever shown.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response};
use opentiger::http_api::access::{Access, Scope, access, scope};
use opentiger::http_api::edge::EdgeConfig;
use opentiger::http_api::peer::Socket;
use opentiger::http_api::{ApiConfig, openapi, router, state};
use opentiger::postgres::DatabaseConfig;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::postgres::Database;
use crate::process::{Api, Raw};

pub const KEYS: &str = "reader:read read-canary-71c2\nwriter:write write-canary-88d1\nroot:system system-canary-e0aa\nbare-canary-5f3b\n";
pub const READ: &str = "x-api-key: read-canary-71c2\r\n";
const WRITE: &str = "x-api-key: write-canary-88d1\r\n";
pub const BARE: &str = "x-api-key: bare-canary-5f3b\r\n";

fn edge(database: &Database, keys: Option<&tempfile::NamedTempFile>, edge: EdgeConfig) -> Router {
    let config = ApiConfig {
        api_keys_file: keys.map(|file| file.path().into()),
        insecure_no_auth: keys.is_none(),
        edge,
        ..ApiConfig::new("security", DatabaseConfig::new(&database.url, "test-api"), jiff::Timestamp::now)
    };
    router(state(&config).expect("state"))
}

fn keys() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), KEYS).expect("written");
    file
}

/// Sends one request with these headers from this address.
/// The answer's head; its body may be a stream that has no end.
async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    from: &str,
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).expect("request");
    request.extensions_mut().insert(Socket(from.parse::<IpAddr>().expect("address")));
    router.clone().oneshot(request).await.expect("infallible")
}

async fn send(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    from: &str,
) -> (u16, HeaderMap, Value) {
    let (parts, body) = ask(router, method, path, headers, from).await.into_parts();
    let bytes = to_bytes(body, 16 << 20).await.expect("body");
    (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Every method of every documented route, with its path filled in.
fn every_route() -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(openapi()).expect("document");
    let mut routes = Vec::new();
    for (route, item) in document["paths"].as_object().expect("paths") {
        let path = route.replace(['{', '}'], "").replace("id", "00000000-0000-0000-0000-000000000001");
        for method in item.as_object().expect("operations").keys() {
            routes.push((method.to_uppercase().parse().expect("method"), route.clone(), path.clone()));
        }
    }
    routes
}

#[tokio::test]
async fn every_route_needs_a_caller_and_the_scope_of_its_row() {
    let (database, file) = (Database::migrated().await, keys());
    let router =
        edge(&database, Some(&file), EdgeConfig { rate_limit_per_minute: 0, ..EdgeConfig::default() });
    let mut checked = 0;
    for (method, route, path) in every_route() {
        let access = access(&method, &route).unwrap_or_else(|| panic!("{method} {route} has no row"));
        let ask = async |headers: &[(&str, &str)]| {
            ask(&router, method.as_str(), &path, headers, "192.0.2.1").await.status().as_u16()
        };
        let Some(needed) = scope(&method, &route, access) else {
            let free = matches!(access, Access::Open) && route != "/tasks";
            assert!(free || matches!(access, Access::Run | Access::Signed), "{method} {route}");
            continue;
        };
        assert_eq!(ask(&[]).await, 401, "{method} {route} without a key");
        assert_eq!(ask(&[("x-api-key", "wrong")]).await, 401, "{method} {route} with a wrong key");
        assert_eq!(ask(&[("authorization", "Bearer wrong")]).await, 401, "{method} {route}");
        for (key, has) in [
            ("read-canary-71c2", Scope::Read),
            ("write-canary-88d1", Scope::Write),
            ("system-canary-e0aa", Scope::System),
            ("bare-canary-5f3b", Scope::System),
        ] {
            let status = ask(&[("x-api-key", key)]).await;
            assert_eq!(status == 403, has < needed, "{method} {route} with {has:?}: {status}");
            assert_ne!(status, 401, "{method} {route} with {has:?}");
        }
        checked += 1;
    }
    assert!(checked >= 8, "{checked}");
}

#[tokio::test]
async fn a_caller_has_its_own_limit_and_a_dashboard_never_meets_it() {
    let (database, file) = (Database::migrated().await, keys());
    let usual = edge(&database, Some(&file), EdgeConfig::default());
    for _ in 0..400 {
        let (status, headers, _) =
            send(&usual, "GET", "/tasks?limit=1", &[("x-api-key", "read-canary-71c2")], "192.0.2.1").await;
        assert_eq!(status, 200);
        assert_eq!(headers["x-ratelimit-limit"], "1200");
    }

    let router =
        edge(&database, Some(&file), EdgeConfig { rate_limit_per_minute: 20, ..EdgeConfig::default() });
    let ask = async |key: &str, from: &str| {
        send(&router, "GET", "/tasks?limit=1", &[("x-api-key", key)], from).await
    };
    for n in 0..20 {
        let from = format!("192.0.2.{n}");
        let (status, headers, _) = ask("read-canary-71c2", &from).await;
        assert_eq!(
            (status, headers["x-ratelimit-remaining"].to_str().ok()),
            (200, Some((19 - n).to_string().as_str()))
        );
    }
    let (status, headers, body) = ask("read-canary-71c2", "192.0.2.99").await;
    assert_eq!((status, body["code"].as_str()), (429, Some("rate_limited")), "{body}");
    let wait: u64 = headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(headers["x-ratelimit-reset"], headers["retry-after"]);
    assert_eq!(ask("write-canary-88d1", "192.0.2.99").await.0, 200, "another caller");
    for _ in 0..50 {
        assert_eq!(send(&router, "GET", "/health", &[], "192.0.2.99").await.0, 200, "the kubelet");
    }
    // What nobody is known for is counted by address: strange paths, the document.
    for _ in 0..20 {
        assert_eq!(send(&router, "GET", "/nowhere", &[], "198.51.100.1").await.0, 404);
    }
    assert_eq!(send(&router, "GET", "/nowhere", &[], "198.51.100.1").await.0, 429);
    assert_eq!(send(&router, "GET", "/openapi.json", &[], "198.51.100.1").await.0, 429);
    assert_eq!(send(&router, "GET", "/openapi.json", &[], "198.51.100.2").await.0, 200);
}

#[tokio::test]
async fn failed_attempts_are_limited_by_address_and_lock_nobody_out() {
    let (database, file) = (Database::migrated().await, keys());
    let proxies = vec!["10.0.0.0/8".parse().expect("range")];
    let settings =
        EdgeConfig { rate_limit_per_minute: 50, trusted_proxies: proxies, ..EdgeConfig::default() };
    let router = edge(&database, Some(&file), settings);
    let guess = async |key: &str, from: &str, forwarded: &str| {
        send(&router, "GET", "/tasks", &[("x-api-key", key), ("x-forwarded-for", forwarded)], from).await.0
    };
    for n in 0..5 {
        let spoofed = format!("203.0.113.{n}");
        assert_eq!(guess("guess", "192.0.2.1", &spoofed).await, 401);
    }
    assert_eq!(
        guess("guess", "192.0.2.1", "203.0.113.77").await,
        429,
        "what the client says of itself is no address"
    );
    assert_eq!(guess("read-canary-71c2", "192.0.2.1", "").await, 200, "who has a key is not locked out");
    assert_eq!(guess("guess", "192.0.2.2", "").await, 401, "another address");
    for _ in 0..5 {
        assert_eq!(guess("guess", "10.0.0.1", "1.1.1.1, 203.0.113.5").await, 401);
    }
    assert_eq!(guess("guess", "10.0.0.2", "2.2.2.2, 203.0.113.5").await, 429, "the proxy's word is believed");
    assert_eq!(guess("guess", "10.0.0.1", "203.0.113.6").await, 401);
}

#[tokio::test]
async fn pages_of_other_origins_may_call_only_when_they_are_named() {
    let database = Database::migrated().await;
    let preflight = [("origin", "https://ui.example.com"), ("access-control-request-method", "POST")];
    let shut = edge(&database, Some(&keys()), EdgeConfig::default());
    let (status, headers, _) = send(&shut, "OPTIONS", "/tasks", &preflight, "192.0.2.1").await;
    assert!((400..500).contains(&status), "{status}");
    assert!(!headers.contains_key("access-control-allow-origin"));

    let file = keys();
    let origins = vec!["https://ui.example.com".parse().expect("origin")];
    let router = edge(&database, Some(&file), EdgeConfig { cors_origins: origins, ..EdgeConfig::default() });
    let (status, headers, _) = send(&router, "OPTIONS", "/tasks", &preflight, "192.0.2.1").await;
    assert_eq!(
        (status, headers["access-control-allow-origin"].to_str().ok()),
        (200, Some("https://ui.example.com"))
    );
    assert!(!headers.contains_key("access-control-allow-credentials"));
    // The page may read the refusal too, and another page nothing.
    let (status, headers, _) = send(&router, "GET", "/tasks", &preflight[..1], "192.0.2.1").await;
    assert_eq!(
        (status, headers["access-control-allow-origin"].to_str().ok()),
        (401, Some("https://ui.example.com"))
    );
    let other = [("origin", "https://other.example.com"), ("access-control-request-method", "POST")];
    let (_, headers, _) = send(&router, "OPTIONS", "/tasks", &other, "192.0.2.1").await;
    assert!(!headers.contains_key("access-control-allow-origin"), "{headers:?}");
}

#[tokio::test]
async fn open_mode_stays_on_this_machine_and_serves_no_foreign_page() {
    let database = Database::migrated().await;
    let open = edge(&database, None, EdgeConfig::default());
    let ask = async |headers: &[(&str, &str)]| send(&open, "GET", "/tasks", headers, "127.0.0.1").await.0;
    assert_eq!(ask(&[("host", "localhost:4301")]).await, 200);
    assert_eq!(ask(&[("host", "attacker.example.com")]).await, 403);
    assert_eq!(ask(&[("origin", "https://attacker.example.com")]).await, 403);

    let config = ApiConfig {
        listen: ([0, 0, 0, 0], 0).into(),
        insecure_no_auth: true,
        ..ApiConfig::new("security", DatabaseConfig::new(&database.url, "test-api"), jiff::Timestamp::now)
    };
    let error = state(&config).map(drop).expect_err("refused").to_string();
    assert!(error.contains("--insecure-listen-anywhere") && error.contains("127.0.0.1"), "{error}");
    let edge = EdgeConfig { insecure_listen_anywhere: true, ..EdgeConfig::default() };
    assert!(state(&ApiConfig { edge, ..config }).is_ok());
}

/// Strings that have broken programs.
const STRANGE: &[&str] = &[
    "'; DROP TABLE tasks; --",
    "1 OR 1=1",
    "\u{0}",
    "a\u{0}b",
    "line\nINJECTED {\"level\":\"ERROR\"}",
    "\r\nset-cookie: x=1",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "../../../../etc/passwd",
    "..\\..\\x",
    "\u{202e}\u{feff}\u{1f4a9}",
    "\u{1b}[31mred",
    "%n%s%x",
    "-1",
    "9223372036854775808",
    "1e309",
    "NaN",
    "null",
    "[]",
    "true",
    "2026-13-45T99:99:99Z",
    "\"",
    "\\",
];

fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// Every line of the log is one JSON object, and none was made by a client.
pub fn check_log(log: &str) {
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line.is_object(), "{line}");
        assert!(!line["message"].as_str().unwrap_or_default().starts_with("INJECTED"), "{line}");
    }
}

fn no_fault(answer: &Raw, what: &str) {
    assert!((200..500).contains(&answer.status), "{what}: {}", answer.text);
    assert!(!answer.text.to_lowercase().contains("set-cookie: x"), "{what}: {}", answer.text);
    assert!(answer.status < 400 || answer.json()["code"].is_string(), "{what}: {}", answer.text);
}

#[tokio::test]
async fn strange_strings_and_paths_are_refused_and_logged_on_one_line_each() {
    let database = Database::migrated().await;
    let api = Api::start(&database.url, KEYS, "x", &["--rate-limit-per-minute=0"]).await;
    let head = BARE;
    let document = serde_json::to_value(openapi()).expect("document");
    let mut asked = 0;
    for (route, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let method = method.to_uppercase();
            let names: Vec<&str> = operation["parameters"].as_array().map_or(Vec::new(), |all| {
                all.iter().filter(|p| p["in"] == "query").filter_map(|p| p["name"].as_str()).collect()
            });
            for text in STRANGE {
                let text = encoded(text);
                let path: Vec<_> =
                    route.split('/').map(|s| if s.starts_with('{') { text.as_str() } else { s }).collect();
                let path = path.join("/");
                let query: Vec<_> = names.iter().map(|name| format!("{name}={text}")).collect();
                for query in query.iter().map(String::as_str).chain([text.as_str(), &query.join("&")]) {
                    // Without Kubernetes objects to write there is a 503 that says so, and no other.
                    let answer = api.send(&method, &format!("{path}?{query}"), head, "{}").await;
                    let away = answer.status == 503 && answer.json()["code"] == "kubernetes_unavailable";
                    if !away {
                        no_fault(&answer, &format!("{method} {path}?{query}"));
                    }
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 300, "{asked}");
    for (path, expected) in [
        ("//tasks", 404),
        ("/tasks/", 404),
        ("/tasks//", 404),
        ("/./tasks", 404),
        ("/health/../tasks", 404),
        ("/health/%2e%2e/tasks", 404),
        ("/health%2f..%2ftasks", 404),
        ("/%74asks", 401),
        ("/tasks%00", 404),
        ("/tasks;x=1", 404),
        ("/TASKS", 404),
        ("/tasks/..%2fconfig", 401),
        ("http://other.example.com/tasks", 401),
        ("/tasks?x#y", 401),
    ] {
        let status = api.ask("GET", path, "").await.status;
        // A path is what it says: none leads past the table of access.
        assert!(status == expected || status == 404 || status == 400, "{path}: {status}");
    }
    for (method, path, expected) in [
        ("HEAD", "/tasks", 200),
        ("HEAD", "/nowhere", 404),
        ("OPTIONS", "/tasks", 405),
        ("OPTIONS", "*", 404),
        ("TRACE", "/tasks", 405),
        ("CONNECT", "x:1", 404),
        ("BREW\u{41}", "/tasks", 405),
        ("PUT", "/tasks", 405),
    ] {
        let answer = api.ask(method, path, head).await;
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text);
    }
    let long = format!("/tasks/{}", "x".repeat(20_000));
    no_fault(&api.ask("GET", &long, head).await, "a long path");
    let longer = api.ask("GET", &format!("/{}", "x".repeat(100_000)), head).await;
    assert!([0, 400, 414, 431].contains(&longer.status), "{}", longer.text);
    for bytes in [&b"GET /tasks\0 HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n"] {
        let mut request = bytes.to_vec();
        request.extend_from_slice(b"\r\n\r\n");
        let status = api.raw(&request).await.status;
        assert!(status == 0 || (400..506).contains(&status), "{status}");
    }
    // Two lengths, or a length and chunks: nobody behind a proxy may smuggle a second request.
    for head in
        ["content-length: 3\r\ncontent-length: 4\r\n", "content-length: 3\r\ntransfer-encoding: chunked\r\n"]
    {
        let request = format!(
            "POST /tasks HTTP/1.1\r\nhost: x\r\n{BARE}{head}\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n"
        );
        let text = api.raw(request.as_bytes()).await.text;
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    }
    // Headers that go into the log.
    for text in STRANGE.iter().filter(|t| t.chars().all(|c| !c.is_control())) {
        let head = format!("{BARE}x-request-id: {text}\r\nuser-agent: {text}\r\nx-forwarded-for: {text}\r\n");
        no_fault(&api.ask("GET", "/tasks", &head).await, text);
    }
    assert_eq!(api.ask("GET", "/health/ready", "").await.status, 200);
    check_log(&api.log());
}

#[tokio::test]
async fn secrets_are_in_no_answer_no_log_and_no_row() {
    let database = Database::migrated().await;
    let role = format!("canary_{}", std::process::id());
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'database-canary-1d7e';
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};
             GRANT INSERT, UPDATE, DELETE ON webhook_deliveries TO {role}"
        ))
        .await;
    let (_, host) = database.url.split_once('@').expect("host");
    let api = Api::start(
        &format!("postgres://{role}:database-canary-1d7e@{host}"),
        KEYS,
        "webhook-canary-40b9\n",
        &[],
    )
    .await;
    let mut answers = Vec::new();
    let token = "authorization: Bearer token-canary-9a55\r\n";
    for head in [READ, WRITE, BARE, token, "x-api-key: guess-canary-3c3c\r\n", ""] {
        for path in ["/tasks", "/tasks/x", "/runs", "/agents", "/nowhere", "/openapi.json", "/health/ready"] {
            for method in ["GET", "POST", "PATCH"] {
                answers.push(api.send(method, path, head, "{\"goal\": 5}").await);
            }
        }
    }
    let body = json!({"zen": "x"}).to_string();
    let sign = |secret: &str| {
        use hmac::{Hmac, KeyInit, Mac};
        let mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("key");
        let bytes = mac.chain_update(body.as_bytes()).finalize().into_bytes();
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    for secret in ["webhook-canary-40b9", "other"] {
        let head = format!("x-hub-signature-256: sha256={}\r\nx-github-event: ping\r\n{token}", sign(secret));
        answers.push(api.send("POST", "/webhook/github", &head, &body).await);
    }
    let statuses: BTreeMap<u16, usize> = answers.iter().fold(BTreeMap::new(), |mut all, answer| {
        *all.entry(answer.status).or_default() += 1;
        all
    });
    // Every sort of answer was seen: served, refused, not found.
    for status in [200, 401, 403, 404, 405] {
        assert!(statuses.contains_key(&status), "{statuses:?}");
    }
    assert_eq!(answers.last().map(|a| a.status), Some(401));
    assert_eq!(answers[answers.len() - 2].status, 200, "{}", answers[answers.len() - 2].text);

    // The database goes, and the errors with it name no secret either.
    database.execute(&format!("ALTER ROLE {role} NOLOGIN")).await;
    database
        .execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"))
        .await;
    crate::postgres::eventually("the database is away", async || {
        let answer = api.ask("GET", "/tasks", READ).await;
        let away = answer.status == 503;
        answers.push(answer);
        away
    })
    .await;

    let tables = database
        .json("SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'")
        .await;
    let mut shown: Vec<(String, String)> =
        answers.into_iter().map(|answer| ("an answer".to_owned(), answer.text)).collect();
    let log = api.log();
    check_log(&log);
    assert!(
        log.contains("\"name\":\"key:reader\"") && log.contains("\"caller\":\"api-key\""),
        "the log names callers"
    );
    shown.push(("the log".into(), log));
    for table in tables.as_array().expect("tables") {
        let name = table["name"].as_str().expect("name");
        shown.push((name.to_owned(), database.json(&format!("SELECT * FROM {name}")).await.to_string()));
    }
    for (place, text) in shown {
        for secret in [
            "canary-71c2",
            "canary-88d1",
            "canary-e0aa",
            "canary-5f3b",
            "canary-40b9",
            "canary-1d7e",
            "canary-9a55",
            "canary-3c3c",
        ] {
            assert!(!text.contains(secret), "{secret} is in {place}: {text}");
        }
    }
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
