//! Climbs of a scripted machine: what it is told, what is kept, and that it is put back however a climb ends.

use super::bench::{Bench, Manner, Model};
use super::*;
use mesh_core::ladder::{Mark, Outcome, Record, StopRule, analyse, summarise};
use mesh_core::units::{Bytes, Celsius};
use std::path::Path;

const LINE: &str =
    "meshctl ladder run --node msi --matrix 512:128,4K:512 --streams 1,2 --repetitions 2 --yes";

/// A machine with these models on its disk.
fn climbed(models: impl IntoIterator<Item = Model>) -> Scripted {
    let service = scripted("available", "available");
    service.desk.send_modify(|desk| {
        desk.bench = Some(Bench::of(models));
    });
    service
}

fn bench(service: &Scripted) -> Bench {
    service.desk.borrow().bench.clone().expect("it was made")
}

fn is_cordoned(service: &Scripted) -> bool {
    service.desk.borrow().wishes.machines.values().any(|limits| limits.cordoned)
}

fn sound(name: &'static str, parameters: u64) -> Model {
    Model::new(name, parameters, 1 << 20, Manner::Sound)
}

fn records(data: &Path) -> Vec<Record> {
    let files =
        std::fs::read_dir(data.join("ladder")).map(|files| files.map(|file| file.expect("one").path()));
    let read = |path| std::fs::read_to_string(path).expect("a file");
    files.into_iter().flatten().map(|path| super::bench_form::read(&read(path))).collect()
}

/// Types `line` at a router with `service`, in a data folder that stays.
async fn climb(data: &tempfile::TempDir, line: &str, service: &Scripted) -> Result<(), Failure> {
    let router = Router::start(data, "127.0.0.1:0", service.clone()).await;
    let ended = perform_line(line, &way(data, router.address)).await;
    router.stop().await;
    ended
}

#[tokio::test(start_paused = true)]
async fn rungs_that_fail_or_find_no_room_are_told_and_the_machine_is_put_back() {
    let data = prepared();
    let service = climbed([
        sound("one", 1).loaded(4096, 3),
        Model::new("three", 3, 1 << 20, Manner::Dies),
        // Room for 4K with one request, not with two.
        Model::new("eight", 8, 6000, Manner::Sound),
        Model::new("thirteen", 13, 100, Manner::Sound),
        sound("seventy", 70),
    ]);
    assert_eq!(climb(&data, LINE, &service).await, Ok(()));

    let records = records(data.path());
    let [record] = records.as_slice() else { panic!("one record, not {}", records.len()) };
    let outcomes: Vec<(&str, &Outcome)> =
        record.rungs.iter().map(|rung| (rung.model.as_str(), &rung.outcome)).collect();
    let died = Outcome::Failed("the trial of three broke: the engine died: killed".into());
    let full = Outcome::Skipped("does not fit: needs 768 tokens, 100 are free".into());
    assert_eq!(
        outcomes,
        [("one", &Outcome::Done), ("three", &died), ("eight", &Outcome::Done), ("thirteen", &full)]
    );
    let stopped = record.stopped.as_ref().expect("it stopped");
    assert_eq!(
        (stopped.rule, stopped.why.as_str()),
        (
            StopRule::DoesNotFit,
            "thirteen has no room, and seventy is no smaller: does not fit: needs 768 tokens, 100 are free"
        )
    );
    let works = |name: &str| {
        let rung = record.rungs.iter().find(|rung| rung.model.as_str() == name).expect("climbed");
        let cells = rung.cells.iter().filter(|cell| cell.ended.is_some());
        cells.map(|cell| (cell.work.prompt_tokens, cell.work.streams)).collect::<Vec<_>>()
    };
    assert_eq!(works("one"), [(512, 1), (4096, 1), (512, 2), (4096, 2)]);
    assert_eq!(
        works("eight"),
        [(512, 1), (4096, 1), (512, 2)],
        "two at once have room for the short one only"
    );
    assert!(works("three").is_empty());

    let bench = bench(&service);
    let loads: Vec<&str> =
        bench.journal.iter().filter(|line| line.starts_with("load")).map(String::as_str).collect();
    assert_eq!(
        loads,
        [
            "load one 4608x2",
            "load three 4608x2",
            "load eight 4608x2",
            "load eight 4608x1",
            "load eight 4608x2",
            "load eight 768x2",
            "load thirteen 4608x2",
            "load thirteen 4608x1",
            "load thirteen 768x1",
            "load one 4096x3",
        ]
    );
    assert_eq!((bench.in_memory(), is_cordoned(&service)), (vec![("one", Some(4096), Some(3))], false));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_answers_nothing_is_avoided_and_ends_the_climb() {
    let data = prepared();
    let empty = Model::new("gpt-oss:20b", 20, 1 << 20, Manner::Empty);
    let service = climbed([sound("llama3:8b", 8), empty, sound("llama3.1:70b", 70)]);
    let line =
        "meshctl ladder run --node msi --from 1b --to 70b --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let record = records(data.path()).remove(0);
    assert_eq!(record.rungs.len(), 2);
    let stopped = record.stopped.clone().expect("it stopped");
    assert_eq!(stopped.rule, StopRule::Success);
    assert!(stopped.why.starts_with("1 of 5 answers of gpt-oss:20b were good"), "{}", stopped.why);
    let avoid = analyse(&record).avoid;
    assert_eq!((avoid.len(), avoid[0].model.as_str()), (1, "gpt-oss:20b"));
    assert!(avoid[0].reasons[0].starts_with("4 of 5 answers empty"), "{avoid:?}");
    assert!(bench(&service).in_memory().is_empty(), "nothing was there before");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_climb_keeps_what_is_done_puts_the_machine_back_and_is_gone_on_with() {
    let data = prepared();
    let hangs = Model::new("three", 3, 1 << 20, Manner::Hangs);
    let service = climbed([sound("one", 1).loaded(2048, 1), hangs]);
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let cli = <Cli as clap::Parser>::try_parse_from(LINE.split(' ')).expect("a valid line");
    let Command::Ladder(command) = cli.command else { panic!("a climb was typed") };
    let (leaving, hanging) = (Notify::new(), bench(&service).hanging);
    let (way, screen) = (way(&data, router.address), Screen::plain(Format::Json));
    let climb_it = ladder::run(command, &way, &screen, async || leaving.notified().await);
    let (ended, ()) = tokio::join!(climb_it, async {
        hanging.notified().await;
        let keep = crate::command::keep::Keep::<Record>::of(data.path());
        assert!(keep.runs(&records(data.path())[0]), "it is on its way");
        leaving.notify_one();
    });
    assert!(!crate::command::keep::Keep::of(data.path()).runs(&records(data.path())[0]), "it has ended");
    assert_eq!(ended, Err(Failure::interrupted()));
    let record = records(data.path()).remove(0);
    assert_eq!(record.stopped.as_ref().map(|stopped| stopped.rule), Some(StopRule::Operator));
    assert_eq!((record.rungs.len(), record.rungs[1].answers.len(), record.rungs[1].cells.len()), (2, 5, 0));
    let there = bench(&service);
    assert_eq!((there.in_memory(), is_cordoned(&service)), (vec![("one", Some(2048), Some(1))], false));

    // Its engine is well again.
    service.desk.send_modify(|desk| {
        let bench = desk.bench.as_mut().expect("it was made");
        bench.journal.clear();
        bench.models[1].manner = Manner::Sound;
    });
    let again = "meshctl ladder run --node msi --resume --yes";
    assert_eq!(perform_line(again, &way).await, Ok(()));
    let resumed = records(data.path());
    assert_eq!((resumed.len(), &resumed[0].id), (1, &record.id));
    assert_eq!(resumed[0].rungs[0], record.rungs[0], "what was done is not done again");
    assert_eq!((&resumed[0].rungs[1].outcome, resumed[0].rungs[1].cells.len()), (&Outcome::Done, 4));
    assert_eq!(resumed[0].stopped, None);
    assert_eq!(
        resumed[0].settings.models.iter().map(|model| model.as_str()).collect::<Vec<_>>(),
        ["one", "three"]
    );
    let journal = bench(&service).journal;
    assert!(!journal.iter().any(|line| line.starts_with("ask")), "the answers were there: {journal:?}");
    let failure = perform_line(again, &way).await.expect_err("it is complete");
    assert_eq!(failure.kind, Kind::NotFound);
    router.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_climb_with_its_words_and_the_machine_is_put_back() {
    let data = prepared();
    let service = climbed([sound("one", 1).loaded(2048, 1), sound("three", 3)]);
    let folder = data.path().join("ladder");
    service.desk.send_modify(|desk| {
        desk.bench.as_mut().expect("it was made").full = Some(folder.clone());
    });
    let failure = climb(&data, LINE, &service).await.expect_err("nothing can be kept");
    assert_eq!(failure.kind, Kind::Failed);
    assert!(failure.what.starts_with(&format!("cannot write {}", folder.display())), "{failure:?}");
    let there = bench(&service);
    assert_eq!((there.in_memory(), is_cordoned(&service)), (vec![("one", Some(2048), Some(1))], false));
    assert!(!there.journal.iter().any(|line| line == "load three 4608x2"), "it went no further");
}

#[tokio::test(start_paused = true)]
async fn a_measurement_that_was_slowed_down_or_disturbed_is_marked_and_repeated_once() {
    let data = prepared();
    let service = climbed([Model::new("one", 1, 1 << 20, Manner::Troubled)]);
    let line =
        "meshctl ladder run --node msi --matrix 512:128,1K:128 --streams 1 --repetitions 2 --soak 5 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let cells = records(data.path()).remove(0).rungs.remove(0).cells;
    let marks: Vec<(u32, Option<u32>, &[Mark])> =
        cells.iter().map(|cell| (cell.work.prompt_tokens, cell.work.soak_s, cell.marks.as_slice())).collect();
    assert_eq!(
        marks,
        [
            (512, None, &[Mark::Throttled][..]),
            (512, None, &[]),
            (1024, None, &[Mark::Disturbed]),
            (1024, None, &[]),
            (512, Some(5), &[]),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_measurement_beside_busy_programs_is_marked_and_repeated_once() {
    let data = prepared();
    let service = climbed([Model::new("one", 1, 1 << 20, Manner::Crowded)]);
    let line = "meshctl ladder run --node msi --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let rung = records(data.path()).remove(0).rungs.remove(0);
    let marks: Vec<&[Mark]> = rung.cells.iter().map(|cell| cell.marks.as_slice()).collect();
    assert_eq!(marks, [&[Mark::Busy][..], &[]]);
    let counted = &summarise(&rung).cells[0];
    assert_eq!((counted.counted, counted.left_out), (2, 2), "figures are of the second");
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    assert_eq!(perform_line("meshctl ladder show --rung one", &way(&data, router.address)).await, Ok(()));
    router.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_memory_that_a_load_took_is_read_after_it_also_where_sensors_are_slow() {
    let data = prepared();
    let service = climbed([sound("one", 1), sound("two", 2).loaded(2048, 1)]);
    service.desk.send_modify(|desk| {
        desk.bench.as_mut().expect("it was made").sensors = Some(Arc::default());
    });
    let line = "meshctl ladder run --node msi --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let taken = records(data.path()).remove(0).rungs.into_iter().map(|rung| summarise(&rung).ram_taken);
    assert_eq!(taken.collect::<Vec<_>>(), [Some(Bytes(10)), Some(Bytes(10))]);
}

#[tokio::test(start_paused = true)]
async fn limits_that_were_typed_and_what_names_tell_stand_in_the_record() {
    let data = prepared();
    let service = climbed([sound("one", 1), sound("two-coder", 2)]);
    let line = "meshctl ladder run --node msi --matrix 512:128 --streams 1 --repetitions 2 --idle-below 65 \
                --sustained-below 70.5 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let record = records(data.path()).remove(0);
    let limits = (record.settings.idle_below, record.settings.sustained_below);
    assert_eq!(limits, (Some(Celsius(65.0)), Some(Celsius(70.5))));
    let specialties: Vec<Option<&str>> = record.rungs.iter().map(|rung| rung.specialty.as_deref()).collect();
    assert_eq!(specialties, [None, Some("code")]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_opened_again_also_where_a_model_does_not_come_back() {
    let data = prepared();
    // It was loaded when there was room.
    let large = Model::new("large", 8, 100, Manner::Sound).loaded(4096, 1);
    let service = climbed([sound("one", 1), large, sound("two", 2).loaded(512, 1)]);
    service.desk.send_modify(|desk| desk.bench.as_mut().expect("it was made").room = Some(1 << 20));
    let line =
        "meshctl ladder run --node msi --models one --matrix 512:128 --streams 1 --repetitions 2 --yes";
    let failure = climb(&data, line, &service).await.expect_err("one model is missing");
    assert_eq!((failure.kind, is_cordoned(&service)), (Kind::DoesNotFit, false));
    assert_eq!(
        bench(&service).in_memory(),
        [("two", Some(512), Some(1))],
        "the others come back all the same"
    );
    assert_eq!(records(data.path()).remove(0).rungs[0].outcome, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_begin_changes_nothing() {
    for (line, kind) in [
        ("meshctl ladder run --node msi", Kind::Usage),
        ("meshctl ladder run --node msi --models two --yes", Kind::NotFound),
        ("meshctl ladder run --node msi --from 8b --to 1b --yes", Kind::Usage),
        ("meshctl ladder run --node msi --resume --yes", Kind::NotFound),
        ("meshctl ladder run --node msi --resume 2026 --yes", Kind::NotFound),
        ("meshctl ladder show", Kind::NotFound),
    ] {
        let (data, service) = (prepared(), climbed([sound("one", 1)]));
        let failure = climb(&data, line, &service).await.expect_err(line);
        assert_eq!(failure.kind, kind, "{line}");
        assert_eq!((bench(&service).journal, is_cordoned(&service)), (vec![], false), "{line}");
        assert!(records(data.path()).is_empty(), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_are_listed_and_shown_and_a_broken_one_hides_no_other() {
    let (data, service) = (prepared(), climbed([sound("one", 1)]));
    assert_eq!(climb(&data, LINE, &service).await, Ok(()));
    std::fs::write(data.path().join("ladder/0broken.json"), "{").expect("a file");
    for (line, kind) in [
        ("meshctl ladder list", None),
        ("meshctl ladder show", None),
        ("meshctl ladder show 20", None),
        ("meshctl ladder show --rung one --samples", None),
        ("meshctl ladder show --rung two", Some(Kind::NotFound)),
        ("meshctl ladder show 0b", Some(Kind::Failed)),
        ("meshctl ladder show 1999", Some(Kind::NotFound)),
    ] {
        let ended = climb(&data, line, &service).await;
        // The broken one is the oldest by its name.
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_fetched_is_told_as_such_and_the_others_are_climbed() {
    let (data, service) = (prepared(), climbed([sound("one", 1)]));
    let line = "meshctl ladder run --node msi --models one --pull gone=http://127.0.0.1/broken.gguf --pull one \
                --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let record = records(data.path()).remove(0);
    let outcomes: Vec<(&str, &Outcome)> =
        record.rungs.iter().map(|rung| (rung.model.as_str(), &rung.outcome)).collect();
    let absent = Outcome::Absent("connection refused".into());
    assert_eq!(outcomes, [("gone", &absent), ("one", &Outcome::Done)]);
    let analysis = analyse(&record);
    assert_eq!(analysis.avoid, [], "nobody knows what it is worth");
    assert_eq!(analysis.remarks[0], "could not be fetched: connection refused");
    let journal = bench(&service).journal;
    assert_eq!(journal[0], "pull gone");
    assert!(!journal.contains(&"pull one".to_owned()), "it is there: {journal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_climb_goes_on_with_the_models_that_were_chosen_and_with_those_that_are_named_then() {
    let (data, service) =
        (prepared(), climbed([sound("one", 1), sound("two", 2), sound("three", 3), sound("four", 4)]));
    let line =
        "meshctl ladder run --node msi --models two,one --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let cut_off = |gone: Option<&'static str>| {
        let mut record = records(data.path()).remove(0);
        // As if it had been killed before the second.
        record.rungs.truncate(1);
        record.ended_unix_ms = None;
        let path = data.path().join("ladder").join(format!("{}.json", record.id));
        std::fs::write(path, serde_json::to_string(&record).expect("JSON")).expect("a file");
        service.desk.send_modify(|desk| {
            let bench = desk.bench.as_mut().expect("it was made");
            bench.models.retain(|model| Some(model.name) != gone);
        });
    };
    let climbed = || {
        let rungs = records(data.path()).remove(0).rungs;
        rungs.into_iter().map(|rung| rung.model.to_string()).collect::<Vec<String>>()
    };
    cut_off(None);
    assert_eq!(climb(&data, "meshctl ladder run --node msi --resume --yes", &service).await, Ok(()));
    assert_eq!(climbed(), ["one", "two"], "and no other of the machine");

    cut_off(None);
    let line = "meshctl ladder run --node msi --resume --models four --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    assert_eq!(climbed(), ["one", "two", "four"]);

    cut_off(Some("two"));
    assert_eq!(climb(&data, "meshctl ladder run --node msi --resume --yes", &service).await, Ok(()));
    assert_eq!(climbed(), ["one", "four"], "what is not there any more holds up no other");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_failed_is_measured_again_where_it_is_named_again() {
    let dies = Model::new("three", 3, 1 << 20, Manner::Dies);
    let (data, service) = (prepared(), climbed([sound("one", 1), dies]));
    assert_eq!(climb(&data, LINE, &service).await, Ok(()));
    let record = records(data.path()).remove(0);
    assert!(matches!(record.rungs[1].outcome, Outcome::Failed(_)), "{record:?}");
    service.desk.send_modify(|desk| {
        let bench = desk.bench.as_mut().expect("it was made");
        bench.models[1].manner = Manner::Sound;
        bench.journal.clear();
    });
    let again = format!("meshctl ladder run --node msi --resume {} --models one,three --yes", record.id);
    assert_eq!(climb(&data, &again, &service).await, Ok(()));
    let resumed = records(data.path()).remove(0);
    assert_eq!((&resumed.rungs[0], &resumed.rungs[1].outcome), (&record.rungs[0], &Outcome::Done));
    assert!(!bench(&service).journal.iter().any(|line| line.ends_with(" one") && line.starts_with("ask")));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_left_of_what_was_chosen_nothing_else_is_climbed() {
    let (data, service) = (prepared(), climbed([sound("one", 1), sound("two", 2)]));
    let line = "meshctl ladder run --node msi --models new --pull new=http://127.0.0.1/broken.gguf --yes";
    let failure = climb(&data, line, &service).await.expect_err("it could not be fetched");
    assert_eq!(failure.kind, Kind::NotFound);
    assert_eq!(failure.cause.as_deref(), Some("new: connection refused"));
    assert_eq!((bench(&service).journal, is_cordoned(&service)), (vec!["pull new".to_owned()], false));
    assert!(records(data.path()).is_empty());

    let line =
        "meshctl ladder run --node msi --models two --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let mut record = records(data.path()).remove(0);
    (record.rungs, record.ended_unix_ms) = (vec![], None);
    let path = data.path().join("ladder").join(format!("{}.json", record.id));
    std::fs::write(&path, serde_json::to_string(&record).expect("JSON")).expect("a file");
    service.desk.send_modify(|desk| {
        let bench = desk.bench.as_mut().expect("it was made");
        bench.models.retain(|model| model.name != "two");
        bench.journal.clear();
    });
    let again = "meshctl ladder run --node msi --resume --yes";
    let failure = climb(&data, again, &service).await.expect_err("it is gone");
    assert_eq!(failure.cause.as_deref(), Some("two is not there any more"));
    assert_eq!((failure.kind, bench(&service).journal), (Kind::NotFound, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_could_not_be_fetched_and_came_by_hand_is_measured_as_what_it_is() {
    let (data, service) = (prepared(), climbed([sound("one", 1), sound("two", 2)]));
    let line = "meshctl ladder run --node msi --models one --pull two=http://127.0.0.1/broken.gguf --matrix 512:128 \
                --streams 1 --repetitions 2 --yes";
    let two = service.desk.borrow().bench.clone().expect("it was made").models[1].clone();
    service.desk.send_modify(|desk| drop(desk.bench.as_mut().expect("it was made").models.pop()));
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let record = records(data.path()).remove(0);
    assert!(
        matches!(record.rungs[1].outcome, Outcome::Absent(_))
            || matches!(record.rungs[0].outcome, Outcome::Absent(_))
    );
    service.desk.send_modify(|desk| desk.bench.as_mut().expect("it was made").models.push(two));
    let again = format!("meshctl ladder run --node msi --resume {} --models two --yes", record.id);
    assert_eq!(climb(&data, &again, &service).await, Ok(()));
    let journal = bench(&service).journal;
    assert_eq!(
        journal.iter().filter(|line| *line == "ask one").count(),
        1,
        "what was measured stays: {journal:?}"
    );
    let rungs = records(data.path()).remove(0).rungs;
    let two = rungs.iter().find(|rung| rung.model.as_str() == "two").expect("it was climbed");
    assert_eq!((&two.outcome, two.parameters, &*two.label), (&Outcome::Done, Some(2_000_000_000), "2b"));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_with_many_words_fails_its_rung_and_the_record_stays_readable() {
    let wordy = Model::new("one", 1, 1 << 20, Manner::Wordy);
    let (data, service) = (prepared(), climbed([wordy, sound("two", 2)]));
    assert_eq!(climb(&data, LINE, &service).await, Ok(()));
    let record = records(data.path()).remove(0);
    let Outcome::Failed(why) = &record.rungs[0].outcome else { panic!("{record:?}") };
    assert!(why.contains("the engine died: é") && why.len() <= 4096, "{} bytes", why.len());
    assert_eq!(record.rungs[1].outcome, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_thinks_long_is_asked_again_with_more_tokens() {
    let thinker = |tokens| Model::new("one", 1, 1 << 20, Manner::Thinks(tokens));
    let line = "meshctl ladder run --node msi --matrix 4K:512 --streams 1 --repetitions 2 --yes";
    for (tokens, more, good, asked) in
        [(200, "", 5, 1), (1000, "", 5, 2), (5000, "", 0, 2), (3000, " --answer-tokens 400", 5, 2)]
    {
        let (data, service) = (prepared(), climbed([thinker(tokens)]));
        assert_eq!(climb(&data, &format!("{line}{more}"), &service).await, Ok(()), "{tokens}");
        let record = records(data.path()).remove(0);
        let answers = good_answers(&record.rungs[0]);
        assert_eq!((answers, record.rungs[0].answers.len()), (good, 5), "{tokens}");
        let journal = bench(&service).journal;
        assert_eq!(journal.iter().filter(|line| *line == "ask one").count(), asked, "{tokens}: {journal:?}");
    }
}

/// How many answers are good.
fn good_answers(rung: &mesh_core::ladder::Rung) -> u64 {
    mesh_core::ladder::summarise(rung).answers.expect("it was asked").success.of
}

#[tokio::test(start_paused = true)]
async fn how_a_model_came_is_kept_with_its_rung() {
    let (data, service) = (prepared(), climbed([sound("one", 1)]));
    // It comes, and its engine never shows it.
    let line = "meshctl ladder run --node msi --models one --pull new=http://127.0.0.1/short.gguf \
                --matrix 512:128 --streams 1 --repetitions 2 --timeout 1s --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let rungs = records(data.path()).remove(0).rungs;
    let pulls: Vec<(&str, Option<Bytes>)> =
        rungs.iter().map(|rung| (rung.model.as_str(), rung.pull.map(|pull| pull.bytes))).collect();
    assert_eq!(pulls, [("new", Some(Bytes(1 << 20))), ("one", None)]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_came_at_the_second_try_is_climbed_and_what_was_measured_stays() {
    let (data, service) = (prepared(), climbed([sound("one", 1), sound("two", 2)]));
    let measured = "--matrix 512:128 --streams 1 --repetitions 2 --yes";
    let line = format!(
        "meshctl ladder run --node msi --models one --pull gone=http://127.0.0.1/broken.gguf {measured}"
    );
    assert_eq!(climb(&data, &line, &service).await, Ok(()));
    let mut record = records(data.path()).remove(0);
    // As if it had been `two` that could not be fetched, and the climb had been ended then.
    record.rungs[0].model = mesh_core::id::ModelId::new("two").expect("a good name");
    record.ended_unix_ms = None;
    let path = data.path().join("ladder").join(format!("{}.json", record.id));
    std::fs::write(path, serde_json::to_string(&record).expect("JSON")).expect("a file");
    let line = format!(
        "meshctl ladder run --node msi --models one --pull two --pull one=http://127.0.0.1/broken.gguf --resume {} --yes",
        record.id
    );
    assert_eq!(climb(&data, &line, &service).await, Ok(()));
    let outcomes: Vec<(String, Outcome)> = records(data.path())
        .remove(0)
        .rungs
        .into_iter()
        .map(|rung| (rung.model.to_string(), rung.outcome))
        .collect();
    assert_eq!(outcomes, [("one".into(), Outcome::Done), ("two".into(), Outcome::Done)]);
}

#[tokio::test(start_paused = true)]
async fn leaving_while_a_model_is_fetched_changes_nothing_on_the_machine() {
    let (data, service) = (prepared(), climbed([sound("one", 1)]));
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let line = "meshctl ladder run --node msi --pull slow=http://127.0.0.1/long.gguf --yes";
    let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
    let Command::Ladder(command) = cli.command else { panic!("a climb was typed") };
    let (way, screen) = (way(&data, router.address), Screen::plain(Format::Json));
    let leave = async || {
        let mut desk = service.desk.subscribe();
        let is_told = |desk: &Desk| desk.bench.as_ref().is_some_and(|bench| !bench.journal.is_empty());
        desk.wait_for(is_told).await.expect("the router is there");
    };
    assert_eq!(ladder::run(command, &way, &screen, leave).await, Err(Failure::interrupted()));
    assert_eq!((bench(&service).journal, is_cordoned(&service)), (vec!["pull slow".to_owned()], false));
    assert!(records(data.path()).is_empty());
    router.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_model_without_room_is_missing_is_counted_from_its_header() {
    let data = prepared();
    let short = Model::new("one", 1, 100, Manner::Sound);
    let service = Scripted { shape: super::fit::mesh([0, 0]).shape, ..climbed([short]) };
    service.desk.send_modify(|desk| {
        if let Some(bench) = &mut desk.bench {
            bench.ram = Some(Bytes(1 << 20));
        }
    });
    let line = "meshctl ladder run --node msi --matrix 64:16 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let rung = records(data.path()).remove(0).rungs.remove(0);
    assert!(matches!(rung.outcome, Outcome::Skipped(_)), "{:?}", rung.outcome);
    let shortage = rung.shortage.expect("the header tells what it takes");
    assert!(shortage.ram.0 > 512 << 20 && shortage.vram.0 == 0, "with what must stay free: {shortage:?}");
    let analysis = analyse(&records(data.path()).remove(0));
    assert!(analysis.needs[0].why.contains("of main memory missing"), "{:?}", analysis.needs);
}

#[tokio::test(start_paused = true)]
async fn what_a_measurement_that_was_cut_off_left_is_put_back_to_what_was_before_it() {
    let (data, service) = (prepared(), climbed([sound("one", 1).loaded(2048, 1), sound("two", 2)]));
    let line =
        "meshctl ladder run --node msi --models one --matrix 512:128 --streams 1 --repetitions 2 --yes";
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    let pledge = data.path().join("loans/msi.json");
    assert_eq!(std::fs::read_to_string(&pledge).expect("it was written"), "", "it was given back");

    // As a climb leaves it that is killed: cordoned, with another model, and with the file.
    let before = r#"{"standing":"open","loaded":[{"model":"one","context":2048,"slots":1,"cache":null,"can_size":true,"can_leave":true}]}"#;
    std::fs::write(&pledge, before).expect("a file");
    service.desk.send_modify(|desk| {
        desk.bench = Some(Bench::of([sound("one", 1), sound("two", 2).loaded(512, 1)]));
        let msi = mesh_core::id::MachineId::new("msi").expect("a name");
        desk.wishes.machines.entry(msi).or_default().cordoned = true;
    });
    assert_eq!(climb(&data, line, &service).await, Ok(()));
    assert_eq!(
        (bench(&service).in_memory(), is_cordoned(&service)),
        (vec![("one", Some(2048), Some(1))], false)
    );
}

#[tokio::test(start_paused = true)]
async fn two_measurements_of_one_machine_do_not_run_at_once() {
    let (data, service) = (prepared(), climbed([sound("one", 1), sound("two", 2).loaded(2048, 1)]));
    let folder = data.path().join("loans");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = std::fs::File::create(folder.join("msi.json")).expect("a file");
    let held =
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).expect("nobody has it");
    for line in [
        LINE,
        "meshctl validate one --node msi --yes",
        "meshctl stress --node msi --models one --yes",
        "meshctl eval run --node msi --models one --suite generation --yes",
        // In memory already: it would be cleared, or count as disturbance.
        "meshctl eval run --node msi --models two --suite generation --yes",
    ] {
        let failure = climb(&data, line, &service).await.expect_err(line);
        assert_eq!(failure.what, "msi is measured by another meshctl now", "{line}");
    }
    assert_eq!((bench(&service).journal, is_cordoned(&service)), (vec![], false));
    for kind in ["ladder", "validate", "stress", "eval"] {
        assert!(!data.path().join(kind).exists(), "nothing is kept of what did not begin");
    }
    drop(held);
    assert_eq!(climb(&data, LINE, &service).await, Ok(()));
    let complete = records(data.path()).remove(0);
    assert!(complete.ended_unix_ms.is_some());
    let again = format!("meshctl ladder run --node msi --resume {} --yes", complete.id);
    assert_eq!(climb(&data, &again, &service).await.expect_err("it is complete").kind, Kind::Usage);
}
