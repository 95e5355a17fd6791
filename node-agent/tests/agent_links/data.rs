//! The data link between a scripted router and a scripted engine.

use crate::scripted_engine::Bench;
use crate::scripted_router::{Mesh, ScriptedRouter, any};
use crate::serve::{engine_answer, head, refusal};
use crate::soon;
use mesh_proto::frame::{self, code};
use mesh_proto::v1::RequestHead;
use node_agent::router_link::Identity;
use node_agent::router_link::data::DataLink;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CANCEL_GOAL: Duration = Duration::from_millis(500);
const PATH: &str = "/v1/chat/completions";

struct Stage {
    mesh: Mesh,
    router: ScriptedRouter,
    connection: Connection,
    bench: Bench,
    stop: CancellationToken,
}

impl Stage {
    async fn set() -> Self {
        let mesh = Mesh::new();
        mesh.certify(Duration::from_secs(3600));
        let mut router = ScriptedRouter::start(&mesh, any());
        let bench = Bench::start().await;
        let stop = CancellationToken::new();
        let link = DataLink {
            router: router.address.to_string(),
            identity: Identity::open(&mesh.agent_folder()).expect("credentials"),
            serve: bench.serve.clone(),
            metrics: bench.metrics.clone(),
            control_up: watch::Sender::new(true).subscribe(),
        };
        tokio::spawn(link.run(stop.clone()));
        let connection = router.connection().await;
        Self { mesh, router, connection, bench, stop }
    }
}

/// Sends a request whose head announces `body`.
pub(crate) async fn open(connection: &Connection, path: &str, body: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = soon("a stream", connection.open_bi()).await.expect("the agent takes requests");
    send.write_all(&frame::encode_head(&head(path, body), body)).await.expect("the agent reads");
    send.finish().expect("not finished yet");
    (send, recv)
}

async fn rest(recv: &mut RecvStream) -> Vec<u8> {
    soon("the answer's end", recv.read_to_end(1 << 24)).await.expect("a clean end")
}

fn reset_code(error: &quinn::ReadToEndError) -> u32 {
    let quinn::ReadToEndError::Read(ReadError::Reset(code)) = error else { panic!("no reset: {error}") };
    u32::try_from(code.into_inner()).expect("our codes are small")
}

#[tokio::test]
async fn a_request_goes_to_the_engine_and_its_answer_comes_back_whole() {
    let mut stage = Stage::set().await;
    let (_send, mut recv) = open(&stage.connection, PATH, br#"{"model":"tiny"}"#).await;
    let post = stage.bench.engine.post().await;
    assert_eq!((post.path.as_str(), post.body.as_slice()), (PATH, br#"{"model":"tiny"}"#.as_slice()));
    post.answer("200 OK", "application/json", r#"{"answer":42}"#).await;
    let head = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let answer = engine_answer(head);
    assert_eq!((answer.status, answer.engine.as_str()), (200, "scripted"));
    assert_eq!(rest(&mut recv).await, br#"{"answer":42}"#);
}

#[tokio::test]
async fn a_body_larger_than_every_window_arrives_whole() {
    let mut stage = Stage::set().await;
    let body: Vec<u8> = (0..(20_u32 << 20)).map(|n| (n % 251) as u8).collect();
    let connection = stage.connection.clone();
    let sending = tokio::spawn({
        let body = body.clone();
        async move { open(&connection, PATH, &body).await }
    });
    let post = stage.bench.engine.post().await;
    assert!(post.body == body, "20 MiB arrive as they were sent");
    post.answer("200 OK", "application/json", "{}").await;
    let (_send, mut recv) = sending.await.expect("sent");
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(rest(&mut recv).await, b"{}");
}

#[tokio::test]
async fn tokens_come_through_one_by_one_as_the_engine_makes_them() {
    let mut stage = Stage::set().await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    // The head does not wait for the first token.
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    for token in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // The next one is sent only when this one has arrived.
        post.send_chunk(token).await;
        let mut seen = vec![0; token.len()];
        soon("the token", recv.read_exact(&mut seen)).await.expect("a token");
        assert_eq!(seen, token.as_bytes());
    }
    post.send("0\r\n\r\n").await;
    assert!(rest(&mut recv).await.is_empty());
}

#[tokio::test]
async fn a_router_that_wants_no_more_stops_the_engine_at_once() {
    let mut stage = Stage::set().await;
    for way in ["STOP_SENDING", "RESET"] {
        let (mut send, mut recv) = soon("a stream", stage.connection.open_bi()).await.expect("a stream");
        send.write_all(&frame::encode_head(&head(PATH, b"{}"), b"{}")).await.expect("the agent reads");
        let mut post = stage.bench.engine.post().await;
        post.begin_stream().await;
        post.send_chunk("data: 1\n\n").await;
        soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
        let cancelled = VarInt::from_u32(code::CANCELLED);
        match way {
            "RESET" => send.reset(cancelled).expect("open"),
            _ => recv.stop(cancelled).expect("open"),
        }
        let closed = tokio::time::timeout(CANCEL_GOAL, post.closed_by_agent()).await;
        closed.unwrap_or_else(|_| panic!("{way} did not reach the engine within 500 ms"));
    }
}

#[tokio::test]
async fn a_lost_connection_stops_the_engine_at_once() {
    let mut stage = Stage::set().await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    stage.connection.close(VarInt::from_u32(0), b"gone");
    tokio::time::timeout(CANCEL_GOAL, post.closed_by_agent()).await.expect("closed within 500 ms");
    stage.bench.idle().await;
}

#[tokio::test]
async fn an_engine_that_breaks_off_resets_the_stream_and_never_ends_it() {
    let mut stage = Stage::set().await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    post.begin_stream().await;
    post.send_chunk("data: 1\n\n").await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let mut first = [0; 9];
    soon("the token", recv.read_exact(&mut first)).await.expect("a token");
    drop(post);
    let error = soon("the end", recv.read_to_end(1 << 20)).await.expect_err("no clean end");
    assert_eq!(reset_code(&error), code::ENGINE_BROKE);
}

#[tokio::test]
async fn heads_that_no_router_should_send_are_refused_with_words() {
    let mut stage = Stage::set().await;
    let (_send, mut recv) = open(&stage.connection, "/slots", b"").await;
    let head_back = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(refusal(head_back).kind, "bad_request");
    assert!(rest(&mut recv).await.is_empty());

    // Refused by its length alone: the agent does not wait for 257 MiB.
    let (mut send, mut recv) = soon("a stream", stage.connection.open_bi()).await.expect("a stream");
    let huge = RequestHead { body_length: frame::BODY_LIMIT + 1, ..head(PATH, b"") };
    send.write_all(&frame::encode_head(&huge, b"")).await.expect("the agent reads");
    let head_back = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let refused = refusal(head_back);
    assert!(
        refused.kind == "bad_request" && refused.message.contains("over the limit"),
        "{}",
        refused.message
    );
    assert!(stage.bench.engine.posts.try_recv().is_err(), "no engine heard of either");
}

#[tokio::test]
async fn streams_that_break_the_frame_are_reset() {
    let stage = Stage::set().await;
    let short = frame::encode_head(&head(PATH, b"four"), b"thr");
    let long = frame::encode_head(&head(PATH, b"four"), b"five5");
    for wire in [&[0xff_u8; 16][..], &short[..], &long[..]] {
        let (mut send, mut recv) = soon("a stream", stage.connection.open_bi()).await.expect("a stream");
        // The agent may have given up before all of it is written.
        drop(send.write_all(wire).await);
        drop(send.finish());
        let error = soon("the end", recv.read_to_end(1 << 20)).await.expect_err("no clean end");
        assert_eq!(reset_code(&error), code::BAD_FRAME, "{} bytes", wire.len());
    }
}

#[tokio::test]
async fn a_router_that_came_back_is_dialled_again() {
    let stage = Stage::set().await;
    // A handle on the connection would keep the dead router's socket.
    drop(stage.connection);
    let address: SocketAddr = stage.router.die();
    let mut again = ScriptedRouter::start(&stage.mesh, address);
    let mut bench = stage.bench;
    let connection = again.connection().await;
    let (_send, mut recv) = open(&connection, PATH, b"{}").await;
    bench.engine.post().await.answer("200 OK", "application/json", "{}").await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(rest(&mut recv).await, b"{}");
    drop(stage.stop);
}

#[tokio::test]
async fn stopping_resets_what_still_runs_with_the_code_of_a_shutdown() {
    let mut stage = Stage::set().await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    stage.stop.cancel();
    let error = soon("the end", recv.read_to_end(1 << 20)).await.expect_err("no clean end");
    if let quinn::ReadToEndError::Read(ReadError::ConnectionLost(lost)) = &error {
        // The connection's own goodbye may overtake the stream's.
        let quinn::ConnectionError::ApplicationClosed(close) = lost else { panic!("no goodbye: {lost}") };
        assert_eq!(close.error_code, VarInt::from_u32(code::SHUTDOWN));
    } else {
        assert_eq!(reset_code(&error), code::SHUTDOWN);
    }
    soon("the engine's connection closes", post.closed_by_agent()).await;
}
