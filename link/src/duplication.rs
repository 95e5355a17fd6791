//! Over a link that loses packets, small ones are sent twice.
//!
//! A token that was lost comes a round trip and a half later, and no congestion controller changes that. Of a link that
//! loses 1 % of its packets that is every hundredth token; of one where each is sent twice every ten-thousandth. QUIC drops
//! what comes a second time (RFC 9000, 12.3), so the peer need not know. Token streams are thin, so this costs what
//! nobody misses: [`RATE`] at most, and nothing at all where nothing is lost.
//!
//! ```text
//! quinn ── try_send ──> DuplicatingSocket ── the packet, and again if its path is lossy ──> the kernel's socket
//! follow, one for each connection: packets sent and lost ──> Judge ──> which paths are lossy
//! ```
//!
//! The second leaves at once. Later it would outlive more bursts of losses, but QUIC takes for lost what comes after an eighth
//! of a round trip, or after three others (RFC 9002, 6.1): with 2 ms between the two every packet that the second one
//! saved was sent a third time. Whether a path is lossy, and whether sending twice helps there, is measured all the
//! time: `judge.rs`.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | `follow`, one for each connection over QUIC | its counts, every 250 ms | its peer's address among the lossy ones, or not | the connection is closed, or its owner drops the handle |
//!
//! Which addresses are lossy is the only thing here that tasks share; sends read it, under a lock if there is any.

mod judge;

use judge::{Counts, Judge};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// Bytes a second of copies to one peer: 4 Mbit/s, twice what 50 streams of 20 tokens/s take. Where the loss is
/// congestion, this is all that is added to it until the judge has seen that it does not help.
const RATE: u32 = 512 * 1024;

/// What may be sent at once of it: the first tokens of a burst.
const BURST: u32 = 64 * 1024;

/// The largest send that is copied, three packets of a VPN: were there more, the first one's copy would come after three
/// others. Tokens that are ready together fit; prompts and files do not.
const LARGEST: usize = 3 * 1232;

/// A path whose packets are sent once for so long, and so many of them, is lossy no more, as far as anybody is told. Nothing is
/// learned of one that is idle.
const FORGIVEN: Duration = Duration::from_secs(120);
const FORGIVEN_PACKETS: u64 = 2_000;

/// How often the counts of a connection are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Sends twice what goes to peers behind lossy paths. Clones share it; there is one for each endpoint.
#[derive(Debug, Clone)]
pub struct Duplication {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether `lossy` has anything in it: all that a packet costs where no path is lossy.
    any: AtomicBool,
    lossy: Mutex<HashMap<SocketAddr, Allowance>>,
}

impl Duplication {
    /// Wraps an endpoint's socket.
    pub(crate) fn around(socket: Arc<dyn AsyncUdpSocket>) -> (Self, Arc<dyn AsyncUdpSocket>) {
        let duplication = Self { shared: Arc::default() };
        let wrapped = DuplicatingSocket { socket, shared: duplication.shared.clone() };
        (duplication, Arc::new(wrapped))
    }

    /// Judges the path of `connection` until it is closed or the answer is dropped. The caller holds the answer as long
    /// as the connection, which is kept open by it.
    pub fn follow(&self, connection: &quinn::Connection) -> Following {
        let (told, lossy) = watch::channel(None);
        let said = Said { told, once_since: None };
        let judging = follow(self.shared.clone(), connection.clone(), said);
        Following { task: AbortOnDropHandle::new(tokio::spawn(judging)), lossy }
    }
}

/// Judges the path of one connection as long as it is held.
#[derive(Debug)]
#[must_use = "the path is judged as long as this is held"]
pub struct Following {
    task: AbortOnDropHandle<()>,
    lossy: watch::Receiver<Option<f64>>,
}

impl Following {
    /// Completes when the connection is closed.
    ///
    /// # Errors
    /// When the judging itself broke down.
    pub async fn closed(self) -> Result<(), tokio::task::JoinError> {
        self.task.await
    }

    /// The share of packets that was lost when the path was last found to be lossy; `None` while it is not.
    #[must_use]
    pub fn lossy(&self) -> watch::Receiver<Option<f64>> {
        self.lossy.clone()
    }
}

/// What is told of a path. It stays lossy through the looks whether it still is.
#[derive(Debug)]
struct Said {
    told: watch::Sender<Option<f64>>,
    /// Since when its packets are sent once although it is called lossy, and how many had been sent by then.
    once_since: Option<(Instant, u64)>,
}

impl Said {
    /// `sent` packets have left over it so far.
    fn look(&mut self, (now, sent): (Instant, u64), peer: SocketAddr, twice: bool, lost: f64) {
        let is_lossy = self.told.borrow().is_some();
        match (is_lossy, twice) {
            (false, true) => {
                let lost_percent = format!("{:.1}", lost * 100.0);
                tracing::warn!(%peer, lost_percent, "this link loses packets: small ones are sent twice");
                self.told.send_replace(Some(lost));
            }
            // It was measured anew.
            (true, true) => {
                self.told.send_if_modified(|told| told.replace(lost) != Some(lost));
            }
            (true, false) => {
                let (since, before) = *self.once_since.get_or_insert((now, sent));
                if now.saturating_duration_since(since) >= FORGIVEN
                    && sent.saturating_sub(before) >= FORGIVEN_PACKETS
                {
                    tracing::info!(
                        %peer,
                        "packets are sent once again: this link loses few, or sending them twice does not help"
                    );
                    self.told.send_replace(None);
                }
            }
            (false, false) => {}
        }
        if twice || !is_lossy {
            self.once_since = None;
        }
    }

    /// Nothing is known of the path that is taken from now on.
    fn moved(&mut self) {
        self.once_since = None;
        self.told.send_if_modified(|told| told.take().is_some());
    }
}

impl Shared {
    fn lossy(&self) -> MutexGuard<'_, HashMap<SocketAddr, Allowance>> {
        self.lossy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, peer: SocketAddr, twice: bool) {
        let mut lossy = self.lossy();
        if twice {
            lossy.entry(peer).or_insert_with(|| Allowance::full(Instant::now()));
        } else {
            lossy.remove(&peer);
        }
        self.any.store(!lossy.is_empty(), Ordering::Relaxed);
    }

    /// Whether a copy of `bytes` in so many packets may go to `peer`; if so it is counted as sent.
    fn grants(&self, peer: SocketAddr, bytes: usize, packets: u64) -> bool {
        self.any.load(Ordering::Relaxed)
            && bytes <= LARGEST
            && self
                .lossy()
                .get_mut(&peer)
                .is_some_and(|allowance| allowance.take(bytes, packets, Instant::now()))
    }

    /// Packets to `peer` that were copied since it is lossy.
    fn copied(&self, peer: SocketAddr) -> u64 {
        self.lossy().get(&peer).map_or(0, |allowance| allowance.copied)
    }
}

/// A token bucket of [`BURST`] bytes that [`RATE`] fills.
#[derive(Debug)]
struct Allowance {
    bytes: f64,
    at: Instant,
    /// Packets that were copied.
    copied: u64,
}

impl Allowance {
    fn full(now: Instant) -> Self {
        Self { bytes: f64::from(BURST), at: now, copied: 0 }
    }

    fn take(&mut self, bytes: usize, packets: u64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.bytes = (self.bytes + since * f64::from(RATE)).min(f64::from(BURST));
        self.at = now;
        let fits = bytes as f64 <= self.bytes;
        if fits {
            self.bytes -= bytes as f64;
            self.copied += packets;
        }
        fits
    }
}

/// The address to which packets are sent twice for one connection; nobody's once that is over, however it ends.
struct Followed {
    shared: Arc<Shared>,
    twice: Option<SocketAddr>,
}

impl Followed {
    /// Said at each look: another connection to the same address may have ended meanwhile.
    fn sends_twice(&mut self, to: Option<SocketAddr>) {
        if self.twice != to {
            self.sends_once();
        }
        if let Some(peer) = to {
            self.shared.set(peer, true);
        }
        self.twice = to;
    }

    fn sends_once(&mut self) {
        if let Some(peer) = self.twice.take() {
            self.shared.set(peer, false);
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.sends_once();
    }
}

async fn follow(shared: Arc<Shared>, connection: quinn::Connection, mut said: Said) {
    let mut followed = Followed { shared: shared.clone(), twice: None };
    let mut path = None;
    let mut judge = Judge::new(Instant::now(), Counts::default());
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = connection.closed() => return,
            _ = look.tick() => {}
        }
        let (stats, now) = (connection.stats().path, Instant::now());
        let peer = connection.remote_address();
        let copied = shared.copied(peer);
        let counts = Counts { sent: stats.sent_packets, lost: stats.lost_packets, copied };
        let ends = (connection.local_ip(), peer);
        // QUIC goes on counting when either end moves. What the old path lost says nothing of the new one, to which nothing
        // may be sent twice before QUIC has made sure of it either (RFC 9000, 8.1).
        if path.replace(ends).is_some_and(|path| path != ends) {
            judge = Judge::new(now, counts);
            said.moved();
        }
        let twice = judge.look(now, counts);
        said.look((now, counts.sent), peer, twice, judge.before());
        followed.sends_twice(twice.then_some(peer));
    }
}

/// A socket that sends twice what its [`Shared`] grants.
#[derive(Debug)]
struct DuplicatingSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    shared: Arc<Shared>,
}

impl AsyncUdpSocket for DuplicatingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let bytes = transmit.contents.len();
        let packets = transmit.segment_size.map_or(1, |size| bytes.div_ceil(size.max(1)));
        if self.shared.grants(transmit.destination, bytes, packets as u64) {
            // One that finds no room is not worth waiting for: the first has left.
            drop(self.socket.try_send(transmit));
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[tokio::test(start_paused = true)]
    async fn copies_to_a_lossy_peer_are_small_and_keep_to_their_rate() {
        let shared = Shared::default();
        assert!(!shared.grants(PEER, 100, 1), "nothing is lost");
        shared.set(PEER, true);
        assert!(!shared.grants(PEER, LARGEST + 1, 4), "too large");
        let mut sent = 0;
        while shared.grants(PEER, 1000, 1) {
            sent += 1000;
        }
        assert_eq!(sent, BURST as usize / 1000 * 1000);
        assert_eq!(shared.copied(PEER), u64::from(BURST / 1000));
        // A pause saves up no more than a burst.
        tokio::time::advance(Duration::from_secs(10)).await;
        while shared.grants(PEER, LARGEST, 3) {}
        while shared.grants(PEER, 1000, 1) {}
        assert!(shared.copied(PEER) < 2 * u64::from(BURST / 1000));
        tokio::time::advance(Duration::from_millis(10)).await;
        sent = 0;
        while shared.grants(PEER, 1000, 1) {
            sent += 1000;
        }
        assert!((5000..=6000).contains(&sent), "{sent} bytes in 10 ms");
        shared.set(PEER, false);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!shared.grants(PEER, 1000, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_told_as_lossy_once_and_as_sound_after_two_quiet_minutes() {
        let (told, mut lossy) = watch::channel(None);
        let mut said = Said { told, once_since: None };
        let start = Instant::now();
        let mut at = |seconds: u64, twice: bool, lost: f64| {
            // A hundred packets a second, and nothing from the sixth minute on.
            let sent = 100 * seconds.min(300);
            said.look((start + Duration::from_secs(seconds), sent), PEER, twice, lost);
            let news = lossy.has_changed().expect("the sender is there");
            (news, *lossy.borrow_and_update())
        };
        assert_eq!(at(0, false, 0.0), (false, None));
        assert_eq!(at(1, true, 0.02), (true, Some(0.02)));
        assert_eq!(at(2, true, 0.02), (false, Some(0.02)));
        // A look whether it still is.
        assert_eq!(at(60, false, 0.02), (false, Some(0.02)));
        assert_eq!(at(179, false, 0.02), (false, Some(0.02)));
        assert_eq!(at(179, true, 0.03), (true, Some(0.03)), "it was measured anew");
        assert_eq!(at(180, true, 0.03), (false, Some(0.03)));
        // From here on nothing speaks for it.
        assert_eq!(at(181, false, 0.03), (false, Some(0.03)));
        assert_eq!(at(300, false, 0.03), (false, Some(0.03)));
        assert_eq!(at(301, false, 0.03), (true, None));
        assert_eq!(at(302, false, 0.03), (false, None));
        // And idle it tells nothing.
        assert_eq!(at(310, true, 0.01), (true, Some(0.01)));
        assert_eq!(at(311, false, 0.01), (false, Some(0.01)));
        assert_eq!(at(911, false, 0.01), (false, Some(0.01)));
        said.moved();
        assert_eq!(*lossy.borrow_and_update(), None, "another path");
    }

    #[test]
    fn a_peer_that_moves_is_lossy_at_its_new_address_only_and_nowhere_when_it_is_gone() {
        let shared = Arc::new(Shared::default());
        let mut followed = Followed { shared: shared.clone(), twice: None };
        followed.sends_twice(Some(PEER));
        let moved = SocketAddr::new(PEER.ip(), 2);
        followed.sends_twice(Some(moved));
        // One that was never lossy takes nothing from it.
        drop(Followed { shared: shared.clone(), twice: None });
        assert_eq!(shared.lossy().keys().copied().collect::<Vec<_>>(), [moved]);
        drop(followed);
        assert!(shared.lossy().is_empty());
        assert!(!shared.any.load(Ordering::Relaxed));
    }
}
