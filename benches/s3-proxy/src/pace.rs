//! Spreads one connection's bytes over time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Timers fire up to a millisecond late, and the scheduler adds to it: a connection may catch up by this much, so that its mean
/// rate is the one asked for. Idle time beyond it is lost, not saved up.
const CATCH_UP: Duration = Duration::from_millis(5);

/// Shorter waits are left to the next chunk: timers are no finer.
const FINEST: Duration = Duration::from_millis(1);

#[derive(Clone)]
pub(crate) struct Pace {
    /// Bytes a second; `None` sets no limit.
    rate: Option<f64>,
    /// When the line is free again.
    free: Instant,
}

impl Pace {
    /// `None` if `rate` is no rate; 0 sets no limit.
    pub(crate) fn new(rate: f64) -> Option<Self> {
        let valid = rate.is_finite() && (rate == 0.0 || rate >= 1.0);
        valid.then(|| Self { rate: (rate > 0.0).then_some(rate), free: Instant::now() })
    }

    /// Books the line for `bytes` more and answers when the last of them is through.
    fn book(&mut self, now: Instant, bytes: usize) -> Instant {
        if let Some(rate) = self.rate {
            let start = now.checked_sub(CATCH_UP).map_or(self.free, |earliest| self.free.max(earliest));
            self.free = start + Duration::from_secs_f64(bytes as f64 / rate);
        }
        self.free
    }

    /// Waits until `bytes` more may be passed on.
    pub(crate) async fn wait(&mut self, bytes: usize) {
        let now = Instant::now();
        let through = self.book(now, bytes);
        if through.saturating_duration_since(now) >= FINEST {
            sleep_until(through).await;
        }
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
