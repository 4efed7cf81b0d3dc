//! Query parameters and pages. A bad value is a 400 that names the parameter; unknown parameters are
//! ignored.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use axum::extract::Query;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use uuid::Uuid;

use super::error::ApiError;
use crate::crd::labels::is_label_value;
use crate::postgres::queries::After;

/// Most rows in one answer, with or without `limit`.
pub const MAX_ROWS: i64 = 1000;

/// The query of a request.
pub struct Params(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<BTreeMap<String, String>>::from_request_parts(parts, state).await?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// The value of `name`, unless absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// One of `words`.
    ///
    /// # Errors
    /// 400 that names the parameter and the words.
    pub fn word(&self, name: &str, words: &[&str]) -> Result<Option<String>, ApiError> {
        match self.text(name) {
            None => Ok(None),
            Some(word) if words.contains(&word) => Ok(Some(word.to_owned())),
            Some(_) => Err(ApiError::invalid(name, format!("must be one of {}", words.join(", ")))),
        }
    }

    /// A word such as a lane's name.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn label(&self, name: &str) -> Result<Option<String>, ApiError> {
        match self.text(name) {
            Some(text) if !is_label_value(text) => Err(ApiError::invalid(
                name,
                "must be at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            )),
            text => Ok(text.map(ToOwned::to_owned)),
        }
    }

    /// `true` or `false`, false when absent.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.word(name, &["true", "false"])?.as_deref() == Some("true"))
    }

    /// A uuid.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn uuid(&self, name: &str) -> Result<Option<Uuid>, ApiError> {
        let parse = |text: &str| Uuid::parse_str(text).map_err(|_| ApiError::invalid(name, "must be a uuid"));
        self.text(name).map(parse).transpose()
    }

    /// A number from 1: the first of `bounds` when absent or unreadable, at most the second.
    pub fn lenient(&self, name: &str, (default, most): (usize, usize)) -> usize {
        let number = self.text(name).and_then(|text| text.parse().ok()).filter(|n| *n > 0);
        number.unwrap_or(default).min(most)
    }

    /// `limit`, [`MAX_ROWS`] when absent.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn limit(&self) -> Result<i64, ApiError> {
        let Some(text) = self.text("limit") else { return Ok(MAX_ROWS) };
        text.parse()
            .ok()
            .filter(|n| (1..=MAX_ROWS).contains(n))
            .ok_or_else(|| ApiError::invalid("limit", format!("must be a number from 1 to {MAX_ROWS}")))
    }

    /// `limit` as the original reads it: the first of `limits` when absent or not a number from 1, and
    /// never more than the second.
    pub fn lenient_limit(&self, limits: (i64, i64)) -> i64 {
        let (default, most) = limits;
        let number = self.text("limit").and_then(|text| text.trim().parse::<i64>().ok());
        number.filter(|n| *n >= 1).unwrap_or(default).min(most)
    }

    /// The two parts of `cursor`.
    fn cursor(&self) -> Result<Option<(String, String)>, ApiError> {
        let Some(text) = self.text("cursor") else { return Ok(None) };
        let bad = || ApiError::invalid("cursor", "must be a nextCursor of this list");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let (first, second) = text.split_once(' ').ok_or_else(bad)?;
        Ok(Some((first.to_owned(), second.to_owned())))
    }

    /// Where a list ordered newest first goes on.
    ///
    /// # Errors
    /// 400 that names `cursor`.
    pub fn after(&self) -> Result<After, ApiError> {
        let bad = || ApiError::invalid("cursor", "must be a nextCursor of this list");
        let Some((time, uid)) = self.cursor()? else { return Ok(After::START) };
        Ok(After {
            created_at: time.parse::<Timestamp>().map_err(|_| bad())?,
            uid: Uuid::parse_str(&uid).map_err(|_| bad())?,
        })
    }

    /// Where the list of agents goes on.
    ///
    /// # Errors
    /// 400 that names `cursor`.
    pub fn after_slot(&self) -> Result<(String, i32), ApiError> {
        let Some((pool, slot)) = self.cursor()? else { return Ok((String::new(), 0)) };
        let slot =
            slot.parse().map_err(|_| ApiError::invalid("cursor", "must be a nextCursor of this list"))?;
        Ok((pool, slot))
    }
}

/// Splits off the row that only shows that there are more, and makes the cursor of the last one kept.
pub fn page<T>(
    mut rows: Vec<T>,
    limit: i64,
    key: impl Fn(&T) -> (String, String),
) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if rows.len() <= limit {
        return (rows, None);
    }
    rows.truncate(limit);
    let cursor = rows.last().map(|row| {
        let (first, second) = key(row);
        URL_SAFE_NO_PAD.encode(format!("{first} {second}"))
    });
    (rows, cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_cursor_leads_back_to_its_row() {
        let at: Timestamp = "2026-02-13T14:00:00.123456Z".parse().expect("time");
        let uid = Uuid::from_u128(7);
        let (rows, cursor) = page(vec![1, 2], 1, |_| (at.to_string(), uid.to_string()));
        assert_eq!(rows, [1]);
        let cursor = cursor.expect("more rows");
        assert_eq!(params(&[("cursor", &cursor)]).after().expect("read"), After { created_at: at, uid });
        assert_eq!(page(vec![1, 2], 2, |_| (String::new(), String::new())).1, None);
    }

    #[test]
    fn a_lenient_number_is_never_refused() {
        for (text, expected) in [
            ("", 200),
            ("7", 7),
            ("0", 200),
            ("-1", 200),
            ("x", 200),
            ("1e3", 200),
            ("2001", 2000),
            ("99999999999999999999999", 200),
        ] {
            assert_eq!(params(&[("lines", text)]).lenient("lines", (200, 2000)), expected, "{text}");
        }
        assert_eq!(params(&[]).lenient("lines", (200, 2000)), 200);
    }

    #[test]
    fn bad_cursors_and_limits_are_refused() {
        for cursor in ["x", "!!", "YQ", "MjAyNiBub3QtYS11dWlk"] {
            assert!(params(&[("cursor", cursor)]).after().is_err(), "{cursor}");
        }
        for limit in ["0", "-1", "1001", "ten", "1e3", "99999999999999999999"] {
            assert!(params(&[("limit", limit)]).limit().is_err(), "{limit}");
        }
        assert_eq!(params(&[("limit", "")]).limit().expect("absent"), MAX_ROWS);
    }

    #[test]
    fn lists_of_the_original_take_any_limit() {
        for (text, limit) in
            [("", 20), ("0", 20), ("-1", 20), ("ten", 20), ("1e3", 20), ("7", 7), ("100", 100), ("101", 100)]
        {
            assert_eq!(params(&[("limit", text)]).lenient_limit((20, 100)), limit, "{text}");
        }
    }
}
