//! Deliveries of the webhook: each is carried out once (invariant S25).

use deadpool_postgres::Pool;
use serde_json::Value;
use uuid::Uuid;

use super::Error;

/// Rows that one new delivery removes at most.
const REMOVED_AT_ONCE: i64 = 100;

/// One delivery.
pub struct Delivery<'a> {
    pub namespace: &'a str,
    /// What the sender calls it.
    pub delivery: &'a str,
    pub body_hash: &'a [u8],
    pub id: Uuid,
    /// `webhook.<event>[.<action>]`.
    pub type_: &'a str,
    pub payload: &'a Value,
}

/// Whose turn it is.
#[derive(Debug, PartialEq)]
pub enum Claim {
    /// The caller's: it was never answered, and nobody else is at it.
    Ours,
    /// It was carried out, with this answer.
    Answered(Value),
    /// Somebody is at it.
    InProgress,
    /// Its number was used for another body.
    Reused,
}

/// Notes a delivery and takes it on.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn claim(pool: &Pool, delivery: &Delivery<'_>) -> Result<Claim, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let Delivery { namespace, delivery, body_hash, id, type_, payload } = delivery;
    let inserted = client
        .execute(
            "INSERT INTO webhook_deliveries (namespace, delivery, body_hash, id, type, payload)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            &[namespace, delivery, body_hash, id, type_, payload],
        )
        .await?;
    if inserted == 1 {
        client
            .execute(
                "DELETE FROM webhook_deliveries WHERE (namespace, delivery) IN (
                     SELECT namespace, delivery FROM webhook_deliveries
                      WHERE created_at < now() - interval '14 days' ORDER BY created_at LIMIT $1)",
                &[&REMOVED_AT_ONCE],
            )
            .await?;
        return Ok(Claim::Ours);
    }
    let taken = client
        .execute(
            "UPDATE webhook_deliveries SET claimed_at = now()
              WHERE namespace = $1 AND body_hash = $2 AND answer IS NULL
                AND claimed_at < now() - interval '1 minute'",
            &[namespace, body_hash],
        )
        .await?;
    if taken == 1 {
        return Ok(Claim::Ours);
    }
    let known = client
        .query(
            "SELECT body_hash = $2, answer FROM webhook_deliveries
              WHERE namespace = $1 AND (body_hash = $2 OR delivery = $3) ORDER BY 1 DESC LIMIT 1",
            &[namespace, body_hash, delivery],
        )
        .await?;
    let Some(row) = known.first() else { return Ok(Claim::InProgress) };
    let (same, answer): (bool, Option<Value>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match (same, answer) {
        (true, Some(answer)) => Claim::Answered(answer),
        (true, None) => Claim::InProgress,
        (false, _) => Claim::Reused,
    })
}

/// Keeps the answer of a delivery that was carried out.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn answered(pool: &Pool, namespace: &str, body_hash: &[u8], answer: &Value) -> Result<(), Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    client
        .execute(
            "UPDATE webhook_deliveries SET answer = $3 WHERE namespace = $1 AND body_hash = $2",
            &[&namespace, &body_hash, answer],
        )
        .await?;
    Ok(())
}

/// Gives a delivery back that could not be carried out.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn give_back(pool: &Pool, namespace: &str, body_hash: &[u8]) -> Result<(), Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    client
        .execute(
            "UPDATE webhook_deliveries SET claimed_at = '-infinity'
              WHERE namespace = $1 AND body_hash = $2 AND answer IS NULL",
            &[&namespace, &body_hash],
        )
        .await?;
    Ok(())
}
