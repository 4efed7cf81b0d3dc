//! The condition and the order of a list, with only the filters that are given: what is not asked for
//! does not stand in the statement, so that the planner can use the index of what is.

use tokio_postgres::types::ToSql;

use super::queries::After;

/// A list being put together. Columns are names of this program, values are always parameters.
pub(super) struct Page<'a> {
    sql: String,
    values: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Page<'a> {
    /// Rows of the table `alias` in a namespace.
    pub(super) fn all(alias: &str, namespace: &'a &str) -> Self {
        Self { sql: format!("WHERE {alias}.namespace = $1"), values: vec![namespace] }
    }

    /// Of these the ones after a row in the order newest first (keyset, never OFFSET).
    pub(super) fn after(alias: &str, namespace: &'a &str, after: &'a After) -> Self {
        Self {
            sql: format!("WHERE {alias}.namespace = $1 AND ({alias}.created_at, {alias}.uid) < ($2, $3)"),
            values: vec![namespace, &after.created_at, &after.uid],
        }
    }

    /// `column` equals `value`, if there is one.
    pub(super) fn equal<T: ToSql + Sync>(mut self, column: &str, value: Option<&'a T>) -> Self {
        if let Some(value) = value {
            self.values.push(value);
            self.sql.push_str(&format!(" AND {column} = ${}", self.values.len()));
        }
        self
    }

    /// `column` equals one of `values`.
    pub(super) fn one_of<T: ToSql + Sync>(mut self, column: &str, values: &'a Vec<T>) -> Self {
        self.values.push(values);
        self.sql.push_str(&format!(" AND {column} = ANY(${})", self.values.len()));
        self
    }

    /// A condition without a value, if `wanted`.
    pub(super) fn only(mut self, wanted: bool, condition: &str) -> Self {
        if wanted {
            self.sql.push_str(" AND ");
            self.sql.push_str(condition);
        }
        self
    }

    /// Statement and values: `select` with the condition in this order, at most `limit`.
    pub(super) fn finish(
        mut self,
        select: &str,
        order: &str,
        limit: &'a i64,
    ) -> (String, Vec<&'a (dyn ToSql + Sync)>) {
        self.values.push(limit);
        let n = self.values.len();
        (format!("{select} {} ORDER BY {order} LIMIT ${n}", self.sql), self.values)
    }
}
