//! An API that serves one namespace, with the operator and the database behind it, and a client of it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request};
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::DatabaseConfig;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::postgres::{Database, eventually};
use crate::world::{Member, World};

/// A namespace with its operator, database and API; nobody has to say who he is.
pub struct Service {
    pub world: World,
    pub database: Database,
    pub router: Router,
    pub operator: Member,
}

/// What the API answered.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body's JSON; a text when it is none.
    pub body: Value,
}

impl Service {
    /// With an armed System.
    pub async fn start(prefix: &str) -> Self {
        Self::start_with(prefix, json!({})).await
    }

    /// With a System that has this spec besides.
    pub async fn start_with(prefix: &str, system: Value) -> Self {
        Self::configured(prefix, system, |_| {}).await
    }

    /// With other settings of the API.
    pub async fn configured(prefix: &str, system: Value, settings: impl FnOnce(&mut ApiConfig)) -> Self {
        let world = World::start_with(prefix, system).await;
        let database = Database::migrated().await;
        let operator = world.operator("one").database(&database.url).start().await;
        let mut config = ApiConfig {
            insecure_no_auth: true,
            client: Some(world.client.clone()),
            ..ApiConfig::new(
                world.name.clone(),
                DatabaseConfig::new(&database.url, "test-api"),
                jiff::Timestamp::now,
            )
        };
        settings(&mut config);
        let router = router(state(&config).expect("state"));
        eventually("the operator leads", async || operator.leads()).await;
        eventually("the mirror writes", async || {
            database.value::<i64>("SELECT count(*) FROM systems").await > 0
        })
        .await;
        Self { world, database, router, operator }
    }

    /// Sends one request.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.expect("body");
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends a body of JSON.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).expect("request")).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).expect("request")).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, &body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, &body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).expect("request")).await
    }
}

impl Answer {
    /// Fails unless this is an error `{error, code}` of this status and code.
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.body);
        assert!(self.body["error"].as_str().is_some_and(|e| !e.is_empty()), "{}", self.body);
    }

    /// The body of a success.
    pub fn ok(&self) -> &Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        &self.body
    }
}

#[tokio::test]
async fn a_task_that_is_posted_runs() {
    let service = Service::start("api").await;
    service.world.pool("worker", 1, "{outcome: Succeed}").await;
    let body = json!({"title": "Fix", "goal": "It works", "allowedPaths": ["**"], "commands": []});
    let posted = service.post("/tasks", body).await;
    let id = posted.ok()["task"]["id"].as_str().expect("an id").to_owned();
    eventually("the mirror shows it done", async || {
        service.get(&format!("/tasks/{id}")).await.ok()["task"]["status"] == json!("done")
    })
    .await;
}
