//! Stress on a scripted machine: who works beside whom, what is left out, and that what came for it leaves again.

use super::bench::{Bench, Manner, Model};
use super::*;
use mesh_core::machine::TransferState;
use mesh_core::stress::{Fetched, Record, Stint, analyse};

fn sound(name: &'static str, parameters: u64) -> Model {
    Model::new(name, parameters, 1 << 20, Manner::Sound)
}

/// A machine with these models, and room for so many tokens of all of them together.
fn machine(room: u32, models: impl IntoIterator<Item = Model>) -> Scripted {
    let service = scripted("available", "available");
    let mut bench = Bench::of(models);
    bench.room = Some(room);
    service.desk.send_modify(|desk| desk.bench = Some(bench));
    service
}

fn bench(service: &Scripted) -> Bench {
    service.desk.borrow().bench.clone().expect("it was made")
}

fn is_cordoned(service: &Scripted) -> bool {
    service.desk.borrow().wishes.machines.values().any(|limits| limits.cordoned)
}

fn records(data: &tempfile::TempDir) -> Vec<Record> {
    let files = std::fs::read_dir(data.path().join("stress"));
    let files = files.into_iter().flatten().map(|file| file.expect("one").path());
    files
        .map(|path| serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("a record"))
        .collect()
}

/// Types `line` at a router with `service`, and gives how it ended with the one record.
async fn stressed(line: &str, service: &Scripted) -> (Result<(), Failure>, Record) {
    let data = prepared();
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let ended = perform_line(line, &way(&data, router.address)).await;
    router.stop().await;
    let mut records = records(&data);
    assert_eq!(records.len(), 1, "{line}: {ended:?}");
    (ended, records.remove(0))
}

/// `one beside two, three`
fn told(stint: &Stint) -> String {
    let beside: Vec<&str> = stint.beside.iter().map(|model| model.as_str()).collect();
    let files =
        if stint.fetching.is_empty() { String::new() } else { format!(" and {}", stint.fetching.len()) };
    format!("{} beside {}{files}", stint.model, beside.join(", "))
}

#[tokio::test(start_paused = true)]
async fn models_work_alone_in_pairs_and_together_and_what_has_no_room_is_left_out() {
    let service = machine(
        3000,
        [sound("one", 1).loaded(2048, 1), sound("three", 3), sound("eight", 8), sound("seventy", 70)],
    );
    let line = "meshctl stress --node msi --models one,three,eight,seventy --seconds 1 --yes";
    let (ended, record) = stressed(line, &service).await;
    assert_eq!(ended, Ok(()));
    let left: Vec<(&str, &str)> =
        record.left_out.iter().map(|left| (left.model.as_str(), left.why.as_str())).collect();
    assert_eq!(left, [("seventy", "does not fit: needs 768 tokens, 696 are free")]);
    let stints: Vec<String> = record.stints.iter().map(told).collect();
    assert_eq!(
        stints,
        [
            "one beside ",
            "three beside ",
            "eight beside ",
            "one beside three",
            "three beside one",
            "one beside eight",
            "eight beside one",
            "three beside eight",
            "eight beside three",
            "one beside three, eight",
            "three beside one, eight",
            "eight beside one, three",
        ]
    );
    assert!(record.stints.iter().all(|stint| stint.cell.work.soak_s == Some(1) && stint.broke.is_none()));
    assert_eq!(analyse(&record).companies.len(), 4);
    let there = bench(&service);
    assert_eq!((there.in_memory(), is_cordoned(&service)), (vec![("one", Some(2048), Some(1))], false));
}

#[tokio::test(start_paused = true)]
async fn downloads_run_beside_the_work_and_leave_again_however_they_ended() {
    let service = machine(3000, [sound("one", 1), sound("three", 3)]);
    let line = "meshctl stress --node msi --models one,three --seconds 1 --yes --pull new=http://127.0.0.1/long \
                --pull other=http://127.0.0.1/short";
    let line = line.split_whitespace().collect::<Vec<&str>>().join(" ");
    let (ended, record) = stressed(&line, &service).await;
    assert_eq!(ended, Ok(()));
    let last: Vec<String> = record.stints.iter().map(told).skip(4).collect();
    assert_eq!(last, ["one beside three and 2", "three beside one and 2"]);
    let downloads: Vec<(&str, &Fetched)> =
        record.downloads.iter().map(|download| (download.model.as_str(), &download.state)).collect();
    assert_eq!(downloads, [("new", &Fetched::Running), ("other", &Fetched::Done)]);
    let there = bench(&service);
    assert_eq!(there.files, [], "nothing that came for the test stays");
    let journal: Vec<&String> =
        there.journal.iter().filter(|line| line.ends_with("new") || line.ends_with("other")).collect();
    assert_eq!(journal, ["pull new", "pull other", "cancel new", "delete other"]);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_fails_is_told_and_the_models_work_all_the_same() {
    let service = machine(3000, [sound("one", 1)]);
    let line = "meshctl stress --node msi --models one --seconds 1 --yes --pull new=http://127.0.0.1/broken";
    let (ended, record) = stressed(line, &service).await;
    assert_eq!(ended, Ok(()));
    assert_eq!(record.downloads[0].state, Fetched::Failed("connection refused".into()));
    assert_eq!(record.stints.iter().map(told).collect::<Vec<String>>(), ["one beside ", "one beside  and 1"]);
    assert!(analyse(&record).companies.is_empty(), "one alone is no company");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_stays_keeps_no_other_from_leaving() {
    let service = machine(3000, [sound("one", 1)]);
    service.desk.send_modify(|desk| desk.bench.as_mut().expect("it was made").keeps = Some("new"));
    let line = "meshctl stress --node msi --models one --seconds 1 --yes --pull new=http://127.0.0.1/short \
                --pull other=http://127.0.0.1/short";
    let line = line.split_whitespace().collect::<Vec<&str>>().join(" ");
    let (ended, _) = stressed(&line, &service).await;
    assert!(ended.is_err(), "one of them is there still");
    assert_eq!(bench(&service).files, [("new".to_owned(), TransferState::Done)]);
}

#[tokio::test(start_paused = true)]
async fn words_that_are_longer_than_a_record_takes_are_cut_and_the_rest_is_kept() {
    let service = machine(3000, [sound("one", 1), Model::new("three", 3, 1 << 20, Manner::Wordy)]);
    let line = "meshctl stress --node msi --models one,three --seconds 1 --yes";
    let (ended, record) = stressed(line, &service).await;
    assert_eq!((ended, record.stints.len()), (Ok(()), 4));
    let broke = record.stints[1].broke.as_deref().expect("it died");
    assert!(broke.starts_with("the trial of three broke: the engine died: éé"), "{broke}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_ends_its_own_work_and_nobody_elses() {
    let service = machine(3000, [sound("one", 1), Model::new("three", 3, 1 << 20, Manner::Dies)]);
    let line = "meshctl stress --node msi --models one,three --seconds 1 --yes";
    let (ended, record) = stressed(line, &service).await;
    assert_eq!(ended, Ok(()));
    let broke = record.stints.iter().map(|stint| stint.broke.is_some());
    assert_eq!(broke.collect::<Vec<bool>>(), [false, true, false, true]);
    assert!(!is_cordoned(&service));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_has_room_the_machine_s_words_are_told() {
    let service = machine(100, [sound("one", 1)]);
    let (ended, record) = stressed("meshctl stress --node msi --seconds 1 --yes", &service).await;
    let failure = ended.expect_err("no room");
    assert_eq!(failure.kind, Kind::DoesNotFit);
    assert_eq!(failure.cause.as_deref(), Some("does not fit: needs 768 tokens, 100 are free"));
    assert!(record.stopped.is_some_and(|why| why.contains("no model could be loaded")));
    assert!(!is_cordoned(&service));
}

#[tokio::test(start_paused = true)]
async fn ctrl_c_during_downloads_removes_them_and_puts_the_machine_back() {
    let data = prepared();
    let service = machine(3000, [Model::new("one", 1, 1 << 20, Manner::Tires).loaded(2048, 1)]);
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let line = "meshctl stress --node msi --models one --seconds 1 --yes --pull new=http://127.0.0.1/long";
    let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
    let Command::Stress(command) = cli.command else { panic!("stress was typed") };
    let (way, screen, leaving) = (way(&data, router.address), Screen::plain(Format::Table), Notify::new());
    let mut desk = service.desk.subscribe();
    let stress_it = stress::run(command, &way, &screen, async || leaving.notified().await);
    let script = async {
        let is_fetching = |desk: &Desk| {
            let bench = desk.bench.as_ref().expect("it was made");
            bench.files.iter().any(|(_, state)| *state == TransferState::Running)
        };
        drop(desk.wait_for(is_fetching).await.expect("it lives"));
        leaving.notify_one();
    };
    let (ended, ()) = tokio::join!(stress_it, script);
    router.stop().await;
    assert_eq!(ended, Err(Failure::interrupted()));
    let record = records(&data).remove(0);
    assert_eq!(record.stopped.as_deref(), Some("ended by hand"));
    assert_eq!(
        record.stints.iter().map(told).collect::<Vec<String>>(),
        ["one beside "],
        "what was done is kept"
    );
    for (line, kind) in [
        ("meshctl stress list", None),
        ("meshctl stress list --json", None),
        ("meshctl stress show", None),
        ("meshctl stress show --json", None),
        ("meshctl stress show 1999", Some(Kind::NotFound)),
    ] {
        let ended = typed_at_home(&data, line).await;
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
    let there = bench(&service);
    assert_eq!((there.files, is_cordoned(&service)), (vec![], false));
    assert_eq!(bench(&service).in_memory(), [("one", Some(2048), Some(1))]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_begin_changes_nothing() {
    for (line, kind) in [
        ("meshctl stress --node msi", Kind::Usage),
        ("meshctl stress --node msi --models two --yes", Kind::NotFound),
        ("meshctl stress --node msi --yes --pull one=http://127.0.0.1/x", Kind::Usage),
        (
            "meshctl stress --node msi --yes --pull a=http://127.0.0.1/x --pull a=http://127.0.0.1/y",
            Kind::Usage,
        ),
        (
            "meshctl stress --node msi --yes --pull a=http://h/x --pull b=http://h/x --pull c=http://h/x",
            Kind::Usage,
        ),
    ] {
        let (data, service) = (prepared(), machine(3000, [sound("one", 1)]));
        let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
        let failure = perform_line(line, &way(&data, router.address)).await.expect_err(line);
        router.stop().await;
        assert_eq!(failure.kind, kind, "{line}: {failure:?}");
        assert_eq!((bench(&service).journal, is_cordoned(&service)), (vec![], false), "{line}");
        assert!(records(&data).is_empty(), "{line}");
    }
}
