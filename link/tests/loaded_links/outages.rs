//! Networks between two ends of a QUIC connection that pass nothing for a while.

use crate::ends::{QuicEnds, stream};
use crate::network::path;
use bytes::Bytes;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Barrier, watch};
use tokio::time::{interval, sleep, timeout};

/// Connections, each over a path whose delay is longer than that of the one before by this: the times of QUIC's own probes
/// differ between them.
const PATHS: u32 = 16;
const LONGER: Duration = Duration::from_millis(2);

const OUTAGE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Before, during and after the outage.
const TOKENS: u8 = 120;

#[tokio::test]
async fn an_outage_of_three_seconds_ends_no_connection_whatever_its_round_trip() {
    let (network, passes) = watch::channel(true);
    let all_stand = Arc::new(Barrier::new(PATHS as usize + 1));
    let streams = join_all((1..=PATHS).map(|number| {
        let (passes, all_stand) = (passes.clone(), all_stand.clone());
        async move {
            let ends = QuicEnds::listening();
            let (address, _path) =
                path(ends.address, LONGER * number, move |_, _: &[u8]| *passes.borrow()).await;
            let (router, agent) = ends.connected(address).await;
            let ((_ask, mut answer), (mut reply, _asked)) = stream(&router, &agent).await;
            all_stand.wait().await;
            let writing = async {
                let mut tick = interval(PAUSE);
                for token in 0..TOKENS {
                    tick.tick().await;
                    reply.write(Bytes::from(vec![token])).await.expect("the connection stands");
                }
                reply.finish();
            };
            let reading = async {
                let mut seen = Vec::new();
                while let Some(bytes) = answer.chunk(100).await.expect("the connection stands") {
                    seen.extend_from_slice(&bytes);
                }
                assert_eq!(seen, (0..TOKENS).collect::<Vec<u8>>());
            };
            tokio::join!(writing, reading);
        }
    }));
    let outage = async {
        all_stand.wait().await;
        sleep(Duration::from_secs(1)).await;
        network.send_replace(false);
        sleep(OUTAGE).await;
        network.send_replace(true);
    };
    let all = async { tokio::join!(streams, outage) };
    timeout(Duration::from_secs(60), all).await.expect("all tokens came");
}

#[tokio::test]
async fn only_a_peer_whose_packets_do_not_come_is_silent() {
    let ends = QuicEnds::listening();
    let (network, passes) = watch::channel(true);
    let (address, _path) =
        path(ends.address, Duration::from_millis(20), move |_, _: &[u8]| *passes.borrow()).await;
    let (router, _agent) = ends.connected(address).await;
    assert!(!router.is_silent().await);
    network.send_replace(false);
    assert!(router.is_silent().await);
    assert!(router.lost().is_none(), "asking ends nothing");
    network.send_replace(true);
    assert!(!router.is_silent().await);
}
