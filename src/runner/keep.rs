//! The prompt of a Run is kept with the API, so that it can be read what an agent was told (spec agents
//! 1.10; its hash is in the Run's status).
//!
//! Best effort, and quick: no Run fails or waits for the sake of it. Only the text with the hash that the
//! Run reports is kept: the executor can write where it lies.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{self, Api};
use super::checkout::Paths;
use super::exchange;
use crate::crd::wire::{ContainerResult, Inputs};

/// Waits between the requests, in seconds.
const WAITS: [u64; 1] = [1];
/// Time for all of it.
const LIMIT: Duration = Duration::from_secs(5);

/// Keeps the prompt that `result` names by its hash; nothing when there was none, or there is no API.
pub async fn prompt(
    inputs: &Inputs,
    paths: &Paths,
    api: &Api,
    result: &ContainerResult,
    stop: &CancellationToken,
) {
    let hash = &result.prompt_hash;
    if hash.is_empty() || api.url.is_none() {
        return;
    }
    let Some(text) = exchange::read_prompt(&paths.exchange, hash) else {
        println!("[opentiger] the prompt was not kept: it is not there as it was handed over");
        return;
    };
    let kept = tokio::time::timeout(LIMIT, post(inputs, api, hash, &text, stop)).await;
    match kept {
        Ok(Ok(())) => {}
        Ok(Err(why)) => println!("[opentiger] the prompt was not kept: {why}"),
        Err(_) => println!("[opentiger] the prompt was not kept: no answer in {} s", LIMIT.as_secs()),
    }
}

async fn post(
    inputs: &Inputs,
    api: &Api,
    hash: &str,
    text: &str,
    stop: &CancellationToken,
) -> Result<(), api::PostError> {
    let body = json!({
        "type": "prompt",
        "ref": "prompt.txt",
        "metadata": {"mimeType": "text/plain", "sha256": hash},
        "content": text,
    });
    let (path, key) = (format!("/runs/{}/artifacts", inputs.run), format!("prompt-{hash}"));
    let kept: Result<Value, _> = api::post(api, &path, Some(&key), &body, &WAITS, stop).await;
    kept.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::extract::State;
    use axum::http::{HeaderMap, Uri};
    use axum::{Json, Router};
    use sha2::{Digest, Sha256};
    use tokio::sync::mpsc;

    use super::*;
    use crate::crd::run::RunSpec;
    use crate::crd::wire::Outcome;

    /// A request: where to, its token and key, and its body.
    type Seen = (String, Vec<String>, Value);

    async fn taken(
        State(seen): State<mpsc::Sender<Seen>>,
        uri: Uri,
        headers: HeaderMap,
        body: Json<Value>,
    ) -> Json<Value> {
        let said =
            ["authorization", "idempotency-key"].map(|name| headers[name].to_str().expect("text").to_owned());
        seen.send((uri.path().to_owned(), said.to_vec(), body.0)).await.expect("somebody looks");
        Json(json!({}))
    }

    /// An API, with what it is asked for. One with room for nothing never answers.
    async fn api(room: usize) -> (String, mpsc::Receiver<Seen>) {
        let (send, seen) = mpsc::channel(1);
        if room == 0 {
            send.send((String::new(), Vec::new(), Value::Null)).await.expect("room for one");
        }
        let router = Router::new().fallback(taken).with_state(send);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, seen)
    }

    /// A Pod with this prompt, and what the agent says of it.
    fn pod(text: &str, url: &str) -> (tempfile::TempDir, Inputs, Paths, Api, ContainerResult) {
        let dir = tempfile::tempdir().expect("directory");
        let token = dir.path().join("token");
        std::fs::write(&token, "run-token\n").expect("written");
        let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        exchange::write_text(dir.path(), &exchange::prompt_file(&hash), text).expect("written");
        let inputs = Inputs {
            schema_version: 1,
            namespace: "n".into(),
            run: "fix-r1".into(),
            run_uid: "u".into(),
            spec: RunSpec::default(),
        };
        let paths = Paths { exchange: dir.path().into(), ..Paths::default() };
        let result = ContainerResult { prompt_hash: hash, ..ContainerResult::new(Outcome::Success) };
        (dir, inputs, paths, Api { url: Some(url.into()), token }, result)
    }

    #[tokio::test]
    async fn the_prompt_is_kept_with_the_run_s_own_token() {
        let (url, mut seen) = api(1).await;
        let (_dir, inputs, paths, api, result) = pod("# Fix it", &url);
        prompt(&inputs, &paths, &api, &result, &CancellationToken::new()).await;
        let (path, said, body) = seen.try_recv().expect("a request");
        assert_eq!(path, "/runs/fix-r1/artifacts");
        assert_eq!(said, ["Bearer run-token".to_owned(), format!("prompt-{}", result.prompt_hash)]);
        let expected = json!({
            "type": "prompt",
            "ref": "prompt.txt",
            "metadata": {"mimeType": "text/plain", "sha256": result.prompt_hash},
            "content": "# Fix it",
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn nothing_is_sent_that_the_runner_did_not_hand_over() {
        let (url, mut seen) = api(1).await;
        let (_dir, inputs, paths, api, result) = pod("# Fix it", &url);
        let file = exchange::prompt_file(&result.prompt_hash);
        exchange::write_text(&paths.exchange, &file, "# Something else").expect("written");
        prompt(&inputs, &paths, &api, &result, &CancellationToken::new()).await;
        let none = ContainerResult::new(Outcome::Success);
        prompt(&inputs, &paths, &api, &none, &CancellationToken::new()).await;
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_holds_no_run_up() {
        let (url, _seen) = api(0).await;
        let (_dir, inputs, paths, api, result) = pod("# Fix it", &url);
        let begun = Instant::now();
        prompt(&inputs, &paths, &api, &result, &CancellationToken::new()).await;
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
