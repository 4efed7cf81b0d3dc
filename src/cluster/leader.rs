//! Leader election by a Lease. Losing it ends the process: nothing is written by a former leader that
//! knows it, and what it does not know is fenced by resourceVersions and the term.

use kube::Client;
use kube_lease_manager::{DurationSeconds, LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

/// Name of the Lease.
pub const LEASE: &str = "opentiger-operator";

/// A running election: `true` while this process leads.
pub struct Election {
    /// Changes whenever leadership does.
    pub leading: Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

/// Takes part in the election of `namespace` as `identity`.
///
/// `duration` is the time after the last renewal at which others may take over; `grace` before that
/// the holder renews.
///
/// # Errors
/// When the Lease can neither be read nor created.
pub async fn elect(
    client: Client,
    namespace: &str,
    identity: &str,
    duration: DurationSeconds,
    grace: DurationSeconds,
) -> Result<Election, LeaseManagerError> {
    let manager = LeaseManagerBuilder::new(client, LEASE)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(duration)
        .with_grace(grace)
        .build()
        .await?;
    let (leading, task) = manager.watch().await;
    Ok(Election { leading, task })
}

impl Election {
    /// Waits until this process leads. `false` when the election has ended instead.
    pub async fn won(&mut self) -> bool {
        self.leading.wait_for(|leading| *leading).await.is_ok()
    }

    /// Waits until this process no longer leads.
    pub async fn lost(mut leading: Receiver<bool>) {
        // An error means the election task has ended: leadership can no longer be renewed.
        let _ = leading.wait_for(|leading| !*leading).await;
    }

    /// Gives the Lease back, so that another replica need not wait for it to expire.
    pub async fn release(self) {
        drop(self.leading);
        match self.task.await {
            Ok(Ok(manager)) => {
                if let Err(error) = manager.release().await {
                    tracing::debug!(error = %error, "lease not released, it will expire");
                }
            }
            Ok(Err(error)) => tracing::debug!(error = %error, "election ended"),
            Err(error) => tracing::debug!(error = %error, "election task ended"),
        }
    }
}
