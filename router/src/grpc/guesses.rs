//! Who guesses tokens, and how often: a peer that was wrong five times within a minute is not heard until
//! the minute is over. The secrets cannot be guessed anyway; this keeps the log and the disk quiet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Wrong answers within [`WINDOW_MS`] after which a peer is not heard.
const WRONG_LIMIT: u32 = 5;

/// How long a wrong answer counts.
const WINDOW_MS: u64 = 60_000;

/// Peers remembered at once. When there are more, the one with the oldest window is forgotten.
const PEERS: usize = 1024;

/// Wrong answers by address.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    peers: BTreeMap<IpAddr, Window>,
}

#[derive(Debug)]
struct Window {
    since_unix_ms: u64,
    wrong: u32,
}

impl Window {
    /// A clock that was set back ends the window too: nobody is locked out for longer than a minute.
    fn is_over(&self, now_unix_ms: u64) -> bool {
        now_unix_ms.checked_sub(self.since_unix_ms).is_none_or(|age| age >= WINDOW_MS)
    }
}

impl Guesses {
    /// Whether `peer` may try now.
    pub(super) fn may_try(&self, peer: IpAddr, now_unix_ms: u64) -> bool {
        self.peers
            .get(&whole_host(peer))
            .is_none_or(|window| window.wrong < WRONG_LIMIT || window.is_over(now_unix_ms))
    }

    /// Notes that `peer` was wrong.
    pub(super) fn was_wrong(&mut self, peer: IpAddr, now_unix_ms: u64) {
        let peer = whole_host(peer);
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, window| !window.is_over(now_unix_ms));
            let oldest =
                self.peers.iter().min_by_key(|(_, window)| window.since_unix_ms).map(|(peer, _)| *peer);
            if let Some(oldest) = oldest.filter(|_| self.peers.len() >= PEERS) {
                self.peers.remove(&oldest);
            }
        }
        let window = self.peers.entry(peer).or_insert(Window { since_unix_ms: now_unix_ms, wrong: 0 });
        if window.is_over(now_unix_ms) {
            *window = Window { since_unix_ms: now_unix_ms, wrong: 0 };
        }
        window.wrong += 1;
    }
}

/// The part of an address that its holder cannot choose: an IPv6 host has a whole /64 to itself.
fn whole_host(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn five_wrong_answers_close_the_door_for_a_minute_and_for_that_peer_only() {
        let mut guesses = Guesses::default();
        for _ in 0..5 {
            assert!(guesses.may_try(ip("10.0.0.1"), 1_000));
            guesses.was_wrong(ip("10.0.0.1"), 1_000);
        }
        assert!(!guesses.may_try(ip("10.0.0.1"), 60_999));
        assert!(!guesses.may_try(ip("::ffff:10.0.0.1"), 60_999), "the same host by another spelling");
        assert!(guesses.may_try(ip("10.0.0.2"), 1_000));
        assert!(guesses.may_try(ip("10.0.0.1"), 61_000));
    }

    #[test]
    fn another_address_of_the_same_ipv6_network_is_the_same_peer() {
        let mut guesses = Guesses::default();
        for host in 1..=5 {
            guesses.was_wrong(ip(&format!("fd00::{host}")), 0);
        }
        assert!(!guesses.may_try(ip("fd00::99"), 0));
        assert!(guesses.may_try(ip("fd00:0:0:1::1"), 0));
    }

    #[test]
    fn a_flood_of_peers_does_not_take_more_memory() {
        let mut guesses = Guesses::default();
        for n in 0..3_000_u32 {
            guesses.was_wrong(IpAddr::from(n.to_be_bytes()), u64::from(n));
        }
        assert_eq!(guesses.peers.len(), PEERS);
    }
}
