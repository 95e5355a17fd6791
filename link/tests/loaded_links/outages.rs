//! Networks between two ends of a QUIC connection that pass nothing for a while.

use crate::ends::{ANY, QuicEnds, stream};
use bytes::Bytes;
use futures_util::future::join_all;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{Barrier, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

/// Connections, each over a path whose delay is longer than that of the one before by this: the times of QUIC's own probes
/// differ between them.
const PATHS: u32 = 16;
const LONGER: Duration = Duration::from_millis(2);

const OUTAGE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Before, during and after the outage.
const TOKENS: u8 = 120;

/// Datagrams on their way.
const QUEUE: usize = 4096;

/// Passes datagrams between one agent and its router as long as the network is there, late by `delay`.
async fn path(
    router: SocketAddr,
    delay: Duration,
    passes: watch::Receiver<bool>,
) -> (SocketAddr, JoinSet<()>) {
    let near = Arc::new(UdpSocket::bind(ANY).await.expect("a port"));
    let far = Arc::new(UdpSocket::bind(ANY).await.expect("a port"));
    let address = near.local_addr().expect("bound");
    let (tell_agent, agent) = watch::channel(router);
    let mut tasks = JoinSet::new();
    for (from, to, to_agent) in [(near.clone(), far.clone(), false), (far, near, true)] {
        let (tell_agent, agent, passes) = (tell_agent.clone(), agent.clone(), passes.clone());
        let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
        tasks.spawn(async move {
            let mut datagram = [0; 2048];
            while let Ok((length, sender)) = from.recv_from(&mut datagram).await {
                if !to_agent {
                    tell_agent.send_replace(sender);
                }
                if *passes.borrow() {
                    // What the queue has no room for is lost, as in a network.
                    drop(late.try_send((Instant::now() + delay, datagram[..length].to_vec())));
                }
            }
        });
        tasks.spawn(async move {
            while let Some((at, datagram)) = due.recv().await {
                sleep_until(at).await;
                let target = if to_agent { *agent.borrow() } else { router };
                drop(to.send_to(&datagram, target).await);
            }
        });
    }
    (address, tasks)
}

#[tokio::test]
async fn an_outage_of_three_seconds_ends_no_connection_whatever_its_round_trip() {
    let (network, passes) = watch::channel(true);
    let all_stand = Arc::new(Barrier::new(PATHS as usize + 1));
    let streams = join_all((1..=PATHS).map(|number| {
        let (passes, all_stand) = (passes.clone(), all_stand.clone());
        async move {
            let ends = QuicEnds::listening();
            let (address, _path) = path(ends.address, LONGER * number, passes).await;
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
    let (address, _path) = path(ends.address, Duration::from_millis(20), passes).await;
    let (router, _agent) = ends.connected(address).await;
    assert!(!router.is_silent().await);
    network.send_replace(false);
    assert!(router.is_silent().await);
    assert!(router.lost().is_none(), "asking ends nothing");
    network.send_replace(true);
    assert!(!router.is_silent().await);
}
