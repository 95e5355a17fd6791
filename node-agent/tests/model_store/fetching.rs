//! Downloads that go well in the end.

use super::http_server::{Asked, Reply, Server};
use super::{House, digest, gguf, model, pull};
use mesh_core::machine::{TransferKind, TransferState};
use mesh_core::units::Bytes;
use node_agent::model_store::StoreWish;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_model_arrives_whole_and_is_known_by_its_digest_at_once() {
    let file = gguf(50_000, 1);
    let served = file.clone();
    let server = Server::start(move |asked| Reply::file(&served, None, asked)).await;
    let house = House::start();
    house
        .arrives(pull("org/tiny:Q8_0", &format!("{}/x?token=secret", server.url), Some(digest(&file))), &file)
        .await;
    let seen = house.over("org/tiny:Q8_0").await;
    assert_eq!(
        (seen.kind, seen.done, seen.total),
        (TransferKind::Download, Bytes(file.len() as u64), Some(Bytes(file.len() as u64)))
    );
    assert_eq!(format!("http://{}", seen.source), server.url, "no path and no token");
    assert!(house.models().join("org/tiny%3AQ8_0.gguf").is_file());
    // A second wish finds it there.
    house.arrives(pull("org/tiny:Q8_0", &server.url, Some(digest(&file))), &file).await;
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_download_cut_at_ten_random_points_goes_on_each_time_and_is_the_same_file() {
    let file = gguf(1_000_000, 2);
    let mut points: Vec<usize> = (0..10).map(|_| rand::random_range(1..file.len())).collect();
    points.sort_unstable();
    println!("cut at {points:?}");
    let (served, cuts) = (file.clone(), points.clone());
    let server = Server::start(move |asked| {
        let from = asked.range.unwrap_or(0);
        let reply = Reply::file(&served, Some("\"v1\""), asked);
        match cuts.get(asked.number) {
            Some(cut) => reply.cut_after(cut.saturating_sub(from)),
            None => reply,
        }
    })
    .await;
    let house = House::start();
    house.arrives(pull("big", &server.url, Some(digest(&file))), &file).await;
    let asked = server.asked();
    assert_eq!(asked.len(), 11);
    let ranges: Vec<usize> = asked.iter().skip(1).map(|asked| asked.range.unwrap_or(0)).collect();
    assert_eq!(ranges, points, "each went on where the last was cut");
    assert!(asked.iter().skip(1).all(|asked| asked.if_range.as_deref() == Some("\"v1\"")));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_beginning_again() {
    let file = gguf(100_000, 3);
    let served = file.clone();
    let server = Server::start(move |asked| {
        let whole = Asked { range: None, ..asked.clone() };
        let reply = Reply::file(&served, Some("\"v1\""), &whole);
        if asked.number == 0 { reply.cut_after(200_000) } else { reply }
    })
    .await;
    let house = House::start();
    house.arrives(pull("x", &server.url, None), &file).await;
    assert_eq!(server.asked()[1].range, Some(200_000));
}

#[tokio::test]
async fn a_file_that_changed_on_the_server_is_fetched_anew_and_never_mixed() {
    let (old, new) = (gguf(100_000, 4), gguf(90_000, 5));
    for honours_if_range in [true, false] {
        let (before, after) = (old.clone(), new.clone());
        let server = Server::start(move |asked| match asked.number {
            0 => Reply::file(&before, Some("\"old\""), asked).cut_after(250_000),
            _ if honours_if_range => Reply::file(&after, Some("\"new\""), asked),
            _ => Reply::file(&after, Some("\"new\""), &Asked { if_range: None, ..asked.clone() }),
        })
        .await;
        let house = House::start();
        house.arrives(pull("x", &server.url, None), &new).await;
    }
}

#[tokio::test]
async fn without_anything_to_tell_files_apart_a_cut_download_begins_anew() {
    let file = gguf(100_000, 6);
    let served = file.clone();
    let server = Server::start(move |asked| {
        let reply = Reply::file(&served, None, asked);
        if asked.number == 0 { reply.cut_after(250_000) } else { reply }
    })
    .await;
    let house = House::start();
    house.arrives(pull("x", &server.url, None), &file).await;
    assert_eq!(server.asked()[1].range, None, "it could be another file by now");
}

#[tokio::test]
async fn a_new_start_goes_on_by_itself_with_what_was_under_way() {
    let file = gguf(500_000, 7);
    let served = file.clone();
    let server = Server::start(move |asked| {
        let reply = Reply::file(&served, Some("\"v1\""), asked);
        if asked.number == 0 { reply.gate_at(1_500_000) } else { reply }
    })
    .await;
    let house = House::start();
    house.pull(pull("x", &server.url, Some(digest(&file))));
    house.until("some of it", |store| store.transfers.iter().any(|one| one.done.0 > 0)).await;
    let folders = house.stop().await;
    let next = House::in_folders(folders, |_| ());
    next.has("x", &file).await;
    assert!(server.asked()[1].range.is_some_and(|from| from > 0), "{:?}", server.asked());
    assert_eq!(next.over("x").await.state, TransferState::Done);
}

#[tokio::test]
async fn a_cancelled_download_leaves_nothing_and_can_be_wished_for_again() {
    let file = gguf(500_000, 8);
    let served = file.clone();
    let server = Server::start(move |asked| {
        let reply = Reply::file(&served, Some("\"v1\""), asked);
        if asked.number == 0 { reply.gate_at(1_500_000) } else { reply }
    })
    .await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    house.until("some of it", |store| store.transfers.iter().any(|one| one.done.0 > 0)).await;
    house.store.direct(StoreWish::Cancel(model("x")));
    assert_eq!(house.over("x").await.state, TransferState::Cancelled);
    assert_eq!(super::files_below(house.folders.path()), Vec::<std::path::PathBuf>::new());
    house.arrives(pull("x", &server.url, None), &file).await;
    assert_eq!(server.asked()[1].range, None, "from the beginning");
}

#[tokio::test]
async fn two_download_at_once_and_the_third_waits_for_its_turn() {
    let served = gguf(10_000, 9);
    let server = Server::start(move |asked| Reply::file(&served, None, asked).gate_at(20_000)).await;
    let house = House::start();
    let names = ["a", "b", "c"];
    for name in names {
        house.pull(pull(name, &format!("{}/{name}", server.url), None));
    }
    let states = |store: &mesh_core::machine::Store| {
        let mut states: Vec<&str> = store.transfers.iter().map(|one| one.state.word()).collect();
        states.sort_unstable();
        states.join(" ")
    };
    house.until("two at work", |store| states(store) == "running running waiting").await;
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
    assert!(asked.len() <= 2 && !asked.contains(&"/c".into()), "{asked:?}");
    server.open_gate();
    house.until("all there", |store| states(store) == "done done done").await;
}

#[tokio::test]
async fn two_downloads_together_keep_to_the_bandwidth() {
    let served = gguf(150_000, 10);
    let bytes = served.len() as f64 * 2.0;
    let server = Server::start(move |asked| Reply::file(&served, None, asked)).await;
    let house = House::with(|config| config.bandwidth = Some(1_000_000));
    let begin = Instant::now();
    for name in ["a", "b"] {
        house.pull(pull(name, &server.url, None));
    }
    for name in ["a", "b"] {
        assert_eq!(house.over(name).await.state, TransferState::Done);
    }
    let least = Duration::from_secs_f64(bytes / 1_000_000.0);
    assert!(begin.elapsed() >= least, "{:?} for {bytes} bytes", begin.elapsed());
}

#[tokio::test]
async fn a_hub_redirects_and_says_what_the_file_is() {
    let file = gguf(50_000, 11);
    let (served, said) = (file.clone(), digest(&file).to_string());
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/hub" => Reply::new("302 Found", "")
            .with("location", "/cdn?signature=1")
            .with("x-linked-etag", format!("\"{said}\"")),
        _ => Reply::file(&served, Some("\"v1\""), asked),
    })
    .await;
    let house = House::start();
    house.arrives(pull("x", &format!("{}/hub", server.url), None), &file).await;

    // The same hub, whose store has other bytes than it says.
    let (other, said) = (gguf(50_000, 12), digest(&file).to_string());
    let server = Server::start(move |asked| {
        Reply::file(&other, None, asked).with("x-linked-etag", format!("\"{said}\""))
    })
    .await;
    house.pull(pull("y", &server.url, None));
    let why = house.failure("y").await;
    assert!(why.contains("the digest is") && why.contains(digest(&file).as_str()), "{why}");
}

#[tokio::test]
async fn progress_tells_how_far_and_how_fast_and_from_where() {
    let file = gguf(500_000, 13);
    let total = file.len() as u64;
    let server = Server::start(move |asked| Reply::file(&file, None, asked).gate_at(1_200_000)).await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    let store = house
        .until("half of it with a rate", |store| {
            store.transfers.iter().any(|one| one.done.0 > 1_000_000 && one.rate.is_some())
        })
        .await;
    let seen = &store.transfers[0];
    assert_eq!((seen.state.clone(), seen.total), (TransferState::Running, Some(Bytes(total))));
    server.open_gate();
    assert_eq!(house.over("x").await.rate, None, "what is over has no speed");
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let file = gguf(1000, 14);
    let served = file.clone();
    let server = Server::start(move |asked| match asked.number {
        // More often than a broken server would be asked.
        0..20 => Reply::new("503 Service Unavailable", "").with("retry-after", "0"),
        _ => Reply::file(&served, None, asked),
    })
    .await;
    House::start().arrives(pull("x", &server.url, None), &file).await;
}
