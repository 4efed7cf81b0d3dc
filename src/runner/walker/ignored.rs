//! Which untracked paths the repository ignores: its `.gitignore` files, read as plain data.
//!
//! The files of the work tree count, as they would for `git add`: a changed `.gitignore` is itself
//! part of the change and is judged by the path policy. No other source of rules is read (the agent
//! could write `.git/info/exclude` and every configuration that names more).

use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Largest `.gitignore` that is read, in bytes.
pub const MAX_RULES: u64 = 512 * 1024;

/// The rules of the directories from the top down to the present one.
#[derive(Debug, Default)]
pub struct Rules(Vec<Level>);

#[derive(Debug)]
struct Level {
    /// Length of the directory's path with its final slash.
    prefix: usize,
    rules: Option<Gitignore>,
}

impl Rules {
    /// Enters a directory whose path (with its final slash, empty at the top) has `prefix` bytes.
    /// `text` is its `.gitignore`.
    ///
    /// # Errors
    /// When the rules cannot be compiled.
    pub fn enter(&mut self, prefix: usize, text: Option<&[u8]>) -> Result<(), ignore::Error> {
        let rules = text.map(compile).transpose()?;
        self.0.push(Level { prefix, rules });
        Ok(())
    }

    /// Leaves the directory entered last.
    pub fn leave(&mut self) {
        self.0.pop();
    }

    /// Whether `path` (from the top) is ignored; the innermost rule that matches decides. Ignored
    /// parents are the caller's business.
    pub fn ignored(&self, path: &Path, directory: bool) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let bytes = path.as_os_str().as_bytes();
        for Level { prefix, rules } in self.0.iter().rev() {
            let (Some(rules), Some(relative)) = (rules, bytes.get(*prefix..)) else { continue };
            match rules.matched(Path::new(std::ffi::OsStr::from_bytes(relative)), directory) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }
}

fn compile(text: &[u8]) -> Result<Gitignore, ignore::Error> {
    let text = String::from_utf8_lossy(text);
    let mut builder = GitignoreBuilder::new(".");
    for line in text.trim_start_matches('\u{feff}').lines() {
        // A line that is no pattern ignores nothing, as in git.
        let _ = builder.add_line(None, line);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_rule_decides() {
        let mut rules = Rules::default();
        rules
            .enter(0, Some(b"\xef\xbb\xbf*.log\n/top\nsub/deep\nbad[\n# no\n\\#yes\nonly/\n"))
            .expect("compiles");
        let ignored = |rules: &Rules, path: &str| rules.ignored(Path::new(path), false);
        assert!(ignored(&rules, "x.log") && ignored(&rules, "top") && ignored(&rules, "#yes"));
        assert!(ignored(&rules, "sub/deep") && ignored(&rules, "sub/x.log"));
        assert!(!ignored(&rules, "sub/top") && !ignored(&rules, "only") && !ignored(&rules, "# no"));
        assert!(rules.ignored(Path::new("only"), true));
        rules.enter("sub/".len(), Some(b"!x.log\n/own\n")).expect("compiles");
        assert!(!ignored(&rules, "sub/x.log") && ignored(&rules, "sub/y.log") && ignored(&rules, "sub/own"));
        rules.leave();
        assert!(ignored(&rules, "sub/x.log"));
    }
}
