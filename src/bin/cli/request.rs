//! Creates one Operation and waits for its end.

use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use opentiger::crd::words::snake;
use opentiger::crd::{Operation, OperationPhase, OperationSpec};

/// Who asks for it, where and why.
pub struct Requester<'a> {
    pub namespace: String,
    pub by: &'a str,
    pub reason: &'a str,
}

/// Creates the Operation and prints what comes of it within `timeout` seconds.
///
/// # Errors
/// When it is refused, fails, or is not over in time (then it goes on).
pub async fn carry_out(
    client: &Client,
    requester: &Requester<'_>,
    spec: OperationSpec,
    timeout: u64,
) -> anyhow::Result<()> {
    let api: Api<Operation> = Api::namespaced(client.clone(), &requester.namespace);
    let prefix = format!("{}-", snake(spec.type_.word()).replace('_', "-"));
    let mut operation = Operation::new("", spec);
    operation.metadata.name = None;
    operation.metadata.generate_name = Some(prefix);
    operation.spec.requested_by = requester.by.chars().take(200).collect();
    operation.spec.reason = requester.reason.into();
    let created =
        api.create(&PostParams::default(), &operation).await.context("failed to create the Operation")?;
    let name = created.name_any();
    println!("operation.opentiger.dev/{name} created");
    let over = |operation: Option<&Operation>| operation.is_none_or(|o| o.phase().is_terminal());
    let waited =
        tokio::time::timeout(Duration::from_secs(timeout), await_condition(api.clone(), &name, over)).await;
    let last = match waited {
        Ok(Ok(last)) => last,
        Ok(Err(error)) => return Err(error).context(format!("failed to follow Operation {name}")),
        Err(_) => api.get_opt(&name).await.context("failed to read the Operation")?,
    };
    let Some(last) = last else { bail!("Operation {name} was deleted before its end") };
    let message = last.status.clone().unwrap_or_default().message;
    match last.phase() {
        OperationPhase::Succeeded => {
            println!("{message}");
            Ok(())
        }
        OperationPhase::Failed => bail!("{message}"),
        OperationPhase::Pending if message.is_empty() => {
            bail!("Operation {name} has not been taken up in {timeout} s: does the operator run and lead?")
        }
        OperationPhase::Pending | OperationPhase::Running => {
            bail!("Operation {name} is not over after {timeout} s and goes on: {message}")
        }
    }
}
