//! Networks that lose a packet now and then.

use crate::ends::{QuicEnds, stream};
use crate::network::{To, path};
use bytes::Bytes;
use mesh_link::{Connection, Receiving, Sending};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{interval, timeout};

/// Of as many datagrams to the router one is lost.
const ONE_IN: u64 = 50;
const TOKENS: u32 = 1500;
const PAUSE: Duration = Duration::from_millis(1);

/// What a network has seen of the datagrams to the router.
#[derive(Debug, Default)]
struct Seen {
    all: AtomicU64,
    lost: AtomicU64,
}

impl Seen {
    /// Counts one; whether it passes. Which ones do not is scattered, and the same in each run.
    fn passes(&self, loses: bool) -> bool {
        let number = self.all.fetch_add(1, Ordering::Relaxed);
        let lost = loses && scattered(number).is_multiple_of(ONE_IN);
        self.lost.fetch_add(u64::from(lost), Ordering::Relaxed);
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

/// Sends one token after the other, and reads them at the other end.
async fn tokens(reply: &mut Sending, answer: &mut Receiving) {
    let writing = async {
        let mut tick = interval(PAUSE);
        for token in 0..TOKENS {
            tick.tick().await;
            reply.write(Bytes::copy_from_slice(&token.to_be_bytes())).await.expect("the connection stands");
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < TOKENS as usize * 4 {
            let bytes = answer.chunk(4096).await.expect("the connection stands").expect("more tokens");
            seen.extend_from_slice(&bytes);
        }
        let expected: Vec<u8> = (0..TOKENS).flat_map(u32::to_be_bytes).collect();
        assert!(seen == expected, "each token once, in order");
    };
    tokio::join!(writing, reading);
}

/// What the agent knows: datagrams sent, and packets that had to be sent again.
fn known(agent: &Connection) -> (u64, u64) {
    let Connection::Quic(connection) = agent else { panic!("not QUIC") };
    let stats = connection.stats();
    (stats.udp_tx.datagrams, stats.path.lost_packets)
}

#[tokio::test]
async fn over_a_link_that_loses_packets_hardly_a_token_is_late() {
    let seen = Arc::new(Seen::default());
    let counts = seen.clone();
    let ends = QuicEnds::listening();
    let network =
        path(ends.address, Duration::from_millis(5), move |to| to == To::Agent || counts.passes(true));
    let (address, _network) = network.await;
    let (router, agent) = ends.connected(address).await;
    let ((_ask, mut answer), (mut reply, _asked)) = stream(&router, &agent).await;
    let all = async {
        // The link becomes known.
        tokens(&mut reply, &mut answer).await;
        let (lost, (_, again)) = (seen.lost.load(Ordering::Relaxed), known(&agent));
        assert!(again > 0, "losses were seen, or they were none");
        tokens(&mut reply, &mut answer).await;
        let (lost, again) = (seen.lost.load(Ordering::Relaxed) - lost, known(&agent).1 - again);
        assert!(lost > 20, "the network lost {lost} datagrams only");
        assert!(again * 4 < lost, "of {lost} datagrams that were lost {again} had to be sent again");
    };
    timeout(Duration::from_secs(60), all).await.expect("all tokens came");
}

#[tokio::test]
async fn over_a_good_link_nothing_is_sent_twice() {
    let seen = Arc::new(Seen::default());
    let counts = seen.clone();
    let ends = QuicEnds::listening();
    let network = path(ends.address, Duration::ZERO, move |to| to == To::Agent || counts.passes(false));
    let (address, _network) = network.await;
    let (router, agent) = ends.connected(address).await;
    let ((_ask, mut answer), (mut reply, _asked)) = stream(&router, &agent).await;
    timeout(Duration::from_secs(60), tokens(&mut reply, &mut answer)).await.expect("all tokens came");
    let (arrived, (sent, _)) = (seen.all.load(Ordering::Relaxed), known(&agent));
    assert!(arrived >= u64::from(TOKENS) / 2, "{arrived} datagrams for {TOKENS} tokens");
    assert!(arrived <= sent, "{arrived} datagrams arrived of {sent}");
}
