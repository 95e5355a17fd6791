//! Validations on a scripted machine: what is told, what is kept, and that the machine is put back however they end.

use super::bench::{Bench, KILLED, Manner, Model};
use super::*;
use mesh_core::id::{ModeName, ModelId};
use mesh_core::ladder::Outcome;
use mesh_core::routing::Slo;
use mesh_core::strategy::Wish;
use mesh_core::validation::{Change, Grade, Promotion, Record, State, Topic, Validation, judge};

fn sound(name: &'static str, parameters: u64) -> Model {
    Model::new(name, parameters, 1 << 20, Manner::Sound)
}

/// A machine with these models, and the mode `code`, which `old` serves.
fn machine(models: impl IntoIterator<Item = Model>) -> Scripted {
    let service = scripted("available", "available");
    let target = Slo { ttft_s: Some(2.0), tpot_s: Some(0.1) };
    let models_of_code = vec![ModelId::new("old").expect("a name")];
    let wish =
        Wish { target, context: 4096, ..Wish::new(ModeName::new("code").expect("a name"), models_of_code) };
    service.desk.send_modify(|desk| {
        desk.bench = Some(Bench::of(models));
        desk.wishes.modes = vec![wish];
    });
    service
}

fn bench(service: &Scripted) -> Bench {
    service.desk.borrow().bench.clone().expect("it was made")
}

fn is_cordoned(service: &Scripted) -> bool {
    service.desk.borrow().wishes.machines.values().any(|limits| limits.cordoned)
}

fn records(data: &tempfile::TempDir) -> Vec<Record> {
    let files = std::fs::read_dir(data.path().join("validate"));
    let files = files.into_iter().flatten().map(|file| file.expect("one").path());
    files
        .map(|path| serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("a record"))
        .collect()
}

/// Types `line` at a router with `service`, and gives how it ended with the one record.
async fn validated(line: &str, service: &Scripted) -> (Result<(), Failure>, Record) {
    let data = prepared();
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let ended = perform_line(line, &way(&data, router.address)).await;
    router.stop().await;
    let mut records = records(&data);
    assert_eq!(records.len(), 1, "{line}: {ended:?}");
    (ended, records.remove(0))
}

fn state(validation: &Validation, topic: Topic) -> State {
    validation.checks.iter().find(|check| check.topic == topic).expect("it is checked").state
}

const LINE: &str = "meshctl validate newer --node msi --champion old --yes --repetitions 2 --contexts 512,4K";

#[tokio::test(start_paused = true)]
async fn a_larger_model_that_does_all_as_it_should_is_promoted_and_the_machine_is_put_back() {
    let service = machine([sound("newer", 30), sound("old", 14).loaded(4096, 2)]);
    let (ended, record) = validated(LINE, &service).await;
    let validation = judge(&record);
    assert_eq!((ended, validation.verdict), (Ok(()), Grade::Excellent), "{validation:?}");
    let models = ["newer", "old"].map(|name| ModelId::new(name).expect("a name")).to_vec();
    let promotion = Promotion { mode: ModeName::new("code").expect("a name"), models };
    assert_eq!(validation.change, Change::Promote(vec![promotion]));
    assert!(record.ended_unix_ms.is_some() && record.stopped.is_none());
    let champion = record.champion.expect("it was measured");
    assert_eq!((champion.rung.outcome, champion.needles.len()), (Outcome::Done, 3));

    let there = bench(&service);
    assert_eq!((there.in_memory(), is_cordoned(&service)), (vec![("old", Some(4096), Some(2))], false));
    let loads: Vec<&str> =
        there.journal.iter().filter(|line| line.starts_with("load")).map(String::as_str).collect();
    assert_eq!(
        loads,
        ["load newer 4352x1", "load old 4352x1", "load old 4096x2"],
        "each alone, then as it was"
    );
}

#[tokio::test(start_paused = true)]
async fn each_fault_of_a_model_is_seen_and_says_what_it_costs() {
    for (manner, topic, found, verdict) in [
        (Manner::Forgetful, Topic::Needle, State::Failed, Grade::Good),
        (Manner::Silent, Topic::Tools, State::Failed, Grade::Good),
        (Manner::Careless, Topic::Tools, State::Failed, Grade::Good),
        (Manner::Formless, Topic::Json, State::Failed, Grade::Good),
        (Manner::Thinks(520), Topic::Champion, State::Passed, Grade::Excellent),
        (Manner::Thinks(1500), Topic::Needle, State::Failed, Grade::Good),
        (Manner::Toolless, Topic::Tools, State::NotChecked, Grade::Good),
        (Manner::Plain, Topic::Tools, State::NotChecked, Grade::Good),
        (Manner::Empty, Topic::Coherence, State::Failed, Grade::Poor),
        (Manner::Dies, Topic::Load, State::Failed, Grade::Poor),
    ] {
        let service = machine([Model::new("newer", 30, 1 << 20, manner), sound("old", 14)]);
        let (ended, record) = validated(LINE, &service).await;
        let validation = judge(&record);
        assert_eq!(
            (state(&validation, topic), validation.verdict),
            (found, verdict),
            "{manner:?}: {validation:?}"
        );
        let kind = ended.err().map(|failure| failure.kind);
        assert_eq!(kind, (verdict == Grade::Poor).then_some(Kind::Degraded), "{manner:?}");
        assert!(!is_cordoned(&service), "{manner:?}");
        let champion = record.champion.expect("it was measured all the same");
        assert_eq!(champion.rung.outcome, Outcome::Done, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_engine_was_killed_once_is_measured_again_and_does_not_come_back_by_itself() {
    let service =
        machine([Model::new("newer", 30, 1 << 20, Manner::Killed), sound("old", 14).loaded(2048, 1)]);
    let line = "meshctl validate newer --node msi --yes --repetitions 2 --contexts 512";
    let (ended, record) = validated(line, &service).await;
    let validation = judge(&record);
    assert_eq!((ended, validation.verdict), (Ok(()), Grade::Excellent), "{validation:?}");
    assert_eq!((&record.candidate.rung.outcome, record.candidate.rung.cells.len()), (&Outcome::Done, 1));
    let there = bench(&service);
    assert_eq!((there.in_memory(), there.down), (vec![("old", Some(2048), Some(1))], None));
    let told = there.journal.iter().filter(|line| !line.starts_with("ask"));
    assert_eq!(
        told.map(String::as_str).collect::<Vec<&str>>(),
        [
            "unload old",
            "load newer 768x1",
            "speed newer 512:128x1",
            "unload newer",
            "load newer 768x1",
            "speed newer 512:128x1",
            "unload newer",
            "load old 2048x1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_about_to_be_started_again_is_so_afterwards() {
    let service = machine([sound("newer", 30), sound("old", 14).loaded(2048, 1).killed()]);
    service.desk.send_modify(|desk| {
        desk.bench.as_mut().expect("it was made").down = Some(KILLED);
    });
    let line = "meshctl validate newer --node msi --yes --repetitions 2 --contexts 512";
    assert_eq!(validated(line, &service).await.0, Ok(()));
    let journal = bench(&service).journal;
    assert_eq!(journal.first().map(String::as_str), Some("unload old"), "it must not come back meanwhile");
    assert_eq!(journal.last().map(String::as_str), Some("load old 2048x1"), "in its size");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_breaks_off_twice_is_poor_with_the_engine_s_words() {
    let service = machine([Model::new("newer", 30, 1 << 20, Manner::Dies)]);
    let line = "meshctl validate newer --node msi --yes --repetitions 2 --contexts 512";
    let (ended, record) = validated(line, &service).await;
    let failure = ended.expect_err("it is poor");
    let why = "load: broken off twice: the trial of newer broke: the engine died: killed";
    assert_eq!((failure.kind, failure.cause.as_deref()), (Kind::Degraded, Some(why)));
    let loads = bench(&service).journal.into_iter().filter(|line| line.starts_with("load")).count();
    assert_eq!((loads, record.candidate.rung.cells.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_model_without_room_is_tried_in_smaller_contexts_and_skipped_where_none_fits() {
    // Room for 4K, not for 16K; the model was trained for 8K.
    let service = machine([Model::new("newer", 30, 4352, Manner::Sound), sound("old", 14)]);
    let line = "meshctl validate newer --node msi --yes --repetitions 2";
    let (ended, record) = validated(line, &service).await;
    assert_eq!(ended, Ok(()));
    let prompts: Vec<Option<u32>> = record.candidate.contexts.iter().map(|reached| reached.prompt).collect();
    assert_eq!(prompts, [Some(512), Some(4096), Some(4224)]);
    let loads = bench(&service).journal.into_iter().filter(|line| line.starts_with("load"));
    assert_eq!(loads.collect::<Vec<String>>(), ["load newer 8192x1", "load newer 4352x1"]);

    let service = machine([Model::new("newer", 30, 100, Manner::Sound), sound("old", 14).loaded(2048, 1)]);
    let (ended, record) = validated(LINE, &service).await;
    assert_eq!(ended.map_err(|failure| failure.kind), Err(Kind::Degraded));
    let why = "does not fit: needs 768 tokens, 100 are free";
    assert_eq!(record.candidate.rung.outcome, Outcome::Skipped(why.into()));
    assert_eq!(judge(&record).why, format!("load: {why}"));
    assert_eq!(bench(&service).in_memory(), [("old", Some(2048), Some(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_champion_that_does_not_load_proves_nothing() {
    let service = machine([sound("newer", 30), Model::new("old", 14, 100, Manner::Sound)]);
    let (ended, record) = validated(LINE, &service).await;
    let validation = judge(&record);
    assert_eq!((ended, validation.verdict), (Ok(()), Grade::Good));
    assert_eq!(state(&validation, Topic::Champion), State::NotChecked);
}

#[tokio::test(start_paused = true)]
async fn one_repetition_tells_no_speed() {
    let service = machine([sound("newer", 30)]);
    let line = "meshctl validate newer --node msi --yes --repetitions 1 --contexts 512";
    let (ended, record) = validated(line, &service).await;
    let validation = judge(&record);
    assert_eq!(ended.map_err(|failure| failure.kind), Err(Kind::Degraded));
    assert_eq!(state(&validation, Topic::Speed(512)), State::NotChecked);
    assert_eq!(validation.why, "speed at 512: 1 of at least 2 requests tell no speed");
}

#[tokio::test(start_paused = true)]
async fn a_speed_that_was_slowed_down_or_disturbed_is_measured_once_more() {
    let service = machine([Model::new("newer", 30, 1 << 20, Manner::Troubled)]);
    let line = "meshctl validate newer --node msi --yes --repetitions 2 --contexts 512,4K";
    let (ended, record) = validated(line, &service).await;
    assert_eq!(ended, Ok(()));
    let cells = &record.candidate.rung.cells;
    let marks: Vec<(u32, usize)> =
        cells.iter().map(|cell| (cell.work.prompt_tokens, cell.marks.len())).collect();
    assert_eq!(marks, [(512, 1), (512, 0), (4096, 1), (4096, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_slowed_down_or_worked_long_cools_before_it_is_measured_again() {
    let service = machine([Model::new("newer", 30, 1 << 20, Manner::Troubled), sound("old", 14)]);
    service.desk.send_modify(|desk| {
        desk.bench.as_mut().expect("it was made").cools_in = Some(Duration::from_secs(1));
    });
    let (ended, record) = validated(LINE, &service).await;
    assert_eq!(ended, Ok(()));
    let journal = bench(&service).journal;
    let speeds: Vec<&String> = journal.iter().filter(|line| line.starts_with("speed")).collect();
    assert_eq!(
        speeds,
        [
            "speed newer 512:128x1",
            "speed newer 512:128x1",
            "speed newer 4096:128x1",
            "speed newer 4096:128x1",
            "speed old 512:128x1",
            "speed old 4096:128x1",
        ],
        "none while it was hot"
    );
    assert_eq!(record.candidate.rung.cells.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_talkative_agent_answers_each_question_once_and_nothing_else() {
    let service = machine([Model::new("newer", 30, 1 << 20, Manner::Talkative), sound("old", 14)]);
    let (ended, record) = validated(LINE, &service).await;
    let validation = judge(&record);
    assert_eq!((ended, validation.verdict), (Ok(()), Grade::Excellent), "{validation:?}");
    let evidence = &record.candidate;
    let depths: Vec<u32> = evidence.needles.iter().map(|needle| needle.depth).collect();
    assert_eq!(depths, [25, 50, 75]);
    assert_eq!((evidence.rung.answers.len(), evidence.forms.len(), evidence.calls.len()), (5, 3, 3));
}

#[tokio::test(start_paused = true)]
async fn ctrl_c_keeps_what_was_seen_and_puts_the_machine_back() {
    let data = prepared();
    let service =
        machine([sound("newer", 30), Model::new("old", 14, 1 << 20, Manner::Hangs).loaded(2048, 1)]);
    let hanging = bench(&service).hanging;
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let cli = <Cli as clap::Parser>::try_parse_from(LINE.split(' ')).expect("a valid line");
    let Command::Validate(command) = cli.command else { panic!("a validation was typed") };
    let (way, screen, leaving) = (way(&data, router.address), Screen::plain(Format::Table), Notify::new());
    let validate_it = validate::run(command, &way, &screen, async || leaving.notified().await);
    let (ended, ()) = tokio::join!(validate_it, async {
        hanging.notified().await;
        leaving.notify_one();
    });
    router.stop().await;
    assert_eq!(ended, Err(Failure::interrupted()));
    let record = records(&data).remove(0);
    assert_eq!(record.stopped.as_deref(), Some("ended by hand"));
    assert_eq!((&record.candidate.rung.outcome, record.candidate.needles.len()), (&Outcome::Done, 3));
    assert_eq!(record.champion.map(|champion| champion.rung.cells.len()), Some(0));
    // What was kept is looked at without a router.
    std::fs::write(data.path().join("validate/20200101-000000-000.json"), "{").expect("a file");
    for (line, kind) in [
        ("meshctl validate list", None),
        ("meshctl validate list --json", None),
        ("meshctl validate show", None),
        ("meshctl validate show --json", None),
        ("meshctl validate show 2020", Some(Kind::Failed)),
        ("meshctl validate show 1999", Some(Kind::NotFound)),
    ] {
        let ended = typed_at_home(&data, line).await;
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
    let there = bench(&service);
    assert_eq!((there.in_memory(), is_cordoned(&service)), (vec![("old", Some(2048), Some(1))], false));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_it_with_its_words_and_the_machine_is_put_back() {
    let data = prepared();
    let service = machine([sound("newer", 30), sound("old", 14).loaded(2048, 1)]);
    let folder = data.path().join("validate");
    service.desk.send_modify(|desk| {
        desk.bench.as_mut().expect("it was made").full = Some(folder.clone());
    });
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let failure = perform_line(LINE, &way(&data, router.address)).await.expect_err("nothing can be kept");
    router.stop().await;
    assert_eq!(failure.kind, Kind::Failed);
    assert!(failure.what.starts_with(&format!("cannot write {}", folder.display())), "{failure:?}");
    let there = bench(&service);
    assert_eq!((there.in_memory(), is_cordoned(&service)), (vec![("old", Some(2048), Some(1))], false));
    assert!(!there.journal.contains(&"load old 4352x1".to_owned()), "it went no further");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_begin_changes_nothing() {
    for (line, kind) in [
        ("meshctl validate newer --node msi", Kind::Usage),
        ("meshctl validate newer --node msi --champion newer --yes", Kind::Usage),
        ("meshctl validate newest --node msi --yes", Kind::NotFound),
        ("meshctl validate newer --node msi --champion oldest --yes", Kind::NotFound),
    ] {
        let (data, service) = (prepared(), machine([sound("newer", 30), sound("old", 14)]));
        let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
        let failure = perform_line(line, &way(&data, router.address)).await.expect_err(line);
        router.stop().await;
        assert_eq!(failure.kind, kind, "{line}: {failure:?}");
        assert_eq!((bench(&service).journal, is_cordoned(&service)), (vec![], false), "{line}");
        assert!(records(&data).is_empty(), "{line}");
    }
}
