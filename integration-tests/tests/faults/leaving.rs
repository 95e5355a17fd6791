//! Clients that leave: the engine is told.

use crate::{CHAT, Pair, chat, streamed};
use integration_tests::scripted_engine::{Script, Step};

#[tokio::test]
async fn a_client_that_leaves_at_any_moment_closes_the_engine_s_connection() {
    let pair = Pair::start(|_| ()).await;
    let client = pair.mesh.client();
    // Before the head, between head and content, after content, and a whole answer that stopped half way.
    let half = Script::Answer {
        status: 200,
        content_type: "application/json",
        body: vec![Step::Send("{".into()), Step::Hang],
    };
    for (number, (script, body)) in [
        (Script::Silence, chat("tiny-a")),
        (Script::Silence, streamed(chat("tiny-a"))),
        (Script::stream(&[], &[Step::Hang]), streamed(chat("tiny-a"))),
        (Script::stream(&["one"], &[Step::Hang]), streamed(chat("tiny-a"))),
        (half, chat("tiny-a")),
    ]
    .into_iter()
    .enumerate()
    {
        pair.engine_a.next(script);
        let client = client.clone();
        let asking = tokio::spawn(async move { client.post(CHAT, &body).await });
        pair.engine_a.until("the request is there", |events| events.posts.len() == number + 1).await;
        asking.abort();
        pair.engine_a.until("it was given up", |events| events.given_up == number + 1).await;
    }
    assert!(pair.engine_b.posts().is_empty());
    pair.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_a_model_leaves_nothing_behind() {
    let pair = Pair::start(|_| ()).await;
    pair.engine_a.always(Script::loading());
    let client = pair.mesh.client();
    let asking = tokio::spawn(async move { client.post(CHAT, &chat("tiny-a")).await });
    pair.engine_a.until("it was asked twice", |events| events.posts.len() >= 2).await;
    asking.abort();
    drop(asking.await);
    pair.end().await;
}
