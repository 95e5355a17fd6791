//! Clients that take their time, leave early, or only stay.

use crate::{CHAT, House, MEMORY};
use futures_util::future::join_all;
use integration_tests::raw_client::RawClient;
use integration_tests::resident::Peak;
use integration_tests::scripted_engine::{Script, Step};
use integration_tests::soon;
use tokio::net::TcpStream;

const BODY: &str = r#"{"model":"honest","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

fn request(house: &House, headers: &str, body: &str) -> String {
    let (key, length) = (house.mesh.key(), body.len());
    format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_request_is_closed_however_it_began() {
    let house = House::start(|_| ()).await;
    let begins: [&[u8]; 5] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    let closed = begins.map(|begin| {
        let door = house.door;
        async move {
            let mut client = RawClient::connect(door).await;
            assert!(client.send(begin).await);
            client.rest().await
        }
    });
    let answers = join_all(closed).await;
    assert!(answers[4].starts_with(b"HTTP/1.1 200"), "the last had a request");
    house.serves("idle connections").await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_idle_connections_than_there_are_places_keep_honest_clients_out_only_for_seconds() {
    let house = House::start(|config| config.limits.connections = 3000).await;
    let peak = Peak::watch();
    let idle = join_all((0..3500).map(|_| TcpStream::connect(house.door))).await;
    assert!(idle.iter().filter(|connected| connected.is_ok()).count() >= 3000);
    house.serves("thousands of idle connections").await;
    assert!(peak.growth() < MEMORY, "{} MiB", peak.growth() >> 20);
    drop(idle);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_at_any_byte_of_its_request_leaves_nothing_behind() {
    let house = House::start(|_| ()).await;
    let whole = request(&house, "", BODY);
    for cut in (0..=whole.len()).step_by(7) {
        let mut client = RawClient::connect(house.door).await;
        client.send(&whole.as_bytes()[..cut]).await;
    }
    house.serves("clients that left").await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_its_sending_side_is_taken_as_gone() {
    let house = House::start(|_| ()).await;
    house.engine.next(Script::stream(&["one "], &[Step::Hang]));
    let mut client = RawClient::connect(house.door).await;
    assert!(client.send(request(&house, "", BODY).as_bytes()).await);
    assert!(client.until(b"one ").await);
    client.half_close().await;
    house.engine.until("it was given up", |events| events.given_up == 1).await;
    let rest = client.rest().await;
    assert!(
        !rest.windows(6).any(|part| part == b"[DONE]") && !rest.ends_with(b"\r\n0\r\n\r\n"),
        "no clean end"
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_100_continue_gets_it_and_then_its_answer() {
    let house = House::start(|_| ()).await;
    let whole = request(&house, "expect: 100-continue\r\n", BODY);
    let (head, body) = whole.split_at(whole.len() - BODY.len());
    let mut client = RawClient::connect(house.door).await;
    assert!(client.send(head.as_bytes()).await);
    assert_eq!(client.reply().await.map(|reply| reply.status), Some(100));
    assert!(client.send(body.as_bytes()).await);
    let reply = client.reply().await.expect("an answer");
    assert_eq!(reply.status, 200);
    assert!(reply.body.ends_with(b"data: [DONE]\n\n"));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_is_refused_at_its_limit() {
    let house = House::start(|_| ()).await;
    let peak = Peak::watch();
    let key = house.mesh.key();
    let mut client = RawClient::connect(house.door).await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert!(client.send(head.as_bytes()).await);
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 1 << 16], b"\r\n"].concat();
    // 1 GiB, if anybody took it.
    let mut taken = 0;
    while taken < 16_384 && client.send(&chunk).await {
        taken += 1;
    }
    // The limit of 8 MiB, and what the buffers of two sockets hold. What was still on its way makes the kernel reset the
    // connection, so the answer itself may be lost.
    assert!((128..512).contains(&taken), "{} MiB were taken", taken >> 4);
    house.serves("a body without end").await;
    // One that stops right behind the limit gets it.
    let mut client = RawClient::connect(house.door).await;
    assert!(client.send(head.as_bytes()).await);
    for _ in 0..128 {
        assert!(client.send(&chunk).await, "up to the limit all is taken");
    }
    assert!(client.send(b"1\r\n \r\n").await);
    let reply = client.reply().await.expect("an answer");
    let said = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(reply.status == 413 && said.contains("limits.body"), "{said}");
    assert!(peak.growth() < MEMORY, "{} MiB", peak.growth() >> 20);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_stops_its_engine_and_memory_is_bounded() {
    let house = House::start(|_| ()).await;
    // 64 MiB of text.
    let texts = vec!["x".repeat(64 << 10); 1024];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    house.engine.next(Script::stream(&texts, &[Step::Hang]));
    let mut client = RawClient::connect(house.door).await;
    assert!(client.send(request(&house, "", BODY).as_bytes()).await);
    assert!(client.until(b"xxxx").await);
    for _ in 0..20 {
        house.serves("a client that does not read").await;
    }
    let taken = house.engine.taken();
    assert!(taken < 48 << 20, "most of 64 MiB waits in the engine: {} MiB were taken", taken >> 20);
    drop(client);
    house.engine.until("it was given up", |events| events.given_up == 1).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_byte_by_byte_is_served() {
    let house = House::start(|_| ()).await;
    let mut client = RawClient::connect(house.door).await;
    for byte in request(&house, "", BODY).bytes() {
        assert!(client.send(&[byte]).await);
        tokio::task::yield_now().await;
    }
    let reply = soon("an answer", client.reply()).await.expect("an answer");
    assert_eq!(reply.status, 200);
    house.end().await;
}
