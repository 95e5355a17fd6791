//! Engines that answer 503 `Loading model`: the client waits or is served elsewhere, and never sees that 503.

use crate::{CHAT, Pair, chat, streamed};
use integration_tests::client::text_of;
use integration_tests::scripted_engine::Script;

#[tokio::test]
async fn a_loading_model_is_waited_for() {
    let pair = Pair::start(|_| ()).await;
    let client = pair.mesh.client();
    for _ in 0..3 {
        pair.engine_a.next(Script::loading());
    }
    let answer = client.post(CHAT, &chat("tiny-a")).await;
    assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "a"), "{}", answer.text());
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "from tiny-a");
    assert_eq!(pair.engine_a.posts().len(), 4);
    for _ in 0..3 {
        pair.engine_a.next(Script::loading());
    }
    let events = client.events(CHAT, &streamed(chat("tiny-a"))).await;
    assert_eq!(events.status, 200);
    let text: String = events.rest().await.iter().map(|event| text_of(event)).collect();
    assert_eq!(text, "from tiny-a");
    assert_eq!(pair.engine_a.posts().len(), 8);
    pair.end().await;
}

#[tokio::test]
async fn while_one_machine_loads_another_answers() {
    let pair = Pair::start(|_| ()).await;
    pair.engine_a.always(Script::loading());
    for body in [chat("mesh/code"), streamed(chat("mesh/code"))] {
        let answer = pair.mesh.client().post(CHAT, &body).await;
        assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "b"), "{}", answer.text());
        assert!(answer.text().contains("from tiny-b"), "{}", answer.text());
        let told = pair.mesh.explain(answer.header("x-mesh-request-id")).await;
        assert_eq!(told.attempts[0].result, "still loading the model");
    }
    pair.end().await;
}

#[tokio::test]
async fn a_model_that_loads_for_too_long_gets_an_error_of_the_mesh_that_says_so() {
    let pair = Pair::start(|limits| "1s".clone_into(&mut limits.load_wait)).await;
    pair.engine_a.always(Script::loading());
    let answer = pair.mesh.client().post(CHAT, &chat("tiny-a")).await;
    let error = answer.error(503, "model_loading");
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    assert!(!answer.text().contains("Loading model"), "{error}");
    pair.end().await;
}
