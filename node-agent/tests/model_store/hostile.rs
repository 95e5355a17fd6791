//! Servers, names and disks that do not do what they should. None of them ever leaves a file that looks whole.

use super::http_server::{Reply, Server};
use super::{House, digest, files_below, gguf, gguf_with, model, pull};
use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, PullSource, PullWish, TransferState};
use mesh_core::units::Bytes;
use node_agent::model_store::StoreConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// After a failure that spoilt what had come: nothing is there.
fn nothing_is_left(house: &House) {
    assert_eq!(files_below(house.folders.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_wrong_digest_deletes_what_came_and_says_both_digests() {
    let file = gguf(50_000, 1);
    let (found, wanted) = (digest(&file), Digest::new(&"ab".repeat(32)).expect("64 digits"));
    let server = Server::start(move |asked| Reply::file(&file, Some("\"v1\""), asked)).await;
    let house = House::start();
    house.pull(pull("x", &server.url, Some(wanted.clone())));
    let why = house.failure("x").await;
    assert!(why.contains(found.as_str()) && why.contains(wanted.as_str()), "{why}");
    nothing_is_left(&house);
}

#[tokio::test]
async fn a_page_instead_of_a_model_is_refused_after_its_first_bytes() {
    let server = Server::start(|_| {
        let page = "<!DOCTYPE html><title>Please log in</title>".repeat(2000);
        Reply { endless: true, ..Reply::new("200 OK", page) }
            .with("content-type", "text/html")
            .with("content-length", "300000000")
    })
    .await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    let why = house.failure("x").await;
    assert!(why.contains("\"GGUF\"") && why.contains("text/html"), "{why}");
    nothing_is_left(&house);
}

#[tokio::test]
async fn a_body_without_end_ends_where_the_file_does() {
    // (what is known beforehand, the reason)
    for (size, digest) in [(None, None), (Some(Bytes(300_000)), None), (None, Some("ab".repeat(32)))] {
        let server = Server::start(|_| {
            Reply { endless: true, ..Reply::new("200 OK", gguf(50_000, 2)) }.without("content-length")
        })
        .await;
        let house = House::start();
        let digest = digest.map(|digits| Digest::new(&digits).expect("64 digits"));
        house.pull(PullWish { size, ..pull("x", &server.url, digest) });
        let why = house.failure("x").await;
        assert!(why.contains("all that the file has"), "{why}");
        nothing_is_left(&house);
    }
}

#[tokio::test]
async fn a_content_length_that_lies_never_makes_a_file() {
    let file = gguf(50_000, 3);
    let length = file.len();
    // Too long: the connection ends early each time.
    let served = file.clone();
    let server = Server::start(move |asked| {
        Reply::file(&served, Some("\"v1\""), asked).with("content-length", (length + 1000).to_string())
    })
    .await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    let why = house.failure("x").await;
    assert!(why.contains("given up"), "{why}");
    assert_eq!(house.store.file(&model("x")), None);

    // Too short: the header knows better.
    let server = Server::start(move |asked| {
        Reply::file(&file, Some("\"v1\""), asked).with("content-length", (length - 1000).to_string())
    })
    .await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    let why = house.failure("x").await;
    assert!(why.contains("cut short"), "{why}");
    nothing_is_left(&house);
}

#[tokio::test]
async fn a_body_without_a_length_that_ends_within_the_tensors_is_no_model() {
    let mut file = gguf(50_000, 7);
    file.truncate(100_000);
    let server = Server::start(move |_| Reply::new("200 OK", file.clone()).without("content-length")).await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    let why = house.failure("x").await;
    assert!(why.contains("cut short"), "{why}");
    assert_eq!(house.store.file(&model("x")), None);
    nothing_is_left(&house);
}

#[tokio::test]
async fn redirects_end_and_lead_to_web_servers_only() {
    let cases: [(&str, &str); 5] = [
        ("/again", "redirects more than"),
        ("file:///etc/passwd", "`file` is no way"),
        ("ftp://127.0.0.1/x.gguf", "`ftp` is no way"),
        ("data:application/octet-stream,GGUF", "`data` is no way"),
        ("http://", "no URL"),
    ];
    for (target, reason) in cases {
        let server = Server::start(move |_| Reply::new("302 Found", "").with("location", target)).await;
        let house = House::start();
        house.pull(pull("x", &server.url, None));
        let why = house.failure("x").await;
        assert!(why.contains(reason), "{target}: {why}");
        assert!(server.asked().len() <= 6, "{:?}", server.asked().len());
    }
}

#[tokio::test]
async fn a_server_that_says_no_is_asked_once_and_the_url_is_not_repeated() {
    for (status, reason) in
        [("404 Not Found", "404"), ("401 Unauthorized", "account"), ("403 Forbidden", "account")]
    {
        let server = Server::start(move |_| Reply::new(status, "no")).await;
        let house = House::start();
        house.pull(pull("x", &format!("{}/f?token=s3cret", server.url), None));
        let why = house.failure("x").await;
        assert!(why.contains(reason) && !why.contains("s3cret"), "{why}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn nobody_there_is_tried_a_few_times_and_then_said() {
    let house = House::start();
    house.pull(pull("x", "http://127.0.0.1:1/f?token=s3cret", None));
    let why = house.failure("x").await;
    assert!(
        why.contains("cannot reach the server") && why.contains("4 tries") && !why.contains("s3cret"),
        "{why}"
    );
}

#[tokio::test]
async fn a_url_that_sends_nothing_is_given_up_in_time_and_one_that_is_slow_is_not() {
    let soon = |config: &mut StoreConfig| config.pacing.first_within = Duration::from_millis(400);
    // A server that takes connections and is silent, and one that says what it has and does not send it.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent_url = format!("http://{}", silent.local_addr().expect("just bound"));
    let file = gguf(50_000, 4);
    let served = file.clone();
    let stuck = Server::start(move |asked| Reply::file(&served, None, asked).gate_at(0)).await;
    for url in [&silent_url, &stuck.url] {
        let house = House::with(soon);
        let began = Instant::now();
        house.pull(pull("x", url, None));
        let why = house.failure("x").await;
        assert_eq!(why, "the server sends nothing; given up, since nothing came within 0.4 s");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(house.store.file(&model("x")), None);
    }
    // Tries and the pauses between them count together, and so do servers that break off.
    let house = House::with(|config| {
        soon(config);
        config.pacing.first_retry = Duration::from_millis(300);
        config.pacing.longest_retry = Duration::from_millis(300);
    });
    house.pull(pull("x", "http://127.0.0.1:1/x.gguf", None));
    let why = house.failure("x").await;
    assert!(why.ends_with("; given up, since nothing came within 0.4 s"), "{why}");

    // Something has come: the rest may take longer.
    let served = file.clone();
    let slow = Server::start(move |asked| Reply::file(&served, None, asked).gate_at(150_000)).await;
    let house = House::with(soon);
    house.pull(pull("x", &slow.url, None));
    house.until("something has come", |store| store.transfers.iter().any(|one| one.done > Bytes(0))).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    slow.open_gate();
    house.has("x", &file).await;
    assert_eq!(slow.asked().len(), 1, "in one try");

    // So may a server that says when to come again.
    let served = file.clone();
    let busy = Server::start(move |asked| match asked.number {
        0 => Reply::new("503 Service Unavailable", "").with("retry-after", "1"),
        _ => Reply::file(&served, None, asked),
    })
    .await;
    let house = House::with(soon);
    house.arrives(pull("x", &busy.url, None), &file).await;
}

#[tokio::test]
async fn a_disk_without_room_is_said_before_a_byte_is_fetched_and_in_the_middle() {
    let file = gguf(1_000_000, 4);
    let (length, served) = (file.len() as u64, file.clone());
    let server = Server::start(move |asked| {
        let reply = Reply::file(&served, Some("\"v1\""), asked);
        if asked.number < 2 { reply.gate_at(1_000_000) } else { reply }
    })
    .await;
    let free = Arc::new(AtomicU64::new(length));
    let disk = free.clone();
    let house = House::with(move |config| {
        config.free_space = Arc::new(move |_| Ok(disk.load(Ordering::Relaxed)));
    });
    let wish = pull("x", &server.url, Some(digest(&file)));
    house.pull(wish.clone());
    let why = house.failure("x").await;
    assert!(
        why.contains("too full") && why.contains("5 %") && why.contains(&Bytes(length).to_string()),
        "{why}"
    );

    free.store(2 * length, Ordering::Relaxed);
    house.pull(wish.clone());
    house.until("some of it", |store| store.transfers.iter().any(|one| one.done.0 > 0)).await;
    // Somebody else fills the disk.
    free.store(1000, Ordering::Relaxed);
    server.open_gate();
    let why = house.failure("x").await;
    assert!(why.contains("too full"), "{why}");
    assert_eq!(house.store.file(&model("x")), None);

    // What had come is kept: with room again it goes on.
    free.store(u64::MAX, Ordering::Relaxed);
    house.arrives(wish, &file).await;
    assert!(server.asked()[2].range.is_some_and(|from| from > 0), "{:?}", server.asked());
}

#[tokio::test]
async fn a_model_folder_that_cannot_be_written_is_said() {
    let folders = tempfile::tempdir().expect("a temporary folder");
    // A file where the folder should be: also root cannot write into it.
    std::fs::write(folders.path().join("models"), b"").expect("a file");
    let server = Server::start(|asked| Reply::file(&gguf(1000, 1), None, asked)).await;
    let house = House::in_folders(folders, |_| ());
    house.pull(pull("x", &server.url, None));
    let why = house.failure("x").await;
    assert!(why.contains("cannot make a file in the model folder"), "{why}");
}

#[tokio::test]
async fn a_name_that_is_no_plain_file_is_refused_and_nothing_is_written_anywhere() {
    let server = Server::start(|asked| Reply::file(&gguf(1000, 1), None, asked)).await;
    let house = House::start();
    // What climbs or starts at the root is no name at all; the rest the store refuses itself.
    for name in ["../x", "/etc/x", "a/../x", "a\0b", "..", "a\\..\\x x"] {
        assert!(ModelId::new(name).is_err(), "{name:?}");
    }
    for name in [".incoming/x", ".x", "a/", "a//b", "a/.b", "./x"] {
        house.pull(pull(name, &server.url, None));
        let why = house.failure(name).await;
        assert!(why.contains("cannot be a file"), "{name}: {why}");
    }
    nothing_is_left(&house);
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_folder_that_is_a_link_out_of_the_store_gets_no_model() {
    let server = Server::start(|asked| Reply::file(&gguf(1000, 1), None, asked)).await;
    let house = House::start();
    let outside = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir_all(house.models()).expect("a folder");
    std::os::unix::fs::symlink(outside.path(), house.models().join("org")).expect("a link");
    house.pull(pull("org/x", &server.url, None));
    let why = house.failure("org/x").await;
    assert!(why.contains("moving it to its place"), "{why}");
    assert_eq!(files_below(outside.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_wish_that_cannot_be_followed_says_why() {
    let (here, house) = (gguf(1000, 5), House::start());
    house.write("here.gguf", &here);
    house.has("here", &here).await;
    let other = Digest::new(&"ab".repeat(32)).expect("64 digits");
    let mesh = |name: &str| PullWish { source: PullSource::Mesh, ..pull(name, "", None) };
    let cases = [
        (pull("a", "ftp://h/x", None), "`ftp` is no way"),
        (pull("b", "nonsense", None), "no URL"),
        (mesh("c"), "needs the digest"),
        (PullWish { source: PullSource::Engine, ..pull("d", "", None) }, "an engine fetches"),
        (pull("here", "http://127.0.0.1:1/", Some(other)), "delete it first"),
    ];
    for (wish, reason) in cases {
        let name = wish.model.to_string();
        house.pull(wish);
        let why = house.failure(&name).await;
        assert!(why.contains(reason), "{name}: {why}");
    }
    house.pull(pull("here", "http://127.0.0.1:1/", None));
    house
        .until("what is here is done", |store| {
            store.transfers.iter().any(|one| one.model == model("here") && one.state == TransferState::Done)
        })
        .await;
}

#[tokio::test]
async fn a_header_that_promises_more_than_the_server_has_is_refused_at_once() {
    let mut file = gguf_with(1_000_000, 6, &[("general.architecture", "llama")], &[]);
    file.truncate(100_000);
    let server = Server::start(move |asked| Reply::file(&file, Some("\"v1\""), asked)).await;
    let house = House::start();
    house.pull(pull("x", &server.url, None));
    let why = house.failure("x").await;
    assert!(why.contains("cut short"), "{why}");
    assert_eq!(server.asked().len(), 1);
    nothing_is_left(&house);
}
