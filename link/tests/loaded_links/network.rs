//! A network between an agent and its router that can be late and lose datagrams.

use crate::ends::ANY;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Datagrams on their way.
const QUEUE: usize = 4096;

/// Where a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Agent,
    Router,
}

/// Passes those datagrams between one agent and its router of which `passes` says so, late by `delay`.
pub(crate) async fn path(
    router: SocketAddr,
    delay: Duration,
    passes: impl Fn(To, &[u8]) -> bool + Clone + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let near = Arc::new(UdpSocket::bind(ANY).await.expect("a port"));
    let far = Arc::new(UdpSocket::bind(ANY).await.expect("a port"));
    let address = near.local_addr().expect("bound");
    let (tell_agent, agent) = watch::channel(router);
    let mut tasks = JoinSet::new();
    for (from, by, to) in [(near.clone(), far.clone(), To::Router), (far, near, To::Agent)] {
        let (tell_agent, agent, passes) = (tell_agent.clone(), agent.clone(), passes.clone());
        let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
        tasks.spawn(async move {
            let mut datagram = [0; 2048];
            while let Ok((length, sender)) = from.recv_from(&mut datagram).await {
                if to == To::Router {
                    tell_agent.send_replace(sender);
                }
                if passes(to, &datagram[..length]) {
                    // What the queue has no room for is lost, as in a network.
                    drop(late.try_send((Instant::now() + delay, datagram[..length].to_vec())));
                }
            }
        });
        tasks.spawn(async move {
            while let Some((at, datagram)) = due.recv().await {
                sleep_until(at).await;
                let target = match to {
                    To::Agent => *agent.borrow(),
                    To::Router => router,
                };
                drop(by.send_to(&datagram, target).await);
            }
        });
    }
    (address, tasks)
}
