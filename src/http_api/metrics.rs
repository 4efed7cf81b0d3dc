//! Metrics of the API, on a port of their own: requests by route and status with their latencies, and
//! the state of the connection pool. No ids, queries or callers in labels.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::postgres::Pool;

/// Bounds of the latencies, seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Content type of the text exposition.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    /// The route's pattern; `-` when there is none.
    route: String,
    status: u16,
}

/// Every metric of the API; cheap to clone.
#[derive(Clone)]
pub struct ApiMetrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<Labels, Histogram, fn() -> Histogram>,
}

impl ApiMetrics {
    /// The metrics of an API that reads through `pool`.
    pub fn new(pool: Pool) -> Self {
        let mut registry = Registry::with_prefix("opentiger_api");
        let requests =
            Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        registry.register(
            "request_duration_seconds",
            "Time until the head of the answer, by route and status",
            requests.clone(),
        );
        registry.register_collector(Box::new(Connections(pool)));
        Self { registry: Arc::new(Mutex::new(registry)), requests }
    }

    /// The text exposition.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

/// Counts and measures a request; the outermost layer.
pub async fn measure(State(metrics): State<ApiMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = word(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let labels = Labels { method, route, status: response.status().as_u16() };
    metrics.requests.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
    response
}

/// A method as a label: whatever a client makes up is one word.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Serves `/metrics` on `listener` until `shutdown`.
pub async fn serve(listener: TcpListener, metrics: ApiMetrics, shutdown: CancellationToken) {
    let text = async move || ([(header::CONTENT_TYPE, TEXT)], metrics.render());
    let router = Router::new().route("/metrics", get(text));
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(error = %error, "metrics ended");
    }
}

/// The connection pool, read at each scrape.
struct Connections(Pool);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.0.status();
        let gauges = [
            ("database_connections", "Connections to the database", status.size),
            ("database_connections_idle", "Those that nobody uses", status.available),
            ("database_requests_waiting", "Requests that wait for a connection", status.waiting),
            ("database_connections_max", "Most connections held at once", status.max_size),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
