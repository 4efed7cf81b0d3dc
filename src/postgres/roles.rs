//! Least-privilege roles: an owner that migrates, a role for the mirror (writes rows), one for the API
//! (reads, and writes the few tables that are its own). Both read everything; who writes
//! what follows from the lists below.

use super::{DatabaseConfig, Error, connect};

/// Tables that the API writes, and the mirror does not.
const API_WRITES: &[&str] = &["webhook_deliveries", "log_bounds", "posted_artifacts"];
/// Tables of the API from which the mirror's leader removes what is too old.
const MIRROR_REMOVES: &[&str] = &["posted_artifacts"];
/// Tables that only migrations and triggers write.
const NOBODY_WRITES: &[&str] =
    &["refinery_schema_history", "schema_compatibility", "changes", "change_state"];

/// Names of the roles besides the owner; absent: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub mirror: Option<String>,
    pub api: Option<String>,
}

impl Roles {
    fn named(&self) -> impl Iterator<Item = &str> {
        self.mirror.iter().chain(&self.api).map(String::as_str)
    }
}

/// SQL for an administrator that creates the three roles in the present database, without passwords.
/// It may be run again.
pub fn creation_sql(owner: &str, mirror: &str, api: &str) -> String {
    let mut sql = String::from(
        "-- Roles of openTiger. Run this once in its database, as an administrator; it may be run again.\n\
         -- Then set the passwords (\\password in psql) and run `opentiger migrate` as the owner with\n\
         -- --mirror-role and --api-role: it grants the rights on the tables after every migration.\n",
    );
    for role in [owner, mirror, api] {
        sql.push_str(&format!(
            "DO $$ BEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN CREATE ROLE {} LOGIN; END IF;\nEND $$;\n",
            literal(role),
            identifier(role),
        ));
    }
    sql.push_str(&restriction_sql(&[mirror, api]));
    sql.push_str(&format!("GRANT USAGE, CREATE ON SCHEMA public TO {};\n", identifier(owner)));
    sql
}

/// Nobody but those named connects, and nobody makes anything.
fn restriction_sql(users: &[&str]) -> String {
    let mut sql = String::from(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;\n\
         DO $$ BEGIN\n  EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());\nEND $$;\n",
    );
    for user in users {
        sql.push_str(&format!("GRANT USAGE ON SCHEMA public TO {};\n", identifier(user)));
    }
    sql
}

/// Creates `roles` with these passwords, or sets their passwords. Needs an administrator, as the one
/// of the chart's bundled Postgres.
///
/// # Errors
/// `Settings`, `Connect` or `Statement`.
pub async fn create(config: &DatabaseConfig, roles: &[(&str, &str)]) -> Result<(), Error> {
    let pool = connect(&DatabaseConfig { max_connections: 1, ..config.clone() })?;
    let mut client = pool.get().await.map_err(Error::Connect)?;
    let transaction = client.transaction().await?;
    for (role, password) in roles {
        let exists = transaction.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[role]).await?;
        let verb = if exists.is_some() { "ALTER" } else { "CREATE" };
        let sql = format!("{verb} ROLE {} LOGIN PASSWORD {}", identifier(role), literal(password));
        transaction.batch_execute(&sql).await?;
    }
    let names: Vec<&str> = roles.iter().map(|(role, _)| *role).collect();
    transaction.batch_execute(&restriction_sql(&names)).await?;
    Ok(transaction.commit().await?)
}

/// Gives `roles` their rights on the tables that are there, and takes any others away. Run by the owner
/// after every migration; readers and writers do not notice.
///
/// # Errors
/// `Settings`, `Connect` or `Statement`, the latter also when a role does not exist.
pub async fn grant(config: &DatabaseConfig, roles: &Roles) -> Result<(), Error> {
    let pool = connect(&DatabaseConfig { max_connections: 1, ..config.clone() })?;
    let mut client = pool.get().await.map_err(Error::Connect)?;
    let tables = tables(&client).await?;
    let transaction = client.transaction().await?;
    for role in roles.named() {
        let name = identifier(role);
        transaction
            .batch_execute(&format!(
                "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name};
                 GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};
                 GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"
            ))
            .await?;
    }
    for table in &tables {
        for (role, rights) in writers(table, roles) {
            let sql = format!("GRANT {rights} ON {} TO {}", identifier(table), identifier(role));
            transaction.batch_execute(&sql).await?;
        }
    }
    Ok(transaction.commit().await?)
}

/// The roles that write `table`, and how.
fn writers<'a>(table: &str, roles: &'a Roles) -> Vec<(&'a str, &'static str)> {
    const ALL: &str = "INSERT, UPDATE, DELETE";
    let (api, mirror) = match table {
        table if NOBODY_WRITES.contains(&table) => (None, None),
        table if MIRROR_REMOVES.contains(&table) => (Some(ALL), Some("DELETE")),
        table if API_WRITES.contains(&table) => (Some(ALL), None),
        _ => (None, Some(ALL)),
    };
    let mirror = roles.mirror.as_deref().zip(mirror);
    mirror.into_iter().chain(roles.api.as_deref().zip(api)).collect()
}

/// The tables of the schema, without views.
async fn tables(client: &tokio_postgres::Client) -> Result<Vec<String>, Error> {
    let rows = client
        .query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", &[])
        .await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    // A backslash is one only in the E form, so it is always used.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_cannot_end_their_quotes() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\'"), "E'it''s \\\\'''");
        let sql = creation_sql("o", "m\"; DROP", "a");
        assert!(sql.contains("CREATE ROLE \"m\"\"; DROP\" LOGIN"), "{sql}");
    }

    #[test]
    fn each_table_has_the_writers_it_should() {
        let roles = Roles { mirror: Some("m".into()), api: Some("a".into()) };
        let of = |table: &str| writers(table, &roles);
        let all = "INSERT, UPDATE, DELETE";
        assert_eq!(of("tasks"), [("m", all)]);
        assert_eq!(of("webhook_deliveries"), [("a", all)]);
        assert_eq!(of("posted_artifacts"), [("m", "DELETE"), ("a", all)]);
        for table in NOBODY_WRITES {
            assert!(of(table).is_empty(), "{table}");
        }
    }
}
