//! Counts of what was written down lately.

use std::collections::HashMap;

use deadpool_postgres::Pool;
use tokio_postgres::types::ToSql;

use super::Error;
use super::queries::connection;

/// Events of these types in the last `hours` hours, by type; types without one are absent.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn count_events(
    pool: &Pool,
    namespace: &str,
    types: &[&str],
    hours: i32,
) -> Result<HashMap<String, i64>, Error> {
    let client = connection(pool).await?;
    let parameters: [&(dyn ToSql + Sync); 3] = [&namespace, &types, &hours];
    let rows = client
        .query(
            "SELECT type, count(*) FROM events
              WHERE namespace = $1 AND type = ANY($2) AND created_at > now() - make_interval(hours => $3)
              GROUP BY type",
            &parameters,
        )
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
