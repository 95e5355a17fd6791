//! Tests of the checks with a scripted prober, under paused time; of the HTTP prober against scripted sockets.

use super::question::{ProbeFault, Question, Reply, read, request};
use super::*;
use crate::engine::{Held, Observation};
use crate::reservation::Shrunk;
use crate::supervisor::load_facts::LoadFacts;
use crate::supervisor::row::Row;
use futures_util::future::BoxFuture;
use mesh_core::fit::Offload;
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Capacity, Engine, EngineKind, EngineState, Gpu, GpuVendor, Pool, Reading, ReplicaMemory, ReplicaState,
    Vitals,
};
use mesh_core::memory::{Confidence, Footprint, Parts};
use mesh_core::profile::{LoadKey, LoadOptions};
use mesh_core::units::Bytes;
use std::sync::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::DropGuard;

const GOOD: &str = "Hello there, it is nice to meet you today.";
const SOUP: &str = "\u{fffd}q\u{fffd} zx\u{fffd}\u{fffd}\u{fffd} kk\u{fffd}\u{fffd}";

/// What the scripted model is like. It counts what it is asked.
#[derive(Debug, Clone)]
struct Script {
    prompt: Result<&'static str, ProbeFault>,
    decode: Option<f64>,
    model: Option<&'static str>,
    /// It never answers.
    hangs: bool,
    prompts: u32,
    speeds: u32,
}

impl Default for Script {
    fn default() -> Self {
        Self { prompt: Ok(GOOD), decode: Some(40.0), model: None, hangs: false, prompts: 0, speeds: 0 }
    }
}

#[derive(Default)]
struct Scripted(Mutex<Script>);

impl Prober for Scripted {
    fn ask(&self, _: &Target, question: Question) -> BoxFuture<'static, Result<Reply, ProbeFault>> {
        let mut script = self.0.lock().expect("no panic");
        let reply = match question {
            Question::Prompt(_) => {
                script.prompts += 1;
                let model = script.model.map(str::to_owned);
                script.prompt.clone().map(|text| Reply { text: text.into(), model, ..Reply::default() })
            }
            Question::Speed { .. } => {
                script.speeds += 1;
                Ok(Reply { text: GOOD.into(), decode: script.decode, ..Reply::default() })
            }
        };
        if script.hangs {
            return Box::pin(std::future::pending());
        }
        Box::pin(async move { reply })
    }
}

struct Bench {
    roster: Arc<Roster>,
    prober: Arc<Scripted>,
    profile: ProfileHandle,
    resumed: Arc<Notify>,
    vitals: watch::Sender<Arc<Vitals>>,
    _stop: DropGuard,
}

fn model() -> ModelId {
    ModelId::new("tiny").expect("a name")
}

fn gib(n: u64) -> Bytes {
    Bytes(n << 30)
}

fn machine(cards: usize) -> Arc<Vitals> {
    let card = Gpu {
        memory: Reading::Known(Capacity { total: gib(24), available: gib(20) }),
        pool: Pool::Discrete { reserved: None },
        ..Gpu::unknown("card", "Card", GpuVendor::Nvidia, "test")
    };
    Arc::new(Vitals { gpus: Reading::Known(vec![card; cards]), ..Vitals::unknown("test") })
}

impl Bench {
    /// Checks over one engine with one model, which is not loaded yet.
    fn start(config: TruthConfig, kind: EngineKind, cards: usize) -> Self {
        let roster = Arc::new(Roster::new());
        let mut engine = Engine::new("one", kind, kind == EngineKind::LlamaServer);
        engine.capabilities.can_load = kind == EngineKind::Ollama;
        assert!(roster.add(Row::new(engine, mpsc::channel(1).0)));
        let (vitals, seen) = watch::channel(machine(cards));
        let (profile, prober) = (ProfileHandle::in_memory(), Arc::new(Scripted::default()));
        let resumed = Arc::new(Notify::new());
        let asked: Arc<dyn Prober> = prober.clone();
        let ledger = Ledger::new(seen);
        let checks = Checks::new(config, roster.clone(), ledger, profile.clone(), asked, resumed.clone());
        let stop = CancellationToken::new();
        tokio::spawn(checks.run(stop.clone()));
        Self { roster, prober, profile, resumed, vitals, _stop: stop.drop_guard() }
    }

    fn show(&self, state: ReplicaState, change: impl FnOnce(&mut Held, &mut Option<String>)) {
        let mut held = Held::new("tiny", state).expect("a name");
        held.replica.abilities.chat = Some(true);
        held.replica.busy = Some(0);
        let mut version = Some("b1".to_owned());
        change(&mut held, &mut version);
        self.roster.change("one", |row| {
            row.show(Observation { version, state: EngineState::Up, queued: None, held: vec![held] });
        });
    }

    fn loaded(&self) {
        self.show(ReplicaState::Loaded, |_, _| ());
    }

    fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.prober.0.lock().expect("no panic"));
    }

    fn asked(&self) -> (u32, u32) {
        let script = self.prober.0.lock().expect("no panic");
        (script.prompts, script.speeds)
    }

    fn health(&self) -> ReplicaHealth {
        self.roster.watch().borrow()[0].replicas[0].health.clone()
    }

    /// Resolves when the health is as wanted; paused time runs as far as it must, a day at most.
    async fn until(&self, word: &str) -> ReplicaHealth {
        let mut watch = self.roster.watch();
        let seen = watch.wait_for(|engines| engines[0].replicas[0].health.word() == word);
        let day = Duration::from_secs(86_400);
        match tokio::time::timeout(day, seen).await {
            Ok(seen) => drop(seen.expect("the roster lives")),
            Err(_) => panic!("never {word}, but {:?}", self.health()),
        }
        self.health()
    }
}

/// Lets everything run that can without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Resolves when no request and no check holds the model. A check that does not make way would hold it for ever.
async fn freed(none_held: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), none_held).await.expect("nobody holds the model");
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_loaded_model_is_checked_once_and_then_each_hour_while_idle() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
    bench.show(ReplicaState::Available, |_, _| ());
    pass(7200).await;
    assert_eq!(bench.asked(), (0, 0), "nothing is loaded, and no check loads");
    bench.loaded();
    bench.until("good").await;
    assert_eq!(bench.asked(), (3, 1));
    pass(3500).await;
    bench.loaded();
    assert_eq!(bench.asked(), (3, 1), "once is enough");
    pass(200).await;
    assert_eq!(bench.asked(), (3, 2), "each hour its speed, without the prompts");
    let kept = bench.profile.read(|profile| profile.speeds.clone());
    assert_eq!((kept.len(), kept[0].n, kept[0].decode), (1, 2, Some(40.0)));
    assert_eq!((kept[0].build.as_str(), kept[0].device.as_str()), ("ollama b1", "ram"));
    // Asleep for the engine: no check wakes it.
    bench.show(ReplicaState::Available, |_, _| ());
    pass(7200).await;
    assert_eq!(bench.asked(), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn gibberish_is_quarantined_and_released_when_it_passes() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::LlamaServer, 0);
    bench.script(|script| script.prompt = Ok(SOUP));
    bench.loaded();
    let health = bench.until("quarantined").await;
    assert!(health.why().is_some_and(|why| why.contains("3 of 3 test answers are bad")), "{health:?}");
    assert_eq!(bench.asked(), (3, 0), "how fast gibberish comes is nobody's business");
    // Tried again with growing pauses: 30, 60, 120 … 600 s.
    pass(35).await;
    assert_eq!(bench.asked().0, 6);
    pass(30).await;
    assert_eq!(bench.asked().0, 6, "not each half minute");
    pass(35).await;
    assert_eq!(bench.asked().0, 9);
    bench.script(|script| script.prompt = Ok(GOOD));
    bench.until("good").await;
    // A new load is a new model: nothing is known of it.
    bench.script(|script| script.prompt = Ok(""));
    bench.show(ReplicaState::Available, |_, _| ());
    bench.loaded();
    assert_eq!(bench.health(), ReplicaHealth::Unchecked);
    bench.until("quarantined").await;
}

#[tokio::test(start_paused = true)]
async fn without_prompts_gibberish_passes_and_switched_off_nothing_is_asked() {
    let bench =
        Bench::start(TruthConfig { prompts: false, ..TruthConfig::default() }, EngineKind::LlamaServer, 0);
    bench.script(|script| script.prompt = Ok(SOUP));
    bench.loaded();
    bench.until("good").await;
    assert_eq!(bench.asked(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn engines_that_the_agent_cannot_load_are_left_in_peace() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Vllm, 0);
    bench.loaded();
    pass(7200).await;
    assert_eq!((bench.asked(), bench.health()), ((0, 0), ReplicaHealth::Unchecked));
}

#[tokio::test(start_paused = true)]
async fn an_embedding_model_is_asked_nothing() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::LlamaServer, 0);
    bench.show(ReplicaState::Loaded, |held, _| {
        held.replica.abilities.chat = Some(false);
        held.replica.abilities.embed = Some(true);
    });
    bench.until("good").await;
    assert_eq!(bench.asked(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_busy_model_is_checked_when_it_is_idle() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
    let lease = {
        bench.loaded();
        bench.roster.lease(&model()).expect("loaded")
    };
    pass(600).await;
    assert_eq!(bench.asked(), (0, 0), "a request goes first");
    drop(lease);
    bench.show(ReplicaState::Loaded, |held, _| held.replica.busy = Some(1));
    pass(600).await;
    assert_eq!(bench.asked(), (0, 0), "somebody else's request, too");
    bench.loaded();
    bench.until("good").await;
}

#[tokio::test(start_paused = true)]
async fn a_check_makes_way_at_once_for_a_request_and_for_an_unload() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
    bench.script(|script| script.hangs = true);
    bench.loaded();
    settle().await;
    assert_eq!(bench.asked().0, 1);
    let began = Instant::now();
    let lease = bench.roster.lease(&model()).expect("a check refuses nobody");
    settle().await;
    drop(lease);
    assert!(bench.roster.lease_idle("one", &model()).is_some(), "the check has let go for the request alone");
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The next one is disturbed by an unload.
    pass(6).await;
    assert_eq!(bench.asked().0, 2);
    let count = bench.roster.change("one", |row| row.drain(&model())).expect("the row");
    let began = Instant::now();
    freed(count.none_held()).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(bench.health(), ReplicaHealth::Unchecked);
}

#[tokio::test(start_paused = true)]
async fn half_the_speed_of_the_profile_is_a_fallback_when_it_stays_so() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 1);
    bench.loaded();
    bench.until("good").await;
    bench.script(|script| script.decode = Some(19.0));
    let health = bench.until("degraded").await;
    let why = health.why().expect("a reason");
    assert!(why.starts_with("cpu_fallback: 19.0 tokens/s are 48 % of the 40.0"), "{why}");
    assert!(why.contains("hint"), "{why}");
    assert_eq!(bench.asked().1, 4, "measured three times before it is believed");
    let speed = |profile: &mesh_core::profile::Profile| (profile.speeds[0].decode, profile.speeds[0].n);
    assert_eq!(bench.profile.read(speed), (Some(40.0), 1), "it does not become what is expected");
    bench.script(|script| script.decode = Some(39.0));
    bench.until("good").await;
}

#[tokio::test(start_paused = true)]
async fn a_hot_machine_is_excused_for_being_slow() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 1);
    bench.loaded();
    bench.until("good").await;
    let mut hot = (*machine(1)).clone();
    hot.thermal.state = mesh_core::machine::ThermalState::Hot;
    bench.vitals.send_replace(Arc::new(hot));
    bench.script(|script| script.decode = Some(4.0));
    pass(3700).await;
    assert_eq!(bench.health(), ReplicaHealth::Good);
    bench.vitals.send_replace(machine(1));
    bench.until("degraded").await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_keeps_a_model_in_ram_beside_a_card_is_degraded() {
    let memory = |device, host| Some(ReplicaMemory { device: gib(device), host: gib(host), measured: true });
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 1);
    bench.show(ReplicaState::Loaded, |held, _| held.replica.memory = memory(3, 5));
    let health = bench.until("degraded").await;
    let why = health.why().expect("a reason");
    assert!(why.contains("cpu_fallback") && why.contains("3 GiB") && why.contains("8 GiB"), "{why}");
    assert!(bench.profile.read(|profile| profile.speeds.is_empty()), "its speed is not what is expected");
    bench.show(ReplicaState::Loaded, |held, _| held.replica.memory = memory(8, 0));
    bench.until("good").await;
    // Without a card there is nothing to fall back from.
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
    bench.show(ReplicaState::Loaded, |held, _| held.replica.memory = memory(0, 8));
    bench.until("good").await;
}

fn facts(device: u64, offloaded: Option<(u32, u32)>) -> LoadFacts {
    let parts = |gib: u64| Parts { weights: Bytes(gib << 30), ..Parts::default() };
    let options =
        LoadOptions { context: 4096, slots: 1, cache: "f16".into(), ubatch: 512, offload: Offload::Full };
    LoadFacts {
        key: LoadKey { model: "m".into(), build: "b".into(), device: "Card card".into(), options },
        predicted: Footprint {
            device: parts(8),
            host: parts(1),
            confidence: Confidence::Exact,
            notes: vec![],
        },
        shrunk: Shrunk::default(),
        memory: ReplicaMemory { device: gib(device), host: gib(1), measured: true },
        offloaded,
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_bytes_did_not_land_on_the_card_is_degraded() {
    for (device, offloaded, word) in
        [(8, Some((33, 33)), "good"), (1, None, "degraded"), (8, Some((12, 33)), "degraded")]
    {
        let bench = Bench::start(TruthConfig::default(), EngineKind::LlamaServer, 1);
        bench.loaded();
        settle().await;
        assert_eq!(bench.asked(), (0, 0), "its keeper's figures are waited for");
        bench.roster.change("one", |row| row.learn(&model(), facts(device, offloaded)));
        let began = Instant::now();
        let health = bench.until(word).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(word == "good" || health.why().is_some_and(|why| why.contains("cpu_fallback")), "{health:?}");
        let kept = bench.profile.read(|profile| profile.speeds.len());
        assert_eq!(kept, usize::from(word == "good"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_and_an_upgrade_check_again_at_once() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
    bench.loaded();
    bench.until("good").await;
    assert_eq!(bench.asked().0, 3);
    bench.resumed.notify_one();
    pass(1).await;
    assert_eq!(bench.asked().0, 6);
    bench.show(ReplicaState::Loaded, |_, version| *version = Some("b2".into()));
    pass(1).await;
    assert_eq!(bench.asked().0, 9);
    bench.show(ReplicaState::Loaded, |_, version| *version = None);
    pass(1).await;
    assert_eq!(bench.asked().0, 9, "an engine that forgets its version was not upgraded");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_answers_nothing_is_quarantined_after_three_checks() {
    let faults = [ProbeFault::Silent, ProbeFault::Status(500), ProbeFault::Broke("reset".into())];
    for fault in faults {
        let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
        bench.script(|script| script.prompt = Err(fault.clone()));
        bench.loaded();
        settle().await;
        assert_eq!((bench.asked().0, bench.health()), (1, ReplicaHealth::Unchecked));
        let health = bench.until("quarantined").await;
        assert!(health.why().is_some_and(|why| why.contains(&fault.to_string())), "{health:?}");
        assert_eq!(bench.asked().0, 3);
    }
    let bench = Bench::start(TruthConfig::default(), EngineKind::Ollama, 0);
    bench.script(|script| script.prompt = Err(ProbeFault::NotAnAnswer("a web page".into())));
    bench.loaded();
    bench.until("quarantined").await;
    assert_eq!(bench.asked().0, 1, "clients would get the same, now");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_answers_as_another_model_is_quarantined() {
    let bench = Bench::start(TruthConfig::default(), EngineKind::LlamaServer, 0);
    bench.script(|script| script.model = Some("somebody-else"));
    bench.loaded();
    let health = bench.until("quarantined").await;
    assert!(health.why().is_some_and(|why| why.contains("answers as `somebody-else`")), "{health:?}");
}

#[test]
fn answers_in_all_dialects_are_read_and_others_are_told_apart() {
    let good = |bytes: &[u8]| read(bytes).expect("an answer");
    // Recorded from llama.cpp b11549, shortened.
    let chat = b"data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"model\":\"tiny\"}\n\n\
        data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"He\"}}],\"model\":\"tiny\"}\n\n\
        data: {\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}],\"model\":\"tiny\"}\n\n\
        data: {\"choices\":[],\"model\":\"tiny\",\"usage\":{\"completion_tokens\":64},\"timings\":{\"prompt_n\":99,\"prompt_per_second\":95.5,\"predicted_n\":64,\"predicted_per_second\":7.5}}\n\n\
        data: [DONE]\n\n";
    let reply = good(chat);
    assert_eq!((reply.text.as_str(), reply.finish_reason.as_deref()), ("He", Some("length")));
    assert_eq!((reply.tokens, reply.decode, reply.prefill), (Some(64), Some(7.5), Some(95.5)));
    assert_eq!(reply.model.as_deref(), Some("tiny"));
    let text = b"data: {\"choices\":[{\"text\":\"n\",\"finish_reason\":null}]}\n\ndata: {\"choices\":[{\"text\":\"o\",\"finish_reason\":\"stop\"}],\"timings\":{\"predicted_n\":3,\"predicted_per_second\":5714.0}}\n\n";
    assert_eq!((good(text).text.as_str(), good(text).decode), ("no", None), "three tokens tell no speed");
    let infill = br#"{"content":"a + b","stop":true,"tokens_predicted":8,"model":"tiny"}"#;
    assert_eq!((good(infill).text.as_str(), good(infill).tokens), ("a + b", Some(8)));
    let whole =
        br#"{"choices":[{"message":{"content":"","reasoning_content":"hm"},"finish_reason":"length"}]}"#;
    assert_eq!(good(whole).reasoning.as_deref(), Some("hm"));

    for (bytes, why) in [
        (&b"<html><body>502</body></html>"[..], "a web page"),
        (b"", "no event"),
        (b"\x00\xff\x01garbage", "no event"),
        (b"{\"choices\": [", "JSON that is none"),
        (b"{\"answer\": 42}", "JSON without a text"),
        (b"data: {\"error\":{\"message\":\"out of memory\"}}\n\n", "an error"),
    ] {
        match read(bytes) {
            Err(ProbeFault::NotAnAnswer(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn questions_are_greedy_streamed_and_short() {
    let abilities = mesh_core::machine::Abilities::default();
    let probes = mesh_core::verdict::three_prompts(&abilities).expect("prompts");
    for question in [Question::Prompt(probes[0]), Question::Speed { chat: true, context: Some(256) }] {
        let (path, body) = request(EngineKind::Ollama, "up", question);
        assert!(path.starts_with("/v1/"));
        assert_eq!(
            (&body["temperature"], &body["stream"], &body["model"]),
            (&0.into(), &true.into(), &"up".into())
        );
        assert!(body["max_tokens"].as_u64().is_some_and(|tokens| tokens <= 64));
        assert!(body["ignore_eos"].is_null(), "only llama.cpp knows it");
    }
    let fill = mesh_core::machine::Abilities { fim: Some(true), ..abilities };
    let probe = mesh_core::verdict::three_prompts(&fill).expect("prompts")[0];
    assert_eq!(request(EngineKind::LlamaServer, "up", Question::Prompt(probe)).0, "/infill");
    assert_eq!(request(EngineKind::Ollama, "up", Question::Prompt(probe)).0, "/v1/completions");
}

/// Answers each connection with `head_and_body`, then closes or, for ever, does nothing.
async fn scripted_socket(head_and_body: &'static [u8], hangs: bool) -> Target {
    told_socket(head_and_body, hangs).await.0
}

/// The same, and tells when it has answered.
async fn told_socket(head_and_body: &'static [u8], hangs: bool) -> (Target, Arc<Notify>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}", listener.local_addr().expect("bound")).into();
    let answered = Arc::new(Notify::new());
    let tells = answered.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tells = tells.clone();
            tokio::spawn(async move {
                let mut question = [0; 16_384];
                let _read = stream.read(&mut question).await;
                let _written = stream.write_all(head_and_body).await;
                tells.notify_one();
                if hangs {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let (kind, api_key) = (EngineKind::LlamaServer, Some("k".into()));
    (Target { kind, base_url, api_key, upstream: "tiny".into() }, answered)
}

#[tokio::test]
async fn sockets_that_answer_html_errors_floods_or_nothing_are_faults_with_names() {
    let prober = HttpProber::new().expect("a client");
    let ask = |target: Target| {
        let question = Question::Speed { chat: true, context: None };
        prober.ask(&target, question)
    };
    let html = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>";
    let fault = ask(scripted_socket(html, false).await).await.expect_err("no answer");
    assert!(fault.to_string().contains("a web page"), "{fault}");
    let error = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(ask(scripted_socket(error, false).await).await, Err(ProbeFault::Status(500)));
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"choices\": [";
    let fault = ask(scripted_socket(cut, false).await).await.expect_err("cut");
    assert!(matches!(fault, ProbeFault::Broke(_)), "{fault}");
    let refused = Target { base_url: "http://127.0.0.1:1".into(), ..scripted_socket(cut, false).await };
    assert!(matches!(ask(refused).await, Err(ProbeFault::Broke(_))));
}

#[tokio::test]
async fn an_engine_that_hangs_before_or_after_its_headers_is_given_up_after_a_minute() {
    let prober = HttpProber::new().expect("a client");
    for hangs_after in
        [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[]}\n\n"]
    {
        let (target, answered) = told_socket(hangs_after, true).await;
        let question = Question::Speed { chat: true, context: None };
        let asked = tokio::spawn(prober.ask(&target, question));
        // Real time until the question is with the engine and what it says is on its way, then a minute at once.
        answered.notified().await;
        settle().await;
        tokio::time::pause();
        tokio::time::advance(question::ANSWER_WITHIN).await;
        assert_eq!(asked.await.expect("no panic"), Err(ProbeFault::Silent));
        tokio::time::resume();
    }
}
