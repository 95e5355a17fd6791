//! Clients of HTTP/2 that use its rules against it. Frames are made by hand: no library sends these.

use crate::{CHAT, House, MEMORY};
use integration_tests::raw_client::{H2Frame, RawClient, h2_begin, h2_frame, h2_frames, h2_request};
use integration_tests::resident::Peak;
use integration_tests::scripted_engine::{Script, Step};

/// Kinds of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How many frames a flood has.
const MANY: u32 = 20_000;

/// Sends `frames` in pieces; the client, or `None` where the router has closed the connection before their end.
async fn all_taken(house: &House, frames: impl Iterator<Item = Vec<u8>>) -> Option<RawClient> {
    let mut client = RawClient::connect(house.door).await;
    assert!(client.send(&h2_begin()).await);
    let mut piece = Vec::new();
    for frame in frames {
        piece.extend(frame);
        if piece.len() > 1 << 16 && !client.send(&std::mem::take(&mut piece)).await {
            return None;
        }
    }
    client.send(&piece).await.then_some(client)
}

/// Sends `frames` and a last PING after them; whether the router has had enough before it answered that.
async fn is_ended(house: &House, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let last = std::iter::once(h2_frame(PING, 0, 0, LAST));
    match all_taken(house, frames.chain(last)).await {
        Some(mut client) => !client.until_frame(is_last).await,
        None => true,
    }
}

/// What the last PING says.
const LAST: &[u8; 8] = b"the last";

fn is_last(frame: &H2Frame) -> bool {
    (frame.kind, frame.flags, frame.payload.as_slice()) == (PING, ACK, LAST.as_slice())
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
    assert!(is_ended(&house, (0..MANY).map(reset)).await, "rapid reset is refused");
    house.serves("rapid reset").await;

    let begin = std::iter::once(h2_frame(HEADERS, 0, 1, &get));
    let more = (0..MANY).map(|_| {
        h2_frame(CONTINUATION, 0, 1, &b"\0\x01a\x7f".iter().copied().chain([b'x'; 127]).collect::<Vec<_>>())
    });
    assert!(is_ended(&house, begin.chain(more)).await, "headers without end are refused");
    house.serves("a flood of CONTINUATION").await;

    let begin = std::iter::once(h2_frame(HEADERS, 0, 1, &get));
    let empty = (0..MANY * 10).map(|_| h2_frame(CONTINUATION, 0, 1, b""));
    assert!(is_ended(&house, begin.chain(empty)).await, "empty ones too");
    house.serves("a flood of empty CONTINUATION").await;

    // These are answered one by one, so a client that sends more than it reads waits for itself.
    for (name, kind, frame) in [
        ("a flood of SETTINGS", SETTINGS, h2_frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])),
        ("a flood of PING", PING, h2_frame(PING, 0, 0, b"12345678")),
    ] {
        let last = std::iter::once(h2_frame(PING, 0, 0, LAST));
        let frames = (0..MANY).map(|_| frame.clone()).chain(last);
        let mut client = all_taken(&house, frames).await.expect(name);
        assert!(client.until_frame(is_last).await, "{name}: its last PING is answered");
        let answers = client.frames().iter().filter(|one| (one.kind, one.flags) == (kind, ACK)).count();
        // The first SETTINGS and the last PING are answered, too.
        assert_eq!(answers, MANY as usize + 1, "{name}");
        house.serves(name).await;
    }

    let request = |number| h2_frame(HEADERS, END_HEADERS | END_STREAM, stream_number(number), &get);
    assert!(is_ended(&house, (0..MANY).map(request)).await, "a thousand refused ones are enough");
    house.serves("twenty thousand requests on one connection").await;

    let begin = std::iter::once(h2_frame(HEADERS, END_HEADERS, 1, &ask));
    let nothing = (0..MANY).map(|_| h2_frame(DATA, 0, 1, b""));
    assert!(is_ended(&house, begin.chain(nothing)).await, "DATA without data is refused");
    house.serves("a flood of empty DATA").await;

    for (name, code, frame) in [
        ("a window that grows over its limit", 3, h2_frame(WINDOW, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a window that grows by nothing", 1, h2_frame(WINDOW, 0, 0, &[0; 4])),
        ("settings of five bytes", 1, h2_frame(SETTINGS, 0, 0, &[0; 5])),
        ("a frame over the limit", 6, h2_frame(DATA, 0, 1, &[0; 20_000])),
        ("DATA without a request", 1, h2_frame(DATA, 0, 1, b"x")),
        ("a stream of the server's own number", 1, h2_frame(HEADERS, END_HEADERS, 2, &get)),
        ("headers that cannot be unpacked", 1, h2_frame(HEADERS, END_HEADERS, 1, &[0xff; 64])),
        ("CONTINUATION without a begin", 1, h2_frame(CONTINUATION, END_HEADERS, 1, &get)),
    ] {
        let mut client = RawClient::connect(house.door).await;
        assert!(client.send(&h2_begin()).await);
        client.send(&frame).await;
        let said = h2_frames(&client.rest().await);
        // The number of the last stream, and an error code (RFC 9113, section 7).
        let code = u32::to_be_bytes(code);
        let told = |frame: &H2Frame| frame.kind == GOAWAY && frame.payload.get(4..8) == Some(&code);
        assert!(said.iter().any(told), "{name}: {said:?}");
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
    let body = br#"{"model":"honest","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
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
