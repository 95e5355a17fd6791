//! Streams whose reader has stopped hold their own writer and nobody else, however many they are.

use crate::ends::{QuicEnds, stream};
use bytes::Bytes;
use mesh_link::{Connection, h2_link};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What an engine would send on each of them.
const OF_EACH: usize = 1 << 20;
/// What has to pass beside them.
const OF_ANOTHER: usize = 4 << 20;

#[tokio::test]
async fn over_quic() {
    let ends = QuicEnds::listening();
    let (router, agent) = ends.connected(ends.address).await;
    another_flows_beside(&router, &agent, 20, 1000).await;
}

async fn h2_ends() -> [Connection; 2] {
    let (router, agent) = tokio::io::duplex(64 * 1024);
    let (router, agent) = tokio::join!(h2_link::opening(router), h2_link::accepting(agent, 1024));
    [router, agent].map(|end| Connection::H2(end.expect("greeted")))
}

#[tokio::test(start_paused = true)]
async fn over_h2() {
    let [router, agent] = h2_ends().await;
    another_flows_beside(&router, &agent, 20, 200).await;
}

#[tokio::test(start_paused = true)]
async fn over_h2_with_the_shortest_tokens_there_are() {
    let [router, agent] = h2_ends().await;
    // Their bookkeeping is many times as long as they are.
    another_flows_beside(&router, &agent, 6, 10).await;
}

/// Beside `slow` streams that nobody reads, whose answers come in tokens of `token` bytes.
async fn another_flows_beside(router: &Connection, agent: &Connection, slow: usize, token: usize) {
    let (mut unread, mut writers) = (Vec::new(), JoinSet::new());
    for _ in 0..slow {
        let (asked, mut reply) = stream(router, agent).await;
        unread.push(asked);
        let words = Bytes::from(vec![1; token]);
        writers.spawn(async move {
            let mut sent = 0;
            while sent < OF_EACH {
                // As long as the reader takes nothing, this ends only by being blocked.
                match timeout(Duration::from_millis(500), reply.0.write(words.clone())).await {
                    Ok(written) => written.expect("the connection stands"),
                    Err(_) => break,
                }
                sent += token;
            }
            (sent, reply)
        });
    }
    let mut held = Vec::new();
    while let Some(writer) = writers.join_next().await {
        let (sent, reply) = writer.expect("no panic");
        assert!(sent < OF_EACH, "{sent} bytes wait unread of one stream");
        held.push(reply);
    }

    let ((_ask, mut answer), (mut reply, _asked)) = stream(router, agent).await;
    let sending = tokio::spawn(async move {
        reply.write(Bytes::from(vec![2; OF_ANOTHER])).await.expect("it flows");
        reply.finish();
    });
    let mut seen = 0;
    while let Some(bytes) =
        timeout(Duration::from_secs(10), answer.chunk(1 << 16)).await.expect("it flows").expect("whole")
    {
        seen += bytes.len();
    }
    assert_eq!(seen, OF_ANOTHER);
    sending.await.expect("sent");
    assert!(router.lost().is_none() && agent.lost().is_none());
}
