//! Congestion control for token streams: any of quinn's controllers with a floor under its window.
//!
//! Token traffic never fills the window, so CUBIC does not grow it, but every loss still cuts it: it was seen at
//! 5.5 KB, where quinn's pacer makes tokens queue. Over a link with 1 to 3 % loss the p99 of a chunk was then up to 3.3
//! times that of one TCP tunnel. With the floor no token waits for the window; only those are late that were lost, and
//! `duplication.rs` looks after these (docs/benchmarks.md, "A bad link").

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

/// The least window, in bytes: what 50 streams of 20 tokens a second have under way in half a second. TCP senders
/// begin with 14 KB, so this is no flood even where the loss is real congestion: persistent loss still ends in
/// quinn's own backoff of probes.
pub const FLOOR: u64 = 64 * 1024;

/// Which controller works above the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Above {
    /// quinn's default, RFC 9438.
    Cubic,
    /// quinn calls it experimental.
    Bbr,
}

/// CUBIC: with the floor the two cannot be told apart. p99 of a chunk ÷ TCP's is 0.79 against BBR's 0.73 on a lossy
/// wireless link, where one run differs from the next by more, and 0.95 against 0.89 at 20 ms, where it is that of the
/// packets that were lost; p90 ÷ TCP's is 0.43 there with either. So files and large prompts are carried by the
/// controller that quinn itself trusts.
pub const CHOICE: Above = Above::Cubic;

/// Makes controllers of the [`CHOICE`] for a transport configuration.
#[must_use]
pub fn factory() -> Arc<dyn ControllerFactory + Send + Sync> {
    match CHOICE {
        Above::Cubic => Arc::new(Floored { inner: Arc::new(CubicConfig::default()) }),
        Above::Bbr => Arc::new(Floored { inner: Arc::new(BbrConfig::default()) }),
    }
}

struct Floored<F> {
    inner: Arc<F>,
}

impl<F: ControllerFactory + Send + Sync + 'static> ControllerFactory for Floored<F> {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Floor { inner: self.inner.clone().build(now, mtu) })
    }
}

/// Passes everything on and changes one number.
struct Floor {
    inner: Box<dyn Controller>,
}

impl Controller for Floor {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.inner.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().max(FLOOR)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window().max(FLOOR)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_do_not_push_the_window_below_its_floor() {
        let now = tokio::time::Instant::now().into_std();
        let mut floored = factory().build(now, 1200);
        let mut bare: Box<dyn Controller> = Arc::new(CubicConfig::default()).build(now, 1200);
        for controller in [&mut floored, &mut bare] {
            for n in 1..20 {
                let later = now + std::time::Duration::from_millis(100 * n);
                controller.on_congestion_event(later, later, false, 1200);
            }
        }
        assert_eq!(floored.window(), FLOOR);
        assert_eq!(floored.clone_box().window(), FLOOR, "a new path keeps the floor");
        assert!(bare.window() < FLOOR, "without it the window is {} bytes", bare.window());
    }
}
