//! Two real engines of one machine at work at once, with two downloads beside them, begun as a person begins it.

use integration_tests::desk::{Desk, NOISE, TRAINED};
use integration_tests::engine_fixture::{embedding_model, trained_model};
use mesh_core::stress::{Fetched, Livable, Record, Row, analyse};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a piece of the slow file: so it takes far longer than the models work.
const PIECE: usize = 16 << 10;

/// A web server with two files: `/fast.gguf` comes at once, `/slow.gguf` drips.
async fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answered(stream));
        }
    });
    format!("http://{address}")
}

async fn answered(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => head.extend_from_slice(&piece[..count]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let is_slow = head.contains("/slow.gguf");
    let file: PathBuf = if is_slow { trained_model() } else { embedding_model() };
    let body = std::fs::read(file).expect("a model of this repository");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let mut sent = stream.write_all(answer.as_bytes()).await;
    for piece in body.chunks(PIECE).take_while(|_| !head.starts_with("HEAD")) {
        if sent.is_err() {
            return;
        }
        sent = stream.write_all(piece).await;
        if is_slow {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }
}

#[tokio::test]
async fn two_models_and_two_downloads_at_once_are_measured_and_leave_nothing_behind() {
    let Some(desk) = Desk::start().await else { return };
    let before = desk.load_one().await;
    let files = desk.files();

    let web = web_server().await;
    let line = format!(
        "stress --node a --models trained,untrained --seconds 3 --pull slow={web}/slow.gguf --pull fast={web}/fast.gguf \
         --yes"
    );
    assert_eq!(desk.typed(&line).await, 0);

    let record: Record = serde_json::from_str(&desk.kept("stress")).expect("a record within its bounds");
    assert_eq!((record.left_out.as_slice(), record.stopped.as_deref()), (&[][..], None));
    let names: Vec<&str> = record.models.iter().map(|rung| rung.model.as_str()).collect();
    assert_eq!(names, [TRAINED, NOISE]);
    let findings = analyse(&record);
    let told = |row: &Row| (row.model.to_string(), row.beside.len(), row.fetching.len());
    let rows: Vec<(String, usize, usize)> = findings.rows.iter().map(told).collect();
    let row = |name: &str, beside, fetching| (name.to_owned(), beside, fetching);
    assert_eq!(
        rows,
        [
            row(TRAINED, 0, 0),
            row(NOISE, 0, 0),
            row(TRAINED, 1, 0),
            row(NOISE, 1, 0),
            row(TRAINED, 1, 2),
            row(NOISE, 1, 2)
        ]
    );
    for (row, stint) in findings.rows.iter().zip(&record.stints) {
        assert_eq!((row.failed, row.broke.as_deref()), (0, None), "{row:?}");
        // Two engines on few cores stand in each other's way so much that an answer may take longer than the phase.
        let has_worked = row.n > 0 && row.decode.is_some_and(|rate| rate.median > 0.0);
        assert!(has_worked || !row.beside.is_empty(), "{row:?}");
        let ended = stint.cell.ended.expect("it ended");
        assert!(ended.seconds >= 3.0, "{ended:?}");
        assert_eq!(ended.others > 0, !stint.beside.is_empty(), "{:?} beside {:?}", stint.model, stint.beside);
    }
    let [company] = findings.companies.as_slice() else { panic!("{:?}", findings.companies) };
    let is_slow = company.why.iter().any(|why| why.contains("too few requests"));
    // What one of them shows may be enough to say no.
    assert!(company.can != Livable::Unknown || is_slow, "{company:?}");

    let [slow, fast] = record.downloads.as_slice() else { panic!("{:?}", record.downloads) };
    assert_eq!((slow.model.as_str(), &slow.state), ("slow", &Fetched::Running));
    assert!(slow.bytes.0 > 0 && slow.seconds >= 2.0, "{slow:?}");
    assert_eq!((fast.model.as_str(), &fast.state), ("fast", &Fetched::Done), "{fast:?}");

    // As it was: the model in its size, nobody holds the machine back, and nothing that came for the test is there.
    assert_eq!((desk.loaded(), desk.is_cordoned().await), (before, false));
    assert_eq!(desk.files(), files);
    assert_eq!(desk.typed("stress --node b --yes").await, 4);
    desk.mesh.stop().await;
}
