//! The whole agent in one process: started without a router, and stopped.

use mesh_core::id::MachineId;
use mesh_proto::v1::{RequestHead, response_head};
use node_agent::app::{Agent, AgentOptions, run};
use node_agent::config::{AgentConfig, Discover, MetricsSection};
use node_agent::serve;
use prometheus_client::registry::Registry;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn config() -> AgentConfig {
    AgentConfig {
        discover: Discover { enabled: false, ..Discover::default() },
        metrics: MetricsSection { listen: String::new() },
        ..AgentConfig::default()
    }
}

#[tokio::test]
async fn an_agent_in_process_reports_answers_and_ends_on_stop() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let options = AgentOptions {
        data: data.path().into(),
        name: MachineId::new("one").expect("a name"),
        root: "/".into(),
        uplink: None,
    };
    let stop = CancellationToken::new();
    let mut registry = Registry::default();
    let agent = Agent::start(options, &config(), &mut registry, stop.clone()).await.expect("it starts");
    let report = agent.reports.now();
    assert!(report.is_full() && report.draining == Some(false));
    let head = RequestHead {
        request_id: "r".into(),
        model: "unheard-of".into(),
        path: "/v1/completions".into(),
        body_length: 0,
        traceparent: String::new(),
        blob: None,
    };
    let answer = serve::answer(&agent.serve, head, bytes::Bytes::new()).await;
    let Some(response_head::Outcome::Refused(refused)) = answer.head.outcome else { panic!("no such model") };
    assert_eq!(refused.kind, "no_such_model");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all");
    assert!(text.contains("modemesh_agent_requests_total{outcome=\"no_such_model\"} 1"), "{text}");
    stop.cancel();
    let mut draining = agent.reports.draining.clone();
    draining.wait_for(|&draining| draining).await.expect("the agent says that it drains");
    let ended = tokio::time::timeout(Duration::from_secs(20), agent.stopped()).await;
    ended.expect("nothing is left to wait for");
}

#[tokio::test]
async fn a_machine_that_has_not_joined_is_told_how() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let complaint = run(data.path(), config(), CancellationToken::new()).await.expect_err("no certificate");
    assert_eq!(complaint.exit, 6);
    assert!(complaint.hint.is_some_and(|hint| hint.contains("mesh-agent join ROUTER TOKEN")));
}

fn mesh_agent(arguments: &[&str], data: &std::path::Path) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    command.args(arguments).env("MODEMESH_DATA", data).env_remove("RUST_LOG");
    command.output().expect("the program starts")
}

#[test]
fn the_program_says_what_this_machine_is() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let text = mesh_agent(&["probe"], data.path());
    let said = String::from_utf8(text.stdout).expect("text");
    assert!(text.status.success() && said.contains("ram  ") && said.contains("uptime"), "{said}");
    let json = mesh_agent(&["probe", "--json"], data.path());
    let sections: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(
        sections["hardware"]["hostname"].is_string() && sections["vitals"]["ram"].is_object(),
        "{sections}"
    );
}

#[test]
fn the_program_ends_with_the_codes_that_scripts_count_on() {
    let data = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(data.path().join("bad.toml"), "nmae = \"x\"\n").expect("writing");
    let bad = data.path().join("bad.toml").display().to_string();
    for (arguments, code, part) in [
        (vec!["run"], 6, "this machine has not joined a mesh"),
        (vec!["run", "--config", bad.as_str()], 78, "did you mean `name`?"),
        (vec!["join", "127.0.0.1:1"], 2, "TOKEN"),
        (vec!["join", "127.0.0.1:1", "mesh1.cut"], 6, "was it cut when copied"),
        (vec!["dance"], 2, "unrecognized subcommand"),
    ] {
        let output = mesh_agent(&arguments, data.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {part:?} is not in: {said}");
    }
}
