//! Two ends of an HTTP/2 connection in one process, on a pipe that the test can cut or freeze.

use bytes::Bytes;
use mesh_link::{Connection, Receiving, Sending, StreamError, h2_link};
use mesh_proto::frame::code;
use std::time::Duration;
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// The router's end, the agent's end, and what freezes the pipe between them when it is used or dropped.
async fn ends() -> (Connection, Connection, oneshot::Sender<()>) {
    let (router, mut left): (DuplexStream, DuplexStream) = duplex(64 * 1024);
    let (agent, mut right) = duplex(64 * 1024);
    let (freeze, frozen) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = copy_bidirectional(&mut left, &mut right) => {}
            _ = frozen => {}
        }
        // Neither end sees the other's close.
        std::future::pending::<()>().await;
    });
    let (router, agent) = tokio::join!(h2_link::opening(router), h2_link::accepting(agent, 1024));
    (Connection::H2(router.expect("greeted")), Connection::H2(agent.expect("greeted")), freeze)
}

/// A stream that both ends have: the router has said `hello`.
async fn stream(router: &Connection, agent: &Connection) -> [(Sending, Receiving); 2] {
    let mut opened = router.open().await.expect("a stream");
    opened.0.write(Bytes::from_static(b"hello")).await.expect("the agent reads");
    let mut accepted = agent.accept().await.expect("a stream");
    assert_eq!(accepted.1.chunk(100).await, Ok(Some(Bytes::from_static(b"hello"))));
    [opened, accepted]
}

#[tokio::test]
async fn bytes_arrive_in_order_and_a_clean_end_is_one() {
    let (router, agent, _carrier) = ends().await;
    let [(mut ask, mut answer), (mut reply, mut asked)] = stream(&router, &agent).await;
    ask.finish();
    assert_eq!(asked.chunk(100).await, Ok(None));
    let pieces = ["a", "", "bc", "d"].map(|piece| Bytes::from_static(piece.as_bytes()));
    reply.write_all(&mut pieces.to_vec()).await.expect("the router reads");
    let large = Bytes::from(vec![7; 5 << 20]);
    let sent = large.clone();
    let writing = tokio::spawn(async move {
        reply.write_all(&mut vec![sent.slice(..1 << 20), sent.slice(1 << 20..)]).await.expect("it reads on");
        reply.finish();
    });
    let mut seen = Vec::new();
    while let Some(bytes) = answer.chunk(1000).await.expect("whole") {
        assert!(bytes.len() <= 1000);
        seen.extend_from_slice(&bytes);
    }
    writing.await.expect("sent");
    assert!(seen.strip_prefix(b"abcd") == Some(&large[..]));
}

#[tokio::test]
async fn a_reset_reaches_the_other_side_with_its_code_also_while_nothing_is_sent() {
    let (router, agent, _carrier) = ends().await;
    for number in [code::CANCELLED, code::ENGINE_BROKE, code::SHUTDOWN, code::BAD_FRAME] {
        let [(mut ask, _answer), (mut reply, mut asked)] = stream(&router, &agent).await;
        ask.finish();
        let stopped = reply.stopped();
        ask.reset(number);
        stopped.await;
        assert_eq!(reply.write(Bytes::from_static(b"x")).await, Err(StreamError::Ended(number)));
        assert_eq!(asked.chunk(1).await, Err(StreamError::Ended(number)));

        let [(_ask, mut answer), (mut reply, _asked)] = stream(&router, &agent).await;
        reply.reset(number);
        assert_eq!(answer.chunk(1).await, Err(StreamError::Ended(number)));
    }
}

#[tokio::test]
async fn what_is_dropped_unfinished_never_ends_cleanly() {
    let (router, agent, _carrier) = ends().await;
    let [(_ask, mut answer), accepted] = stream(&router, &agent).await;
    drop(accepted);
    assert_eq!(answer.chunk(1).await, Err(StreamError::Ended(0)));

    let [opened, (reply, _asked)] = stream(&router, &agent).await;
    let stopped = reply.stopped();
    drop(opened);
    stopped.await;

    // An answer that ends before its request is whole, and wants no more of it.
    let [(_ask, mut answer), (mut reply, asked)] = stream(&router, &agent).await;
    reply.write(Bytes::from_static(b"no")).await.expect("the router reads");
    reply.finish();
    drop((reply, asked));
    assert_eq!(answer.chunk(9).await, Ok(Some(Bytes::from_static(b"no"))));
    assert_eq!(answer.chunk(9).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_holds_its_writer_and_nobody_else() {
    let (router, agent, _carrier) = ends().await;
    let [(_ask, mut slow), (mut reply, _asked)] = stream(&router, &agent).await;
    let mut sent = 0_usize;
    // Tokens of 100 bytes: far more of them than the library would let wait by itself.
    while timeout(Duration::from_secs(1), reply.write(Bytes::from_static(&[1; 100]))).await.is_ok() {
        sent += 100;
        assert!(sent < 2 << 20, "it took {sent} bytes that nobody read");
    }
    let [(_ask, mut answer), (mut other, _asked)] = stream(&router, &agent).await;
    other.write(Bytes::from_static(b"on")).await.expect("it goes on");
    assert_eq!(answer.chunk(9).await, Ok(Some(Bytes::from_static(b"on"))));
    assert!(router.lost().is_none());
    let mut seen = 0;
    while seen < sent {
        seen += slow.chunk(1 << 20).await.expect("still there").expect("more").len();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_lost_within_seven_seconds() {
    let (router, agent, freeze) = ends().await;
    let [(_ask, mut answer), (_reply, mut asked)] = stream(&router, &agent).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(router.lost().is_none() && agent.lost().is_none(), "pings hold it");
    let since = Instant::now();
    freeze.send(()).expect("the pipe is there");
    for connection in [&router, &agent] {
        let lost = timeout(Duration::from_millis(7100), connection.closed()).await.expect("noticed");
        assert!(lost.0.contains("ping"), "{lost}");
    }
    assert!(since.elapsed() >= Duration::from_secs(5));
    assert!(matches!(answer.chunk(1).await, Err(StreamError::Lost(_))));
    assert!(matches!(asked.chunk(1).await, Err(StreamError::Lost(_))));
    assert!(router.open().await.is_err());
}

#[tokio::test]
async fn a_thousand_requests_that_are_cancelled_at_once_do_not_end_the_connection() {
    let (router, agent, _carrier) = ends().await;
    for _ in 0..3000 {
        let (mut ask, _answer) = router.open().await.expect("the connection stands");
        ask.write(Bytes::from_static(b"hello")).await.expect("the agent reads");
        ask.reset(code::CANCELLED);
        // The agent takes what has come, late.
        while let Ok(accepted) = timeout(Duration::ZERO, agent.accept()).await {
            drop(accepted.expect("a stream"));
        }
    }
    let (mut ask, mut answer) = router.open().await.expect("the connection stands");
    ask.write(Bytes::from_static(b"last")).await.expect("the agent reads");
    let _open = loop {
        let (mut reply, mut asked) = agent.accept().await.expect("a stream");
        if asked.chunk(9).await == Ok(Some(Bytes::from_static(b"last"))) {
            reply.write(Bytes::from_static(b"yes")).await.expect("the router reads");
            break (reply, asked);
        }
    };
    assert_eq!(answer.chunk(9).await, Ok(Some(Bytes::from_static(b"yes"))));
    assert!(router.lost().is_none() && agent.lost().is_none());
}
