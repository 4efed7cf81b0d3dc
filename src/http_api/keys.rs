//! API keys: a file with one a line, each with a name and what it may do. Only hashes are kept.
//!
//! | line | means |
//! |---|---|
//! | `KEY` | may do everything, as every key of the original; its name is `key-N`, the N-th key of the file |
//! | `NAME KEY` | may do everything |
//! | `NAME:SCOPE[,SCOPE] KEY` | may do what its scopes say |
//! | `# ...` and empty | nothing |
//!
//! A line that is none of these opens nothing and is reported by its number, never by its content.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::access::Scope;
use super::watched::Watched;

/// Longest name.
const MAX_NAME: usize = 63;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    hash: [u8; 32],
    /// Who uses it.
    pub name: Arc<str>,
    /// The most it may do.
    pub scope: Scope,
}

/// The keys of a file, read again when it changes.
pub struct ApiKeys(Watched<Vec<Key>>);

impl ApiKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf) -> std::io::Result<Self> {
        let keys = Watched::open(path.clone(), parse)?;
        if keys.current().is_empty() {
            tracing::warn!(path = %path.display(), "the file of API keys holds no key");
        }
        Ok(Self(keys))
    }

    /// The key that `presented` is; takes the same time whichever it is.
    pub fn find(&self, presented: &str) -> Option<Key> {
        let hash = hash(presented);
        let keys = self.0.current();
        let place = (1u32..)
            .zip(keys.iter())
            .fold(0u32, |found, (n, key)| u32::conditional_select(&found, &n, key.hash.ct_eq(&hash)));
        keys.get(usize::try_from(place).ok()?.checked_sub(1)?).cloned()
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The keys of a file's text.
fn parse(text: &str) -> Vec<Key> {
    let lines = text.lines().map(str::trim).enumerate();
    let mut keys = Vec::new();
    for (n, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        match line_key(line, keys.len() + 1) {
            Ok(key) => keys.push(key),
            Err(problem) => {
                tracing::error!(line = n + 1, problem, "a line of the file of API keys opens nothing");
            }
        }
    }
    keys
}

fn line_key(line: &str, place: usize) -> Result<Key, &'static str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (label, key) = match *words.as_slice() {
        [key] => {
            return Ok(Key { hash: hash(key), name: format!("key-{place}").into(), scope: Scope::System });
        }
        [label, key] => (label, key),
        _ => return Err("it must be KEY, NAME KEY or NAME:SCOPE[,SCOPE] KEY"),
    };
    let (name, scope) = match label.split_once(':') {
        None => (label, Scope::System),
        Some((name, scopes)) => (name, highest(scopes)?),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err("the name must be 1 to 63 letters, digits, '-', '_' or '.'");
    }
    Ok(Key { hash: hash(key), name: name.into(), scope })
}

/// The highest scope: each includes those below it.
fn highest(scopes: &str) -> Result<Scope, &'static str> {
    let known = scopes.split(',').map(|word| Scope::ALL.into_iter().find(|s| s.word() == word));
    let highest = known.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
    highest.ok_or("a scope must be read, write or system")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, Scope)> {
        parse(text).into_iter().map(|k| (k.name.to_string(), k.scope)).collect()
    }

    #[test]
    fn each_form_of_a_line_is_read_and_every_other_opens_nothing() {
        let text = "# keys\n\n k1 \nui k2\nbot:read k3\nci:read,write k4\nroot:system k5\n\
                    x:admin k6\nx: k7\nx:read, k8\n:read k9\nbad/name k10\na b c\nlast";
        assert_eq!(
            of(text),
            [
                ("key-1".to_owned(), Scope::System),
                ("ui".into(), Scope::System),
                ("bot".into(), Scope::Read),
                ("ci".into(), Scope::Write),
                ("root".into(), Scope::System),
                ("key-6".into(), Scope::System),
            ]
        );
    }

    #[test]
    fn the_whole_key_is_found_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "one-key\nui:read other:key\n").expect("written");
        let keys = ApiKeys::open(file.path().into()).expect("read");
        let name = |key: &str| keys.find(key).map(|k| k.name.to_string());
        assert_eq!(name("one-key").as_deref(), Some("key-1"));
        assert_eq!(name("other:key").as_deref(), Some("ui"));
        for wrong in ["", "one-ke", "one-keyy", "ui:read other:key", "ui", "#"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }
}
