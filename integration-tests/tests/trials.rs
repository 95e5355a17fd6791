//! Trials of a real engine by way of a router: what an operator gets is what the agent measured beside the engine.

use integration_tests::engine_fixture::{random_model, real_engine, trained_model};
use integration_tests::scripted_engine::{Script, ScriptedEngine};
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::{EngineSpec, TestNode};
use mesh_core::id::ModelId;
use mesh_core::ladder::BUSY;
use mesh_core::trial::{
    AskWork, Event, Looks, Prefix, Question, Run, Sample, ScoreWork, Scored, Scoring, SpeedWork, Subject,
    Trial, Work,
};
use mesh_proto::v1::operator_client::OperatorClient;
use mesh_proto::v1::{TrialEvent, TrialRequest};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

struct Bench {
    mesh: TestMesh,
    node: TestNode,
    operator: OperatorClient<Channel>,
}

fn trial(work: Work) -> Trial {
    Trial { model: ModelId::new("tiny").expect("a good name"), work, patience_s: 60 }
}

fn speed(prompt_tokens: u32, output_tokens: u32) -> SpeedWork {
    let (streams, repetitions, seed) = (1, 3, 7);
    SpeedWork { prompt_tokens, output_tokens, streams, repetitions, seed, prefix: Prefix::Cold, soak_s: None }
}

fn ask(questions: Vec<Question>) -> Work {
    Work::Ask(AskWork { streams: 2, questions })
}

fn question(id: &str, path: &str, body: serde_json::Value) -> Question {
    Question { id: id.into(), path: path.into(), body: body.to_string() }
}

/// What a whole trial told.
#[derive(Debug, Default)]
struct Story {
    subject: Subject,
    warm_ups: Vec<Run>,
    runs: Vec<Run>,
    scored: Vec<Scored>,
    samples: Vec<Sample>,
    others: Option<u32>,
    failed: Option<String>,
}

impl Bench {
    async fn start() -> Option<Self> {
        Self::with(trained_model()).await
    }

    async fn with(file: PathBuf) -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let mesh = TestMesh::automatic().await;
        let engines = [EngineSpec::real(file, "tiny", 512, 2)];
        let node = mesh.node("a", &engines).await;
        let operator = mesh.operator().await;
        Some(Self { mesh, node, operator })
    }

    async fn begin(&self, node: &str, trial: &Trial) -> Result<Streaming<TrialEvent>, Status> {
        let trial_json = serde_json::to_string(trial).expect("JSON");
        let request = TrialRequest { node: node.into(), trial_json };
        self.operator.clone().trial(request).await.map(tonic::Response::into_inner)
    }

    async fn whole(&self, work: Work) -> Story {
        let mut lines = self.begin("a", &trial(work)).await.expect("it begins");
        let mut story = Story::default();
        while let Some(line) = integration_tests::soon("a line", lines.message()).await.expect("no error") {
            match serde_json::from_str(&line.event_json).expect("an event") {
                Event::Began(subject) => story.subject = subject,
                Event::Run(run) if run.warm_up => story.warm_ups.push(run),
                Event::Run(run) => story.runs.push(run),
                Event::Scored(scored) => story.scored.push(scored),
                Event::Sample(sample) => story.samples.push(sample),
                Event::Ended(ended) => story.others = Some(ended.others),
                Event::Failed(why) => story.failed = Some(why),
            }
        }
        story
    }
}

#[tokio::test]
async fn a_speed_has_the_tokens_that_were_asked_for_and_is_kept_in_the_profile() {
    let Some(bench) = Bench::start().await else { return };
    // Long enough for the kernel's ticks to tell something.
    let story = bench.whole(Work::Speed(speed(100, 240))).await;
    assert_eq!((story.failed.as_deref(), story.others), (None, Some(0)));
    assert!(story.subject.exact_prompts && story.subject.exact_answers, "{:?}", story.subject);
    assert!(story.subject.build.starts_with("llama-server"), "{:?}", story.subject);
    assert_eq!((story.subject.context, story.warm_ups.len(), story.runs.len()), (Some(512), 1, 3));
    assert!(story.samples.len() >= 2, "at its beginning and at its end: {:?}", story.samples);
    assert_eq!(story.samples[0].others, None, "since when?");
    let others = Looks::of(&story.samples).others(0.0, f64::INFINITY);
    // Ticks of a trial that takes less than this tell nothing.
    let is_long = story.samples.last().is_some_and(|look| look.at_s > 0.3);
    assert!(others.map_or(!is_long, |share| (0.0..=1.0).contains(&share)), "{:?}", story.samples);
    for (number, run) in story.runs.iter().enumerate() {
        assert_eq!((run.error.as_deref(), run.repetition as usize), (None, number));
        assert_eq!((run.prompt_tokens, run.output_tokens), (Some(100), Some(240)), "{run:?}");
        assert_eq!(run.cached_tokens, Some(0), "each prompt is new and the cache is off");
        let (ttft, total) = (run.ttft_s.expect("it said something"), run.total_s);
        assert!(ttft > 0.0 && ttft < total, "{run:?}");
        assert!(run.engine_decode.is_some() && run.decode() == run.engine_decode, "{run:?}");
        assert!(run.finish_reason.as_deref() == Some("length"), "{run:?}");
    }
    let short = bench.whole(Work::Speed(speed(32, 8))).await;
    assert_eq!((short.failed, short.others), (None, Some(0)));
    let speeds = |bench: &Bench| {
        let profile = bench.node.agent().reports.profile.borrow().clone();
        serde_json::to_string(&*profile).expect("JSON")
    };
    let decode = story.runs.iter().filter_map(Run::decode).collect::<Vec<_>>();
    if others.is_some_and(|share| share >= BUSY) {
        // Somebody compiles beside this test: nothing must be kept.
        let told = speeds(&bench);
        assert!(!decode.iter().any(|rate| told.contains(&rate.to_string())), "others used {others:?}");
        return bench.mesh.stop().await;
    }
    integration_tests::eventually("the speed is in the profile", async || {
        let told = speeds(&bench);
        decode.iter().any(|rate| told.contains(&rate.to_string())).then_some(())
    })
    .await;
    let of_short = short.runs.iter().filter_map(Run::decode).collect::<Vec<_>>();
    let told = speeds(&bench);
    assert!(!of_short.iter().any(|rate| told.contains(&rate.to_string())), "eight tokens tell no speed");
    bench.mesh.stop().await;
}

/// Programs of somebody else that keep a quarter of the processors busy, at least.
struct Strangers(Vec<String>);

impl Strangers {
    fn start() -> Self {
        let count = std::thread::available_parallelism().map_or(1, |all| all.get() / 4 + 1);
        let start = || {
            // The shell ends, and what it started belongs to nobody here; it would end by itself, too.
            let line = "timeout 120 sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $!";
            let shell = std::process::Command::new("sh").args(["-c", line]).output().expect("a shell");
            String::from_utf8(shell.stdout).expect("a number").trim().to_owned()
        };
        Self((0..count).map(|_| start()).collect())
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        drop(std::process::Command::new("kill").args(&self.0).status());
    }
}

#[tokio::test]
async fn a_speed_that_was_measured_beside_a_busy_program_is_told_and_not_kept() {
    let Some(bench) = Bench::start().await else { return };
    let strangers = Strangers::start();
    let story = bench.whole(Work::Speed(SpeedWork { repetitions: 9, ..speed(100, 400) })).await;
    drop(strangers);
    assert_eq!((story.failed.as_deref(), story.others), (None, Some(0)), "no request came beside it");
    let others = Looks::of(&story.samples).others(0.0, f64::INFINITY);
    assert!(others.is_some_and(|share| share >= BUSY), "{others:?} of {:?}", story.samples);
    // It would be kept before its end is told.
    let told = serde_json::to_string(&*bench.node.agent().reports.profile.borrow()).expect("JSON");
    let rates: Vec<f64> = story.runs.iter().filter_map(Run::decode).collect();
    assert!(!rates.is_empty() && !rates.iter().any(|rate| told.contains(&rate.to_string())), "{told}");
    bench.mesh.stop().await;
}

#[tokio::test]
async fn a_warm_prompt_is_found_in_the_cache_and_streams_run_at_once() {
    let Some(bench) = Bench::start().await else { return };
    let warm = bench.whole(Work::Speed(SpeedWork { prefix: Prefix::Warm, ..speed(100, 8) })).await;
    assert!(warm.runs.iter().all(|run| run.cached_tokens >= Some(90)), "{:?}", warm.runs);
    let both = bench.whole(Work::Speed(SpeedWork { streams: 2, repetitions: 2, ..speed(40, 64) })).await;
    assert_eq!((both.runs.len(), both.others), (4, Some(0)), "its own streams are no others");
    let mut spans: Vec<(f64, f64)> = both
        .runs
        .iter()
        .filter(|run| run.repetition == 1)
        .map(|run| (run.at_s, run.at_s + run.total_s))
        .collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(spans[1].0 < spans[0].1, "the second begins before the first has ended: {spans:?}");
    bench.mesh.stop().await;
}

#[tokio::test]
async fn questions_are_answered_as_for_a_client_and_faults_are_told_one_by_one() {
    let Some(bench) = Bench::start().await else { return };
    let chat = |stream: bool| json!({"messages": [{"role": "user", "content": "What is a list?"}], "max_tokens": 12, "stream": stream});
    let story = bench
        .whole(ask(vec![
            question("streamed", "/v1/chat/completions", chat(true)),
            question("whole", "/v1/chat/completions", chat(false)),
            question("count", "/tokenize", json!({"content": "one two three"})),
            question("wrong", "/v1/chat/completions", json!({"messages": 7})),
            Question { id: "broken".into(), path: "/completion".into(), body: "[1]".into() },
        ]))
        .await;
    assert_eq!((story.failed.as_deref(), story.runs.len()), (None, 5), "{story:?}");
    let run = |id: &str| story.runs.iter().find(|run| run.id == id).expect("answered");
    for id in ["streamed", "whole"] {
        assert!(run(id).error.is_none() && !run(id).text.is_empty(), "{:?}", run(id));
        assert!(run(id).output_tokens.is_some_and(|tokens| tokens <= 12), "{:?}", run(id));
    }
    assert!(run("count").raw.as_deref().is_some_and(|raw| raw.contains("\"tokens\"")), "{:?}", run("count"));
    assert!(
        run("wrong").error.as_deref().is_some_and(|why| why.starts_with("status ")),
        "{:?}",
        run("wrong")
    );
    assert_eq!(run("broken").error.as_deref(), Some("the question's body is no JSON object"));
    bench.mesh.stop().await;
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused_with_its_reason() {
    let Some(bench) = Bench::start().await else { return };
    let refused = async |node: &str, trial: &Trial, code: Code, said: &str| {
        let status = bench.begin(node, trial).await.expect_err("it is refused");
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(said), "{said:?} is not in {:?}", status.message());
    };
    let good = trial(Work::Speed(speed(100, 8)));
    refused("b", &good, Code::FailedPrecondition, "node `b` is not connected").await;
    refused("A B", &good, Code::InvalidArgument, "A B").await;
    let other = Trial { model: ModelId::new("other").expect("a good name"), ..good.clone() };
    refused("a", &other, Code::NotFound, "no engine of this machine has this model").await;
    let many = trial(Work::Speed(SpeedWork { streams: 65, ..speed(1, 1) }));
    refused("a", &many, Code::InvalidArgument, "streams is 65").await;
    let erase = trial(ask(vec![question("q", "/slots/0", json!({}))]));
    refused("a", &erase, Code::InvalidArgument, "`/slots/0` is not for trials").await;
    let story = bench.whole(Work::Speed(speed(500, 20))).await;
    let why = story.failed.expect("it does not fit");
    assert!(why.contains("500 tokens and an answer of 20 are more than the 512"), "{why}");
    bench.mesh.stop().await;
}

#[tokio::test]
async fn whoever_leaves_ends_it_and_others_beside_it_are_counted() {
    let Some(bench) = Bench::start().await else { return };
    let long = trial(Work::Speed(SpeedWork { soak_s: Some(600), ..speed(40, 200) }));
    let mut lines = bench.begin("a", &long).await.expect("it begins");
    let first = integration_tests::soon("a line", lines.message()).await.expect("no error").expect("a line");
    assert!(first.event_json.contains("began"), "{first:?}");
    let mut counted = bench.node.agent().serve.in_flight();
    assert_eq!(*counted.borrow_and_update(), 1, "it is a request of this machine");
    drop(lines);
    drop(
        integration_tests::soon("it has ended", counted.wait_for(|&count| count == 0))
            .await
            .expect("it lives"),
    );

    // A client's long answer, and a trial beside it.
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Tell me of lists."}],
        "max_tokens": 400, "stream": true, "ignore_eos": true});
    let mut answer = bench.mesh.client().events("/v1/chat/completions", &body).await;
    drop(answer.next_text().await);
    let beside = bench.whole(Work::Speed(SpeedWork { repetitions: 1, ..speed(10, 2) })).await;
    assert_eq!((beside.failed, beside.others), (None, Some(1)));
    drop(answer);
    bench.mesh.stop().await;
}

/// Of the kind that the tiny model was trained on, and not among it.
const PROSE: &str = "Return a new list with the values of this mapping. If the key is not found, the default value is \
    returned; otherwise the function raises an error. The first argument must be a string that names the file.";

fn score(texts: &[(&str, &str)]) -> Work {
    let scoring = |(number, (context, text)): (usize, &(&str, &str))| Scoring {
        id: number.to_string(),
        context: (*context).into(),
        text: (*text).into(),
    };
    Work::Score(ScoreWork { texts: texts.iter().enumerate().map(scoring).collect() })
}

fn perplexity(scored: &Scored) -> f64 {
    (-scored.log_likelihood / f64::from(scored.tokens)).exp()
}

/// Tokens before the one that is asked for, at most: the context has 512.
const MOST: usize = 511;

/// The same by another way: every probability of the vocabulary at each place of the text, asked of the engine itself.
async fn summed(bench: &Bench, text: &str) -> f64 {
    let engine = bench.node.engine("tiny").await;
    let answer = engine.post("/tokenize", &json!({"content": text, "add_special": false})).await;
    let tokens: Vec<u64> =
        answer.json()["tokens"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let begin = engine.post("/tokenize", &json!({"content": "<|endoftext|>", "parse_special": true})).await;
    let all: Vec<u64> =
        std::iter::once(begin.json()["tokens"][0].as_u64().expect("a token")).chain(tokens.clone()).collect();
    let mut sum = 0.0;
    for (at, token) in tokens.into_iter().enumerate() {
        // A text that is too long is asked in windows, and the last one is full.
        let end = ((at / MOST + 1) * MOST).min(all.len() - 1);
        let prompt = &all[end.saturating_sub(MOST)..=at];
        let body = json!({"prompt": prompt, "n_predict": 1, "n_probs": 1024, "temperature": 0,
            "logit_bias": [[38, 1000.0]]});
        let answer = engine.post("/completion", &body).await.json();
        let all =
            answer["completion_probabilities"][0]["top_logprobs"].as_array().cloned().unwrap_or_default();
        let found =
            all.iter().find(|one| one["id"].as_u64() == Some(token)).expect("it is in the vocabulary");
        sum += found["logprob"].as_f64().expect("a number");
    }
    sum
}

#[tokio::test]
async fn texts_are_scored_as_the_engine_s_own_probabilities_say() {
    let Some(bench) = Bench::start().await else { return };
    let story = bench.whole(score(&[("", PROSE), ("", "Na\u{ef}ve caf\u{e9}s \u{1f600}.")])).await;
    assert_eq!((story.failed.as_deref(), story.scored.len()), (None, 2), "{story:?}");
    for (scored, text) in story.scored.iter().zip([PROSE, "Na\u{ef}ve caf\u{e9}s \u{1f600}."]) {
        assert_eq!((scored.error.as_deref(), scored.left_out), (None, 0));
        let direct = summed(&bench, text).await;
        let share = scored.log_likelihood / direct;
        assert!((share - 1.0).abs() < 0.001, "{} beside {direct}", scored.log_likelihood);
    }
    let trained = perplexity(&story.scored[0]);
    assert!((5.0..60.0).contains(&trained), "it knows such prose: {trained}");
    bench.mesh.stop().await;

    let Some(bench) = Bench::with(random_model()).await else { return };
    let story = bench.whole(score(&[("", PROSE)])).await;
    let random = perplexity(&story.scored[0]);
    assert!((500.0..5000.0).contains(&random), "it knows nothing: {random}");
    assert!(!story.scored[0].is_greedy);
    bench.mesh.stop().await;
}

#[tokio::test]
async fn continuations_are_scored_after_their_context_and_long_texts_in_windows() {
    let Some(bench) = Bench::start().await else { return };
    let engine = bench.node.engine("tiny").await;
    let body = json!({"prompt": "Return a new list", "n_predict": 6, "temperature": 0});
    let greedy = engine.post("/completion", &body).await.json()["content"].as_str().expect("text").to_owned();
    let long = PROSE.repeat(20);
    let two = PROSE.repeat(12);
    let story = bench
        .whole(score(&[
            ("Return a new list", &greedy),
            ("Return a new list", " zebra zebra"),
            ("Return a new list ", "of"),
            ("Return a new list", " of"),
            ("", &long),
            (&long, " The end."),
            ("x", ""),
            ("", &two),
        ]))
        .await;
    let [likely, unlikely, spaced, plain, windows, cut, nothing, two_windows] = &story.scored[..] else {
        panic!("{story:?}")
    };
    assert!(likely.is_greedy, "{greedy:?}: {likely:?}");
    assert!(!unlikely.is_greedy && unlikely.log_likelihood < likely.log_likelihood);
    assert_eq!(spaced.log_likelihood, plain.log_likelihood, "the space is the text's");
    assert!(windows.tokens > 1000 && (1.0..60.0).contains(&perplexity(windows)), "{windows:?}");
    assert!((512..1000).contains(&two_windows.tokens), "{two_windows:?}");
    let share = two_windows.log_likelihood / summed(&bench, &two).await;
    assert!((share - 1.0).abs() < 0.001, "the last window is full: {share}");
    assert!(cut.left_out > 500 && cut.error.is_none(), "{cut:?}");
    assert_eq!(nothing.error.as_deref(), Some("the engine makes no token of the text"));
    bench.mesh.stop().await;
}

#[tokio::test]
async fn a_model_of_an_engine_that_somebody_else_started_is_tried_too() {
    let mesh = TestMesh::automatic().await;
    let engine = ScriptedEngine::start("tiny").await;
    engine.always(Script::slow_stream(&["It is", " blue."], Duration::from_millis(600)));
    let node = mesh.node("a", &[EngineSpec::scripted(&engine)]).await;
    let operator = mesh.operator().await;
    let bench = Bench { mesh, node, operator };
    let body = json!({"messages": [{"role": "user", "content": "Why?"}], "stream": true});
    let story = bench.whole(ask(vec![question("why", "/v1/chat/completions", body)])).await;
    assert_eq!((story.failed, story.runs.len()), (None, 1));
    assert_eq!((story.runs[0].text.as_str(), story.runs[0].error.as_deref()), ("It is blue.", None));
    let others: Vec<Option<f32>> = story.samples.iter().map(|sample| sample.others).collect();
    assert!(!others.is_empty() && others.iter().all(Option::is_none), "whose work is whose? {others:?}");
    bench.mesh.stop().await;
}
