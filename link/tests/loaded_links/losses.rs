//! Networks that lose a packet now and then.

use crate::ends::{QuicEnds, stream};
use crate::network::{To, path};
use bytes::Bytes;
use mesh_link::{Connection, Receiving, Sending};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Of as many datagrams to the router one is lost.
const ONE_IN: u64 = 50;
const PAUSE: Duration = Duration::from_millis(1);
/// On a busy machine tokens come together and datagrams are few.
const LIMIT: Duration = Duration::from_secs(60);

/// What a network has seen of the datagrams to the router.
#[derive(Debug, Default)]
struct Seen {
    different: HashSet<Vec<u8>>,
    twice: u64,
    lost: u64,
}

#[derive(Debug, Clone, Default)]
struct Network {
    seen: Arc<Mutex<Seen>>,
}

impl Network {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test has failed")
    }

    /// Counts a datagram; whether it passes. Which ones do not is scattered, and the same in each run.
    fn passes(&self, to: To, datagram: &[u8], loses: bool) -> bool {
        if to == To::Agent {
            return true;
        }
        let mut seen = self.seen();
        let number = seen.different.len() as u64 + seen.twice;
        if !seen.different.insert(datagram.to_vec()) {
            seen.twice += 1;
        }
        let lost = loses && scattered(number).is_multiple_of(ONE_IN);
        seen.lost += u64::from(lost);
        !lost
    }
}

/// Steele, Lea and Flood's splitmix64: neighbours have nothing to do with each other.
fn scattered(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Sends one token after the other until `enough`, and reads each at the other end, in order.
async fn tokens(reply: &mut Sending, answer: &mut Receiving, enough: impl Fn() -> bool) {
    let mut tick = interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut seen, mut carry) = (0_u32, 0_u32, Vec::new());
    let all = async {
        while !enough() || seen < sent {
            tokio::select! {
                _ = tick.tick(), if !enough() => {
                    reply.write(Bytes::copy_from_slice(&sent.to_be_bytes())).await.expect("the connection stands");
                    sent += 1;
                }
                read = answer.chunk(4096) => {
                    carry.extend_from_slice(&read.expect("the connection stands").expect("more tokens"));
                    while let Some((token, rest)) = carry.split_first_chunk::<4>() {
                        assert_eq!(u32::from_be_bytes(*token), seen, "each token once, in order");
                        seen += 1;
                        carry = rest.to_vec();
                    }
                }
            }
        }
    };
    timeout(LIMIT, all).await.expect("enough tokens in time");
}

/// Packets that the agent had to send again.
fn sent_again(agent: &Connection) -> u64 {
    let Connection::Quic(connection) = agent else { panic!("not QUIC") };
    connection.stats().path.lost_packets
}

#[tokio::test]
async fn over_a_link_that_loses_packets_hardly_a_token_is_late() {
    let (network, ends) = (Network::default(), QuicEnds::listening());
    let lossy = network.clone();
    let delay = Duration::from_millis(5);
    let path = path(ends.address, delay, move |to, datagram: &[u8]| lossy.passes(to, datagram, true));
    let (address, _path) = path.await;
    let (router, agent) = ends.connected(address).await;
    let ((_ask, mut answer), (mut reply, _asked)) = stream(&router, &agent).await;
    tokens(&mut reply, &mut answer, || network.seen().twice > 100).await;
    assert!(sent_again(&agent) > 0, "losses were seen, or nothing would be sent twice");
    let told = ends.agent_loses().expect("it is told as lossy");
    assert!((0.004..0.3).contains(&told), "{told} of its packets are told as lost, one in {ONE_IN} is");
    let (lost, again) = (network.seen().lost, sent_again(&agent));
    tokens(&mut reply, &mut answer, || network.seen().lost >= lost + 40).await;
    let again = sent_again(&agent) - again;
    assert!(again <= 10, "of 40 datagrams that were lost {again} had to be sent again");
}

#[tokio::test]
async fn over_a_good_link_nothing_is_sent_twice_and_nobody_follows_what_is_closed() {
    let (network, ends) = (Network::default(), QuicEnds::listening());
    let good = network.clone();
    let path =
        path(ends.address, Duration::ZERO, move |to, datagram: &[u8]| good.passes(to, datagram, false));
    let (address, _path) = path.await;
    let (router, agent) = ends.connected(address).await;
    let ((_ask, mut answer), (mut reply, _asked)) = stream(&router, &agent).await;
    tokens(&mut reply, &mut answer, || network.seen().different.len() >= 500).await;
    // A busy machine can lose packets, too.
    assert!(network.seen().twice == 0 || sent_again(&agent) > 0, "{} were sent twice", network.seen().twice);
    assert!(network.seen().twice > 0 || ends.agent_loses().is_none());
    agent.close(0, "over");
    timeout(LIMIT, ends.nobody_follows()).await.expect("both ends see it closed");
}
