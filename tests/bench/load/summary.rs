//! The summary of a bench: medians over the runs of each loop, beside the targets. Only of the parts that
//! were run.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::document;

#[derive(clap::Args)]
pub struct SummaryArgs {
    /// What the loops appended to.
    #[arg(long)]
    runs: PathBuf,
    /// The summary is written here.
    #[arg(long)]
    out: PathBuf,
}

/// One line of the table.
struct Row {
    what: &'static str,
    value: f64,
    /// The bound, and whether the value must be at least this instead of at most.
    target: Option<(f64, bool)>,
}

/// Writes its members of the summary and prints the table.
///
/// # Errors
/// When a loop has no result.
pub fn write(args: &SummaryArgs) -> anyhow::Result<()> {
    let text = fs::read_to_string(&args.runs).context("no results")?;
    let runs: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let has = |what: &str| runs.iter().any(|r| word(r, "/loop") == what);
    if has("tasks") {
        let summary = summarize(&runs)?;
        document::merge(&args.out, &summary)?;
        print_runs(&runs);
        print_targets(&loop_targets(&summary));
        print_cpu_ratio(&runs);
    }
    if let Some(idle) = runs.iter().find(|r| word(r, "/loop") == "idle") {
        let summary = json!({"idle": {
            "tasks": idle["tasks"],
            "operator_cores": idle["operator_cores"],
            "writes": idle["writes"],
        }});
        document::merge(&args.out, &summary)?;
        print_targets(&idle_targets(&summary));
    }
    if let Some(overhead) = runs.iter().find(|r| word(r, "/loop") == "overhead") {
        let summary = json!({
            "pod_start_to_first_byte_ms": overhead["pod_start_to_first_byte_ms"],
            "bare_pod_start_to_first_byte_ms": overhead["bare_pod_start_to_first_byte_ms"],
            "program_end_to_branch_ms": overhead["program_end_to_branch_ms"],
            "runner_rss_mib": overhead["runner_rss_mib"],
        });
        document::merge(&args.out, &summary)?;
        print_targets(&overhead_targets(&summary));
    }
    if has("api") {
        let summary = summarize_api(&runs)?;
        document::merge(&args.out, &summary)?;
        print_api(&runs);
        print_targets(&api_targets(&summary));
    }
    Ok(())
}

/// The value at a JSON pointer, 0 when there is none.
fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

fn word<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// The closed loops of this kind without the mirror.
fn closed<'a>(runs: &'a [Value], kind: &str) -> Vec<&'a Value> {
    runs.iter().filter(|r| word(r, "/loop") == kind && !flag(r, "/open") && !flag(r, "/mirror")).collect()
}

fn of_all(runs: &[&Value], f: impl Fn(&Value) -> f64) -> f64 {
    median(runs.iter().map(|r| f(r)).collect())
}

fn one<'a>(runs: &'a [Value], what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<&'a Value> {
    runs.iter().find(|r| is(r)).with_context(|| format!("no result of {what}"))
}

/// CPU seconds per 1,000 objects of one process, or of all but the load generator.
fn cpu(run: &Value, process: &str) -> f64 {
    let per = number(run, "/count") / 1000.0;
    let of = |name: &str| number(run, &format!("/cpu_s/{name}"));
    let seconds = if process == "all" {
        let sum: f64 = run
            .get("cpu_s")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(_, v)| v.as_f64())
            .sum();
        sum - of("load")
    } else {
        of(process)
    };
    seconds / per
}

fn summarize(runs: &[Value]) -> anyhow::Result<Value> {
    let (tasks, floor, bare) = (closed(runs, "tasks"), closed(runs, "floor"), closed(runs, "bare"));
    anyhow::ensure!(!tasks.is_empty() && !floor.is_empty() && !bare.is_empty(), "a loop has no result");
    let rate = |r: &Value| number(r, "/per_s");
    let ratio = |other: &[&Value]| median(tasks.iter().zip(other).map(|(t, o)| rate(t) / rate(o)).collect());
    let per_task =
        |what: &str| of_all(&tasks, |r| number(r, &format!("/writes/{what}")) / number(r, "/count"));
    let per_minute =
        |what: &str| of_all(&tasks, |r| number(r, &format!("/writes/{what}")) / number(r, "/seconds") * 60.0);
    let open = one(runs, "the open loop", |r| flag(r, "/open"))?;
    let lag = one(runs, "the mirror", |r| word(r, "/loop") == "mirror_lag")?;
    let rss = |tasks: u64| -> anyhow::Result<f64> {
        let found = one(runs, "memory", |r| {
            word(r, "/loop") == "rss" && number(r, "/tasks") == crate::as_f64(tasks as usize)
        })?;
        Ok(number(found, "/mib"))
    };
    let cpu_of = |process: &str| crate::round(of_all(&tasks, |r| cpu(r, process)), 1);
    Ok(json!({
        "tasks_per_s": crate::round(of_all(&tasks, rate), 1),
        "bare_pods_per_s": crate::round(of_all(&bare, rate), 1),
        "floor_per_s": crate::round(of_all(&floor, rate), 1),
        "ratio_to_floor": crate::round(ratio(&floor), 2),
        "ratio_to_bare_pods": crate::round(ratio(&bare), 2),
        "queued_to_pod_ms": open["queued_to_pod_ms"],
        "create_to_done_ms": open["create_to_done_ms"],
        "operator_writes_per_task": crate::round(per_task("operator"), 2),
        "operator_status_writes_per_minute": crate::round(per_minute("operator_status"), 1),
        "all_writes_per_task": crate::round(per_task("all"), 2),
        "rejected_writes_per_task": crate::round(per_task("rejected"), 4),
        "events_per_task": crate::round(per_task("events"), 3),
        "operator_rss_mib_at": {"1000": rss(1000)?, "10000": rss(10_000)?},
        "mirror_lag_ms": {"p50": lag["p50"], "p99": lag["p99"]},
        "cpu_s_per_1000_tasks": {
            "operator": cpu_of("operator"),
            "apiserver": cpu_of("apiserver"),
            "etcd": cpu_of("etcd"),
            "all": cpu_of("all"),
        },
    }))
}

fn summarize_api(runs: &[Value]) -> anyhow::Result<Value> {
    let over = |rows: f64| {
        one(runs, "the API", |r| word(r, "/loop") == "api" && number(r, "/rows").total_cmp(&rows).is_eq())
    };
    let (small, large) = (over(100_000.0)?, over(1_000_000.0)?);
    let drain = one(runs, "the drain", |r| word(r, "/loop") == "drain")?;
    let list = |r: &Value| number(r, "/list_first_ms/p99").max(number(r, "/list_deep_ms/p99"));
    let worst = |pointer: &str| number(small, pointer).max(number(large, pointer));
    Ok(json!({
        "api_list_p99_ms": {"100k": list(small), "1m": list(large)},
        "api_get_p99_ms": worst("/get_ms/p99"),
        "api_lists_per_core_s": number(small, "/lists_per_core_s").min(number(large, "/lists_per_core_s")),
        "api_rss_mib": worst("/rss_mib"),
        "mirror_drain_rows_per_s": drain["rows_per_s"],
    }))
}

fn print_api(runs: &[Value]) {
    println!(
        "\n{:<10}{:>14}{:>14}{:>12}{:>12}{:>12}{:>10}{:>9}",
        "API, rows",
        "first p50/p99",
        "deep p50/p99",
        "get p50/p99",
        "CPU ms/list",
        "lists/s",
        "MiB",
        "others"
    );
    for run in runs.iter().filter(|r| word(r, "/loop") == "api") {
        let both = |what: &str| {
            format!("{}/{}", number(run, &format!("/{what}/p50")), number(run, &format!("/{what}/p99")))
        };
        println!(
            "{:<10}{:>14}{:>14}{:>12}{:>12.2}{:>12}{:>10}{:>8.0}%",
            number(run, "/rows"),
            both("list_first_ms"),
            both("list_deep_ms"),
            both("get_ms"),
            number(run, "/list_cpu_ms"),
            number(run, "/lists_per_s"),
            number(run, "/rss_mib"),
            number(run, "/others_share") * 100.0,
        );
    }
    println!(
        "Lists are of 100 Tasks by status, at the first page and at every thousandth row of each status;"
    );
    println!("latencies, ms, are those of one client at a time while 500 rows a second are written.");
}

fn print_runs(runs: &[Value]) {
    println!(
        "\n{:<14}{:>7}{:>9}{:>9}{:>10}{:>10}{:>7}{:>7}{:>8}{:>9}{:>9}",
        "loop",
        "count",
        "seconds",
        "per s",
        "operator",
        "apiserver",
        "etcd",
        "all",
        "load",
        "writes",
        "others"
    );
    for run in runs.iter().filter(|r| r.get("seconds").is_some()) {
        let name = format!(
            "{}{}{}",
            word(run, "/loop"),
            if flag(run, "/open") { " open" } else { "" },
            if flag(run, "/mirror") { " +pg" } else { "" }
        );
        println!(
            "{name:<14}{:>7}{:>9.1}{:>9.1}{:>10.1}{:>10.1}{:>7.1}{:>7.1}{:>8.1}{:>9.2}{:>8.0}%",
            number(run, "/count"),
            number(run, "/seconds"),
            number(run, "/per_s"),
            cpu(run, "operator"),
            cpu(run, "apiserver"),
            cpu(run, "etcd"),
            cpu(run, "all"),
            cpu(run, "load"),
            number(run, "/writes/all") / number(run, "/count"),
            number(run, "/others_share") * 100.0,
        );
    }
    println!(
        "Times of processes are CPU seconds per 1,000 objects, `all` is without the load generator; `others` is the"
    );
    println!(
        "share of the machine that went to processes which are no part of this. Where it is not small, rates and"
    );
    println!(
        "latencies tell little; CPU seconds and writes stand. Writes are without Leases, which come with time, and the\noperator's of the status of pools and System, which do too."
    );
}

/// What a Task costs beside the floor in CPU time, the client that does its work there included: unlike
/// rates it bears up when others use the machine.
fn print_cpu_ratio(runs: &[Value]) {
    let total = |kind: &str| of_all(&closed(runs, kind), |r| cpu(r, "all") + cpu(r, "load"));
    let (tasks, floor) = (total("tasks"), total("floor"));
    println!(
        "CPU time of everybody per 1,000: Tasks {tasks:.1} s, floor {floor:.1} s; floor over Tasks {:.2}.",
        floor / tasks
    );
}

fn idle_targets(summary: &Value) -> Vec<Row> {
    let row = |what, pointer: &str, most| Row { what, value: number(summary, pointer), target: most };
    vec![
        row("settled Tasks", "/idle/tasks", None),
        row("cores of the idle operator", "/idle/operator_cores", Some((0.01, false))),
        row("its writes but Leases", "/idle/writes", Some((0.0, false))),
    ]
}

fn overhead_targets(summary: &Value) -> Vec<Row> {
    let row = |what, pointer: &str, most| Row { what, value: number(summary, pointer), target: most };
    vec![
        row("a bare Pod's first byte, p50, ms", "/bare_pod_start_to_first_byte_ms/p50", None),
        row("the program's first byte, p50, ms", "/pod_start_to_first_byte_ms/p50", Some((1500.0, false))),
        row("from its end to the branch, p50, ms", "/program_end_to_branch_ms/p50", Some((1500.0, false))),
        row("memory of the runner, MiB", "/runner_rss_mib", Some((20.0, false))),
    ]
}

fn api_targets(summary: &Value) -> Vec<Row> {
    let row = |what, pointer: &str, target| Row { what, value: number(summary, pointer), target };
    vec![
        row("list p99 of 100,000, ms", "/api_list_p99_ms/100k", Some((10.0, false))),
        row("list p99 of 1,000,000, ms", "/api_list_p99_ms/1m", Some((15.0, false))),
        row("get p99, ms", "/api_get_p99_ms", Some((5.0, false))),
        row("lists per CPU second", "/api_lists_per_core_s", Some((500.0, true))),
        row("memory of the API, MiB", "/api_rss_mib", Some((64.0, false))),
        row("mirror's drain, rows per second", "/mirror_drain_rows_per_s", Some((10_000.0, true))),
    ]
}

fn loop_targets(summary: &Value) -> Vec<Row> {
    let of = |pointer: &str| number(summary, pointer);
    let most = |bound: f64| Some((bound, false));
    vec![
        Row { what: "operator writes per Task", value: of("/operator_writes_per_task"), target: most(6.0) },
        Row {
            what: "operator status writes per minute",
            value: of("/operator_status_writes_per_minute"),
            target: None,
        },
        Row { what: "all writes per Task", value: of("/all_writes_per_task"), target: most(11.0) },
        Row { what: "rejected writes per Task", value: of("/rejected_writes_per_task"), target: most(0.02) },
        Row { what: "Events per Task", value: of("/events_per_task"), target: most(1.0) },
        Row { what: "ratio to floor", value: of("/ratio_to_floor"), target: Some((0.7, true)) },
        Row {
            what: "operator CPU s per 1,000 Tasks",
            value: of("/cpu_s_per_1000_tasks/operator"),
            target: most(8.0),
        },
        Row {
            what: "memory at 10,000 Tasks, MiB",
            value: of("/operator_rss_mib_at/10000"),
            target: most(100.0),
        },
        Row { what: "queued to Pod p99, ms", value: of("/queued_to_pod_ms/p99"), target: most(250.0) },
        Row { what: "create to Done p50, ms", value: of("/create_to_done_ms/p50"), target: most(150.0) },
        Row { what: "Tasks per second", value: of("/tasks_per_s"), target: None },
        Row { what: "ratio to bare Pods", value: of("/ratio_to_bare_pods"), target: None },
        Row { what: "mirror lag p50, ms", value: of("/mirror_lag_ms/p50"), target: most(50.0) },
        Row { what: "mirror lag p99, ms", value: of("/mirror_lag_ms/p99"), target: most(250.0) },
    ]
}

fn print_targets(rows: &[Row]) {
    println!("\n{:<34}{:>10}{:>12}", "", "measured", "target");
    let mut short = 0;
    for row in rows {
        let (target, verdict) = match row.target {
            Some((bound, least)) => {
                let met = if least { row.value >= bound } else { row.value <= bound };
                short += usize::from(!met);
                let sign = if least { ">=" } else { "<=" };
                (format!("{sign} {bound}"), if met { "" } else { "  falls short" })
            }
            None => (String::new(), ""),
        };
        println!("{:<34}{:>10}{target:>12}{verdict}", row.what, row.value);
    }
    match short {
        0 => println!("Every target is met."),
        n => println!("{n} of {} targets are not met.", rows.iter().filter(|r| r.target.is_some()).count()),
    }
}
