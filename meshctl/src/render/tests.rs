//! Every screen, pinned. The mesh is a household of five machines in all states.

use super::paint::Look;
use super::*;
use mesh_proto::v1::*;

const GIB: u64 = 1 << 30;

const PIPE: Look = Look { width: None, color: false, unicode: true };

fn columns(width: usize) -> Look {
    Look { width: Some(width), ..PIPE }
}

fn replica(model: &str, state: &str) -> ReplicaStatus {
    ReplicaStatus { model: model.into(), state: state.into(), ..ReplicaStatus::default() }
}

fn engine(replicas: Vec<ReplicaStatus>) -> EngineStatus {
    EngineStatus {
        name: "llama-server-1".into(),
        kind: "llama-server".into(),
        state: "up".into(),
        replicas,
        ..EngineStatus::default()
    }
}

fn gpu(name: &str, memory: Option<(u64, u64)>) -> GpuStatus {
    GpuStatus {
        name: name.into(),
        memory_total: memory.map(|(total, _)| total * GIB),
        memory_available: memory.map(|(_, available)| available * GIB),
        memory_unknown: if memory.is_some() { String::new() } else { "the driver does not tell".into() },
        ..GpuStatus::default()
    }
}

fn node(name: &str, state: &str) -> NodeStatus {
    NodeStatus { name: name.into(), state: state.into(), data_path: "quic".into(), ..NodeStatus::default() }
}

fn five_nodes() -> Vec<NodeStatus> {
    vec![
        NodeStatus {
            gpus: vec![gpu("Radeon 8060S", Some((96, 43)))],
            ram_total: Some(128 * GIB),
            ram_available: Some(107 * GIB),
            hottest_celsius: Some(62.5),
            in_flight: 2,
            slots: Some(4),
            engines: vec![engine(vec![
                replica("qwen3-coder:30b", "loaded"),
                replica("qwen3:32b", "loaded"),
                replica("llama3.3:70b", "available"),
            ])],
            ..node("strix-1", "ready")
        },
        NodeStatus {
            gpus: vec![gpu("Radeon 8060S", Some((96, 55)))],
            ram_total: Some(128 * GIB),
            ram_available: Some(110 * GIB),
            hottest_celsius: Some(55.0),
            engines: vec![engine(vec![replica("gpt-oss:120b", "loading")])],
            ..node("strix-2", "loading")
        },
        NodeStatus {
            gpus: vec![gpu("RTX 5070 Ti Laptop", Some((12, 2))), gpu("Radeon 780M", None)],
            ram_total: Some(32 * GIB),
            ram_available: Some(23 * GIB),
            hottest_celsius: Some(71.0),
            in_flight: 1,
            slots: Some(2),
            engines: vec![engine(vec![replica("gemma3:12b", "loaded"), replica("broken:7b", "failed")])],
            data_path: "in-process".into(),
            ..node("msi-5070ti", "ready")
        },
        NodeStatus {
            reason: "no message for 3.2 s".into(),
            last_heard_ms: 3200,
            ram_total: Some(16 * GIB),
            gpus_unknown: "nvidia-smi failed".into(),
            in_flight: 1,
            slots: Some(1),
            ..node("msi-4070", "suspect")
        },
        NodeStatus {
            reason: "silent for 4 min".into(),
            last_heard_ms: 245_000,
            data_path: "none".into(),
            ..node("beelink", "offline")
        },
    ]
}

fn mode(name: &str, model: &str, node: &str, state: &str) -> ModeStatus {
    ModeStatus {
        name: name.into(),
        model: model.into(),
        nodes: if node.is_empty() { vec![] } else { vec![node.into()] },
        state: state.into(),
        ..ModeStatus::default()
    }
}

fn modes() -> Vec<ModeStatus> {
    vec![
        ModeStatus {
            ttft_s: Some(0.412),
            tokens_per_second: Some(46.2),
            ok: 112,
            ..mode("ask", "gemma3:12b", "msi-5070ti", "ready")
        },
        ModeStatus {
            ttft_s: Some(0.9),
            tokens_per_second: Some(41.0),
            ok: 340,
            failed: 2,
            waiting: 2,
            ..mode("code", "qwen3-coder:30b", "strix-1", "ready")
        },
        ModeStatus {
            ok: 8,
            reason: "gpt-oss:120b is loading".into(),
            ..mode("architect", "gpt-oss:120b", "strix-2", "loading")
        },
        ModeStatus {
            ttft_s: Some(2.61),
            tokens_per_second: Some(8.93),
            ok: 21,
            ..mode("debug", "qwen3:32b", "strix-1", "ready")
        },
        ModeStatus {
            reason: "no machine that answers has qwen2.5-coder:3b-base".into(),
            ..mode("autocomplete", "", "", "unserved")
        },
    ]
}

fn placed(
    node: &str,
    state: &str,
    slots: Option<u32>,
    busy: Option<u32>,
    context: Option<u32>,
) -> PlacedReplica {
    PlacedReplica {
        node: node.into(),
        engine: "llama-server-1".into(),
        state: state.into(),
        slots,
        busy,
        context,
    }
}

fn models() -> Vec<ModelStatus> {
    let model = |name: &str, modes: &[&str], billions: u64, size: u64, replicas| ModelStatus {
        name: name.into(),
        modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
        parameters: Some(billions * 1_000_000_000),
        size: Some(size * GIB),
        replicas,
    };
    vec![
        model(
            "gemma3:12b",
            &["ask"],
            12,
            8,
            vec![
                placed("msi-5070ti", "loaded", Some(2), Some(1), Some(32_768)),
                placed("strix-1", "available", None, None, None),
            ],
        ),
        model("gpt-oss:120b", &["architect"], 117, 60, vec![placed("strix-2", "loading", None, None, None)]),
        model("llama3.3:70b", &[], 70, 43, vec![placed("strix-1", "available", None, None, None)]),
        model(
            "qwen3-coder:30b",
            &["code", "debug"],
            30,
            19,
            vec![
                placed("strix-1", "loaded", Some(2), Some(2), Some(65_536)),
                placed("strix-2", "available", None, None, None),
                placed("beelink", "available", None, None, None),
            ],
        ),
        ModelStatus {
            name: "qwen3:32b".into(),
            modes: vec!["debug".into()],
            replicas: vec![placed("strix-1", "loaded", None, None, None)],
            ..ModelStatus::default()
        },
    ]
}

fn mesh() -> StatusReply {
    StatusReply {
        router: Some(RouterStatus {
            name: "home".into(),
            version: "0.1.0".into(),
            uptime_s: 532_800,
            client_url: "http://10.0.0.1:7400".into(),
            config_source: "/etc/modemesh/router.toml".into(),
            in_flight: 4,
            waiting: 3,
            strategy: "auto".into(),
            plan: "following".into(),
            plan_stopped: vec![],
        }),
        nodes: five_nodes(),
        modes: modes(),
        models: models(),
        health: vec![
            HealthLine {
                level: "error".into(),
                message: "beelink is offline: nothing heard for 4 min".into(),
                hint: "ssh beelink systemctl status mesh-agent".into(),
            },
            HealthLine {
                level: "warning".into(),
                message: "msi-5070ti could not load broken:7b: the file is cut".into(),
                hint: String::new(),
            },
        ],
    }
}

fn screen(reply: &StatusReply, look: Look) -> String {
    status::screen(reply, "10.0.0.1:7402", false, None, look)
}

#[test]
fn five_nodes_in_80_columns() {
    insta::assert_snapshot!(screen(&mesh(), columns(80)));
}

#[test]
fn five_nodes_in_160_columns() {
    insta::assert_snapshot!(screen(&mesh(), columns(160)));
}

#[test]
fn five_nodes_piped() {
    insta::assert_snapshot!(status::screen(&mesh(), "10.0.0.1:7402", true, None, PIPE));
}

#[test]
fn five_nodes_in_ascii() {
    let text = screen(&mesh(), Look { unicode: false, ..columns(120) });
    assert!(text.is_ascii());
    insta::assert_snapshot!(text);
}

#[test]
fn five_nodes_in_colour() {
    insta::assert_snapshot!(screen(&mesh(), Look { color: true, ..columns(120) }).replace('\u{1b}', "^"));
}

#[test]
fn an_empty_mesh_says_what_to_do_next() {
    let empty = StatusReply { router: mesh().router, ..StatusReply::default() };
    insta::assert_snapshot!(screen(&empty, columns(80)));
}

#[test]
fn a_watch_keeps_the_last_picture_when_the_router_is_away() {
    let notice = "router unreachable since 2026-11-21 12:04:11 UTC (12 s): connection refused";
    let text = status::screen(&mesh(), "10.0.0.1:7402", false, Some(notice), columns(100));
    assert!(text.contains("strix-1") && text.contains(&format!("# Health\n# ✕ {notice}\n")), "{text}");
}

#[test]
fn no_table_line_is_longer_than_the_terminal() {
    for width in 40..200 {
        let text = screen(&mesh(), columns(width));
        for line in text.lines().take_while(|line| !line.starts_with("# Health")) {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn names_with_escape_sequences_stay_words() {
    let mut reply = mesh();
    reply.nodes[0].gpus[0].name = "Rad\u{1b}[2Jeon\u{1f}\n".into();
    reply.health[0].message = "a\u{7}b".into();
    assert!(screen(&reply, PIPE).chars().all(|c| c == '\n' || !c.is_control()));
}

fn term(name: &str, seconds: f64) -> CostTerm {
    CostTerm { name: name.into(), seconds }
}

fn candidate(node: &str, model: &str, rank: u32, why: &str) -> CandidateLine {
    CandidateLine {
        node: node.into(),
        model: model.into(),
        rank,
        why: why.into(),
        ..CandidateLine::default()
    }
}

fn complete() -> ExplainReply {
    ExplainReply {
        request_id: "r01jd8c21".into(),
        at_unix_ms: 1_795_262_651_000,
        path: "/v1/chat/completions".into(),
        asked: "mesh/code".into(),
        mode: "code".into(),
        client: "Kilo 7.4".into(),
        body_bytes: 32_856,
        stream: true,
        candidates: vec![
            candidate("msi-4070", "qwen3-coder:30b", 0, "suspect: no message for 3.2 s"),
            CandidateLine {
                predicted_s: Some(1.53),
                in_flight: 1,
                terms: vec![term("queue", 0.03), term("prefill", 0.9), term("decode", 0.6)],
                ..candidate("strix-1", "qwen3-coder:30b", 1, "loaded, 7.9k tokens of the prompt cached")
            },
            CandidateLine {
                predicted_s: Some(27.2),
                terms: vec![term("load", 25.0), term("prefill", 1.6), term("decode", 0.6)],
                ..candidate("strix-2", "qwen3-coder:30b", 2, "not loaded")
            },
            candidate("beelink", "qwen3-coder:30b", 0, "offline for 4 min"),
        ],
        attempts: vec![AttemptLine {
            node: "strix-1".into(),
            model: "qwen3-coder:30b".into(),
            started_after_s: 0.002,
            result: "complete".into(),
        }],
        outcome: "complete".into(),
        outcome_detail: "stop".into(),
        status: 200,
        ttft_s: Some(0.88),
        duration_s: Some(15.3),
        prompt_tokens: Some(8214),
        completion_tokens: Some(612),
        tokens_per_second: Some(41.2),
        reason: "least predicted time of 2".into(),
        predicted_ttft_s: Some(0.93),
        predicted_answer_s: Some(12.6),
        queued_s: Some(1.4),
    }
}

fn failed_over() -> ExplainReply {
    let attempt = |node: &str, after, result: &str| AttemptLine {
        node: node.into(),
        model: "qwen3-coder:30b".into(),
        started_after_s: after,
        result: result.into(),
    };
    ExplainReply {
        attempts: vec![
            attempt("strix-1", 0.002, "engine closed the connection before the first token"),
            attempt("strix-2", 0.31, "complete"),
        ],
        ..complete()
    }
}

fn refused() -> ExplainReply {
    ExplainReply {
        request_id: "r01jd8c99".into(),
        asked: "mesh/autocomplete".into(),
        mode: "autocomplete".into(),
        client: String::new(),
        stream: false,
        candidates: vec![
            candidate("msi-4070", "qwen2.5-coder:3b-base", 0, "suspect: no message for 3.2 s"),
            candidate("strix-1", "qwen2.5-coder:3b-base", 0, "does not have the model"),
        ],
        attempts: vec![],
        outcome: "refused".into(),
        outcome_detail: "no machine that answers has qwen2.5-coder:3b-base".into(),
        status: 503,
        ttft_s: None,
        duration_s: Some(0.001),
        prompt_tokens: None,
        completion_tokens: None,
        tokens_per_second: None,
        reason: String::new(),
        ..complete()
    }
}

#[test]
fn a_complete_request_is_explained() {
    insta::assert_snapshot!(explain::story(&complete(), columns(100)));
}

#[test]
fn a_failed_over_request_shows_both_attempts() {
    insta::assert_snapshot!(explain::story(&failed_over(), PIPE));
}

#[test]
fn a_refused_request_shows_why_each_machine_could_not() {
    insta::assert_snapshot!(explain::story(&refused(), Look { unicode: false, ..columns(80) }));
}

#[test]
fn a_story_fits_narrow_terminals() {
    for width in 60..160 {
        for line in explain::story(&failed_over(), columns(width)).lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn tokens_are_listed_with_what_became_of_them() {
    let token = |id: &str, role: &str, state: &str, left, used_by: &str| TokenLine {
        id: id.into(),
        role: role.into(),
        name: String::new(),
        state: state.into(),
        expires_in_s: left,
        used_by: used_by.into(),
    };
    let reply = ListTokensReply {
        tokens: vec![
            token("k3f9x2ab", "node", "open", 3240, ""),
            token("p0q1r2s3", "operator", "used", 1800, "laptop"),
            token("zzzz1111", "node", "expired", -120, ""),
            token("yyyy2222", "node", "revoked", 60, ""),
        ],
    };
    insta::assert_snapshot!(access::tokens(&reply, PIPE));
}

#[test]
fn keys_are_listed_without_the_keys() {
    let key = |id: &str, name: &str, last_used_unix_ms| KeyLine {
        id: id.into(),
        name: name.into(),
        created_unix_ms: 1_795_000_000_000,
        last_used_unix_ms,
    };
    let reply = ListKeysReply {
        keys: vec![key("a1b2", "zed-laptop", Some(1_795_262_651_000)), key("c3d4", "ci", None)],
    };
    insta::assert_snapshot!(access::keys(&reply, PIPE));
}

#[test]
fn json_is_the_reply_with_its_schema_in_front() {
    let text = json("mesh.status/v1", &mesh(), true);
    assert!(
        text.starts_with(r#"{"schema":"mesh.status/v1","router":{"name":"home","#) && text.ends_with("}\n")
    );
    assert_eq!(text.lines().count(), 1);
    let mut back: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    back.as_object_mut().expect("an object").remove("schema");
    assert_eq!(back, serde_json::to_value(mesh()).expect("JSON"));
}

#[test]
fn what_a_person_closed_and_what_waits_to_be_asked_for_is_as_it_should_be() {
    let mut status = mesh();
    for node in &mut status.nodes {
        node.state = "ready".into();
    }
    for mode in &mut status.modes {
        mode.state = "ready".into();
    }
    assert_eq!(status::not_ready(&status), Vec::<String>::new());
    status.nodes[0].state = "drained".into();
    status.modes[0].state = "on-demand".into();
    assert_eq!(status::not_ready(&status), Vec::<String>::new());
    (status.nodes[0].reason, status.modes[0].reason) = ("it is closed".into(), "on the disk".into());
    let text = screen(&status, PIPE);
    assert!(!text.contains("it is closed") && !text.contains("on the disk"), "{text}");
    for state in ["empty", "silent"] {
        status.nodes[0].state = state.into();
        assert_eq!(status::not_ready(&status).len(), 1, "{state}");
    }
    let router = status.router.as_mut().expect("there");
    router.plan_stopped = vec!["the strategy `auto` cannot be used".into()];
    assert_eq!(
        status::not_ready(&status)[1],
        "the plan is not followed (the strategy `auto` cannot be used)"
    );
    let text = screen(&status, PIPE);
    assert!(text.contains("modes of strategy auto   plan followed, but nothing moves"), "{text}");
}
