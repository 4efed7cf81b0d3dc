//! Logs that are still on nodes: those of Runs in progress and the operator's own, read through the
//! Kubernetes API within bounds.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};

use super::error::ApiError;
use super::kubernetes::answer;
use super::log_lines::{component, lines};
use super::state::ApiState;
use crate::cluster::pod_logs::{Excerpt, Opened, Window, drain, open};
use crate::crd::wire::container;

/// Longest time for one log.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of the operator that are looked through for those of one component.
const OPERATOR_LINES: i64 = 20_000;
/// Bytes of them.
const OPERATOR_BYTES: usize = 2 * 1024 * 1024;
/// The operator's container.
const OPERATOR: &str = "operator";
/// Most Pods of the operator.
const MAX_OPERATORS: u32 = 5;

/// The containers of a Run of `purpose`, in lower_snake, the one that does the work first.
pub fn containers(purpose: &str) -> &'static [&'static str] {
    match purpose {
        "merge" => &[container::PUBLISH, container::CHECKOUT],
        _ => &[container::AGENT, container::PUBLISH, container::CHECKOUT],
    }
}

/// The end of a container's log with times: at most `max_lines` lines and `max_bytes` bytes, none
/// older than `since` but for the second it is in. `None` when there is no Pod or it has not started.
///
/// The server's `limitBytes` is of no use here: it cuts off the end, which is the newest.
///
/// # Errors
/// 503 when it cannot be read within 20 s.
pub async fn tail(
    api: &Api<Pod>,
    pod: &str,
    container: &str,
    max_lines: i64,
    max_bytes: usize,
    since: Option<Timestamp>,
) -> Result<Option<Excerpt>, ApiError> {
    let parameters = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(max_lines),
        since_time: since,
        timestamps: true,
        ..LogParams::default()
    };
    let read = async {
        let mut window = Window::new(0, max_bytes);
        match open(api, pod, &parameters).await.map_err(std::io::Error::other)? {
            Opened::Stream(stream) => drain(stream, &mut window).await?,
            Opened::NotStarted | Opened::Gone => return Ok(None),
        }
        Ok::<_, std::io::Error>(Some(window.into_tail()))
    };
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no end within 20 s");
    let tail = tokio::time::timeout(TIMEOUT, read).await.unwrap_or_else(|_| Err(late()));
    tail.map_err(|error| {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(pod, container, error, "log cannot be read");
        unreadable()
    })
}

fn unreadable() -> ApiError {
    ApiError::unavailable("log_unavailable", "the log cannot be read from its node now, try again")
}

/// Pods of the operator.
pub struct Operators {
    pub api: Api<Pod>,
    pub pods: Vec<String>,
}

/// The Pods that the operator runs in.
///
/// # Errors
/// 404 that says why there are none, 503 when the API server cannot be asked.
pub async fn operators(state: &ApiState) -> Result<Operators, ApiError> {
    let pods = state.live.operator.as_ref().ok_or_else(|| {
        ApiError::missing(
            "the operator's log is not known here: this API was started without --operator-labels",
        )
    })?;
    let api: Api<Pod> = Api::namespaced(state.kubernetes()?.client(), &pods.namespace);
    let parameters = ListParams::default().labels(&pods.labels).limit(MAX_OPERATORS);
    let found = answer(api.list_metadata(&parameters)).await?;
    if found.items.is_empty() {
        return Err(ApiError::missing(format!(
            "no Pod in namespace {} has the labels {} of the operator: it runs elsewhere, and its log is there",
            pods.namespace, pods.labels
        )));
    }
    Ok(Operators { api, pods: found.items.iter().map(ResourceExt::name_any).collect() })
}

/// Some lines of the operator.
#[derive(Debug)]
pub struct OperatorLog {
    pub lines: Vec<(Timestamp, String)>,
    /// Bytes that were looked through.
    pub bytes: usize,
    /// The Pod of the newest line.
    pub pod: String,
}

/// The last `count` lines of a component of the operator, of all its Pods in the order of their times.
///
/// # Errors
/// 404 when there are none, 503.
pub async fn of_component(
    state: &ApiState,
    wanted: &str,
    count: usize,
    since: Option<Timestamp>,
) -> Result<OperatorLog, ApiError> {
    let operators = operators(state).await?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for pod in &operators.pods {
        let tail = tail(&operators.api, pod, OPERATOR, OPERATOR_LINES, OPERATOR_BYTES, since).await?;
        let Some(Excerpt { content, total_bytes, cut_bytes: _ }) = tail else { continue };
        bytes += total_bytes;
        let of_pod = lines(&content, since.unwrap_or_default())
            .filter(|l| since.is_none_or(|since| l.at >= since) && component(l.text) == wanted);
        found.extend(of_pod.map(|l| (l.at, pod, l.text.to_owned())));
    }
    found.sort_by_key(|(at, _, _)| *at);
    let pod = found.last().map(|(_, pod, _)| (*pod).clone());
    let Some(pod) = pod else {
        return Err(ApiError::missing(format!("the operator has written nothing as {wanted} lately")));
    };
    let first = found.len().saturating_sub(count);
    let lines = found.into_iter().skip(first).map(|(at, _, text)| (at, text)).collect();
    Ok(OperatorLog { lines, bytes, pod })
}

/// The end of the log of one of the operator's Pods.
///
/// # Errors
/// 503.
pub async fn of_operator(
    operators: &Operators,
    pod: &str,
    max_lines: i64,
    max_bytes: usize,
    since: Option<Timestamp>,
) -> Result<Option<Excerpt>, ApiError> {
    tail(&operators.api, pod, OPERATOR, max_lines, max_bytes, since).await
}
