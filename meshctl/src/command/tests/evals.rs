//! Evaluations of a scripted machine: what is asked, what is kept, how two are compared, and what a gate makes of the exit code.

use super::bench::{Bench, Manner, Model};
use super::*;
use mesh_core::exam::{Record, Suite, Variant};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn with(models: impl IntoIterator<Item = Model>) -> Scripted {
    let service = scripted("available", "available");
    service.desk.send_modify(|desk| desk.bench = Some(Bench::of(models)));
    service
}

fn sound(name: &'static str) -> Model {
    Model::new(name, 1, 1 << 20, Manner::Sound)
}

fn journal(service: &Scripted) -> Vec<String> {
    service.desk.borrow().bench.clone().expect("it was made").journal
}

async fn evaluated(data: &tempfile::TempDir, line: &str, service: &Scripted) -> Result<(), Failure> {
    let router = Router::start(data, "127.0.0.1:0", service.clone()).await;
    let ended = perform_line(line, &way(data, router.address)).await;
    router.stop().await;
    ended
}

/// All records, oldest first.
fn records(data: &Path) -> Vec<Record> {
    let Ok(files) = std::fs::read_dir(data.join("eval")) else { return vec![] };
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("one").path()).collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a file");
    paths.into_iter().map(|path| serde_json::from_slice(&read(path)).expect("a record")).collect()
}

/// A file of MMLU items. The scripted machine takes the letter A for the likeliest, always.
fn items(folder: &Path, name: &str, count: usize, right: impl Fn(usize) -> bool) -> String {
    let mut text = String::new();
    for at in 0..count {
        let answer = u8::from(!right(at));
        writeln!(
            text,
            r#"{{"id": "q{at}", "question": "{at}?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": {answer}}}"#
        )
        .expect("a string");
    }
    let file = folder.join(name);
    std::fs::write(&file, text).expect("a file");
    file.display().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_model_in_memory_is_asked_as_it_is_and_nothing_is_changed() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    let file = items(data.path(), "mmlu.jsonl", 30, |at| at % 3 > 0);
    let line = format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
    assert_eq!(evaluated(&data, &line, &service).await, Ok(()));
    assert_eq!(
        journal(&service),
        ["score one 100", "score one 20", "keep one mmlu 20 of 30"],
        "25 items of four choices, then the rest"
    );
    let record = records(data.path()).remove(0);
    assert_eq!((record.check(), record.is_complete(), record.node.as_str()), (Ok(()), true, "msi"));
    let report = record.sitting(Suite::Mmlu).expect("it was sat").run.report();
    assert_eq!((report.variant, report.scored, report.failed), (Variant::LogLikelihood, 30, 0));
    let acc = &report.scores[0];
    assert!((acc.value - 20.0 / 30.0).abs() < 1e-9 && acc.n == 30, "{acc:?}");
}

#[tokio::test(start_paused = true)]
async fn models_on_the_disk_are_loaded_one_after_another_and_the_machine_is_put_back() {
    let data = prepared();
    let service = with([sound("one").loaded(2048, 2), sound("three"), sound("five")]);
    let line = "meshctl eval run --models three,five --suite generation --limit 4 --yes";
    assert_eq!(evaluated(&data, line, &service).await, Ok(()));
    assert_eq!(
        journal(&service),
        [
            "unload one",
            "load three",
            "ask three",
            "unload three",
            "load five",
            "ask five",
            "unload five",
            "load one 2048x2"
        ]
    );
    let models: Vec<String> = records(data.path()).iter().map(|record| record.model.to_string()).collect();
    assert_eq!(models, ["three", "five"]);
    let bench = service.desk.borrow().bench.clone().expect("it was made");
    assert_eq!(bench.in_memory(), [("one", Some(2048), Some(2))]);
    assert!(!service.desk.borrow().wishes.machines.values().any(|limits| limits.cordoned));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_evaluation_goes_on_with_what_was_not_answered() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    let file = items(data.path(), "mmlu.jsonl", 60, |_| true);
    service.desk.send_modify(|desk| {
        if let Some(bench) = &mut desk.bench {
            bench.sound_trials = Some(2);
        }
    });
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let line = format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
    let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
    let Command::Eval(command) = cli.command else { panic!("an evaluation was typed") };
    let (way, screen) = (way(&data, router.address), Screen::plain(Format::Json));
    let hanging = service.desk.borrow().bench.clone().expect("it was made").hanging;
    let leaving = Notify::new();
    let run = eval::run(command, &way, &screen, async || leaving.notified().await);
    let (ended, ()) = tokio::join!(run, async {
        hanging.notified().await;
        leaving.notify_one();
    });
    assert_eq!(ended, Err(Failure::interrupted()));
    router.stop().await;
    let record = records(data.path()).remove(0);
    let missing = |record: &Record| record.sittings[0].run.missing().count();
    assert_eq!(
        (missing(&record), record.is_complete()),
        (10, false),
        "the first 50 are kept, those after the last writing too"
    );

    assert_eq!(evaluated(&data, "meshctl eval run --resume", &service).await, Ok(()));
    let all = records(data.path());
    assert_eq!((all.len(), missing(&all[0]), all[0].is_complete()), (1, 0, true));
    assert_eq!(journal(&service)[3..], ["score one 40", "keep one mmlu 60 of 60"], "10 items, no more");
    let again = evaluated(&data, "meshctl eval run --resume", &service).await.expect_err("none is open");
    assert_eq!(again.kind, Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_evaluation_that_is_killed_has_lost_no_more_than_the_last_seconds() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    let file = items(data.path(), "mmlu.jsonl", 80, |_| true);
    service.desk.send_modify(|desk| {
        if let Some(bench) = &mut desk.bench {
            bench.sound_trials = Some(2);
        }
    });
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let line = format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
    let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
    let Command::Eval(command) = cli.command else { panic!("an evaluation was typed") };
    let (way, screen) = (way(&data, router.address), Screen::plain(Format::Json));
    let hanging = service.desk.borrow().bench.clone().expect("it was made").hanging;
    let kept = || 80 - records(data.path())[0].sittings[0].run.missing().count();
    let watched = async {
        hanging.notified().await;
        assert_eq!(kept(), 0, "it was written when it began, and then every 5 s");
        while kept() < 50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let begun = tokio::time::Instant::now();
    // Nobody tells it to leave: it is gone when its third trial hangs.
    tokio::select! {
        ended = eval::run(command, &way, &screen, async || std::future::pending().await) => panic!("{ended:?}"),
        () = watched => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("50 items were answered, {} are kept", kept()),
    }
    assert!(begun.elapsed() >= Duration::from_secs(5) && kept() == 50, "{:?}", begun.elapsed());
    router.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_keeps_no_findings_hides_no_evaluation_and_is_told_again() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    let forgets = |forgets| {
        service.desk.send_modify(|desk| {
            if let Some(bench) = &mut desk.bench {
                bench.forgets = forgets;
            }
        });
    };
    forgets(true);
    let file = items(data.path(), "mmlu.jsonl", 4, |_| true);
    let line = format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
    assert_eq!(evaluated(&data, &line, &service).await, Ok(()), "an agent of an earlier version");
    let record = records(data.path()).remove(0);
    assert!(record.is_complete() && record.ended_unix_ms.is_some());
    forgets(false);
    let again = format!("meshctl eval run --resume {}", record.id);
    assert_eq!(evaluated(&data, &again, &service).await, Ok(()));
    assert_eq!(journal(&service), ["score one 16", "keep one mmlu 4 of 4"], "nothing is asked twice");
}

#[tokio::test(start_paused = true)]
async fn items_on_which_the_engine_failed_are_asked_again_when_it_goes_on() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    let file = items(data.path(), "mmlu.jsonl", 4, |_| true);
    let line = format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
    assert_eq!(evaluated(&data, &line, &service).await, Ok(()));
    let mut record = records(data.path()).remove(0);
    let item = record.sittings[0].run.items.values_mut().next().expect("one");
    item.outcome = mesh_core::exam::Outcome::Failed("no answer: it took too long".into());
    assert!(record.findings().is_empty() && record.why_nothing_found().is_some());
    let path = data.path().join("eval").join(format!("{}.json", record.id));
    std::fs::write(path, serde_json::to_string(&record).expect("JSON")).expect("a file");
    assert_eq!(evaluated(&data, &format!("meshctl eval run --resume {}", record.id), &service).await, Ok(()));
    assert_eq!(journal(&service)[2..], ["score one 4", "keep one mmlu 4 of 4"], "one item of four choices");
    assert!(records(data.path()).remove(0).why_nothing_found().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_baseline_without_a_common_suite_is_refused_before_anything_is_asked() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    assert_eq!(evaluated(&data, "meshctl eval run --suite generation --limit 2", &service).await, Ok(()));
    assert_eq!(evaluated(&data, "meshctl eval baseline", &service).await, Ok(()));
    let line = "meshctl eval run --suite mmlu --gate 0.02";
    assert_eq!(evaluated(&data, line, &service).await.expect_err("nothing common").kind, Kind::Usage);
    assert_eq!(journal(&service).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn items_that_were_changed_since_are_not_mixed_with_those_before() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    let file = items(data.path(), "mmlu.jsonl", 5, |_| true);
    let line = format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
    assert_eq!(evaluated(&data, &line, &service).await, Ok(()));
    let mut record = records(data.path()).remove(0);
    let id = record.sittings[0].run.items.keys().next().cloned().expect("one");
    record.sittings[0].run.items.get_mut(&id).expect("it").outcome = mesh_core::exam::Outcome::Missing;
    let path = data.path().join("eval").join(format!("{}.json", record.id));
    std::fs::write(path, serde_json::to_string(&record).expect("JSON")).expect("a file");
    items(data.path(), "mmlu.jsonl", 5, |at| at > 0);
    let failure = evaluated(&data, "meshctl eval run --resume", &service).await.expect_err("other items");
    assert!(failure.what.contains("not those that it began with"), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gate_says_worse_not_worse_and_that_it_cannot_tell_by_its_exit_code() {
    for (worse, gate, ends) in
        [(0, "0.02", Ok(())), (60, "0.02", Err(Kind::Degraded)), (3, "0.005", Err(Kind::Failed))]
    {
        let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
        let line = |file: &str| format!("meshctl eval run --suite mmlu --shots 0 --items {file}");
        // The machine answers A; two files with the same questions stand for a model before and after.
        let file = items(data.path(), "before.jsonl", 400, |_| true);
        assert_eq!(evaluated(&data, &line(&file), &service).await, Ok(()));
        assert_eq!(evaluated(&data, "meshctl eval baseline", &service).await, Ok(()));
        assert_eq!(evaluated(&data, &line(&file), &service).await, Ok(()));
        // What the second run got wrong, as if its model had answered otherwise.
        let mut after = records(data.path()).remove(1);
        for item in after.sittings[0].run.items.values_mut().take(worse) {
            let mesh_core::exam::Outcome::Scored(mesh_core::exam::ItemScore::Marks { right, .. }) =
                &mut item.outcome
            else {
                panic!("{item:?}")
            };
            right.values_mut().for_each(|right| *right = false);
        }
        let path = data.path().join("eval").join(format!("{}.json", after.id));
        std::fs::write(path, serde_json::to_string(&after).expect("JSON")).expect("a file");
        let compared =
            evaluated(&data, &format!("meshctl eval compare {} --gate {gate}", after.id), &service).await;
        assert_eq!(compared.map_err(|failure| failure.kind), ends, "{worse} of 400 wrong, {gate} allowed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_climb_goes_by_the_exams_that_its_models_sat() {
    let (data, service) = (prepared(), with([sound("one"), sound("three")]));
    let file = items(data.path(), "mmlu.jsonl", 60, |at| at % 2 == 0);
    let line = format!("meshctl eval run --models one,three --suite mmlu --shots 0 --items {file} --yes");
    assert_eq!(evaluated(&data, &line, &service).await, Ok(()));
    // As if the smaller one had done better.
    let small = records(data.path()).remove(0);
    assert_eq!(small.model.as_str(), "one");
    let path = data.path().join("eval").join(format!("{}.json", small.id));
    let text = std::fs::read_to_string(&path).expect("a file").replace("\"acc\": false", "\"acc\": true");
    std::fs::write(&path, text).expect("a file");

    let line = "meshctl ladder run --node msi --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(evaluated(&data, line, &service).await, Ok(()));
    let climb = std::fs::read_dir(data.path().join("ladder")).expect("it was made").next().expect("one");
    let text = std::fs::read_to_string(climb.expect("an entry").path()).expect("a file");
    let climb = super::bench_form::read(&text);
    let told: Vec<(u32, u32)> =
        climb.rungs.iter().flat_map(|rung| &rung.evaluations).map(|one| (one.passed, one.tried)).collect();
    assert_eq!(told, [(60, 60), (30, 60)]);
    let analysis = mesh_core::ladder::analyse(&climb);
    let quality = analysis.kinds.iter().find(|kind| kind.kind == mesh_core::ladder::Kind::Quality);
    let best = quality.and_then(|kind| kind.model.as_ref()).map(ToString::to_string);
    assert_eq!(best.as_deref(), Some("one"), "the best is not the largest: {:?}", analysis.kinds);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_begin_asks_and_keeps_nothing() {
    for (line, kind) in [
        ("meshctl eval run --models three --suite generation", Kind::Usage),
        ("meshctl eval run --models two --suite generation", Kind::NotFound),
        ("meshctl eval run --suite perplexity --variant chat", Kind::Usage),
        ("meshctl eval run --suite mmlu --shots 9", Kind::Usage),
        ("meshctl eval run --suite generation --shots 2", Kind::Usage),
        ("meshctl eval run --suite mmlu --items /nowhere", Kind::NotFound),
        ("meshctl eval run --suite mmlu --gate 0.02", Kind::NotFound),
        ("meshctl eval run --suite mmlu --gate 0.02 --against 2026", Kind::NotFound),
        ("meshctl eval run --resume 2026", Kind::NotFound),
        ("meshctl eval show", Kind::NotFound),
        ("meshctl eval baseline", Kind::NotFound),
        ("meshctl eval compare 1 2", Kind::NotFound),
    ] {
        let (data, service) = (prepared(), with([sound("one").loaded(4096, 1), sound("three")]));
        let failure = evaluated(&data, line, &service).await.expect_err(line);
        assert_eq!(failure.kind, kind, "{line}: {failure:?}");
        assert_eq!((journal(&service), records(data.path()).len()), (vec![], 0), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn evaluations_are_listed_and_shown_and_a_broken_one_hides_no_other() {
    let (data, service) = (prepared(), with([sound("one").loaded(4096, 1)]));
    assert_eq!(evaluated(&data, "meshctl eval run --limit 2", &service).await, Ok(()));
    std::fs::write(data.path().join("eval/0broken.json"), "{}").expect("a file");
    for (line, kind) in [
        ("meshctl eval list", None),
        ("meshctl eval show", None),
        ("meshctl eval show 20 --wrong --groups", None),
        ("meshctl eval baseline 20", None),
        ("meshctl eval baseline 20 --remove", None),
        ("meshctl eval show 0b", Some(Kind::Failed)),
        ("meshctl eval compare 20", Some(Kind::NotFound)),
        ("meshctl eval compare 20 20", Some(Kind::Usage)),
    ] {
        let ended = evaluated(&data, line, &service).await;
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
}
