//! The program that an executor is: what is run, with which environment and input.
//!
//! Must not run it.

use std::ffi::OsString;

use super::mask::secret_names;
use super::process::{Output, Program};
use super::prompt::Files;
use super::{Early, LOOP_LIMIT, Settings, cli, early, planning, review};
use crate::crd::pool::DEFAULT_IDLE_TIMEOUT;
use crate::crd::wire::{Inputs, Outcome};
use crate::crd::{ExecutorType, GoDuration};

/// The executor of a Run as a program.
pub(super) fn of(inputs: &Inputs, settings: &Settings, files: &Files) -> Result<Program, Early> {
    let spec = &inputs.spec;
    let executor = &spec.template.executor;
    let mut program = Program {
        argv: Vec::new(),
        cwd: settings.checkout.clone(),
        stdin: None,
        env: settings.environment.clone(),
        limit: spec.inputs.timebox.parse().ok_or_else(unreadable)?,
        idle_limit: Some(GoDuration::or(spec.limits.idle_timeout.as_ref(), DEFAULT_IDLE_TIMEOUT)),
        loop_limit: Some(LOOP_LIMIT),
        sweep: true,
        output: Output::Forward,
    };
    match executor.type_ {
        ExecutorType::Command => {
            let command = executor.command.as_ref().ok_or_else(unreadable)?;
            program.argv = command.argv.iter().map(OsString::from).collect();
        }
        ExecutorType::Mock => {
            executor.mock.as_ref().ok_or_else(unreadable)?;
            let own = [settings.executable.as_os_str(), "mock".as_ref(), "--inputs".as_ref()];
            program.argv = own.into_iter().chain([settings.inputs.as_os_str()]).map(OsString::from).collect();
        }
        ExecutorType::ClaudeCode | ExecutorType::Codex | ExecutorType::OpenCode => {
            let cli = cli::of(executor.type_).ok_or_else(unreadable)?;
            let invocation = cli.invocation(executor, &settings.environment).ok_or_else(unreadable)?;
            let secret = secret_names(&settings.environment);
            program.env = cli::environment(cli, executor, &settings.environment, &secret);
            program.env.extend(invocation.env);
            program.argv = match &files.session {
                Some(session) => cli.resume(invocation.argv, session),
                None => invocation.argv,
            };
            program.stdin = Some(files.prompt.clone());
            program.output = Output::Events(cli);
        }
    }
    let own: [(&str, OsString); 4] = [
        ("OPENTIGER_PROMPT_FILE", files.prompt.clone().into()),
        ("OPENTIGER_TASK_FILE", files.task.clone().into()),
        ("OPENTIGER_RUN", inputs.run.clone().into()),
        ("OPENTIGER_ATTEMPT", spec.attempt.to_string().into()),
    ];
    program.env.extend(own.map(|(name, value)| (name.into(), value)));
    program.env.extend(review::environment(inputs, settings));
    program.env.extend(planning::environment(inputs, settings));
    Ok(program)
}

fn unreadable() -> Early {
    let summary = "the run's executor or timebox is missing or cannot be read";
    early(Outcome::Failed, "execution_failed", summary)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::crd::pool::CommandExecutor;
    use crate::crd::run::RunSpec;

    /// The original gives no more than 30 minutes, whatever the Task says.
    #[test]
    fn an_executor_has_the_timebox_of_its_task_a17() {
        let mut inputs = Inputs {
            schema_version: 1,
            namespace: "n".into(),
            run: "r".into(),
            run_uid: "u".into(),
            spec: RunSpec::default(),
        };
        inputs.spec.template.executor.type_ = ExecutorType::Command;
        inputs.spec.template.executor.command = Some(CommandExecutor { argv: vec!["work".into()] });
        let place = PathBuf::new;
        let files = Files { prompt: place(), task: place(), session: None, prompt_hash: String::new() };
        let settings = Settings {
            checkout: place(),
            exchange: place(),
            login: place(),
            inputs: place(),
            executable: place(),
            environment: Vec::new(),
            now: || Timestamp::UNIX_EPOCH,
            kill_after: Duration::ZERO,
            command_limit: Duration::ZERO,
        };
        for (minutes, seconds) in [(90, 5400), (20, 1200), (1, 60)] {
            inputs.spec.inputs.timebox = GoDuration(format!("{minutes}m"));
            let program = of(&inputs, &settings, &files).expect("a program");
            assert_eq!(program.limit, Duration::from_secs(seconds), "{minutes}");
        }
    }
}
