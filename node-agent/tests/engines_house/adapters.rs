//! What each adapter makes of what its engine documents, and of answers that no engine gives.

use crate::house::{House, model};
use crate::simulator::OllamaSimulator;
use crate::web_server::{ENDLESS, HANGS, HANGS_AFTER_HEADERS, LOCKED, SLOWLY, WebServer};
use futures_util::StreamExt as _;
use mesh_core::machine::{Directive, EngineKind, EngineState, ReplicaState};
use node_agent::engine::discover::{Finding, identify};
use node_agent::engine::{EngineConfig, LoadRequest, Observation, adapter};
use std::time::Duration;

type Pages = &'static [(&'static str, &'static str)];

const SGLANG: Pages = &[
    ("/v1/models", r#"{"data":[{"id":"qwen3-8b","owned_by":"sglang","max_model_len":32768}]}"#),
    (
        "/server_info",
        r#"{"model_path":"Qwen/Qwen3-8B","tp_size":1,"version":"0.5.2","max_running_requests":48}"#,
    ),
    (
        "/metrics",
        "sglang:num_running_reqs{model_name=\"q\"} 3.0\nsglang:num_queue_reqs{model_name=\"q\"} 2.0\n",
    ),
];
const TABBY: Pages = &[
    (
        "/v1/models",
        r#"{"data":[{"id":"a-exl3","owned_by":"tabbyAPI"},{"id":"b-exl3","owned_by":"tabbyAPI"}]}"#,
    ),
    ("/v1/model", r#"{"id":"a-exl3","owned_by":"tabbyAPI","parameters":{"max_seq_len":16384}}"#),
];
const KOBOLD: Pages = &[
    ("/api/extra/version", r#"{"result":"KoboldCpp","version":"1.100"}"#),
    ("/api/extra/perf", r#"{"last_process":0.1,"queue":4,"idle":0}"#),
    ("/api/extra/true_max_context_length", r#"{"value":8192}"#),
    ("/v1/models", r#"{"data":[{"id":"koboldcpp/tiny","owned_by":"koboldcpp"}]}"#),
];
const LOCAL_AI: Pages = &[
    ("/v1/models", r#"{"data":[{"id":"phi-4","object":"model"},{"id":"whisper-1","object":"model"}]}"#),
    ("/system", r#"{"backends":["llama-cpp"],"loaded_models":[{"id":"phi-4"}]}"#),
];
const ROUTER: Pages = &[
    ("/props", include_str!("../captures/llama-server-router-props.json")),
    ("/models", include_str!("../captures/llama-router-models-one-loaded.json")),
];

const LLAMA: Pages = &[
    ("/props", include_str!("../captures/llama-server-props.json")),
    ("/health", r#"{"status":"ok"}"#),
    ("/v1/models", include_str!("../captures/llama-server-v1-models.json")),
    ("/metrics", concat!("slow ", include_str!("../captures/llama-server-metrics.txt"))),
];

async fn look(kind: EngineKind, url: &str) -> Observation {
    let mut engine = adapter(kind, url, None).expect("a good address");
    tokio::time::timeout(Duration::from_secs(10), engine.observe()).await.expect("every question is bounded")
}

/// Names and states as `name state context`.
fn shown(seen: &Observation) -> Vec<String> {
    let context = |context: Option<u32>| context.map_or("-".to_owned(), |n| n.to_string());
    let line = |held: &node_agent::engine::Held| {
        format!("{} {} {}", held.upstream, held.replica.state.word(), context(held.replica.context))
    };
    seen.held.iter().map(line).collect()
}

#[tokio::test]
async fn each_kind_is_recognised_by_gets_alone() {
    for (kind, pages) in [
        (EngineKind::Sglang, SGLANG),
        (EngineKind::TabbyApi, TABBY),
        (EngineKind::KoboldCpp, KOBOLD),
        (EngineKind::LocalAi, LOCAL_AI),
        (EngineKind::LlamaRouter, ROUTER),
    ] {
        let server = WebServer::start("", pages).await;
        assert_eq!(identify(&server.url()).await, Finding::Engine(kind));
        assert!(server.calls().iter().all(|call| call.starts_with("GET ")), "{:?}", server.calls());
    }
    let health = ("/health", r#"{"status":"healthy","issues":[]}"#);
    let locked: Pages = Box::leak(Box::new([("/v1/models", "401 {\"detail\":\"no key\"}"), health]));
    assert!(locked[0].1.starts_with(LOCKED));
    let server = WebServer::start("", locked).await;
    assert!(matches!(identify(&server.url()).await, Finding::Unusable(EngineKind::TabbyApi, _)));
}

#[tokio::test]
async fn each_kind_tells_what_is_loaded_and_what_waits() {
    let server = WebServer::start("", SGLANG).await;
    let seen = look(EngineKind::Sglang, &server.url()).await;
    assert_eq!((shown(&seen), seen.queued), (vec!["qwen3-8b loaded 32768".to_owned()], Some(2)));
    assert_eq!((seen.held[0].replica.busy, seen.held[0].replica.slots), (Some(3), Some(48)));

    let server = WebServer::start("", TABBY).await;
    let seen = look(EngineKind::TabbyApi, &server.url()).await;
    assert_eq!(shown(&seen), ["a-exl3 loaded 16384", "b-exl3 available -"]);

    let server = WebServer::start("", KOBOLD).await;
    let seen = look(EngineKind::KoboldCpp, &server.url()).await;
    assert_eq!((shown(&seen), seen.queued), (vec!["koboldcpp/tiny loaded 8192".to_owned()], Some(4)));
    assert_eq!(seen.version.as_deref(), Some("1.100"));

    let server = WebServer::start("", LOCAL_AI).await;
    let seen = look(EngineKind::LocalAi, &server.url()).await;
    assert_eq!(shown(&seen), ["phi-4 loaded -", "whisper-1 available -"]);

    let server = WebServer::start("", &[("/v1/models", r#"{"data":[{"id":"any"}]}"#)]).await;
    assert_eq!(shown(&look(EngineKind::OpenAi, &server.url()).await), ["any loaded -"]);
}

#[tokio::test]
async fn in_router_mode_nothing_is_asked_that_would_load_or_wake_a_model() {
    let server = WebServer::start("", ROUTER).await;
    let seen = look(EngineKind::LlamaRouter, &server.url()).await;
    assert_eq!(seen.state, EngineState::Up);
    assert_eq!(seen.held.iter().filter(|held| held.replica.state == ReplicaState::Loaded).count(), 1);
    for call in server.calls() {
        let about_a_model = call.contains("model=");
        assert!(call.starts_with("GET ") && !call.contains("/slots"), "{call}");
        assert!(!about_a_model || call.contains("autoload=false"), "{call}");
    }
    let about: Vec<String> = server.calls().into_iter().filter(|call| call.contains("model=")).collect();
    assert_eq!(about.len(), 2, "props and metrics of the one that is loaded: {about:?}");
}

#[tokio::test]
async fn answers_that_no_engine_gives_are_a_reason_and_never_a_model() {
    for page in
        ["<html>hello</html>", "", "null", "[]", "{}", r#"{"data":{}}"#, HANGS, HANGS_AFTER_HEADERS, ENDLESS]
    {
        let pages: Pages = Box::leak(
            [
                "/v1/models",
                "/v1/model",
                "/props",
                "/models",
                "/api/tags",
                "/api/version",
                "/api/extra/version",
            ]
            .map(|path| (path, page))
            .to_vec()
            .into_boxed_slice(),
        );
        let server = WebServer::start("", pages).await;
        // All at once: each question to a server that hangs takes its 2 s.
        let url = server.url();
        let looks = EngineKind::ALL.map(|kind| {
            let url = url.clone();
            async move { (kind, look(kind, &url).await) }
        });
        for (kind, seen) in futures_util::future::join_all(looks).await {
            let EngineState::Down(why) = &seen.state else { panic!("{kind:?} believes {page:?}: {seen:?}") };
            assert!(seen.held.is_empty() && why.len() < 600, "{why}");
        }
    }
}

#[tokio::test]
async fn an_ollama_pull_tells_how_far_it_is_and_a_failed_one_says_why() {
    let lines = "{\"status\":\"pulling manifest\"}\n\
        {\"status\":\"pulling aa\",\"digest\":\"sha256:aa\",\"total\":100}\n\
        {\"status\":\"pulling aa\",\"digest\":\"sha256:aa\",\"total\":100,\"completed\":60}\n\n\
        {\"status\":\"pulling bb\",\"digest\":\"sha256:bb\",\"total\":10,\"completed\":10}\n\
        {\"status\":\"success\"}\n";
    let server = WebServer::start("", Box::leak(Box::new([("/api/pull", lines)]))).await;
    let engine = adapter(EngineKind::Ollama, &server.url(), None).expect("a good address");
    let steps: Vec<_> = engine.pull("qwen3:8b").expect("it can").collect().await;
    let last = steps.last().expect("some").as_ref().expect("no error");
    assert_eq!((last.done, last.total, last.status.as_str()), (70, Some(110), "success"));
    assert_eq!(server.calls(), ["POST /api/pull"]);

    let failed =
        "{\"status\":\"pulling manifest\"}\n{\"error\":\"pull model manifest: file does not exist\"}\n";
    let server = WebServer::start("", Box::leak(Box::new([("/api/pull", failed)]))).await;
    let engine = adapter(EngineKind::Ollama, &server.url(), None).expect("a good address");
    let steps: Vec<_> = engine.pull("nope").expect("it can").collect().await;
    let error = steps.last().expect("some").as_ref().expect_err("it failed").to_string();
    assert!(error.contains("file does not exist"), "{error}");
    for page in ["<html>", ENDLESS] {
        let server = WebServer::start("", Box::leak(Box::new([("/api/pull", page)]))).await;
        let engine = adapter(EngineKind::Ollama, &server.url(), None).expect("a good address");
        let steps: Vec<_> = engine.pull("x").expect("it can").collect().await;
        assert!(steps.last().expect("some").is_err(), "{page}");
    }
}

#[tokio::test]
async fn a_pull_that_ends_before_the_model_is_there_failed() {
    let cut = "{\"status\":\"pulling aa\",\"digest\":\"sha256:aa\",\"total\":100,\"completed\":60}\n";
    let server = WebServer::start("", Box::leak(Box::new([("/api/pull", cut)]))).await;
    let engine = adapter(EngineKind::Ollama, &server.url(), None).expect("a good address");
    let steps: Vec<_> = engine.pull("qwen3:8b").expect("it can").collect().await;
    assert_eq!(steps[0].as_ref().map(|step| step.done), Ok(60));
    let error = steps.last().expect("some").as_ref().expect_err("it is not there").to_string();
    assert!(error.contains("ended before the model was there"), "{error}");
}

#[tokio::test]
async fn a_load_that_failed_although_the_answer_is_200_is_a_failure() {
    let events = "data: {\"module\":1,\"modules\":2,\"status\":\"processing\"}\n\n\
        data: {\"error\":{\"message\":\"Insufficient VRAM on device 0\"}}\n\n";
    let server = WebServer::start("", Box::leak(Box::new([("/v1/model/load", events)]))).await;
    let engine = adapter(EngineKind::TabbyApi, &server.url(), None).expect("a good address");
    let error = engine.load(&LoadRequest::of("a-exl3")).expect("it can").await.expect_err("it failed");
    assert!(error.to_string().contains("Insufficient VRAM on device 0"), "{error}");

    let server = WebServer::start("", &[("/backend/load", ""), ("/backend/shutdown", "")]).await;
    let engine = adapter(EngineKind::LocalAi, &server.url(), None).expect("a good address");
    engine.load(&LoadRequest::of("phi-4")).expect("it can").await.expect("loads");
    engine.unload("phi-4").expect("it can").await.expect("unloads");
    assert_eq!(server.calls(), ["POST /backend/load", "POST /backend/shutdown"]);
}

#[tokio::test]
async fn what_an_engine_at_hand_lacks_is_not_among_its_abilities() {
    let old = WebServer::start(
        "",
        &[(
            "/api/v0/models",
            r#"{"data":[{"id":"a","state":"loaded","type":"llm","max_context_length":4096}]}"#,
        )],
    )
    .await;
    let mut engine = adapter(EngineKind::LmStudio, &old.url(), None).expect("a good address");
    assert!(engine.capabilities().can_load, "until it is seen");
    assert_eq!(engine.observe().await.held.len(), 1);
    assert!(!engine.capabilities().can_load && engine.load(&LoadRequest::of("a")).is_none());

    let quiet = WebServer::start("", &[("/v1/models", r#"{"data":[{"id":"a","owned_by":"vllm"}]}"#)]).await;
    let mut engine = adapter(EngineKind::Vllm, &quiet.url(), None).expect("a good address");
    assert_eq!(engine.observe().await.queued, None);
    assert!(!engine.capabilities().has_queue && !engine.capabilities().has_kv_usage);

    let full = WebServer::start(
        "",
        &[
            ("/v1/models", r#"{"data":[{"id":"a","owned_by":"vllm","max_model_len":32768}]}"#),
            (
                "/metrics",
                "vllm:num_requests_running{e=\"0\"} 2\nvllm:num_requests_waiting{e=\"0\"} 5\n\
                          vllm:kv_cache_usage_perc{e=\"0\"} 0.75\n",
            ),
        ],
    )
    .await;
    let mut engine = adapter(EngineKind::Vllm, &full.url(), None).expect("a good address");
    let seen = engine.observe().await;
    assert_eq!(
        (seen.queued, seen.held[0].replica.busy, seen.held[0].kv_used),
        (Some(5), Some(2), Some(0.75))
    );
    assert!(engine.capabilities().has_queue && engine.capabilities().has_kv_usage);
}

#[tokio::test]
async fn a_local_ai_that_asks_for_a_key_still_tells_who_it_is() {
    // As its documentation has it since 4.9: everything but this page takes a key.
    const KNOWN: (&str, &str) =
        ("/.well-known/localai.json", r#"{"version":"v4.9.0","endpoints":{"models":"/v1/models"}}"#);
    let locked = WebServer::start("", &[KNOWN, ("/v1/models", "401 {\"error\":\"no key\"}")]).await;
    assert!(matches!(identify(&locked.url()).await, Finding::Unusable(EngineKind::LocalAi, _)));
    let open = WebServer::start("", &[KNOWN, ("/v1/models", r#"{"data":[]}"#)]).await;
    assert_eq!(identify(&open.url()).await, Finding::Engine(EngineKind::LocalAi));
}

#[tokio::test]
async fn what_an_engine_can_do_is_in_its_report() {
    let ollama = OllamaSimulator::start().await;
    let config = EngineConfig::Endpoint {
        name: "ollama".into(),
        kind: EngineKind::Ollama,
        url: ollama.url(),
        api_key: None,
    };
    let house = House::with(vec![config]);
    let engines = house.until("up", |engines| engines.iter().any(|e| e.state == EngineState::Up)).await;
    assert!(engines[0].capabilities.can_pull && engines[0].capabilities.can_delete);
    house.handle.direct(Directive::Load(model("qwen3:8b").into()));
    house.until_replica("qwen3:8b", "loaded", |r| r.state == ReplicaState::Loaded).await;
    house.stopped().await;
}

/// `docs/engines.md` holds the table that the code says; `UPDATE_DOCS=1` writes it.
#[test]
fn the_table_of_engines_is_true() {
    let mut table = String::from(
        "| kind | loads on demand | load | unload | pull | delete | slots | queue | context | KV use | timings | \
         abort | sizes |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for kind in EngineKind::ALL {
        let can = adapter(kind, "http://127.0.0.1:1", None).expect("a good address").capabilities();
        let flags = [
            kind.loads_on_demand(),
            can.can_load,
            can.can_unload,
            can.can_pull,
            can.can_delete,
            can.has_slots,
            can.has_queue,
            can.has_context,
            can.has_kv_usage,
            can.has_timings,
            can.abort_safe,
            can.can_size,
        ];
        let cells: Vec<&str> = flags.iter().map(|&flag| if flag { "yes" } else { "-" }).collect();
        table.push_str(&format!("| `{}` | {} |\n", kind.word(), cells.join(" | ")));
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/engines.md");
    let text = std::fs::read_to_string(&path).expect("the page");
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let (before, rest) = text.split_once(begin).expect("the table's beginning");
    let (kept, after) = rest.split_once(end).expect("the table's end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).expect("writable");
    } else {
        assert_eq!(kept, table, "run UPDATE_DOCS=1 cargo test -p node-agent --test engines_on_one_machine");
    }
}

/// llama.cpp looks for clients that left when it has answered nobody for a second, and `/metrics` is an answer.
#[tokio::test]
async fn an_engine_has_more_than_a_second_for_itself_after_each_answer_however_late() {
    let server = WebServer::start("", LLAMA).await;
    let config = EngineConfig::Endpoint {
        name: "llama".into(),
        kind: EngineKind::LlamaServer,
        url: server.url(),
        api_key: None,
    };
    let house = House::with(vec![config]);
    let asked = server.times("GET /metrics", 4).await;
    for pair in asked.windows(2) {
        let alone = (pair[1] - pair[0]).saturating_sub(SLOWLY);
        assert!(alone > Duration::from_secs(1), "{alone:?}");
    }
    house.stopped().await;
}
