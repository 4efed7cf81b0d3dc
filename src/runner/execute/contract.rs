//! The repository's contract and its makefile, as they are in the revision that the work starts from.
//!
//! Read before the executor runs: what it makes of them counts for the Runs after it. A contract that is
//! not understood adds no commands and fails nothing, because the author of the Task may not be able to
//! mend it, and the Task that does must be able to pass; the log and the Run's status say so. What the
//! commands are is decided in `plan::command::automatic`.

use std::io;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::source;
use crate::crd::wire::Inputs;
use crate::plan::command::Step;
use crate::plan::command::automatic::{Automatic, Contract, MAX_CONTRACT_BYTES, plan};
use crate::plan::command::makefile::{self, Makefile};

/// Most bytes of a makefile; a longer one is not judged.
const MAX_MAKEFILE_BYTES: usize = 256 * 1024;

/// What a Run is verified by besides the commands of its Task.
#[derive(Debug, Default)]
pub struct Base {
    contract: Option<Contract>,
    makefile: Option<Makefile>,
    /// Why there is no contract although there is a file; empty when all is well.
    pub note: String,
}

/// Reads both from the checkout, which nobody has worked on yet.
pub fn read(inputs: &Inputs, checkout: &Path) -> Base {
    let settings = &inputs.spec.verification;
    let Ok(root) = Dir::open_ambient_dir(checkout, ambient_authority()) else { return Base::default() };
    if settings.most() == 0 {
        return Base::default();
    }
    let contract = match contract(&root, &settings.contract_path) {
        Ok(Some(contract)) => contract,
        Ok(None) => return Base::default(),
        Err(why) => {
            let note = format!("{} adds no commands: {why}", settings.contract_path);
            return Base { note, ..Base::default() };
        }
    };
    for remark in contract.remarks() {
        println!("[opentiger] {}: {remark}", settings.contract_path);
    }
    Base { contract: Some(contract), makefile: makefile(&root), note: String::new() }
}

/// The contract; `None` when there is no such file.
fn contract(root: &Dir, path: &str) -> Result<Option<Contract>, String> {
    match source::read(root, path, MAX_CONTRACT_BYTES) {
        Ok(file) if file.cut => Err(format!("it is longer than {MAX_CONTRACT_BYTES} bytes, make it shorter")),
        Ok(file) => Contract::parse(&file.text).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The makefile that make would take; `None` when there is none that can be judged.
fn makefile(root: &Dir) -> Option<Makefile> {
    let name = makefile::NAMES.iter().find(|name| root.symlink_metadata(name).is_ok())?;
    let file = source::read(root, name, MAX_MAKEFILE_BYTES).ok()?;
    (!file.cut).then(|| Makefile::parse(&file.text))
}

impl Base {
    /// The automatic commands for this change, besides `explicit`.
    pub fn commands(
        &self,
        inputs: &Inputs,
        checkout: &Path,
        changed: &[String],
        explicit: &[Step],
    ) -> Automatic {
        let Some(contract) = &self.contract else { return Automatic::default() };
        let wanted = contract.commands(inputs.spec.role, changed);
        let most = inputs.spec.verification.most();
        plan(&wanted, explicit, self.makefile.as_ref(), &checkout.to_string_lossy(), most)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::crd::run::RunSpec;
    use crate::crd::verification::{AutomaticCommands, CONTRACT_PATH};

    fn inputs() -> Inputs {
        Inputs {
            schema_version: 1,
            namespace: "n".into(),
            run: "r".into(),
            run_uid: "u".into(),
            spec: RunSpec::default(),
        }
    }

    fn repository(contract: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join(".opentiger")).expect("directory");
        fs::write(dir.path().join(CONTRACT_PATH), contract).expect("write");
        dir
    }

    fn named(base: &Base, inputs: &Inputs, dir: &Path) -> Vec<String> {
        base.commands(inputs, dir, &[], &[]).steps.into_iter().map(|step| step.command).collect()
    }

    #[test]
    fn contract_and_makefile_are_those_of_the_moment_they_were_read() {
        let dir = repository(r#"{"commands": ["make test", "make docs"]}"#);
        fs::write(dir.path().join("Makefile"), "test:\n").expect("write");
        let base = read(&inputs(), dir.path());
        fs::write(dir.path().join(CONTRACT_PATH), "{}").expect("write");
        fs::write(dir.path().join("Makefile"), "docs:\n").expect("write");
        assert_eq!(named(&base, &inputs(), dir.path()), ["make test"]);
        // `make` takes the first of its names.
        fs::write(dir.path().join(CONTRACT_PATH), r#"{"commands": ["make a", "make b"]}"#).expect("write");
        fs::write(dir.path().join("GNUmakefile"), "b:\n").expect("write");
        assert_eq!(named(&read(&inputs(), dir.path()), &inputs(), dir.path()), ["make b"]);
    }

    #[test]
    fn the_settings_say_whether_where_and_how_many() {
        let dir = repository(r#"{"commands": ["a", "b", "c", "d", "e"]}"#);
        assert_eq!(named(&read(&inputs(), dir.path()), &inputs(), dir.path()), ["a", "b", "c", "d"]);
        let mut two = inputs();
        two.spec.verification.max_automatic_commands = 2;
        assert_eq!(named(&read(&two, dir.path()), &two, dir.path()), ["a", "b"]);
        let mut off = inputs();
        off.spec.verification.automatic = AutomaticCommands::Off;
        assert!(named(&read(&off, dir.path()), &off, dir.path()).is_empty());
        let mut elsewhere = inputs();
        elsewhere.spec.verification.contract_path = "checks.json".into();
        assert!(named(&read(&elsewhere, dir.path()), &elsewhere, dir.path()).is_empty());
        fs::write(dir.path().join("checks.json"), r#"{"commands": ["f"]}"#).expect("write");
        assert_eq!(named(&read(&elsewhere, dir.path()), &elsewhere, dir.path()), ["f"]);
    }

    #[test]
    fn a_file_that_is_not_understood_adds_nothing_and_says_why() {
        let outside = tempfile::NamedTempFile::new().expect("file");
        fs::write(outside.path(), r#"{"commands": ["make"]}"#).expect("write");
        let long = format!(r#"{{"commands": []}}{}"#, " ".repeat(MAX_CONTRACT_BYTES));
        for (contract, why) in [("{", "not the JSON of a contract"), (&long, "longer than 65536 bytes")] {
            let base = read(&inputs(), repository(contract).path());
            assert!(base.contract.is_none() && base.note.contains(why), "{}", base.note);
            assert!(base.note.starts_with(".opentiger/verify.contract.json adds no commands: "));
        }
        let linked = repository("");
        fs::remove_file(linked.path().join(CONTRACT_PATH)).expect("removed");
        assert_eq!(read(&inputs(), linked.path()).note, "", "no file is no fault");
        symlink(outside.path(), linked.path().join(CONTRACT_PATH)).expect("link");
        let base = read(&inputs(), linked.path());
        assert!(base.contract.is_none() && base.note.ends_with("it is not a regular file"), "{}", base.note);
    }
}
