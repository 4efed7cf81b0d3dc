//! The agent container of a Plan Run with an agent program: its answer becomes the plan's file.

use std::fs;

use opentiger::crd::Purpose;
use opentiger::crd::pool::Role;
use opentiger::plan::planner::usable;
use opentiger::runner::exchange;
use opentiger::runner::planning::{PLAN_FILE, SNAPSHOT_FILE};
use rstest::rstest;
use serde_json::json;

use crate::agents::agent;
use crate::pod::Pod;

const GOOD: &str = r#"{"tasks": [{"title": "Add login", "goal": "One can log in"}]}"#;

/// A planner that answers with these texts, one for each time it is started, and keeps its prompts.
fn planner(program: &str, answers: &[&str]) -> Pod {
    let script = r#"n=$(($(cat "$HOME/round" 2>/dev/null || echo 0) + 1)); echo $n > "$HOME/round"
        cat > "$HOME/prompt.$n"; cat "$HOME/answer.$n""#;
    let mut pod = agent(program, script);
    pod.inputs.spec.purpose = Purpose::Plan;
    pod.inputs.spec.role = Role::Planner;
    for (index, answer) in answers.iter().enumerate() {
        let said = match program {
            "claude" => json!({"type": "result", "subtype": "success", "is_error": false, "num_turns": 1,
                "result": answer, "usage": {"input_tokens": 100, "output_tokens": 10}})
            .to_string(),
            "codex" => json!({"type": "item.completed",
                "item": {"type": "agent_message", "text": answer}})
            .to_string(),
            _ => json!({"type": "text", "part": {"type": "text", "text": answer}}).to_string(),
        };
        fs::write(pod.outside(&format!("answer.{}", index + 1)), said + "\n").expect("written");
    }
    pod
}

fn tasks(pod: &Pod) -> Option<usize> {
    let text = exchange::read_text_within(&pod.exchange(), PLAN_FILE, 1 << 20)?;
    usable(&text).ok().map(|read| read.tasks.len())
}

#[rstest]
fn the_last_message_of_each_program_is_the_plan(#[values("claude", "codex", "opencode")] program: &str) {
    // Longer than what is kept of a message for people.
    let long =
        format!("Here it is:\n```json\n{}\n```\nDone.", GOOD.replace("One can", &"long ".repeat(2000)));
    let pod = planner(program, &[&long]);
    exchange::write_text(&pod.exchange(), SNAPSHOT_FILE, "The base branch has 2 files:\n").expect("written");
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stderr);
    assert_eq!(tasks(&pod), Some(1));
    assert!(!pod.outside("prompt.2").exists(), "it is asked once");
    let prompt = fs::read_to_string(pod.outside("prompt.1")).expect("prompt");
    assert!(prompt.contains("Implement it.") && prompt.contains("Your last message is the plan"), "{prompt}");
    assert!(prompt.contains("\n## The repository\n\nThe base branch has 2 files:\n"), "{prompt}");
}

#[rstest]
#[case::prose("I could not decide.", "holds no JSON object")]
#[case::truncated(r#"{"tasks": [{"title": "a""#, "EOF while parsing")]
#[case::other(r#"{"plan": []}"#, "has no \"tasks\"")]
#[case::type_(r#"{"tasks": "none"}"#, "is not an array")]
#[case::empty(r#"{"tasks": []}"#, "no task with a title or a goal")]
fn an_unusable_answer_is_sent_back_once_with_what_is_wrong(#[case] first: &str, #[case] wrong: &str) {
    let pod = planner("claude", &[first, GOOD]);
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stderr);
    assert_eq!(tasks(&pod), Some(1));
    assert_eq!(ended.result().tokens.expect("tokens").total, 220, "both rounds count");
    let prompt = fs::read_to_string(pod.outside("prompt.2")).expect("a second prompt");
    assert!(prompt.contains(wrong) && prompt.contains(first), "{prompt}");
}

#[test]
fn a_second_unusable_answer_fails_the_run_with_its_reason() {
    let pod = planner("claude", &["no", "no", GOOD]);
    assert_eq!(pod.run().brief(), "Failed plan_unreadable 30");
    assert_eq!(planner("claude", &["no", r#"{"tasks": []}"#]).run().brief(), "Failed plan_empty 30");
    assert!(tasks(&pod).is_none() && !pod.outside("prompt.3").exists());
}

#[test]
fn without_time_it_is_not_asked_again() {
    let pod = planner("claude", &["no", GOOD]).timebox("15s");
    let ended = pod.run();
    assert_eq!(ended.brief(), "Failed plan_unreadable 30");
    assert!(ended.result().summary.contains("no time was left"), "{}", ended.result().summary);
}

#[test]
fn secrets_are_neither_in_the_prompt_nor_in_the_plan() {
    let key = "sk-canary-0123456789";
    let pod = {
        let mut pod = planner("claude", &[&GOOD.replace("login", key)]);
        pod.inputs.spec.inputs.goal = format!("Use {key}.");
        pod
    };
    assert_eq!(pod.run().brief(), "Success - 0");
    let plan = exchange::read_text(&pod.exchange(), PLAN_FILE).expect("plan");
    let prompt = fs::read_to_string(pod.outside("prompt.1")).expect("prompt");
    let task = fs::read_to_string(pod.exchange().join("task.json")).expect("task");
    assert!(!plan.contains(key) && !prompt.contains(key) && plan.contains("***"), "{plan} {prompt}");
    assert!(!task.contains(key) && task.contains("Use ***."), "{task}");
}
