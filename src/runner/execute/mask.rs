//! Which environment variables are secrets, and keeping their values out of everything we print.
//!
//! The operator cannot read Secrets, so it cannot name their keys: a variable counts as secret by its
//! name, or because `OPENTIGER_SECRET_KEYS` lists it. Must not print anything itself.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};

/// Comma-separated names of variables that are secret whatever they are called.
pub const SECRET_KEYS: &str = "OPENTIGER_SECRET_KEYS";
/// What stands in a secret's place.
const MASKED: &str = "***";
/// Shorter values are words that output is full of.
const MIN_SECRET_BYTES: usize = 6;
/// Words between the `_` of a name that make it a secret.
const SECRET_WORDS: [&str; 9] =
    ["KEY", "KEYS", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS"];

/// Whether a variable is secret by its name.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name != SECRET_KEYS && name.split('_').any(|word| SECRET_WORDS.contains(&word))
}

/// The names of the secret variables in `environment`.
pub fn secret_names(environment: &[(OsString, OsString)]) -> Vec<OsString> {
    let listed =
        environment.iter().find(|(name, _)| name == SECRET_KEYS).map(|(_, value)| value.to_string_lossy());
    let listed: Vec<&str> = listed.as_deref().unwrap_or_default().split(',').map(str::trim).collect();
    let secret =
        |name: &OsStr| name.to_str().is_some_and(|name| listed.contains(&name) || is_secret_name(name));
    environment.iter().filter(|(name, _)| secret(name)).map(|(name, _)| name.clone()).collect()
}

/// The values to hide. A value of several lines is hidden line by line.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// Longest first, so that a secret inside a secret does not leave the rest.
    secrets: Vec<String>,
}

impl Mask {
    /// The values of the secret variables of `environment`.
    pub fn of(environment: &[(OsString, OsString)]) -> Self {
        let names = secret_names(environment);
        let values = environment
            .iter()
            .filter(|(name, _)| names.contains(name))
            .filter_map(|(_, value)| value.to_str());
        let lines = values.flat_map(|value| std::iter::once(value).chain(value.lines())).map(str::trim);
        let mut mask = Self::default();
        mask.add(&lines.map(Into::into).collect::<Vec<String>>());
        mask
    }

    /// Hides these values, too.
    pub fn add(&mut self, secrets: &[String]) {
        self.secrets.extend(secrets.iter().filter(|secret| secret.len() >= MIN_SECRET_BYTES).cloned());
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.secrets.dedup();
    }

    /// `text` without secrets.
    pub fn hide<'a>(&self, text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
        let mut text = text.into();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), MASKED));
            }
        }
        text
    }

    /// Bytes of the longest secret.
    pub fn longest(&self) -> usize {
        self.secrets.first().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn secrets_are_known_by_name_or_by_list() {
        let environment = environment(&[
            ("OPENAI_API_KEY", "sk-123456"),
            ("GH_TOKEN", "ghp_abcdef"),
            ("KEYBOARD", "qwertyuiop"),
            ("PATH", "/usr/bin:/bin"),
            ("MY_THING", "abcdefgh"),
            ("OPENTIGER_SECRET_KEYS", "MY_THING, OTHER"),
        ]);
        assert_eq!(secret_names(&environment), ["OPENAI_API_KEY", "GH_TOKEN", "MY_THING"]);
        let mask = Mask::of(&environment);
        assert_eq!(
            mask.hide("a sk-123456 b ghp_abcdef c abcdefgh qwertyuiop"),
            "a *** b *** c *** qwertyuiop"
        );
    }

    #[test]
    fn long_secrets_go_first_and_lines_are_secrets_too() {
        let mask = Mask::of(&environment(&[
            ("A_KEY", "abcdef"),
            ("B_KEY", "abcdefghij"),
            ("C_KEY", "-----BEGIN\nMIIEvQ=\nx"),
        ]));
        assert_eq!(mask.hide("abcdefghij abcdef MIIEvQ= x"), "*** *** *** x");
        assert_eq!(mask.longest(), "-----BEGIN\nMIIEvQ=\nx".len());
    }
}
