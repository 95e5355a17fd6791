//! The data link between a scripted router and a scripted engine.

use crate::scripted_engine::Bench;
use crate::scripted_router::{Mesh, ScriptedRouter, any};
use crate::serve::{engine_answer, head, refusal};
use crate::soon;
use bytes::Bytes;
use mesh_link::{Connection, Receiving, Sending, StreamError};
use mesh_proto::frame::{self, code};
use mesh_proto::v1::RequestHead;
use node_agent::router_link::Identity;
use node_agent::router_link::data::{DataLink, DataWay, Patience};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const CANCEL_GOAL: Duration = Duration::from_millis(500);
const PATH: &str = "/v1/chat/completions";

struct Stage {
    mesh: Mesh,
    router: ScriptedRouter,
    connection: Connection,
    bench: Bench,
    control_up: watch::Sender<bool>,
    displaced: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Stage {
    async fn set(way: DataWay) -> Self {
        let mesh = Mesh::new();
        mesh.certify(Duration::from_secs(3600));
        let mut router = ScriptedRouter::start(&mesh, any());
        let bench = Bench::start().await;
        let stop = CancellationToken::new();
        let (control_up, displaced) = (watch::Sender::new(true), watch::Sender::new(0));
        let link = DataLink {
            router: router.address.to_string(),
            identity: Identity::open(&mesh.agent_folder()).expect("credentials"),
            serve: bench.serve.clone(),
            metrics: bench.metrics.clone(),
            control_up: control_up.subscribe(),
            displaced: displaced.subscribe(),
            way,
            patience: Patience::default(),
        };
        tokio::spawn(link.run(stop.clone()));
        let connection = router.connection().await;
        Self { mesh, router, connection, bench, control_up, displaced, stop }
    }
}

/// Sends a request whose head announces `body`.
pub(crate) async fn open(connection: &Connection, path: &str, body: &[u8]) -> (Sending, Receiving) {
    let (mut send, recv) = soon("a stream", connection.open()).await.expect("the agent takes requests");
    send.write(frame::encode_head(&head(path, body), body)).await.expect("the agent reads");
    send.finish();
    (send, recv)
}

/// All bytes up to a clean end.
pub(crate) async fn to_end(recv: &mut Receiving) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(bytes) = soon("the next bytes", recv.chunk(1 << 16)).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

async fn rest(recv: &mut Receiving) -> Vec<u8> {
    to_end(recv).await.expect("a clean end")
}

macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod over_quic {
            use node_agent::router_link::data::DataWay;
            $(#[tokio::test] async fn $name() { super::$name(DataWay::Quic).await })*
        }
        mod over_h2 {
            use node_agent::router_link::data::DataWay;
            $(#[tokio::test] async fn $name() { super::$name(DataWay::H2).await })*
        }
    };
}

over_both!(
    a_request_goes_to_the_engine_and_its_answer_comes_back_whole,
    a_body_larger_than_every_window_arrives_whole,
    tokens_come_through_one_by_one_as_the_engine_makes_them,
    a_router_that_wants_no_more_stops_the_engine_at_once,
    a_lost_connection_stops_the_engine_at_once,
    an_engine_that_breaks_off_resets_the_stream_and_never_ends_it,
    heads_that_no_router_should_send_are_refused_with_words,
    streams_that_break_the_frame_are_reset,
    a_router_that_came_back_is_dialled_again,
    stopping_resets_what_still_runs_with_the_code_of_a_shutdown,
    an_agent_whose_name_another_has_taken_dials_again_once_the_name_is_its_own,
);

/// A far router: of what is sent to it by UDP the packets arrive of whose numbers `arrives` says so, after `delay`.
async fn far(
    router: SocketAddr,
    delay: Duration,
    arrives: impl Fn(u64) -> bool + Send + 'static,
) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
    let address = near.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
        let (mut agent, mut number) = (None, 0);
        loop {
            tokio::select! {
                received = near.recv_from(&mut there) => {
                    let (length, from) = received.expect("a packet");
                    agent = Some(from);
                    number += 1;
                    if !arrives(number) {
                        continue;
                    }
                    let (packet, far) = (there[..length].to_vec(), far.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        far.send_to(&packet, router).await.expect("sent");
                    });
                }
                received = far.recv_from(&mut back) => {
                    let (length, _) = received.expect("a packet");
                    near.send_to(&back[..length], agent.expect("it has asked")).await.expect("sent");
                }
            }
        }
    });
    address
}

/// An agent that is linked by QUIC to a router that is [`far`].
struct Apart {
    _mesh: Mesh,
    _router: ScriptedRouter,
    connection: Connection,
    bench: Bench,
    stop: CancellationToken,
    link: JoinHandle<()>,
}

impl Apart {
    async fn by(delay: Duration, arrives: impl Fn(u64) -> bool + Send + 'static) -> Self {
        let mesh = Mesh::new();
        mesh.certify(Duration::from_secs(3600));
        let mut router = ScriptedRouter::start(&mesh, any());
        let (bench, stop) = (Bench::start().await, CancellationToken::new());
        let away = far(router.address, delay, arrives).await;
        let link =
            DataLink { router: away.to_string(), way: DataWay::Quic, ..hurried(&mesh, &router, &bench) };
        let link = tokio::spawn(link.run(stop.clone()));
        let connection = router.connection().await;
        Self { _mesh: mesh, _router: router, connection, bench, stop, link }
    }
}

#[tokio::test]
async fn a_link_that_loses_packets_is_counted_as_such_until_it_is_gone() {
    let Apart { _mesh, _router, connection, mut bench, stop, link } =
        Apart::by(Duration::ZERO, |number| number % 23 != 0).await;
    let (_send, mut recv) = open(&connection, PATH, b"{}").await;
    let mut post = bench.engine.post().await;
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(
        bench.metrics.link_lost_share(),
        Some(0.0),
        "it is looked at, and nothing is known against it"
    );
    let tokens = async {
        while bench.metrics.link_lost_share() == Some(0.0) {
            post.send_chunk("data: 1\n\n").await;
            // One by one, or few packets hold many.
            recv.chunk(1 << 16).await.expect("the link stands").expect("there is more");
        }
    };
    soon("the losses are seen", tokens).await;
    let share = bench.metrics.link_lost_share().expect("it is told");
    assert!((0.005..0.3).contains(&share), "{share} is told as lost, 0.043 is");
    stop.cancel();
    soon("the link's end", link).await.expect("no panic");
    assert_eq!(bench.metrics.link_lost_share(), None);
}

#[tokio::test]
async fn a_name_that_is_lost_before_the_link_stands_is_waited_for() {
    let mesh = Mesh::new();
    mesh.certify(Duration::from_secs(3600));
    let mut router = ScriptedRouter::start(&mesh, any());
    let (bench, stop) = (Bench::start().await, CancellationToken::new());
    let (control_up, displaced) = (watch::Sender::new(false), watch::Sender::new(0));
    let link = DataLink {
        way: DataWay::Quic,
        control_up: control_up.subscribe(),
        displaced: displaced.subscribe(),
        ..hurried(&mesh, &router, &bench)
    };
    displaced.send_modify(|times| *times += 1);
    tokio::spawn(link.run(stop.clone()));
    assert!(tokio::time::timeout(Duration::from_millis(300), router.connection()).await.is_err());
    control_up.send_replace(true);
    router.connection().await;
    stop.cancel();
}

#[tokio::test]
async fn an_answer_that_has_ended_arrives_although_the_agent_stops() {
    let Apart { _mesh, _router, connection, mut bench, stop, link: _link } =
        Apart::by(Duration::from_millis(30), |_| true).await;
    let (_send, mut recv) = open(&connection, PATH, b"{}").await;
    // More than is on its way at one time, less than the link takes before it is read.
    let answer = format!("\"{}\"", "x".repeat(400 << 10));
    let post = bench.engine.post().await;
    // As the agent does it: first it takes no more, and when nothing runs any more the links end.
    bench.serve.drain();
    post.answer("200 OK", "application/json", &answer).await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let reading = tokio::spawn(async move { rest(&mut recv).await });
    soon("the end", bench.serve.in_flight().wait_for(|&running| running == 0)).await.expect("it serves");
    stop.cancel();
    assert_eq!(soon("the answer", reading).await.expect("whole"), answer.as_bytes());
}

async fn an_agent_whose_name_another_has_taken_dials_again_once_the_name_is_its_own(way: DataWay) {
    let mut stage = Stage::set(way).await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let running = stage.bench.engine.post().await;
    stage.control_up.send_replace(false);
    stage.displaced.send_modify(|times| *times += 1);
    // What runs goes on, and ends the old connection with itself.
    running.answer("200 OK", "application/json", "{}").await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(rest(&mut recv).await, b"{}");
    soon("the end of the old connection", stage.connection.closed()).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(300), stage.router.connection()).await.is_err(),
        "it would take the other agent's place"
    );
    stage.control_up.send_replace(true);
    stage.connection = stage.router.connection().await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    stage.bench.engine.post().await.answer("200 OK", "application/json", "{}").await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(rest(&mut recv).await, b"{}");
}

async fn a_request_goes_to_the_engine_and_its_answer_comes_back_whole(way: DataWay) {
    let mut stage = Stage::set(way).await;
    let (_send, mut recv) = open(&stage.connection, PATH, br#"{"model":"tiny"}"#).await;
    let post = stage.bench.engine.post().await;
    assert_eq!((post.path.as_str(), post.body.as_slice()), (PATH, br#"{"model":"tiny"}"#.as_slice()));
    post.answer("200 OK", "application/json", r#"{"answer":42}"#).await;
    let head = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let answer = engine_answer(head);
    assert_eq!((answer.status, answer.engine.as_str()), (200, "scripted"));
    assert_eq!(rest(&mut recv).await, br#"{"answer":42}"#);
}

async fn a_body_larger_than_every_window_arrives_whole(way: DataWay) {
    let mut stage = Stage::set(way).await;
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

async fn tokens_come_through_one_by_one_as_the_engine_makes_them(way: DataWay) {
    let mut stage = Stage::set(way).await;
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

async fn a_router_that_wants_no_more_stops_the_engine_at_once(way: DataWay) {
    let mut stage = Stage::set(way).await;
    // HTTP/2 knows no way to stop one direction.
    let ways: &[&str] = if way == DataWay::H2 { &["RESET", "DROP"] } else { &["STOP_SENDING", "RESET"] };
    for way in ways {
        let (mut send, mut recv) = soon("a stream", stage.connection.open()).await.expect("a stream");
        send.write(frame::encode_head(&head(PATH, b"{}"), b"{}")).await.expect("the agent reads");
        let mut post = stage.bench.engine.post().await;
        post.begin_stream().await;
        post.send_chunk("data: 1\n\n").await;
        soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
        match *way {
            "RESET" => send.reset(code::CANCELLED),
            "STOP_SENDING" => recv.stop(code::CANCELLED),
            _ => drop((send, recv)),
        }
        let closed = tokio::time::timeout(CANCEL_GOAL, post.closed_by_agent()).await;
        closed.unwrap_or_else(|_| panic!("{way} did not reach the engine within 500 ms"));
    }
}

async fn a_lost_connection_stops_the_engine_at_once(way: DataWay) {
    let mut stage = Stage::set(way).await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    stage.connection.close(0, "gone");
    tokio::time::timeout(CANCEL_GOAL, post.closed_by_agent()).await.expect("closed within 500 ms");
    stage.bench.idle().await;
}

async fn an_engine_that_breaks_off_resets_the_stream_and_never_ends_it(way: DataWay) {
    let mut stage = Stage::set(way).await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    post.begin_stream().await;
    post.send_chunk("data: 1\n\n").await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let mut first = [0; 9];
    soon("the token", recv.read_exact(&mut first)).await.expect("a token");
    drop(post);
    let error = to_end(&mut recv).await.expect_err("no clean end");
    assert_eq!(error, StreamError::Ended(code::ENGINE_BROKE));
}

async fn heads_that_no_router_should_send_are_refused_with_words(way: DataWay) {
    let mut stage = Stage::set(way).await;
    let (_send, mut recv) = open(&stage.connection, "/slots", b"").await;
    let head_back = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(refusal(head_back).kind, "bad_request");
    assert!(rest(&mut recv).await.is_empty());

    // Refused by its length alone: the agent does not wait for 257 MiB.
    let (mut send, mut recv) = soon("a stream", stage.connection.open()).await.expect("a stream");
    let huge = RequestHead { body_length: frame::BODY_LIMIT + 1, ..head(PATH, b"") };
    send.write(frame::encode_head(&huge, b"")).await.expect("the agent reads");
    let head_back = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    let refused = refusal(head_back);
    assert!(
        refused.kind == "bad_request" && refused.message.contains("over the limit"),
        "{}",
        refused.message
    );
    assert!(stage.bench.engine.posts.try_recv().is_err(), "no engine heard of either");
}

async fn streams_that_break_the_frame_are_reset(way: DataWay) {
    let stage = Stage::set(way).await;
    let short = frame::encode_head(&head(PATH, b"four"), b"thr");
    let long = frame::encode_head(&head(PATH, b"four"), b"five5");
    for wire in [&[0xff_u8; 16][..], &short[..], &long[..]] {
        let (mut send, mut recv) = soon("a stream", stage.connection.open()).await.expect("a stream");
        // The agent may have given up before all of it is written.
        drop(send.write(Bytes::copy_from_slice(wire)).await);
        send.finish();
        let error = to_end(&mut recv).await.expect_err("no clean end");
        assert_eq!(error, StreamError::Ended(code::BAD_FRAME), "{} bytes", wire.len());
    }
}

async fn a_router_that_came_back_is_dialled_again(way: DataWay) {
    let stage = Stage::set(way).await;
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

async fn stopping_resets_what_still_runs_with_the_code_of_a_shutdown(way: DataWay) {
    let mut stage = Stage::set(way).await;
    let (_send, mut recv) = open(&stage.connection, PATH, b"{}").await;
    let mut post = stage.bench.engine.post().await;
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    stage.stop.cancel();
    let error = to_end(&mut recv).await.expect_err("no clean end");
    match error {
        StreamError::Ended(number) => assert_eq!(number, code::SHUTDOWN),
        // The connection's own goodbye may overtake the stream's.
        StreamError::Lost(why) => assert!(why.contains("the agent stops"), "no goodbye: {why}"),
    }
    soon("the engine's connection closes", post.closed_by_agent()).await;
}

/// A data link as impatient as a test.
fn hurried(mesh: &Mesh, router: &ScriptedRouter, bench: &Bench) -> DataLink {
    DataLink {
        router: router.address.to_string(),
        identity: Identity::open(&mesh.agent_folder()).expect("credentials"),
        serve: bench.serve.clone(),
        metrics: bench.metrics.clone(),
        control_up: watch::Sender::new(true).subscribe(),
        displaced: watch::Sender::new(0).subscribe(),
        way: DataWay::Auto,
        patience: Patience {
            fall_back_after: Duration::from_millis(1),
            first_look: Duration::from_millis(100),
            look_again: Duration::from_millis(200),
            linger: Duration::from_millis(1),
        },
    }
}

#[tokio::test]
async fn where_udp_does_not_pass_requests_come_over_tcp_until_it_does_and_none_is_cut() {
    let mesh = Mesh::new();
    mesh.certify(Duration::from_secs(3600));
    let (mut router, let_udp_pass) = ScriptedRouter::start_deaf(&mesh);
    let (mut bench, stop) = (Bench::start().await, CancellationToken::new());
    tokio::spawn(hurried(&mesh, &router, &bench).run(stop.clone()));
    let over_tcp = router.connection().await;
    assert!(matches!(over_tcp, Connection::H2(_)), "{over_tcp:?}");
    let (_send, mut running) = open(&over_tcp, PATH, b"{}").await;
    let mut post = bench.engine.post().await;
    post.begin_stream().await;
    soon("the head", frame::read_response_head(&mut running)).await.expect("a head");

    let_udp_pass();
    let over_udp = router.connection().await;
    assert!(matches!(over_udp, Connection::Quic(_)), "{over_udp:?}");
    let (_send, mut recv) = open(&over_udp, PATH, b"{}").await;
    bench.engine.post().await.answer("200 OK", "application/json", "[1]").await;
    soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(rest(&mut recv).await, b"[1]");

    // What began on the old connection ends there, and the connection after it.
    assert!(over_tcp.lost().is_none());
    post.send_chunk("data: 1\n\n").await;
    post.send("0\r\n\r\n").await;
    assert_eq!(rest(&mut running).await, b"data: 1\n\n");
    soon("the old connection's end", over_tcp.closed()).await;
    assert!(over_udp.lost().is_none());
    stop.cancel();
    bench.idle().await;
}

#[tokio::test]
async fn a_router_that_is_away_altogether_is_no_sign_that_udp_does_not_pass() {
    let mesh = Mesh::new();
    mesh.certify(Duration::from_secs(3600));
    let (mut router, let_udp_pass) = ScriptedRouter::start_deaf(&mesh);
    let (bench, stop) = (Bench::start().await, CancellationToken::new());
    let mut link = hurried(&mesh, &router, &bench);
    let control = watch::Sender::new(false);
    link.control_up = control.subscribe();
    tokio::spawn(link.run(stop.clone()));
    // Longer than two dials take.
    let waited = tokio::time::timeout(Duration::from_secs(6), router.connection()).await;
    assert!(waited.is_err(), "nothing stood: {waited:?}");
    let_udp_pass();
    let connection = router.connection().await;
    assert!(matches!(connection, Connection::Quic(_)), "{connection:?}");
    stop.cancel();
    drop(control);
}
