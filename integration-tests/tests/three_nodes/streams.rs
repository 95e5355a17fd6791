//! Many streams at once over one QUIC connection to each machine.

use crate::same_bytes::without_what_differs;
use crate::{ThreeNodes, chat, streamed};
use futures_util::future::join_all;
use std::collections::BTreeMap;

const STREAMS: usize = 200;
const QUESTIONS: usize = 8;
const TOKENS: u32 = 8;

fn question(number: usize) -> String {
    format!("Tell me about the number {number}.")
}

#[tokio::test]
async fn two_hundred_streams_at_once_lose_repeat_and_reorder_nothing() {
    let Some(three) = ThreeNodes::start().await else { return };
    let path = "/v1/chat/completions";
    let compared = |events: Vec<String>| -> Vec<String> {
        events.iter().map(|event| without_what_differs(event)).collect()
    };
    let mut own = BTreeMap::new();
    for (node, model) in [(&three.msi, "tiny-trained"), (&three.beelink, "tiny-random")] {
        let engine = node.engine(model).await;
        for number in 0..QUESTIONS {
            let body = streamed(chat(model, &question(number), TOKENS));
            own.insert((model, number), compared(engine.events(path, &body).await.rest().await));
        }
    }
    let client = three.mesh.client();
    let streams = (0..STREAMS).map(|stream| {
        let client = client.clone();
        async move {
            let (mode, model) = [("mesh/code", "tiny-trained"), ("mesh/ask", "tiny-random")][stream % 2];
            let number = stream / 2 % QUESTIONS;
            let events = client.events(path, &streamed(chat(mode, &question(number), TOKENS))).await;
            assert_eq!(events.status, 200, "stream {stream}");
            // One that waited for its slot for over ten seconds has begun before anybody knew where it would go.
            let named = events.header("x-mesh-model");
            assert!(named == model || named.is_empty(), "stream {stream}: {named}");
            let signs = |event: &String| event.starts_with(':');
            let events: Vec<_> = events.rest().await.into_iter().filter(|event| !signs(event)).collect();
            ((model, number), events)
        }
    });
    let ended = join_all(streams).await;
    assert_eq!(ended.len(), STREAMS);
    for (stream, (key, events)) in ended.into_iter().enumerate() {
        assert_eq!(compared(events), own[&key], "stream {stream}, {key:?}");
    }
    three.end().await;
}
