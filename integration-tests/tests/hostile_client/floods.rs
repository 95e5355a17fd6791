//! Clients of HTTP/2 that use its rules against it. Frames are made by hand: no library sends these.

use crate::{CHAT, House, MEMORY};
use integration_tests::raw_client::{RawClient, h2_begin, h2_frame, h2_request};
use integration_tests::resident::Peak;
use integration_tests::scripted_engine::{Script, Step};

/// Kinds of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How many frames a flood has.
const MANY: u32 = 20_000;

/// Sends `frames` in pieces until the router has enough; whether it had.
async fn flood(house: &House, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let mut client = RawClient::connect(house.door).await;
    assert!(client.send(&h2_begin()).await);
    let mut piece = Vec::new();
    for frame in frames {
        piece.extend(frame);
        if piece.len() > 1 << 16 && !client.send(&std::mem::take(&mut piece)).await {
            return true;
        }
    }
    !client.send(&piece).await
}

fn stream_number(number: u32) -> u32 {
    number * 2 + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_http_2_end_and_others_are_served() {
    let house = House::start(|_| ()).await;
    let peak = Peak::watch();
    let key = house.mesh.key().to_owned();
    let get = h2_request(false, "/healthz", &key);
    let ask = h2_request(true, CHAT, &key);

    let reset = |number| {
        let stream = stream_number(number);
        let begin = h2_frame(HEADERS, END_HEADERS, stream, &ask);
        [begin, h2_frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    flood(&house, (0..MANY).map(reset)).await;
    house.serves("rapid reset").await;

    let begin = std::iter::once(h2_frame(HEADERS, 0, 1, &get));
    let more = (0..MANY).map(|_| {
        h2_frame(CONTINUATION, 0, 1, &b"\0\x01a\x7f".iter().copied().chain([b'x'; 127]).collect::<Vec<_>>())
    });
    assert!(flood(&house, begin.chain(more)).await, "headers without end are refused");
    house.serves("a flood of CONTINUATION").await;

    let begin = std::iter::once(h2_frame(HEADERS, 0, 1, &get));
    let empty = (0..MANY * 10).map(|_| h2_frame(CONTINUATION, 0, 1, b""));
    assert!(flood(&house, begin.chain(empty)).await, "empty ones too");
    house.serves("a flood of empty CONTINUATION").await;

    flood(&house, (0..MANY).map(|_| h2_frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]))).await;
    house.serves("a flood of SETTINGS").await;

    flood(&house, (0..MANY).map(|_| h2_frame(PING, 0, 0, b"12345678"))).await;
    house.serves("a flood of PING").await;

    flood(
        &house,
        (0..MANY).map(|number| h2_frame(HEADERS, END_HEADERS | END_STREAM, stream_number(number), &get)),
    )
    .await;
    house.serves("twenty thousand requests on one connection").await;

    let begin = std::iter::once(h2_frame(HEADERS, END_HEADERS, 1, &ask));
    flood(&house, begin.chain((0..MANY).map(|_| h2_frame(DATA, 0, 1, b"")))).await;
    house.serves("a flood of empty DATA").await;

    for (name, frame) in [
        ("a window that grows over its limit", h2_frame(WINDOW, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a window that grows by nothing", h2_frame(WINDOW, 0, 0, &[0; 4])),
        ("settings of five bytes", h2_frame(SETTINGS, 0, 0, &[0; 5])),
        ("a frame over the limit", h2_frame(DATA, 0, 1, &[0; 20_000])),
        ("DATA without a request", h2_frame(DATA, 0, 1, b"x")),
        ("a stream of the server's own number", h2_frame(HEADERS, END_HEADERS, 2, &get)),
        ("headers that cannot be unpacked", h2_frame(HEADERS, END_HEADERS, 1, &[0xff; 64])),
        ("CONTINUATION without a begin", h2_frame(CONTINUATION, END_HEADERS, 1, &get)),
    ] {
        let mut client = RawClient::connect(house.door).await;
        assert!(client.send(&h2_begin()).await);
        client.send(&frame).await;
        let said = client.rest().await;
        assert!(!said.is_empty(), "{name}: the router has said its settings before it closed");
        house.serves(name).await;
    }
    assert!(peak.growth() < MEMORY, "{} MiB", peak.growth() >> 20);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_zero_holds_the_engine_back_and_ends_with_its_client() {
    let house = House::start(|_| ()).await;
    let texts = vec!["x".repeat(64 << 10); 512];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    house.engine.next(Script::stream(&texts, &[Step::Hang]));
    let mut client = RawClient::connect(house.door).await;
    let body = br#"{"model":"honest","stream":true,"messages":[]}"#;
    let begin = [
        h2_begin(),
        // The initial window of each stream: nothing.
        h2_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        h2_frame(HEADERS, END_HEADERS, 1, &h2_request(true, CHAT, house.mesh.key())),
        h2_frame(DATA, END_STREAM, 1, body),
    ];
    assert!(client.send(&begin.concat()).await);
    house.engine.until("it was asked", |events| events.posts.len() == 1).await;
    for _ in 0..20 {
        house.serves("a window of zero").await;
    }
    let taken = house.engine.taken();
    assert!(taken < 24 << 20, "most of 32 MiB waits in the engine: {} MiB were taken", taken >> 20);
    drop(client);
    house.engine.until("it was given up", |events| events.given_up == 1).await;
    house.end().await;
}
